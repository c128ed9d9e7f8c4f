//! Resident instances over the real level 1: homes are reserved, stored, found again, and given back.

use waggle_types::{
    Milli, MountSource, PersistentVolume, Residency, TaskLost, UnreachableStrategy,
    UpgradeStrategy, VolumeId,
};

use super::*;

fn resident(id: &str, instances: u32) -> ServiceSpec {
    let mut s = service(id, instances, "/db:80");
    s.residency = Some(Residency {
        task_lost: TaskLost::WaitForever,
        ..Residency::default()
    });
    s.unreachable = UnreachableStrategy::Disabled;
    s.upgrade = UpgradeStrategy {
        minimum_health_capacity_milli: 500,
        maximum_over_capacity_milli: 0,
    };
    s.volumes = vec![PersistentVolume {
        target: "data".into(),
        size: Milli::units(100),
        disk: None,
        read_only: false,
    }];
    s
}

/// Where each volume is in use.
fn in_use(w: &World) -> BTreeMap<VolumeId, AgentId> {
    let tasks = w.agents.values().flat_map(|a| {
        let id = a.info.agent_id.clone();
        a.tasks.values().map(move |t| (id.clone(), &t.0))
    });
    tasks
        .flat_map(|(agent, t)| {
            let mounts = t.container.mounts.iter();
            mounts.map(move |m| match &m.source {
                MountSource::Volume(v) => (v.clone(), agent.clone()),
                other => panic!("{other:?}"),
            })
        })
        .collect()
}

fn reserved(w: &World) -> usize {
    let all = w.core.reservations.stored.values();
    all.map(Vec::len).sum()
}

#[test]
fn instances_come_back_to_their_volumes_after_failures_upgrades_and_restarts() {
    let mut w = World::new();
    for n in 1..=3 {
        w.join(n);
    }
    w.put(resident("/db", 2), PutMode::Create, false).unwrap();
    w.settle();
    let first = in_use(&w);
    assert_eq!((first.len(), reserved(&w)), (2, 2));
    let task = |w: &World, agent: &AgentId| w.agents[agent].tasks.keys().next().unwrap().clone();
    let (_, agent) = first.first_key_value().unwrap();
    let old = task(&w, agent);
    w.say(agent, &old, TaskState::Failed);
    w.settle();
    assert_eq!(in_use(&w), first, "after a failure");
    assert_ne!(task(&w, agent), old);
    assert_eq!(
        old.as_str().split_once("._app").unwrap().0,
        task(&w, agent).as_str().split_once("._app").unwrap().0,
        "the same instance"
    );

    let mut newer = resident("/db", 2);
    newer.env.insert("MODE".into(), "new".into());
    w.put(newer.clone(), PutMode::Update, true).unwrap();
    w.settle();
    assert_eq!(in_use(&w), first, "after an upgrade");

    // The master dies while one of them is down.
    let last = task(&w, agent);
    w.cut(agent.as_str()[6..].parse().unwrap());
    w.restart();
    for n in 1..=3 {
        w.join(n);
    }
    w.say(agent, &last, TaskState::Failed);
    w.settle();
    assert_eq!(in_use(&w), first, "after a restart");

    // Fewer, then as many again.
    newer.instances = 0;
    w.put(newer.clone(), PutMode::Update, true).unwrap();
    w.settle();
    assert_eq!((in_use(&w).len(), reserved(&w)), (0, 2));
    newer.instances = 2;
    w.put(newer, PutMode::Update, true).unwrap();
    w.settle();
    assert_eq!(in_use(&w), first, "after scaling");

    w.remove("/db").unwrap();
    w.settle();
    assert_eq!((in_use(&w).len(), reserved(&w)), (0, 0));
    let destroyed = w.sent.iter().filter_map(|(_, m)| match m {
        MasterMsg::Volumes { destroyed, .. } => Some(destroyed.len()),
        _ => None,
    });
    assert_eq!(destroyed.sum::<usize>(), 2);
}

#[test]
fn a_wiped_instance_begins_anew() {
    let mut w = World::new();
    w.join(1);
    w.put(resident("/db", 1), PutMode::Create, false).unwrap();
    w.settle();
    let first = in_use(&w);
    let id = w.agents[&agent_id(1)].tasks.keys().next().unwrap().clone();
    w.event(Event::Kill {
        request: RequestId(1),
        ids: vec![id],
        scale: false,
        wipe: true,
        force: false,
        deployment_id: DeploymentId::new("k").unwrap(),
        trace: None,
    });
    w.settle();
    let second = in_use(&w);
    assert_eq!((second.len(), reserved(&w)), (1, 1));
    assert_ne!(first, second);
}

#[test]
fn homes_without_a_service_are_given_back_after_a_restart() {
    let mut w = World::new();
    w.join(1);
    w.put(resident("/db", 1), PutMode::Create, false).unwrap();
    w.settle();
    w.remove("/db").unwrap();
    // The task ends, and the master dies before its home is offered.
    let id = w.agents[&agent_id(1)].tasks.keys().next().unwrap().clone();
    w.agents.get_mut(&agent_id(1)).unwrap().tasks.remove(&id);
    w.cut(1);
    assert_eq!(reserved(&w), 1);
    w.restart();
    w.join(1);
    w.settle();
    assert_eq!(reserved(&w), 0);
}

#[test]
fn a_service_runs_for_its_role_and_on_what_it_accepts() {
    let mut w = World::new();
    w.join(1);
    let mut s = service("/web", 1, "/web:80");
    s.roles.role = Some("dev".into());
    w.put(s.clone(), PutMode::Create, false).unwrap();
    w.settle();
    let of = |w: &World| {
        let tasks = w.agents[&agent_id(1)].tasks.values();
        tasks.map(|t| t.0.role.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(&w), ["dev"]);
    // Nothing is reserved for the role.
    s.roles.accepted = ["dev".to_owned()].into();
    s.env.insert("A".into(), "1".into());
    w.put(s, PutMode::Update, true).unwrap();
    w.settle();
    let view = w.core.view(w.now);
    assert_eq!(view.queue.len(), 1);
    let why = &view.queue.values().next().unwrap().why()[0];
    assert_eq!(why.reason.name(), "UnfulfilledRole");
    assert!(
        why.message.starts_with("accepts resources of dev alone"),
        "{why:?}"
    );
    // And another service is not kept from its own.
    w.put(service("/plain", 1, "/p:80"), PutMode::Create, false)
        .unwrap();
    w.settle();
    assert!(of(&w).contains(&"*".to_owned()));
}

#[test]
fn what_resident_instances_can_not_follow_is_refused() {
    let mut w = World::new();
    w.join(1);
    w.put(resident("/db", 1), PutMode::Create, false).unwrap();
    let mut larger = resident("/db", 1);
    larger.volumes[0].size = Milli::units(200);
    let refused = w.put(larger, PutMode::Update, true).unwrap_err();
    assert!(
        refused.to_string().contains("container.volumes"),
        "{refused}"
    );
    let mut picky = resident("/other", 1);
    picky.roles.accepted = ["dev".to_owned()].into();
    let refused = w.put(picky, PutMode::Create, true).unwrap_err();
    assert!(
        refused.to_string().contains("acceptedResourceRoles"),
        "{refused}"
    );
}

/// Whoever asked for a wipe has the answer: the next master must not bring the data back.
#[test]
fn a_wipe_outlives_its_master() {
    // The kill has reached the agent or not; its end was told or not.
    for (killed, told) in [(false, false), (true, false), (true, true)] {
        let mut w = World::new();
        w.join(1);
        w.put(resident("/db", 1), PutMode::Create, false).unwrap();
        w.settle();
        let first = in_use(&w);
        let id = w.agents[&agent_id(1)].tasks.keys().next().unwrap().clone();
        w.event(Event::Kill {
            request: RequestId(1),
            ids: vec![id.clone()],
            scale: false,
            wipe: true,
            force: false,
            deployment_id: DeploymentId::new("k").unwrap(),
            trace: None,
        });
        let wiped = |w: &World| w.stored.keys().filter(|k| k.starts_with("wiped/")).count();
        assert_eq!(wiped(&w), 1, "it is stored before it is answered");
        if killed && !told {
            w.agents.get_mut(&agent_id(1)).unwrap().tasks.remove(&id);
        }
        if told {
            w.say(&agent_id(1), &id, TaskState::Killed);
        }
        w.cut(1);
        w.restart();
        w.join(1);
        w.settle();
        let second = in_use(&w);
        assert_eq!((second.len(), reserved(&w)), (1, 1), "{killed} {told}");
        assert_ne!(first, second, "{killed} {told}");
        assert_eq!(wiped(&w), 0, "{killed} {told}");
    }
}

/// The volume of the one home, destroyed by an operator; answers what it is reserved with.
fn destroy_volume(w: &mut World) -> Vec<waggle_types::Reservation> {
    let part = w.core.reservations.stored[&agent_id(1)][0].clone();
    let (volume_id, _) = part.resources.custom.volumes().next().unwrap();
    w.operate(OperatorCall::DestroyVolume {
        agent_id: agent_id(1),
        stack: part.reservation.clone(),
        volume_id: volume_id.clone(),
    })
    .unwrap();
    part.reservation
}

#[test]
fn what_operators_leave_of_a_home_is_given_back() {
    let mut w = World::new();
    w.join(1);
    w.put(resident("/db", 1), PutMode::Create, false).unwrap();
    w.settle();
    let agent = agent_id(1);
    w.operate(OperatorCall::Deactivate {
        agent_id: agent.clone(),
    })
    .unwrap();
    w.remove("/db").unwrap();
    w.settle();
    assert_eq!(
        (in_use(&w).len(), reserved(&w)),
        (0, 1),
        "it is not offered"
    );
    let quiet = |w: &World| w.core.scheduler().suppressed_roles().contains("marathon");
    assert!(!quiet(&w), "it is waited for");
    destroy_volume(&mut w);
    assert_eq!(reserved(&w), 1);
    w.operate(OperatorCall::Activate { agent_id: agent })
        .unwrap();
    w.settle();
    assert_eq!(reserved(&w), 0);
    assert!(quiet(&w), "nothing more is wanted");
}

#[test]
fn an_instance_whose_home_an_operator_took_begins_anew() {
    let mut w = World::new();
    w.join(1);
    w.put(resident("/db", 1), PutMode::Create, false).unwrap();
    w.settle();
    let first = in_use(&w);
    w.put(resident("/db", 0), PutMode::Update, false).unwrap();
    w.settle();
    let homes = |w: &World| {
        let id = ServiceId::new("/db").unwrap();
        w.core.scheduler().service(&id).unwrap().homes().len()
    };
    assert_eq!((in_use(&w).len(), reserved(&w), homes(&w)), (0, 1, 1));
    let stack = destroy_volume(&mut w);
    assert_eq!(homes(&w), 1, "what is reserved is still there");
    let resources = w.core.reservations.stored[&agent_id(1)][0]
        .resources
        .clone();
    w.operate(OperatorCall::Unreserve {
        agent_id: agent_id(1),
        stack,
        resources,
    })
    .unwrap();
    assert_eq!((reserved(&w), homes(&w)), (0, 0));
    w.put(resident("/db", 1), PutMode::Update, false).unwrap();
    w.settle();
    assert_eq!((in_use(&w).len(), reserved(&w), homes(&w)), (1, 1, 1));
    assert!(in_use(&w).keys().ne(first.keys()), "with an empty volume");
}

//! Accepts with operations: in order, each with what the ones before made, all or nothing.

use waggle_types::{
    FrameworkInfo, Milli, Operation, RejectReason, ResourcePart, RoleSubscription, SchedulerCall,
    TaskSpec, Volume, VolumeId,
};

use super::{
    client::{Client, batch, reasons, task},
    operators::{cpus, reserved, stack},
    *,
};

fn eng(w: &mut World) -> Client {
    w.subscribe(FrameworkInfo {
        roles: vec![RoleSubscription::new("eng")],
        ..batch(None)
    })
    .unwrap()
}

fn operate(
    w: &mut World,
    c: &Client,
    operations: Vec<Operation>,
) -> Result<(), Vec<CallRejection>> {
    let offer_ids = w.offers_of(c);
    let refuse = Millis(0);
    w.call(
        c,
        SchedulerCall::Accept {
            offer_ids,
            operations,
            refuse,
        },
    )
}

fn volume() -> (VolumeId, Volume) {
    let size = Milli::units(1000);
    let shared = false;
    (VolumeId::new("db").unwrap(), Volume { size, shared })
}

/// Reserve, make a volume of it, launch on it.
fn database() -> Vec<Operation> {
    let wanted = Resources::from_millis(1000, 512_000, 1_000_000);
    let (volume_id, volume) = volume();
    let mut held = Resources::from_millis(1000, 512_000, 0);
    held.custom.set_volume(volume_id.clone(), volume);
    let launched = TaskSpec {
        parts: vec![ResourcePart {
            reservation: stack(&["eng"]),
            revocable: false,
            resources: held.clone(),
        }],
        resources: held,
        ..task("db")
    };
    vec![
        Operation::Reserve {
            stack: stack(&["eng"]),
            resources: wanted,
        },
        Operation::CreateVolume {
            stack: stack(&["eng"]),
            volume_id,
            volume,
        },
        Operation::Launch(vec![launched]),
    ]
}

#[test]
fn a_database_is_reserved_made_and_launched_in_one_accept() {
    let mut w = World::new();
    w.join(1);
    let c = eng(&mut w);
    operate(&mut w, &c, database()).unwrap();
    let all = ["eng: cpus:1; mem:512; volume db:1000"];
    assert_eq!(reserved(&mut w, 1), all);
    assert_eq!(w.launches(), 1);
    let db = TaskId::new("db").unwrap();
    assert_eq!(w.view().tasks.get(&db).unwrap().spec.parts.len(), 1);
    w.restart();
    w.join(1);
    assert_eq!(reserved(&mut w, 1), all, "stored");
    let c = w
        .subscribe(FrameworkInfo {
            id: Some(c.id),
            roles: vec![RoleSubscription::new("eng")],
            ..batch(None)
        })
        .unwrap();
    let (volume_id, _) = volume();
    let destroy = || Operation::DestroyVolume {
        stack: stack(&["eng"]),
        volume_id: volume_id.clone(),
    };
    assert!(
        operate(&mut w, &c, vec![destroy()]).is_err(),
        "it is in use"
    );
    w.say(&agent_id(1), &db, TaskState::Finished);
    assert_eq!(reserved(&mut w, 1), all, "the volume outlives the task");
    let unreserve = Operation::Unreserve {
        stack: stack(&["eng"]),
        resources: Resources::from_millis(1000, 512_000, 1_000_000),
    };
    operate(&mut w, &c, vec![destroy(), unreserve]).unwrap();
    assert!(reserved(&mut w, 1).is_empty());
    assert!(!w.stored.contains_key("reservations/agent-1"));
    assert!(!w.view().rejections.contains_key("level_1_refused"));
}

#[test]
fn nothing_is_half_done() {
    let mut w = World::new();
    w.join(1);
    let c = eng(&mut w);
    let (before, out) = (w.stored.clone(), w.offers_of(&c));
    let with = |change: &dyn Fn(&mut Vec<Operation>)| {
        let mut ops = database();
        change(&mut ops);
        ops
    };
    let launch = |t: TaskSpec| Operation::Launch(vec![t]);
    let reserve = |roles: &[&str], resources| Operation::Reserve {
        stack: stack(roles),
        resources,
    };
    let lent = ResourcePart {
        reservation: Vec::new(),
        revocable: true,
        resources: task("x").resources,
    };
    let half = TaskSpec {
        parts: vec![ResourcePart::plain(cpus(500))],
        ..task("x")
    };
    let borrowed = TaskSpec {
        parts: vec![lent],
        ..task("x")
    };
    for (ops, reason) in [
        // Used before it is made.
        (with(&|o| o.swap(1, 2)), RejectReason::NotOffered),
        // Disk that is not reserved.
        (with(&|o| drop(o.remove(0))), RejectReason::NotOffered),
        (
            vec![reserve(&["eng"], cpus(9000))],
            RejectReason::NotOffered,
        ),
        (vec![reserve(&["ops"], cpus(1000))], RejectReason::NotInRole),
        (vec![reserve(&[], cpus(1000))], RejectReason::BadReservation),
        (vec![launch(half)], RejectReason::Invalid),
        (vec![launch(borrowed)], RejectReason::NotOffered),
        (
            with(&|o| {
                if let Operation::Launch(tasks) = &mut o[2] {
                    tasks.push(tasks[0].clone());
                }
            }),
            RejectReason::DuplicateTask,
        ),
    ] {
        let text = format!("{ops:?}");
        assert_eq!(reasons(operate(&mut w, &c, ops)), [reason], "{text}");
    }
    let many = (0..2001).map(|n| TaskSpec {
        resources: cpus(1),
        ..task(&format!("t{n}"))
    });
    let got = reasons(operate(&mut w, &c, vec![Operation::Launch(many.collect())]));
    assert_eq!(got, [RejectReason::TooMany]);
    assert_eq!(w.stored, before);
    assert_eq!(w.offers_of(&c), out);
    assert_eq!(w.launches(), 0);
}

#[test]
fn offers_to_two_roles_pay_for_nothing() {
    let mut w = World::new();
    w.join(1);
    w.join(2);
    let mut c = w
        .subscribe(FrameworkInfo {
            roles: vec![RoleSubscription::new("eng"), RoleSubscription::new("ops")],
            ..batch(None)
        })
        .unwrap();
    // One of each: shares are equal after the first.
    let offers = w.view().offers;
    let roles: Vec<&str> = offers.iter().map(|o| o.role.as_str()).collect();
    assert_eq!(roles.len(), 2);
    assert_ne!(roles[0], roles[1]);
    let offer_ids: Vec<_> = offers.iter().map(|o| o.offer_id.clone()).collect();
    let got = reasons(w.accept(&c, offer_ids, vec![task("t1")]));
    assert_eq!(got, [RejectReason::MixedAgents, RejectReason::MixedRoles]);
    c.subscription = SubscriptionId(0);
    assert_eq!(
        reasons(operate(&mut w, &c, database())),
        [RejectReason::NotSubscribed]
    );
}

#[test]
fn the_built_in_framework_uses_what_is_not_reserved() {
    let mut w = World::new();
    w.join(1);
    w.operate(operators::reserve(1, &["eng"], cpus(3900)))
        .unwrap();
    w.put(service("/web", 3, "/web:80"), PutMode::Create, false)
        .unwrap();
    w.run_all();
    assert_eq!(w.task_ids().len(), 1, "0.1 CPUs each");
    w.operate(operators::unreserve(1, &["eng"], cpus(3900)))
        .unwrap();
    w.run_all();
    assert_eq!(w.task_ids().len(), 3);
    assert!(!w.view().rejections.contains_key("level_1_refused"));
}

/// What an agent was told of its volumes since: those that there are, those destroyed.
fn told(w: &mut World, n: u8) -> Vec<(Vec<String>, Vec<String>)> {
    let texts = |ids: &[VolumeId]| ids.iter().map(ToString::to_string).collect();
    let of = |(to, msg): &(AgentId, MasterMsg)| match msg {
        MasterMsg::Volumes { kept, destroyed } if *to == agent_id(n) => {
            Some((texts(kept), texts(destroyed)))
        }
        _ => None,
    };
    let all = w.sent.iter().filter_map(of).collect();
    w.sent.clear();
    all
}

#[test]
fn an_agent_hears_which_volumes_it_has() {
    let db = || vec!["db".to_owned()];
    let mut w = World::new();
    w.join(1);
    assert_eq!(told(&mut w, 1), [], "a new one may have data of old");
    let c = eng(&mut w);
    let [reserve, create, _]: [Operation; 3] = database().try_into().unwrap();
    operate(&mut w, &c, vec![reserve, create.clone()]).unwrap();
    assert_eq!(told(&mut w, 1), [], "a launch makes it");
    w.join(1);
    assert_eq!(told(&mut w, 1), [(db(), Vec::new())]);
    w.restart();
    w.join(1);
    assert_eq!(told(&mut w, 1), [(db(), Vec::new())], "stored");
    let c = w
        .subscribe(FrameworkInfo {
            id: Some(c.id),
            roles: vec![RoleSubscription::new("eng")],
            ..batch(None)
        })
        .unwrap();
    let (volume_id, _) = volume();
    let destroy = || Operation::DestroyVolume {
        stack: stack(&["eng"]),
        volume_id: volume_id.clone(),
    };
    // Another one of the same name, in the same breath.
    operate(&mut w, &c, vec![destroy(), create]).unwrap();
    assert_eq!(told(&mut w, 1), [(db(), db())]);
    // One that is away hears it when it is back.
    w.cut(1);
    w.operate(OperatorCall::DestroyVolume {
        agent_id: agent_id(1),
        stack: stack(&["eng"]),
        volume_id: volume_id.clone(),
    })
    .unwrap();
    assert_eq!(told(&mut w, 1), []);
    w.join(1);
    assert_eq!(told(&mut w, 1), [(Vec::new(), Vec::new())]);
}

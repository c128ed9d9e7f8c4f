//! Reservations over restarts of agents and masters, and when an agent has less than was reserved of it.

use waggle_types::{ResourcePart, TaskSpec};

use super::{
    client::{Client, batch, task},
    operators::{cpus, reserve, reserved, stack},
    settle::static_reservation,
    *,
};

/// A framework of role `eng`, and agent 1 with 3 CPUs reserved for it.
fn reserved_for_eng() -> (World, Client) {
    let mut w = World::new();
    w.join(1);
    w.operate(reserve(1, &["eng"], cpus(3000))).unwrap();
    let info = waggle_types::FrameworkInfo {
        roles: vec![waggle_types::RoleSubscription::new("eng")],
        ..batch(None)
    };
    let c = w.subscribe(info).unwrap();
    (w, c)
}

fn of_cpus(id: &str, milli: i64) -> TaskSpec {
    TaskSpec {
        resources: cpus(milli),
        ..task(id)
    }
}

fn task_parts(w: &mut World, id: &str) -> Vec<ResourcePart> {
    let id = TaskId::new(id).unwrap();
    w.view().tasks.get(&id).unwrap().spec.parts.clone()
}

fn shrink(w: &mut World, n: u8, milli: i64) {
    let a = w.agents.get_mut(&agent_id(n)).unwrap();
    a.info.total.scalars[0].0 = milli;
}

fn explained(w: &mut World, n: u8) -> crate::explain::AgentExplained {
    match w.explain(ExplainQuery::Agent(agent_id(n))).unwrap() {
        Explained::Agent(a) => *a,
        other => panic!("wrong answer {other:?}"),
    }
}

#[test]
fn a_task_knows_what_it_was_given_and_gives_back_exactly_that() {
    let (mut w, c) = reserved_for_eng();
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![of_cpus("t1", 3500)]).unwrap();
    let parts = task_parts(&mut w, "t1");
    let sizes: Vec<(usize, i64)> = parts
        .iter()
        .map(|p| (p.reservation.len(), p.resources.scalars[0].0))
        .collect();
    assert_eq!(sizes, [(1, 3000), (0, 500)], "what is reserved goes first");
    let launched = w.sent.iter().find_map(|(_, m)| match m {
        MasterMsg::Launch(spec) => Some(spec.parts.clone()),
        _ => None,
    });
    assert_eq!(launched, Some(parts), "its agent keeps it");
    // Over a restart of the master and of the agent, too.
    w.restart();
    w.join(1);
    assert_eq!(reserved(&mut w, 1), ["eng: cpus:3"]);
    assert_eq!(w.view().agents[&agent_id(1)].used, cpus(3500));
    let books = w.core.allocator().explain_role("eng").unwrap();
    assert_eq!(books.allocated["cpus"].0, 3500);
    w.cut(1);
    w.join(1);
    let t1 = TaskId::new("t1").unwrap();
    w.say(&agent_id(1), &t1, TaskState::Finished);
    assert!(w.view().agents[&agent_id(1)].used.is_empty());
    assert_eq!(reserved(&mut w, 1), ["eng: cpus:3"]);
    assert!(!w.view().rejections.contains_key("level_1_refused"));
}

#[test]
fn what_does_not_fit_gives_way_and_is_back_when_it_fits() {
    let (mut w, c) = reserved_for_eng();
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![of_cpus("t1", 1000)]).unwrap();
    w.operate(reserve(1, &["ops"], cpus(1000))).unwrap();
    let stored = w.stored["reservations/agent-1"].clone();
    shrink(&mut w, 1, 2000);
    w.join(1);
    assert_eq!(
        reserved(&mut w, 1),
        ["eng: cpus:2"],
        "tasks keep what they use, then as much as fits"
    );
    let why = explained(&mut w, 1).given_way;
    assert_eq!(
        why,
        [
            "cpus:1 of role eng has no room",
            "cpus:1 of role ops has no room"
        ]
    );
    assert_eq!(w.view().rejections["reservation_without_room"], 2);
    assert_eq!(
        w.stored["reservations/agent-1"], stored,
        "nothing is forgotten"
    );
    w.restart();
    w.join(1);
    assert_eq!(reserved(&mut w, 1), ["eng: cpus:2"]);
    shrink(&mut w, 1, 4000);
    w.join(1);
    assert_eq!(reserved(&mut w, 1), ["eng: cpus:3", "ops: cpus:1"]);
    assert!(explained(&mut w, 1).given_way.is_empty());
}

#[test]
fn a_reservation_waits_for_tasks_that_were_there_before() {
    let mut w = World::new();
    w.join(1);
    let c = w.subscribe(batch(None)).unwrap();
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![of_cpus("t1", 3000)]).unwrap();
    // The agent comes back with a configuration of its own.
    let a = w.agents.get_mut(&agent_id(1)).unwrap();
    a.info.reserved = vec![("eng".into(), cpus(2000)), ("*".into(), cpus(1))];
    w.join(1);
    assert_eq!(reserved(&mut w, 1), ["eng: cpus:1"]);
    let t1 = TaskId::new("t1").unwrap();
    w.say(&agent_id(1), &t1, TaskState::Finished);
    assert_eq!(
        reserved(&mut w, 1),
        ["eng: cpus:2"],
        "as soon as there is room"
    );
    let why = explained(&mut w, 1).given_way;
    assert_eq!(
        why,
        ["cpus:0.001 of role * has no room"],
        "nobody's for good"
    );
}

#[test]
fn static_reservations_are_refined_and_hold_volumes() {
    let mut w = World::new();
    w.join(1);
    let a = w.agents.get_mut(&agent_id(1)).unwrap();
    let mine = Resources::from_millis(2000, 0, 5_000_000);
    a.info.reserved = vec![("eng".into(), mine)];
    w.join(1);
    let base = static_reservation("eng");
    let refined = [vec![base.clone()], stack(&["eng/db"])].concat();
    w.operate(OperatorCall::Reserve {
        agent_id: agent_id(1),
        stack: refined,
        resources: cpus(500),
    })
    .unwrap();
    w.operate(OperatorCall::CreateVolume {
        agent_id: agent_id(1),
        stack: vec![base],
        volume_id: waggle_types::VolumeId::new("v").unwrap(),
        volume: waggle_types::Volume {
            size: waggle_types::Milli::units(1000),
            shared: true,
        },
        mount_path: None,
    })
    .unwrap();
    let all = [
        "eng > eng/db: cpus:0.5",
        "eng: cpus:1.5; disk:4000; volume v:1000 (shared)",
    ];
    assert_eq!(reserved(&mut w, 1), all);
    w.restart();
    w.join(1);
    assert_eq!(reserved(&mut w, 1), all);
    // The agent reserves nothing any more: what was made of it has no base.
    w.agents.get_mut(&agent_id(1)).unwrap().info.reserved = Vec::new();
    w.join(1);
    assert!(reserved(&mut w, 1).is_empty());
    assert_eq!(explained(&mut w, 1).given_way.len(), 2);
}

#[test]
fn an_agent_that_is_replaced_takes_its_reservations_with_it() {
    let (mut w, c) = reserved_for_eng();
    w.leave(&c);
    w.cut(1);
    let old = w.agents.remove(&agent_id(1)).unwrap();
    w.join(2);
    let a = w.agents.get_mut(&agent_id(2)).unwrap();
    a.info.ip = old.info.ip;
    w.cut(2);
    w.join(2);
    assert!(!w.view().agents.contains_key(&agent_id(1)));
    assert!(!w.stored.contains_key("reservations/agent-1"));
    let books = w.core.allocator().explain_role("eng");
    assert!(books.is_none_or(|b| b.charged.is_empty()));
}

#[test]
fn an_agent_that_says_nonsense_about_a_task_keeps_its_place() {
    let mut w = World::new();
    w.join(1);
    let c = w.subscribe(batch(None)).unwrap();
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![of_cpus("t1", 1000)]).unwrap();
    let t1 = TaskId::new("t1").unwrap();
    let a = w.agents.get_mut(&agent_id(1)).unwrap();
    let spec = &mut a.tasks.get_mut(&t1).unwrap().0;
    spec.role = "a//b".into();
    spec.parts = vec![ResourcePart::plain(cpus(7))];
    w.restart();
    w.join(1);
    assert_eq!(w.view().agents[&agent_id(1)].used, cpus(1000));
    w.subscribe(batch(Some(&c.id))).unwrap();
    w.say(&agent_id(1), &t1, TaskState::Finished);
    assert!(w.view().agents[&agent_id(1)].used.is_empty());
    assert!(!w.view().rejections.contains_key("level_1_refused"));
}

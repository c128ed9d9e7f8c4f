//! What is reserved for an idle role is lent, and taken back by eviction.

use waggle_types::{Capabilities, FrameworkInfo, RoleSubscription, SchedulerCall, StatusReason};

use super::{
    client::{Client, batch, task},
    operators::{cpus, reserve},
    *,
};

fn borrower(w: &mut World) -> Client {
    w.subscribe(FrameworkInfo {
        capabilities: Capabilities {
            revocable: true,
            ..Capabilities::default()
        },
        ..batch(None)
    })
    .unwrap()
}

fn owner(w: &mut World, suppressed: bool) -> Client {
    w.subscribe(FrameworkInfo {
        roles: vec![RoleSubscription {
            suppressed,
            ..RoleSubscription::new("eng")
        }],
        ..FrameworkInfo::new("owner", "eng")
    })
    .unwrap()
}

/// Agent 1 with 3 CPUs reserved for `eng`, which is idle; the borrower runs a task of its own and two on what
/// is lent.
fn lent() -> (World, Client, Client) {
    let mut w = World::new();
    w.join(1);
    w.operate(reserve(1, &["eng"], cpus(3000))).unwrap();
    let eng = owner(&mut w, true);
    let c = borrower(&mut w);
    for (n, id) in ["own", "old", "new"].iter().enumerate() {
        let offers = w.offers_of(&c);
        assert!(!offers.is_empty(), "{id}");
        w.accept(&c, offers, vec![task(id)]).unwrap();
        w.pass(1000 * (n as u64 + 1));
    }
    w.run_all();
    (w, c, eng)
}

fn revive(w: &mut World, c: &Client) {
    w.call(c, SchedulerCall::Revive { roles: Vec::new() })
        .unwrap();
}

/// What is free is offered first; nobody is evicted before that turns out to be too little.
fn turn_down(w: &mut World, c: &Client) {
    let offer_ids = w.offers_of(c);
    assert_eq!(offer_ids.len(), 1);
    assert_eq!(kills(w), [0, 0, 0]);
    let refuse = Millis(5000);
    w.call(c, SchedulerCall::Decline { offer_ids, refuse })
        .unwrap();
}

fn kills(w: &World) -> [usize; 3] {
    ["own", "old", "new"].map(|t| w.kills(&TaskId::new(t).unwrap()))
}

#[test]
fn lent_tasks_are_evicted_and_say_why() {
    let (mut w, c, eng) = lent();
    let lent: Vec<String> = w
        .view()
        .tasks
        .values()
        .filter(|t| t.spec.parts.iter().any(|p| p.revocable))
        .map(|t| t.id.to_string())
        .collect();
    assert_eq!(lent, ["new", "old"], "what is unreserved goes first");
    revive(&mut w, &eng);
    turn_down(&mut w, &eng);
    assert_eq!(kills(&w), [0, 1, 1]);
    // Revived again and again: each is told once.
    revive(&mut w, &eng);
    assert_eq!(kills(&w), [0, 1, 1]);
    w.obey_kills();
    let end = w.updates(&c).pop().unwrap();
    assert_eq!(
        (end.state, end.reason),
        (TaskState::Killed, Some(StatusReason::ContainerPreempted))
    );
    assert_eq!(
        end.message,
        "role eng wants back what was lent to role batch"
    );
    let offers = w.view().offers;
    let cpus: i64 = offers
        .iter()
        .filter(|o| o.framework_id == eng.id)
        .map(|o| o.resources.scalars[0].0)
        .sum();
    assert_eq!(cpus, 3000);
    // Its owner does not want it after all: nothing goes round.
    let offer_ids = w.offers_of(&eng);
    let refuse = Millis(5000);
    w.call(&eng, SchedulerCall::Decline { offer_ids, refuse })
        .unwrap();
    let before = w.sent.len();
    w.pass(3000);
    assert_eq!(w.sent.len(), before);
}

#[test]
fn what_is_lent_is_known_to_the_next_master_and_agent() {
    let (mut w, c, eng) = lent();
    w.restart();
    w.join(1);
    let c = w
        .subscribe(FrameworkInfo {
            id: Some(c.id.clone()),
            capabilities: Capabilities {
                revocable: true,
                ..Capabilities::default()
            },
            ..batch(None)
        })
        .unwrap();
    let eng = w
        .subscribe(FrameworkInfo {
            id: Some(eng.id),
            roles: vec![RoleSubscription::new("eng")],
            ..FrameworkInfo::new("owner", "eng")
        })
        .unwrap();
    turn_down(&mut w, &eng);
    assert_eq!(kills(&w), [0, 1, 1]);
    w.obey_kills();
    let end = w.updates(&c).pop().unwrap();
    assert_eq!(end.reason, Some(StatusReason::ContainerPreempted));
    assert!(!w.view().rejections.contains_key("level_1_refused"));
}

#[test]
fn an_evicted_task_that_ends_by_itself_has_finished() {
    let (mut w, c, eng) = lent();
    revive(&mut w, &eng);
    turn_down(&mut w, &eng);
    let new = TaskId::new("new").unwrap();
    w.say(&agent_id(1), &new, TaskState::Finished);
    let end = w.updates(&c).pop().unwrap();
    assert_eq!((end.state, end.reason), (TaskState::Finished, None));
}

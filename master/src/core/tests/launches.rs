//! Accepted launches are known to the next master until their agent has spoken of them.

use waggle_types::{FrameworkInfo, SchedulerCall};

use super::{
    client::{Client, batch, reasons, task},
    *,
};

/// A launch that the agent never sees: its session breaks as the master dies.
fn lost_on_the_way() -> (World, Client, TaskId) {
    let mut w = World::new();
    w.join(1);
    let c = w.subscribe(batch(None)).unwrap();
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![task("t1")]).unwrap();
    w.agents.get_mut(&agent_id(1)).unwrap().tasks.clear();
    assert!(w.stored.contains_key("launches/t1"));
    w.restart();
    (w, c, TaskId::new("t1").unwrap())
}

#[test]
fn the_record_goes_when_the_agent_speaks() {
    let mut w = World::new();
    w.join(1);
    let c = w.subscribe(batch(None)).unwrap();
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![task("t1")]).unwrap();
    let t1 = TaskId::new("t1").unwrap();
    w.say(&agent_id(1), &t1, TaskState::Running);
    assert!(w.stored.contains_key("launches/t1"), "no write of its own");
    // Another write takes it along.
    w.subscribe(FrameworkInfo::new("other", "*")).unwrap();
    assert!(!w.stored.contains_key("launches/t1"));
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![task("t2")]).unwrap();
    let t2 = TaskId::new("t2").unwrap();
    w.say(&agent_id(1), &t2, TaskState::Running);
    w.pass(2000);
    assert!(!w.stored.contains_key("launches/t2"), "or time");
}

#[test]
fn a_launch_that_did_not_arrive_is_told() {
    let (mut w, c, t1) = lost_on_the_way();
    let c = w.subscribe(batch(Some(&c.id))).unwrap();
    let task_ids = vec![t1.clone()];
    w.call(&c, SchedulerCall::Reconcile { task_ids }).unwrap();
    let said = w.updates(&c).pop().unwrap();
    assert_eq!(said.state, TaskState::Staging, "its agent may have it");
    w.join(1);
    let said = w.updates(&c).pop().unwrap();
    assert_eq!((said.task_id, said.state), (t1, TaskState::Dropped));
    assert_eq!(said.message, "the launch did not reach the agent");
    w.pass(2000);
    assert!(!w.stored.contains_key("launches/t1"));
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![task("t1")]).unwrap();
}

#[test]
fn its_framework_hears_it_when_it_is_back() {
    let (mut w, c, t1) = lost_on_the_way();
    w.join(1);
    w.pass(2000);
    assert!(w.stored.contains_key("launches/t1"), "until it is told");
    w.restart();
    w.join(1);
    let c = w.subscribe(batch(Some(&c.id))).unwrap();
    let said = w.updates(&c).pop().unwrap();
    assert_eq!((said.task_id, said.state), (t1, TaskState::Dropped));
}

#[test]
fn a_launch_that_arrived_is_a_task() {
    let mut w = World::new();
    w.join(1);
    let c = w.subscribe(batch(None)).unwrap();
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![task("t1")]).unwrap();
    w.restart();
    let c = w.subscribe(batch(Some(&c.id))).unwrap();
    w.join(2);
    let offers = w.offers_of(&c);
    let twice = w.accept(&c, offers, vec![task("t1")]);
    assert_eq!(reasons(twice), [waggle_types::RejectReason::DuplicateTask]);
    w.join(1);
    let said: Vec<TaskState> = w.updates(&c).iter().map(|s| s.state).collect();
    assert!(!said.contains(&TaskState::Dropped), "{said:?}");
    assert_eq!(w.task_ids().len(), 1);
    w.pass(2000);
    assert!(!w.stored.contains_key("launches/t1"));
}

#[test]
fn a_launch_whose_agent_stays_away_is_out_of_reach() {
    let (mut w, c, t1) = lost_on_the_way();
    w.pass(11_000);
    let c = w.subscribe(batch(Some(&c.id))).unwrap();
    let task_ids = Vec::new();
    w.call(&c, SchedulerCall::Reconcile { task_ids }).unwrap();
    let said = w.updates(&c).pop().unwrap();
    assert_eq!((said.task_id, said.state), (t1, TaskState::Unreachable));
    w.do_call(&c, FrameworkCall::Teardown).unwrap();
    w.pass(2000);
    assert!(!w.stored.contains_key("launches/t1"));
}

#[test]
fn nobody_waits_for_launches_on_agents_that_are_gone() {
    let (mut w, c, t1) = lost_on_the_way();
    w.operate(OperatorCall::MarkGone {
        agent_id: agent_id(1),
    })
    .unwrap();
    w.restart();
    let c = w.subscribe(batch(Some(&c.id))).unwrap();
    let said = w.updates(&c).pop().unwrap();
    assert_eq!((said.task_id, said.state), (t1, TaskState::GoneByOperator));
    let by_operator = waggle_types::StatusReason::SlaveRemovedByOperator;
    assert_eq!(said.reason, Some(by_operator));
    w.pass(2000);
    assert!(!w.stored.contains_key("launches/t1"));
}

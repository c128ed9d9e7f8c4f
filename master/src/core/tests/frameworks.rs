//! Several frameworks at once: registration, offers, launches, acknowledgements, failover, removal.

use waggle_types::{
    FrameworkInfo, OfferId, RejectReason, RoleSubscription, SchedulerCall, StatusReason,
    StatusSource,
};

use super::{
    client::{Client, batch, reasons, task},
    *,
};

/// A framework with one task that was sent to agent 1.
fn launched() -> (World, Client, TaskId) {
    let mut w = World::new();
    w.join(1);
    let c = w.subscribe(batch(None)).unwrap();
    let offers = w.offers_of(&c);
    assert_eq!(offers.len(), 1);
    w.accept(&c, offers, vec![task("t1")]).unwrap();
    let id = TaskId::new("t1").unwrap();
    assert_eq!(w.launches(), 1);
    (w, c, id)
}

#[test]
fn a_framework_launches_and_acknowledges_what_it_hears() {
    let (mut w, c, id) = launched();
    let spec = w.view().tasks.get(&id).unwrap().full_spec();
    assert_eq!(
        (
            spec.framework_name.as_str(),
            spec.role.as_str(),
            &spec.framework_id
        ),
        ("batch", "batch", &c.id),
        "the master says whose it is"
    );
    w.say(&agent_id(1), &id, TaskState::Running);
    let running = w.updates(&c).pop().unwrap();
    assert_eq!((running.state, w.acks(&id)), (TaskState::Running, 0));
    let ack = |s: &TaskStatus| SchedulerCall::Acknowledge {
        task_id: s.task_id.clone(),
        agent_id: s.agent_id.clone(),
        uuid: s.uuid.unwrap(),
    };
    w.call(&c, ack(&running)).unwrap();
    assert_eq!(w.acks(&id), 1);
    w.say(&agent_id(1), &id, TaskState::Finished);
    assert!(!w.view().tasks.contains_key(&id));
    // Not acknowledged: its agent says it again, and the framework hears it again.
    w.say(&agent_id(1), &id, TaskState::Finished);
    let ends = w.updates(&c);
    assert_eq!(ends.len(), 3);
    assert_eq!(w.acks(&id), 1, "the end is the framework's to acknowledge");
    let offers = w.offers_of(&c);
    assert_eq!(
        reasons(w.accept(&c, offers, vec![task("t1")])),
        [RejectReason::DuplicateTask]
    );
    w.call(&c, ack(&ends[2])).unwrap();
    assert_eq!(w.acks(&id), 2);
    w.say(&agent_id(1), &id, TaskState::Finished);
    assert_eq!(w.acks(&id), 3, "now the master acknowledges echoes");
    w.call(&c, ack(&ends[2])).unwrap();
}

#[test]
fn refusals_are_typed_and_change_nothing() {
    let (mut w, c, id) = launched();
    let other = w
        .subscribe(FrameworkInfo {
            name: "other".into(),
            roles: vec![RoleSubscription::new("other")],
            ..batch(None)
        })
        .unwrap();
    w.join(2);
    let (mine, theirs) = (w.offers_of(&c), w.offers_of(&other));
    let before = w.view();
    let mut offers = mine.clone();
    offers.extend(theirs.clone());
    assert!(offers.len() >= 2, "{offers:?}");
    let (one, whose) = if mine.is_empty() {
        (theirs[0].clone(), &other)
    } else {
        (mine[0].clone(), &c)
    };
    let who_else = if whose.id == c.id { &other } else { &c };
    let got = reasons(w.accept(who_else, vec![one.clone()], vec![task("x")]));
    assert_eq!(got, [RejectReason::ForeignOffer]);
    let gone = OfferId::new("gone").unwrap();
    let got = reasons(w.accept(whose, vec![gone.clone()], vec![task("x")]));
    assert_eq!(got, [RejectReason::StaleOffer]);
    let got = reasons(w.accept(whose, vec![one.clone(), one.clone()], vec![task("x")]));
    assert_eq!(got, [RejectReason::DuplicateOffer]);
    let got = reasons(w.accept(whose, Vec::new(), vec![task("x")]));
    assert_eq!(got, [RejectReason::NoOffers]);
    let got = reasons(w.accept(whose, vec![one.clone()], vec![task("t1")]));
    assert_eq!(got, [RejectReason::DuplicateTask]);
    let mut big = task("x");
    big.resources = Resources::from_millis(1_000_000, 0, 0);
    let got = reasons(w.accept(whose, vec![one.clone()], vec![big]));
    assert_eq!(got, [RejectReason::Overuse]);
    let mut nothing = task("x");
    nothing.resources = Resources::default();
    let got = reasons(w.accept(whose, vec![one], vec![nothing]));
    assert_eq!(got, [RejectReason::Invalid]);
    let kill = |t: &str| SchedulerCall::Kill {
        task_id: TaskId::new(t).unwrap(),
    };
    assert_eq!(
        reasons(w.call(&other, kill("t1"))),
        [RejectReason::ForeignTask]
    );
    assert_eq!(reasons(w.call(&c, kill("t9"))), [RejectReason::UnknownTask]);
    let stale = Client {
        subscription: SubscriptionId(4711),
        ..c.clone()
    };
    let suppress = || SchedulerCall::Suppress { roles: Vec::new() };
    assert_eq!(
        reasons(w.call(&stale, suppress())),
        [RejectReason::NotSubscribed]
    );
    let nobody = Client {
        id: FrameworkId::new("nobody").unwrap(),
        ..c.clone()
    };
    assert_eq!(
        reasons(w.call(&nobody, suppress())),
        [RejectReason::UnknownFramework]
    );
    let after = w.view();
    assert_eq!((after.offers, after.tasks), (before.offers, before.tasks));
    assert_eq!(w.launches(), 1);
    w.call(&c, kill("t1")).unwrap();
    assert_eq!(w.kills(&id), 1);
}

#[test]
fn offers_of_two_agents_pay_for_nothing() {
    let mut w = World::new();
    w.join(1);
    w.join(2);
    let c = w.subscribe(batch(None)).unwrap();
    let both = w.offers_of(&c);
    assert_eq!(both.len(), 2);
    let got = reasons(w.accept(&c, both.clone(), vec![task("x")]));
    assert_eq!(got, [RejectReason::MixedAgents]);
    let decline = SchedulerCall::Decline {
        offer_ids: [both.clone(), vec![OfferId::new("gone").unwrap()]].concat(),
        refuse: Millis(60_000),
    };
    assert_eq!(reasons(w.call(&c, decline)), [RejectReason::StaleOffer]);
    assert!(w.offers_of(&c).is_empty(), "the others are declined");
    w.call(&c, SchedulerCall::Suppress { roles: Vec::new() })
        .unwrap();
    assert!(w.view().frameworks[&c.id].suppressed);
    w.call(&c, SchedulerCall::Revive { roles: Vec::new() })
        .unwrap();
    assert_eq!(w.offers_of(&c).len(), 2);
}

#[test]
fn bad_subscriptions_are_refused() {
    let mut w = World::with(|c| c.max_frameworks = 1);
    let own = w.core.framework_id().clone();
    for (info, reason) in [
        (
            FrameworkInfo {
                name: "Bad Name".into(),
                ..batch(None)
            },
            RejectReason::Invalid,
        ),
        (
            FrameworkInfo {
                name: "marathon".into(),
                ..batch(None)
            },
            RejectReason::Invalid,
        ),
        (
            FrameworkInfo {
                roles: vec![RoleSubscription::new("a//b")],
                ..batch(None)
            },
            RejectReason::Invalid,
        ),
        (batch(Some(&own)), RejectReason::ReservedFramework),
    ] {
        let called = w.subscribe(info).map(|_| ());
        assert_eq!(reasons(called), [reason]);
    }
    let c = w.subscribe(batch(None)).unwrap();
    assert_eq!(
        reasons(w.subscribe(batch(None)).map(|_| ())),
        [RejectReason::TooMany]
    );
    w.do_call(&c, FrameworkCall::Teardown).unwrap();
    let back = w.subscribe(batch(Some(&c.id))).map(|_| ());
    assert_eq!(reasons(back), [RejectReason::FrameworkRemoved]);
    w.restart();
    let back = w.subscribe(batch(Some(&c.id))).map(|_| ());
    assert_eq!(reasons(back), [RejectReason::FrameworkRemoved], "stored");
}

#[test]
fn a_newer_subscription_takes_over() {
    let (mut w, old, id) = launched();
    let new = w.subscribe(batch(Some(&old.id))).unwrap();
    assert_eq!(new.id, old.id);
    let (closed, why) = w.closed.last().unwrap();
    assert_eq!(
        (*closed, why.reason),
        (old.subscription, RejectReason::Replaced)
    );
    assert_eq!(
        reasons(w.call(&old, SchedulerCall::Suppress { roles: Vec::new() })),
        [RejectReason::NotSubscribed]
    );
    // The end of the old stream, told late, is not the new one's.
    w.leave(&old);
    w.say(&agent_id(1), &id, TaskState::Running);
    assert_eq!(w.updates(&new).len(), 1);
    w.call(
        &new,
        SchedulerCall::Reconcile {
            task_ids: Vec::new(),
        },
    )
    .unwrap();
    let nobody = TaskId::new("t9").unwrap();
    w.call(
        &new,
        SchedulerCall::Reconcile {
            task_ids: vec![nobody],
        },
    )
    .unwrap();
    let states: Vec<TaskState> = w.updates(&new).iter().map(|s| s.state).collect();
    assert_eq!(
        states,
        [TaskState::Running, TaskState::Running, TaskState::Unknown]
    );
}

#[test]
fn who_stays_away_too_long_is_removed_and_its_tasks_are_killed() {
    let (mut w, c, id) = launched();
    w.say(&agent_id(1), &id, TaskState::Running);
    w.leave(&c);
    assert!(w.offers_of(&c).is_empty());
    w.pass(15_000);
    assert!(w.view().frameworks.contains_key(&c.id));
    let c = w.subscribe(batch(Some(&c.id))).unwrap();
    w.pass(30_000);
    assert_eq!(w.kills(&id), 0, "back in time");
    w.leave(&c);
    w.cut(1);
    w.pass(21_000);
    assert!(!w.view().frameworks.contains_key(&c.id));
    assert!(!w.stored.contains_key(&format!("frameworks/{}", c.id)));
    w.restart();
    w.join(1);
    assert_eq!(
        w.kills(&id),
        1,
        "also on an agent that comes back to another master"
    );
    w.obey_kills();
    assert!(w.task_ids().is_empty());
}

#[test]
fn a_framework_and_its_tasks_outlive_the_master() {
    let (mut w, c, id) = launched();
    w.say(&agent_id(1), &id, TaskState::Running);
    w.restart();
    assert!(!w.view().frameworks[&c.id].connected);
    w.join(1);
    assert_eq!(w.kills(&id), 0);
    let c = w.subscribe(batch(Some(&c.id))).unwrap();
    assert_eq!(w.view().frameworks[&c.id].tasks, 1);
    assert!(!w.offers_of(&c).is_empty());
    // Its end, said while the framework is away, waits for it.
    w.leave(&c);
    w.say(&agent_id(1), &id, TaskState::Finished);
    assert_eq!(w.acks(&id), 0);
    let c = w.subscribe(batch(Some(&c.id))).unwrap();
    let end = w.updates(&c).pop().unwrap();
    assert_eq!(end.state, TaskState::Finished);
    w.leave(&c);
    w.restart();
    w.pass(50_000);
    assert!(
        w.view().frameworks.contains_key(&c.id),
        "it may take a while to find the master"
    );
    w.pass(15_000);
    assert!(!w.view().frameworks.contains_key(&c.id));
}

#[test]
fn lost_agents_are_told() {
    let (mut w, c, id) = launched();
    w.say(&agent_id(1), &id, TaskState::Running);
    w.cut(1);
    w.pass(40_000);
    let last = w.updates(&c).pop().unwrap();
    let said = (last.state, last.reason);
    let removed = Some(StatusReason::SlaveRemoved);
    assert_eq!(said, (TaskState::Unreachable, removed));
    let lost = SchedulerEvent::AgentUnreachable(agent_id(1));
    let told = |(s, e): &&(SubscriptionId, SchedulerEvent)| *s == c.subscription && *e == lost;
    assert_eq!(w.heard.iter().filter(told).count(), 1);
    w.join(1);
    let last = w.updates(&c).pop().unwrap();
    let said = (last.state, last.reason, last.source, last.uuid);
    let back = Some(StatusReason::SlaveReregistered);
    assert_eq!(said, (TaskState::Running, back, StatusSource::Master, None));
    // Only cut off: nothing was told, so nothing is taken back.
    w.cut(1);
    w.join(1);
    let last = w.updates(&c).pop().unwrap();
    assert_eq!((last.state, last.reason), (TaskState::Running, None));
    // What ended meanwhile says why it ended.
    w.cut(1);
    w.pass(40_000);
    let on = w.agents.get_mut(&agent_id(1)).unwrap();
    let task = on.tasks.get_mut(&id).unwrap();
    task.1.state = TaskState::Failed;
    task.1.reason = Some(StatusReason::ContainerLimitationMemory);
    w.join(1);
    let last = w.updates(&c).pop().unwrap();
    let memory = Some(StatusReason::ContainerLimitationMemory);
    assert_eq!((last.state, last.reason), (TaskState::Failed, memory));
}

#[test]
fn tasks_of_a_removed_framework_end_with_it() {
    let (mut w, c, id) = launched();
    w.say(&agent_id(1), &id, TaskState::Running);
    w.do_call(&c, FrameworkCall::Teardown).unwrap();
    w.obey_kills();
    let ended = w.view().completed.last().unwrap().status().unwrap();
    let removed = Some(StatusReason::FrameworkRemoved);
    let said = (ended.task_id, ended.state, ended.reason);
    assert_eq!(said, (id, TaskState::Killed, removed));
}

#[test]
fn a_task_that_was_said_to_be_unknown_and_turns_up_is_told() {
    let (mut w, c, id) = launched();
    w.say(&agent_id(1), &id, TaskState::Running);
    // The record of its launch goes.
    w.pass(2_000);
    w.restart();
    let c = w.subscribe(batch(Some(&c.id))).unwrap();
    w.pass(11_000);
    let task_ids = vec![id.clone()];
    w.call(&c, SchedulerCall::Reconcile { task_ids }).unwrap();
    let last = w.updates(&c).pop().unwrap();
    assert_eq!(last.state, TaskState::Unknown, "its agent is not back");
    w.join(1);
    let last = w.updates(&c).pop().unwrap();
    assert_eq!((last.task_id, last.state), (id, TaskState::Running));
    assert_eq!(
        last.uuid, None,
        "its agent says by itself what is to be acknowledged"
    );
}

#[test]
fn services_and_frameworks_share() {
    let mut w = World::new();
    w.join(1);
    let c = w.subscribe(batch(None)).unwrap();
    w.put(service("/web", 2, "/web:80"), PutMode::Create, false)
        .unwrap();
    // The framework holds the only agent; what it does not want goes to the service.
    let offer_ids = w.offers_of(&c);
    w.call(
        &c,
        SchedulerCall::Decline {
            offer_ids,
            refuse: Millis(5000),
        },
    )
    .unwrap();
    w.run_all();
    assert_eq!(w.task_ids().len(), 2);
    w.pass(6000);
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![task("t1")]).unwrap();
    let view = w.view();
    assert_eq!(view.frameworks[&c.id].tasks, 1);
    assert!(view.roles["batch"].share > 0.2);
    assert_eq!(view.roles.len(), 2);
}

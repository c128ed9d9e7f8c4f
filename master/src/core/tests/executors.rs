//! Executors that frameworks bring along.

use waggle_types::{
    ExecutorId, ExecutorKind, ExecutorSpec, FrameworkInfo, OnExecutor, RejectReason, SchedulerCall,
};

use super::{
    client::{Client, batch, reasons, task},
    *,
};

/// A task's word for an executor that uses so many thousandths of a CPU.
pub(super) fn on(id: &str, cpus: i64) -> OnExecutor {
    OnExecutor {
        spec: Arc::new(ExecutorSpec {
            executor_id: ExecutorId::new(id).unwrap(),
            name: id.into(),
            kind: ExecutorKind::Custom,
            command: Command::Shell("exec executor".into()),
            env: BTreeMap::new(),
            labels: BTreeMap::new(),
            resources: Resources::from_millis(cpus, 0, 0),
            parts: Vec::new(),
            container: waggle_types::ContainerSpec::default(),
            shutdown_grace: Millis(5000),
            user: None,
            checkpoint: true,
            info: Vec::new(),
            framework_info: Vec::new(),
        }),
        starts: false,
        group: None,
        n_group: 0,
        info: vec![1, 2, 3],
    }
}

fn task_on(id: &str, executor: &str, cpus: i64) -> TaskSpec {
    TaskSpec {
        command: Command::Executor,
        executor: Some(on(executor, cpus)),
        ..task(id)
    }
}

fn world() -> (World, Client) {
    let mut w = World::new();
    w.join(1);
    let info = FrameworkInfo {
        failover_timeout: Millis(60_000),
        ..batch(None)
    };
    let c = w.subscribe(info).unwrap();
    (w, c)
}

fn used(w: &mut World) -> i64 {
    let view = w.view();
    view.agents[&agent_id(1)].used.scalars[0].0
}

fn launched(w: &World, id: &str) -> TaskSpec {
    let id = TaskId::new(id).unwrap();
    let found = w.sent.iter().find_map(|(_, m)| match m {
        MasterMsg::Launch(spec) if spec.task_id == id => Some(spec.as_ref().clone()),
        _ => None,
    });
    found.unwrap()
}

fn key(c: &Client, id: &str) -> ExecutorKey {
    ExecutorKey {
        framework_id: c.id.clone(),
        executor_id: ExecutorId::new(id).unwrap(),
    }
}

fn lost(w: &World, c: &Client) -> Vec<(String, i32)> {
    let mine = w.heard.iter().filter(|(s, _)| *s == c.subscription);
    mine.filter_map(|(_, e)| match e {
        SchedulerEvent::ExecutorLost {
            executor_id,
            status,
            ..
        } => Some((executor_id.to_string(), *status)),
        _ => None,
    })
    .collect()
}

#[test]
fn an_executor_is_charged_once_and_until_its_own_end() {
    let (mut w, c) = world();
    let offers = w.offers_of(&c);
    let tasks = vec![task_on("t1", "e", 300), task_on("t2", "e", 300)];
    w.accept(&c, offers, tasks).unwrap();
    assert_eq!(used(&mut w), 2300);
    let (one, two) = (launched(&w, "t1"), launched(&w, "t2"));
    let (one, two) = (one.executor.unwrap(), two.executor.unwrap());
    assert!(one.starts && !two.starts);
    assert_eq!(
        one.info,
        vec![1, 2, 3],
        "the agent gets what the executor is to get"
    );
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![task_on("t3", "e", 300)]).unwrap();
    assert_eq!(used(&mut w), 3300);
    assert!(!launched(&w, "t3").executor.unwrap().starts);
    let a = agent_id(1);
    for id in ["t1", "t2", "t3"] {
        w.say(&a, &TaskId::new(id).unwrap(), TaskState::Finished);
    }
    assert_eq!(used(&mut w), 300, "it lives on");
    w.end_executor(&a, &key(&c, "e"), 0);
    assert_eq!(used(&mut w), 0);
    assert_eq!(lost(&w, &c), [("e".to_owned(), 0)]);
    // The next task starts another one.
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![task_on("t4", "e", 200)]).unwrap();
    assert!(launched(&w, "t4").executor.unwrap().starts);
    assert_eq!(used(&mut w), 1200);
}

#[test]
fn an_offer_must_hold_the_executor_too_and_nothing_is_half_done() {
    let (mut w, c) = world();
    let offers = w.offers_of(&c);
    let tasks: Vec<TaskSpec> = (0..4)
        .map(|i| task_on(&format!("t{i}"), "e", 300))
        .collect();
    let called = w.accept(&c, offers.clone(), tasks);
    assert_eq!(reasons(called), [RejectReason::Overuse]);
    assert_eq!(used(&mut w), 0);
    assert!(w.view().executors.is_empty());
    let different = vec![task_on("t1", "e", 300), task_on("t2", "e", 301)];
    let called = w.accept(&c, offers.clone(), different);
    assert_eq!(reasons(called), [RejectReason::Invalid]);
    // Without anything of its own it can be had for nothing.
    w.accept(&c, offers, vec![task_on("t1", "e", 0)]).unwrap();
    assert_eq!(used(&mut w), 1000);
    assert_eq!(w.view().executors.len(), 1);
}

#[test]
fn words_go_both_ways_and_to_known_executors_only() {
    let (mut w, c) = world();
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![task_on("t1", "e", 100)]).unwrap();
    let a = agent_id(1);
    let say = |executor: &str| SchedulerCall::Message {
        agent_id: agent_id(1),
        executor_id: ExecutorId::new(executor).unwrap(),
        data: vec![0, 255],
    };
    w.call(&c, say("e")).unwrap();
    let got = w.sent.iter().any(|(_, m)| {
        matches!(m, MasterMsg::ExecutorMessage { key: k, data } if *k == key(&c, "e") && data == &[0, 255])
    });
    assert!(got);
    assert_eq!(
        reasons(w.call(&c, say("f"))),
        [RejectReason::UnknownExecutor]
    );
    let session = w.agents[&a].session.unwrap();
    w.event(Event::ExecutorSays {
        session,
        key: key(&c, "e"),
        data: vec![7],
    });
    let heard = w.heard.iter().any(|(s, e)| {
        *s == c.subscription && matches!(e, SchedulerEvent::Message { data, .. } if data == &[7])
    });
    assert!(heard);
    let other = w.subscribe(batch(None)).unwrap();
    assert_eq!(
        reasons(w.call(&other, say("e"))),
        [RejectReason::UnknownExecutor]
    );
    let shutdown = SchedulerCall::Shutdown {
        agent_id: a,
        executor_id: ExecutorId::new("e").unwrap(),
    };
    w.call(&c, shutdown).unwrap();
    assert!(
        w.sent
            .iter()
            .any(|(_, m)| matches!(m, MasterMsg::ShutdownExecutor { .. }))
    );
}

#[test]
fn the_next_master_learns_of_executors_from_their_agents() {
    let (mut w, c) = world();
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![task_on("t1", "e", 300)]).unwrap();
    w.say(
        &agent_id(1),
        &TaskId::new("t1").unwrap(),
        TaskState::Finished,
    );
    w.restart();
    w.join(1);
    assert_eq!(used(&mut w), 300);
    // An agent that comes without it has seen its end.
    let c = w.subscribe(batch(Some(&c.id))).unwrap();
    w.cut(1);
    w.agents.get_mut(&agent_id(1)).unwrap().executors.clear();
    w.join(1);
    assert_eq!(used(&mut w), 0);
    assert_eq!(lost(&w, &c), [("e".to_owned(), -1)]);
}

#[test]
fn a_framework_that_goes_takes_its_executors_along() {
    let (mut w, c) = world();
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![task_on("t1", "e", 300)]).unwrap();
    w.say(
        &agent_id(1),
        &TaskId::new("t1").unwrap(),
        TaskState::Finished,
    );
    w.cut(1);
    w.do_call(&c, FrameworkCall::Teardown).unwrap();
    let told = |w: &World| {
        w.sent
            .iter()
            .any(|(_, m)| matches!(m, MasterMsg::ShutdownExecutor { .. }))
    };
    assert!(!told(&w));
    w.join(1);
    assert!(told(&w), "when its agent comes back");
    w.end_executor(&agent_id(1), &key(&c, "e"), 9);
    assert_eq!(used(&mut w), 0);
}

#[test]
fn a_drained_agent_loses_its_idle_executors() {
    let (mut w, c) = world();
    let offers = w.offers_of(&c);
    let tasks = vec![task_on("t1", "idle", 100), task_on("t2", "busy", 100)];
    w.accept(&c, offers, tasks).unwrap();
    w.say(
        &agent_id(1),
        &TaskId::new("t1").unwrap(),
        TaskState::Finished,
    );
    let ended = |w: &World| {
        let all = w.sent.iter().filter_map(|(_, m)| match m {
            MasterMsg::ShutdownExecutor { key } => Some(key.executor_id.to_string()),
            _ => None,
        });
        all.collect::<Vec<_>>()
    };
    let drain = OperatorCall::Drain {
        agent_id: agent_id(1),
        max_grace: None,
        mark_gone: false,
    };
    w.operate(drain).unwrap();
    assert_eq!(ended(&w), ["idle"]);
    w.say(&agent_id(1), &TaskId::new("t2").unwrap(), TaskState::Killed);
    assert!(ended(&w).contains(&"busy".to_owned()));
}

#[test]
fn an_agent_that_another_replaces_takes_its_executors_along() {
    let (mut w, c) = world();
    let offers = w.offers_of(&c);
    w.accept(&c, offers, vec![task_on("t1", "e", 100)]).unwrap();
    let known = |w: &World| w.core.executors.of_agent(&agent_id(1)).count();
    assert_eq!(known(&w), 1);
    w.cut(1);
    let old = w.agents.remove(&agent_id(1)).unwrap();
    let info = AgentInfo {
        agent_id: agent_id(2),
        ..old.info
    };
    let fresh = FakeAgent {
        info,
        tasks: BTreeMap::new(),
        executors: BTreeMap::new(),
        session: None,
    };
    w.agents.insert(agent_id(2), fresh);
    w.join(2);
    assert_eq!(known(&w), 0);
}

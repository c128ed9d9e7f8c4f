//! Executors that frameworks bring along: one life of many tasks, and every end.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is the report"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;
use waggle_lifecycle::{
    AgentCore, Effect, Event, ExecutorWord, Exit, GROUP_TIMEOUT, REGISTRATION_TIMEOUT,
    REREGISTRATION_TIMEOUT,
};
use waggle_types::{
    AgentId, Command, ContainerSpec, DiscoveryInfo, ExecutorEnd, ExecutorId, ExecutorKey,
    ExecutorKind, ExecutorRecord, ExecutorSpec, ExecutorStatus, FrameworkId, HealthState, Millis,
    OnExecutor, Resources, StatusReason, StatusSource, StatusUuid, TaskId, TaskSpec, TaskState,
    TaskStatus, UnixMillis,
};

fn id(s: &str) -> TaskId {
    TaskId::new(s).unwrap()
}

fn key() -> ExecutorKey {
    ExecutorKey {
        framework_id: FrameworkId::new("f").unwrap(),
        executor_id: ExecutorId::new("e").unwrap(),
    }
}

fn executor(kind: ExecutorKind) -> Arc<ExecutorSpec> {
    Arc::new(ExecutorSpec {
        executor_id: key().executor_id,
        name: "e".into(),
        kind,
        command: match kind {
            ExecutorKind::Custom => Command::Shell("exec executor".into()),
            ExecutorKind::Default => Command::Executor,
        },
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        resources: Resources::from_millis(100, 0, 0),
        parts: Vec::new(),
        container: ContainerSpec::default(),
        shutdown_grace: Millis(5000),
        user: None,
        checkpoint: true,
        info: Vec::new(),
        framework_info: Vec::new(),
    })
}

fn spec(task: &str, kind: ExecutorKind, starts: bool) -> TaskSpec {
    TaskSpec {
        task_id: id(task),
        framework_id: key().framework_id,
        framework_name: "batch".into(),
        role: "*".into(),
        name: task.into(),
        command: match kind {
            ExecutorKind::Custom => Command::Executor,
            ExecutorKind::Default => Command::Shell("true".into()),
        },
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        resources: Resources::from_millis(1000, 0, 0),
        parts: Vec::new(),
        ports: Vec::new(),
        discovery: DiscoveryInfo { name: task.into() },
        health_checks: Vec::new(),
        container: ContainerSpec::default(),
        kill_grace: Millis(3000),
        user: None,
        service: String::new(),
        service_version: String::new(),
        trace: None,
        executor: Some(OnExecutor {
            spec: executor(kind),
            starts,
            group: Some(id("g")).filter(|_| kind == ExecutorKind::Default),
            n_group: 0,
            info: Vec::new(),
        }),
    }
}

fn said(task: &str, state: TaskState, uuid: u8) -> TaskStatus {
    TaskStatus {
        ip: None,
        ip6: None,
        ready: None,
        check: None,
        responses: Vec::new(),
        task_id: id(task),
        agent_id: AgentId::new("somebody").unwrap(),
        state,
        health: HealthState::Unknown,
        reason: None,
        message: String::new(),
        source: StatusSource::Executor,
        at: UnixMillis(7),
        uuid: Some(StatusUuid([uuid; 16])),
        executor: Some(Box::new(ExecutorStatus {
            executor_id: key().executor_id,
            info: vec![uuid],
        })),
    }
}

struct World {
    core: AgentCore,
    now: u64,
    out: Vec<Effect>,
}

impl World {
    fn new() -> Self {
        let total = Resources::from_millis(4000, 0, 0);
        let core = AgentCore::new(AgentId::new("a").unwrap(), 7).with_total(total);
        let mut w = Self {
            core,
            now: 1000,
            out: Vec::new(),
        };
        w.event(Event::Connected {
            unknown_tasks: Vec::new(),
        });
        w
    }

    fn event(&mut self, event: Event) -> Vec<Effect> {
        let out = self.core.handle(event, UnixMillis(self.now));
        self.out.extend(out.iter().cloned());
        out
    }

    fn launch(&mut self, task: &str, starts: bool) -> Vec<Effect> {
        let spec = spec(task, ExecutorKind::Custom, starts);
        self.event(Event::Launch(Box::new(spec)))
    }

    fn container(&self) -> TaskId {
        let started = self.out.iter().rev().find_map(|e| match e {
            Effect::LaunchExecutor { container, .. } => Some(container.clone()),
            _ => None,
        });
        started.unwrap()
    }

    fn subscribe(&mut self) -> Vec<Effect> {
        self.event(Event::ExecutorSubscribed {
            key: key(),
            tasks: Vec::new(),
            updates: Vec::new(),
        })
    }

    /// An executor that listens.
    fn running(&mut self) {
        self.launch("t1", true);
        let task_id = self.container();
        self.event(Event::Started { task_id, pid: 9 });
        self.subscribe();
    }

    fn update(&mut self, task: &str, state: TaskState, uuid: u8) -> Vec<Effect> {
        let status = Box::new(said(task, state, uuid));
        self.event(Event::ExecutorUpdate { key: key(), status })
    }

    fn ack(&mut self, task: &str, uuid: StatusUuid) {
        let task_id = id(task);
        self.event(Event::Ack { task_id, uuid });
    }

    fn pass(&mut self, ms: u64) -> Vec<Effect> {
        self.now += ms;
        self.event(Event::Tick)
    }
}

fn words(effects: &[Effect]) -> Vec<ExecutorWord> {
    let all = effects.iter().filter_map(|e| match e {
        Effect::ToExecutor { word, .. } => Some(word.clone()),
        _ => None,
    });
    all.collect()
}

fn launched(effects: &[Effect]) -> Vec<String> {
    let all = words(effects).into_iter().filter_map(|w| match w {
        ExecutorWord::Launch(spec) => Some(spec.task_id.to_string()),
        _ => None,
    });
    all.collect()
}

fn sent(effects: &[Effect]) -> Vec<TaskStatus> {
    let all = effects.iter().filter_map(|e| match e {
        Effect::Send(status) => Some(status.clone()),
        _ => None,
    });
    all.collect()
}

fn ended(effects: &[Effect]) -> Vec<ExecutorEnd> {
    let all = effects.iter().filter_map(|e| match e {
        Effect::ExecutorEnded(end) => Some(end.clone()),
        _ => None,
    });
    all.collect()
}

#[test]
fn several_tasks_run_on_one_executor_and_wait_until_it_listens() {
    let mut w = World::new();
    let first = w.launch("t1", true);
    assert!(matches!(first[0], Effect::LaunchExecutor { .. }));
    assert!(
        matches!(first[1], Effect::Accept { .. }),
        "durable before it is handed over"
    );
    let second = w.launch("t2", false);
    assert!(
        !second
            .iter()
            .any(|e| matches!(e, Effect::LaunchExecutor { .. }))
    );
    let held = w.core.container_resources(&key()).unwrap();
    assert_eq!(held, Resources::from_millis(2100, 0, 0));
    let task_id = w.container();
    w.event(Event::Started { task_id, pid: 9 });
    assert_eq!(launched(&w.out), Vec::<String>::new());
    let heard = w.subscribe();
    assert!(matches!(words(&heard)[0], ExecutorWord::Subscribed { .. }));
    assert_eq!(launched(&heard), ["t1", "t2"]);
    assert_eq!(launched(&w.launch("t3", false)), ["t3"]);
}

#[test]
fn what_an_executor_says_is_durable_then_acknowledged_and_sent_in_order() {
    let mut w = World::new();
    w.running();
    let out = w.update("t1", TaskState::Starting, 1);
    let persisted = out.iter().position(|e| matches!(e, Effect::Persist { .. }));
    let acked = out.iter().position(|e| {
        matches!(
            e,
            Effect::ToExecutor {
                word: ExecutorWord::Acknowledged { .. },
                ..
            }
        )
    });
    assert!(persisted.unwrap() < acked.unwrap());
    let told = sent(&out);
    assert_eq!(
        told[0].agent_id,
        AgentId::new("a").unwrap(),
        "the agent says where"
    );
    assert_eq!(told[0].executor.as_ref().unwrap().info, [1], "unchanged");
    // The next ones wait, each of them.
    assert!(sent(&w.update("t1", TaskState::Running, 2)).is_empty());
    assert!(sent(&w.update("t1", TaskState::Running, 3)).is_empty());
    // Said again, it is acknowledged again and nothing else.
    let again = w.update("t1", TaskState::Running, 2);
    assert_eq!(again.len(), 1);
    for uuid in 1..3 {
        w.ack("t1", StatusUuid([uuid; 16]));
    }
    let order: Vec<_> = sent(&w.out).iter().map(|s| s.uuid.unwrap().0[0]).collect();
    assert_eq!(order, [1, 2, 3]);
    let end = w.update("t1", TaskState::Finished, 4);
    assert!(end.iter().any(|e| matches!(e, Effect::Limit { resources, .. } if *resources == Resources::from_millis(100, 0, 0))));
    // Nothing follows an end.
    assert_eq!(w.update("t1", TaskState::Running, 5).len(), 1);
    w.ack("t1", StatusUuid([3; 16]));
    w.ack("t1", StatusUuid([4; 16]));
    assert!(w.out.iter().any(|e| *e == Effect::Forget(id("t1"))));
}

#[test]
fn an_executors_end_is_its_tasks_end_and_is_told_once() {
    for (exit, state, reason, status) in [
        (
            Exit::Code(3),
            TaskState::Failed,
            StatusReason::ExecutorTerminated,
            768,
        ),
        (
            Exit::Signal(9),
            TaskState::Failed,
            StatusReason::ExecutorTerminated,
            9,
        ),
        (
            Exit::OutOfMemory {
                limit_bytes: 1,
                peak_bytes: 1,
            },
            TaskState::Failed,
            StatusReason::ContainerLimitationMemory,
            9,
        ),
        (
            Exit::LaunchFailed("no image".into()),
            TaskState::Failed,
            StatusReason::ContainerLaunchFailed,
            -1,
        ),
    ] {
        let mut w = World::new();
        w.running();
        w.launch("t2", false);
        w.update("t1", TaskState::Running, 1);
        w.ack("t1", StatusUuid([1; 16]));
        let task_id = w.container();
        let out = w.event(Event::Exited { task_id, exit });
        let told = sent(&out);
        assert_eq!(told.len(), 2);
        assert!(
            told.iter()
                .all(|s| s.state == state && s.reason == Some(reason))
        );
        assert!(
            told.iter()
                .all(|s| s.source == StatusSource::Agent && s.uuid.is_some())
        );
        assert_eq!(ended(&out)[0].status, status);
        assert_eq!(ended(&w.out).len(), 1);
        assert!(w.core.executors().next().is_none());
        // One that names it now comes too late.
        let late = sent(&w.launch("t9", false));
        assert_eq!((late[0].state, late[0].uuid), (TaskState::Dropped, None));
        // And a new one begins anew.
        let next = w.launch("t10", true);
        assert!(matches!(next[0], Effect::LaunchExecutor { .. }));
    }
}

#[test]
fn kills_are_passed_on_and_what_was_not_handed_over_ends_at_once() {
    let mut w = World::new();
    w.running();
    let kill = |task: &str| Event::Kill {
        task_id: id(task),
        max_grace: None,
        why: None,
    };
    let out = w.event(kill("t1"));
    let word = ExecutorWord::Kill {
        task_id: id("t1"),
        grace: Millis(3000),
    };
    assert_eq!(words(&out), std::slice::from_ref(&word));
    assert!(words(&w.event(kill("t1"))).is_empty(), "once");
    // It was away: it is told again.
    w.event(Event::ExecutorLeft(key()));
    w.launch("t2", false);
    let out = w.event(kill("t2"));
    assert_eq!(
        sent(&out)[0].reason,
        Some(StatusReason::TaskKilledDuringLaunch)
    );
    let heard = w.event(Event::ExecutorSubscribed {
        key: key(),
        tasks: vec![id("t1")],
        updates: Vec::new(),
    });
    assert!(words(&heard).contains(&word));
    assert!(launched(&heard).is_empty());
}

#[test]
fn an_executor_that_never_subscribes_or_does_not_come_back_is_killed() {
    let mut w = World::new();
    w.launch("t1", true);
    let container = w.container();
    w.event(Event::Started {
        task_id: container.clone(),
        pid: 9,
    });
    assert_eq!(
        w.core.next_deadline(),
        Some(UnixMillis(w.now) + REGISTRATION_TIMEOUT)
    );
    let out = w.pass(REGISTRATION_TIMEOUT.0);
    assert_eq!(out, [Effect::Kill(container.clone())]);
    let task_id = container;
    let out = w.event(Event::Exited {
        task_id,
        exit: Exit::Signal(15),
    });
    let reason = StatusReason::ExecutorRegistrationTimeout;
    assert_eq!(sent(&out)[0].reason, Some(reason));

    let mut w = World::new();
    let record = ExecutorRecord {
        framework_id: key().framework_id,
        framework_name: "batch".into(),
        role: "*".into(),
        spec: executor(ExecutorKind::Custom),
    };
    w.event(Event::ExecutorRecovered {
        record: Box::new(record),
        container: id("c"),
        runs: true,
    });
    let recovered = |task: &str, latest: Option<TaskStatus>| Event::Recovered {
        spec: Box::new(spec(task, ExecutorKind::Custom, false)),
        latest,
        pending: Vec::new(),
        pid: None,
        since: None,
    };
    w.event(recovered("t1", Some(said("t1", TaskState::Running, 1))));
    w.event(recovered("t2", None));
    assert_eq!(w.core.state(&id("t1")), Some(TaskState::Running));
    let heard = w.event(Event::ExecutorSubscribed {
        key: key(),
        tasks: Vec::new(),
        updates: vec![
            said("t1", TaskState::Running, 1),
            said("t1", TaskState::Running, 2),
        ],
    });
    let lost = sent(&heard)
        .into_iter()
        .find(|s| s.task_id == id("t2"))
        .unwrap();
    assert_eq!(
        lost.state,
        TaskState::Dropped,
        "it never reached the executor"
    );
    assert!(
        sent(&heard)
            .iter()
            .any(|s| s.uuid == Some(StatusUuid([2; 16])))
    );
    assert!(
        !sent(&heard)
            .iter()
            .any(|s| s.uuid == Some(StatusUuid([1; 16]))),
        "heard before"
    );
    w.event(Event::ExecutorLeft(key()));
    let later = w.pass(REREGISTRATION_TIMEOUT.0);
    let killed = |e: &Effect| matches!(e, Effect::Kill(_));
    assert!(!later.iter().any(killed), "it did come back");

    let mut w = World::new();
    w.event(recovered("t1", Some(said("t1", TaskState::Running, 1))));
    let told = sent(&w.out);
    assert_eq!(told[0].reason, Some(StatusReason::ExecutorTerminated));
}

#[test]
fn how_an_executor_ended_before_it_came_back_is_said() {
    for (exit, reason) in [
        (Exit::Code(3), StatusReason::ExecutorTerminated),
        (
            Exit::OutOfMemory {
                limit_bytes: 1,
                peak_bytes: 1,
            },
            StatusReason::ContainerLimitationMemory,
        ),
    ] {
        let mut w = World::new();
        let record = ExecutorRecord {
            framework_id: key().framework_id,
            framework_name: "batch".into(),
            role: "*".into(),
            spec: executor(ExecutorKind::Custom),
        };
        w.event(Event::ExecutorRecovered {
            record: Box::new(record),
            container: id("c"),
            runs: true,
        });
        w.event(Event::Recovered {
            spec: Box::new(spec("t1", ExecutorKind::Custom, false)),
            latest: Some(said("t1", TaskState::Running, 1)),
            pending: Vec::new(),
            pid: None,
            since: None,
        });
        let out = w.event(Event::Exited {
            task_id: id("c"),
            exit,
        });
        let end = sent(&out).into_iter().next_back().unwrap();
        assert_eq!(end.reason, Some(reason));
        assert!(!end.message.is_empty());
    }
}

#[test]
fn a_shutdown_gives_time_and_then_none() {
    let mut w = World::new();
    w.running();
    let out = w.event(Event::ShutdownExecutor(key()));
    assert_eq!(words(&out), [ExecutorWord::Shutdown]);
    let late = sent(&w.launch("t2", false));
    assert_eq!(late[0].reason, Some(StatusReason::ExecutorTerminated));
    let container = w.container();
    assert!(w.pass(4999).is_empty());
    assert_eq!(w.pass(1), [Effect::Kill(container.clone())]);
    assert_eq!(w.pass(10_000), [Effect::ForceKill(container.clone())]);
    let task_id = container;
    let out = w.event(Event::Exited {
        task_id,
        exit: Exit::Signal(9),
    });
    assert_eq!(sent(&out)[0].state, TaskState::Failed);
    // One that does not listen is not asked.
    let mut w = World::new();
    w.launch("t1", true);
    let out = w.event(Event::ShutdownExecutor(key()));
    assert_eq!(out, [Effect::Cancel(w.container())]);
}

#[test]
fn words_go_both_ways() {
    let mut w = World::new();
    let data = vec![0, 255];
    let down = |data: &Vec<u8>| Event::FrameworkSays {
        key: key(),
        data: data.clone(),
    };
    assert!(w.event(down(&data)).is_empty(), "nobody is there");
    w.running();
    assert_eq!(
        words(&w.event(down(&data))),
        [ExecutorWord::Message(data.clone())]
    );
    let up = w.event(Event::ExecutorSays {
        key: key(),
        data: data.clone(),
    });
    assert_eq!(up, [Effect::ToFramework { key: key(), data }]);
}

#[test]
fn a_task_too_large_for_the_node_starts_no_executor() {
    let mut w = World::new();
    let mut big = spec("t1", ExecutorKind::Custom, true);
    big.resources = Resources::from_millis(3950, 0, 0);
    let out = w.event(Event::Launch(Box::new(big)));
    assert_eq!(sent(&out)[0].state, TaskState::Error);
    assert_eq!(
        ended(&out)[0].key,
        key(),
        "or the master would hold it for ever"
    );
    assert!(w.core.executors().next().is_none());
}

#[test]
fn tasks_of_a_group_end_together_and_with_them_their_executor() {
    let mut w = World::new();
    for (task, starts) in [("t1", true), ("t2", false), ("t3", false)] {
        let spec = spec(task, ExecutorKind::Default, starts);
        w.event(Event::Launch(Box::new(spec)));
        w.event(Event::Started {
            task_id: id(task),
            pid: 1,
        });
    }
    let exit = |task: &str, code| Event::Exited {
        task_id: id(task),
        exit: Exit::Code(code),
    };
    let well = w.event(exit("t3", 0));
    assert!(!well.iter().any(|e| matches!(e, Effect::Kill(_))));
    let out = w.event(exit("t1", 1));
    assert!(out.contains(&Effect::Kill(id("t2"))));
    assert!(ended(&out).is_empty());
    let out = w.event(Event::Exited {
        task_id: id("t2"),
        exit: Exit::Signal(15),
    });
    assert_eq!(ended(&out).len(), 1);
    assert_eq!(w.core.state(&id("t2")), Some(TaskState::Killed));
}

#[derive(Debug, Clone)]
enum Step {
    Launch(u8, bool),
    Start,
    Subscribe(bool),
    Leave,
    Say(u8, TaskState, u8),
    Kill(u8),
    Shutdown,
    Exit(i32),
    MasterAcks,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let state = prop::sample::select(vec![
        TaskState::Starting,
        TaskState::Running,
        TaskState::Killing,
        TaskState::Finished,
        TaskState::Failed,
        TaskState::Killed,
    ]);
    let step = prop_oneof![
        6 => (0u8..6, any::<bool>()).prop_map(|(n, s)| Step::Launch(n, s)),
        4 => Just(Step::Start),
        4 => any::<bool>().prop_map(Step::Subscribe),
        1 => Just(Step::Leave),
        8 => (0u8..6, state, 0u8..40).prop_map(|(n, s, u)| Step::Say(n, s, u)),
        2 => (0u8..6).prop_map(Step::Kill),
        1 => Just(Step::Shutdown),
        1 => (0i32..3).prop_map(Step::Exit),
        6 => Just(Step::MasterAcks),
        2 => (0u64..70_000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever happens: a task that was accepted ends once; nothing of it follows its end; what was started ends
    /// once; nobody is told to run a task twice within one life; nothing panics.
    #[test]
    fn any_history_is_orderly(history in steps()) {
        let mut w = World::new();
        let mut container: Option<TaskId> = None;
        let mut told = BTreeSet::new();
        let (mut n_started, mut ids) = (0, BTreeSet::new());
        for step in history {
            let before = w.out.len();
            match step {
                Step::Launch(n, starts) => {
                    // As the master has it: it says that a launch starts the executor when it knows of none.
                    let starts = starts && container.is_none();
                    if ids.insert(n) {
                        w.launch(&format!("t{n}"), starts);
                    }
                }
                Step::Start => if let Some(c) = container.clone() {
                    w.event(Event::Started { task_id: c, pid: 5 });
                },
                Step::Subscribe(knows) => if w.core.may_subscribe(&key()) {
                    let tasks = if knows { told.iter().cloned().collect() } else { Vec::new() };
                    w.event(Event::ExecutorSubscribed { key: key(), tasks, updates: Vec::new() });
                },
                Step::Leave => _ = w.event(Event::ExecutorLeft(key())),
                Step::Say(n, state, uuid) => _ = w.update(&format!("t{n}"), state, uuid),
                Step::Kill(n) => {
                    let kill = Event::Kill { task_id: id(&format!("t{n}")), max_grace: None, why: None };
                    w.event(kill);
                }
                Step::Shutdown => _ = w.event(Event::ShutdownExecutor(key())),
                Step::Exit(code) => if let Some(c) = container.take() {
                    w.event(Event::Exited { task_id: c, exit: Exit::Code(code) });
                    told.clear();
                },
                Step::MasterAcks => {
                    let last = sent(&w.out).pop();
                    if let Some((task_id, uuid)) = last.and_then(|s| Some((s.task_id, s.uuid?))) {
                        w.event(Event::Ack { task_id, uuid });
                    }
                },
                Step::Wait(ms) => _ = w.pass(ms),
            }
            let fresh = w.out[before..].to_vec();
            for e in &fresh {
                if let Effect::LaunchExecutor { container: c, .. } = e {
                    n_started += 1;
                    prop_assert!(container.is_none(), "two at once");
                    container = Some(c.clone());
                }
            }
            for task in launched(&fresh) {
                prop_assert!(told.insert(id(&task)), "told twice: {task}");
            }
        }
        if let Some(c) = container {
            w.event(Event::Exited { task_id: c, exit: Exit::Unknown });
        }
        prop_assert_eq!(ended(&w.out).len(), n_started);
        for t in w.core.tasks() {
            prop_assert!(t.state.is_terminal(), "{:?}", t.spec.task_id);
        }
        // Every status that is sent for the first time after an end would be one too many.
        let mut over: BTreeMap<TaskId, StatusUuid> = BTreeMap::new();
        for s in sent(&w.out) {
            let Some(uuid) = s.uuid else { continue };
            if let Some(end) = over.get(&s.task_id) {
                prop_assert_eq!(*end, uuid, "after its end");
            }
            if s.state.is_terminal() {
                over.insert(s.task_id.clone(), uuid);
            }
        }
    }
}

/// Launches a part of a group of `n`.
fn launch_part(w: &mut World, task: &str, n: u32) -> Vec<Effect> {
    let mut spec = spec(task, ExecutorKind::Custom, true);
    if let Some(on) = &mut spec.executor {
        on.group = Some(id("g1"));
        on.n_group = n;
    }
    w.event(Event::Launch(Box::new(spec)))
}

fn grouped(effects: &[Effect]) -> Vec<Vec<String>> {
    let all = words(effects).into_iter().filter_map(|w| match w {
        ExecutorWord::LaunchGroup(all) => {
            Some(all.iter().map(|spec| spec.task_id.to_string()).collect())
        }
        _ => None,
    });
    all.collect()
}

#[test]
fn a_group_is_handed_over_at_once_and_once() {
    // To an executor that listens already.
    let mut w = World::new();
    w.running();
    assert_eq!(words(&launch_part(&mut w, "p1", 2)), []);
    let out = launch_part(&mut w, "p2", 2);
    assert_eq!(grouped(&out), [["p1", "p2"]]);
    assert_eq!(launched(&out), [""; 0]);
    assert_eq!(grouped(&w.subscribe()), [[""; 0]; 0], "not again");
    // To one that is started for it.
    let mut w = World::new();
    launch_part(&mut w, "p1", 2);
    launch_part(&mut w, "p2", 2);
    let task_id = w.container();
    w.event(Event::Started { task_id, pid: 9 });
    assert_eq!(grouped(&w.subscribe()), [["p1", "p2"]]);
}

#[test]
fn a_group_that_will_never_be_whole_ends() {
    let killed = |w: &mut World, task: &str| {
        w.event(Event::Kill {
            task_id: id(task),
            max_grace: None,
            why: None,
        })
    };
    let mut w = World::new();
    w.running();
    launch_part(&mut w, "p1", 3);
    let ends = |effects: &[Effect]| {
        let all = sent(effects).into_iter();
        let mut all: Vec<_> = all.map(|s| (s.task_id.to_string(), s.state)).collect();
        all.sort();
        all
    };
    let end = |task: &str| (task.to_owned(), TaskState::Killed);
    launch_part(&mut w, "p2", 3);
    let out = killed(&mut w, "p1");
    assert_eq!(ends(&out), [end("p1"), end("p2")]);
    let out = launch_part(&mut w, "p3", 3);
    assert_eq!(ends(&out), [end("p3")], "whoever comes late");
    assert_eq!(words(&out), []);
    // The last part never comes: the others are no use without it, and wait no longer than is fair.
    let mut w = World::new();
    w.running();
    launch_part(&mut w, "p1", 3);
    launch_part(&mut w, "p2", 3);
    assert_eq!(ends(&w.pass(GROUP_TIMEOUT.0 - 1)), []);
    let out = w.pass(1);
    assert_eq!(ends(&out), [end("p1"), end("p2")]);
    assert!(sent(&out)[0].message.contains("within 60 s"), "{out:?}");
    assert_eq!(ends(&launch_part(&mut w, "p3", 3)), [end("p3")]);
    // One that is whole waits for its executor alone.
    let mut w = World::new();
    launch_part(&mut w, "p1", 2);
    launch_part(&mut w, "p2", 2);
    assert_eq!(ends(&w.pass(GROUP_TIMEOUT.0)), []);
    // One that does not fit: the others are no use without it.
    let mut w = World::new();
    w.running();
    launch_part(&mut w, "p1", 4);
    launch_part(&mut w, "p2", 4);
    let out = launch_part(&mut w, "p3", 4);
    let error = ("p3".to_owned(), TaskState::Error);
    assert_eq!(ends(&out), [end("p1"), end("p2"), error]);
}

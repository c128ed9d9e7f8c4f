//! The laws of the agent's core, over random histories with crashes at any point.

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    clippy::format_push_string,
    reason = "helpers of tests: a panic is the report"
)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use waggle_lifecycle::{
    AgentCore, Checkpoint, Effect, Event, Exit, Observed, Recovery, StreamRecord, UpdateStream,
    recover,
};
use waggle_types::{
    AgentId, CheckPurpose, CheckStatus, Command, DiscoveryInfo, FrameworkId, HealthCheck,
    HealthProbe, HealthState, Millis, PortSet, Resources, StatusReason, StatusSource, StatusUuid,
    TaskId, TaskSpec, TaskState, TaskStatus, UnixMillis,
};

fn task_id(n: u8) -> TaskId {
    TaskId::new(format!("t{n}")).unwrap()
}

fn spec(n: u8) -> TaskSpec {
    TaskSpec {
        container: waggle_types::ContainerSpec::default(),
        task_id: task_id(n),
        framework_id: FrameworkId::new("f").unwrap(),
        framework_name: "marathon".to_owned(),
        role: "*".to_owned(),
        name: "web".to_owned(),
        command: Command::Shell("true".to_owned()),
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        resources: Resources::default(),
        ports: Vec::new(),
        parts: Vec::new(),
        discovery: DiscoveryInfo {
            name: "web".to_owned(),
        },
        health_checks: vec![HealthCheck {
            delay: Millis(0),
            name: None,
            purpose: CheckPurpose::Health,
            probe: HealthProbe::Command {
                shell: "true".to_owned(),
            },
            grace_period: Millis(1000),
            interval: Millis(100),
            timeout: Millis(100),
            max_consecutive_failures: 3,
            keep_response: false,
        }],
        kill_grace: Millis(1000),
        user: None,
        service: String::new(),
        service_version: String::new(),
        trace: None,
        executor: None,
    }
}

/// With a start check, a health check and a readiness check.
fn checked_spec(n: u8) -> TaskSpec {
    let mut spec = spec(n);
    let health = spec.health_checks[0].clone();
    spec.health_checks = [
        CheckPurpose::Startup,
        CheckPurpose::Health,
        CheckPurpose::Readiness,
    ]
    .map(|purpose| HealthCheck {
        purpose,
        ..health.clone()
    })
    .to_vec();
    spec
}

/// The first task of a history has all kinds of checks.
fn spec_of(n: u8) -> TaskSpec {
    if n == 0 { checked_spec(n) } else { spec(n) }
}

fn status(state: TaskState, uuid: u8) -> TaskStatus {
    TaskStatus {
        ip: None,
        ip6: None,
        ready: None,
        check: None,
        responses: Vec::new(),
        task_id: task_id(0),
        agent_id: AgentId::new("a").unwrap(),
        state,
        health: HealthState::Unknown,
        reason: None,
        message: String::new(),
        source: StatusSource::Executor,
        at: UnixMillis(0),
        uuid: Some(StatusUuid([uuid; 16])),
        executor: None,
    }
}

/// What happens in a history; bytes choose among what is possible.
#[derive(Debug, Clone)]
enum Step {
    Launch(u8),
    Kill(u8, Option<u16>),
    Connect,
    Disconnect,
    ProcessStarts(u8),
    ProcessEnds(u8, i32),
    Check(u8, usize, bool),
    MasterAcks,
    MasterAcksAgain(u8),
    Wait(u64),
    CrashBefore(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let n = 0u8..3;
    let step = prop_oneof![
        3 => n.clone().prop_map(Step::Launch),
        1 => (n.clone(), prop::option::of(any::<u16>())).prop_map(|(n, max)| Step::Kill(n, max)),
        2 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        3 => n.clone().prop_map(Step::ProcessStarts),
        2 => (n.clone(), 0..3i32).prop_map(|(n, code)| Step::ProcessEnds(n, code)),
        4 => (n, 0usize..3, any::<bool>()).prop_map(|(n, idx, ok)| Step::Check(n, idx, ok)),
        4 => Just(Step::MasterAcks),
        1 => any::<u8>().prop_map(Step::MasterAcksAgain),
        2 => (0..700_000u64).prop_map(Step::Wait),
        1 => any::<u8>().prop_map(Step::CrashBefore),
    ];
    prop::collection::vec(step, 1..80)
}

/// A node: what is on disk, what runs, what the master has seen; all of it outlives the core.
#[derive(Default)]
struct World {
    now: u64,
    boots: u64,
    connected: bool,
    // Disk.
    specs: BTreeMap<TaskId, TaskSpec>,
    streams: BTreeMap<TaskId, StreamRecord>,
    exits: BTreeMap<TaskId, Exit>,
    done: BTreeSet<TaskId>,
    // Processes.
    starting: BTreeSet<TaskId>,
    running: BTreeMap<TaskId, u32>,
    // The master's side.
    received: Vec<TaskStatus>,
    acked: Vec<TaskStatus>,
    launched: BTreeMap<TaskId, u32>,
}

impl World {
    fn boot(&mut self) -> AgentCore {
        self.boots += 1;
        self.connected = false;
        let mut core = AgentCore::new(AgentId::new("a").unwrap(), self.boots);
        let open: Vec<TaskSpec> = self
            .specs
            .values()
            .filter(|s| !self.done.contains(&s.task_id))
            .cloned()
            .collect();
        for spec in open {
            let id = spec.task_id.clone();
            let record = self.streams.get(&id).cloned().unwrap_or_default();
            let checkpoint = Checkpoint {
                spec: Some(spec.clone()),
                latest: record.latest.clone(),
                pending: record.pending.clone(),
                shim_recorded: self.starting.contains(&id) || self.running.contains_key(&id),
                pid: self.running.get(&id).copied(),
                exit: self.exits.get(&id).cloned(),
            };
            let shim_alive = self.starting.contains(&id) || self.running.contains_key(&id);
            let observed = Observed {
                shim_alive,
                cgroup_populated: shim_alive,
            };
            let (pid, exit) = match recover(&checkpoint, observed) {
                Recovery::Adopt { pid } => (pid, None),
                Recovery::Report { exit, .. } => (None, Some(exit)),
                Recovery::Resend { .. } => (None, None),
                Recovery::Clean { .. } => {
                    // Its end was acknowledged and only the mark is missing.
                    self.done.insert(id);
                    continue;
                }
            };
            let spec = Box::new(spec);
            let (latest, pending) = (record.latest, record.pending);
            let event = Event::Recovered {
                spec,
                latest,
                pending,
                pid,
                since: None,
            };
            self.run(&mut core, event, usize::MAX);
            if let Some(exit) = exit {
                self.run(&mut core, Event::Exited { task_id: id, exit }, usize::MAX);
            }
        }
        core
    }

    /// Runs one event; the agent dies after `budget` effects. Returns whether it lives.
    fn run(&mut self, core: &mut AgentCore, event: Event, budget: usize) -> bool {
        for (i, effect) in core
            .handle(event, UnixMillis(self.now))
            .into_iter()
            .enumerate()
        {
            if i >= budget {
                return false;
            }
            match effect {
                Effect::Launch(spec) => {
                    let n = self.launched.entry(spec.task_id.clone()).or_default();
                    *n += 1;
                    assert_eq!(*n, 1, "started twice");
                    self.starting.insert(spec.task_id.clone());
                    self.specs.insert(spec.task_id.clone(), *spec);
                }
                Effect::Persist { task_id, record } => {
                    assert!(record.pending.len() <= 6, "bounded");
                    self.streams.insert(task_id, record);
                }
                Effect::Send(status) => {
                    assert!(self.connected, "nothing is sent to nobody");
                    if status.uuid.is_some() {
                        let on_disk = self.streams.get(&status.task_id);
                        assert!(
                            on_disk.is_some_and(|r| r.pending.first() == Some(&status)),
                            "sent before it was durable: {status:?}"
                        );
                        self.received.push(status);
                    }
                }
                Effect::Forget(task_id) => {
                    self.done.insert(task_id);
                }
                Effect::Kill(task_id) | Effect::Cancel(task_id) | Effect::ForceKill(task_id) => {
                    assert!(!self.done.contains(&task_id));
                }
                Effect::LocalFact { .. } | Effect::StartChecks(_) | Effect::Release { .. } => {}
                other => panic!("nothing here is on an executor: {other:?}"),
            }
        }
        true
    }

    fn step(&mut self, core: &mut AgentCore, step: Step, budget: usize) -> bool {
        let event = match step {
            Step::Launch(n) if !self.done.contains(&task_id(n)) && self.connected => {
                // A real master launches an id once, but may repeat the message.
                if self.launched.contains_key(&task_id(n)) && core.state(&task_id(n)).is_none() {
                    return true;
                }
                Event::Launch(Box::new(spec_of(n)))
            }
            Step::Kill(n, max) if self.connected => Event::Kill {
                task_id: task_id(n),
                max_grace: max.map(|m| Millis(m.into())),
                why: None,
            },
            Step::Connect if !self.connected => {
                self.connected = true;
                Event::Connected {
                    unknown_tasks: vec![],
                }
            }
            Step::Disconnect if self.connected => {
                self.connected = false;
                Event::Disconnected
            }
            Step::ProcessStarts(n) if self.starting.remove(&task_id(n)) => {
                let pid = 100 + u32::from(n);
                self.running.insert(task_id(n), pid);
                Event::Started {
                    task_id: task_id(n),
                    pid,
                }
            }
            Step::ProcessEnds(n, code) if self.running.remove(&task_id(n)).is_some() => {
                self.exits.insert(task_id(n), Exit::Code(code));
                Event::Exited {
                    task_id: task_id(n),
                    exit: Exit::Code(code),
                }
            }
            Step::Check(n, idx, ok) => Event::Checked {
                task_id: task_id(n),
                idx,
                result: if ok { Ok(()) } else { Err("no".to_owned()) },
                response: None,
            },
            Step::MasterAcks => {
                let Some(last) = self.received.last().cloned() else {
                    return true;
                };
                if !self.connected {
                    return true;
                }
                self.ack(&last);
                Event::Ack {
                    task_id: last.task_id,
                    uuid: last.uuid.unwrap(),
                }
            }
            Step::MasterAcksAgain(i) if !self.received.is_empty() && self.connected => {
                // A late or repeated acknowledgement of anything ever received.
                let old = self.received[usize::from(i) % self.received.len()].clone();
                self.ack(&old);
                Event::Ack {
                    task_id: old.task_id,
                    uuid: old.uuid.unwrap(),
                }
            }
            Step::Wait(ms) => {
                self.now += ms;
                Event::Tick
            }
            _ => return true,
        };
        self.run(core, event, budget)
    }

    fn ack(&mut self, status: &TaskStatus) {
        if !self.acked.contains(status) {
            self.acked.push(status.clone());
        }
    }

    /// Distinct statuses of a task in the order of their first arrival.
    fn seen(&self, id: &TaskId) -> Vec<TaskStatus> {
        let mut out: Vec<TaskStatus> = Vec::new();
        for s in self.received.iter().filter(|s| s.task_id == *id) {
            if !out.iter().any(|o| o.uuid == s.uuid) {
                out.push(s.clone());
            }
        }
        out
    }
}

fn rank(state: TaskState) -> u8 {
    match state {
        TaskState::Running => 1,
        TaskState::Killing => 2,
        s if s.is_terminal() => 3,
        _ => 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens, with the agent dying after any effect: every task that ended is reported with
    /// its end exactly once, states only go forward, and all is forgotten in the end.
    #[test]
    fn every_end_is_reported_once_over_crashes(history in steps()) {
        let mut world = World::default();
        let mut core = world.boot();
        let mut budget = usize::MAX;
        for step in history {
            if let Step::CrashBefore(n) = step {
                budget = usize::from(n % 6);
                continue;
            }
            let alive = world.step(&mut core, step, budget);
            budget = usize::MAX;
            if !alive {
                core = world.boot();
            }
        }
        // Everything ends, the master listens and acknowledges.
        for n in 0..3 {
            world.step(&mut core, Step::ProcessStarts(n), usize::MAX);
            world.step(&mut core, Step::ProcessEnds(n, 0), usize::MAX);
        }
        world.step(&mut core, Step::Connect, usize::MAX);
        for _ in 0..60 {
            world.step(&mut core, Step::Wait(700_000), usize::MAX);
            let n_received = world.received.len();
            for i in n_received.saturating_sub(6)..n_received {
                let s = world.received[i].clone();
                world.ack(&s);
                let event = Event::Ack { task_id: s.task_id, uuid: s.uuid.unwrap() };
                world.run(&mut core, event, usize::MAX);
            }
        }
        prop_assert_eq!(core.tasks().count(), 0, "all acknowledged and forgotten");
        prop_assert_eq!(core.next_deadline(), None);
        for id in world.specs.keys() {
            let seen = world.seen(id);
            let ends: Vec<&TaskStatus> = seen.iter().filter(|s| s.state.is_terminal()).collect();
            prop_assert_eq!(ends.len(), 1, "exactly one end of {}: {:?}", id, seen);
            prop_assert!(seen.last().unwrap().state.is_terminal());
            prop_assert!(seen.windows(2).all(|w| rank(w[0].state) <= rank(w[1].state)));
            // Each tells of a change, or of one more failure of a health check, whatever was left out between them.
            let told = |s: &TaskStatus| (s.state, s.health, s.ready, s.reason);
            let failed = |s: &TaskStatus| s.health == HealthState::Unhealthy
                && s.reason == Some(StatusReason::TaskHealthCheckStatusUpdated);
            prop_assert!(seen.windows(2).all(|w| told(&w[0]) != told(&w[1])
                || w[1].message != w[0].message || failed(&w[1])), "{:?}", seen);
            for s in &seen {
                let says_ready = *id == task_id(0);
                prop_assert_eq!(s.ready.is_some(), says_ready);
                prop_assert!(s.ready != Some(true) || !s.state.is_terminal());
            }
        }
    }

    /// A stream hands out its updates in order, one at a time, and none after its acknowledgement.
    #[test]
    fn streams_are_in_order_and_quiet_after_an_ack(ops in prop::collection::vec(0u8..4, 1..200)) {
        let states = [TaskState::Running, TaskState::Killing, TaskState::Failed];
        let (mut stream, mut now, mut next) = (UpdateStream::default(), 0u64, 0u8);
        let mut acked = BTreeSet::new();
        let mut sent: Vec<u8> = Vec::new();
        for op in ops {
            match op {
                0 if next < 200 => {
                    next += 1;
                    stream.push(status(states[usize::from(next) * 3 / 256], next));
                }
                1 => {
                    now += 10_000;
                    if let Some(s) = stream.due(UnixMillis(now)) {
                        let n = s.uuid.unwrap().0[0];
                        prop_assert!(!acked.contains(&n), "sent after its ack");
                        prop_assert!(sent.last().is_none_or(|l| *l <= n), "out of order");
                        sent.push(n);
                    }
                }
                2 => {
                    if let Some(n) = sent.last() {
                        let first = !acked.contains(n);
                        let removed = stream.ack(StatusUuid([*n; 16]));
                        prop_assert!(first || !removed, "acknowledged twice");
                        if removed {
                            acked.insert(*n);
                        }
                    }
                }
                _ => {
                    // A crash: what is pending comes back as it was.
                    let pending: Vec<TaskStatus> = stream.pending().cloned().collect();
                    stream = UpdateStream::restore(stream.latest().cloned(), pending);
                }
            }
            prop_assert!(stream.pending().count() <= 4);
        }
    }
}

#[test]
fn recovery_answers_for_every_combination() {
    let mut text = String::new();
    let running = status(TaskState::Running, 1);
    let failed = status(TaskState::Failed, 2);
    let streams = [
        ("nothing told", None, vec![]),
        ("running told", Some(running), vec![]),
        (
            "end told, pending",
            Some(failed.clone()),
            vec![failed.clone()],
        ),
        ("end told, acked", Some(failed), vec![]),
    ];
    for (told, latest, pending) in &streams {
        for bits in 0u8..32 {
            let on = |i: u8| bits & (1 << i) != 0;
            let checkpoint = Checkpoint {
                spec: on(0).then(|| spec(0)),
                latest: latest.clone(),
                pending: pending.clone(),
                shim_recorded: on(1),
                pid: on(1).then_some(7),
                exit: on(2).then_some(Exit::Code(3)),
            };
            let observed = Observed {
                shim_alive: on(3),
                cgroup_populated: on(4),
            };
            let decision = recover(&checkpoint, observed);
            text.push_str(&format!("{told} {bits:05b} {decision:?}\n"));
            match decision {
                Recovery::Clean { .. } => assert!(!on(0) || *told == "end told, acked"),
                Recovery::Adopt { .. } => assert!(on(3) && !on(2)),
                Recovery::Report { exit, kill_remains } => {
                    assert_eq!(on(2), exit == Exit::Code(3), "an exit record is the truth");
                    assert!(!(kill_remains && on(3)), "never under a living shim");
                }
                Recovery::Resend { .. } => assert_eq!(*told, "end told, pending"),
            }
        }
    }
    assert_eq!(text.lines().count(), 128);
}

#[test]
fn retries_double_up_to_ten_minutes() {
    let mut stream = UpdateStream::default();
    stream.push(status(TaskState::Running, 1));
    let mut at = Vec::new();
    let mut now = 0;
    while at.len() < 9 {
        if stream.due(UnixMillis(now)).is_some() {
            at.push(now / 1000);
        }
        now += 1000;
    }
    assert_eq!(at, [0, 10, 30, 70, 150, 310, 630, 1230, 1830]);
}

#[test]
fn failures_count_after_the_grace_period_only() {
    let mut core = AgentCore::new(AgentId::new("a").unwrap(), 1);
    let id = task_id(0);
    core.handle(Event::Launch(Box::new(spec(0))), UnixMillis(0));
    let started = Event::Started {
        task_id: id.clone(),
        pid: 1,
    };
    core.handle(started, UnixMillis(0));
    let check = |core: &mut AgentCore, ok: bool, at: u64| {
        let result = if ok { Ok(()) } else { Err("503".to_owned()) };
        let event = Event::Checked {
            task_id: id.clone(),
            idx: 0,
            result,
            response: None,
        };
        core.handle(event, UnixMillis(at))
    };
    for at in [100, 200, 300, 400] {
        assert!(check(&mut core, false, at).is_empty(), "in grace");
    }
    assert!(!check(&mut core, true, 500).is_empty(), "healthy");
    assert!(
        !check(&mut core, false, 600).is_empty(),
        "unhealthy: grace ended with the first pass"
    );
    assert!(!check(&mut core, false, 700).is_empty(), "each is told");
    let effects = check(&mut core, false, 800);
    assert!(effects.contains(&Effect::Kill(id.clone())), "{effects:?}");
    assert_eq!(core.state(&id), Some(TaskState::Killing));
    // The shim gets the grace and a margin; then the agent kills by itself, again and again.
    assert_eq!(core.next_deadline(), Some(UnixMillis(800 + 1000 + 5000)));
    for at in [6800, 11_800] {
        let effects = core.handle(Event::Tick, UnixMillis(at));
        assert_eq!(effects, [Effect::ForceKill(id.clone())]);
    }
    let gone = core.handle(Event::ProcessGone(id.clone()), UnixMillis(11_900));
    assert!(matches!(
        gone[..],
        [Effect::LocalFact {
            state: TaskState::Failed,
            ..
        }]
    ));
}

#[test]
fn what_a_check_said_is_in_every_status_that_it_caused() {
    let mut core = AgentCore::new(AgentId::new("a").unwrap(), 1);
    let id = task_id(0);
    core.handle(Event::Launch(Box::new(spec(0))), UnixMillis(0));
    let started = Event::Started {
        task_id: id.clone(),
        pid: 1,
    };
    core.handle(started, UnixMillis(0));
    let mut at = 2000;
    let mut told = |core: &mut AgentCore, result: Result<(), &str>| {
        at += 100;
        let event = Event::Checked {
            task_id: id.clone(),
            idx: 0,
            result: result.map_err(ToOwned::to_owned),
            response: None,
        };
        let effects = core.handle(event, UnixMillis(at));
        effects.into_iter().find_map(|e| match e {
            Effect::LocalFact { status, .. } => status.map(|s| s.message),
            _ => None,
        })
    };
    let name = "health check 0 (command)";
    assert_eq!(told(&mut core, Ok(())), Some(format!("{name} passed")));
    assert_eq!(told(&mut core, Ok(())), None);
    let first = told(&mut core, Err("status 3"));
    assert_eq!(first, Some(format!("{name}: status 3")));
    let second = told(&mut core, Err("status 4"));
    assert_eq!(second, Some(format!("{name}: status 4")));
    let last = told(&mut core, Err("status 5"));
    assert_eq!(
        last,
        Some(format!("{name}: status 5")),
        "the newest failure"
    );
    let exited = Event::Exited {
        task_id: task_id(0),
        exit: Exit::Code(0),
    };
    core.handle(exited, UnixMillis(3000));
    let end = core.tasks().next().unwrap().latest.unwrap();
    assert_eq!(
        end.message,
        format!("killed after 3 consecutive health check failures: {name}: status 5")
    );
}

#[test]
fn a_check_that_is_only_told_is_told_when_it_says_something_else() {
    let mut core = AgentCore::new(AgentId::new("a").unwrap(), 1);
    let mut spec = spec(0);
    spec.health_checks[0].purpose = CheckPurpose::Report;
    let id = task_id(0);
    core.handle(Event::Launch(Box::new(spec.clone())), UnixMillis(0));
    let told = |core: &mut AgentCore, event: Event, at: u64| {
        let effects = core.handle(event, UnixMillis(at));
        effects.into_iter().find_map(|e| match e {
            Effect::LocalFact { status, .. } => status,
            _ => None,
        })
    };
    let said = |code: Option<i32>| Event::CheckSaid {
        task_id: id.clone(),
        idx: 0,
        said: CheckStatus::Command { exit_code: code },
        why: format!("{code:?}"),
    };
    let started = Event::Started {
        task_id: id.clone(),
        pid: 1,
    };
    assert_eq!(told(&mut core, said(Some(0)), 1), None, "it does not run");
    let first = told(&mut core, started, 1).unwrap();
    let none = Some(CheckStatus::Command { exit_code: None });
    assert_eq!(first.check, none, "there is one, and it has not answered");
    assert_eq!(told(&mut core, said(None), 2), None);
    let status = told(&mut core, said(Some(3)), 3).unwrap();
    let three = Some(CheckStatus::Command { exit_code: Some(3) });
    assert_eq!(status.check, three);
    assert_eq!(status.reason, Some(StatusReason::TaskCheckStatusUpdated));
    assert_eq!(status.message, "general check 0 (command): Some(3)");
    assert_eq!(
        (status.state, status.health),
        (TaskState::Running, HealthState::Unknown)
    );
    assert_eq!(told(&mut core, said(Some(3)), 4), None, "no news");
    // Whoever comes after a restart knows it as well, and the end says it again.
    let mut core = AgentCore::new(AgentId::new("a").unwrap(), 2);
    let recovered = Event::Recovered {
        spec: Box::new(spec),
        latest: Some(status.clone()),
        pending: vec![status],
        pid: Some(1),
        since: Some(UnixMillis(0)),
    };
    told(&mut core, recovered, 5);
    assert_eq!(told(&mut core, said(Some(3)), 6), None);
    let exited = Event::Exited {
        task_id: id,
        exit: Exit::Code(0),
    };
    let end = told(&mut core, exited, 7).unwrap();
    assert_eq!((end.state, end.check), (TaskState::Finished, three));
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_starts() {
    let total =
        Resources::from_millis(1000, 100_000, 0).with_ports(PortSet::from_ports([31_000, 31_001]));
    let mut core = AgentCore::new(AgentId::new("a").unwrap(), 1).with_total(total);
    core.handle(
        Event::Connected {
            unknown_tasks: vec![],
        },
        UnixMillis(0),
    );
    let launch = |core: &mut AgentCore, n: u8, cpus: i64, port: u16| {
        let wanted = Resources::from_millis(cpus, 10_000, 0);
        let spec = TaskSpec {
            resources: wanted.with_ports(PortSet::from_ports([port])),
            ..spec(n)
        };
        let effects = core.handle(Event::Launch(Box::new(spec)), UnixMillis(0));
        match effects.as_slice() {
            [Effect::Launch(_)] => Ok(()),
            [Effect::Send(status)] => {
                assert_eq!(status.state, TaskState::Error);
                assert_eq!(core.state(&task_id(n)), None);
                Err(status.message.clone())
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(launch(&mut core, 0, 600, 31_000), Ok(()));
    assert_eq!(
        launch(&mut core, 1, 600, 31_001).unwrap_err(),
        "resources: cpus:0.6; mem:10; ports:[31001-31001] do not fit beside the cpus:0.6; mem:10; \
         ports:[31000-31000] in use: the node has cpus:1; mem:100; ports:[31000-31001]"
    );
    assert!(launch(&mut core, 2, 100, 31_000).is_err(), "a port in use");
    assert!(launch(&mut core, 3, 100, 80).is_err(), "a port of others");
    assert_eq!(launch(&mut core, 4, 400, 31_001), Ok(()));
    // What is over holds nothing, acknowledged or not.
    let exit = Exit::Code(0);
    let task_id = task_id(0);
    core.handle(Event::Exited { task_id, exit }, UnixMillis(1));
    assert_eq!(launch(&mut core, 5, 600, 31_000), Ok(()));
}

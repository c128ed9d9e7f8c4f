//! How long a kill may take, and what fits on a node.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is the report"
)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use waggle_lifecycle::{AgentCore, Effect, Event, Exit};
use waggle_types::{
    AgentId, Command, DiscoveryInfo, Evicted, FrameworkId, Milli, Millis, RangeSet, Resources,
    ScalarKind, StatusReason, TaskId, TaskSpec, TaskState, UnixMillis, Volume, VolumeId,
};

/// What the shim has beyond a task's own grace.
const MARGIN: u64 = 5000;
/// The task's own grace.
const OWN: u64 = 1000;

fn spec(id: &str, resources: Resources) -> TaskSpec {
    TaskSpec {
        container: waggle_types::ContainerSpec::default(),
        task_id: TaskId::new(id).unwrap(),
        framework_id: FrameworkId::new("f").unwrap(),
        framework_name: "f".to_owned(),
        role: "*".to_owned(),
        name: "web".to_owned(),
        command: Command::Shell("true".to_owned()),
        env: BTreeMap::new(),
        labels: BTreeMap::new(),
        resources,
        ports: Vec::new(),
        parts: Vec::new(),
        discovery: DiscoveryInfo {
            name: "web".to_owned(),
        },
        health_checks: Vec::new(),
        kill_grace: Millis(OWN),
        user: None,
        service: String::new(),
        service_version: String::new(),
        trace: None,
        executor: None,
    }
}

fn id() -> TaskId {
    TaskId::new("t").unwrap()
}

fn started() -> Event {
    Event::Started {
        task_id: id(),
        pid: 7,
    }
}

fn kill(max_grace: Option<u64>) -> Event {
    Event::Kill {
        task_id: id(),
        max_grace: max_grace.map(Millis),
        why: None,
    }
}

fn launched() -> AgentCore {
    let mut core = AgentCore::new(AgentId::new("a").unwrap(), 1);
    let launch = Event::Launch(Box::new(spec("t", Resources::default())));
    core.handle(launch, UnixMillis(0));
    core
}

/// When the agent kills what the shim has not.
fn deadline(core: &AgentCore) -> u64 {
    core.next_deadline().unwrap().0
}

#[test]
fn a_kill_takes_the_shorter_of_two_graces() {
    for (max, after) in [
        (None, OWN + MARGIN),
        (Some(300), 300),
        (Some(0), 0),
        (Some(OWN), OWN + MARGIN),
        (Some(u64::MAX), OWN + MARGIN),
    ] {
        let mut core = launched();
        core.handle(started(), UnixMillis(50));
        let effects = core.handle(kill(max), UnixMillis(100));
        assert!(effects.contains(&Effect::Kill(id())), "{max:?} {effects:?}");
        assert_eq!(deadline(&core), 100 + after, "{max:?}");
        let forced = core.handle(Event::Tick, UnixMillis(100 + after));
        assert_eq!(forced, [Effect::ForceKill(id())], "{max:?}");
        assert_eq!(core.state(&id()), Some(TaskState::Killing));
    }
}

#[test]
fn a_kill_before_the_start_keeps_its_bound() {
    let mut core = launched();
    let effects = core.handle(kill(Some(300)), UnixMillis(100));
    assert!(!effects.contains(&Effect::Kill(id())), "{effects:?}");
    assert!(effects.contains(&Effect::Cancel(id())), "{effects:?}");
    assert_eq!(core.next_deadline(), None, "there is nothing to kill yet");
    let effects = core.handle(started(), UnixMillis(200));
    assert!(effects.contains(&Effect::Kill(id())), "{effects:?}");
    assert_eq!(deadline(&core), 500);
}

#[test]
fn a_task_ends_when_it_has_run_for_as_long_as_it_may() {
    let mut spec = spec("t", Resources::default());
    spec.container.limits.run_time = Some(Millis(1000));
    let mut core = AgentCore::new(AgentId::new("a").unwrap(), 1);
    core.handle(Event::Launch(Box::new(spec.clone())), UnixMillis(0));
    assert_eq!(core.next_deadline(), None, "its start does not count");
    core.handle(started(), UnixMillis(500));
    assert_eq!(deadline(&core), 1500);
    let latest = core.tasks().next().unwrap().latest;
    // The agent after this one counts from the same moment.
    let mut next = AgentCore::new(AgentId::new("a").unwrap(), 2);
    let found = Event::Recovered {
        spec: Box::new(spec),
        latest,
        pending: Vec::new(),
        pid: Some(7),
        since: Some(UnixMillis(500)),
    };
    next.handle(found, UnixMillis(1400));
    for core in [&mut core, &mut next] {
        assert_eq!(deadline(core), 1500);
        assert!(core.handle(Event::Tick, UnixMillis(1499)).is_empty());
        let effects = core.handle(Event::Tick, UnixMillis(1500));
        assert!(effects.contains(&Effect::Kill(id())), "{effects:?}");
        assert_eq!(deadline(core), 1500 + OWN + MARGIN);
        let exited = Event::Exited {
            task_id: id(),
            exit: Exit::Code(0),
        };
        core.handle(exited, UnixMillis(1600));
        let end = core.tasks().next().unwrap().latest.unwrap();
        let reason = Some(StatusReason::MaxCompletionTimeReached);
        assert_eq!((end.state, end.reason), (TaskState::Failed, reason));
        assert_eq!(end.message, "it ran for as long as it may");
    }
}

#[test]
fn who_is_evicted_is_told_why_also_after_a_restart() {
    for reason in [
        StatusReason::ContainerPreempted,
        StatusReason::SlaveDraining,
    ] {
        let why = Evicted {
            reason,
            message: "the agent is drained".to_owned(),
        };
        let evict = Event::Kill {
            task_id: id(),
            max_grace: None,
            why: Some(why),
        };
        let mut core = launched();
        core.handle(started(), UnixMillis(50));
        let effects = core.handle(evict, UnixMillis(100));
        let kept = effects.iter().find_map(|e| match e {
            Effect::Persist { record, .. } => record.latest.clone(),
            _ => None,
        });
        let kept = kept.unwrap();
        assert_eq!(
            (kept.state, kept.reason),
            (TaskState::Killing, Some(reason))
        );
        let mut next = AgentCore::new(AgentId::new("a").unwrap(), 2);
        let found = Event::Recovered {
            spec: Box::new(spec("t", Resources::default())),
            latest: Some(kept),
            pending: Vec::new(),
            pid: Some(7),
            since: None,
        };
        next.handle(found, UnixMillis(200));
        for core in [&mut core, &mut next] {
            let exited = Event::Exited {
                task_id: id(),
                exit: Exit::Signal(15),
            };
            core.handle(exited, UnixMillis(300));
            let end = core.tasks().next().unwrap().latest.unwrap();
            assert_eq!((end.state, end.reason), (TaskState::Killed, Some(reason)));
            assert!(
                end.message.starts_with("the agent is drained: "),
                "{}",
                end.message
            );
        }
    }
}

proptest! {
    /// Further kills bring the end forward and never put it off; the task is told once.
    #[test]
    fn a_later_kill_only_makes_it_faster(
        kills in prop::collection::vec((0..900u64, prop::option::of(0..9000u64)), 1..8),
    ) {
        let mut core = launched();
        core.handle(started(), UnixMillis(0));
        let (mut now, mut expected, mut told) = (0, u64::MAX, 0);
        for (i, (after, max)) in kills.into_iter().enumerate() {
            now += after;
            let shorter = max.filter(|max| *max < OWN);
            if i == 0 {
                expected = now + OWN + MARGIN;
            }
            expected = expected.min(now + shorter.unwrap_or(OWN + MARGIN));
            let effects = core.handle(kill(max), UnixMillis(now));
            told += effects.iter().filter(|e| **e == Effect::Kill(id())).count();
            prop_assert_eq!(deadline(&core), expected);
        }
        prop_assert_eq!(told, 1);
    }
}

#[test]
fn custom_kinds_and_volumes_fit_once() {
    let mut total = Resources::from_millis(4000, 4000, 1000);
    total.custom.set_scalar("licenses", Milli(2000));
    total
        .custom
        .set_ranges("vlans", RangeSet::from_ports(1..=4));
    total
        .custom
        .set_items("zones", ["a".to_owned(), "b".to_owned()].into());
    let mut core = AgentCore::new(AgentId::new("a").unwrap(), 1).with_total(total);
    let connected = Event::Connected {
        unknown_tasks: Vec::new(),
    };
    core.handle(connected, UnixMillis(0));
    let mut n = 0;
    let mut launch = |resources: Resources| {
        n += 1;
        let spec = spec(&format!("t{n}"), resources);
        match core
            .handle(Event::Launch(Box::new(spec)), UnixMillis(0))
            .as_slice()
        {
            [Effect::Launch(_)] => Ok(()),
            [Effect::Send(status)] if status.state == TaskState::Error => {
                Err(status.message.clone())
            }
            other => panic!("{other:?}"),
        }
    };
    let cpus = || Resources::from_millis(100, 0, 0);
    let licenses = |q| {
        let mut r = cpus();
        r.custom.set_scalar("licenses", Milli(q));
        r
    };
    assert_eq!(launch(licenses(1500)), Ok(()));
    let why = launch(licenses(600)).unwrap_err();
    assert!(why.contains("licenses:0.6"), "{why}");
    assert_eq!(launch(licenses(500)), Ok(()));
    let vlan = |v| {
        let mut r = cpus();
        r.custom.set_ranges("vlans", RangeSet::from_ports([v]));
        r
    };
    assert_eq!(launch(vlan(1)), Ok(()));
    assert!(launch(vlan(1)).is_err(), "in use");
    assert!(launch(vlan(5)).is_err(), "not there");
    let zone = |z: &str| {
        let mut r = cpus();
        r.custom.set_items("zones", [z.to_owned()].into());
        r
    };
    assert_eq!(launch(zone("a")), Ok(()));
    assert!(launch(zone("a")).is_err(), "in use");
    assert_eq!(launch(zone("b")), Ok(()));

    let volume = |id: &str, size, shared| {
        let mut r = cpus();
        let size = Milli(size);
        let id = VolumeId::new(id).unwrap();
        r.custom.set_volume(id, Volume { size, shared });
        r
    };
    assert_eq!(launch(volume("db", 600, false)), Ok(()));
    let why = launch(volume("db", 600, false)).unwrap_err();
    assert!(why.contains("volume db is in use"), "{why}");
    assert!(launch(volume("x", 500, false)).is_err(), "volumes are disk");
    assert_eq!(launch(volume("all", 300, true)), Ok(()));
    assert_eq!(launch(volume("all", 300, true)), Ok(()), "disk once");
    assert!(launch(volume("all", 200, true)).is_err(), "another volume");
    let mut disk = cpus();
    disk.scalars[ScalarKind::Disk as usize] = Milli(100);
    assert_eq!(launch(disk.clone()), Ok(()));
    assert!(launch(disk).is_err(), "nothing is left");
}

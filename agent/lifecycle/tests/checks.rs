//! Start, health and readiness checks of one task.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is the report"
)]

use proptest::prelude::*;
use waggle_lifecycle::{CheckOutcome, HealthMachine, TaskMachine, Transition, check_name};
use waggle_types::{
    AgentId, CheckPurpose, CheckResponse, Command, ContainerSpec, DiscoveryInfo, FrameworkId,
    HealthCheck, HealthProbe, HealthState, Millis, Resources, StatusReason, TaskId, TaskSpec,
    UnixMillis,
};

fn check(purpose: CheckPurpose) -> HealthCheck {
    HealthCheck {
        name: None,
        purpose,
        probe: HealthProbe::Tcp {
            port_index: 0,
            port: None,
        },
        delay: Millis(0),
        grace_period: Millis(1000),
        interval: Millis(100),
        timeout: Millis(100),
        max_consecutive_failures: 3,
        keep_response: false,
    }
}

fn machine(purposes: &[CheckPurpose]) -> HealthMachine {
    let checks: Vec<HealthCheck> = purposes.iter().copied().map(check).collect();
    HealthMachine::new(&checks, UnixMillis(0), Unknown, None)
}

fn task() -> TaskSpec {
    TaskSpec {
        container: ContainerSpec::default(),
        task_id: TaskId::new("t").unwrap(),
        framework_id: FrameworkId::new("f").unwrap(),
        framework_name: "marathon".to_owned(),
        role: "*".to_owned(),
        name: "web".to_owned(),
        command: Command::Shell("true".to_owned()),
        env: std::collections::BTreeMap::new(),
        labels: std::collections::BTreeMap::new(),
        resources: Resources::default(),
        ports: Vec::new(),
        parts: Vec::new(),
        discovery: DiscoveryInfo {
            name: "web".to_owned(),
        },
        health_checks: Vec::new(),
        kill_grace: Millis(1000),
        user: None,
        service: String::new(),
        service_version: String::new(),
        trace: None,
        executor: None,
    }
}

fn bad() -> Result<(), String> {
    Err("refused".to_owned())
}

use CheckPurpose::{Health, Readiness, Startup};
use HealthState::{Healthy, Unhealthy, Unknown};

#[test]
fn nothing_else_runs_before_the_start() {
    let mut m = machine(&[Health, Startup, Readiness, Startup]);
    let runs = |m: &HealthMachine| (0..4).filter(|i| m.runs(*i)).collect::<Vec<_>>();
    assert_eq!(runs(&m), [1, 3]);
    assert_eq!((m.health(), m.ready()), (Unknown, Some(false)));
    // Results of what is not to be run say nothing.
    let at = UnixMillis;
    assert_eq!(m.result(0, Ok(()), at(100)), CheckOutcome::Same);
    assert_eq!(m.result(1, Ok(()), at(200)), CheckOutcome::Same);
    assert_eq!(runs(&m), [3], "what has passed is over");
    assert_eq!(m.result(1, bad(), at(250)), CheckOutcome::Same);
    assert_eq!(m.result(3, Ok(()), at(5000)), CheckOutcome::Same);
    assert_eq!(runs(&m), [0, 2]);
    assert_eq!(m.since(), at(5000));
    // The grace period of the others begins with the end of the start.
    assert!(m.in_grace(0, at(5999)) && !m.in_grace(0, at(6000)));
    let healthy = CheckOutcome::Changed {
        reason: StatusReason::TaskHealthCheckStatusUpdated,
        why: "health check 0 (tcp) passed".to_owned(),
    };
    assert_eq!(m.result(0, Ok(()), at(5100)), healthy);
    let ready = CheckOutcome::Changed {
        reason: StatusReason::TaskCheckStatusUpdated,
        why: "readiness check 2 (tcp) passed".to_owned(),
    };
    assert_eq!(m.result(2, Ok(()), at(5200)), ready);
    assert_eq!((m.health(), m.ready()), (Healthy, Some(true)));
}

#[test]
fn a_start_that_fails_kills_and_readiness_never_does() {
    let mut m = machine(&[Startup, Health]);
    for at in [100, 500, 900] {
        assert_eq!(m.result(0, bad(), UnixMillis(at)), CheckOutcome::Same);
    }
    for at in [1000, 1100] {
        assert_eq!(m.result(0, bad(), UnixMillis(at)), CheckOutcome::Same);
    }
    let kill = CheckOutcome::Kill {
        failures: 3,
        why: "start check 0 (tcp): refused".to_owned(),
    };
    assert_eq!(m.result(0, bad(), UnixMillis(1200)), kill);
    let mut m = machine(&[Readiness]);
    m.result(0, Ok(()), UnixMillis(0));
    let unready = CheckOutcome::Changed {
        reason: StatusReason::TaskCheckStatusUpdated,
        why: "readiness check 0 (tcp): refused".to_owned(),
    };
    assert_eq!(m.result(0, bad(), UnixMillis(5000)), unready);
    for at in 6..100 {
        let told = m.result(0, bad(), UnixMillis(at * 1000));
        assert_eq!(told, CheckOutcome::Same);
    }
    assert_eq!((m.health(), m.ready()), (Unknown, Some(false)));
}

/// As in Mesos, each failure of a health check is told; one that fails for ever is not told of for ever.
#[test]
fn failures_are_told_one_by_one() {
    let mut forgiving = check(Health);
    forgiving.max_consecutive_failures = 0;
    let mut m = HealthMachine::new(&[forgiving], UnixMillis(0), Unknown, None);
    let told = |m: &mut HealthMachine, result, at| match m.result(0, result, UnixMillis(at)) {
        CheckOutcome::Changed { reason, why } => {
            assert_eq!(reason, StatusReason::TaskHealthCheckStatusUpdated);
            Some(why)
        }
        CheckOutcome::Same => None,
        CheckOutcome::Kill { .. } => panic!("it never kills"),
    };
    assert!(told(&mut m, Ok(()), 100).is_some());
    assert_eq!(told(&mut m, Ok(()), 200), None);
    let failures = |m: &mut HealthMachine| {
        let all = (0..200).filter_map(|n| told(m, bad(), 5000 + n));
        let all: Vec<String> = all.collect();
        assert!(all.iter().all(|why| why == "health check 0 (tcp): refused"));
        all.len()
    };
    assert_eq!(failures(&mut m), 100);
    assert!(told(&mut m, Ok(()), 9000).is_some());
    assert_eq!(failures(&mut m), 100, "counted anew");
}

#[test]
fn what_was_known_holds_over_a_restart() {
    let checks = [Startup, Health, Readiness].map(check);
    let again = |health, ready| {
        let m = HealthMachine::new(&checks, UnixMillis(9), health, ready);
        let runs: Vec<usize> = (0..3).filter(|i| m.runs(*i)).collect();
        (m.health(), m.ready(), runs)
    };
    for (health, ready, runs) in [
        (Healthy, Some(true), vec![1, 2]),
        (Unhealthy, Some(true), vec![1, 2]),
        (Healthy, Some(false), vec![1, 2]),
        (Unknown, Some(false), vec![0]),
        (Unknown, Some(true), vec![1, 2]),
    ] {
        assert_eq!(again(health, ready), (health, ready, runs));
    }
    // As an older agent left it: one that was healthy had passed all of them.
    assert_eq!(again(Healthy, None), (Healthy, Some(true), vec![1, 2]));
}

#[test]
fn checks_are_named_as_people_know_them() {
    let mut c = check(Readiness);
    c.name = Some("warm".to_owned());
    c.probe = HealthProbe::Http {
        tls: true,
        statuses: vec![200],
        path: "/ready".to_owned(),
        port_index: 0,
        port: None,
    };
    assert_eq!(check_name(4, &c), "readiness check warm (https /ready)");
    assert_eq!(check_name(4, &check(Startup)), "start check 4 (tcp)");
}

proptest! {
    /// Whatever results come: the words for health and readiness change only when a change is told, are what the last
    /// results say, and nothing but a start or a health check kills.
    #[test]
    fn what_is_told_is_what_changed(
        purposes in prop::collection::vec(prop::sample::select(vec![Health, Readiness, Startup]), 0..5),
        results in prop::collection::vec((0usize..5, any::<bool>(), 0u64..800), 0..80),
    ) {
        let mut m = machine(&purposes);
        let mut at = 0;
        let mut last: Vec<Option<bool>> = vec![None; purposes.len()];
        for (idx, ok, wait) in results {
            at += wait;
            let before = (m.health(), m.ready());
            let counts = m.runs(idx) && (ok || !m.in_grace(idx, UnixMillis(at)));
            let told = m.result(idx, if ok { Ok(()) } else { bad() }, UnixMillis(at));
            if counts {
                last[idx] = Some(ok);
            }
            let failed = counts && !ok && purposes[idx] == Health;
            match told {
                CheckOutcome::Same => {
                    prop_assert_eq!((m.health(), m.ready()), before);
                    prop_assert!(!failed);
                }
                CheckOutcome::Changed { reason, .. } => {
                    prop_assert!(failed || m.health() != before.0 || m.ready() != before.1);
                    let health = reason == StatusReason::TaskHealthCheckStatusUpdated;
                    prop_assert_eq!(health, failed || m.health() != before.0);
                }
                CheckOutcome::Kill { failures, .. } => {
                    prop_assert!(failures >= 3 && purposes[idx] != Readiness);
                    break;
                }
            }
            let of = |p: CheckPurpose| {
                let each = purposes.iter().zip(&last);
                each.filter(|(q, _)| **q == p).map(|(_, l)| *l).collect::<Vec<_>>()
            };
            let started = of(Startup).iter().all(|l| *l == Some(true));
            let says_ready = purposes.iter().any(|p| *p != Health);
            let ready = started && of(Readiness).iter().all(|l| *l == Some(true));
            prop_assert_eq!(m.ready(), says_ready.then_some(ready));
            if !of(Health).is_empty() {
                let all = of(Health).iter().all(|l| *l == Some(true));
                prop_assert_eq!(m.health() == Healthy, all);
                prop_assert!(started || m.health() == Unknown);
            }
        }
    }
}

/// A check that is only told changes neither health nor readiness, kills nothing, and waits for the start.
#[test]
fn a_check_that_is_only_told_decides_nothing() {
    let mut m = machine(&[Startup, CheckPurpose::Report]);
    assert!(!m.runs(1), "not before the start");
    m.result(0, Ok(()), UnixMillis(10));
    assert!(m.runs(1));
    for n in 0..10 {
        let outcome = m.result(1, bad(), UnixMillis(5000 + n));
        assert_eq!(outcome, CheckOutcome::Same);
    }
    assert_eq!((m.health(), m.ready()), (Unknown, Some(true)));
    assert_eq!(machine(&[CheckPurpose::Report]).ready(), None);
}

#[test]
fn what_is_answered_is_told_while_it_is_not_ready() {
    let mut spec = task();
    let of = |keep_response| HealthCheck {
        keep_response,
        ..check(Readiness)
    };
    spec.health_checks = vec![of(false), of(true)];
    let mut m = TaskMachine::new(spec.clone(), AgentId::new("a").unwrap(), UnixMillis(0));
    m.started(1, UnixMillis(0));
    let answer = |idx, body: &str| {
        Some(CheckResponse {
            idx,
            status: 503,
            content_type: "text/plain".to_owned(),
            body: body.to_owned(),
        })
    };
    let told = |t: Transition| match t {
        Transition::Report(status) => Some((status.message.clone(), status)),
        _ => None,
    };
    assert_eq!(
        told(m.checked(0, bad(), answer(0, "no"), UnixMillis(2000))),
        None,
        "nobody asked for it"
    );
    let (why, first) = told(m.checked(1, bad(), answer(1, "warming"), UnixMillis(2001))).unwrap();
    assert_eq!(why, "readiness check 1 (tcp) was answered with status 503");
    assert_eq!(first.responses, [answer(1, "warming").unwrap()]);
    assert_eq!(
        (first.ready, first.reason),
        (Some(false), Some(StatusReason::TaskCheckStatusUpdated))
    );
    assert_eq!(
        told(m.checked(1, bad(), answer(1, "warming"), UnixMillis(2002))),
        None,
        "no news"
    );
    assert!(told(m.checked(1, bad(), answer(1, "warm"), UnixMillis(2003))).is_some());
    m.checked(0, Ok(()), None, UnixMillis(2004));
    let (_, ready) = told(m.checked(1, Ok(()), answer(1, "hot"), UnixMillis(2005))).unwrap();
    assert_eq!(
        (ready.ready, &ready.responses),
        (Some(true), &vec![answer(1, "hot").unwrap()])
    );
    assert_eq!(
        told(m.checked(1, Ok(()), answer(1, "hotter"), UnixMillis(2006))),
        None,
        "it is ready"
    );
    // What was told is known after a restart, too.
    let agent = AgentId::new("a").unwrap();
    let mut m = TaskMachine::recovered(spec, agent, Some(&first), None, UnixMillis(3000));
    assert_eq!(
        told(m.checked(1, bad(), answer(1, "warming"), UnixMillis(4000))),
        None
    );
    assert!(told(m.checked(1, bad(), answer(1, "cold"), UnixMillis(4001))).is_some());
}

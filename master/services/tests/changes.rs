//! What is said beforehand of a change, and what becomes of the instances that run, are the same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[allow(dead_code, reason = "each test binary uses a part of the helpers")]
mod common;

use std::sync::Arc;

use common::{check, framework_id, node, offer, pod, spec, with_runs};
use proptest::prelude::*;
use waggle_services::{Input, Instance, ServiceChange, ServiceScheduler, is_current_instance};
use waggle_types::{
    Command, ImageSpec, KillSelection, Millis, PortDefinition, PortMapping, PortSet, Resources,
    SchedulerEvent, ServiceId, ServiceSpec, Spread, UnixMillis, UnreachableStrategy,
};

/// Changes of what each instance runs. Variables that Marathon makes are left out: a task does not say whose they are.
const OF_RUNS: [fn(&mut ServiceSpec); 15] = [
    |s| s.env.clear(),
    |s| s.env.extend([("MODE".to_owned(), "test".to_owned())]),
    |s| s.labels.clear(),
    |s| s.ports.clear(),
    |s| {
        for p in &mut s.ports {
            let label = ("DCOS_METRICS_FORMAT".to_owned(), "prometheus".to_owned());
            p.labels.extend([label]);
        }
    },
    |s| {
        for p in &mut s.ports {
            p.labels.extend([("any".to_owned(), "thing".to_owned())]);
        }
    },
    |s| {
        for p in &mut s.ports {
            p.port = 31_005;
        }
    },
    // What is mapped says itself which port it is.
    |s| s.require_ports = s.ports.iter().all(|p| p.mapping.is_none()),
    |s| map_ports(s, Some(0)),
    |s| map_ports(s, Some(31_007)),
    |s| map_ports(s, None),
    |s| s.kill_grace = Millis(1),
    |s| s.health_checks.push(check()),
    |s| s.user = Some("nobody".to_owned()),
    |s| {
        s.container.image = Some(ImageSpec {
            reference: "nginx:1.25".into(),
            ..ImageSpec::default()
        });
    },
];

/// Changes of what holds for a service, whatever its instances are.
const OF_ALL: [fn(&mut ServiceSpec); 11] = [
    |s| s.instances = 9,
    |s| s.backoff.max = Millis(7),
    |s| s.unreachable = UnreachableStrategy::Disabled,
    |s| s.kill_selection = KillSelection::OldestFirst,
    |s| s.upgrade.minimum_health_capacity_milli = 1,
    |s| s.dependencies.extend([ServiceId::new("/db").unwrap()]),
    |s| {
        s.constraints
            .push(vec!["hostname".to_owned(), "UNIQUE".to_owned()]);
    },
    |s| s.placement.spread = Spread::Pack,
    |s| s.roles.accepted.extend(["*".to_owned()]),
    |s| {
        if let Some(pod) = &mut s.pod {
            pod.max_instances = Some(99);
        }
    },
    |s| {
        // What was said for all is said for each.
        if let Some(pod) = &mut s.pod {
            s.env.clear();
            pod.containers.reverse();
            for c in &mut pod.containers {
                c.own.env.clone_from(&c.run.env);
            }
        }
    },
];

fn map_ports(s: &mut ServiceSpec, host_port: Option<u16>) {
    for p in &mut s.ports {
        p.mapping = Some(PortMapping {
            container_port: 80,
            host_port,
        });
    }
}

fn with(base: &ServiceSpec, runs: &[usize], all: &[usize]) -> ServiceSpec {
    let change = |s: &mut ServiceSpec| {
        for i in runs {
            OF_RUNS[*i](s);
        }
    };
    let mut out = if base.pod.is_some() {
        with_runs(base, |i, run| {
            // It has the port.
            if i == 0 {
                change(run);
            }
        })
    } else {
        let mut out = base.clone();
        change(&mut out);
        out
    };
    for i in all {
        OF_ALL[*i](&mut out);
    }
    out
}

/// An instance as the scheduler launches it.
fn launched(spec: &ServiceSpec) -> Instance {
    let mut s = ServiceScheduler::new(framework_id(), "marathon", 1);
    let put = Input::Put {
        spec: Box::new(spec.clone()),
        deployment_id: None,
        restart_before: None,
        trace: None,
    };
    s.handle(put, UnixMillis(0));
    // No port that is taken by chance is one that a change asks for.
    let run = spec
        .pod
        .as_ref()
        .map_or(spec, |p| &p.container("c0").unwrap().run);
    let fixed = |p: &PortDefinition| match p.mapping {
        Some(m) => m.host_port.is_some_and(|p| p != 0),
        None => run.require_ports && p.port != 0,
    };
    let ports = if run.ports.iter().any(fixed) {
        31_005..31_010
    } else {
        31_000..31_005
    };
    let mut o = offer(1, 0, node().with_ports(PortSet::from_ports(ports)));
    spec.role().clone_into(&mut o.role);
    let event = SchedulerEvent::Offers(vec![o]);
    s.handle(Input::Scheduler(event), UnixMillis(0));
    s.instances().next().expect("it fits").clone()
}

fn some(of: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..of, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn what_is_said_to_end_is_what_is_not_current(
        is_pod in any::<bool>(),
        before in (some(OF_RUNS.len()), some(OF_ALL.len())),
        after in (some(OF_RUNS.len()), some(OF_ALL.len())),
        command in any::<bool>(),
        larger in any::<bool>(),
    ) {
        let base = if is_pod {
            with_runs(&pod(1, 2), |_, run| map_ports(run, Some(0)))
        } else {
            spec(1)
        };
        let before = with(&base, &before.0, &before.1);
        let mut after = with(&base, &after.0, &after.1);
        let change = |s: &mut ServiceSpec| {
            if command {
                s.command = Command::Shell("other".into());
            }
            if larger {
                s.resources = Resources::from_millis(600, 128_000, 0);
            }
        };
        if is_pod {
            after = with_runs(&after, |i, run| if i == 1 { change(run) });
        } else {
            change(&mut after);
        }
        let instance = launched(&before);
        let changed = ServiceChange {
            before: Some(Arc::new(before.clone())),
            after: Some(Arc::new(after.clone())),
            restart: false,
        };
        let ends = changed.replaces() || !is_current_instance(&after, &instance);
        prop_assert_eq!(changed.ends_instances(), ends, "{:#?}\n{:#?}", before, after);
    }
}

//! Counts and durations of the control plane, by the registry's names.

use std::time::Duration;

use waggle_telemetry::{AttrValue, Telemetry, names};
use waggle_types::{Milli, ScalarKind, TaskState};

use crate::{
    core::{Measure, SERVICE_FRAMEWORK, SERVICE_ROLE},
    view::{AgentView, ClusterView},
};

fn text(s: &str) -> AttrValue {
    AttrValue::from(s.to_owned())
}

fn secs(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

/// Hands one measure of the core to telemetry.
pub(crate) fn take(t: &Telemetry, m: &Measure) {
    let framework = || (names::FRAMEWORK, text(SERVICE_FRAMEWORK));
    match m {
        Measure::Offers {
            outcome,
            framework,
            role,
            n,
        } => {
            let attrs = [
                (names::OUTCOME, text(outcome)),
                (names::FRAMEWORK, text(framework)),
                (names::ROLE, text(role)),
            ];
            t.count(&names::SCHED_OFFERS, &attrs, *n);
        }
        Measure::OfferLifetime {
            outcome,
            framework,
            ms,
        } => {
            let attrs = [
                (names::OUTCOME, text(outcome)),
                (names::FRAMEWORK, text(framework)),
            ];
            t.record(&names::SCHED_OFFER_LIFETIME, &attrs, secs(*ms));
        }
        Measure::OfferToLaunch { framework, ms } => {
            let attrs = [(names::FRAMEWORK, text(framework))];
            t.record(&names::SCHED_OFFER_TO_LAUNCH, &attrs, secs(*ms));
        }
        Measure::LaunchToRunning { framework, ms } => {
            let attrs = [(names::FRAMEWORK, text(framework))];
            t.record(&names::SCHED_LAUNCH_TO_RUNNING, &attrs, secs(*ms));
        }
        Measure::Deployment { outcome, ms } => {
            let attrs = [(names::OUTCOME, text(outcome))];
            t.record(&names::SCHED_DEPLOYMENT_DURATION, &attrs, secs(*ms));
        }
        Measure::Status { state } => {
            t.count(
                &names::SCHED_STATUS_UPDATES,
                &[(names::STATE, text(state))],
                1,
            );
        }
        Measure::Declined { reason } => {
            let attrs = [("waggle.decline.reason", text(reason)), framework()];
            t.count(&names::SCHED_DECLINES, &attrs, 1);
        }
        Measure::Event { name, attrs, trace } => {
            let attrs = attrs.iter().map(|(k, v)| (*k, text(v))).collect();
            t.event_in(name, None, *trace, attrs);
        }
        Measure::ReservationFailed { role } => {
            t.count(
                &names::SCHED_RESERVATIONS_FAILED,
                &[(names::ROLE, text(role))],
                1,
            );
        }
        // Shown in the cluster view and by `explain`; no metric of its own in the registry yet.
        Measure::Rejected { reason } => tracing::debug!(reason, "refused or dropped"),
    }
}

/// Totals by resource, in CPUs and bytes.
fn resources(t: &Telemetry, view: &ClusterView) {
    for kind in ScalarKind::ALL {
        let unit = match kind {
            ScalarKind::Mem | ScalarKind::Disk => f64::from(1 << 20),
            ScalarKind::Cpus | ScalarKind::Gpus => 1.0,
        };
        let sum = |of: &dyn Fn(&AgentView) -> Milli| {
            let milli: i64 = view.agents.values().map(|a| of(a).0).sum();
            Milli(milli).to_f64() * unit
        };
        let attrs = [
            (names::RESOURCE, text(kind.name())),
            (names::ROLE, text(SERVICE_ROLE)),
        ];
        t.set(
            &names::SCHED_TOTAL,
            &attrs,
            sum(&|a| a.info.total.get(kind)),
        );
        t.set(&names::SCHED_ALLOCATED, &attrs, sum(&|a| a.used.get(kind)));
        t.set(&names::SCHED_OFFERED, &attrs, sum(&|a| a.offered.get(kind)));
    }
}

/// Sets the gauges that a view gives.
pub(crate) fn gauges(t: &Telemetry, view: &ClusterView, queued: usize) {
    for state in TaskState::ALL.into_iter().filter(|s| !s.is_terminal()) {
        let n = view.tasks.values().filter(|t| t.state() == state).count();
        let attrs = [
            (names::STATE, text(state.mesos_name())),
            (names::FRAMEWORK, text(SERVICE_FRAMEWORK)),
        ];
        t.set(&names::SCHED_TASKS, &attrs, n as f64);
    }
    let up = view.agents.values().filter(|a| a.reachable).count();
    let down = view.agents.len() - up;
    for (state, n) in [("reachable", up), ("unreachable", down)] {
        let attrs = [(names::STATE, text(state))];
        t.set(&names::SCHED_AGENTS, &attrs, n as f64);
    }
    resources(t, view);
    let active = view.frameworks.values().filter(|f| f.active).count();
    let attrs = [(names::STATE, text("active"))];
    t.set(&names::SCHED_FRAMEWORKS, &attrs, active as f64);
    let n = view.deployments.len();
    t.set(&names::SCHED_DEPLOYMENTS, &[], n as f64);
    t.set(&names::SCHED_EVENT_QUEUE, &[], queued as f64);
}

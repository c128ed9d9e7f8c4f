//! Counts and durations of the control plane, by the registry's names.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use waggle_telemetry::{AttrValue, SpanKind, Telemetry, names};
use waggle_types::{Milli, ScalarKind, TaskState};

use crate::core::{Measure, RoleSums, SERVICE_FRAMEWORK, SERVICE_ROLE, Sums};

fn text(s: &str) -> AttrValue {
    AttrValue::from(s.to_owned())
}

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

fn secs(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

/// Allocations that take longer have a span each.
const SLOW_ALLOCATION: Duration = Duration::from_millis(10);

fn allocation(t: &Telemetry, ns: u64, offers: u64, looked_at: u64) {
    let took = Duration::from_nanos(ns);
    t.record(&names::SCHED_ALLOCATION_DURATION, &[], took.as_secs_f64());
    if took >= SLOW_ALLOCATION {
        let count = |n: u64| AttrValue::I64(i64::try_from(n).unwrap_or(i64::MAX));
        let end = unix_ns();
        let attrs = vec![
            ("waggle.allocation.offers", count(offers)),
            ("waggle.allocation.agents_looked_at", count(looked_at)),
        ];
        t.record_span(
            "allocation",
            SpanKind::Internal,
            None,
            end.saturating_sub(ns),
            end,
            attrs,
        );
    }
}

/// Hands one measure of the core to telemetry.
pub(crate) fn take(t: &Telemetry, m: &Measure) {
    let framework = || (names::FRAMEWORK, text(SERVICE_FRAMEWORK));
    match m {
        Measure::Allocation {
            ns,
            offers,
            looked_at,
        } => allocation(t, *ns, *offers, *looked_at),
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
        Measure::OfferToLaunch {
            framework,
            ms,
            trace,
        } => {
            let attrs = [(names::FRAMEWORK, text(framework))];
            t.record_in(&names::SCHED_OFFER_TO_LAUNCH, &attrs, secs(*ms), *trace);
        }
        Measure::LaunchToRunning {
            framework,
            ms,
            trace,
        } => {
            let attrs = [(names::FRAMEWORK, text(framework))];
            t.record_in(&names::SCHED_LAUNCH_TO_RUNNING, &attrs, secs(*ms), *trace);
        }
        Measure::Restarted => t.count(&names::TASK_RESTARTS, &[], 1),
        Measure::Deployment { outcome, ms, trace } => {
            let attrs = [(names::OUTCOME, text(outcome))];
            t.record_in(&names::SCHED_DEPLOYMENT_DURATION, &attrs, secs(*ms), *trace);
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
        Measure::NetworkExhausted { network } => {
            let attrs = [
                (names::NETWORK, text(network)),
                (names::OUTCOME, text("subnet")),
            ];
            t.count(&names::NETWORK_EXHAUSTED, &attrs, 1);
        }
        Measure::JobRun { outcome, ms } => {
            let attrs = [(names::OUTCOME, text(outcome))];
            t.record(&names::JOB_RUN_DURATION, &attrs, secs(*ms));
        }
        Measure::JobSkipped { reason } => {
            t.count(
                &names::JOB_SKIPPED,
                &[(names::DROP_REASON, text(reason))],
                1,
            );
        }
        // Shown in the cluster view and by `explain`; no metric of its own in the registry yet.
        Measure::Rejected { reason } => tracing::debug!(reason, "refused or dropped"),
    }
}

/// Gauges of the core's sums. Remembers whom it spoke of, so that what is gone goes to zero.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    frameworks: BTreeSet<String>,
    roles: BTreeSet<String>,
}

impl Gauges {
    /// Sets them all.
    pub(crate) fn set(&mut self, t: &Telemetry, sums: &Sums, queued: usize) {
        self.tasks(t, sums);
        for (state, n) in &sums.agents {
            let attrs = [(names::STATE, text(state))];
            t.set(&names::SCHED_AGENTS, &attrs, *n as f64);
        }
        for (state, n) in ["active", "away"].into_iter().zip(sums.frameworks) {
            let attrs = [(names::STATE, text(state))];
            t.set(&names::SCHED_FRAMEWORKS, &attrs, n as f64);
        }
        for (network, usage) in &sums.networks {
            let free = usage
                .n_subnets
                .saturating_sub((usage.n_held + usage.n_resting) as u128);
            let states = [
                ("held", usage.n_held as f64),
                ("resting", usage.n_resting as f64),
                ("free", free as f64),
            ];
            for (state, n) in states {
                let attrs = [(names::NETWORK, text(network)), (names::STATE, text(state))];
                t.set(&names::NETWORK_SUBNETS, &attrs, n);
            }
        }
        self.resources(t, sums);
        t.set(&names::SCHED_DEPLOYMENTS, &[], sums.deployments as f64);
        t.set(&names::SCHED_EVENT_QUEUE, &[], queued as f64);
    }

    fn tasks(&mut self, t: &Telemetry, sums: &Sums) {
        let names = sums.tasks.keys().cloned().collect();
        let gone = std::mem::replace(&mut self.frameworks, names);
        let none = <[u64; TaskState::ALL.len()]>::default();
        let gone = gone.iter().filter(|f| !sums.tasks.contains_key(*f));
        let gone = gone.map(|f| (f, &none));
        for (framework, states) in sums.tasks.iter().chain(gone) {
            let all = TaskState::ALL.into_iter().zip(states);
            for (state, n) in all.filter(|(s, _)| !s.is_terminal()) {
                let attrs = [
                    (names::STATE, text(state.mesos_name())),
                    (names::FRAMEWORK, text(framework)),
                ];
                t.set(&names::SCHED_TASKS, &attrs, *n as f64);
            }
        }
    }

    /// Resources in CPUs and bytes. What the cluster has is the root's, as in Mesos.
    fn resources(&mut self, t: &Telemetry, sums: &Sums) {
        let set = |def, role: &str, of: &[Milli; 4]| {
            for (kind, milli) in ScalarKind::ALL.into_iter().zip(of) {
                let unit = match kind {
                    ScalarKind::Mem | ScalarKind::Disk => f64::from(1 << 20),
                    ScalarKind::Cpus | ScalarKind::Gpus => 1.0,
                };
                let attrs = [
                    (names::RESOURCE, text(kind.name())),
                    (names::ROLE, text(role)),
                ];
                t.set(def, &attrs, milli.to_f64() * unit);
            }
        };
        set(&names::SCHED_TOTAL, SERVICE_ROLE, &sums.total);
        let names = sums.roles.keys().cloned().collect();
        let gone = std::mem::replace(&mut self.roles, names);
        let none = RoleSums {
            share: Some(0.0),
            ..RoleSums::default()
        };
        let gone = gone.iter().filter(|r| !sums.roles.contains_key(*r));
        let gone = gone.map(|r| (r, &none));
        for (role, r) in sums.roles.iter().chain(gone) {
            set(&names::SCHED_ALLOCATED, role, &r.used);
            set(&names::SCHED_OFFERED, role, &r.offered);
            if let Some(share) = r.share {
                let attrs = [(names::ROLE, text(role))];
                t.set(&names::SCHED_DOMINANT_SHARE, &attrs, share);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Lines of a metric, without its help.
    fn lines(t: &Telemetry, metric: &str) -> Vec<String> {
        let text = t.prometheus_text();
        let of_it = text.lines().filter(|l| l.starts_with(metric));
        of_it.map(ToOwned::to_owned).collect()
    }

    fn value(t: &Telemetry, metric: &str, labels: &[&str]) -> Option<f64> {
        let all = lines(t, metric);
        let one = all.iter().find(|l| labels.iter().all(|x| l.contains(x)))?;
        one.rsplit(' ').next()?.parse().ok()
    }

    #[test]
    fn gauges_have_labels_and_what_is_gone_goes_to_zero() {
        let t = Telemetry::disabled().component("waggle-master");
        let mut gauges = Gauges::default();
        let mut running = [0; TaskState::ALL.len()];
        running[TaskState::Running as usize] = 3;
        let role = RoleSums {
            used: [Milli(1500), Milli(0), Milli(0), Milli(0)],
            offered: [Milli(0), Milli(2000), Milli(0), Milli(0)],
            share: Some(0.25),
        };
        let sums = Sums {
            networks: BTreeMap::new(),
            tasks: BTreeMap::from([("batch".to_owned(), running)]),
            agents: BTreeMap::from([("draining", 2)]),
            frameworks: [2, 1],
            total: [Milli(4000), Milli(0), Milli(0), Milli(0)],
            roles: BTreeMap::from([("eng/batch".to_owned(), role)]),
            deployments: 0,
        };
        gauges.set(&t, &sums, 5);
        let batch = ["batch", "TASK_RUNNING"];
        assert_eq!(value(&t, "waggle_scheduler_tasks", &batch), Some(3.0));
        let cpus = ["cpus", "eng/batch"];
        let allocated = "waggle_scheduler_resources_allocated";
        assert_eq!(value(&t, allocated, &cpus), Some(1.5));
        let mem = ["mem", "eng/batch"];
        let offered = "waggle_scheduler_resources_offered";
        assert_eq!(value(&t, offered, &mem), Some(2.0 * f64::from(1 << 20)));
        let share = "waggle_scheduler_role_dominant_share";
        assert_eq!(value(&t, share, &["eng/batch"]), Some(0.25));
        assert_eq!(
            value(&t, "waggle_scheduler_agent", &["draining"]),
            Some(2.0)
        );
        assert_eq!(
            value(&t, "waggle_scheduler_framework", &["away"]),
            Some(1.0)
        );
        gauges.set(&t, &Sums::default(), 0);
        assert_eq!(value(&t, "waggle_scheduler_tasks", &batch), Some(0.0));
        assert_eq!(value(&t, allocated, &cpus), Some(0.0));
        assert_eq!(value(&t, share, &["eng/batch"]), Some(0.0));
    }

    #[test]
    fn allocations_are_recorded() {
        let t = Telemetry::disabled().component("waggle-master");
        for ns in [1000, 50_000_000] {
            let m = Measure::Allocation {
                ns,
                offers: 1,
                looked_at: 2,
            };
            take(&t, &m);
        }
        let name = "waggle_scheduler_allocation_duration_seconds_count";
        assert_eq!(value(&t, name, &[]), Some(2.0));
    }
}

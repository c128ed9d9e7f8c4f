//! Whose requests get a `traceparent`: programs that forward no headers become part of a trace.
//!
//! The programs are loaded when the first task that asks for it is there, and try the kernel out each time. Until a task's cgroup is known
//! to them its connections are left as they are. A task that asks in vain is told so, by an event of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use waggle_ebpf::{DataPlane, Injector, Opened, Stay, Terms};
use waggle_telemetry::{Telemetry, names};
use waggle_telemetry_pipeline::TaskLabels;

use super::follow::Followed;
use crate::net::{Net, chain};

/// Whether tasks may have a `traceparent` put into their requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TraceInject {
    /// None.
    #[default]
    Off,
    /// Those with `WAGGLE_TRACE=inject`.
    Labelled,
    /// The same, also where io_uring's `SEND_ZC` is refused to them from then on, as Linux 6.18 does.
    WithoutSendZc,
}

impl TraceInject {
    fn terms(self) -> Terms {
        Terms {
            without_send_zc: self == Self::WithoutSendZc,
        }
    }
}

/// Why it can't be done.
struct Why {
    reason: &'static str,
    text: String,
}

fn open(setting: TraceInject, plane: &DataPlane, cgroup_root: &Path) -> Result<Box<Injector>, Why> {
    match Injector::open(plane, cgroup_root, setting.terms()) {
        Ok(Opened::Works(injector)) => Ok(injector),
        Ok(Opened::Refused(refusal, _)) => Err(Why {
            reason: refusal.what,
            text: refusal.to_string(),
        }),
        Err(e) => Err(Why {
            reason: "kernel",
            text: chain(&e),
        }),
    }
}

/// Tries the kernel out, where the node allows it at all: what is wrong, for people. Blocking, for seconds at worst.
pub fn try_out(net: &Net, cgroup_root: Option<&Path>, telemetry: &Telemetry) -> Option<String> {
    let setting = net.requests().inject;
    if setting == TraceInject::Off {
        return None;
    }
    let tried = match (net.plane(), cgroup_root) {
        (Some(plane), Some(cgroup_root)) => open(setting, plane, cgroup_root),
        _ => Err(Why {
            reason: "kernel",
            text: "there is no data plane".to_owned(),
        }),
    };
    match tried {
        Ok(injector) => {
            let stays = injector.stay() == Stay::Whole;
            tracing::info!(
                every_request = stays,
                "a traceparent can be put into requests of tasks that ask for it"
            );
            None
        }
        Err(why) => {
            refused(&why, telemetry);
            Some(format!("trace-inject: {}", why.text))
        }
    }
}

fn refused(why: &Why, telemetry: &Telemetry) {
    let attrs = [(names::DROP_REASON, why.reason.into())];
    telemetry.set(&names::REQUESTS_INJECTION_REFUSED, &attrs, 1.0);
    tracing::warn!(
        reason = why.reason,
        error = why.text,
        "no traceparent is put into requests"
    );
}

/// Tasks that ask in vain, each told once.
#[derive(Default)]
struct InVain {
    told: BTreeSet<u64>,
}

impl InVain {
    fn look(
        &mut self,
        asking: &BTreeMap<u64, Arc<TaskLabels>>,
        reason: &'static str,
        telemetry: &Telemetry,
    ) {
        self.told.retain(|id| asking.contains_key(id));
        for (cgroup_id, labels) in asking {
            if !self.told.insert(*cgroup_id) {
                continue;
            }
            let attrs = [(names::DROP_REASON, reason.into())];
            telemetry.count(&names::REQUESTS_INJECTION_UNMET, &attrs, 1);
            let attrs = vec![(names::DROP_REASON, reason.into())];
            telemetry.event("waggle.request.not_injected", Some(labels), attrs);
            tracing::warn!(
                task_id = labels.task_id.as_str(),
                reason,
                "a task asks for a traceparent in its requests and gets none"
            );
        }
    }
}

/// What is kept between two looks.
pub(super) struct Injecting {
    /// Whom the programs know.
    known: Followed,
    in_vain: InVain,
    counted: BTreeMap<&'static str, u64>,
    has_failed: bool,
}

impl Default for Injecting {
    fn default() -> Self {
        Self {
            known: Followed::new("INJECT"),
            in_vain: InVain::default(),
            counted: BTreeMap::new(),
            has_failed: false,
        }
    }
}

impl Injecting {
    /// Brings the programs to who asks, where the node allows it, and counts.
    pub(super) fn look(
        &mut self,
        net: &Net,
        cgroup_root: &Path,
        asking: &BTreeMap<u64, Arc<TaskLabels>>,
        telemetry: &Telemetry,
    ) {
        let setting = net.requests().inject;
        if setting == TraceInject::Off {
            self.in_vain.look(asking, "not_allowed", telemetry);
            return;
        }
        let place = &net.requests().injector;
        if place.get().is_none() && !asking.is_empty() && !self.has_failed {
            let Some(plane) = net.plane() else { return };
            match open(setting, plane, cgroup_root) {
                Ok(injector) => {
                    // Not the self-test's.
                    self.counted = injector.counts().unwrap_or_default().into_iter().collect();
                    let _ = place.set(injector);
                }
                Err(why) => {
                    refused(&why, telemetry);
                    self.has_failed = true;
                }
            }
        }
        if self.has_failed {
            self.in_vain.look(asking, "kernel", telemetry);
        }
        let Some(injector) = place.get() else { return };
        let wanted = asking.keys().copied().collect();
        let (inject, forget) = (|id| injector.inject(id), |id| injector.forget(id));
        self.known.look(&wanted, inject, forget, telemetry);
        for (name, now) in injector.counts().unwrap_or_default() {
            let before = self.counted.insert(name, now).unwrap_or(0);
            if now > before {
                let attrs = [(names::INJECT_OUTCOME, name.into())];
                telemetry.count(&names::REQUESTS_INJECTIONS, &attrs, now - before);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_in_vain_is_told_once() {
        let telemetry = Telemetry::disabled();
        let mut in_vain = InVain::default();
        let mut look = |asking: &[u64]| {
            let labels = |id: &u64| {
                let labels = crate::fixture::labels(&format!("task-{id}"));
                (*id, Arc::new(labels))
            };
            let asking = asking.iter().map(labels).collect();
            in_vain.look(&asking, "not_allowed", &telemetry);
            let text = telemetry.prometheus_text();
            let mut lines = text.lines();
            let line = lines.find(|l| l.starts_with("waggle_requests_injection_unmet_total{"));
            let line = line.unwrap_or_default();
            assert!(line.is_empty() || line.contains("not_allowed"), "{line}");
            line.rsplit(' ').next().unwrap_or_default().to_owned()
        };
        assert_eq!(look(&[]), "");
        assert_eq!(
            (look(&[1]), look(&[1]), look(&[1, 2])),
            ("1".into(), "1".into(), "2".into())
        );
        // An id may be another task's later.
        assert_eq!((look(&[2]), look(&[1, 2])), ("2".into(), "3".into()));
    }
}

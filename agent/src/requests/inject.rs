//! Whose requests get a `traceparent`: programs that forward no headers become part of a trace.
//!
//! The programs are loaded when the first task that asks for it is there, and try the kernel out each time. Until a task's cgroup is known
//! to them its connections are left as they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use waggle_ebpf::{DataPlane, Injector, Opened, Stay, Terms};
use waggle_telemetry::{Telemetry, names};

use super::follow;
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

/// What is kept between two looks.
#[derive(Default)]
pub(super) struct Injecting {
    /// Whom the programs know.
    known: BTreeSet<u64>,
    counted: BTreeMap<&'static str, u64>,
    has_failed: bool,
}

impl Injecting {
    /// Brings the programs to who is wanted, and counts.
    pub(super) fn look(
        &mut self,
        net: &Net,
        cgroup_root: &Path,
        wanted: &BTreeSet<u64>,
        telemetry: &Telemetry,
    ) {
        let place = &net.requests().injector;
        if place.get().is_none() && !wanted.is_empty() && !self.has_failed {
            let Some(plane) = net.plane() else { return };
            match open(net.requests().inject, plane, cgroup_root) {
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
        let Some(injector) = place.get() else { return };
        follow(
            &mut self.known,
            wanted,
            |cgroup_id| injector.inject(cgroup_id),
            |cgroup_id| injector.forget(cgroup_id),
            "a traceparent for a task's requests",
        );
        for (name, now) in injector.counts().unwrap_or_default() {
            let before = self.counted.insert(name, now).unwrap_or(0);
            if now > before {
                let attrs = [(names::INJECT_OUTCOME, name.into())];
                telemetry.count(&names::REQUESTS_INJECTIONS, &attrs, now - before);
            }
        }
    }
}

//! Health checks of a definition.

use waggle_types::{HealthCheck, HealthProbe, Millis};

use crate::read::{Errors, Obj};

/// Most checks of one service.
const MAX_CHECKS: usize = 32;
/// Shortest time between two checks of a task.
const MIN_INTERVAL: Millis = Millis(100);

/// Reads `healthChecks`; `n_ports` bounds `portIndex`.
pub(super) fn health_checks(obj: &Obj<'_>, n_ports: usize, errs: &mut Errors) -> Vec<HealthCheck> {
    let items = obj.list("healthChecks", errs).unwrap_or_default();
    if items.len() > MAX_CHECKS {
        let rule = format!("must be at most {MAX_CHECKS}, is {}", items.len());
        errs.add("healthChecks", rule);
        return Vec::new();
    }
    let checks = items.iter().enumerate().filter_map(|(i, v)| {
        let h = Obj::of(format!("healthChecks[{i}]"), v, errs)?;
        health_check(&h, n_ports, errs)
    });
    checks.collect()
}

fn health_check(h: &Obj<'_>, n_ports: usize, errs: &mut Errors) -> Option<HealthCheck> {
    let probe = probe(h, n_ports, errs);
    let interval = h
        .seconds("intervalSeconds", errs)
        .unwrap_or(Millis::from_secs(60));
    if interval < MIN_INTERVAL {
        let rule = format!("must be at least 0.1, is {}", interval.0 as f64 / 1000.0);
        errs.add(h.path("intervalSeconds"), rule);
    }
    let timeout = h
        .seconds("timeoutSeconds", errs)
        .unwrap_or(Millis::from_secs(20));
    if timeout == Millis(0) {
        errs.add(h.path("timeoutSeconds"), "must be more than 0");
    }
    // Read for their types: the grace period covers the first, agents probe over IPv4 and take 1xx
    // as no answer yet.
    let _ = h.seconds("delaySeconds", errs);
    let _ = h.boolean("ignoreHttp1xx", errs);
    if let Some(p) = h.string("ipProtocol", errs).filter(|p| p != "IPv4") {
        let rule = format!("only IPv4 is supported yet, is {p:?}");
        errs.add(h.path("ipProtocol"), rule);
    }
    Some(HealthCheck {
        delay: waggle_types::Millis(0),
        name: None,
        purpose: waggle_types::CheckPurpose::Health,
        probe: probe?,
        grace_period: h
            .seconds("gracePeriodSeconds", errs)
            .unwrap_or(Millis::from_secs(300)),
        interval,
        timeout,
        max_consecutive_failures: h
            .integer("maxConsecutiveFailures", 0, u32::MAX, errs)
            .unwrap_or(3),
    })
}

fn probe(h: &Obj<'_>, n_ports: usize, errs: &mut Errors) -> Option<HealthProbe> {
    let protocol = h.string("protocol", errs);
    match protocol.as_deref().unwrap_or("HTTP") {
        "HTTP" | "MESOS_HTTP" => {
            let path = h.string("path", errs).unwrap_or_else(|| "/".into());
            let bad = |c: char| c.is_control() || c.is_whitespace();
            if !path.starts_with('/') || path.contains(bad) {
                let rule = format!("must start with / and hold no space, is {path:?}");
                errs.add(h.path("path"), rule);
            }
            let (port_index, port) = target(h, n_ports, errs);
            Some(HealthProbe::Http {
                statuses: Vec::new(),
                tls: false,
                path,
                port_index,
                port,
            })
        }
        "TCP" | "MESOS_TCP" => {
            let (port_index, port) = target(h, n_ports, errs);
            Some(HealthProbe::Tcp { port_index, port })
        }
        "COMMAND" => {
            let Some(command) = h.object("command", errs) else {
                if h.get("command").is_none() {
                    errs.add(h.path("command"), "must be set for protocol COMMAND");
                }
                return None;
            };
            let shell = command.string("value", errs).unwrap_or_default();
            if shell.trim().is_empty() {
                errs.add(command.path("value"), "must not be empty");
            }
            Some(HealthProbe::Command { shell })
        }
        p @ ("HTTPS" | "MESOS_HTTPS") => {
            errs.add(h.path("protocol"), format!("{p} is not supported yet"));
            None
        }
        p => {
            let rule = format!("must be HTTP, MESOS_HTTP, TCP, MESOS_TCP or COMMAND, is {p:?}");
            errs.add(h.path("protocol"), rule);
            None
        }
    }
}

/// `port`, else `portIndex` (0 by default), which must name one of the service's ports.
fn target(h: &Obj<'_>, n_ports: usize, errs: &mut Errors) -> (usize, Option<u16>) {
    let port = h.integer("port", 1, 65_535, errs);
    let index = h.integer("portIndex", 0, u32::MAX, errs);
    match (port, index) {
        (Some(_), Some(_)) => {
            errs.add(h.path("port"), "must not be set together with portIndex");
            (0, None)
        }
        (Some(port), None) => (0, u16::try_from(port).ok()),
        (None, index) => {
            let index = usize::try_from(index.unwrap_or(0)).unwrap_or(usize::MAX);
            if index >= n_ports && h.get("port").is_none() {
                let rule = format!("must be below the number of ports ({n_ports}), is {index}");
                errs.add(h.path("portIndex"), rule);
            }
            (index, None)
        }
    }
}

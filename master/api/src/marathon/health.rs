//! Checks of a definition: `healthChecks`, `readinessChecks`, `check`.
//!
//! A start check is a health check with `"startup": true`, which is an addition to Marathon's keys. Marathon's `check`
//! asks without killing; here it says whether a task is ready, as a readiness check does, and it is told from one by
//! having no name.

use serde_json::Value;
use waggle_types::{CheckPurpose, HealthCheck, HealthProbe, Millis, PortDefinition};

use crate::read::{Errors, Obj, integer};

/// Most checks of one service, of all kinds together.
const MAX_CHECKS: usize = 32;
/// Shortest time between two checks of a task.
const MIN_INTERVAL: Millis = Millis(100);
/// Most statuses that mean ready.
const MAX_STATUSES: usize = 64;

/// Reads all checks; `ports` bound what they may ask.
pub(super) fn checks(
    obj: &Obj<'_>,
    ports: &[PortDefinition],
    errs: &mut Errors,
) -> Vec<HealthCheck> {
    let mut out = Vec::new();
    for (key, read) in [
        ("healthChecks", health_check as Reader),
        ("readinessChecks", readiness_check),
    ] {
        let items = obj.list(key, errs).unwrap_or_default();
        if out.len() + items.len() > MAX_CHECKS {
            let n = out.len() + items.len();
            errs.add(key, format!("must be at most {MAX_CHECKS}, is {n}"));
            return Vec::new();
        }
        for (i, v) in items.iter().enumerate() {
            if let Some(h) = Obj::of(format!("{key}[{i}]"), v, errs) {
                out.extend(read(&h, ports, errs));
            }
        }
    }
    unique_names(&out, errs);
    if let Some(c) = obj.object("check", errs) {
        out.extend(check(&c, ports, errs));
    }
    out
}

type Reader = fn(&Obj<'_>, &[PortDefinition], &mut Errors) -> Option<HealthCheck>;

fn health_check(h: &Obj<'_>, ports: &[PortDefinition], errs: &mut Errors) -> Option<HealthCheck> {
    let n_ports = ports.len();
    let probe = probe(h, n_ports, errs);
    let (interval, timeout) = times(h, [60, 20], errs);
    // Read for its type: 1xx is no answer yet in any case.
    let _ = h.boolean("ignoreHttp1xx", errs);
    if let Some(p) = h.string("ipProtocol", errs).filter(|p| p != "IPv4") {
        let rule = format!("only IPv4 is supported yet, is {p:?}");
        errs.add(h.path("ipProtocol"), rule);
    }
    let startup = h.boolean("startup", errs).unwrap_or(false);
    Some(HealthCheck {
        name: None,
        purpose: if startup {
            CheckPurpose::Startup
        } else {
            CheckPurpose::Health
        },
        probe: probe?,
        delay: h.seconds("delaySeconds", errs).unwrap_or_default(),
        grace_period: h
            .seconds("gracePeriodSeconds", errs)
            .unwrap_or(Millis::from_secs(300)),
        interval,
        timeout,
        max_consecutive_failures: h
            .integer("maxConsecutiveFailures", 0, u32::MAX, errs)
            .unwrap_or(3),
        keep_response: false,
    })
}

/// Interval and timeout, with their defaults in seconds.
fn times(h: &Obj<'_>, default: [u64; 2], errs: &mut Errors) -> (Millis, Millis) {
    let [interval, timeout] = default.map(Millis::from_secs);
    let interval = h.seconds("intervalSeconds", errs).unwrap_or(interval);
    if interval < MIN_INTERVAL {
        let rule = format!("must be at least 0.1, is {}", interval.0 as f64 / 1000.0);
        errs.add(h.path("intervalSeconds"), rule);
    }
    let timeout = h.seconds("timeoutSeconds", errs).unwrap_or(timeout);
    if timeout == Millis(0) {
        errs.add(h.path("timeoutSeconds"), "must be more than 0");
    }
    (interval, timeout)
}

/// Marathon's: by the name of a port, over HTTP, told by status.
fn readiness_check(
    r: &Obj<'_>,
    ports: &[PortDefinition],
    errs: &mut Errors,
) -> Option<HealthCheck> {
    let name = r
        .string("name", errs)
        .unwrap_or_else(|| "readinessCheck".into());
    if name.is_empty() || name.len() > 255 {
        errs.add(
            r.path("name"),
            format!("must be 1 to 255 bytes, is {name:?}"),
        );
    }
    let tls = match r.string("protocol", errs).as_deref() {
        None | Some("HTTP") => false,
        Some("HTTPS") => true,
        Some(p) => {
            let rule = format!("must be HTTP or HTTPS, is {p:?}");
            errs.add(r.path("protocol"), rule);
            false
        }
    };
    let port_name = r
        .string("portName", errs)
        .unwrap_or_else(|| "http-api".into());
    let port_index = ports
        .iter()
        .position(|p| p.name.as_ref() == Some(&port_name));
    if port_index.is_none() {
        let rule = format!("no port is named {port_name:?}");
        errs.add(r.path("portName"), rule);
    }
    let (interval, timeout) = times(r, [30, 10], errs);
    if timeout >= interval {
        let rule = "must be smaller than intervalSeconds";
        errs.add(r.path("timeoutSeconds"), rule);
    }
    let keep_response = r.boolean("preserveLastResponse", errs).unwrap_or(false);
    Some(HealthCheck {
        name: Some(name),
        purpose: CheckPurpose::Readiness,
        probe: HealthProbe::Http {
            tls,
            statuses: statuses(r, errs),
            path: path(r, errs),
            port_index: port_index?,
            port: None,
        },
        delay: Millis(0),
        grace_period: Millis(0),
        interval,
        timeout,
        max_consecutive_failures: 0,
        keep_response,
    })
}

fn statuses(r: &Obj<'_>, errs: &mut Errors) -> Vec<u16> {
    let key = "httpStatusCodesForReady";
    let Some(items) = r.list(key, errs).filter(|l| !l.is_empty()) else {
        return vec![200];
    };
    if items.len() > MAX_STATUSES {
        let rule = format!("must be at most {MAX_STATUSES}, is {}", items.len());
        errs.add(r.path(key), rule);
        return Vec::new();
    }
    let one = |(i, v): (usize, &Value)| {
        let n = integer(&format!("{}[{i}]", r.path(key)), v, 100, 999, errs)?;
        u16::try_from(n).ok()
    };
    items.iter().enumerate().filter_map(one).collect()
}

/// Marathon's `check`: one of `http`, `tcp`, `exec`.
fn check(c: &Obj<'_>, ports: &[PortDefinition], errs: &mut Errors) -> Option<HealthCheck> {
    let kinds = ["exec", "http", "tcp"];
    let given: Vec<&str> = kinds.into_iter().filter(|k| c.get(k).is_some()).collect();
    let probe = match given.as_slice() {
        ["exec"] => {
            let e = c.object("exec", errs)?;
            let command = e.object("command", errs)?;
            command.not_yet("argv", errs);
            let shell = command.string("shell", errs).unwrap_or_default();
            if shell.trim().is_empty() {
                errs.add(command.path("shell"), "must not be empty");
            }
            HealthProbe::Command { shell }
        }
        ["http"] => {
            let h = c.object("http", errs)?;
            let (port_index, port) = target(&h, ports.len(), errs);
            let tls = match h.string("scheme", errs).as_deref() {
                None | Some("HTTP") => false,
                Some("HTTPS") => true,
                Some(s) => {
                    let rule = format!("must be HTTP or HTTPS, is {s:?}");
                    errs.add(h.path("scheme"), rule);
                    false
                }
            };
            HealthProbe::Http {
                tls,
                statuses: Vec::new(),
                path: path(&h, errs),
                port_index,
                port,
            }
        }
        ["tcp"] => {
            let (port_index, port) = target(&c.object("tcp", errs)?, ports.len(), errs);
            HealthProbe::Tcp { port_index, port }
        }
        given => {
            let rule = format!("must have one of {}, has {}", kinds.join(", "), given.len());
            errs.add("check", rule);
            return None;
        }
    };
    let (interval, timeout) = times(c, [60, 20], errs);
    Some(HealthCheck {
        name: None,
        purpose: CheckPurpose::Readiness,
        probe,
        delay: c
            .seconds("delaySeconds", errs)
            .unwrap_or(Millis::from_secs(15)),
        grace_period: Millis(0),
        interval,
        timeout,
        max_consecutive_failures: 0,
        keep_response: false,
    })
}

/// Results are told by name.
fn unique_names(checks: &[HealthCheck], errs: &mut Errors) {
    let mut seen = std::collections::BTreeSet::new();
    for name in checks.iter().filter_map(|c| c.name.as_deref()) {
        if !seen.insert(name) {
            errs.add("readinessChecks", format!("two of them are named {name:?}"));
        }
    }
}

fn probe(h: &Obj<'_>, n_ports: usize, errs: &mut Errors) -> Option<HealthProbe> {
    let protocol = h.string("protocol", errs);
    match protocol.as_deref().unwrap_or("HTTP") {
        p @ ("HTTP" | "MESOS_HTTP" | "HTTPS" | "MESOS_HTTPS") => {
            let path = path(h, errs);
            let (port_index, port) = target(h, n_ports, errs);
            Some(HealthProbe::Http {
                statuses: Vec::new(),
                tls: p.ends_with('S'),
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
        p => {
            let rule =
                format!("must be HTTP, HTTPS or TCP, with or without MESOS_, or COMMAND, is {p:?}");
            errs.add(h.path("protocol"), rule);
            None
        }
    }
}

fn path(h: &Obj<'_>, errs: &mut Errors) -> String {
    let path = h.string("path", errs).unwrap_or_else(|| "/".into());
    let bad = |c: char| c.is_control() || c.is_whitespace();
    if !path.starts_with('/') || path.contains(bad) {
        let rule = format!("must start with / and hold no space, is {path:?}");
        errs.add(h.path("path"), rule);
    }
    path
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

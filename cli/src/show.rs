//! Resources, shares and names as people read them.

use std::collections::BTreeMap;

use serde_json::Value;
use waggle_api::{
    marathon::Number,
    native::{FrameworkRef, ResourcesView, StackEntry, WindowView},
};

use crate::times;

/// `cpus 1.5, mem 512 MiB, ports [31000-31005]`; empty for nothing.
pub fn amount(r: &ResourcesView) -> String {
    let scalars = [
        ("cpus", r.cpus.0),
        ("mem", r.mem.0),
        ("disk", r.disk.0),
        ("gpus", r.gpus.0),
    ];
    let held = scalars.iter().filter(|(_, n)| *n != 0.0);
    let mut texts: Vec<String> = held
        .map(|(kind, n)| format!("{kind} {}", quantity(kind, *n)))
        .collect();
    texts.extend(r.ports.as_ref().map(|p| format!("ports {p}")));
    texts.extend(
        r.custom
            .iter()
            .map(|(kind, v)| format!("{kind} {}", custom(v))),
    );
    texts.extend(r.volumes.iter().map(|(id, v)| {
        let shared = if v.shared { ", shared" } else { "" };
        format!("volume {id} ({}{shared})", mib(v.size.0))
    }));
    texts.join(", ")
}

/// `cpus 4, mem 8 GiB`; empty for nothing.
pub fn by_kind(quantities: &BTreeMap<String, Number>) -> String {
    let one = |(kind, n): (&String, &Number)| format!("{kind} {}", quantity(kind, n.0));
    quantities.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// One quantity with its unit.
pub fn quantity(kind: &str, n: f64) -> String {
    match kind {
        "mem" | "disk" => mib(n),
        _ => decimal(n),
    }
}

/// `312 B`, `8.1 kB`, `2.3 MB`.
pub fn bytes(n: u64) -> String {
    let mut size = n as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if size < 1000.0 {
            return match unit {
                "B" => format!("{n} B"),
                unit => format!("{size:.1} {unit}"),
            };
        }
        size /= 1000.0;
    }
    format!("{size:.1} TB")
}

/// `85 us`, `3.2 ms`, `12.0 s`.
pub fn micros(us: u64) -> String {
    match us {
        0..1000 => format!("{us} us"),
        1000..10_000_000 => format!("{:.1} ms", us as f64 / 1000.0),
        _ => format!("{:.1} s", us as f64 / 1_000_000.0),
    }
}

/// `512 MiB`, `1.5 GiB`, `2 TiB`.
pub fn mib(n: f64) -> String {
    let (n, unit) = match n {
        n if n >= 1_048_576.0 => (n / 1_048_576.0, "TiB"),
        n if n >= 1024.0 => (n / 1024.0, "GiB"),
        n => (n, "MiB"),
    };
    format!("{} {unit}", decimal((n * 100.0).round() / 100.0))
}

fn decimal(n: f64) -> String {
    format!("{}", (n * 1000.0).round() / 1000.0)
}

fn custom(v: &Value) -> String {
    match v {
        Value::String(ranges) => ranges.clone(),
        Value::Array(names) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            format!("{{{}}}", names.join(", "))
        }
        other => other.to_string(),
    }
}

/// `12.5 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// `eng > eng/batch`.
pub fn stack(of: &[StackEntry]) -> String {
    let roles: Vec<&str> = of.iter().map(|r| r.role.as_str()).collect();
    roles.join(" > ")
}

/// Who made the last reservation of a stack, and its labels.
pub fn made_by(of: &[StackEntry]) -> String {
    let Some(last) = of.last() else {
        return String::new();
    };
    let who = match (last.dynamic, last.principal.as_str()) {
        (false, _) => "the node".to_owned(),
        (true, who) => who.to_owned(),
    };
    let labels = last.labels.iter().map(|(k, v)| format!("{k}={v}"));
    let texts: Vec<String> = std::iter::once(who)
        .filter(|w| !w.is_empty())
        .chain(labels)
        .collect();
    texts.join(" ")
}

/// A framework by its name, or by its id when the name is not known.
pub fn framework(f: &FrameworkRef) -> &str {
    if f.name.is_empty() { &f.id } else { &f.name }
}

/// `in 10 min, for 30 min`; it goes on until it is cancelled, whatever the plan says.
pub fn window(w: &WindowView, now: u64) -> String {
    let start = match now.checked_sub(w.start_ms) {
        Some(ago) => format!("since {}", times::span(ago)),
        None => times::relative(w.start_ms, now),
    };
    match w.duration_ms {
        Some(d) => format!("{start}, for {}", times::span(d)),
        None => format!("{start}, open end"),
    }
}

/// A message without the name of what the row is about already.
pub fn without<'a>(message: &'a str, name: &str) -> &'a str {
    let rest = message
        .strip_prefix(name)
        .and_then(|m| m.strip_prefix(": "));
    rest.unwrap_or(message)
}

/// `2 frameworks`, `1 framework`.
pub fn count(n: u64, what: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {what}{s}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use waggle_types::{Milli, RangeSet, Resources, Volume, VolumeId};

    use super::*;

    #[test]
    fn resources_have_units() {
        let mut r = Resources::from_millis(1500, 1_572_864, 20_480_000);
        r.custom.set_scalar("licenses", Milli(2000));
        r.custom.set_ranges("vlans", RangeSet::from_ports([1, 2]));
        r.custom
            .set_items("zones", ["a".to_owned(), "b".to_owned()].into());
        let volume = Volume {
            size: Milli::units(512),
            shared: true,
        };
        r.custom.set_volume(VolumeId::new("db").unwrap(), volume);
        assert_eq!(
            amount(&(&r).into()),
            "cpus 1.5, mem 1.54 GiB, disk 20 GiB, licenses 2, vlans [1-2], zones {a, b}, \
             volume db (512 MiB, shared)"
        );
        assert_eq!(amount(&(&Resources::default()).into()), "");
        assert_eq!(mib(2_097_152.0), "2 TiB");
        assert_eq!(mib(0.0), "0 MiB");
        let q = [
            ("cpus".to_owned(), Number(0.1)),
            ("mem".to_owned(), Number(64.0)),
        ];
        assert_eq!(by_kind(&q.into()), "cpus 0.1, mem 64 MiB");
    }

    #[test]
    fn stacks_and_windows_read_well() {
        let of: Vec<StackEntry> = serde_json::from_value(json!([
            {"role": "eng", "dynamic": false, "principal": "", "labels": {}},
            {"role": "eng/db", "dynamic": true, "principal": "ops", "labels": {"rack": "1"}},
        ]))
        .unwrap();
        assert_eq!(stack(&of), "eng > eng/db");
        assert_eq!(made_by(&of), "ops rack=1");
        assert_eq!(made_by(&of[..1]), "the node");
        let w = WindowView {
            start_ms: 600_000,
            duration_ms: Some(1_800_000),
        };
        assert_eq!(window(&w, 0), "in 10 min, for 30 min");
        assert_eq!(window(&w, 605_000), "since 5 s, for 30 min");
    }
}

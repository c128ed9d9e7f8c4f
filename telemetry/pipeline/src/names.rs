//! The registry: every metric, span, event and attribute, written down once.
//!
//! Names without the prefix `waggle.` are taken verbatim from the semantic conventions 1.44.0; the
//! rest fills their gaps. To add one, add it to `telemetry/schema/registry.toml` and run `cargo xtask
//! schema`: its constant, its place in [`ALL`] and its documentation come from there.

use crate::hist::SECONDS_BOUNDS;

#[rustfmt::skip]
#[path = "gen/names.rs"]
mod table;

pub use table::*;

/// Instrumentation scope of metrics.
pub const SCOPE_METRICS: &str = "waggle.metrics";
/// Instrumentation scope of log records.
pub const SCOPE_LOGS: &str = "waggle.logs";
/// Instrumentation scope of spans.
pub const SCOPE_SPANS: &str = "waggle.spans";

/// How a metric's values behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Only grows; cumulative.
    Counter,
    /// Goes up and down, adds up over series.
    UpDownCounter,
    /// Goes up and down, does not add up.
    Gauge,
    /// A distribution; cumulative.
    Histogram,
}

/// One metric. Can only be made in this crate, by the registry's table, so that nothing else is ever emitted.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub struct MetricDef {
    /// OpenTelemetry name.
    pub name: &'static str,
    /// UCUM unit.
    pub unit: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Help text.
    pub description: &'static str,
    /// Attribute keys that points may have.
    pub attributes: &'static [&'static str],
    /// Bucket bounds of histograms recorded in user space; empty for other kinds.
    pub bounds: &'static [f64],
}

impl PartialOrd for MetricDef {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for MetricDef {
    /// By name: names are unique.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.name.cmp(other.name)
    }
}

impl Eq for MetricDef {}

/// What a span may be: from which side it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanSide {
    /// Within one process.
    Internal,
    /// Answers a request.
    Server,
    /// Makes a request.
    Client,
    /// Hands something over.
    Producer,
    /// Takes something that was handed over.
    Consumer,
}

/// One kind of span.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpanDef {
    /// Its name; with [`Self::has_tail`] what the name begins with.
    pub name: &'static str,
    /// Whether the name goes on after a space, with an id.
    pub has_tail: bool,
    /// What it may be.
    pub sides: &'static [SpanSide],
    /// Attribute keys that it may have, beside `error.type`.
    pub attributes: &'static [&'static str],
    /// In words.
    pub description: &'static str,
}

impl SpanDef {
    /// Whether a span of this kind may have an attribute.
    pub fn allows(&self, key: &str) -> bool {
        key == ERROR_TYPE || self.attributes.contains(&key)
    }
}

/// One kind of event: a log record with a name.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventDef {
    /// Its name.
    pub name: &'static str,
    /// Attribute keys that it may have.
    pub attributes: &'static [&'static str],
    /// In words.
    pub description: &'static str,
}

/// Finds a kind of span by a span's name. Spans of tasks' requests are named by what was asked: a method in capitals, or a method of an RPC,
/// which has a slash.
pub fn find_span(name: &str) -> Option<&'static SpanDef> {
    let word = name.split(' ').next().unwrap_or(name);
    let of_request = if !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase()) {
        Some("http.request")
    } else if name == "grpc" || name.contains('/') && word == name {
        Some("rpc.call")
    } else {
        None
    };
    if let Some(kind) = of_request {
        return SPANS.iter().find(|d| d.name == kind);
    }
    let (first, tail) = match name.split_once(' ') {
        Some((first, _)) => (first, true),
        None => (name, false),
    };
    SPANS.iter().find(|d| d.name == first && d.has_tail == tail)
}

/// Finds a kind of event by its name.
pub fn find_event(name: &str) -> Option<&'static EventDef> {
    EVENTS.iter().find(|d| d.name == name)
}

/// Whether a span that arrived at an endpoint is as the registry has it; the error names what is not.
pub fn check_span<'a>(
    name: &str,
    attributes: impl IntoIterator<Item = &'a str>,
) -> Result<(), String> {
    let def = find_span(name).ok_or_else(|| format!("span {name}: not in the registry"))?;
    match attributes.into_iter().find(|a| !def.allows(a)) {
        Some(a) => Err(format!("span {name}: attribute {a} is not registered")),
        None => Ok(()),
    }
}

/// The same of an event. What every log record may have is fine here, too.
pub fn check_event<'a>(
    name: &str,
    attributes: impl IntoIterator<Item = &'a str>,
) -> Result<(), String> {
    let def = find_event(name).ok_or_else(|| format!("event {name}: not in the registry"))?;
    let known = |a: &str| def.attributes.contains(&a) || LOG_ATTRIBUTES.contains(&a);
    match attributes.into_iter().find(|a| !known(a)) {
        Some(a) => Err(format!("event {name}: attribute {a} is not registered")),
        None => Ok(()),
    }
}

/// Finds a definition by its OpenTelemetry name.
pub fn find(name: &str) -> Option<&'static MetricDef> {
    ALL.iter().copied().find(|d| d.name == name)
}

/// Whether what arrived at an endpoint is as the registry has it; the error names what is not.
pub fn check<'a>(
    name: &str,
    unit: &str,
    attributes: impl IntoIterator<Item = &'a str>,
) -> Result<(), String> {
    let def = find(name).ok_or_else(|| format!("{name}: not in the registry"))?;
    if def.unit != unit {
        return Err(format!("{name}: unit is {unit:?}, must be {:?}", def.unit));
    }
    for a in attributes {
        if a != OVERFLOW && !def.attributes.contains(&a) {
            return Err(format!("{name}: attribute {a} is not registered"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_well_formed() {
        let names: BTreeSet<_> = ALL.iter().map(|d| d.name).collect();
        assert_eq!(names.len(), ALL.len());
        let prom: BTreeSet<_> = ALL.iter().map(|d| crate::prometheus_name(d)).collect();
        assert_eq!(prom.len(), ALL.len(), "two metrics share a Prometheus name");
        for d in ALL {
            assert!(
                d.name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c)),
                "{}",
                d.name
            );
            assert!(!d.description.is_empty() && !d.description.ends_with('.'));
            assert_eq!(
                d.kind == Kind::Histogram,
                !d.bounds.is_empty(),
                "{}",
                d.name
            );
            assert!(
                !d.attributes
                    .iter()
                    .any(|a| a.contains("offer.id") || a.contains("task.id")),
                "{}: ids never go on points",
                d.name
            );
            assert_eq!(find(d.name), Some(*d));
        }
    }

    #[test]
    fn spans_and_events_are_known_by_name() {
        assert_eq!(find_span("task.launch").unwrap().name, "task.launch");
        assert!(find_span("deployment d-1").is_some() && find_span("deployment").is_none());
        assert!(find_span("task.launch x").is_none());
        for name in ["GET /cart/{id}", "GET", "HTTP {other}"] {
            assert_eq!(find_span(name).unwrap().name, "http.request");
        }
        for name in ["shop.Cart/Add", "grpc"] {
            assert_eq!(find_span(name).unwrap().name, "rpc.call");
        }
        assert_eq!(check_span("vip.apply", ["waggle.node", ERROR_TYPE]), Ok(()));
        let err = check_span("vip.apply", ["waggle.role"]).unwrap_err();
        assert!(err.contains("attribute waggle.role"), "{err}");
        let fine = ["waggle.agent.id", "log.record.uid"];
        assert_eq!(check_event("waggle.agent.lost", fine), Ok(()));
        assert!(check_event("waggle.agent.lost", ["x"]).is_err());
        assert!(check_event("made.up", []).is_err());
        let spans: BTreeSet<_> = SPANS.iter().map(|d| d.name).collect();
        let events: BTreeSet<_> = EVENTS.iter().map(|d| d.name).collect();
        assert_eq!((spans.len(), events.len()), (SPANS.len(), EVENTS.len()));
    }

    #[test]
    fn check_names_what_is_wrong() {
        assert_eq!(check("container.network.io", "By", [DIRECTION]), Ok(()));
        for (name, unit, attr, want) in [
            ("nope", "By", DIRECTION, "not in the registry"),
            ("container.network.io", "s", DIRECTION, "must be \"By\""),
            ("container.network.io", "By", "x", "attribute x"),
        ] {
            let err = check(name, unit, [attr]).unwrap_err();
            assert!(err.contains(want), "{err}");
        }
    }
}

//! `cargo xtask schema`: constants and the reference page, from the registry of signals.
//!
//! Both are committed, and checked for freshness as generated code is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use crate::run::repo;

const SOURCE: &str = "telemetry/schema/registry.toml";
const CONSTANTS: &str = "telemetry/pipeline/src/gen/names.rs";
const PAGE: &str = "telemetry/SIGNALS.md";

/// Regenerates, or checks with `check` that there is nothing to regenerate.
pub fn main(check: bool) -> anyhow::Result<ExitCode> {
    if check {
        fresh()?;
        println!("what is made of {SOURCE} is fresh");
    } else {
        for (name, text) in generate()? {
            let path = path(name);
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            println!("wrote {name}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Fails when what is committed is not what would be generated.
pub fn fresh() -> anyhow::Result<()> {
    for (name, text) in generate()? {
        let committed = std::fs::read_to_string(path(name)).unwrap_or_default();
        if committed != text {
            bail!("{name} is not what {SOURCE} says; run `cargo xtask schema`");
        }
    }
    Ok(())
}

fn path(name: &str) -> PathBuf {
    repo().join(name)
}

fn generate() -> anyhow::Result<[(&'static str, String); 2]> {
    let text = std::fs::read_to_string(path(SOURCE)).with_context(|| format!("read {SOURCE}"))?;
    let registry: Registry = toml::from_str(&text).with_context(|| format!("read {SOURCE}"))?;
    registry.check()?;
    Ok([(CONSTANTS, registry.constants()?), (PAGE, registry.page())])
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registry {
    schema_url: String,
    resource: Resources,
    log: Log,
    attribute: Vec<Attribute>,
    metric: Vec<Metric>,
    span: Vec<Span>,
    event: Vec<Event>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    task: Vec<String>,
    component: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    attributes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stability {
    Stable,
    ReleaseCandidate,
    Development,
}

impl Stability {
    const fn words(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::ReleaseCandidate => "release candidate",
            Self::Development => "development",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attribute {
    key: String,
    /// Name of its constant; without one it is only checked.
    rust: Option<String>,
    stability: Stability,
    /// All that it may be, where that is a closed set.
    #[serde(default)]
    values: Vec<String>,
    doc: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Instrument {
    Counter,
    UpDownCounter,
    Gauge,
    Histogram,
}

impl Instrument {
    const fn kind(self) -> &'static str {
        match self {
            Self::Counter => "Counter",
            Self::UpDownCounter => "UpDownCounter",
            Self::Gauge => "Gauge",
            Self::Histogram => "Histogram",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::UpDownCounter => "updowncounter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Metric {
    name: String,
    rust: String,
    group: String,
    instrument: Instrument,
    unit: String,
    #[serde(default)]
    attributes: Vec<String>,
    stability: Stability,
    doc: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Side {
    Internal,
    Server,
    Client,
    Producer,
    Consumer,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Span {
    name: String,
    #[serde(default)]
    has_tail: bool,
    kinds: Vec<Side>,
    attributes: Vec<String>,
    stability: Stability,
    doc: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    name: String,
    attributes: Vec<String>,
    stability: Stability,
    doc: String,
}

impl Registry {
    /// What the types can't say.
    fn check(&self) -> anyhow::Result<()> {
        let mut keys = BTreeSet::new();
        let mut last = "";
        for a in &self.attribute {
            ensure!(is_name(&a.key), "attribute {:?}: not a name", a.key);
            ensure!(last < a.key.as_str(), "attribute {}: out of order", a.key);
            last = &a.key;
            keys.insert(a.key.as_str());
            sentence(&a.key, &a.doc)?;
        }
        let mut used: BTreeSet<&str> = BTreeSet::from(["error.type", "otel.metric.overflow"]);
        let mut uses = |of: &str, list: &'_ [String]| -> anyhow::Result<()> {
            for key in list {
                let known = keys.get(key.as_str());
                let known =
                    known.with_context(|| format!("{of}: attribute {key} is not defined"))?;
                used.insert(*known);
            }
            let n = list.iter().collect::<BTreeSet<_>>().len();
            ensure!(n == list.len(), "{of}: an attribute comes twice");
            Ok(())
        };
        uses("resource.task", &self.resource.task)?;
        uses("resource.component", &self.resource.component)?;
        uses("log", &self.log.attributes)?;
        let (mut names, mut constants) = (BTreeSet::new(), BTreeSet::new());
        for m in &self.metric {
            ensure!(is_name(&m.name), "metric {:?}: not a name", m.name);
            ensure!(names.insert(&m.name), "metric {}: comes twice", m.name);
            ensure!(constants.insert(&m.rust), "{}: comes twice", m.rust);
            ensure!(!m.unit.is_empty(), "metric {}: no unit", m.name);
            uses(&m.name, &m.attributes)?;
            sentence(&m.name, &m.doc)?;
        }
        for s in &self.span {
            ensure!(is_name(&s.name), "span {:?}: not a name", s.name);
            ensure!(!s.kinds.is_empty(), "span {}: no kind", s.name);
            uses(&s.name, &s.attributes)?;
            sentence(&s.name, &s.doc)?;
        }
        for e in &self.event {
            ensure!(is_name(&e.name), "event {:?}: not a name", e.name);
            uses(&e.name, &e.attributes)?;
            sentence(&e.name, &e.doc)?;
        }
        for a in &self.attribute {
            let own = a.rust.as_ref().is_none_or(|r| constants.insert(r));
            ensure!(own, "attribute {}: its constant comes twice", a.key);
            ensure!(
                used.contains(a.key.as_str()),
                "attribute {}: nobody has it",
                a.key
            );
        }
        Ok(())
    }

    fn constants(&self) -> anyhow::Result<String> {
        let mut out = format!(
            "// This file is @generated by `cargo xtask schema` from {SOURCE}.\n\n\
             use super::{{EventDef, Kind, MetricDef, SECONDS_BOUNDS, SpanDef, SpanSide}};\n\n\
             /// Schema that names follow.\npub const SCHEMA_URL: &str = {:?};\n",
            self.schema_url
        );
        let by_key: BTreeMap<&str, &Attribute> =
            self.attribute.iter().map(|a| (a.key.as_str(), a)).collect();
        for a in &self.attribute {
            if let Some(name) = &a.rust {
                write!(
                    out,
                    "/// {}.\npub const {name}: &str = {:?};\n",
                    a.doc, a.key
                )?;
            }
        }
        let list = |keys: &[String]| {
            let shown = keys.iter().map(|k| {
                let name = by_key.get(k.as_str()).and_then(|a| a.rust.clone());
                name.unwrap_or_else(|| format!("{k:?}"))
            });
            format!("&[{}]", shown.collect::<Vec<_>>().join(", "))
        };
        for m in &self.metric {
            let kind = m.instrument.kind();
            let bounds = match m.instrument {
                Instrument::Histogram => "SECONDS_BOUNDS",
                _ => "&[]",
            };
            write!(
                out,
                "/// `{}` ({}): {}.\npub static {}: MetricDef = MetricDef {{ name: {:?}, unit: {:?}, kind: Kind::{kind}, \
                 description: {:?}, attributes: {}, bounds: {bounds} }};\n",
                m.name,
                m.unit,
                m.doc,
                m.rust,
                m.name,
                m.unit,
                m.doc,
                list(&m.attributes)
            )?;
        }
        out.push_str(
            "/// Every metric, in the registry's order.\npub static ALL: &[&MetricDef] = &[\n",
        );
        for m in &self.metric {
            writeln!(out, "    &{},", m.rust)?;
        }
        out.push_str("];\n/// Every kind of span.\npub static SPANS: &[SpanDef] = &[\n");
        for s in &self.span {
            let sides: Vec<String> = s.kinds.iter().map(|k| format!("SpanSide::{k:?}")).collect();
            writeln!(
                out,
                "    SpanDef {{ name: {:?}, has_tail: {}, sides: &[{}], attributes: {}, description: {:?} }},",
                s.name,
                s.has_tail,
                sides.join(", "),
                list(&s.attributes),
                s.doc
            )?;
        }
        out.push_str("];\n/// Every kind of event.\npub static EVENTS: &[EventDef] = &[\n");
        for e in &self.event {
            writeln!(
                out,
                "    EventDef {{ name: {:?}, attributes: {}, description: {:?} }},",
                e.name,
                list(&e.attributes),
                e.doc
            )?;
        }
        out.push_str("];\n");
        for (doc, name, keys) in [
            (
                "What a task's resource may have.",
                "RESOURCE_TASK",
                &self.resource.task,
            ),
            (
                "What a component's resource may have.",
                "RESOURCE_COMPONENT",
                &self.resource.component,
            ),
            (
                "What Waggle itself adds to log records.",
                "LOG_ATTRIBUTES",
                &self.log.attributes,
            ),
        ] {
            write!(
                out,
                "/// {doc}\npub static {name}: &[&str] = {};\n",
                list(keys)
            )?;
        }
        Ok(out)
    }

    fn page(&self) -> String {
        let mut out = format!(
            "<!-- This file is @generated by `cargo xtask schema` from {SOURCE}. -->\n\n# Signals\n\n\
             Everything that Waggle emits. Names without the prefix `waggle.` are those of the semantic conventions \
             (<{}>);\nthe rest fills their gaps. What is not listed here is not emitted.\n",
            self.schema_url
        );
        out.push_str(
            "\nOn the Prometheus pages dots are underscores, units are spelled out and counters end in `_total`: \
             `container.network.io` is\n`container_network_io_bytes_total`.\n",
        );
        out.push_str("\n## Resources\n\nOne for each task, node and master, the same on all three signals.\n");
        for (who, keys) in [
            ("A task", &self.resource.task),
            ("A master, an agent", &self.resource.component),
        ] {
            let _ = write!(out, "\n{who}: {}.\n", keys_of(keys));
        }
        let mut group = "";
        out.push_str("\n## Metrics\n");
        for m in &self.metric {
            if m.group != group {
                group = &m.group;
                let _ = write!(
                    out,
                    "\n### {group}\n\n| metric | instrument, unit | attributes | stability | |\n|---|---|---|---|---|\n"
                );
            }
            let _ = writeln!(
                out,
                "| `{}` | {}, {} | {} | {} | {} |",
                m.name,
                m.instrument.words(),
                m.unit,
                keys_of(&m.attributes),
                m.stability.words(),
                m.doc.replace('|', "\\|")
            );
        }
        out.push_str(
            "\n## Spans\n\nEach may also have `error.type`.\n\n| span | kind | attributes | stability | |\n|---|---|---|---|---|\n",
        );
        for s in &self.span {
            let tail = if s.has_tail { " <id>" } else { "" };
            let kinds: Vec<String> = s
                .kinds
                .iter()
                .map(|k| format!("{k:?}").to_lowercase())
                .collect();
            let _ = writeln!(
                out,
                "| `{}{tail}` | {} | {} | {} | {} |",
                s.name,
                kinds.join(", "),
                keys_of(&s.attributes),
                s.stability.words(),
                s.doc
            );
        }
        out.push_str(
            "\n## Events\n\nLog records with an event name.\n\n| event | attributes | stability | |\n|---|---|---|---|\n",
        );
        for e in &self.event {
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} |",
                e.name,
                keys_of(&e.attributes),
                e.stability.words(),
                e.doc
            );
        }
        let _ = write!(
            out,
            "\n## Log records\n\nBeside these a record has the keys of its line, or the fields of Waggle's own event: {}.\n",
            keys_of(&self.log.attributes)
        );
        out.push_str(
            "\n## Attributes\n\n| attribute | stability | values | |\n|---|---|---|---|\n",
        );
        for a in &self.attribute {
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} |",
                a.key,
                a.stability.words(),
                keys_of(&a.values),
                a.doc.replace('|', "\\|")
            );
        }
        out
    }
}

fn keys_of(keys: &[String]) -> String {
    let quoted: Vec<String> = keys.iter().map(|k| format!("`{k}`")).collect();
    quoted.join(", ")
}

fn is_name(s: &str) -> bool {
    let of = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    !s.is_empty() && s.chars().all(of)
}

fn sentence(of: &str, doc: &str) -> anyhow::Result<()> {
    ensure!(
        !doc.is_empty() && !doc.ends_with('.'),
        "{of}: its doc must be words without a full stop"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_fresh() {
        fresh().unwrap();
    }

    #[test]
    fn a_registry_that_breaks_a_rule_is_refused_by_name() {
        let text = std::fs::read_to_string(path(SOURCE)).unwrap();
        let check = |text: &str| -> anyhow::Result<()> {
            let registry: Registry = toml::from_str(text)?;
            registry.check()
        };
        check(&text).unwrap();
        for (from, to, said) in [
            (
                "name = \"container.uptime\"",
                "name = \"Container Uptime\"",
                "not a name",
            ),
            ("unit = \"By\"", "unit = \"\"", "no unit"),
            (
                "attributes = [\"cpu.mode\"]",
                "attributes = [\"cpu.moon\"]",
                "cpu.moon is not defined",
            ),
            (
                "key = \"waggle.ready\"",
                "key = \"waggle.readz\"",
                "waggle.ready is not defined",
            ),
            ("instrument = \"gauge\"", "instrument = \"dial\"", "dial"),
        ] {
            let error = check(&text.replacen(from, to, 1)).unwrap_err();
            assert!(format!("{error:#}").contains(said), "{error:#}");
        }
    }
}

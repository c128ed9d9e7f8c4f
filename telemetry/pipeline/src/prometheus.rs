//! Prometheus text, version 0.0.4 or OpenMetrics, with names as OpenTelemetry's compatibility specification makes them.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    AttrValue, Attrs, Exemplar, Exposition, MetricDef, PointData, ResourceKey, SeriesStore,
    exemplar::bucket, names::Kind,
};

/// Resource attributes that become labels of every series; the rest is in `target_info`, to be joined
/// by these.
const IDENTITY: [&str; 3] = ["service.instance.id", "service.name", "service.namespace"];

/// A series' owner, as the exposition needs it.
#[derive(Debug, Clone)]
pub struct PromResource<'a> {
    /// Key in the store.
    pub key: &'a ResourceKey,
    /// Its resource.
    pub attrs: &'a Attrs,
}

/// The Prometheus name: dots become underscores, the unit and `_total` are appended.
pub fn prometheus_name(def: &MetricDef) -> String {
    let mut name = sanitize(def.name);
    let unit = match def.unit {
        "s" => "seconds",
        "By" => "bytes",
        "1" if def.kind == Kind::Gauge => "ratio",
        _ => "",
    };
    if !unit.is_empty() && !name.ends_with(unit) {
        name.push('_');
        name.push_str(unit);
    }
    if def.kind == Kind::Counter {
        if !name.ends_with("_total") {
            name.push_str("_total");
        }
    } else {
        // Suffixes that Prometheus reserves for counters and for parts of histograms; promtool refuses
        // them elsewhere, so `agent.count` is `agent` here.
        for reserved in ["_total", "_count", "_sum", "_bucket"] {
            if let Some(base) = name.strip_suffix(reserved) {
                name = base.to_owned();
            }
        }
    }
    name
}

/// [`exposition`] in version 0.0.4.
pub fn prometheus_text(store: &SeriesStore, resources: &[PromResource<'_>]) -> String {
    exposition(store, resources, Exposition::Text)
}

/// Renders all series and one `target_info` per resource. Series of owners that are not listed are left out.
pub fn exposition(
    store: &SeriesStore,
    resources: &[PromResource<'_>],
    format: Exposition,
) -> String {
    let identity: BTreeMap<&ResourceKey, String> = resources
        .iter()
        .map(|r| {
            let id = r.attrs.iter().filter(|(k, _)| IDENTITY.contains(k));
            (r.key, labels(id.map(|(k, v)| (*k, v))))
        })
        .collect();
    let mut families: BTreeMap<String, (&'static MetricDef, String)> = BTreeMap::new();
    for (owner, def, attrs, data, exemplars) in store.with_exemplars() {
        let Some(id) = identity.get(owner) else {
            continue;
        };
        let name = prometheus_name(def);
        let own = labels(attrs.iter().map(|(k, v)| (*k, v)));
        let all = join(&own, id);
        let (_, out) = families
            .entry(name.clone())
            .or_insert_with(|| (def, String::new()));
        sample(out, &name, &all, data, exemplars, format);
    }
    let mut text = String::new();
    for (name, (def, samples)) in &families {
        let (family, kind) = format.family(name, def.kind);
        let help = format.help(def.description);
        let _ = writeln!(text, "# HELP {family} {help}");
        let _ = writeln!(text, "# TYPE {family} {kind}");
        text.push_str(samples);
    }
    if !resources.is_empty() {
        let (family, kind) = match format {
            Exposition::Text => ("target_info", "gauge"),
            Exposition::OpenMetrics => ("target", "info"),
        };
        let help = "Attributes of the resource that series belong to";
        let _ = writeln!(text, "# HELP {family} {help}");
        let _ = writeln!(text, "# TYPE {family} {kind}");
        let mut rows: Vec<String> = resources
            .iter()
            .map(|r| labels(r.attrs.iter().map(|(k, v)| (*k, v))))
            .collect();
        rows.sort();
        rows.dedup();
        for row in rows {
            let _ = writeln!(text, "target_info{{{row}}} 1");
        }
    }
    if format == Exposition::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn sample(
    out: &mut String,
    name: &str,
    labels: &str,
    data: &PointData,
    exemplars: &[Exemplar],
    format: Exposition,
) {
    let of = |at: usize| {
        let found = exemplars.iter().find(|e| bucket(data, e.value) == at);
        format.exemplar(found)
    };
    let braces = if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    };
    match data {
        PointData::Sum(v) => {
            let _ = writeln!(out, "{name}{braces} {v}{}", of(0));
        }
        PointData::UpDown(v) => {
            let _ = writeln!(out, "{name}{braces} {v}");
        }
        PointData::SumF64(v) | PointData::UpDownF64(v) | PointData::Gauge(v) => {
            let _ = writeln!(out, "{name}{braces} {}", number(*v));
        }
        PointData::Histogram {
            bounds,
            counts,
            sum,
            count,
        } => {
            let mut below = 0u64;
            for (at, (bound, n)) in bounds.iter().zip(counts).enumerate() {
                below += n;
                let le = join(labels, &format!("le=\"{}\"", format.bound(*bound)));
                let _ = writeln!(out, "{name}_bucket{{{le}}} {below}{}", of(at));
            }
            let le = join(labels, "le=\"+Inf\"");
            let last = of(bounds.len());
            let _ = writeln!(out, "{name}_bucket{{{le}}} {count}{last}");
            let _ = writeln!(out, "{name}_sum{braces} {}", number(*sum));
            let _ = writeln!(out, "{name}_count{braces} {count}");
        }
    }
}

fn number(v: f64) -> String {
    if v.is_nan() {
        "NaN".to_owned()
    } else if v == f64::INFINITY {
        "+Inf".to_owned()
    } else if v == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        v.to_string()
    }
}

fn join(a: &str, b: &str) -> String {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b.to_owned(),
        (_, true) => a.to_owned(),
        _ => format!("{a},{b}"),
    }
}

fn labels<'a>(attrs: impl Iterator<Item = (&'a str, &'a AttrValue)>) -> String {
    let mut out = String::new();
    for (k, v) in attrs {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(&sanitize(k));
        out.push_str("=\"");
        for c in v.to_text().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out
}

/// `[a-zA-Z_][a-zA-Z0-9_]*`, runs of anything else become one underscore.
fn sanitize(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for c in s.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c);
        } else if !out.ends_with('_') {
            out.push('_');
        }
    }
    if out.starts_with(|c: char| c.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}

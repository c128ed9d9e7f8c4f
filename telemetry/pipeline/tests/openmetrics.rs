//! OpenMetrics as its specification has it (1.0): families, suffixes, exemplars, the end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::{BTreeMap, BTreeSet};

use waggle_telemetry_pipeline::{
    Exemplar, Exposition, HostFacts, Kind, PromResource, ResourceKey, SeriesStore,
    component_resource, exposition, names,
};
use waggle_types::TraceContext;

const SPAN: TraceContext = TraceContext {
    trace_id: 0xabc,
    span_id: 0xdef,
    flags: 1,
};

fn agent() -> ResourceKey {
    ResourceKey::Component("waggle-agent".into())
}

fn page(store: &SeriesStore, format: Exposition) -> String {
    let attrs = component_resource("waggle-agent", "0.1.0", "demo", "n1", &HostFacts::default());
    let (key, attrs) = (&agent(), &attrs);
    exposition(store, &[PromResource { key, attrs }], format)
}

#[test]
fn an_exemplar_stands_with_its_bucket() {
    let mut s = SeriesStore::new(10);
    let def = &names::AGENT_TICK_DURATION;
    for (seconds, ms) in [(0.004, 1_500), (1e9, 2_500)] {
        let at = ms * 1_000_000;
        s.record_in(&agent(), def, vec![], seconds, Some(SPAN), at);
    }
    s.record(&agent(), def, vec![], 0.2, 1);
    let text = page(&s, Exposition::OpenMetrics);
    let buckets: Vec<&str> = text.lines().filter(|l| l.contains("_bucket{")).collect();
    let with: Vec<&&str> = buckets.iter().filter(|l| l.contains(" # ")).collect();
    let [first, last] = with[..] else {
        panic!("{text}")
    };
    let ids = format!(
        "# {{trace_id=\"{:032x}\",span_id=\"{:016x}\"}}",
        0xabc, 0xdef
    );
    assert!(first.contains("le=\"0.005\"}") && first.ends_with(&format!(" 1 {ids} 0.004 1.500")));
    assert!(last.contains("le=\"+Inf\"}") && last.ends_with(&format!(" 3 {ids} 1000000000 2.500")));
    assert!(buckets.iter().any(|l| l.contains("le=\"1.0\"}")), "{text}");
    let text = page(&s, Exposition::Text);
    assert!(!text.contains(" # ") && !text.contains("EOF"), "{text}");
    assert!(text.contains("le=\"1\"}"), "{text}");
}

#[test]
fn the_whole_registry_is_as_specified() {
    let mut s = SeriesStore::new(1000);
    for def in names::ALL {
        let attrs = def
            .attributes
            .iter()
            .map(|a| (*a, "x\"\n".into()))
            .collect();
        match def.kind {
            Kind::Counter => s.add(&agent(), def, attrs, 1, 1),
            Kind::UpDownCounter | Kind::Gauge => s.set(&agent(), def, attrs, 1.0, 1),
            Kind::Histogram => s.record_in(&agent(), def, attrs, 1.0, Some(SPAN), 1),
        }
    }
    let text = page(&s, Exposition::OpenMetrics);
    let Some(text) = text.strip_suffix("# EOF\n") else {
        panic!("it has no end")
    };
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut family, mut n_exemplars) = ("", 0);
    let mut samples = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name, kind).is_none(), "twice: {line}");
            family = name;
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (sample, exemplar) = match line.split_once(" # {") {
            Some((sample, exemplar)) => (sample, Some(exemplar)),
            None => (line, None),
        };
        let (series, value) = sample.rsplit_once(' ').unwrap();
        assert!(
            value.parse::<f64>().is_ok() && samples.insert(series),
            "{line}"
        );
        let suffix = series.split('{').next().unwrap().strip_prefix(family);
        let suffixes: &[&str] = match types[family] {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            other => panic!("{other}"),
        };
        assert!(suffix.is_some_and(|s| suffixes.contains(&s)), "{line}");
        if let Some(exemplar) = exemplar {
            assert!(matches!(suffix, Some("_bucket" | "_total")), "{line}");
            let (labels, rest) = exemplar.split_once("} ").unwrap();
            // Names and values of labels together.
            assert!(labels.chars().count() <= 128, "{line}");
            assert_eq!(rest.split(' ').count(), 2, "{line}");
            n_exemplars += 1;
        }
    }
    // No family's name is another one's sample.
    for name in types.keys() {
        let others = types.keys().filter(|other| *other != name);
        for other in others {
            let rest = name.strip_prefix(other);
            let reserved: &[&str] = match types[other] {
                "counter" => &["_total", "_created"],
                "histogram" => &["_bucket", "_sum", "_count", "_created"],
                "info" => &["_info"],
                _ => &[],
            };
            assert!(
                !rest.is_some_and(|r| reserved.contains(&r)),
                "{name} {other}"
            );
        }
    }
    let histograms = names::ALL.iter().filter(|d| d.kind == Kind::Histogram);
    assert_eq!(n_exemplars, histograms.count());
}

#[test]
fn what_is_kept_of_spans_is_bounded_by_buckets() {
    let mut s = SeriesStore::new(10);
    let def = &names::AGENT_TICK_DURATION;
    for n in 0..100_000_u32 {
        let seconds = f64::from(n) / 100.0;
        s.record_in(&agent(), def, vec![], seconds, Some(SPAN), n.into());
    }
    let (_, point) = s.collect_own(0).remove(0);
    assert!(point.exemplars.len() <= def.bounds.len() + 1);
    let newest: Option<&Exemplar> = point.exemplars.iter().max_by_key(|e| e.time_ns);
    assert_eq!(newest.unwrap().time_ns, 99_999);
}

//! Resources and the Prometheus text, as golden text, with promtool's lint rules.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::collections::{BTreeMap, BTreeSet};

use waggle_telemetry_pipeline::{
    HostFacts, Kind, Point, PointData, PromResource, ResourceKey, SeriesStore, TaskLabels,
    component_resource, log2_us_histogram, names, prometheus_text,
};
use waggle_types::{AgentId, FrameworkId, TaskId};

fn labels() -> TaskLabels {
    TaskLabels {
        cluster: "demo".into(),
        framework_id: FrameworkId::new("f-0001").unwrap(),
        framework: "marathon".into(),
        role: "*".into(),
        agent_id: AgentId::new("a-1").unwrap(),
        hostname: "n1".into(),
        task_id: TaskId::new("shop_cart.instance-1._app.1").unwrap(),
        task_name: "cart.shop".into(),
        service: "/shop/cart".into(),
        service_version: "2026-11-23T04:00:00.000Z".into(),
        cgroup_path: "/waggle/tasks/shop_cart.instance-1._app.1".into(),
        cgroup_id: 4711,
        pid: 42,
        pid_start_ns: 1_795_407_292_123_000_000,
    }
}

fn host() -> HostFacts {
    HostFacts {
        id: "0123456789abcdef0123456789abcdef".into(),
        name: "n1".into(),
        arch: "amd64".into(),
        os_version: "6.18.0".into(),
    }
}

#[test]
fn task_resource() {
    let attrs = labels().resource(&host());
    let keys: BTreeSet<_> = attrs.iter().map(|(k, _)| *k).collect();
    assert_eq!(keys.len(), attrs.len(), "a key is set twice");
    let text: Vec<String> = attrs
        .iter()
        .map(|(k, v)| format!("{k}={}", v.to_text()))
        .collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn container_ids_are_stable_and_distinct() {
    let id = labels().container_id();
    assert_eq!(id.len(), 64);
    assert!(id.bytes().all(|b| b.is_ascii_hexdigit()));
    let ids: BTreeSet<String> = (0..1000)
        .map(|i| {
            let mut l = labels();
            l.task_id = TaskId::new(format!("web.{i}")).unwrap();
            l.container_id()
        })
        .collect();
    assert_eq!(ids.len(), 1000);
}

#[test]
fn a_task_without_a_service_is_named_by_its_name() {
    let mut l = labels();
    l.service = String::new();
    assert_eq!(l.service_name(), "cart.shop");
}

fn store() -> (SeriesStore, ResourceKey, ResourceKey) {
    let mut s = SeriesStore::new(1000);
    let task = ResourceKey::Task(labels().task_id);
    let agent = ResourceKey::Component("waggle-agent".into());
    let mut put = |def, attrs, data| {
        assert!(s.put(&task, &Point::new(def, attrs, data, 1, 2), 2));
    };
    for (dir, n) in [("receive", 10), ("transmit", 20)] {
        let attrs = vec![(names::DIRECTION, dir.into())];
        put(&names::CONTAINER_NETWORK_IO, attrs, PointData::Sum(n));
    }
    let user = vec![(names::CPU_MODE, "user".into())];
    put(&names::CONTAINER_CPU_TIME, user, PointData::SumF64(1.5));
    put(
        &names::CONTAINER_MEMORY_USAGE,
        vec![],
        PointData::UpDown(4096),
    );
    put(&names::CONTAINER_UPTIME, vec![], PointData::Gauge(3.0));
    let mut hist = [0; 24];
    hist[0] = 1;
    hist[10] = 2;
    hist[23] = 3;
    let vip = vec![(names::SERVER_ADDRESS, "we\"b\\\n".into())];
    put(
        &names::TCP_CONNECT_DURATION,
        vip,
        log2_us_histogram(&hist, 5_000_000),
    );
    s.add(&agent, &names::DNS_QUERIES, vec![], 7, 3);
    s.record(&agent, &names::AGENT_TICK_DURATION, vec![], 0.004, 3);
    (s, task, agent)
}

#[test]
fn exposition() {
    let (s, task, agent) = store();
    let task_attrs = labels().resource(&host());
    let agent_attrs = component_resource("waggle-agent", "0.1.0", "demo", "n1", &host());
    let text = prometheus_text(
        &s,
        &[
            PromResource {
                key: &task,
                attrs: &task_attrs,
            },
            PromResource {
                key: &agent,
                attrs: &agent_attrs,
            },
        ],
    );
    lint(&text);
    insta::assert_snapshot!(text);
}

/// Every metric of the registry gives a lint-clean family.
#[test]
fn the_whole_registry_is_lint_clean() {
    let mut s = SeriesStore::new(1000);
    let agent = ResourceKey::Component("waggle-agent".into());
    for def in names::ALL {
        let attrs = def.attributes.iter().map(|a| (*a, "x".into())).collect();
        match def.kind {
            Kind::Counter => s.add(&agent, def, attrs, 1, 1),
            Kind::UpDownCounter | Kind::Gauge => s.set(&agent, def, attrs, 1.0, 1),
            Kind::Histogram => s.record(&agent, def, attrs, 1.0, 1),
        }
    }
    assert_eq!(s.len(), names::ALL.len());
    let attrs = component_resource("waggle-agent", "0.1.0", "demo", "n1", &host());
    lint(&prometheus_text(
        &s,
        &[PromResource {
            key: &agent,
            attrs: &attrs,
        }],
    ));
    for (_, point) in s.collect_own(2) {
        assert_eq!(point.violation(), None);
    }
}

#[test]
fn forgotten_owners_have_no_series() {
    let (mut s, task, agent) = store();
    s.forget(&task);
    assert!(s.iter().all(|(o, ..)| *o == agent));
    assert_eq!(s.len(), 2);
}

/// What `promtool check metrics` refuses: no HELP or TYPE, a sample outside of its family, a counter
/// without `_total` (or with it elsewhere), bad names, series that come twice, buckets that decrease.
fn lint(text: &str) {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut family = "";
    let mut last_bucket: Option<(String, u64)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && helped.insert(name), "{line}");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(
                helped.contains(name) && types.insert(name, kind).is_none(),
                "{line}"
            );
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            for reserved in ["_count", "_sum", "_bucket"] {
                assert!(!name.ends_with(reserved), "{line}");
            }
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                    && !name.contains("__"),
                "{line}"
            );
            family = name;
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(seen.insert(series), "twice: {line}");
        let name = series.split('{').next().unwrap();
        let suffix = name
            .strip_prefix(family)
            .unwrap_or_else(|| panic!("not of {family}: {line}"));
        let histogram = types[family] == "histogram";
        assert!(
            if histogram {
                ["_bucket", "_sum", "_count"].contains(&suffix)
            } else {
                suffix.is_empty()
            },
            "{line}"
        );
        if suffix == "_bucket" {
            let base = series.split("le=").next().unwrap().to_owned();
            let n: u64 = value.parse().unwrap();
            if let Some((last, m)) = &last_bucket {
                assert!(*last != base || *m <= n, "{line}");
            }
            last_bucket = Some((base, n));
        }
    }
}

//! What arrives over OTLP and on the Prometheus page.

use std::collections::BTreeSet;

use waggle_telemetry_pipeline::names;
use waggle_tests_privileged::{LIMIT, can_run, shared, web};
use waggle_tests_support::cluster::port;
use waggle_tests_support::scenario::curl_spread;
use waggle_tests_support::sink::{Attributes, Span, Store, forest, render};
use waggle_tests_support::wait_until;

const TASK: &str = "waggle.task.id";

#[test]
fn every_task_has_metrics_and_logs_under_one_resource() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let (_, tasks) = web(world).unwrap();
    curl_spread(&world.cluster, 100).unwrap();
    for task in &tasks {
        let metrics = [
            "container.cpu.time",
            "container.memory.usage",
            "container.network.io",
            "container.filesystem.usage",
            "waggle.container.network.packet.count",
            "waggle.container.cpu.delay.time",
            "waggle.network.flow.io",
            "waggle.network.flow.connections",
        ];
        for metric in metrics {
            wait_until(LIMIT, &format!("{metric} of {}", task.id), || {
                let total = world.sink.with(|s| s.total(metric, TASK, &task.id));
                total.filter(|value| *value > 0.0)
            })
            .unwrap();
        }
        let mine = |s: &Store| {
            s.logs
                .iter()
                .find(|l| {
                    l.resource.get(TASK) == Some(&task.id)
                        && l.attributes
                            .get("log.iostream")
                            .is_some_and(|v| v == "stdout")
                        && l.body.contains("GET /")
                })
                .cloned()
        };
        let log = wait_until(LIMIT, &format!("an access log line of {}", task.id), || {
            world.sink.with(mine)
        })
        .unwrap();
        assert_eq!(
            log.resource.get("service.name").map(String::as_str),
            Some("web")
        );
        let point = world.sink.with(|s| {
            s.points_of("container.cpu.time", TASK, &task.id)
                .next()
                .map(|p| p.resource.clone())
        });
        assert_eq!(
            *point.unwrap(),
            *log.resource,
            "metrics and logs differ in their resource"
        );
    }
}

#[test]
fn a_deployment_is_one_trace_down_to_every_node() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    web(world).unwrap();
    let spans_now = || -> Vec<Span> {
        world.sink.with(|s| {
            let launched = s.spans.iter().find(|span| {
                span.name == "task.launch"
                    && span
                        .attributes
                        .values()
                        .any(|value| value.contains("web.instance-"))
            });
            launched
                .map(|span| s.trace(&span.trace_id))
                .unwrap_or_default()
        })
    };
    let wanted = [
        "offer.allocate",
        "offer.accept",
        "task.launch",
        "task.receive",
        "container.create",
        "healthcheck.first_pass",
        "task.running",
        "vip.publish",
        "vip.apply",
    ];
    let complete = wait_until(LIMIT, "the whole trace", || {
        let spans = spans_now();
        let names: BTreeSet<&str> = spans.iter().map(|s| s.name.as_str()).collect();
        let nodes: BTreeSet<_> = spans
            .iter()
            .filter(|s| s.name == "vip.apply")
            .filter_map(|s| s.resource.get("host.name"))
            .collect();
        let root = spans
            .iter()
            .any(|s| s.parent_id.is_empty() && s.name.starts_with("deployment"));
        // A span may arrive before its parent: until then it looks like another root.
        let whole = root && nodes.len() == 3 && forest(&spans).len() == 1;
        (whole && wanted.iter().all(|name| names.contains(name))).then_some(())
    });
    let roots = forest(&spans_now());
    if let Err(error) = complete {
        panic!("{error:#}\n{}", render(&roots));
    }
    assert_eq!(roots.len(), 1, "more than one root:\n{}", render(&roots));
}

#[test]
fn nothing_arrives_that_is_not_registered() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    web(world).unwrap();
    wait_until(LIMIT, "spans, events and points", || {
        world.sink.with(|s| {
            let events = s.logs.iter().any(|l| !l.event.is_empty());
            (events && !s.spans.is_empty() && s.points.len() > 50).then_some(())
        })
    })
    .unwrap();
    let mut wrong = BTreeSet::new();
    world.sink.with(|s| {
        let known = |r: &Attributes| {
            let of = if r.contains_key(TASK) {
                names::RESOURCE_TASK
            } else {
                names::RESOURCE_COMPONENT
            };
            // What tasks say of themselves is theirs to name: those of another test do.
            let strange = |k: &&String| !of.contains(&k.as_str()) && !k.starts_with("app.");
            r.keys().find(strange).cloned()
        };
        // Metrics of tasks' own are theirs to name: those of another test are these.
        let own = |name: &str| !name.starts_with("sent.") && !name.starts_with("page_");
        for p in s.points.values().filter(|p| own(&p.name)) {
            let keys = p.attributes.keys().map(String::as_str);
            wrong.extend(names::check(&p.name, &p.unit, keys).err());
            wrong.extend(known(&p.resource));
        }
        for span in &s.spans {
            let keys = span.attributes.keys().map(String::as_str);
            wrong.extend(names::check_span(&span.name, keys).err());
            wrong.extend(known(&span.resource));
        }
        for log in &s.logs {
            wrong.extend(known(&log.resource));
            if log.event.starts_with("waggle.") {
                let keys = log.attributes.keys().map(String::as_str);
                wrong.extend(names::check_event(&log.event, keys).err());
            }
        }
    });
    assert_eq!(wrong, BTreeSet::new());
}

#[test]
fn every_node_has_a_prometheus_page() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    web(world).unwrap();
    let client = world.cluster.client();
    for node in &world.cluster.state.nodes {
        wait_until(LIMIT, &format!("{}'s page", node.name), || {
            let page = client
                .get((node.ip, port::METRICS).into(), "/metrics")
                .ok()?;
            (page.status == 200 && page.body.contains("# TYPE ")).then_some(())
        })
        .unwrap();
    }
}

//! What arrives at an endpoint: one resource per task, the fields of each signal, registered names only.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::{attrs, labels, numbers, point_keys, running, text, until};
use tracing_subscriber::layer::SubscriberExt as _;
use waggle_telemetry::{
    IoStream, Point, PointData, SpanKind, Telemetry, TelemetryError, names,
    names::SpanSide,
    pipeline::{decode_line, log2_us_histogram, requests::RequestSpan},
};
use waggle_types::TraceContext;

const NOW: u64 = 1_795_407_292_000_000_000;

fn points() -> Vec<Point> {
    let rx = vec![(names::DIRECTION, "receive".into())];
    let vip = vec![(names::SERVER_ADDRESS, "web".into())];
    let mut hist = [0; 24];
    hist[7] = 5;
    vec![
        Point::new(&names::CONTAINER_NETWORK_IO, rx, PointData::Sum(99), 1, NOW),
        Point::new(&names::TCP_RTT, vip, log2_us_histogram(&hist, 900), 1, NOW),
        Point::new(
            &names::CONTAINER_UPTIME,
            vec![],
            PointData::Gauge(1.5),
            1,
            NOW,
        ),
    ]
}

#[tokio::test]
async fn a_task_has_one_resource_over_all_signals() {
    let (t, guard, _sink, state) = running();
    let task = labels("web.1");
    let line = br#"{"level":"warn","msg":"slow","trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331","time":"2026-11-23T04:14:51Z"}"#;
    t.task_log(&task, decode_line(line, IoStream::Stderr, NOW));
    t.task_points(&task, points());
    t.span("task.running").task(&task).begin().end();
    t.event(
        "waggle.task.state_changed",
        Some(&task),
        vec![(names::STATE, "TASK_RUNNING".into())],
    );
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert!(losses.balanced());
    let state = state.lock().unwrap();

    let of_task = |r: &common::Resource| r.contains_key("waggle.task.id");
    let mut resources = BTreeSet::new();
    resources.extend(state.logs.iter().map(|(r, _)| r).filter(|r| of_task(r)));
    resources.extend(state.spans.iter().map(|(r, _)| r).filter(|r| of_task(r)));
    resources.extend(state.metrics.iter().map(|(r, _)| r).filter(|r| of_task(r)));
    assert_eq!(resources.len(), 1, "{resources:#?}");
    let resource = resources.first().unwrap();
    for (k, want) in [
        ("service.name", "web"),
        ("service.namespace", "marathon"),
        ("service.instance.id", "web.1"),
        ("host.name", "n1"),
        ("process.pid", "42"),
    ] {
        assert_eq!(resource[k], want, "{k}");
    }
    assert_eq!(resource["container.id"].len(), 64);

    let (_, log) = &state.logs[0];
    assert_eq!(log.time_unix_nano, NOW - 1_000_000_000);
    assert_eq!(log.observed_time_unix_nano, NOW);
    assert_eq!(
        (log.severity_number, log.severity_text.as_str()),
        (13, "warn")
    );
    assert_eq!(text(log.body.as_ref()), "slow");
    assert_eq!((log.trace_id.len(), log.span_id.len()), (16, 8));
    assert_eq!(log.span_id[0], 0xb7);
    let a = attrs(&log.attributes);
    assert_eq!(a["log.iostream"], "stderr");
    assert_eq!(a["log.record.uid"].len(), 26);
    let (_, event) = &state.logs[1];
    assert_eq!(event.event_name, "waggle.task.state_changed");
    assert_ne!(event.time_unix_nano, 0);

    let io = state
        .metrics
        .iter()
        .find(|(_, m)| m.name == "container.network.io")
        .unwrap();
    assert!((numbers(&io.1)[0].1 - 99.0).abs() < 1e-9);
}

#[tokio::test]
async fn requests_of_a_task_are_its_own_spans() {
    let (t, guard, _sink, state) = running();
    let task = labels("web.1");
    let span = RequestSpan {
        cgroup: 7,
        context: TraceContext {
            trace_id: 0x11,
            span_id: 0x22,
            flags: 1,
        },
        parent: Some(0x33),
        parent_is_remote: true,
        links: Vec::new(),
        side: SpanSide::Server,
        name: "GET /cart/{id}".to_owned(),
        start_ns: NOW,
        end_ns: NOW + 5,
        attrs: vec![
            ("http.request.method", "GET".into()),
            ("http.response.status_code", 500_u16.into()),
            ("error.type", "500".into()),
        ],
        failed: true,
    };
    t.request_spans(&task, vec![span.clone(), span]);
    let (shown, left_out) = t.recent_spans(&format!("{:032x}", 0x11));
    assert_eq!((shown.len(), left_out), (2, 0));
    assert_eq!(shown[0].attributes["http.response.status_code"], "500");
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert!(losses.balanced());
    assert_eq!(losses.spans.exported, 2);
    let state = state.lock().unwrap();
    let (resource, span) = &state.spans[0];
    assert_eq!(resource["service.instance.id"], "web.1");
    assert_eq!(span.name, "GET /cart/{id}");
    assert_eq!(span.parent_span_id, 0x33_u64.to_be_bytes());
    let status = span.status.as_ref().map(|s| s.code);
    assert_eq!((status, span.attributes.len()), (Some(2), 3));
}

#[tokio::test]
async fn nothing_is_emitted_that_is_not_registered() {
    let (t, guard, _sink, state) = running();
    t.task_points(&labels("web.1"), points());
    // A value of the wrong kind and an attribute that is not listed are refused.
    let bad = Point::new(&names::CONTAINER_UPTIME, vec![], PointData::Sum(1), 1, NOW);
    let worse = Point::new(
        &names::CONTAINER_UPTIME,
        vec![("made.up", 1.into())],
        PointData::Gauge(1.0),
        1,
        NOW,
    );
    t.task_points(&labels("web.1"), vec![bad, worse]);
    t.count(&names::DNS_QUERIES, &[("made.up", 1.into())], 3);
    t.component("waggle-master")
        .record(&names::SCHED_STORE_DURATION, &[], 0.01);
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert_eq!(
        losses
            .metrics
            .drops()
            .map(|(r, n)| (r.name(), n))
            .collect::<Vec<_>>(),
        [("unregistered", 2)]
    );
    let state = state.lock().unwrap();
    for (_, m) in &state.metrics {
        let keys = point_keys(m);
        assert_eq!(
            names::check(&m.name, &m.unit, keys.iter().map(String::as_str)),
            Ok(())
        );
        assert!(!m.description.is_empty());
    }
    let of = |name: &str| {
        state
            .metrics
            .iter()
            .rev()
            .find(|(_, m)| m.name == name)
            .unwrap()
    };
    assert_eq!(
        of("waggle.scheduler.registry.store.duration").0["service.name"],
        "waggle-master"
    );
    assert_eq!(of("waggle.dns.queries").0["service.name"], "waggle-agent");
}

#[tokio::test]
async fn the_books_are_exported() {
    let (t, guard, _sink, state) = running();
    for _ in 0..7 {
        t.task_log(&labels("web.1"), decode_line(b"x", IoStream::Stdout, NOW));
    }
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert_eq!((losses.logs.input, losses.logs.exported), (7, 7));
    let state = state.lock().unwrap();
    for (name, want) in [
        ("waggle.telemetry.in", 7.0),
        ("waggle.telemetry.exported", 7.0),
        ("waggle.telemetry.held", 0.0),
        ("waggle.telemetry.dropped", 0.0),
    ] {
        let (_, m) = state
            .metrics
            .iter()
            .rev()
            .find(|(_, m)| m.name == name)
            .unwrap();
        let logs = numbers(m)
            .into_iter()
            .find(|(a, _)| a[names::SIGNAL] == "logs")
            .unwrap();
        assert!((logs.1 - want).abs() < 1e-9, "{name}: {}", logs.1);
    }
    // The same by the conventions' names.
    let exported = "otel.sdk.exporter.log.exported";
    let (_, m) = state
        .metrics
        .iter()
        .rev()
        .find(|(_, m)| m.name == exported)
        .unwrap();
    let taken = numbers(m)
        .into_iter()
        .find(|(a, _)| !a.contains_key("error.type"))
        .unwrap();
    assert!((taken.1 - 7.0).abs() < 1e-9, "{}", taken.1);
    assert_eq!(taken.0["otel.component.type"], "otlp_grpc_log_exporter");
}

#[tokio::test]
async fn spans_have_explicit_parents_times_and_ids() {
    let (t, guard, _sink, state) = running();
    let incoming: TraceContext = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        .parse()
        .unwrap();
    let mut root = t.begin_span("deployment d1", SpanKind::Server, Some(incoming), vec![]);
    root.set("waggle.deployment.id", "d1");
    let chosen = TraceContext {
        trace_id: incoming.trace_id,
        span_id: 77,
        flags: 1,
    };
    let child = t
        .span("task.launch")
        .kind(SpanKind::Producer)
        .parent(Some(root.context()))
        .context(chosen)
        .begin();
    assert_eq!(child.context(), chosen);
    let past = t.record_span(
        "vip.apply",
        SpanKind::Internal,
        Some(chosen),
        NOW,
        NOW + 5,
        vec![],
    );
    let mut failed =
        t.component("waggle-master")
            .begin_span("allocation", SpanKind::Internal, None, vec![]);
    failed.error("timeout", "no answer");
    let (root_cx, failed_cx) = (root.context(), failed.context());
    assert_eq!(root_cx.trace_id, incoming.trace_id);
    assert_ne!(failed_cx.trace_id, incoming.trace_id);
    child.end();
    drop(failed);
    root.end();
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert_eq!((losses.spans.input, losses.spans.exported), (4, 4));
    let state = state.lock().unwrap();
    let span = |c: TraceContext| {
        let found = state
            .spans
            .iter()
            .find(|(_, s)| s.span_id == c.span_id.to_be_bytes());
        found.unwrap_or_else(|| panic!("no span {c}"))
    };
    assert_eq!(
        span(root_cx).1.parent_span_id,
        incoming.span_id.to_be_bytes()
    );
    assert_eq!(span(root_cx).1.kind, 2);
    assert_eq!(
        attrs(&span(root_cx).1.attributes)["waggle.deployment.id"],
        "d1"
    );
    assert_eq!(span(chosen).1.parent_span_id, root_cx.span_id.to_be_bytes());
    assert_eq!(span(chosen).1.kind, 4);
    let (resource, vip) = span(past);
    assert_eq!(
        (vip.start_time_unix_nano, vip.end_time_unix_nano),
        (NOW, NOW + 5)
    );
    assert_eq!(resource["service.name"], "waggle-agent");
    let (resource, failed) = span(failed_cx);
    assert_eq!(resource["service.name"], "waggle-master");
    assert_eq!(failed.status.as_ref().unwrap().message, "no answer");
    assert_eq!(attrs(&failed.attributes)["error.type"], "timeout");
}

#[tokio::test]
async fn own_events_become_records_and_transport_does_not() {
    let (t, guard, _sink, state) = running();
    let master = t.component("waggle-master");
    let span = master.begin_span("allocation", SpanKind::Internal, None, vec![]);
    let cx = span.context();
    let subscriber = tracing_subscriber::registry().with(t.bridge_layer());
    tracing::subscriber::with_default(subscriber, || {
        span.tracing_span().in_scope(|| {
            tracing::info_span!("inner").in_scope(|| {
                tracing::warn!(target: "waggle_master::core", agents = 3, "slow");
            });
        });
        tracing::info!(name: "waggle.agent.registered", target: "waggle_agent", id = %"a-1");
        for target in [
            "h2::codec",
            "hyper_util::client",
            "tonic::transport",
            "waggle_telemetry::export",
        ] {
            // Targets must be constants for the macro.
            match target {
                "h2::codec" => tracing::error!(target: "h2::codec", "x"),
                "hyper_util::client" => tracing::error!(target: "hyper_util::client", "x"),
                "tonic::transport" => tracing::error!(target: "tonic::transport", "x"),
                _ => tracing::error!(target: "waggle_telemetry::export", "x"),
            }
        }
    });
    drop(span);
    guard.shutdown(Duration::from_secs(5)).await;
    let state = state.lock().unwrap();
    assert_eq!(state.logs.len(), 2);
    let (resource, slow) = &state.logs[0];
    assert_eq!(resource["service.name"], "waggle-master");
    assert_eq!(text(slow.body.as_ref()), "slow");
    assert_eq!(slow.severity_number, 13);
    assert_eq!(slow.trace_id, cx.trace_id.to_be_bytes());
    assert_eq!(slow.span_id, cx.span_id.to_be_bytes());
    let a = attrs(&slow.attributes);
    assert_eq!(
        (a["agents"].as_str(), a["waggle.log.target"].as_str()),
        ("3", "waggle_master::core")
    );
    assert!(slow.time_unix_nano > 0 && slow.observed_time_unix_nano > 0);
    let (resource, event) = &state.logs[1];
    assert_eq!(resource["service.name"], "waggle-agent");
    assert_eq!(event.event_name, "waggle.agent.registered");
    assert!(event.trace_id.is_empty());
}

#[tokio::test]
async fn without_an_endpoint_prometheus_works_and_nothing_queues() {
    let (t, guard) = Telemetry::start(&common::config(None)).unwrap();
    let task = labels("web.1");
    t.task_points(&task, points());
    t.task_log(&task, decode_line(b"x", IoStream::Stdout, NOW));
    t.begin_span("allocation", SpanKind::Internal, None, vec![])
        .end();
    t.set(&names::NET_GENERATION, &[], 12.0);
    let text = t.prometheus_text();
    assert!(text.contains("container_network_io_bytes_total{network_io_direction=\"receive\",service_instance_id=\"web.1\""), "{text}");
    assert!(text.contains("waggle_net_generation{"), "{text}");
    t.task_gone(&task.task_id);
    let text = t.prometheus_text();
    assert!(!text.contains("web.1"), "{text}");
    assert_eq!(guard.losses(), waggle_telemetry::Losses::default());
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert_eq!(losses, waggle_telemetry::Losses::default());
}

#[tokio::test]
async fn disabled_needs_nothing() {
    let t = std::thread::spawn(Telemetry::disabled).join().unwrap();
    let cx = t
        .begin_span("allocation", SpanKind::Internal, None, vec![])
        .end();
    assert!(cx.trace_id != 0 && cx.span_id != 0);
    until("rendered", || t.prometheus_text().contains("target_info")).await;
}

#[tokio::test]
async fn bad_settings_are_named() {
    for url in ["localhost:4317", "ftp://x:4317", "http://[bad"] {
        let err = Telemetry::start(&common::config(Some(url.to_owned()))).unwrap_err();
        assert!(
            matches!(err, TelemetryError::BadEndpoint { .. }),
            "{url}: {err}"
        );
    }
    let mut config = common::config(None);
    config.install_subscriber = true;
    config.filter = "waggle=nonsense".to_owned();
    let err = Telemetry::start(&config).unwrap_err();
    assert!(matches!(err, TelemetryError::BadFilter { .. }), "{err}");
}

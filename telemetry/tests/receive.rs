//! What tasks send: over both transports, under the identity of their connection, in the books.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    http::{HeaderValue, Request, StatusCode},
};
use common::{attrs, labels, running, text};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
        metrics::v1::ExportMetricsServiceRequest,
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_client::TraceServiceClient,
        },
    },
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{
        Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data,
        number_data_point,
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use tonic::Code;
use tower::ServiceExt as _;
use waggle_telemetry::{Sender, pipeline::LogRate};

fn string(s: &str) -> AnyValue {
    AnyValue {
        value: Some(Value::StringValue(s.to_owned())),
    }
}

/// A task that says that it is another one.
fn liar() -> Resource {
    let pairs = [
        ("service.name", "bank"),
        ("waggle.task.id", "bank.1"),
        ("container.id", "ff"),
        ("host.name", "elsewhere"),
        ("telemetry.sdk.language", "python"),
        ("app.flavor", "sour"),
    ];
    let attributes = pairs.map(|(k, v)| KeyValue {
        key: k.to_owned(),
        value: Some(string(v)),
        ..KeyValue::default()
    });
    Resource {
        attributes: attributes.to_vec(),
        ..Resource::default()
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "app".into(),
        ..InstrumentationScope::default()
    }
}

fn logs(n: usize) -> ExportLogsServiceRequest {
    let record = |i: usize| LogRecord {
        body: Some(string(&format!("own {i}"))),
        trace_id: vec![1; 3],
        ..LogRecord::default()
    };
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(liar()),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope()),
                log_records: (0..n).map(record).collect(),
                schema_url: "https://example.org/1".into(),
            }],
            ..ResourceLogs::default()
        }],
    }
}

fn spans() -> ExportTraceServiceRequest {
    let span = |trace: &[u8], name: &str| Span {
        trace_id: trace.to_vec(),
        span_id: vec![2; 8],
        name: name.to_owned(),
        ..Span::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(liar()),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope()),
                spans: vec![
                    span(&[1; 16], "GET /"),
                    span(&[1; 4], "bad"),
                    span(&[0; 16], "worse"),
                ],
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

fn metrics() -> ExportMetricsServiceRequest {
    let point = |v| NumberDataPoint {
        value: Some(number_data_point::Value::AsInt(v)),
        ..NumberDataPoint::default()
    };
    let metric = |name: &str| Metric {
        name: name.to_owned(),
        unit: "{order}".into(),
        data: Some(Data::Sum(Sum {
            data_points: vec![point(1), point(2), point(3)],
            aggregation_temporality: 2,
            is_monotonic: true,
        })),
        ..Metric::default()
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(liar()),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope()),
                metrics: vec![
                    metric("shop.orders"),
                    metric(""),
                    metric("container.cpu.time"),
                ],
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    }
}

async fn post(router: &Router, path: &str, kind: &str, body: Vec<u8>) -> (StatusCode, Vec<u8>) {
    let request = Request::post(path)
        .header("content-type", kind)
        .body(Body::from(body))
        .unwrap();
    let answer = router.clone().oneshot(request).await.unwrap();
    let status = answer.status();
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, body.to_vec())
}

const PROTOBUF: &str = "application/x-protobuf";

#[tokio::test]
async fn what_a_task_sends_arrives_under_its_name() {
    let (t, guard, _sink, state) = running();
    let sender = Arc::new(Sender::new(labels("web.1")));
    let router = t.inbox().routes().layer(Extension(sender));
    let mut grpc = LogsServiceClient::new(router.clone());
    let answer = grpc.export(logs(3)).await.unwrap().into_inner();
    assert_eq!(answer.partial_success, None);
    let (status, body) = post(&router, "/v1/traces", PROTOBUF, spans().encode_to_vec()).await;
    assert_eq!(status, StatusCode::OK);
    let answer = ExportTraceServiceResponse::decode(body.as_slice()).unwrap();
    assert_eq!(answer.partial_success.unwrap().rejected_spans, 2);
    let body = metrics().encode_to_vec();
    let (status, _) = post(&router, "/v1/metrics", PROTOBUF, body).await;
    assert_eq!(status, StatusCode::OK);
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert!(losses.balanced());
    assert_eq!((losses.logs.exported, losses.spans.exported), (3, 1));

    let state = state.lock().unwrap();
    let sent = |r: &common::Resource| r.contains_key("app.flavor");
    let mut resources = BTreeSet::new();
    resources.extend(state.logs.iter().map(|(r, _)| r).filter(|r| sent(r)));
    resources.extend(state.spans.iter().map(|(r, _)| r).filter(|r| sent(r)));
    resources.extend(state.metrics.iter().map(|(r, _)| r).filter(|r| sent(r)));
    assert_eq!(resources.len(), 1, "{resources:#?}");
    let resource = resources.first().unwrap();
    for (k, v) in [
        ("service.name", "web"),
        ("waggle.task.id", "web.1"),
        ("service.instance.id", "web.1"),
        ("host.name", "n1"),
        ("telemetry.sdk.language", "python"),
        ("app.flavor", "sour"),
    ] {
        assert_eq!(resource[k], v, "{k}");
    }
    assert_eq!(resource["container.id"].len(), 64);
    assert_eq!(state.logs.len(), 3);
    let log = &state.logs[0].1;
    assert_eq!(text(log.body.as_ref()), "own 0");
    assert!(log.trace_id.is_empty(), "an id of three bytes is none");
    assert_eq!(attrs(&log.attributes)["log.record.uid"].len(), 26);
    assert_eq!(state.spans[0].1.name, "GET /");
    let (_, orders) = state
        .metrics
        .iter()
        .find(|(_, m)| m.name == "shop.orders")
        .unwrap();
    let Some(Data::Sum(sum)) = &orders.data else {
        panic!("{orders:?}")
    };
    assert_eq!(sum.data_points.len(), 3, "in one metric again");
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_counted() {
    let (t, _guard, _sink, _state) = running();
    let sender = Arc::new(Sender::new(labels("web.1")));
    let inbox = t.inbox();
    let router = inbox.routes().layer(Extension(Arc::clone(&sender)));
    let (status, _) = post(&router, "/v1/logs", PROTOBUF, b"\xff\xff\xff".to_vec()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _) = post(&router, "/v1/logs", "text/plain", b"{}".to_vec()).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    // Two bytes each for what takes some hundred.
    let many = [vec![10, 0x80, 0x80, 0x40], [18, 0].repeat(1 << 19)].concat();
    let (status, _) = post(&router, "/v1/logs", PROTOBUF, many).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, _) = post(&router, "/v1/logs", PROTOBUF, vec![0; 5 << 20]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    // Nobody.
    let strangers = inbox.routes();
    let (status, _) = post(&strangers, "/v1/logs", PROTOBUF, logs(1).encode_to_vec()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let mut grpc = TraceServiceClient::new(strangers);
    let refused = grpc.export(spans()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(t.losses().logs.input, 0);
    let page = t.prometheus_text();
    for outcome in ["form", "invalid", "large", "stranger"] {
        let series = format!("waggle_telemetry_received_total{{waggle_outcome=\"{outcome}\"");
        assert!(page.contains(&series), "{page}");
    }
}

#[tokio::test]
async fn hostile_headers_are_refused_and_name_nobody() {
    let (t, guard, _sink, state) = running();
    let sender = Arc::new(Sender::new(labels("web.1")));
    let router = t.inbox().routes().layer(Extension(sender));
    let send = async |path: &str, name: &'static str, value: &[u8], body: Vec<u8>| {
        let mut request = Request::post(path)
            .header("content-type", PROTOBUF)
            .body(Body::from(body))
            .unwrap();
        let value = HeaderValue::from_bytes(value).unwrap();
        request.headers_mut().insert(name, value);
        router.clone().oneshot(request).await.unwrap().status()
    };
    for (name, value) in [
        ("content-type", &b"application/x-protobuf\xff\x80"[..]),
        ("content-type", b"\xc3\x28"),
        ("content-type", b""),
        ("content-encoding", b"gzip\xff"),
        ("content-encoding", b"gzip, gzip"),
        ("content-encoding", b"\x80"),
    ] {
        let status = send("/v1/logs", name, value, logs(1).encode_to_vec()).await;
        assert_eq!(
            status,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{name}: {value:?}"
        );
    }
    // Whoever is named there.
    for name in [
        "waggle-task-id",
        "x-forwarded-for",
        "forwarded",
        "host",
        "authorization",
    ] {
        let status = send("/v1/logs", name, b"bank.1\xfe", logs(1).encode_to_vec()).await;
        assert_eq!(status, StatusCode::OK, "{name}");
    }
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert_eq!(losses.logs.exported, 5);
    let state = state.lock().unwrap();
    let all = state.logs.iter().map(|(r, _)| &r["waggle.task.id"]);
    assert!(all.into_iter().all(|task| task == "web.1"));
}

#[tokio::test]
async fn a_task_that_sends_too_much_is_told_to_wait() {
    let (t, _guard, _sink, _state) = running();
    let rate = LogRate {
        lines_s: 1,
        bytes_s: 1 << 20,
    };
    let sender = Arc::new(Sender::at_most(labels("web.1"), rate));
    let other = Arc::new(Sender::new(labels("web.2")));
    let router = t.inbox().routes();
    let noisy = router.clone().layer(Extension(sender));
    let mut refused = None;
    for _ in 0..100 {
        let body = logs(20).encode_to_vec();
        let (status, _) = post(&noisy, "/v1/logs", PROTOBUF, body).await;
        if status != StatusCode::OK {
            refused = Some(status);
            break;
        }
    }
    assert_eq!(refused, Some(StatusCode::TOO_MANY_REQUESTS));
    let quiet = router.layer(Extension(other));
    let (status, _) = post(&quiet, "/v1/logs", PROTOBUF, logs(1).encode_to_vec()).await;
    assert_eq!(status, StatusCode::OK, "others are not made to wait");
    assert!(t.losses().balanced());
}

#[tokio::test]
async fn json_is_read_and_answered_in_json() {
    let (t, guard, _sink, state) = running();
    let sender = Arc::new(Sender::new(labels("web.1")));
    let router = t.inbox().routes().layer(Extension(sender));
    let logs = r#"{"resourceLogs":[{"resource":{"attributes":[
        {"key":"service.name","value":{"stringValue":"bank"}},
        {"key":"app.flavor","value":{"stringValue":"sour"}}]},
        "scopeLogs":[{"logRecords":[{"timeUnixNano":"1795407292000000000","severityNumber":9,
        "body":{"stringValue":"own"},"traceId":"01010101010101010101010101010101",
        "attributes":[{"key":"n","value":{"intValue":"7"}}],"unknown":1}]}]}]}"#;
    let json = "application/json; charset=utf-8";
    let (status, body) = post(&router, "/v1/logs", json, logs.as_bytes().to_vec()).await;
    let said = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(status, StatusCode::OK, "{said}");
    serde_json::from_slice::<serde_json::Value>(&body).unwrap();
    let metrics = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[
        {"name":"shop.orders","unit":"1","sum":{"aggregationTemporality":2,"isMonotonic":true,
            "dataPoints":[{"timeUnixNano":"1795407292000000000","asInt":"3"}]}},
        {"name":"shop.ratio","gauge":{"dataPoints":[{"asDouble":"NaN"}]}},
        {"name":"shop.nothing"}]}]}]}"#;
    let (status, body) = post(&router, "/v1/metrics", json, metrics.as_bytes().to_vec()).await;
    let said = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(status, StatusCode::OK, "{said}");
    assert!(said.contains("rejectedDataPoints"), "{said}");
    let (status, body) = post(&router, "/v1/logs", json, b"[".to_vec()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body, br#"{"code":3,"message":"not a request of OTLP"}"#);
    assert!(guard.shutdown(Duration::from_secs(5)).await.balanced());

    let state = state.lock().unwrap();
    let (resource, log) = &state.logs[0];
    assert_eq!(
        (text(log.body.as_ref()).as_str(), log.severity_number),
        ("own", 9)
    );
    assert_eq!(attrs(&log.attributes)["n"], "7");
    assert_eq!(log.trace_id, [1; 16]);
    assert_eq!(
        (
            resource["service.name"].as_str(),
            resource["app.flavor"].as_str()
        ),
        ("web", "sour")
    );
    let mut orders = state
        .metrics
        .iter()
        .filter(|(_, m)| m.name == "shop.orders");
    let value = common::numbers(&orders.next().unwrap().1)[0].1;
    assert!((value - 3.0).abs() < 1e-9);
}

#[tokio::test]
async fn what_was_accepted_is_not_pushed_out_by_others() {
    let state = common::Shared::default();
    // Nobody takes anything.
    state.lock().unwrap().refuse = Some(Code::Unavailable);
    let sink = common::Sink::start(&state);
    let mut config = common::config(Some(sink.url()));
    config.log_queue.max_items = 100;
    let (t, guard) = waggle_telemetry::Telemetry::start(&config).unwrap();
    let router = t.inbox().routes();
    let of = |task: &str| {
        let sender = Arc::new(Sender::new(labels(task)));
        router.clone().layer(Extension(sender))
    };
    let send = async |router: &Router, n: usize| {
        post(router, "/v1/logs", PROTOBUF, logs(n).encode_to_vec())
            .await
            .0
    };
    let (quiet, noisy) = (of("web.1"), of("web.2"));
    assert_eq!(send(&quiet, 10).await, StatusCode::OK);
    assert_eq!(send(&noisy, 40).await, StatusCode::OK);
    for n in [1, 51, 1000] {
        assert_eq!(send(&noisy, n).await, StatusCode::TOO_MANY_REQUESTS);
    }
    let counts = t.losses().logs;
    assert_eq!((counts.input, counts.held), (50, 50), "{counts:?}");
    drop(guard);
}

#[tokio::test]
async fn what_costs_too_much_is_left_off_and_logs_are_not() {
    let state = common::Shared::default();
    let sink = common::Sink::start(&state);
    let mut config = common::config(Some(sink.url()));
    // Nothing may be held, and there is always something.
    config.budget.memory = 0;
    let (t, guard) = waggle_telemetry::Telemetry::start(&config).unwrap();
    t.count(&waggle_telemetry::names::AGENT_LOG_LINES, &[], 1);
    let sender = Arc::new(Sender::new(labels("web.1")));
    let router = t.inbox().routes().layer(Extension(sender));
    let send = async |path: &str, body: Vec<u8>| post(&router, path, PROTOBUF, body).await.0;
    assert_eq!(
        send("/v1/metrics", metrics().encode_to_vec()).await,
        StatusCode::OK
    );
    for _ in 0..100 {
        t.keep_contract();
    }
    for feature in waggle_telemetry::pipeline::Feature::ALL {
        assert!(!t.allows(feature), "{feature:?}");
    }
    let refused = StatusCode::SERVICE_UNAVAILABLE;
    assert_eq!(
        send("/v1/metrics", metrics().encode_to_vec()).await,
        refused
    );
    assert_eq!(send("/v1/traces", spans().encode_to_vec()).await, refused);
    assert_eq!(
        send("/v1/logs", logs(1).encode_to_vec()).await,
        StatusCode::OK
    );
    let page = t.prometheus_text();
    assert!(page.contains("waggle_telemetry_feature_enabled"), "{page}");
    assert!(guard.shutdown(Duration::from_secs(5)).await.balanced());
    let state = state.lock().unwrap();
    let off = state
        .logs
        .iter()
        .filter(|(_, r)| r.event_name == "waggle.telemetry.feature_off");
    let features: Vec<String> = off
        .map(|(_, r)| attrs(&r.attributes)["waggle.telemetry.feature"].clone())
        .collect();
    assert_eq!(
        features,
        [
            "edges",
            "requests",
            "scrapes",
            "task_metrics",
            "task_spans",
            "every_tick"
        ]
    );
}

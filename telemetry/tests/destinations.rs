//! Several endpoints at once, over gRPC and HTTP, with TLS and headers; and what is said of one that does not take anything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State as Shown,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use common::{Shared, Sink, config, labels, until};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, logs_service_server::LogsServiceServer},
    metrics::v1::metrics_service_server::MetricsServiceServer,
};
use prost::Message as _;
use rcgen::{CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    codec::CompressionEncoding,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};
use waggle_telemetry::{
    Destination, IoStream, Protocol, State, Telemetry, TelemetryConfig, pipeline::decode_line,
};

fn log(t: &Telemetry, n: usize) {
    let task = labels("web.1");
    for i in 0..n {
        let line = format!("line {i}");
        t.task_log(&task, decode_line(line.as_bytes(), IoStream::Stdout, 1));
    }
}

fn to(destinations: Vec<Destination>) -> TelemetryConfig {
    let mut config = config(None);
    config.otlp = destinations;
    config
}

fn state(t: &Telemetry, idx: usize) -> State {
    t.health()[idx].state
}

/// What is answered instead, and the headers and records of what came.
type Held = (Option<StatusCode>, Vec<(HeaderMap, usize)>);

/// An endpoint over HTTP that wants a header.
#[derive(Clone, Default)]
struct Web(Arc<Mutex<Held>>);

impl Web {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap()
    }

    fn records(&self) -> usize {
        self.held().1.iter().map(|(_, n)| n).sum()
    }

    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/otlp", listener.local_addr().unwrap());
        let take = async |Shown(web): Shown<Self>, headers: HeaderMap, body: Bytes| {
            let mut held = web.held();
            if let Some(status) = held.0 {
                return (status, "not now\u{7}".as_bytes().to_vec());
            }
            let mut plain = Vec::new();
            let mut gzip = flate2::read::GzDecoder::new(body.as_ref());
            std::io::Read::read_to_end(&mut gzip, &mut plain).unwrap();
            let is_json = headers["content-type"] == "application/json";
            let request: ExportLogsServiceRequest = if is_json {
                serde_json::from_slice(&plain).unwrap()
            } else {
                ExportLogsServiceRequest::decode(plain.as_slice()).unwrap()
            };
            let scopes = request.resource_logs.iter().flat_map(|r| &r.scope_logs);
            held.1
                .push((headers, scopes.map(|s| s.log_records.len()).sum()));
            (StatusCode::OK, Vec::new())
        };
        let metrics = async |Shown(web): Shown<Self>| web.held().0.unwrap_or(StatusCode::OK);
        let router = Router::new()
            .route("/otlp/v1/logs", post(take))
            .route("/otlp/v1/metrics", post(metrics))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }
}

#[tokio::test]
async fn every_endpoint_gets_everything_and_waits_for_no_other() {
    let shared = Shared::default();
    let sink = Sink::start(&shared);
    let web = Web::default();
    web.held().0 = Some(StatusCode::UNAUTHORIZED);
    let http = Destination {
        url: web.start().await,
        protocol: Protocol::Http,
        headers: vec![("X-Api-Key".into(), "secret".into())],
        ..Destination::default()
    };
    let (t, guard) = Telemetry::start(&to(vec![Destination::new(sink.url()), http])).unwrap();
    log(&t, 50);
    until("the first has it", || {
        shared.lock().unwrap().logs.len() == 50
    })
    .await;
    until("the second refuses", || {
        state(&t, 1) == State::Unauthenticated
    })
    .await;
    let health = t.health();
    until("the first does well", || state(&t, 0) == State::Ok).await;
    assert!(health[1].held >= 50, "{health:?}");
    assert!(
        health[1].why.contains("401") && !health[1].why.contains('\u{7}'),
        "{health:?}"
    );
    let page = t.prometheus_text();
    let is = |state: &str| {
        let series = |l: &&str| {
            l.starts_with("waggle_telemetry_destination_state_ratio{")
                && l.contains("waggle_telemetry_signal=\"logs\"")
                && l.contains(&format!("waggle_state=\"{state}\""))
                && l.ends_with(" 1")
        };
        page.lines().filter(series).count()
    };
    assert_eq!((is("ok"), is("unauthenticated")), (1, 1), "{page}");
    // Somebody mends it: what waited is delivered.
    web.held().0 = None;
    until("the second has it, too", || web.records() == 50).await;
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert!(losses.balanced());
    assert_eq!((losses.logs.input, losses.logs.exported), (100, 100));
    assert_eq!(web.held().1[0].0["x-api-key"], "secret");
    assert_eq!(web.held().1[0].0["content-type"], "application/x-protobuf");
}

#[tokio::test]
async fn json_is_spoken_where_it_is_wanted() {
    let web = Web::default();
    let json = Destination {
        url: web.start().await,
        protocol: Protocol::HttpJson,
        ..Destination::default()
    };
    let (t, guard) = Telemetry::start(&to(vec![json])).unwrap();
    log(&t, 50);
    until("it has it", || web.records() == 50).await;
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert!(losses.balanced());
    assert_eq!(losses.logs.exported, 50);
    assert_eq!(losses.metrics.dropped_total(), 0);
    assert_eq!(web.held().1[0].0["content-type"], "application/json");
}

#[tokio::test]
async fn what_is_no_endpoint_is_said_to_be_none() {
    let web = Web::default();
    let url = web.start().await;
    // gRPC to a server of something else, and HTTP to a path that is not there.
    let root = url.trim_end_matches("/otlp").to_owned();
    let at = |path: &str, protocol| Destination {
        url: format!("{root}{path}"),
        protocol,
        ..Destination::default()
    };
    let all = vec![
        at("", Protocol::Grpc),
        at("/nowhere", Protocol::Http),
        at("/nowhere", Protocol::HttpJson),
    ];
    let (t, guard) = Telemetry::start(&to(all)).unwrap();
    log(&t, 5);
    for idx in 0..3 {
        until("it is none", || state(&t, idx) == State::WrongEndpoint).await;
        assert!(t.health()[idx].held >= 5, "held, not lost");
    }
    assert!(guard.shutdown(Duration::from_millis(50)).await.balanced());
}

/// An authority, and what it signs.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn sign(&self, expired: bool) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if expired {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A gRPC endpoint with TLS; with `clients`, for those alone that these have signed.
async fn secured(
    shared: &Shared,
    (certificate, key): (String, String),
    clients: Option<&Authority>,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
    if let Some(clients) = clients {
        tls = tls.client_ca_root(Certificate::from_pem(clients.issuer.pem()));
    }
    let gzip = CompressionEncoding::Gzip;
    let logs = LogsServiceServer::new(common::Endpoint::of(shared));
    let metrics = MetricsServiceServer::new(common::Endpoint::of(shared));
    let server = Server::builder()
        .tls_config(tls)
        .unwrap()
        .add_service(logs.accept_compressed(gzip))
        .add_service(metrics.accept_compressed(gzip));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    format!("https://localhost:{port}")
}

#[tokio::test]
async fn certificates_are_looked_at_and_what_is_wrong_is_said() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let shared = Shared::default();
    let good = secured(&shared, authority.sign(false), None).await;
    let expired = secured(&shared, authority.sign(true), None).await;
    let with = |url: &str, authority: &Authority| Destination {
        ca: Some(authority.ca()),
        ..Destination::new(url)
    };
    let over_http = |to: Destination| Destination {
        protocol: Protocol::Http,
        ..to
    };
    let (t, guard) = Telemetry::start(&to(vec![
        with(&good, &authority),
        with(&good, &stranger),
        with(&expired, &authority),
        over_http(with(&good, &stranger)),
        over_http(with(&expired, &authority)),
    ]))
    .unwrap();
    log(&t, 10);
    until("the good one has it", || {
        shared.lock().unwrap().logs.len() == 10
    })
    .await;
    for idx in 1..5 {
        until("a certificate is refused", || {
            state(&t, idx) == State::Certificate
        })
        .await;
        assert!(t.health()[idx].held >= 10, "{:?}", t.health());
    }
    until("the good one does well", || state(&t, 0) == State::Ok).await;
    assert!(guard.shutdown(Duration::from_millis(50)).await.balanced());
}

#[tokio::test]
async fn a_node_shows_its_own_certificate() {
    let authority = Authority::new();
    let shared = Shared::default();
    let url = secured(&shared, authority.sign(false), Some(&authority)).await;
    let (certificate, key) = authority.sign(false);
    let file = |name: &str, text: &str| {
        let path = authority.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let known = Destination {
        ca: Some(authority.ca()),
        identity: Some((file("own.pem", &certificate), file("own.key", &key))),
        ..Destination::new(&url)
    };
    let (t, guard) = Telemetry::start(&to(vec![known.clone()])).unwrap();
    log(&t, 3);
    until("it has it", || shared.lock().unwrap().logs.len() == 3).await;
    drop(guard);
    for (change, said) in [
        (
            Destination {
                ca: Some(authority.dir.path().join("none.pem")),
                ..known.clone()
            },
            "failed to read",
        ),
        (
            Destination {
                ca: Some(file("empty.pem", "")),
                ..known.clone()
            },
            "must hold a certificate",
        ),
        (
            Destination {
                identity: Some((file("own.pem", &certificate), file("no.key", "x"))),
                ..known.clone()
            },
            "must hold a private key",
        ),
        (
            Destination {
                headers: vec![("a b".into(), "x".into())],
                ..known.clone()
            },
            "otlp header",
        ),
    ] {
        for protocol in [Protocol::Grpc, Protocol::Http] {
            let change = Destination {
                protocol,
                ..change.clone()
            };
            let error = Telemetry::start(&to(vec![change])).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}

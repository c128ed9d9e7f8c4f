//! Bad input over real sockets against a running master: every refusal is a 4xx with JSON that names the
//! field and the rule, nothing is stored, and the master goes on answering.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of the set-up is a failed test"
)]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use waggle_master::{
    MasterConfig, MasterError, MasterListeners,
    http::HttpLimits,
    store::{MemoryStore, Store},
};
use waggle_telemetry::Telemetry;

const PATIENCE: Duration = Duration::from_secs(20);

struct Master {
    marathon: SocketAddr,
    mesos: SocketAddr,
    store: MemoryStore,
    stop: CancellationToken,
    task: JoinHandle<Result<(), MasterError>>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert!(
            self.head.to_lowercase().contains("application/json"),
            "{} {}",
            self.head,
            self.body
        );
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Master {
    async fn start(http: HttpLimits) -> Self {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listeners = MasterListeners {
            mesos: bind().await.unwrap(),
            marathon: bind().await.unwrap(),
            session: bind().await.unwrap(),
        };
        let (mesos, marathon) = (
            listeners.mesos.local_addr().unwrap(),
            listeners.marathon.local_addr().unwrap(),
        );
        let config = MasterConfig {
            http,
            ..MasterConfig::new("n1", Ipv4Addr::LOCALHOST, "unused")
        };
        let (store, stop) = (MemoryStore::new(), CancellationToken::new());
        let task = tokio::spawn(waggle_master::run_on(
            config,
            listeners,
            Arc::new(store.clone()),
            Telemetry::disabled(),
            stop.clone(),
        ));
        let master = Self {
            marathon,
            mesos,
            store,
            stop,
            task,
        };
        // The set-up's own writes are through when a request is answered.
        assert_eq!(master.send("GET", "/ping", "", b"").await.status, 200);
        master
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }

    async fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        raw(self.marathon, &[head.as_bytes(), body].concat()).await
    }

    async fn post(&self, app: &Value) -> Answer {
        let body = app.to_string();
        self.send("POST", "/v2/apps", "", body.as_bytes()).await
    }

    async fn keys(&self) -> Vec<String> {
        let all = self.store.range("").await.unwrap();
        all.into_iter().map(|e| e.key).collect()
    }
}

/// Writes and reads one answer; a server that stops reading early may reset the connection after it.
async fn raw(to: SocketAddr, bytes: &[u8]) -> Answer {
    let mut s = TcpStream::connect(to).await.unwrap();
    let _ = s.write_all(bytes).await;
    answer(&mut s).await
}

async fn answer(s: &mut TcpStream) -> Answer {
    let mut text = Vec::new();
    let mut buf = [0; 4096];
    while let Ok(n) = timeout(PATIENCE, s.read(&mut buf)).await.expect("in time") {
        if n == 0 {
            break;
        }
        text.extend_from_slice(&buf[..n]);
    }
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    Answer {
        status: status.unwrap_or(0),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

fn app() -> Value {
    json!({"id": "/x", "cmd": "sleep 1"})
}

fn with(key: &str, value: &Value) -> Value {
    let mut app = app();
    app[key] = value.clone();
    app
}

/// Every key that is read, with the JSON types that it takes.
const FIELDS: &[(&str, &[&str])] = &[
    ("id", &["string"]),
    ("cmd", &["string"]),
    ("args", &["list"]),
    ("cpus", &["number"]),
    ("mem", &["number"]),
    ("disk", &["number"]),
    ("gpus", &["number"]),
    ("instances", &["number"]),
    ("env", &["object"]),
    ("labels", &["object"]),
    ("user", &["string"]),
    ("executor", &["string"]),
    ("constraints", &["list"]),
    ("acceptedResourceRoles", &["list"]),
    ("role", &["string"]),
    ("portDefinitions", &["list"]),
    ("ports", &["list"]),
    ("requirePorts", &["bool"]),
    ("healthChecks", &["list"]),
    ("upgradeStrategy", &["object"]),
    ("unreachableStrategy", &["string", "object"]),
    ("backoffSeconds", &["number"]),
    ("backoffFactor", &["number"]),
    ("maxLaunchDelaySeconds", &["number"]),
    ("taskKillGracePeriodSeconds", &["number"]),
    ("killSelection", &["string"]),
    ("container", &["object"]),
    ("networks", &["list"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_of_another_type_is_refused_by_name() {
    let m = Master::start(HttpLimits::default()).await;
    let before = m.keys().await;
    for (key, takes) in FIELDS {
        for (kind, value) in [
            ("string", json!("\u{0}\u{1F41D}")),
            ("number", json!(-1.5)),
            ("bool", json!(true)),
            ("list", json!([[[{}]], 7, null])),
            ("object", json!({"a": {"b": [1]}})),
        ] {
            // These two are well formed where they fit; the others break rules everywhere.
            if takes.contains(&kind) && ["bool", "object"].contains(&kind) {
                continue;
            }
            let a = m.post(&with(key, &value)).await;
            assert_eq!(a.status, 422, "{key} {value}: {}", a.body);
            let body = a.json();
            let path = body["details"][0]["path"].as_str().unwrap_or_default();
            assert!(
                path.starts_with(&format!("/{key}")),
                "{key} {value}: {body}"
            );
            let rule = body["details"][0]["errors"][0].as_str().unwrap_or_default();
            assert!(!rule.is_empty(), "{key} {value}: {body}");
        }
    }
    assert_eq!(m.keys().await, before, "nothing is stored");
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_and_ids_have_bounds() {
    let m = Master::start(HttpLimits::default()).await;
    let before = m.keys().await;
    let long = "x".repeat(10_000);
    for (field, value) in [
        ("instances", json!(1_000_000_000)),
        ("instances", json!(10_001)),
        ("instances", json!(1.5)),
        ("instances", json!(-1)),
        ("cpus", json!(-0.1)),
        ("cpus", json!(1e300)),
        ("mem", json!(1e13)),
        ("disk", json!(-5)),
        ("gpus", json!(9e99)),
        ("backoffFactor", json!(0.5)),
        ("backoffSeconds", json!(1e10)),
        ("maxLaunchDelaySeconds", json!(-1)),
        ("taskKillGracePeriodSeconds", json!(1e12)),
        ("id", json!(long)),
        ("killSelection", json!(long)),
        ("role", json!("\u{1F41D}".repeat(9999))),
        ("env", json!({format!("={long}"): "x"})),
        ("id", json!("/UPPER")),
        ("id", json!("../../etc")),
        ("id", json!("")),
        ("ports", json!([70_000])),
        ("ports", json!([-1])),
        ("portDefinitions", json!([{"port": 65_536}])),
        (
            "portDefinitions",
            json!([{"port": 0, "labels": {"VIP_0": "/web:0"}}]),
        ),
        (
            "portDefinitions",
            json!([{"port": 0, "labels": {"VIP_0": "/web:99999"}}]),
        ),
        (
            "portDefinitions",
            json!([{"port": 0, "labels": {"VIP_0": "nonsense"}}]),
        ),
        ("portDefinitions", json!([{"port": 0, "protocol": "sctp"}])),
        ("portDefinitions", json!(vec![json!({"port": 0}); 1000])),
        (
            "constraints",
            json!(vec![json!(["hostname", "UNIQUE"]); 1000]),
        ),
        ("healthChecks", json!([{"protocol": "TCP", "portIndex": 9}])),
        ("upgradeStrategy", json!({"minimumHealthCapacity": 2})),
    ] {
        let a = m.post(&with(field, &value)).await;
        assert_eq!(a.status, 422, "{field}: {}", a.body);
        let body = a.json();
        let path = body["details"][0]["path"].as_str().unwrap_or_default();
        assert!(path.starts_with(&format!("/{field}")), "{field}: {body}");
        assert!(
            a.body.len() < 4096,
            "{field}: a short answer, {}",
            a.body.len()
        );
    }
    for (what, body) in [
        ("NaN", r#"{"id": "/x", "cmd": "y", "cpus": NaN}"#.to_owned()),
        (
            "1e999",
            r#"{"id": "/x", "cmd": "y", "cpus": 1e999}"#.to_owned(),
        ),
        ("empty", String::new()),
        ("half", r#"{"id": "/x", "#.to_owned()),
        (
            "deep",
            format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
        ),
        (
            "deep value",
            format!(
                r#"{{"id": "/x", "labels": {}1{}}}"#,
                "[".repeat(5000),
                "]".repeat(5000)
            ),
        ),
    ] {
        let a = m.send("POST", "/v2/apps", "", body.as_bytes()).await;
        assert_eq!(a.status, 400, "{what}: {}", a.body);
        let message = a.json()["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("Invalid JSON"), "{what}: {message}");
    }
    let a = m.post(&json!({"cmd": "x"})).await;
    assert_eq!(
        (a.status, &a.json()["message"]),
        (422, &json!("id: must be set"))
    );
    for body in [json!([]), json!("x"), json!(7), json!(null)] {
        assert_eq!(m.post(&body).await.status, 422, "{body}");
    }
    let a = m
        .send("POST", "/v2/apps", "", b"{\"id\": \"/\xff\xfe\"}")
        .await;
    assert_eq!(a.status, 400, "{}", a.body);
    a.json();
    assert_eq!(m.keys().await, before, "nothing is stored");
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vip_has_one_owner() {
    let m = Master::start(HttpLimits::default()).await;
    let port = |vip: &str| json!([{"port": 0, "labels": {"VIP_0": vip}}]);
    let named = json!({"id": "/a", "cmd": "x", "portDefinitions": port("/web:80")});
    assert_eq!(m.post(&named).await.status, 201);
    let literal = json!({"id": "/b", "cmd": "x", "portDefinitions": port("11.1.2.3:80")});
    assert_eq!(m.post(&literal).await.status, 201);
    let before = m.keys().await;
    let both = json!([{"port": 0, "labels": {"VIP_0": "/y:80"}}, {"port": 0, "labels": {"VIP_0": "/y:80"}}]);
    for (what, ports) in [
        ("other app", port("/web:80")),
        ("other app, bare", port("web:80")),
        ("literal", port("11.1.2.3:80")),
        ("same app", both),
    ] {
        let a = m
            .post(&json!({"id": "/c", "cmd": "x", "portDefinitions": ports}))
            .await;
        assert_eq!(a.status, 422, "{what}: {}", a.body);
        let path = a.json()["details"][0]["path"].as_str().unwrap().to_owned();
        assert!(path.starts_with("/portDefinitions("), "{what}: {path}");
        assert!(path.ends_with("labels/VIP_0"), "{what}: {path}");
    }
    assert_eq!(m.keys().await, before, "nothing is stored");
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_methods_and_paths_are_refused_as_json() {
    let m = Master::start(HttpLimits::default()).await;
    let before = m.keys().await;
    let big = with("cmd", &json!("y".repeat(1 << 20)));
    let a = m.post(&big).await;
    assert_eq!(a.status, 413, "{}", a.body);
    assert!(a.json()["message"].as_str().unwrap().contains("1048576"));
    let body = app().to_string();
    for (mime, status) in [("multipart/form-data; boundary=x", 415), ("text/xml", 415)] {
        let header = format!("Content-Type: {mime}\r\n");
        let a = m.send("POST", "/v2/apps", &header, body.as_bytes()).await;
        assert_eq!(a.status, status, "{mime}");
        a.json();
    }
    for method in ["BREW", "TRACE", "OPTIONS", "DELETE"] {
        let a = m.send(method, "/v2/apps", "", b"").await;
        assert_eq!(a.status, 405, "{method}");
        a.json();
        assert!(
            a.head.to_lowercase().contains("allow: get, post"),
            "{}",
            a.head
        );
    }
    for (path, status) in [
        ("/v2/apps/%ff%fe", 400),
        ("/v2/apps/%00", 422),
        ("/nope", 404),
        ("/v2/apps?force=perhaps", 200),
        ("/v2/apps?label=a==", 400),
        ("/v2/apps/UPPER", 422),
        ("/v2/tasks?status=zombie", 422),
    ] {
        let a = m.send("GET", path, "", b"").await;
        assert_eq!(a.status, status, "{path}: {}", a.body);
        a.json();
    }
    for path in ["/v2/tasks/delete", "/v2/apps"] {
        let a = m.send("POST", path, "", b"{\"ids\": [1, {}]}").await;
        assert_eq!(a.status, 422, "{path}: {}", a.body);
    }
    let a = raw(
        m.mesos,
        b"PUT /state HTTP/1.1\r\nHost: m\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(a.status, 405);
    // Not HTTP at all, and a head without end: a refusal or a closed connection, never a hang.
    for junk in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'y'; 200_000]].concat(),
    ] {
        let a = raw(m.marathon, &junk).await;
        assert!(
            a.status == 0 || (400..500).contains(&a.status),
            "{}",
            a.head
        );
    }
    assert_eq!(m.keys().await, before, "nothing is stored");
    // What `curl -d` sends is taken.
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let a = m.send("POST", "/v2/apps", form, body.as_bytes()).await;
    assert_eq!(a.status, 201, "{}", a.body);
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_many_connections_are_bounded() {
    let limits = HttpLimits {
        max_connections: 4,
        head_timeout: Duration::from_millis(500),
        ..HttpLimits::default()
    };
    let m = Master::start(limits).await;
    let mut slow = Vec::new();
    // The connection of the set-up may take a moment to be over.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while slow.len() < 4 && tokio::time::Instant::now() < deadline {
        let mut s = TcpStream::connect(m.marathon).await.unwrap();
        s.write_all(b"GET /ping HTTP/1.1\r\nHost: m\r\nX-Slow: ")
            .await
            .unwrap();
        slow.push(s);
    }
    let full = timeout(PATIENCE, async {
        loop {
            let mut s = TcpStream::connect(m.marathon).await.unwrap();
            let a = answer(&mut s).await;
            if a.status == 503 {
                return a;
            }
        }
    });
    let a = full.await.expect("one over the limit is refused");
    assert!(a.json()["message"].as_str().unwrap().contains("limit"));
    // The other listener has connections of its own.
    let a = raw(
        m.mesos,
        b"GET /health HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(a.status, 200);
    for s in &mut slow {
        let a = answer(s).await;
        assert!(
            a.status == 0 || a.status == 408 || a.status == 503,
            "{}",
            a.head
        );
    }
    let again = timeout(PATIENCE, async {
        while m.send("GET", "/ping", "", b"").await.status != 200 {}
    });
    again.await.expect("closed connections make room");
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_head_is_as_slow_as_a_first_one_and_streams_stay() {
    let limits = HttpLimits {
        head_timeout: Duration::from_millis(300),
        ..HttpLimits::default()
    };
    let m = Master::start(limits).await;
    let mut stream = TcpStream::connect(m.mesos).await.unwrap();
    let body = r#"{"type":"SUBSCRIBE"}"#;
    let call = format!(
        "POST /api/v1 HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(call.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("SUBSCRIBED") {
        let mut piece = [0; 4096];
        let n = timeout(PATIENCE, stream.read(&mut piece))
            .await
            .unwrap()
            .unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..n]);
    }
    let mut kept = TcpStream::connect(m.mesos).await.unwrap();
    kept.write_all(b"GET /health HTTP/1.1\r\nHost: m\r\n\r\n")
        .await
        .unwrap();
    let mut piece = [0; 4096];
    let n = timeout(PATIENCE, kept.read(&mut piece))
        .await
        .unwrap()
        .unwrap();
    assert!(piece[..n].starts_with(b"HTTP/1.1 200"));
    kept.write_all(b"GET /health HTTP/1.1\r\nX-Slow: ")
        .await
        .unwrap();
    // Half a head more does not help it.
    let end = timeout(PATIENCE, async {
        loop {
            let more = kept.write_all(b"y").await;
            let mut piece = [0; 64];
            let read = timeout(Duration::from_millis(50), kept.read(&mut piece)).await;
            if more.is_err() || matches!(read, Ok(Ok(0) | Err(_))) {
                return;
            }
        }
    });
    end.await.expect("a slow head is cut off on any request");
    // All of this took longer than a head may.
    let mut piece = [0; 64];
    let still = timeout(Duration::from_millis(700), stream.read(&mut piece)).await;
    assert!(
        !matches!(still, Ok(Ok(0) | Err(_))),
        "a stream of events stays"
    );
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_been_idle_for_longest_makes_room() {
    let limits = HttpLimits {
        max_connections: 2,
        head_timeout: Duration::from_millis(200),
        ..HttpLimits::default()
    };
    let m = Master::start(limits).await;
    // False when it was closed before it was answered.
    let ask = async |s: &mut TcpStream| {
        let sent = s.write_all(b"GET /ping HTTP/1.1\r\nHost: m\r\n\r\n").await;
        let mut piece = [0; 4096];
        let read = timeout(PATIENCE, s.read(&mut piece)).await.unwrap();
        let n = read.unwrap_or(0);
        sent.is_ok() && piece[..n].starts_with(b"HTTP/1.1 200")
    };
    let connected = async || {
        // The one before may take a moment to be over.
        timeout(PATIENCE, async {
            loop {
                let mut s = TcpStream::connect(m.marathon).await.unwrap();
                if ask(&mut s).await {
                    return s;
                }
            }
        })
        .await
        .expect("there is room")
    };
    let mut oldest = connected().await;
    let mut other = connected().await;
    let mut new = connected().await;
    let mut piece = [0; 64];
    let n = timeout(PATIENCE, oldest.read(&mut piece)).await.unwrap();
    assert!(matches!(n, Ok(0) | Err(_)), "the oldest was closed");
    assert!(
        ask(&mut other).await && ask(&mut new).await,
        "the others were not"
    );
    m.stop().await;
}

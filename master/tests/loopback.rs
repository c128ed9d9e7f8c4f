//! A whole master on loopback with an agent that speaks the real protocol over real sockets:
//! register, launch, run, network snapshot; then the master restarts on the same store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of the set-up is a failed test"
)]

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use waggle_api::proto::session::{
    self as pb, AgentMessage, MasterMessage, agent_message::Kind as Say,
    master_message::Kind as Hear, session_client::SessionClient,
};
use waggle_master::{
    MasterConfig, MasterError, MasterListeners,
    redirect::{self, Leader, RedirectListeners},
    store::{MemoryStore, SqliteStore, Store},
};
use waggle_telemetry::Telemetry;
use waggle_types::{Millis, NetSnapshot, TraceContext};

const PATIENCE: Duration = Duration::from_secs(20);

struct Master {
    stop: CancellationToken,
    task: JoinHandle<Result<(), MasterError>>,
    session: SocketAddr,
    marathon: SocketAddr,
}

impl Master {
    async fn start(store: &Path) -> Self {
        let store = store.to_owned();
        let open = tokio::task::spawn_blocking(move || SqliteStore::open(&store));
        Self::start_on(Arc::new(open.await.unwrap().unwrap())).await
    }

    async fn start_on(store: Arc<dyn Store>) -> Self {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listeners = MasterListeners {
            mesos: bind().await.unwrap(),
            marathon: bind().await.unwrap(),
            session: bind().await.unwrap(),
        };
        let session = listeners.session.local_addr().unwrap();
        let marathon = listeners.marathon.local_addr().unwrap();
        let stop = CancellationToken::new();
        let config = MasterConfig {
            heartbeat_interval: Millis(200),
            agent_timeout: Millis(5000),
            recovery_grace: Millis(20_000),
            ..MasterConfig::new("n1", Ipv4Addr::LOCALHOST, "unused")
        };
        let task = tokio::spawn(waggle_master::run_on(
            config,
            listeners,
            store,
            Telemetry::disabled(),
            stop.clone(),
        ));
        Self {
            stop,
            task,
            session,
            marathon,
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }

    /// One request on a connection of its own; answers status and body.
    async fn http(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let (head, body) = exchange(self.marathon, method, path, headers, body).await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body)
    }
}

/// One HTTP request on a connection of its own; answers the head and the body.
async fn exchange(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (String, String) {
    let mut s = TcpStream::connect(to).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n{headers}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    s.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, s.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

struct FakeAgent {
    say: mpsc::Sender<AgentMessage>,
    hear: Streaming<MasterMessage>,
}

impl FakeAgent {
    async fn register(master: &Master, tasks: Vec<pb::RegisteredTask>) -> Self {
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", master.session))
            .unwrap()
            .connect()
            .await
            .unwrap();
        let (say, rx) = mpsc::channel(16);
        let register = pb::Register {
            wireguard_key: Vec::new(),
            agent: Some(pb::AgentInfo {
                ip6: String::new(),
                agent_id: "agent-1".into(),
                hostname: "n1".into(),
                ip: "127.0.0.1".into(),
                http_port: 5051,
                total: Some(pb::Resources {
                    cpus_milli: 4000,
                    mem_milli: 4_000_000,
                    disk_milli: 4_000_000,
                    gpus_milli: 0,
                    ports: vec![pb::PortRange {
                        begin: 31000,
                        end: 31100,
                    }],
                    ..pb::Resources::default()
                }),
                ..pb::AgentInfo::default()
            }),
            tasks,
            applied_generation: 0,
            takes_changes: false,
            executors: Vec::new(),
            version: "0.1.0".into(),
        };
        say.send(message(Say::Register(register))).await.unwrap();
        let hear = SessionClient::new(channel)
            .connect(ReceiverStream::new(rx))
            .await
            .unwrap()
            .into_inner();
        let mut agent = Self { say, hear };
        let Hear::Registered(r) = agent.next().await else {
            panic!("the first message must be registered")
        };
        assert_eq!(r.heartbeat_interval_ms, 200);
        assert!(r.unknown_tasks.is_empty(), "{:?}", r.unknown_tasks);
        agent
    }

    async fn next(&mut self) -> Hear {
        timeout(PATIENCE, self.hear.message())
            .await
            .expect("a message in time")
            .unwrap()
            .expect("the stream goes on")
            .kind
            .expect("a known message")
    }

    /// The next message that `pick` wants; heartbeats are answered, others are skipped.
    async fn until<T>(&mut self, mut pick: impl FnMut(Hear) -> Option<T>) -> T {
        loop {
            let m = self.next().await;
            if matches!(m, Hear::Heartbeat(_)) {
                let beat = pb::Heartbeat { at_ms: 1 };
                self.say.send(message(Say::Heartbeat(beat))).await.unwrap();
            }
            if let Some(found) = pick(m) {
                return found;
            }
        }
    }

    async fn report(&self, task: &str, state: pb::TaskState) -> pb::TaskStatus {
        let status = pb::TaskStatus {
            task_id: task.into(),
            agent_id: "agent-1".into(),
            state: state.into(),
            health: pb::HealthState::HealthUnknown.into(),
            source: pb::StatusSource::SourceExecutor.into(),
            at_ms: 1,
            uuid: vec![7; 16],
            ..pb::TaskStatus::default()
        };
        let say = message(Say::Status(status.clone()));
        self.say.send(say).await.unwrap();
        status
    }
}

fn message(kind: Say) -> AgentMessage {
    AgentMessage { kind: Some(kind) }
}

fn desired(m: Hear) -> Option<NetSnapshot> {
    match m {
        Hear::Desired(d) => Some(NetSnapshot::try_from(d).unwrap()),
        _ => None,
    }
}

const APP: &str = r#"{"id": "/web", "cmd": "sleep 100", "cpus": 0.1, "mem": 32, "instances": 1,
    "portDefinitions": [{"port": 0, "labels": {"VIP_0": "/web:80"}}]}"#;
const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_definition_to_snapshot_and_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("master.db");
    let master = Master::start(&store).await;
    let mut agent = FakeAgent::register(&master, Vec::new()).await;

    let (status, body) = master
        .http(
            "POST",
            "/v2/apps",
            &format!("traceparent: {CALLER}\r\n"),
            APP,
        )
        .await;
    assert_eq!(status, 201, "{body}");
    let spec = agent
        .until(|m| match m {
            Hear::Launch(l) => l.spec,
            _ => None,
        })
        .await;
    let trace: TraceContext = spec.traceparent.parse().unwrap();
    let caller: TraceContext = CALLER.parse().unwrap();
    assert_eq!(
        trace.trace_id, caller.trace_id,
        "one trace from the caller on"
    );
    assert_ne!(trace.span_id, caller.span_id);

    let running = agent
        .report(&spec.task_id, pb::TaskState::TaskRunning)
        .await;
    agent
        .until(|m| matches!(m, Hear::Ack(a) if a.uuid == [7; 16]).then_some(()))
        .await;
    let net = agent
        .until(|m| desired(m).filter(|n| !n.causes.is_empty()))
        .await;
    assert_eq!(net.causes[0].trace.trace_id, caller.trace_id);
    assert_eq!(net.vips.len(), 1);
    assert_eq!(net.tasks.len(), 1);
    let lease = net.vips.values().next().unwrap().ip;
    assert_eq!(lease.octets()[0], 11);
    // Views follow within some 20 ms; the agent's acknowledgement can be faster.
    let shown = async {
        loop {
            let (status, body) = master.http("GET", "/v2/apps//web", "", "").await;
            assert_eq!(status, 200, "{body}");
            if body.contains(r#""tasksRunning":1"#) {
                break;
            }
        }
    };
    timeout(PATIENCE, shown).await.unwrap();
    let (status, body) = master
        .http("POST", "/v2/apps", "", &APP.replace("\"/web\"", "\"/b\""))
        .await;
    assert_eq!(status, 422, "{body}");
    assert!(body.contains("portDefinitions[0].labels.VIP_0"), "{body}");
    master.stop().await;

    let master = Master::start(&store).await;
    let task = pb::RegisteredTask {
        spec: Some(spec.clone()),
        latest: Some(running),
    };
    let mut agent = FakeAgent::register(&master, vec![task]).await;
    let again = agent
        .until(|m| {
            assert!(!matches!(m, Hear::Launch(_)), "nothing is started twice");
            desired(m)
        })
        .await;
    assert!(again.generation > net.generation);
    assert_eq!(again.vips.values().next().unwrap().ip, lease);
    assert_eq!(again.tasks.keys().next().unwrap().as_str(), spec.task_id);

    let (status, body) = master.http("DELETE", "/v2/apps/web", "", "").await;
    assert_eq!(status, 200, "{body}");
    agent
        .until(|m| matches!(m, Hear::Kill(k) if k.task_id == spec.task_id).then_some(()))
        .await;
    agent.report(&spec.task_id, pb::TaskState::TaskKilled).await;
    agent
        .until(|m| desired(m).filter(|n| n.vips.is_empty() && n.tasks.is_empty()))
        .await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_abdicates_leads_again_with_what_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(&dir.path().join("master.db")).await;
    let mut agent = FakeAgent::register(&master, Vec::new()).await;
    let (status, body) = master.http("POST", "/v2/apps", "", APP).await;
    assert_eq!(status, 201, "{body}");
    let launched = |m: Hear| match m {
        Hear::Launch(l) => l.spec,
        _ => None,
    };
    let spec = agent.until(launched).await;
    let running = agent
        .report(&spec.task_id, pb::TaskState::TaskRunning)
        .await;
    agent
        .until(|m| matches!(m, Hear::Ack(_)).then_some(()))
        .await;
    let events = master.marathon;
    let events = tokio::spawn(async move { exchange(events, "GET", "/v2/events", "", "").await.1 });
    let (status, body) = master.http("DELETE", "/v2/leader?backup=x", "", "").await;
    assert_eq!(status, 422, "{body}");
    let (status, body) = master
        .http("DELETE", "/service/marathon/v2/leader", "", "")
        .await;
    assert_eq!(
        (status, body.as_str()),
        (200, r#"{"message":"Leadership abdicated"}"#)
    );
    let heard = timeout(PATIENCE, events).await.unwrap().unwrap();
    assert!(heard.contains("event_stream_attached"), "{heard}");

    // The next lead: nothing was refused meanwhile, and nothing is started twice.
    let task = pb::RegisteredTask {
        spec: Some(spec.clone()),
        latest: Some(running),
    };
    let mut agent = FakeAgent::register(&master, vec![task]).await;
    agent
        .until(|m| {
            assert!(!matches!(m, Hear::Launch(_)), "nothing is started twice");
            desired(m)
        })
        .await;
    let (status, _) = master.http("DELETE", "/v2/apps/web", "", "").await;
    assert_eq!(status, 200);
    agent
        .until(|m| matches!(m, Hear::Kill(k) if k.task_id == spec.task_id).then_some(()))
        .await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_store_delays_answers_and_loses_nothing() {
    let store = MemoryStore::new();
    let master = Master::start_on(Arc::new(store.clone())).await;
    // Once a request is answered, the set-up's own writes are through.
    let (status, _) = master.http("GET", "/v2/apps", "", "").await;
    assert_eq!(status, 200);
    store.fail_next(2);
    let (status, body) = master.http("POST", "/v2/apps", "", APP).await;
    assert_eq!(status, 201, "{body}");
    assert!(store.get("services/web").await.unwrap().is_some());
    assert_eq!(store.range("vips/").await.unwrap().len(), 1);
    master.stop().await;
}

#[tokio::test]
async fn a_stand_by_redirects_and_answers_what_clients_probe() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let leader = Leader {
        mesos: "192.168.77.1:5050".parse().unwrap(),
        marathon: "192.168.77.1:8080".parse().unwrap(),
    };
    let stop = CancellationToken::new();
    let listeners = RedirectListeners {
        mesos: other,
        marathon: listener,
    };
    let task = tokio::spawn(redirect::run(leader, listeners, stop.clone()));
    let (head, _) = exchange(at, "GET", "/v2/apps//web?x=1", "", "").await;
    assert!(head.starts_with("HTTP/1.1 307"), "{head}");
    assert!(
        head.contains("location: //192.168.77.1:8080/v2/apps//web?x=1"),
        "{head}"
    );
    let (head, body) = exchange(at, "GET", "/version", "", "").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(body.contains("version"), "{body}");
    stop.cancel();
    timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_does_not_register_is_refused_by_field() {
    let dir = tempfile::tempdir().unwrap();
    let master = Master::start(&dir.path().join("master.db")).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", master.session))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = SessionClient::new(channel);
    let beat = message(Say::Heartbeat(pb::Heartbeat { at_ms: 1 }));
    let refused = client
        .connect(tokio_stream::iter([beat]))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let empty = message(Say::Register(pb::Register::default()));
    let refused = client
        .connect(tokio_stream::iter([empty]))
        .await
        .unwrap_err();
    assert!(refused.message().contains("agent"), "{refused}");
    master.stop().await;
}

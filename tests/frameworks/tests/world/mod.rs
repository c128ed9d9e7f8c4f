//! A real master on loopback for tests of frameworks, and its HTTP API.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod grabber;
pub mod mesos;
pub mod scene;
pub mod talk;
pub mod wire;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use waggle_master::{
    MasterConfig, MasterError, MasterListeners,
    store::{MemoryStore, Store},
};
use waggle_telemetry::Telemetry;
use waggle_tests_frameworks::agent::{self, Books};
use waggle_types::{AgentInfo, FrameworkInfo, Millis};

pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long an offer stands in these tests.
pub const OFFER_TIMEOUT: Millis = Millis(250);

pub struct Master {
    pub mesos: SocketAddr,
    pub marathon: SocketAddr,
    pub session: SocketAddr,
    pub stop: CancellationToken,
    pub task: JoinHandle<Result<(), MasterError>>,
}

impl Master {
    pub async fn start(store: MemoryStore) -> Self {
        Self::start_with(store, OFFER_TIMEOUT).await
    }

    /// With offers that stand for so long.
    pub async fn start_with(store: MemoryStore, offer_timeout: Millis) -> Self {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let (mesos, marathon, session) = (
            bind().await.unwrap(),
            bind().await.unwrap(),
            bind().await.unwrap(),
        );
        let stop = CancellationToken::new();
        let config = MasterConfig {
            heartbeat_interval: Millis(200),
            agent_timeout: Millis(5000),
            recovery_grace: Millis(10_000),
            offer_timeout,
            ..MasterConfig::new("n1", Ipv4Addr::LOCALHOST, "unused")
        };
        let at = |l: &TcpListener| l.local_addr().unwrap();
        let (a, b, c) = (at(&mesos), at(&marathon), at(&session));
        let listeners = MasterListeners {
            mesos,
            marathon,
            session,
        };
        let store: Arc<dyn Store> = Arc::new(store);
        let task = tokio::spawn(waggle_master::run_on(
            config,
            listeners,
            store,
            Telemetry::disabled(),
            stop.clone(),
        ));
        Self {
            mesos: a,
            marathon: b,
            session: c,
            stop,
            task,
        }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }

    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.session))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    /// An agent that lives until the test ends.
    pub async fn agent(&self, n: u8, cpus: i64, books: &Books) -> JoinHandle<()> {
        self.agent_with(agent::info(n, cpus).unwrap(), books).await
    }

    /// One that says this of itself.
    pub async fn agent_with(&self, info: AgentInfo, books: &Books) -> JoinHandle<()> {
        let run = agent::run(self.channel().await, info, books.clone());
        tokio::spawn(async move {
            // How a session ends is the test's to judge.
            let _ = run.await;
        })
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = http(self.mesos, "GET", path, "").await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// An operator's request, which is taken.
    pub async fn ask(&self, method: &str, path: &str, body: &Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (status, answer) = http(self.mesos, method, path, &body).await;
        assert_eq!(status / 100, 2, "{method} {path}: {answer}");
    }

    /// Waits until the native API's answer is as wanted.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let shown = timeout(PATIENCE, async {
            loop {
                let v = self.get(path).await;
                if wanted(&v) {
                    return v;
                }
            }
        });
        if let Ok(v) = shown.await {
            return v;
        }
        panic!("{path} stays {}", self.get(path).await)
    }
}

pub async fn http(to: SocketAddr, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut s = TcpStream::connect(to).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    s.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, s.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

pub fn info(name: &str, failover_ms: u64) -> FrameworkInfo {
    FrameworkInfo {
        failover_timeout: Millis(failover_ms),
        ..FrameworkInfo::new(name, name)
    }
}

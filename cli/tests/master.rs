//! The binary against a real master on loopback, without agents: what people read.

#![allow(
    clippy::unwrap_used,
    reason = "a failed step of the set-up is a failed test"
)]

use std::{net::Ipv4Addr, process::Output, sync::Arc, time::Duration};

use tokio::{net::TcpListener, process::Command};
use tokio_util::sync::CancellationToken;
use waggle_agent::telemetry::Telemetry;
use waggle_master::{MasterConfig, MasterListeners, store::MemoryStore};

struct Master {
    mesos: String,
    marathon: String,
    stop: CancellationToken,
}

impl Master {
    async fn start() -> Self {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listeners = MasterListeners {
            mesos: bind().await.unwrap(),
            marathon: bind().await.unwrap(),
            session: bind().await.unwrap(),
        };
        let url = |l: &TcpListener| format!("http://{}", l.local_addr().unwrap());
        let master = Self {
            mesos: url(&listeners.mesos),
            marathon: url(&listeners.marathon),
            stop: CancellationToken::new(),
        };
        let config = MasterConfig::new("n1", Ipv4Addr::LOCALHOST, "unused");
        tokio::spawn(waggle_master::run_on(
            config,
            listeners,
            Arc::new(MemoryStore::new()),
            Telemetry::disabled(),
            master.stop.clone(),
        ));
        master
    }

    async fn waggle(&self, args: &[&str]) -> Output {
        let run = Command::new(env!("CARGO_BIN_EXE_waggle"))
            .args(args)
            .env("WAGGLE_MASTER", &self.mesos)
            .env("WAGGLE_MARATHON", &self.marathon)
            .output();
        tokio::time::timeout(Duration::from_secs(30), run)
            .await
            .unwrap()
            .unwrap()
    }

    /// Standard output of a command that succeeds.
    async fn says(&self, args: &[&str]) -> String {
        let out = self.waggle(args).await;
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{args:?}: {err}");
        String::from_utf8(out.stdout).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_shown_explained_restarted_and_rolled_back() {
    let m = Master::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.json");
    std::fs::write(&file, r#"{"id": "/web", "cmd": "sleep 9", "instances": 2}"#).unwrap();
    m.says(&["app", "add", file.to_str().unwrap()]).await;

    let shown = m.says(&["app", "show", "/web"]).await;
    assert!(
        shown.contains("waiting for  0 of 2 instances ready (start)"),
        "{shown}"
    );
    let why = m.says(&["explain", "app", "web"]).await;
    assert!(why.contains("/web: 0 of 2 instances run"), "{why}");
    assert!(why.contains("2 instances wait to be launched"), "{why}");
    let json = m.says(&["explain", "app", "web", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["instances"], 2);

    let locked = m.waggle(&["app", "restart", "/web"]).await;
    assert_eq!(locked.status.code(), Some(1));
    let text = String::from_utf8_lossy(&locked.stderr).into_owned();
    assert!(text.contains("locked by one or more deployments"), "{text}");
    let done = m.says(&["app", "restart", "/web", "--force"]).await;
    assert!(done.starts_with("deployment "), "{done}");

    let versions = m.says(&["app", "versions", "/web"]).await;
    let lines: Vec<&str> = versions.lines().collect();
    assert_eq!(lines.len(), 3, "{versions}");
    assert!(lines[1].ends_with("in force"), "{versions}");
    m.says(&["app", "scale", "/web", "5", "--force"]).await;
    let old = lines[2].split_whitespace().next().unwrap();
    let one = m.says(&["app", "versions", "/web", old]).await;
    let one: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one["instances"], 2);
    m.says(&["app", "rollback", "/web", old, "--force"]).await;
    let list = m.says(&["app", "list"]).await;
    assert!(list.contains("0/2"), "{list}");
    let none = m.waggle(&["app", "versions", "/none"]).await;
    assert_eq!(none.status.code(), Some(1));
    let frameworks = m.says(&["framework", "list"]).await;
    assert!(frameworks.contains("marathon"), "{frameworks}");
    let roles = m.says(&["role", "list"]).await;
    assert!(roles.contains("0.0 %"), "{roles}");
    let offers = m.says(&["offer", "list", "--json"]).await;
    assert_eq!(offers, "[]\n");
    m.stop.cancel();
}

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
        shown.contains("waiting for  0 of 2 instances ready ("),
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
    // Who waits for one is told how it ended: only its own end is a success.
    let done = m.says(&["app", "scale", "/web", "3", "--force"]).await;
    let id = done.split_whitespace().nth(1).unwrap();
    m.says(&["app", "scale", "/web", "4", "--force"]).await;
    for (id, how) in [
        (id, "a newer one took its place"),
        ("nobody", "does not exist"),
    ] {
        let watched = m.waggle(&["deployment", "watch", id]).await;
        assert_eq!(watched.status.code(), Some(1));
        let text = String::from_utf8_lossy(&watched.stderr).into_owned();
        assert!(text.contains(how), "{text}");
    }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_in_yaml_is_checked_compared_applied_and_waited_for() {
    let m = Master::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("app.yaml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    write("id: /shop/web\ncmd: sleep 9\ninstances: 2\nenv: {A: \"1\"}\n");
    let fine = m.says(&["app", "validate", path]).await;
    assert!(fine.ends_with("/shop/web is fine: 2 instances\n"), "{fine}");

    let diff = m.waggle(&["app", "diff", path]).await;
    assert_eq!(diff.status.code(), Some(1));
    let text = String::from_utf8(diff.stdout).unwrap();
    assert!(text.contains("+ env: {\"A\":\"1\"}\n"), "{text}");
    assert!(
        text.ends_with("/shop/web is new: 2 would start\n"),
        "{text}"
    );
    m.says(&["app", "add", path]).await;
    let same = m.says(&["app", "diff", path]).await;
    assert_eq!(same, "/shop/web would stay as it is\n");
    write("id: /shop/web\ncmd: sleep 9\ninstances: 3\nenv: {A: \"1\"}\n");
    let diff = m.waggle(&["app", "diff", path]).await;
    assert_eq!(diff.status.code(), Some(1));
    let text = String::from_utf8(diff.stdout).unwrap();
    assert_eq!(
        text,
        "~ instances: 2 -> 3\n/shop/web would be scaled from 2 to 3\n"
    );

    // Nothing runs anything here: waiting says what for, and gives up.
    let args = [
        "app",
        "update",
        path,
        "--force",
        "--wait",
        "--timeout",
        "1s",
    ];
    let out = m.waggle(&args).await;
    assert_eq!(out.status.code(), Some(1));
    let err = String::from_utf8(out.stderr).unwrap();
    assert!(
        err.contains("/shop/web: scale: 0 of 3 instances ready\n"),
        "{err}"
    );
    let never = "/shop/web: of 3 instances 0 could ever run on the nodes that there are (0):\n";
    assert!(err.starts_with(never), "{err}");
    assert!(
        err.contains(
            "is not over after 1s: /shop/web: scale: 0 of 3 instances ready\n\
             /shop/web: 3 instances wait\n"
        ),
        "{err}"
    );
    assert_eq!(m.says(&["app", "diff", path]).await, same);
    let queue = m.says(&["queue"]).await;
    assert!(queue.contains("/shop/web  3"), "{queue}");
    m.says(&["queue", "reset", "/shop/web"]).await;
    assert_eq!(
        m.waggle(&["queue", "reset", "/no"]).await.status.code(),
        Some(1)
    );
    assert_eq!(m.says(&["logs", "/shop/web"]).await, "");
    assert_eq!(m.waggle(&["logs", "/no"]).await.status.code(), Some(1));

    let version = m.says(&["version"]).await;
    assert!(version.contains("Marathon API  1."), "{version}");
    let schema = m.says(&["schema", "app"]).await;
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(
        schema["properties"]["killSelection"]["enum"][1],
        "OLDEST_FIRST"
    );

    write("id: /shop/web\ncmd: x\ncpus: -1\nmem: much\n");
    let bad = m.waggle(&["app", "validate", path]).await;
    assert_eq!(bad.status.code(), Some(2));
    let err = String::from_utf8(bad.stderr).unwrap();
    for rule in ["cpus: must not be negative, is -1", "mem: must be a number"] {
        assert!(err.contains(rule), "{err}");
    }
    m.stop.cancel();
}

//! A real `waggle master` process with emulated agents, operated as a person would: set, look, restart the
//! master, look again, undo.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of the set-up is a failed test"
)]

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};
use tonic::transport::Endpoint;
use waggle_api::client::connect;
use waggle_tests_frameworks::agent::{self, Books};
use waggle_types::{FrameworkInfo, Millis, SchedulerEvent};

const PATIENCE: Duration = Duration::from_secs(30);

/// Ports that were free a moment ago.
struct Ports {
    master: u16,
    marathon: u16,
    session: u16,
}

impl Ports {
    async fn free() -> Self {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let held = [bind().await, bind().await, bind().await].map(Result::unwrap);
        let [master, marathon, session] = held.map(|l| l.local_addr().unwrap().port());
        Self {
            master,
            marathon,
            session,
        }
    }
}

struct Master {
    process: Child,
    ports: Ports,
    agents: Vec<JoinHandle<()>>,
}

impl Master {
    /// Starts the process, and agents `n1` and `n2` with what they still run.
    async fn start(work_dir: &Path, ports: Ports, books: &[Books; 2]) -> Self {
        let flag = |name: &str, port: u16| [format!("--{name}-port"), port.to_string()];
        let process = Command::new(env!("CARGO_BIN_EXE_waggle"))
            .args([
                "master",
                "--name",
                "m1",
                "--agent-timeout",
                "60s",
                "--log",
                "warn",
            ])
            .arg("--work-dir")
            .arg(work_dir)
            .args(flag("master", ports.master))
            .args(flag("marathon", ports.marathon))
            .args(flag("session", ports.session))
            .env_remove("WAGGLE_CONFIG")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut master = Self {
            process,
            ports,
            agents: Vec::new(),
        };
        for (n, books) in (1..).zip(books) {
            master.agents.push(master.agent(n, books).await);
        }
        let both = |v: &Value| {
            let all = v.as_array().unwrap();
            all.len() == 2 && all.iter().all(|n| n["connected"] == true)
        };
        master.until(&["node", "list"], both).await;
        master
    }

    /// An agent with a session, as soon as the master listens.
    async fn agent(&self, n: u8, books: &Books) -> JoinHandle<()> {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.session));
        let endpoint = Endpoint::from_shared(format!("http://{at}")).unwrap();
        let channel = poll(async || endpoint.connect().await.ok()).await;
        let info = agent::info(n, 4).unwrap();
        let run = agent::run(channel, info, books.clone());
        tokio::spawn(async move {
            // How a session ends is the test's to judge.
            let _ = run.await;
        })
    }

    /// SIGTERM, as a service manager does it.
    async fn stop(mut self) -> Ports {
        let pid = self.process.id().unwrap();
        let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let ended = timeout(PATIENCE, self.process.wait()).await.unwrap();
        assert!(ended.unwrap().success());
        for agent in self.agents {
            agent.abort();
        }
        self.ports
    }

    async fn waggle(&self, args: &[&str]) -> Output {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let run = Command::new(env!("CARGO_BIN_EXE_waggle"))
            .args(args)
            .env("WAGGLE_MASTER", url(self.ports.master))
            .env("WAGGLE_MARATHON", url(self.ports.marathon))
            .output();
        timeout(PATIENCE, run).await.unwrap().unwrap()
    }

    /// Standard output of a command that succeeds.
    async fn says(&self, args: &[&str]) -> String {
        let out = self.waggle(args).await;
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{args:?}: {err}");
        String::from_utf8(out.stdout).unwrap()
    }

    /// The same as data.
    async fn json(&self, args: &[&str]) -> Value {
        let text = self.says(&[args, &["--json"]].concat()).await;
        serde_json::from_str(&text).unwrap()
    }

    /// Exit code and standard error of a command that does not succeed.
    async fn fails(&self, args: &[&str]) -> (i32, String) {
        let out = self.waggle(args).await;
        let err = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success(), "{args:?}");
        (out.status.code().unwrap(), err)
    }

    /// Waits until a command's answer is as wanted.
    async fn until(&self, args: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        poll(async || {
            let out = self.waggle(&[args, &["--json"]].concat()).await;
            let value = serde_json::from_slice::<Value>(&out.stdout).ok();
            value.filter(|v| out.status.success() && wanted(v))
        })
        .await
    }
}

/// Asks until there is an answer.
async fn poll<T>(ask: impl AsyncFn() -> Option<T>) -> T {
    let mut interval = tokio::time::interval(Duration::from_millis(20));
    let found = timeout(PATIENCE, async {
        loop {
            interval.tick().await;
            if let Some(found) = ask().await {
                return found;
            }
        }
    });
    found.await.expect("in time")
}

const RESERVED: [&str; 6] = ["--agent", "n1", "--role", "eng", "--principal", "ops"];

/// What was set, as every master that has the store shows it.
async fn all_is_there(m: &Master) {
    let weights = m.json(&["weight", "list"]).await;
    assert_eq!(weights, json!([{"role": "eng", "weight": 2.5}]));
    let quotas = m.json(&["quota", "list"]).await;
    assert_eq!(quotas[0]["role"], "eng");
    assert_eq!(quotas[0]["guarantee"], json!({"cpus": 2, "mem": 1024}));
    assert_eq!(quotas[0]["limit"], json!({"cpus": 6}));

    let reserved = m.json(&["reservation", "list"]).await;
    let roles = |s: &Value| {
        let stack = s["stack"].as_array().unwrap();
        let roles = stack.iter().map(|r| r["role"].as_str().unwrap().to_owned());
        roles.collect::<Vec<_>>().join(">")
    };
    let of = |path: &str| {
        let all = reserved.as_array().unwrap();
        let found = all.iter().find(|s| roles(s) == path);
        found
            .unwrap_or_else(|| panic!("{path}: {reserved:#}"))
            .clone()
    };
    let outer = of("eng");
    assert_eq!(outer["hostname"], "n1");
    assert_eq!(outer["resources"]["mem"], 1024);
    assert_eq!(outer["stack"][0]["principal"], "ops");
    assert_eq!(outer["stack"][0]["labels"], json!({"rack": "1"}));
    assert_eq!(outer["volumes"][0]["id"], "db");
    assert_eq!(outer["volumes"][0]["size"], 1536);
    assert_eq!(of("eng>eng/web")["resources"]["cpus"], 0.5);

    let maintenance = m.json(&["maintenance", "list"]).await;
    assert_eq!(maintenance[0]["hostname"], "n1");
    assert_eq!(maintenance[0]["window"]["duration_ms"], 1_800_000);
    let nodes = m.json(&["node", "list"]).await;
    assert_eq!(nodes[0]["mode"], "active");
    assert_eq!(nodes[1]["mode"], "drained");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_operators_set_outlives_the_master() {
    let dir = tempfile::tempdir().unwrap();
    let books = [Books::default(), Books::default()];
    let ports = Ports::free().await;
    let m = Master::start(dir.path(), ports, &books).await;

    assert_eq!(
        m.says(&["weight", "set", "eng", "2.5"]).await,
        "eng: weight 2.5\n"
    );
    let quota = [
        "quota",
        "set",
        "eng",
        "--guarantee",
        "cpus=2,mem=1024",
        "--limit",
        "cpus=6",
    ];
    assert_eq!(
        m.says(&quota).await,
        "eng: guarantee cpus 2, mem 1 GiB; limit cpus 6\n"
    );
    let more = [
        "--resources",
        "cpus:1.5;mem:1024;disk:2048",
        "--label",
        "rack=1",
    ];
    let added = m
        .says(&[&["reservation", "add"], &RESERVED[..], &more].concat())
        .await;
    assert!(added.contains("cpus 1.5, mem 1 GiB, disk 2 GiB"), "{added}");
    let refine = [
        "reservation",
        "add",
        "--agent",
        "n1",
        "--role",
        "eng",
        "--role",
        "eng/web",
        "--resources",
        "cpus:0.5",
    ];
    let refined = m.says(&refine).await;
    assert!(refined.contains("eng > eng/web"), "{refined}");
    let create = ["volume", "create", "db", "--size", "1.5GiB"];
    assert_eq!(
        m.says(&[&create, &RESERVED[..]].concat()).await,
        "db: 1.5 GiB of eng on n1\n"
    );
    let plan = [
        "maintenance",
        "schedule",
        "--agent",
        "n1",
        "--start",
        "+2h",
        "--duration",
        "30m",
    ];
    let planned = m.says(&plan).await;
    assert!(planned.contains(", for 30 min"), "{planned}");
    let drained = m.says(&["node", "drain", "n2", "--max-grace", "10s"]).await;
    assert!(drained.starts_with("n2: drain"), "{drained}");
    let empty = |v: &Value| v[1]["mode"] == "drained";
    m.until(&["node", "list"], empty).await;
    all_is_there(&m).await;

    let ports = m.stop().await;
    let m = Master::start(dir.path(), ports, &books).await;
    all_is_there(&m).await;

    // People's views of the same, and why nothing is offered.
    let node = m.says(&["explain", "agent", "n2"]).await;
    assert!(node.starts_with("n2: drained"), "{node}");
    let role = m.says(&["explain", "role", "eng"]).await;
    assert!(role.contains("by its weight of 2.5"), "{role}");
    assert!(role.contains("promised cpus 2, mem 1 GiB"), "{role}");
    let shown = m.says(&["role", "show", "eng"]).await;
    assert!(shown.contains("guarantee    cpus 2, mem 1 GiB"), "{shown}");
    let framework = m.says(&["explain", "framework", "marathon"]).await;
    assert!(framework.starts_with("marathon ("), "{framework}");
    let listed = m.says(&["node", "list"]).await;
    assert!(listed.contains("connected, drained"), "{listed}");
    assert!(listed.contains("for 30 min"), "{listed}");
    let volumes = m.says(&["volume", "list"]).await;
    assert!(
        volumes.contains("db      n1    eng          1.5 GiB"),
        "{volumes}"
    );

    // And all of it undone.
    m.says(&["volume", "destroy", "db"]).await;
    let refined = [&RESERVED[..4], &["--role", "eng/web"]].concat();
    m.says(&[&["reservation", "remove"], refined.as_slice()].concat())
        .await;
    let left = m
        .says(&[&["reservation", "remove"], &RESERVED[..]].concat())
        .await;
    assert_eq!(left, "n1: nothing is reserved\n");
    m.says(&["maintenance", "cancel", "--agent", "n1"]).await;
    m.says(&["quota", "remove", "eng"]).await;
    m.says(&["weight", "remove", "eng"]).await;
    assert!(
        m.says(&["node", "activate", "n2"])
            .await
            .starts_with("n2: active")
    );
    for list in ["weight", "quota", "reservation", "volume", "maintenance"] {
        assert_eq!(m.json(&[list, "list"]).await, json!([]), "{list}");
    }
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_names_and_impossible_wishes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let books = [Books::default(), Books::default()];
    let m = Master::start(dir.path(), Ports::free().await, &books).await;
    let past = [
        "maintenance",
        "schedule",
        "--agent",
        "n1",
        "--start",
        "2020-01-01T00:00:00Z",
        "--duration",
        "1h",
    ];
    let cases: [(&[&str], i32, &str); 14] = [
        (&["node", "drain", "n3"], 1, "did you mean \"n"),
        (
            &["explain", "agent", "agent-11"],
            1,
            "did you mean \"agent-1\"?",
        ),
        (
            &["framework", "teardown", "maraton"],
            1,
            "did you mean \"marathon\"?",
        ),
        (&["framework", "teardown", "marathon"], 1, "own framework"),
        (
            &["explain", "role", "nobody"],
            1,
            "no framework, weight, quota",
        ),
        (&["quota", "remove", "eng"], 1, "has no quota"),
        (
            &["quota", "set", "eng", "--guarantee", "cpus=100"],
            2,
            "eng",
        ),
        (
            &[
                "quota",
                "set",
                "eng",
                "--guarantee",
                "cpus=2",
                "--limit",
                "cpus=1",
            ],
            2,
            "eng",
        ),
        (
            &["weight", "set", "eng", "-1"],
            2,
            "weight: must not be negative",
        ),
        (
            &[
                "reservation",
                "add",
                "--agent",
                "n1",
                "--role",
                "eng",
                "--resources",
                "cpus:5",
            ],
            1,
            "cpus:5",
        ),
        (
            &["reservation", "remove", "--agent", "n1", "--role", "eng"],
            2,
            "n1 has no such reservation eng",
        ),
        (&["volume", "destroy", "db"], 2, "there is no volume \"db\""),
        (&past, 2, "window: must not be over already"),
        (
            &["maintenance", "cancel", "--agent", "n1,agent-1"],
            2,
            "agents[1]: must be named once",
        ),
    ];
    for (args, code, says) in cases {
        let (exit, err) = m.fails(args).await;
        assert_eq!(exit, code, "{args:?}: {err}");
        assert!(err.contains(says), "{args:?}: {err}");
        assert!(err.starts_with("waggle: "), "{args:?}: {err}");
    }
    // Nothing of it was done.
    for list in ["weight", "quota", "reservation"] {
        assert_eq!(m.json(&[list, "list"]).await, json!([]), "{list}");
    }
    // Over what the cluster has, when that is what is meant.
    let force = ["quota", "set", "eng", "--guarantee", "cpus=100", "--force"];
    assert_eq!(m.says(&force).await, "eng: guarantee cpus 100\n");
    m.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frameworks_are_seen_asked_to_leave_and_torn_down() {
    let dir = tempfile::tempdir().unwrap();
    let books = [Books::default(), Books::default()];
    let m = Master::start(dir.path(), Ports::free().await, &books).await;
    let at = format!("http://127.0.0.1:{}", m.ports.session);
    let channel = Endpoint::from_shared(at).unwrap().connect().await.unwrap();
    let info = FrameworkInfo {
        failover_timeout: Millis(60_000),
        ..FrameworkInfo::new("lab", "eng/lab")
    };
    let (_calls, mut events) = connect(channel, &info).await.unwrap();
    let offered = timeout(PATIENCE, async {
        while !matches!(events.next().await, Ok(Some(SchedulerEvent::Offers(_)))) {}
    });
    offered.await.expect("it is offered something");

    let shown = m.says(&["framework", "show", "lab"]).await;
    assert!(shown.contains("roles          eng/lab"), "{shown}");
    let held = |v: &Value| {
        v.as_array()
            .is_some_and(|all| all.iter().any(|o| o["framework"] == "lab"))
    };
    let offers = m.until(&["offer", "list"], held).await;
    assert_eq!(offers[0]["role"], "eng/lab", "{offers:#}");
    let why = m.json(&["explain", "framework", "lab"]).await;
    assert_eq!(why["roles"][0]["role"], "eng/lab");
    let role = m.json(&["explain", "role", "eng/lab"]).await;
    assert_eq!(role["frameworks"][0]["name"], "lab");
    let parent = m.json(&["explain", "role", "eng"]).await;
    assert_eq!(parent["subroles"], json!(["eng/lab"]));
    let (code, err) = m.fails(&["explain", "framework", "lob"]).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("did you mean \"lab\"?"), "{err}");

    let gone = m.says(&["framework", "teardown", "lab"]).await;
    assert_eq!(gone, "lab: torn down, its tasks are killed\n");
    let alone = |v: &Value| v.as_array().is_some_and(|all| all.len() == 1);
    m.until(&["framework", "list"], alone).await;
    m.stop().await;
}

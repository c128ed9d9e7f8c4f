//! A real `waggle master` process with emulated agents, operated as a person would: set, look, restart the
//! master, look again, undo.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of the set-up is a failed test"
)]

mod groups;
mod harness;

use serde_json::{Value, json};
use tokio::time::timeout;
use waggle_api::client::{Events, connect};
use waggle_tests_frameworks::agent::Books;
use waggle_types::{
    Command, DiscoveryInfo, FrameworkId, FrameworkInfo, Millis, Resources, SchedulerEvent, TaskId,
    TaskSpec,
};

use harness::{Master, PATIENCE, own_address};

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
    let ip = own_address();
    let m = Master::start(dir.path(), ip, &books).await;

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

    let ip = m.stop().await;
    let m = Master::start(dir.path(), ip, &books).await;
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
    let resized = m.says(&["volume", "resize", "db", "--size", "1GiB"]).await;
    assert_eq!(resized, "db: 1 GiB on n1\n");
    m.says(&["volume", "destroy", "db", "--yes"]).await;
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
    let m = Master::start(dir.path(), own_address(), &books).await;
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

/// The first event that is wanted.
async fn event<T>(events: &mut Events, wanted: impl Fn(SchedulerEvent) -> Option<T>) -> T {
    let found = timeout(PATIENCE, async {
        loop {
            let next = events.next().await.unwrap().expect("the stream is open");
            if let Some(found) = wanted(next) {
                return found;
            }
        }
    });
    found.await.expect("in time")
}

fn task(id: &str) -> TaskSpec {
    TaskSpec {
        container: waggle_types::ContainerSpec::default(),
        task_id: TaskId::new(id).unwrap(),
        framework_id: FrameworkId::new("set-by-the-master").unwrap(),
        framework_name: String::new(),
        role: String::new(),
        name: id.into(),
        command: Command::Shell("serve".into()),
        env: [].into(),
        labels: [].into(),
        resources: Resources::from_millis(500, 64_000, 0),
        parts: Vec::new(),
        ports: Vec::new(),
        discovery: DiscoveryInfo { name: id.into() },
        health_checks: Vec::new(),
        kill_grace: Millis(1000),
        user: None,
        service: String::new(),
        service_version: String::new(),
        trace: None,
        executor: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frameworks_are_seen_asked_to_leave_and_torn_down() {
    let dir = tempfile::tempdir().unwrap();
    let books = [Books::default(), Books::default()];
    let m = Master::start(dir.path(), own_address(), &books).await;
    let info = FrameworkInfo {
        failover_timeout: Millis(60_000),
        ..FrameworkInfo::new("lab", "eng/lab")
    };
    let (mut calls, mut events) = connect(m.channel().await, &info).await.unwrap();
    let offers = event(&mut events, |e| match e {
        SchedulerEvent::Offers(offers) => Some(offers),
        _ => None,
    });
    let offer = offers.await.remove(0);

    let shown = m.says(&["framework", "show", "lab"]).await;
    assert!(shown.contains("roles          eng/lab"), "{shown}");
    let held = |v: &Value| {
        let all = v.as_array().unwrap();
        all.iter().any(|o| o["framework"] == "lab")
    };
    let listed = m.until(&["offer", "list"], held).await;
    assert_eq!(listed[0]["role"], "eng/lab", "{listed:#}");
    let role = m.json(&["explain", "role", "eng/lab"]).await;
    assert_eq!(role["frameworks"][0]["name"], "lab");
    let parent = m.json(&["explain", "role", "eng"]).await;
    assert_eq!(parent["subroles"], json!(["eng/lab"]));
    let (code, err) = m.fails(&["explain", "framework", "lob"]).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("did you mean \"lab\"?"), "{err}");

    // It uses a node that will be down, is asked to leave, and says that it will.
    let host = offer.hostname.as_str();
    let ids = [offer.offer_id.clone()];
    let tasks = [task("lab-1")];
    let launch = calls.accept(&ids, &tasks, Millis(600_000), None);
    launch.await.unwrap();
    let why = m.json(&["explain", "framework", "lab"]).await;
    let here = why["roles"][0]["agents"].as_array().unwrap();
    let here = here.iter().find(|a| a["hostname"] == host).unwrap();
    assert_eq!(here["code"], "filtered", "{why:#}");
    m.says(&["maintenance", "schedule", "--agent", host, "--start", "+1h"])
        .await;
    let inverse = event(&mut events, |e| match e {
        SchedulerEvent::InverseOffer(i) => Some(i.offer_id),
        _ => None,
    });
    let inverse = inverse.await;
    let asked = m.json(&["maintenance", "list"]).await;
    let lab = json!({"framework_id": calls.framework_id().as_str(), "framework": "lab",
        "answer": "asked", "again_ms": null, "tasks": 1});
    assert_eq!(asked[0]["asked"], json!([lab]));
    calls.accept_inverse(&[inverse]).await.unwrap();
    let accepted = |v: &Value| v[0]["asked"][0]["answer"] == "accepted";
    m.until(&["maintenance", "list"], accepted).await;
    let table = m.says(&["maintenance", "list"]).await;
    assert!(table.contains("lab accepted (1 task)"), "{table}");

    let gone = m.says(&["framework", "teardown", "lab"]).await;
    assert_eq!(gone, "lab: torn down, its tasks are killed\n");
    let alone = |v: &Value| v.as_array().is_some_and(|all| all.len() == 1);
    m.until(&["framework", "list"], alone).await;
    let none = |v: &Value| *v == json!([]);
    m.until(&["task", "list"], none).await;
    m.stop().await;
}

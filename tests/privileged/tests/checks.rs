//! Readiness and start checks of apps, end to end: what a check says is in VIPs, deployments and the API at once; and what
//! an app's `LB_` labels do to connects.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json};
use waggle_tests_privileged::{LIMIT, can_run, shared};
use waggle_tests_support::{
    cgroup,
    cluster::port,
    process,
    scenario::{App, Task, World, deploy, remove},
    wait_until,
};

/// Serves its sandbox and is ready when there is a file `ready` in it.
const LATE: &str = "exec python3 -m http.server $PORT0";
const DOMAIN: &str = "marathon.l4lb.thisdcos.directory";

fn post(world: &World, app: &Value) -> anyhow::Result<App> {
    let cluster = &world.cluster;
    let body = app.to_string();
    let at = cluster.leader(port::MARATHON);
    let answer = cluster
        .client()
        .request("POST", at, "/v2/apps", Some(body.as_bytes()), &[])?;
    anyhow::ensure!(answer.status == 201, "{}: {}", answer.status, answer.body);
    Ok(App {
        id: app["id"].as_str().context("no id")?.to_owned(),
        deployment: String::new(),
        accepted: Duration::ZERO,
        running: Duration::ZERO,
        healthy: Duration::ZERO,
        deployed: Duration::ZERO,
        instances: 1,
    })
}

fn get(world: &World, path: &str) -> anyhow::Result<Value> {
    let at: SocketAddr = world.cluster.leader(port::MARATHON);
    world.cluster.client().get(at, path)?.ok()?.json()
}

/// The python process of a task.
fn pid(world: &World, task: &Task) -> anyhow::Result<i32> {
    let node = task.node(&world.cluster)?;
    let is_its = |pid: &i32| {
        process::comm(*pid) == "python3"
            && std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|t| t.contains(&task.id))
    };
    cgroup::pids_below(&node.cgroup)
        .into_iter()
        .find(is_its)
        .with_context(|| format!("no process of {}", task.id))
}

/// Whether a request to the VIP is answered, asked from a node.
fn answers(world: &World, node: &str, name: &str) -> bool {
    let url = format!("http://{name}.{DOMAIN}/");
    let curl = world.cluster.command(node, "curl");
    curl.and_then(|mut c| {
        let out = c
            .args(["-s", "-m", "2", "-o", "/dev/null", &url])
            .output()?;
        Ok(out.status.success())
    })
    .unwrap_or(false)
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_until(LIMIT, what, || holds().then_some(())).unwrap();
}

#[test]
fn an_app_that_gets_ready_late_gets_its_connections_late() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let app = post(
        world,
        &json!({
            "id": "/late", "cmd": LATE, "cpus": 0.1, "mem": 64, "instances": 1,
            "portDefinitions": [{"port": 0, "name": "http-api", "labels": {"VIP_0": "/late:80"}}],
            "healthChecks": [{"protocol": "MESOS_TCP", "portIndex": 0, "intervalSeconds": 1,
                "gracePeriodSeconds": 30}],
            "readinessChecks": [{"name": "warm", "path": "/ready", "intervalSeconds": 1,
                "timeoutSeconds": 0.9}]
        }),
    )
    .unwrap();
    let shown = |world: &World| app.show(&world.cluster).unwrap_or_default();
    until("the instance to be healthy", || {
        shown(world)["tasksHealthy"] == 1
    });
    // Healthy is not ready: the deployment goes on and says why, and nobody is sent there.
    let task = app.tasks(&world.cluster).unwrap().remove(0);
    let first = pid(world, &task).unwrap();
    let deployments = get(world, "/v2/deployments").unwrap();
    let of_app = |d: &&Value| d["affectedApps"][0] == "/late";
    let list = deployments.as_array().unwrap();
    let mine = list.iter().find(of_app).expect("it is still deployed");
    let unready = json!([{"name": "warm", "taskId": task.id, "ready": false}]);
    assert_eq!(mine["currentActions"][0]["readinessCheckResults"], unready);
    assert_eq!(shown(world)["readinessCheckResults"], unready);
    for node in ["n1", "n2", "n3"] {
        assert!(
            !answers(world, node, "late"),
            "{node} sends connections there"
        );
    }
    let mark = PathBuf::from(format!("/proc/{first}/cwd/ready"));
    std::fs::write(&mark, "yes").unwrap();
    until("the deployment's end", || {
        shown(world)["deployments"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
    for node in ["n1", "n2", "n3"] {
        until("the VIP to answer", || answers(world, node, "late"));
    }
    assert_eq!(shown(world)["readinessCheckResults"][0]["ready"], true);
    // Not ready any more: it is left alone and gets nothing new; and comes back.
    std::fs::remove_file(&mark).unwrap();
    for node in ["n1", "n2", "n3"] {
        until("the VIP to refuse", || !answers(world, node, "late"));
    }
    assert_eq!(shown(world)["readinessCheckResults"][0]["ready"], false);
    assert_eq!(
        shown(world)["tasksHealthy"],
        1,
        "its health is another matter"
    );
    std::fs::write(&mark, "yes").unwrap();
    until("the VIP to answer again", || answers(world, "n2", "late"));
    let same = app.tasks(&world.cluster).unwrap().remove(0);
    assert_eq!(same.id, task.id);
    assert_eq!(pid(world, &same).unwrap(), first, "never killed");
    remove(&world.cluster, &app.id, LIMIT).unwrap();
}

#[test]
fn a_start_that_fails_is_ended_and_no_other_check_runs_before_it() {
    if !can_run() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mark, started) = (dir.path().join("asked"), dir.path().join("started"));
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let app = post(
        world,
        &json!({
            "id": "/starts", "cmd": "exec sleep 600", "cpus": 0.1, "mem": 32, "instances": 1,
            "backoffSeconds": 0.1, "maxLaunchDelaySeconds": 1, "taskKillGracePeriodSeconds": 1,
            "portDefinitions": [],
            "healthChecks": [
                {"protocol": "COMMAND", "command": {"value": format!("touch {}", mark.display())},
                 "intervalSeconds": 0.2},
                {"protocol": "COMMAND", "command": {"value": format!("test -e {}", started.display())},
                 "startup": true, "gracePeriodSeconds": 0, "intervalSeconds": 0.2,
                 "maxConsecutiveFailures": 3}
            ]
        }),
    )
    .unwrap();
    let shown = |world: &World| app.show(&world.cluster).unwrap_or_default();
    let mut message = String::new();
    until("the first instance to be ended", || {
        let failure = &shown(world)["lastTaskFailure"];
        message = failure["message"].as_str().unwrap_or_default().to_owned();
        failure["state"] == "TASK_FAILED"
    });
    let want = "killed after 3 consecutive health check failures: start check 1 (command): \
                command ended with exit status: 1";
    assert_eq!(message, want);
    assert!(!mark.exists(), "a health check ran before the start");
    // It starts: the other check runs, and the deployment ends.
    std::fs::write(&started, "").unwrap();
    until("the app to be healthy", || {
        let app = shown(world);
        app["tasksHealthy"] == 1 && app["deployments"].as_array().is_some_and(Vec::is_empty)
    });
    assert!(mark.exists());
    remove(&world.cluster, &app.id, LIMIT).unwrap();
}

/// Each says who it is.
const ECHO: &str = "mkdir -p www && printf %s \"$MESOS_TASK_ID\" > www/index.html && \
                    cd www && exec python3 -m http.server $PORT0";

#[test]
fn lb_labels_of_an_app_choose_among_its_tasks() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let ports = |labels: &[(&str, &str)]| {
        let mut all = json!({"VIP_0": "/mix:80"});
        for (label, value) in labels {
            all[label] = json!(value);
        }
        json!([{"port": 0, "name": "http", "labels": all}])
    };
    let definition = json!({
        "id": "/mix", "cmd": ECHO, "cpus": 0.1, "mem": 64, "instances": 3,
        "portDefinitions": ports(&[("LB_AFFINITY", "10m")]),
        "healthChecks": [{"protocol": "MESOS_HTTP", "path": "/", "intervalSeconds": 1,
            "gracePeriodSeconds": 30}]
    });
    let app = deploy(&world.cluster, &definition.to_string(), LIMIT).unwrap();
    let ids: BTreeSet<String> = app
        .tasks(&world.cluster)
        .unwrap()
        .into_iter()
        .map(|t| t.id)
        .collect();
    assert_eq!(ids.len(), 3);
    // One client, and how often it reached whom; what failed is under the empty name.
    let ask = |n: usize| -> BTreeMap<String, usize> {
        let url = format!("http://mix.{DOMAIN}/");
        let script = format!("for i in $(seq {n}); do curl -s -m 2 {url}; echo; done");
        let mut sh = world.cluster.command("n2", "sh").unwrap();
        let out = sh.args(["-c", &script]).output().unwrap();
        let mut seen = BTreeMap::new();
        for line in String::from_utf8_lossy(&out.stdout).lines() {
            *seen.entry(line.to_owned()).or_default() += 1;
        }
        seen
    };
    let change = |labels: &[(&str, &str)]| {
        let body = json!({"portDefinitions": ports(labels)}).to_string();
        let at = world.cluster.leader(port::MARATHON);
        let client = world.cluster.client();
        let answer = client.request("PUT", at, "/v2/apps/mix", Some(body.as_bytes()), &[]);
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    // Healthy on its agent is eligible on this node a moment later.
    until("the VIP to answer", || !ask(1).contains_key(""));
    let seen = ask(60);
    assert_eq!(seen.len(), 1, "a client keeps its backend: {seen:?}");
    assert!(seen.keys().all(|id| ids.contains(id)), "{seen:?}");
    change(&[("LB_POLICY", "least-connections")]);
    until("all of them to be reached", || ask(60).len() == 3);
    let seen = ask(300);
    // The better of two at random, and all are idle: a third each, with a standard deviation of 8; five of them.
    assert!(seen.keys().all(|id| ids.contains(id)), "{seen:?}");
    assert!(seen.values().all(|n| (60..=140).contains(n)), "{seen:?}");
    change(&[("LB_WEIGHT", "0")]);
    until("none of them to be reached", || {
        ask(5).into_keys().all(|id| id.is_empty())
    });
    let same: BTreeSet<String> = app
        .tasks(&world.cluster)
        .unwrap()
        .into_iter()
        .map(|t| t.id)
        .collect();
    assert_eq!(same, ids, "labels that choose replace no task");
    remove(&world.cluster, &app.id, LIMIT).unwrap();
}

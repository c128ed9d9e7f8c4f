//! nginx, a Python app and Redis on the node's bridge, found by their names and reached by their VIPs.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use waggle_tests_privileged::LIMIT;
use waggle_tests_support::cluster::{Cluster, port};
use waggle_tests_support::scenario::{deploy, remove};
use waggle_tests_support::{cgroup, process, wait_until};

use crate::images::Store;
use crate::load::Load;

const NGINX: &str = "nginx.marathon.l4lb.thisdcos.directory";
/// Containers beside them, when the agent goes.
const OTHERS: usize = 20;

/// An app on the bridge, with a VIP.
fn app(store: &Store, id: &str, image: &str, container_port: u16, vip_port: u16) -> String {
    let protocol = if container_port == 6379 {
        "TCP"
    } else {
        "HTTP"
    };
    let path = if container_port == 8000 {
        "/healthz"
    } else {
        "/"
    };
    let mut check = json!({
        "protocol": protocol, "portIndex": 0, "gracePeriodSeconds": 30, "intervalSeconds": 1, "timeoutSeconds": 5,
        "maxConsecutiveFailures": 5,
    });
    if protocol == "HTTP" {
        check["path"] = json!(path);
    }
    let definition = json!({
        "id": format!("/{id}"), "instances": 1, "cpus": 0.2, "mem": 128, "disk": 0,
        "networks": [{ "mode": "container/bridge" }],
        "container": {
            "type": "MESOS", "docker": { "image": store.name(image) },
            "portMappings": [{
                "containerPort": container_port, "hostPort": 0, "protocol": "tcp", "name": "main",
                "labels": { "VIP_0": format!("/{id}:{vip_port}") },
            }],
        },
        "healthChecks": [check], "taskKillGracePeriodSeconds": 2,
    });
    definition.to_string()
}

/// What curl says on the node, asked by name.
fn curl(cluster: &Cluster, path: &str) -> anyhow::Result<String> {
    let mut curl = cluster.command("n1", "curl")?;
    let url = format!("http://{NGINX}{path}");
    let out = curl.args(["-sS", "--max-time", "5", &url]).output()?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.success(), "{url}: {said}");
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The processes of the node's containers.
fn processes(cluster: &Cluster) -> BTreeSet<(i32, u64)> {
    let node = &cluster.state.nodes[0];
    let holders = ["waggle.tasks", "tasks"].map(|holder| node.cgroup.join(holder));
    holders
        .iter()
        .flat_map(|dir| cgroup::pids_below(dir))
        .filter_map(|pid| Some((pid, process::start_ticks(pid)?)))
        .collect()
}

/// All of it works; then the node's process is killed and started again, under load: no request fails, and every container
/// is the same one.
pub fn serves_and_survives(cluster: &mut Cluster, store: &Store) -> anyhow::Result<()> {
    for (id, image, container_port, vip_port) in [
        ("redis", "redis:7", 6379, 6379),
        ("app", "python:3.11", 8000, 80),
        ("nginx", "nginx:1.22", 80, 80),
    ] {
        deploy(
            cluster,
            &app(store, id, image, container_port, vip_port),
            LIMIT,
        )
        .context(id)?;
    }
    let said = curl(cluster, "/")?;
    ensure!(said == "hello from the image\n", "{said:?}");
    let visit = |n: u32| -> anyhow::Result<()> {
        let said = curl(cluster, "/app/visit")?;
        let wanted = said.starts_with(&format!("visitor {n} of app."));
        ensure!(wanted && said.ends_with(" as 1000\n"), "{said:?}, not {n}");
        Ok(())
    };
    visit(1)?;
    visit(2)?;

    let others = json!({
        "id": "/others", "instances": OTHERS, "cpus": 0.01, "mem": 16, "disk": 0,
        "cmd": "exec sleep 100000", "networks": [{ "mode": "host" }],
        "container": { "type": "MESOS", "docker": { "image": store.name("redis:7") } },
    });
    scale(cluster, &others)?;
    let before = processes(cluster);
    ensure!(before.len() > OTHERS * 2, "{} processes", before.len());
    let load = Load::start(cluster, ["n1", "n1"], &format!("{NGINX}:80"));
    cluster.kill_node(0)?;
    load.on(200);
    cluster.start_node(0)?;
    let took = adopted(cluster, OTHERS + 3)?;
    load.on(200);
    let said = load.assert_whole();
    println!(
        "{said}; {} containers adopted in {} ms",
        OTHERS + 3,
        took.as_millis()
    );
    ensure!(processes(cluster) == before, "processes changed");
    let said = curl(cluster, "/app/visit")?;
    ensure!(said.starts_with("visitor 3 of app."), "{said:?}");
    for id in ["/others", "/nginx", "/app", "/redis"] {
        remove(cluster, id, LIMIT)?;
    }
    wait_until(LIMIT, "processes to be gone", || {
        processes(cluster).is_empty().then_some(())
    })
}

/// Adds an app without checks and waits until all of it runs.
fn scale(cluster: &Cluster, definition: &serde_json::Value) -> anyhow::Result<()> {
    let client = cluster.client();
    let marathon = cluster.leader(port::MARATHON);
    let body = definition.to_string();
    client
        .request("POST", marathon, "/v2/apps", Some(body.as_bytes()), &[])?
        .ok()?;
    let path = format!("/v2/apps{}", definition["id"].as_str().unwrap_or_default());
    wait_until(LIMIT, "all of it to run", || {
        let shown = client.get(marathon, &path).ok()?.json().ok()?;
        (shown["app"]["tasksRunning"] == definition["instances"]).then_some(())
    })
}

/// Until the agent shows so many tasks as running.
fn adopted(cluster: &Cluster, n: usize) -> anyhow::Result<Duration> {
    let begun = std::time::Instant::now();
    let client = cluster.client();
    let agent = (cluster.state.nodes[0].ip, port::AGENT).into();
    wait_until(LIMIT, "the agent to show its tasks", || {
        let shown = client.get(agent, "/waggle/v1/tasks").ok()?.json().ok()?;
        let running = shown["tasks"].as_array()?.iter();
        let n_running = running.filter(|t| t["state"] == "TASK_RUNNING").count();
        (n_running == n).then_some(())
    })?;
    Ok(begun.elapsed())
}

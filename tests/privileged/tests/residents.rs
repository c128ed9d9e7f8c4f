//! A resident app in the cluster of three nodes: Debian's Redis on a persistent volume, which comes back to its node and
//! its data after it was killed, changed and scaled, and is gone with them when the app is removed.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use waggle_tests_privileged::{LIMIT, can_run, shared};
use waggle_tests_support::{
    cluster::NodeInfo,
    cluster::port,
    scenario::{App, Task, World, deploy, remove},
    wait_until,
};

const REDIS: &str = "/usr/bin/redis-server";

fn definition(version: u32) -> Value {
    json!({
        "id": "/kept/redis",
        "cmd": format!("exec {REDIS} --port $PORT0 --bind 0.0.0.0 --protected-mode no --dir data \
            --appendonly yes --appendfsync always"),
        "instances": 1, "cpus": 0.1, "mem": 64,
        "env": {"VERSION": version.to_string()},
        "portDefinitions": [{"port": 0, "name": "redis", "labels": {"VIP_0": "/kept:6379"}}],
        "healthChecks": [{"protocol": "MESOS_TCP", "portIndex": 0, "intervalSeconds": 1, "gracePeriodSeconds": 20}],
        "container": {"type": "MESOS", "volumes": [
            {"containerPath": "data", "mode": "RW", "persistent": {"size": 32}}
        ]},
        "residency": {"taskLostBehavior": "WAIT_FOREVER"}
    })
}

/// What Redis answers to a command, asked on its node.
fn ask(world: &World, task: &Task, command: &str) -> anyhow::Result<String> {
    let node = task.node(&world.cluster)?;
    let script = "import socket,sys\n\
        s=socket.create_connection(('127.0.0.1',int(sys.argv[1])),5)\n\
        s.sendall(sys.argv[2].encode()+b'\\r\\n')\n\
        print(s.recv(4096).decode())";
    let port = task.port.to_string();
    let out = world
        .cluster
        .command(&node.name, "python3")?
        .args(["-c", script, &port, command])
        .output()?;
    ensure!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn one(world: &World, app: &App, not: Option<&str>) -> anyhow::Result<Task> {
    wait_until(LIMIT, "the instance to run and be healthy", || {
        let shown = app.show(&world.cluster).ok()?;
        let idle = shown["deployments"].as_array().is_some_and(Vec::is_empty);
        let healthy = shown["tasksHealthy"] == 1 && shown["tasksRunning"] == 1;
        let mut tasks = app.tasks(&world.cluster).ok()?;
        tasks.retain(|t| Some(t.id.as_str()) != not);
        (idle && healthy).then(|| tasks.pop())?
    })
    .with_context(|| format!("{:?}", app.show(&world.cluster)))
}

fn volumes(node: &NodeInfo) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(node.work_dir.join("agent/volumes"));
    let listed = listed.into_iter().flatten().flatten();
    listed.map(|e| e.path()).collect()
}

fn call(world: &World, method: &str, path: &str, body: &Value) -> anyhow::Result<String> {
    let client = world.cluster.client();
    let marathon = world.cluster.leader(port::MARATHON);
    let text = body.to_string();
    let body = (!body.is_null()).then_some(text.as_bytes());
    let answer = client.request(method, marathon, path, body, &[])?.ok()?;
    Ok(answer.body)
}

#[test]
fn redis_keeps_its_data() -> anyhow::Result<()> {
    if !can_run() {
        return Ok(());
    }
    if !Path::new(REDIS).exists() {
        eprintln!("SKIP: no {REDIS}; package redis-server has it");
        return Ok(());
    }
    let mut shared = shared()?;
    let world = shared.world()?;
    let app = deploy(&world.cluster, &definition(1).to_string(), LIMIT)
        .with_context(|| world.cluster.last_words())?;
    let first = one(world, &app, None)?;
    ensure!(ask(world, &first, "SET bees 7")? == "+OK");
    let node = first.node(&world.cluster)?.clone();
    let made = volumes(&node);
    ensure!(made.len() == 1, "{made:?}");

    // Killed: back on its node, with its data, as another task of the same instance.
    call(
        world,
        "DELETE",
        &format!("/v2/apps{}/tasks/{}", app.id, first.id),
        &Value::Null,
    )?;
    let second = one(world, &app, Some(&first.id))?;
    ensure!(
        second.host == first.host,
        "{} is not {}",
        second.host,
        first.host
    );
    ensure!(ask(world, &second, "GET bees")?.ends_with('7'));
    let instance = |t: &Task| t.id.split_once("._app").unwrap().0.to_owned();
    ensure!(instance(&first) == instance(&second));

    // Changed.
    call(world, "PUT", &format!("/v2/apps{}", app.id), &definition(2))?;
    let third = one(world, &app, Some(&second.id))?;
    ensure!(third.host == first.host);
    ensure!(ask(world, &third, "GET bees")?.ends_with('7'));

    // Wiped: another instance, without data.
    call(
        world,
        "DELETE",
        &format!("/v2/apps{}/tasks/{}?wipe=true", app.id, third.id),
        &Value::Null,
    )?;
    let fourth = one(world, &app, Some(&third.id))?;
    ensure!(instance(&fourth) != instance(&third));
    ensure!(ask(world, &fourth, "GET bees")?.starts_with("$-1"));

    // Removed: nothing of it is left on any node.
    remove(&world.cluster, &app.id, LIMIT)?;
    let nodes: Vec<NodeInfo> = world.cluster.state.nodes.clone();
    wait_until(LIMIT, "volumes to go", || {
        nodes.iter().all(|n| volumes(n).is_empty()).then_some(())
    })
}

//! Programs that people have, unmodified, behind VIPs: Redis, and iperf3 over TCP and UDP.

use std::net::Ipv4Addr;
use std::process::Output;

use anyhow::{Context as _, ensure};
use waggle_tests_privileged::{LIMIT, can_run, shared};
use waggle_tests_support::scenario::{App, World, deploy, remove};
use waggle_tests_support::wait_until;

const REDIS: &str = r#"{"id": "/redis", "instances": 1, "cpus": 0.1, "mem": 64,
  "cmd": "exec redis-server --port $PORT0 --bind 0.0.0.0 --protected-mode no --save '' --dir .",
  "portDefinitions": [{"port": 0, "name": "redis", "labels": {"VIP_0": "/redis:6379"}}],
  "healthChecks": [{"protocol": "TCP", "portIndex": 0, "intervalSeconds": 1, "gracePeriodSeconds": 20}]}"#;

const IPERF: &str = r#"{"id": "/iperf", "instances": 1, "cpus": 0.1, "mem": 64,
  "cmd": "exec iperf3 -s -p $PORT0",
  "portDefinitions": [{"port": 0, "protocol": "udp,tcp", "labels": {"VIP_0": "/iperf:5201"}}],
  "healthChecks": [{"protocol": "COMMAND", "command": {"value": "grep -qi \":$(printf %04X $PORT0) \" /proc/net/tcp6"}, "intervalSeconds": 1}]}"#;

fn on(world: &World, node: &str, program: &str, args: &[&str]) -> anyhow::Result<Output> {
    let mut command = world.cluster.command(node, program)?;
    command
        .args(args)
        .output()
        .with_context(|| program.to_owned())
}

fn said(out: &Output) -> anyhow::Result<String> {
    let all = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(
        out.status.success(),
        "{}: {} {}",
        out.status,
        all(&out.stdout),
        all(&out.stderr)
    );
    Ok(all(&out.stdout))
}

/// The address behind a VIP's name, once the node's resolver has it.
fn resolve(world: &World, node: &str, label: &str) -> anyhow::Result<String> {
    let name = format!("{label}.marathon.l4lb.thisdcos.directory");
    wait_until(LIMIT, "the name to resolve", || {
        let out = on(world, node, "dig", &["+short", "+time=1", &name]).ok()?;
        let text = said(&out).ok()?;
        text.parse::<Ipv4Addr>().ok().map(|_| text)
    })
}

/// A node that the app's only task does not run on.
fn elsewhere(world: &World, app: &App) -> anyhow::Result<String> {
    let tasks = app.tasks(&world.cluster)?;
    let host = &tasks.first().context("a task")?.host;
    let nodes = &world.cluster.state.nodes;
    let other = nodes
        .iter()
        .find(|n| n.name != *host && n.ip.to_string() != *host);
    Ok(other.context("another node")?.name.clone())
}

fn redis(world: &World) -> anyhow::Result<()> {
    let app = deploy(&world.cluster, REDIS, LIMIT)?;
    let node = elsewhere(world, &app)?;
    let vip = resolve(world, &node, "redis")?;
    let cli = |args: &[&str]| {
        let all = [&["-h", &vip, "-p", "6379"], args].concat();
        said(&on(world, &node, "redis-cli", &all)?)
    };
    ensure!(cli(&["SET", "k", "v"])? == "OK");
    ensure!(cli(&["GET", "k"])? == "v");
    // The server sees who asks.
    let nodes = &world.cluster.state.nodes;
    let asker = nodes.iter().find(|n| n.name == node).context("the node")?;
    let clients = cli(&["CLIENT", "LIST"])?;
    ensure!(
        clients.contains(&format!("addr={}:", asker.ip)),
        "{clients}"
    );
    let bench = [
        "-h", &vip, "-p", "6379", "-n", "5000", "-c", "20", "-t", "set,get", "--csv",
    ];
    let bench = said(&on(world, &node, "redis-benchmark", &bench)?)?;
    ensure!(
        bench.contains("\"SET\"") && bench.contains("\"GET\""),
        "{bench}"
    );
    remove(&world.cluster, &app.id, LIMIT)
}

fn iperf(world: &World) -> anyhow::Result<()> {
    let app = deploy(&world.cluster, IPERF, LIMIT)?;
    let node = elsewhere(world, &app)?;
    let vip = resolve(world, &node, "iperf")?;
    let run = |args: &[&str]| {
        let all = [&["-c", &vip, "-p", "5201", "-J"], args].concat();
        let text = said(&on(world, &node, "iperf3", &all)?)?;
        let json: serde_json::Value = serde_json::from_str(&text).context(text)?;
        anyhow::Ok(json["end"].clone())
    };
    let tcp = run(&["-n", "64M"])?;
    ensure!(
        tcp["sum_received"]["bytes"].as_u64() > Some(32 << 20),
        "{tcp}"
    );
    let udp = run(&["-u", "-b", "20M", "-t", "1"])?;
    let lost = udp["sum"]["lost_percent"].as_f64().context("lost")?;
    ensure!(
        udp["sum"]["packets"].as_u64() > Some(500) && lost < 50.0,
        "{udp}"
    );
    remove(&world.cluster, &app.id, LIMIT)
}

#[test]
fn programs_that_people_have_work_behind_vips() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    redis(world)
        .with_context(|| world.cluster.last_words())
        .unwrap();
    iperf(world)
        .with_context(|| world.cluster.last_words())
        .unwrap();
}

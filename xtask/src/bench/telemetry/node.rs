//! Real nodes: CPU and memory of `waggle node` at rest, one that leads and one that does not; and of one node with one task under
//! connections, and how many ended connections a second it writes down.
//!
//! Both ends of each connection are the task's, so that one is two events. The task says itself how many it made.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use waggle_tests_support::cluster::NodeInfo;
use waggle_tests_support::scenario::{World, deploy, remove};
use waggle_tests_support::{sleep, wait_until};

use crate::bench::node::{on, on_one, totals};
use crate::bench::{LIMIT, WATCH, first_words, watch};
use crate::build::Programs;

/// Connections a second: what the target speaks of, and as many as the machine makes.
const RATES: [(u32, &str); 2] = [(50_000, "50,000/s wanted"), (0, "as many as there can be")];
/// Ended connections that were written down, and that were lost.
const EVENTS: [&str; 2] = [
    "waggle_flow_log_records_total",
    "waggle_flow_log_lost_total",
];
/// Targets: percent of a CPU at rest, MiB.
const IDLE_PERCENT: f64 = 1.0;
const MEMORY_MIB: f64 = 64.0;

/// Measures on a node of its own.
pub fn measure(programs: &Programs, quick: bool) -> anyhow::Result<()> {
    let time = if quick { Duration::from_secs(2) } else { WATCH };
    on(programs, 2, |_, nodes| at_rest(nodes, time))?;
    on_one(programs, |world, node| {
        flooded_at_rates(world, node, &programs.probe, time)
    })
}

/// Without tasks.
fn at_rest(nodes: &[NodeInfo], time: Duration) -> anyhow::Result<()> {
    println!(
        "\n`waggle node` at rest, figures taken each second, over {} s; load average {}",
        time.as_secs(),
        first_words("/proc/loadavg", 3)
    );
    // What they have to do in the beginning is not what they do at rest.
    sleep(time);
    let pids: Vec<i32> = nodes.iter().map(|node| node.pid).collect();
    let names = ["the agent alone", "one that also leads"];
    for (cost, name) in watch(&pids, time)?.iter().rev().zip(names) {
        println!(
            "  {name}: {:.1} % of a CPU (target {IDLE_PERCENT} %: {}), {:.1} MiB resident (target {MEMORY_MIB} MiB: {}), {:.1} of them its own, the rest the program's file's",
            cost.cpu_percent,
            met(cost.cpu_percent <= IDLE_PERCENT),
            cost.rss_mb,
            met(cost.rss_mb <= MEMORY_MIB),
            cost.anonymous_mb,
        );
    }
    Ok(())
}

fn flooded_at_rates(
    world: &World,
    node: &NodeInfo,
    probe: &Path,
    time: Duration,
) -> anyhow::Result<()> {
    println!("\nThe same, a node that also leads, under connections");
    for (rate, name) in RATES {
        let id = format!("/flood-{rate}");
        let definition = json!({
            "id": id, "instances": 1, "cpus": 1, "mem": 64, "disk": 0,
            "cmd": format!("exec {} flood --for 3600 --per-second {rate}", probe.display()),
            "healthChecks": [{"protocol": "COMMAND", "command": {"value": "true"}, "intervalSeconds": 60}],
            "taskKillGracePeriodSeconds": 1,
        });
        let app = deploy(&world.cluster, &definition.to_string(), LIMIT)?;
        let tasks = app.tasks(&world.cluster)?;
        let task = &tasks.first().context("no task")?.id;
        let result = flooded(world, node, task, time, name);
        remove(&world.cluster, &id, LIMIT)?;
        result?;
    }
    Ok(())
}

/// While the task floods.
fn flooded(
    world: &World,
    node: &NodeInfo,
    task: &str,
    time: Duration,
    name: &str,
) -> anyhow::Result<()> {
    wait_until(LIMIT, "the flood", || {
        (told(world, task).len() >= 2).then_some(())
    })?;
    let (begun_ns, began) = (now_ns(), Instant::now());
    let before = totals(world, node, EVENTS)?;
    let cost = watch(&[node.pid], time)?.remove(0);
    let after = totals(world, node, EVENTS)?;
    let (seconds, ended_ns) = (began.elapsed().as_secs_f64(), now_ns());
    // The flood's own lines around the time that was watched.
    let (first, last) = wait_until(LIMIT, "the flood's last line", || {
        let told = told(world, task);
        let first = told.iter().rfind(|(at, _)| *at <= begun_ns).copied()?;
        let last = told.iter().find(|(at, _)| *at >= ended_ns).copied()?;
        Some((first, last))
    })?;
    let rate = (last.1 - first.1) as f64 / ((last.0 - first.0) as f64 / 1e9);
    let (kept, lost) = (after[0] - before[0], after[1] - before[1]);
    println!(
        "  {rate:.0} connections/s ({name}): {:.1} % of a CPU, {:.1} MiB resident",
        cost.cpu_percent, cost.rss_mb
    );
    println!(
        "    ended connections, both ends: {:.0}/s written down, {:.0}/s counted as lost",
        kept / seconds,
        lost / seconds,
    );
    Ok(())
}

/// What the flood has said: when, how many connections until then.
fn told(world: &World, task: &str) -> Vec<(u64, u64)> {
    world.sink.with(|s| {
        let mine = s.logs.iter().filter(|l| {
            l.resource
                .get("waggle.task.id")
                .is_some_and(|id| id == task)
        });
        let line = |body: &str| {
            let (at, n) = body.strip_prefix("flood ")?.split_once(' ')?;
            Some((at.parse().ok()?, n.parse().ok()?))
        };
        mine.filter_map(|l| line(&l.body)).collect()
    })
}

fn now_ns() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

const fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "MISSED" }
}

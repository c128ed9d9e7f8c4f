//! Real software as people run it, through Marathon's and Metronome's doors, on one cluster of three nodes: nginx that is
//! rolled under load, PostgreSQL that keeps its data and is backed up by a job, a group whose apps need each other, and a
//! canary with a part of the traffic.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

mod canary;
mod database;
mod group;
mod nginx;
mod rolling;

use anyhow::ensure;
use serde_json::Value;
use waggle_tests_support::{
    cluster::{Cluster, port},
    scenario::World,
};

/// A call of Marathon's or Metronome's API; its answer, which must be a good one.
fn call(world: &World, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    let client = world.cluster.client();
    let leader = world.cluster.leader(port::MARATHON);
    let text = body.to_string();
    let body = (!body.is_null()).then_some(text.as_bytes());
    let answer = client.request(method, leader, path, body, &[])?.ok()?;
    answer.json()
}

/// What a program says on a node, if it succeeds.
fn says(cluster: &Cluster, node: &str, program: &str, args: &[&str]) -> anyhow::Result<String> {
    let out = cluster.command(node, program)?.args(args).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure!(
        out.status.success(),
        "{program} {args:?}: {} {}",
        text(&out.stdout),
        text(&out.stderr)
    );
    Ok(text(&out.stdout))
}

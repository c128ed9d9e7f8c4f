//! When a cluster is ready, and what to show when it is not.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::{Cluster, Program, port};
use crate::process;
use crate::wait::wait_until;

/// Waits until every node's APIs answer and all agents are registered with the master. A node that
/// ends while we wait is an error at once.
pub fn wait_ready(cluster: &Cluster, deadline: Duration) -> anyhow::Result<()> {
    let start = Instant::now();
    let left = || deadline.saturating_sub(start.elapsed());
    let client = cluster.client();
    if matches!(cluster.program, Program::StandIn(_)) {
        return Ok(());
    }
    let dead = || {
        cluster
            .state
            .nodes
            .iter()
            .find(|node| !process::alive(node.pid))
            .map(|n| n.name.clone())
    };
    let mut wanted: Vec<(String, SocketAddr, &str)> = Vec::new();
    for node in &cluster.state.nodes {
        let ip = IpAddr::V4(node.ip);
        wanted.push((
            format!("{}'s agent API", node.name),
            SocketAddr::new(ip, port::AGENT),
            "/health",
        ));
    }
    wanted.push((
        "the Mesos API".to_owned(),
        cluster.leader(port::MESOS),
        "/health",
    ));
    wanted.push((
        "the Marathon API".to_owned(),
        cluster.leader(port::MARATHON),
        "/ping",
    ));
    for (what, addr, path) in wanted {
        let answer = wait_until(left(), &format!("{what} (http://{addr}{path})"), || {
            if let Some(name) = dead() {
                return Some(Err(name));
            }
            let answer = client.get(addr, path).ok()?;
            (answer.status == 200).then_some(Ok(()))
        })?;
        if let Err(name) = answer {
            bail!("node {name} ended");
        }
    }
    let n_nodes = cluster.state.nodes.len();
    let mut seen = 0;
    wait_until(left(), "all agents to register", || {
        let state = client
            .get(cluster.leader(port::MESOS), "/state")
            .ok()?
            .json()
            .ok()?;
        seen = state["slaves"].as_array().map_or(0, Vec::len);
        (seen == n_nodes).then_some(())
    })
    .map_err(|error| error.context(format!("{seen} of {n_nodes} agents registered")))
}

/// The last lines of a file, each cut to a readable length.
#[must_use]
pub fn last_lines(path: &Path, n_lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    // The end only: logs may be large.
    let start = bytes.len().saturating_sub(64 * 1024);
    let text = String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(n_lines)..]
        .iter()
        .map(|line| format!("  {}", line.chars().take(300).collect::<String>()))
        .collect::<Vec<_>>()
        .join("\n")
}

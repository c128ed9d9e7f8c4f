//! Requests with curl, and where they went.

use std::collections::BTreeMap;
use std::process::Stdio;

use anyhow::Context as _;

use super::VIP_NAME;
use crate::cluster::Cluster;

/// How one node's requests spread over the backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// The node.
    pub node: String,
    /// Answers per backend (its own name).
    pub by_backend: BTreeMap<String, u64>,
    /// Requests without a good answer.
    pub failed: u64,
    /// curl's first complaint.
    pub complaint: String,
}

/// Sends `n_requests` to the VIP's name from one curl process on each node, all nodes at once, a
/// new connection per request.
pub fn curl_spread(cluster: &Cluster, n_requests: u64) -> anyhow::Result<Vec<Spread>> {
    let mut running = Vec::new();
    for node in &cluster.state.nodes {
        let child = cluster
            .command(&node.name, "curl")?
            .args([
                "-sS",
                "--fail",
                "--max-time",
                "5",
                "-H",
                "Connection: close",
            ])
            .arg(format!("http://{VIP_NAME}/?n=[1-{n_requests}]"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("run curl on {}", node.name))?;
        running.push((node.name.clone(), child));
    }
    let mut spreads = Vec::new();
    for (node, child) in running {
        let out = child
            .wait_with_output()
            .with_context(|| format!("curl on {node}"))?;
        let mut by_backend: BTreeMap<String, u64> = BTreeMap::new();
        for line in String::from_utf8_lossy(&out.stdout)
            .lines()
            .filter(|l| !l.is_empty())
        {
            *by_backend.entry(line.to_owned()).or_default() += 1;
        }
        let answered: u64 = by_backend.values().sum();
        let complaint = String::from_utf8_lossy(&out.stderr)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        let failed = n_requests.saturating_sub(answered);
        spreads.push(Spread {
            node,
            by_backend,
            failed,
            complaint,
        });
    }
    Ok(spreads)
}

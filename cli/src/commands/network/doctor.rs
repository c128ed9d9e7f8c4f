//! `waggle network doctor`: every node is asked what it sees of the overlay, and asks every other one by the tunnel.

mod found;

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};
use waggle_api::native::{NodeView, OverlayCheckView};

use crate::{
    args::Output,
    client::Client,
    commands::{fetch_list, print, print_json},
    error::CliError,
    show::count,
};
use found::{Seen, drops, find, overview};

/// Nodes that look at the same time.
const AT_ONCE: usize = 16;
/// How long a node may take: where nobody answers, it waits 1.2 s for each 32 others, and 10 s for another check.
const PATIENCE: Duration = Duration::from_secs(90);

/// Looks, and says what was seen; fails when something is wrong.
pub async fn run(output: &Output) -> Result<(), CliError> {
    let client = Client::new(&output.master)?;
    let (_, nodes) = fetch_list::<NodeView>(&client, "/waggle/v1/nodes").await?;
    let seen = gather(nodes).await;
    let findings = find(&seen);
    if output.json {
        let nodes: Vec<_> = seen
            .iter()
            .map(|s| json!({"hostname": s.hostname, "ip": s.ip, "check": s.check.as_ref().ok(), "error": s.check.as_ref().err()}))
            .collect();
        print_json(&json!({"nodes": nodes, "findings": findings}))?;
    } else {
        let mut text = overview(&seen);
        for more in [drops(&seen), lines(&findings)] {
            if !more.is_empty() {
                text.push('\n');
                text.push_str(&more);
            }
        }
        print(&text)?;
    }
    if findings.is_empty() {
        return Ok(());
    }
    let n = u64::try_from(findings.len()).unwrap_or(u64::MAX);
    Err(anyhow::anyhow!("the overlay has {}", count(n, "problem")).into())
}

fn lines(findings: &[found::Finding]) -> String {
    let lines = findings.iter().map(|f| format!("{}: {}\n", f.node, f.says));
    lines.collect()
}

/// In the order of the nodes' names. Nodes that are gone for good are not asked.
async fn gather(nodes: Vec<NodeView>) -> Vec<Seen> {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut asking = JoinSet::new();
    for node in nodes.into_iter().filter(|n| n.mode != "gone") {
        let slots = Arc::clone(&slots);
        asking.spawn(async move {
            let _slot = slots.acquire_owned().await;
            let check = if node.reachable {
                ask(&node).await.map_err(|e| e.to_string())
            } else {
                Err("the master does not hear from it".to_owned())
            };
            Seen {
                hostname: node.hostname,
                ip: node.ip,
                check,
            }
        });
    }
    let mut seen = asking.join_all().await;
    seen.sort_by(|a, b| (&a.hostname, &a.ip).cmp(&(&b.hostname, &b.ip)));
    seen
}

async fn ask(node: &NodeView) -> anyhow::Result<OverlayCheckView> {
    let client = Client::new(&format!("http://{}:{}", node.ip, node.http_port))?;
    let client = client.patient_for(PATIENCE);
    match client.get("/waggle/v1/overlay/check").await {
        Ok(answer) => Ok(serde_json::from_value(answer)?),
        Err(CliError::Refused { status: 404, .. }) => {
            anyhow::bail!("its version {} can't look yet", node.version)
        }
        Err(e) => Err(e.into()),
    }
}

//! Questions to a node's resolver, with dig.

use std::net::Ipv4Addr;

use anyhow::{Context as _, bail};

use super::VIP_NAME;
use crate::cluster::Cluster;

/// What one node's resolver said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsAnswers {
    /// `web.marathon.l4lb.thisdcos.directory`, A.
    pub vip: Ipv4Addr,
    /// `web.marathon.mesos`, A: the nodes of the running tasks.
    pub mesos: Vec<Ipv4Addr>,
    /// `_web._tcp.marathon.mesos`, SRV: (port, target).
    pub srv: Vec<(u16, String)>,
}

/// Asks from inside the node. An empty or odd answer is an error that shows it.
pub fn ask(cluster: &Cluster, node: &str) -> anyhow::Result<DnsAnswers> {
    let vips = addresses(cluster, node, VIP_NAME)?;
    let [vip] = vips[..] else {
        bail!("{node}: A {VIP_NAME}: {vips:?}, expected one address")
    };
    if vip.octets()[0] != 11 {
        bail!("{node}: A {VIP_NAME}: {vip} is not in 11.0.0.0/8");
    }
    let mesos = addresses(cluster, node, "web.marathon.mesos")?;
    let srv = dig(cluster, node, &["SRV", "_web._tcp.marathon.mesos"])?
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace().skip(2);
            let port = words.next().and_then(|w| w.parse().ok());
            let port = port.with_context(|| format!("{node}: SRV answer `{line}`"))?;
            Ok((port, words.next().unwrap_or_default().to_owned()))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(DnsAnswers { vip, mesos, srv })
}

fn addresses(cluster: &Cluster, node: &str, name: &str) -> anyhow::Result<Vec<Ipv4Addr>> {
    let text = dig(cluster, node, &["A", name])?;
    let parsed: Result<Vec<Ipv4Addr>, _> = text.lines().map(str::parse).collect();
    let mut list = parsed.with_context(|| format!("{node}: A {name}: `{}`", text.trim()))?;
    list.sort_unstable();
    Ok(list)
}

fn dig(cluster: &Cluster, node: &str, question: &[&str]) -> anyhow::Result<String> {
    let out = cluster
        .command(node, "dig")?
        .args(["+short", "+time=2", "+tries=1"])
        .args(question)
        .output()
        .with_context(|| format!("run dig on {node}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        bail!("{node}: dig {}: {}", question.join(" "), text.trim());
    }
    Ok(text)
}

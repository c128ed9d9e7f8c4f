//! What verdicts depend on, from a snapshot.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use waggle_types::{AgentId, NetSnapshot};

use super::{PolicyWorld, WorldTask};
use crate::network::Addresses;

/// Addresses of every node's own resolver.
pub const RESOLVERS: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 3)),
];

impl PolicyWorld {
    /// As the node of an agent sees it. Without policies nothing else is looked at.
    pub fn of(snapshot: &NetSnapshot, here: Option<&AgentId>) -> Self {
        if snapshot.policies.is_empty() {
            return Self::default();
        }
        let tasks = snapshot.tasks.values().filter_map(|task| {
            let v4 = task.ip.map(IpAddr::V4);
            let ips: Vec<IpAddr> = v4.into_iter().chain(task.ip6.map(IpAddr::V6)).collect();
            if ips.is_empty() {
                return None;
            }
            Some(WorldTask {
                ips,
                is_here: here == Some(&task.agent_id),
                subject: Arc::clone(task.subject.as_ref()?),
            })
        });
        let networks = snapshot.networks.iter().map(|(name, network)| {
            let pools = network.pools().map(|pool| pool.net);
            (name.clone(), pools.collect())
        });
        Self {
            policies: snapshot.policies.values().map(Arc::clone).collect(),
            tasks: tasks.collect(),
            networks: networks.collect(),
            nodes: node_addresses(snapshot),
            resolvers: RESOLVERS.into(),
        }
    }
}

/// All addresses of nodes: on the underlay, and those that a node itself speaks to containers from.
pub fn node_addresses(snapshot: &NetSnapshot) -> BTreeSet<IpAddr> {
    let mut out = BTreeSet::new();
    for agent in snapshot.agents.values() {
        out.insert(IpAddr::V4(agent.ip));
        out.extend(agent.ip6.map(IpAddr::V6));
        if let Some(vtep) = agent.overlay.vtep {
            out.insert(IpAddr::V4(vtep.ip));
            out.extend(vtep.ip6.map(IpAddr::V6));
        }
        let nets = agent
            .overlay
            .subnets
            .values()
            .flat_map(waggle_types::AgentSubnet::nets);
        out.extend(nets.map(Addresses::gateway));
    }
    out
}

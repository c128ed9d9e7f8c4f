//! What a node's overlay must be, from the snapshot alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use waggle_types::{AgentId, AgentSubnet, IpNet, NetSnapshot, Network, Vtep, Vxlan};

/// A node's overlay as it should be. The default, of a node without a tunnel endpoint, is nothing at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodePlan {
    /// How packets are carried.
    pub vxlan: Vxlan,
    /// The node's own tunnel endpoint; `None`: it takes no part.
    pub vtep: Option<Vtep>,
    /// The node's underlay address.
    pub node_ip: Option<Ipv4Addr>,
    /// What it holds of each network.
    pub local: BTreeMap<String, LocalNetwork>,
    /// Other nodes, by underlay address.
    pub peers: BTreeMap<Ipv4Addr, Peer>,
    /// All addresses of all networks: routed to the device, unless a container of this node has them.
    pub pools: BTreeSet<IpNet>,
}

/// A network as this node has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalNetwork {
    /// The node's part.
    pub subnet: AgentSubnet,
    /// The network.
    pub network: Network,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// Hardware address of its tunnel endpoint.
    pub mac: [u8; 6],
    /// What lives there: its subnets and the addresses of its endpoint.
    pub nets: BTreeSet<IpNet>,
}

/// Makes a node's plan. Agents that share an underlay address, one of which is a thing of the past, are one peer.
pub fn node_plan(snapshot: &NetSnapshot, here: &AgentId) -> NodePlan {
    let Some(own) = snapshot.agents.get(here) else {
        return NodePlan::default();
    };
    let Some(vtep) = own.overlay.vtep else {
        return NodePlan::default();
    };
    let mut plan = NodePlan {
        vxlan: snapshot.vxlan,
        vtep: Some(vtep),
        node_ip: Some(own.ip),
        ..NodePlan::default()
    };
    for (name, network) in &snapshot.networks {
        plan.pools.extend(network.pools().map(|p| p.net));
        if let Some(subnet) = own.overlay.subnets.get(name) {
            let local = LocalNetwork {
                subnet: *subnet,
                network: network.clone(),
            };
            plan.local.insert(name.clone(), local);
        }
    }
    let others = snapshot.agents.iter().filter(|(id, _)| *id != here);
    for (_, agent) in others.filter(|(_, a)| a.ip != own.ip) {
        let Some(vtep) = agent.overlay.vtep else {
            continue;
        };
        let peer = plan.peers.entry(agent.ip).or_default();
        // Of two the one that is heard of.
        if agent.reachable || peer.nets.is_empty() {
            peer.mac = vtep.mac();
        }
        peer.nets.insert(IpNet::host(vtep.ip.into()));
        peer.nets.extend(vtep.ip6.map(|ip| IpNet::host(ip.into())));
        for (name, subnet) in &agent.overlay.subnets {
            if snapshot.networks.contains_key(name) {
                peer.nets.extend(subnet.nets());
            }
        }
    }
    plan
}

impl NodePlan {
    /// The node's own subnets, with their networks' names.
    pub fn subnets(&self) -> impl Iterator<Item = (IpNet, &str)> {
        self.local
            .iter()
            .flat_map(|(name, l)| l.subnet.nets().map(move |net| (net, name.as_str())))
    }
}

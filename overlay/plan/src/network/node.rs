//! What a node's overlay must be, from the snapshot alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use waggle_types::{AgentId, AgentSubnet, IpNet, NetSnapshot, Network, Vtep, Vxlan, WireguardKey};

use super::check::network_number;

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
    /// Other nodes, by underlay address, with what lives there: their subnets, each with its network's number, and the
    /// addresses of their endpoints, with number 0.
    pub peers: BTreeMap<Ipv4Addr, BTreeMap<IpNet, u32>>,
    /// All addresses of all networks, with their numbers: routed to the device, unless a container of this node has them.
    pub pools: BTreeMap<IpNet, u32>,
    /// All other nodes and their public keys, for who encrypts. An address may be there twice, with keys of which one is a thing
    /// of the past.
    pub keys: BTreeSet<(Ipv4Addr, Option<WireguardKey>)>,
}

/// A network as this node has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalNetwork {
    /// The node's part.
    pub subnet: AgentSubnet,
    /// The network.
    pub network: Network,
}

impl LocalNetwork {
    /// Its number in the kernel's tables.
    pub fn number(&self) -> u32 {
        network_number(&self.network)
    }
}

/// Which node a net is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Where {
    /// This one.
    Here,
    /// The one with this underlay address.
    Peer(Ipv4Addr),
    /// A pool, where no longer net says otherwise: its addresses are unreachable, not outside.
    Nowhere,
}

/// Where a net is, and whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Home {
    /// On which node.
    pub place: Where,
    /// Number of its network; 0 reaches all.
    pub network: u32,
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
        let number = network_number(network);
        plan.pools.extend(network.pools().map(|p| (p.net, number)));
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
        plan.keys.insert((agent.ip, agent.overlay.wireguard));
        let Some(vtep) = agent.overlay.vtep else {
            continue;
        };
        let peer = plan.peers.entry(agent.ip).or_default();
        peer.insert(IpNet::host(vtep.ip.into()), 0);
        peer.extend(vtep.ip6.map(|ip| (IpNet::host(ip.into()), 0)));
        for (name, subnet) in &agent.overlay.subnets {
            if let Some(network) = snapshot.networks.get(name) {
                let number = network_number(network);
                peer.extend(subnet.nets().map(|net| (net, number)));
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

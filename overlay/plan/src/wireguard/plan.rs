//! From nodes and keys to peers; from what the kernel has to what is to be done.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
};

use waggle_types::WireguardKey;

/// Bytes that encryption adds to each packet between nodes: outer IPv4 and UDP headers, WireGuard's own (16), its
/// authentication tag (16). Less of the underlay's MTU is left for containers by so much.
pub const OVERHEAD: u16 = 60;

/// A node that packets are encrypted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireguardPeer {
    /// The node's address: where its WireGuard listens, and the only address that its packets may come from.
    pub node: Ipv4Addr,
    /// UDP port there.
    pub port: u16,
}

impl WireguardPeer {
    /// Where its WireGuard listens.
    pub fn endpoint(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.node, self.port)
    }
}

/// Why a node has no encrypted way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Excluded {
    /// It has no key: it does not encrypt.
    NoKey,
    /// Another node, or this one, has the same key.
    SharedKey,
    /// Another node, or this one, has the same address.
    SharedAddress,
}

/// All ways of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireguardPlan {
    /// By public key.
    pub peers: BTreeMap<WireguardKey, WireguardPeer>,
    /// Nodes that can't be reached, and why; nothing is sent to them in clear.
    pub excluded: BTreeMap<Ipv4Addr, Excluded>,
}

/// Plans a node's ways: `own` is its address and key, `nodes` are all nodes' (whether this one is among them does not
/// matter), `port` is where WireGuard listens, everywhere.
///
/// A key or an address that two nodes claim is nobody's: which of them is right can't be known here.
pub fn wireguard_plan(
    own: (Ipv4Addr, WireguardKey),
    nodes: &[(Ipv4Addr, Option<WireguardKey>)],
    port: u16,
) -> WireguardPlan {
    let others: BTreeSet<(Ipv4Addr, Option<WireguardKey>)> = nodes
        .iter()
        .copied()
        .filter(|node| *node != (own.0, Some(own.1)))
        .collect();
    let mut by_address: BTreeMap<Ipv4Addr, u32> = BTreeMap::from([(own.0, 1)]);
    let mut by_key: BTreeMap<WireguardKey, u32> = BTreeMap::from([(own.1, 1)]);
    for (node, key) in &others {
        *by_address.entry(*node).or_default() += 1;
        if let Some(key) = key {
            *by_key.entry(*key).or_default() += 1;
        }
    }
    let mut plan = WireguardPlan::default();
    for (node, key) in others {
        let why = match key {
            _ if by_address.get(&node) != Some(&1) => Excluded::SharedAddress,
            None => Excluded::NoKey,
            Some(key) if by_key.get(&key) != Some(&1) => Excluded::SharedKey,
            Some(key) => {
                plan.peers.insert(key, WireguardPeer { node, port });
                continue;
            }
        };
        // This node's own address stays its own.
        if node != own.0 {
            plan.excluded.insert(node, why);
        }
    }
    plan
}

/// One thing to say to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WireguardOp {
    /// Forget a peer.
    Remove(WireguardKey),
    /// Make a peer, or bring it to this.
    Set(WireguardKey, WireguardPeer),
}

/// From the peers that the device has (by key; `None` for one whose addresses are not as they must be) to those of the plan.
/// What goes comes first, so that no address ever is two peers'.
pub fn wireguard_diff(
    observed: &BTreeMap<WireguardKey, Option<WireguardPeer>>,
    plan: &WireguardPlan,
) -> Vec<WireguardOp> {
    // A key that is another node's now goes, too: its old address may be somebody else's in the plan.
    let gone = observed
        .iter()
        .filter(|(key, had)| {
            let node = plan.peers.get(key).map(|peer| peer.node);
            node.is_none() || had.is_some_and(|had| Some(had.node) != node)
        })
        .map(|(key, _)| WireguardOp::Remove(*key));
    let set = plan
        .peers
        .iter()
        .filter(|(key, peer)| observed.get(key) != Some(&Some(**peer)))
        .map(|(key, peer)| WireguardOp::Set(*key, *peer));
    gone.chain(set).collect()
}

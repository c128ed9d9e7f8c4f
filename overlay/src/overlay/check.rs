//! What a node sees of the overlay when somebody asks: whom it reaches, and what it has dropped.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use waggle_ebpf_common::{
    overlay::{MTU_OVERHEAD, is_drop, reason},
    policy,
};
use waggle_overlay_plan::{network::NodePlan, wireguard::Excluded};
use waggle_types::IpNet;

use super::{
    OverlayError, OverlayNet, State, mtu_of,
    ping::{Echo, ping},
};

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayCheck {
    /// The node's underlay address.
    pub node_ip: Ipv4Addr,
    /// Whether it takes part at all.
    pub takes_part: bool,
    /// What it sends from.
    pub endpoint: Option<Ipv4Addr>,
    /// Why none of it works.
    pub trouble: Option<String>,
    /// Longest packet that containers may send, bytes.
    pub mtu: u16,
    /// Other nodes, by underlay address: their endpoints, and what came of asking.
    pub peers: BTreeMap<Ipv4Addr, (Ipv4Addr, Echo)>,
    /// Whether what it sends to other nodes is encrypted; then those without a way, and why they have none.
    pub encrypts: bool,
    /// See [`OverlayCheck::encrypts`].
    pub no_way: BTreeMap<Ipv4Addr, Excluded>,
    /// Packets dropped since the tables were made, by reason; those of policies with `policy_` before. None that is 0.
    pub drops: BTreeMap<String, u64>,
}

impl OverlayNet {
    /// Looks, and asks all other nodes by the tunnel. Blocks for at most 1.2 s for each 32 of them.
    ///
    /// # Errors
    /// [`OverlayError::Load`] where counters can't be read, [`OverlayError::Ping`] where nobody can be asked.
    pub fn check(&self) -> Result<OverlayCheck, OverlayError> {
        let (mut seen, others) = {
            let state = self.lock();
            let seen = OverlayCheck {
                node_ip: self.config.node_ip,
                takes_part: !state.is_off,
                endpoint: state.plan.vtep.map(|v| v.ip),
                trouble: state.trouble.clone(),
                mtu: longest(&state),
                peers: BTreeMap::new(),
                encrypts: state.encryption.is_some(),
                no_way: state.ways.excluded.clone(),
                drops: drops(&state)?,
            };
            (seen, endpoints(&state.plan))
        };
        if let (Some(from), None) = (seen.endpoint, &seen.trouble) {
            let to: Vec<Ipv4Addr> = others.values().copied().collect();
            let echoes = ping(from, &to, seen.mtu).map_err(OverlayError::Ping)?;
            let peers = others.into_iter().zip(echoes);
            seen.peers = peers.map(|((ip, at), echo)| (ip, (at, echo))).collect();
        }
        Ok(seen)
    }
}

/// Of any network here; without one, what the tunnel carries.
fn longest(state: &State) -> u16 {
    let underlay = state.underlay.map_or(0, |u| u.mtu);
    let of_networks = state.plan.local.values();
    let of_networks = of_networks.filter_map(|l| mtu_of(l, underlay).ok()).max();
    let overhead = u16::try_from(MTU_OVERHEAD).unwrap_or(u16::MAX);
    of_networks.unwrap_or_else(|| underlay.saturating_sub(overhead))
}

/// What other nodes send from, by underlay address.
fn endpoints(plan: &NodePlan) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
    let v4 = |net: &IpNet| match net.ip() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    };
    let endpoint = |nets: &BTreeMap<IpNet, u32>| {
        let mut own = nets.iter().filter(|(_, network)| **network == 0);
        own.find_map(|(net, _)| v4(net))
    };
    let peers = plan.peers.iter();
    peers
        .filter_map(|(ip, nets)| Some((*ip, endpoint(nets)?)))
        .collect()
}

fn drops(state: &State) -> Result<BTreeMap<String, u64>, OverlayError> {
    let Some(plane) = &state.plane else {
        return Ok(BTreeMap::new());
    };
    // Policies say more of theirs.
    let told = [reason::POLICY_EGRESS, reason::POLICY_INGRESS];
    let of_overlay = (0..).zip(plane.counts()?);
    let of_overlay = of_overlay.filter(|(n, _)| is_drop(*n) && !told.contains(n));
    let of_overlay = of_overlay.map(|(_, (name, n))| (name.to_owned(), n));
    let of_policies = (0..).zip(plane.policy().counts()?);
    let of_policies = of_policies.filter(|(n, _)| policy::is_drop(*n));
    let of_policies = of_policies.map(|(_, (name, n))| (format!("policy_{name}"), n));
    let all = of_overlay.chain(of_policies);
    Ok(all.filter(|(_, n)| *n > 0).collect())
}

//! Which networks a cluster can have beside each other.

use std::{collections::BTreeMap, net::IpAddr};

use waggle_types::{FieldError, IpNet, MIN_MTU, MIN_MTU6, Network, Vxlan};

use crate::lower::fnv1a;

/// Whether a network can come beside those that there are. `taken` are ranges that mean something else in this
/// cluster, with what they are for people.
///
/// # Errors
/// The field of the HTTP API and the rule that it breaks.
pub fn check_network(
    name: &str,
    network: &Network,
    others: &BTreeMap<String, Network>,
    vxlan: &Vxlan,
    taken: impl IntoIterator<Item = (IpNet, String)>,
) -> Result<(), FieldError> {
    network.check(name)?;
    let of_networks = others.iter().flat_map(|(other, network)| {
        let pools: Vec<_> = network.pools().collect();
        let what = format!("of network {other}");
        pools.into_iter().map(move |p| (p.net, what.clone()))
    });
    let vteps = [vxlan.vteps, vxlan.vteps6].map(|net| (net, "of tunnel endpoints".to_owned()));
    for (other, what) in of_networks.chain(vteps).chain(taken) {
        if let Some(pool) = network.pools().find(|p| p.net.overlaps(other)) {
            let field = if pool.net.is_ipv4() {
                "subnet"
            } else {
                "subnet6"
            };
            let rule = format!("must not overlap {other} {what}, is {}", pool.net);
            return Err(FieldError::new(field, rule));
        }
    }
    let number = network_number(network);
    if let Some((other, _)) = others.iter().find(|(_, o)| network_number(o) == number) {
        let rule =
            format!("must have another first address: its number is that of network {other}");
        return Err(FieldError::new("subnet", rule));
    }
    Ok(())
}

/// A network's number in the kernel's tables, the same on every node: addresses of different numbers don't reach each other.
/// Made of its first pool's addresses, which no other network has; never 0.
pub fn network_number(network: &Network) -> u32 {
    let bits = match network.pools().next().map(|p| p.net.ip()) {
        Some(IpAddr::V4(ip)) => ip.to_bits(),
        Some(IpAddr::V6(ip)) => fnv1a(&ip.octets()),
        None => 0,
    };
    bits.max(1)
}

/// Bytes that the encapsulation adds to a packet: outer Ethernet is the underlay's own, inner Ethernet, VXLAN, UDP and
/// IP are not.
pub const fn overhead(underlay_is_ipv6: bool) -> u16 {
    14 + 8 + 8 + if underlay_is_ipv6 { 40 } else { 20 }
}

/// What containers of a network can send at once on a node whose underlay carries `underlay` bytes.
///
/// # Errors
/// Field and rule, when the network says more than that, or too little is left.
pub fn mtu_inside(network: &Network, underlay: u32, overhead: u16) -> Result<u16, FieldError> {
    let room = underlay.saturating_sub(overhead.into());
    let room = u16::try_from(room).unwrap_or(u16::MAX);
    let least = if network.pool6.is_some() {
        MIN_MTU6
    } else {
        MIN_MTU
    };
    match network.mtu {
        Some(mtu) if mtu > room => {
            let rule = format!(
                "must be at most {room} on this node, whose underlay carries {underlay}, is {mtu}"
            );
            Err(FieldError::new("mtu", rule))
        }
        Some(mtu) => Ok(mtu),
        None if room < least => {
            let rule = format!(
                "must be at least {least}, and this node's underlay carries {underlay}, so {room}"
            );
            Err(FieldError::new("mtu", rule))
        }
        None => Ok(room),
    }
}

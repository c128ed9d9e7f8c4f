//! Overlay networks and what an agent holds of them.

use waggle_types::{
    AddressPool, AgentOverlay, AgentSubnet, FieldError, IpNet, MAX_NETWORKS, Network, Vtep, Vxlan,
    WireguardKey, check_network_name,
};

use super::{ConvertError, at_most, each, ip, ip6, port};
use crate::proto::session as pb;

fn refused(e: FieldError) -> ConvertError {
    ConvertError::new(e.field, e.rule)
}

fn net(field: &str, text: &str) -> Result<Option<IpNet>, ConvertError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|e: waggle_types::IpNetError| ConvertError::new(field, e.to_string()))
}

fn pool(
    fields: (&str, &str),
    text: &str,
    prefix: u32,
) -> Result<Option<AddressPool>, ConvertError> {
    let Some(net) = net(fields.0, text)? else {
        return Ok(None);
    };
    let prefix = u8::try_from(prefix)
        .map_err(|_| ConvertError::new(fields.1, format!("must be at most 128, is {prefix}")))?;
    Ok(Some(AddressPool { net, prefix }))
}

/// A network and its name, checked.
pub fn network(n: pb::OverlayNetwork) -> Result<(String, Network), ConvertError> {
    let network = Network {
        pool: pool(("subnet", "prefix"), &n.subnet, n.prefix)?,
        pool6: pool(("subnet6", "prefix6"), &n.subnet6, n.prefix6)?,
        mtu: Some(port("mtu", n.mtu)?).filter(|mtu| *mtu > 0),
        masquerade: !n.no_masquerade,
    };
    network.check(&n.name).map_err(refused)?;
    Ok((n.name, network))
}

/// The reverse of [`network`].
pub fn network_to_wire((name, n): (&String, &Network)) -> pb::OverlayNetwork {
    let text = |pool: Option<AddressPool>| pool.map(|p| p.net.to_string()).unwrap_or_default();
    let prefix = |pool: Option<AddressPool>| pool.map_or(0, |p| p.prefix.into());
    pb::OverlayNetwork {
        name: name.clone(),
        subnet: text(n.pool),
        prefix: prefix(n.pool),
        subnet6: text(n.pool6),
        prefix6: prefix(n.pool6),
        mtu: n.mtu.unwrap_or(0).into(),
        no_masquerade: !n.masquerade,
    }
}

/// How networks are carried; DC/OS's way where nothing is said.
pub fn vxlan(v: Option<pb::Vxlan>) -> Result<Vxlan, ConvertError> {
    let Some(v) = v else {
        return Ok(Vxlan::default());
    };
    let vteps =
        |field, text: &str| net(field, text)?.ok_or_else(|| ConvertError::new(field, "is missing"));
    let vxlan = Vxlan {
        vni: v.vni,
        port: port("port", v.port)?,
        vteps: vteps("vteps", &v.vteps)?,
        vteps6: vteps("vteps6", &v.vteps6)?,
    };
    vxlan.check().map_err(refused)?;
    Ok(vxlan)
}

/// The reverse of [`vxlan`].
pub fn vxlan_to_wire(v: Vxlan) -> Option<pb::Vxlan> {
    (v != Vxlan::default()).then(|| pb::Vxlan {
        vni: v.vni,
        port: v.port.into(),
        vteps: v.vteps.to_string(),
        vteps6: v.vteps6.to_string(),
    })
}

/// What an agent holds.
pub fn overlay(o: Option<pb::AgentOverlay>) -> Result<AgentOverlay, ConvertError> {
    let Some(o) = o else {
        return Ok(AgentOverlay::default());
    };
    let vtep = if o.vtep.is_empty() {
        None
    } else {
        Some(Vtep {
            ip: ip("vtep", &o.vtep)?,
            ip6: ip6("vtep6", &o.vtep6)?,
        })
    };
    at_most("subnets", o.subnets.len(), MAX_NETWORKS)?;
    let subnets = each("subnets", o.subnets, |s| {
        check_network_name("network", &s.network).map_err(refused)?;
        let held = AgentSubnet {
            v4: net("subnet", &s.subnet)?,
            v6: net("subnet6", &s.subnet6)?,
        };
        if held.v4.is_some_and(|n| !n.is_ipv4()) || held.v6.is_some_and(IpNet::is_ipv4) {
            return Err(ConvertError::new("subnet", "must be of its own family"));
        }
        Ok((s.network, held))
    })?;
    Ok(AgentOverlay {
        wireguard: wireguard_key(&o.wireguard_key)?,
        vtep,
        subnets: subnets.into_iter().collect(),
    })
}

/// A public key of WireGuard; none where there are no bytes.
///
/// # Errors
/// Not 32 bytes, or all zero.
pub fn wireguard_key(bytes: &[u8]) -> Result<Option<WireguardKey>, ConvertError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let key = bytes.try_into().ok().and_then(WireguardKey::new);
    key.map(Some)
        .ok_or_else(|| ConvertError::new("wireguard_key", "must be 32 bytes, not all zero"))
}

/// The reverse of [`wireguard_key`].
pub fn wireguard_key_to_wire(key: Option<WireguardKey>) -> Vec<u8> {
    key.map(|key| key.bytes().to_vec()).unwrap_or_default()
}

/// The reverse of [`overlay`].
pub fn overlay_to_wire(o: &AgentOverlay) -> Option<pb::AgentOverlay> {
    if *o == AgentOverlay::default() {
        return None;
    }
    let text = |net: Option<IpNet>| net.map(|n| n.to_string()).unwrap_or_default();
    Some(pb::AgentOverlay {
        wireguard_key: wireguard_key_to_wire(o.wireguard),
        vtep: o.vtep.map(|v| v.ip.to_string()).unwrap_or_default(),
        vtep6: o
            .vtep
            .and_then(|v| v.ip6)
            .map(|ip| ip.to_string())
            .unwrap_or_default(),
        subnets: o
            .subnets
            .iter()
            .map(|(network, held)| pb::AgentSubnet {
                network: network.clone(),
                subnet: text(held.v4),
                subnet6: text(held.v6),
            })
            .collect(),
    })
}

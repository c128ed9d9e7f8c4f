//! Overlay networks and leases as stored: `networks/<name>`, `overlay/<agent>`.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};
use waggle_overlay_plan::network::Held;
use waggle_types::{
    AddressPool, AgentId, AgentOverlay, AgentSubnet, IpNet, Network, Subnets, UnixMillis, Vtep,
};

use super::{StoreOp, json, put};

#[derive(Serialize, Deserialize)]
struct StoredNetwork {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pool: Option<StoredPool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pool6: Option<StoredPool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
    masquerade: bool,
}

#[derive(Serialize, Deserialize)]
struct StoredPool {
    net: String,
    prefix: u8,
}

#[derive(Serialize, Deserialize)]
struct StoredHeld {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vtep: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vtep6: Option<Ipv6Addr>,
    subnets: BTreeMap<String, Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    released_ms: Option<u64>,
}

pub(in crate::core) fn put_network(name: &str, n: &Network) -> StoreOp {
    let pool = |pool: Option<AddressPool>| {
        pool.map(|p| StoredPool {
            net: p.net.to_string(),
            prefix: p.prefix,
        })
    };
    let stored = StoredNetwork {
        pool: pool(n.pool),
        pool6: pool(n.pool6),
        mtu: n.mtu,
        masquerade: n.masquerade,
    };
    put(key(name), json(&stored))
}

pub(in crate::core) fn delete_network(name: &str) -> StoreOp {
    StoreOp::Delete { key: key(name) }
}

fn key(name: &str) -> String {
    format!("networks/{name}")
}

fn net(text: &str) -> Result<IpNet, String> {
    text.parse()
        .map_err(|e: waggle_types::IpNetError| e.to_string())
}

pub(super) fn read_network(name: &str, text: &str) -> Result<Network, String> {
    let s: StoredNetwork = serde_json::from_str(text).map_err(|x| x.to_string())?;
    let pool = |pool: Option<StoredPool>| {
        pool.map(|p| {
            let net = net(&p.net)?;
            Ok::<_, String>(AddressPool {
                net,
                prefix: p.prefix,
            })
        })
        .transpose()
    };
    let network = Network {
        pool: pool(s.pool)?,
        pool6: pool(s.pool6)?,
        mtu: s.mtu,
        masquerade: s.masquerade,
    };
    network.check(name).map_err(|e| e.to_string())?;
    Ok(network)
}

pub(in crate::core) fn put_overlay(agent: &AgentId, held: &Held) -> StoreOp {
    let overlay = &held.overlay;
    let subnets = overlay.subnets.iter().map(|(name, subnet)| {
        let nets = subnet.nets().map(|n| n.to_string()).collect();
        (name.clone(), nets)
    });
    let stored = StoredHeld {
        vtep: overlay.vtep.map(|v| v.ip),
        vtep6: overlay.vtep.and_then(|v| v.ip6),
        subnets: subnets.collect(),
        released_ms: held.released_at.map(|at| at.0),
    };
    put(format!("overlay/{agent}"), json(&stored))
}

pub(in crate::core) fn delete_overlay(agent: &AgentId) -> StoreOp {
    StoreOp::Delete {
        key: format!("overlay/{agent}"),
    }
}

pub(super) fn read_overlay(text: &str) -> Result<Held, String> {
    let s: StoredHeld = serde_json::from_str(text).map_err(|x| x.to_string())?;
    let mut subnets = Subnets::default();
    for (name, nets) in s.subnets {
        let mut subnet = AgentSubnet::default();
        for text in nets {
            let net = net(&text)?;
            if net.is_ipv4() {
                subnet.v4 = Some(net);
            } else {
                subnet.v6 = Some(net);
            }
        }
        subnets.insert(name, subnet);
    }
    Ok(Held {
        overlay: AgentOverlay {
            vtep: s.vtep.map(|ip| Vtep { ip, ip6: s.vtep6 }),
            subnets,
            wireguard: None,
        },
        released_at: s.released_ms.map(UnixMillis),
    })
}

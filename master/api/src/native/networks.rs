//! Overlay networks: Waggle's own JSON, and DC/OS's `/overlay-master/state`.

use serde::{Deserialize, Serialize};
use waggle_types::{
    AddressPool, AgentOverlay, IpNet, MAX_MTU, Network, Vtep, Vxlan, check_network_name,
};

use crate::read::{Errors, Obj};

/// A network and what is used of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// Its name.
    pub name: String,
    /// IPv4 addresses; `null` where it has none.
    pub subnet: Option<String>,
    /// Length of an agent's part of them.
    pub prefix: Option<u8>,
    /// IPv6 addresses.
    pub subnet6: Option<String>,
    /// Length of an agent's part of them.
    pub prefix6: Option<u8>,
    /// MTU inside of containers; `null`: what each node's underlay carries.
    pub mtu: Option<u16>,
    /// Whether containers have the node's address outside.
    pub masquerade: bool,
    /// Subnets that nodes hold, that rest after use, and that are free.
    pub subnets: SubnetsView,
    /// Containers' addresses on all nodes together.
    pub addresses: AddressesView,
    /// What each node has of it.
    pub nodes: Vec<NetworkNodeView>,
    /// Nodes that there was no subnet for.
    pub without_subnet: Vec<String>,
}

/// Subnets of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetsView {
    /// Nodes hold them.
    pub held: u64,
    /// Their node has gone, not long ago.
    pub resting: u64,
    /// Left for other nodes.
    pub free: u64,
}

/// Addresses of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AddressesView {
    /// Containers have them.
    pub used: u64,
    /// Left; those that rest after use are among them.
    pub free: u64,
}

/// A node's part of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkNodeView {
    /// The agent.
    pub agent_id: String,
    /// Node name.
    pub hostname: String,
    /// Its IPv4 subnet.
    pub subnet: Option<String>,
    /// Its IPv6 subnet.
    pub subnet6: Option<String>,
    /// Addresses of its containers.
    pub addresses: AddressesView,
}

/// A network and its name.
pub(super) fn read_network(obj: &Obj<'_>, errs: &mut Errors) -> Option<(String, Network)> {
    obj.only(
        &[
            "name",
            "subnet",
            "prefix",
            "subnet6",
            "prefix6",
            "mtu",
            "masquerade",
        ],
        errs,
    );
    obj.required("name", errs);
    let name = obj.string("name", errs);
    let mtu = obj.integer("mtu", 1, MAX_MTU.into(), errs);
    let network = Network {
        pool: pool(obj, ("subnet", "prefix"), 24, errs),
        pool6: pool(obj, ("subnet6", "prefix6"), 80, errs),
        mtu: mtu.and_then(|m| u16::try_from(m).ok()),
        masquerade: obj.boolean("masquerade", errs).unwrap_or(true),
    };
    let name = name?;
    if let Err(e) = check_network_name("name", &name) {
        errs.push(e);
    }
    if errs.is_empty()
        && let Err(e) = network.check(&name)
    {
        errs.push(e);
    }
    Some((name, network))
}

/// A pool; an agent's part is as DC/OS's unless it is given, or the pool is smaller.
fn pool(
    obj: &Obj<'_>,
    (subnet, prefix): (&str, &str),
    usual: u8,
    errs: &mut Errors,
) -> Option<AddressPool> {
    let given = obj.integer(prefix, 0, 128, errs);
    let Some(text) = obj.string(subnet, errs) else {
        if given.is_some() {
            errs.add(
                obj.path(prefix),
                format!("must not be set without {subnet}"),
            );
        }
        return None;
    };
    let net: IpNet = match text.parse() {
        Ok(net) => net,
        Err(e) => {
            let e: waggle_types::IpNetError = e;
            errs.add(obj.path(subnet), e.to_string());
            return None;
        }
    };
    let prefix = given
        .and_then(|p| u8::try_from(p).ok())
        .unwrap_or_else(|| usual.max(net.prefix()));
    Some(AddressPool { net, prefix })
}

/// DC/OS's `GET /overlay-master/state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayStateJson {
    /// What there is.
    pub network: OverlayNetworkJson,
    /// What each node has of it.
    pub agents: Vec<OverlayAgentJson>,
}

/// All networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayNetworkJson {
    /// Addresses of tunnel endpoints.
    pub vtep_subnet: String,
    /// The same over IPv6.
    pub vtep_subnet6: String,
    /// What their hardware addresses begin with.
    pub vtep_mac_oui: String,
    /// The networks.
    pub overlays: Vec<OverlayInfoJson>,
}

/// One network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayInfoJson {
    /// Its name.
    pub name: String,
    /// IPv4 addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// Length of an agent's part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<u8>,
    /// IPv6 addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet6: Option<String>,
    /// Length of an agent's part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix6: Option<u8>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayAgentJson {
    /// Its underlay address.
    pub ip: String,
    /// Its part of each network.
    pub overlays: Vec<OverlayPartJson>,
}

/// A node's part of one network. Waggle has no bridges: there are none to name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayPartJson {
    /// The network.
    pub info: OverlayInfoJson,
    /// The node's IPv4 subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// The node's IPv6 subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet6: Option<String>,
    /// How it is carried.
    pub backend: OverlayBackendJson,
    /// Whether it works.
    pub state: OverlayStatusJson,
}

/// How a network is carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayBackendJson {
    /// By VXLAN.
    pub vxlan: OverlayVxlanJson,
}

/// A tunnel endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayVxlanJson {
    /// VXLAN network identifier.
    pub vni: u32,
    /// The device.
    pub vtep_name: String,
    /// Its address, as DC/OS with the prefix of all.
    pub vtep_ip: String,
    /// The same over IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vtep_ip6: Option<String>,
    /// Its hardware address.
    pub vtep_mac: String,
}

/// `STATUS_OK`, `STATUS_CONFIGURING` or `STATUS_FAILED`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayStatusJson {
    /// One of these.
    pub status: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl OverlayInfoJson {
    /// Of a network.
    pub fn new(name: &str, network: &Network) -> Self {
        Self {
            name: name.to_owned(),
            subnet: network.pool.map(|p| p.net.to_string()),
            prefix: network.pool.map(|p| p.prefix),
            subnet6: network.pool6.map(|p| p.net.to_string()),
            prefix6: network.pool6.map(|p| p.prefix),
        }
    }
}

impl OverlayNetworkJson {
    /// Of all networks.
    pub fn new<'a>(
        vxlan: &Vxlan,
        networks: impl Iterator<Item = (&'a String, &'a Network)>,
    ) -> Self {
        Self {
            vtep_subnet: vxlan.vteps.to_string(),
            vtep_subnet6: vxlan.vteps6.to_string(),
            vtep_mac_oui: "70:B3:D5:00:00:00".to_owned(),
            overlays: networks
                .map(|(name, n)| OverlayInfoJson::new(name, n))
                .collect(),
        }
    }
}

impl OverlayPartJson {
    /// A node's parts of all networks that it has something of.
    pub fn of<'a>(
        vxlan: &Vxlan,
        networks: impl Iterator<Item = (&'a String, &'a Network)>,
        overlay: &AgentOverlay,
        state: &OverlayStatusJson,
    ) -> Vec<Self> {
        let Some(vtep) = overlay.vtep else {
            return Vec::new();
        };
        let backend = OverlayBackendJson {
            vxlan: OverlayVxlanJson::new(vxlan, vtep),
        };
        networks
            .filter_map(|(name, network)| {
                let held = overlay.subnets.get(name)?;
                Some(Self {
                    info: OverlayInfoJson::new(name, network),
                    subnet: held.v4.map(|n| n.to_string()),
                    subnet6: held.v6.map(|n| n.to_string()),
                    backend: backend.clone(),
                    state: state.clone(),
                })
            })
            .collect()
    }
}

impl OverlayVxlanJson {
    fn new(vxlan: &Vxlan, vtep: Vtep) -> Self {
        Self {
            vni: vxlan.vni,
            vtep_name: format!("vtep{}", vxlan.vni),
            vtep_ip: format!("{}/{}", vtep.ip, vxlan.vteps.prefix()),
            vtep_ip6: vtep.ip6.map(|ip| format!("{ip}/{}", vxlan.vteps6.prefix())),
            vtep_mac: vtep.mac().map(|b| format!("{b:02x}")).join(":"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::request::network;

    #[test]
    fn a_network_is_read_strictly() {
        let (name, n) = network(&json!({"name": "db", "subnet": "10.9.0.0/16"})).unwrap();
        assert_eq!(name, "db");
        assert_eq!(n.pool.map(|p| p.prefix), Some(24), "as DC/OS's");
        assert!(n.masquerade && n.mtu.is_none());
        let small = network(&json!({"name": "db", "subnet": "10.9.0.0/26"}))
            .unwrap()
            .1;
        assert_eq!(small.pool.map(|p| p.prefix), Some(26));
        for (body, field) in [
            (json!({"subnet": "10.9.0.0/16"}), "name"),
            (json!({"name": "db"}), "subnet"),
            (json!({"name": "db", "subnet": "10.9.0.1/16"}), "subnet"),
            (
                json!({"name": "db", "subnet": "10.9.0.0/16", "prefix": 30}),
                "prefix",
            ),
            (json!({"name": "db", "prefix": 24}), "prefix"),
            (json!({"name": "db", "subnet6": "10.9.0.0/16"}), "subnet6"),
            (
                json!({"name": "db", "subnet": "10.9.0.0/16", "mtu": 100}),
                "mtu",
            ),
            (json!({"name": "host", "subnet": "10.9.0.0/16"}), "name"),
            (
                json!({"name": "db", "subnet": "10.9.0.0/16", "vni": 7}),
                "vni",
            ),
        ] {
            let errors = network(&body).unwrap_err();
            let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
            assert!(fields.contains(&field), "{body}: {errors:?}");
        }
    }
}

//! Overlay networks: whether this node takes part, and what a new cluster has of them.

use std::collections::BTreeMap;

use waggle_types::{AddressPool, IpNet, Network, Vxlan};

use crate::{
    args::RunArgs,
    error::{CliError, usage},
};

/// What a node and its master candidate are told of overlay networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlaySettings {
    /// Whether tasks of this node can be on them.
    pub takes_part: bool,
    /// UDP port of WireGuard, where what they carry between nodes is encrypted.
    pub encrypt: Option<u16>,
    /// How they are carried between nodes; the same on all masters.
    pub vxlan: Vxlan,
    /// Those of a new cluster.
    pub networks: BTreeMap<String, Network>,
}

/// `--no-overlay`, `--overlay-network`, `--overlay-vni`, `--overlay-port`, `--vtep-subnet`, `--vtep-subnet6`.
pub fn overlay(args: &RunArgs) -> Result<OverlaySettings, CliError> {
    let mut vxlan = Vxlan::default();
    if let Some(vni) = args.overlay_vni {
        vxlan.vni = vni;
    }
    if let Some(port) = args.overlay_port {
        vxlan.port = port;
    }
    for (field, text, net) in [
        ("vtep-subnet", &args.vtep_subnet, &mut vxlan.vteps),
        ("vtep-subnet6", &args.vtep_subnet6, &mut vxlan.vteps6),
    ] {
        if let Some(text) = text {
            *net = read_net(field, text)?;
        }
    }
    vxlan.check().map_err(|e| usage(e.to_string()))?;
    let mut networks: BTreeMap<String, Network> = BTreeMap::new();
    for text in &args.overlay_network {
        let (name, network) = read_network(text)?;
        waggle_master::core::check_network_of(&name, &network, &networks, &vxlan)
            .map_err(|e| usage(format!("overlay-network: {name}: {e}")))?;
        if networks.insert(name.clone(), network).is_some() {
            return Err(usage(format!("overlay-network: {name} is there twice")));
        }
    }
    if args.overlay_network.is_empty() {
        networks = BTreeMap::from([
            ("dcos".to_owned(), Network::dcos()),
            ("dcos6".to_owned(), Network::dcos6()),
        ]);
        for (name, network) in &networks {
            let none = BTreeMap::new();
            waggle_master::core::check_network_of(name, network, &none, &vxlan)
                .map_err(|e| usage(format!("vtep-subnet: {name}: {e}")))?;
        }
    }
    Ok(OverlaySettings {
        takes_part: !args.no_overlay,
        encrypt: encrypt(args, vxlan.port)?,
        vxlan,
        networks,
    })
}

/// `--encrypt`.
fn encrypt(args: &RunArgs, vxlan_port: u16) -> Result<Option<u16>, CliError> {
    let Some(port) = args.encrypt else {
        return Ok(None);
    };
    if args.no_overlay {
        return Err(usage("encrypt: can't be with no-overlay"));
    }
    if port == 0 || port == vxlan_port {
        return Err(usage(format!(
            "encrypt: must be a UDP port other than 0 and overlay-port ({vxlan_port}), is {port}"
        )));
    }
    Ok(Some(port))
}

/// `NAME=NET/BITS`, an IPv4 and an IPv6 one joined by `+`.
fn read_network(text: &str) -> Result<(String, Network), CliError> {
    let wrong = || {
        usage(format!(
            "overlay-network: must be NAME=NET/BITS such as dcos=9.0.0.0/8/24, or NAME=NET/BITS+NET6/BITS, is {text:?}"
        ))
    };
    let (name, pools) = text.split_once('=').ok_or_else(wrong)?;
    let mut network = Network {
        pool: None,
        ..Network::dcos()
    };
    for pool in pools.split('+') {
        let (net, prefix) = pool.rsplit_once('/').ok_or_else(wrong)?;
        let pool = AddressPool {
            net: read_net("overlay-network", net)?,
            prefix: prefix.parse().map_err(|_| wrong())?,
        };
        let place = if pool.net.is_ipv4() {
            &mut network.pool
        } else {
            &mut network.pool6
        };
        if place.replace(pool).is_some() {
            return Err(wrong());
        }
    }
    Ok((name.to_owned(), network))
}

fn read_net(field: &str, text: &str) -> Result<IpNet, CliError> {
    text.parse()
        .map_err(|e: waggle_types::IpNetError| usage(format!("{field}: {e}")))
}

//! From what is on a node to what its plan says: typed steps in an order in which no step needs a later one.
//!
//! What is not ours is never touched: [`Observed`] has only what carries our mark.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use waggle_types::IpNet;

use super::node::{Home, NodePlan, Where};

/// The node's tunnel device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// UDP port that it listens on.
    pub port: u16,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// What it carries, bytes.
    pub mtu: u16,
}

/// A route to the tunnel device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where to.
    pub to: IpNet,
    /// What the node itself sends from.
    pub from: IpAddr,
}

/// What carries our mark on a node, and what is in the kernel's tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// The device, if there is one.
    pub device: Option<Device>,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Routes to it.
    pub routes: BTreeSet<Route>,
    /// Nodes that packets are taken from and sent to, by underlay address.
    pub peers: BTreeSet<Ipv4Addr>,
    /// What lives where.
    pub subnets: BTreeMap<IpNet, Home>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetOp {
    /// Make the device, or make it anew: addresses and routes go with the old one.
    MakeDevice(Device),
    /// Take it away, with its addresses and routes.
    RemoveDevice,
    /// Give it another MTU.
    SetMtu(u16),
    /// An address of the device.
    AddAddress(IpAddr),
    /// No longer one.
    RemoveAddress(IpAddr),
    /// A route to it, in place of one to the same network.
    SetRoute(Route),
    /// No longer one.
    RemoveRoute(Route),
    /// Packets are taken from a node and sent to it.
    SetPeer(Ipv4Addr),
    /// No longer.
    RemovePeer(Ipv4Addr),
    /// Says where a net is.
    SetSubnet(IpNet, Home),
    /// No longer anywhere.
    RemoveSubnet(IpNet),
}

/// What must be done. `mtu` is what the device carries: the most that containers here send.
pub fn diff(observed: &Observed, plan: &NodePlan, mtu: u16) -> Vec<NetOp> {
    let wanted = wanted(plan, mtu);
    let mut ops = Vec::new();
    // Addresses and routes that go with a device need no step of their own.
    let mut there = observed.clone();
    match (&observed.device, &wanted.device) {
        (Some(_), None) => {
            ops.push(NetOp::RemoveDevice);
            there.addresses.clear();
            there.routes.clear();
        }
        (None, Some(new)) => ops.push(NetOp::MakeDevice(new.clone())),
        (Some(old), Some(new)) if (old.port, old.mac) != (new.port, new.mac) => {
            ops.push(NetOp::MakeDevice(new.clone()));
            there.addresses.clear();
            there.routes.clear();
        }
        (Some(old), Some(new)) if old.mtu != new.mtu => ops.push(NetOp::SetMtu(new.mtu)),
        _ => {}
    }
    for address in wanted.addresses.difference(&there.addresses) {
        ops.push(NetOp::AddAddress(*address));
    }
    for route in wanted.routes.difference(&there.routes) {
        ops.push(NetOp::SetRoute(*route));
    }
    for route in there.routes.difference(&wanted.routes) {
        // One to the same network was replaced.
        if wanted.routes.iter().all(|w| w.to != route.to) {
            ops.push(NetOp::RemoveRoute(*route));
        }
    }
    for address in there.addresses.difference(&wanted.addresses) {
        ops.push(NetOp::RemoveAddress(*address));
    }
    let new = wanted.peers.difference(&there.peers);
    ops.extend(new.map(|ip| NetOp::SetPeer(*ip)));
    // Removals first, so that a full table has room. What moves is set anew in one step.
    for net in there.subnets.keys() {
        if !wanted.subnets.contains_key(net) {
            ops.push(NetOp::RemoveSubnet(*net));
        }
    }
    for (net, home) in &wanted.subnets {
        if there.subnets.get(net) != Some(home) {
            ops.push(NetOp::SetSubnet(*net, *home));
        }
    }
    let gone = there.peers.difference(&wanted.peers);
    ops.extend(gone.map(|ip| NetOp::RemovePeer(*ip)));
    ops
}

/// What is there after a step: the model that tests and dry runs use.
pub fn apply(op: &NetOp, to: &mut Observed) {
    match op {
        NetOp::MakeDevice(device) => {
            to.device = Some(device.clone());
            to.addresses.clear();
            to.routes.clear();
        }
        NetOp::RemoveDevice => {
            to.device = None;
            to.addresses.clear();
            to.routes.clear();
        }
        NetOp::SetMtu(mtu) => {
            if let Some(device) = &mut to.device {
                device.mtu = *mtu;
            }
        }
        NetOp::AddAddress(ip) => {
            to.addresses.insert(*ip);
        }
        NetOp::RemoveAddress(ip) => {
            to.addresses.remove(ip);
        }
        NetOp::SetRoute(route) => {
            to.routes.retain(|r| r.to != route.to);
            to.routes.insert(*route);
        }
        NetOp::RemoveRoute(route) => {
            to.routes.remove(route);
        }
        NetOp::SetPeer(ip) => {
            to.peers.insert(*ip);
        }
        NetOp::RemovePeer(ip) => {
            to.peers.remove(ip);
        }
        NetOp::SetSubnet(net, home) => {
            to.subnets.insert(*net, *home);
        }
        NetOp::RemoveSubnet(net) => {
            to.subnets.remove(net);
        }
    }
}

fn wanted(plan: &NodePlan, mtu: u16) -> Observed {
    let Some(vtep) = plan.vtep else {
        return Observed::default();
    };
    let mut out = Observed {
        device: Some(Device {
            port: plan.vxlan.port,
            mac: vtep.mac(),
            mtu,
        }),
        ..Observed::default()
    };
    out.addresses.insert(vtep.ip.into());
    out.addresses.extend(vtep.ip6.map(IpAddr::from));
    let vteps = [plan.vxlan.vteps, plan.vxlan.vteps6];
    for to in plan.pools.keys().copied().chain(vteps) {
        let from = if to.is_ipv4() {
            Some(vtep.ip.into())
        } else {
            vtep.ip6.map(IpAddr::from)
        };
        out.routes.extend(from.map(|from| Route { to, from }));
    }
    let nowhere = |network| Home {
        place: Where::Nowhere,
        network,
    };
    let pools = plan.pools.iter().map(|(net, n)| (*net, nowhere(*n)));
    out.subnets.extend(pools);
    out.subnets.extend(vteps.map(|net| (net, nowhere(0))));
    let own = [Some(IpAddr::from(vtep.ip)), vtep.ip6.map(IpAddr::from)];
    let own = own.into_iter().flatten().map(|ip| (IpNet::host(ip), 0));
    let local = plan.local.values();
    let local = local.flat_map(|l| l.subnet.nets().map(|net| (net, l.number())));
    for (net, network) in local.chain(own) {
        let place = Where::Here;
        out.subnets.insert(net, Home { place, network });
    }
    for (ip, nets) in &plan.peers {
        out.peers.insert(*ip);
        let place = Where::Peer(*ip);
        for (net, network) in nets {
            let network = *network;
            out.subnets.insert(*net, Home { place, network });
        }
    }
    out
}

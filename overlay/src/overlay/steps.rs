//! What is there, and the steps from it to a plan: one look, one difference, one executor.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use netlink_packet_route::link::InfoKind;
use waggle_ebpf::{
    LoadError,
    overlay::{At, Endpoint, Net, OverlayPlane, Peer, Place, Reach, Role, Subnet},
};
use waggle_ebpf_common::overlay::MTU_OVERHEAD;
use waggle_overlay_plan::network::{Device, Home, NetOp, Observed, Route, Where, diff};
use waggle_types::IpNet;

use super::{
    OverlayError, OverlayNetConfig, State, config_of, mtu_of,
    sealing::{self, Sealing},
};
use waggle_overlay_plan::policy::Report;

use crate::policy::PolicyPlane;
use crate::{
    edge::link::Link as Underlying,
    netlink::{Batch, Link, Netlink, NetlinkError},
    wireguard,
};

/// What our tunnel device says of itself (`ip link show`).
pub const ALIAS: &str = "waggle overlay";

/// The device that leads to other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Underlay {
    pub(super) link: Underlying,
    /// Longest packet that a tunnel's may be, headers and all: the device's, or what encryption leaves of it.
    pub(super) mtu: u16,
}

/// Brings everything to the state's plan, and says in the state whether containers can be on a network now.
pub(super) fn converge(state: &mut State, config: &OverlayNetConfig) -> Vec<OverlayError> {
    let mut errors = Vec::new();
    state.trouble = match try_converge(state, config, &mut errors) {
        Err(e) => {
            let why = crate::chain(&e);
            errors.push(e);
            Some(why)
        }
        Ok(()) if state.plan.vtep.is_none() => Some(
            "this node has no part in the overlay: no tunnel endpoint was left for it".to_owned(),
        ),
        Ok(()) => None,
    };
    errors
}

/// Brings the kernel's policies to the state's.
pub(super) fn policies(state: &mut State, errors: &mut Vec<OverlayError>) {
    let (Some(plane), Some(policy)) = (&state.plane, &mut state.policy) else {
        return;
    };
    match policy.apply(plane, &state.world) {
        Ok(report) if report != Report::default() => {
            tracing::warn!(
                ?report,
                "not all policies fit; what does not gets no traffic"
            );
        }
        Ok(_) => {}
        Err(e) => errors.push(e.into()),
    }
}

fn try_converge(
    state: &mut State,
    config: &OverlayNetConfig,
    errors: &mut Vec<OverlayError>,
) -> Result<(), OverlayError> {
    let Some(vtep) = state.plan.vtep else {
        return lower(state, config);
    };
    let mut netlink = Netlink::open()?;
    let links = netlink.links()?;
    let mut underlay = underlay(&mut netlink, &links, config.node_ip)?;
    if state.encryption.is_some() {
        underlay.mtu = wireguard::mtu_inside(underlay.link.mtu)?;
    }
    state.underlay = Some(underlay);
    let is_sealed = state.encryption.is_some();
    let wanted = config_of(&state.plan, vtep, config.node_ip, is_sealed);
    if state.plane.as_ref().is_some_and(|p| *p.config() != wanted) {
        (state.plane, state.policy) = (None, None);
    }
    if state.plane.is_none() {
        let plane = OverlayPlane::open(&config.pin_dir, &wanted)?;
        // Both or none: no container is ever attached without policies.
        state.policy = Some(PolicyPlane::open(&plane, Arc::clone(&state.askers))?);
        state.plane = Some(plane);
        state.is_stale = true;
    }
    policies(state, errors);
    let Some(plane) = &state.plane else {
        return Ok(());
    };
    let sealing = sealing::converge(
        (state.encryption.as_ref(), &mut state.ways),
        (&state.plan, underlay),
        plane,
        errors,
    );
    for (name, local) in &state.plan.local {
        if let Err(error) = mtu_of(local, underlay.mtu) {
            let name = name.clone();
            errors.push(OverlayError::Network { name, error });
        }
    }
    let name = device_name(state.plan.vxlan.vni);
    // Of another VNI: the kernel has room for one such device on a port.
    let mut old = Batch::default();
    let others = links.iter().filter(|l| is_ours(l) && l.name != name);
    others.for_each(|link| old.remove(&link.name));
    netlink.run(old)?;
    let there = observe(&mut netlink, &links, plane, &name)?;
    let overhead = u16::try_from(MTU_OVERHEAD).unwrap_or(u16::MAX);
    let mtu = underlay.mtu.saturating_sub(overhead);
    let mut doing = Doing {
        netlink: &mut netlink,
        plane,
        name: &name,
        underlay,
        sealing,
        errors,
        is_new: state.is_stale,
    };
    for op in diff(&there, &state.plan, mtu) {
        doing.step(&op);
    }
    doing.peers(state.plan.peers.keys().copied());
    doing.node([Some(vtep.ip.into()), vtep.ip6.map(IpAddr::from)]);
    let before = doing.errors.len();
    doing.containers(&state.endpoints, state.is_settled);
    doing.attach(&state.endpoints, state.is_settled);
    if doing.errors.len() == before {
        state.is_stale = false;
    }
    Ok(())
}

/// The node takes no part any more.
fn lower(state: &mut State, config: &OverlayNetConfig) -> Result<(), OverlayError> {
    (state.underlay, state.policy) = (None, None);
    state.askers.only(BTreeSet::new());
    if state.plane.take().is_none() && !config.pin_dir.exists() {
        return Ok(());
    }
    OverlayPlane::remove(&config.pin_dir)?;
    remove_devices()
}

/// Removes tunnel devices of ours, whatever their names.
pub(super) fn remove_devices() -> Result<(), OverlayError> {
    let mut netlink = Netlink::open()?;
    let mut batch = Batch::default();
    for link in netlink.links()?.iter().filter(|l| is_ours(l)) {
        batch.remove(&link.name);
    }
    Ok(netlink.run(batch)?)
}

fn device_name(vni: u32) -> String {
    format!("vtep{vni}")
}

fn is_ours(link: &Link) -> bool {
    link.kind == Some(InfoKind::Vxlan) && link.alias.as_deref() == Some(ALIAS)
}

fn underlay(
    netlink: &mut Netlink,
    links: &[Link],
    node_ip: Ipv4Addr,
) -> Result<Underlay, OverlayError> {
    let addresses = netlink.addresses()?;
    let device = addresses.iter().find(|a| a.ip == IpAddr::V4(node_ip));
    let link = device.and_then(|a| links.iter().find(|l| l.index == a.device));
    let link = link.ok_or(OverlayError::NoUnderlay(node_ip))?;
    let of_link = u16::try_from(link.mtu.unwrap_or(1500)).unwrap_or(u16::MAX);
    Ok(Underlay {
        link: Underlying {
            index: link.index,
            mac: link.mac.unwrap_or_default(),
            mtu: of_link,
        },
        mtu: of_link,
    })
}

fn observe(
    netlink: &mut Netlink,
    links: &[Link],
    plane: &OverlayPlane,
    name: &str,
) -> Result<Observed, OverlayError> {
    let mut there = Observed::default();
    if let Some(link) = links.iter().find(|l| l.name == name) {
        if !is_ours(link) {
            return Err(OverlayError::ForeignDevice(name.to_owned()));
        }
        there.device = Some(Device {
            // One that is not external is made anew.
            port: link.external_port.unwrap_or(0),
            mac: link.mac.unwrap_or_default(),
            mtu: link.mtu.and_then(|m| u16::try_from(m).ok()).unwrap_or(0),
        });
        let addresses = netlink.addresses()?;
        let own = addresses
            .iter()
            .filter(|a| a.device == link.index && IpNet::host(a.ip).prefix() == a.prefix);
        there.addresses = own.map(|a| a.ip).collect();
        for is_ipv4 in [true, false] {
            let routes = netlink.routes(is_ipv4)?;
            let ours = routes
                .iter()
                .filter(|r| r.is_ours && r.device == link.index);
            let routes = ours.filter_map(|r| {
                Some(Route {
                    to: r.to,
                    from: r.from?,
                })
            });
            there.routes.extend(routes);
        }
    }
    there.peers = plane.peers()?.into_keys().collect();
    for (net, subnet) in plane.subnets()? {
        let home = Home {
            place: match subnet.place {
                Place::Here => Where::Here,
                Place::Peer(ip) => Where::Peer(ip),
                Place::Nowhere => Where::Nowhere,
            },
            network: subnet.network,
        };
        there
            .subnets
            .insert(IpNet::around(net.addr(), net.prefix()), home);
    }
    Ok(there)
}

/// The executor.
struct Doing<'a> {
    netlink: &'a mut Netlink,
    plane: &'a OverlayPlane,
    name: &'a str,
    underlay: Underlay,
    sealing: Option<Sealing>,
    errors: &'a mut Vec<OverlayError>,
    /// Programs were loaded and not all links run them yet, but those of an earlier process.
    is_new: bool,
}

impl Doing<'_> {
    fn step(&mut self, op: &NetOp) {
        if let Err(error) = self.try_step(op) {
            self.errors.push(error);
        }
    }

    fn try_step(&mut self, op: &NetOp) -> Result<(), OverlayError> {
        match op {
            NetOp::SetPeer(ip) => self.set_peer(*ip, None),
            NetOp::RemovePeer(ip) => Ok(self.plane.remove_peer(*ip)?),
            NetOp::SetSubnet(net, home) => {
                let subnet = Subnet {
                    place: match home.place {
                        Where::Here => Place::Here,
                        Where::Peer(ip) => Place::Peer(ip),
                        Where::Nowhere => Place::Nowhere,
                    },
                    network: home.network,
                };
                Ok(self.plane.set_subnet(to_net(*net), subnet)?)
            }
            NetOp::RemoveSubnet(net) => Ok(self.plane.remove_subnet(to_net(*net))?),
            op => self.link_step(op),
        }
    }

    /// Those that are netlink's.
    fn link_step(&mut self, op: &NetOp) -> Result<(), OverlayError> {
        let mut batch = Batch::default();
        match op {
            NetOp::MakeDevice(device) => {
                if let Some(old) = self.netlink.link(self.name)? {
                    batch.remove(&old.name);
                }
                batch.add_vxlan(self.name, device.port, device.mac, device.mtu.into(), ALIAS);
            }
            NetOp::RemoveDevice => batch.remove(self.name),
            op => {
                let index = self.device()?;
                match op {
                    NetOp::SetMtu(mtu) => batch.set_mtu(index, (*mtu).into()),
                    NetOp::AddAddress(ip) => {
                        batch.add_address(index, *ip, IpNet::host(*ip).prefix());
                    }
                    NetOp::RemoveAddress(ip) => {
                        batch.remove_address(index, *ip, IpNet::host(*ip).prefix());
                    }
                    NetOp::SetRoute(route) => batch.set_route(route.to, index, Some(route.from)),
                    NetOp::RemoveRoute(route) => batch.remove_route(route.to, index),
                    _ => {}
                }
            }
        }
        Ok(self.netlink.run(batch)?)
    }

    fn device(&mut self) -> Result<u32, OverlayError> {
        let link = self.netlink.link(self.name)?;
        link.map(|l| l.index)
            .ok_or_else(|| OverlayError::ForeignDevice(self.name.to_owned()))
    }

    /// Follows the ways to all peers: the next hop, and its hardware address.
    fn peers(&mut self, peers: impl Iterator<Item = Ipv4Addr>) {
        let known = self.netlink.neighbours();
        let known = match known {
            Ok(known) => known,
            Err(error) => {
                self.errors.push(error.into());
                return;
            }
        };
        for ip in peers {
            if let Err(error) = self.set_peer(ip, Some(&known)) {
                self.errors.push(error);
            }
        }
    }

    fn set_peer(
        &mut self,
        node: Ipv4Addr,
        known: Option<&BTreeMap<(u32, Ipv4Addr), [u8; 6]>>,
    ) -> Result<(), OverlayError> {
        if let Some(sealing) = &self.sealing {
            let reach = sealing.reach(node);
            let peer = self.peer(node, sealing.device.unwrap_or(0), None, reach);
            return Ok(self.plane.set_peer(&peer)?);
        }
        let route = match self.netlink.route_to(node.into()) {
            Ok(route) => route,
            // No way there: who sends there is told.
            Err(e) if is_unreachable(&e) => None,
            Err(e) => return Err(e.into()),
        };
        let index = route.map_or(self.underlay.link.index, |r| r.device);
        let hop = match route.and_then(|r| r.gateway) {
            Some(IpAddr::V4(gateway)) => gateway,
            _ => node,
        };
        let next_hop = known.and_then(|known| known.get(&(index, hop)).copied());
        let is_fast = index == self.underlay.link.index;
        if known.is_some() && is_fast && route.is_some() {
            // Packets that programs send refresh nothing: the kernel is asked to look again.
            let mut batch = Batch::default();
            batch.resolve_neighbour(index, hop.into());
            self.netlink.run(batch)?;
        }
        let reach = match route {
            None => Reach::Down,
            Some(_) if is_fast => Reach::Fast,
            Some(_) => Reach::Slow,
        };
        let peer = self.peer(node, index, next_hop, reach);
        Ok(self.plane.set_peer(&peer)?)
    }

    fn peer(&self, node: Ipv4Addr, ifindex: u32, next_hop: Option<[u8; 6]>, reach: Reach) -> Peer {
        let overhead = u16::try_from(MTU_OVERHEAD).unwrap_or(u16::MAX);
        Peer {
            node,
            ifindex,
            source_mac: self.underlay.link.mac,
            next_hop,
            mtu: self.underlay.mtu.saturating_sub(overhead),
            vtep: None,
            reach,
        }
    }

    /// The node's own addresses in the overlay.
    fn node(&mut self, ips: [Option<IpAddr>; 2]) {
        let wanted = Endpoint {
            at: At::Node,
            network: 0,
            identity: 0,
        };
        let there = match self.plane.endpoints() {
            Ok(there) => there,
            Err(error) => return self.errors.push(error.into()),
        };
        for (ip, endpoint) in &there {
            if endpoint.at == At::Node && !ips.contains(&Some(*ip)) {
                self.note(self.plane.remove_endpoint(*ip));
            }
        }
        for ip in ips.into_iter().flatten() {
            if there.get(&ip) != Some(&wanted) {
                self.note(self.plane.set_endpoint(ip, &wanted));
            }
        }
    }

    /// Containers that this process knows of and the tables don't.
    fn containers(&mut self, wanted: &BTreeMap<IpAddr, Endpoint>, is_settled: bool) {
        let there = match self.plane.endpoints() {
            Ok(there) => there,
            Err(error) => return self.errors.push(error.into()),
        };
        for (ip, endpoint) in there.iter().filter(|_| is_settled) {
            if endpoint.at != At::Node && !wanted.contains_key(ip) {
                self.note(self.plane.remove_endpoint(*ip));
            }
        }
        for (ip, endpoint) in wanted {
            // What policies know it by is not ours to say.
            let same = there
                .get(ip)
                .is_some_and(|e| (e.at, e.network) == (endpoint.at, endpoint.network));
            if same && !self.is_new {
                continue;
            }
            if !same {
                self.note(self.plane.set_endpoint(*ip, endpoint));
            }
            if let At::Container { ifindex, .. } = endpoint.at {
                self.note(self.plane.attach_endpoint(ifindex).map(|_| ()));
            }
        }
    }

    /// Programs on the devices, and on no other of their kind.
    fn attach(&mut self, wanted: &BTreeMap<IpAddr, Endpoint>, is_settled: bool) {
        let device = match self.device() {
            Ok(device) => device,
            Err(error) => {
                self.errors.push(error);
                return;
            }
        };
        let underlay = self.underlay.link.index;
        let attached = match self.plane.attached() {
            Ok(attached) => attached,
            Err(error) => return self.errors.push(error.into()),
        };
        let containers: BTreeSet<u32> = wanted.values().filter_map(device_of).collect();
        for (index, roles) in &attached {
            let stale = (roles.contains(&Role::Vxlan) && *index != device)
                || (roles.contains(&Role::Underlay) && *index != underlay)
                || (roles.contains(&Role::Endpoint) && is_settled && !containers.contains(index));
            if stale {
                self.note(self.plane.detach(*index));
            }
        }
        let has = |index, role| {
            attached
                .get(&index)
                .is_some_and(|roles| roles.contains(&role))
        };
        if !has(device, Role::Vxlan) || self.is_new {
            self.note(self.plane.attach_vxlan(device).map(|_| ()));
        }
        if !has(underlay, Role::Underlay) || self.is_new {
            self.note(self.plane.attach_underlay(underlay).map(|_| ()));
        }
    }

    fn note(&mut self, done: Result<(), LoadError>) {
        if let Err(error) = done {
            self.errors.push(error.into());
        }
    }
}

fn device_of(endpoint: &Endpoint) -> Option<u32> {
    match endpoint.at {
        At::Container { ifindex, .. } => Some(ifindex),
        At::Node => None,
    }
}

fn is_unreachable(error: &NetlinkError) -> bool {
    matches!(
        error.source.raw_os_error(),
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH)
    )
}

fn to_net(net: IpNet) -> Net {
    Net::new(net.ip(), net.prefix())
}

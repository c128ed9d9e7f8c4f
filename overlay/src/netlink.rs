//! Devices, addresses and routes by rtnetlink(7), synchronously: a join is a handful of messages, and their socket
//! must belong to one network namespace.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

mod pair;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{
        InfoBridge, InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    },
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
        RouteScope, RouteType,
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use waggle_types::IpNet;

/// Marks routes that are ours (`ip route show proto 119`).
pub const PROTOCOL: u8 = 119;

/// A request that was refused.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what}")]
pub struct NetlinkError {
    /// With its object.
    pub what: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl NetlinkError {
    /// Whether the object was not there.
    pub fn is_absent(&self) -> bool {
        matches!(
            self.source.raw_os_error(),
            Some(libc::ENODEV | libc::ENOENT)
        )
    }

    /// Whether the kernel does not know such a thing.
    pub fn is_unknown(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EOPNOTSUPP)
    }

    /// Whether the object was there already.
    pub fn is_present(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EEXIST)
    }
}

/// A device, as far as this module needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The bridge that it is a port of.
    pub controller: Option<u32>,
    /// What it carries at most, bytes.
    pub mtu: Option<u32>,
    /// Its kind, for virtual ones.
    pub kind: Option<InfoKind>,
    /// Its link-layer address.
    pub mac: Option<[u8; 6]>,
    /// What somebody wrote on it.
    pub alias: Option<String>,
    /// UDP port of a VXLAN device that takes its tunnels from packets.
    pub external_port: Option<u16>,
}

/// A unicast route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: IpNet,
    /// By which device.
    pub device: u32,
    /// The smaller goes first.
    pub metric: u32,
    /// The next hop, where it is not the destination itself.
    pub gateway: Option<IpAddr>,
    /// What the node itself sends from.
    pub from: Option<IpAddr>,
    /// Whether it carries [`PROTOCOL`].
    pub is_ours: bool,
}

/// An address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Length of its network's prefix.
    pub prefix: u8,
    /// The device.
    pub device: u32,
}

/// Messages to send together, each with what it does in words.
#[derive(Debug, Default)]
pub struct Batch(Vec<(String, u16, Message)>);

impl Batch {
    /// A bridge without spanning tree, up.
    pub fn add_bridge(&mut self, name: &str, mac: [u8; 6], mtu: u32) {
        let mut link = LinkMessage::default();
        up(&mut link);
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::StpState(0.into())])),
            ]),
        ];
        let what = format!("add bridge {name}");
        self.add(what, NLM_F_CREATE | NLM_F_EXCL, Message::NewLink(link));
    }

    /// A VXLAN device that takes its tunnels from packets, up, without ARP; marked with `alias`.
    pub fn add_vxlan(&mut self, name: &str, port: u16, mac: [u8; 6], mtu: u32, alias: &str) {
        let mut link = LinkMessage::default();
        link.header.flags = LinkFlags::Up | LinkFlags::Noarp;
        link.header.change_mask = LinkFlags::Up | LinkFlags::Noarp;
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(vec![
                    InfoVxlan::CollectMetadata(true),
                    InfoVxlan::Learning(false),
                    InfoVxlan::Port(port),
                ])),
            ]),
        ];
        let what = format!("add device {name}");
        self.add(what, NLM_F_CREATE | NLM_F_EXCL, Message::NewLink(link));
        let mut mark = LinkMessage::default();
        mark.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::IfAlias(alias.to_owned()),
        ];
        self.add(format!("mark device {name}"), 0, Message::NewLink(mark));
    }

    /// Sets a device up.
    pub fn set_up(&mut self, index: u32) {
        let mut link = LinkMessage::default();
        link.header.index = index;
        up(&mut link);
        let what = format!("set device {index} up");
        self.add(what, 0, Message::SetLink(link));
    }

    /// Makes a device a port of a bridge.
    pub fn set_controller(&mut self, index: u32, controller: u32) {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![LinkAttribute::Controller(controller)];
        let what = format!("make device {index} a port of {controller}");
        self.add(what, 0, Message::SetLink(link));
    }

    /// Removes a device.
    pub fn remove(&mut self, name: &str) {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        let what = format!("remove device {name}");
        self.add(what, 0, Message::DelLink(link));
    }

    /// Puts a device into a group.
    pub fn set_group(&mut self, name: &str, group: u32) {
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Group(group),
        ];
        let what = format!("mark device {name}");
        self.add(what, 0, Message::SetLink(link));
    }

    /// Removes all devices of a group.
    pub fn remove_group(&mut self, group: u32) {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::Group(group)];
        let what = "remove devices".to_owned();
        self.add(what, 0, Message::DelLink(link));
    }

    /// Gives a device another MTU.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![LinkAttribute::Mtu(mtu)];
        let what = format!("set the mtu of device {index} to {mtu}");
        self.add(what, 0, Message::SetLink(link));
    }

    /// Gives a device an address in a network of that length.
    pub fn add_address(&mut self, index: u32, ip: IpAddr, prefix: u8) {
        let mut address = address_message(index, ip, prefix);
        match IpNet::around(ip, prefix).last() {
            IpAddr::V4(last) if prefix < 32 => {
                address.attributes.push(AddressAttribute::Broadcast(last));
            }
            // Nobody else can have it, and until that was checked it could not be used.
            IpAddr::V6(_) => {
                let flags = AddressAttribute::Flags(AddressFlags::Nodad);
                address.attributes.push(flags);
            }
            IpAddr::V4(_) => {}
        }
        let what = format!("add address {ip}/{prefix}");
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.add(what, flags, Message::NewAddress(address));
    }

    /// Takes an address from a device.
    pub fn remove_address(&mut self, index: u32, ip: IpAddr, prefix: u8) {
        let message = Message::DelAddress(address_message(index, ip, prefix));
        self.add(format!("remove address {ip}/{prefix}"), 0, message);
    }

    /// A default route. With a device, the gateway need not be in a network of its addresses.
    pub fn add_default_route(&mut self, gateway: IpAddr, device: Option<u32>) {
        let any = IpNet::around(gateway, 0);
        let mut route = route_message(any, RouteProtocol::Static);
        route.header.scope = RouteScope::Universe;
        route
            .attributes
            .push(RouteAttribute::Gateway(to_route_address(gateway)));
        if let Some(device) = device {
            route.attributes.push(RouteAttribute::Oif(device));
            route.header.flags = RouteFlags::Onlink;
        }
        let what = format!("add a default route by {gateway}");
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.add(what, flags, Message::NewRoute(route));
    }

    /// A route to a device, in place of one to the same network; the node itself sends from `from`. It carries our mark.
    pub fn set_route(&mut self, to: IpNet, device: u32, from: Option<IpAddr>) {
        let mut route = route_message(to, RouteProtocol::Other(PROTOCOL));
        route.attributes.push(RouteAttribute::Oif(device));
        route
            .attributes
            .extend(from.map(|ip| RouteAttribute::PrefSource(to_route_address(ip))));
        let what = format!("set the route to {to}");
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.add(what, flags, Message::NewRoute(route));
    }

    /// Removes a route of ours.
    pub fn remove_route(&mut self, to: IpNet, device: u32) {
        let mut route = route_message(to, RouteProtocol::Other(PROTOCOL));
        route.attributes.push(RouteAttribute::Oif(device));
        let what = format!("remove the route to {to}");
        self.add(what, 0, Message::DelRoute(route));
    }

    /// Says for good which hardware address somebody has.
    pub fn set_neighbour(&mut self, index: u32, ip: IpAddr, mac: [u8; 6]) {
        let mut neighbour = neighbour_message(index, ip);
        neighbour.header.state = NeighbourState::Permanent;
        neighbour
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let what = format!("set the hardware address of {ip}");
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.add(what, flags, Message::NewNeighbour(neighbour));
    }

    /// Makes the kernel find somebody's hardware address, or ask again whether it is still the same.
    pub fn resolve_neighbour(&mut self, index: u32, ip: IpAddr) {
        let mut neighbour = neighbour_message(index, ip);
        neighbour.header.flags = NeighbourFlags::Use;
        let what = format!("find the hardware address of {ip}");
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.add(what, flags, Message::NewNeighbour(neighbour));
    }

    fn add(&mut self, what: String, flags: u16, message: Message) {
        self.0
            .push((what, flags | NLM_F_REQUEST | NLM_F_ACK, message));
    }
}

fn address_message(index: u32, ip: IpAddr, prefix: u8) -> AddressMessage {
    let mut address = AddressMessage::default();
    address.header.family = family(ip);
    address.header.prefix_len = prefix;
    address.header.index = index;
    address.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    address
}

fn route_message(to: IpNet, protocol: RouteProtocol) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header = RouteHeader {
        address_family: family(to.ip()),
        destination_prefix_length: to.prefix(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol,
        scope: if to.is_ipv4() {
            RouteScope::Link
        } else {
            RouteScope::Universe
        },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    if to.prefix() > 0 {
        route
            .attributes
            .push(RouteAttribute::Destination(to_route_address(to.ip())));
    }
    route
}

fn neighbour_message(index: u32, ip: IpAddr) -> NeighbourMessage {
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.family = family(ip);
    neighbour.header.ifindex = index;
    neighbour.attributes = vec![NeighbourAttribute::Destination(match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    })];
    neighbour
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn to_route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

fn of_route_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn up(link: &mut LinkMessage) {
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
}

/// A socket of the network namespace that its opener's thread was in.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// In the calling thread's namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| NetlinkError {
            what: "open a netlink socket".to_owned(),
            source,
        })?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends all of it; the first refusal is the result, and the messages after it are carried out nonetheless.
    pub fn run(&mut self, batch: Batch) -> Result<(), NetlinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut names = BTreeMap::new();
        let mut bytes = Vec::new();
        for (what, flags, message) in batch.0 {
            let sequence = self.push(&mut bytes, flags, message);
            names.insert(sequence, what);
        }
        let Some(what) = names.get(&first).cloned() else {
            return Ok(());
        };
        let failed = |what: &str, source| NetlinkError {
            what: what.to_owned(),
            source,
        };
        self.socket.send(&bytes, 0).map_err(|e| failed(&what, e))?;
        let mut refused = None;
        while !names.is_empty() {
            for (sequence, payload) in self.receive().map_err(|e| failed(&what, e))? {
                let NetlinkPayload::Error(error) = payload else {
                    continue;
                };
                let Some(what) = names.remove(&sequence) else {
                    continue;
                };
                if error.code.is_some() && refused.is_none() {
                    refused = Some(failed(&what, error.to_io()));
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Every device.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let found = self.dump("list devices", Message::GetLink(LinkMessage::default()))?;
        let links = found.into_iter().filter_map(|message| match message {
            Message::NewLink(link) => to_link(&link),
            _ => None,
        });
        Ok(links.collect())
    }

    /// One device.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        let what = format!("find device {name}");
        match self.request(&what, NLM_F_REQUEST, Message::GetLink(message)) {
            Ok(found) => Ok(found.into_iter().find_map(|message| match message {
                Message::NewLink(link) => to_link(&link),
                _ => None,
            })),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Routes of the main table, of one family.
    pub fn routes(&mut self, ipv4: bool) -> Result<Vec<Route>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = if ipv4 {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let found = self.dump("list routes", Message::GetRoute(message))?;
        let routes = found.into_iter().filter_map(|message| match message {
            Message::NewRoute(route) => to_route(&route),
            _ => None,
        });
        Ok(routes.collect())
    }

    /// The way that the kernel would send to an address.
    pub fn route_to(&mut self, ip: IpAddr) -> Result<Option<Route>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(ip);
        message.header.destination_prefix_length = IpNet::host(ip).prefix();
        message.attributes = vec![RouteAttribute::Destination(to_route_address(ip))];
        let what = format!("find the way to {ip}");
        let found = self.request(&what, NLM_F_REQUEST, Message::GetRoute(message))?;
        Ok(found.into_iter().find_map(|message| match message {
            Message::NewRoute(route) => to_route(&route),
            _ => None,
        }))
    }

    /// Every address of this namespace.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let message = Message::GetAddress(AddressMessage::default());
        let found = self.dump("list addresses", message)?;
        let addresses = found.into_iter().filter_map(|message| match message {
            Message::NewAddress(address) => {
                let of = |a: &AddressAttribute| match a {
                    // IPv6 addresses that are not one end of a tunnel have no local one.
                    AddressAttribute::Local(ip) | AddressAttribute::Address(ip @ IpAddr::V6(_)) => {
                        Some(*ip)
                    }
                    _ => None,
                };
                Some(Address {
                    ip: address.attributes.iter().find_map(of)?,
                    prefix: address.header.prefix_len,
                    device: address.header.index,
                })
            }
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// Hardware addresses of IPv4 neighbours that are known, by device.
    pub fn neighbours(&mut self) -> Result<BTreeMap<(u32, Ipv4Addr), [u8; 6]>, NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        let found = self.dump("list neighbours", Message::GetNeighbour(message))?;
        let mut out = BTreeMap::new();
        for message in found {
            let Message::NewNeighbour(neighbour) = message else {
                continue;
            };
            let is_dead = matches!(
                neighbour.header.state,
                NeighbourState::Failed | NeighbourState::Incomplete | NeighbourState::None
            );
            if is_dead {
                continue;
            }
            let (mut ip, mut mac) = (None, None);
            for attribute in &neighbour.attributes {
                match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(of)) => ip = Some(*of),
                    NeighbourAttribute::LinkLayerAddress(bytes) => {
                        mac = <[u8; 6]>::try_from(bytes.as_slice()).ok();
                    }
                    _ => {}
                }
            }
            if let (Some(ip), Some(mac)) = (ip, mac) {
                out.insert((neighbour.header.ifindex, ip), mac);
            }
        }
        Ok(out)
    }

    fn dump(&mut self, what: &str, message: Message) -> Result<Vec<Message>, NetlinkError> {
        self.request(what, NLM_F_REQUEST | NLM_F_DUMP, message)
    }

    fn request(
        &mut self,
        what: &str,
        flags: u16,
        message: Message,
    ) -> Result<Vec<Message>, NetlinkError> {
        let failed = |source| NetlinkError {
            what: what.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        let wanted = self.push(&mut bytes, flags, message);
        self.socket.send(&bytes, 0).map_err(failed)?;
        let is_dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut found = Vec::new();
        loop {
            for (sequence, payload) in self.receive().map_err(failed)? {
                if sequence != wanted {
                    continue;
                }
                match payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(failed(error.to_io()));
                    }
                    NetlinkPayload::Done(_) => return Ok(found),
                    _ => {}
                }
            }
            if !is_dump && !found.is_empty() {
                return Ok(found);
            }
        }
    }

    fn push(&mut self, bytes: &mut Vec<u8>, flags: u16, message: Message) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let at = bytes.len();
        bytes.resize(at + packet.buffer_len().next_multiple_of(4), 0);
        packet.serialize(&mut bytes[at..]);
        self.sequence
    }

    fn receive(&self) -> io::Result<Vec<(u32, NetlinkPayload<Message>)>> {
        let (bytes, _) = self.socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        let mut out = Vec::new();
        while !rest.is_empty() {
            let packet = NetlinkMessage::<Message>::deserialize(rest)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            let len = usize::try_from(packet.header.length).unwrap_or(usize::MAX);
            out.push((packet.header.sequence_number, packet.payload));
            rest = rest
                .get(len.max(16).next_multiple_of(4)..)
                .unwrap_or_default();
        }
        Ok(out)
    }
}

fn to_link(link: &LinkMessage) -> Option<Link> {
    let mut out = Link {
        index: link.header.index,
        name: String::new(),
        controller: None,
        mtu: None,
        kind: None,
        mac: None,
        alias: None,
        external_port: None,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => {
                out.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok();
            }
            LinkAttribute::IfAlias(alias) => out.alias = Some(alias.clone()),
            LinkAttribute::IfName(name) => out.name.clone_from(name),
            LinkAttribute::Controller(index) => out.controller = Some(*index),
            LinkAttribute::Mtu(mtu) => out.mtu = Some(*mtu),
            LinkAttribute::LinkInfo(infos) => {
                out.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.clone()),
                    _ => None,
                });
                out.external_port = infos.iter().find_map(external_port);
            }
            _ => {}
        }
    }
    (!out.name.is_empty()).then_some(out)
}

fn external_port(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vxlan(data)) = info else {
        return None;
    };
    let is_external = data.contains(&InfoVxlan::CollectMetadata(true));
    let port = data.iter().find_map(|d| match d {
        InfoVxlan::Port(port) => Some(*port),
        _ => None,
    });
    port.filter(|_| is_external)
}

fn to_route(route: &RouteMessage) -> Option<Route> {
    if route.header.table != RouteHeader::RT_TABLE_MAIN || route.header.kind != RouteType::Unicast {
        return None;
    }
    let mut ip: IpAddr = if route.header.address_family == AddressFamily::Inet6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let (mut device, mut metric) = (None, 0);
    let (mut gateway, mut from) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(to) => ip = of_route_address(to)?,
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Gateway(by) => gateway = of_route_address(by),
            RouteAttribute::PrefSource(ip) => from = of_route_address(ip),
            _ => {}
        }
    }
    Some(Route {
        to: IpNet::around(ip, route.header.destination_prefix_length),
        device: device?,
        metric,
        gateway,
        from,
        is_ours: route.header.protocol == RouteProtocol::Other(PROTOCOL),
    })
}

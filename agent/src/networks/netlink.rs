//! Devices, addresses and routes by rtnetlink(7), synchronously: a join is a handful of messages, and their socket
//! must belong to one network namespace.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
    os::fd::RawFd,
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressMessage},
    link::{
        InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth,
        LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    },
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::subnet::Subnet;

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
}

/// An IPv4 route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: Subnet,
    /// By which device.
    pub device: u32,
    /// The smaller goes first.
    pub metric: u32,
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

    /// A pair of devices: `name` here, up, as a port of bridge `controller`; `peer` in the namespace behind `netns`.
    pub fn add_veth(
        &mut self,
        name: &str,
        controller: u32,
        mtu: u32,
        (peer, mac, netns): (&str, [u8; 6], RawFd),
    ) {
        // Not up yet: while it is made it has no peer.
        let mut inner = LinkMessage::default();
        inner.attributes = vec![
            LinkAttribute::IfName(peer.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::NetNsFd(netns),
        ];
        let mut outer = LinkMessage::default();
        up(&mut outer);
        outer.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Controller(controller),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inner))),
            ]),
        ];
        let what = format!("add device {name}");
        self.add(what, NLM_F_CREATE | NLM_F_EXCL, Message::NewLink(outer));
        // Where bridged frames pass the packet filter (br_netfilter), a connection of a task to its own host port
        // comes back by the port that it came from.
        let mut port = LinkMessage::default();
        port.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(
                    true,
                )])),
            ]),
        ];
        let what = format!("let {name} send back");
        self.add(what, 0, Message::NewLink(port));
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

    /// Gives a device an address of a subnet.
    pub fn add_address(&mut self, index: u32, ip: Ipv4Addr, subnet: Subnet) {
        let mut address = AddressMessage::default();
        address.header.family = AddressFamily::Inet;
        address.header.prefix_len = subnet.prefix();
        address.header.index = index;
        address.attributes = vec![
            AddressAttribute::Local(IpAddr::V4(ip)),
            AddressAttribute::Address(IpAddr::V4(ip)),
            AddressAttribute::Broadcast(subnet.last()),
        ];
        let what = format!("add address {ip}/{}", subnet.prefix());
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.add(what, flags, Message::NewAddress(address));
    }

    /// A default route.
    pub fn add_default_route(&mut self, gateway: Ipv4Addr) {
        let mut route = RouteMessage::default();
        route.header = RouteHeader {
            address_family: AddressFamily::Inet,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: RouteScope::Universe,
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        route.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway))];
        let what = format!("add a default route by {gateway}");
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.add(what, flags, Message::NewRoute(route));
    }

    fn add(&mut self, what: String, flags: u16, message: Message) {
        self.0
            .push((what, flags | NLM_F_REQUEST | NLM_F_ACK, message));
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

    /// IPv4 routes of the main table.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let found = self.dump("list routes", Message::GetRoute(message))?;
        let routes = found.into_iter().filter_map(|message| match message {
            Message::NewRoute(route) => to_route(&route),
            _ => None,
        });
        Ok(routes.collect())
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
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => out.name.clone_from(name),
            LinkAttribute::Controller(index) => out.controller = Some(*index),
            LinkAttribute::Mtu(mtu) => out.mtu = Some(*mtu),
            LinkAttribute::LinkInfo(infos) => {
                out.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.clone()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    (!out.name.is_empty()).then_some(out)
}

fn to_route(route: &RouteMessage) -> Option<Route> {
    if route.header.table != RouteHeader::RT_TABLE_MAIN || route.header.kind != RouteType::Unicast {
        return None;
    }
    let mut ip = Ipv4Addr::UNSPECIFIED;
    let (mut device, mut metric) = (None, 0);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => ip = *to,
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    Some(Route {
        to: Subnet::around(ip, route.header.destination_prefix_length),
        device: device?,
        metric,
    })
}

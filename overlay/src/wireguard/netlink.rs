//! Requests by netlink, one after the other, in the calling thread's network namespace.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

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
    pub(super) fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// Neither the object nor what it is on need be there.
    pub(super) fn is_absent(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENOENT | libc::ENODEV | libc::ESRCH)
        )
    }
}

/// One socket of a protocol.
pub(super) struct Netlink(Socket);

impl Netlink {
    pub(super) fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let opened = || -> io::Result<Socket> {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        opened().map(Self).map_err(|source| NetlinkError {
            what: "open a netlink socket".to_owned(),
            source,
        })
    }

    /// Asks for something and waits until it is done.
    pub(super) fn ask<M>(&self, what: &str, flags: u16, message: M) -> Result<Vec<M>, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable + fmt::Debug,
    {
        let flags = if flags & NLM_F_DUMP == NLM_F_DUMP {
            flags
        } else {
            flags | NLM_F_ACK
        };
        self.exchange(flags, message)
            .map_err(|source| NetlinkError {
                what: what.to_owned(),
                source,
            })
    }

    fn exchange<M>(&self, flags: u16, message: M) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + fmt::Debug,
    {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.0.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
                let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
                // Never 0: what was read has a header.
                rest = rest
                    .get(length.max(16).next_multiple_of(4)..)
                    .unwrap_or_default();
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(answers),
                            Some(code) => {
                                Err(io::Error::from_raw_os_error(code.get().saturating_neg()))
                            }
                        };
                    }
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
            }
        }
    }
}

/// The MTU of the device that has an address.
pub(super) fn mtu_of(node: Ipv4Addr) -> Result<u16, NetlinkError> {
    let netlink = Netlink::open(NETLINK_ROUTE)?;
    let what = format!("find the device that has {node}");
    let mut all = AddressMessage::default();
    all.header.family = AddressFamily::Inet;
    let found = netlink.ask(&what, NLM_F_DUMP, RouteNetlinkMessage::GetAddress(all))?;
    let has = |message: &AddressMessage| {
        let local = AddressAttribute::Local(IpAddr::V4(node));
        message.attributes.contains(&local)
    };
    let index = found.iter().find_map(|message| match message {
        RouteNetlinkMessage::NewAddress(address) if has(address) => Some(address.header.index),
        _ => None,
    });
    let absent = || NetlinkError {
        what: what.clone(),
        source: io::Error::from_raw_os_error(libc::EADDRNOTAVAIL),
    };
    let mut link = LinkMessage::default();
    link.header.index = index.ok_or_else(absent)?;
    let found = netlink.ask(&what, 0, RouteNetlinkMessage::GetLink(link))?;
    let mtu = found.iter().find_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => link.attributes.iter().find_map(|a| match a {
            LinkAttribute::Mtu(mtu) => Some(u16::try_from(*mtu).unwrap_or(u16::MAX)),
            _ => None,
        }),
        _ => None,
    });
    mtu.ok_or_else(absent)
}

/// A device's number.
pub(super) fn device_index(name: &str) -> Result<u32, NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    let what = format!("find device {name}");
    let netlink = Netlink::open(NETLINK_ROUTE)?;
    let found = netlink.ask(&what, 0, RouteNetlinkMessage::GetLink(message))?;
    let index = found.iter().find_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
        _ => None,
    });
    index.ok_or_else(|| NetlinkError {
        what,
        source: io::Error::from_raw_os_error(libc::ENODEV),
    })
}

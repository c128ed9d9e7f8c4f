//! Pairs of netkit devices: iproute2 makes them from 6.7 on only, and may be older than the kernel.

use std::fs::File;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoNetkit, LinkAttribute, LinkInfo, LinkMessage, NetkitMode,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use waggle_tests_support::netns::{NetNs, TempNetNs};

/// Whether the kernel has them.
pub fn is_there() -> anyhow::Result<bool> {
    let name = format!("wgl-t-ov-netkit-{}", std::process::id());
    let (one, two) = (
        TempNetNs::create(&format!("{name}-1"))?,
        TempNetNs::create(&format!("{name}-2"))?,
    );
    add(&one, "probe", [2, 0, 0, 0, 0, 1], two.name())
}

/// Adds `device` here, and `eth0` with a MAC address there. False: the kernel has no such devices.
pub fn add(here: &NetNs, device: &str, mac: [u8; 6], there: &str) -> anyhow::Result<bool> {
    let there = File::open(format!("/run/netns/{there}"))?;
    let mut other = LinkMessage::default();
    other.attributes = vec![
        LinkAttribute::IfName("eth0".to_owned()),
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::NetNsFd(there.as_raw_fd()),
    ];
    let data = vec![InfoNetkit::Mode(NetkitMode::L2), InfoNetkit::Peer(other)];
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(device.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Netkit),
            LinkInfo::Data(InfoData::Netkit(data)),
        ]),
    ];
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    let mut ask = NetlinkMessage::new(header, NetlinkPayload::from(Message::NewLink(link)));
    ask.finalize();
    let mut bytes = vec![0; ask.buffer_len()];
    ask.serialize(&mut bytes);
    here.run(|| answer(&bytes))?
}

fn answer(ask: &[u8]) -> anyhow::Result<bool> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(ask, 0)?;
    let (bytes, _) = socket.recv_from_full()?;
    let told = NetlinkMessage::<Message>::deserialize(&bytes)?.payload;
    let NetlinkPayload::Error(told) = told else {
        bail!("no acknowledgement: {told:?}");
    };
    match told.to_io().raw_os_error() {
        _ if told.code.is_none() => Ok(true),
        Some(libc::EOPNOTSUPP) => Ok(false),
        _ => Err(told.to_io()).context("rtnetlink"),
    }
}

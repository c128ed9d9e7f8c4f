//! Pairs of devices, one end here, the other in a container's network namespace.

use std::{
    os::fd::RawFd,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage as Message,
    link::{
        InfoBridgePort, InfoData, InfoKind, InfoNetkit, InfoPortData, InfoPortKind, InfoVeth,
        LinkAttribute, LinkInfo, LinkMessage, NetkitMode,
    },
};

use super::{Batch, Netlink, NetlinkError, up};

/// The other end: its name, its MAC address, and the namespace behind a descriptor.
pub type OtherEnd<'a> = (&'a str, [u8; 6], RawFd);

/// What a kernel has does not change while it runs; asked in vain, it looks for a module each time.
static HAS_NO_NETKIT: AtomicBool = AtomicBool::new(false);

impl Netlink {
    /// Adds a container's pair of devices, `name` here, up: netkit where the kernel has it, veth else.
    ///
    /// # Errors
    /// [`NetlinkError`]; a name that is taken is [`NetlinkError::is_present`].
    pub fn add_pair(
        &mut self,
        name: &str,
        mtu: u32,
        other: OtherEnd<'_>,
    ) -> Result<(), NetlinkError> {
        if !HAS_NO_NETKIT.load(Relaxed) {
            let mut batch = Batch::default();
            batch.add_netkit(name, mtu, other);
            match self.run(batch) {
                Err(e) if e.is_unknown() => {
                    tracing::info!("containers have veths: this kernel has no netkit devices");
                    HAS_NO_NETKIT.store(true, Relaxed);
                }
                done => return done,
            }
        }
        let mut batch = Batch::default();
        batch.add_veth(name, None, mtu, other);
        self.run(batch)
    }
}

impl Batch {
    /// A pair of veths: `name` here, up, as a port of bridge `controller` where there is one.
    pub fn add_veth(&mut self, name: &str, controller: Option<u32>, mtu: u32, other: OtherEnd<'_>) {
        let data = InfoData::Veth(InfoVeth::Peer(message(mtu, other)));
        self.add_pair(name, controller, mtu, (InfoKind::Veth, data));
        if controller.is_none() {
            return;
        }
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

    /// A pair of netkit devices (kernel 6.7): `name` here, up, and no port of a bridge. The ends have MAC addresses, and run programs
    /// when they send.
    pub fn add_netkit(&mut self, name: &str, mtu: u32, other: OtherEnd<'_>) {
        let data = vec![
            InfoNetkit::Mode(NetkitMode::L2),
            InfoNetkit::Peer(message(mtu, other)),
        ];
        let what = (InfoKind::Netkit, InfoData::Netkit(data));
        self.add_pair(name, None, mtu, what);
    }

    fn add_pair(
        &mut self,
        name: &str,
        controller: Option<u32>,
        mtu: u32,
        (kind, data): (InfoKind, InfoData),
    ) {
        let mut end = LinkMessage::default();
        up(&mut end);
        end.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]),
        ];
        end.attributes
            .extend(controller.map(LinkAttribute::Controller));
        let what = format!("add device {name}");
        self.add(what, NLM_F_CREATE | NLM_F_EXCL, Message::NewLink(end));
    }
}

/// Not up yet: while it is made it has no peer.
fn message(mtu: u32, (name, mac, netns): OtherEnd<'_>) -> LinkMessage {
    let mut end = LinkMessage::default();
    end.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::NetNsFd(netns),
    ];
    end
}

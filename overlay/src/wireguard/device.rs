//! The WireGuard device and its peers (`linux/wireguard.h`).

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_generic::{
    GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute,
    WireguardCmd, WireguardMessage, WireguardPeer as KernelPeer, WireguardPeerAttribute,
    WireguardPeerFlags,
};
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use waggle_overlay_plan::wireguard::{WireguardOp, WireguardPeer};
use waggle_types::WireguardKey;

use super::{
    Seen, WireguardError, WireguardTraffic,
    key::Secret,
    netlink::{Netlink, NetlinkError, device_index},
};

/// Peers that are set in one message: it must fit what the kernel takes at a time.
const BATCH: usize = 64;

/// Makes sure that a device is there, up and with this MTU; its number.
pub(super) fn ensure(name: &str, mtu: u16) -> Result<u32, WireguardError> {
    let netlink = Netlink::open(NETLINK_ROUTE)?;
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]),
    ];
    let what = format!("add device {name}");
    let made = netlink.ask(
        &what,
        NLM_F_CREATE | NLM_F_EXCL,
        RouteNetlinkMessage::NewLink(link),
    );
    match made {
        Ok(_) => {}
        Err(error) if error.errno() == Some(libc::EEXIST) => {}
        Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => {
            return Err(WireguardError::Unsupported);
        }
        Err(error) => return Err(error.into()),
    }
    let index = device_index(name)?;
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes = vec![LinkAttribute::Mtu(u32::from(mtu))];
    let what = format!("set device {name} up");
    netlink.ask(&what, 0, RouteNetlinkMessage::SetLink(link))?;
    Ok(index)
}

/// Gives a device an address that nobody has and nothing is sent from; one that is there stays.
pub(super) fn address(index: u32, ip: Ipv4Addr) -> Result<(), NetlinkError> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.scope = AddressScope::Host;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(ip.into()),
        AddressAttribute::Address(ip.into()),
    ];
    let what = format!("add the address {ip}");
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let netlink = Netlink::open(NETLINK_ROUTE)?;
    match netlink.ask(&what, flags, RouteNetlinkMessage::NewAddress(message)) {
        Err(error) if error.errno() != Some(libc::EEXIST) => Err(error),
        _ => Ok(()),
    }
}

/// Removes a device; none is no error.
pub(super) fn remove(name: &str) -> Result<(), NetlinkError> {
    let index = match device_index(name) {
        Ok(index) => index,
        Err(error) if error.is_absent() => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut link = LinkMessage::default();
    link.header.index = index;
    let what = format!("remove device {name}");
    let netlink = Netlink::open(NETLINK_ROUTE)?;
    match netlink.ask(&what, 0, RouteNetlinkMessage::DelLink(link)) {
        Err(error) if !error.is_absent() => Err(error),
        _ => Ok(()),
    }
}

/// Gives a device its key and port; the public key.
pub(super) fn configure(
    name: &str,
    secret: &Secret,
    port: u16,
) -> Result<WireguardKey, NetlinkError> {
    let netlink = Generic::open()?;
    let what = format!("set the key of device {name}");
    netlink.ask(
        &what,
        0,
        WireguardCmd::SetDevice,
        vec![
            WireguardAttribute::IfName(name.to_owned()),
            WireguardAttribute::PrivateKey(secret.0),
            WireguardAttribute::ListenPort(port),
        ],
    )?;
    let attributes = netlink.get(name)?;
    let key = attributes.iter().find_map(|attribute| match attribute {
        WireguardAttribute::PublicKey(key) => WireguardKey::new(*key),
        _ => None,
    });
    key.ok_or_else(|| NetlinkError {
        what: format!("read the public key of device {name}"),
        source: io::ErrorKind::NotFound.into(),
    })
}

/// Whether a device has this key and port, as it is once it was configured.
pub(super) fn is_configured(
    name: &str,
    key: WireguardKey,
    port: u16,
) -> Result<bool, NetlinkError> {
    let attributes = Generic::open()?.get(name)?;
    let has_key = attributes
        .iter()
        .any(|a| matches!(a, WireguardAttribute::PublicKey(bytes) if bytes == key.bytes()));
    let has_port = attributes
        .iter()
        .any(|a| matches!(a, WireguardAttribute::ListenPort(n) if *n == port));
    Ok(has_key && has_port)
}

/// The peers of a device.
pub(super) fn peers(name: &str) -> Result<BTreeMap<WireguardKey, Seen>, NetlinkError> {
    // A peer with many addresses may come in parts; ours have one.
    let mut found = BTreeMap::new();
    for attribute in Generic::open()?.get(name)? {
        let WireguardAttribute::Peers(peers) = attribute else {
            continue;
        };
        found.extend(peers.iter().filter_map(|peer| seen(&peer.0)));
    }
    Ok(found)
}

fn seen(attributes: &[WireguardPeerAttribute]) -> Option<(WireguardKey, Seen)> {
    let mut key = None;
    let (mut endpoint, mut address) = (None, None);
    let mut traffic = WireguardTraffic::default();
    for attribute in attributes {
        match attribute {
            WireguardPeerAttribute::PublicKey(bytes) => key = WireguardKey::new(*bytes),
            WireguardPeerAttribute::Endpoint(SocketAddr::V4(at)) => endpoint = Some(*at),
            WireguardPeerAttribute::AllowedIps(ips) => address = only_address(ips),
            WireguardPeerAttribute::RxBytes(n) => traffic.rx_bytes = *n,
            WireguardPeerAttribute::TxBytes(n) => traffic.tx_bytes = *n,
            WireguardPeerAttribute::LastHandshake(at) => {
                traffic.last_handshake_s = u64::try_from(at.seconds).unwrap_or(0);
            }
            _ => {}
        }
    }
    // An endpoint that the kernel has learned is another one: it is set back.
    let peer = endpoint
        .filter(|at| Some(IpAddr::V4(*at.ip())) == address)
        .map(|at| WireguardPeer {
            node: *at.ip(),
            port: at.port(),
        });
    Some((key?, Seen { peer, traffic }))
}

/// The address of a list that has one.
fn only_address(ips: &[WireguardAllowedIp]) -> Option<IpAddr> {
    let [one] = ips else { return None };
    let (mut ip, mut prefix) = (None, 0);
    for attribute in &one.0 {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(address) => ip = Some(*address),
            WireguardAllowedIpAttr::Cidr(length) => prefix = *length,
            _ => {}
        }
    }
    ip.filter(|ip| ip.is_ipv4() && prefix == 32)
}

/// Carries out operations, in order.
pub(super) fn apply(name: &str, ops: &[WireguardOp]) -> Result<(), NetlinkError> {
    if ops.is_empty() {
        return Ok(());
    }
    let netlink = Generic::open()?;
    for batch in ops.chunks(BATCH) {
        let attributes = vec![
            WireguardAttribute::IfName(name.to_owned()),
            WireguardAttribute::Peers(batch.iter().map(message).collect()),
        ];
        let what = format!("set peers of device {name}");
        netlink.ask(&what, 0, WireguardCmd::SetDevice, attributes)?;
    }
    Ok(())
}

fn message(op: &WireguardOp) -> KernelPeer {
    KernelPeer(match op {
        WireguardOp::Remove(key) => vec![
            WireguardPeerAttribute::PublicKey(*key.bytes()),
            WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
        ],
        WireguardOp::Set(key, peer) => vec![
            WireguardPeerAttribute::PublicKey(*key.bytes()),
            WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
            WireguardPeerAttribute::Endpoint(peer.endpoint().into()),
            WireguardPeerAttribute::AllowedIps(vec![WireguardAllowedIp(vec![
                WireguardAllowedIpAttr::Family(WireguardAddressFamily::Ipv4),
                WireguardAllowedIpAttr::IpAddr(peer.node.into()),
                WireguardAllowedIpAttr::Cidr(32),
            ])]),
        ],
    })
}

/// WireGuard's family of generic netlink.
struct Generic {
    netlink: Netlink,
    family: u16,
}

impl Generic {
    fn open() -> Result<Self, NetlinkError> {
        let netlink = Netlink::open(NETLINK_GENERIC)?;
        let family = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName("wireguard".to_owned())],
        });
        let what = "find wireguard's netlink family";
        let answers = netlink.ask(what, 0, family)?;
        let ids = answers.iter().flat_map(|answer| &answer.payload.nlas);
        let mut ids = ids.filter_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
        let family = ids.next().ok_or_else(|| NetlinkError {
            what: what.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        })?;
        Ok(Self { netlink, family })
    }

    fn ask(
        &self,
        what: &str,
        flags: u16,
        cmd: WireguardCmd,
        attributes: Vec<WireguardAttribute>,
    ) -> Result<Vec<WireguardAttribute>, NetlinkError> {
        let mut message = GenlMessage::from_payload(WireguardMessage { cmd, attributes });
        message.set_resolved_family_id(self.family);
        let answers = self.netlink.ask(what, flags, message)?;
        Ok(answers
            .into_iter()
            .flat_map(|answer| answer.payload.attributes)
            .collect())
    }

    fn get(&self, name: &str) -> Result<Vec<WireguardAttribute>, NetlinkError> {
        self.ask(
            &format!("read device {name}"),
            NLM_F_DUMP,
            WireguardCmd::GetDevice,
            vec![WireguardAttribute::IfName(name.to_owned())],
        )
    }
}

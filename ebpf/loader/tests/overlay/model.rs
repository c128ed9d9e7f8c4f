//! What the programs must do with a frame, written once more: plain tables, plain bytes, no kernel.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use waggle_ebpf::common::overlay::{MTU_OVERHEAD, mac_of, reason};
use waggle_ebpf::overlay::{At, Endpoint, Net, OverlayConfig, Peer, Place, Reach, Subnet};

use crate::frame::{ETH, ICMP, ICMP6, TCP, UDP};

/// `TC_ACT_UNSPEC`: on its way.
pub const OK: u32 = u32::MAX;
pub const SHOT: u32 = 2;
pub const REDIRECT: u32 = 7;

/// Who is where.
#[derive(Clone, Debug)]
pub struct Tables {
    pub config: OverlayConfig,
    pub peers: BTreeMap<Ipv4Addr, Peer>,
    pub subnets: BTreeMap<Net, Subnet>,
    pub endpoints: BTreeMap<IpAddr, Endpoint>,
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: u32,
    /// Sorted.
    pub reasons: Vec<u32>,
    pub frame: Becomes,
}

/// The frame afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Becomes {
    /// Whatever: it was dropped.
    Gone,
    /// As it is; where the kernel's device is to take it, but for the destination's MAC address.
    Same,
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes in outer headers with this TOS.
    Wrapped(Vec<u8>, u8),
    /// An ICMP error about it: type, code, MTU.
    Error(u8, u8, u32),
}

fn outcome(verdict: u32, reasons: &[u32], frame: Becomes) -> Outcome {
    let mut reasons = reasons.to_vec();
    reasons.sort_unstable();
    Outcome {
        verdict,
        reasons,
        frame,
    }
}

fn dropped(reason: u32) -> Outcome {
    outcome(SHOT, &[reason], Becomes::Gone)
}

/// An IP packet, as far as it matters.
struct Packet {
    src: IpAddr,
    dst: IpAddr,
    src_mac: [u8; 6],
    proto: u8,
    ports: [u16; 2],
    tos: u8,
    is_later: bool,
    may_fragment: bool,
    has_options: bool,
    length: usize,
}

impl Packet {
    fn is_multicast(&self) -> bool {
        match self.dst {
            IpAddr::V4(ip) => ip.octets()[0] >= 224,
            IpAddr::V6(ip) => ip.octets()[0] == 0xff,
        }
    }

    fn icmp_type(&self) -> Option<u8> {
        let is_icmp = self.proto == if self.dst.is_ipv4() { ICMP } else { ICMP6 };
        (is_icmp && !self.is_later).then_some((self.ports[0] >> 8) as u8)
    }

    fn is_answerable(&self) -> bool {
        let is_error = match (self.icmp_type(), self.dst.is_ipv6()) {
            (Some(kind), true) => kind < 128,
            (Some(kind), false) => [3, 4, 5, 11, 12].contains(&kind),
            (None, _) => false,
        };
        !(is_error || self.is_later || self.dst.is_ipv4() && self.has_options)
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// The packet of a frame, or the reason to drop it. Not for ARP.
fn parse(frame: &[u8]) -> Result<Packet, u32> {
    let bad = reason::MALFORMED;
    // The shortest packet there is.
    if frame.len() < ETH + 20 {
        return Err(bad);
    }
    let mut src_mac = [0; 6];
    src_mac.copy_from_slice(&frame[6..12]);
    let ip = &frame[ETH..];
    let (mut proto, mut header, total);
    let mut packet = Packet {
        src: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        dst: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        src_mac,
        proto: 0,
        ports: [0; 2],
        tos: 0,
        is_later: false,
        may_fragment: false,
        has_options: false,
        length: ip.len(),
    };
    match word(frame, 12) {
        Some(0x0800) => {
            header = usize::from(ip[0] & 0xf) * 4;
            total = usize::from(word(ip, 2).ok_or(bad)?);
            if ip[0] >> 4 != 4 || header < 20 || total < header || total > ip.len() {
                return Err(bad);
            }
            let fragment = word(ip, 6).ok_or(bad)?;
            let four = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
            packet.src = four(12).into();
            packet.dst = four(16).into();
            packet.tos = ip[1];
            packet.is_later = fragment & 0x1fff != 0;
            packet.may_fragment = fragment & 0x4000 == 0;
            packet.has_options = header > 20;
            proto = ip[9];
        }
        Some(0x86dd) => {
            if ip.len() < 40 {
                return Err(bad);
            }
            header = 40;
            total = 40 + usize::from(word(ip, 4).ok_or(bad)?);
            if ip[0] >> 4 != 6 || total > ip.len() {
                return Err(bad);
            }
            let sixteen = |at: usize| -> IpAddr {
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&ip[at..at + 16]);
                IpAddr::V6(bytes.into())
            };
            packet.src = sixteen(8);
            packet.dst = sixteen(24);
            packet.tos = ip[0] << 4 | ip[1] >> 4;
            proto = ip[6];
            for _ in 0..6 {
                if ![0, 43, 44, 60].contains(&proto) {
                    break;
                }
                packet.has_options = true;
                let extension = ip.get(header..header + 8).ok_or(bad)?;
                if proto == 44 {
                    packet.is_later = word(extension, 2).ok_or(bad)? & 0xfff8 != 0;
                    header += 8;
                } else {
                    header += 8 * (usize::from(extension[1]) + 1);
                }
                proto = extension[0];
                if header > total {
                    return Err(bad);
                }
                if packet.is_later {
                    break;
                }
            }
        }
        _ => return Err(reason::NOT_IP),
    }
    packet.proto = proto;
    let least = match proto {
        TCP => 20,
        UDP => 8,
        132 => 12,
        ICMP | ICMP6 => 4,
        _ => 0,
    };
    if packet.is_later || least == 0 {
        // Options behind the end are nobody's.
        return Ok(packet);
    }
    if total < header + least {
        return Err(bad);
    }
    packet.ports = [
        word(ip, header).ok_or(bad)?,
        word(ip, header + 2).ok_or(bad)?,
    ];
    if proto == TCP && usize::from(ip[header + 12] >> 4) < 5 {
        return Err(bad);
    }
    Ok(packet)
}

impl Tables {
    fn subnet(&self, ip: IpAddr) -> Option<Subnet> {
        self.subnets
            .iter()
            .filter(|(net, _)| {
                net.addr().is_ipv4() == ip.is_ipv4() && Net::new(ip, net.prefix()) == **net
            })
            .max_by_key(|(net, _)| net.prefix())
            .map(|(_, subnet)| *subnet)
    }

    /// What a container behind a device sends.
    pub fn from(&self, ifindex: u32, frame: &[u8]) -> Outcome {
        let packet = match parse(frame) {
            Ok(packet) => packet,
            Err(why) => return dropped(why),
        };
        if packet.is_multicast() {
            return dropped(reason::MULTICAST);
        }
        let here = self.endpoints.get(&packet.src);
        let Some((from, mac)) = here.and_then(|endpoint| match endpoint.at {
            At::Container {
                ifindex: at, mac, ..
            } if at == ifindex => Some((endpoint, mac)),
            _ => None,
        }) else {
            return dropped(reason::SPOOFED_SOURCE);
        };
        if mac != packet.src_mac {
            return dropped(reason::SPOOFED_MAC);
        }
        let Some(to) = self.subnet(packet.dst) else {
            return self.outside(&packet);
        };
        if from.network != to.network && from.network != 0 && to.network != 0 {
            return refused(&packet, reason::OTHER_NETWORK, [13, 1], 0);
        }
        match to.place {
            Place::Nowhere => refused(&packet, reason::UNKNOWN_DESTINATION, [1, 3], 0),
            Place::Here => self.local(&packet, frame),
            Place::Peer(node) => self.remote(&packet, frame, &self.peers[&node]),
        }
    }

    fn local(&self, packet: &Packet, frame: &[u8]) -> Outcome {
        match self.endpoints.get(&packet.dst).map(|endpoint| endpoint.at) {
            None => refused(packet, reason::UNKNOWN_DESTINATION, [1, 3], 0),
            Some(At::Node) => outcome(OK, &[reason::NODE], Becomes::Same),
            Some(At::Container { mac, .. }) => {
                let mut bytes = frame.to_vec();
                bytes[..6].copy_from_slice(&mac);
                outcome(REDIRECT, &[reason::LOCAL], Becomes::Bytes(bytes))
            }
        }
    }

    fn remote(&self, packet: &Packet, frame: &[u8], peer: &Peer) -> Outcome {
        if peer.reach == Reach::Down {
            return refused(packet, reason::PEER_DOWN, [1, 3], 0);
        }
        let is_long = packet.length > usize::from(peer.mtu);
        if is_long && !(packet.dst.is_ipv4() && packet.may_fragment) {
            return refused(packet, reason::TOO_BIG, [4, 0], peer.mtu.into());
        }
        if is_long || peer.reach == Reach::Slow {
            let why = if is_long {
                reason::SLOW_LONG
            } else {
                reason::SLOW_PEER
            };
            return outcome(REDIRECT, &[why], Becomes::Same);
        }
        let mut inner = frame.to_vec();
        inner[..6].copy_from_slice(&peer.vtep.unwrap_or(mac_of(packet.dst)));
        let [a, b, c, d] = self.config.node.octets();
        inner[6..12].copy_from_slice(&[2, 0, a, b, c, d]);
        // RFC 6040, 4.1, as Linux has it: CE begins anew as ECT(0).
        let ecn = if packet.tos & 3 == 3 {
            2
        } else {
            packet.tos & 3
        };
        let mut reasons = vec![reason::SENT];
        if peer.next_hop.is_none() {
            reasons.push(reason::NO_NEIGHBOUR);
        }
        outcome(REDIRECT, &reasons, Becomes::Wrapped(inner, ecn))
    }

    fn outside(&self, packet: &Packet) -> Outcome {
        let is_node = match packet.dst {
            IpAddr::V4(ip) => ip == self.config.node || self.peers.contains_key(&ip),
            IpAddr::V6(_) => false,
        };
        let is_tunnel =
            packet.proto == UDP && !packet.is_later && packet.ports[1] == self.config.port;
        if is_node && is_tunnel {
            return dropped(reason::FORGED_TUNNEL);
        }
        outcome(OK, &[reason::OUTSIDE], Becomes::Same)
    }

    /// What comes from the underlay.
    pub fn under(&self, frame: &[u8]) -> Outcome {
        let passed = outcome(OK, &[], Becomes::Same);
        let bad = dropped(reason::MALFORMED);
        if frame.len() < ETH + 28 || word(frame, 12) != Some(0x0800) || frame[ETH + 9] != UDP {
            return passed;
        }
        let (ip, udp) = (&frame[ETH..], &frame[ETH + 20..]);
        if ip[16..20] != self.config.node.octets() {
            return passed;
        }
        let is_ours = word(udp, 2) == Some(self.config.port);
        if ip[0] != 0x45 || word(ip, 6).is_none_or(|word| word & 0x3fff != 0) {
            let reasons: &[u32] = if is_ours { &[reason::UP_FRAGMENT] } else { &[] };
            return outcome(OK, reasons, Becomes::Same);
        }
        if !is_ours {
            return passed;
        }
        let outer = MTU_OVERHEAD as usize;
        let total = usize::from(word(ip, 2).unwrap_or(0));
        let length = usize::from(word(udp, 4).unwrap_or(0));
        if frame.len() < outer || total > ip.len() || length + 20 != total {
            return bad;
        }
        if udp[8..12] != [8, 0, 0, 0] {
            return bad;
        }
        if udp[12..16] != (self.config.vni << 8).to_be_bytes() {
            return dropped(reason::WRONG_VNI);
        }
        let sender = Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]);
        let inner = &frame[outer..];
        let packet = match parse(inner) {
            Ok(packet) => packet,
            Err(why) => return dropped(why),
        };
        if packet.is_multicast() {
            return match (self.peers.contains_key(&sender), packet.dst) {
                (false, _) => dropped(reason::NOT_A_PEER),
                // Solicitations, for the device's program.
                (true, IpAddr::V6(_)) => passed,
                (true, IpAddr::V4(_)) => dropped(reason::MULTICAST),
            };
        }
        let home = self.subnet(packet.src);
        if home.map(|home| home.place) != Some(Place::Peer(sender)) {
            return dropped(if self.peers.contains_key(&sender) {
                reason::SPOOFED_NODE
            } else {
                reason::NOT_A_PEER
            });
        }
        let Some(to) = self.endpoints.get(&packet.dst) else {
            let elsewhere = self.subnet(packet.dst).map(|subnet| subnet.place);
            if matches!(elsewhere, Some(Place::Peer(_))) {
                return dropped(reason::LOOPED);
            }
            return outcome(OK, &[reason::UP_NOBODY], Becomes::Same);
        };
        deliver(
            &packet,
            inner,
            to,
            home.map_or(0, |home| home.network),
            ip[1],
        )
    }
}

fn deliver(packet: &Packet, inner: &[u8], to: &Endpoint, network: u32, tos: u8) -> Outcome {
    let (mac, may_forward) = match to.at {
        At::Node => return outcome(OK, &[reason::UP_NODE], Becomes::Same),
        At::Container {
            mac, may_forward, ..
        } => (mac, may_forward),
    };
    if may_forward {
        return outcome(OK, &[reason::UP_FORWARDS], Becomes::Same);
    }
    if network != to.network && network != 0 && to.network != 0 {
        return dropped(reason::OTHER_NETWORK);
    }
    let is_congested = tos & 3 == 3;
    if is_congested && packet.tos & 3 == 0 {
        return dropped(reason::ECN);
    }
    let mut bytes = inner.to_vec();
    bytes[..6].copy_from_slice(&mac);
    bytes[6..12].copy_from_slice(&mac_of(packet.src));
    if is_congested {
        mark_congestion(&mut bytes);
    }
    outcome(REDIRECT, &[reason::RECEIVED], Becomes::Bytes(bytes))
}

/// Told so, if it may be told. Codes are of ICMP (type 3) and of ICMPv6.
fn refused(packet: &Packet, reason: u32, [code4, code6]: [u8; 2], mtu: u32) -> Outcome {
    if !packet.is_answerable() {
        return dropped(reason);
    }
    let (kind, code) = match (packet.dst.is_ipv4(), code4) {
        (true, code) => (3, code),
        // Packet too big has a type of its own.
        (false, 4) => (2, 0),
        (false, _) => (1, code6),
    };
    let reasons = [reason, reason::ICMP_SENT];
    outcome(REDIRECT, &reasons, Becomes::Error(kind, code, mtu))
}

/// Sets both ECN bits of a frame's packet.
fn mark_congestion(frame: &mut [u8]) {
    if frame[12] == 0x86 {
        frame[ETH + 1] |= 0x30;
        return;
    }
    frame[ETH + 1] |= 3;
    let header = ETH..ETH + usize::from(frame[ETH] & 0xf) * 4;
    frame[ETH + 10..ETH + 12].fill(0);
    let check = crate::frame::checksum(&frame[header]);
    frame[ETH + 10..ETH + 12].copy_from_slice(&check.to_be_bytes());
}

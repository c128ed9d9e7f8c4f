//! ARP (RFC 826) and neighbour discovery (RFC 4861), answered here: every address of the overlay, and the gateway's, has the MAC
//! address that it has everywhere.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_change_tail;
use waggle_ebpf_common::edge::fold;
use waggle_ebpf_common::overlay::{GATEWAY4, endpoint_flags, reason};
use waggle_ebpf_common::{Addr, MAPPED};

use crate::count::{count, drop};
use crate::encap;
use crate::frame::{Bytes, ETH};
use crate::icmp::{half_sum, sum_of};
use crate::lookup::{endpoint, is_gateway6, subnet};
use crate::maps::{OV_DEVICES, node};
use crate::parse::{ICMP6, IP6, Packet};
use crate::skb::{Mac, half_words, mac_of, out_of, store, to_stack};
use crate::under::is_forged;

/// Ethernet, IPv4, and the lengths of their addresses.
const ARP_KIND: [u16; 3] = [
    1_u16.to_be(),
    0x0800_u16.to_be(),
    u16::from_ne_bytes([6, 4]),
];
const ARP_LEN: usize = 28;
const REQUEST: u16 = 1_u16.to_be();
const REPLY: u16 = 2_u16.to_be();
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const ROUTER_SOLICITATION: u8 = 133;
const REDIRECT: u8 = 137;
/// Router, solicited, override.
const ROUTER: u8 = 0x80;
const ANSWERS: u8 = 0x60;
/// ICMPv6 header and target.
const TARGET_LEN: usize = 24;
/// A solicitation's or advertisement's: those, and one link-layer address.
const ADVERTISEMENT_LEN: usize = TARGET_LEN + 8;

/// What is read of ARP.
struct Arp {
    /// Sender's, in the frame and in the message.
    frame: Mac,
    mac: Mac,
    what: u16,
    sender: u32,
    target: u32,
}

/// A container asks for an address, or says that it has one.
#[inline(never)]
pub fn arp(skb: *mut __sk_buff) -> i32 {
    let Some(arp) = read(skb) else {
        return drop(reason::MALFORMED);
    };
    // SAFETY: a context field.
    let ifindex = unsafe { (*skb).ifindex };
    if arp.frame != arp.mac || !is_mac_of(ifindex, &arp.mac) {
        return drop(reason::SPOOFED_MAC);
    }
    let is_probe = arp.sender == 0;
    if !is_probe && !is_at(&mapped(arp.sender), ifindex) {
        return drop(reason::SPOOFED_NEIGHBOUR);
    }
    if arp.what == REPLY {
        // The node's own stack has asked.
        count(reason::NODE);
        return to_stack(skb);
    }
    let target = mapped(arp.target);
    let is_known = arp.target == u32::from_ne_bytes(GATEWAY4) || subnet(&target).is_some();
    // RFC 5227: whoever probes wants the address to be nobody's.
    if arp.what != REQUEST || is_probe || !is_known || is_at(&target, ifindex) {
        return drop(reason::NEIGHBOUR_IGNORED);
    }
    if !reply(skb, &arp) {
        return drop(reason::FAILED);
    }
    count(reason::ARP_ANSWERED);
    out_of(ifindex)
}

/// A bridge on another node asks for the address of a container here.
#[inline(never)]
pub fn arp_of_node(skb: *mut __sk_buff, from: u32) -> i32 {
    let Some(arp) = read(skb) else {
        return drop(reason::MALFORMED);
    };
    if let Some(why) = is_forged(&sent_by(mapped(arp.sender)), from) {
        return drop(why);
    }
    if arp.what != REQUEST || endpoint(&mapped(arp.target)).is_none() {
        return drop(reason::NEIGHBOUR_IGNORED);
    }
    if !reply(skb, &arp) {
        return drop(reason::FAILED);
    }
    count(reason::ARP_ANSWERED);
    encap::by_device(skb, &arp.mac, from, node(), false)
}

#[inline(always)]
fn read(skb: *mut __sk_buff) -> Option<Arp> {
    // SAFETY: the program's context; reads are within what was checked.
    unsafe {
        let bytes = Bytes::of(skb, ETH + ARP_LEN);
        if !bytes.has(ETH + ARP_LEN) {
            return None;
        }
        let kind = [
            bytes.read::<u16>(ETH),
            bytes.read::<u16>(ETH + 2),
            bytes.read::<u16>(ETH + 4),
        ];
        if kind != ARP_KIND {
            return None;
        }
        let mac = |at| {
            [
                bytes.read::<u16>(at),
                bytes.read::<u16>(at + 2),
                bytes.read::<u16>(at + 4),
            ]
        };
        Some(Arp {
            frame: mac(6),
            mac: mac(ETH + 8),
            what: bytes.read::<u16>(ETH + 6),
            sender: bytes.read::<u32>(ETH + 14),
            target: bytes.read::<u32>(ETH + 24),
        })
    }
}

/// Turns a request into its reply.
#[inline(always)]
fn reply(skb: *mut __sk_buff, arp: &Arp) -> bool {
    let (asker, mac) = (arp.mac, mac_of(&mapped(arp.target)));
    let link = [asker[0], asker[1], asker[2], mac[0], mac[1], mac[2]];
    let (sender, target) = (halves(arp.target), halves(arp.sender));
    let body = [
        REPLY, mac[0], mac[1], mac[2], sender[0], sender[1], asker[0], asker[1], asker[2],
        target[0], target[1],
    ];
    store(skb, 0, &link) && store(skb, ETH + 6, &body)
}

#[inline(always)]
fn halves(word: u32) -> [u16; 2] {
    [word as u16, (word >> 16) as u16]
}

#[inline(always)]
fn mapped(ip: u32) -> Addr {
    [0, 0, MAPPED, ip]
}

/// Whether an address is behind a device.
#[inline(always)]
fn is_at(addr: &Addr, ifindex: u32) -> bool {
    endpoint(addr).is_some_and(|endpoint| endpoint.ifindex == ifindex)
}

/// Whether a device's container has a MAC address.
#[inline(always)]
fn is_mac_of(ifindex: u32, mac: &Mac) -> bool {
    // SAFETY: read at once.
    unsafe { OV_DEVICES.get(&ifindex) }.is_some_and(|device| half_words(&device.mac) == *mac)
}

/// A packet of which only the sender matters.
#[inline(always)]
fn sent_by(src: Addr) -> Packet {
    Packet {
        src,
        ..Packet::NONE
    }
}

/// Whether a packet is neighbour or router discovery.
#[inline(always)]
pub fn is_discovery(packet: &Packet) -> bool {
    matches!(packet.icmp_type(), Some(ROUTER_SOLICITATION..=REDIRECT))
}

/// A container solicits, or advertises.
#[inline(never)]
pub fn discovery(skb: *mut __sk_buff, packet: &Packet) -> i32 {
    // SAFETY: a context field.
    let ifindex = unsafe { (*skb).ifindex };
    if !is_mac_of(ifindex, &packet.mac) {
        return drop(reason::SPOOFED_MAC);
    }
    let kind = packet.icmp_type().unwrap_or_default();
    let is_probe = packet.src == [0; 4];
    if !is_probe && !is_link_local(&packet.src) && !is_at(&packet.src, ifindex) {
        return drop(reason::SPOOFED_NEIGHBOUR);
    }
    if kind == ROUTER_SOLICITATION {
        return drop(reason::NEIGHBOUR_IGNORED);
    }
    if kind != SOLICITATION && kind != ADVERTISEMENT {
        // Only routers advertise routes and redirect.
        return drop(reason::SPOOFED_NEIGHBOUR);
    }
    let Some((target, is_own)) = target(skb, packet) else {
        return drop(reason::MALFORMED);
    };
    if !is_own {
        return drop(reason::SPOOFED_NEIGHBOUR);
    }
    let is_here = is_at(&target, ifindex);
    if kind == ADVERTISEMENT {
        if !is_here && !is_link_local(&target) {
            return drop(reason::SPOOFED_NEIGHBOUR);
        }
        // The node's own stack has asked; unasked ones are nobody's concern.
        if packet.is_multicast() {
            return drop(reason::NEIGHBOUR_IGNORED);
        }
        count(reason::NODE);
        return to_stack(skb);
    }
    let is_gateway = is_gateway6(&target);
    if is_probe || is_here || !is_gateway && subnet(&target).is_none() {
        return drop(reason::NEIGHBOUR_IGNORED);
    }
    let is_router = is_gateway
        || endpoint(&target).is_some_and(|endpoint| endpoint.flags & endpoint_flags::NODE != 0);
    if !advertise(skb, packet, &target, is_router) {
        return drop(reason::FAILED);
    }
    count(reason::ND_ANSWERED);
    out_of(ifindex)
}

/// A bridge on another node solicits for a container here.
#[inline(never)]
pub fn discovery_of_node(skb: *mut __sk_buff, packet: &Packet, from: u32) -> i32 {
    // Routers are no business of ours, nor who probes for its own address.
    if packet.icmp_type() != Some(SOLICITATION) || packet.src == [0; 4] {
        return drop(reason::NEIGHBOUR_IGNORED);
    }
    // A link-local source is nobody's of the overlay; the answer goes to the node that has asked.
    if !is_link_local(&packet.src)
        && let Some(why) = is_forged(packet, from)
    {
        return drop(why);
    }
    let Some((target, is_own)) = target(skb, packet) else {
        return drop(reason::MALFORMED);
    };
    if !is_own || endpoint(&target).is_none() {
        return drop(reason::NEIGHBOUR_IGNORED);
    }
    if !advertise(skb, packet, &target, false) {
        return drop(reason::FAILED);
    }
    count(reason::ND_ANSWERED);
    encap::by_device(skb, &packet.mac, from, node(), false)
}

/// The target of a solicitation or advertisement, and whether its link-layer address, if it has one first, is that of the frame.
#[inline(always)]
fn target(skb: *mut __sk_buff, packet: &Packet) -> Option<(Addr, bool)> {
    let at = ETH + IP6;
    // SAFETY: the program's context; reads are within what was checked.
    unsafe {
        let bytes = Bytes::of(skb, at + ADVERTISEMENT_LEN);
        // RFC 4861, 7.1: from nobody behind a router.
        if packet.has_options || !bytes.has(at + TARGET_LEN) || bytes.read::<u8>(ETH + 7) != 255 {
            return None;
        }
        let target = [
            bytes.read::<u32>(at + 8),
            bytes.read::<u32>(at + 12),
            bytes.read::<u32>(at + 16),
            bytes.read::<u32>(at + 20),
        ];
        let mut is_own = true;
        if bytes.has(at + ADVERTISEMENT_LEN) {
            let mac = [
                bytes.read::<u16>(at + TARGET_LEN + 2),
                bytes.read::<u16>(at + TARGET_LEN + 4),
                bytes.read::<u16>(at + TARGET_LEN + 6),
            ];
            let kind = bytes.read::<u8>(at + TARGET_LEN);
            is_own = !matches!(kind, 1 | 2) || mac == packet.mac;
        }
        Some((target, is_own))
    }
}

/// Turns a solicitation into its advertisement.
#[inline(always)]
fn advertise(skb: *mut __sk_buff, packet: &Packet, target: &Addr, is_router: bool) -> bool {
    let at = ETH + IP6;
    // SAFETY: the program's context.
    if unsafe { bpf_skb_change_tail(skb, (at + ADVERTISEMENT_LEN) as u32, 0) } != 0 {
        return false;
    }
    let (asker, mac) = (packet.mac, mac_of(target));
    let link = [asker[0], asker[1], asker[2], mac[0], mac[1], mac[2]];
    let [high, low] = (ADVERTISEMENT_LEN as u16).to_be_bytes();
    let header = [
        u32::from_ne_bytes([0x60, 0, 0, 0]),
        u32::from_ne_bytes([high, low, ICMP6, 255]),
    ];
    let flags = if is_router { ROUTER | ANSWERS } else { ANSWERS };
    let flags = u32::from_ne_bytes([flags, 0, 0, 0]);
    let option = [
        u32::from(u16::from_ne_bytes([2, 1])) | u32::from(mac[0]) << 16,
        u32::from(mac[1]) | u32::from(mac[2]) << 16,
    ];
    let kind = u32::from_ne_bytes([ADVERTISEMENT, 0, 0, 0]);
    // The pseudo-header, then the message; the target is the source, too.
    let sum = 2 * sum_of(target)
        + sum_of(&packet.src)
        + u32::from((ADVERTISEMENT_LEN as u16).to_be())
        + half_sum(u32::from(ICMP6).to_be())
        + half_sum(kind)
        + half_sum(flags)
        + half_sum(option[0])
        + half_sum(option[1]);
    let message = [kind | u32::from(!fold(sum)) << 16, flags];
    store(skb, 0, &link)
        && store(skb, ETH, &header)
        && store(skb, ETH + 8, target)
        && store(skb, ETH + 24, &packet.src)
        && store(skb, at, &message)
        && store(skb, at + 8, target)
        && store(skb, at + TARGET_LEN, &option)
}

/// fe80::/10.
#[inline(always)]
fn is_link_local(addr: &Addr) -> bool {
    addr[0] & u32::from_ne_bytes([0xff, 0xc0, 0, 0]) == u32::from_ne_bytes([0xfe, 0x80, 0, 0])
}

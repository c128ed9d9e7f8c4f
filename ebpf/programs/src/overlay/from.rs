//! overlay_from, overlay_direct: what a container sends.

use aya_ebpf::bindings::__sk_buff;
use waggle_ebpf_common::overlay::{
    Endpoint, NOWHERE, Subnet, THIS_NODE, endpoint_flags, peer_flags, reason,
};

use crate::count::{count, drop};
use crate::encap;
use crate::frame::{OK, UDP};
use crate::icmp::{self, Why};
use crate::judge;
use crate::lookup::{endpoint, is_gateway, is_node, may_talk, peer, subnet};
use crate::maps::port;
use crate::neighbour;
use crate::parse::{self, Packet, parse};
use crate::skb::{half_words, into_container, store, to_stack};

/// At tc ingress of the host side of a container's veth.
#[inline(always)]
pub fn from(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the program's context.
    let (is_tagged, ifindex, (what, packet)) =
        unsafe { ((*skb).vlan_present != 0, (*skb).ifindex, parse(skb, 0)) };
    if is_tagged {
        return drop(reason::NOT_IP);
    }
    if what == parse::ARP {
        return neighbour::arp(skb);
    }
    if what != parse::PARSED {
        return drop(what);
    }
    if packet.is_v6 && neighbour::is_discovery(&packet) {
        return neighbour::discovery(skb, &packet);
    }
    if packet.is_multicast() {
        return drop(reason::MULTICAST);
    }
    match allowed(skb, &packet, ifindex) {
        Ok(from) => match subnet(&packet.dst) {
            Some(to) if !is_gateway(&packet) => within(skb, &packet, &from, to),
            _ => outside(skb, &packet),
        },
        Err(dropped) => dropped,
    }
}

/// Where a container's own device sends, on the container's side (netkit): what goes to other nodes leaves at once, in the
/// sender's own time. All else is left to overlay_from, on the host's side of the device, and judged there only: from here
/// nothing can be put into another container (`bpf_redirect_peer` works at tc ingress alone).
#[inline(always)]
pub fn direct(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the program's context. The device is already the host's side.
    let (is_tagged, ifindex, (what, packet)) =
        unsafe { ((*skb).vlan_present != 0, (*skb).ifindex, parse(skb, 0)) };
    if is_tagged || what != parse::PARSED || packet.is_multicast() || is_gateway(&packet) {
        return OK;
    }
    if packet.is_v6 && neighbour::is_discovery(&packet) {
        return OK;
    }
    let Some(to) = subnet(&packet.dst).filter(|to| to.peer != THIS_NODE && to.peer != NOWHERE)
    else {
        return OK;
    };
    match allowed(skb, &packet, ifindex) {
        Ok(from) => within(skb, &packet, &from, to),
        Err(dropped) => dropped,
    }
}

/// Who sends a packet, if it is its own and policies let it; else the verdict.
#[inline(always)]
fn allowed(skb: *mut __sk_buff, packet: &Packet, ifindex: u32) -> Result<Endpoint, i32> {
    let Some(from) = endpoint(&packet.src).filter(|from| from.ifindex == ifindex) else {
        return Err(drop(reason::SPOOFED_SOURCE));
    };
    if half_words(&from.mac) != packet.mac {
        return Err(drop(reason::SPOOFED_MAC));
    }
    if !judge::may_send(skb, packet) {
        return Err(drop(reason::POLICY_EGRESS));
    }
    Ok(from)
}

/// To an address of the overlay.
#[inline(always)]
fn within(skb: *mut __sk_buff, packet: &Packet, from: &Endpoint, to: Subnet) -> i32 {
    if !may_talk(from.network, to.network) {
        return icmp::refuse(skb, packet, Why::Prohibited, reason::OTHER_NETWORK, 0);
    }
    if to.peer == THIS_NODE {
        return local(skb, packet, from);
    }
    if to.peer == NOWHERE {
        return icmp::refuse(
            skb,
            packet,
            Why::Unreachable,
            reason::UNKNOWN_DESTINATION,
            0,
        );
    }
    let Some(peer) = peer(to.peer) else {
        return drop(reason::BAD_TABLE);
    };
    if peer.flags & peer_flags::DOWN != 0 {
        return icmp::refuse(skb, packet, Why::Unreachable, reason::PEER_DOWN, 0);
    }
    let mtu = u32::from(peer.mtu);
    if is_too_long(skb, packet, mtu) {
        if !packet.is_v6 && packet.may_fragment {
            return encap::slow(skb, packet, peer, reason::SLOW_LONG);
        }
        return icmp::refuse(skb, packet, Why::TooBig, reason::TOO_BIG, mtu);
    }
    encap::encap(skb, packet, peer)
}

/// Whether a packet, or a segment of one that is to be segmented, is longer than what fits.
#[inline(always)]
fn is_too_long(skb: *mut __sk_buff, packet: &Packet, mtu: u32) -> bool {
    // SAFETY: the program's context.
    let segment = unsafe { (*skb).gso_size };
    let length = if segment == 0 {
        packet.length - crate::frame::ETH as u32
    } else {
        segment + packet.header + u32::from(packet.transport)
    };
    length > mtu
}

/// To another container of this node, or to the node.
#[inline(always)]
fn local(skb: *mut __sk_buff, packet: &Packet, from: &Endpoint) -> i32 {
    let Some(to) = endpoint(&packet.dst) else {
        return icmp::refuse(
            skb,
            packet,
            Why::Unreachable,
            reason::UNKNOWN_DESTINATION,
            0,
        );
    };
    if to.flags & endpoint_flags::NODE != 0 {
        count(reason::NODE);
        return to_stack(skb);
    }
    if !may_talk(from.network, to.network) {
        return icmp::refuse(skb, packet, Why::Prohibited, reason::OTHER_NETWORK, 0);
    }
    if !judge::may_receive(skb, packet) {
        return drop(reason::POLICY_INGRESS);
    }
    // Who has asked for the address has it right.
    if packet.to_mac != half_words(&to.mac) && !store(skb, 0, &to.mac) {
        return drop(reason::FAILED);
    }
    count(reason::LOCAL);
    into_container(skb, &to)
}

/// To an address outside of the overlay, or to the gateway.
#[inline(always)]
fn outside(skb: *mut __sk_buff, packet: &Packet) -> i32 {
    // Masqueraded, it would look like a node's own.
    let is_tunnel = packet.proto == UDP
        && !packet.is_v6
        && !packet.is_later
        && u32::from(packet.ports[1]) == port();
    if is_tunnel && is_node(packet.dst[3]) {
        return drop(reason::FORGED_TUNNEL);
    }
    count(reason::OUTSIDE);
    to_stack(skb)
}

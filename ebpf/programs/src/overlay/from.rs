//! overlay_from: what a container sends.

use aya_ebpf::bindings::__sk_buff;
use waggle_ebpf_common::overlay::{
    Endpoint, NOWHERE, Subnet, THIS_NODE, endpoint_flags, peer_flags, reason,
};

use crate::count::{count, drop};
use crate::encap;
use crate::frame::UDP;
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
    let Some(from) = endpoint(&packet.src).filter(|from| from.ifindex == ifindex) else {
        return drop(reason::SPOOFED_SOURCE);
    };
    if half_words(&from.mac) != packet.mac {
        return drop(reason::SPOOFED_MAC);
    }
    if !judge::may_send(skb, &packet) {
        return drop(reason::POLICY_EGRESS);
    }
    match subnet(&packet.dst) {
        Some(to) if !is_gateway(&packet) => within(skb, &packet, &from, to),
        _ => outside(skb, &packet),
    }
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

//! The kernel's VXLAN device, which is the slow path: overlay_up, what comes out of it; overlay_down, what the node itself sends
//! there.

use aya_ebpf::bindings::{__sk_buff, bpf_tunnel_key};
use aya_ebpf::helpers::generated::bpf_skb_get_tunnel_key;
use waggle_ebpf_common::overlay::{Endpoint, endpoint_flags, peer_flags, reason};

use crate::count::{count, drop};
use crate::encap;
use crate::frame::OK;
use crate::icmp;
use crate::judge;
use crate::lookup::{endpoint, is_peer, peer, subnet};
use crate::maps::{node, sealed, vni};
use crate::neighbour;
use crate::parse::{self, Packet, parse};
use crate::seal;
use crate::skb::{into_container, store, to_stack};
use crate::under::{is_forged, is_of_same_network};

/// At tc ingress of the device.
#[inline(always)]
pub fn up(skb: *mut __sk_buff) -> i32 {
    if sealed() != 0 && !seal::take_mark(skb) {
        return drop(reason::IN_CLEAR);
    }
    let Some((of_vni, from, to)) = tunnel(skb) else {
        return drop(reason::NOT_A_PEER);
    };
    // Nodes send to the address that nodes have. To another one of this node a container may have sent, masqueraded.
    if to != node() {
        return drop(reason::FORGED_TUNNEL);
    }
    if of_vni != u32::from_be(vni()) >> 8 {
        return drop(reason::WRONG_VNI);
    }
    // SAFETY: the program's context.
    let (what, packet) = unsafe { parse(skb, 0) };
    if what == parse::ARP || packet.is_v6 && neighbour::is_discovery(&packet) {
        if !is_peer(from) {
            return drop(reason::NOT_A_PEER);
        }
        return if what == parse::ARP {
            neighbour::arp_of_node(skb, from)
        } else {
            neighbour::discovery_of_node(skb, &packet, from)
        };
    }
    if what != parse::PARSED {
        return drop(what);
    }
    if packet.is_multicast() {
        return drop(reason::MULTICAST);
    }
    if let Some(why) = is_forged(&packet, from) {
        return drop(why);
    }
    match endpoint(&packet.dst) {
        Some(to) => deliver(skb, &packet, &to),
        None if subnet(&packet.dst).is_some_and(|subnet| peer(subnet.peer).is_some()) => {
            drop(reason::LOOPED)
        }
        None => icmp::refuse_remote(skb, &packet, from),
    }
}

#[inline(always)]
fn deliver(skb: *mut __sk_buff, packet: &Packet, to: &Endpoint) -> i32 {
    if to.flags & endpoint_flags::NODE != 0 {
        count(reason::NODE);
        return to_stack(skb);
    }
    if !is_of_same_network(packet, to) {
        return drop(reason::OTHER_NETWORK);
    }
    if !judge::may_receive(skb, packet) {
        return drop(reason::POLICY_INGRESS);
    }
    if !store(skb, 0, &to.mac) {
        return drop(reason::FAILED);
    }
    count(reason::RECEIVED_SLOW);
    into_container(skb, to)
}

/// At tc egress of the device: our own programs have said where to, the node's processes have not.
#[inline(always)]
pub fn down(skb: *mut __sk_buff) -> i32 {
    if tunnel(skb).is_some() {
        count(reason::SENT_SLOW);
        return OK;
    }
    // SAFETY: the program's context.
    let (what, packet) = unsafe { parse(skb, 0) };
    if what != parse::PARSED {
        return drop(if what == parse::ARP {
            reason::NEIGHBOUR_IGNORED
        } else {
            what
        });
    }
    if packet.is_multicast() {
        return drop(reason::MULTICAST);
    }
    let Some(peer) = subnet(&packet.dst).and_then(|subnet| peer(subnet.peer)) else {
        return drop(reason::UNKNOWN_DESTINATION);
    };
    if peer.flags & peer_flags::DOWN != 0 {
        return drop(reason::PEER_DOWN);
    }
    let local = if peer.flags & peer_flags::SLOW == 0 {
        node()
    } else {
        0
    };
    if !encap::address(skb, peer.addr, local, packet.may_fragment)
        || !store(skb, 0, &encap::inner_mac(&packet, peer))
    {
        return drop(reason::FAILED);
    }
    count(reason::SENT_SLOW);
    OK
}

/// VNI and, network order, source and destination of the outer header, if the packet has a tunnel.
#[inline(always)]
fn tunnel(skb: *mut __sk_buff) -> Option<(u32, u32, u32)> {
    // SAFETY: all zero is a key; the program's context, and memory of this function.
    unsafe {
        let mut key: bpf_tunnel_key = core::mem::zeroed();
        let size = size_of::<bpf_tunnel_key>() as u32;
        if bpf_skb_get_tunnel_key(skb, &raw mut key, size, 0) != 0 {
            return None;
        }
        Some((
            key.tunnel_id,
            key.__bindgen_anon_1.remote_ipv4.to_be(),
            key.__bindgen_anon_3.local_ipv4.to_be(),
        ))
    }
}

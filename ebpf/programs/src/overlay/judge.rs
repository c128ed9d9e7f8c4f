//! Policies' words about a packet.

use aya_ebpf::bindings::__sk_buff;

use crate::parse::Packet;
use crate::policy::{self, EGRESS, INGRESS};

/// Whether a container may send a packet.
#[inline(always)]
pub fn may_send(skb: *mut __sk_buff, packet: &Packet) -> bool {
    let told = policy::verdict(skb, |flow| {
        let [local_port, peer_port] = ports(packet, packet.ports);
        flow.local = packet.src;
        flow.peer = packet.dst;
        flow.local_port = local_port;
        flow.peer_port = peer_port;
        flow.direction = EGRESS;
        rest(flow, packet);
    });
    told == policy::ALLOW
}

/// Whether a container may be sent a packet.
#[inline(always)]
pub fn may_receive(skb: *mut __sk_buff, packet: &Packet) -> bool {
    let told = policy::verdict(skb, |flow| {
        let [src, dst] = packet.ports;
        let [local_port, peer_port] = ports(packet, [dst, src]);
        flow.local = packet.dst;
        flow.peer = packet.src;
        flow.local_port = local_port;
        flow.peer_port = peer_port;
        flow.direction = INGRESS;
        rest(flow, packet);
    });
    told == policy::ALLOW
}

#[inline(always)]
fn rest(flow: &mut policy::Packet, packet: &Packet) {
    flow.proto = packet.proto;
    flow.tcp_flags = packet.flags;
    flow.is_later_fragment = u8::from(packet.is_later);
    flow.is_fragment = u8::from(packet.is_fragment);
    flow.header = packet.header;
}

/// Type and code of ICMP are on the other end's side, whichever way it goes.
#[inline(always)]
fn ports(packet: &Packet, ports: [u16; 2]) -> [u16; 2] {
    if packet.icmp_type().is_some() {
        [0, packet.ports[0]]
    } else {
        ports
    }
}

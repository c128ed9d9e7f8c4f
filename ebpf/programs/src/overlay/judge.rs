//! Policies' words about a packet.

use aya_ebpf::bindings::__sk_buff;
use waggle_ebpf_common::overlay::Endpoint;

use crate::parse::Packet;
use crate::policy::{self, EGRESS, Flow, INGRESS};

/// Whether a container may send a packet.
#[inline(always)]
pub fn may_send(skb: *mut __sk_buff, packet: &Packet, endpoint: &Endpoint) -> bool {
    let [local_port, peer_port] = ports(packet, packet.ports);
    let flow = Flow {
        local: packet.src,
        peer: packet.dst,
        local_port,
        peer_port,
        proto: packet.proto,
        tcp_flags: packet.flags,
        is_later_fragment: u8::from(packet.is_later),
        pad: 0,
        direction: EGRESS,
        identity: endpoint.identity,
    };
    policy::verdict(skb, &flow) == policy::ALLOW
}

/// Whether a container may be sent a packet.
#[inline(always)]
pub fn may_receive(skb: *mut __sk_buff, packet: &Packet, endpoint: &Endpoint) -> bool {
    let [src, dst] = packet.ports;
    let [local_port, peer_port] = ports(packet, [dst, src]);
    let flow = Flow {
        local: packet.dst,
        peer: packet.src,
        local_port,
        peer_port,
        proto: packet.proto,
        tcp_flags: packet.flags,
        is_later_fragment: u8::from(packet.is_later),
        pad: 0,
        direction: INGRESS,
        identity: endpoint.identity,
    };
    policy::verdict(skb, &flow) == policy::ALLOW
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

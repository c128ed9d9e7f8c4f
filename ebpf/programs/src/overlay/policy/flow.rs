//! Which flow a packet is of.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use waggle_ebpf_common::policy::{FlowKey, flow_flags, verdict as said};
use waggle_ebpf_common::{Addr, MAPPED};

use super::maps::{POLICY_FLOWS, POLICY_FRAGS, Scratch, scratch};
use super::{EGRESS, INGRESS, is_icmp};
use crate::frame::{ETH, ICMP, IP, TCP, UDP};
use crate::parse::{ICMP6, IP6};

/// What a packet is to policies. An orphan's verdict, which is to be counted, stands in the upper half.
pub mod kind {
    /// Of a flow: its key was written.
    pub const FLOW: u32 = 0;
    /// Between neighbours: no router passes it on.
    pub const PASS: u32 = 1;
    /// An error about a flow that is allowed.
    pub const RELATED: u32 = 2;
    /// A fragment of a packet that has passed.
    pub const FRAGMENT: u32 = 3;
    /// It belongs to nothing that is known, and can't begin anything.
    pub const ORPHAN: u32 = 4;
    /// Shorter than its protocol needs.
    pub const MALFORMED: u32 = 5;
}

const fn orphan(why: u32) -> u32 {
    kind::ORPHAN | why << 16
}

/// What an ICMP message is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Request,
    Answer,
    Error,
    Neighbours,
    Other,
}

/// Tells what the packet is ([`kind`]), and writes its flow's key.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn policy_classify(skb: *mut __sk_buff) -> u32 {
    let Some(scratch) = scratch() else {
        return kind::MALFORMED;
    };
    if scratch.flow.is_later_fragment != 0 {
        fragment_key(skb, scratch);
        // SAFETY: nothing is read of the value.
        let is_known = unsafe { POLICY_FRAGS.get(&scratch.fragment) }.is_some();
        return if is_known {
            kind::FRAGMENT
        } else {
            orphan(said::NO_FRAGMENT)
        };
    }
    let flow = &scratch.flow;
    let key = &mut scratch.key;
    key.local = flow.local;
    key.peer = flow.peer;
    key.proto = u32::from(flow.proto);
    if !is_icmp(flow.proto) {
        key.local_port = flow.local_port;
        key.peer_port = flow.peer_port;
        return kind::FLOW;
    }
    key.local_port = 0;
    key.peer_port = 0;
    let at = (ETH as u32).wrapping_add(flow.header);
    let message = message(flow.proto, flow.peer_port.to_ne_bytes()[0]);
    match message {
        Message::Neighbours => kind::PASS,
        Message::Other => kind::FLOW,
        Message::Error => error(skb, at + 8, scratch),
        Message::Request | Message::Answer => {
            let Some(id) = load_u16(skb, at + 4) else {
                return kind::MALFORMED;
            };
            let is_request = message == Message::Request;
            if (flow.direction == EGRESS) == is_request {
                key.local_port = id;
            } else {
                key.peer_port = id;
            }
            if is_request || is_allowed(key) {
                kind::FLOW
            } else {
                orphan(said::NO_FLOW)
            }
        }
    }
}

/// [`policy_classify`].
#[inline(always)]
pub fn classify(skb: *mut __sk_buff) -> u32 {
    policy_classify(skb)
}

#[inline(always)]
fn message(proto: u8, kind: u8) -> Message {
    match (proto, kind) {
        (ICMP, 8) | (ICMP6, 128) => Message::Request,
        (ICMP, 0) | (ICMP6, 129) => Message::Answer,
        (ICMP, 3 | 4 | 5 | 11 | 12) | (ICMP6, 1..=4) => Message::Error,
        (ICMP6, 133..=137) => Message::Neighbours,
        _ => Message::Other,
    }
}

/// An ICMP error passes with the flow that it is about.
#[inline(always)]
fn error(skb: *mut __sk_buff, at: u32, scratch: &mut Scratch) -> u32 {
    let (flow, key) = (&scratch.flow, &mut scratch.key);
    let is_v6 = flow.proto == ICMP6;
    let header = &mut scratch.inner;
    let wanted = if is_v6 { IP6 } else { IP };
    // SAFETY: a map value, as long as what is read.
    let is_read = unsafe {
        bpf_skb_load_bytes(skb.cast(), at, header.as_mut_ptr().cast(), wanted as u32) == 0
    };
    if !is_read {
        return kind::MALFORMED;
    }
    let (proto, length) = if is_v6 {
        (header[1].to_ne_bytes()[2], IP6 as u32)
    } else {
        let length = u32::from(header[0].to_ne_bytes()[0] & 0xf) * 4;
        (header[2].to_ne_bytes()[1], length)
    };
    let is_ingress = flow.direction == INGRESS;
    let (src, dst): (Addr, Addr) = if is_v6 {
        (
            [header[2], header[3], header[4], header[5]],
            [header[6], header[7], header[8], header[9]],
        )
    } else {
        ([0, 0, MAPPED, header[3]], [0, 0, MAPPED, header[4]])
    };
    // What the container sent comes back to it; what it was sent goes back from it.
    let own = if is_ingress { src } else { dst };
    if own != flow.local {
        return orphan(said::NO_FLOW);
    }
    key.peer = if is_ingress { dst } else { src };
    key.proto = u32::from(proto);
    let at = at + length;
    if proto == TCP || proto == UDP {
        let (Some(sport), Some(dport)) = (load_u16(skb, at), load_u16(skb, at + 2)) else {
            return kind::MALFORMED;
        };
        key.local_port = if is_ingress { sport } else { dport };
        key.peer_port = if is_ingress { dport } else { sport };
    } else if is_icmp(proto) {
        let (Some(kind), Some(id)) = (load_u16(skb, at), load_u16(skb, at + 4)) else {
            return kind::MALFORMED;
        };
        let is_request = message(proto, kind.to_ne_bytes()[0]) == Message::Request;
        if is_ingress == is_request {
            key.local_port = id;
        } else {
            key.peer_port = id;
        }
    }
    if is_allowed(key) {
        kind::RELATED
    } else {
        orphan(said::NO_FLOW)
    }
}

#[inline(always)]
fn is_allowed(key: &FlowKey) -> bool {
    // SAFETY: one word is read.
    unsafe { POLICY_FLOWS.get(key) }.is_some_and(|flow| flow.flags & flow_flags::ALLOWED != 0)
}

/// The fragments that follow a first one that has passed may pass, too.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn policy_fragments(skb: *mut __sk_buff) -> u32 {
    let Some(scratch) = scratch() else {
        return 0;
    };
    fragment_key(skb, scratch);
    u32::from(POLICY_FRAGS.insert(&scratch.fragment, &1, 0).is_ok())
}

/// [`policy_fragments`].
#[inline(always)]
pub fn remember_fragments(skb: *mut __sk_buff) -> u32 {
    policy_fragments(skb)
}

#[inline(always)]
fn fragment_key(skb: *mut __sk_buff, scratch: &mut Scratch) {
    let (flow, key) = (&scratch.flow, &mut scratch.fragment);
    key.local = flow.local;
    key.peer = flow.peer;
    key.kind = flow.direction << 16 | u32::from(flow.proto);
    key.id = 0;
    let is_v4 = flow.local[2] == MAPPED && flow.local[0] == 0 && flow.local[1] == 0;
    let id = (&raw mut key.id).cast();
    // SAFETY: a map value. What can't be read is 0, and no other packet's.
    unsafe {
        if is_v4 {
            bpf_skb_load_bytes(skb.cast(), ETH as u32 + 4, id, 2);
        } else {
            // The fragment header is the last one before the transport's.
            let at = (ETH as u32).wrapping_add(flow.header).wrapping_sub(4);
            bpf_skb_load_bytes(skb.cast(), at, id, 4);
        }
    }
}

#[inline(always)]
fn load_u16(skb: *mut __sk_buff, at: u32) -> Option<u16> {
    let mut bytes = [0_u8; 2];
    // SAFETY: memory of this function.
    let is_read = unsafe { bpf_skb_load_bytes(skb.cast(), at, bytes.as_mut_ptr().cast(), 2) == 0 };
    is_read.then_some(u16::from_ne_bytes(bytes))
}

//! dsr_in: out of the outer headers, to the backend.

use aya_ebpf::bindings::{__sk_buff, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC};
use aya_ebpf::helpers::generated::{bpf_skb_adjust_room, bpf_skb_ecn_set_ce};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use waggle_ebpf_common::edge::{
    Answer, AnswerKey, ENCAP_LEN, GUE_PORT, ServiceKey, dsr_reason as reason,
};

use crate::maps::{DSR_ANSWERS, DSR_EDGES, DSR_SERVICES};
use crate::rewrite::{self, Change, Side, has_ports};
use crate::skb::{
    Bytes, ETH, ETH_IPV4, FRAGMENT, FRAGMENT_OFFSET, ICMP, IP, OK, SHOT, TCP, UDP, count, is_port,
};

/// Where the client's packet begins.
const INNER: usize = ETH + ENCAP_LEN;
/// Where the packet begins that an ICMP error quotes.
const QUOTED: usize = INNER + IP + 8;
/// Version 0, one word of private data, IPv4 inside, no flags.
const GUE: u32 = u32::from_ne_bytes([0x01, 0x04, 0, 0]);
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// At tc ingress of the uplink.
#[classifier]
fn dsr_in(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the program's context.
    let bytes = unsafe { Bytes::of(skb, ETH + IP + 20) };
    if !bytes.has(ETH + IP + 8) {
        return OK;
    }
    // SAFETY: within what was checked.
    let (kind, version, proto, fragment, port) = unsafe {
        (
            bytes.read::<u16>(12),
            bytes.read::<u8>(ETH),
            bytes.read::<u8>(ETH + 9),
            bytes.read::<u16>(ETH + 6) & FRAGMENT,
            bytes.read::<u16>(ETH + IP + 2),
        )
    };
    if kind != ETH_IPV4 || version != 0x45 || fragment != 0 {
        return OK;
    }
    if proto == UDP && port == GUE_PORT.to_be() {
        return encapsulated(skb);
    }
    if is_port(port) {
        direct(bytes, proto, port);
    }
    OK
}

/// A client of a VIP that now dials the backend itself must get answers from that.
#[inline(always)]
fn direct(bytes: Bytes, proto: u8, port: u16) {
    // SAFETY: within what was checked here and by the caller.
    unsafe {
        let begins = match proto {
            TCP => bytes.has(ETH + IP + 20) && bytes.read::<u8>(ETH + IP + 13) & (SYN | ACK) == SYN,
            UDP => true,
            _ => false,
        };
        if !begins {
            return;
        }
        let key = AnswerKey {
            client: bytes.read::<u32>(ETH + 12),
            backend: bytes.read::<u32>(ETH + 16),
            client_port: bytes.read::<u16>(ETH + IP),
            port,
            proto: u32::from(proto),
        };
        if DSR_ANSWERS.get(&key).is_some() && DSR_ANSWERS.remove(&key).is_ok() {
            count(reason::DIRECT);
        }
    }
}

/// What an edge sent.
#[inline(never)]
fn encapsulated(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the program's context.
    let (bytes, length) = unsafe { (Bytes::of(skb, QUOTED + IP + 8), (*skb).len as usize) };
    if !bytes.has(INNER + IP) {
        count(reason::MALFORMED);
        return SHOT;
    }
    // SAFETY: within what was checked.
    let (edge, tos, gue, ports) = unsafe {
        (
            bytes.read::<u32>(ETH + 12),
            bytes.read::<u8>(ETH + 1),
            bytes.read::<u32>(ETH + IP + 8),
            bytes.read::<u32>(ETH + IP + 12),
        )
    };
    // SAFETY: not read.
    if unsafe { DSR_EDGES.get(&edge) }.is_none() {
        count(reason::NOT_AN_EDGE);
        return SHOT;
    }
    // SAFETY: within what was checked.
    let (version, total, fragment, proto, client, vip) = unsafe {
        (
            bytes.read::<u8>(INNER),
            u16::from_be(bytes.read::<u16>(INNER + 2)) as usize,
            bytes.read::<u16>(INNER + 6) & FRAGMENT_OFFSET,
            bytes.read::<u8>(INNER + 9),
            bytes.read::<u32>(INNER + 12),
            bytes.read::<u32>(INNER + 16),
        )
    };
    if gue != GUE || version != 0x45 || total < IP || INNER + total > length {
        count(reason::MALFORMED);
        return SHOT;
    }
    let (port, vip_port) = (ports as u16, (ports >> 16) as u16);
    let is_error = proto == ICMP;
    let mut service = ServiceKey {
        vip,
        vip_port,
        port,
        proto: u32::from(proto),
    };
    if is_error {
        if !bytes.has(QUOTED + IP + 8) {
            count(reason::MALFORMED);
            return SHOT;
        }
        // SAFETY: within what was checked.
        service.proto = u32::from(unsafe { bytes.read::<u8>(QUOTED + 9) });
    }
    // SAFETY: copied at once.
    let Some(backend) = unsafe { DSR_SERVICES.get(&service) }.copied() else {
        count(reason::NO_SERVICE);
        return SHOT;
    };
    let is_first = fragment == 0 && has_ports(proto);
    if is_first {
        let least = if proto == TCP { IP + 20 } else { IP + 8 };
        if total < least || !bytes.has(INNER + IP + 8) {
            count(reason::MALFORMED);
            return SHOT;
        }
        // SAFETY: within what was checked.
        let (client_port, dialled) = unsafe {
            (
                bytes.read::<u16>(INNER + IP),
                bytes.read::<u16>(INNER + IP + 2),
            )
        };
        if dialled != vip_port {
            count(reason::MALFORMED);
            return SHOT;
        }
        let key = AnswerKey {
            client,
            backend,
            client_port,
            port,
            proto: u32::from(proto),
        };
        remember(
            &key,
            &Answer {
                vip,
                vip_port,
                pad: 0,
            },
        );
    }
    let change = Change {
        addr: vip,
        new_addr: backend,
        port: vip_port,
        new_port: port,
    };
    // SAFETY: the program's context; nothing is read afterwards.
    let done = unsafe {
        if bpf_skb_adjust_room(skb, -(ENCAP_LEN as i32), BPF_ADJ_ROOM_MAC, 0) != 0 {
            false
        } else {
            if tos & 3 == 3 {
                // Congestion met on the way is the inner packet's, if it can say so.
                bpf_skb_ecn_set_ce(skb);
            }
            if is_error {
                rewrite::icmp_error(skb, ETH, Side::Destination, &change)
            } else {
                rewrite::packet(skb, ETH, Side::Destination, proto, &change, is_first)
            }
        }
    };
    if !done {
        count(reason::FAILED);
        return SHOT;
    }
    count(if is_error {
        reason::ICMP_ERROR
    } else {
        reason::DELIVERED
    });
    OK
}

/// Remembers the VIP of a flow, writing only what is new.
#[inline(always)]
fn remember(key: &AnswerKey, answer: &Answer) {
    // SAFETY: compared at once.
    let known = unsafe { DSR_ANSWERS.get(key) };
    if known.is_some_and(|known| known.vip == answer.vip && known.vip_port == answer.vip_port) {
        return;
    }
    if DSR_ANSWERS.insert(key, answer, 0).is_err() {
        count(reason::NOT_REMEMBERED);
    }
}

//! Backend -> VIP, and ICMP errors both ways.

use aya_ebpf::bindings::__sk_buff;
use waggle_ebpf_common::packet::{Flow, FlowKey, flow_flags, reason};

use crate::count::count;
use crate::forward::now_s;
use crate::fragment::{self, done};
use crate::frame::{Bytes, ETH, FRAGMENT_OFFSET, IP, OK, SHOT};
use crate::maps::{PACKET_ANSWERS, PACKET_FLOWS};
use crate::parse::{NOT_OURS, Packet};
use crate::rewrite::{self, Change, Side, has_ports};

/// Where the packet begins that an ICMP error quotes.
const QUOTED: usize = ETH + IP + 8;
/// Destination unreachable, time exceeded, parameter problem.
const ERRORS: [u8; 3] = [3, 11, 12];

/// Gives an answer the VIP as its source.
#[inline(never)]
pub fn answer(skb: *mut __sk_buff, packet: &Packet) -> i32 {
    let key = packet.key;
    let Some(known) = PACKET_ANSWERS.get_ptr_mut(&key) else {
        return NOT_OURS;
    };
    // SAFETY: a map value; a lost race costs a stamp.
    let vip = unsafe {
        let now = now_s();
        if (*known).seen_s != now {
            (&raw mut (*known).seen_s).write_volatile(now);
        }
        if packet.ends() {
            (&raw mut (*known).flags).write_volatile(flow_flags::CLOSING);
        }
        *known
    };
    if packet.is_short != 0 {
        count(reason::MALFORMED);
        return SHOT;
    }
    if packet.ends() {
        let flow = FlowKey {
            src: key.dst,
            dst: vip.addr,
            sport: key.dport,
            dport: vip.port,
            proto: key.proto,
        };
        if let Some(flow) = PACKET_FLOWS.get_ptr_mut(&flow)
            // SAFETY: a map value.
            && unsafe { (*flow).addr == key.src && (*flow).port == key.sport }
        {
            // SAFETY: a map value.
            unsafe { (&raw mut (*flow).flags).write_volatile(flow_flags::CLOSING) };
        }
    }
    if packet.is_fragment != 0 && !fragment::remember(packet, vip.addr, true) {
        count(reason::NOT_REMEMBERED);
        return SHOT;
    }
    let change = Change {
        addr: key.src,
        new_addr: vip.addr,
        port: key.sport,
        new_port: vip.port,
    };
    // SAFETY: the program's context; nothing is read afterwards.
    done(
        unsafe { rewrite::packet(skb, ETH, Side::Source, key.proto as u8, &change, true) },
        reason::ANSWERED,
    )
}

/// What an ICMP error says.
#[derive(Clone, Copy)]
struct Quote {
    src: u32,
    dst: u32,
    /// The quoted packet's.
    key: FlowKey,
}

/// An error from a client's side about an answer, or from a backend's about what a client sent.
#[inline(never)]
pub fn error_in(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the program's context.
    let Some(quote) = (unsafe { quote(skb) }) else {
        return OK;
    };
    let key = quote.key;
    let flow = FlowKey {
        src: key.dst,
        dst: key.src,
        sport: key.dport,
        dport: key.sport,
        proto: key.proto,
    };
    // SAFETY: copied at once.
    let known = unsafe { PACKET_FLOWS.get(&flow) }.copied();
    match known {
        Some(backend) if quote.dst == key.src => {
            let change = Change {
                addr: key.src,
                new_addr: backend.addr,
                port: key.sport,
                new_port: backend.port,
            };
            // SAFETY: the program's context; nothing is read afterwards.
            done(
                unsafe { rewrite::icmp_error(skb, ETH, Side::Destination, &change) },
                reason::ICMP_FORWARDED,
            )
        }
        _ => to_client(skb, &quote),
    }
}

/// An error of the node itself, or of a backend here, about what a client sent.
#[inline(never)]
pub fn error_out(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the program's context.
    match unsafe { quote(skb) } {
        Some(quote) => to_client(skb, &quote),
        None => OK,
    }
}

/// The client knows only the VIP. A router's own address stays.
#[inline(always)]
fn to_client(skb: *mut __sk_buff, quote: &Quote) -> i32 {
    let key = quote.key;
    let answer = FlowKey {
        src: key.dst,
        dst: key.src,
        sport: key.dport,
        dport: key.sport,
        proto: key.proto,
    };
    // SAFETY: copied at once.
    let known: Option<Flow> = unsafe { PACKET_ANSWERS.get(&answer) }.copied();
    let Some(vip) = known else {
        return OK;
    };
    if quote.dst != key.src {
        return OK;
    }
    let change = Change {
        addr: key.dst,
        new_addr: vip.addr,
        port: key.dport,
        new_port: vip.port,
    };
    // SAFETY: the program's context; nothing is read afterwards.
    let changed = unsafe {
        if quote.src == key.dst {
            rewrite::icmp_error(skb, ETH, Side::Source, &change)
        } else {
            rewrite::quoted(skb, ETH, Side::Destination, &change)
        }
    };
    done(changed, reason::ICMP_ANSWERED)
}

/// What an error quotes, if it is one and quotes ports.
///
/// # Safety
/// `skb` is the program's context.
#[inline(always)]
unsafe fn quote(skb: *mut __sk_buff) -> Option<Quote> {
    // SAFETY: the program's context; reads are within what was checked.
    unsafe {
        let bytes = Bytes::of(skb, QUOTED + IP + 8);
        if !bytes.has(QUOTED + IP + 8) {
            return None;
        }
        let kind = bytes.read::<u8>(ETH + IP);
        let proto = bytes.read::<u8>(QUOTED + 9);
        let is_error = kind == ERRORS[0] || kind == ERRORS[1] || kind == ERRORS[2];
        if !is_error
            || bytes.read::<u8>(QUOTED) != 0x45
            || bytes.read::<u16>(QUOTED + 6) & FRAGMENT_OFFSET != 0
            || !has_ports(proto)
        {
            return None;
        }
        Some(Quote {
            src: bytes.read::<u32>(ETH + 12),
            dst: bytes.read::<u32>(ETH + 16),
            key: FlowKey {
                src: bytes.read::<u32>(QUOTED + 12),
                dst: bytes.read::<u32>(QUOTED + 16),
                sport: bytes.read::<u16>(QUOTED + IP),
                dport: bytes.read::<u16>(QUOTED + IP + 2),
                proto: u32::from(proto),
            },
        })
    }
}

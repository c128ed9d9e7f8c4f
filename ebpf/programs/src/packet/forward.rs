//! VIP -> backend.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use waggle_ebpf_common::packet::{
    CLIENT_IS_ADDRESS, Flow, FlowKey, TCP_IDLE_S, UDP_IDLE_S, flow_flags, reason,
};
use waggle_ebpf_common::{Addr, MAPPED, VipKey};

use crate::address::NONE;
use crate::choose::{Found, Set, find_set};
use crate::count::{count, vip_choice};
use crate::fragment::{self, done};
use crate::frame::{ETH, SHOT, TCP};
use crate::maps::{PACKET_ANSWERS, PACKET_FLOWS};
use crate::parse::{NOT_OURS, Packet, REFUSE, RST};
use crate::rewrite::{self, Change, Side};

/// Backends that are tried until one fits: the choice, then its neighbour.
const TRIES: u32 = 2;
const SECOND_NS: u64 = 1_000_000_000;

/// `CLOCK_MONOTONIC`, seconds.
#[inline(always)]
pub fn now_s() -> u32 {
    // SAFETY: takes nothing, always succeeds.
    (unsafe { bpf_ktime_get_ns() } / SECOND_NS) as u32
}

/// Translates what a client sends to a VIP, and says to which backend. A refusal is the caller's to send: here the stack is
/// deep.
#[inline(never)]
pub fn forward(skb: *mut __sk_buff, packet: &Packet, backend: &mut u32) -> i32 {
    let key = packet.key;
    let now = now_s();
    // SAFETY: copied at once.
    let known: Option<Flow> = unsafe { PACKET_FLOWS.get(&key) }.copied();
    if !packet.begins() && packet.is_short == 0 {
        if let Some(flow) = known {
            *backend = flow.addr;
            return follow(skb, packet, &flow, now);
        }
    }
    let vip = VipKey {
        addr: [0, 0, MAPPED, key.dst],
        port: key.dport,
        proto: key.proto as u8,
        pad: 0,
    };
    let set = match find_set(&vip) {
        Found::NoVip => return NOT_OURS,
        Found::Broken => {
            count(reason::BAD_TABLE);
            return SHOT;
        }
        Found::Set(set) => set,
    };
    if packet.is_short != 0 {
        count(reason::MALFORMED);
        return SHOT;
    }
    if !packet.begins() {
        count(reason::NO_FLOW);
        return if packet.flags & RST != 0 {
            SHOT
        } else {
            REFUSE
        };
    }
    if let Some(flow) = known
        && goes_on(&set, packet, &flow, now)
    {
        *backend = flow.addr;
        return follow(skb, packet, &flow, now);
    }
    match begin(&set, packet, now) {
        Ok(flow) => {
            *backend = flow.addr;
            translate(skb, packet, &flow)
        }
        Err(why) => {
            count(why);
            if why == reason::NO_BACKEND {
                vip_choice(set.vip_id(), &NONE, 0);
            }
            if why == reason::NO_BACKEND || why == reason::HAIRPIN {
                REFUSE
            } else {
                SHOT
            }
        }
    }
}

/// Whether a packet that may begin a flow belongs to the one that is known.
#[inline(always)]
fn goes_on(set: &Set, packet: &Packet, flow: &Flow, now: u32) -> bool {
    if is_over(packet.key.proto, flow, now) {
        return false;
    }
    let addr: Addr = [0, 0, MAPPED, flow.addr];
    // SAFETY: memory of this function.
    let found = unsafe { set.find(&raw const addr, flow.port, flow.cell) };
    match found {
        // A SYN that was repeated; but a draining backend gets no new connections.
        Some(choice) => packet.key.proto != u32::from(TCP) || set.is_chosen(choice),
        None => false,
    }
}

/// Whether a flow's place is free for another one.
#[inline(always)]
fn is_over(proto: u32, flow: &Flow, now: u32) -> bool {
    let silent = now.wrapping_sub(flow.seen_s);
    if proto == u32::from(TCP) {
        flow.flags & flow_flags::CLOSING != 0 || silent > TCP_IDLE_S
    } else {
        silent > UDP_IDLE_S
    }
}

/// Gives a new flow its backend, and remembers both. Otherwise the reason.
#[inline(always)]
fn begin(set: &Set, packet: &Packet, now: u32) -> Result<Flow, u32> {
    let key = packet.key;
    let client = || CLIENT_IS_ADDRESS | u64::from(key.src);
    let mut why = reason::NO_BACKEND;
    let Some(mut choice) = set.choose(key.proto as u8, client) else {
        return Err(reason::NO_BACKEND);
    };
    let mut tries = 0;
    while tries < TRIES {
        if tries > 0 {
            match set.neighbour(choice) {
                Some(next) => choice = next,
                None => return Err(why),
            }
        }
        tries += 1;
        // SAFETY: a map value.
        let (family, addr, port) = unsafe {
            let b = choice.backend;
            (
                (*b).addr[0] | (*b).addr[1] | ((*b).addr[2] ^ MAPPED),
                (*b).addr[3],
                (*b).port,
            )
        };
        if family != 0 {
            return Err(reason::BAD_TABLE);
        }
        if addr == key.src {
            why = reason::HAIRPIN;
            continue;
        }
        let flow = Flow {
            addr,
            port,
            flags: 0,
            seen_s: now,
            cell: choice.cell,
        };
        match expect(packet, &flow, now) {
            Ok(()) => {}
            Err(reason::COLLISION) => {
                why = reason::COLLISION;
                continue;
            }
            Err(other) => return Err(other),
        }
        if PACKET_FLOWS.insert(&key, &flow, 0).is_err() {
            return Err(reason::NOT_REMEMBERED);
        }
        count(reason::FLOW_MADE);
        // SAFETY: a map value.
        unsafe {
            vip_choice(set.vip_id(), &raw const (*choice.backend).addr, port);
        }
        return Ok(flow);
    }
    Err(why)
}

/// A packet of a flow that is known.
#[inline(always)]
fn follow(skb: *mut __sk_buff, packet: &Packet, flow: &Flow, now: u32) -> i32 {
    let closing = if packet.ends() {
        flow_flags::CLOSING
    } else {
        0
    };
    if flow.seen_s != now || closing != 0 {
        if let Some(known) = PACKET_FLOWS.get_ptr_mut(&packet.key) {
            // SAFETY: a map value; a lost race costs a stamp.
            unsafe {
                (&raw mut (*known).seen_s).write_volatile(now);
                if closing != 0 {
                    (&raw mut (*known).flags).write_volatile(closing);
                }
            }
        }
    }
    let mut flow = *flow;
    flow.flags |= closing;
    if let Err(why) = expect(packet, &flow, now) {
        count(why);
        return SHOT;
    }
    translate(skb, packet, &flow)
}

/// Sees to it that the flow's answers will be known: also when they were forgotten meanwhile.
#[inline(always)]
fn expect(packet: &Packet, flow: &Flow, now: u32) -> Result<(), u32> {
    let key = packet.key;
    let answer = FlowKey {
        src: flow.addr,
        dst: key.src,
        sport: flow.port,
        dport: key.sport,
        proto: key.proto,
    };
    if let Some(known) = PACKET_ANSWERS.get_ptr_mut(&answer) {
        // SAFETY: a map value; a lost race costs a stamp.
        unsafe {
            if (*known).addr == key.dst && (*known).port == key.dport {
                if (*known).seen_s != now {
                    (&raw mut (*known).seen_s).write_volatile(now);
                }
                if (*known).flags != flow.flags {
                    (&raw mut (*known).flags).write_volatile(flow.flags);
                }
                return Ok(());
            }
            if !is_over(key.proto, &*known, now) {
                return Err(reason::COLLISION);
            }
        }
    }
    let vip = Flow {
        addr: key.dst,
        port: key.dport,
        flags: flow.flags,
        seen_s: now,
        cell: 0,
    };
    if PACKET_ANSWERS.insert(&answer, &vip, 0).is_err() {
        return Err(reason::NOT_REMEMBERED);
    }
    Ok(())
}

/// Sends a packet to the flow's backend.
#[inline(always)]
fn translate(skb: *mut __sk_buff, packet: &Packet, flow: &Flow) -> i32 {
    let key = packet.key;
    if packet.is_fragment != 0 && !fragment::remember(packet, flow.addr, false) {
        count(reason::NOT_REMEMBERED);
        return SHOT;
    }
    let change = Change {
        addr: key.dst,
        new_addr: flow.addr,
        port: key.dport,
        new_port: flow.port,
    };
    // SAFETY: the program's context; nothing is read afterwards.
    done(
        unsafe { rewrite::packet(skb, ETH, Side::Destination, key.proto as u8, &change, true) },
        reason::FORWARDED,
    )
}

/// A client of a VIP that now dials the backend itself must get answers from that.
#[inline(always)]
pub fn direct(packet: &Packet) {
    if !packet.begins() || packet.is_short != 0 {
        return;
    }
    let key = packet.key;
    let answer = FlowKey {
        src: key.dst,
        dst: key.src,
        sport: key.dport,
        dport: key.sport,
        proto: key.proto,
    };
    if PACKET_ANSWERS.get_ptr(&answer).is_some() && PACKET_ANSWERS.remove(&answer).is_ok() {
        count(reason::DIRECT);
    }
}

//! dsr_out: answers get the VIP as their source.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use waggle_ebpf_common::edge::{Answer, AnswerKey, FragmentKey, dsr_reason as reason};

use crate::maps::{DSR_ANSWERS, DSR_FRAGS};
use crate::rewrite::{self, Change, Side, has_ports};
use crate::skb::{
    Bytes, ETH, ETH_IPV4, FRAGMENT, FRAGMENT_OFFSET, ICMP, IP, OK, SHOT, count, is_port,
};

/// Where the packet begins that an ICMP error quotes.
const QUOTED: usize = ETH + IP + 8;
/// Destination unreachable, time exceeded, parameter problem.
const ERRORS: [u8; 3] = [3, 11, 12];

/// At tc egress of the uplink.
#[classifier]
fn dsr_out(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the program's context.
    let bytes = unsafe { Bytes::of(skb, ETH + IP + 8) };
    if !bytes.has(ETH + IP) {
        return OK;
    }
    // SAFETY: within what was checked.
    let (kind, version, proto, fragment) = unsafe {
        (
            bytes.read::<u16>(12),
            bytes.read::<u8>(ETH),
            bytes.read::<u8>(ETH + 9),
            bytes.read::<u16>(ETH + 6) & FRAGMENT,
        )
    };
    if kind != ETH_IPV4 || version != 0x45 {
        return OK;
    }
    if fragment & FRAGMENT_OFFSET != 0 {
        return later_fragment(skb, bytes);
    }
    if !bytes.has(ETH + IP + 8) {
        return OK;
    }
    if proto == ICMP {
        return icmp_error(skb);
    }
    if !has_ports(proto) {
        return OK;
    }
    // SAFETY: within what was checked.
    let key = unsafe {
        AnswerKey {
            client: bytes.read::<u32>(ETH + 16),
            backend: bytes.read::<u32>(ETH + 12),
            client_port: bytes.read::<u16>(ETH + IP + 2),
            port: bytes.read::<u16>(ETH + IP),
            proto: u32::from(proto),
        }
    };
    let Some(answer) = answer_of(&key) else {
        return OK;
    };
    if fragment != 0 {
        // SAFETY: within what was checked.
        let fragments = unsafe { fragment_key(bytes) };
        // Without room the others show the backend, and the client does not put them together.
        let _ = DSR_FRAGS.insert(&fragments, &answer.vip, 0);
    }
    let change = change(&key, &answer);
    // SAFETY: the program's context; nothing is read afterwards.
    done(
        unsafe { rewrite::packet(skb, ETH, Side::Source, proto, &change, true) },
        reason::ANSWERED,
    )
}

/// A fragment without ports.
#[inline(always)]
fn later_fragment(skb: *mut __sk_buff, bytes: Bytes) -> i32 {
    // SAFETY: the caller has checked for the header.
    let key = unsafe { fragment_key(bytes) };
    // SAFETY: copied at once.
    let Some(vip) = unsafe { DSR_FRAGS.get(&key) }.copied() else {
        return OK;
    };
    let change = Change {
        addr: key.src,
        new_addr: vip,
        port: 0,
        new_port: 0,
    };
    // SAFETY: the program's context; nothing is read afterwards.
    done(
        unsafe { rewrite::packet(skb, ETH, Side::Source, key.proto, &change, false) },
        reason::ANSWERED,
    )
}

/// An ICMP error of ours about a client's packet ("port unreachable", say): the client knows only the VIP.
#[inline(never)]
fn icmp_error(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the program's context.
    let bytes = unsafe { Bytes::of(skb, QUOTED + IP + 8) };
    if !bytes.has(QUOTED + IP + 8) {
        return OK;
    }
    // SAFETY: within what was checked.
    let (kind, version, src, key) = unsafe {
        (
            bytes.read::<u8>(ETH + IP),
            bytes.read::<u8>(QUOTED),
            bytes.read::<u32>(ETH + 12),
            AnswerKey {
                client: bytes.read::<u32>(QUOTED + 12),
                backend: bytes.read::<u32>(QUOTED + 16),
                client_port: bytes.read::<u16>(QUOTED + IP),
                port: bytes.read::<u16>(QUOTED + IP + 2),
                proto: u32::from(bytes.read::<u8>(QUOTED + 9)),
            },
        )
    };
    let is_error = kind == ERRORS[0] || kind == ERRORS[1] || kind == ERRORS[2];
    if !is_error || version != 0x45 || src != key.backend {
        return OK;
    }
    let Some(answer) = answer_of(&key) else {
        return OK;
    };
    let change = change(&key, &answer);
    // SAFETY: the program's context; nothing is read afterwards.
    done(
        unsafe { rewrite::icmp_error(skb, ETH, Side::Source, &change) },
        reason::ICMP_ANSWERED,
    )
}

/// The VIP of a flow.
#[inline(always)]
fn answer_of(key: &AnswerKey) -> Option<Answer> {
    if !is_port(key.port) {
        return None;
    }
    // SAFETY: copied at once.
    unsafe { DSR_ANSWERS.get(key) }.copied()
}

#[inline(always)]
fn change(key: &AnswerKey, answer: &Answer) -> Change {
    Change {
        addr: key.backend,
        new_addr: answer.vip,
        port: key.port,
        new_port: answer.vip_port,
    }
}

/// # Safety
/// The header was checked for.
#[inline(always)]
unsafe fn fragment_key(bytes: Bytes) -> FragmentKey {
    // SAFETY: the caller's.
    unsafe {
        FragmentKey {
            src: bytes.read::<u32>(ETH + 12),
            dst: bytes.read::<u32>(ETH + 16),
            id: bytes.read::<u16>(ETH + 4),
            proto: bytes.read::<u8>(ETH + 9),
            pad: 0,
        }
    }
}

/// Half a change is no packet.
#[inline(always)]
fn done(done: bool, how: u32) -> i32 {
    if done {
        count(how);
        OK
    } else {
        count(reason::FAILED);
        SHOT
    }
}

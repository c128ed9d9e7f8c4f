//! Answers of our own, back to where the packet came from: a reset, or "port unreachable".
//!
//! The kernel may still owe the packet its checksum (a veth's packets come so). It then writes, over what starts at the
//! transport header, to where that protocol's checksum is; nothing takes this note off a packet. So for such packets what is
//! written is right with and without that.

use aya_ebpf::bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_ns, bpf_l4_csum_replace, bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes,
    bpf_skb_store_bytes,
};
use waggle_ebpf_common::edge::fold;
use waggle_ebpf_common::packet::reason;

use crate::count::count;
use crate::frame::{Bytes, ETH, ICMP, IP, SHOT, TCP};
use crate::maps::{PACKET_BUDGET, answers_per_tick};
use crate::parse::{ACK, FIN, Packet, RST, SYN};

/// Nanoseconds to ticks of 17 ms.
const TICK_SHIFT: u32 = 24;
const TCP_LEN: usize = 20;
/// IPv4 and ICMP before the quoted packet.
const ICMP_BEFORE: usize = IP + 8;
/// What is quoted: the IPv4 header and 8 bytes, in words.
const QUOTED_WORDS: usize = (IP + 8) / 4;

/// Through the device that the packet came by.
pub const OUT: u64 = 0;
/// To this node itself, whose packet it is: as if that device had received it (`BPF_F_INGRESS`).
pub const UP: u64 = 1;

/// Answers a packet in its own place, as far as this CPU's budget goes: a forged source can't have more sent.
#[inline(always)]
pub fn refuse(skb: *mut __sk_buff, packet: &Packet, to: u64) -> i32 {
    if !take() {
        count(reason::UNANSWERED);
        return SHOT;
    }
    if packet.key.proto == u32::from(TCP) {
        reset(skb, to)
    } else {
        unreachable(skb, to)
    }
}

/// Takes one answer from the budget.
#[inline(always)]
fn take() -> bool {
    let Some(budget) = PACKET_BUDGET.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own value; a program that interrupts another one costs an answer more or less.
    unsafe {
        let tick = bpf_ktime_get_ns() >> TICK_SHIFT;
        let (since, n) = (*budget >> 32, *budget & 0xffff_ffff);
        let n = if since == tick { n } else { 0 };
        if n >= u64::from(answers_per_tick()) {
            return false;
        }
        *budget = tick << 32 | (n + 1);
        true
    }
}

/// Answers a TCP segment with a reset.
#[inline(never)]
fn reset(skb: *mut __sk_buff, to: u64) -> i32 {
    // SAFETY: the program's context; reads are within what was checked.
    unsafe {
        let bytes = Bytes::of(skb, ETH + IP + TCP_LEN);
        if !bytes.has(ETH + IP + TCP_LEN) {
            return SHOT;
        }
        let at = ETH + IP;
        let flags = bytes.read::<u8>(at + 13);
        if flags & RST != 0 {
            return SHOT;
        }
        let total = u32::from(u16::from_be(bytes.read::<u16>(ETH + 2)));
        let (src, dst) = (bytes.read::<u32>(ETH + 12), bytes.read::<u32>(ETH + 16));
        let ports = bytes.read::<u32>(at).rotate_left(16);
        let (seq, ack, flags) = if flags & ACK != 0 {
            (bytes.read::<u32>(at + 8), 0, RST)
        } else {
            let header = u32::from(bytes.read::<u8>(at + 12) >> 4) * 4;
            let length = total.wrapping_sub(IP as u32 + header)
                + u32::from(flags & SYN != 0)
                + u32::from(flags & FIN != 0);
            let seq = u32::from_be(bytes.read::<u32>(at + 4));
            (0, seq.wrapping_add(length).to_be(), RST | ACK)
        };
        let link = link_of(bytes);
        let is_owed = is_owed(skb, at + 16);
        if bpf_skb_change_tail(skb, (at + TCP_LEN) as u32, 0) != 0 {
            count(reason::FAILED);
            return SHOT;
        }
        // 20 bytes of header; no window, no checksum yet.
        let control = u32::from_ne_bytes([0x50, flags, 0, 0]);
        let pseudo = half_sum(src)
            + half_sum(dst)
            + u32::from(u16::from(TCP).to_be())
            + u32::from((TCP_LEN as u16).to_be());
        let check = if is_owed {
            fold(pseudo)
        } else {
            !fold(pseudo + half_sum(ports) + half_sum(seq) + half_sum(ack) + half_sum(control))
        };
        let segment = [ports, seq, ack, control, u32::from(check)];
        let ip = ip_header(dst, src, (IP + TCP_LEN) as u16, TCP);
        if !store(skb, 0, &link) || !store(skb, ETH, &ip) || !store(skb, at, &segment) {
            count(reason::FAILED);
            return SHOT;
        }
        count(reason::RESET_SENT);
        bpf_redirect((*skb).ifindex, to) as i32
    }
}

/// Answers a datagram with "port unreachable".
#[inline(never)]
fn unreachable(skb: *mut __sk_buff, to: u64) -> i32 {
    // SAFETY: the program's context; reads are within what was checked.
    unsafe {
        let bytes = Bytes::of(skb, ETH + IP + 8);
        if !bytes.has(ETH + IP + 8) {
            return SHOT;
        }
        let mut quoted = [0_u32; QUOTED_WORDS];
        let mut i = 0;
        while i < QUOTED_WORDS {
            quoted[i] = bytes.read::<u32>(ETH + i * 4);
            i += 1;
        }
        let link = link_of(bytes);
        let is_owed = is_owed(skb, ETH + IP + 6);
        let length = ETH + ICMP_BEFORE + IP + 8;
        if bpf_skb_change_tail(skb, length as u32, 0) != 0 {
            count(reason::FAILED);
            return SHOT;
        }
        let mut head = [u32::from_ne_bytes([3, 3, 0, 0]), 0];
        if !is_owed {
            // Otherwise what the kernel writes to the field that is unused makes the sum right.
            let mut sum = half_sum(head[0]);
            let mut i = 0;
            while i < QUOTED_WORDS {
                sum += half_sum(quoted[i]);
                i += 1;
            }
            let [a, b] = (!fold(sum)).to_ne_bytes();
            head[0] = u32::from_ne_bytes([3, 3, a, b]);
        }
        let ip = ip_header(quoted[4], quoted[3], (ICMP_BEFORE + IP + 8) as u16, ICMP);
        let done = store(skb, 0, &link)
            && store(skb, ETH, &ip)
            && store(skb, ETH + IP, &head)
            && store(skb, ETH + ICMP_BEFORE, &quoted);
        if !done {
            count(reason::FAILED);
            return SHOT;
        }
        count(reason::ICMP_SENT);
        bpf_redirect((*skb).ifindex, to) as i32
    }
}

/// Whether the kernel still owes the packet its checksum: it then leaves the field alone when a word that is no address
/// changes. The field is wrong afterwards.
///
/// # Safety
/// `skb` is the program's context, and the field is there.
#[inline(always)]
unsafe fn is_owed(skb: *mut __sk_buff, at: usize) -> bool {
    let (mut before, mut after) = (0_u16, 0_u16);
    // SAFETY: the caller's; both are memory of this function.
    unsafe {
        bpf_skb_load_bytes(skb.cast(), at as u32, (&raw mut before).cast(), 2);
        bpf_l4_csum_replace(skb, at as u32, 0, 1, 2);
        bpf_skb_load_bytes(skb.cast(), at as u32, (&raw mut after).cast(), 2);
    }
    before == after
}

/// The link layer's addresses, turned.
///
/// # Safety
/// The caller has checked for them.
#[inline(always)]
unsafe fn link_of(bytes: Bytes) -> [u16; 6] {
    // SAFETY: the caller's.
    unsafe {
        [
            bytes.read::<u16>(6),
            bytes.read::<u16>(8),
            bytes.read::<u16>(10),
            bytes.read::<u16>(0),
            bytes.read::<u16>(2),
            bytes.read::<u16>(4),
        ]
    }
}

/// An IPv4 header that must not be fragmented.
#[inline(always)]
fn ip_header(src: u32, dst: u32, total: u16, proto: u8) -> [u32; 5] {
    let [high, low] = total.to_be_bytes();
    let words = [
        u32::from_ne_bytes([0x45, 0, high, low]),
        u32::from_ne_bytes([0, 0, 0x40, 0]),
        u32::from_ne_bytes([64, proto, 0, 0]),
    ];
    let sum = half_sum(words[0]) + half_sum(words[1]) + half_sum(words[2]);
    let [a, b] = (!fold(sum + half_sum(src) + half_sum(dst))).to_ne_bytes();
    let third = u32::from_ne_bytes([64, proto, a, b]);
    [words[0], words[1], third, src, dst]
}

/// # Safety
/// `skb` is the program's context.
#[inline(always)]
unsafe fn store<T>(skb: *mut __sk_buff, at: usize, value: &T) -> bool {
    // SAFETY: the caller's; reads the value only.
    unsafe {
        bpf_skb_store_bytes(
            skb,
            at as u32,
            core::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
            u64::from(BPF_F_RECOMPUTE_CSUM),
        ) == 0
    }
}

/// Both 16-bit words of a 32-bit one, for a checksum.
#[inline(always)]
const fn half_sum(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

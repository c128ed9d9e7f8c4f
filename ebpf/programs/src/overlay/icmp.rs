//! ICMP errors of our own (RFC 792, RFC 4443), before the packet that they are about: that one stays where it is, cut short.
//!
//! The kernel may still owe that packet its checksum (a veth's packets come so), and writes it when the error leaves by a device
//! that can't; nothing takes this note off. What it would write is known (all that the checksum covers then sums up to the
//! complement of what stands in its field now), so the error's own checksum is right if it does; if it does not, no receiver looks.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_ns, bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_load_bytes,
};
use waggle_ebpf_common::edge::fold;
use waggle_ebpf_common::overlay::{ANSWER_MARK, reason};
use waggle_ebpf_common::{Addr, MAPPED};

use crate::count::{count, drop};
use crate::encap;
use crate::frame::{ETH, ICMP, IP, SHOT, TCP, UDP};
use crate::maps::{OV_BUDGET, answers_per_tick, icmp4, icmp6, node};
use crate::parse::{ICMP6, IP6, Packet};
use crate::skb::{FIXED_GSO, adjust_room, mac_of, out_of, store};

/// What an error says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Host unreachable; address unreachable.
    Unreachable,
    /// Fragmentation needed; packet too big.
    TooBig,
    /// Administratively prohibited.
    Prohibited,
}

impl Why {
    /// Type and code.
    #[inline(always)]
    fn code(self, is_v6: bool) -> [u8; 2] {
        match (self, is_v6) {
            (Self::Unreachable, false) => [3, 1],
            (Self::TooBig, false) => [3, 4],
            (Self::Prohibited, false) => [3, 13],
            (Self::Unreachable, true) => [1, 3],
            (Self::TooBig, true) => [2, 0],
            (Self::Prohibited, true) => [1, 1],
        }
    }
}

/// Nanoseconds to ticks of 17 ms.
const TICK_SHIFT: u32 = 24;
/// An ICMP header.
const HEAD: usize = 8;
/// What is quoted behind the IP header: TCP's header, so that it holds the checksum, or 8 bytes.
const QUOTED_TCP: usize = 20;
const QUOTED: usize = 8;
/// IPv6's header and TCP's, in words.
const QUOTED_WORDS: usize = (IP6 + QUOTED_TCP) / 4;

/// Drops a container's packet and tells it why, as far as this CPU's budget goes.
#[inline(always)]
pub fn refuse(skb: *mut __sk_buff, packet: &Packet, why: Why, reason: u32, mtu: u32) -> i32 {
    count(reason);
    if !may_answer(packet) {
        return SHOT;
    }
    if error(skb, packet, why as u32, mtu) == 0 {
        return drop(reason::FAILED);
    }
    count(reason::ICMP_SENT);
    // SAFETY: context fields.
    unsafe {
        (*skb).mark = ANSWER_MARK;
        out_of((*skb).ifindex)
    }
}

/// Drops what another node has sent for an address that nobody has, and tells the sender, through the kernel's device.
#[inline(always)]
pub fn refuse_remote(skb: *mut __sk_buff, packet: &Packet, from: u32) -> i32 {
    count(reason::UNKNOWN_DESTINATION);
    if !may_answer(packet) {
        return SHOT;
    }
    if error(skb, packet, Why::Unreachable as u32, 0) == 0 {
        return drop(reason::FAILED);
    }
    count(reason::ICMP_SENT);
    encap::by_device(skb, &mac_of(&packet.src), from, node(), false)
}

/// RFC 1122, 3.2.2: no error about an error, a later fragment, or what nobody sent. And not more than the budget.
#[inline(always)]
fn may_answer(packet: &Packet) -> bool {
    let is_error = match packet.icmp_type() {
        Some(kind) if packet.is_v6 => kind < 128,
        Some(kind) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        None => false,
    };
    if is_error || packet.is_later || !packet.is_v6 && packet.has_options {
        return false;
    }
    let may = take();
    if !may {
        count(reason::UNANSWERED);
    }
    may
}

/// Takes one answer from the budget.
#[inline(always)]
fn take() -> bool {
    let Some(budget) = OV_BUDGET.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own value.
    unsafe {
        let tick = bpf_ktime_get_ns() >> TICK_SHIFT;
        let (since, n) = (*budget >> 32, *budget & 0xffff_ffff);
        let n = if since == tick & 0xffff_ffff { n } else { 0 };
        if n >= u64::from(answers_per_tick()) {
            return false;
        }
        *budget = tick << 32 | (n + 1);
        true
    }
}

/// Turns a packet into an error about itself. 0: the kernel refused, and the packet is no packet any more.
#[inline(never)]
fn error(skb: *mut __sk_buff, packet: &Packet, why: u32, mtu: u32) -> u32 {
    let why = match why {
        0 => Why::Unreachable,
        1 => Why::TooBig,
        _ => Why::Prohibited,
    };
    let ip = if packet.is_v6 { IP6 } else { IP };
    let has_head = !packet.has_options;
    let is_tcp = has_head && packet.proto == TCP;
    let quoted = ip + if is_tcp { QUOTED_TCP } else { QUOTED };
    // SAFETY: the program's context.
    unsafe {
        if bpf_skb_change_tail(skb, (ETH + quoted) as u32, 0) != 0 {
            return 0;
        }
    }
    let check = match packet.proto {
        TCP if has_head => ETH + ip + 16,
        UDP if has_head => ETH + ip + 6,
        _ => 0,
    };
    let owed = if check == 0 { None } else { owed(skb, check) };
    let Some(sum) = sum(skb, packet.is_v6, is_tcp, owed) else {
        return 0;
    };
    if !adjust_room(skb, (ip + HEAD) as i32, FIXED_GSO) {
        return 0;
    }
    let [kind, code] = why.code(packet.is_v6);
    let rest = if packet.is_v6 {
        mtu.to_be()
    } else {
        // RFC 1191: the lower half.
        (mtu & 0xffff).to_be()
    };
    let first = u32::from_ne_bytes([kind, code, 0, 0]);
    let sum = sum + half_sum(first) + half_sum(rest);
    let is_written = if packet.is_v6 {
        let length = (HEAD + quoted) as u16;
        let src = icmp6();
        let pseudo = sum_of(&src)
            + sum_of(&packet.src)
            + u32::from(length.to_be())
            + half_sum(u32::from(ICMP6).to_be());
        let head = head(first, rest, sum + pseudo);
        write6(skb, &src, &packet.src, length) && store(skb, ETH + IP6, &head)
    } else {
        let header = ip_header(icmp4(), packet.src[3], (IP + HEAD + quoted) as u16);
        store(skb, ETH, &header) && store(skb, ETH + IP, &head(first, rest, sum))
    };
    let dst = packet.mac;
    let src = if packet.is_v6 {
        mac_of(&icmp6())
    } else {
        mac_of(&[0, 0, MAPPED, icmp4()])
    };
    let link = [
        dst[0],
        dst[1],
        dst[2],
        src[0],
        src[1],
        src[2],
        packet.ether_type(),
    ];
    u32::from(is_written && store(skb, 0, &link))
}

/// The ICMP header, with its checksum.
#[inline(always)]
fn head(first: u32, rest: u32, sum: u32) -> [u32; 2] {
    let check = u32::from(!fold(sum));
    [first | check << 16, rest]
}

/// What stands in the checksum's field, if the kernel still owes the checksum: it then leaves the field alone when a word that is
/// no address changes.
#[inline(always)]
fn owed(skb: *mut __sk_buff, at: usize) -> Option<u16> {
    let (mut before, mut after) = (0_u16, 0_u16);
    // SAFETY: the program's context; both are memory of this function.
    unsafe {
        bpf_skb_load_bytes(skb.cast(), at as u32, (&raw mut before).cast(), 2);
        bpf_l4_csum_replace(skb, at as u32, 0, 1, 2);
        bpf_skb_load_bytes(skb.cast(), at as u32, (&raw mut after).cast(), 2);
    }
    if before == after {
        return Some(before);
    }
    store(skb, at, &before);
    None
}

/// Sum of what is quoted.
#[inline(always)]
fn sum(skb: *mut __sk_buff, is_v6: bool, is_tcp: bool, owed: Option<u16>) -> Option<u32> {
    let mut words = [0_u32; QUOTED_WORDS];
    let to = words.as_mut_ptr().cast();
    // Lengths that the verifier sees.
    // SAFETY: the program's context; memory of this function, as long as the longest.
    let is_read = unsafe {
        let skb = skb.cast();
        match (is_v6, is_tcp) {
            (false, false) => bpf_skb_load_bytes(skb, ETH as u32, to, (IP + QUOTED) as u32),
            (false, true) => bpf_skb_load_bytes(skb, ETH as u32, to, (IP + QUOTED_TCP) as u32),
            (true, false) => bpf_skb_load_bytes(skb, ETH as u32, to, (IP6 + QUOTED) as u32),
            (true, true) => bpf_skb_load_bytes(skb, ETH as u32, to, (IP6 + QUOTED_TCP) as u32),
        }
    };
    if is_read != 0 {
        return None;
    }
    let header = if is_v6 { IP6 / 4 } else { IP / 4 };
    let mut sum = 0;
    let mut i = 0;
    while i < QUOTED_WORDS {
        if owed.is_none() || i < header {
            sum += half_sum(words[i]);
        }
        i += 1;
    }
    Some(match owed {
        Some(seed) => sum + u32::from(!seed),
        None => sum,
    })
}

#[inline(always)]
fn write6(skb: *mut __sk_buff, src: &Addr, dst: &Addr, payload: u16) -> bool {
    let [high, low] = payload.to_be_bytes();
    let first = [
        u32::from_ne_bytes([0x60, 0, 0, 0]),
        u32::from_ne_bytes([high, low, ICMP6, 64]),
    ];
    store(skb, ETH, &first) && store(skb, ETH + 8, src) && store(skb, ETH + 24, dst)
}

/// An IPv4 header that must not be fragmented.
#[inline(always)]
fn ip_header(src: u32, dst: u32, total: u16) -> [u32; 5] {
    let [high, low] = total.to_be_bytes();
    let words = [
        u32::from_ne_bytes([0x45, 0, high, low]),
        u32::from_ne_bytes([0, 0, 0x40, 0]),
        u32::from_ne_bytes([64, ICMP, 0, 0]),
    ];
    let sum = half_sum(words[0]) + half_sum(words[1]) + half_sum(words[2]);
    let [a, b] = (!fold(sum + half_sum(src) + half_sum(dst))).to_ne_bytes();
    let third = u32::from_ne_bytes([64, ICMP, a, b]);
    [words[0], words[1], third, src, dst]
}

/// Both 16-bit words of a 32-bit one, for a checksum.
#[inline(always)]
pub const fn half_sum(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

/// Sum of an address's 16-bit words.
#[inline(always)]
pub fn sum_of(addr: &Addr) -> u32 {
    half_sum(addr[0]) + half_sum(addr[1]) + half_sum(addr[2]) + half_sum(addr[3])
}

//! Answers of our own: a reset or "port unreachable" where a VIP has no backend, "fragmentation needed" where the path to
//! the backend is too narrow. A budget per CPU bounds them; beyond it the packet is dropped and counted all the same.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};
use waggle_ebpf_common::edge::{Backend, fold, reason};

use crate::count::{count, now_ns, take};
use crate::packet::{Frame, ICMP, IP, TCP};

/// Answers that one CPU sends within a tick (17 ms).
const PER_TICK: u32 = 512;
const TCP_LEN: usize = 20;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// IPv4 and ICMP before the quoted packet.
const ICMP_BEFORE: usize = IP + 8;
/// What is quoted: the IPv4 header and 8 bytes.
const QUOTED: usize = IP + 8;

/// The VIP has no backend.
#[inline(never)]
pub fn refuse<const L2: usize>(ctx: *mut xdp_md) -> u32 {
    if !take(now_ns(), PER_TICK, |budget| &mut budget.answers) {
        return XDP_DROP;
    }
    // SAFETY: the program's context.
    let frame = unsafe { Frame::of(ctx) };
    if !frame.has(L2 + IP + 8) {
        return XDP_DROP;
    }
    // SAFETY: within what was checked.
    if unsafe { frame.read::<u8>(L2 + 9) } == TCP {
        reset::<L2>(ctx)
    } else {
        // Port unreachable.
        icmp::<L2>(ctx, 3, 0)
    }
}

/// The packet does not fit the path to its backend.
#[inline(never)]
pub fn too_big<const L2: usize>(ctx: *mut xdp_md, backend: &Backend) -> u32 {
    if backend.generation == 0 {
        count(reason::BAD_TABLE);
        return XDP_DROP;
    }
    count(reason::TOO_BIG);
    // SAFETY: the program's context.
    let frame = unsafe { Frame::of(ctx) };
    if !frame.has(L2 + IP + 8) {
        return XDP_DROP;
    }
    // Also where the sender allows fragments: we make none, and it learns to make smaller ones.
    if !take(now_ns(), PER_TICK, |budget| &mut budget.answers) {
        return XDP_DROP;
    }
    icmp::<L2>(ctx, 4, backend.max_inner)
}

/// Answers a TCP segment with a reset, in its own place.
#[inline(always)]
fn reset<const L2: usize>(ctx: *mut xdp_md) -> u32 {
    // SAFETY: the program's context.
    let (before, excess) = unsafe {
        let frame = Frame::of(ctx);
        (frame, frame.len() as i32 - (L2 + IP + TCP_LEN) as i32)
    };
    if !before.has(L2 + IP + TCP_LEN) {
        return XDP_DROP;
    }
    // SAFETY: within what was checked.
    let total = u32::from(u16::from_be(unsafe { before.read::<u16>(L2 + 2) }));
    // SAFETY: the program's context; the frame is read anew below.
    if excess > 0 && unsafe { bpf_xdp_adjust_tail(ctx, -excess) } != 0 {
        return XDP_DROP;
    }
    // SAFETY: the program's context.
    let frame = unsafe { Frame::of(ctx) };
    if !frame.has(L2 + IP + TCP_LEN) {
        return XDP_DROP;
    }
    let at = L2 + IP;
    // SAFETY: within what was checked.
    unsafe {
        let flags = frame.read::<u8>(at + 13);
        if flags & RST != 0 {
            return XDP_DROP;
        }
        let (src, dst) = (frame.read::<u32>(L2 + 12), frame.read::<u32>(L2 + 16));
        let ports = frame.read::<u32>(at).rotate_left(16);
        let (seq, ack, flags) = if flags & ACK != 0 {
            (frame.read::<u32>(at + 8), 0, RST)
        } else {
            let header = u32::from(frame.read::<u8>(at + 12) >> 4) * 4;
            let length = total.wrapping_sub(IP as u32 + header)
                + u32::from(flags & SYN != 0)
                + u32::from(flags & FIN != 0);
            let seq = u32::from_be(frame.read::<u32>(at + 4));
            (0, seq.wrapping_add(length).to_be(), RST | ACK)
        };
        // 20 bytes of header; no window, no checksum yet.
        let control = u32::from_ne_bytes([0x50, flags, 0, 0]);
        let mut sum = half_sum(src) + half_sum(dst);
        sum += u32::from(u16::from(TCP).to_be()) + u32::from((TCP_LEN as u16).to_be());
        sum += half_sum(ports) + half_sum(seq) + half_sum(ack) + half_sum(control);
        frame.write::<u32>(at, ports);
        frame.write::<u32>(at + 4, seq);
        frame.write::<u32>(at + 8, ack);
        frame.write::<u32>(at + 12, control);
        frame.write::<u32>(at + 16, u32::from(!fold(sum)));
        ip::<L2>(frame, dst, src, (IP + TCP_LEN) as u16, TCP);
        turn(frame, addresses(frame, 0));
    }
    count(reason::RESET_SENT);
    XDP_TX
}

/// Answers with "destination unreachable".
#[inline(always)]
fn icmp<const L2: usize>(ctx: *mut xdp_md, code: u8, mtu: u16) -> u32 {
    // SAFETY: the program's context.
    let excess = unsafe {
        if bpf_xdp_adjust_head(ctx, -(ICMP_BEFORE as i32)) != 0 {
            count(reason::NO_HEADROOM);
            return XDP_DROP;
        }
        Frame::of(ctx).len() as i32 - (L2 + ICMP_BEFORE + QUOTED) as i32
    };
    // SAFETY: the program's context; the frame is read anew below.
    if excess > 0 && unsafe { bpf_xdp_adjust_tail(ctx, -excess) } != 0 {
        return XDP_DROP;
    }
    // SAFETY: the program's context.
    let frame = unsafe { Frame::of(ctx) };
    if !frame.has(L2 + ICMP_BEFORE + QUOTED) {
        return XDP_DROP;
    }
    let at = L2 + IP;
    // SAFETY: within what was checked.
    unsafe {
        let quoted = L2 + ICMP_BEFORE;
        let (src, dst) = (
            frame.read::<u32>(quoted + 12),
            frame.read::<u32>(quoted + 16),
        );
        // Before anything is written: the new headers reach over the old link layer.
        let link = addresses(frame, ICMP_BEFORE);
        let tags = (
            frame.read::<u32>(ICMP_BEFORE + 12),
            frame.read::<u32>(ICMP_BEFORE + 16),
        );
        let first = u32::from_ne_bytes([3, code, 0, 0]);
        let second = u32::from_ne_bytes([0, 0, (mtu >> 8) as u8, mtu as u8]);
        let mut sum = half_sum(first) + half_sum(second);
        // Seven words: what is quoted.
        sum += half_sum(frame.read::<u32>(quoted)) + half_sum(frame.read::<u32>(quoted + 4));
        sum += half_sum(frame.read::<u32>(quoted + 8)) + half_sum(src) + half_sum(dst);
        sum += half_sum(frame.read::<u32>(quoted + 20)) + half_sum(frame.read::<u32>(quoted + 24));
        frame.write::<u32>(at, first);
        frame.write::<u32>(at + 4, second);
        frame.write::<u16>(at + 2, !fold(sum));
        // The tags as they were, now in front.
        if L2 > 16 {
            frame.write::<u32>(12, tags.0);
        }
        if L2 > 20 {
            frame.write::<u32>(16, tags.1);
        }
        frame.write::<u16>(L2 - 2, crate::packet::ETH_IPV4);
        ip::<L2>(frame, dst, src, (ICMP_BEFORE + QUOTED) as u16, ICMP);
        turn(frame, link);
    }
    count(reason::ICMP_SENT);
    XDP_TX
}

/// An IPv4 header at `L2`.
///
/// # Safety
/// The caller has checked for it.
#[inline(always)]
unsafe fn ip<const L2: usize>(frame: Frame, src: u32, dst: u32, total: u16, proto: u8) {
    let [high, low] = total.to_be_bytes();
    let words = [
        u32::from_ne_bytes([0x45, 0, high, low]),
        // Don't fragment.
        u32::from_ne_bytes([0, 0, 0x40, 0]),
        u32::from_ne_bytes([64, proto, 0, 0]),
    ];
    let sum = half_sum(words[0]) + half_sum(words[1]) + half_sum(words[2]);
    let check = !fold(sum + half_sum(src) + half_sum(dst));
    // SAFETY: the caller's.
    unsafe {
        frame.write::<u32>(L2, words[0]);
        frame.write::<u32>(L2 + 4, words[1]);
        frame.write::<u32>(L2 + 8, words[2]);
        frame.write::<u16>(L2 + 10, check);
        frame.write::<u32>(L2 + 12, src);
        frame.write::<u32>(L2 + 16, dst);
    }
}

/// Destination and source of the link layer at `from`.
///
/// # Safety
/// The caller has checked for them.
#[inline(always)]
unsafe fn addresses(frame: Frame, from: usize) -> [(u32, u16); 2] {
    // SAFETY: the caller's.
    unsafe {
        [
            (frame.read::<u32>(from), frame.read::<u16>(from + 4)),
            (frame.read::<u32>(from + 6), frame.read::<u16>(from + 10)),
        ]
    }
}

/// Sends the frame back to where it came from.
///
/// # Safety
/// The caller has checked for the link layer.
#[inline(always)]
unsafe fn turn(frame: Frame, [dst, src]: [(u32, u16); 2]) {
    // SAFETY: the caller's.
    unsafe {
        frame.write::<u32>(0, src.0);
        frame.write::<u16>(4, src.1);
        frame.write::<u32>(6, dst.0);
        frame.write::<u16>(10, dst.1);
    }
}

/// Both 16-bit words of a 32-bit one, for a checksum.
#[inline(always)]
const fn half_sum(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

//! trace_in, trace_out: which packets are looked at.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_skb_cgroup_id, bpf_tcp_sock};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use waggle_ebpf_common::requests::{
    MAX_LOOKS, Socket, Stream, closed, count, direction, protocol, stream_flags,
};

use crate::guess::{PREFACE_BYTES, is_answer, is_frame, is_preface, is_request, is_tls};
use crate::maps::{TRACED, counted, recall, remember};
use crate::packet::{FIN, PSH, Packet, RST, load_u8, load_u64, socket};
use crate::tell::{stream_of, tell_closed};
use crate::{http1, http2};

const PASS: i32 = 1;

/// Packets for a socket of the subtree.
#[cgroup_skb(ingress)]
pub fn trace_in(ctx: SkBuffContext) -> i32 {
    let _ = packet(ctx.skb.skb, direction::IN);
    PASS
}

/// Packets from a socket of the subtree.
#[cgroup_skb(egress)]
pub fn trace_out(ctx: SkBuffContext) -> i32 {
    let _ = packet(ctx.skb.skb, direction::OUT);
    PASS
}

#[inline(always)]
fn packet(skb: *mut __sk_buff, way: u8) -> Option<()> {
    // SAFETY: the program's own context.
    let cgroup_id = unsafe { bpf_skb_cgroup_id(skb) };
    TRACED.get_ptr(&cgroup_id)?;
    let packet = Packet::of(skb)?;
    let is_end = packet.flags & (FIN | RST) != 0;
    if packet.length == 0 && !is_end {
        return None;
    }
    let sk = socket(skb)?;
    // SAFETY: the packet's socket, map values.
    unsafe {
        if packet.length > 0 {
            let memory = known(skb, sk, cgroup_id)?;
            if (*memory).protocol != u32::from(protocol::OTHER) {
                payload(skb, memory, packet, way);
            }
        }
        if is_end {
            end(skb, recall(sk.cast())?, packet.flags, way);
        }
    }
    Some(())
}

#[inline(always)]
unsafe fn known(skb: *mut __sk_buff, sk: *mut bpf_sock, cgroup_id: u64) -> Option<*mut Socket> {
    // SAFETY: the packet's socket, a map value.
    unsafe {
        if let Some(memory) = recall(sk.cast()) {
            return Some(memory);
        }
        let memory = remember(sk)?;
        (*memory).cookie = bpf_get_socket_cookie(skb.cast());
        (*memory).cgroup_id = cgroup_id;
        (*memory).is_older = is_older(sk);
        Some(memory)
    }
}

/// Whether bytes have gone over a socket before the packet at hand. What of its own nobody has acknowledged yet is not known.
#[inline(always)]
unsafe fn is_older(sk: *mut bpf_sock) -> u32 {
    // SAFETY: the packet's socket.
    unsafe {
        let tcp = bpf_tcp_sock(sk);
        if tcp.is_null() {
            return 1;
        }
        // An active open's SYN counts as a byte.
        let acked = (&raw const (*tcp).bytes_acked).read_volatile();
        let received = (&raw const (*tcp).bytes_received).read_volatile();
        u32::from(acked > 1 || received > 0)
    }
}

/// What is new of a payload.
#[inline(always)]
unsafe fn payload(skb: *mut __sk_buff, memory: *mut Socket, packet: Packet, way: u8) {
    let Packet {
        at,
        length,
        sequence,
        flags: of_packet,
    } = packet;
    // SAFETY: map values.
    unsafe {
        let stream = stream_of(memory, way);
        let flags = (*stream).flags;
        if flags & stream_flags::KNOWN == 0 {
            (*stream).flags = flags | stream_flags::KNOWN;
            (*stream).next = sequence;
        }
        // Numbers go round.
        let ahead = sequence.wrapping_sub((*stream).next) as i32;
        let seen = if ahead < 0 { ahead.unsigned_abs() } else { 0 };
        if seen >= length {
            return;
        }
        (*stream).next = sequence.wrapping_add(length);
        if ahead > 0 {
            skipped(memory, stream, ahead as u32);
        }
        let new = (at + seen, length - seen, sequence.wrapping_add(seen));
        look(skb, memory, stream, new, way, of_packet & PSH != 0);
    }
}

/// Bytes did not come by here: what was about to be told of them is missing.
#[inline(always)]
unsafe fn skipped(memory: *mut Socket, stream: *mut Stream, n: u32) {
    // SAFETY: map values.
    unsafe {
        if (*memory).protocol == u32::from(protocol::HTTP2) {
            if (*stream).have == 0 && (*stream).is_told == 0 && n <= (*stream).left {
                (*stream).left -= n;
            } else {
                http2::lose_step(stream);
            }
        } else {
            (*stream).left = 0;
            (*stream).number = (*stream).number.wrapping_add(1);
        }
    }
}

#[inline(always)]
unsafe fn look(
    skb: *mut __sk_buff,
    memory: *mut Socket,
    stream: *mut Stream,
    new: (u32, u32, u32),
    way: u8,
    ends_write: bool,
) {
    // SAFETY: map values.
    unsafe {
        let (at, length, _) = new;
        let mut what = (*memory).protocol;
        let is_synced = (*stream).flags & stream_flags::SYNCED != 0;
        if what == u32::from(protocol::HTTP2) && is_synced {
            http2::walk(skb, new, way);
            return;
        }
        let head = if length >= 8 {
            let Some(head) = load_u64(skb, at) else {
                return;
            };
            head
        } else {
            0
        };
        if what != u32::from(protocol::HTTP2) && is_preface(head) {
            begin(memory, stream, way);
            http2::walk(skb, new, way);
            return;
        }
        if what != u32::from(protocol::HTTP1) && is_frame(head, length) {
            (*memory).protocol = u32::from(protocol::HTTP2);
            (*stream).flags |= stream_flags::SYNCED;
            (*stream).left = 0;
            (*stream).have = 0;
            (*stream).is_told = 0;
            http2::walk(skb, new, way);
            return;
        }
        if what == u32::from(protocol::HTTP2) {
            return;
        }
        let is_answer = is_answer(head);
        let mut is_head = is_answer || is_request(head);
        if is_head {
            (*memory).protocol = u32::from(protocol::HTTP1);
            what = u32::from(protocol::HTTP1);
        } else if length < 8 {
            // It may be the beginning of a method.
            is_head = (*stream).left == 0
                && load_u8(skb, at).is_some_and(|byte| byte.is_ascii_uppercase());
        }
        http1::look(skb, stream, new, way, (is_head, is_answer, ends_write));
        if what == u32::from(protocol::UNKNOWN) {
            let looks = (*memory).looks + 1;
            (*memory).looks = looks;
            if looks >= MAX_LOOKS || is_tls(head) {
                (*memory).protocol = u32::from(protocol::OTHER);
                counted(count::OTHER);
            }
        }
    }
}

/// HTTP/2 begins: its preface is like the rest of a frame. What the other end sends begins with a frame.
#[inline(always)]
unsafe fn begin(memory: *mut Socket, stream: *mut Stream, way: u8) {
    // SAFETY: map values.
    unsafe {
        (*memory).protocol = u32::from(protocol::HTTP2);
        (*stream).flags |= stream_flags::SYNCED;
        (*stream).left = PREFACE_BYTES;
        (*stream).is_told = 1;
        (*stream).have = 0;
        let other = stream_of(memory, way ^ 1);
        if (*other).flags & stream_flags::KNOWN == 0 {
            (*other).flags |= stream_flags::SYNCED;
            (*other).left = 0;
            (*other).have = 0;
            (*other).is_told = 0;
        }
    }
}

#[inline(always)]
unsafe fn end(skb: *mut __sk_buff, memory: *mut Socket, flags: u8, way: u8) {
    // SAFETY: map values.
    unsafe {
        let this = if way == direction::IN {
            closed::IN
        } else {
            closed::OUT
        };
        let now = if flags & RST != 0 { closed::BOTH } else { this };
        let all = (*memory).closed | now;
        (*memory).closed = all;
        if all & closed::BOTH == closed::BOTH && all & closed::TOLD == 0 {
            (*memory).closed = all | closed::TOLD;
            tell_closed(skb);
        }
    }
}

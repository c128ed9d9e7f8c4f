//! inject_in, inject_out, inject_read: requests that come in, who reads them, and who answers.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_socket_cookie, bpf_skb_cgroup_id,
    bpf_skb_load_bytes,
};
use aya_ebpf::macros::{btf_tracepoint, cgroup_skb};
use aya_ebpf::programs::{BtfTracePointContext, SkBuffContext};
use waggle_ebpf_common::inject::head::{VALUE, flags, read};
use waggle_ebpf_common::inject::ids::{TRACE_HIGH, TRACE_LOW};
use waggle_ebpf_common::inject::{Served, WINDOW, at};
use waggle_ebpf_common::requests::{closed, direction};
use waggle_ebpf_common::sock_flags;

use crate::guess::{is_answer, is_request};
use crate::maps::{
    INJECT, INJECT_WINDOW, address, hash, hop, opened, place, served, served_new, word_at,
};
use crate::packet::{FIN, Packet, RST, bounded, load_u8, load_u64, socket};
use crate::scan::scan;
use crate::threads;

const PASS: i32 = 1;

/// Packets for a socket of the subtree.
#[cgroup_skb(ingress)]
pub fn inject_in(ctx: SkBuffContext) -> i32 {
    let _ = packet(ctx.skb.skb, direction::IN);
    PASS
}

/// Packets from a socket of the subtree.
#[cgroup_skb(egress)]
pub fn inject_out(ctx: SkBuffContext) -> i32 {
    let _ = packet(ctx.skb.skb, direction::OUT);
    PASS
}

#[inline(always)]
fn packet(skb: *mut __sk_buff, way: u8) -> Option<()> {
    // SAFETY: the program's own context.
    let cgroup_id = unsafe { bpf_skb_cgroup_id(skb) };
    INJECT.get_ptr(&cgroup_id)?;
    let packet = Packet::of(skb)?;
    let is_end = packet.flags & (FIN | RST) != 0;
    if packet.length == 0 && !is_end {
        return None;
    }
    let sk = socket(skb)?;
    // SAFETY: the packet's socket, map values.
    unsafe {
        if packet.length >= 8 {
            let head = load_u64(skb, packet.at)?;
            if way == direction::IN && is_request(head) {
                request(skb, sk, cgroup_id, packet);
            } else if way == direction::OUT && is_answer(head) {
                answer(skb, sk, packet.at);
            }
        }
        if is_end {
            end(served(sk.cast())?, packet.flags, way);
        }
    }
    Some(())
}

#[inline(always)]
unsafe fn known(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    cgroup_id: u64,
    sequence: u32,
) -> Option<*mut Served> {
    // SAFETY: the packet's socket, map values.
    unsafe {
        if let Some(found) = served(sk.cast()) {
            return Some(found);
        }
        let info = opened(sk)?;
        if (*info).flags & sock_flags::ACCEPTED == 0 {
            return None;
        }
        let new = served_new(sk)?;
        (*new).cookie = bpf_get_socket_cookie(skb.cast());
        (*new).cgroup_id = cgroup_id;
        (*new).next = sequence;
        Some(new)
    }
}

/// A request, or what looks like one: of a body that does, the process is distrusted, which costs no more than its links.
#[inline(always)]
unsafe fn request(skb: *mut __sk_buff, sk: *mut bpf_sock, cgroup_id: u64, packet: Packet) {
    // SAFETY: the packet's socket, map values.
    unsafe {
        let Some(served) = known(skb, sk, cgroup_id, packet.sequence) else {
            return;
        };
        // It was sent again. Numbers go round.
        if (packet.sequence.wrapping_sub((*served).next) as i32) < 0 {
            return;
        }
        (*served).next = packet.sequence.wrapping_add(packet.length);
        (*served).first = packet.sequence;
        if (*served).in_flight != 0 {
            (*served).is_queued = 1;
        }
        (*served).in_flight = 1;
        (*served).trace_high = 0;
        (*served).trace_low = 0;
        (*served).is_sampled = 1;
        let n = if packet.length < WINDOW as u32 {
            packet.length
        } else {
            WINDOW as u32
        };
        context(skb, sk, served, packet, n);
        (&raw mut (*served).is_pending).write_volatile(1);
    }
}

/// What the wire says, else what both ends make of the hop; of a head that isn't whole nothing is known.
#[inline(always)]
unsafe fn context(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    served: *mut Served,
    packet: Packet,
    n: u32,
) {
    // SAFETY: the packet's socket, map values, memory of this function.
    unsafe {
        let Some(window) = INJECT_WINDOW.get_ptr_mut(0) else {
            return;
        };
        let Some(n) = bounded::<WINDOW>(n) else {
            return;
        };
        let to = (&raw mut (*window).bytes).cast();
        if bpf_skb_load_bytes(skb.cast(), packet.at, to, n) != 0 {
            return;
        }
        let scan = scan(window, n);
        if scan.flags & flags::BAD != 0 {
            return;
        }
        if scan.context_at != 0 {
            let mut value = [0_u8; VALUE];
            let mut from = packet.at.wrapping_add(scan.context_at);
            if load_u8(skb, from) == Some(b' ') {
                from = from.wrapping_add(1);
            }
            let to = (&raw mut value).cast();
            if bpf_skb_load_bytes(skb.cast(), from, to, VALUE as u32) == 0
                && let Some(((high, low), is_sampled)) = read(&value)
            {
                (*served).trace_high = high;
                (*served).trace_low = low;
                (*served).is_sampled = is_sampled;
            }
            return;
        }
        if scan.head_end == 0 {
            return;
        }
        let hop = hop(sk, packet.sequence, false);
        let hash = |what: u8| hash(&raw const hop, u64::from(what));
        (*served).trace_high = hash(TRACE_HIGH);
        (*served).trace_low = hash(TRACE_LOW);
    }
}

#[inline(always)]
unsafe fn answer(skb: *mut __sk_buff, sk: *mut bpf_sock, at: u32) {
    // SAFETY: the packet's socket, map values.
    unsafe {
        let Some(served) = served(sk.cast()) else {
            return;
        };
        // `HTTP/1.1 1`: the answer is still to come.
        if (*served).in_flight == 0 || load_u8(skb, at + 9) == Some(b'1') {
            return;
        }
        (*served).in_flight = 0;
        (&raw mut (*served).is_pending).write_volatile(0);
        if (*served).reader != 0 {
            threads::answers(served, sender(sk, served));
        }
    }
}

/// Who sends: the current thread, where it holds the socket. Otherwise this is an interrupt, and the thread anybody.
#[inline(always)]
unsafe fn sender(sk: *mut bpf_sock, served: *mut Served) -> u64 {
    // SAFETY: a map value; the helper checks addresses.
    unsafe {
        let socket = address(&raw mut (*served).scratch, sk);
        match word_at::<u32>(socket, place::<{ at::SK_OWNED }>()) {
            None | Some(0) => return 0,
            Some(_) => {}
        }
        let task = bpf_get_current_task();
        let pid = place::<{ at::TASK_PID }>();
        let (Some(tid), Some(tgid)) = (word_at::<u32>(task, pid), word_at::<u32>(task, pid + 4))
        else {
            return 0;
        };
        u64::from(tgid) << 32 | u64::from(tid)
    }
}

#[inline(always)]
unsafe fn end(served: *mut Served, flags: u8, way: u8) {
    // SAFETY: a map value.
    unsafe {
        let this = if way == direction::IN {
            closed::IN
        } else {
            closed::OUT
        };
        let now = if flags & RST != 0 { closed::BOTH } else { this };
        let all = (*served).closed | now;
        (*served).closed = all;
        if all & closed::BOTH == closed::BOTH && all & closed::TOLD == 0 {
            (*served).closed = all | closed::TOLD;
            if (*served).reader != 0 {
                threads::closed(served);
            }
        }
    }
}

/// The current thread has taken bytes of a socket: the only argument.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
pub fn inject_read(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the only argument is the socket, which the thread holds; a map value.
    unsafe {
        let sk = *ctx.as_ptr().cast::<*mut core::ffi::c_void>();
        let Some(served) = served(sk) else { return 0 };
        if (&raw const (*served).is_pending).read_volatile() == 0 {
            return 0;
        }
        let Some(copied) = word_at::<u32>(sk as u64, place::<{ at::COPIED_SEQ }>()) else {
            return 0;
        };
        // Numbers go round.
        if copied.wrapping_sub((*served).first) as i32 <= 0 {
            return 0;
        }
        (&raw mut (*served).is_pending).write_volatile(0);
        threads::reads(served, bpf_get_current_pid_tgid());
    }
    0
}

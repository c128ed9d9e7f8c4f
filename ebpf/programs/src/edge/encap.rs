//! The outer headers: a backend's prepared ones, and the few fields that differ between packets.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use waggle_ebpf_common::edge::{Backend, ENCAP_LEN, Patch, backend_flag, reason};

use crate::count::count;
use crate::packet::{ETH, Frame};

/// Encapsulates and sends a packet of `total` bytes whose IPv4 header is at `L2`.
#[inline(always)]
pub fn send<const L2: usize>(
    ctx: *mut xdp_md,
    backend: &Backend,
    hash: u32,
    total: u16,
    tos: u8,
) -> u32 {
    let patch = Patch::new(backend.sum, tos, total, hash);
    // SAFETY: the program's context.
    let frame = unsafe {
        if bpf_xdp_adjust_head(ctx, -(ENCAP_LEN as i32)) != 0 {
            count(reason::NO_HEADROOM);
            return XDP_DROP;
        }
        Frame::of(ctx)
    };
    if !frame.has(ENCAP_LEN + L2) {
        count(reason::MALFORMED);
        return XDP_DROP;
    }
    if backend.flags == 0 {
        fill::<L2>(frame, backend, tos, patch);
        return XDP_TX;
    }
    // A backend here, or one beyond the router that the packet came from. The frame's own addresses are where the
    // outer headers will be.
    // SAFETY: within what was checked.
    let (to, from) = unsafe {
        (
            (
                frame.read::<u32>(ENCAP_LEN),
                frame.read::<u16>(ENCAP_LEN + 4),
            ),
            (
                frame.read::<u32>(ENCAP_LEN + 6),
                frame.read::<u16>(ENCAP_LEN + 10),
            ),
        )
    };
    fill::<L2>(frame, backend, tos, patch);
    // SAFETY: within what was checked.
    unsafe {
        if backend.flags & backend_flag::LOCAL != 0 {
            // Addressed as the client's packet was, so that the stack takes it.
            frame.write::<u32>(0, to.0);
            frame.write::<u16>(4, to.1);
            return XDP_PASS;
        }
        frame.write::<u32>(0, from.0);
        frame.write::<u16>(4, from.1);
        frame.write::<u32>(6, to.0);
        frame.write::<u16>(10, to.1);
    }
    XDP_TX
}

/// Writes the headers; the caller has checked for them.
#[inline(always)]
fn fill<const L2: usize>(frame: Frame, backend: &Backend, tos: u8, patch: Patch) {
    let words = (&raw const backend.header).cast::<u64>();
    // SAFETY: within what was checked, and within the backend's 64 aligned bytes.
    unsafe {
        if L2 == ETH {
            frame.write::<u64>(0, words.read_volatile());
            frame.write::<u64>(8, *words.add(1));
            frame.write::<u64>(16, *words.add(2));
            frame.write::<u64>(24, *words.add(3));
            frame.write::<u64>(32, *words.add(4));
            frame.write::<u64>(40, *words.add(5));
            frame.write::<u16>(48, *words.add(6).cast::<u16>());
        } else {
            // The tags stay before the type.
            let outer = frame.read::<u32>(ENCAP_LEN + 12);
            if L2 == ETH + 8 {
                let inner = frame.read::<u32>(ENCAP_LEN + 16);
                frame.write::<u32>(16, inner);
            }
            frame.write::<u64>(0, words.read_volatile());
            let halves = words.cast::<u32>();
            frame.write::<u32>(8, *halves.add(2));
            frame.write::<u32>(12, outer);
            frame.write::<u16>(L2 - 2, *halves.add(3) as u16);
            frame.write::<u16>(L2, (*halves.add(3) >> 16) as u16);
            frame.write::<u64>(L2 + 2, *words.add(2));
            frame.write::<u64>(L2 + 10, *words.add(3));
            frame.write::<u64>(L2 + 18, *words.add(4));
            frame.write::<u64>(L2 + 26, *words.add(5));
            frame.write::<u16>(L2 + 34, *words.add(6).cast::<u16>());
        }
        frame.write::<u8>(L2 + 1, tos);
        frame.write::<u16>(L2 + 2, patch.total);
        frame.write::<u16>(L2 + 10, patch.check);
        frame.write::<u16>(L2 + 20, patch.port);
        frame.write::<u16>(L2 + 24, patch.udp);
    }
}

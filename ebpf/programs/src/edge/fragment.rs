//! Fragments: only the first one has ports, so where it went is remembered for the others.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use waggle_ebpf_common::edge::{self, FlowKey, Fragment, FragmentKey, flag, reason, slot};

use crate::balance::{backend, is_no_client, slot};
use crate::count::{count, traffic};
use crate::maps::{EDGE_BACKENDS, EDGE_FRAGS};
use crate::packet::{FRAGMENT_OFFSET, Frame, IP, TCP, UDP};
use crate::{answer, encap, lookup, owner};

/// A fragment whose IPv4 header is at `L2`.
#[inline(never)]
pub fn fragment<const L2: usize>(ctx: *mut xdp_md) -> u32 {
    // SAFETY: the program's context.
    let frame = unsafe { Frame::of(ctx) };
    if !frame.has(L2 + IP) {
        return XDP_PASS;
    }
    // SAFETY: within what was checked.
    let (total, src, dst, offset, tos) = unsafe {
        (
            u16::from_be(frame.read::<u16>(L2 + 2)),
            frame.read::<u32>(L2 + 12),
            frame.read::<u32>(L2 + 16),
            frame.read::<u16>(L2 + 6) & FRAGMENT_OFFSET,
            frame.read::<u8>(L2 + 1),
        )
    };
    // SAFETY: as above.
    let key = unsafe {
        FragmentKey {
            src,
            dst,
            id: frame.read::<u16>(L2 + 4),
            proto: frame.read::<u8>(L2 + 9),
            pad: 0,
        }
    };
    let length = usize::from(total);
    if length <= IP || L2 + length > frame.len() {
        // Not known to be a VIP's, so not ours to drop.
        count(reason::MALFORMED);
        return XDP_PASS;
    }
    if offset == 0 {
        if !frame.has(L2 + IP + 8) {
            count(reason::MALFORMED);
            return XDP_PASS;
        }
        // SAFETY: within what was checked.
        let ports = unsafe { frame.read::<u32>(L2 + IP) };
        return first::<L2>(ctx, &key, ports, total);
    }
    // SAFETY: copied at once.
    let Some(known) = unsafe { EDGE_FRAGS.get(&key) }.copied() else {
        count(reason::FRAGMENT_UNKNOWN);
        return XDP_PASS;
    };
    let Some(backend) = EDGE_BACKENDS.get(known.backend) else {
        count(reason::BAD_TABLE);
        return XDP_DROP;
    };
    if u32::from(backend.generation) != known.generation {
        count(reason::FRAGMENT_UNKNOWN);
        return XDP_DROP;
    }
    if total > backend.max_inner {
        count(reason::TOO_BIG);
        return XDP_DROP;
    }
    traffic(known.vip_id, |traffic| {
        traffic.packets += 1;
        traffic.bytes += u64::from(total);
    });
    count(reason::FRAGMENT);
    // All fragments on one queue of the receiver.
    let hash = edge::hash(src, u32::from(key.id), 0);
    encap::send::<L2>(ctx, backend, hash, total, tos)
}

/// The first fragment, chosen for as a whole packet is.
#[inline(always)]
fn first<const L2: usize>(ctx: *mut xdp_md, key: &FragmentKey, ports: u32, total: u16) -> u32 {
    if key.proto != TCP && key.proto != UDP {
        return XDP_PASS;
    }
    let Some(record) = lookup::record(edge::key(key.dst, (ports >> 16) as u16, key.proto)) else {
        return XDP_PASS;
    };
    if is_no_client(key.src, key.dst) {
        count(reason::MARTIAN);
        return XDP_DROP;
    }
    if record.flags & flag::RANGES != 0 && !lookup::is_in_range(record.ranges, key.src) {
        traffic(record.vip_id, |traffic| traffic.denied += 1);
        count(reason::DENIED);
        return XDP_DROP;
    }
    if record.ring_size == 0 {
        traffic(record.vip_id, |traffic| traffic.refused += 1);
        count(reason::NO_BACKEND);
        return XDP_DROP;
    }
    let flow = FlowKey {
        src: key.src,
        dst: key.dst,
        ports,
        proto: u32::from(key.proto),
    };
    let Some(slot) = slot(
        record,
        edge::hash(key.src, ports & record.port_mask, record.seed),
    ) else {
        count(reason::BAD_TABLE);
        return XDP_DROP;
    };
    // Without remembering: a fragmented SYN does not exist outside of attacks, and a datagram's whole ones do it.
    let owner = if slot::is_dirty(slot) {
        owner::peek(&flow, record, slot)
    } else {
        slot::current(slot)
    };
    let Some(backend) = backend(record, owner) else {
        count(reason::BAD_TABLE);
        return XDP_DROP;
    };
    if total > backend.max_inner {
        return answer::too_big::<L2>(ctx, backend);
    }
    let place = Fragment {
        backend: record.backend_base.wrapping_add(u32::from(owner)),
        vip_id: record.vip_id,
        generation: u32::from(backend.generation),
    };
    // Without room the others are passed on and counted.
    let _ = EDGE_FRAGS.insert(key, &place, 0);
    traffic(record.vip_id, |traffic| {
        traffic.packets += 1;
        traffic.bytes += u64::from(total);
    });
    let hash = edge::hash(key.src, u32::from(key.id), 0);
    // SAFETY: the program's context; checked again since this is another function's frame.
    let frame = unsafe { Frame::of(ctx) };
    if !frame.has(L2 + IP) {
        return XDP_DROP;
    }
    // SAFETY: within what was checked.
    let tos = unsafe { frame.read::<u8>(L2 + 1) };
    encap::send::<L2>(ctx, backend, hash, total, tos)
}

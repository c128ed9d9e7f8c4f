//! A packet's way through the edge.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use waggle_ebpf_common::edge::{self, Backend, FlowKey, Record, flag, reason, slot};

use crate::count::{count, traffic};
use crate::maps::{EDGE_BACKENDS, EDGE_RING};
use crate::packet::{
    ETH, ETH_IPV4, ETH_QINQ, ETH_VLAN, FRAGMENT, FRAGMENT_OFFSET, Frame, ICMP, IP, TCP, UDP,
};
use crate::{answer, encap, fragment, icmp, lookup, owner};

/// Length of a UDP header; nothing shorter has ports.
const PORTS: usize = 8;
/// Length of a TCP header.
const TCP_LEN: usize = 20;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Net and mask of all VIPs, network order; set by the loader. A packet from there to a VIP could go round for ever.
#[unsafe(no_mangle)]
static VIP_NET: [u32; 2] = [0, u32::MAX];

/// The program.
#[inline(always)]
pub fn balance(ctx: *mut xdp_md) -> u32 {
    // SAFETY: the program's context.
    let frame = unsafe { Frame::of(ctx) };
    if !frame.has(ETH + IP + PORTS) {
        return short(ctx, frame);
    }
    // SAFETY: within what was checked.
    match unsafe { frame.read::<u16>(12) } {
        ETH_IPV4 => ipv4::<ETH>(ctx, frame),
        ETH_VLAN | ETH_QINQ => tagged(ctx),
        _ => XDP_PASS,
    }
}

/// Shorter than anything with ports; the last fragment of a packet may be.
#[inline(always)]
fn short(ctx: *mut xdp_md, frame: Frame) -> u32 {
    // SAFETY: within what was checked.
    unsafe {
        if !frame.has(ETH + IP) {
            if frame.has(ETH) && frame.read::<u16>(12) == ETH_IPV4 {
                count(reason::MALFORMED);
            }
            return XDP_PASS;
        }
        if frame.read::<u16>(12) == ETH_IPV4
            && frame.read::<u8>(ETH) == 0x45
            && frame.read::<u16>(ETH + 6) & FRAGMENT_OFFSET != 0
        {
            return fragment::fragment::<ETH>(ctx);
        }
    }
    XDP_PASS
}

/// One or two VLAN tags.
#[inline(never)]
fn tagged(ctx: *mut xdp_md) -> u32 {
    // SAFETY: the program's context.
    let frame = unsafe { Frame::of(ctx) };
    if !frame.has(ETH + 8 + IP + PORTS) {
        return XDP_PASS;
    }
    // SAFETY: within what was checked.
    unsafe {
        match frame.read::<u16>(16) {
            ETH_IPV4 => ipv4::<{ ETH + 4 }>(ctx, frame),
            ETH_VLAN if frame.read::<u16>(20) == ETH_IPV4 => ipv4::<{ ETH + 8 }>(ctx, frame),
            _ => XDP_PASS,
        }
    }
}

/// From the IPv4 header at `L2` on; the caller has checked for `L2 + IP + PORTS` bytes.
#[inline(always)]
fn ipv4<const L2: usize>(ctx: *mut xdp_md, frame: Frame) -> u32 {
    // SAFETY: within what was checked.
    let (version, fragment, proto) = unsafe {
        (
            frame.read::<u8>(L2),
            frame.read::<u16>(L2 + 6) & FRAGMENT,
            frame.read::<u8>(L2 + 9),
        )
    };
    if version != 0x45 {
        count(if version >> 4 == 4 && version > 0x45 {
            reason::OPTIONS
        } else {
            reason::MALFORMED
        });
        return XDP_PASS;
    }
    if fragment != 0 {
        return fragment::fragment::<L2>(ctx);
    }
    match proto {
        TCP | UDP => transport::<L2>(ctx, frame, proto),
        ICMP => icmp::error::<L2>(ctx),
        _ => XDP_PASS,
    }
}

#[inline(always)]
fn transport<const L2: usize>(ctx: *mut xdp_md, frame: Frame, proto: u8) -> u32 {
    // SAFETY: within what the caller has checked.
    let (total, src, dst, ports, tos) = unsafe {
        (
            u16::from_be(frame.read::<u16>(L2 + 2)),
            frame.read::<u32>(L2 + 12),
            frame.read::<u32>(L2 + 16),
            frame.read::<u32>(L2 + IP),
            frame.read::<u8>(L2 + 1),
        )
    };
    let Some(record) = lookup::record(edge::key(dst, (ports >> 16) as u16, proto)) else {
        return XDP_PASS;
    };
    let (mut syn, mut seq, mut least) = (false, 0, IP + PORTS);
    if proto == TCP {
        least = IP + TCP_LEN;
        if !frame.has(L2 + IP + TCP_LEN) {
            count(reason::MALFORMED);
            return XDP_DROP;
        }
        // SAFETY: within what was checked.
        unsafe {
            syn = frame.read::<u8>(L2 + IP + 13) & (SYN | ACK) == SYN;
            seq = u32::from_be(frame.read::<u32>(L2 + IP + 4));
        }
    }
    let length = usize::from(total);
    if length < least || L2 + length > frame.len() {
        count(reason::MALFORMED);
        return XDP_DROP;
    }
    if is_no_client(src, dst) {
        count(reason::MARTIAN);
        return XDP_DROP;
    }
    if record.flags & flag::RANGES != 0 && !lookup::is_in_range(record.ranges, src) {
        traffic(record.vip_id, |traffic| traffic.denied += 1);
        count(reason::DENIED);
        return XDP_DROP;
    }
    if record.ring_size == 0 || (syn && record.flags & flag::NO_NEW != 0) {
        traffic(record.vip_id, |traffic| traffic.refused += 1);
        count(reason::NO_BACKEND);
        return answer::refuse::<L2>(ctx);
    }
    let flow = FlowKey {
        src,
        dst,
        ports,
        proto: u32::from(proto),
    };
    let hash = edge::hash(src, ports & record.port_mask, record.seed);
    let Some(slot) = slot(record, hash) else {
        count(reason::BAD_TABLE);
        return XDP_DROP;
    };
    let owner = if slot::is_dirty(slot) {
        owner::owner(&flow, record, slot, syn, seq)
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
    traffic(record.vip_id, |traffic| {
        traffic.packets += 1;
        traffic.bytes += u64::from(total);
    });
    encap::send::<L2>(ctx, backend, hash, total, tos)
}

/// Whether nobody can have sent this from there.
#[inline(always)]
pub fn is_no_client(src: u32, dst: u32) -> bool {
    // SAFETY: patched before the program is loaded, never after.
    let [net, mask] = unsafe { (&raw const VIP_NET).read_volatile() };
    edge::is_martian(src) || src == dst || src & mask == net
}

/// The slot of a hash.
#[inline(always)]
pub fn slot(record: &Record, hash: u32) -> Option<u32> {
    let at = record
        .ring_base
        .wrapping_add(edge::slot_of(hash, record.ring_size));
    let pair = EDGE_RING.get_ptr(at >> 1)?;
    // SAFETY: a map value, written by user space meanwhile, each half in one store.
    let pair = unsafe { pair.read_volatile() };
    Some((pair >> ((at & 1) * 32)) as u32)
}

/// The backend of an owner.
#[inline(always)]
pub fn backend(record: &Record, owner: u16) -> Option<&'static Backend> {
    EDGE_BACKENDS.get(record.backend_base.wrapping_add(u32::from(owner)))
}

//! ICMP errors about answers of a VIP: they belong to the backend whose packet is quoted.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::xdp_md;
use waggle_ebpf_common::edge::{self, FlowKey, reason, slot};

use crate::balance::{backend, slot};
use crate::count::{count, traffic};
use crate::packet::{FRAGMENT_OFFSET, Frame, IP, TCP, UDP};
use crate::{encap, lookup, owner};

/// Destination unreachable (among them "fragmentation needed"), source quench no more, time exceeded, parameter problem.
const ERRORS: [u8; 3] = [3, 11, 12];
const ICMP_LEN: usize = 8;
/// Where the quoted header begins, from the outer IPv4 header on.
const QUOTED: usize = IP + ICMP_LEN;

/// An ICMP message whose IPv4 header is at `L2`: passed on unless it is an error about a VIP's answer.
#[inline(never)]
pub fn error<const L2: usize>(ctx: *mut xdp_md) -> u32 {
    // SAFETY: the program's context.
    let frame = unsafe { Frame::of(ctx) };
    if !frame.has(L2 + QUOTED + IP + 8) {
        return XDP_PASS;
    }
    // SAFETY: within what was checked.
    let (total, dst, kind, tos) = unsafe {
        (
            u16::from_be(frame.read::<u16>(L2 + 2)),
            frame.read::<u32>(L2 + 16),
            frame.read::<u8>(L2 + IP),
            frame.read::<u8>(L2 + 1),
        )
    };
    if kind != ERRORS[0] && kind != ERRORS[1] && kind != ERRORS[2] {
        return XDP_PASS;
    }
    let at = L2 + QUOTED;
    // SAFETY: within what was checked.
    let (version, fragment, proto, vip, client, ports) = unsafe {
        (
            frame.read::<u8>(at),
            frame.read::<u16>(at + 6) & FRAGMENT_OFFSET,
            frame.read::<u8>(at + 9),
            frame.read::<u32>(at + 12),
            frame.read::<u32>(at + 16),
            frame.read::<u32>(at + IP),
        )
    };
    if version != 0x45 || fragment != 0 || vip != dst || (proto != TCP && proto != UDP) {
        return XDP_PASS;
    }
    // The quoted packet went from the VIP to the client: turned round, it is the flow.
    let ports = ports.rotate_left(16);
    let Some(record) = lookup::record(edge::key(vip, (ports >> 16) as u16, proto)) else {
        return XDP_PASS;
    };
    let length = usize::from(total);
    if length < QUOTED + IP + 8 || L2 + length > frame.len() {
        count(reason::MALFORMED);
        return XDP_DROP;
    }
    if record.ring_size == 0 {
        count(reason::NO_BACKEND);
        return XDP_DROP;
    }
    let flow = FlowKey {
        src: client,
        dst: vip,
        ports,
        proto: u32::from(proto),
    };
    let hash = edge::hash(client, ports & record.port_mask, record.seed);
    let Some(slot) = slot(record, hash) else {
        count(reason::BAD_TABLE);
        return XDP_DROP;
    };
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
        count(reason::TOO_BIG);
        return XDP_DROP;
    }
    count(reason::ICMP_ERROR);
    traffic(record.vip_id, |traffic| {
        traffic.packets += 1;
        traffic.bytes += u64::from(total);
    });
    encap::send::<L2>(ctx, backend, hash, total, tos)
}

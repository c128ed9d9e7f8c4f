//! The wrapper: another client each time, the load balancer, the packet as it was.

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use waggle_ebpf_common::edge::{BenchRun, ENCAP_LEN};

use crate::balance::balance;
use crate::packet::Frame;

/// What the wrapper does.
#[btf_map]
static BENCH_RUN: Array<BenchRun, 1> = Array::new();

/// The load balancer.
#[xdp]
fn bench_edge(ctx: XdpContext) -> u32 {
    wrap(ctx.ctx, edge)
}

/// Nothing: what the wrapper costs.
#[xdp]
fn bench_null(ctx: XdpContext) -> u32 {
    wrap(ctx.ctx, null)
}

#[inline(never)]
fn edge(ctx: *mut xdp_md) -> u32 {
    balance(ctx)
}

#[inline(never)]
fn null(ctx: *mut xdp_md) -> u32 {
    // SAFETY: a context field, so that the call is not optimized away.
    if unsafe { (&raw const (*ctx).data).read_volatile() } == 0 {
        XDP_PASS
    } else {
        XDP_TX
    }
}

#[inline(always)]
fn wrap(ctx: *mut xdp_md, run: fn(*mut xdp_md) -> u32) -> u32 {
    let Some(config) = BENCH_RUN.get_ptr_mut(0) else {
        return XDP_ABORTED;
    };
    // SAFETY: the program's context, a map value of one runner, a frame within its bounds.
    unsafe {
        let frame = Frame::of(ctx);
        if !frame.has(54) {
            return XDP_ABORTED;
        }
        let mask = (*config).flow_mask;
        if mask != 0 {
            // An odd multiplier visits all flows in an order that no cache foresees.
            let n = (*config).n;
            (*config).n = n.wrapping_add(1);
            let flow = n.wrapping_mul(2_654_435_761) & mask;
            frame.write::<u16>(34, flow as u16);
            frame.write::<u16>(28, (flow >> 16) as u16 + 0x0a0a);
        }
        let link = (
            frame.read::<u64>(0),
            frame.read::<u32>(8),
            frame.read::<u16>(12),
        );
        let verdict = run(ctx);
        if verdict == XDP_TX {
            if (*config).grown != 0 && bpf_xdp_adjust_head(ctx, ENCAP_LEN as i32) != 0 {
                return XDP_ABORTED;
            }
            (*config).sent += 1;
        } else {
            (*config).others += 1;
        }
        let frame = Frame::of(ctx);
        if !frame.has(54) {
            return XDP_ABORTED;
        }
        frame.write::<u64>(0, link.0);
        frame.write::<u32>(8, link.1);
        frame.write::<u16>(12, link.2);
        verdict
    }
}

//! io_done: how long a request to a disk took.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use waggle_ebpf_common::observe::{IoKey, READ, WRITE, at};

use crate::histogram::log2_bucket;
use crate::maps::DISK_IO;
use crate::read::{Ptr, cgroup_id, field};
use crate::sum::add;

/// Low bits of a request's flags: what it does (`REQ_OP_MASK`).
const OPERATION: u32 = 0xff;

/// The device answered for `nr_bytes` of a request.
#[btf_tracepoint(function = "block_rq_complete")]
pub fn io_done(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the arguments are the request, an error, and a number of bytes.
    let (request, n_bytes) = unsafe {
        let args = ctx.as_ptr().cast::<u64>();
        (*args as Ptr, *args.add(2))
    };
    count(request, n_bytes);
    0
}

#[inline(always)]
fn count(request: Ptr, n_bytes: u64) -> Option<()> {
    let direction = field::<u32, { at::RQ_FLAGS }>(request)? & OPERATION;
    if direction != READ && direction != WRITE {
        return None;
    }
    // A request is answered in parts: its last one counts.
    let rest = field::<u32, { at::RQ_LEN }>(request)?;
    if (n_bytes as u32) < rest {
        return None;
    }
    // Zero where the device's statistics are off.
    let started: u64 = field::<_, { at::RQ_STARTED }>(request)?;
    if started == 0 {
        return None;
    }
    let bio: Ptr = field::<_, { at::RQ_BIO }>(request)?;
    let blkg: Ptr = field::<_, { at::BIO_BLKG }>(bio)?;
    let blkcg: Ptr = field::<_, { at::BLKG_BLKCG }>(blkg)?;
    let cgroup: Ptr = field::<_, { at::BLKCG_CGROUP }>(blkcg)?;
    let key = IoKey {
        cgroup_id: cgroup_id(cgroup)?,
        direction,
        pad: 0,
    };
    let stats = DISK_IO.get_ptr_mut(&key)?;
    // SAFETY: a map value; the bucket is below the number of buckets.
    unsafe {
        let micros = bpf_ktime_get_ns().saturating_sub(started) / 1000;
        add(&raw mut (*stats).sum_us, micros);
        let hist = (&raw mut (*stats).hist).cast::<u64>();
        add(hist.add(log2_bucket(micros)), 1);
    }
    Some(())
}

//! task_exited: what a thread waited for a CPU.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use waggle_ebpf_common::observe::at;

use crate::maps::RUN_DELAY;
use crate::read::{Ptr, field};
use crate::sum::add;

/// The thread is the current one, and still in its cgroup.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn task_exited(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the helper takes nothing; the first argument is the thread; the total is a map value.
    unsafe {
        let cgroup_id = bpf_get_current_cgroup_id();
        if let Some(total) = RUN_DELAY.get_ptr_mut(&cgroup_id) {
            let task = *ctx.as_ptr().cast::<Ptr>();
            if let Some(waited) = field::<u64, { at::RUN_DELAY }>(task) {
                add(total, waited);
            }
        }
    }
    0
}

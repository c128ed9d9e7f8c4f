//! trace_read: which thread has read what was received.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_probe_read_kernel};
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use waggle_ebpf_common::requests::at;

use crate::maps::{place, recall};
use crate::tell::tell_read;

/// The current thread has taken bytes of a socket: the only argument.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
pub fn trace_read(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the only argument is the socket, which the thread holds; a map value.
    unsafe {
        let sk = *ctx.as_ptr().cast::<*mut core::ffi::c_void>();
        let Some(memory) = recall(sk) else { return 0 };
        if (&raw const (*memory).is_pending).read_volatile() == 0 {
            return 0;
        }
        let Some(place) = place::<{ at::COPIED_SEQ }>() else {
            return 0;
        };
        let mut copied = 0_u32;
        let from = (sk as usize).wrapping_add(place) as *const core::ffi::c_void;
        if bpf_probe_read_kernel((&raw mut copied).cast(), 4, from) != 0 {
            return 0;
        }
        let first = (&raw const (*memory).first).read_volatile();
        // Numbers go round.
        if copied.wrapping_sub(first) as i32 <= 0 {
            return 0;
        }
        let last = (&raw const (*memory).last).read_volatile();
        if copied.wrapping_sub(last) as i32 > 0 {
            (&raw mut (*memory).is_pending).write_volatile(0);
        } else {
            (&raw mut (*memory).first).write_volatile(copied);
        }
        tell_read(memory, bpf_get_current_pid_tgid(), copied);
    }
    0
}

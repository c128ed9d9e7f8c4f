//! tcp_receive_reset: who ended a connection.
//!
//! `sock_ops` sees that a connection is closed, not by whom: a client that gives up while it opens (as those that
//! race two addresses do) must not count against the backend. The tracepoint fires in the same step, before
//! the state changes, only for a reset that the peer sent.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use waggle_ebpf_common::sock_flags;

use crate::memory::recall;

/// Marks the socket; sock_ops.rs draws the conclusion.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn reset(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the first argument is the socket; its memory is a map value.
    unsafe {
        let args = ctx.as_ptr().cast::<*mut aya_ebpf::bindings::bpf_sock>();
        if let Some(info) = recall(*args) {
            (*info).flags |= sock_flags::RESET;
        }
    }
    0
}

//! tcp_receive_reset and inet_sk_error_report: what a backend's own kernel said.
//!
//! `sock_ops` sees that a connection is closed, not by whom: a client that gives up while it opens (as those that
//! race two addresses do) must not count against the backend. The tracepoint fires in the same step, before
//! the state changes, only for a reset that the peer sent.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use waggle_ebpf_common::sock_flags;

use crate::maps::SK_ERR_AT;
use crate::memory::recall;
use crate::state;

const UDP: u8 = 17;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// Marks the socket; sock_ops.rs draws the conclusion.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn reset(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the first argument is the socket; its memory is a map value.
    unsafe {
        let args = ctx.as_ptr().cast::<*mut bpf_sock>();
        if let Some(info) = recall(*args) {
            (*info).flags |= sock_flags::RESET;
        }
    }
    0
}

/// An ICMP error came back for a connected UDP socket: "port unreachable" is how a backend refuses datagrams. Errors of
/// other kinds (a path that is too narrow) say nothing of the backend.
#[btf_tracepoint(function = "inet_sk_error_report")]
pub fn udp_error(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the first argument is the socket; its memory is a map value; the error is read by the helper, at the place
    // that the loader found.
    unsafe {
        let sk = *ctx.as_ptr().cast::<*mut bpf_sock>();
        let Some(info) = recall(sk) else {
            return 0;
        };
        if (*info).flags & sock_flags::UDP == 0 {
            return 0;
        }
        let Some(at) = SK_ERR_AT.get(0) else {
            return 0;
        };
        let mut error = 0_i32;
        let from = (sk as usize).wrapping_add(*at as usize) as *const core::ffi::c_void;
        let read = bpf_probe_read_kernel((&raw mut error).cast(), 4, from);
        if read == 0 && (error == ECONNREFUSED || error == EHOSTUNREACH) {
            state::failed(info, UDP);
        }
    }
    0
}

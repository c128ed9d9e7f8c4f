//! post_bind4, post_bind6: who listens. Accepted sockets inherit the memory (see main.rs, "Attribution").

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;

use crate::memory::remember;
use crate::verdict::PROCEED;

const TCP: u32 = 6;

/// IPv4 sockets.
#[cgroup_sock(post_bind4)]
pub fn post_bind4(ctx: SockContext) -> i32 {
    // SAFETY: the context is the socket.
    unsafe { bound(ctx.sock) }
}

/// IPv6 and dual-stack sockets.
#[cgroup_sock(post_bind6)]
pub fn post_bind6(ctx: SockContext) -> i32 {
    // SAFETY: the context is the socket.
    unsafe { bound(ctx.sock) }
}

/// # Safety
/// `sk` is the program's context.
#[inline(always)]
unsafe fn bound(sk: *mut bpf_sock) -> i32 {
    // SAFETY: a context field, read as a whole word; helpers without arguments.
    unsafe {
        if (&raw const (*sk).protocol).read_volatile() == TCP {
            remember(sk, bpf_get_current_cgroup_id(), 0);
        }
    }
    PROCEED
}

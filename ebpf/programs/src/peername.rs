//! getpeername4, getpeername6: programs that look at whom they are connected to see the VIP they dialled.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use waggle_ebpf_common::{Addr, SockInfo};

use crate::address::{self, same};
use crate::memory::recall;
use crate::verdict::PROCEED;

/// IPv4 sockets.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: the program's context; the memory is a map value.
    unsafe {
        let addr = address::read4(sa);
        if let Some(info) = dialled(sa, &addr) {
            address::write4(sa, &raw const (*info).vip_addr, (*info).vip_port);
        }
    }
    PROCEED
}

/// IPv6 and dual-stack sockets.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: as above.
    unsafe {
        let addr = address::read6(sa);
        if let Some(info) = dialled(sa, &addr) {
            address::write6(sa, &raw const (*info).vip_addr, (*info).vip_port);
        }
    }
    PROCEED
}

/// The memory of a socket that is connected to the backend that it was given when it dialled a VIP.
///
/// # Safety
/// `sa` is the program's context.
#[inline(always)]
unsafe fn dialled(sa: *mut bpf_sock_addr, addr: &Addr) -> Option<*mut SockInfo> {
    // SAFETY: the context's socket; its memory is a map value.
    unsafe {
        let info = recall((*sa).__bindgen_anon_1.sk)?;
        // Otherwise the socket was connected to something else since.
        let still = (*info).vip_id != 0
            && address::port(sa) == (*info).backend_port
            && same(addr, &raw const (*info).backend_addr);
        still.then_some(info)
    }
}

//! getpeername4, getpeername6: programs that look at whom they are connected to see the VIP they dialled.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::memory::recall;
use crate::verdict::PROCEED;

/// IPv4 sockets.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: context fields as whole words; the memory is a map value.
    unsafe {
        if let Some(info) = recall((*sa).__bindgen_anon_1.sk)
            && (*info).vip_id != 0
            // Otherwise the socket was connected to something else since.
            && (&raw const (*sa).user_ip4).read_volatile() == (*info).backend_addr
            && (&raw const (*sa).user_port).read_volatile() as u16 == (*info).backend_port
        {
            (&raw mut (*sa).user_ip4).write_volatile((*info).vip_addr);
            (&raw mut (*sa).user_port).write_volatile(u32::from((*info).vip_port));
        }
    }
    PROCEED
}

/// IPv6 sockets: their address is the IPv4-mapped one whenever a VIP was dialled.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    // SAFETY: as above.
    unsafe {
        if let Some(info) = recall((*sa).__bindgen_anon_1.sk)
            && (*info).vip_id != 0
            && (&raw const (*sa).user_ip6)
                .cast::<u32>()
                .add(3)
                .read_volatile()
                == (*info).backend_addr
            && (&raw const (*sa).user_port).read_volatile() as u16 == (*info).backend_port
        {
            (&raw mut (*sa).user_ip6)
                .cast::<u32>()
                .add(3)
                .write_volatile((*info).vip_addr);
            (&raw mut (*sa).user_port).write_volatile(u32::from((*info).vip_port));
        }
    }
    PROCEED
}

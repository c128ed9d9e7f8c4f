//! Programs that do nothing, on the hooks at which packets are counted: what the hooks cost by themselves, to be told
//! from what the programs there cost (`cargo xtask bench telemetry`). Never loaded outside of the bench.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::macros::{cgroup_skb, cgroup_sock_addr};
    use aya_ebpf::programs::{SkBuffContext, SockAddrContext};

    /// Lets a packet, or a call, through.
    const PASS: i32 = 1;

    /// Packets for a socket.
    #[cgroup_skb(ingress)]
    pub fn empty_ingress(_: SkBuffContext) -> i32 {
        PASS
    }

    /// Packets from a socket.
    #[cgroup_skb(egress)]
    pub fn empty_egress(_: SkBuffContext) -> i32 {
        PASS
    }

    /// Datagrams with an address.
    #[cgroup_sock_addr(sendmsg4)]
    pub fn empty_sendmsg4(_: SockAddrContext) -> i32 {
        PASS
    }

    /// Connections.
    #[cgroup_sock_addr(connect4)]
    pub fn empty_connect4(_: SockAddrContext) -> i32 {
        PASS
    }
}

/// Never linked into a program: the verifier would refuse the endless loop.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// As the programs that they stand for have.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

/// On any other target this crate is empty, so that tools that look at the whole workspace can compile it.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

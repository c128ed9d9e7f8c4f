//! The overlay: what containers send goes to containers of the same node or, in VXLAN headers, to other nodes.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
#[path = "../frame.rs"]
#[allow(dead_code, reason = "other objects need all of it")]
mod frame;
#[cfg(target_arch = "bpf")]
#[allow(dead_code, reason = "read by programs that are under way")]
mod maps;
#[cfg(target_arch = "bpf")]
#[allow(dead_code, reason = "called by programs that are under way")]
mod policy;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::macros::classifier;
    use aya_ebpf::programs::TcContext;

    use crate::frame::OK;

    /// At tc ingress of the host side of a container's veth: what the container sends.
    #[classifier]
    fn overlay_from(_ctx: TcContext) -> i32 {
        OK
    }

    /// At tc egress there: what the kernel's stack sends to the container.
    #[classifier]
    fn overlay_to(_ctx: TcContext) -> i32 {
        OK
    }

    /// At tc ingress of the underlay: what comes from other nodes.
    #[classifier]
    fn overlay_under(_ctx: TcContext) -> i32 {
        OK
    }

    /// At tc ingress of the kernel's VXLAN device: the same, in its hands.
    #[classifier]
    fn overlay_up(_ctx: TcContext) -> i32 {
        OK
    }

    /// At tc egress there: what the node itself sends to containers elsewhere.
    #[classifier]
    fn overlay_down(_ctx: TcContext) -> i32 {
        OK
    }
}

/// Some helpers need a GPL-compatible program.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

/// Never linked into a program: the verifier would refuse the endless loop.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// On any other target this crate is empty, so that tools that look at the whole workspace can compile it.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

//! The overlay, at tc: what containers send goes to containers of the same node or, in VXLAN headers, to other nodes. No bridge,
//! and no tunnel device on the way of most packets; on the wire it is VXLAN as the kernel's (RFC 7348).
//!
//! | file | programs, role |
//! |---|---|
//! | from.rs | overlay_from, tc ingress of the host side of a container's device (veth, netkit): what the container sends; overlay_direct, where a netkit device itself sends |
//! | to.rs | overlay_to, tc egress there: what the kernel's stack sends to the container |
//! | under.rs | overlay_under, tc ingress of the underlay: what other nodes send |
//! | device.rs | overlay_up, overlay_down, tc ingress and egress of the kernel's VXLAN device: the slow path |
//! | seal.rs | overlay_unseal, tc ingress of the device that decrypts; overlay_seal, tc egress of the underlay: where nodes encrypt |
//! | encap.rs | headers for another node, or the kernel's device |
//! | neighbour.rs | ARP and neighbour discovery, answered |
//! | icmp.rs | errors: too big, unreachable, prohibited |
//! | policy.rs, judge.rs | whether a flow is allowed, and who asks |
//! | parse.rs, lookup.rs, skb.rs, maps.rs, count.rs | packets, tables |
//!
//! # Invariants
//! - A container sends from its own addresses and MAC address only, another node only from addresses that live there; neither
//!   has a way around policies.
//! - A node that encrypts takes no tunnel that came in clear, by whatever device, and sends none.
//! - What comes from another node is delivered here or dropped, never sent on: no loops.
//! - What is dropped is counted by reason.
//! - What the kernel refuses to have changed goes by its own device: `bpf_skb_adjust_room` does not make room in a packet that has
//!   been in such headers before (a container that forwards), and leaves UDP that is to be segmented unreadable when it takes
//!   headers off.
//!
//! # Not done
//! Outer UDP checksums are neither sent nor verified (RFC 6935 allows that; what is inside has its own). IPv6 underlays.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod device;
#[cfg(target_arch = "bpf")]
mod encap;
#[cfg(target_arch = "bpf")]
#[path = "../frame.rs"]
mod frame;
#[cfg(target_arch = "bpf")]
mod from;
#[cfg(target_arch = "bpf")]
mod icmp;
#[cfg(target_arch = "bpf")]
mod judge;
#[cfg(target_arch = "bpf")]
mod lookup;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod neighbour;
#[cfg(target_arch = "bpf")]
mod parse;
#[cfg(target_arch = "bpf")]
mod policy;
#[cfg(target_arch = "bpf")]
mod seal;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod to;
#[cfg(target_arch = "bpf")]
mod under;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::macros::classifier;
    use aya_ebpf::programs::TcContext;

    /// At tc ingress of the host side of a container's veth.
    #[classifier]
    fn overlay_from(ctx: TcContext) -> i32 {
        crate::from::from(ctx.skb.skb)
    }

    /// Where a container's device sends, of kinds that have programs there: netkit.
    #[classifier]
    fn overlay_direct(ctx: TcContext) -> i32 {
        crate::from::direct(ctx.skb.skb)
    }

    /// At tc egress of the host side.
    #[classifier]
    fn overlay_to(ctx: TcContext) -> i32 {
        crate::to::to(ctx.skb.skb)
    }

    /// At tc ingress of the underlay.
    #[classifier]
    fn overlay_under(ctx: TcContext) -> i32 {
        crate::under::under(ctx.skb.skb)
    }

    /// At tc ingress of the kernel's VXLAN device.
    #[classifier]
    fn overlay_up(ctx: TcContext) -> i32 {
        crate::device::up(ctx.skb.skb)
    }

    /// At tc egress there.
    #[classifier]
    fn overlay_down(ctx: TcContext) -> i32 {
        crate::device::down(ctx.skb.skb)
    }

    /// At tc ingress of the device that decrypts what other nodes send.
    #[classifier]
    fn overlay_unseal(ctx: TcContext) -> i32 {
        crate::seal::unsealed(ctx.skb.skb)
    }

    /// At tc egress of the underlay of a node that encrypts.
    #[classifier]
    fn overlay_seal(ctx: TcContext) -> i32 {
        crate::seal::seal(ctx.skb.skb)
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

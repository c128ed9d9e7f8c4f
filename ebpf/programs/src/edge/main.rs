//! The edge's program: VIP traffic from outside goes to a backend's node, encapsulated; answers go straight to the client.
//!
//! | file | role |
//! |---|---|
//! | packet.rs | reads headers, within bounds |
//! | lookup.rs | VIP -> record, client ranges |
//! | balance.rs | a packet's way: parse, look up, choose, count, encapsulate |
//! | owner.rs | who owns a flow on a slot that changed |
//! | encap.rs | the outer headers |
//! | fragment.rs | fragments follow their first one |
//! | icmp.rs | ICMP errors follow the flow that they are about |
//! | answer.rs | resets and ICMP messages of our own |
//! | count.rs, maps.rs | counters, maps |
//!
//! # What costs what
//! A packet to no VIP reads one cache line of the VIP table. One to a VIP reads a record, half a slot pair and a backend
//! besides, and no hash map unless its slot changed lately. Nothing is remembered of flows on other slots.
//!
//! # Consistency (the rules; a simulation in `ebpf/loader/tests` runs them on this program)
//! 1. A changed slot keeps its oldest owner as the previous one; who is on it and not remembered belongs to that one.
//! 2. A changed slot stays marked even when its current owner becomes the previous one again.
//! 3. Adoption: an unremembered flow that is seen on a changed slot is remembered with the previous owner.
//! 4. A SYN on a changed slot goes to the current owner and is remembered as half-open, with its sequence number. The
//!    client's next segment makes it a flow, if it continues that number: a forged SYN can't move an established flow, and
//!    a flood of SYNs evicts only other half-open connections. Beyond a budget per CPU, SYNs go to the previous owner,
//!    which needs no memory to be found again.
//!
//! # What it never does
//! It does not decide who is a backend, and drops nothing that is not dialled at a VIP, but what can't be a client's.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod answer;
#[cfg(target_arch = "bpf")]
mod balance;
#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod encap;
#[cfg(target_arch = "bpf")]
mod fragment;
#[cfg(target_arch = "bpf")]
mod icmp;
#[cfg(target_arch = "bpf")]
mod lookup;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod owner;
#[cfg(target_arch = "bpf")]
mod packet;

/// On the uplink.
#[cfg(target_arch = "bpf")]
#[aya_ebpf::macros::xdp]
fn edge(ctx: aya_ebpf::programs::XdpContext) -> u32 {
    balance::balance(ctx.ctx)
}

/// Does nothing: a device whose peer sends by XDP must have a program of its own on some drivers (veth).
#[cfg(target_arch = "bpf")]
#[aya_ebpf::macros::xdp]
fn edge_pass(_ctx: aya_ebpf::programs::XdpContext) -> u32 {
    aya_ebpf::bindings::xdp_action::XDP_PASS
}

/// Helpers that read the clock need a GPL-compatible program.
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

//! The other end of the edge: on a backend's node, packets leave their outer headers and go to the backend, and its answers
//! go straight to the client with the VIP as their source. No conntrack; the backend sees the client's address.
//!
//! | file | programs, role |
//! |---|---|
//! | inbound.rs | dsr_in, tc ingress of the uplink: takes packets out, turns the VIP into the backend |
//! | outbound.rs | dsr_out, tc egress of the uplink: turns the backend into the VIP, for flows that came through an edge |
//! | rewrite.rs | addresses, ports and checksums, by the helpers that know the kernel's own checksum state |
//! | skb.rs, maps.rs | reading packets, maps |
//!
//! # Invariants
//! - Only packets of known edges, for a (VIP, port, backend port) that is served here, are taken out; others are dropped and
//!   counted. A packet that was taken out is delivered, never sent on.
//! - A client that dials the backend itself is answered by the backend: its first packet ends what is remembered.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
#[path = "../frame.rs"]
mod frame;
#[cfg(target_arch = "bpf")]
mod inbound;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod outbound;
#[cfg(target_arch = "bpf")]
mod rewrite;
#[cfg(target_arch = "bpf")]
mod skb;

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

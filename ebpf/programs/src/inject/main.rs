//! A `traceparent` for requests of tasks that asked for it: the only programs that change what a task sends.
//!
//! | file | programs | role |
//! |---|---|---|
//! | ops.rs | inject_ops: sock_ops | which connections are looked at, and for how long |
//! | msg.rs | inject_msg: sk_msg | the header |
//! | served.rs | inject_in, inject_out: cgroup_skb; inject_read: tp_btf/tcp_rcv_space_adjust | requests that come in |
//! | threads.rs | | which request a thread works on |
//! | scan.rs | | the walk over a head |
//! | maps.rs | | maps, and where fields are |
//!
//! An object of its own that is loaded only when a task asks for it, and nothing of which is pinned: without an agent nothing is changed.
//!
//! # Invariants
//! - A byte is put in at one place only: after the first line of a head that is whole within one message, that begins where a request
//!   must, and before which all that was sent has arrived.
//! - Where it can't be said what the next byte of a connection is, the connection is left alone for good, and that is counted.
//! - All that can fail comes before the message is changed, or is undone.
//! - A call is put down to a request only by the rule of the tracer in user space; else it begins a trace.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For the atomic addition in sum.rs.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
#[allow(dead_code, reason = "only what a request looks like is asked")]
#[path = "../requests/guess.rs"]
mod guess;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod msg;
#[cfg(target_arch = "bpf")]
mod ops;
#[cfg(target_arch = "bpf")]
#[allow(dead_code, reason = "the tracer's, as a whole")]
#[path = "../requests/packet.rs"]
mod packet;
#[cfg(target_arch = "bpf")]
mod scan;
#[cfg(target_arch = "bpf")]
mod served;
#[cfg(target_arch = "bpf")]
#[path = "../storage.rs"]
mod storage;
#[cfg(target_arch = "bpf")]
#[path = "../sum.rs"]
mod sum;
#[cfg(target_arch = "bpf")]
mod threads;

/// Reading the kernel's memory needs a GPL-compatible program.
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

//! What requests go over the sockets of traced tasks: heads of HTTP/1 messages and frames of HTTP/2, as packets carry them.
//!
//! | file | programs | role |
//! |---|---|---|
//! | programs.rs | trace_in, trace_out: cgroup_skb | which packets are looked at |
//! | packet.rs | | where a packet's payload is |
//! | guess.rs | | what a stream looks like |
//! | http1.rs | | which of its bytes are told |
//! | http2.rs | | the walk over frames |
//! | tell.rs | | records |
//! | read.rs | trace_read, tp_btf/tcp_rcv_space_adjust | which thread has read what was received |
//! | maps.rs | | maps, and where fields are |
//!
//! Why packets: they carry what was sent by whatever call (sendfile, io_uring), and a program here can neither change nor stop a
//! byte of them. What bytes mean is found out in user space; here it is only decided which ones are worth telling.
//!
//! An object of its own, so that a kernel which refuses it keeps its VIPs.
//!
//! # Invariants
//! - Every packet passes.
//! - Of cgroups that user space did not ask for, nothing is read.
//! - A byte is told once, however often it is sent. What is missing between two records of a stream shows in their numbers.
//!
//! # What they never do
//! Guess who a socket belongs to: a thread is told only where it holds the socket.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For the atomic addition in sum.rs.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod guess;
#[cfg(target_arch = "bpf")]
mod http1;
#[cfg(target_arch = "bpf")]
mod http2;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod programs;
#[cfg(target_arch = "bpf")]
mod read;
#[cfg(target_arch = "bpf")]
#[path = "../storage.rs"]
mod storage;
#[cfg(target_arch = "bpf")]
#[path = "../sum.rs"]
mod sum;
#[cfg(target_arch = "bpf")]
mod tell;

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

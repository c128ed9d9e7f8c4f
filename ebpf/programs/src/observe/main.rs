//! What only watches, at tracepoints: how long tasks waited for a CPU, how long disks took, which packets the kernel dropped
//! and why.
//!
//! | file | programs | role |
//! |---|---|---|
//! | run.rs | task_exited, tp_btf/sched_process_exit | what a thread waited for a CPU, once, when it ends |
//! | disk.rs | io_done, tp_btf/block_rq_complete | how long each request took, by the cgroup that asked |
//! | dropped.rs | dropped, tp_btf/kfree_skb | packets by reason, and by the socket's cgroup where that is watched |
//! | read.rs | | fields of the kernel's structures |
//! | maps.rs | | maps, and where these fields are |
//!
//! Why at a thread's end: the kernel adds up each thread's waiting by itself, and shows it in `/proc` while the thread lives.
//! So nothing needs to run at each switch of threads, which happens a hundred thousand times a second.
//!
//! An object of its own, so that a kernel which refuses it keeps its VIPs.
//!
//! # Invariants
//! - Only figures of cgroups that user space asked for are kept, and the node's own.
//! - What can't be read is not counted; nothing is guessed.
//!
//! # What they never do
//! Write to anything but their maps, or loop.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For the atomic addition in tally.rs.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod disk;
#[cfg(target_arch = "bpf")]
mod dropped;
#[cfg(target_arch = "bpf")]
#[path = "../histogram.rs"]
mod histogram;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod read;
#[cfg(target_arch = "bpf")]
mod run;
#[cfg(target_arch = "bpf")]
#[path = "../sum.rs"]
mod sum;

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

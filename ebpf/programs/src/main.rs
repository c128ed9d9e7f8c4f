//! The kernel programs: VIP translation at the socket, TCP facts, bytes and packets, all keyed by the
//! task's cgroup.
//!
//! Why here: at `connect(2)` a VIP costs one lookup per connection and nothing per packet, and the caller's
//! cgroup is known, so nothing needs to be guessed from addresses later.
//!
//! | file | programs | role |
//! |---|---|---|
//! | connect.rs | connect4, connect6 | VIP -> backend, refusal, who opened the socket |
//! | bind.rs | post_bind4, post_bind6 | who listens |
//! | peername.rs | getpeername4, getpeername6 | the VIP instead of the backend |
//! | udp.rs | sendmsg4, sendmsg6, recvmsg4, recvmsg6 | VIP -> backend for datagrams, and back |
//! | sock_ops.rs | sock_ops | connects, accepts, RTT, retransmits, bytes |
//! | reset.rs | reset | which connections their peer reset |
//! | skb.rs | skb_ingress, skb_egress | bytes and packets per cgroup |
//! | flow.rs | | who speaks with whom |
//! | choose.rs | | from a VIP to a backend |
//! | route.rs | | what becomes of a connect or a datagram |
//! | state.rs | | connections and failures of backends, ejection |
//! | address.rs | | addresses of both families in one form |
//! | maps.rs, vip_maps.rs | | every map |
//! | memory.rs, storage.rs | | per-socket memory |
//! | count.rs, tally.rs, sum.rs, histogram.rs | | counters and losses |
//! | verdict.rs | | every return value that the kernel acts on |
//!
//! # Attribution
//! A program attached to the node's root cgroup runs for all tasks below it and must find the *leaf*:
//! - `cgroup_skb` has `bpf_skb_cgroup_id`: the cgroup in which the packet's socket was created.
//! - `sock_ops` has no such helper on kernel 6.1, neither for the socket nor for the current task. So the
//!   hooks that run inside the task's own system call write the cgroup id into per-socket memory
//!   (`SOCKS`): `connect4`/`connect6` for active opens, `post_bind4`/`post_bind6` for listeners.
//! - The map has `BPF_F_CLONE`: a connection accepted by a listener starts with a copy of its memory, made by
//!   the kernel in the very step that creates the connection's socket. That is how passive opens are
//!   attributed, without a table of ports and without a race.
//!
//! `cgroup/sock_create` would see every socket, but would pay for the memory (about 1 us) also where it is
//! never read: UDP, Unix-like short sockets, sockets that only probe. What the chosen hooks miss (listening
//! without a bind, sockets older than the programs) is counted as loss "unattributed".
//!
//! All of this loads and passes the loader's tests on kernels 6.1 and 6.18, through aya and through libbpf.
//!
//! # Exact bytes
//! `bytes_acked` and `bytes_received` of the TCP stack also count our SYN and both FINs; sock_ops.rs takes them
//! out, so that the figures are payload. They are brought up to date with each RTT sample and at the end: a
//! connection that only receives shows its bytes when it closes (`cgroup_skb` shows them at once).
//!
//! # Invariants
//! - No program ever blocks traffic that is not dialled at a VIP; a failure to count is a loss counter.
//! - Counters are added atomically: a softirq may interrupt a program on the same CPU.
//!
//! # What they never do
//! No policy, no unbounded loops, no writes to packets.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// For the atomic addition in tally.rs.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod address;
#[cfg(target_arch = "bpf")]
mod bind;
#[cfg(target_arch = "bpf")]
mod choose;
#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod flow;
#[cfg(target_arch = "bpf")]
mod histogram;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod memory;
#[cfg(target_arch = "bpf")]
mod peername;
#[cfg(target_arch = "bpf")]
mod record;
#[cfg(target_arch = "bpf")]
mod reset;
#[cfg(target_arch = "bpf")]
mod route;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod sock_ops;
#[cfg(target_arch = "bpf")]
mod state;
#[cfg(target_arch = "bpf")]
mod storage;
#[cfg(target_arch = "bpf")]
mod sum;
#[cfg(target_arch = "bpf")]
mod tally;
#[cfg(target_arch = "bpf")]
mod udp;
#[cfg(target_arch = "bpf")]
mod verdict;
#[cfg(target_arch = "bpf")]
mod vip_maps;

/// Helpers that read the clock or the socket need a GPL-compatible program.
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

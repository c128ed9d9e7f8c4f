//! VIPs per packet on this machine's kernel, by BPF_PROG_TEST_RUN and in network namespaces.
//!
//! Needs root and the embedded object; skips loudly otherwise. Every test has a bpffs and a cgroup of its own.
#![allow(
    clippy::cast_possible_truncation,
    clippy::verbose_bit_mask,
    reason = "fields of headers, taken apart and put together"
)]

mod e2e;
#[allow(
    dead_code,
    reason = "the edge's fixtures; each test program uses a part"
)]
#[path = "../edge/packet.rs"]
mod fixture;
mod model;
mod programs;
mod properties;
mod rig;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;

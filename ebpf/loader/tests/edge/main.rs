//! The edge's program on this machine's kernel, by BPF_PROG_TEST_RUN and in network namespaces.
//!
//! Needs root and the embedded object; skips loudly otherwise. Every test has a bpffs of its own, and touches nothing else.
#![allow(
    clippy::cast_possible_truncation,
    clippy::verbose_bit_mask,
    reason = "fields of headers, taken apart and put together"
)]

mod e2e;
mod fixtures;
mod model;
mod node;
mod packet;
mod properties;
mod rig;
mod simulation;
mod ways;

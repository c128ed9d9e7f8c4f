//! The overlay on this machine's kernel, by BPF_PROG_TEST_RUN and between namespaces: two nodes with containers.
//!
//! Needs root and the embedded object; skips loudly otherwise. Every test has a bpffs and namespaces of its own.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::verbose_bit_mask,
    reason = "fields of headers, taken apart and put together"
)]

mod bench;
mod e2e;
mod frame;
mod interop;
mod model;
mod netkit;
mod programs;
mod properties;
mod rig;
mod sealed;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
mod traffic;

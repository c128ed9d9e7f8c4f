//! Policies in the kernel: the real programs on frames (BPF_PROG_TEST_RUN), against the reference that the pure part is tested
//! with.
//!
//! Needs root and the embedded object; skips loudly otherwise.
#![allow(
    clippy::unwrap_used,
    reason = "a test that can't go on says where it stopped"
)]

mod flows;
mod frame;
mod random;
#[path = "../../plan/tests/policy/reference.rs"]
mod reference;
mod rig;
mod told;
#[path = "../../plan/tests/policy/worlds.rs"]
#[allow(dead_code, reason = "shared with the tests of the plan")]
mod worlds;

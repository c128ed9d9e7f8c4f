//! The main job, a test per step of the demo, on one cluster of three nodes.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

mod bad_input;
mod dns;
mod failures;
mod flows;
mod inject;
mod programs;
mod requests;
mod seen;
mod senders;
mod signals;
mod steps;

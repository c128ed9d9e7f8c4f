//! Policies: tables against a naive evaluator, over random worlds, flows and changes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests, outside of test functions"
)]

mod cases;
mod changes;
mod kernel;
mod reference;
mod room;
mod worlds;

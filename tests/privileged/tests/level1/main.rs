//! Level 1 on one cluster of three nodes: several frameworks on the real API, and operators at the command line.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

mod cast;
mod member;
mod shares;
mod upkeep;

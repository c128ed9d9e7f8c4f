//! Level 2 on one cluster of three nodes: jobs and pods at the command line and through their API.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

mod jobs;
mod logs;
mod pods;

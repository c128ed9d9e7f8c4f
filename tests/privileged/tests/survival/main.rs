//! What survives agents that are killed or replaced, and sessions in tasks, on a cluster of three nodes.
//!
//! Crashes at each step on disk, exits while the agent is away, killed shims, boots and reused process numbers are the
//! agent's own tests (`agent/tests/processes/crash.rs`): they need no cluster.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

mod agents;
mod calm;
mod load;
mod sessions;
mod terminal;

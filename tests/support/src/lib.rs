//! Helpers for whoever needs a small cluster on one machine: the demo, the privileged tests, benches.
//!
//! What: network namespaces and cgroups as guards, commands spawned *inside* a node (its network
//! namespace, cgroup and resolver), a whole cluster brought up and taken down by name, an OTLP sink
//! that can be asked questions, a snapshot of everything that could be left behind, an HTTP client
//! whose socket lives in a namespace.
//!
//! Invariants: nothing here needs a state file to clean up (names alone suffice); processes are
//! ended by pid only; every wait has a deadline and says what it waited for.
//!
//! Never: a route out of the namespaces, or any knowledge of how Waggle works inside; a node is a
//! command line and its public API.

#![deny(unsafe_code)]

pub mod bpf;
pub mod cgroup;
pub mod cluster;
pub mod enter;
pub mod http;
pub mod images;
pub mod leak;
pub mod names;
pub mod netns;
pub mod process;
pub mod registry;
pub mod scenario;
pub mod sink;
pub mod software;
pub mod wait;

pub use wait::{sleep, wait_until};

/// Whether this process may make namespaces and cgroups.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

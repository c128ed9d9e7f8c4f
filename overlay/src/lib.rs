//! A node's network, applied: the kernel's VIP maps, the DNS addresses and the DNS server.
//!
//! [`NodeNet`] is given snapshots by the agent's session and facts by the agent's own tasks; what should be
//! there is computed by `waggle-overlay-plan`, and this crate only carries it out, observes, and tries again.
//!
//! # Invariants
//! - A snapshot of a lower generation than the one applied is refused.
//! - Kernel maps are written in the plan's order; after a failed write they are read again before the
//!   next write, never guessed at.
//! - What outlives the agent on purpose: map entries (pinned) and the DNS addresses. A restarted agent
//!   adopts both and writes nothing until a snapshot differs from what is there.
//! - A restarted agent can answer DNS before anything else is ready ([`NodeNet::start_resolver`],
//!   [`NodeNet::restore`]); maps are brought to what it restored only once its own tasks are known.
//! - Before its first snapshot a node answers SERVFAIL for cluster names (after a short wait for that
//!   snapshot), never NXDOMAIN, and never forwards them.
//! - Every bound (queries that wait, queries in flight to upstreams) has a counter for what it turned away.
//!
//! # What it never does
//! Decide who is eligible, allocate addresses, or write to the kernel's maps other than through `waggle-ebpf`.
#![forbid(unsafe_code)]

pub mod address;
mod apply;
pub mod dns;
pub mod edge;
pub mod forward;
mod maps;
pub mod netlink;
mod node;
pub mod overlay;
pub mod packet;
pub mod policy;
pub mod sock_diag;
mod sockets;
mod spec;
mod upkeep;
pub mod wireguard;

pub use maps::{KernelMaps, MapError};
pub use node::NodeNet;
pub use spec::{Applied, ApplyError, NodeNetConfig, NodeNetError, VipNames};

/// An error with all its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        out.push_str(": ");
        out.push_str(&e.to_string());
        source = e.source();
    }
    out
}

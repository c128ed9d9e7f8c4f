//! Which nodes this one has encrypted ways to, and what has to be said to the kernel's WireGuard for it.
//!
//! What is encrypted are the overlay's own packets between nodes: their outer addresses stay the nodes' addresses, a rule sends
//! them into the WireGuard device instead of onto the underlay, and there each node's address belongs to its key alone. A node
//! without a key has no way: nothing goes there in clear.

mod plan;

pub use plan::{
    Excluded, OVERHEAD, WireguardOp, WireguardPeer, WireguardPlan, wireguard_diff, wireguard_plan,
};

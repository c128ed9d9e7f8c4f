//! Pure: overlay networks. Which pools may be, which node holds which part of them, which container has which address,
//! and what a node's devices, routes and tables must be for that.
//!
//! A master keeps [`Leases`] and stores what changes; a node computes [`node_plan`] from the snapshot, looks at what is
//! there ([`Observed`]) and does what [`diff`] says; an agent keeps [`Addresses`] of its own subnets.

mod addresses;
mod check;
mod diff;
mod leases;
mod node;

pub use addresses::{Addresses, Exhausted, REST};
pub use check::{check_network, mtu_inside, network_number, overhead};
pub use diff::{Device, NetOp, Observed, Route, apply, diff};
pub use leases::{Granted, Held, Leases, Short, Usage};
pub use node::{Home, LocalNetwork, NodePlan, Where, node_plan};

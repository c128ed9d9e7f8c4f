//! Maglev: which backend a flow from outside goes to, the same on every edge.
//!
//! [`table()`] spreads weighted members over the slots of a ring (Google's Maglev, NSDI 2016, section 3.4, with weights);
//! [`Ring`] keeps two generations of owners per slot, so that a change moves no flow of those who stay; [`EdgePlan`]
//! gives VIPs their places in the kernel's tables and turns changes into [`EdgeWrite`]s. An edge that starts takes
//! the marks of the others ([`EdgePlan::marks`], [`EdgePlan::learn`]), as data: it has not seen the changes that made them.
//!
//! # Invariants
//! - Same members, same table, in whatever order they are named.
//! - A slot's previous owner is the oldest whose flows may not be remembered yet; it never changes before a window has
//!   passed, but for a backend that is gone.
//! - The share of marked slots is bounded; what a bound defers is said, and done later.

mod lowering;
mod marks;
mod plan;
mod ring;
mod table;
mod vip;
mod write;

pub use plan::EdgePlan;
pub use ring::{Retarget, Ring, RingConfig};
pub use table::{Member, RING_SIZES, ring_size, table};
pub use write::{
    EdgeAdopted, EdgeBackend, EdgeError, EdgePlanConfig, EdgeService, EdgeWrite, Memory, Planned,
};

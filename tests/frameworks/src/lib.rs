//! Frameworks to start from, written on `waggle_api::client`, and an emulated agent to try them with.
//!
//! - [`batch`]: many short tasks, run to the end, failures again; survives a lost connection.
//! - [`stateful`]: one task with a persistent volume in a reservation of its own; comes back to it, and
//!   moves when it is asked to.
//! - [`hoarder`]: takes offers and never answers, as a badly written framework would.
//! - [`again`]: what frameworks have in common.
//! - [`agent`]: speaks the real session protocol and pretends to run tasks.
//!
//! # Invariants
//! - The frameworks use the public API alone.
//!
//! # What it never does
//! No process is started here: what agents really do is tested in `tests/privileged`.

#![forbid(unsafe_code)]

pub mod again;
pub mod agent;
pub mod batch;
pub mod hoarder;
pub mod stateful;

//! The master: agent sessions, store, event loop and effect executor around pure cores.
//!
//! [`core::MasterCore`] decides; it composes level 1 (`waggle-allocator`), the built-in level 2
//! framework (`waggle-services`), the registry of agents and tasks, VIP leases and the network
//! snapshot. One task owns it, feeds it events in small batches and runs its effects in order:
//! persist first, then act.
//!
//! # Invariants
//! - The core reads no clock, entropy, socket or file; the shell hands time and ids in.
//! - An effect that follows a `Persist` runs only after that transaction is on disk.
//! - API reads go to [`view::ClusterView`] and never touch the core.
//! - Every queue is bounded; a full one refuses or drops, and counts.
//!
//! # What it never does
//! No data plane (`waggle-ebpf`, `waggle-overlay` are the agent's); offers and statuses are not
//! stored, agents hold what runs.

#![forbid(unsafe_code)]

mod clock;
pub mod core;
pub mod cow;
pub mod error;
mod event_loop;
pub mod explain;
mod framework;
pub mod handle;
pub mod http;
mod measure;
mod newsroom;
mod pipeline;
mod queue;
pub mod redirect;
mod rpc;
mod run;
mod session;
mod spans;
pub mod store;
pub mod task;
pub mod view;
mod views;

pub use core::LaunchLimits;
pub use error::{MasterError, OperateError};
pub use explain::{ExplainQuery, Explained};
pub use handle::{Deployment, MasterHandle, PutMode};
pub use run::{MasterConfig, MasterListeners, run, run_on};
pub use view::ClusterView;

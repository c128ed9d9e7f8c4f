//! What an agent decides: the life of a task, its status updates, its health, executors that frameworks bring along,
//! and what to do with what is found after a restart.
//!
//! [`AgentCore::handle`] takes what happened and the time, and answers with the [`Effect`]s to carry
//! out, in order. The shell (`waggle-agent`) owns processes, files and sockets; the simulation owns
//! virtual ones.
//!
//! # Invariants
//! - A task reaches one terminal state, once, and never leaves it.
//! - Status updates of a task are sent in order; the next one only after the one before was
//!   acknowledged; each is made durable ([`Effect::Persist`]) before it is first sent.
//! - Pending updates per task are bounded: an update that was never sent is replaced by a newer one
//!   of the same state, so only the newest health is kept while no master listens.
//! - A task's start checks come first: no other check runs or counts before each of them has passed.
//! - Only changes of health and readiness are told: results that change nothing make no update.
//! - A task of an executor ends, at the latest, with it; what an executor says is durable before it is acknowledged.
//! - [`recover`] answers for every combination of what was written and what is seen.
//!
//! # What it never does
//! No clock, no entropy (ids come from a seed), no files, no processes, no placement decisions.
//!
//! ```
//! use waggle_lifecycle::{AgentCore, Event};
//! use waggle_types::{AgentId, UnixMillis};
//!
//! let mut core = AgentCore::new(AgentId::new("a1").unwrap(), 7);
//! assert!(core.handle(Event::Connected { unknown_tasks: vec![] }, UnixMillis(0)).is_empty());
//! assert_eq!(core.next_deadline(), None);
//! ```
#![forbid(unsafe_code)]

mod core;
mod executors;
mod exit;
mod fits;
mod health;
mod machine;
mod recovery;
mod stream;

pub use crate::{
    core::{AgentCore, Effect, Event, RunningChecks, StreamRecord, TaskSummary},
    executors::{ExecutorWord, GROUP_TIMEOUT, REGISTRATION_TIMEOUT, REREGISTRATION_TIMEOUT},
    exit::Exit,
    health::{CheckOutcome, HealthMachine, check_name},
    machine::{KillCause, Phase, TaskMachine, Transition},
    recovery::{Checkpoint, Observed, Recovery, recover},
    stream::{RETRY_FIRST, RETRY_MAX, UpdateStream},
};

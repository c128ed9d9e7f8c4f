//! Level 1, pure: which framework is offered what.
//!
//! The allocator is a ledger of agents (used, offered, free) plus a policy (weighted dominant resource
//! fairness over roles). It is event driven: every [`Event`] that frees or adds something is answered at
//! once with the offers that follow from it, so freed resources never wait for a tick. `Tick` exists only
//! for time itself: offers that time out, filters that expire ([`Allocator::next_deadline`]).
//!
//! # Invariants
//! - On every agent `used + offered + free = total`, always ([`Allocator::check`]).
//! - A declined bundle is not offered to the same framework on the same agent until its filter expires or
//!   the framework revives. (At most [`MAX_FILTERS`] filters stand per framework and agent; the one that
//!   expires first gives way and is counted.)
//! - Work conserving: after `apply`, no active agent holds a free, allocatable bundle that some
//!   unsuppressed, unfiltered framework could be offered.
//! - Bounded wait: a framework that declines (or sits on) an agent's offer goes behind every eligible
//!   framework that has not been offered this agent since. So a framework with placeable demand waits for
//!   at most one decline or timeout of every other framework, and for accepts that fairness entitles to.
//! - A rejected event changes nothing, and says why ([`Rejection`]).
//! - Same events, same times, same bytes: ids are counted, maps are ordered.
//!
//! # What it never does
//! It reads no clock and no entropy, knows nothing of services, tasks or wire types, and does no I/O.
//! Roles are flat, quota and reservations are absent as yet.
//!
//! ```
//! use waggle_allocator::{Allocator, AllocatorConfig, Effect, Event};
//! use waggle_types::{FrameworkId, UnixMillis};
//!
//! let mut allocator = Allocator::new(AllocatorConfig::default());
//! let effects = allocator.apply(
//!     Event::FrameworkAdded {
//!         framework_id: FrameworkId::new("f").unwrap(),
//!         role: "*".into(),
//!         weight_milli: 1000,
//!     },
//!     UnixMillis(0),
//! );
//! assert!(effects.is_empty(), "there is nothing to offer yet");
//! ```

#![forbid(unsafe_code)]

mod allocator;
mod choose;
mod event;
mod explain;
mod filters;
mod ledger;
mod offers;
mod read;
mod share;

pub use allocator::{Allocator, AllocatorConfig, Stats};
pub use event::{Effect, Event, Rejection, RescindReason};
pub use explain::{Choice, Reason};
pub use filters::MAX_FILTERS;
pub use ledger::LedgerError;
pub use share::Share;

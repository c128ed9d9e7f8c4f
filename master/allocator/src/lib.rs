//! Level 1, pure: which framework is offered what.
//!
//! The allocator is a ledger of agents (used, offered, free) plus a policy (weighted dominant resource
//! fairness over roles). It is event driven: every [`Event`] that frees or adds something is answered at
//! once with the offers that follow from it, so freed resources never wait for a tick. `Tick` exists only
//! for time itself: offers that time out, filters that expire ([`Allocator::next_deadline`]).
//!
//! # Policy, in this order
//! 1. Never what stands in the way: suppression, offer constraints, another region, GPUs, filters, a bundle
//!    that is less than the framework says is of use to it, or too little for any task (less than the
//!    minimum of CPUs and of memory, whatever else is in it).
//! 2. Who has turned an agent down in the current round goes after everybody who has not.
//! 3. Roles that are owed something of their guarantee go before others.
//! 4. Weighted dominant shares, from the top roles down: a role competes with its siblings, its own
//!    frameworks (together, at weight 1) with its subroles, then the frameworks of a role among themselves.
//!
//! A framework is offered all that is free, unreserved and within quota, what is reserved for its role or a
//! role above, and, if it takes revocable resources, what is reserved for roles in which nobody wants
//! anything now. That comes back by rescission and eviction ([`Notice`]) once somebody does, and no more of
//! it than is of use.
//!
//! # What is counted
//! Shares and quota are over CPUs, memory, disk, GPUs, ports, and the custom kinds that agents bring, up to
//! [`MAX_KINDS`] in a cluster (an agent that brings more is refused). Ports and ranges count by their
//! numbers, sets by their items: who takes all ports of an agent has taken the agent. A limit cuts what is
//! offered of them to so many. A quota of a kind that no agent has is refused as a mistake, unless it is
//! forced: then it holds from the first agent on that has the kind.
//!
//! Persistent volumes are disk of a reservation, count as disk, and are offered with it; nobody else is lent
//! them. A shared one is never used up: it goes with every offer of its reservation, costs no share, and
//! its users are counted, by one [`Usage`] for each task.
//!
//! # Invariants
//! - On every agent, and of every reservation, `used + offered + free = total`, always
//!   ([`Allocator::check`]); shared volumes are always free.
//! - A declined bundle is not offered to the same framework on the same agent until its filter expires or
//!   the framework revives. (At most [`MAX_FILTERS`] groups of filters stand per agent; the one that
//!   expires first gives way and is counted.)
//! - Limits are never exceeded by an offer, a launch or a reservation; what is owed to guarantees is held
//!   back. A role that is found over its limit (an agent comes with what runs there, the limit is set
//!   lower) gets no more, and offers beyond a lowered limit are taken back.
//! - Work conserving: after `apply`, no active agent holds a free, allocatable bundle that some
//!   unsuppressed, unfiltered framework could be offered.
//! - Bounded wait: a framework with placeable demand waits for at most one decline or timeout of every
//!   other framework (two, if it has turned the agent down itself), and for accepts that fairness
//!   entitles to.
//! - Who wants back what was lent of its role holds an offer, or tasks are ending for it, or nothing that
//!   could end would be of use to it (looked at once a second).
//! - Operations of one accept are done in order, each with what the ones before made, all or none.
//! - A rejected event changes nothing, and says why ([`Rejection`]).
//! - Same events, same times, same bytes: ids are counted, maps are ordered.
//!
//! # How it is fast
//! Ids are numbers inside, strings at the edge ([`Allocator::apply_all`] takes micro-batches). Quantities
//! are rows of integers. Every role keeps what competes in it in order; one offer re-files one entry per
//! level. Who is a candidate for an agent is a row of bits: askable, not barred, not filtered, in a few
//! word operations for a thousand frameworks. Only agents that an event touched are looked at.
//!
//! # What it never does
//! It reads no clock and no entropy, knows nothing of services, tasks or wire types, and does no I/O. It
//! does not choose tasks: an eviction names a framework, an agent and an amount.
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

mod agents;
mod allocator;
mod bits;
mod choose;
mod clients;
mod constraints;
mod event;
mod explain;
mod filters;
mod hand;
mod kinds;
mod ledger;
mod lend;
mod maintain;
mod offers;
mod operate;
mod quota;
mod read;
mod rejection;
mod reserve;
mod roles;
mod share;
mod spec;
mod trial;
mod volumes;

pub use agents::MAX_POOLS;
pub use allocator::{Allocator, AllocatorConfig, Stats};
pub use clients::MAX_CLIENTS;
pub use constraints::Barrier;
pub use event::{Effect, Event, RescindReason};
pub(crate) use explain::LastChoice;
pub use explain::{Choice, Reason, RoleView};
pub use filters::{MAX_FILTERS, filter_expiry};
pub use kinds::MAX_KINDS;
pub use ledger::LedgerError;
pub use maintain::{EvictReason, Notice};
pub use operate::Operation;
pub use quota::MAX_QUOTAS;
pub use rejection::Rejection;
pub use share::Share;
pub use spec::{AgentSpec, FrameworkSpec, Usage};
pub use volumes::MAX_VOLUMES;

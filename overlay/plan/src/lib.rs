//! Pure: which VIPs a node serves and with which backends, the DNS zone, leases of VIP addresses, and
//! the writes that bring a node's kernel maps there.
//!
//! The data flows one way: [`NetSnapshot`](waggle_types::NetSnapshot) and the node's own
//! [`LocalFacts`] -> [`table()`] -> [`diff()`] -> [`Lowering`] -> [`MapWrite`]s that `waggle-overlay`
//! executes in order; and beside it snapshot -> [`zone()`] -> [`Zone::answer`].
//!
//! # Invariants
//! - Same input, same output: maps are ordered, time ([`UnixMillis`](waggle_types::UnixMillis)) is an
//!   argument, ids are derived from keys.
//! - Only eligible backends are in a table (CONTRACTS section 3); the reason for each exclusion is a
//!   value ([`Reason`]), so that an operator can be told.
//! - A VIP of a *defined* service is in the table and in the zone, with or without a backend.
//! - After every single write a VIP points only at slots that hold backends of that VIP.
//! - [`Zone::answer`] is total: any bytes as a name, any type and class.
//!
//! # What it never does
//! No sockets, no clock, no entropy, no decision that depends on anything but its arguments.
//!
//! ```
//! use waggle_overlay_plan::{LocalFacts, Outcome, Question, RType, zone};
//! use waggle_types::NetSnapshot;
//!
//! let zone = zone(&NetSnapshot::default(), &LocalFacts::new(), 1);
//! let asked = Question::new("nobody.marathon.mesos", RType::A).unwrap();
//! assert_eq!(zone.answer(&asked).outcome, Outcome::NxDomain);
//! ```
#![forbid(unsafe_code)]

pub mod eligibility;
mod index;
pub mod ipam;
pub mod lower;
pub mod maglev;
pub mod network;
mod plan;
pub mod policy;
pub mod render;
pub mod table;
pub mod wire;
pub mod wireguard;
pub mod zone;

pub use eligibility::{Candidate, Fact, LocalFacts, Reason, Verdict};
pub use lower::{Adopted, LowerError, Lowered, Lowering, LoweringConfig, MapWrite};
pub use plan::Plan;
pub use table::{BackendSet, MapOp, Share, VipTable, apply, diff, explain, table};
pub use zone::{Answer, DnsName, NameError, Outcome, Question, RData, RType, Rr, Zone, zone};

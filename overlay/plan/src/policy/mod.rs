//! Network policies: what they say of a flow, and the map entries that make the kernel say the same.
//!
//! ```text
//! policies + tasks + nodes (PolicyWorld) --evaluate()--> Decision              (`waggle policy test`, and what tests compare with)
//!                                        --Lowering::lower()--> Tables --diff()--> PolicyWrite .. (in this order) --> kernel maps
//! ```
//!
//! # How a verdict is a constant number of lookups
//! - Whoever can be a peer has a **number**: tasks of the same network, framework, role, service and labels share one; so do addresses outside of the
//!   cluster that the same rules' networks contain. An address leads to its number by one lookup in a hash or, outside, one longest-prefix match.
//! - (local number, peer number, direction) leads to a **port set**; without an entry the local number's default holds: what everybody may.
//! - A port set is a word of bits for blocks of 1024 ports that are wholly in it, and one for blocks that are partly; those have a bit for each port.
//!
//! # Why numbers are a node's own
//! No packet carries a number: each end looks up the other's address in its own maps. So nobody has to agree on numbers, a new kind of task needs
//! no round trip to a master before it has one, and the wire format stays the one of plain VXLAN. A number is kept as long as somebody has it.
//!
//! # Invariants
//! - The tables answer as [`evaluate()`] does, for every flow.
//! - After every single write a flow's verdict is the old or the new one, never a third.
//! - Whoever the tables don't know gets nothing, as soon as some policy could select it; whatever doesn't fit ([`Limits`]) is closed, not open.
mod detour;
mod diff;
mod evaluate;
mod lower;
mod names;
mod numbers;
mod ports;
mod said;
mod select;
mod tables;
mod world;

pub use diff::{PolicyWrite, diff};
pub use evaluate::{Decision, Direction, Peer, RuleRef, evaluate, names_names};
pub use lower::{Limits, Lowering, PolicyWorld, Report, WorldTask};
pub use names::{Learned, MAX_TTL_S, MIN_TTL_S, NameEntry};
pub use ports::PortSet;
pub use tables::{Entry, Local, NetEntry, PairKey, Sets, Tables, Verdict};
pub use world::{RESOLVERS, node_addresses};

//! Every wire format of Waggle's control plane, and the one place where it becomes domain types.
//!
//! - [`proto`]: protobuf of the agent session and of the native framework API, generated; [`convert`]: to
//!   and from `waggle-types`.
//! - [`codec`]: protobuf over gRPC with a bound on what a request takes in memory.
//! - `client` (feature `client`): a typed client of the native framework API.
//! - [`marathon`]: Marathon's REST JSON, which is also the stored form of a service spec.
//! - [`mesos`]: `/state` and `/version`.
//! - [`native`]: Waggle's own JSON, which the CLI speaks.
//! - [`exec`]: sessions in tasks, by frames over an upgraded connection.
//! - [`logs`]: output that is followed, over one task or many, and cursors in it.
//! - [`error`]: one error shape and one list of codes, mapped to HTTP and gRPC.
//!
//! # Invariants
//! - Decoding is total: any bytes give a value or a typed error that names the field and the rule.
//! - What is encoded from a domain value decodes to the same value (property-tested).
//! - Marathon and Mesos JSON hold only keys that their strict clients know.
//!
//! # What it never does
//! No behaviour (the client, behind its feature, only asks what it is told to): no I/O, no clock (`now` is an argument), no decisions about tasks.

#![forbid(unsafe_code)]

#[cfg(feature = "client")]
pub mod client;
pub mod codec;
pub mod convert;
pub mod error;
pub mod exec;
pub mod logs;
pub mod marathon;
pub mod mesos;
pub mod metronome;
pub mod native;
pub mod proto;
mod read;

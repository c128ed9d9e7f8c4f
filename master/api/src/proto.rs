//! Generated protobuf types and tonic stubs; `convert` turns them into domain types.
//!
//! The files under `gen/` are written by `cargo xtask proto` from `master/api/proto/*.proto` and are
//! committed, so that a build needs no protoc. Options: `btree_map(".")`, so equal messages have equal
//! bytes, and `build_transport(false)`, since tonic's own `SessionClient::connect` would collide with the
//! `Connect` call: make a client with `SessionClient::new(channel)`.

/// The session between an agent and its master (`waggle.session.v1`).
#[allow(
    missing_docs,
    unused_qualifications,
    rust_2018_idioms,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod session {
    include!("gen/waggle.session.v1.rs");
}

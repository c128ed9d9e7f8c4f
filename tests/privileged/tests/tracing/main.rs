//! Requests through real programs, on a cluster of its own: through a proxy to an app and its databases, over gRPC, and through servers
//! with event loops, where nothing says whose a call is.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

mod chain;
mod common;
mod grpc;
mod refused;
mod servers;

//! Traces of requests between tasks, made of bytes that passed by, without a word from the programs.
//!
//! The agent's shell hands in [`Piece`]s, which kernel programs took of packets, and fetches [`RequestSpan`]s: HTTP/1.x, HTTP/2 and gRPC
//! in plain text become client and server spans. What is tested is this half, without a kernel.
//!
//! # Invariants
//! - A parent is right, or there is none and the span says why (`links`).
//! - A head counts only where one can begin; what is lost makes a stream unknown, never wrong (`http1`, `hpack`).
//! - Any pieces give spans or counts; everything that is held is bounded by [`Options`], and what is beyond is in [`Counts`].
//! - How a stream is cut into pieces makes no difference to its spans but for times.
//! - Queries, cookies, keys and bodies are not held and not told.
//!
//! # What it never does
//! It reads no clock and no entropy: times come with pieces, ids are hashes of what both ends see.

mod connects;
mod exchange;
mod head;
mod hpack;
mod http1;
mod http2;
mod ids;
mod links;
mod options;
mod piece;
mod sampling;
mod segment;
mod socket;
mod span;
mod template;
mod tracer;
mod wire;
mod work;

pub use connects::{Connects, slow_connect};
pub use options::{Counts, Options, Peer};
pub use piece::{Direction, Guess, Piece, Role};
pub use sampling::Rule;
pub use span::RequestSpan;
pub use tracer::Tracer;

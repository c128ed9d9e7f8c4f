//! Sessions in tasks on the wire: `exec` and `attach`.
//!
//! A session is one HTTP/1.1 upgrade to [`UPGRADE`]: a POST whose body is an [`ExecRequest`] or an
//! [`AttachRequest`], answered 101, or refused with a status and a JSON message as any other request. After it
//! both sides send [`Frame`]s: one byte of kind, four bytes of length (big-endian), at most [`MAX_PAYLOAD`] bytes.
//!
//! A client sends no more input than the agent has allowed ([`Frame::Window`], [`FIRST_WINDOW`] to begin with), so
//! that signals and window sizes never wait behind input that nobody reads. Output is slowed down by the
//! connection itself: who does not read it stops the process that writes it. Each side sends a
//! [`Frame::Ping`] every [`PING_SECONDS`] and takes the other for gone after [`SILENCE_SECONDS`].

mod frame;
mod request;

pub use frame::{Ended, Frame, FrameError, HEADER, Started, Winsize, parse};
pub use request::{AttachRequest, ExecRequest};

/// The protocol's name in `Upgrade` headers.
pub const UPGRADE: &str = "waggle-exec";
/// Longest payload of a frame, in bytes.
pub const MAX_PAYLOAD: usize = 64 << 10;
/// Input that a client may send before it is allowed more, in bytes.
pub const FIRST_WINDOW: u32 = 64 << 10;
/// Between two pings of one side, in seconds.
pub const PING_SECONDS: u64 = 15;
/// Silence after which the other side is taken for gone, in seconds.
pub const SILENCE_SECONDS: u64 = 60;
/// Longest request body, in bytes.
pub const MAX_REQUEST: usize = 256 << 10;

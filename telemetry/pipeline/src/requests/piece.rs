//! What a tracer is fed with: pieces of TCP streams, as the kernel's programs saw them in packets.

use std::net::SocketAddr;

/// Some bytes of one direction of one TCP socket, as one packet carried them.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// When, Unix nanoseconds.
    pub at: u64,
    /// The socket's cookie.
    pub socket: u64,
    /// cgroup id of the socket's task.
    pub cgroup: u64,
    /// The socket's own end.
    pub local: SocketAddr,
    /// The other end, as the packet has it: with a VIP, the backend.
    pub remote: SocketAddr,
    /// Seen from this socket.
    pub direction: Direction,
    /// Who opened the connection.
    pub role: Role,
    /// What the kernel took the stream for.
    pub protocol: Guess,
    /// Counts pieces of this socket and direction from 0: a hole is a lost record.
    pub number: u32,
    /// TCP sequence number of `bytes[0]`.
    pub sequence: u32,
    /// Payload bytes in the packet from `bytes[0]` on; more than `bytes.len()` if it is cut.
    pub length: u32,
    /// `pid_tgid` of the thread that sends (out) or reads (in), where it is known.
    pub thread: Option<u64>,
    /// The VIP that a client's socket called, if any.
    pub vip: Option<SocketAddr>,
    /// The bytes. Of HTTP/2: frame headers, and whole frames but for DATA; a piece begins at a frame's header, or goes on with
    /// the rest of a frame of the piece before.
    pub bytes: &'a [u8],
}

/// Which way bytes go, seen from the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// The task reads them.
    In,
    /// The task sends them.
    Out,
}

impl Direction {
    pub(super) fn other(self) -> Self {
        match self {
            Self::In => Self::Out,
            Self::Out => Self::In,
        }
    }
}

/// Which end of the connection a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It has connected.
    Client,
    /// It was accepted.
    Server,
    /// It is older than the tracer.
    Unknown,
}

/// What the kernel took a stream for, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guess {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2, with or without gRPC.
    Http2,
}

//! What a tracer may hold, and what it counts.

use std::{fmt, net::SocketAddr, sync::Arc};

use super::{Role, links::Peers};

/// What is at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A task of this node whose requests this tracer sees.
    Here,
    /// What another node's tracer may see. Whether it does is not known here: the hop stays a trace of its own, which both ends agree on,
    /// and neither names a span of the other node as its parent.
    Elsewhere,
    /// Anything else.
    Unknown,
}

/// Bounds. What is beyond is not followed, and counted ([`Counts`]).
#[derive(Clone)]
pub struct Options {
    /// What is at an address, and which end of the connection that is; nobody knows by default.
    pub peers: Peers,
    /// Connections that are followed at once.
    pub sockets: usize,
    /// Requests of one connection in flight.
    pub requests_per_socket: usize,
    /// Requests in flight, and spans that wait for a verdict on their parent.
    pub requests: usize,
    /// Bytes of heads and header tables that are held for all connections.
    pub held_bytes: usize,
    /// Spans that wait for [`Tracer::drain`](super::Tracer::drain).
    pub waiting: usize,
    /// Threads that are remembered.
    pub threads: usize,
    /// Hops and contexts that are remembered.
    pub hops: usize,
    /// Templates of a service.
    pub templates: usize,
    /// Requests that a process must have answered in the plain way before a call of its threads is put down to a request.
    pub proof: u32,
    /// How long a request may be without an answer.
    pub answer_ns: u64,
    /// How long the end of a body is waited for after the last piece of the connection.
    pub body_ns: u64,
    /// How long a span waits for a verdict on its parent.
    pub decide_ns: u64,
    /// How long a connection may be silent.
    pub idle_ns: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Default for Options {
    fn default() -> Self {
        Self {
            peers: Arc::new(|_: SocketAddr, _: Role| Peer::Unknown),
            sockets: 16_384,
            requests_per_socket: 256,
            requests: 16_384,
            held_bytes: 16 << 20,
            waiting: 8192,
            threads: 16_384,
            hops: 32_768,
            templates: 200,
            proof: 8,
            answer_ns: 300 * SECOND,
            body_ns: 10 * SECOND,
            decide_ns: 30 * SECOND,
            idle_ns: 3600 * SECOND,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").finish_non_exhaustive()
    }
}

macro_rules! counts {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        /// What became of what, since the beginning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Counts {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl Counts {
            /// Each by its name.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counts! {
    /// Pieces that were taken.
    pieces,
    /// Requests that were begun, at either end.
    requests,
    /// Spans that were handed out.
    spans,
    /// Records that the kernel had no room for.
    lost_records,
    /// Records that are missing in the numbers of a stream.
    missing_pieces,
    /// Pieces with a number that was there before.
    stale_pieces,
    /// Pieces of connections that there was no room for.
    sockets_full,
    /// Pieces of a connection on which requests and responses can't be told apart any more.
    unknown_streams,
    /// Requests that there was no room for on their connection.
    requests_full,
    /// Requests that there was no room for at all.
    in_flight_full,
    /// Heads and header tables that were forgotten for want of room.
    held_full,
    /// Spans that nobody has fetched in time.
    waiting_full,
    /// Threads that there was no room for.
    threads_full,
    /// Header blocks that were missed.
    missed_blocks,
    /// Header blocks that are malformed or too large.
    bad_blocks,
    /// Heads of which something is not known.
    unknown_heads,
    /// Responses to no request.
    unpaired_responses,
    /// Requests whose response was lost or can't be told.
    lost_responses,
    /// Requests that were given up without an answer.
    unanswered,
    /// Spans that say why they have no parent.
    unlinked,
    /// Paths whose template was one too many.
    templates_full,
    /// Spans of traces that are not kept.
    not_sampled,
    /// Spans that were more than a service's a second.
    over_rate,
}

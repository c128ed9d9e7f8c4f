//! A wire: what both ends of a connection send becomes pieces, as kernel programs would make them.

use std::{collections::BTreeMap, net::SocketAddr};

use waggle_telemetry_pipeline::{
    AttrValue,
    names::{self, SpanSide},
    requests::{Direction, Guess, Piece, RequestSpan, Role, Tracer},
};

/// One end's task.
#[derive(Debug, Clone, Copy)]
pub struct End {
    pub socket: u64,
    pub cgroup: u64,
    /// Whether a tracer sees it.
    pub is_seen: bool,
}

/// A connection between two ends.
#[derive(Debug, Clone)]
pub struct Wire {
    pub client: (SocketAddr, End),
    pub server: (SocketAddr, End),
    pub guess: Guess,
    pub role_is_known: bool,
    pub vip: Option<SocketAddr>,
    /// Next sequence numbers: of the client's bytes, of the server's.
    pub next: [u32; 2],
    numbers: BTreeMap<(u64, Direction), u32>,
}

/// Where to cut bytes that are sent: lengths of pieces, used in turn; empty: not at all.
pub type Cuts<'a> = &'a [usize];

impl Wire {
    pub fn new(guess: Guess, client: &str, server: &str, first_socket: u64) -> Self {
        let end = |n| End {
            socket: first_socket + n,
            cgroup: 100 + n,
            is_seen: true,
        };
        Self {
            client: (client.parse().unwrap(), end(0)),
            server: (server.parse().unwrap(), end(1)),
            guess,
            role_is_known: true,
            vip: None,
            // Wraps soon.
            next: [u32::MAX - 100, 7000],
            numbers: BTreeMap::new(),
        }
    }

    /// Pieces of what one end sends: seen by that end, then by the other.
    pub fn send(
        &mut self,
        tracer: &mut Tracer,
        at: u64,
        by_client: bool,
        bytes: &[u8],
        threads: [Option<u64>; 2],
        cuts: Cuts<'_>,
    ) {
        let mut rest = bytes;
        let mut nth = 0;
        while !rest.is_empty() {
            let n = cuts.get(nth % cuts.len().max(1)).copied();
            let (now, later) = rest.split_at(n.unwrap_or(rest.len()).clamp(1, rest.len()));
            let length = u32::try_from(now.len()).unwrap();
            self.packet(tracer, at, by_client, now, length, threads);
            rest = later;
            nth += 1;
        }
    }

    /// One packet, of which the first bytes are seen.
    pub fn packet(
        &mut self,
        tracer: &mut Tracer,
        at: u64,
        by_client: bool,
        bytes: &[u8],
        length: u32,
        threads: [Option<u64>; 2],
    ) {
        let sequence = self.next[usize::from(!by_client)];
        self.next[usize::from(!by_client)] = sequence.wrapping_add(length);
        self.again(tracer, at, by_client, bytes, length, sequence, threads);
    }

    /// A packet with a sequence number of its own.
    #[allow(clippy::too_many_arguments, reason = "it is what a packet has")]
    pub fn again(
        &mut self,
        tracer: &mut Tracer,
        at: u64,
        by_client: bool,
        bytes: &[u8],
        length: u32,
        sequence: u32,
        threads: [Option<u64>; 2],
    ) {
        let ends = [(true, by_client), (false, !by_client)];
        for ((is_sender, is_client), thread) in ends.into_iter().zip(threads) {
            let direction = if is_sender {
                Direction::Out
            } else {
                Direction::In
            };
            self.at_end(
                tracer, at, is_client, direction, bytes, length, sequence, thread,
            );
        }
    }

    #[allow(clippy::too_many_arguments, reason = "it is what a packet has")]
    fn at_end(
        &mut self,
        tracer: &mut Tracer,
        at: u64,
        is_client: bool,
        direction: Direction,
        bytes: &[u8],
        length: u32,
        sequence: u32,
        thread: Option<u64>,
    ) {
        let (here, there) = if is_client {
            (self.client, self.server)
        } else {
            (self.server, self.client)
        };
        if !here.1.is_seen {
            return;
        }
        let number = self.numbers.entry((here.1.socket, direction)).or_default();
        let piece = Piece {
            at,
            socket: here.1.socket,
            cgroup: here.1.cgroup,
            local: here.0,
            remote: there.0,
            direction,
            role: match (self.role_is_known, is_client) {
                (false, _) => Role::Unknown,
                (true, true) => Role::Client,
                (true, false) => Role::Server,
            },
            protocol: self.guess,
            number: *number,
            sequence,
            length,
            thread,
            vip: self.vip.filter(|_| is_client),
            bytes,
        };
        *number += 1;
        tracer.piece(&piece);
    }

    /// The next record of a direction is lost on its way to the tracer, with what it had.
    pub fn lose(&mut self, is_client: bool, direction: Direction) {
        let end = if is_client {
            self.client.1
        } else {
            self.server.1
        };
        *self.numbers.entry((end.socket, direction)).or_default() += 1;
    }

    pub fn close(&self, tracer: &mut Tracer, at: u64) {
        for (_, end) in [self.client, self.server] {
            tracer.closed(end.socket, at);
        }
    }
}

/// A span as text. Times in milliseconds.
pub fn render(span: &RequestSpan) -> String {
    let side = match span.side {
        SpanSide::Server => "server",
        _ => "client",
    };
    let mut out = format!(
        "{side} {:?} {}..{} cgroup {} trace {:08x} span {:08x}",
        span.name,
        span.start_ns / 1_000_000,
        span.end_ns / 1_000_000,
        span.cgroup,
        span.context.trace_id >> 96,
        span.context.span_id >> 32,
    );
    if let Some(parent) = span.parent {
        let whose = if span.parent_is_remote {
            "remote"
        } else {
            "own"
        };
        out.push_str(&format!(" parent {:08x} ({whose})", parent >> 32));
    }
    for link in &span.links {
        out.push_str(&format!(" link {:08x}", link.span_id >> 32));
    }
    if span.failed {
        out.push_str(" FAILED");
    }
    for (key, value) in &span.attrs {
        out.push_str(&format!("\n    {key} = {}", value.to_text()));
    }
    out.push('\n');
    out
}

pub fn text(span: &RequestSpan, key: &str) -> Option<String> {
    let found = span.attrs.iter().find(|(k, _)| *k == key);
    found.map(|(_, v): &(&str, AttrValue)| v.to_text())
}

/// What every span must be like.
pub fn check(span: &RequestSpan) {
    let keys = span.attrs.iter().map(|(k, _)| *k);
    assert_eq!(names::check_span(&span.name, keys), Ok(()));
    assert!(span.context.trace_id != 0 && span.context.span_id != 0);
    assert!(span.end_ns >= span.start_ns);
    assert_ne!(span.parent, Some(span.context.span_id));
    let failed = span.attrs.iter().any(|(k, _)| *k == "error.type");
    assert_eq!(failed, span.failed);
}

/// An encoder of HPACK that has all remembered, and refers to it.
#[derive(Debug, Default)]
pub struct Hpack {
    table: Vec<(String, String)>,
}

impl Hpack {
    pub fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in fields {
            let same = |(n, v): &(String, String)| n == name && v == value;
            if let Some(i) = self.table.iter().position(same) {
                assert!(i + 62 < 127);
                out.push(0x80 | u8::try_from(i + 62).unwrap());
                continue;
            }
            out.push(0x40);
            for text in [name, value] {
                let n = text.len();
                if n < 127 {
                    out.push(u8::try_from(n).unwrap());
                } else {
                    out.push(127);
                    out.push(u8::try_from((n - 127) % 128).unwrap() | 0x80);
                    out.push(u8::try_from((n - 127) / 128).unwrap());
                }
                out.extend(text.bytes());
            }
            self.table
                .insert(0, ((*name).to_owned(), (*value).to_owned()));
            let size = |t: &[(String, String)]| -> usize {
                t.iter().map(|(n, v)| 32 + n.len() + v.len()).sum()
            };
            while size(&self.table) > 4096 {
                self.table.pop();
            }
        }
        out
    }
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame of HTTP/2.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

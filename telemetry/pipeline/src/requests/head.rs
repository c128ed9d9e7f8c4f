//! What a request or a response says at its beginning, of either version of HTTP.

use waggle_types::TraceContext;

/// Bytes of a path or a name that are kept.
pub(super) const MAX_TEXT: usize = 1024;

/// The first line, or the fields that stand for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// `None` is what is not known.
    Request {
        method: Option<String>,
        /// Without its query.
        path: Option<String>,
        /// Of HTTP/1.
        minor: Option<u8>,
    },
    Response {
        status: Option<u16>,
    },
}

/// What says where a body of HTTP/1 ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Nothing.
    None,
    Length(u64),
    Chunked,
    /// Contradictions, or a coding that says nothing of it.
    Unknown,
}

/// A head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) line: Line,
    /// First byte.
    pub(super) at: u64,
    /// Its TCP sequence number.
    pub(super) sequence: u32,
    /// Last byte.
    pub(super) whole_at: u64,
    /// Who sent or read it, where all of it is one thread's.
    pub(super) thread: Option<u64>,
    pub(super) authority: Option<String>,
    pub(super) context: Option<TraceContext>,
    pub(super) framing: Framing,
    pub(super) body_bytes: Option<u64>,
    pub(super) is_upgrade: bool,
    pub(super) is_grpc: bool,
    pub(super) grpc_status: Option<u16>,
    /// Some of it was not seen.
    pub(super) is_cut: bool,
}

impl Head {
    pub(super) fn new(line: Line) -> Self {
        Self {
            line,
            at: 0,
            sequence: 0,
            whole_at: 0,
            thread: None,
            authority: None,
            context: None,
            framing: Framing::None,
            body_bytes: None,
            is_upgrade: false,
            is_grpc: false,
            grpc_status: None,
            is_cut: false,
        }
    }
}

/// A request target's path: no query, no fragment, no authority, no more than [`MAX_TEXT`].
pub(super) fn path_of(target: &str) -> String {
    let after_scheme = target.split_once("://").filter(|(s, _)| {
        let mut chars = s.bytes();
        chars.all(|b| b.is_ascii_alphanumeric())
    });
    let rest = match after_scheme {
        Some((_, rest)) => rest.find('/').map_or("/", |i| rest.get(i..).unwrap_or("/")),
        None => target,
    };
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    let path = rest.get(..end).unwrap_or(rest);
    let mut n = path.len().min(MAX_TEXT);
    while !path.is_char_boundary(n) {
        n -= 1;
    }
    path.get(..n).unwrap_or_default().to_owned()
}

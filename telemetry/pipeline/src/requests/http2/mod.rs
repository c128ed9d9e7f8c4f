//! HTTP/2 (RFC 9113), one direction of it, from the frames that matter: HEADERS and what goes on with them, RST_STREAM, and the ends of
//! DATA. Other frames may be left out between pieces.
//!
//! Header blocks are decoded in the order of the wire. What is lost, late or too large makes the table unknown from there on
//! ([`hpack`](super::hpack)), never wrong.

mod seen;

use seen::{Came, Seen};

use super::{
    head::{Head, Line, MAX_TEXT, path_of},
    hpack::{Decoder, Field, Name},
    segment::{MAX_HEAD, Segment, distance},
    wire,
};

/// RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// What a direction says of a stream.
#[derive(Debug)]
pub(super) enum Said {
    Head {
        stream: u32,
        head: Box<Head>,
        /// Nothing follows.
        is_end: bool,
    },
    End {
        stream: u32,
        at: u64,
    },
    Reset {
        stream: u32,
        code: u32,
        at: u64,
    },
}

/// What went wrong, to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Trouble {
    /// Header blocks that were missed, as far as it is known.
    pub(super) missed: u64,
    /// Blocks that are not HPACK, or are too large.
    pub(super) bad_blocks: u64,
}

/// One direction of one connection.
#[derive(Debug)]
pub(super) struct Reader {
    decoder: Decoder,
    seen: Seen,
    frame: Option<Frame>,
    block: Option<Block>,
    trouble: Trouble,
}

/// A frame that is not whole yet.
#[derive(Debug)]
struct Frame {
    sequence: u32,
    at: u64,
    thread: Option<u64>,
    /// Where its next byte is.
    next: u32,
    bytes: Vec<u8>,
}

/// A header block that is not whole yet.
#[derive(Debug)]
struct Block {
    stream: u32,
    is_promise: bool,
    is_end: bool,
    sequence: u32,
    at: u64,
    thread: Option<u64>,
    bytes: Vec<u8>,
}

/// A frame's header.
#[derive(Debug, Clone, Copy)]
struct Header {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Header {
    fn of(bytes: &[u8]) -> Option<Self> {
        let [length @ .., kind] = *bytes.first_chunk::<4>()?;
        let [flags, stream @ ..] = *bytes.get(4..)?.first_chunk::<5>()?;
        let bytes = length.into_iter().map(usize::from);
        Some(Self {
            length: bytes.fold(0, |sum, byte| sum << 8 | byte),
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        })
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether what is behind the header is needed.
    fn matters(self) -> bool {
        matches!(self.kind, HEADERS | CONTINUATION | PUSH_PROMISE) || self.kind == RST_STREAM
    }
}

impl Reader {
    /// Of a connection that is seen from its beginning, or of an older one.
    pub(super) fn new(is_from_start: bool) -> Self {
        let decoder = if is_from_start {
            Decoder::new()
        } else {
            Decoder::late()
        };
        Self {
            decoder,
            seen: Seen::default(),
            frame: None,
            block: None,
            trouble: Trouble::default(),
        }
    }

    #[cfg(test)]
    /// Whether heads are decoded with all that was said before.
    pub(super) fn is_whole(&self) -> bool {
        self.decoder.is_whole()
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        let frame = self.frame.as_ref().map_or(0, |f| f.bytes.capacity());
        let block = self.block.as_ref().map_or(0, |b| b.bytes.capacity());
        self.decoder.bytes() + frame + block
    }

    /// What went wrong since the last time.
    pub(super) fn trouble(&mut self) -> Trouble {
        std::mem::take(&mut self.trouble)
    }

    /// Something was lost: blocks may have been missed.
    pub(super) fn lost(&mut self) {
        self.decoder.lost();
        self.frame = None;
        self.block = None;
        self.trouble.missed += 1;
    }

    /// Takes a piece.
    pub(super) fn push(&mut self, mut segment: Segment<'_>, out: &mut Vec<Said>) {
        match self.seen.judge(&mut segment) {
            Came::New => {}
            Came::Again => return,
            Came::Late => {
                self.lost();
                self.seen.forget();
                return;
            }
        }
        let begin = segment.sequence;
        if let Some(frame) = &self.frame
            && frame.next != segment.sequence
        {
            self.lost();
        }
        while !segment.bytes.is_empty() {
            self.take(&mut segment, out);
        }
        // A frame that goes on does so behind what was seen.
        self.seen.add(begin, segment.sequence);
    }

    /// Takes bytes of one frame.
    fn take(&mut self, segment: &mut Segment<'_>, out: &mut Vec<Said>) {
        let frame = self.frame.get_or_insert_with(|| Frame {
            sequence: segment.sequence,
            at: segment.at,
            thread: segment.thread,
            next: segment.sequence,
            bytes: Vec::new(),
        });
        // As a frame it would be of five megabytes.
        let is_preface = frame.bytes.get(..HEADER) == PREFACE.get(..HEADER);
        let wanted = match Header::of(&frame.bytes) {
            None => HEADER,
            Some(_) if is_preface => PREFACE.len(),
            Some(header) => HEADER + header.length,
        };
        let n = wanted
            .saturating_sub(frame.bytes.len())
            .min(segment.bytes.len());
        frame
            .bytes
            .extend_from_slice(segment.bytes.get(..n).unwrap_or_default());
        segment.skip(distance(n));
        frame.next = segment.sequence;
        if frame.thread != segment.thread {
            frame.thread = None;
        }
        let Some(header) = Header::of(&frame.bytes) else {
            return;
        };
        if frame.bytes.get(..HEADER) == PREFACE.get(..HEADER) {
            if frame.bytes.len() >= PREFACE.len() {
                self.frame = None;
            }
            return;
        }
        if !header.matters() {
            if header.kind == DATA && header.has(END_STREAM) {
                out.push(Said::End {
                    stream: header.stream,
                    at: segment.at,
                });
            }
            self.frame = None;
            // What is behind the header may be here or not; nobody waits for it.
            segment.skip(distance(header.length.min(segment.bytes.len())));
            return;
        }
        if header.length > MAX_HEAD {
            self.lost();
            self.trouble.bad_blocks += 1;
            segment.skip(distance(header.length.min(segment.bytes.len())));
            return;
        }
        if frame.bytes.len() < HEADER + header.length {
            return;
        }
        if let Some(frame) = self.frame.take() {
            self.frame_is_whole(header, &frame, segment.at, out);
        }
    }

    fn frame_is_whole(&mut self, header: Header, frame: &Frame, at: u64, out: &mut Vec<Said>) {
        let payload = frame.bytes.get(HEADER..).unwrap_or_default();
        match header.kind {
            RST_STREAM => {
                if let Some(code) = payload.first_chunk() {
                    out.push(Said::Reset {
                        stream: header.stream,
                        code: u32::from_be_bytes(*code),
                        at,
                    });
                }
            }
            CONTINUATION => {
                let Some(block) = &mut self.block else {
                    self.lost();
                    return;
                };
                let fits = block.bytes.len() + payload.len() <= MAX_HEAD;
                if block.stream != header.stream || !fits {
                    self.trouble.bad_blocks += u64::from(!fits);
                    self.lost();
                    return;
                }
                block.bytes.extend_from_slice(payload);
                if block.thread != frame.thread {
                    block.thread = None;
                }
            }
            _ => {
                if self.block.is_some() {
                    // RFC 9113, 6.10: nothing may come between.
                    self.lost();
                }
                let Some(fragment) = fragment(header, payload) else {
                    self.trouble.bad_blocks += 1;
                    self.lost();
                    return;
                };
                self.block = Some(Block {
                    stream: header.stream,
                    is_promise: header.kind == PUSH_PROMISE,
                    is_end: header.has(END_STREAM),
                    sequence: frame.sequence,
                    at: frame.at,
                    thread: frame.thread,
                    bytes: fragment.to_vec(),
                });
            }
        }
        if header.kind != RST_STREAM
            && header.has(END_HEADERS)
            && let Some(block) = self.block.take()
        {
            self.block_is_whole(&block, at, out);
        }
    }

    fn block_is_whole(&mut self, block: &Block, at: u64, out: &mut Vec<Said>) {
        let fields = self.decoder.decode(&block.bytes).unwrap_or_else(|_| {
            self.trouble.bad_blocks += 1;
            Vec::new()
        });
        if block.is_promise {
            return;
        }
        let mut head = head_of(&fields);
        head.at = block.at;
        head.whole_at = at;
        head.sequence = block.sequence;
        head.thread = block.thread;
        out.push(Said::Head {
            stream: block.stream,
            head: Box::new(head),
            is_end: block.is_end,
        });
    }
}

/// The part of a header block in a frame's payload: without padding, priority, promised stream.
fn fragment(header: Header, payload: &[u8]) -> Option<&[u8]> {
    let mut rest = payload;
    let mut padding = 0;
    if header.has(PADDED) {
        let (n, tail) = rest.split_first()?;
        (padding, rest) = (usize::from(*n), tail);
    }
    let fixed = match header.kind {
        PUSH_PROMISE => 4,
        _ if header.has(PRIORITY) => 5,
        _ => 0,
    };
    rest = rest.get(fixed..)?;
    rest.get(..rest.len().checked_sub(padding)?)
}

/// What a block's fields say. Whether it is a request is what is there: `:status` is in responses only; without either sort of
/// pseudo-field it is said to be a response, whose status is not known (trailers have none).
fn head_of(fields: &[Field]) -> Head {
    let value = |name| fields.iter().find(|f| f.name == Some(name));
    let text = |name| value(name).and_then(|f| f.value.clone());
    let has_request = [Name::Method, Name::Path, Name::Scheme, Name::Authority];
    let line = if has_request.into_iter().any(|n| value(n).is_some()) {
        Line::Request {
            method: text(Name::Method),
            path: text(Name::Path).map(|p| path_of(&p)),
            minor: None,
        }
    } else {
        let status = text(Name::Status).and_then(|s| s.parse().ok());
        Line::Response {
            status: status.filter(|n| (100..1000).contains(n)),
        }
    };
    let mut head = Head::new(line);
    head.authority = text(Name::Authority).filter(|a| a.len() <= MAX_TEXT);
    head.is_cut = fields.iter().any(|f| f.name.is_none());
    let is_grpc = |t: String| t.starts_with("application/grpc");
    head.is_grpc = text(Name::ContentType).is_some_and(is_grpc);
    head.grpc_status = text(Name::GrpcStatus).and_then(|s| s.parse().ok());
    head.body_bytes = text(Name::ContentLength).and_then(|s| s.parse().ok());
    let mut contexts = fields.iter().filter(|f| f.name == Some(Name::Traceparent));
    head.context = match (contexts.next(), contexts.next()) {
        (Some(one), None) => one.value.as_deref().and_then(wire::context),
        _ => None,
    };
    head
}

/// Names of RFC 9113, 7.
pub(super) fn code_name(code: u32) -> &'static str {
    const NAMES: [&str; 14] = [
        "no_error",
        "protocol_error",
        "internal_error",
        "flow_control_error",
        "settings_timeout",
        "stream_closed",
        "frame_size_error",
        "refused_stream",
        "cancel",
        "compression_error",
        "connect_error",
        "enhance_your_calm",
        "inadequate_security",
        "http_1_1_required",
    ];
    let name = usize::try_from(code).ok().and_then(|i| NAMES.get(i));
    name.copied().unwrap_or("unknown_error")
}

#[cfg(test)]
mod tests;

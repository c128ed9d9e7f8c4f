//! HTTP/1.x, one direction of it: where heads begin, by the bytes' places in the stream.
//!
//! A head is taken for one only where one can begin: behind the last body, by its length or its chunks. Where that is not known, the
//! caller says whether one may begin at all ([`Permit::may_begin`]), and it must look like one.

mod chunks;
mod head;

use chunks::{Chunks, Followed};

use super::{
    head::{Framing, Head, Line},
    segment::{MAX_HEAD, Segment, ahead, distance},
};

/// Pieces of one head that have come too early.
const MAX_HELD: usize = 4;
const MAX_HELD_BYTES: usize = 4096;

/// What a stream says.
#[derive(Debug)]
pub(super) enum Said {
    Head(Box<Head>),
    /// The last byte of what the last head announced has passed; `None`: some time ago.
    End(Option<u64>),
}

/// What a reader must be told by who knows both directions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Permit {
    /// Requests, else responses.
    pub(super) is_request: bool,
    /// Where a body's end is not known: whether it is this side's turn.
    pub(super) may_begin: bool,
    /// The response that comes has no body, whatever it says: the request was HEAD.
    pub(super) is_bodiless: bool,
    /// The response that comes, if it is a success, ends the stream: the request was CONNECT.
    pub(super) is_connect: bool,
}

/// One direction of one connection.
#[derive(Debug, Default)]
pub(super) struct Reader {
    place: Place,
    /// Everything before it has been looked at.
    high: Option<u32>,
    held: Vec<Held>,
    ended: Option<u64>,
    tail: Tail,
}

/// Of chunks that can't be followed: whether the last packet that was seen ended as the last of them does.
#[derive(Debug, Default, Clone, Copy)]
enum Tail {
    #[default]
    NoChunks,
    Goes,
    Ended(u64),
}

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[derive(Debug, Default)]
enum Place {
    /// Nobody knows where the next head begins.
    #[default]
    Lookout,
    /// The next head begins at `end`.
    Body {
        end: u32,
        is_told: bool,
        /// More than sequence numbers can tell apart.
        is_far: bool,
    },
    Chunks {
        next: u32,
        chunks: Chunks,
    },
    Head(Begun),
    /// Nothing of it is for us any more.
    Over,
}

#[derive(Debug)]
struct Begun {
    sequence: u32,
    next: u32,
    at: u64,
    thread: Option<u64>,
    bytes: Vec<u8>,
}

/// A piece that has come too early.
#[derive(Debug)]
pub(super) struct Held {
    at: u64,
    sequence: u32,
    length: u32,
    thread: Option<u64>,
    bytes: Vec<u8>,
}

impl Held {
    pub(super) fn segment(&self) -> Segment<'_> {
        Segment {
            at: self.at,
            sequence: self.sequence,
            length: self.length,
            thread: self.thread,
            bytes: &self.bytes,
            is_fresh: true,
        }
    }
}

impl Reader {
    /// A head begins at a place: it is the first byte of a connection.
    pub(super) fn begins_at(&mut self, sequence: u32) {
        if self.high.is_none() {
            self.place = Place::Body {
                end: sequence,
                is_told: true,
                is_far: false,
            };
        }
    }

    /// Takes from a segment until there is something to say, or nothing left.
    pub(super) fn step(&mut self, segment: &mut Segment<'_>, permit: Permit) -> Option<Said> {
        if let Some(at) = self.ended.take() {
            return Some(Said::End(Some(at)));
        }
        while segment.length > 0 {
            if let Some(said) = self.take(segment, permit) {
                self.saw(segment);
                return Some(said);
            }
        }
        self.saw(segment);
        self.ended.take().map(|at| Said::End(Some(at)))
    }

    fn saw(&mut self, segment: &Segment<'_>) {
        let is_new = self.high.is_none_or(|h| segment.until(h) < 0);
        if is_new {
            self.high = Some(segment.sequence);
        }
    }

    fn take(&mut self, segment: &mut Segment<'_>, permit: Permit) -> Option<Said> {
        match &mut self.place {
            Place::Over => segment.skip_all(),
            Place::Lookout => {
                let is_old = self.high.is_some_and(|h| segment.until(h) > 0);
                let begins = permit.may_begin && segment.is_fresh && !is_old;
                if !is_old {
                    self.look_for_tail(segment);
                }
                if begins && head::looks_like(segment.bytes, permit.is_request, true) {
                    self.begin(segment);
                } else {
                    segment.skip_all();
                }
            }
            Place::Body {
                end,
                is_told,
                is_far,
            } => {
                let left = segment.until(*end);
                match u32::try_from(left) {
                    Ok(left) if left > 0 => {
                        if *is_far || segment.length < left {
                            segment.skip_all();
                            return None;
                        }
                        segment.skip(left);
                        if !std::mem::replace(is_told, true) {
                            return Some(Said::End(Some(segment.at)));
                        }
                    }
                    _ => {
                        if *is_far && left < 0 {
                            segment.skip_all();
                            return None;
                        }
                        if !std::mem::replace(is_told, true) {
                            return Some(Said::End(None));
                        }
                        self.next_head(segment, permit, left == 0);
                    }
                }
            }
            Place::Chunks { next, chunks } => {
                let gap = ahead(*next, segment.sequence);
                if let Ok(gap) = u32::try_from(gap) {
                    match chunks.follow(gap, segment) {
                        Followed::More => *next = segment.sequence,
                        Followed::Lost => {
                            self.place = Place::Lookout;
                            self.tail = Tail::Goes;
                        }
                        Followed::End => {
                            self.place = Place::Body {
                                end: segment.sequence,
                                is_told: true,
                                is_far: false,
                            };
                            return Some(Said::End(Some(segment.at)));
                        }
                    }
                } else {
                    segment.skip(gap.unsigned_abs());
                }
            }
            Place::Head(_) => return self.go_on(segment, permit),
        }
        None
    }

    /// Where a head should begin.
    fn next_head(&mut self, segment: &mut Segment<'_>, permit: Permit, is_exact: bool) {
        if is_exact && permit.is_request {
            // RFC 9112, 2.2: an empty line before a request is ignored.
            while let [b'\r' | b'\n', ..] = segment.bytes {
                segment.skip(1);
            }
            if segment.length == 0 {
                self.place = Place::Body {
                    end: segment.sequence,
                    is_told: true,
                    is_far: false,
                };
                return;
            }
        }
        let is_seen = !segment.bytes.is_empty();
        if is_exact && is_seen && head::looks_like(segment.bytes, permit.is_request, false) {
            self.begin(segment);
        } else {
            self.place = Place::Lookout;
        }
    }

    fn look_for_tail(&mut self, segment: &Segment<'_>) {
        if matches!(self.tail, Tail::NoChunks) {
            return;
        }
        let is_whole = distance(segment.bytes.len()) == segment.length;
        self.tail = if is_whole && segment.bytes.ends_with(LAST_CHUNK) {
            Tail::Ended(segment.at)
        } else {
            Tail::Goes
        };
    }

    /// When the last body's last byte came, if its chunks could not be followed and nothing came after what looked like their end.
    pub(super) fn tail(&self) -> Option<u64> {
        match self.tail {
            Tail::Ended(at) => Some(at),
            Tail::NoChunks | Tail::Goes => None,
        }
    }

    fn begin(&mut self, segment: &Segment<'_>) {
        self.tail = Tail::NoChunks;
        self.place = Place::Head(Begun {
            sequence: segment.sequence,
            next: segment.sequence,
            at: segment.at,
            thread: segment.thread,
            bytes: Vec::new(),
        });
    }

    fn go_on(&mut self, segment: &mut Segment<'_>, permit: Permit) -> Option<Said> {
        let Place::Head(begun) = &mut self.place else {
            return None;
        };
        let gap = ahead(begun.next, segment.sequence);
        if gap < 0 {
            segment.skip(gap.unsigned_abs());
            return None;
        }
        if gap > 0 {
            if self.held.len() < MAX_HELD && segment.bytes.len() <= MAX_HELD_BYTES {
                self.held.push(Held {
                    at: segment.at,
                    sequence: segment.sequence,
                    length: segment.length,
                    thread: segment.thread,
                    bytes: segment.bytes.to_vec(),
                });
                // Not looked at: it comes again.
                segment.length = 0;
                segment.sequence = begun.next;
                return None;
            }
            return self.finish(segment.at, permit, None);
        }
        if begun.thread != segment.thread {
            begun.thread = None;
        }
        let before = begun.bytes.len();
        let room = MAX_HEAD.saturating_sub(before).min(segment.bytes.len());
        let taken = segment.bytes.get(..room).unwrap_or_default();
        begun.bytes.extend_from_slice(taken);
        if let Some(end) = head::end_of(&begun.bytes) {
            begun.bytes.truncate(end);
            segment.skip(distance(end.saturating_sub(before)));
            return self.finish(segment.at, permit, Some(segment.sequence));
        }
        segment.skip(distance(room));
        begun.next = segment.sequence;
        let is_cut = segment.length > 0 || begun.bytes.len() >= MAX_HEAD;
        if is_cut {
            return self.finish(segment.at, permit, None);
        }
        None
    }

    /// The head is whole and the body begins at `body`, or no more of it will be seen.
    fn finish(&mut self, at: u64, permit: Permit, body: Option<u32>) -> Option<Said> {
        let Place::Head(begun) = std::mem::take(&mut self.place) else {
            return None;
        };
        let mut head = head::parse(&begun.bytes, permit.is_request, body.is_some())?;
        head.at = begun.at;
        head.sequence = begun.sequence;
        head.whole_at = at;
        head.thread = begun.thread;
        if let Some(body) = body {
            self.place = self.behind(&head, permit, body, at);
        }
        Some(Said::Head(Box::new(head)))
    }

    /// RFC 9112, 6.3: the length of a message's body.
    fn behind(&mut self, head: &Head, permit: Permit, body: u32, at: u64) -> Place {
        let (is_bodiless, until_close) = match &head.line {
            Line::Request { method, .. } => {
                if method.as_deref() == Some("CONNECT") {
                    return Place::Over;
                }
                (false, false)
            }
            Line::Response { status } => {
                let status = status.unwrap_or(0);
                if status == 101 || permit.is_connect && (200..300).contains(&status) {
                    return Place::Over;
                }
                let none = matches!(status, 100..200 | 204 | 304) || permit.is_bodiless;
                (none, true)
            }
        };
        let length = match head.framing {
            _ if is_bodiless => 0,
            Framing::Length(n) => n,
            Framing::None if until_close => return Place::Over,
            Framing::None => 0,
            Framing::Chunked => {
                return Place::Chunks {
                    next: body,
                    chunks: Chunks::default(),
                };
            }
            Framing::Unknown => return Place::Lookout,
        };
        if length == 0 {
            self.ended = Some(at);
        }
        let low = u32::try_from(length & u64::from(u32::MAX)).unwrap_or(0);
        Place::Body {
            end: body.wrapping_add(low),
            is_told: length == 0,
            is_far: length > u64::from(i32::MAX.unsigned_abs()),
        }
    }

    /// A piece that was held back and that it is time for.
    pub(super) fn take_held(&mut self) -> Option<Held> {
        let next = match &self.place {
            Place::Head(begun) => Some(begun.next),
            _ => None,
        };
        let is_due = |h: &Held| next.is_none_or(|n| ahead(n, h.sequence) <= 0);
        let due = self.held.iter().position(is_due)?;
        Some(self.held.remove(due))
    }

    /// Whether a head has begun and is not whole.
    pub(super) fn is_in_head(&self) -> bool {
        matches!(self.place, Place::Head(_))
    }

    /// A head that has begun is taken as far as it was seen: the rest won't come, since it was answered.
    pub(super) fn cut_off(&mut self, at: u64, permit: Permit) -> Option<Box<Head>> {
        match self.finish(at, permit, None)? {
            Said::Head(head) => Some(head),
            Said::End(_) => None,
        }
    }

    /// Records were lost before a place: heads may have been among them. `false`: they can't, since it is within a body.
    pub(super) fn lost(&mut self, sequence: u32) -> bool {
        if let Place::Body { end, is_far, .. } = &self.place
            && !is_far
            && ahead(sequence, *end) >= 0
        {
            return false;
        }
        self.held.clear();
        if !matches!(self.place, Place::Over) {
            self.place = Place::Lookout;
        }
        true
    }

    /// Nothing that comes is for us.
    pub(super) fn over(&mut self) {
        self.place = Place::Over;
        self.held.clear();
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        let held: usize = self.held.iter().map(|h| h.bytes.len()).sum();
        match &self.place {
            Place::Head(begun) => held + begun.bytes.capacity(),
            _ => held,
        }
    }
}

/// Which side a stream that is older than the tracer is on: `Some(true)` for requests.
pub(super) fn side_of(bytes: &[u8]) -> Option<bool> {
    if head::looks_like(bytes, false, true) {
        return Some(false);
    }
    head::looks_like(bytes, true, true).then_some(true)
}

#[cfg(test)]
mod tests;

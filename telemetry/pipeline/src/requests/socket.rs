//! One connection, as one of its ends has it.

use std::collections::{BTreeMap, VecDeque};

use super::{
    Direction, Guess, Piece, Role,
    exchange::{Ends, Exchange},
    http1, http2,
    segment::ahead,
};

/// What reads a direction.
#[derive(Debug)]
pub(super) enum Reader {
    Http1(http1::Reader),
    Http2(Box<http2::Reader>),
}

/// One direction.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) reader: Reader,
    next_number: Option<u32>,
}

/// What a piece's number says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Numbered {
    Next,
    /// So many are missing before it.
    Missing(u32),
    /// It was there before.
    Stale,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) ends: Ends,
    pub(super) guess: Guess,
    pub(super) at: u64,
    /// Which direction carries requests, once it is known.
    pub(super) requests: Option<Direction>,
    sides: [Side; 2],
    /// Of HTTP/1, in order: the first may be answered.
    pub(super) queue: VecDeque<Exchange>,
    /// Of HTTP/2.
    pub(super) streams: BTreeMap<u32, Exchange>,
    /// Who reads requests here.
    pub(super) reads: Option<u64>,
    /// Several requests were on their way at once.
    pub(super) is_pipelined: bool,
    /// Requests and responses can't be told apart any more.
    pub(super) is_unknown: bool,
    /// Bytes held for it, as far as they are in the sum of all.
    pub(super) held: usize,
}

impl Socket {
    /// As its first piece has it; `is_older` if a tracer before this one has seen its beginning.
    pub(super) fn new(piece: &Piece<'_>, is_older: bool) -> Self {
        let requests = match piece.role {
            Role::Client => Some(Direction::Out),
            Role::Server => Some(Direction::In),
            Role::Unknown => None,
        };
        let is_from_start = piece.role != Role::Unknown && !is_older;
        Self {
            ends: Ends {
                cgroup: piece.cgroup,
                local: piece.local,
                remote: piece.remote,
                vip: piece.vip,
                is_server: piece.role == Role::Server,
                is_older: !is_from_start,
            },
            guess: piece.protocol,
            at: piece.at,
            requests,
            sides: [
                Side::new(piece.protocol, is_from_start),
                Side::new(piece.protocol, is_from_start),
            ],
            queue: VecDeque::new(),
            streams: BTreeMap::new(),
            reads: None,
            is_pipelined: false,
            is_unknown: false,
            held: 0,
        }
    }

    /// The kernel has changed its mind about what it is.
    pub(super) fn becomes(&mut self, guess: Guess) {
        self.guess = guess;
        for side in &mut self.sides {
            side.reader = Side::new(guess, false).reader;
        }
    }

    /// Which way requests go is known.
    pub(super) fn requests_go(&mut self, direction: Direction) {
        self.requests = Some(direction);
        self.ends.is_server = direction == Direction::In;
    }

    pub(super) fn side(&mut self, direction: Direction) -> &mut Side {
        let [incoming, outgoing] = &mut self.sides;
        match direction {
            Direction::In => incoming,
            Direction::Out => outgoing,
        }
    }

    /// Requests of HTTP/1 whose response's head was not seen.
    pub(super) fn n_unanswered(&self) -> usize {
        let answered = self.queue.iter().filter(|x| x.response.is_some());
        self.queue.len() - answered.count()
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.queue.is_empty() && self.streams.is_empty()
    }

    /// When the response that is being sent seems to have ended, where its end can't be followed.
    pub(super) fn response_tail(&mut self) -> Option<u64> {
        let responses = self.requests?.other();
        match &self.side(responses).reader {
            Reader::Http1(reader) => reader.tail(),
            Reader::Http2(_) => None,
        }
    }

    /// Bytes that its readers hold.
    pub(super) fn bytes(&self) -> usize {
        self.sides.iter().map(|s| s.reader.bytes()).sum()
    }

    /// Lets go of what its readers hold: what was said before is unknown.
    pub(super) fn shed(&mut self) {
        for side in &mut self.sides {
            match &mut side.reader {
                Reader::Http1(reader) => *reader = http1::Reader::default(),
                Reader::Http2(reader) => **reader = http2::Reader::new(false),
            }
        }
    }
}

impl Side {
    fn new(guess: Guess, is_from_start: bool) -> Self {
        Self {
            reader: match guess {
                Guess::Http1 => Reader::Http1(http1::Reader::default()),
                Guess::Http2 => Reader::Http2(Box::new(http2::Reader::new(is_from_start))),
            },
            next_number: None,
        }
    }

    /// Takes a piece's number.
    pub(super) fn number(&mut self, number: u32) -> Numbered {
        let expected = self.next_number.unwrap_or(0);
        let gap = ahead(expected, number);
        if gap < 0 && self.next_number.is_some() {
            return Numbered::Stale;
        }
        self.next_number = Some(number.wrapping_add(1));
        match u32::try_from(gap) {
            Ok(0) => Numbered::Next,
            Ok(n) => Numbered::Missing(n),
            Err(_) => Numbered::Missing(1),
        }
    }

    /// Whether nothing of it was seen.
    pub(super) fn is_new(&self) -> bool {
        self.next_number.is_none()
    }
}

impl Reader {
    fn bytes(&self) -> usize {
        match self {
            Self::Http1(reader) => reader.bytes(),
            Self::Http2(reader) => reader.bytes(),
        }
    }
}

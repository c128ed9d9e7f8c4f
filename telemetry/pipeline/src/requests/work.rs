//! What one piece makes of one connection: heads begin requests, answer them, and end them.

use std::collections::BTreeMap;

use super::{
    Direction, Guess, Piece, Role,
    exchange::{End, Exchange},
    head::{Framing, Head, Line},
    http1::{self, Permit},
    http2,
    ids::Hop,
    links::Begins,
    segment::Segment,
    socket::{Numbered, Reader, Socket},
    tracer::Shared,
};

/// One piece's work on one connection.
pub(super) struct Work<'a> {
    pub(super) shared: &'a mut Shared,
    pub(super) others: &'a BTreeMap<u64, Box<Socket>>,
    pub(super) id: u64,
}

impl Work<'_> {
    pub(super) fn piece(&mut self, socket: &mut Socket, piece: &Piece<'_>) {
        if piece.protocol != socket.guess {
            self.shared.end_all(socket, piece.at, |_| End::Lost);
            socket.becomes(piece.protocol);
        }
        let is_first = socket.side(piece.direction).is_new();
        let missing = match socket.side(piece.direction).number(piece.number) {
            Numbered::Next => 0,
            Numbered::Missing(n) => n,
            Numbered::Stale => {
                self.shared.counts.stale_pieces += 1;
                return;
            }
        };
        if missing > 0 && socket.requests.is_none_or(|d| d == piece.direction) {
            self.not_seen(socket);
        }
        // What came before a tracer's time is in none of its streams.
        let is_missing = missing > 0 && !(is_first && socket.ends.is_older);
        if is_missing {
            self.shared.counts.missing_pieces += u64::from(missing);
        }
        let segment = Segment::of(piece);
        match piece.protocol {
            Guess::Http1 => {
                let is_start = is_first && missing == 0 && piece.role != Role::Unknown;
                self.http1(socket, piece.direction, segment, is_missing, is_start);
            }
            Guess::Http2 => self.http2(socket, piece.direction, segment, is_missing),
        }
    }

    /// Requests that this end may serve were not seen.
    fn not_seen(&mut self, socket: &Socket) {
        if socket.ends.is_server || socket.requests.is_none() {
            let links = &mut self.shared.links;
            links.doubt(socket.ends.cgroup, socket.at);
        }
    }

    /// What all hold together is bounded: who makes it too much loses what it holds.
    pub(super) fn keep_bounds(&mut self, socket: &mut Socket) {
        let now = socket.bytes();
        self.shared.held = self.shared.held - socket.held + now;
        socket.held = now;
        if self.shared.held > self.shared.options.held_bytes && now > 0 {
            self.shared.counts.held_full += 1;
            self.not_seen(socket);
            socket.shed();
            let left = socket.bytes();
            self.shared.held = self.shared.held - socket.held + left;
            socket.held = left;
        }
    }

    fn http1(
        &mut self,
        socket: &mut Socket,
        direction: Direction,
        mut segment: Segment<'_>,
        is_missing: bool,
        is_start: bool,
    ) {
        if socket.is_unknown {
            self.shared.counts.unknown_streams += 1;
            self.not_seen(socket);
            return;
        }
        if socket.requests.is_none() {
            let Some(is_request) = http1::side_of(segment.bytes) else {
                self.not_seen(socket);
                return;
            };
            socket.requests_go(if is_request {
                direction
            } else {
                direction.other()
            });
        }
        let is_request = socket.requests == Some(direction);
        let Reader::Http1(reader) = &mut socket.side(direction).reader else {
            return;
        };
        if is_start {
            reader.begins_at(segment.sequence);
        }
        if is_missing && reader.lost(segment.sequence) {
            self.heads_lost(socket, segment.at);
        }
        self.http1_segment(socket, direction, is_request, &mut segment);
        loop {
            let Reader::Http1(reader) = &mut socket.side(direction).reader else {
                return;
            };
            let Some(held) = reader.take_held() else {
                return;
            };
            self.http1_segment(socket, direction, is_request, &mut held.segment());
        }
    }

    fn http1_segment(
        &mut self,
        socket: &mut Socket,
        direction: Direction,
        is_request: bool,
        segment: &mut Segment<'_>,
    ) {
        loop {
            let unanswered = socket.n_unanswered();
            let is_asking = !is_request && Self::is_asking(socket);
            let asked = socket.queue.iter().find(|x| x.response.is_none());
            let asked = asked.and_then(Exchange::method);
            let permit = Permit {
                is_request,
                may_begin: if is_request {
                    unanswered == 0
                } else {
                    unanswered == 1 || unanswered == 0 && is_asking
                },
                is_bodiless: asked == Some("HEAD"),
                is_connect: asked == Some("CONNECT"),
            };
            let Reader::Http1(reader) = &mut socket.side(direction).reader else {
                return;
            };
            match (reader.step(segment, permit), is_request) {
                (None, _) => return,
                (Some(http1::Said::End(_)), true) => {}
                (Some(http1::Said::End(at)), false) => self.body_over(socket, at, segment.at),
                (Some(http1::Said::Head(head)), true) => self.http1_request(socket, head),
                (Some(http1::Said::Head(head)), false) => self.http1_response(socket, head),
            }
            if socket.is_unknown {
                return;
            }
        }
    }

    /// Whether a request's head has begun and is not whole.
    fn is_asking(socket: &mut Socket) -> bool {
        let Some(direction) = socket.requests else {
            return false;
        };
        match &socket.side(direction).reader {
            Reader::Http1(reader) => reader.is_in_head(),
            Reader::Http2(_) => false,
        }
    }

    /// An answer is there for a request whose head is not whole: no more of it will be seen.
    fn cut_request_off(&mut self, socket: &mut Socket, at: u64) {
        let permit = Permit {
            is_request: true,
            may_begin: true,
            is_bodiless: false,
            is_connect: false,
        };
        let Some(direction) = socket.requests else {
            return;
        };
        if let Reader::Http1(reader) = &mut socket.side(direction).reader
            && let Some(head) = reader.cut_off(at, permit)
        {
            self.http1_request(socket, head);
        }
    }

    /// Heads were lost: what was in flight can't be paired.
    fn heads_lost(&mut self, socket: &mut Socket, at: u64) {
        socket.is_unknown |= socket.is_pipelined;
        self.shared.end_all(socket, at, |x| match x.response {
            None => End::Lost,
            Some(_) => End::Unseen,
        });
    }

    /// The last byte of the response that is being sent.
    fn body_over(&mut self, socket: &mut Socket, at: Option<u64>, now: u64) {
        let tail = socket.response_tail();
        let is_answered = |x: &Exchange| x.response.is_some();
        if socket.queue.front().is_some_and(is_answered)
            && let Some(x) = socket.queue.pop_front()
        {
            let at = at.or(tail);
            let how = if at.is_some() {
                End::Whole
            } else {
                End::Unseen
            };
            self.shared.end(socket, &x, how, at.unwrap_or(now));
        }
    }

    fn http1_request(&mut self, socket: &mut Socket, head: Box<Head>) {
        // What is answered is over when the next is asked, seen or not, unless there is a queue.
        if socket.n_unanswered() == 0 {
            self.body_over(socket, None, head.at);
        }
        if socket.queue.len() >= self.shared.options.requests_per_socket {
            self.shared.counts.requests_full += 1;
            self.not_seen(socket);
            self.heads_lost(socket, head.at);
            socket.is_unknown = true;
            return;
        }
        if let Some(exchange) = self.begin(socket, head, 0) {
            socket.queue.push_back(exchange);
        } else {
            self.heads_lost(socket, socket.at);
            socket.is_unknown = true;
        }
    }

    fn http1_response(&mut self, socket: &mut Socket, head: Box<Head>) {
        let status = match head.line {
            Line::Response { status } => status.unwrap_or(0),
            Line::Request { .. } => 0,
        };
        let is_interim = (100..200).contains(&status) && status != 101;
        if is_interim {
            return;
        }
        self.body_over(socket, None, head.at);
        if socket.n_unanswered() == 0 {
            self.cut_request_off(socket, head.at);
        }
        let unanswered = socket.n_unanswered();
        socket.is_pipelined |= unanswered > 1;
        let Some(exchange) = socket.queue.front_mut() else {
            self.shared.counts.unpaired_responses += 1;
            self.not_seen(socket);
            return;
        };
        let is_server = socket.ends.is_server;
        let links = &mut self.shared.links;
        links.answered(exchange.node, is_server, head.at, head.thread);
        let is_connect = exchange.method() == Some("CONNECT") && (200..300).contains(&status);
        let is_bodiless = matches!(status, 204 | 304) || exchange.method() == Some("HEAD");
        let has_framing = head.framing != Framing::None;
        exchange.until_close = !has_framing && !is_bodiless && !head.is_cut;
        exchange.answer(head);
        if status == 101 || is_connect {
            if let Some(x) = socket.queue.pop_front() {
                let at = x.response.as_ref().map_or(socket.at, |r| r.whole_at);
                self.shared.end(socket, &x, End::Whole, at);
            }
            for direction in [Direction::In, Direction::Out] {
                if let Reader::Http1(reader) = &mut socket.side(direction).reader {
                    reader.over();
                }
            }
        }
    }

    /// Begins to follow a request, unless there is no room.
    fn begin(&mut self, socket: &mut Socket, head: Box<Head>, stream: u32) -> Option<Exchange> {
        let shared = &mut *self.shared;
        if !shared.links.has_room() {
            shared.counts.in_flight_full += 1;
            self.not_seen(socket);
            return None;
        }
        shared.counts.requests += 1;
        let ends = socket.ends;
        let (client, server) = if ends.is_server {
            (ends.remote, ends.local)
        } else {
            (ends.local, ends.remote)
        };
        let other = if ends.is_server {
            Role::Client
        } else {
            Role::Server
        };
        let peer = (shared.options.peers)(ends.remote, other);
        let begins = Begins {
            at: head.at,
            cgroup: ends.cgroup,
            socket: self.id,
            hop: Hop {
                client,
                server,
                sequence: head.sequence,
                stream,
            },
            thread: head.thread,
            context: head.context,
            is_unsure: head.is_cut && head.context.is_none(),
            peer,
        };
        let links = &mut shared.links;
        let node = if ends.is_server {
            if let Some(thread) = begins.thread {
                if socket.reads.is_some_and(|before| before != thread) {
                    links.moved(ends.cgroup, thread, begins.at);
                }
                socket.reads = Some(thread);
            }
            let is_open = |other| self.others.contains_key(&other);
            links.server(&begins, is_open)
        } else {
            links.client(&begins)
        };
        Some(Exchange::new(node, head, stream != 0))
    }

    fn http2(
        &mut self,
        socket: &mut Socket,
        direction: Direction,
        segment: Segment<'_>,
        is_missing: bool,
    ) {
        let mut said = Vec::new();
        let Reader::Http2(reader) = &mut socket.side(direction).reader else {
            return;
        };
        if is_missing {
            reader.lost();
        }
        reader.push(segment, &mut said);
        let trouble = reader.trouble();
        if trouble != http2::Trouble::default() && socket.requests != Some(direction.other()) {
            self.not_seen(socket);
        }
        self.shared.counts.missed_blocks += trouble.missed;
        self.shared.counts.bad_blocks += trouble.bad_blocks;
        for said in said {
            self.http2_said(socket, direction, said);
        }
    }

    fn http2_said(&mut self, socket: &mut Socket, direction: Direction, said: http2::Said) {
        if socket.requests.is_none() {
            let http2::Said::Head { head, .. } = &said else {
                return;
            };
            match head.line {
                Line::Request { .. } => socket.requests_go(direction),
                Line::Response { status: Some(_) } => socket.requests_go(direction.other()),
                Line::Response { status: None } => {
                    self.shared.counts.unknown_heads += 1;
                    self.not_seen(socket);
                    return;
                }
            }
        }
        let is_request = socket.requests == Some(direction);
        match said {
            http2::Said::Head { stream, head, .. } if is_request => {
                self.http2_request(socket, stream, head);
            }
            http2::Said::Head {
                stream,
                head,
                is_end,
            } => self.http2_response(socket, stream, head, is_end),
            http2::Said::End { .. } if is_request => {}
            http2::Said::End { stream, at } => self.http2_end(socket, stream, End::Whole, at),
            http2::Said::Reset { stream, code, at } => {
                self.http2_end(socket, stream, End::Reset(code), at);
            }
        }
    }

    fn http2_request(&mut self, socket: &mut Socket, stream: u32, mut head: Box<Head>) {
        if socket.streams.contains_key(&stream) {
            // Trailers of a request.
            return;
        }
        if socket.streams.len() >= self.shared.options.requests_per_socket {
            self.shared.counts.requests_full += 1;
            self.not_seen(socket);
            return;
        }
        if matches!(head.line, Line::Response { .. }) {
            head.is_cut = true;
            head.line = Line::Request {
                method: None,
                path: None,
                minor: None,
            };
        }
        if let Some(exchange) = self.begin(socket, head, stream) {
            socket.streams.insert(stream, exchange);
        }
    }

    fn http2_response(&mut self, socket: &mut Socket, stream: u32, head: Box<Head>, is_end: bool) {
        let Some(exchange) = socket.streams.get_mut(&stream) else {
            self.shared.counts.unpaired_responses += 1;
            self.not_seen(socket);
            return;
        };
        let at = head.whole_at;
        if let Line::Response {
            status: Some(100..200),
        } = head.line
        {
            return;
        }
        if exchange.response.is_none() {
            let is_server = socket.ends.is_server;
            let links = &mut self.shared.links;
            links.answered(exchange.node, is_server, head.at, head.thread);
        }
        exchange.answer(head);
        if is_end {
            self.http2_end(socket, stream, End::Whole, at);
        }
    }

    fn http2_end(&mut self, socket: &mut Socket, stream: u32, how: End, at: u64) {
        if let Some(exchange) = socket.streams.remove(&stream) {
            self.shared.end(socket, &exchange, how, at);
        }
    }
}

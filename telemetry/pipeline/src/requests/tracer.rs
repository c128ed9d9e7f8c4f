//! Pieces in, spans out.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{
    Counts, Options, Piece, RequestSpan, Role, Rule,
    exchange::{End, Exchange, Named},
    links::{Limits, Links},
    sampling::Bounds,
    socket::Socket,
    template::{self, Templates},
    work::Work,
};

/// Makes spans of pieces. One for all tasks of a node; no call does more than a piece is long.
#[derive(Debug)]
pub struct Tracer {
    sockets: BTreeMap<u64, Box<Socket>>,
    shared: Shared,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) counts: Counts,
    pub(super) links: Links,
    rules: BTreeMap<u64, Arc<Rule>>,
    no_rule: Arc<Rule>,
    bounds: Bounds,
    templates: Templates,
    pub(super) held: usize,
    done: VecDeque<RequestSpan>,
}

impl Tracer {
    /// An empty one.
    pub fn new(options: Options) -> Self {
        let links = Links::new(Limits {
            nodes: options.requests,
            threads: options.threads,
            hops: options.hops,
            proof: options.proof,
            decide_ns: options.decide_ns,
        });
        Self {
            sockets: BTreeMap::new(),
            shared: Shared {
                options,
                counts: Counts::default(),
                links,
                rules: BTreeMap::new(),
                no_rule: Arc::default(),
                bounds: Bounds::default(),
                templates: Templates::default(),
                held: 0,
                done: VecDeque::new(),
            },
        }
    }

    /// What holds for a task's requests from now on. Without a rule all are kept, up to the default bound.
    pub fn rule(&mut self, cgroup: u64, rule: Rule) {
        self.shared.rules.insert(cgroup, Arc::new(rule));
    }

    /// A task is gone. Its connections are to be closed by [`Self::closed`].
    pub fn task_gone(&mut self, cgroup: u64) {
        let shared = &mut self.shared;
        shared.rules.remove(&cgroup);
        shared.links.forget(cgroup);
        let rules = &shared.rules;
        let is_there = |service: &Arc<str>| rules.values().any(|r| r.service == *service);
        shared.bounds.keep(is_there);
        shared.templates.keep(is_there);
    }

    /// Takes a piece. Those of one socket and direction must come in the order of their numbers, and those of one node about in the order of time.
    pub fn piece(&mut self, piece: &Piece<'_>) {
        let shared = &mut self.shared;
        shared.counts.pieces += 1;
        // Out of the map while it is worked on, so that the others can be asked.
        let known = self.sockets.remove(&piece.socket);
        let mut socket = match known {
            Some(socket) => socket,
            None if self.sockets.len() >= shared.options.sockets => {
                shared.counts.sockets_full += 1;
                if piece.role != Role::Client {
                    shared.links.doubt(piece.cgroup, piece.at);
                }
                return;
            }
            None => {
                // What is missing before the first was taken by a tracer before this one, unless something is known to be lost.
                let is_older = piece.number > 0 && shared.counts.lost_records == 0;
                Box::new(Socket::new(piece, is_older))
            }
        };
        socket.at = piece.at.max(socket.at);
        let mut work = Work {
            shared,
            others: &self.sockets,
            id: piece.socket,
        };
        work.piece(&mut socket, piece);
        work.keep_bounds(&mut socket);
        self.sockets.insert(piece.socket, socket);
        self.shared.hand_out(piece.at);
    }

    /// A socket was closed.
    pub fn closed(&mut self, socket: u64, at: u64) {
        let Some(mut socket) = self.sockets.remove(&socket) else {
            return;
        };
        let shared = &mut self.shared;
        shared.held -= socket.held;
        if let Some(at) = socket.response_tail()
            && socket.queue.front().is_some_and(|x| x.response.is_some())
            && let Some(x) = socket.queue.pop_front()
        {
            shared.end(&socket, &x, End::Whole, at);
        }
        shared.end_all(&mut socket, at, |x| match &x.response {
            None => End::Closed,
            Some(_) if x.until_close => End::Closed,
            Some(_) if x.is_http2 => End::Closed,
            Some(_) => End::Unseen,
        });
        shared.hand_out(at);
    }

    /// So many records were lost, nobody knows whose: the numbers will say, and until then parents are not guessed. To be called before the
    /// pieces that came after.
    pub fn lost(&mut self, n: u64) {
        let lost = &mut self.shared.counts.lost_records;
        *lost = lost.saturating_add(n);
        if n > 0 {
            self.shared.links.doubt_all();
        }
    }

    /// Gives up what has waited for too long; to be called about once a second.
    pub fn tick(&mut self, now: u64) {
        let shared = &mut self.shared;
        for socket in self.sockets.values_mut() {
            shared.end_old(socket, now);
        }
        let idle = shared.options.idle_ns;
        let Shared { held, .. } = shared;
        self.sockets.retain(|_, socket| {
            let stays = !socket.is_quiet() || now.saturating_sub(socket.at) <= idle;
            if !stays {
                *held -= socket.held;
            }
            stays
        });
        shared.links.tick(now);
        shared.hand_out(now);
    }

    /// Spans that are done since the last time.
    pub fn drain(&mut self) -> Vec<RequestSpan> {
        self.shared.done.drain(..).collect()
    }

    /// What became of what.
    pub fn counts(&self) -> Counts {
        Counts {
            threads_full: self.shared.links.n_full(),
            ..self.shared.counts
        }
    }

    /// Connections that are followed, requests in flight or undecided, bytes held for heads and tables.
    pub fn holds(&self) -> (usize, usize, usize) {
        let shared = &self.shared;
        (self.sockets.len(), shared.links.len(), shared.held)
    }
}

impl Shared {
    fn rule(&self, cgroup: u64) -> Arc<Rule> {
        Arc::clone(self.rules.get(&cgroup).unwrap_or(&self.no_rule))
    }

    /// Hands out spans whose place is known, those of them that are wanted.
    fn hand_out(&mut self, now: u64) {
        for ready in self.links.ready() {
            let rule = self.rule(ready.span.cgroup);
            let trace_id = ready.span.context.trace_id;
            let is_kept = ready.is_sampled.unwrap_or_else(|| rule.keeps(trace_id));
            if !is_kept {
                self.counts.not_sampled += 1;
                continue;
            }
            if !self.bounds.take(&rule, now) {
                self.counts.over_rate += 1;
                continue;
            }
            if self.done.len() >= self.options.waiting {
                self.counts.waiting_full += 1;
                continue;
            }
            let mut span = *ready.span;
            if let Some(why) = ready.unlinked {
                self.counts.unlinked += 1;
                span.attrs
                    .push(("waggle.request.unlinked", why.name().into()));
            }
            self.counts.spans += 1;
            self.done.push_back(span);
        }
    }

    /// An exchange is over.
    pub(super) fn end(&mut self, socket: &Socket, exchange: &Exchange, how: End, at: u64) {
        match how {
            End::Lost => self.counts.lost_responses += 1,
            End::GivenUp => self.counts.unanswered += 1,
            _ => {}
        }
        if exchange.is_unknown() {
            self.counts.unknown_heads += 1;
        }
        let rule = self.rule(socket.ends.cgroup);
        let (templates, most) = (&mut self.templates, self.options.templates);
        let full = &mut self.counts.templates_full;
        let span = exchange.span(&socket.ends, how, at, |named| {
            let found = match named {
                Named::Path(path) => templates.of(&rule.service, path, most),
                Named::Method(text) => templates.bounded(&rule.service, text.to_owned(), most),
            };
            found.unwrap_or_else(|| {
                *full += 1;
                template::OTHER.into()
            })
        });
        let is_server = socket.ends.is_server;
        self.links
            .finished(exchange.node, Box::new(span), is_server, at);
    }

    pub(super) fn end_all(&mut self, socket: &mut Socket, at: u64, how: impl Fn(&Exchange) -> End) {
        let queue = std::mem::take(&mut socket.queue);
        let streams = std::mem::take(&mut socket.streams);
        for exchange in queue.into_iter().chain(streams.into_values()) {
            self.end(socket, &exchange, how(&exchange), at);
        }
    }

    /// Ends what has taken too long.
    fn end_old(&mut self, socket: &mut Socket, now: u64) {
        let (answer, body) = (self.options.answer_ns, self.options.body_ns);
        let idle = self.options.idle_ns;
        let last = socket.at;
        let is_old = |x: &Exchange| match &x.response {
            None => now.saturating_sub(x.request.at) > answer,
            // The end of a stream comes by itself, and may be long in coming.
            Some(r) if x.is_http2 => now.saturating_sub(r.at) > answer,
            Some(_) if x.until_close => now.saturating_sub(last) > idle,
            // As long as something comes, it may be going on.
            Some(r) => now.saturating_sub(r.at.max(last)) > body,
        };
        let tail = socket.response_tail();
        let how = |x: &Exchange| match (&x.response, tail) {
            (None, _) => (End::GivenUp, now),
            (Some(_), Some(at)) if !x.is_http2 => (End::Whole, at),
            (Some(_), _) => (End::Unseen, now),
        };
        while socket.queue.front().is_some_and(is_old) {
            if let Some(x) = socket.queue.pop_front() {
                if x.response.is_none() {
                    // Its answer may come yet, and would be taken for another's.
                    socket.is_unknown = true;
                }
                let (how, at) = how(&x);
                self.end(socket, &x, how, at);
            }
        }
        let streams = socket.streams.iter();
        let old: Vec<u32> = streams
            .filter(|(_, x)| is_old(x))
            .map(|(s, _)| *s)
            .collect();
        for stream in old {
            if let Some(x) = socket.streams.remove(&stream) {
                let (how, at) = how(&x);
                self.end(socket, &x, how, at);
            }
        }
    }
}

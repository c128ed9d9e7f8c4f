//! The law of links: a parent is right, or there is none. Programs of several kinds serve requests and make calls in any order, and
//! each call says by its path whose it is.

use std::collections::BTreeMap;

use proptest::prelude::*;
use waggle_telemetry_pipeline::{
    names::SpanSide,
    requests::{Direction, Guess, Options, Peer, RequestSpan, Role, Tracer},
};

use crate::support::*;

/// How a program works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A thread for each connection.
    Plain,
    /// One thread for all, which goes on with another request when one waits.
    EventLoop,
    /// One thread reads, others work and answer.
    Pool,
    /// Any of a few threads goes on with any request.
    Stealing,
}

/// A program's connection, and the request that is served on it.
struct Connection {
    wire: Wire,
    thread: u64,
    serves: Option<Serving>,
}

struct Serving {
    request: usize,
    thread: u64,
    calls_left: u32,
    call: Option<(Wire, u64)>,
    /// The client has gone away; work goes on.
    is_aborted: bool,
}

struct World {
    kind: Kind,
    tracer: Tracer,
    random: u64,
    now: u64,
    next_socket: u64,
    next_port: u16,
    next_thread: u64,
    next_request: usize,
    n_calls: usize,
    n_own: usize,
    connections: Vec<Connection>,
    header: bool,
    aborts: bool,
    loses: bool,
}

const CGROUP: u64 = 50;
/// What runs on this node, on another, and on none.
const PEERS: [&str; 3] = ["10.0.0.9:80", "10.0.1.9:80", "192.0.2.9:80"];

fn peers(at: std::net::SocketAddr, _: Role) -> Peer {
    match at.ip().to_string().as_str() {
        "10.0.0.9" => Peer::Here,
        "10.0.1.9" => Peer::Elsewhere,
        _ => Peer::Unknown,
    }
}

impl World {
    fn new(kind: Kind, seed: u64, n_connections: usize) -> Self {
        let options = Options {
            peers: std::sync::Arc::new(peers),
            waiting: usize::MAX,
            ..Options::default()
        };
        let mut tracer = Tracer::new(options);
        let rule = waggle_telemetry_pipeline::requests::Rule {
            spans_per_s: u32::MAX,
            ..Default::default()
        };
        for cgroup in [CGROUP, 100, 101] {
            tracer.rule(cgroup, rule.clone());
        }
        let mut out = Self {
            kind,
            tracer,
            random: seed,
            now: 1,
            next_socket: 1,
            next_port: 1024,
            next_thread: 1,
            next_request: 0,
            n_calls: 0,
            n_own: 0,
            connections: Vec::new(),
            header: false,
            aborts: false,
            loses: false,
        };
        for _ in 0..n_connections {
            let connection = out.accept();
            out.connections.push(connection);
        }
        // Business of its own begins when a program does.
        out.own_business();
        out
    }

    /// SplitMix64.
    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn wire(&mut self, client: &str, server: &str) -> Wire {
        self.next_socket += 2;
        self.next_port = self.next_port.checked_add(1).unwrap_or(1024);
        let client = format!("{client}:{}", self.next_port);
        Wire::new(Guess::Http1, &client, server, self.next_socket)
    }

    fn accept(&mut self) -> Connection {
        let mut wire = self.wire("198.51.100.7", "10.0.0.5:8000");
        wire.client.1.is_seen = false;
        wire.server.1.cgroup = CGROUP;
        self.next_thread += 1;
        Connection {
            wire,
            thread: self.next_thread,
            serves: None,
        }
    }

    /// Who does the next step of a request.
    fn worker(&mut self, own: u64, before: Option<u64>) -> u64 {
        match (self.kind, before) {
            (Kind::Plain, _) => own,
            (Kind::EventLoop, _) | (Kind::Pool, None) => 1,
            // Handed over once.
            (Kind::Pool, Some(1)) => 100 + self.random(8),
            (Kind::Pool, Some(thread)) => thread,
            (Kind::Stealing, Some(thread)) if self.random(2) == 0 => thread,
            (Kind::Stealing, _) => 200 + self.random(4),
        }
    }

    /// A call that belongs to no request.
    fn own_business(&mut self) {
        let thread = match self.kind {
            Kind::Plain => 0,
            Kind::EventLoop | Kind::Pool => 1,
            Kind::Stealing => 200 + self.random(4),
        };
        self.n_own += 1;
        let (mut wire, reader) = self.call_begins("/own", thread, None);
        self.call_ends(&mut wire, thread, reader);
    }

    fn call_begins(&mut self, path: &str, thread: u64, request: Option<usize>) -> (Wire, u64) {
        let to = PEERS[usize::try_from(self.random(3)).unwrap()];
        let mut wire = self.wire("10.0.0.5", to);
        wire.client.1.cgroup = CGROUP;
        wire.server.1.is_seen = peers(wire.server.0, Role::Server) == Peer::Here;
        let header = request.filter(|_| self.header).map(context);
        let bytes = format!("GET {path} HTTP/1.1\r\n{}\r\n", header.unwrap_or_default());
        self.next_thread += 1;
        let reader = self.next_thread;
        let threads = [thread_of(thread), Some(99 << 32 | reader)];
        wire.send(
            &mut self.tracer,
            self.now,
            true,
            bytes.as_bytes(),
            threads,
            &[],
        );
        self.n_calls += 1;
        (wire, reader)
    }

    fn call_ends(&mut self, wire: &mut Wire, thread: u64, reader: u64) {
        let threads = [Some(99 << 32 | reader), thread_of(thread)];
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        wire.send(&mut self.tracer, self.now, false, answer, threads, &[]);
        wire.close(&mut self.tracer, self.now);
    }

    /// One step of one request, or of nobody's.
    fn step(&mut self, is_last: bool) {
        self.now += 1000;
        if self.random(20) == 0 && !is_last {
            self.own_business();
            return;
        }
        let busy = |c: &Connection| !is_last || c.serves.is_some();
        let all: Vec<usize> = (0..self.connections.len())
            .filter(|i| busy(&self.connections[*i]))
            .collect();
        let Some(i) = (!all.is_empty()).then(|| self.random(all.len() as u64)) else {
            return;
        };
        let i = all[usize::try_from(i).unwrap()];
        let own = self.connections[i].thread;
        let Some(mut serving) = self.connections[i].serves.take() else {
            self.read(i, own);
            return;
        };
        serving.thread = self.worker(own, Some(serving.thread));
        let thread = serving.thread;
        if let Some((mut wire, reader)) = serving.call.take() {
            self.call_ends(&mut wire, thread, reader);
        } else if serving.calls_left > 0 {
            serving.calls_left -= 1;
            let path = format!("/of-{}", serving.request);
            serving.call = Some(self.call_begins(&path, thread, Some(serving.request)));
        } else {
            self.answer(i, &serving);
            return;
        }
        if self.aborts && !serving.is_aborted && self.random(30) == 0 {
            serving.is_aborted = true;
            self.connections[i].wire.close(&mut self.tracer, self.now);
        }
        self.connections[i].serves = Some(serving);
    }

    fn read(&mut self, i: usize, own: u64) {
        let thread = self.worker(own, None);
        let request = self.next_request;
        self.next_request += 1;
        let header = if self.header {
            context(request)
        } else {
            String::new()
        };
        let bytes = format!("GET /request-{request} HTTP/1.1\r\n{header}\r\n");
        let threads = [None, thread_of(thread)];
        let is_lost = self.loses && self.random(20) == 0;
        let wire = &mut self.connections[i].wire;
        if is_lost {
            wire.lose(false, Direction::In);
            let length = u32::try_from(bytes.len()).unwrap();
            wire.next[0] = wire.next[0].wrapping_add(length);
        } else {
            wire.send(
                &mut self.tracer,
                self.now,
                true,
                bytes.as_bytes(),
                threads,
                &[],
            );
        }
        self.connections[i].serves = Some(Serving {
            request,
            thread,
            calls_left: u32::try_from(self.random(4)).unwrap(),
            call: None,
            is_aborted: false,
        });
    }

    fn answer(&mut self, i: usize, serving: &Serving) {
        let ends = self.random(6) == 0;
        let threads = [thread_of(serving.thread), None];
        let wire = &mut self.connections[i].wire;
        if !serving.is_aborted {
            let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            wire.send(&mut self.tracer, self.now, false, bytes, threads, &[]);
        }
        if serving.is_aborted || ends {
            wire.close(&mut self.tracer, self.now);
            // A thread of a pool of plain ones takes the next.
            let thread = self.connections[i].thread;
            self.connections[i] = self.accept();
            if self.random(2) == 0 {
                self.connections[i].thread = thread;
            }
        }
    }

    /// Runs, and returns how many calls have the right parent or link, and how many calls of requests there were.
    fn run(mut self, n_requests: usize) -> (usize, usize) {
        while self.next_request < n_requests {
            self.step(false);
        }
        while self.connections.iter().any(|c| c.serves.is_some()) {
            self.step(true);
        }
        for c in &self.connections {
            c.wire.close(&mut self.tracer, self.now);
        }
        self.tracer.tick(self.now + 60_000_000_000);
        let spans = self.tracer.drain();
        assert_eq!(self.tracer.holds().1, 0);
        (
            linked(&spans, self.aborts || self.loses),
            self.n_calls - self.n_own,
        )
    }
}

/// A thread of the program; one that is told.
#[allow(
    clippy::unnecessary_wraps,
    reason = "where threads are told they may be unknown"
)]
fn thread_of(n: u64) -> Option<u64> {
    Some(77 << 32 | n)
}

/// A context that is a request's alone.
fn context(request: usize) -> String {
    format!(
        "traceparent: 00-{:032x}-{:016x}-01\r\n",
        request + 1,
        request + 1
    )
}

/// A reader that is not known, and requests that were lost: until they are over, and for a time, nothing is said.
#[test]
fn what_was_not_seen_may_be_in_flight() {
    let ask = b"GET /x HTTP/1.1\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let thread = Some(77 << 32 | 1);
    for (spoils, want) in [
        ("nothing", None),
        ("an unknown reader", Some("no_thread")),
        ("a lost request", Some("lost")),
        ("a loss of nobody knows whose", Some("lost")),
    ] {
        let options = Options {
            proof: 0,
            ..Options::default()
        };
        let mut tracer = Tracer::new(options);
        let server = |first, client: &str| {
            let mut wire = Wire::new(Guess::Http1, client, "10.0.0.5:80", first);
            wire.client.1.is_seen = false;
            wire.server.1.cgroup = CGROUP;
            wire
        };
        let mut other = server(10, "10.0.0.8:1000");
        let mut plain = server(20, "10.0.0.8:1001");
        let mut call = Wire::new(Guess::Http1, "10.0.0.5:2000", "10.0.0.9:80", 30);
        call.client.1.cgroup = CGROUP;
        call.server.1.is_seen = false;
        match spoils {
            "an unknown reader" => other.send(&mut tracer, 1, true, ask, [None; 2], &[]),
            "a lost request" => {
                other.lose(false, Direction::In);
                other.send(&mut tracer, 1, false, answer, [None; 2], &[]);
            }
            "a loss of nobody knows whose" => tracer.lost(1),
            _ => {}
        }
        plain.send(&mut tracer, 2, true, ask, [None, thread], &[]);
        call.send(&mut tracer, 3, true, ask, [thread, None], &[]);
        call.send(&mut tracer, 4, false, answer, [None, thread], &[]);
        plain.send(&mut tracer, 5, false, answer, [thread, None], &[]);
        let spans = tracer.drain();
        let call = spans.iter().find(|s| s.side == SpanSide::Client).unwrap();
        let why = text(call, "waggle.request.unlinked");
        assert_eq!(why.as_deref(), want, "{spoils}");
        assert_eq!(call.parent.is_some(), want.is_none(), "{spoils}");
    }
}

/// Checks every span against what its path says, and counts calls that have a parent or a link.
///
/// Where all requests are seen to their ends, a call without one says why; else it may look like one that nobody has asked for.
fn linked(spans: &[RequestSpan], goes_on_unseen: bool) -> usize {
    let mut requests = BTreeMap::new();
    let mut calls = BTreeMap::new();
    for span in spans {
        check(span);
        match (span.cgroup, span.side) {
            (CGROUP, SpanSide::Server) => {
                requests.insert(text(span, "url.path").unwrap(), span);
            }
            (CGROUP, _) => {
                calls.insert(span.context.span_id, span);
            }
            _ => {}
        }
    }
    let mut n = 0;
    for span in spans {
        if span.cgroup != CGROUP {
            // The callee's end is the call's child, in its trace.
            let parent = calls[&span.parent.unwrap()];
            assert_eq!(parent.context.trace_id, span.context.trace_id);
            assert_eq!(text(parent, "url.path"), text(span, "url.path"));
            continue;
        }
        if span.side == SpanSide::Server {
            continue;
        }
        let path = text(span, "url.path").unwrap();
        let whose = path.strip_prefix("/of-").map(|n| format!("/request-{n}"));
        let whose = whose.and_then(|w| requests.get(&w));
        let said = span.parent.or(span.links.first().map(|l| l.span_id));
        if let Some(said) = said {
            assert_eq!(
                Some(said),
                whose.map(|w| w.context.span_id),
                "wrong: {}",
                render(span)
            );
            if span.parent.is_some() {
                assert_eq!(span.context.trace_id, whose.unwrap().context.trace_id);
            }
            n += 1;
        } else {
            let why = text(span, "waggle.request.unlinked");
            assert!(why.is_some() || path == "/own" || goes_on_unseen);
        }
    }
    n
}

#[test]
fn ten_thousand_requests_and_no_wrong_parent() {
    for kind in [Kind::Plain, Kind::EventLoop, Kind::Pool, Kind::Stealing] {
        let (linked, calls) = World::new(kind, 7, 16).run(10_000);
        assert!(calls > 10_000);
        match kind {
            // All but the first few.
            Kind::Plain => assert!(linked * 100 > calls * 97, "{linked} of {calls}"),
            _ => assert_eq!(linked, 0, "{kind:?}"),
        }
    }
}

#[test]
fn a_header_that_is_handed_on_links_whatever_works_how_it_likes() {
    for kind in [Kind::Plain, Kind::EventLoop, Kind::Pool, Kind::Stealing] {
        let mut world = World::new(kind, 11, 16);
        world.header = true;
        let (linked, calls) = world.run(2000);
        assert_eq!(linked, calls, "{kind:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_parent_is_right_or_absent(
        seed: u64,
        kind in proptest::sample::select(vec![Kind::Plain, Kind::EventLoop, Kind::Pool, Kind::Stealing]),
        n_connections in 2_usize..20,
        aborts: bool,
        loses: bool,
    ) {
        let mut world = World::new(kind, seed, n_connections);
        (world.aborts, world.loses) = (aborts, loses);
        world.run(300);
    }
}

//! Pieces that nobody should send: nothing panics, and everything stays within its bounds.

use proptest::{collection::vec, prelude::*};
use waggle_telemetry_pipeline::requests::{Direction, Guess, Options, Piece, Role, Rule, Tracer};

use crate::support::*;

#[derive(Debug, Clone)]
struct Wild {
    at: u64,
    socket: u64,
    cgroup: u64,
    is_in: bool,
    role: u8,
    is_http2: bool,
    number: u32,
    sequence: u32,
    more: u32,
    thread: Option<u64>,
    bytes: Vec<u8>,
}

/// Bytes of parts that mean something, mixed with any.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    const PARTS: [&[u8]; 22] = [
        b"GET /a HTTP/1.1\r\n",
        b"POST /b/1 HTTP/1.0\r\n",
        b"CONNECT x:1 HTTP/1.1\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 18446744073709551615\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
        b"\r\n",
        b"\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 X\r\n\r\n",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"fffffffffffffff\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\x03\x01\x05\0\0\0\x01\x82\x86\x84",
        b"\0\0\x01\x01\x05\0\0\0\x01\x88",
        b"\0\0\0\0\x01\0\0\0\x01",
        b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08",
        b"\xff\xff\xff\x01\x04\0\0\0\x03",
        b"\0\0\x02\x09\x04\0\0\0\x01\xbe\xff",
    ];
    let part = prop_oneof![
        8 => proptest::sample::select(PARTS.to_vec()).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..30),
    ];
    vec(part, 0..6).prop_map(|parts| parts.concat())
}

prop_compose! {
    fn wild()(
        at in prop_oneof![0_u64..1 << 40, any::<u64>()],
        socket in 0_u64..4,
        cgroup in 0_u64..3,
        is_in: bool,
        role in 0_u8..3,
        is_http2: bool,
        number in prop_oneof![4 => 0_u32..6, 1 => any::<u32>()],
        sequence in prop_oneof![4 => 0_u32..300, 1 => any::<u32>()],
        more in prop_oneof![4 => Just(0_u32), 1 => 0_u32..100, 1 => any::<u32>()],
        thread in proptest::option::of(0_u64..3),
        bytes in bytes(),
    ) -> Wild {
        Wild { at, socket, cgroup, is_in, role, is_http2, number, sequence, more, thread, bytes }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Piece(Wild),
    /// The same with numbers and places as they should be, so that it gets further.
    Next(Wild),
    Closed(u64),
    Lost(u64),
    Tick(u64),
    Gone(u64),
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => wild().prop_map(Step::Piece),
        12 => wild().prop_map(Step::Next),
        1 => (0_u64..4).prop_map(Step::Closed),
        1 => any::<u64>().prop_map(Step::Lost),
        1 => any::<u64>().prop_map(Step::Tick),
        1 => (0_u64..3).prop_map(Step::Gone),
        1 => Just(Step::Drain),
    ]
}

fn small() -> Options {
    Options {
        sockets: 3,
        requests_per_socket: 4,
        requests: 6,
        held_bytes: 4096,
        waiting: 5,
        threads: 2,
        hops: 3,
        templates: 2,
        proof: 0,
        ..Options::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn anything_is_survived_within_bounds(steps in vec(step(), 0..80)) {
        let mut tracer = Tracer::new(small());
        tracer.rule(1, Rule { rate: 0.5, spans_per_s: 3, ..Rule::default() });
        let mut next = std::collections::BTreeMap::<(u64, bool), (u32, u32)>::new();
        let mut n_spans = 0;
        for step in steps {
            match step {
                Step::Piece(w) | Step::Next(w) if w.bytes.len() > 4000 => {}
                Step::Piece(w) => give(&mut tracer, &w),
                Step::Next(mut w) => {
                    let length = u32::try_from(w.bytes.len()).unwrap();
                    let place = next.entry((w.socket, w.is_in)).or_default();
                    (w.number, w.sequence) = *place;
                    *place = (place.0.wrapping_add(1), place.1.wrapping_add(length));
                    w.more = 0;
                    w.role = u8::try_from(w.socket % 3).unwrap();
                    w.is_http2 = w.socket > 1;
                    give(&mut tracer, &w);
                }
                Step::Closed(socket) => tracer.closed(socket, 5),
                Step::Lost(n) => tracer.lost(n),
                Step::Tick(now) => tracer.tick(now),
                Step::Gone(cgroup) => tracer.task_gone(cgroup),
                Step::Drain => {
                    let spans = tracer.drain();
                    prop_assert!(spans.len() <= 5);
                    n_spans += spans.len() as u64;
                    spans.iter().for_each(check);
                }
            }
            let (sockets, requests, bytes) = tracer.holds();
            prop_assert!(sockets <= 3 && requests <= 6 && bytes <= 4096, "{sockets} {requests} {bytes}");
        }
        for socket in 0..4 {
            tracer.closed(socket, u64::MAX);
        }
        tracer.tick(u64::MAX);
        n_spans += tracer.drain().len() as u64;
        let (sockets, requests, bytes) = tracer.holds();
        prop_assert_eq!((sockets, requests, bytes), (0, 0, 0));
        // Every request that was begun is a span, or is counted.
        let c = tracer.counts();
        prop_assert_eq!(c.spans, n_spans);
        prop_assert_eq!(c.requests, c.spans + c.not_sampled + c.over_rate + c.waiting_full);
    }
}

fn give(tracer: &mut Tracer, w: &Wild) {
    let length = u32::try_from(w.bytes.len()).unwrap().saturating_add(w.more);
    tracer.piece(&Piece {
        at: w.at,
        socket: w.socket,
        cgroup: w.cgroup,
        local: "10.0.0.1:1".parse().unwrap(),
        remote: "10.0.0.2:2".parse().unwrap(),
        direction: if w.is_in {
            Direction::In
        } else {
            Direction::Out
        },
        role: [Role::Client, Role::Server, Role::Unknown][usize::from(w.role)],
        protocol: if w.is_http2 {
            Guess::Http2
        } else {
            Guess::Http1
        },
        number: w.number,
        sequence: w.sequence,
        length,
        thread: w.thread,
        vip: None,
        bytes: &w.bytes,
    });
}

#[test]
fn a_head_without_an_end_is_cut_and_a_path_without_one_too() {
    let mut wire = Wire::new(Guess::Http1, "10.0.0.1:40000", "10.0.0.2:80", 1);
    let mut tracer = Tracer::new(Options::default());
    let path = "x".repeat(5000);
    let line = format!("GET /{path} HTTP/1.1\r\n");
    wire.send(&mut tracer, 1, true, line.as_bytes(), [None; 2], &[100]);
    for _ in 0..200 {
        let field = format!("X-Long: {}\r\n", "y".repeat(200));
        wire.send(&mut tracer, 1, true, field.as_bytes(), [None; 2], &[]);
    }
    assert!(tracer.holds().2 <= 2 * 32 * 1024);
    wire.send(
        &mut tracer,
        2,
        false,
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        [None; 2],
        &[],
    );
    let spans = tracer.drain();
    assert_eq!(spans.len(), 2);
    assert_eq!(text(&spans[0], "url.path").unwrap().len(), 1024);
    assert_eq!(
        text(&spans[0], "waggle.request.unknown_head").unwrap(),
        "lost"
    );
    assert_eq!(spans[0].name, "GET /{id}");
}

#[test]
fn a_stream_whose_records_are_lost_says_nothing_wrong() {
    // The header table is unknown from the hole on: paths that were said before it are not told.
    let mut wire = Wire::new(Guess::Http2, "10.0.0.1:40000", "10.0.0.2:80", 1);
    wire.client.1.is_seen = false;
    let mut tracer = Tracer::new(Options::default());
    let mut up = Hpack::default();
    let mut ask = |path: &str, stream| {
        let block = up.block(&[(":method", "GET"), (":scheme", "http"), (":path", path)]);
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
    };
    let (a, b) = (ask("/a", 1), ask("/b", 3));
    wire.send(&mut tracer, 1, true, &a, [None; 2], &[]);
    wire.lose(false, Direction::In);
    wire.next[0] = wire.next[0].wrapping_add(u32::try_from(b.len()).unwrap());
    for (path, stream) in [("/a", 5), ("/b", 7), ("/c", 9)] {
        let bytes = ask(path, stream);
        wire.send(&mut tracer, 2, true, &bytes, [None; 2], &[]);
    }
    wire.close(&mut tracer, 3);
    let spans = tracer.drain();
    let names: Vec<&str> = spans.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["GET /a", "HTTP", "HTTP", "HTTP /c"]);
    let unknown = spans
        .iter()
        .filter(|s| text(s, "waggle.request.unknown_head").is_some());
    assert_eq!((unknown.count(), tracer.counts().missed_blocks), (3, 1));
}

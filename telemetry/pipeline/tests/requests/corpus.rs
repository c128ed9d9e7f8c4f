//! Exchanges as real programs have them, and the spans that they become.

use waggle_telemetry_pipeline::requests::{
    Direction, Guess, Options, Peer, RequestSpan, Role, Tracer,
};

use crate::support::*;

const MS: u64 = 1_000_000;
const SERVER: &str = "10.0.0.2:8080";

/// Bytes that the client (`true`) or the server sends, in order; a millisecond each.
type Talk<'a> = &'a [(bool, &'a [u8])];

fn wire(guess: Guess) -> Wire {
    Wire::new(guess, "10.0.0.1:40000", SERVER, 1)
}

fn tracer() -> Tracer {
    Tracer::new(Options::default())
}

fn talk(wire: &mut Wire, tracer: &mut Tracer, talk: Talk<'_>) -> Vec<RequestSpan> {
    for (n, (by_client, bytes)) in talk.iter().enumerate() {
        let at = (n as u64 + 1) * MS;
        wire.send(tracer, at, *by_client, bytes, [None; 2], &[]);
    }
    let at = (talk.len() as u64 + 1) * MS;
    wire.close(tracer, at);
    let spans = tracer.drain();
    spans.iter().for_each(check);
    spans
}

fn http1(parts: Talk<'_>) -> Vec<RequestSpan> {
    talk(&mut wire(Guess::Http1), &mut tracer(), parts)
}

fn golden(name: &str, cases: &[(&str, Vec<RequestSpan>)]) {
    let mut out = String::new();
    for (title, spans) in cases {
        out.push_str(&format!("# {title}\n"));
        for span in spans {
            out.push_str(&render(span));
        }
        out.push('\n');
    }
    insta::assert_snapshot!(name, out);
}

#[test]
fn http1_becomes_spans() {
    let curl = b"GET /cart/17?token=secret HTTP/1.1\r\nHost: shop.example:8080\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n";
    let nginx = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Fri, 27 Nov 2026 06:33:22 GMT\r\nContent-Type: text/html\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello";
    let python = b"HTTP/1.0 404 File not found\r\nServer: SimpleHTTP/0.6 Python/3.11.2\r\nConnection: close\r\nContent-Type: text/html;charset=utf-8\r\n\r\n<!DOCTYPE HTML>";
    let post = b"POST /orders HTTP/1.1\r\nHost: 10.0.0.2\r\nExpect: 100-continue\r\nContent-Length: 26\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n";
    let cases = [
        ("curl and nginx", http1(&[(true, curl), (false, nginx)])),
        (
            "python's http.server: until the connection is closed",
            http1(&[(true, b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n"), (false, python)]),
        ),
        (
            "an upload after 100 Continue, with a context, whose body looks like a request; the answer is an error",
            http1(&[
                (true, post),
                (false, b"HTTP/1.1 100 Continue\r\n\r\n"),
                (true, b"GET /evil HTTP/1.1\r\n\r\n1234"),
                (false, b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"),
            ]),
        ),
        (
            "three pipelined requests in one packet, answered in one",
            http1(&[
                (true, b"GET /a HTTP/1.1\r\n\r\nHEAD /b HTTP/1.1\r\n\r\nDELETE /c/9 HTTP/1.1\r\n\r\n"),
                (false, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
            ]),
        ),
        (
            "chunks, then another",
            http1(&[
                (true, b"GET /chunks HTTP/1.1\r\n\r\n"),
                (false, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nHTTP/\r\n"),
                (false, b"0\r\nTrailer: x\r\n\r\n"),
                (true, b"PATCH /next HTTP/1.1\r\n\r\n"),
                (false, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n"),
            ]),
        ),
        (
            "an upgrade: what comes after is nothing of ours",
            http1(&[
                (true, b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"),
                (false, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"),
                (true, b"GET /not-a-request HTTP/1.1\r\n\r\n"),
                (false, b"HTTP/1.1 200 OK\r\n\r\n"),
            ]),
        ),
        (
            "a method that nobody knows, no answer",
            http1(&[(true, b"BREW /pot HTTP/1.1\r\n\r\n")]),
        ),
    ];
    golden("http1", &cases);
}

#[test]
fn grpc_becomes_spans() {
    let mut wire = wire(Guess::Http2);
    wire.vip = Some("11.0.0.1:80".parse().unwrap());
    let (mut up, mut down) = (Hpack::default(), Hpack::default());
    let mut call = |path: &str| {
        up.block(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "greeter.shop:80"),
            ("content-type", "application/grpc"),
            ("authorization", "Bearer secret"),
        ])
    };
    let (first, second, third) = (
        call("/helloworld.Greeter/SayHello"),
        call("/helloworld.Greeter/SayHello"),
        call("/helloworld.Greeter/SayBye"),
    );
    let head = down.block(&[(":status", "200"), ("content-type", "application/grpc")]);
    let fine = down.block(&[("grpc-status", "0")]);
    let only = down.block(&[
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "12"),
    ]);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let settings = frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 16, 0]);
    let both = END_HEADERS | END_STREAM;
    let (cut_a, cut_b) = third.split_at(9);
    let sent: Vec<(bool, Vec<u8>)> = vec![
        (
            true,
            [
                preface,
                settings.clone(),
                frame(HEADERS, END_HEADERS, 1, &first),
                frame(DATA, END_STREAM, 1, b"\0\0\0\0\x01x"),
            ]
            .concat(),
        ),
        (
            false,
            [
                settings,
                frame(HEADERS, END_HEADERS, 1, &head),
                frame(DATA, 0, 1, b"\0\0\0\0\x01y"),
            ]
            .concat(),
        ),
        (false, frame(HEADERS, both, 1, &fine)),
        // Two streams at once, one with a continuation, answered in the other order.
        (
            true,
            [
                frame(HEADERS, END_HEADERS, 3, &second),
                frame(HEADERS, 0, 5, cut_a),
                frame(CONTINUATION, END_HEADERS, 5, cut_b),
            ]
            .concat(),
        ),
        (false, frame(HEADERS, both, 5, &only)),
        (true, frame(RST_STREAM, 0, 3, &8_u32.to_be_bytes())),
    ];
    let sent: Vec<(bool, &[u8])> = sent.iter().map(|(c, b)| (*c, b.as_slice())).collect();
    let spans = talk(&mut wire, &mut tracer(), &sent);
    golden("grpc", &[("tonic through a VIP", spans)]);
}

#[test]
fn http2_without_grpc_and_what_came_late() {
    let get = |up: &mut Hpack, path: &str| {
        let block = up.block(&[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "web"),
        ]);
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
    };
    let answer = |down: &mut Hpack, status: &str| {
        let block = down.block(&[(":status", status)]);
        [
            frame(HEADERS, END_HEADERS, 1, &block),
            frame(DATA, END_STREAM, 1, b""),
        ]
        .concat()
    };
    let mut cases = Vec::new();
    for (title, is_late) in [
        ("h2load and nginx", false),
        ("the same, on an older connection", true),
    ] {
        let (mut up, mut down) = (Hpack::default(), Hpack::default());
        let mut wire = wire(Guess::Http2);
        wire.role_is_known = !is_late;
        if is_late {
            // Said before anybody listened: the tables have it.
            get(&mut up, "/index.html");
            answer(&mut down, "200");
        }
        let bytes = [
            (true, get(&mut up, "/index.html")),
            (false, answer(&mut down, "200")),
            (
                true,
                get(&mut up, "/other/3f2504e0-4f89-11d3-9a0c-0305e82c3301"),
            ),
            (false, answer(&mut down, "500")),
        ];
        let parts: Vec<(bool, &[u8])> = bytes.iter().map(|(c, b)| (*c, b.as_slice())).collect();
        let mut tracer = tracer();
        cases.push((title, talk(&mut wire, &mut tracer, &parts)));
    }
    golden("http2", &cases);
}

#[test]
fn what_is_lost_is_told() {
    let ask = b"GET /a HTTP/1.1\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let mut wire = wire(Guess::Http1);
    let mut tracer = tracer();
    wire.client.1.is_seen = false;
    wire.send(&mut tracer, MS, true, ask, [None; 2], &[]);
    // The answer's record is lost, then there is another request with its answer.
    wire.lose(false, Direction::Out);
    wire.next[1] += 40;
    wire.send(&mut tracer, 2 * MS, true, ask, [None; 2], &[]);
    wire.send(&mut tracer, 3 * MS, false, answer, [None; 2], &[]);
    wire.send(&mut tracer, 4 * MS, true, ask, [None; 2], &[]);
    wire.send(&mut tracer, 5 * MS, false, answer, [None; 2], &[]);
    let spans = tracer.drain();
    let ends: Vec<_> = spans
        .iter()
        .map(|s| text(s, "waggle.request.end"))
        .collect();
    let lost = Some("lost".to_owned());
    assert_eq!(ends, [lost.clone(), lost, None]);
    let counts = tracer.counts();
    assert_eq!((counts.missing_pieces, counts.lost_responses), (1, 2));
    // A head of which the packet had more than was taken.
    let cut = b"GET /long HTTP/1.1\r\nHost: a\r\nCookie: ";
    wire.packet(&mut tracer, 6 * MS, true, cut, 4000, [None; 2]);
    wire.send(&mut tracer, 7 * MS, false, answer, [None; 2], &[]);
    let spans = tracer.drain();
    assert_eq!(spans.len(), 1);
    assert_eq!(spans[0].name, "GET /long");
    let unknown = text(&spans[0], "waggle.request.unknown_head");
    assert_eq!(unknown.as_deref(), Some("lost"));
    assert_eq!(text(&spans[0], "waggle.request.end"), None);
}

/// As after a restart of the agent: numbers go on where the tracer before has ended.
#[test]
fn what_a_tracer_before_this_one_has_taken_is_older_and_not_lost() {
    let parts: Talk<'_> = &[
        (true, b"GET /x HTTP/1.1\r\n\r\n"),
        (false, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ];
    for is_lost in [false, true] {
        let mut wire = wire(Guess::Http1);
        let first = talk(&mut wire, &mut tracer(), parts);
        let mut next = tracer();
        if is_lost {
            next.lost(1);
        }
        let spans = talk(&mut wire, &mut next, parts);
        assert_eq!((first.len(), spans.len()), (2, 2));
        for (before, span) in first.iter().zip(&spans) {
            assert_eq!(text(before, "waggle.request.older_connection"), None);
            let older = text(span, "waggle.request.older_connection");
            assert_eq!(older.is_some(), !is_lost);
            assert_eq!(span.name, "GET /x");
            // An answer may have been among what is lost, but not among what was taken.
            let status = text(span, "http.response.status_code");
            assert_eq!(status.as_deref(), (!is_lost).then_some("200"));
        }
        // One of each direction, at each end.
        assert_eq!(next.counts().missing_pieces, if is_lost { 4 } else { 0 });
    }
}

#[test]
fn packets_that_come_again_or_in_another_order_make_no_difference() {
    let head = b"GET /again HTTP/1.1\r\nHost: a\r\nX: 123456\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
    let plain = http1(&[(true, head), (false, answer)]);
    let mut wire = wire(Guess::Http1);
    let mut tracer = tracer();
    let first = wire.next[0];
    let none = [None; 2];
    let place = |n: usize| first.wrapping_add(u32::try_from(n).unwrap());
    wire.again(&mut tracer, MS, true, &head[..10], 10, first, none);
    wire.again(&mut tracer, MS, true, &head[20..], 23, place(20), none);
    wire.again(&mut tracer, MS, true, &head[..10], 10, first, none);
    wire.again(&mut tracer, MS, true, &head[5..22], 17, place(5), none);
    // All of it once more.
    wire.again(&mut tracer, MS, true, head, 43, first, none);
    wire.send(&mut tracer, 2 * MS, false, answer, none, &[7]);
    let back = wire.next[1].wrapping_sub(43);
    wire.again(&mut tracer, 2 * MS, false, answer, 43, back, none);
    wire.close(&mut tracer, 3 * MS);
    assert_eq!(head.len(), 43);
    let spans = tracer.drain();
    assert_eq!(spans, plain);
    assert_eq!(tracer.counts().requests, 2);
}

#[test]
fn both_ends_agree_without_talking() {
    let parts: Talk<'_> = &[
        (true, b"GET /x HTTP/1.1\r\n\r\n"),
        (false, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ];
    let of_node = |is_client: bool, peer| {
        let mut wire = wire(Guess::Http1);
        wire.client.1.is_seen = is_client;
        wire.server.1.is_seen = !is_client;
        let peers = std::sync::Arc::new(move |_, of| {
            assert_eq!(of == Role::Server, is_client, "the other end is meant");
            peer
        });
        let options = Options {
            peers,
            ..Options::default()
        };
        talk(&mut wire, &mut Tracer::new(options), parts).remove(0)
    };
    let client = of_node(true, Peer::Elsewhere);
    let server = of_node(false, Peer::Elsewhere);
    assert_eq!(client.context.trace_id, server.context.trace_id);
    // Who can't know that the other end is traced names no parent that may not exist, and says why.
    assert_eq!((server.parent, client.parent), (None, None));
    let why = |span| text(span, "waggle.request.unlinked");
    assert_eq!(why(&server).as_deref(), Some("other_node"));
    assert_eq!(why(&client), None);
    // What comes from outside has no parent that could be missed.
    let outside = of_node(false, Peer::Unknown);
    assert_eq!((outside.parent, why(&outside)), (None, None));
}

#[test]
fn a_trace_is_kept_or_not_by_its_id() {
    use waggle_telemetry_pipeline::requests::Rule;
    let mut wire = wire(Guess::Http1);
    let mut tracer = tracer();
    for cgroup in [100, 101] {
        let rule = Rule {
            rate: 0.3,
            ..Rule::default()
        };
        tracer.rule(cgroup, rule);
    }
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for n in 0..400_u64 {
        wire.send(
            &mut tracer,
            n * MS,
            true,
            b"GET /x HTTP/1.1\r\n\r\n",
            [None; 2],
            &[],
        );
        wire.send(&mut tracer, n * MS, false, answer, [None; 2], &[]);
    }
    let spans = tracer.drain();
    let mut of_trace = std::collections::BTreeMap::<u128, usize>::new();
    for span in &spans {
        *of_trace.entry(span.context.trace_id).or_default() += 1;
    }
    // Both spans of a trace, or none of them.
    assert!(of_trace.values().all(|n| *n == 2));
    assert!((80..160).contains(&of_trace.len()), "{}", of_trace.len());
    assert_eq!(tracer.counts().not_sampled, 800 - spans.len() as u64);
    // What the wire says wins.
    let context = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
    for (flags, n) in [("00", 0), ("01", 2)] {
        let ask = format!("GET /x HTTP/1.1\r\n{context}-{flags}\r\n\r\n");
        wire.send(&mut tracer, 500 * MS, true, ask.as_bytes(), [None; 2], &[]);
        wire.send(&mut tracer, 500 * MS, false, answer, [None; 2], &[]);
        assert_eq!(tracer.drain().len(), n);
    }
}

/// What a relay between real programs has seen: a line for each read, with the connection's number, who has sent (`>` is the client)
/// and the bytes; a line without bytes is the end of a direction.
fn recorded(text: &str) -> Vec<(bool, Vec<u8>)> {
    let mut out = Vec::new();
    for line in text.lines() {
        let (head, bytes) = line.split_once(' ').unwrap_or((line, ""));
        if bytes.is_empty() {
            continue;
        }
        out.push((head.ends_with('>'), unescaped(bytes)));
    }
    out
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut chars = text.bytes();
    while let Some(byte) = chars.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match chars.next().unwrap() {
            b'r' => out.push(b'\r'),
            b'n' => out.push(b'\n'),
            b'\\' => out.push(b'\\'),
            _ => {
                let digits = [chars.next().unwrap(), chars.next().unwrap()];
                let digits = std::str::from_utf8(&digits).unwrap();
                out.push(u8::from_str_radix(digits, 16).unwrap());
            }
        }
    }
    out
}

#[test]
fn recorded_exchanges_become_spans() {
    let mut cases = Vec::new();
    for (name, guess, text) in [
        (
            "curl-nginx",
            Guess::Http1,
            include_str!("../../../../tests/fixtures/requests/curl-nginx.txt"),
        ),
        (
            "curl-nginx-upload",
            Guess::Http1,
            include_str!("../../../../tests/fixtures/requests/curl-nginx-upload.txt"),
        ),
        (
            "curl-python10",
            Guess::Http1,
            include_str!("../../../../tests/fixtures/requests/curl-python10.txt"),
        ),
        (
            "python-python11",
            Guess::Http1,
            include_str!("../../../../tests/fixtures/requests/python-python11.txt"),
        ),
        (
            "curl-nginx-h2",
            Guess::Http2,
            include_str!("../../../../tests/fixtures/requests/curl-nginx-h2.txt"),
        ),
        (
            "httpx-nginx-h2",
            Guess::Http2,
            include_str!("../../../../tests/fixtures/requests/httpx-nginx-h2.txt"),
        ),
        (
            "grpc-python",
            Guess::Http2,
            include_str!("../../../../tests/fixtures/requests/grpc-python.txt"),
        ),
    ] {
        let parts = recorded(text);
        let parts: Vec<(bool, &[u8])> = parts.iter().map(|(c, b)| (*c, b.as_slice())).collect();
        let mut wire = wire(guess);
        wire.client.1.is_seen = false;
        let mut tracer = tracer();
        let spans = talk(&mut wire, &mut tracer, &parts);
        let counts = tracer.counts();
        assert_eq!(
            (
                counts.bad_blocks,
                counts.missed_blocks,
                counts.unpaired_responses
            ),
            (0, 0, 0)
        );
        cases.push((name, spans));
    }
    golden("recorded", &cases);
}

#[test]
fn a_head_of_which_no_more_comes_is_taken_when_it_is_answered() {
    let mut wire = wire(Guess::Http1);
    let mut tracer = tracer();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for name in ["one", "two", "three"] {
        // Not cut, and not whole: the kernel follows heads so far and no further.
        let ask = format!("GET /{name} HTTP/1.1\r\nCookie: aaaa");
        wire.send(&mut tracer, MS, true, ask.as_bytes(), [None; 2], &[]);
        wire.next[0] = wire.next[0].wrapping_add(9000);
        wire.send(&mut tracer, 2 * MS, false, answer, [None; 2], &[]);
    }
    let spans = tracer.drain();
    let names: Vec<&str> = spans.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "GET /one",
            "GET /one",
            "GET /two",
            "GET /two",
            "GET /three",
            "GET /three"
        ]
    );
    assert!(
        spans
            .iter()
            .all(|s| text(s, "waggle.request.unknown_head").is_some())
    );
    assert_eq!(tracer.counts().unpaired_responses, 0);
}

#[test]
fn what_has_no_end_ends_some_time() {
    let mut wire = wire(Guess::Http1);
    wire.client.1.is_seen = false;
    let mut tracer = tracer();
    wire.send(
        &mut tracer,
        MS,
        true,
        b"GET /big HTTP/1.1\r\n\r\n",
        [None; 2],
        &[],
    );
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    wire.send(&mut tracer, 2 * MS, false, head, [None; 2], &[]);
    tracer.tick(5000 * MS);
    // Some of it comes: it goes on.
    wire.packet(&mut tracer, 9000 * MS, false, b"x", 500, [None; 2]);
    tracer.tick(15_000 * MS);
    assert_eq!(tracer.drain().len(), 0);
    tracer.tick(30_000 * MS);
    let spans = tracer.drain();
    let ends: Vec<_> = spans
        .iter()
        .map(|s| (s.end_ns, text(s, "waggle.request.end")))
        .collect();
    assert_eq!(ends, [(2 * MS, Some("head".to_owned()))]);
    // Without an answer; what is answered later is not taken for another's.
    wire.packet(&mut tracer, 31_000 * MS, false, b"x", 500, [None; 2]);
    wire.send(
        &mut tracer,
        31_000 * MS,
        true,
        b"GET /never HTTP/1.1\r\n\r\n",
        [None; 2],
        &[],
    );
    tracer.tick(400_000 * MS);
    let spans = tracer.drain();
    assert_eq!(
        text(&spans[0], "waggle.request.end").as_deref(),
        Some("given_up")
    );
    wire.send(
        &mut tracer,
        401_000 * MS,
        true,
        b"GET /next HTTP/1.1\r\n\r\n",
        [None; 2],
        &[],
    );
    wire.send(&mut tracer, 402_000 * MS, false, head, [None; 2], &[]);
    assert_eq!(
        (tracer.drain().len(), tracer.counts().unknown_streams),
        (0, 2)
    );
}

#[test]
fn chunks_that_are_not_all_seen_end_with_the_last() {
    let mut wire = wire(Guess::Http1);
    wire.client.1.is_seen = false;
    let mut tracer = tracer();
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for n in 0..2 {
        let at = n * 100 * MS;
        wire.send(
            &mut tracer,
            at + MS,
            true,
            b"GET /big HTTP/1.1\r\n\r\n",
            [None; 2],
            &[],
        );
        wire.send(&mut tracer, at + 2 * MS, false, head, [None; 2], &[]);
        // The kernel tells beginnings of packets that end a write, and not the others.
        wire.next[1] = wire.next[1].wrapping_add(5000);
        wire.packet(&mut tracer, at + 3 * MS, false, b"xxx", 900, [None; 2]);
        wire.packet(
            &mut tracer,
            at + 4 * MS,
            false,
            b"HTTP/1.1 500 evil\r\n\r\n",
            900,
            [None; 2],
        );
        wire.send(
            &mut tracer,
            at + 5 * MS,
            false,
            b"yy\r\n0\r\n\r\n",
            [None; 2],
            &[],
        );
    }
    tracer.tick(20_000 * MS);
    let spans = tracer.drain();
    let ends: Vec<_> = spans
        .iter()
        .map(|s| (s.end_ns / MS, text(s, "waggle.request.end")))
        .collect();
    assert_eq!(ends, [(5, None), (105, None)]);
    assert!(
        spans
            .iter()
            .all(|s| text(s, "http.response.status_code").as_deref() == Some("200"))
    );
}

//! However a stream is cut into packets, its spans are the same.

use proptest::{collection::vec, prelude::*};
use waggle_telemetry_pipeline::requests::{Guess, Options, RequestSpan, Tracer};

use crate::support::*;

const MS: u64 = 1_000_000;

/// One message of a conversation.
#[derive(Debug, Clone)]
struct Message {
    by_client: bool,
    bytes: Vec<u8>,
}

fn run(guess: Guess, messages: &[Message], cuts: Cuts<'_>, repeats: bool) -> Vec<RequestSpan> {
    let mut wire = Wire::new(guess, "10.0.0.1:40000", "10.0.0.2:80", 1);
    let mut tracer = Tracer::new(Options::default());
    for (n, m) in messages.iter().enumerate() {
        let at = (n as u64 + 1) * MS;
        let side = usize::from(!m.by_client);
        let first = wire.next[side];
        wire.send(&mut tracer, at, m.by_client, &m.bytes, [None; 2], cuts);
        if repeats && cuts.is_empty() {
            let length = u32::try_from(m.bytes.len()).unwrap();
            wire.again(
                &mut tracer,
                at,
                m.by_client,
                &m.bytes,
                length,
                first,
                [None; 2],
            );
        }
    }
    wire.close(&mut tracer, 1000 * MS);
    let mut spans = tracer.drain();
    spans.iter().for_each(check);
    assert_eq!(tracer.holds(), (0, 0, 0));
    // Which end is first to know depends on packets.
    spans.sort_by_key(|s| s.context.span_id);
    spans
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        Just(b"GET /in/a/body HTTP/1.1\r\n\r\n".to_vec()),
        Just(b"HTTP/1.1 500 No\r\n\r\n".to_vec()),
        vec(any::<u8>(), 0..60),
    ]
}

/// A body with its framing: by length or in chunks.
fn framed(first: &str, body: &[u8], chunk: usize) -> Vec<u8> {
    let mut out = first.as_bytes().to_vec();
    if chunk == 0 {
        out.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
        out.extend(body);
        return out;
    }
    out.extend(b"Transfer-Encoding: chunked\r\n\r\n");
    for part in body.chunks(chunk) {
        out.extend(format!("{:x}\r\n", part.len()).bytes());
        out.extend(part);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n\r\n");
    out
}

prop_compose! {
    fn http1_exchange()(
        method in prop_oneof!["GET", "POST", "HEAD", "DELETE"],
        path in "/[a-z]{1,8}(/[0-9]{1,4})?",
        status in prop_oneof![Just(200), Just(204), Just(404), Just(500)],
        up in body(),
        down in body(),
        chunks in (0_usize..20, 0_usize..20),
        interim: bool,
    ) -> Vec<Message> {
        let bodiless = method == "HEAD" || status == 204;
        let ask = framed(&format!("{method} {path} HTTP/1.1\r\nHost: a\r\n"), &up, chunks.0);
        let mut answer = framed(&format!("HTTP/1.1 {status} X\r\n"), &down, chunks.1);
        if bodiless {
            answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 77\r\n\r\n").into_bytes();
        }
        if interim {
            answer = [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".to_vec(), answer].concat();
        }
        vec![
            Message { by_client: true, bytes: ask },
            Message { by_client: false, bytes: answer },
        ]
    }
}

/// Streams that overlap: asked in order, answered by turns.
fn http2_talk(streams: &[(String, u16, bool)]) -> Vec<Message> {
    let (mut up, mut down) = (Hpack::default(), Hpack::default());
    let mut out = vec![Message {
        by_client: true,
        bytes: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
    }];
    for pair in streams.chunks(2) {
        let mut say = |by_client, bytes| out.push(Message { by_client, bytes });
        let id = |n: usize| u32::try_from(n * 2 + 1).unwrap();
        for (n, (path, _, continues)) in pair.iter().enumerate() {
            let block = up.block(&[(":method", "GET"), (":scheme", "http"), (":path", path)]);
            let at = if *continues {
                block.len() / 2
            } else {
                block.len()
            };
            let (now, later) = block.split_at(at);
            let flags = END_STREAM | if *continues { 0 } else { END_HEADERS };
            let mut bytes = frame(HEADERS, flags, id(n), now);
            if *continues {
                bytes.extend(frame(CONTINUATION, END_HEADERS, id(n), later));
            }
            say(true, bytes);
        }
        for (n, (_, status, _)) in pair.iter().enumerate().rev() {
            let block = down.block(&[(":status", &status.to_string()), ("x-other", "y")]);
            let mut bytes = frame(HEADERS, END_HEADERS, id(n), &block);
            bytes.extend(frame(DATA, END_STREAM, id(n), b""));
            say(false, bytes);
        }
    }
    out
}

proptest! {
    #[test]
    fn http1(exchanges in vec(http1_exchange(), 1..6), cuts in vec(1_usize..40, 1..6)) {
        let messages = exchanges.concat();
        let whole = run(Guess::Http1, &messages, &[], false);
        // One for each end of each exchange, whatever the bodies look like.
        prop_assert_eq!(whole.len(), exchanges.len() * 2);
        prop_assert!(whole.iter().all(|s| text(s, "waggle.request.end").is_none()), "{whole:#?}");
        prop_assert_eq!(&run(Guess::Http1, &messages, &cuts, false), &whole);
        prop_assert_eq!(&run(Guess::Http1, &messages, &[1], false), &whole);
        prop_assert_eq!(&run(Guess::Http1, &messages, &[], true), &whole);
    }

    #[test]
    fn http1_pipelined(exchanges in vec(http1_exchange(), 1..6), cuts in vec(1_usize..40, 1..6)) {
        let side = |by_client: bool| Message {
            by_client,
            bytes: exchanges.iter().flatten().filter(|m| m.by_client == by_client).flat_map(|m| m.bytes.clone()).collect(),
        };
        let messages = [side(true), side(false)];
        let whole = run(Guess::Http1, &messages, &[], false);
        prop_assert_eq!(whole.len(), exchanges.len() * 2);
        prop_assert_eq!(&run(Guess::Http1, &messages, &cuts, false), &whole);
        prop_assert_eq!(&run(Guess::Http1, &messages, &[], true), &whole);
        let names = |spans: &[RequestSpan]| spans.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        let apart = run(Guess::Http1, &exchanges.concat(), &[], false);
        let (mut a, mut b) = (names(&apart), names(&whole));
        a.sort();
        b.sort();
        prop_assert_eq!(a, b);
    }

    #[test]
    fn http2(
        streams in vec(("/[a-z]{1,5}", 200_u16..600, any::<bool>()), 1..12),
        cuts in vec(1_usize..40, 1..6),
    ) {
        let messages = http2_talk(&streams);
        let whole = run(Guess::Http2, &messages, &[], false);
        prop_assert_eq!(whole.len(), streams.len() * 2);
        for span in &whole {
            let path = text(span, "url.path").unwrap();
            let status = text(span, "http.response.status_code").unwrap();
            prop_assert!(streams.iter().any(|(p, s, _)| *p == path && s.to_string() == status));
        }
        prop_assert_eq!(&run(Guess::Http2, &messages, &cuts, false), &whole);
        prop_assert_eq!(&run(Guess::Http2, &messages, &[1], false), &whole);
        prop_assert_eq!(&run(Guess::Http2, &messages, &[], true), &whole);
    }
}

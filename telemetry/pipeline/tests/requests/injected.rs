//! A `traceparent` that the kernel has put in: the wire names the client's own span, and the parent is the request that the thread works on.

use std::net::SocketAddr;

use waggle_ebpf_common::{
    addr_of,
    inject::ids::{CLIENT_SPAN, TRACE_HIGH, TRACE_LOW, hash, hop},
};
use waggle_telemetry_pipeline::{
    names::SpanSide,
    requests::{Guess, Options, RequestSpan, Tracer},
};

use crate::support::*;

const B: u64 = 50;
const C: u64 = 60;
const THREAD: Option<u64> = Some(77 << 32 | 1);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;

struct Scene {
    tracer: Tracer,
    /// From outside to B.
    asked: Wire,
    /// From B to C.
    call: Wire,
}

/// Span and trace that the kernel makes of the next request of a wire.
fn ids(wire: &Wire) -> (u64, u128) {
    let end = |at: SocketAddr| (addr_of(at.ip()), at.port());
    let (client, server) = (end(wire.client.0), end(wire.server.0));
    let hop = hop(
        (&client.0, client.1),
        (&server.0, server.1),
        wire.next[0],
        0,
    );
    let (high, low) = (hash(&hop, TRACE_HIGH), hash(&hop, TRACE_LOW));
    (
        hash(&hop, CLIENT_SPAN),
        u128::from(high) << 64 | u128::from(low),
    )
}

fn request(trace: u128, span: u64) -> Vec<u8> {
    format!("GET /x HTTP/1.1\r\ntraceparent: 00-{trace:032x}-{span:016x}-01\r\n\r\n").into_bytes()
}

impl Scene {
    fn new() -> Self {
        let mut asked = Wire::new(Guess::Http1, "10.0.0.8:1000", "10.0.0.5:80", 10);
        asked.client.1.is_seen = false;
        asked.server.1.cgroup = B;
        let mut call = Wire::new(Guess::Http1, "10.0.0.5:2000", "10.0.0.9:80", 20);
        call.client.1.cgroup = B;
        call.server.1.cgroup = C;
        Self {
            tracer: Tracer::new(Options::default()),
            asked,
            call,
        }
    }

    fn ask(&mut self, bytes: &[u8]) {
        let Self { tracer, asked, .. } = self;
        asked.send(tracer, 1, true, bytes, [None, THREAD], &[]);
    }

    fn call(&mut self, trace: u128, span: u64, thread: Option<u64>) {
        let Self { tracer, call, .. } = self;
        let other = Some(88 << 32 | 1);
        let bytes = request(trace, span);
        call.send(tracer, 2, true, &bytes, [thread, other], &[]);
        call.send(tracer, 3, false, ANSWER, [other, thread], &[]);
    }

    fn end(mut self) -> Vec<RequestSpan> {
        let Self { tracer, asked, .. } = &mut self;
        asked.send(tracer, 4, false, ANSWER, [THREAD, None], &[]);
        let spans = self.tracer.drain();
        spans.iter().for_each(check);
        spans
    }
}

fn one(spans: &[RequestSpan], cgroup: u64, side: SpanSide) -> &RequestSpan {
    let mut found = spans
        .iter()
        .filter(|s| (s.cgroup, s.side) == (cgroup, side));
    let one = found.next().unwrap();
    assert!(found.next().is_none());
    one
}

#[test]
fn a_call_is_the_child_of_the_request_that_its_thread_works_on() {
    // Nothing was proven: the kernel has decided.
    let mut scene = Scene::new();
    scene.ask(&request(TRACE, 5));
    let (span, _) = ids(&scene.call);
    scene.call(TRACE, span, THREAD);
    let spans = scene.end();
    let asked = one(&spans, B, SpanSide::Server);
    let call = one(&spans, B, SpanSide::Client);
    let callee = one(&spans, C, SpanSide::Server);
    assert_eq!((asked.context.trace_id, asked.parent), (TRACE, Some(5)));
    assert_eq!(call.context.trace_id, TRACE);
    assert_eq!(
        (call.context.span_id, call.parent),
        (span, Some(asked.context.span_id))
    );
    assert_eq!(
        (callee.context.trace_id, callee.parent),
        (TRACE, Some(span))
    );
}

#[test]
fn a_request_without_a_context_is_of_the_trace_that_both_ends_make() {
    let mut scene = Scene::new();
    let (_, trace) = ids(&scene.asked);
    scene.ask(b"GET /y HTTP/1.1\r\n\r\n");
    let (span, _) = ids(&scene.call);
    scene.call(trace, span, THREAD);
    let spans = scene.end();
    let asked = one(&spans, B, SpanSide::Server);
    let call = one(&spans, B, SpanSide::Client);
    assert_eq!((asked.context.trace_id, asked.parent), (trace, None));
    assert_eq!(
        (call.context.trace_id, call.parent),
        (trace, Some(asked.context.span_id))
    );
}

#[test]
fn where_the_kernel_began_a_trace_nobody_is_the_parent() {
    for (name, thread, is_asked) in [
        ("nothing is served", THREAD, false),
        ("another thread serves", Some(77 << 32 | 2), true),
        ("the kernel did not trust the thread", THREAD, true),
        ("the thread is not known", None, true),
    ] {
        let mut scene = Scene::new();
        if is_asked {
            scene.ask(&request(TRACE, 5));
        }
        let (span, trace) = ids(&scene.call);
        scene.call(trace, span, thread);
        let spans = scene.end();
        let call = one(&spans, B, SpanSide::Client);
        let callee = one(&spans, C, SpanSide::Server);
        assert_eq!(
            (call.context.trace_id, call.parent),
            (trace, None),
            "{name}"
        );
        assert_eq!(call.context.span_id, span, "{name}");
        assert!(call.links.is_empty(), "{name}");
        assert_eq!(
            (callee.context.trace_id, callee.parent),
            (trace, Some(span)),
            "{name}"
        );
    }
}

//! gRPC between a real client and a real server through a VIP, over one connection that is older than the agent in the end.

use std::collections::BTreeSet;

use waggle_tests_privileged::{LIMIT, can_run, shared, traced};
use waggle_tests_support::cluster::wait_ready;
use waggle_tests_support::scenario::{World, remove};
use waggle_tests_support::sink::Span;
use waggle_tests_support::wait_until;

use crate::common::{address, app, launch, name_of, of, spans_of};

const METHOD: &str = "opentelemetry.proto.collector.trace.v1.TraceService/Export";
const CODE: &str = "rpc.response.status_code";
const OLDER: &str = "waggle.request.older_connection";

/// Spans of a task that began after a time.
fn since(world: &World, task: &str, begun_ns: u64) -> Vec<Span> {
    let mut spans = spans_of(world, task);
    spans.retain(|s| s.start_ns > begun_ns && s.attributes.contains_key("network.peer.address"));
    spans
}

/// Until there are so many.
fn wait_for(world: &World, task: &str, begun_ns: u64, n: usize) -> Vec<Span> {
    let found = wait_until(LIMIT, &format!("{n} calls of {task}"), || {
        let spans = since(world, task, begun_ns);
        (spans.len() >= n).then_some(spans)
    });
    found.unwrap_or_else(|e| panic!("{e:#}\n{}", world.cluster.last_words()))
}

/// All is said of a call, and it is right.
fn is_exact(span: &Span) {
    assert_eq!(of(span, "rpc.method"), METHOD, "{span:#?}");
    assert_eq!(span.name, METHOD);
    assert_eq!(of(span, "rpc.system.name"), "grpc");
    assert_eq!(of(span, OLDER), "");
    // What is not there is no fault of the server's.
    let is_client = !span.attributes.contains_key("client.address");
    let is_error = of(span, CODE) == "NOT_FOUND" && is_client;
    assert_eq!(span.error.is_some(), is_error, "{span:#?}");
}

fn codes(spans: &[Span]) -> BTreeSet<&str> {
    spans.iter().map(|s| of(s, CODE)).collect()
}

#[test]
fn grpc_is_told_right_and_a_connection_older_than_the_agent_is_marked() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let traced = traced().unwrap().display().to_string();
    let serve = format!("exec {traced} grpc-serve $PORT0");
    let server = launch(world, &app("grpc-server", "n1", &serve, Some(80)));
    let to = format!("{}:80", name_of("grpc-server"));
    let call = format!("exec {traced} grpc-call {to}");
    let client = launch(world, &app("grpc-client", "n1", &call, None));

    // Both ends.
    for task in [&client, &server] {
        let spans = wait_for(world, task, 0, 20);
        spans.iter().for_each(is_exact);
        assert_eq!(codes(&spans), ["NOT_FOUND", "OK"].into());
    }
    let sent = since(world, &client, 0);
    for span in &sent {
        assert_eq!(of(span, "waggle.vip.name"), to);
        assert_eq!(of(span, "service.peer.name"), "grpc-server.marathon");
        assert_eq!(of(span, "network.peer.address"), address(world, "n1"));
    }
    let answered = wait_until(LIMIT, "the other end of a call", || {
        let spans = since(world, &server, 0);
        let pairs = spans.into_iter().filter_map(|s| {
            let of_client = sent.iter().find(|c| c.span_id == s.parent_id)?;
            Some((of_client.clone(), s))
        });
        let pairs: Vec<_> = pairs.collect();
        (pairs.len() >= 10).then_some(pairs)
    })
    .unwrap();
    for (sent, answered) in &answered {
        assert_eq!(sent.trace_id, answered.trace_id);
        assert_eq!(of(sent, CODE), of(answered, CODE));
    }

    // Another agent finds the connection, and does not know what was said before.
    let n1 = world
        .cluster
        .state
        .nodes
        .iter()
        .position(|n| n.name == "n1");
    world.cluster.kill_node(n1.unwrap()).unwrap();
    let killed_ns = world
        .sink
        .with(|s| s.spans.iter().map(|s| s.end_ns).max().unwrap());
    world.cluster.start_node(n1.unwrap()).unwrap();
    wait_ready(&world.cluster, LIMIT).unwrap();
    for task in [&client, &server] {
        let spans = wait_for(world, task, killed_ns, 20);
        for span in &spans {
            assert_eq!(of(span, OLDER), "true", "{span:#?}");
            // What is said is right; what is not known is said to be.
            let method = of(span, "rpc.method");
            let is_known = method == METHOD;
            assert!(is_known || method.is_empty(), "{span:#?}");
            assert_eq!(
                of(span, "waggle.request.unknown_head") == "older",
                !is_known
            );
            assert!(
                ["", "OK", "NOT_FOUND"].contains(&of(span, CODE)),
                "{span:#?}"
            );
        }
        println!("on an older connection: {:?}", codes(&spans));
    }

    // A connection of its own time is told of as before.
    remove(&world.cluster, "/grpc-client", LIMIT).unwrap();
    let client = launch(world, &app("grpc-client", "n1", &call, None));
    let spans = wait_for(world, &client, 0, 20);
    spans.iter().for_each(is_exact);
    assert_eq!(codes(&spans), ["NOT_FOUND", "OK"].into());
    for id in ["/grpc-client", "/grpc-server"] {
        remove(&world.cluster, id, LIMIT).unwrap();
    }
}

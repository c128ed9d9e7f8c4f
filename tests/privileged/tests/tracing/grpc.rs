//! gRPC between a real client and a real server through a VIP, over one connection that is older than the agent in the end.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use waggle_tests_privileged::{LIMIT, can_run, shared, traced};
use waggle_tests_support::cluster::wait_ready;
use waggle_tests_support::scenario::World;
use waggle_tests_support::sink::Span;
use waggle_tests_support::wait_until;

use crate::common::{address, app, launch, looks, name_of, of, remove_all, spans_of};

const NODE: &str = "n2";
const METHOD: &str = "opentelemetry.proto.collector.trace.v1.TraceService/Export";
const CODE: &str = "rpc.response.status_code";
const OLDER: &str = "waggle.request.older_connection";
const UNKNOWN: &str = "waggle.request.unknown_head";

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_nanos()).unwrap()
}

/// Spans of a task's requests that began after a time and were answered.
fn since(world: &World, task: &str, begun_ns: u64) -> Vec<Span> {
    let mut spans = spans_of(world, task);
    spans.retain(|s| {
        let is_request = s
            .attributes
            .contains_key("waggle.request.time_to_first_byte");
        s.start_ns > begun_ns && is_request
    });
    spans
}

/// Until there are so many.
fn wait_for(world: &World, task: &str, begun_ns: u64, n: usize) -> Vec<Span> {
    let found = wait_until(LIMIT, &format!("{n} calls of {task}"), || {
        let spans = since(world, task, begun_ns);
        (spans.len() >= n).then_some(spans)
    });
    found.unwrap_or_else(|e| {
        let last = spans_of(world, task).pop();
        panic!("{e:#}\n{last:#?}\n{}", world.cluster.last_words())
    })
}

/// All is said of a call, and it is right.
fn is_exact(span: &Span) {
    assert_eq!(of(span, "rpc.method"), METHOD, "{span:#?}");
    assert_eq!(span.name, METHOD);
    assert_eq!(of(span, "rpc.system.name"), "grpc");
    assert_eq!((of(span, OLDER), of(span, UNKNOWN)), ("", ""), "{span:#?}");
    // What is not there is no fault of the server's.
    let is_client = !span.attributes.contains_key("client.address");
    let is_error = of(span, CODE) == "NOT_FOUND" && is_client;
    assert_eq!(span.error.is_some(), is_error, "{span:#?}");
}

fn codes(spans: &[Span]) -> BTreeSet<&str> {
    spans.iter().map(|s| of(s, CODE)).collect()
}

/// Both ends of a connection that is as old as the task at its other end.
fn are_exact(world: &World, client: &str, server: &str, begun_ns: u64) {
    for task in [client, server] {
        let spans = wait_for(world, task, begun_ns, 10);
        spans.iter().for_each(is_exact);
        assert_eq!(codes(&spans), ["NOT_FOUND", "OK"].into());
    }
}

#[test]
fn grpc_is_told_right_and_a_connection_older_than_the_agent_is_marked() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let traced = traced().unwrap().display().to_string();
    let to = format!("{}:80", name_of("grpc-server"));
    let call = format!("exec {traced} grpc-call {to}");
    let serve = format!("exec {traced} grpc-serve $PORT0");
    let serve = app("grpc-server", NODE, &serve, Some(80));
    // The client is there first, so that its connection is none that was made before anybody looked.
    let client = launch(world, &app("grpc-client", NODE, &call, None));
    looks(world, NODE);
    let server = launch(world, &serve);

    are_exact(world, &client, &server, 0);
    let sent = since(world, &client, 0);
    for span in &sent {
        assert_eq!(of(span, "waggle.vip.name"), to);
        assert_eq!(of(span, "service.peer.name"), "grpc-server.marathon");
        assert_eq!(of(span, "network.peer.address"), address(world, NODE));
    }
    let pairs = wait_until(LIMIT, "the other ends of calls", || {
        let pairs = since(world, &server, 0).into_iter().filter_map(|s| {
            let of_client = sent.iter().find(|c| c.span_id == s.parent_id)?;
            Some((of_client.clone(), s))
        });
        let pairs: Vec<_> = pairs.collect();
        (pairs.len() >= 10).then_some(pairs)
    });
    for (sent, answered) in pairs.unwrap() {
        assert_eq!(sent.trace_id, answered.trace_id);
        assert_eq!(of(&sent, CODE), of(&answered, CODE));
    }

    // Another agent finds the connection, and does not know what was said before.
    let nodes = &world.cluster.state.nodes;
    let at = nodes.iter().position(|n| n.name == NODE).unwrap();
    world.cluster.kill_node(at).unwrap();
    let killed_ns = now_ns();
    world.cluster.start_node(at).unwrap();
    wait_ready(&world.cluster, LIMIT).unwrap();
    for task in [&client, &server] {
        let spans = wait_for(world, task, killed_ns, 20);
        for span in &spans {
            assert_eq!(of(span, OLDER), "true", "{span:#?}");
            // What is said is right; what is not known is said to be.
            let method = of(span, "rpc.method");
            let is_known = method == METHOD;
            assert!(is_known || method.is_empty(), "{span:#?}");
            assert_eq!(of(span, UNKNOWN) == "older", !is_known, "{span:#?}");
            let codes = ["", "OK", "NOT_FOUND"];
            assert!(codes.contains(&of(span, CODE)), "{span:#?}");
        }
    }

    // A connection of its own time is told of as before.
    remove_all(world, ["/grpc-server".to_owned()]);
    let begun_ns = now_ns();
    let server = launch(world, &serve);
    are_exact(world, &client, &server, begun_ns);
    remove_all(world, ["client", "server"].map(|id| format!("/grpc-{id}")));
}

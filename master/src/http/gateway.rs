//! What DC/OS's gateway had at one address, for clients that know only that: an agent's own paths below `/slave/<id>` and
//! `/agent/<id>` (which is how `dcos task exec` and `dcos task log` reach it), and the names of masters as mesos-dns told them.
//!
//! A request goes to the agent as it is, and the answer comes back as it is: both are passed on piece by piece, at the pace of
//! whoever is slower, since input of containers and their output are requests and answers that last for as long as these do.

use std::net::SocketAddr;

use axum::{
    body::Body,
    http::{Request, header},
    response::Response,
};
use futures::StreamExt as _;
use serde_json::json;
use waggle_api::error::{ApiError, ErrorCode};

use super::{
    Api,
    native::relay,
    request::Call,
    respond::{Fail, ok},
};
use crate::view::ClusterView;

/// Headers of a request that an agent reads.
const PASSED: [&str; 6] = [
    "accept",
    "content-type",
    "content-length",
    "message-accept",
    "message-content-type",
    "last-event-id",
];

/// The agent, and the path there, of a request that is one's.
pub(super) fn agent(call: &Call) -> Option<(&str, &str)> {
    let [kind, id, _, ..] = call.segments.as_slice() else {
        return None;
    };
    if kind != "slave" && kind != "agent" {
        return None;
    }
    // As sent: what an agent takes apart is what the client wrote.
    let mut rest = call.path.trim_start_matches('/');
    if let Some(below) = rest.strip_prefix("mesos/") {
        rest = below.trim_start_matches('/');
    }
    let rest = rest.split_once('/')?.1.trim_start_matches('/');
    let at = rest.find('/')?;
    Some((id, &rest[at..]))
}

/// Passes a request on to an agent.
pub(super) async fn pass(api: &Api, call: &Call, body: Body) -> Result<Response, Fail> {
    let Some((id, path)) = agent(call) else {
        return Err(Fail::no_such_path(call));
    };
    let view = api.view();
    let found = view.agents.iter().find(|(known, _)| known.as_str() == id);
    let Some((_, agent)) = found else {
        return Err(Fail::not_found(format!("no agent {id:.100}")));
    };
    let at = SocketAddr::from((agent.info.ip, agent.info.http_port));
    let slot = api.tunnels.one_more()?;
    let mut path = path.to_owned();
    if !call.raw_query.is_empty() {
        path.push('?');
        path.push_str(&call.raw_query);
    }
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(path)
        .header(header::HOST, at.to_string());
    for name in PASSED {
        if let Some(value) = call.headers().get(name) {
            request = request.header(name, value);
        }
    }
    let client = call.client();
    if !client.is_empty() {
        request = request.header("x-waggle-client", client);
    }
    let request = request
        .body(body)
        .map_err(|e| ApiError::new(ErrorCode::BadRequest, e.to_string()))?;
    // Until it is answered, however long that takes: input of a container is a request that lasts. Who goes away meanwhile takes
    // the request along.
    let answer = relay::ask_within(at, request, None).await?;
    let stop = api.tunnels.stopped();
    Ok(relay::pass(answer).map(|body| {
        let parts = body.into_data_stream();
        let parts = parts.take_until(stop.cancelled_owned()).map(move |part| {
            // One of those that pass through, to the end of the answer.
            let _held = &slot;
            part
        });
        Body::from_stream(parts)
    }))
}

/// Whether a path asks for a host as mesos-dns is asked.
pub(super) fn is_host(call: &Call) -> bool {
    call.segments.len() == 4 && call.segments[1] == "v1" && call.segments[2] == "hosts"
}

/// `/mesos_dns/v1/hosts/<name>`, of names of masters: all that a client of the gateway asks for by itself. Other names are the
/// business of the nodes' resolvers.
pub(super) fn host(view: &ClusterView, call: &Call) -> Result<Response, Fail> {
    let name = call.segments.last().map_or("", String::as_str);
    let name = name.trim_end_matches('.');
    let mut ips: Vec<_> = match name {
        // Marathon is where the leader is.
        "leader.mesos" | "marathon.mesos" => view.leader.iter().map(|l| l.ip).collect(),
        "master.mesos" => view.masters.clone(),
        _ => return Err(Fail::no_such_path(call)),
    };
    ips.sort();
    let one = |ip: &std::net::Ipv4Addr| json!({ "host": format!("{name}."), "ip": ip.to_string() });
    Ok(ok(&ips.iter().map(one).collect::<Vec<_>>()))
}

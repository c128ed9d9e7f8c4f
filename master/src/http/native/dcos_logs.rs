//! Where DC/OS's gateway had dcos-log: `/system/v1/agent/<id>/logs/..` is that agent's, and `/system/v1/logs/v2/task/<id>`
//! says by a redirect where a task's is.

use std::net::SocketAddr;

use axum::{
    body::Body,
    http::{HeaderValue, Method, Request, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use http_body_util::Full;
use waggle_api::{
    error::{ApiError, ErrorCode},
    native::{PrefixError, by_prefix},
};

use super::{
    super::{Api, request::Call, respond::Fail},
    relay,
};
use crate::view::ClusterView;

/// Headers of a request that say what is wanted.
const PASSED: [&str; 2] = ["accept", "last-event-id"];

/// Whether a path is one of these.
pub(in crate::http) fn is_mine(call: &Call) -> bool {
    let path: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    matches!(
        path.as_slice(),
        ["system", "v1", "logs", "v2", "task", ..] | ["system", "v1", "agent", _, "logs", ..]
    )
}

/// Redirects, or asks the agent.
pub(in crate::http) async fn route(api: &Api, call: &Call) -> Result<Response, Fail> {
    if call.method != Method::GET {
        return Err(Fail::method(call, "GET"));
    }
    let view = api.view();
    let path: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["system", "v1", "agent", agent, "logs", rest @ ..] => pass(&view, call, agent, rest).await,
        ["system", "v1", "logs", "v2", "task", id] => found(&view, call, id, "stdout"),
        ["system", "v1", "logs", "v2", "task", id, "file", file] => found(&view, call, id, file),
        _ => Err(Fail::no_such_path(call)),
    }
}

/// 303, as dcos-log has it.
fn found(view: &ClusterView, call: &Call, text: &str, file: &str) -> Result<Response, Fail> {
    let all = || view.tasks.values().chain(&view.completed);
    let live = by_prefix(view.tasks.values().map(|t| t.id.as_str()), text);
    let id = match live {
        Err(PrefixError::Nothing(_)) => by_prefix(all().map(|t| t.id.as_str()), text),
        found => found,
    };
    let id = id.map_err(|e| {
        let code = match e {
            PrefixError::Nothing(_) => ErrorCode::NotFound,
            PrefixError::Several { .. } => ErrorCode::Conflict,
        };
        ApiError::new(code, e.to_string())
    })?;
    let Some(task) = all().find(|t| t.id.as_str() == id) else {
        return Err(Fail::not_found(format!("{id}: is not known any more")));
    };
    let id = relay::encode(id);
    let mut to = format!(
        "/system/v1/agent/{}/logs/v2/task/frameworks/{}/executors/{id}/runs/{id}/{}",
        relay::encode(task.agent_id().as_str()),
        relay::encode(task.spec.framework_id.as_str()),
        relay::encode(file),
    );
    if !call.raw_query.is_empty() {
        to.push('?');
        to.push_str(&call.raw_query);
    }
    let to = HeaderValue::from_str(&to)
        .map_err(|e| ApiError::new(ErrorCode::BadRequest, e.to_string()))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(header::LOCATION, to);
    Ok(response)
}

async fn pass(
    view: &ClusterView,
    call: &Call,
    agent: &str,
    rest: &[&str],
) -> Result<Response, Fail> {
    let found = view.agents.iter().find(|(id, _)| id.as_str() == agent);
    let Some((_, agent)) = found else {
        return Err(Fail::not_found(format!("no agent {agent:.100}")));
    };
    let at = SocketAddr::from((agent.info.ip, agent.info.http_port));
    let mut path = "/system/v1/logs".to_owned();
    for part in rest {
        path.push('/');
        path.push_str(&relay::encode(part));
    }
    if !call.raw_query.is_empty() {
        path.push('?');
        path.push_str(&call.raw_query);
    }
    let mut request = Request::get(path).header(header::HOST, at.to_string());
    for name in PASSED {
        if let Some(value) = call.headers().get(name) {
            request = request.header(name, value);
        }
    }
    let request = request
        .body(Full::new(Bytes::new()))
        .map_err(|e| ApiError::new(ErrorCode::BadRequest, e.to_string()))?;
    Ok(relay::pass(relay::ask(at, request).await?))
}

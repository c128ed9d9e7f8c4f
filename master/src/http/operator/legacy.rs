//! Endpoints with paths of their own, older than the API: `/roles`, `/weights`, `/quota`, `/reserve`, `/teardown`..

use axum::{
    body::Body,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    super::{
        Api, MAX_BODY,
        request::{Call, Query},
        scheduler::{No, body_of},
    },
    plain, reads, writes,
};

/// The path without `/master` before and `.json` behind.
fn path(call: &Call) -> Vec<&str> {
    let mut path: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    if path.len() > 1 && path[0] == "master" {
        path.remove(0);
    }
    if let Some(last) = path.last_mut() {
        *last = last.strip_suffix(".json").unwrap_or(last);
    }
    path
}

/// Whether a path is one of these.
pub(in crate::http) fn is_mine(call: &Call) -> bool {
    matches!(
        path(call).as_slice(),
        ["roles"
            | "flags"
            | "weights"
            | "quota"
            | "reserve"
            | "unreserve"
            | "create-volumes"
            | "destroy-volumes"
            | "teardown"]
            | ["quota", ..]
            | ["maintenance", "schedule" | "status"]
            | ["machine", "down" | "up"]
            | ["logging", "toggle"]
            | ["files", "browse" | "read" | "download" | "debug"]
    )
}

pub(in crate::http) async fn route(api: &Api, call: &Call, body: Body) -> Response {
    match answer(api, call, body).await {
        Ok(response) => response,
        Err(no) => no.into_response(),
    }
}

async fn answer(api: &Api, call: &Call, body: Body) -> Result<Response, No> {
    let view = api.view();
    let Some(leader) = view.leader.as_ref() else {
        let message = "No leader elected".to_owned();
        return Err(No(StatusCode::SERVICE_UNAVAILABLE, message));
    };
    let path = path(call);
    let (get, post) = (call.method == Method::GET, call.method == Method::POST);
    match path.as_slice() {
        ["roles"] if get => Ok(plain(&json!({ "roles": reads::roles(&view) }))),
        ["flags"] if get => Ok(plain(&json!({ "flags": reads::flags(&view) }))),
        ["weights"] if get => Ok(plain(&Value::Array(reads::weights(&view)))),
        ["weights"] if call.method == Method::PUT => {
            writes::run(api, writes::weights(&value(body).await?)?).await?;
            done()
        }
        ["quota"] if get => Ok(plain(&reads::quota(&view))),
        ["quota"] if post => {
            writes::run(api, vec![writes::old_quota(&value(body).await?)?]).await?;
            done()
        }
        // A role may be a path.
        ["quota", role @ ..] if call.method == Method::DELETE && !role.is_empty() => {
            writes::run(api, vec![writes::remove_quota(&role.join("/"))?]).await?;
            done()
        }
        ["maintenance", "status"] if get => Ok(plain(&reads::maintenance_status(&view))),
        ["maintenance", "schedule"] if get => Ok(plain(&reads::schedule(&view))),
        ["maintenance", "schedule"] if post => {
            let calls = writes::schedule(&view, &value(body).await?)?;
            writes::run(api, calls).await?;
            done()
        }
        ["machine", which] if post => {
            let machines = value(body).await?;
            let calls = match *which {
                "down" => writes::machines_down(&view, &machines)?,
                _ => writes::machines_up(&view, &machines)?,
            };
            writes::run(api, calls).await?;
            done()
        }
        ["teardown"] if post => {
            let form = form(body).await?;
            let id = form.first("frameworkId");
            let id = id.ok_or_else(|| No::bad("Missing 'frameworkId' query parameter"))?;
            writes::run(api, vec![writes::teardown(id)?]).await?;
            done()
        }
        [which @ ("reserve" | "unreserve" | "create-volumes" | "destroy-volumes")] if post => {
            reserve(api, which, body).await
        }
        ["logging", "toggle"] if get || post => toggle(api, &call.query),
        ["files", "debug"] if get => Ok(plain(&json!({}))),
        ["files", _] if get => {
            let path = call.query.first("path").unwrap_or_default();
            if path.is_empty() {
                return Err(No::bad("Expecting 'path=value' in query"));
            }
            let at = format!("{}:{}", leader.ip, leader.mesos_port);
            let message =
                format!("Path {path:.200?} not found: master {at} has no files, agents have");
            Err(No(StatusCode::NOT_FOUND, message))
        }
        _ => {
            let message = format!("method {} is not allowed on {}", call.method, call.path);
            Err(No(StatusCode::METHOD_NOT_ALLOWED, message))
        }
    }
}

/// Mesos answers these without a body.
#[allow(
    clippy::unnecessary_wraps,
    reason = "reads as the last line of each arm"
)]
fn done() -> Result<Response, No> {
    Ok(StatusCode::OK.into_response())
}

/// Without a level: which it is. With one, and how long: sets it.
fn toggle(api: &Api, query: &Query) -> Result<Response, No> {
    match (query.first("level"), query.first("duration")) {
        (None, None) => {
            let level = api.telemetry.verbosity().level();
            Ok(format!("{level}\n").into_response())
        }
        (Some(level), Some(duration)) => {
            let level = level.parse::<u64>();
            let level = level.map_err(|_| No::bad("level: must be a number"))?;
            writes::logging_level(api, &json!({ "level": level, "duration": duration }))?;
            done()
        }
        _ => Err(No::bad(
            "Expecting 'level' and 'duration' in query, or neither",
        )),
    }
}

async fn reserve(api: &Api, which: &str, body: Body) -> Result<Response, No> {
    let form = form(body).await?;
    let agent = form.first("slaveId").or_else(|| form.first("agentId"));
    let agent = agent.ok_or_else(|| No::bad("Missing 'slaveId' query parameter"))?;
    let agent = writes::agent_id(agent)?;
    let field = if which.ends_with("volumes") {
        "volumes"
    } else {
        "resources"
    };
    let list = form.first(field);
    let list = list.ok_or_else(|| No::bad(format!("Missing '{field}' query parameter")))?;
    let list: Value = waggle_api::mesos::json::value(list.as_bytes())
        .map_err(|e| No::bad(format!("{field}: must be JSON: {e}")))?;
    let calls = match which {
        "reserve" => writes::reservations(&agent, &list, true)?,
        "unreserve" => writes::reservations(&agent, &list, false)?,
        "create-volumes" => writes::volumes(&agent, &list, true)?,
        _ => writes::volumes(&agent, &list, false)?,
    };
    writes::run(api, calls).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

async fn value(body: Body) -> Result<Value, No> {
    let body = body_of(body, MAX_BODY).await?;
    waggle_api::mesos::json::value(&body).map_err(|e| No::bad(format!("Failed to parse JSON: {e}")))
}

async fn form(body: Body) -> Result<Query, No> {
    let body = body_of(body, MAX_BODY).await?;
    let text = std::str::from_utf8(&body).map_err(|_| No::bad("body is not UTF-8"))?;
    Query::parse(text.trim()).map_err(|e| No::bad(e.message))
}

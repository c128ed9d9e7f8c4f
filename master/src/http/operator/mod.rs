//! Mesos's operator API: `POST /api/v1` (and `/api/v1/operator`, which is where pymesos's driver posts to).
//!
//! One body for each call, in JSON; reads come from the newest view, changes are done by the core as the native
//! API's are. The stream of events is made of views, once for all who listen.

mod events;
mod legacy;
mod reads;
mod writes;

use axum::{
    body::Body,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Api, MAX_BODY,
    request::Call,
    respond,
    scheduler::{Media, No, body_of},
};
pub(super) use events::Hub;
pub(super) use legacy::{is_mine as is_legacy, route as legacy};
pub(super) use reads::reserved_by_role;

/// Whether a path is this API's.
pub(super) fn is_mine(call: &Call) -> bool {
    let path: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    matches!(
        path.as_slice(),
        ["api", "v1"]
            | ["api", "v1", "operator"]
            | ["master", "api", "v1"]
            | ["master", "api", "v1", "operator"]
    )
}

/// Answers a call. `cut` ends the connection that it came by.
pub(super) async fn route(api: &Api, call: &Call, body: Body, cut: CancellationToken) -> Response {
    match answer(api, call, body, cut).await {
        Ok(response) => response,
        Err(no) => no.into_response(),
    }
}

async fn answer(
    api: &Api,
    call: &Call,
    body: Body,
    cut: CancellationToken,
) -> Result<Response, No> {
    if call.method != Method::POST {
        let message = format!("Expecting 'POST', received '{}'", call.method);
        return Err(No(StatusCode::METHOD_NOT_ALLOWED, message));
    }
    if Media::of_body(call.headers())? != Media::Json
        || Media::accepted(call.headers()) != Some(Media::Json)
    {
        let message = "the operator API speaks application/json";
        return Err(No(StatusCode::UNSUPPORTED_MEDIA_TYPE, message.to_owned()));
    }
    let body = body_of(body, MAX_BODY).await?;
    let said: Value = serde_json::from_slice(&body)
        .map_err(|e| No::bad(format!("Failed to parse body into JSON: {e}")))?;
    let kind = said.get("type").and_then(Value::as_str);
    let kind = kind.ok_or_else(|| No::bad("Expecting 'type' to be present"))?;
    let view = api.view();
    if view.leader.is_none() {
        let message = "Master has not finished recovery".to_owned();
        return Err(No(StatusCode::SERVICE_UNAVAILABLE, message));
    }
    if kind == "SUBSCRIBE" {
        return events::subscribe(api, cut).await;
    }
    if let Some(answer) = reads::read(kind, &said, &view) {
        return answer.map(|value| wrapped(kind, value));
    }
    let field = kind.to_ascii_lowercase();
    let nothing = Value::Null;
    let inner = said.get(&field).unwrap_or(&nothing);
    if !writes::is_known(kind) {
        return Err(No::bad(format!("Call of type {kind:.80} is not known")));
    }
    if !inner.is_object() {
        return Err(No::bad(format!("Expecting '{field}' to be present")));
    }
    writes::write(api, kind, inner).await?;
    Ok(StatusCode::OK.into_response())
}

/// `{"type": "GET_HEALTH", "get_health": {..}}`.
fn wrapped(kind: &str, value: Value) -> Response {
    let mut out = Map::new();
    out.insert("type".into(), kind.into());
    if !value.is_null() {
        out.insert(kind.to_ascii_lowercase(), value);
    }
    respond::ok(&Value::Object(out))
}

/// A JSON answer of an endpoint with a path of its own.
fn plain(value: &Value) -> Response {
    let mut response = respond::ok(value);
    let cache = HeaderValue::from_static("no-cache");
    response.headers_mut().insert(header::CACHE_CONTROL, cache);
    response
}

/// An id as Mesos writes it.
fn id(value: &impl ToString) -> Value {
    json!({ "value": value.to_string() })
}

//! Mesos's operator API: `POST /api/v1` (and `/api/v1/operator`, which is where pymesos's driver posts to).
//!
//! One body for each call, in JSON or protobuf, which is read as the same JSON and written from it; reads come from the newest view, changes are done by the core as the native
//! API's are. The stream of events is made of views, once for all who listen.

mod events;
mod hub;
mod legacy;
mod reads;
mod writes;

use axum::{
    body::Body,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use waggle_api::{
    error::ApiError,
    mesos::{Media, json},
    proto::mesos as pb,
};

use super::{
    Api, MAX_BODY, reader,
    request::Call,
    respond,
    scheduler::{No, body_of, not_acceptable},
};
pub(super) use hub::Hub;
pub(super) use legacy::{is_mine as is_legacy, route as legacy};
pub(super) use reads::{flags, reserved_by_role};

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
    let media = Media::of_body(call.headers())?;
    let accept = Media::accepted(call.headers()).ok_or_else(not_acceptable)?;
    let body = body_of(body, MAX_BODY).await?;
    let said = match media {
        Media::Json => json::value(&body)
            .map_err(|e| No::bad(format!("Failed to parse body into JSON: {e}")))?,
        Media::Protobuf => as_json(&media.read::<pb::OperatorCall>(&body)?)?,
    };
    let kind = said.get("type").and_then(Value::as_str);
    let kind = kind.ok_or_else(|| No::bad("Expecting 'type' to be present"))?;
    let view = api.view();
    if view.leader.is_none() {
        let message = "Master has not finished recovery".to_owned();
        return Err(No(StatusCode::SERVICE_UNAVAILABLE, message));
    }
    if kind == "SUBSCRIBE" {
        return events::subscribe(api, accept, cut).await;
    }
    if kind == "GET_LOGGING_LEVEL" {
        let level = api.telemetry.verbosity().level();
        return wrapped(kind, json!({ "level": level }), accept);
    }
    if ["GET_STATE", "GET_TASKS", "GET_AGENTS", "GET_FRAMEWORKS"].contains(&kind) {
        let kind = kind.to_owned();
        let made = reader::read(move || {
            let answer = reads::read(&kind, &said, &view).unwrap_or(Ok(Value::Null));
            wrapped(&kind, answer?, accept)
        });
        return made.await.map_err(busy)?;
    }
    if kind == "GET_OPERATIONS" {
        let outcomes = api.scheduler.as_ref().map(|door| &door.outcomes);
        let all = outcomes.map_or_else(Vec::new, |o| o.all_unacknowledged());
        let made =
            reader::read(move || wrapped("GET_OPERATIONS", reads::operations(&view, &all), accept));
        return made.await.map_err(busy)?;
    }
    if let Some(answer) = reads::read(kind, &said, &view) {
        return wrapped(kind, answer?, accept);
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
    if kind == "SET_LOGGING_LEVEL" {
        writes::logging_level(api, inner)?;
        return Ok(StatusCode::OK.into_response());
    }
    writes::write(api, kind, inner).await?;
    Ok(StatusCode::OK.into_response())
}

/// Too many large answers at once.
fn busy(e: ApiError) -> No {
    No(StatusCode::SERVICE_UNAVAILABLE, e.message)
}

/// `{"type": "GET_HEALTH", "get_health": {..}}`.
fn wrapped(kind: &str, value: Value, accept: Media) -> Result<Response, No> {
    let mut out = Map::new();
    out.insert("type".into(), kind.into());
    if !value.is_null() {
        out.insert(kind.to_ascii_lowercase(), value);
    }
    let out = Value::Object(out);
    if accept == Media::Json {
        return Ok(respond::ok(&out));
    }
    let mut response = Response::new(Body::from(as_protobuf::<pb::OperatorResponse>(out)?));
    let name = HeaderValue::from_static(accept.name());
    response.headers_mut().insert(header::CONTENT_TYPE, name);
    Ok(response)
}

fn as_json(message: &impl Serialize) -> Result<Value, No> {
    serde_json::to_value(message).map_err(|e| No::bad(format!("Failed to read the call: {e}")))
}

/// Written from the same JSON that others read: one place says what is answered.
fn as_protobuf<M: Message + Default + DeserializeOwned>(json: Value) -> Result<Vec<u8>, No> {
    let message = serde_json::from_value::<M>(json).map_err(|e| {
        let message = format!("the answer can't be written as protobuf: {e}");
        No(StatusCode::INTERNAL_SERVER_ERROR, message)
    })?;
    Ok(message.encode_to_vec())
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

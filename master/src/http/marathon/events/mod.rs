//! `/v2/events`: what happens to services, as server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! All of Marathon's kinds of which there is something to tell; `framework_message_event`, `subscribe_event` and
//! `unsubscribe_event` never happen, since services have no executors of their own and callbacks were removed from Marathon.

mod write;

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use serde_json::{Value, json};
use waggle_api::{
    error::{ApiError, ErrorCode},
    marathon::{Counts, app_json},
};
use waggle_types::ServiceSpec;

use super::super::{Api, now, request::Call, respond::Fail};
use crate::{
    newsroom::{MAX_LISTENERS, Newsroom, Waiting, What},
    queue::Next,
};

/// Between two signs of life on a stream that has nothing to tell, as Marathon has it.
const BEAT: Duration = Duration::from_secs(10);
/// An empty line, which readers skip.
const SIGN_OF_LIFE: &[u8] = b"\n";

/// Ends a listener's queue with its stream, and tells the others.
struct Leaves {
    room: Newsroom,
    queue: Arc<Waiting>,
    from: String,
}

impl Drop for Leaves {
    fn drop(&mut self) {
        let left = attachment("event_stream_detached", &self.from);
        self.room.leave(&self.queue, left, now());
    }
}

fn attachment(kind: &'static str, from: &str) -> What {
    What::Client(kind, json!({ "remoteAddress": from }))
}

/// Whether plans are told without the definitions before and after.
fn light(call: &Call) -> Result<bool, ApiError> {
    match call.query.first("plan-format") {
        None | Some("full") => Ok(false),
        Some("light") => Ok(true),
        Some(other) => Err(ApiError::new(
            ErrorCode::BadRequest,
            format!("plan-format: must be light or full, is {other:.40?}"),
        )),
    }
}

pub(super) fn subscribe(api: &Api, call: &Call) -> Result<Response, Fail> {
    let light = light(call)?;
    let wants: BTreeSet<String> = call.query.all("event_type").map(Into::into).collect();
    let (room, from) = (api.handle.newsroom().clone(), call.client());
    let queue = Arc::new(Waiting::new(call.cut.clone()));
    let came = attachment("event_stream_attached", &from);
    if !room.join(wants, Arc::clone(&queue), came, now()) {
        let message = format!("the limit of {MAX_LISTENERS} event streams is reached");
        return Err(ApiError::new(ErrorCode::Unavailable, message).into());
    }
    let leaves = Leaves {
        room,
        queue: Arc::clone(&queue),
        from,
    };
    let events = async_stream::stream! {
        let _leaves = leaves;
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        beat.tick().await;
        loop {
            tokio::select! {
                biased;
                next = queue.next() => match next {
                    Next::Event(heard) => {
                        yield Ok::<_, Infallible>(heard.written(light, |h| write::event(h, light)));
                    }
                    Next::End(_) => break,
                },
                _ = beat.tick() => yield Ok(Bytes::from_static(SIGN_OF_LIFE)),
            }
        }
    };
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/event-stream;charset=utf-8");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Who asked for a change, and where.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    client: String,
    uri: String,
}

impl Origin {
    pub(super) fn of(call: &Call) -> Self {
        Self {
            client: call.client(),
            uri: call.path.clone(),
        }
    }
}

/// A client changed a pod.
pub(super) fn pod(api: &Api, origin: &Origin, kind: &'static str) {
    let body = json!({ "clientIp": origin.client, "uri": origin.uri });
    let what = What::Client(kind, body);
    api.handle.newsroom().say(what, now(), &api.telemetry);
}

/// A client changed an app.
pub(super) fn posted(api: &Api, origin: &Origin, spec: &ServiceSpec) {
    let app = app_json(spec, Counts::default(), Vec::new());
    let body = json!({
        "clientIp": origin.client,
        "uri": origin.uri,
        "appDefinition": serde_json::to_value(app).unwrap_or(Value::Null),
    });
    let what = What::Client("api_post_event", body);
    api.handle.newsroom().say(what, now(), &api.telemetry);
}

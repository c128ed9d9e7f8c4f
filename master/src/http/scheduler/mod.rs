//! `POST /api/v1/scheduler`: Mesos's scheduler API.
//!
//! The order of the checks is Mesos's (`master/http.cpp`), since clients' tests rely on it. What is wrong with
//! the request is a 4xx with a sentence; what is wrong with the world (an offer that is gone, a task that nobody
//! knows) is a 202, and said by an event: clients end their thread at any other answer.

mod accept;
mod calls;
mod stream;

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, Limited};
use tokio_util::sync::CancellationToken;
use waggle_api::{
    convert::ConvertError,
    mesos::{Media, MediaError},
    proto::mesos::{self as pb, call::Type},
};
use waggle_types::FrameworkId;

use super::{Api, BODY_TIMEOUT, request::Call};
use crate::framework::{SchedulerDoor, Stopping};
pub(super) use stream::master;

/// Largest call, in bytes.
const MAX_CALL: usize = 8 << 20;
/// Before "no leader" is answered: clients ask again at once, without end.
const UNAVAILABLE_PAUSE: Duration = Duration::from_millis(700);
/// Names the stream that a call belongs to.
const STREAM_ID: &str = "mesos-stream-id";

/// A refusal as Mesos writes it: plain text.
#[derive(Debug)]
pub(in crate::http) struct No(pub StatusCode, pub String);

impl No {
    pub(in crate::http) fn bad(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }
}

impl From<ConvertError> for No {
    fn from(e: ConvertError) -> Self {
        Self::bad(format!("Failed to validate scheduler::Call: {e}"))
    }
}

impl From<MediaError> for No {
    fn from(e: MediaError) -> Self {
        Self(e.status(), e.to_string())
    }
}

impl From<Stopping> for No {
    fn from(Stopping: Stopping) -> Self {
        Self(
            StatusCode::SERVICE_UNAVAILABLE,
            "The master is stopping".to_owned(),
        )
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let mut response = (self.0, self.1).into_response();
        if self.0 == StatusCode::METHOD_NOT_ALLOWED {
            let post = HeaderValue::from_static("POST");
            response.headers_mut().insert(header::ALLOW, post);
        }
        response
    }
}

/// Whether a path is this API's.
pub(super) fn is_mine(path: &str) -> bool {
    let mut segments = path.split('/').filter(|s| !s.is_empty()).peekable();
    segments.next_if_eq(&"master");
    segments.eq(["api", "v1", "scheduler"])
}

/// Answers a call. `cut` ends the connection that it came by.
pub(super) async fn route(api: &Api, call: &Call, body: Body, cut: CancellationToken) -> Response {
    match answer(api, call, body, cut).await {
        Ok(response) => response,
        Err(no) => {
            if no.0 == StatusCode::SERVICE_UNAVAILABLE {
                tokio::time::sleep(UNAVAILABLE_PAUSE).await;
            }
            no.into_response()
        }
    }
}

async fn answer(
    api: &Api,
    call: &Call,
    body: Body,
    cut: CancellationToken,
) -> Result<Response, No> {
    let unavailable = |m: &str| No(StatusCode::SERVICE_UNAVAILABLE, m.to_owned());
    let door = api.scheduler.as_ref();
    let door = door.ok_or_else(|| unavailable("No leader elected"))?;
    if call.method != Method::POST {
        let message = format!("Expecting 'POST', received '{}'", call.method);
        return Err(No(StatusCode::METHOD_NOT_ALLOWED, message));
    }
    let headers = call.headers();
    let media = Media::of_body(headers)?;
    let body = body_of(body, MAX_CALL).await?;
    let request = media.read::<pb::Call>(&body)?;
    let kind = request.r#type();
    if kind == Type::Unknown {
        return Err(No::bad("Expecting 'type' to be present"));
    }
    let accept = Media::accepted(headers);
    if kind == Type::Subscribe {
        let Some(subscribe) = &request.subscribe else {
            return Err(No::bad("Expecting 'subscribe' to be present"));
        };
        let accept = accept.ok_or_else(not_acceptable)?;
        if headers.contains_key(STREAM_ID) {
            let message = "Subscribe calls should not include the 'Mesos-Stream-Id' header";
            return Err(No::bad(message));
        }
        if subscribe.framework_info.is_none() {
            return Err(No::bad(
                "Expecting 'subscribe.framework_info' to be present",
            ));
        }
        return stream::subscribe(api, door, &request, accept, cut).await;
    }
    let parsed = calls::parse(&request)?;
    if kind == Type::ReconcileOperations && accept.is_none() {
        return Err(not_acceptable());
    }
    let id = request.framework_id.as_ref().map(|id| id.value.as_str());
    let id = id.ok_or_else(|| No::bad("Expecting 'framework_id' to be present"))?;
    let id = FrameworkId::new(id).map_err(|e| No::bad(format!("framework_id: {e}")))?;
    let stream = of_stream(door, &id, headers).await?;
    let media = accept.unwrap_or(Media::Json);
    calls::run(&api.view(), door, &id, &stream, parsed, media).await
}

pub(super) fn not_acceptable() -> No {
    let message = "Expecting 'Accept' to allow 'application/json' or 'application/x-protobuf'";
    No(StatusCode::NOT_ACCEPTABLE, message.to_owned())
}

/// The framework's open stream, if the call names it.
async fn of_stream(
    door: &SchedulerDoor,
    id: &FrameworkId,
    headers: &HeaderMap,
) -> Result<std::sync::Arc<crate::framework::Subscriber>, No> {
    let Some(stream) = door.stream(id) else {
        return Err(calls::not_subscribed(door, id).await?);
    };
    let Some(given) = headers.get(STREAM_ID) else {
        let message = "All non-subscribe calls should include the 'Mesos-Stream-Id' header";
        return Err(No::bad(message));
    };
    if given.as_bytes() != stream.id.as_bytes() {
        let message = format!(
            "The stream ID included in this request didn't match the stream ID currently associated with framework ID {id}"
        );
        return Err(No::bad(message));
    }
    Ok(stream)
}

/// The body of a call, bounded in size and time.
pub(super) async fn body_of(body: Body, max: usize) -> Result<Bytes, No> {
    let collected = Limited::new(body, max).collect();
    match tokio::time::timeout(BODY_TIMEOUT, collected).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
            let message = format!("the call must be at most {max} bytes");
            Err(No(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Ok(Err(e)) => Err(No::bad(format!("the call could not be read: {e}"))),
        Err(_) => Err(No::bad("the call did not arrive in time")),
    }
}

/// What every call that is taken is answered with.
fn accepted() -> Response {
    let mut response = StatusCode::ACCEPTED.into_response();
    let zero = HeaderValue::from_static("0");
    response.headers_mut().insert(header::CONTENT_LENGTH, zero);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_may_have_the_component_before_it() {
        for mine in [
            "/api/v1/scheduler",
            "/master/api/v1/scheduler",
            "//api/v1/scheduler/",
        ] {
            assert!(is_mine(mine), "{mine}");
        }
        for other in [
            "/api/v1",
            "/master/master/api/v1/scheduler",
            "/api/v1/scheduler/x",
        ] {
            assert!(!is_mine(other), "{other}");
        }
    }
}

//! `POST /api/v1/executor`: Mesos's executor API.
//!
//! The order of the checks is Mesos's (`slave/http.cpp`).

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use tokio::sync::{mpsc, oneshot};
use waggle_api::{
    mesos::{Media, MediaError},
    proto::mesos as pb,
};

use super::{Asked, Call, Done, Door, Gone, Refused, Stream, wire};
use crate::{clock, run::Input};

/// Largest call, in bytes.
const MAX_CALL: usize = 8 << 20;
/// Between two heartbeats on a stream (Mesos's `DEFAULT_EXECUTOR_HEARTBEAT_INTERVAL`).
const HEARTBEAT: Duration = Duration::from_mins(30);

/// A refusal as Mesos writes it: plain text.
type No = (StatusCode, String);

/// The API's routes.
pub fn routes(door: Door) -> Router {
    Router::new()
        .route("/api/v1/executor", post(ask))
        .route("/slave(1)/api/v1/executor", post(ask))
        .with_state(door)
}

async fn ask(State(door): State<Door>, headers: HeaderMap, body: Body) -> Response {
    match answer(door, &headers, body).await {
        Ok(response) => response,
        Err(no) => no.into_response(),
    }
}

fn no(e: &MediaError) -> No {
    (e.status(), e.to_string())
}

fn bad(message: impl Into<String>) -> No {
    (StatusCode::BAD_REQUEST, message.into())
}

async fn answer(door: Door, headers: &HeaderMap, body: Body) -> Result<Response, No> {
    let media = Media::of_body(headers).map_err(|e| no(&e))?;
    let body = axum::body::to_bytes(body, MAX_CALL)
        .await
        .map_err(|e| bad(format!("Failed to read the body: {e}")))?;
    let call: pb::ExecutorCall = media.read(&body).map_err(|e| no(&e))?;
    let accepted = Media::accepted(headers);
    let (key, call) = wire::call(call, accepted.unwrap_or(media), clock::now())
        .map_err(|e| bad(format!("Failed to validate executor::Call: {e}")))?;
    if accepted.is_none() && matches!(call, Call::Subscribe { .. }) {
        let why = "Expecting 'Accept' to allow application/json or application/x-protobuf";
        return Err((StatusCode::NOT_ACCEPTABLE, why.to_owned()));
    }
    let media = accepted.unwrap_or(media);
    let stopping = || {
        let why = "Agent has not finished recovery".to_owned();
        (StatusCode::SERVICE_UNAVAILABLE, why)
    };
    let (reply, answer) = oneshot::channel();
    let asked = Asked {
        key: key.clone(),
        call,
        reply,
    };
    let sent = door.inputs.send(Input::Executor(Box::new(asked))).await;
    sent.map_err(|_| stopping())?;
    match answer.await.map_err(|_| stopping())? {
        Ok(Done::Accepted) => Ok(StatusCode::ACCEPTED.into_response()),
        Ok(Done::Stream(stream)) => {
            let guard = Guard {
                inputs: door.inputs,
                gone: Some(Gone {
                    key,
                    number: stream.number,
                }),
            };
            let body = Body::from_stream(records(stream, media, guard));
            let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(media.name()))];
            Ok((kind, body).into_response())
        }
        Err(Refused::Unknown(why)) => Err(bad(why)),
        Err(Refused::NotSubscribed) => {
            let why = "Executor is not subscribed".to_owned();
            Err((StatusCode::FORBIDDEN, why))
        }
    }
}

/// Says that a stream is over, however it ended.
struct Guard {
    inputs: mpsc::Sender<Input>,
    gone: Option<Gone>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(gone) = self.gone.take() else { return };
        let inputs = self.inputs.clone();
        // The loop may be full; without a runtime the agent itself is ending.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = inputs.send(Input::ExecutorGone(gone)).await;
            });
        }
    }
}

/// Records of a stream, and heartbeats between them.
fn records(
    mut stream: Stream,
    media: Media,
    guard: Guard,
) -> impl futures::Stream<Item = Result<Bytes, Infallible>> {
    let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
    async_stream::stream! {
        let _guard = guard;
        loop {
            tokio::select! {
                record = stream.events.recv() => match record {
                    Some(record) => yield Ok(record),
                    None => break,
                },
                _ = beat.tick() => yield Ok(Bytes::from(wire::heartbeat(media))),
            }
        }
    }
}

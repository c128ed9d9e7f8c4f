//! Calls about containers that are launched here, and the streams of their input and output.
//!
//! The order of the checks and the words are Mesos's (`slave/http.cpp`, `slave/validation.cpp`).

use std::convert::Infallible;

use axum::{
    body::{Body, BodyDataStream, Bytes},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use futures::StreamExt as _;
use tokio::time::{Instant, interval_at};
use waggle_api::{
    mesos::{Media, recordio, streaming::Form},
    proto::mesos::{self as pb, agent_call::Type, agent_response},
};

use super::{CALL_TIMEOUT, No, Operator};
use crate::{
    exec::{IDLE, Open, Session, talk::Outcome},
    nested::{self, Class, Id, Input, Launched, Refused, Shown, Typed},
};

/// Longest record of an input stream, in bytes: a call with what was typed meanwhile, in base64.
const MAX_RECORD: usize = 1 << 20;
/// SIGKILL, as Mesos has it.
const KILL: i32 = libc::SIGKILL;

impl From<Refused> for No {
    fn from(refused: Refused) -> Self {
        let (status, why) = match refused {
            Refused::Bad(why) => (StatusCode::BAD_REQUEST, why),
            Refused::Unknown(why) => (StatusCode::NOT_FOUND, why),
            Refused::Busy(why) => (StatusCode::CONFLICT, why),
            Refused::Full(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
            Refused::Failed(why) => (StatusCode::INTERNAL_SERVER_ERROR, why),
        };
        Self(status, why)
    }
}

/// Whether a call is one of these.
pub fn is_about(kind: Type) -> bool {
    matches!(
        kind,
        Type::LaunchNestedContainer
            | Type::WaitNestedContainer
            | Type::KillNestedContainer
            | Type::RemoveNestedContainer
            | Type::LaunchNestedContainerSession
            | Type::AttachContainerInput
            | Type::AttachContainerOutput
            | Type::LaunchContainer
            | Type::WaitContainer
            | Type::KillContainer
            | Type::RemoveContainer
    )
}

fn invalid(why: &str) -> No {
    if why == nested::NOT_SUPPORTED {
        return No::bad(why);
    }
    No::bad(format!("Failed to validate agent::Call: {why}"))
}

/// Does what a call asks; `who` sent it.
pub async fn answer(
    operator: &Operator,
    kind: Type,
    call: pb::AgentCall,
    headers: &HeaderMap,
    who: String,
) -> Result<Response, No> {
    let containers = &operator.0.containers;
    match kind {
        Type::LaunchNestedContainer => {
            let (field, body) = ("launch_nested_container", call.launch_nested_container);
            let wanted = nested::nested(field, body, Class::Plain).map_err(|e| invalid(&e))?;
            Ok(launched(&containers.launch(wanted, who).await?))
        }
        Type::LaunchContainer => {
            let wanted = nested::any(call.launch_container).map_err(|e| invalid(&e))?;
            Ok(launched(&containers.launch(wanted, who).await?))
        }
        Type::LaunchNestedContainerSession => {
            let (field, body) = (
                "launch_nested_container_session",
                call.launch_nested_container_session,
            );
            let wanted = nested::nested(field, body, Class::Session).map_err(|e| invalid(&e))?;
            let form = Form::accepted(headers)?;
            match containers.launch(wanted, who).await? {
                Launched::Runs(Some(shown)) => Ok(stream(shown, form)),
                other => Ok(launched(&other)),
            }
        }
        Type::WaitNestedContainer => {
            let form = whole(Form::accepted(headers)?, kind)?;
            let id = nested_id("wait_nested_container", call.wait_nested_container)?;
            let end = nested::end(&containers.wait(&id).await?);
            let response = pb::AgentResponse {
                r#type: Some(agent_response::Type::WaitNestedContainer.into()),
                wait_nested_container: Some(end),
                ..pb::AgentResponse::default()
            };
            Ok((form.headers(), form.media.write(&response)).into_response())
        }
        Type::WaitContainer => {
            let form = whole(Form::accepted(headers)?, kind)?;
            let id = any_id("wait_container", call.wait_container)?;
            let end = nested::end(&containers.wait(&id).await?);
            let response = pb::AgentResponse {
                r#type: Some(agent_response::Type::WaitContainer.into()),
                wait_container: Some(end),
                ..pb::AgentResponse::default()
            };
            Ok((form.headers(), form.media.write(&response)).into_response())
        }
        Type::KillNestedContainer => {
            let (signal, named) = asked(call.kill_nested_container);
            let id = nested_id("kill_nested_container", named)?;
            containers.kill(&id, signal).await?;
            Ok(StatusCode::OK.into_response())
        }
        Type::KillContainer => {
            let (signal, named) = asked(call.kill_container);
            let id = any_id("kill_container", named)?;
            containers.kill(&id, signal).await?;
            Ok(StatusCode::OK.into_response())
        }
        Type::RemoveNestedContainer => {
            let id = nested_id("remove_nested_container", call.remove_nested_container)?;
            containers.remove(&id).await?;
            Ok(StatusCode::OK.into_response())
        }
        Type::RemoveContainer => {
            let id = any_id("remove_container", call.remove_container)?;
            containers.remove(&id).await?;
            Ok(StatusCode::OK.into_response())
        }
        Type::AttachContainerOutput => {
            let id = any_id("attach_container_output", call.attach_container_output)?;
            let form = Form::accepted(headers)?;
            let slot = operator.slot()?;
            let shown = containers.show(&id).await?;
            let open = attached(operator, "output", &id, who);
            Ok(stream_with(shown, form, slot, Some(open)))
        }
        // One message can't be a stream of input.
        _ => Err(No(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!(
                "Streaming 'Content-Type' is required for {} call",
                kind.as_str_name()
            ),
        )),
    }
}

/// A signal, and whom it is for.
fn asked(call: Option<pb::KillContainer>) -> (i32, Option<pb::NamedContainer>) {
    let signal = call.as_ref().and_then(|c| c.signal).unwrap_or(KILL);
    let named = call.map(|c| pb::NamedContainer {
        container_id: c.container_id,
    });
    (signal, named)
}

fn nested_id(field: &str, call: Option<pb::NamedContainer>) -> Result<Id, No> {
    let call = call.ok_or_else(|| invalid(&format!("Expecting '{field}' to be present")))?;
    nested::with_parent(field, call.container_id.as_ref()).map_err(|e| invalid(&e))
}

fn any_id(field: &str, call: Option<pb::NamedContainer>) -> Result<Id, No> {
    let call = call.ok_or_else(|| invalid(&format!("Expecting '{field}' to be present")))?;
    Id::read(call.container_id.as_ref())
        .map_err(|e| invalid(&format!("'{field}.container_id' is invalid: {e}")))
}

/// An answer that is one message.
fn whole(form: Form, kind: Type) -> Result<Form, No> {
    if form.stream {
        let why = format!(
            "Streaming response is not supported for {} call",
            kind.as_str_name()
        );
        return Err(No(StatusCode::NOT_ACCEPTABLE, why));
    }
    Ok(form)
}

fn launched(launched: &Launched) -> Response {
    match launched {
        Launched::Runs(_) => StatusCode::OK,
        Launched::Before => StatusCode::ACCEPTED,
    }
    .into_response()
}

/// Somebody is at an end of a container.
fn attached(operator: &Operator, kind: &'static str, id: &Id, who: String) -> Open {
    operator.0.sessions.begin(Session {
        kind,
        who,
        task: id.to_string(),
        program: String::new(),
    })
}

fn stream(shown: Shown, form: Form) -> Response {
    stream_with(shown, form, (), None)
}

/// Output as it comes, and heartbeats between; `held` as long as it does.
fn stream_with(
    shown: Shown,
    form: Form,
    held: impl Send + 'static,
    open: Option<Open>,
) -> Response {
    let body = Body::from_stream(records(shown, form.media, held, open));
    (form.headers(), body).into_response()
}

fn records(
    mut shown: Shown,
    media: Media,
    held: impl Send + 'static,
    open: Option<Open>,
) -> impl futures::Stream<Item = Result<Bytes, Infallible>> {
    let mut beat = interval_at(Instant::now() + nested::HEARTBEAT, nested::HEARTBEAT);
    async_stream::stream! {
        let _held = held;
        let open = open;
        loop {
            tokio::select! {
                frame = shown.recv() => match frame {
                    Some(frame) => if let Some(record) = nested::record(&frame, media) {
                        yield Ok(Bytes::from(record));
                    },
                    None => break,
                },
                _ = beat.tick() => yield Ok(Bytes::from(nested::heartbeat(media))),
            }
        }
        if let Some(open) = open {
            open.done();
        }
    }
}

/// A request that is a stream: input for a container, whose name comes first. It is answered when it ends, or the container
/// does.
pub async fn attach_input(
    operator: &Operator,
    media: Media,
    body: Body,
    who: String,
) -> Result<Response, No> {
    let mut calls = Calls::new(body, media);
    let first = tokio::time::timeout(CALL_TIMEOUT, calls.next()).await;
    let first = first.map_err(|_| No::bad("The call did not arrive in time"))??;
    let first = first.ok_or_else(|| No::bad("Received EOF while reading request body"))?;
    let kind = first.r#type();
    if kind != Type::AttachContainerInput {
        let why = format!(
            "Streaming 'Content-Type' application/recordio is not supported for {} call",
            kind.as_str_name()
        );
        return Err(No(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let Input::Of(id) = nested::input(first).map_err(|e| invalid(&e))? else {
        let why = "Expecting 'attach_container_input.type' to be CONTAINER_ID";
        return Err(No::bad(why));
    };
    let _slot = operator.slot()?;
    let writer = operator.0.containers.writer(&id).await?;
    let open = attached(operator, "input", &id, who);
    loop {
        let next = tokio::select! {
            () = writer.closed() => break,
            next = tokio::time::timeout(IDLE, calls.next()) => next,
        };
        let Ok(next) = next else {
            open.ended(&Outcome::Idle);
            return Err(No::bad("Nothing was sent for too long"));
        };
        let Some(call) = next? else { break };
        let typed = match nested::input(call).map_err(|e| invalid(&e))? {
            Input::Typed(typed) => typed,
            Input::Of(_) => {
                let why = "Expecting 'attach_container_input.type' to be PROCESS_IO";
                return Err(No::bad(why));
            }
        };
        if typed != Typed::Heartbeat && !writer.send(typed).await {
            break;
        }
    }
    open.done();
    Ok(StatusCode::OK.into_response())
}

/// Calls of a stream.
struct Calls {
    body: BodyDataStream,
    records: recordio::Reader,
    media: Media,
}

impl Calls {
    fn new(body: Body, media: Media) -> Self {
        Self {
            body: body.into_data_stream(),
            records: recordio::Reader::of_at_most(MAX_RECORD),
            media,
        }
    }

    /// The next one; none at the end. What has come is kept when this is dropped.
    async fn next(&mut self) -> Result<Option<pb::AgentCall>, No> {
        loop {
            let record = self.records.next_record();
            if let Some(record) = record.map_err(|e| No::bad(e.to_string()))? {
                return Ok(Some(self.media.read(&record)?));
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.records.push(&bytes),
                Some(Err(e)) => return Err(No::bad(format!("Failed to read the body: {e}"))),
                None => return Ok(None),
            }
        }
    }
}

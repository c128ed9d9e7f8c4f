//! Calls of frameworks: read from requests, or from a stream of many.

use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use waggle_api::{
    convert::{self, ConvertError},
    proto::framework::{self as pb, call_request::Kind},
};
use waggle_types::{CallRejection, FrameworkId, Millis, OfferId, SchedulerCall, TaskId};

use super::{CallReply, Called, FrameworkEvent};
use crate::core::{FrameworkCall, SubscriptionId};

/// Calls of one stream that are under way; with more the stream is not read on.
const UNDER_WAY: usize = 1024;

/// Who calls.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) framework_id: FrameworkId,
    subscription: SubscriptionId,
}

impl Caller {
    pub(super) fn calls(&self, call: FrameworkCall, reply: CallReply) -> FrameworkEvent {
        FrameworkEvent::Call {
            framework_id: self.framework_id.clone(),
            subscription: self.subscription,
            call: Box::new(call),
            reply,
        }
    }
}

pub(super) fn caller(caller: Option<pb::Caller>) -> Result<Caller, ConvertError> {
    let c = caller.ok_or_else(|| ConvertError::new("caller", "is missing"))?;
    Ok(Caller {
        framework_id: convert::framework_id("caller.framework_id", c.framework_id)?,
        subscription: SubscriptionId(c.subscription_id),
    })
}

pub(super) fn response(called: Called) -> pb::CallResponse {
    let rejections = called.err().unwrap_or_default();
    pb::CallResponse {
        rejections: rejections.iter().map(Into::into).collect(),
    }
}

/// The call that a request of this framework is.
pub(super) fn read(id: &FrameworkId, kind: Kind) -> Result<FrameworkCall, ConvertError> {
    Ok(FrameworkCall::Scheduler(match kind {
        Kind::Caller(_) => {
            return Err(ConvertError::new(
                "caller",
                "must be the first message only",
            ));
        }
        Kind::Accept(r) => SchedulerCall::Accept {
            offer_ids: offers(r.offer_ids)?,
            operations: convert::operations(r.launch, r.operations, id, &r.traceparent)?,
            refuse: Millis(r.refuse_ms),
        },
        Kind::Decline(r) => SchedulerCall::Decline {
            offer_ids: offers(r.offer_ids)?,
            refuse: Millis(r.refuse_ms),
        },
        Kind::AcceptInverse(r) => SchedulerCall::AcceptInverse {
            offer_ids: offers(r.offer_ids)?,
        },
        Kind::DeclineInverse(r) => SchedulerCall::DeclineInverse {
            offer_ids: offers(r.offer_ids)?,
            refuse: Millis(r.refuse_ms),
        },
        Kind::Demand(r) => SchedulerCall::Demand {
            role: convert::role("role", r.role)?,
            smallest: convert::smallest(r.smallest)?,
        },
        Kind::Suppress(r) => SchedulerCall::Suppress {
            roles: convert::roles("roles", r.roles)?,
        },
        Kind::Revive(r) => SchedulerCall::Revive {
            roles: convert::roles("roles", r.roles)?,
        },
        Kind::Kill(r) => SchedulerCall::Kill {
            task_id: convert::task_id("task_id", r.task_id)?,
        },
        Kind::Acknowledge(r) => return acknowledged(r),
        Kind::Reconcile(r) => SchedulerCall::Reconcile {
            task_ids: convert::ids("task_ids", r.task_ids, TaskId::new)?,
        },
        Kind::Message(r) => {
            let (agent_id, executor_id) = convert::executor_at(r.agent_id, r.executor_id)?;
            SchedulerCall::Message {
                agent_id,
                executor_id,
                data: convert::message_data(r.data)?,
            }
        }
        Kind::Shutdown(r) => {
            let (agent_id, executor_id) = convert::executor_at(r.agent_id, r.executor_id)?;
            SchedulerCall::Shutdown {
                agent_id,
                executor_id,
            }
        }
        Kind::Teardown(_) => return Ok(FrameworkCall::Teardown),
    }))
}

fn offers(ids: Vec<String>) -> Result<Vec<OfferId>, ConvertError> {
    convert::ids("offer_ids", ids, OfferId::new)
}

/// All that one call confirms.
fn acknowledged(r: pb::AcknowledgeRequest) -> Result<FrameworkCall, ConvertError> {
    let one = |task_id, agent_id, uuid: &[u8]| {
        Ok((
            convert::task_id("task_id", task_id)?,
            convert::agent_id("agent_id", agent_id)?,
            convert::status_uuid("uuid", uuid)?,
        ))
    };
    if r.more.len() > convert::MAX_ITEMS {
        let rule = format!(
            "must be at most {}, is {}",
            convert::MAX_ITEMS,
            r.more.len()
        );
        return Err(ConvertError::new("more", rule));
    }
    let mut all = Vec::with_capacity(r.more.len() + 1);
    let no_first = r.task_id.is_empty() && r.agent_id.is_empty() && r.uuid.is_empty();
    if !no_first || r.more.is_empty() {
        all.push(one(r.task_id, r.agent_id, &r.uuid)?);
    }
    for (i, m) in r.more.into_iter().enumerate() {
        let read = one(m.task_id, m.agent_id, &m.uuid);
        all.push(read.map_err(|e: ConvertError| e.within(&format!("more[{i}]")))?);
    }
    Ok(FrameworkCall::Acknowledge(all))
}

/// The answer to a call of a stream.
enum Answer {
    Known(Called),
    UnderWay(oneshot::Receiver<Called>),
}

/// Reads calls and answers them in order. Ends when either side does, or the master stops.
pub(super) fn serve(
    requests: Streaming<pb::CallRequest>,
    inbox: mpsc::Sender<FrameworkEvent>,
    stop: CancellationToken,
) -> impl Stream<Item = Result<pb::CallResponse, Status>> {
    let (tx, mut answers) = mpsc::channel(UNDER_WAY);
    // Ends with the stream of answers, whose end `tx` sees.
    tokio::spawn(async move {
        let end = tx.clone();
        let outcome = tokio::select! {
            () = stop.cancelled() => Err(stopping()),
            () = end.closed() => return,
            outcome = take_all(requests, &inbox, &tx) => outcome,
        };
        if let Err(status) = outcome {
            // Nobody listens any more: then nobody need know.
            let _ = tx.send(Err(status)).await;
        }
    });
    async_stream::stream! {
        while let Some(answer) = answers.recv().await {
            let called = match answer {
                Ok(Answer::Known(called)) => Ok(called),
                Ok(Answer::UnderWay(reply)) => reply.await.map_err(|_| stopping()),
                Err(status) => Err(status),
            };
            let failed = called.is_err();
            yield called.map(response);
            if failed {
                break;
            }
        }
    }
}

fn stopping() -> Status {
    Status::unavailable("the master is stopping")
}

async fn take_all(
    mut requests: Streaming<pb::CallRequest>,
    inbox: &mpsc::Sender<FrameworkEvent>,
    answers: &mpsc::Sender<Result<Answer, Status>>,
) -> Result<(), Status> {
    let first = requests.message().await?.and_then(|r| r.kind);
    let Some(Kind::Caller(c)) = first else {
        return Err(Status::invalid_argument(
            "kind: the first message must be caller",
        ));
    };
    let who = caller(Some(c)).map_err(|e| Status::invalid_argument(e.to_string()))?;
    while let Some(request) = requests.message().await? {
        let call = request
            .kind
            .ok_or_else(|| ConvertError::new("kind", "is missing"))
            .and_then(|kind| read(&who.framework_id, kind));
        let answer = match call {
            Err(e) => Answer::Known(Err(vec![CallRejection::from(e)])),
            Ok(call) => {
                let (tx, rx) = oneshot::channel();
                let sent = inbox.send(who.calls(call, tx)).await;
                sent.map_err(|_| stopping())?;
                Answer::UnderWay(rx)
            }
        };
        if answers.send(Ok(answer)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

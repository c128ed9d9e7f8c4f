//! A typed client of the native framework API: what a framework written in Rust starts from.
//!
//! [`connect`] subscribes over a tonic channel of the caller's making and gives two halves: [`Events`] to
//! read and [`Calls`] to act. Both speak in `waggle-types`; refusals are [`CallRejection`]s with a typed
//! reason. Nothing is retried and nothing is decided here: after an error, subscribe again with the id of
//! the first subscription, and reconcile.
//!
//! `tests/frameworks` in Waggle's repository holds a batch framework built on it.

use tonic::{Status, Streaming, transport::Channel};
use waggle_types::{
    AgentId, CallRejection, FrameworkId, FrameworkInfo, Millis, OfferId, SchedulerEvent,
    StatusUuid, TaskId, TaskSpec, TraceContext,
};

use crate::{
    convert::{self, ConvertError},
    proto::framework::{self as pb, event::Kind, frameworks_client::FrameworksClient},
};

/// Why a call or a stream failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Refused, with reasons; nothing of the call was done.
    #[error("refused: {}", texts(.0))]
    Rejected(Vec<CallRejection>),
    /// The master ended the stream.
    #[error("the master closed the subscription: {0}")]
    Closed(CallRejection),
    /// The call did not get through, or its outcome is not known.
    #[error("the call failed")]
    Transport(#[source] Box<Status>),
    /// The master said something that this version can't read.
    #[error("the master's message can't be read")]
    Unreadable(#[source] ConvertError),
}

fn texts(all: &[CallRejection]) -> String {
    let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl From<Status> for CallError {
    fn from(s: Status) -> Self {
        Self::Transport(Box::new(s))
    }
}

impl From<ConvertError> for CallError {
    fn from(e: ConvertError) -> Self {
        Self::Unreadable(e)
    }
}

/// The reading half: events in order.
#[derive(Debug)]
pub struct Events {
    stream: Streaming<pb::Event>,
    framework_id: FrameworkId,
}

/// The acting half; cheap to clone.
#[derive(Debug, Clone)]
pub struct Calls {
    grpc: FrameworksClient<Channel>,
    caller: pb::Caller,
    framework_id: FrameworkId,
}

/// Subscribes; answers both halves. Offers come at once.
pub async fn connect(channel: Channel, info: &FrameworkInfo) -> Result<(Calls, Events), CallError> {
    let mut grpc = FrameworksClient::new(channel);
    let mut stream = grpc
        .subscribe(pb::SubscribeRequest::from(info))
        .await?
        .into_inner();
    let first = stream.message().await?.and_then(|e| e.kind);
    let subscribed = match first {
        Some(Kind::Subscribed(s)) => s,
        Some(Kind::Closed(r)) => return Err(CallError::Rejected(vec![r.into()])),
        _ => return Err(ConvertError::new("kind", "the first event must be subscribed").into()),
    };
    let framework_id = convert::framework_id("framework_id", subscribed.framework_id.clone())?;
    let calls = Calls {
        grpc,
        caller: pb::Caller {
            framework_id: subscribed.framework_id,
            subscription_id: subscribed.subscription_id,
        },
        framework_id: framework_id.clone(),
    };
    let events = Events {
        stream,
        framework_id,
    };
    Ok((calls, events))
}

impl Events {
    /// The next event; `None` when the stream ended without a word (the master stopped).
    pub async fn next(&mut self) -> Result<Option<SchedulerEvent>, CallError> {
        loop {
            let Some(event) = self.stream.message().await? else {
                return Ok(None);
            };
            match event.kind {
                Some(Kind::Closed(r)) => return Err(CallError::Closed(r.into())),
                // Unknown kinds are a newer master's.
                Some(kind) => {
                    if let Some(e) = convert::scheduler_event(kind, &self.framework_id)? {
                        return Ok(Some(e));
                    }
                }
                None => {}
            }
        }
    }
}

fn done(response: tonic::Response<pb::CallResponse>) -> Result<(), CallError> {
    let rejections = response.into_inner().rejections;
    if rejections.is_empty() {
        return Ok(());
    }
    let all = rejections.into_iter().map(Into::into).collect();
    Err(CallError::Rejected(all))
}

fn texts_of<T: ToString>(ids: &[T]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

impl Calls {
    /// The framework's id: keep it, to come back with it.
    pub fn framework_id(&self) -> &FrameworkId {
        &self.framework_id
    }

    /// Launches tasks on offers of one agent. Of each spec, framework, role and trace are ignored.
    pub async fn accept(
        &mut self,
        offer_ids: &[OfferId],
        tasks: &[TaskSpec],
        refuse: Millis,
        trace: Option<TraceContext>,
    ) -> Result<(), CallError> {
        let request = pb::AcceptRequest {
            caller: Some(self.caller.clone()),
            offer_ids: texts_of(offer_ids),
            launch: tasks.iter().map(Into::into).collect(),
            refuse_ms: refuse.0,
            traceparent: trace.map(|t| t.to_string()).unwrap_or_default(),
            operations: Vec::new(),
        };
        done(self.grpc.accept(request).await?)
    }

    /// Turns offers down; the same resources are not offered again for `refuse`.
    pub async fn decline(
        &mut self,
        offer_ids: &[OfferId],
        refuse: Millis,
    ) -> Result<(), CallError> {
        let request = pb::DeclineRequest {
            caller: Some(self.caller.clone()),
            offer_ids: texts_of(offer_ids),
            refuse_ms: refuse.0,
        };
        done(self.grpc.decline(request).await?)
    }

    /// No offers until [`Calls::revive`].
    pub async fn suppress(&mut self) -> Result<(), CallError> {
        let request = pb::SuppressRequest {
            caller: Some(self.caller.clone()),
            roles: Vec::new(),
        };
        done(self.grpc.suppress(request).await?)
    }

    /// Offers again; all filters are forgotten.
    pub async fn revive(&mut self) -> Result<(), CallError> {
        let request = pb::ReviveRequest {
            caller: Some(self.caller.clone()),
            roles: Vec::new(),
        };
        done(self.grpc.revive(request).await?)
    }

    /// Ends a task.
    pub async fn kill(&mut self, task_id: &TaskId) -> Result<(), CallError> {
        let request = pb::KillRequest {
            caller: Some(self.caller.clone()),
            task_id: task_id.to_string(),
        };
        done(self.grpc.kill(request).await?)
    }

    /// Confirms an update; without it the update comes again.
    pub async fn acknowledge(
        &mut self,
        task_id: &TaskId,
        agent_id: &AgentId,
        uuid: StatusUuid,
    ) -> Result<(), CallError> {
        let request = pb::AcknowledgeRequest {
            caller: Some(self.caller.clone()),
            task_id: task_id.to_string(),
            agent_id: agent_id.to_string(),
            uuid: uuid.0.to_vec(),
        };
        done(self.grpc.acknowledge(request).await?)
    }

    /// Asks for the state of tasks, or of all when empty; each comes as an update.
    pub async fn reconcile(&mut self, task_ids: &[TaskId]) -> Result<(), CallError> {
        let request = pb::ReconcileRequest {
            caller: Some(self.caller.clone()),
            task_ids: texts_of(task_ids),
        };
        done(self.grpc.reconcile(request).await?)
    }

    /// Ends the framework and kills its tasks.
    pub async fn teardown(&mut self) -> Result<(), CallError> {
        let caller = Some(self.caller.clone());
        done(self.grpc.teardown(pb::TeardownRequest { caller }).await?)
    }
}

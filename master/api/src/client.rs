//! A typed client of the native framework API: what a framework written in Rust starts from.
//!
//! [`connect`] subscribes over a tonic channel of the caller's making and gives two halves: [`Events`] to
//! read and [`Calls`] to act. Calls go over one stream and are done in the order in which they are made.
//! Both halves speak in `waggle-types`; refusals are [`CallRejection`]s with a typed
//! reason. Nothing is retried and nothing is decided here: after an error, subscribe again with the id of
//! the first subscription, and reconcile.
//!
//! `tests/frameworks` in Waggle's repository holds frameworks to start from: one of many short tasks, and
//! one that keeps state in a reservation of its own.
//!
//! A framework that runs one task in its role, and says what it needs so that nothing smaller is offered:
//!
//! ```
//! use waggle_api::client::{CallError, connect};
//! use waggle_types::{
//!     FrameworkInfo, Millis, Resources, RoleSubscription, SchedulerEvent, TaskSpec,
//! };
//!
//! async fn run_one(channel: tonic::transport::Channel, task: TaskSpec) -> Result<(), CallError> {
//!     let mut info = FrameworkInfo::new("example", "eng/example");
//!     info.roles = vec![RoleSubscription {
//!         smallest: Some(task.resources.clone()),
//!         ..RoleSubscription::new("eng/example")
//!     }];
//!     let (mut calls, mut events) = connect(channel, &info).await?;
//!     let mut launched = false;
//!     while let Some(event) = events.next().await? {
//!         match event {
//!             SchedulerEvent::Offers(offers) => {
//!                 for offer in offers {
//!                     // An accept without tasks declines.
//!                     let tasks = if launched { &[][..] } else { std::slice::from_ref(&task) };
//!                     calls.accept(&[offer.offer_id], tasks, Millis::from_secs(60), None).await?;
//!                     launched = true;
//!                 }
//!                 calls.suppress().await?;
//!             }
//!             SchedulerEvent::Update(status) => {
//!                 if let Some(uuid) = status.uuid {
//!                     calls.acknowledge(&status.task_id, &status.agent_id, uuid).await?;
//!                 }
//!                 if status.state.is_terminal() {
//!                     return calls.teardown().await;
//!                 }
//!             }
//!             _ => {}
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! Reserving, making a persistent volume and launching on it is one accept, done wholly or not at all; see
//! [`Calls::operate`].

mod stream;

use tonic::{Status, Streaming, transport::Channel};
use waggle_types::{
    AgentId, CallRejection, FrameworkId, FrameworkInfo, Millis, OfferId, Operation, Resources,
    SchedulerEvent, StatusUuid, TaskId, TaskSpec, TraceContext,
};

use crate::{
    convert::{self, ConvertError},
    proto::framework::{
        self as pb, call_request::Kind as Call, event::Kind, frameworks_client::FrameworksClient,
    },
};

/// Longest event: offers of some ten thousand agents at once.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

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
    stream: stream::CallStream,
    framework_id: FrameworkId,
}

/// Subscribes with the framework's roles and capabilities; answers both halves. Offers come at once.
pub async fn connect(channel: Channel, info: &FrameworkInfo) -> Result<(Calls, Events), CallError> {
    let mut grpc = FrameworksClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
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
    let caller = pb::Caller {
        framework_id: subscribed.framework_id,
        subscription_id: subscribed.subscription_id,
    };
    let calls = Calls {
        stream: stream::CallStream::open(grpc, caller).await?,
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

fn texts_of<T: ToString>(ids: &[T]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

impl Calls {
    /// The framework's id: keep it, to come back with it.
    pub fn framework_id(&self) -> &FrameworkId {
        &self.framework_id
    }

    /// Launches tasks on offers of one agent; what is left of them is declined for `refuse`. Of each spec,
    /// framework, role and trace are ignored. Without parts a task takes reserved resources before others.
    pub async fn accept(
        &mut self,
        offer_ids: &[OfferId],
        tasks: &[TaskSpec],
        refuse: Millis,
        trace: Option<TraceContext>,
    ) -> Result<(), CallError> {
        let request = pb::AcceptRequest {
            caller: None,
            offer_ids: texts_of(offer_ids),
            launch: tasks.iter().map(Into::into).collect(),
            refuse_ms: refuse.0,
            traceparent: trace.map(|t| t.to_string()).unwrap_or_default(),
            operations: Vec::new(),
        };
        self.stream.call(Call::Accept(request)).await
    }

    /// Does something with offers of one agent, in order: reserves, makes volumes, launches. Each operation
    /// has what those before it made; all of them are done, or none.
    ///
    /// ```
    /// # use waggle_api::client::{CallError, Calls};
    /// # use waggle_types::*;
    /// /// Reserves what the task needs, makes its disk a volume and launches on it.
    /// async fn first_launch(
    ///     calls: &mut Calls,
    ///     offer: &Offer,
    ///     mut task: TaskSpec,
    ///     volume_id: VolumeId,
    /// ) -> Result<(), CallError> {
    ///     let stack = vec![Reservation::dynamic(&*offer.role, "example")];
    ///     let disk = task.resources.get(ScalarKind::Disk);
    ///     let volume = Volume { size: disk, shared: false };
    ///     let reserve = Operation::Reserve {
    ///         stack: stack.clone(),
    ///         resources: task.resources.clone(),
    ///     };
    ///     let create = Operation::CreateVolume {
    ///         stack: stack.clone(),
    ///         volume_id: volume_id.clone(),
    ///         volume,
    ///     };
    ///     // From here on the disk is the volume.
    ///     task.resources.scalars[ScalarKind::Disk as usize] = Milli(0);
    ///     task.resources.custom.set_volume(volume_id, volume);
    ///     task.parts = vec![ResourcePart {
    ///         reservation: stack,
    ///         revocable: false,
    ///         resources: task.resources.clone(),
    ///     }];
    ///     let operations = [reserve, create, Operation::Launch(vec![task])];
    ///     let offers = [offer.offer_id.clone()];
    ///     calls.operate(&offers, &operations, Millis::from_secs(60), None).await
    /// }
    /// ```
    pub async fn operate(
        &mut self,
        offer_ids: &[OfferId],
        operations: &[Operation],
        refuse: Millis,
        trace: Option<TraceContext>,
    ) -> Result<(), CallError> {
        let request = pb::AcceptRequest {
            caller: None,
            offer_ids: texts_of(offer_ids),
            launch: Vec::new(),
            refuse_ms: refuse.0,
            traceparent: trace.map(|t| t.to_string()).unwrap_or_default(),
            operations: operations.iter().map(Into::into).collect(),
        };
        self.stream.call(Call::Accept(request)).await
    }

    /// Turns offers down; the same resources are not offered again for `refuse`.
    pub async fn decline(
        &mut self,
        offer_ids: &[OfferId],
        refuse: Millis,
    ) -> Result<(), CallError> {
        let request = pb::DeclineRequest {
            caller: None,
            offer_ids: texts_of(offer_ids),
            refuse_ms: refuse.0,
        };
        self.stream.call(Call::Decline(request)).await
    }

    /// Promises to leave agents before their maintenance begins.
    pub async fn accept_inverse(&mut self, offer_ids: &[OfferId]) -> Result<(), CallError> {
        let request = pb::AcceptInverseRequest {
            caller: None,
            offer_ids: texts_of(offer_ids),
        };
        self.stream.call(Call::AcceptInverse(request)).await
    }

    /// Says that it will not leave agents; it is asked again after `refuse`.
    pub async fn decline_inverse(
        &mut self,
        offer_ids: &[OfferId],
        refuse: Millis,
    ) -> Result<(), CallError> {
        let request = pb::DeclineInverseRequest {
            caller: None,
            offer_ids: texts_of(offer_ids),
            refuse_ms: refuse.0,
        };
        self.stream.call(Call::DeclineInverse(request)).await
    }

    /// Says what the smallest bundle is that is of use to a role: nothing smaller is offered. `None`:
    /// anything is of use.
    pub async fn demand(
        &mut self,
        role: &str,
        smallest: Option<&Resources>,
    ) -> Result<(), CallError> {
        let request = pb::DemandRequest {
            caller: None,
            role: role.to_owned(),
            smallest: smallest.map(Into::into),
        };
        self.stream.call(Call::Demand(request)).await
    }

    /// No offers, to any of its roles, until [`Calls::revive`].
    pub async fn suppress(&mut self) -> Result<(), CallError> {
        self.suppress_roles(&[]).await
    }

    /// No offers to these roles; to none of its roles when empty.
    pub async fn suppress_roles(&mut self, roles: &[&str]) -> Result<(), CallError> {
        let request = pb::SuppressRequest {
            caller: None,
            roles: texts_of(roles),
        };
        self.stream.call(Call::Suppress(request)).await
    }

    /// Offers to all roles again; all filters are forgotten.
    pub async fn revive(&mut self) -> Result<(), CallError> {
        self.revive_roles(&[]).await
    }

    /// Offers to these roles again, or to all when empty; their filters are forgotten.
    pub async fn revive_roles(&mut self, roles: &[&str]) -> Result<(), CallError> {
        let request = pb::ReviveRequest {
            caller: None,
            roles: texts_of(roles),
        };
        self.stream.call(Call::Revive(request)).await
    }

    /// Ends a task.
    pub async fn kill(&mut self, task_id: &TaskId) -> Result<(), CallError> {
        let request = pb::KillRequest {
            caller: None,
            task_id: task_id.to_string(),
        };
        self.stream.call(Call::Kill(request)).await
    }

    /// Confirms an update; without it the update comes again.
    pub async fn acknowledge(
        &mut self,
        task_id: &TaskId,
        agent_id: &AgentId,
        uuid: StatusUuid,
    ) -> Result<(), CallError> {
        let request = pb::AcknowledgeRequest {
            caller: None,
            task_id: task_id.to_string(),
            agent_id: agent_id.to_string(),
            uuid: uuid.0.to_vec(),
            more: Vec::new(),
        };
        self.stream.call(Call::Acknowledge(request)).await
    }

    /// Confirms many updates in one call. Refused ones are named, the others count.
    pub async fn acknowledge_all(
        &mut self,
        updates: &[(TaskId, AgentId, StatusUuid)],
    ) -> Result<(), CallError> {
        let one = |(task_id, agent_id, uuid): &(TaskId, AgentId, StatusUuid)| pb::Acknowledgement {
            task_id: task_id.to_string(),
            agent_id: agent_id.to_string(),
            uuid: uuid.0.to_vec(),
        };
        let request = pb::AcknowledgeRequest {
            caller: None,
            more: updates.iter().map(one).collect(),
            ..pb::AcknowledgeRequest::default()
        };
        self.stream.call(Call::Acknowledge(request)).await
    }

    /// Asks for the state of tasks, or of all when empty; each comes as an update.
    pub async fn reconcile(&mut self, task_ids: &[TaskId]) -> Result<(), CallError> {
        let request = pb::ReconcileRequest {
            caller: None,
            task_ids: texts_of(task_ids),
        };
        self.stream.call(Call::Reconcile(request)).await
    }

    /// Ends the framework and kills its tasks.
    pub async fn teardown(&mut self) -> Result<(), CallError> {
        let request = pb::TeardownRequest { caller: None };
        self.stream.call(Call::Teardown(request)).await
    }
}

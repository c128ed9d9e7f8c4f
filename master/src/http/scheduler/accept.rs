//! ACCEPT: what can be done is done; of the rest each task hears why, and each operation that has an id.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waggle_api::{
    mesos::{
        event,
        operation::{self, Operations, Refused},
        task::{self, Launcher},
    },
    proto::mesos::{self as pb, offer_operation, task_status::Reason},
};
use waggle_telemetry::names;
use waggle_types::{
    AgentId, CallRejection, FrameworkId, Millis, OfferId, RejectReason, StatusReason, TaskId,
    TaskState,
};

use super::{No, calls::raw_agent};
use crate::{
    core::{EachOperation, FrameworkCall},
    framework::{Outcome, Queued, SchedulerDoor, Subscriber},
    session::unix_ms,
};

type Called = Result<(), Vec<CallRejection>>;

pub(super) async fn run(
    door: &SchedulerDoor,
    stream: &Arc<Subscriber>,
    by: Launcher<'_>,
    accept: &pb::Accept,
    offer_ids: Vec<OfferId>,
    refuse: Millis,
) -> Result<Called, No> {
    let Operations {
        asked,
        refused,
        paths,
    } = operation::operations(&accept.operations, by)?;
    let infos = || accept.operations.iter().flat_map(operation::infos);
    let agents: BTreeMap<TaskId, AgentId> = infos()
        .filter_map(|t| Some((task::id(t).ok()?, raw_agent(t)?)))
        .collect();
    let each = |a: operation::Asked| EachOperation {
        agents: a
            .operation
            .tasks()
            .iter()
            .filter_map(|t| Some((t.task_id.clone(), agents.get(&t.task_id)?.clone())))
            .collect(),
        index: a.index,
        operation: a.operation,
        whole: a.whole,
    };
    let call = FrameworkCall::AcceptEach {
        offer_ids,
        operations: asked.into_iter().map(each).collect(),
        mounts: paths,
        refuse,
    };
    let (agent, called) = door
        .accept(by.framework_id, stream.subscription, call)
        .await?;
    let of_caller = |all: &[CallRejection]| {
        all.iter().any(|r| {
            matches!(
                r.reason,
                RejectReason::UnknownFramework
                    | RejectReason::FrameworkRemoved
                    | RejectReason::NotSubscribed
            )
        })
    };
    let wrong = match called {
        Err(all) if of_caller(&all) => return Ok(Err(all)),
        Err(all) => all,
        Ok(()) => Vec::new(),
    };
    tell(stream, accept, &refused, &wrong);
    let of = Accepted {
        framework_id: by.framework_id,
        agent: agent.map(|id| pb::AgentId {
            value: id.to_string(),
        }),
        operations: &accept.operations,
    };
    tell_operations(door, stream, &of, &refused, &wrong);
    Ok(Ok(()))
}

/// Says which tasks were refused; a stream that has ended meanwhile hears nothing, its framework reconciles.
fn tell(stream: &Subscriber, accept: &pb::Accept, refused: &[Refused], wrong: &[CallRejection]) {
    let by_task: BTreeMap<&str, &CallRejection> =
        wrong.iter().map(|r| (r.object.as_str(), r)).collect();
    let mut told = BTreeSet::new();
    let of = |o| operation::infos(o).iter().map(move |t| (o, t));
    for (o, t) in accept.operations.iter().flat_map(of) {
        let raw = t.task_id.as_ref().map_or("", |id| id.value.as_str());
        let unread = refused.iter().find(|r| match &r.task {
            Some(id) => id.as_str() == raw,
            None => false,
        });
        let unnamed = task::id(t).err();
        let (state, reason, message) = if let Some(e) = unnamed {
            (TaskState::Error, StatusReason::TaskInvalid, e.to_string())
        } else if let Some(r) = unread {
            (
                TaskState::Error,
                StatusReason::TaskInvalid,
                r.why.to_string(),
            )
        } else if let Some(r) = by_task.get(raw) {
            let (state, reason) = end_of(r.reason);
            (state, reason, r.message.clone())
        } else {
            continue;
        };
        if !told.insert(raw) {
            continue;
        }
        let reason = match reason {
            StatusReason::TaskInvalid if o.r#type() == offer_operation::Type::LaunchGroup => {
                StatusReason::TaskGroupInvalid
            }
            other => other,
        };
        let status = status(stream, t, state, reason, message);
        stream.queue.push(Queued::Ready(Box::new(status)));
    }
}

/// Whose operations, and where.
struct Accepted<'a> {
    framework_id: &'a FrameworkId,
    /// None when the offers are gone.
    agent: Option<pb::AgentId>,
    operations: &'a [pb::OfferOperation],
}

/// Says of each operation that has an id how it ended, and keeps that: what was done until the framework says that it
/// knows, what was refused for who asks again.
fn tell_operations(
    door: &SchedulerDoor,
    stream: &Subscriber,
    of: &Accepted<'_>,
    refused: &[Refused],
    wrong: &[CallRejection],
) {
    let by_name: BTreeMap<&str, &CallRejection> =
        wrong.iter().map(|r| (r.object.as_str(), r)).collect();
    for (i, o) in of.operations.iter().enumerate() {
        let Some(id) = o.id.as_ref().filter(|_| !launches(o)) else {
            continue;
        };
        let unread = refused.iter().find(|r| r.index == i);
        let name = format!("operations[{i}]");
        let (state, message) = match (unread, by_name.get(name.as_str())) {
            (Some(r), _) => (pb::OperationState::OperationError, Some(r.why.to_string())),
            (None, Some(r)) => {
                let state = match end_of(r.reason).0 {
                    TaskState::Error => pb::OperationState::OperationError,
                    _ => pb::OperationState::OperationDropped,
                };
                (state, Some(r.message.clone()))
            }
            (None, None) => (pb::OperationState::OperationFinished, None),
        };
        let done = state == pb::OperationState::OperationFinished;
        let status = pb::OperationStatus {
            operation_id: Some(id.clone()),
            state: Some(state.into()),
            message,
            agent_id: of.agent.clone(),
            uuid: done.then(|| pb::Uuid {
                value: uuid::Uuid::new_v4().into_bytes().to_vec(),
            }),
            ..pb::OperationStatus::default()
        };
        let outcome = Outcome::new(status.clone(), o);
        let forgotten = door.outcomes.keep(of.framework_id, outcome);
        if forgotten > 0 {
            let n = forgotten as u64;
            door.telemetry
                .count(&names::SCHED_OPERATIONS_FORGOTTEN, &[], n);
        }
        let status = event::operation_status(status);
        stream.queue.push(Queued::Ready(Box::new(status)));
    }
}

fn launches(o: &pb::OfferOperation) -> bool {
    use offer_operation::Type;
    matches!(o.r#type(), Type::Launch | Type::LaunchGroup)
}

/// How a task ends that is refused for this: wrong by itself, or in vain this time.
fn end_of(reason: RejectReason) -> (TaskState, StatusReason) {
    match reason {
        RejectReason::StaleOffer
        | RejectReason::ForeignOffer
        | RejectReason::DuplicateOffer
        | RejectReason::NoOffers
        | RejectReason::MixedAgents
        | RejectReason::MixedRoles => (TaskState::Dropped, StatusReason::InvalidOffers),
        RejectReason::AgentDisconnected => (TaskState::Dropped, StatusReason::SlaveDisconnected),
        _ => (TaskState::Error, StatusReason::TaskInvalid),
    }
}

/// Said by the master on its own account: without a uuid, it comes once.
fn status(
    stream: &Subscriber,
    t: &pb::TaskInfo,
    state: TaskState,
    reason: StatusReason,
    message: String,
) -> pb::Event {
    let reason = event::reason(reason).unwrap_or(Reason::TaskInvalid);
    let status = pb::TaskStatus {
        task_id: t.task_id.clone(),
        state: Some(event::state(state, stream.said().dialect).into()),
        message: Some(message),
        agent_id: t.agent_id.clone(),
        timestamp: Some(unix_ms() as f64 / 1000.0),
        source: Some(pb::task_status::Source::Master.into()),
        reason: Some(reason.into()),
        ..pb::TaskStatus::default()
    };
    pb::Event {
        r#type: Some(pb::event::Type::Update.into()),
        update: Some(pb::Update {
            status: Some(status),
        }),
        ..pb::Event::default()
    }
}

//! Calls beside the stream: read, done by the core, and what follows from them said by events.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use waggle_api::{
    convert::{self, ConvertError},
    mesos::{
        Media,
        framework::subscription,
        task::{Launcher, grace},
    },
    proto::mesos::{self as pb, call::Type},
};
use waggle_types::{
    AgentId, ExecutorId, FrameworkId, Millis, OfferId, RejectReason, SchedulerCall, TaskId,
};

use super::{No, accept, accepted};
use crate::{
    core::{FrameworkCall, SubscriptionId},
    framework::{SchedulerDoor, Subscriber},
    view::ClusterView,
};

/// Filter of a call that names none, in seconds, and the longest that counts: a year.
const REFUSE_SECS: f64 = 5.0;
const MAX_REFUSE_SECS: f64 = 365.0 * 86_400.0;
/// Most ids in one call.
const MAX_IDS: usize = 10_000;

/// A call, read as far as it can be without knowing whose it is.
#[derive(Debug)]
pub(super) enum Parsed<'a> {
    /// Whatever becomes of it, the answer is 202.
    Call(FrameworkCall),
    /// What can't be done of it is said by events.
    Accept {
        accept: &'a pb::Accept,
        offer_ids: Vec<OfferId>,
        refuse: Millis,
    },
    /// Ends the stream, too.
    Teardown,
    /// A framework knows how an operation ended.
    AcknowledgeOperation(&'a pb::AcknowledgeOperationStatus),
    /// Answered at once.
    ReconcileOperations(&'a pb::ReconcileOperations),
    /// Changes who it is.
    Update(&'a pb::Subscribe),
    /// Nothing is to be done.
    Nothing,
}

fn missing(field: &str) -> No {
    No::bad(format!("Expecting '{field}' to be present"))
}

pub(super) fn parse(call: &pb::Call) -> Result<Parsed<'_>, No> {
    if call.framework_id.is_none() {
        return Err(missing("framework_id"));
    }
    let scheduler = |c: SchedulerCall| Parsed::Call(FrameworkCall::Scheduler(c));
    Ok(match call.r#type() {
        Type::Teardown => Parsed::Teardown,
        Type::Accept => {
            let a = call.accept.as_ref().ok_or_else(|| missing("accept"))?;
            Parsed::Accept {
                offer_ids: offers("accept.offer_ids", &a.offer_ids)?,
                refuse: refuse(a.filters.as_ref())?,
                accept: a,
            }
        }
        Type::Decline => {
            let d = call.decline.as_ref().ok_or_else(|| missing("decline"))?;
            scheduler(SchedulerCall::Decline {
                offer_ids: offers("decline.offer_ids", &d.offer_ids)?,
                refuse: refuse(d.filters.as_ref())?,
            })
        }
        Type::AcceptInverseOffers => {
            let a = call.accept_inverse_offers.as_ref();
            let a = a.ok_or_else(|| missing("accept_inverse_offers"))?;
            scheduler(SchedulerCall::AcceptInverse {
                offer_ids: offers("inverse_offer_ids", &a.inverse_offer_ids)?,
            })
        }
        Type::DeclineInverseOffers => {
            let d = call.decline_inverse_offers.as_ref();
            let d = d.ok_or_else(|| missing("decline_inverse_offers"))?;
            scheduler(SchedulerCall::DeclineInverse {
                offer_ids: offers("inverse_offer_ids", &d.inverse_offer_ids)?,
                refuse: refuse(d.filters.as_ref())?,
            })
        }
        // Both may come without a message of their own: all roles.
        Type::Revive => scheduler(SchedulerCall::Revive {
            roles: roles("revive.roles", call.revive.as_ref().map(|r| &r.roles))?,
        }),
        Type::Suppress => scheduler(SchedulerCall::Suppress {
            roles: roles("suppress.roles", call.suppress.as_ref().map(|r| &r.roles))?,
        }),
        Type::Kill => {
            let k = call.kill.as_ref().ok_or_else(|| missing("kill"))?;
            Parsed::Call(FrameworkCall::Kill {
                task_id: task("kill.task_id", k.task_id.as_ref())?,
                grace: grace(k.kill_policy.as_ref()),
            })
        }
        Type::Shutdown => {
            let s = call.shutdown.as_ref().ok_or_else(|| missing("shutdown"))?;
            let (agent_id, executor_id) =
                at_executor("shutdown", s.agent_id.as_ref(), s.executor_id.as_ref())?;
            scheduler(SchedulerCall::Shutdown {
                agent_id,
                executor_id,
            })
        }
        Type::Acknowledge => acknowledge(call)?,
        Type::Reconcile => {
            let r = call
                .reconcile
                .as_ref()
                .ok_or_else(|| missing("reconcile"))?;
            at_most("reconcile.tasks", r.tasks.len())?;
            let ids =
                r.tasks.iter().enumerate().map(|(i, t)| {
                    task(&format!("reconcile.tasks[{i}].task_id"), t.task_id.as_ref())
                });
            scheduler(SchedulerCall::Reconcile {
                task_ids: ids.collect::<Result<_, _>>()?,
            })
        }
        Type::ReconcileOperations => {
            let r = call.reconcile_operations.as_ref();
            let r = r.ok_or_else(|| missing("reconcile_operations"))?;
            at_most("reconcile_operations.operations", r.operations.len())?;
            Parsed::ReconcileOperations(r)
        }
        Type::Message => {
            let m = call.message.as_ref().ok_or_else(|| missing("message"))?;
            let (agent_id, executor_id) =
                at_executor("message", m.agent_id.as_ref(), m.executor_id.as_ref())?;
            scheduler(SchedulerCall::Message {
                agent_id,
                executor_id,
                data: convert::message_data(m.data.clone().unwrap_or_default())?,
            })
        }
        Type::AcknowledgeOperationStatus => {
            let a = call.acknowledge_operation_status.as_ref();
            let field = "acknowledge_operation_status";
            let a = a.ok_or_else(|| missing(field))?;
            if a.operation_id.is_none() {
                return Err(missing(&format!("{field}.operation_id")));
            }
            Parsed::AcknowledgeOperation(a)
        }
        // The allocator has no use for requests, as Mesos's has not; the others are not for here.
        Type::Request | Type::Unknown | Type::Subscribe => Parsed::Nothing,
        Type::UpdateFramework => {
            let u = call.update_framework.as_ref();
            Parsed::Update(u.ok_or_else(|| missing("update_framework"))?)
        }
    })
}

fn acknowledge<'a>(call: &pb::Call) -> Result<Parsed<'a>, No> {
    let a = call.acknowledge.as_ref();
    let a = a.ok_or_else(|| missing("acknowledge"))?;
    let agent = a.agent_id.as_ref().map(|id| id.value.clone());
    let agent = agent.ok_or_else(|| missing("acknowledge.agent_id"))?;
    let uuid = a.uuid.as_deref().unwrap_or_default();
    Ok(Parsed::Call(FrameworkCall::Scheduler(
        SchedulerCall::Acknowledge {
            task_id: task("acknowledge.task_id", a.task_id.as_ref())?,
            agent_id: convert::agent_id("acknowledge.agent_id", agent)?,
            uuid: convert::status_uuid("acknowledge.uuid", uuid)?,
        },
    )))
}

fn at_executor(
    field: &str,
    agent: Option<&pb::AgentId>,
    executor: Option<&pb::ExecutorId>,
) -> Result<(AgentId, ExecutorId), No> {
    let agent = agent.ok_or_else(|| missing(&format!("{field}.agent_id")))?;
    let executor = executor.ok_or_else(|| missing(&format!("{field}.executor_id")))?;
    let id = format!("{field}.executor_id");
    Ok((
        convert::agent_id(&format!("{field}.agent_id"), agent.value.clone())?,
        convert::executor_id(&id, executor.value.clone())?,
    ))
}

fn at_most(field: &str, n: usize) -> Result<(), ConvertError> {
    if n > MAX_IDS {
        let rule = format!("must be at most {MAX_IDS}, is {n}");
        return Err(ConvertError::new(field, rule));
    }
    Ok(())
}

fn task(field: &str, id: Option<&pb::TaskId>) -> Result<TaskId, No> {
    let id = id.ok_or_else(|| missing(field))?;
    Ok(convert::task_id(field, id.value.clone())?)
}

/// Ids that can't be an offer's are no offer's: they are as stale as any other.
fn offers(field: &str, ids: &[pb::OfferId]) -> Result<Vec<OfferId>, ConvertError> {
    at_most(field, ids.len())?;
    let known = |id: &pb::OfferId| OfferId::new(id.value.clone()).ok();
    let stale = || OfferId::new("none").ok();
    Ok(ids
        .iter()
        .filter_map(|id| known(id).or_else(stale))
        .collect())
}

fn roles(field: &str, given: Option<&Vec<String>>) -> Result<Vec<String>, ConvertError> {
    convert::roles(field, given.cloned().unwrap_or_default())
}

fn refuse(filters: Option<&pb::Filters>) -> Result<Millis, ConvertError> {
    let secs = filters.map_or(REFUSE_SECS, pb::Filters::refuse_seconds);
    if secs.is_nan() {
        return Err(ConvertError::new(
            "filters.refuse_seconds",
            "must be a number",
        ));
    }
    let secs = if secs < 0.0 { REFUSE_SECS } else { secs };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and a year"
    )]
    Ok(Millis((secs.min(MAX_REFUSE_SECS) * 1000.0) as u64))
}

/// Does it.
pub(super) async fn run(
    view: &ClusterView,
    door: &SchedulerDoor,
    id: &FrameworkId,
    stream: &Arc<Subscriber>,
    parsed: Parsed<'_>,
    media: Media,
) -> Result<Response, No> {
    let subscription = stream.subscription;
    let called = match parsed {
        Parsed::Nothing => Ok(()),
        Parsed::Call(call) => door.call(id, subscription, call).await?,
        Parsed::Teardown => {
            // It knows why its stream ends.
            stream.queue.hush();
            door.call(id, subscription, FrameworkCall::Teardown).await?
        }
        Parsed::Accept {
            accept: a,
            offer_ids,
            refuse,
        } => {
            let by = Launcher {
                framework_id: id,
                info: &stream.said().info,
            };
            accept::run(door, stream, by, a, offer_ids, refuse).await?
        }
        Parsed::AcknowledgeOperation(a) => {
            // Of nothing that is kept: late, which is no mistake.
            if let (Some(operation), Some(uuid)) = (&a.operation_id, &a.uuid) {
                door.outcomes.acknowledge(id, &operation.value, uuid);
            }
            Ok(())
        }
        Parsed::ReconcileOperations(r) => {
            let known = door.outcomes.of(id);
            return Ok(operations(view, &known, r, media));
        }
        Parsed::Update(u) => {
            let of = pb::FrameworkId {
                value: id.to_string(),
            };
            let info = subscription_of(&of, u)?;
            let update = FrameworkCall::Update(Box::new(info));
            return match door.call(id, subscription, update).await? {
                Ok(()) => {
                    stream.says_now(u.framework_info.clone().unwrap_or_default());
                    Ok(Response::new(Body::empty()))
                }
                Err(all) => Err(all.first().map_or_else(
                    || No::bad("refused"),
                    |r| No::bad(format!("Not authorized or not valid: {r}")),
                )),
            };
        }
    };
    match called {
        // The stream was replaced while the call was under way.
        Err(all) if all.iter().any(|r| of_the_caller(r.reason)) => {
            Err(not_subscribed(door, id).await?)
        }
        Err(all) => {
            tracing::debug!(framework = %id, refused = all.len(), "parts of a call were refused");
            Ok(accepted())
        }
        Ok(()) => Ok(accepted()),
    }
}

fn subscription_of(
    of: &pb::FrameworkId,
    u: &pb::Subscribe,
) -> Result<waggle_types::FrameworkInfo, ConvertError> {
    subscription(Some(of), u).map_err(|e| e.within("update_framework"))
}

fn of_the_caller(reason: RejectReason) -> bool {
    matches!(
        reason,
        RejectReason::UnknownFramework
            | RejectReason::FrameworkRemoved
            | RejectReason::NotSubscribed
    )
}

/// Why a framework without an open stream can't call: the core knows.
pub(super) async fn not_subscribed(door: &SchedulerDoor, id: &FrameworkId) -> Result<No, No> {
    // Of a subscription that there is not: refused before anything is done.
    let nothing = FrameworkCall::Acknowledge(Vec::new());
    let called = door.call(id, SubscriptionId(0), nothing).await?;
    let known = called.is_err_and(|all| {
        let mut all = all.iter();
        all.any(|r| r.reason == RejectReason::NotSubscribed)
    });
    Ok(if known {
        No(
            StatusCode::FORBIDDEN,
            "Framework is not subscribed".to_owned(),
        )
    } else {
        No::bad("Framework cannot be found")
    })
}

/// How operations ended, as far as that is kept; of others what is known of their agents (Mesos's
/// `Master::reconcileOperations`). Operations are done when they are answered, so none is ever pending.
fn operations(
    view: &ClusterView,
    known: &BTreeMap<String, pb::OperationStatus>,
    r: &pb::ReconcileOperations,
    media: Media,
) -> Response {
    let status = |o: &pb::ReconcileOperation| {
        let id = o.operation_id.as_ref().map_or("", |id| id.value.as_str());
        let known = known.get(id).cloned();
        let agent_id = known.as_ref().and_then(|k| k.agent_id.clone());
        pb::OperationStatus {
            agent_id: agent_id.or_else(|| o.agent_id.clone()),
            ..known.unwrap_or_else(|| pb::OperationStatus {
                operation_id: o.operation_id.clone(),
                state: Some(unknown(view, o.agent_id.as_ref()).into()),
                ..pb::OperationStatus::default()
            })
        }
    };
    let answer = pb::Response {
        r#type: Some(pb::response::Type::ReconcileOperations.into()),
        reconcile_operations: Some(pb::ReconciledOperations {
            operation_statuses: r.operations.iter().map(status).collect(),
        }),
    };
    let mut response = Response::new(Body::from(media.write(&answer)));
    let kind = HeaderValue::from_static(media.name());
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// What is said of an operation that nothing is kept of.
fn unknown(view: &ClusterView, agent: Option<&pb::AgentId>) -> pb::OperationState {
    use pb::OperationState as State;
    let Some(id) = agent.and_then(|a| AgentId::new(a.value.clone()).ok()) else {
        return State::OperationUnknown;
    };
    match view.agents.get(&id) {
        Some(a) if !a.reachable => State::OperationUnreachable,
        None if view.gone.contains_key(&id) => State::OperationGoneByOperator,
        // It may be one that has not come back to this master yet.
        None if view.recovering => State::OperationRecovering,
        _ => State::OperationUnknown,
    }
}

/// The agent that a task names, for statuses; empty when it names none.
pub(super) fn raw_agent(t: &pb::TaskInfo) -> Option<AgentId> {
    AgentId::new(t.agent_id.as_ref()?.value.clone()).ok()
}

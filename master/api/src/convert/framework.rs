//! Ids, events and what else of the native framework API has no file of its own.

use waggle_types::{
    AgentId, FrameworkId, MAX_ROLES, OfferId, Resources, SchedulerEvent, TaskId, TaskStatus,
    check_role,
};

use super::size::{MAX_SMALLEST, pieces};
use super::{
    ConvertError, at_most, each, executor, executor_at, id, inverse_offer, message_data, offer,
    required,
};
use crate::proto::{framework as pb, session};

/// Most tasks, offers or ids in one call; more are refused.
pub const MAX_ITEMS: usize = 10_000;

/// A list of ids, bounded.
pub fn ids<T>(
    field: &str,
    given: Vec<String>,
    new: impl Fn(String) -> Result<T, waggle_types::IdError> + Copy,
) -> Result<Vec<T>, ConvertError> {
    at_most(field, given.len(), MAX_ITEMS)?;
    let named = |(i, v)| id(&format!("{field}[{i}]"), v, new);
    given.into_iter().enumerate().map(named).collect()
}

/// Roles that a call is about, bounded; empty is all of the framework's.
pub fn roles(field: &str, given: Vec<String>) -> Result<Vec<String>, ConvertError> {
    at_most(field, given.len(), MAX_ROLES)?;
    for (i, role) in given.iter().enumerate() {
        check_role(role).map_err(|e| ConvertError::new(format!("{field}[{i}]"), e.rule))?;
    }
    Ok(given)
}

/// A role that a call is about.
pub fn role(field: &str, given: String) -> Result<String, ConvertError> {
    check_role(&given).map_err(|e| ConvertError::new(field, e.rule))?;
    Ok(given)
}

/// An event for a framework; `Subscribed` is the session's to fill in.
pub fn event(e: &SchedulerEvent) -> Option<pb::event::Kind> {
    use pb::event::Kind;
    Some(match e {
        SchedulerEvent::Subscribed { .. } => return None,
        SchedulerEvent::Offers(offers) => Kind::Offers(pb::Offers {
            offers: offers.iter().map(Into::into).collect(),
        }),
        SchedulerEvent::Rescind(offer_id) => Kind::Rescind(pb::Rescind {
            offer_id: offer_id.to_string(),
        }),
        SchedulerEvent::InverseOffer(o) => Kind::InverseOffer(o.into()),
        SchedulerEvent::RescindInverse(offer_id) => Kind::RescindInverse(pb::RescindInverse {
            offer_id: offer_id.to_string(),
        }),
        SchedulerEvent::Update(status) => Kind::Update(status.into()),
        SchedulerEvent::AgentLost(agent_id) => Kind::AgentLost(pb::AgentLost {
            agent_id: agent_id.to_string(),
        }),
        SchedulerEvent::AgentUnreachable(agent_id) => {
            Kind::AgentUnreachable(pb::AgentUnreachable {
                agent_id: agent_id.to_string(),
            })
        }
        SchedulerEvent::ExecutorLost {
            agent_id,
            executor_id,
            status,
        } => Kind::ExecutorLost(executor::lost(agent_id, executor_id, *status)),
        SchedulerEvent::Message {
            agent_id,
            executor_id,
            data,
        } => Kind::Message(pb::ExecutorMessage {
            agent_id: agent_id.to_string(),
            executor_id: executor_id.to_string(),
            data: data.clone(),
        }),
    })
}

/// An event as a framework reads it; `None` for those of the connection itself.
pub fn scheduler_event(
    kind: pb::event::Kind,
    framework_id: &FrameworkId,
) -> Result<Option<SchedulerEvent>, ConvertError> {
    use pb::event::Kind;
    Ok(Some(match kind {
        Kind::Offers(o) => {
            SchedulerEvent::Offers(each("offers", o.offers, |o| offer(o, framework_id))?)
        }
        Kind::Rescind(r) => SchedulerEvent::Rescind(id("offer_id", r.offer_id, OfferId::new)?),
        Kind::InverseOffer(o) => SchedulerEvent::InverseOffer(
            inverse_offer(o, framework_id).map_err(|e| e.within("inverse_offer"))?,
        ),
        Kind::RescindInverse(r) => {
            SchedulerEvent::RescindInverse(id("offer_id", r.offer_id, OfferId::new)?)
        }
        Kind::Update(s) => SchedulerEvent::Update(TaskStatus::try_from(s)?),
        Kind::AgentLost(a) => SchedulerEvent::AgentLost(id("agent_id", a.agent_id, AgentId::new)?),
        Kind::AgentUnreachable(a) => {
            SchedulerEvent::AgentUnreachable(id("agent_id", a.agent_id, AgentId::new)?)
        }
        Kind::ExecutorLost(l) => {
            let (agent_id, executor_id) = executor_at(l.agent_id, l.executor_id)?;
            SchedulerEvent::ExecutorLost {
                agent_id,
                executor_id,
                status: l.status,
            }
        }
        Kind::Message(m) => {
            let (agent_id, executor_id) = executor_at(m.agent_id, m.executor_id)?;
            SchedulerEvent::Message {
                agent_id,
                executor_id,
                data: message_data(m.data)?,
            }
        }
        Kind::Subscribed(_) | Kind::Heartbeat(_) | Kind::Closed(_) => return Ok(None),
    }))
}

/// The resources of a message that must be set.
pub fn resources(field: &str, r: Option<session::Resources>) -> Result<Resources, ConvertError> {
    required(field, r)?
        .try_into()
        .map_err(|e: ConvertError| e.within(field))
}

/// The smallest bundle that is of use, if there is one.
pub fn smallest(r: Option<session::Resources>) -> Result<Option<Resources>, ConvertError> {
    at_most("smallest", pieces(r.as_ref()), MAX_SMALLEST)?;
    r.map(|r| resources("smallest", Some(r))).transpose()
}

/// A task id from the wire.
pub fn task_id(field: &str, value: String) -> Result<TaskId, ConvertError> {
    id(field, value, TaskId::new)
}

/// An agent id from the wire.
pub fn agent_id(field: &str, value: String) -> Result<AgentId, ConvertError> {
    id(field, value, AgentId::new)
}

/// A framework id from the wire.
pub fn framework_id(field: &str, value: String) -> Result<FrameworkId, ConvertError> {
    id(field, value, FrameworkId::new)
}

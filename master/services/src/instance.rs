//! Instances: what level 2 remembers of a task.

use std::{collections::BTreeMap, iter, net::Ipv4Addr, sync::Arc};

use waggle_types::{
    AgentId, Domain, HealthCheck, HealthState, Offer, ServiceVersion, StatusReason, TaskId,
    TaskSpec, TaskState, UnixMillis,
};

use crate::Member;

/// Where an instance runs, as constraints and discovery see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The agent.
    pub agent_id: AgentId,
    /// Its node name.
    pub hostname: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// Where it stands, for `@region` and `@zone`.
    pub domain: Option<Domain>,
}

impl From<&Offer> for Place {
    fn from(offer: &Offer) -> Self {
        Self {
            agent_id: offer.agent_id.clone(),
            hostname: offer.hostname.clone(),
            ip: offer.ip,
            attributes: offer.attributes.clone(),
            domain: offer.domain.clone(),
        }
    }
}

/// What we want of an instance; its state is what we see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Goal {
    /// It should run.
    Run,
    /// It was told to end.
    Stop,
}

/// An instance that is not known to have ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its task as launched; where it is a pod, one that stands for all of its containers.
    pub task: Arc<TaskSpec>,
    /// The definition it was launched from.
    pub version: ServiceVersion,
    /// Where.
    pub place: Place,
    /// State as last reported by its agent.
    pub state: TaskState,
    /// Health as last reported.
    pub health: HealthState,
    /// Readiness as last reported; `None` when no check says so.
    pub ready: Option<bool>,
    /// What we want of it.
    pub goal: Goal,
    /// When it was launched, or first seen after a restart of the master.
    pub staged_at: UnixMillis,
    /// When it was first reported running.
    pub started_at: Option<UnixMillis>,
    /// Since when its agent is out of reach.
    pub unreachable_since: Option<UnixMillis>,
    /// When it was last told to end.
    pub kill_sent_at: Option<UnixMillis>,
    /// Its containers, where it is a pod.
    pub members: Vec<Member>,
}

impl Instance {
    /// Its task id; where it is a pod, the id of the instance, which no task has.
    pub fn task_id(&self) -> &TaskId {
        &self.task.task_id
    }

    /// Ids of the tasks that agents know it by and that have not ended.
    pub fn live_ids(&self) -> impl Iterator<Item = &TaskId> {
        let own = self.members.is_empty().then(|| self.task_id());
        let live = self.members.iter().filter(|m| !m.state.is_terminal());
        own.into_iter().chain(live.map(|m| &m.task.task_id))
    }

    /// Every id that it is known by.
    pub(crate) fn all_ids(&self) -> impl Iterator<Item = &TaskId> {
        let members = self.members.iter().map(|m| &m.task.task_id);
        iter::once(self.task_id()).chain(members)
    }

    /// Whether it does its work: it runs, is in reach, is wanted, and healthy and ready where checks say so.
    pub fn is_ready(&self) -> bool {
        self.goal == Goal::Run
            && self.state == TaskState::Running
            && self.unreachable_since.is_none()
            && HealthCheck::all_pass(&self.task.health_checks, self.health, self.ready)
    }

    /// Whether it has not yet been reported running.
    pub fn is_launching(&self) -> bool {
        matches!(self.state, TaskState::Staging | TaskState::Starting)
    }

    /// State as people see it: `Unreachable` while its agent is out of reach.
    pub fn shown_state(&self) -> TaskState {
        match self.unreachable_since {
            Some(_) => TaskState::Unreachable,
            None => self.state,
        }
    }

    /// Host ports in definition order.
    pub fn host_ports(&self) -> Vec<u16> {
        self.task.ports.iter().map(|p| p.host_port).collect()
    }
}

/// How the newest failed instance of a service ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastFailure {
    /// The task.
    pub task_id: TaskId,
    /// Where it ran.
    pub place: Place,
    /// Its end state.
    pub state: TaskState,
    /// Typed reason.
    pub reason: Option<StatusReason>,
    /// For people.
    pub message: String,
    /// The definition it ran.
    pub version: ServiceVersion,
    /// When it was heard of.
    pub at: UnixMillis,
}

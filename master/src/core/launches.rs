//! Launches that were accepted and that no agent has spoken of: stored from before they are answered until
//! their agent says the first word, so that a master that starts in between knows what it promised.
//!
//! The built-in framework's are not: what of it did not arrive is launched anew in any case.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{
    AgentId, FrameworkId, Millis, SchedulerEvent, StatusReason, TaskId, TaskState, TaskStatus,
    UnixMillis,
};

use super::{InFlight, KnownAgent, MasterCore, levels::own_status, stored};
use crate::store::StoreOp;

/// Records that are no longer needed are deleted along with other writes, so many at a time; and by
/// themselves when so many wait, or for so long.
const MANY: usize = 1000;
const LONG: Millis = Millis(1000);

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Launches {
    /// Of masters before this one; their agents are not back yet.
    awaited: BTreeMap<TaskId, InFlight>,
    by_agent: BTreeMap<AgentId, BTreeSet<TaskId>>,
    /// Of these, those that did not arrive and whose framework is not there to hear it.
    dropped: BTreeMap<FrameworkId, BTreeMap<TaskId, TaskStatus>>,
    dropped_ids: BTreeSet<TaskId>,
    /// Of this master.
    logged: BTreeSet<TaskId>,
    /// Records to delete, and when a write of their own is due.
    done: Vec<TaskId>,
    due: Option<UnixMillis>,
}

impl Launches {
    pub(super) fn restored(restored: BTreeMap<TaskId, InFlight>) -> Self {
        let mut by_agent: BTreeMap<AgentId, BTreeSet<TaskId>> = BTreeMap::new();
        for (id, l) in &restored {
            let of = by_agent.entry(l.agent_id.clone()).or_default();
            of.insert(id.clone());
        }
        Self {
            awaited: restored,
            by_agent,
            ..Self::default()
        }
    }

    /// Whether a launch of a master before this one has not come to an end.
    pub(super) fn is_open(&self, id: &TaskId) -> bool {
        self.awaited.contains_key(id) || self.dropped_ids.contains(id)
    }

    /// A launch of a framework whose agent is not back yet.
    pub(super) fn awaited(&self, framework: &FrameworkId, id: &TaskId) -> Option<&InFlight> {
        let launch = self.awaited.get(id);
        launch.filter(|l| l.framework_id == *framework)
    }

    /// All of these.
    pub(super) fn all_awaited(&self, framework: &FrameworkId) -> Vec<TaskId> {
        let all = self.awaited.iter();
        all.filter(|(_, l)| l.framework_id == *framework)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Ends the waiting for a launch.
    fn take_awaited(&mut self, id: &TaskId) -> Option<InFlight> {
        let launch = self.awaited.remove(id)?;
        if let Some(of) = self.by_agent.get_mut(&launch.agent_id) {
            of.remove(id);
            if of.is_empty() {
                self.by_agent.remove(&launch.agent_id);
            }
        }
        Some(launch)
    }

    /// Deletions that may go along with another write.
    pub(super) fn take_done(&mut self) -> Vec<StoreOp> {
        let n = self.done.len().min(MANY);
        let done = self.done.drain(..n);
        let ops = done.map(|id| stored::delete_launch(&id)).collect();
        if self.done.is_empty() {
            self.due = None;
        }
        ops
    }

    /// As [`Launches::take_done`], when so many wait, or for so long, that they are worth a write of their
    /// own.
    pub(super) fn take_due(&mut self, now: UnixMillis) -> Vec<StoreOp> {
        if self.done.is_empty() {
            return Vec::new();
        }
        let due = *self.due.get_or_insert(now + LONG);
        if due <= now || self.done.len() >= MANY {
            self.take_done()
        } else {
            Vec::new()
        }
    }

    /// When a write of their own is due.
    pub(super) fn next_timeout(&self) -> Option<UnixMillis> {
        self.due
    }
}

impl MasterCore {
    /// Writes down launches that are about to be answered.
    pub(super) fn log_launches<'a>(
        &mut self,
        framework_id: &FrameworkId,
        agent_id: &AgentId,
        tasks: impl Iterator<Item = &'a TaskId>,
    ) {
        let launch = InFlight {
            agent_id: agent_id.clone(),
            framework_id: framework_id.clone(),
        };
        let mut ops = Vec::new();
        for id in tasks {
            ops.push(stored::put_launch(id, &launch));
            self.launches.logged.insert(id.clone());
        }
        self.persist(ops);
    }

    /// An agent spoke of a task, or the task has ended: it is no launch any more.
    pub(super) fn launch_over(&mut self, id: &TaskId) {
        let awaited = self.launches.take_awaited(id).is_some();
        if self.launches.logged.remove(id) || awaited {
            self.launches.done.push(id.clone());
        }
    }

    /// An agent has registered: launches of a master before that are not among its tasks never arrived.
    pub(super) fn drop_launches(&mut self, agent: &AgentId, now: UnixMillis) {
        let (state, reason) = (TaskState::Dropped, StatusReason::SlaveRestarted);
        let message = "the launch did not reach the agent";
        self.end_launches(agent, state, reason, message, now);
    }

    /// The master has started: nobody waits for launches on agents that are not known any more.
    pub(super) fn drop_stray_launches(&mut self, now: UnixMillis) {
        let known = |id: &&AgentId, all: &BTreeMap<AgentId, KnownAgent>| all.contains_key(*id);
        let agents = self.launches.by_agent.keys();
        let strays = agents.filter(|id| !known(id, &self.expected));
        let strays: Vec<AgentId> = strays.cloned().collect();
        for agent in strays {
            let (state, reason) = if self.upkeep.is_gone(&agent) {
                let by_operator = StatusReason::SlaveRemovedByOperator;
                (TaskState::GoneByOperator, by_operator)
            } else {
                (TaskState::Dropped, StatusReason::SlaveRemoved)
            };
            let message = "the agent is not known any more";
            self.end_launches(&agent, state, reason, message, now);
        }
    }

    /// Launches on an agent have come to an end; their frameworks hear it when they are there.
    pub(super) fn end_launches(
        &mut self,
        agent: &AgentId,
        state: TaskState,
        reason: StatusReason,
        message: &str,
        now: UnixMillis,
    ) {
        let lost = self.launches.by_agent.get(agent).cloned();
        let mut frameworks = BTreeSet::new();
        for id in lost.unwrap_or_default() {
            let Some(launch) = self.launches.take_awaited(&id) else {
                continue;
            };
            let framework = launch.framework_id;
            if !self.frameworks.all.contains_key(&framework) {
                self.launches.done.push(id);
                continue;
            }
            let (agent, message) = (launch.agent_id, message.to_owned());
            let status = own_status(id.clone(), agent, state, Some(reason), message, now);
            self.launches.dropped_ids.insert(id.clone());
            let of = self.launches.dropped.entry(framework.clone());
            of.or_default().insert(id, status);
            frameworks.insert(framework);
        }
        for framework in frameworks {
            self.tell_dropped(&framework);
        }
    }

    /// Tells a framework, if it is there, what did not arrive.
    pub(super) fn tell_dropped(&mut self, framework: &FrameworkId) {
        let known = self.frameworks.all.get(framework);
        if known.is_none_or(|f| f.subscription.is_none()) {
            return;
        }
        for status in self.take_dropped(framework) {
            self.send_framework(framework, SchedulerEvent::Update(status));
        }
    }

    fn take_dropped(&mut self, framework: &FrameworkId) -> Vec<TaskStatus> {
        let dropped = self.launches.dropped.remove(framework);
        let dropped: Vec<TaskStatus> = dropped.into_iter().flatten().map(|(_, s)| s).collect();
        for status in &dropped {
            self.launches.dropped_ids.remove(&status.task_id);
            self.launches.done.push(status.task_id.clone());
        }
        dropped
    }

    /// A framework is gone: nobody asks for its launches any more. (What did arrive is killed when its
    /// agent comes back.)
    pub(super) fn forget_launches_of(&mut self, framework: &FrameworkId) {
        for id in self.launches.all_awaited(framework) {
            self.launch_over(&id);
        }
        self.take_dropped(framework);
    }
}

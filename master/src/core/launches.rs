//! Launches that were accepted and that no agent has spoken of: stored from before they are answered until
//! their agent says the first word, so that a master that starts in between knows what it promised.
//!
//! The built-in framework's are not: what of it did not arrive is launched anew in any case.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{
    AgentId, FrameworkId, Millis, SchedulerEvent, StatusReason, TaskId, TaskState, TaskStatus,
    UnixMillis,
};

use super::{InFlight, MasterCore, levels::own_status, stored};
use crate::store::StoreOp;

/// Records that are no longer needed are deleted along with other writes, so many at a time; and by
/// themselves when so many wait, or for so long.
const MANY: usize = 1000;
const LONG: Millis = Millis(1000);

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Launches {
    /// Of masters before this one; their agents are not back yet.
    restored: BTreeMap<TaskId, InFlight>,
    /// Of these, those that did not arrive and whose framework is not there to hear it.
    dropped: BTreeMap<TaskId, (FrameworkId, TaskStatus)>,
    /// Of this master.
    logged: BTreeSet<TaskId>,
    /// Records to delete, and when a write of their own is due.
    done: Vec<TaskId>,
    due: Option<UnixMillis>,
}

impl Launches {
    pub(super) fn restored(restored: BTreeMap<TaskId, InFlight>) -> Self {
        Self {
            restored,
            ..Self::default()
        }
    }

    /// Whether a launch of a master before this one has not come to an end.
    pub(super) fn is_open(&self, id: &TaskId) -> bool {
        self.restored.contains_key(id) || self.dropped.contains_key(id)
    }

    /// A launch of a framework whose agent is not back yet.
    pub(super) fn awaited(&self, framework: &FrameworkId, id: &TaskId) -> Option<&InFlight> {
        let launch = self.restored.get(id);
        launch.filter(|l| l.framework_id == *framework)
    }

    /// All of these.
    pub(super) fn all_awaited(&self, framework: &FrameworkId) -> Vec<TaskId> {
        let all = self.restored.iter();
        all.filter(|(_, l)| l.framework_id == *framework)
            .map(|(id, _)| id.clone())
            .collect()
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
        let restored = self.launches.restored.remove(id).is_some();
        if self.launches.logged.remove(id) || restored {
            self.launches.done.push(id.clone());
        }
    }

    /// An agent has registered: launches of a master before that are not among its tasks never arrived.
    pub(super) fn drop_launches(&mut self, agent: &AgentId, now: UnixMillis) {
        let (state, reason) = (TaskState::Dropped, StatusReason::SlaveRestarted);
        let message = "the launch did not reach the agent";
        self.end_launches(agent, state, reason, message, now);
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
        let lost = self.launches.restored.iter();
        let lost = lost.filter(|(_, l)| l.agent_id == *agent);
        let lost: Vec<(TaskId, FrameworkId)> = lost
            .map(|(id, l)| (id.clone(), l.framework_id.clone()))
            .collect();
        for (id, framework) in lost {
            self.launches.restored.remove(&id);
            let (agent, message) = (agent.clone(), message.to_owned());
            let status = own_status(id.clone(), agent, state, Some(reason), message, now);
            if !self.frameworks.all.contains_key(&framework) {
                self.launches.done.push(id);
            } else {
                self.launches
                    .dropped
                    .insert(id, (framework.clone(), status));
                self.tell_dropped(&framework);
            }
        }
    }

    /// Tells a framework, if it is there, what did not arrive.
    pub(super) fn tell_dropped(&mut self, framework: &FrameworkId) {
        let known = self.frameworks.all.get(framework);
        if known.is_none_or(|f| f.subscription.is_none()) {
            return;
        }
        let all = std::mem::take(&mut self.launches.dropped);
        for (id, (of, status)) in all {
            if of == *framework {
                self.launches.done.push(id);
                self.send_framework(framework, SchedulerEvent::Update(status));
            } else {
                self.launches.dropped.insert(id, (of, status));
            }
        }
    }

    /// A framework is gone: nobody asks for its launches any more. (What did arrive is killed when its
    /// agent comes back.)
    pub(super) fn forget_launches_of(&mut self, framework: &FrameworkId) {
        for id in self.launches.all_awaited(framework) {
            self.launch_over(&id);
        }
        let dropped = std::mem::take(&mut self.launches.dropped);
        for (id, (of, status)) in dropped {
            if of == *framework {
                self.launches.done.push(id);
            } else {
                self.launches.dropped.insert(id, (of, status));
            }
        }
    }
}

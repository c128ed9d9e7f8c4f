//! Draining: who serves is told to end only when no node sends anybody there any more.
//!
//! A task that is to end leaves the VIPs and the DNS with the next network snapshot; the kill itself waits until every node that
//! can be heard has applied that generation, or for a moment that is short beside any grace. So a rolling update loses
//! no connection to a task that was just told to end.

use std::collections::BTreeMap;

use waggle_types::{AgentId, Generation, HealthCheck, Millis, TaskId, TaskState, UnixMillis};

use super::{MasterCore, tasks::Task};

/// How long nodes are looked at again after one of them has applied something.
const LOOK_EVERY: Millis = Millis(20);

/// Kills that wait.
#[derive(Debug, Clone, Default)]
pub(super) struct Drains {
    waiting: BTreeMap<TaskId, Drain>,
    /// Somebody has applied a generation since the last look.
    news: bool,
    looked_at: UnixMillis,
}

#[derive(Debug, Clone)]
struct Drain {
    agent: AgentId,
    /// The first generation without the task; unknown until it is published.
    generation: Option<Generation>,
    until: UnixMillis,
}

impl Drains {
    /// When waiting kills have to be looked at.
    pub(super) fn next_timeout(&self) -> Option<UnixMillis> {
        let until = self.waiting.values().map(|d| d.until).min()?;
        if self.news {
            return Some(until.min(self.looked_at + LOOK_EVERY));
        }
        Some(until)
    }

    /// A node has applied a generation.
    pub(super) fn applied(&mut self) {
        self.news = !self.waiting.is_empty();
    }

    /// What is published from now on has no task in its VIPs that waits.
    pub(super) fn published(&mut self, generation: Generation) {
        for drain in self.waiting.values_mut() {
            drain.generation.get_or_insert(generation);
        }
    }
}

fn serves(t: &Task) -> bool {
    t.reported == TaskState::Running
        && t.is_named()
        && HealthCheck::all_pass(&t.spec.health_checks, t.health, t.ready)
}

impl MasterCore {
    /// Ends a task: at once, or when it is drained. Without a session the kill is repeated when the agent registers
    /// again.
    pub(super) fn end(&mut self, agent: &AgentId, task_id: &TaskId, now: UnixMillis) {
        if self.agents.session(agent).is_none() {
            return;
        }
        let wait = self.config.drain_wait;
        let serves = self.serves(task_id);
        if wait == Millis(0) || !serves || self.recovering {
            self.send_kill(agent, task_id);
            return;
        }
        let drain = Drain {
            agent: agent.clone(),
            generation: None,
            until: now + wait,
        };
        // A second kill does not begin anew.
        self.drains.waiting.entry(task_id.clone()).or_insert(drain);
        self.net_dirty = true;
    }

    /// Whether clients are sent to a task, or to one that ends with it.
    fn serves(&self, id: &TaskId) -> bool {
        let Some(task) = self.tasks.get(id) else {
            return false;
        };
        let group = |t: &Task| {
            t.spec
                .executor
                .as_ref()
                .and_then(|(_, group)| group.clone())
        };
        match group(task) {
            None => serves(task),
            of => {
                let mut beside = self.tasks.of_agent(task.agent_id());
                beside.any(|t| serves(t) && group(t) == of)
            }
        }
    }

    /// Sends the kills of tasks that are drained.
    pub(super) fn end_drained(&mut self, now: UnixMillis) {
        if self.drains.next_timeout().is_none_or(|at| at > now) {
            return;
        }
        self.drains.news = false;
        self.drains.looked_at = now;
        let listening = |a: &&super::agents::Agent| a.reachable && a.session.is_some();
        let applied = self.agents.all.values().filter(listening);
        let everywhere = applied.map(|a| a.applied).min().unwrap_or_default();
        let done = |d: &Drain| d.until <= now || d.generation.is_some_and(|g| g <= everywhere);
        let drained: Vec<(TaskId, AgentId)> = self
            .drains
            .waiting
            .iter()
            .filter(|(_, d)| done(d))
            .map(|(id, d)| (id.clone(), d.agent.clone()))
            .collect();
        for (task_id, agent) in drained {
            self.drains.waiting.remove(&task_id);
            if self.tasks.get(&task_id).is_some() && self.agents.session(&agent).is_some() {
                self.send_kill(&agent, &task_id);
            }
        }
    }
}

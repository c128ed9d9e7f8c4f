//! The registry of tasks: rebuilt from the agents, never stored.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use waggle_types::{
    AgentId, AgentInfo, HealthState, PortNet, TaskId, TaskNet, TaskSpec, TaskState, TaskStatus,
    UnixMillis,
};

use crate::view::TaskView;

/// A task that is not known to have ended.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) spec: Arc<TaskSpec>,
    pub(super) agent_id: AgentId,
    /// As its agent said last.
    pub(super) reported: TaskState,
    pub(super) health: HealthState,
    /// Its agent is out of reach.
    pub(super) unreachable: bool,
    pub(super) staged_at: UnixMillis,
    pub(super) started_at: Option<UnixMillis>,
    pub(super) status: Option<TaskStatus>,
    /// A kill was asked for; repeated when its agent comes back.
    pub(super) kill_wanted: bool,
    /// Its `task.launch` span is open.
    pub(super) launch_open: bool,
    /// It has been announced as a VIP backend.
    pub(super) announced: bool,
}

impl Task {
    pub(super) fn new(spec: Arc<TaskSpec>, agent_id: AgentId, now: UnixMillis) -> Self {
        Self {
            spec,
            agent_id,
            reported: TaskState::Staging,
            health: HealthState::Unknown,
            unreachable: false,
            staged_at: now,
            started_at: None,
            status: None,
            kill_wanted: false,
            launch_open: false,
            announced: false,
        }
    }

    /// State as shown: what the agent said last, or that it can't say any more.
    pub(super) fn state(&self) -> TaskState {
        if self.unreachable {
            TaskState::Unreachable
        } else {
            self.reported
        }
    }

    /// Takes a report; the caller has checked that it is about this task.
    pub(super) fn take(&mut self, status: &TaskStatus, now: UnixMillis) {
        self.reported = status.state;
        self.health = status.health;
        if status.state == TaskState::Running && self.started_at.is_none() {
            self.started_at = Some(now);
        }
        self.status = Some(status.clone());
    }

    /// Whether it can get connections through a VIP (CONTRACTS section 3).
    pub(super) fn is_backend(&self) -> bool {
        self.reported == TaskState::Running
            && self.spec.ports.iter().any(|p| !p.vips.is_empty())
            && (self.spec.health_checks.is_empty() || self.health == HealthState::Healthy)
    }

    /// The task as the network sees it. The state is the reported one: whether the agent is out of
    /// reach is the agent's property there.
    pub(super) fn net(&self) -> TaskNet {
        TaskNet {
            agent_id: self.agent_id.clone(),
            name: self.spec.discovery.name.clone(),
            framework: self.spec.framework_name.clone(),
            state: self.reported,
            has_check: !self.spec.health_checks.is_empty(),
            health: self.health,
            ports: self
                .spec
                .ports
                .iter()
                .map(|p| PortNet {
                    name: p.name.clone(),
                    host_port: p.host_port,
                    protocols: p.protocols.clone(),
                    vips: p.vips.clone(),
                })
                .collect(),
        }
    }

    pub(super) fn view(&self, agent: Option<&AgentInfo>) -> TaskView {
        TaskView {
            spec: Arc::clone(&self.spec),
            agent_id: self.agent_id.clone(),
            hostname: agent.map(|a| a.hostname.clone()).unwrap_or_default(),
            ip: agent.map_or(std::net::Ipv4Addr::UNSPECIFIED, |a| a.ip),
            state: self.state(),
            health: self.health,
            staged_at: self.staged_at,
            started_at: self.started_at,
            status: self.status.clone(),
        }
    }
}

/// Tasks by id, and the last ones that ended.
#[derive(Debug, Clone, Default)]
pub(super) struct Tasks {
    pub(super) live: BTreeMap<TaskId, Task>,
    /// Oldest first.
    pub(super) ended: VecDeque<Arc<TaskView>>,
}

impl Tasks {
    /// Ids of an agent's tasks.
    pub(super) fn on_agent(&self, agent: &AgentId) -> Vec<TaskId> {
        self.live
            .iter()
            .filter(|(_, t)| t.agent_id == *agent)
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Moves a task to the ended ones; the oldest of more than `keep` are forgotten.
    pub(super) fn end(&mut self, id: &TaskId, agent: Option<&AgentInfo>, keep: usize) {
        if let Some(task) = self.live.remove(id) {
            self.ended.push_back(Arc::new(task.view(agent)));
            while self.ended.len() > keep {
                self.ended.pop_front();
            }
        }
    }
}

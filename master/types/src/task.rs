//! Tasks: what is asked for, what state they are in, what is reported of them.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::{
    AgentId, Balance, CheckResponse, CheckStatus, ContainerSpec, ExecutorKind, ExecutorStatus,
    FrameworkId, HealthCheck, HealthState, Millis, MountSource, OnExecutor, Protocol, ResourcePart,
    Resources, StatusUuid, TaskId, TraceContext, UnixMillis, VipLabel, Volume, VolumeId,
};

/// Bytes of a path that is scraped.
const MAX_METRICS_PATH: usize = 1024;

/// Mesos's task states (mesos.proto `TaskState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskState {
    /// Sent to the agent, not started.
    Staging,
    /// The executor is setting it up.
    Starting,
    /// Its process runs.
    Running,
    /// Told to end, not ended.
    Killing,
    /// Ended by itself with exit code 0.
    Finished,
    /// Ended by itself otherwise.
    Failed,
    /// Ended because it was told to.
    Killed,
    /// The request was wrong; never started.
    Error,
    /// Its agent is gone for good or it vanished.
    Lost,
    /// Never reached its agent.
    Dropped,
    /// Its agent is out of reach; it may come back.
    Unreachable,
    /// Its agent was removed while it ran.
    Gone,
    /// As `Gone`, by an operator's word.
    GoneByOperator,
    /// Asked for in reconciliation and not known.
    Unknown,
}

impl TaskState {
    /// Every state, for tables and tests.
    pub const ALL: [Self; 14] = [
        Self::Staging,
        Self::Starting,
        Self::Running,
        Self::Killing,
        Self::Finished,
        Self::Failed,
        Self::Killed,
        Self::Error,
        Self::Lost,
        Self::Dropped,
        Self::Unreachable,
        Self::Gone,
        Self::GoneByOperator,
        Self::Unknown,
    ];

    /// Whether no other state can follow.
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Finished
                | Self::Failed
                | Self::Killed
                | Self::Error
                | Self::Lost
                | Self::Dropped
                | Self::Gone
                | Self::GoneByOperator
        )
    }

    /// Mesos's wire name: `TASK_RUNNING`.
    pub const fn mesos_name(self) -> &'static str {
        match self {
            Self::Staging => "TASK_STAGING",
            Self::Starting => "TASK_STARTING",
            Self::Running => "TASK_RUNNING",
            Self::Killing => "TASK_KILLING",
            Self::Finished => "TASK_FINISHED",
            Self::Failed => "TASK_FAILED",
            Self::Killed => "TASK_KILLED",
            Self::Error => "TASK_ERROR",
            Self::Lost => "TASK_LOST",
            Self::Dropped => "TASK_DROPPED",
            Self::Unreachable => "TASK_UNREACHABLE",
            Self::Gone => "TASK_GONE",
            Self::GoneByOperator => "TASK_GONE_BY_OPERATOR",
            Self::Unknown => "TASK_UNKNOWN",
        }
    }
}

/// Who reports a status (mesos.proto `TaskStatus.Source`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StatusSource {
    /// The master, on its own account: not retried, not acknowledged.
    Master,
    /// The agent: retried until acknowledged.
    Agent,
    /// The executor (the shim): retried until acknowledged.
    Executor,
}

/// Why a status is what it is; names follow mesos.proto `TaskStatus.Reason` where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StatusReason {
    /// The task's command could not be started.
    ContainerLaunchFailed,
    /// The command exited by itself with a code or signal.
    CommandExecutorFailed,
    /// Killed by the kernel for its memory limit.
    ContainerLimitationMemory,
    /// Killed because its sandbox is larger than its disk (mesos.proto `REASON_CONTAINER_LIMITATION_DISK`).
    ContainerLimitationDisk,
    /// Killed because it ran for too long (mesos.proto `REASON_MAX_COMPLETION_TIME_REACHED`).
    MaxCompletionTimeReached,
    /// A readiness or start check changed its mind, or a check that is only told says something else (mesos.proto `REASON_TASK_CHECK_STATUS_UPDATED`).
    TaskCheckStatusUpdated,
    /// Too many health check failures in a row.
    TaskHealthCheckStatusUpdated,
    /// The spec was refused.
    TaskInvalid,
    /// A group was refused, and with it each of its tasks (mesos.proto `REASON_TASK_GROUP_INVALID`).
    TaskGroupInvalid,
    /// Offer gone or resources not there.
    InvalidOffers,
    /// The agent is not connected, so that nothing can be launched on it.
    SlaveDisconnected,
    /// The agent was removed, or is out of reach.
    SlaveRemoved,
    /// An operator said that the agent is gone for good (mesos.proto `REASON_SLAVE_REMOVED_BY_OPERATOR`).
    SlaveRemovedByOperator,
    /// The agent is back, and the task with it (mesos.proto `REASON_SLAVE_REREGISTERED`).
    SlaveReregistered,
    /// Its framework was removed (mesos.proto `REASON_FRAMEWORK_REMOVED`).
    FrameworkRemoved,
    /// The agent restarted and the task was no longer there.
    SlaveRestarted,
    /// An answer to a reconciliation.
    Reconciliation,
    /// The shim died: the task's end is known, its exit code is not. Or: the executor that ran it has ended.
    ExecutorTerminated,
    /// Its executor did not subscribe in time (mesos.proto `REASON_EXECUTOR_REGISTRATION_TIMEOUT`).
    ExecutorRegistrationTimeout,
    /// Its executor did not come back to an agent that had restarted
    /// (mesos.proto `REASON_EXECUTOR_REREGISTRATION_TIMEOUT`).
    ExecutorReregistrationTimeout,
    /// Killed before it began, or before its executor had it (mesos.proto `REASON_TASK_KILLED_DURING_LAUNCH`).
    TaskKilledDuringLaunch,
    /// A kill was asked for.
    TaskKilled,
    /// What it used was lent, and its role wanted it back (mesos.proto `REASON_CONTAINER_PREEMPTED`).
    ContainerPreempted,
    /// Its agent is drained, or down for maintenance (mesos.proto `REASON_SLAVE_DRAINING`).
    SlaveDraining,
}

/// Why a task is told to end although its framework did not ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted {
    /// [`StatusReason::ContainerPreempted`] or [`StatusReason::SlaveDraining`].
    pub reason: StatusReason,
    /// For people.
    pub message: String,
}

/// One report about a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStatus {
    /// The task.
    pub task_id: TaskId,
    /// Its agent.
    pub agent_id: AgentId,
    /// The state reported.
    pub state: TaskState,
    /// Health, where a check is defined.
    pub health: HealthState,
    /// Whether every readiness and start check has passed; `None` where there is none.
    pub ready: Option<bool>,
    /// What the check that is only told said last; `None` where there is none.
    pub check: Option<CheckStatus>,
    /// What its readiness checks were answered last, where their definitions keep that; in order of the checks.
    pub responses: Vec<CheckResponse>,
    /// An address of its own, where it is not on its node's network.
    pub ip: Option<Ipv4Addr>,
    /// The same over IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// Why.
    pub reason: Option<StatusReason>,
    /// For people: `command exited with status 3`.
    pub message: String,
    /// Who says so.
    pub source: StatusSource,
    /// When it was observed, by the reporter's clock.
    pub at: UnixMillis,
    /// Set when it is retried until acknowledged.
    pub uuid: Option<StatusUuid>,
    /// Which executor ran it, where its framework brought one, and what that wrote.
    pub executor: Option<Box<ExecutorStatus>>,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// `/bin/sh -c <text>`.
    Shell(String),
    /// Program and arguments, no shell.
    Argv(Vec<String>),
    /// What the image says: its entry point, with these arguments, or with its own when there are none.
    Image(Vec<String>),
    /// Nothing: the task's executor knows what to do.
    Executor,
}

/// A host port that a task holds, with what discovery needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskPort {
    /// Optional name: `http`.
    pub name: Option<String>,
    /// The port on the agent; 0 where only the task's own address has it.
    pub host_port: u16,
    /// The port inside, where the task has a network of its own; `None`: the same.
    pub container_port: Option<u16>,
    /// Protocols served; one or both.
    pub protocols: Vec<Protocol>,
    /// VIP labels of the port, in label order.
    pub vips: Vec<VipLabel>,
    /// How these VIPs choose.
    pub balance: Balance,
    /// Path of the Prometheus text that the port answers with, where its labels say that it does.
    pub metrics: Option<String>,
}

impl TaskPort {
    /// What a port's labels say of [`TaskPort::metrics`], as on DC/OS: `DCOS_METRICS_FORMAT=prometheus`, and the path in
    /// `DCOS_METRICS_ENDPOINT`. What can't be a path says nothing.
    pub fn metrics_of(labels: &BTreeMap<String, String>) -> Option<String> {
        let is_asked = labels.get("DCOS_METRICS_FORMAT").map(String::as_str) == Some("prometheus");
        let path = labels.get("DCOS_METRICS_ENDPOINT");
        let path = path.map_or("/metrics", |p| p.trim());
        let path = format!("/{}", path.strip_prefix('/').unwrap_or(path));
        (is_asked && Self::is_metrics_path(&path)).then_some(path)
    }

    /// Whether something can be a path of [`TaskPort::metrics`].
    pub fn is_metrics_path(path: &str) -> bool {
        let is_visible = path.bytes().all(|b| b.is_ascii_graphic());
        path.starts_with('/') && path.len() <= MAX_METRICS_PATH && is_visible
    }
}

/// How the task is found: DiscoveryInfo's part that DNS and VIPs read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiscoveryInfo {
    /// `cart.shop`; becomes labels in DNS.
    pub name: String,
}

/// Everything an agent needs to run a task. Immutable once accepted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskSpec {
    /// Unique over the cluster and time.
    pub task_id: TaskId,
    /// The framework that launches it.
    pub framework_id: FrameworkId,
    /// The framework's DNS name: `marathon`.
    pub framework_name: String,
    /// Role that the resources are allocated to.
    pub role: String,
    /// For people and DNS; Marathon sets the discovery name.
    pub name: String,
    /// What to run.
    pub command: Command,
    /// Environment on top of the agent's own variables.
    pub env: BTreeMap<String, String>,
    /// Labels, carried and shown, never interpreted here.
    pub labels: BTreeMap<String, String>,
    /// What it may use, all together.
    pub resources: Resources,
    /// The same by reservation; empty when nothing of it is reserved or lent. In an accept: what it asks for;
    /// in what runs: what it was given.
    pub parts: Vec<ResourcePart>,
    /// Its ports, in definition order.
    pub ports: Vec<TaskPort>,
    /// How it is found.
    pub discovery: DiscoveryInfo,
    /// Checks run by the agent: health, readiness, start.
    pub health_checks: Vec<HealthCheck>,
    /// How it is contained.
    pub container: ContainerSpec,
    /// Between SIGTERM and SIGKILL.
    pub kill_grace: Millis,
    /// Unix user to run as, `None` for the agent's.
    pub user: Option<String>,
    /// The app path for service tasks (`/shop/cart`), else empty; `service.name` of its signals.
    pub service: String,
    /// The definition's version: `service.version` of its signals.
    pub service_version: String,
    /// The span that the agent's spans hang under.
    pub trace: Option<TraceContext>,
    /// On which executor it runs; `None`: it is a process or container of its own.
    pub executor: Option<OnExecutor>,
}

impl TaskSpec {
    /// Persistent volumes that it may use: its own, then those that its default executor holds for all tasks of a pod.
    /// What is the executor's is shared, whatever it is beyond the pod.
    pub fn volumes(&self) -> impl Iterator<Item = (&VolumeId, Volume)> {
        let on = self.executor.as_ref();
        let on = on.filter(|on| on.spec.kind == ExecutorKind::Default);
        let of_pod = on
            .into_iter()
            .flat_map(|on| on.spec.resources.custom.volumes());
        let of_pod = of_pod.map(|(id, v)| (id, Volume { shared: true, ..v }));
        self.resources.custom.volumes().chain(of_pod)
    }

    /// Those of them that it has: its own, and of its pod's those that it mounts.
    pub fn held_volumes(&self) -> impl Iterator<Item = (&VolumeId, Volume)> {
        let mounts = |id: &VolumeId| {
            let mut all = self.container.mounts.iter();
            all.any(|m| matches!(&m.source, MountSource::Volume(v) if v == id))
        };
        self.volumes()
            .filter(move |(id, _)| self.resources.custom.volume(id).is_some() || mounts(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_say_where_metrics_are() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            TaskPort::metrics_of(&pairs.collect())
        };
        let format = ("DCOS_METRICS_FORMAT", "prometheus");
        let path = "DCOS_METRICS_ENDPOINT";
        assert_eq!(of(&[format]).as_deref(), Some("/metrics"));
        assert_eq!(of(&[format, (path, "/a?b=c")]).as_deref(), Some("/a?b=c"));
        assert_eq!(of(&[format, (path, "a")]).as_deref(), Some("/a"));
        assert_eq!(of(&[format, (path, "/a b")]), None);
        assert_eq!(of(&[format, (path, "/a\r\nHost: x")]), None);
        assert_eq!(of(&[("DCOS_METRICS_FORMAT", "json")]), None);
        assert_eq!(of(&[]), None);
    }
}

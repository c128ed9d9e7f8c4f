//! Executors that frameworks bring along: processes of their own that run tasks, several each (Mesos's custom
//! executor), and groups of tasks that the agent runs as one pod (Mesos's default executor).

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{
    Command, ContainerSpec, ExecutorId, FrameworkId, Millis, ResourcePart, Resources, TaskId,
};

/// Longest message between a framework and an executor, in bytes; longer ones are refused.
pub const MAX_MESSAGE: usize = 1 << 20;

/// What an executor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExecutorKind {
    /// A process of the framework's own, which speaks the executor API with the agent and runs the tasks.
    Custom,
    /// The agent itself: each task is a container, those of one executor are a pod.
    Default,
}

/// An executor as a framework asks for it. Tasks of one framework on one agent that name the same id share it; all
/// of them must say the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutorSpec {
    /// Unique in its framework on one agent.
    pub executor_id: ExecutorId,
    /// For people.
    pub name: String,
    /// What it is.
    pub kind: ExecutorKind,
    /// What to run; not looked at for [`ExecutorKind::Default`].
    pub command: Command,
    /// Environment on top of the agent's own variables.
    pub env: BTreeMap<String, String>,
    /// Labels, carried and shown.
    pub labels: BTreeMap<String, String>,
    /// What it uses itself, beside its tasks: held once, from its first task until its own end.
    pub resources: Resources,
    /// The same by reservation; empty when nothing of it is reserved or lent. In an accept: what it asks for; in
    /// what runs: what it was given.
    pub parts: Vec<ResourcePart>,
    /// How it, and so its tasks, are contained.
    pub container: ContainerSpec,
    /// Between being told to shut down and SIGKILL.
    pub shutdown_grace: Millis,
    /// Unix user to run as, `None` for the agent's.
    pub user: Option<String>,
    /// Whether it may outlive the agent (Mesos: `FrameworkInfo.checkpoint`); it is told so, nothing else.
    pub checkpoint: bool,
    /// Mesos's `ExecutorInfo` as the framework wrote it (protobuf): given to the executor, not interpreted. Empty:
    /// it is made of this.
    pub info: Vec<u8>,
    /// Its framework's `FrameworkInfo`, the same way.
    pub framework_info: Vec<u8>,
}

impl ExecutorSpec {
    /// Whether both ask for the same executor; what each was given does not matter.
    pub fn is_same(&self, other: &Self) -> bool {
        let plain = |s: &Self| Self {
            parts: Vec::new(),
            // The framework may have changed since.
            framework_info: Vec::new(),
            ..s.clone()
        };
        plain(self) == plain(other)
    }
}

/// An executor by name: on one agent there is one at most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutorKey {
    /// Whose.
    pub framework_id: FrameworkId,
    /// Which of its.
    pub executor_id: ExecutorId,
}

impl fmt::Display for ExecutorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of framework {}", self.executor_id, self.framework_id)
    }
}

/// The executor that a task runs on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OnExecutor {
    /// Which.
    pub spec: Arc<ExecutorSpec>,
    /// Set by the master: this launch is to start it. A launch without it on an executor that is gone is dropped.
    pub starts: bool,
    /// Tasks with the same word here were launched as one group: none of them starts unless all can, and when one
    /// fails or is killed the others end with it.
    pub group: Option<TaskId>,
    /// How many tasks the group has: an executor of the framework's own is handed all of them at once. 0 without a group,
    /// and when it is not known any more.
    pub n_group: u32,
    /// Mesos's `TaskInfo` as the framework wrote it (protobuf): given to the executor, not interpreted. Empty: it is
    /// made of the task's spec. Masters forget it once the launch is sent.
    pub info: Vec<u8>,
}

/// What a status says beyond what every task's does, when an executor wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorStatus {
    /// Which executor.
    pub executor_id: ExecutorId,
    /// Mesos's `TaskStatus` as the executor wrote it (protobuf): its data, labels, reason. Empty when the agent speaks.
    pub info: Vec<u8>,
}

/// An executor that lives on an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorRecord {
    /// Whose.
    pub framework_id: FrameworkId,
    /// The framework's DNS name.
    pub framework_name: String,
    /// Role that its resources are allocated to.
    pub role: String,
    /// What it is.
    pub spec: Arc<ExecutorSpec>,
}

impl ExecutorRecord {
    /// Its name.
    pub fn key(&self) -> ExecutorKey {
        ExecutorKey {
            framework_id: self.framework_id.clone(),
            executor_id: self.spec.executor_id.clone(),
        }
    }
}

/// The end of an executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorEnd {
    /// Which.
    pub key: ExecutorKey,
    /// As `waitpid(2)` has it: exit code times 256, or the signal. -1 when nobody saw it.
    pub status: i32,
    /// For people.
    pub message: String,
}

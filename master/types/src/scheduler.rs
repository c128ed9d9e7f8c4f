//! The two-level protocol as values: what level 1 says to a framework and what a framework says back.
//!
//! The wire forms (Mesos v1 HTTP, gRPC) convert to and from these; the built-in service framework
//! uses them directly and has no other door into level 1. Verbs follow Mesos's scheduler API.

use crate::{
    AgentId, ExecutorId, FrameworkId, InverseOffer, Milli, Millis, Offer, OfferId, Reservation,
    Resources, StatusUuid, TaskId, TaskSpec, TaskStatus, Volume, VolumeId,
};

/// From the master to a framework.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchedulerEvent {
    /// Registered; the id to use from now on.
    Subscribed {
        /// The framework's id.
        framework_id: FrameworkId,
    },
    /// New offers.
    Offers(Vec<Offer>),
    /// An offer is no longer valid.
    Rescind(OfferId),
    /// It is asked to leave an agent. Tasks that are still there when the window begins are killed.
    InverseOffer(InverseOffer),
    /// An inverse offer is no longer valid.
    RescindInverse(OfferId),
    /// A task's state. Acknowledge it if it has a uuid.
    Update(TaskStatus),
    /// An agent was lost for good.
    AgentLost(AgentId),
    /// An agent does not answer: what runs there may come back with it. Every framework hears it, those without tasks there, too.
    AgentUnreachable(AgentId),
    /// An executor has ended (Mesos: `FAILURE` with an executor).
    ExecutorLost {
        /// On which agent.
        agent_id: AgentId,
        /// Which.
        executor_id: ExecutorId,
        /// As `waitpid(2)` has it; -1 when nobody saw it.
        status: i32,
    },
    /// An executor says something to its framework. Not retried: it may be lost.
    Message {
        /// On which agent.
        agent_id: AgentId,
        /// Which.
        executor_id: ExecutorId,
        /// What, unchanged.
        data: Vec<u8>,
    },
}

/// What a framework does with what offers hold. Several in one accept are done in order, each with what the
/// ones before have made: reserve, make a volume of it, launch on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Launch tasks. A task whose [`TaskSpec::parts`] are empty takes reserved resources before unreserved
    /// ones; else it takes exactly those.
    Launch(Vec<TaskSpec>),
    /// Resources of the stack without its last become the stack's.
    Reserve {
        /// The new stack; what it refines is all but its last.
        stack: Vec<Reservation>,
        /// How much.
        resources: Resources,
    },
    /// The stack's last reservation ends.
    Unreserve {
        /// The stack as it is.
        stack: Vec<Reservation>,
        /// How much.
        resources: Resources,
    },
    /// Disk of a reservation becomes a persistent volume.
    CreateVolume {
        /// Of which reservation.
        stack: Vec<Reservation>,
        /// Unique on the agent.
        volume_id: VolumeId,
        /// How large, and whether several tasks may use it at once.
        volume: Volume,
    },
    /// A volume that nobody uses gets another size, of its reservation's disk (Mesos's `GROW_VOLUME`, `SHRINK_VOLUME`).
    ResizeVolume {
        /// Of which reservation.
        stack: Vec<Reservation>,
        /// Which.
        volume_id: VolumeId,
        /// How large it is then.
        size: Milli,
    },
    /// A volume that nobody uses becomes disk of its reservation again; its data is gone.
    DestroyVolume {
        /// Of which reservation.
        stack: Vec<Reservation>,
        /// Which.
        volume_id: VolumeId,
    },
}

impl Operation {
    /// The tasks that it launches.
    pub fn tasks(&self) -> &[TaskSpec] {
        match self {
            Self::Launch(tasks) => tasks,
            _ => &[],
        }
    }
}

/// From a framework to the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchedulerCall {
    /// Use offers of **one agent**; what is left of them is declined with `refuse`. All of it or nothing.
    Accept {
        /// Offers used, all of one agent and to one role.
        offer_ids: Vec<OfferId>,
        /// What to do, in order; each paid by these offers together.
        operations: Vec<Operation>,
        /// Filter for the rest.
        refuse: Millis,
    },
    /// No use for these offers; do not offer the same agent's resources again for `refuse`.
    Decline {
        /// Offers refused.
        offer_ids: Vec<OfferId>,
        /// How long the filter stands.
        refuse: Millis,
    },
    /// It will leave, by itself, before the window begins.
    AcceptInverse {
        /// Inverse offers.
        offer_ids: Vec<OfferId>,
    },
    /// It will not; ask again after `refuse`.
    DeclineInverse {
        /// Inverse offers.
        offer_ids: Vec<OfferId>,
        /// How long not to ask.
        refuse: Millis,
    },
    /// End a task; SIGTERM, grace, SIGKILL.
    Kill {
        /// The task.
        task_id: TaskId,
    },
    /// A status update has been taken.
    Acknowledge {
        /// The task.
        task_id: TaskId,
        /// Its agent.
        agent_id: AgentId,
        /// Which update.
        uuid: StatusUuid,
    },
    /// Ask for the state of these tasks, or of all when empty.
    Reconcile {
        /// Tasks asked for.
        task_ids: Vec<TaskId>,
    },
    /// Send no offers until revived.
    Suppress {
        /// To these of its roles; empty: to all.
        roles: Vec<String>,
    },
    /// Send offers again and drop all filters.
    Revive {
        /// To these of its roles; empty: to all.
        roles: Vec<String>,
    },
    /// The smallest bundle that is of use to a role; nothing smaller is offered.
    Demand {
        /// One of its roles.
        role: String,
        /// `None`: anything that is allocatable.
        smallest: Option<Resources>,
    },
    /// Say something to an executor. Not retried: it may be lost.
    Message {
        /// On which agent.
        agent_id: AgentId,
        /// Which.
        executor_id: ExecutorId,
        /// What, unchanged; at most [`crate::MAX_MESSAGE`] bytes.
        data: Vec<u8>,
    },
    /// End an executor and with it its tasks: it is told, then, after its grace, killed.
    Shutdown {
        /// On which agent.
        agent_id: AgentId,
        /// Which.
        executor_id: ExecutorId,
    },
}

impl SchedulerCall {
    /// An accept that launches tasks and does nothing else.
    pub fn launch(offer_ids: Vec<OfferId>, tasks: Vec<TaskSpec>, refuse: Millis) -> Self {
        let operations = if tasks.is_empty() {
            Vec::new()
        } else {
            vec![Operation::Launch(tasks)]
        };
        Self::Accept {
            offer_ids,
            operations,
            refuse,
        }
    }
}

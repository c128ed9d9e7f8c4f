//! The two-level protocol as values: what level 1 says to a framework and what a framework says back.
//!
//! The wire forms (Mesos v1 HTTP, gRPC) convert to and from these; the built-in service framework
//! uses them directly and has no other door into level 1. Verbs follow Mesos's scheduler API.

use crate::{
    AgentId, FrameworkId, Millis, Offer, OfferId, StatusUuid, TaskId, TaskSpec, TaskStatus,
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
    /// A task's state. Acknowledge it if it has a uuid.
    Update(TaskStatus),
    /// An agent was lost for good.
    AgentLost(AgentId),
}

/// A task to launch from an accepted offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchTask {
    /// The offer that pays for it.
    pub offer_id: OfferId,
    /// What to run.
    pub spec: TaskSpec,
}

/// From a framework to the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchedulerCall {
    /// Launch tasks on offers of **one agent**; what is left of the offers is declined with `refuse`.
    Accept {
        /// Offers used, all of one agent.
        offer_ids: Vec<OfferId>,
        /// Tasks, each paid by these offers together.
        tasks: Vec<TaskSpec>,
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
    Suppress,
    /// Send offers again and drop all filters.
    Revive,
}

//! What the service scheduler is told and what it wants done.

use waggle_types::{
    AgentId, DeploymentId, OfferId, Resources, SchedulerCall, SchedulerEvent, ServiceId,
    ServiceSpec, ServiceVersion, TaskId, TaskSpec, TaskStatus, TraceContext,
};

use crate::{
    DeclineReason, DeploymentKind, DeploymentOutcome, Instance, KillReason, Place, Progress,
};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The two-level protocol. A call that fails must come back as task updates: tasks of an accept that
    /// was refused as `Dropped` or `Error`, a kill of a task that nobody knows as `Lost`.
    Scheduler(SchedulerEvent),
    /// Define or change a service. A deployment of it that is in flight is superseded; whether that is
    /// allowed is the caller's decision.
    Put {
        /// The definition, with its new version.
        spec: Box<ServiceSpec>,
        /// The deployment; `None` when a stored service is put back after a restart and nothing was in
        /// flight.
        deployment_id: Option<DeploymentId>,
        /// Replace all instances of definitions older than this, even when their tasks would be the
        /// same: a restart. The caller names it again for as long as the restart goes on.
        restart_before: Option<ServiceVersion>,
        /// Parent of the spans of what follows.
        trace: Option<TraceContext>,
    },
    /// End all instances, then forget the service. Unknown services are ignored.
    Remove {
        /// The service.
        id: ServiceId,
        /// The deployment.
        deployment_id: Option<DeploymentId>,
        /// Parent of the spans of what follows.
        trace: Option<TraceContext>,
    },
    /// End these instances, whatever the health capacity. They are replaced without delay; to scale down
    /// with it, `Put` the service with fewer instances next.
    KillTasks {
        /// Tasks, or instances that are pods; a container's means all of its instance. Unknown ones are ignored.
        task_ids: Vec<TaskId>,
        /// What they reserved is given back and their volumes are destroyed.
        wipe: bool,
    },
    /// What level 1 lists as reserved for a resident instance; see [`crate::home_of`]. Said after a restart, once the
    /// services are defined.
    FoundHome {
        /// The instance.
        id: String,
        /// Its service.
        service: String,
        /// For which role.
        role: String,
        /// Where.
        place: Place,
        /// All that is reserved for it there, in use or not. Less than it needs: it was being given back.
        reserved: Resources,
        /// Somebody asked for it to be given back; its task ends, should it still run.
        given_up: bool,
    },
    /// Nothing is reserved for a resident instance on an agent any more: it was given back, or an operator took it.
    HomeGone {
        /// The instance.
        id: String,
        /// Its service.
        service: String,
        /// Where it was.
        agent_id: AgentId,
    },
    /// The master does not hear from an agent.
    AgentUnreachable {
        /// Which.
        agent_id: AgentId,
    },
    /// It does again. What runs there comes as `Adopt` or updates.
    AgentBack {
        /// Which.
        agent_id: AgentId,
    },
    /// An agent runs these tasks of one instance: after a restart of the master, or when it comes back. An app's is one
    /// task; of a pod it is all that the agent runs. Tasks of a service that is not defined are told to end; known ones
    /// take the status.
    Adopt {
        /// The tasks as launched, and how they are; not terminal (terminal ones come as updates).
        tasks: Vec<(TaskSpec, TaskStatus)>,
        /// Where.
        place: Place,
    },
    /// Launch nothing until `Resume`: after a restart the picture is incomplete until the agents have
    /// registered or were given up.
    Hold,
    /// Launch again.
    Resume,
    /// Forget the backoff delay of a service.
    ResetDelay {
        /// The service.
        id: ServiceId,
    },
    /// Time has passed.
    Tick,
}

/// What changed about an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// It is being launched.
    Launched,
    /// It was found running.
    Adopted,
    /// Its state.
    State,
    /// Its health.
    Health,
    /// It was told to end.
    Killing(KillReason),
    /// It has ended; the instance holds the last state.
    Ended,
    /// It was out of reach for too long and is forgotten; if it comes back it is surplus.
    Expunged,
}

/// What has to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Say this to level 1, as any framework would.
    Call(SchedulerCall),
    /// A deployment came further.
    DeploymentStep {
        /// Which.
        deployment_id: DeploymentId,
        /// Its service.
        service: ServiceId,
        /// What it does.
        kind: DeploymentKind,
        /// How far it is.
        progress: Progress,
    },
    /// A deployment ended.
    DeploymentDone {
        /// Which.
        deployment_id: DeploymentId,
        /// Its service.
        service: ServiceId,
        /// How.
        outcome: DeploymentOutcome,
    },
    /// A removed service has no instance left and is forgotten.
    ServiceGone {
        /// Which.
        service: ServiceId,
    },
    /// An instance changed.
    InstanceChanged {
        /// The instance after the change.
        instance: Box<Instance>,
        /// What changed.
        change: Change,
    },
    /// An offer was looked at and not used by this service; the decline itself is a `Call`.
    Declined {
        /// The offer.
        offer_id: OfferId,
        /// The service that waits, `None` when none does.
        service: Option<ServiceId>,
        /// Why.
        reason: DeclineReason,
    },
}

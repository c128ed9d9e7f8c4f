//! What operators ask of level 1.

use crate::{
    AgentId, FrameworkId, Milli, Millis, Network, NetworkPolicy, Quota, Reservation, Resources,
    Unavailability, Volume, VolumeId,
};

/// One wish of an operator: done wholly, stored before it is answered, or refused with typed reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorCall {
    /// A role's weight among its siblings; 1000 is the default and forgets it.
    SetWeight {
        /// Which.
        role: String,
        /// In thousandths, over 0.
        weight_milli: u32,
    },
    /// A role's quota in place of the one that it has; an empty one removes it.
    SetQuota {
        /// Which; not `*`.
        role: String,
        /// Guarantee and limit.
        quota: Quota,
        /// Even if the guarantees are then over what the cluster has.
        force: bool,
    },
    /// Free (or offered: such offers are rescinded) resources of an agent become the stack's.
    Reserve {
        /// Where.
        agent_id: AgentId,
        /// The new stack; what it refines is all but its last.
        stack: Vec<Reservation>,
        /// How much.
        resources: Resources,
    },
    /// The stack's last reservation ends for what is free (or offered) of it.
    Unreserve {
        /// Where.
        agent_id: AgentId,
        /// The stack as it is.
        stack: Vec<Reservation>,
        /// How much.
        resources: Resources,
    },
    /// Disk of a reservation becomes a persistent volume.
    CreateVolume {
        /// Where.
        agent_id: AgentId,
        /// Of which reservation.
        stack: Vec<Reservation>,
        /// Unique on the agent.
        volume_id: VolumeId,
        /// How large, and whether several tasks may use it at once.
        volume: Volume,
        /// Where tasks of Mesos's API mount it, as offers say; `None` leaves that to the task.
        mount_path: Option<String>,
    },
    /// A volume that nobody uses gets another size, of its reservation's disk; its data stays.
    ResizeVolume {
        /// Where.
        agent_id: AgentId,
        /// Of which reservation.
        stack: Vec<Reservation>,
        /// Which.
        volume_id: VolumeId,
        /// How large it is then.
        size: Milli,
    },
    /// A volume that nobody uses becomes disk of its reservation again; its data is gone.
    DestroyVolume {
        /// Where.
        agent_id: AgentId,
        /// Of which reservation.
        stack: Vec<Reservation>,
        /// Which.
        volume_id: VolumeId,
    },
    /// Agents will be down (`None`: will not): who uses them is asked to leave, and killed when the window
    /// begins. All of them or none.
    SetMaintenance {
        /// Which; none of them twice.
        agent_ids: Vec<AgentId>,
        /// When.
        window: Option<Unavailability>,
    },
    /// Nothing of an agent is offered any more, and what runs there is told to end.
    Drain {
        /// Which.
        agent_id: AgentId,
        /// Longest time that tasks get to end, where it is shorter than their own.
        max_grace: Option<Millis>,
        /// It is removed for good once it is empty.
        mark_gone: bool,
    },
    /// Nothing of an agent is offered any more; what runs there goes on.
    Deactivate {
        /// Which.
        agent_id: AgentId,
    },
    /// An agent that was deactivated or drained takes tasks again.
    Activate {
        /// Which.
        agent_id: AgentId,
    },
    /// An agent is gone for good with all that ran on it; its id is not taken again.
    MarkGone {
        /// Which.
        agent_id: AgentId,
    },
    /// A framework ends and its tasks are killed.
    Teardown {
        /// Which.
        framework_id: FrameworkId,
    },
    /// A network that tasks can be on; every agent gets its part.
    AddNetwork {
        /// Its name; nobody has it yet.
        name: String,
        /// Its pools; they overlap with nothing.
        network: Network,
    },
    /// A network that no service and no task is on goes, with all that agents hold of it.
    RemoveNetwork {
        /// Which.
        name: String,
    },
    /// A network policy, in place of the one with its name.
    SetPolicy {
        /// The policy.
        policy: NetworkPolicy,
        /// Also if it names nobody who is there now.
        force: bool,
    },
    /// A network policy goes.
    RemovePolicy {
        /// Which.
        name: String,
    },
    /// Several at once, in order: all of them are done, or the first that can't be is refused and none is. Either
    /// weights, quota, reservations and volumes, or maintenance; nothing else has parts.
    All(Vec<OperatorCall>),
}

impl OperatorCall {
    /// For logs, metrics and errors.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SetWeight { .. } => "set_weight",
            Self::SetQuota { .. } => "set_quota",
            Self::Reserve { .. } => "reserve",
            Self::Unreserve { .. } => "unreserve",
            Self::CreateVolume { .. } => "create_volume",
            Self::ResizeVolume { .. } => "resize_volume",
            Self::DestroyVolume { .. } => "destroy_volume",
            Self::SetMaintenance { .. } => "set_maintenance",
            Self::Drain { .. } => "drain",
            Self::Deactivate { .. } => "deactivate",
            Self::Activate { .. } => "activate",
            Self::MarkGone { .. } => "mark_gone",
            Self::Teardown { .. } => "teardown",
            Self::AddNetwork { .. } => "add_network",
            Self::RemoveNetwork { .. } => "remove_network",
            Self::SetPolicy { .. } => "set_policy",
            Self::RemovePolicy { .. } => "remove_policy",
            Self::All(_) => "all",
        }
    }
}

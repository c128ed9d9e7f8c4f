//! What the allocator is told and what it answers.

use std::fmt;

use waggle_types::{
    AgentId, AgentInfo, FrameworkId, Milli, Millis, Offer, OfferId, Quota, Reservation,
    ResourcePart, Resources, Unavailability, Volume, VolumeId,
};

use crate::{AgentSpec, FrameworkSpec, Operation, Rejection, Usage};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An agent registered, or registered again: offers of it that are out are rescinded, its total and
    /// usage are replaced by what is said here.
    AgentAdded {
        /// Who it is and what it has.
        info: AgentInfo,
        /// What runs on it, by framework; a framework may appear several times and may be unknown yet.
        used: Vec<(FrameworkId, Resources)>,
    },
    /// An agent is gone, with all that ran on it.
    AgentRemoved {
        /// Which.
        agent_id: AgentId,
    },
    /// An agent is out of reach or drained: what runs stays counted, nothing of it is offered.
    AgentDeactivated {
        /// Which.
        agent_id: AgentId,
    },
    /// A deactivated agent is back.
    AgentActivated {
        /// Which.
        agent_id: AgentId,
    },
    /// A framework subscribed, or subscribed again: then its offers are rescinded and its filters and
    /// suppression are cleared, since the new connection knows of none. It goes after those who wait for what
    /// it held, as if it had turned that down.
    FrameworkAdded {
        /// Which.
        framework_id: FrameworkId,
        /// Its role.
        role: String,
        /// The role's weight in thousandths, over 0; 1000 is Mesos's default. The latest word counts.
        weight_milli: u32,
    },
    /// A framework is gone. What it uses stays counted until it is released.
    FrameworkRemoved {
        /// Which.
        framework_id: FrameworkId,
    },
    /// Offers of one agent are accepted: `used` becomes used, the rest is free again and filtered.
    Accepted {
        /// By whom.
        framework_id: FrameworkId,
        /// The offers, all of one agent.
        offer_ids: Vec<OfferId>,
        /// What the launched tasks take, together.
        used: Resources,
        /// For how long the rest is not to be offered to this framework again.
        refuse: Millis,
    },
    /// Offers are turned down. Stale ids among them are rejected one by one, the others count.
    Declined {
        /// By whom.
        framework_id: FrameworkId,
        /// The offers.
        offer_ids: Vec<OfferId>,
        /// For how long not to offer the same again.
        refuse: Millis,
    },
    /// A task ended: what it used is free again.
    Released {
        /// Whose it was.
        framework_id: FrameworkId,
        /// Where.
        agent_id: AgentId,
        /// What it used.
        resources: Resources,
    },
    /// Send this framework nothing until it revives. Offers that are out stay valid.
    Suppress {
        /// Which.
        framework_id: FrameworkId,
    },
    /// Clear suppression and all filters of this framework.
    Revive {
        /// Which.
        framework_id: FrameworkId,
    },
    /// Time has passed.
    Tick,
    /// A framework subscribed, or subscribed again, with all that it can say. See `FrameworkAdded`.
    Subscribed {
        /// Which.
        framework_id: FrameworkId,
        /// Its roles and what it can handle.
        spec: FrameworkSpec,
    },
    /// Send this framework nothing for these roles.
    SuppressRoles {
        /// Which.
        framework_id: FrameworkId,
        /// Of its roles.
        roles: Vec<String>,
    },
    /// Clear suppression and filters of these roles.
    ReviveRoles {
        /// Which.
        framework_id: FrameworkId,
        /// Of its roles.
        roles: Vec<String>,
    },
    /// The smallest bundle that is of use to a role of a framework; nothing smaller is offered to it.
    Demand {
        /// Which.
        framework_id: FrameworkId,
        /// One of its roles.
        role: String,
        /// `None`: anything that is allocatable.
        smallest: Option<Resources>,
    },
    /// An operator sets a role's weight; it stays when the role is empty.
    WeightSet {
        /// Which.
        role: String,
        /// In thousandths, over 0.
        weight_milli: u32,
    },
    /// An operator sets a role's quota; an empty one removes it.
    QuotaSet {
        /// Which; not `*`.
        role: String,
        /// Guarantee and limit.
        quota: Quota,
        /// Even if the guarantees are then over what the cluster has.
        force: bool,
    },
    /// An agent registered with more than a flat total: see `AgentAdded`. It is active, with no maintenance
    /// planned and nobody asked to leave: the caller says again what is to be known of that.
    AgentJoined {
        /// Who it is, what it has and what is reserved of it.
        spec: AgentSpec,
        /// What runs on it.
        used: Vec<Usage>,
    },
    /// Offers of one agent are accepted with operations, all of them or none; the rest is free again and
    /// filtered.
    Operated {
        /// By whom.
        framework_id: FrameworkId,
        /// The offers, all of one agent and one role.
        offer_ids: Vec<OfferId>,
        /// In order.
        operations: Vec<Operation>,
        /// For how long the rest is not to be offered to this framework again.
        refuse: Millis,
    },
    /// What a task used is free again, told exactly.
    UsageEnded {
        /// Where.
        agent_id: AgentId,
        /// Whose it was and of what.
        usage: Usage,
    },
    /// An operator reserves free (or offered: such offers are rescinded) resources of an agent; all but
    /// the last of the stack is where they are taken from.
    Reserve {
        /// Where.
        agent_id: AgentId,
        /// The reservations, each within the one before.
        stack: Vec<Reservation>,
        /// What.
        resources: Resources,
    },
    /// The last reservation of the stack ends for what is free (or offered) of it.
    Unreserve {
        /// Where.
        agent_id: AgentId,
        /// The reservations.
        stack: Vec<Reservation>,
        /// What.
        resources: Resources,
    },
    /// An operator makes a persistent volume of disk of a reservation (offers that hold it are rescinded).
    CreateVolume {
        /// Where.
        agent_id: AgentId,
        /// Of which reservation.
        stack: Vec<Reservation>,
        /// Unique on the agent.
        volume_id: VolumeId,
        /// How large, and whether several tasks may use it at once.
        volume: Volume,
    },
    /// An operator makes a volume that nobody uses disk of its reservation again (offers that hold it are
    /// rescinded).
    DestroyVolume {
        /// Where.
        agent_id: AgentId,
        /// Of which reservation.
        stack: Vec<Reservation>,
        /// Which.
        volume_id: VolumeId,
    },
    /// A volume that nobody uses gets another size, of its reservation's disk.
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
    /// An operator plans (`None`: cancels) maintenance of an agent: who uses it is asked to leave.
    MaintenanceSet {
        /// Where.
        agent_id: AgentId,
        /// When.
        window: Option<Unavailability>,
    },
    /// A framework's answer to an inverse offer.
    InverseAnswered {
        /// By whom.
        framework_id: FrameworkId,
        /// Of which agent.
        agent_id: AgentId,
        /// Whether it will leave.
        accepted: bool,
        /// After a refusal: when to ask again.
        refuse: Millis,
    },
    /// An operator empties an agent: nothing is offered of it, and what runs is told to end.
    AgentDrained {
        /// Which.
        agent_id: AgentId,
        /// Longest time that tasks get to end.
        max_grace: Option<Millis>,
        /// It is removed for good once it is empty.
        mark_gone: bool,
    },
}

impl Event {
    /// For rejections and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AgentAdded { .. } | Self::AgentJoined { .. } => "agent added",
            Self::AgentRemoved { .. } => "agent removed",
            Self::AgentDeactivated { .. } => "agent deactivated",
            Self::AgentActivated { .. } => "agent activated",
            Self::AgentDrained { .. } => "drain",
            Self::FrameworkAdded { .. } | Self::Subscribed { .. } => "framework added",
            Self::FrameworkRemoved { .. } => "framework removed",
            Self::Accepted { .. } | Self::Operated { .. } => "accept",
            Self::Declined { .. } => "decline",
            Self::Released { .. } | Self::UsageEnded { .. } => "release",
            Self::Suppress { .. } | Self::SuppressRoles { .. } => "suppress",
            Self::Revive { .. } | Self::ReviveRoles { .. } => "revive",
            Self::Demand { .. } => "demand",
            Self::WeightSet { .. } => "weight",
            Self::QuotaSet { .. } => "quota",
            Self::Reserve { .. } => "reserve",
            Self::Unreserve { .. } => "unreserve",
            Self::CreateVolume { .. } => "create volume",
            Self::DestroyVolume { .. } => "destroy volume",
            Self::ResizeVolume { .. } => "resize volume",
            Self::MaintenanceSet { .. } => "maintenance",
            Self::InverseAnswered { .. } => "inverse offer",
            Self::Tick => "tick",
        }
    }
}

/// What has to be done about it, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send an offer to its framework.
    Offer(Offer),
    /// Tell a framework that an offer is void.
    Rescind {
        /// The offer.
        offer_id: OfferId,
        /// Who held it.
        framework_id: FrameworkId,
        /// Whose resources it held.
        agent_id: AgentId,
        /// Why.
        reason: RescindReason,
    },
    /// An [`Event::Operated`] was done: of what each of its launches was given, in order.
    Launched {
        /// For each `Launch`; empty when all of it is neither reserved nor lent.
        parts: Vec<Vec<ResourcePart>>,
    },
    /// The event (or one offer id of a decline) was refused and changed nothing.
    Rejected {
        /// The event's name: `accept`, `decline`.
        what: &'static str,
        /// Why.
        reason: Rejection,
    },
}

/// Why an offer became void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RescindReason {
    /// It was held for longer than the offer timeout.
    Timeout,
    /// Its agent was removed.
    AgentRemoved,
    /// Its agent was deactivated.
    AgentDeactivated,
    /// Its agent registered again.
    AgentChanged,
    /// Its framework was removed.
    FrameworkRemoved,
    /// Its framework subscribed again.
    FrameworkChanged,
    /// What it held was reserved, unreserved, made a volume or was a volume that is destroyed.
    Reserved,
    /// What was lent is wanted back by the role that it is reserved for.
    Reclaimed,
    /// A limit that an operator set has no room for it, or not beside what an operator reserves for the role.
    Limited,
}

impl RescindReason {
    /// For logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::AgentRemoved => "agent removed",
            Self::AgentDeactivated => "agent deactivated",
            Self::AgentChanged => "agent changed",
            Self::FrameworkRemoved => "framework removed",
            Self::FrameworkChanged => "framework changed",
            Self::Reserved => "reserved",
            Self::Reclaimed => "reclaimed",
            Self::Limited => "limited",
        }
    }
}

impl fmt::Display for RescindReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

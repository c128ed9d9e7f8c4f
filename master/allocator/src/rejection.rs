//! Why an event is refused.

use waggle_types::{AgentId, FieldError, FrameworkId, OfferId, Resources, VolumeId};

/// Why an event was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No such agent.
    #[error("agent {0} is not known")]
    UnknownAgent(AgentId),
    /// No such framework.
    #[error("framework {0} is not known")]
    UnknownFramework(FrameworkId),
    /// The offer was used, declined, rescinded, or never made.
    #[error("offer {0} is no longer valid")]
    StaleOffer(OfferId),
    /// The offer was made to another framework.
    #[error("offer {offer_id} was not made to framework {framework_id}")]
    ForeignOffer {
        /// The offer.
        offer_id: OfferId,
        /// Who claimed it.
        framework_id: FrameworkId,
    },
    /// The same offer twice in one call.
    #[error("offer {0} is named twice")]
    DuplicateOffer(OfferId),
    /// An accept names no offer.
    #[error("no offer is named")]
    NoOffers,
    /// Offers of two agents in one accept.
    #[error("offers are of two agents, {first} and {second}")]
    MixedAgents {
        /// One of them.
        first: AgentId,
        /// Another.
        second: AgentId,
    },
    /// Offers to two roles in one accept.
    #[error("offers are to different roles of the framework")]
    MixedRoles,
    /// The tasks need more than the offers hold.
    #[error("{asked} is asked for, the offers hold {offered}")]
    Overuse {
        /// What the tasks take.
        asked: Box<Resources>,
        /// What the offers hold, together.
        offered: Box<Resources>,
    },
    /// A negative quantity.
    #[error("a quantity is negative in {0}")]
    Negative(Resources),
    /// What is released was not used.
    #[error("framework {framework_id} does not use {resources} on agent {agent_id}")]
    NotUsed {
        /// Whose it should have been.
        framework_id: FrameworkId,
        /// Where.
        agent_id: AgentId,
        /// What was to be released.
        resources: Resources,
    },
    /// What an agent runs does not fit into what it has, or two tasks hold one port. The agent is left
    /// out (or as it was) until it registers with numbers that add up.
    #[error("what agent {agent_id} runs does not fit into its {total}")]
    UsedExceedsTotal {
        /// Which.
        agent_id: AgentId,
        /// What it has.
        total: Resources,
    },
    /// Weights are over 0.
    #[error("weight of role {0:?} must be over 0")]
    ZeroWeight(String),
    /// A quota of a kind that no agent has.
    #[error("quota of role {role}: no agent has a scalar {kind:?}")]
    UnknownKind {
        /// Which role.
        role: String,
        /// The kind's name, cut to 100 characters.
        kind: String,
    },
    /// `*` has no quota and no reservations.
    #[error("{0} of the default role * is not possible")]
    DefaultRole(&'static str),
    /// The framework is not subscribed with this role.
    #[error("framework {framework_id} is not subscribed with role {role:?}")]
    NotInRole {
        /// Who.
        framework_id: FrameworkId,
        /// Which role.
        role: String,
    },
    /// A subscription without roles, or with more than can be counted.
    #[error("a framework has 1 to {max} different roles, not {n}")]
    RoleCount {
        /// How many were given.
        n: usize,
        /// How many are allowed.
        max: usize,
    },
    /// An input that breaks a rule of its own.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A quota that contradicts itself, the tree or the cluster.
    #[error("quota of role {role}: {rule} ({kind})")]
    BadQuota {
        /// Which role.
        role: String,
        /// The rule that it breaks.
        rule: &'static str,
        /// Of which resource; empty when it is none in particular.
        kind: String,
    },
    /// The role's limit, or one above it, has no room.
    #[error("limit of role {role} is reached ({kind})")]
    OverLimit {
        /// Whose limit.
        role: String,
        /// Of which resource; empty when it is none in particular.
        kind: String,
    },
    /// A stack of reservations that is empty, too deep, or in which one does not refine the one before.
    #[error("reservation: {0}")]
    BadReservation(&'static str),
    /// What is to be reserved, unreserved or launched is not there.
    #[error("{resources} is not free there on agent {agent_id}")]
    NotFree {
        /// Where.
        agent_id: AgentId,
        /// What was asked.
        resources: Resources,
    },
    /// The parts of a launch contradict each other or what they add up to.
    #[error("parts of a launch: {0}")]
    BadParts(&'static str),
    /// A volume that breaks a rule.
    #[error("volume {volume_id}: {rule}")]
    BadVolume {
        /// Which.
        volume_id: VolumeId,
        /// The rule.
        rule: &'static str,
    },
    /// A volume of this id is on the agent already.
    #[error("volume {volume_id} exists on agent {agent_id}")]
    DuplicateVolume {
        /// Where.
        agent_id: AgentId,
        /// Which.
        volume_id: VolumeId,
    },
    /// There is no such volume in this reservation.
    #[error("there is no volume {volume_id} in this reservation on agent {agent_id}")]
    UnknownVolume {
        /// Where.
        agent_id: AgentId,
        /// Which.
        volume_id: VolumeId,
    },
    /// Tasks use the volume.
    #[error("volume {volume_id} on agent {agent_id} is in use")]
    VolumeInUse {
        /// Where.
        agent_id: AgentId,
        /// Which.
        volume_id: VolumeId,
    },
    /// What is to be unreserved holds a volume, which is destroyed first.
    #[error("volume {volume_id} on agent {agent_id} is of this reservation")]
    HasVolume {
        /// Where.
        agent_id: AgentId,
        /// One of them.
        volume_id: VolumeId,
    },
    /// Nobody asked this framework to leave this agent.
    #[error("no inverse offer of agent {agent_id} is out to framework {framework_id}")]
    NoInverseOffer {
        /// Who answered.
        framework_id: FrameworkId,
        /// Of which agent.
        agent_id: AgentId,
    },
    /// A bound of the allocator.
    #[error("there are {max} {what} already")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many.
        max: usize,
    },
}

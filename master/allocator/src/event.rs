//! What the allocator is told and what it answers.

use std::fmt;

use waggle_types::{AgentId, AgentInfo, FrameworkId, Millis, Offer, OfferId, Resources};

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
    /// suppression are cleared, since the new connection knows of none.
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
        }
    }
}

impl fmt::Display for RescindReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

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
    /// The tasks need more than the offers hold.
    #[error("{asked} is asked for, the offers hold {offered}")]
    Overuse {
        /// What the tasks take.
        asked: Resources,
        /// What the offers hold, together.
        offered: Resources,
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
}

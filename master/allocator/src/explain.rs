//! Why a framework holds no offer of an agent: computed from the books, never guessed.

use std::fmt;

use waggle_types::{AgentId, FrameworkId, OfferId, Resources, UnixMillis};

use crate::{Allocator, Share};

/// Who was chosen for an agent's free resources the last time, and against how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Who.
    pub framework_id: FrameworkId,
    /// Its role.
    pub role: String,
    /// The role's weighted dominant share just before.
    pub share: Share,
    /// How many frameworks could have been offered it.
    pub n_candidates: usize,
    /// When.
    pub at: UnixMillis,
}

/// Why a framework is not being offered something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It never subscribed, or was removed.
    UnknownFramework,
    /// No agent is registered.
    NoAgents,
    /// It asked for silence and has not revived.
    Suppressed,
    /// It holds this offer and has not answered.
    HoldsOffer {
        /// The agent.
        agent_id: AgentId,
        /// The offer.
        offer_id: OfferId,
        /// When it will be taken back.
        expires: UnixMillis,
    },
    /// The agent is out of reach or drained.
    AgentInactive {
        /// The agent.
        agent_id: AgentId,
    },
    /// Everything on the agent is used or offered.
    NothingFree {
        /// The agent.
        agent_id: AgentId,
        /// In use.
        used: Resources,
        /// Offered, to whomever.
        offered: Resources,
        /// Who was chosen last time.
        last_choice: Option<Choice>,
    },
    /// What is free is too little to be offered.
    BelowMinimum {
        /// The agent.
        agent_id: AgentId,
        /// What is free.
        free: Resources,
    },
    /// It declined what is free, and asked not to see it until then.
    Filtered {
        /// The agent.
        agent_id: AgentId,
        /// Until when.
        until: UnixMillis,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFramework => write!(f, "the framework is not subscribed"),
            Self::NoAgents => write!(f, "no agent is registered"),
            Self::Suppressed => write!(f, "offers are suppressed until the framework revives"),
            Self::HoldsOffer {
                agent_id,
                offer_id,
                expires,
            } => write!(f, "{agent_id}: holds offer {offer_id} until {expires}"),
            Self::AgentInactive { agent_id } => write!(f, "{agent_id}: the agent is inactive"),
            Self::NothingFree {
                agent_id,
                used,
                offered,
                last_choice,
            } => {
                write!(
                    f,
                    "{agent_id}: nothing free, used {used}, offered {offered}"
                )?;
                match last_choice {
                    Some(c) => write!(
                        f,
                        ", last offered to {} (role {}, share {}, {} candidates)",
                        c.framework_id, c.role, c.share, c.n_candidates
                    ),
                    None => Ok(()),
                }
            }
            Self::BelowMinimum { agent_id, free } => {
                write!(f, "{agent_id}: {free} is below the minimum allocatable")
            }
            Self::Filtered { agent_id, until } => {
                write!(f, "{agent_id}: declined, filtered until {until}")
            }
        }
    }
}

impl Allocator {
    /// Why this framework holds no (or no further) offer, agent by agent. Empty never: a framework that
    /// could be offered something has been.
    pub fn explain(&self, framework_id: &FrameworkId) -> Vec<Reason> {
        let Some(framework) = self.frameworks.get(framework_id) else {
            return vec![Reason::UnknownFramework];
        };
        if self.agents.is_empty() {
            return vec![Reason::NoAgents];
        }
        let mut out = Vec::new();
        if framework.suppressed {
            out.push(Reason::Suppressed);
        }
        for (agent_id, agent) in &self.agents {
            let held = agent
                .offers
                .iter()
                .filter_map(|id| self.offers.get(id))
                .filter(|held| held.offer.framework_id == *framework_id);
            out.extend(held.map(|held| Reason::HoldsOffer {
                agent_id: agent_id.clone(),
                offer_id: held.offer.offer_id.clone(),
                expires: held.expires,
            }));
            if !agent.active {
                out.push(Reason::AgentInactive {
                    agent_id: agent_id.clone(),
                });
            } else if agent.free.is_empty() {
                out.push(Reason::NothingFree {
                    agent_id: agent_id.clone(),
                    used: agent.used.clone(),
                    offered: agent.offered.clone(),
                    last_choice: agent.last_choice.clone(),
                });
            } else if !self.config.allocatable(&agent.free) {
                out.push(Reason::BelowMinimum {
                    agent_id: agent_id.clone(),
                    free: agent.free.clone(),
                });
            } else if let Some(until) = framework.filtered_until(agent_id, &agent.free) {
                out.push(Reason::Filtered {
                    agent_id: agent_id.clone(),
                    until,
                });
            }
        }
        out
    }
}

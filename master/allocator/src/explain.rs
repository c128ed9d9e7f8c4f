//! Why a framework holds no offer of an agent: computed from the books, never guessed.

use std::{collections::BTreeMap, fmt};

use waggle_types::{AgentId, FrameworkId, Milli, OfferId, Resources, UnixMillis};

use crate::{
    Allocator, Barrier, Share,
    bits::Idx,
    clients::Client,
    kinds::{MAX_KINDS, Rows},
    ledger::Agent,
    quota::Allowance,
};

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

/// The same, by number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastChoice {
    pub client: Idx,
    pub birth: u64,
    pub role_share: u64,
    pub n_candidates: u32,
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
    /// The same, for one of several roles.
    RoleSuppressed {
        /// Which.
        role: String,
    },
    /// It is never offered this agent.
    Barred {
        /// The agent.
        agent_id: AgentId,
        /// Why.
        barrier: Barrier,
    },
    /// Quota leaves less than can be offered: a limit is reached, or the rest is owed to guarantees.
    HeldBack {
        /// The agent.
        agent_id: AgentId,
        /// Its role.
        role: String,
        /// What is free and unreserved.
        free: Resources,
        /// What quota would allow of it.
        allowed: Resources,
    },
    /// What is free is reserved for other roles.
    Reserved {
        /// The agent.
        agent_id: AgentId,
        /// What is free there.
        free: Resources,
    },
    /// What it could be offered is less than what it said is of use.
    TooSmall {
        /// The agent.
        agent_id: AgentId,
        /// What it could be offered.
        free: Resources,
    },
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
            Self::RoleSuppressed { role } => {
                write!(f, "offers to role {role} are suppressed until it revives")
            }
            Self::Barred { agent_id, barrier } => write!(f, "{agent_id}: {}", barrier.name()),
            Self::HeldBack {
                agent_id,
                role,
                free,
                allowed,
            } => write!(
                f,
                "{agent_id}: quota allows role {role} {allowed} of the {free} that is free"
            ),
            Self::Reserved { agent_id, free } => {
                write!(f, "{agent_id}: {free} is free, reserved for other roles")
            }
            Self::TooSmall { agent_id, free } => {
                write!(f, "{agent_id}: {free} is less than it has use for")
            }
            Self::HoldsOffer {
                agent_id,
                offer_id,
                expires,
            } => write!(
                f,
                "{agent_id}: holds offer {offer_id} until {}",
                expires.rfc3339()
            ),
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
                let until = until.rfc3339();
                write!(f, "{agent_id}: declined, filtered until {until}")
            }
        }
    }
}

impl Allocator {
    /// Why this framework holds no (or no further) offer, agent by agent. Empty never: a framework that
    /// could be offered something has been.
    pub fn explain(&self, framework_id: &FrameworkId) -> Vec<Reason> {
        let Ok(clients) = self.clients_of(framework_id, None) else {
            return vec![Reason::UnknownFramework];
        };
        if self.agents.len() == 0 {
            return vec![Reason::NoAgents];
        }
        let mut out = Vec::new();
        let suppressed = |i: &Idx| self.clients.get(*i).is_none_or(|c| c.suppressed);
        if clients.iter().all(suppressed) {
            out.push(Reason::Suppressed);
        } else {
            for idx in clients.iter().filter(|i| suppressed(i)) {
                let role = self.clients.get(*idx).map_or(0, |c| c.role);
                let role = self.tree.name(role).to_owned();
                out.push(Reason::RoleSuppressed { role });
            }
        }
        for (_, agent) in self.sorted_agents() {
            let mut said: Vec<Reason> = Vec::new();
            for idx in &clients {
                let Some(client) = self.clients.get(*idx) else {
                    continue;
                };
                for reason in self.explain_here(agent, *idx, client) {
                    if !said.contains(&reason) {
                        said.push(reason);
                    }
                }
            }
            out.append(&mut said);
        }
        if out.is_empty() {
            // Every agent was left by `explain_here` without a word: it is a candidate of the next round.
            out.push(Reason::NoAgents);
        }
        out
    }

    /// Why one client holds nothing, or nothing more, of one agent.
    fn explain_here(&self, agent: &Agent, idx: Idx, client: &Client) -> Vec<Reason> {
        let agent_id = agent.info.agent_id.clone();
        let mut out = Vec::new();
        for number in &agent.offers {
            if let Some(held) = self.offers.get(number).filter(|h| h.client == idx)
                && let Some(offer) = self.show(*number, held)
            {
                out.push(Reason::HoldsOffer {
                    agent_id: agent_id.clone(),
                    offer_id: offer.offer_id,
                    expires: held.expires,
                });
            }
        }
        out.extend(self.obstacle(agent, idx, client));
        out
    }

    fn obstacle(&self, agent: &Agent, idx: Idx, client: &Client) -> Option<Reason> {
        let agent_id = agent.info.agent_id.clone();
        if !agent.active {
            return Some(Reason::AgentInactive { agent_id });
        }
        if agent.barred.contains(idx) {
            let capabilities = self.frameworks.get(client.framework)?.capabilities;
            let home = self.config.region.as_deref();
            let c = &client.constraints;
            let barrier = crate::constraints::barrier(capabilities, c, home, &agent.info)?;
            return Some(Reason::Barred { agent_id, barrier });
        }
        let free = agent.free.clone();
        if free.is_empty() {
            return Some(Reason::NothingFree {
                agent_id,
                used: agent.used.clone(),
                offered: agent.offered.clone(),
                last_choice: self.last_choice(agent),
            });
        }
        if !self.config.allocatable(&free) {
            return Some(Reason::BelowMinimum { agent_id, free });
        }
        let mut held_back = false;
        let bundle = self.divided(agent, idx, &mut held_back);
        if held_back && !self.config.allocatable(&bundle.sum) {
            return Some(Reason::HeldBack {
                agent_id,
                role: self.tree.name(client.role).to_owned(),
                free: agent.plain_free(),
                allowed: bundle.plain(),
            });
        }
        if !self.config.allocatable(&bundle.sum) {
            return Some(Reason::Reserved { agent_id, free });
        }
        let small = client.smallest.as_ref();
        if small.is_some_and(|s| !bundle.sum.contains(s)) {
            let free = bundle.sum;
            return Some(Reason::TooSmall { agent_id, free });
        }
        let of_it = agent.filters.iter().filter(|g| g.who.contains(idx));
        let until = of_it.filter(|g| g.covers(&bundle)).map(|g| g.until).max()?;
        Some(Reason::Filtered { agent_id, until })
    }

    /// Who was chosen last, if it is still subscribed.
    fn last_choice(&self, agent: &Agent) -> Option<Choice> {
        let last = agent.last_choice?;
        let client = self
            .clients
            .get(last.client)
            .filter(|c| c.birth == last.birth)?;
        Some(Choice {
            framework_id: self.frameworks.get(client.framework)?.id.clone(),
            role: self.tree.name(client.role).to_owned(),
            share: Share(u128::from(last.role_share)),
            n_candidates: last.n_candidates as usize,
            at: last.at,
        })
    }

    /// Why one role of a framework holds nothing, or nothing more, of one agent: costs no look at others.
    /// `None` when one of the three is not known.
    pub fn explain_one(
        &self,
        framework_id: &FrameworkId,
        role: &str,
        agent_id: &AgentId,
    ) -> Option<Vec<Reason>> {
        let agent = self.agent(agent_id)?;
        let idx = self.client_in(*self.framework_ids.get(framework_id)?, role)?;
        let client = self.clients.get(idx).filter(|c| c.subscribed)?;
        Some(self.explain_here(agent, idx, client))
    }

    /// Who was chosen for an agent's free resources the last time, if it is still subscribed.
    pub fn last_chosen(&self, agent_id: &AgentId) -> Option<Choice> {
        self.last_choice(self.agent(agent_id)?)
    }

    /// Why each subscribed framework and role holds nothing, or nothing more, of an agent, in order.
    pub fn explain_agent(&self, agent_id: &AgentId) -> Vec<(FrameworkId, String, Vec<Reason>)> {
        let Some(agent) = self.agent(agent_id) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for (idx, client) in self.clients.iter().filter(|(_, c)| c.subscribed) {
            let Some(framework) = self.frameworks.get(client.framework) else {
                continue;
            };
            let mut reasons = Vec::new();
            if client.suppressed {
                reasons.push(Reason::Suppressed);
            }
            reasons.extend(self.explain_here(agent, idx, client));
            let role = self.tree.name(client.role).to_owned();
            out.push((framework.id.clone(), role, reasons));
        }
        out.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        out
    }

    /// A role's share, quota and headroom.
    pub fn explain_role(&self, role: &str) -> Option<RoleView> {
        let idx = self.tree.find(role)?;
        let node = self.tree.nodes.get(idx)?;
        let millis = |s: Rows| -> BTreeMap<String, Milli> {
            let named = s.into_iter().enumerate();
            named
                .filter(|(_, q)| *q != 0)
                .map(|(k, q)| (self.kinds.name(k).to_owned(), Milli(q)))
                .collect()
        };
        let bounded = |s: [Option<i64>; MAX_KINDS]| -> BTreeMap<String, Milli> {
            let named = s.into_iter().enumerate();
            named
                .filter_map(|(k, q)| Some((self.kinds.name(k).to_owned(), Milli(q?))))
                .collect()
        };
        let most = |a: Allowance| bounded(a.most.map(|m| (m != i64::MAX).then_some(m)));
        let members = self
            .clients
            .iter()
            .filter(|(_, c)| c.subscribed && c.role == idx);
        let ids = members.filter_map(|(_, c)| Some(self.frameworks.get(c.framework)?.id.clone()));
        let mut frameworks: Vec<FrameworkId> = ids.collect();
        frameworks.sort();
        Some(RoleView {
            role: role.to_owned(),
            weight_milli: node.weight_milli,
            share: self.dominant_share(role),
            allocated: millis(node.allocated),
            guarantee: millis(node.quota.guarantee),
            limit: bounded(node.quota.limit),
            charged: millis(node.quota.charged),
            owed: millis(node.quota.owed),
            may_get: self.allowance(idx).map(most).unwrap_or_default(),
            frameworks,
        })
    }
}

/// See [`Allocator::explain_role`]. Quantities by name of the kind; a kind that is missing is zero, unless
/// it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleView {
    /// Which.
    pub role: String,
    /// In thousandths.
    pub weight_milli: u32,
    /// Weighted dominant share, with all below.
    pub share: Share,
    /// Used and offered, with all below.
    pub allocated: BTreeMap<String, Milli>,
    /// What it is promised.
    pub guarantee: BTreeMap<String, Milli>,
    /// What it never exceeds; a kind that is missing has no limit.
    pub limit: BTreeMap<String, Milli>,
    /// What counts against its quota: unreserved allocations and all reservations.
    pub charged: BTreeMap<String, Milli>,
    /// What it is still owed, and is held back for it.
    pub owed: BTreeMap<String, Milli>,
    /// How much unreserved it could be offered now at most; a kind that is missing is not bounded by quota.
    pub may_get: BTreeMap<String, Milli>,
    /// Who is subscribed with it.
    pub frameworks: Vec<FrameworkId>,
}

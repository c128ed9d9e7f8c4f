//! What can be read of the allocator: books, shares, offers, counts, and the check of all invariants.

use std::collections::BTreeMap;

use waggle_types::{AgentId, FrameworkId, Offer, OfferId, Resources, UnixMillis};

use crate::{
    Allocator, LedgerError, Share, Stats,
    share::{self, Scalars},
};

impl Allocator {
    /// All that an agent has.
    pub fn total(&self, agent_id: &AgentId) -> Option<&Resources> {
        self.agents.get(agent_id).map(|a| &a.info.total)
    }

    /// What is in use on an agent, by all frameworks.
    pub fn used(&self, agent_id: &AgentId) -> Option<&Resources> {
        self.agents.get(agent_id).map(|a| &a.used)
    }

    /// What one framework uses on an agent.
    pub fn used_by(&self, agent_id: &AgentId, framework_id: &FrameworkId) -> Option<&Resources> {
        self.agents.get(agent_id)?.used_by.get(framework_id)
    }

    /// What is offered of an agent, to anybody.
    pub fn offered(&self, agent_id: &AgentId) -> Option<&Resources> {
        self.agents.get(agent_id).map(|a| &a.offered)
    }

    /// What nobody uses or is offered of an agent.
    pub fn free(&self, agent_id: &AgentId) -> Option<&Resources> {
        self.agents.get(agent_id).map(|a| &a.free)
    }

    /// Whether an agent's resources may be offered; `None` when it is not known.
    pub fn is_active(&self, agent_id: &AgentId) -> Option<bool> {
        self.agents.get(agent_id).map(|a| a.active)
    }

    /// Known agents, in order.
    pub fn agents(&self) -> impl Iterator<Item = &AgentId> {
        self.agents.keys()
    }

    /// Subscribed frameworks with their roles, in order.
    pub fn frameworks(&self) -> impl Iterator<Item = (&FrameworkId, &str)> {
        self.frameworks.iter().map(|(id, f)| (id, f.role.as_str()))
    }

    /// A valid offer. An accept of anything else is refused.
    pub fn offer(&self, offer_id: &OfferId) -> Option<&Offer> {
        self.offers.get(offer_id).map(|h| &h.offer)
    }

    /// Valid offers with the time at which each is taken back, in order of id.
    pub fn offers(&self) -> impl Iterator<Item = (&Offer, UnixMillis)> {
        self.offers.values().map(|h| (&h.offer, h.expires))
    }

    /// A role's weighted dominant share; zero for a role without frameworks.
    pub fn dominant_share(&self, role: &str) -> Share {
        self.roles.get(role).map_or(Share::default(), |r| {
            Share::of(&r.allocated, &self.total, r.weight_milli)
        })
    }

    /// Counts since the start.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Checks every invariant of the books; for tests, simulation and `debug_assert!`.
    pub fn check(&self) -> Result<(), LedgerError> {
        let wrong = |what, of: &dyn ToString| LedgerError::WrongSum {
            what,
            of: of.to_string(),
        };
        let mut total = Scalars::default();
        let mut by_framework: BTreeMap<&FrameworkId, Scalars> = BTreeMap::new();
        for (agent_id, agent) in &self.agents {
            agent.check()?;
            share::add(&mut total, &agent.info.total);
            let offered = agent
                .offers
                .iter()
                .try_fold(Resources::default(), |sum, id| {
                    sum.checked_add(&self.offer(id)?.resources)
                });
            if offered.as_ref() != Some(&agent.offered) {
                return Err(wrong("offered", agent_id));
            }
            for (framework_id, r) in &agent.used_by {
                share::add(by_framework.entry(framework_id).or_default(), r);
            }
        }
        for (id, held) in &self.offers {
            let listed = self.agents.get(&held.offer.agent_id);
            if !listed.is_some_and(|a| a.offers.contains(id)) {
                return Err(wrong("offers of an agent", id));
            }
            let sum = by_framework.entry(&held.offer.framework_id).or_default();
            share::add(sum, &held.offer.resources);
        }
        if total != self.total {
            return Err(wrong("total", &"the cluster"));
        }
        let mut by_role: BTreeMap<&str, Scalars> = BTreeMap::new();
        for (framework_id, framework) in &self.frameworks {
            let sum = by_framework.get(framework_id).copied().unwrap_or_default();
            if sum != framework.allocated {
                return Err(wrong("allocation", framework_id));
            }
            let role = by_role.entry(&framework.role).or_default();
            for (a, b) in role.iter_mut().zip(sum) {
                *a = a.saturating_add(b);
            }
        }
        for (name, role) in &self.roles {
            if by_role.get(name.as_str()) != Some(&role.allocated) {
                return Err(wrong("allocation", name));
            }
        }
        Ok(())
    }
}

//! What is taken back: lent resources, agents under maintenance, agents that are drained.

use waggle_types::{AgentId, FrameworkId, Millis, Resources, Unavailability, UnixMillis};

use crate::{
    Allocator, Rejection, RescindReason, allocator::Run, bits::Idx, filters::Timer, ledger::Use,
};

/// What follows from an event besides offers; see [`Allocator::notices`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Tasks of this framework on this agent must end: as much as this, and they come back as `Released`.
    Evict {
        /// Whose.
        framework_id: FrameworkId,
        /// For which role.
        role: String,
        /// Where.
        agent_id: AgentId,
        /// How much.
        resources: Resources,
        /// Longest time to end.
        max_grace: Option<Millis>,
        /// Why.
        reason: EvictReason,
    },
    /// A framework is asked to leave an agent by itself.
    InverseOffer {
        /// Who.
        framework_id: FrameworkId,
        /// Where.
        agent_id: AgentId,
        /// When the agent will be down.
        window: Unavailability,
        /// What it uses there.
        resources: Resources,
    },
    /// An agent that was drained runs nothing any more.
    Drained {
        /// Which.
        agent_id: AgentId,
        /// It has been removed for good.
        gone: bool,
    },
}

/// Why tasks must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EvictReason {
    /// What they use was lent, and its role wants it back.
    Reclaimed,
    /// The agent is drained.
    Drained,
    /// The agent's maintenance has begun.
    Maintenance,
}

/// A framework's word on leaving an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inverse {
    pub framework: Idx,
    pub accepted: bool,
    /// When it is asked again.
    pub again: Option<UnixMillis>,
}

/// Maintenance and draining of one agent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Upkeep {
    pub window: Option<Unavailability>,
    pub inverse: Vec<Inverse>,
    /// Drained, and whether it goes for good then.
    pub draining: Option<bool>,
    pub timer: Option<UnixMillis>,
}

impl Allocator {
    /// Somebody who may use what is reserved for this role wants offers again: what was lent comes back.
    pub(crate) fn reclaim(&mut self, role: Idx, run: &mut Run) {
        let owned = |key: Idx| self.stacks.get(key).is_some_and(|s| s.role == role);
        let has = |idx: &Idx| {
            let pools = self.agents.get(*idx).map(|a| &a.pools);
            pools.is_some_and(|p| p.iter().any(|p| owned(p.key)))
        };
        let agents: Vec<Idx> = self.with_pools.iter().filter(has).collect();
        for idx in agents {
            self.reclaim_on(idx, run);
            run.dirty.push(idx);
        }
    }

    /// Takes back what is lent on an agent by roles that are not idle.
    pub(crate) fn reclaim_on(&mut self, idx: Idx, run: &mut Run) {
        let Some(agent) = self.agents.get(idx) else {
            return;
        };
        if agent.pools.is_empty() {
            return;
        }
        let wanted = |key: Idx| self.stacks.get(key).is_some_and(|s| !self.is_idle(s.role));
        let lent = |number: &&u64| {
            let parts = self.offers.get(number).map(|h| &h.bundle.parts);
            parts.is_some_and(|p| p.iter().any(|p| p.lent && wanted(p.pool)))
        };
        let offers: Vec<u64> = agent.offers.iter().filter(lent).copied().collect();
        let uses = agent
            .uses
            .iter()
            .filter(|u| u.part.lent && wanted(u.part.pool));
        let uses: Vec<Use> = uses.cloned().collect();
        for number in offers {
            self.rescind(number, RescindReason::Reclaimed, run);
        }
        for u in &uses {
            self.evict(idx, u, None, EvictReason::Reclaimed, run);
        }
    }

    fn evict(
        &mut self,
        idx: Idx,
        u: &Use,
        max_grace: Option<Millis>,
        reason: EvictReason,
        run: &mut Run,
    ) {
        let client = self.clients.get(u.client);
        let framework = client.and_then(|c| self.frameworks.get(c.framework));
        if let (Some(client), Some(framework), Some(agent)) =
            (client, framework, self.agents.get(idx))
        {
            self.stats.n_evictions += 1;
            run.notices.push(Notice::Evict {
                framework_id: framework.id.clone(),
                role: self.tree.name(client.role).to_owned(),
                agent_id: agent.info.agent_id.clone(),
                resources: u.part.resources.clone(),
                max_grace,
                reason,
            });
        }
    }

    fn evict_all(
        &mut self,
        idx: Idx,
        max_grace: Option<Millis>,
        reason: EvictReason,
        run: &mut Run,
    ) {
        let uses = self.agents.get(idx).map(|a| a.uses.clone());
        for u in uses.unwrap_or_default() {
            self.evict(idx, &u, max_grace, reason, run);
        }
    }

    pub(crate) fn drain(
        &mut self,
        agent_id: &AgentId,
        max_grace: Option<Millis>,
        mark_gone: bool,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let idx = self.agent_idx(agent_id)?;
        self.set_active(agent_id, false, run)?;
        if let Some(agent) = self.agents.get_mut(idx) {
            agent.upkeep.draining = Some(mark_gone);
        }
        self.evict_all(idx, max_grace, EvictReason::Drained, run);
        self.emptied(idx, run);
        Ok(())
    }

    /// Something ended on an agent: if it is drained and runs nothing now, that is over.
    pub(crate) fn emptied(&mut self, idx: Idx, run: &mut Run) {
        let Some(agent) = self.agents.get_mut(idx) else {
            return;
        };
        if !agent.uses.is_empty() {
            return;
        }
        let Some(gone) = agent.upkeep.draining.take() else {
            return;
        };
        let agent_id = agent.info.agent_id.clone();
        run.notices.push(Notice::Drained { agent_id, gone });
        if gone {
            self.remove_agent(idx, RescindReason::AgentRemoved, run);
        }
    }

    pub(crate) fn maintenance_set(
        &mut self,
        agent_id: &AgentId,
        window: Option<Unavailability>,
        now: UnixMillis,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let idx = self.agent_idx(agent_id)?;
        if let Some(agent) = self.agents.get_mut(idx) {
            agent.upkeep.window = window;
            agent.upkeep.inverse.clear();
        }
        self.upkeep_due(idx, now, run);
        Ok(())
    }

    /// Asks who uses the agent and has not been asked, or whose refusal is over; at the start of the
    /// window, evicts who is still there.
    pub(crate) fn upkeep_due(&mut self, idx: Idx, now: UnixMillis, run: &mut Run) {
        let Some(agent) = self.agents.get_mut(idx) else {
            return;
        };
        if let Some(at) = agent.upkeep.timer.take() {
            self.timers.remove(&(at, Timer::Upkeep(idx)));
        }
        let Some(window) = agent.upkeep.window else {
            return;
        };
        if now >= window.start {
            let agent_id = agent.info.agent_id.clone();
            if agent.active {
                // An active agent is known, so this is not refused.
                let set = self.set_active(&agent_id, false, run);
                debug_assert!(set.is_ok());
                self.evict_all(idx, None, EvictReason::Maintenance, run);
            }
            return;
        }
        let mut by: Vec<(Idx, Resources)> = Vec::new();
        for u in &agent.uses {
            let Some(c) = self.clients.get(u.client) else {
                continue;
            };
            match by.iter_mut().find(|(f, _)| *f == c.framework) {
                Some((_, r)) => {
                    r.try_add(&u.part.resources);
                }
                None => by.push((c.framework, u.part.resources.clone())),
            }
        }
        let inverse = &mut agent.upkeep.inverse;
        inverse.retain(|i| i.again.is_none_or(|at| at > now));
        let mut next = window.start;
        for i in inverse.iter() {
            next = next.min(i.again.unwrap_or(next));
        }
        let agent_id = agent.info.agent_id.clone();
        for (framework, resources) in by {
            if inverse.iter().any(|i| i.framework == framework) {
                continue;
            }
            inverse.push(Inverse {
                framework,
                accepted: false,
                again: None,
            });
            if let Some(f) = self.frameworks.get(framework) {
                run.notices.push(Notice::InverseOffer {
                    framework_id: f.id.clone(),
                    agent_id: agent_id.clone(),
                    window,
                    resources,
                });
            }
        }
        agent.upkeep.timer = Some(next);
        self.timers.insert((next, Timer::Upkeep(idx)));
    }

    /// Books an answer to an inverse offer; `None` when none is out.
    pub(crate) fn answer(
        &mut self,
        framework: Idx,
        idx: Idx,
        accepted: bool,
        until: Option<(UnixMillis, Millis)>,
    ) -> Option<()> {
        let upkeep = &mut self.agents.get_mut(idx)?.upkeep;
        let window = upkeep.window?;
        let inverse = upkeep
            .inverse
            .iter_mut()
            .find(|i| i.framework == framework)?;
        inverse.accepted = accepted;
        inverse.again = match until {
            Some((now, refuse)) if !accepted => Some(now + refuse.max(Millis(1))),
            _ => None,
        };
        let next = upkeep.inverse.iter().filter_map(|i| i.again).min();
        let next = next.unwrap_or(window.start).min(window.start);
        if let Some(old) = upkeep.timer.replace(next) {
            self.timers.remove(&(old, Timer::Upkeep(idx)));
        }
        self.timers.insert((next, Timer::Upkeep(idx)));
        Some(())
    }
}

//! What is taken back: lent resources, agents under maintenance, agents that are drained.

use waggle_types::{
    AgentId, FrameworkId, Millis, ResourcePart, Resources, Unavailability, UnixMillis,
};

use crate::{
    Allocator, Rejection, RescindReason, allocator::Run, bits::Idx, filters::Timer, ledger::Use,
};

/// What follows from an event besides offers; see [`Allocator::notices`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Tasks of this framework on this agent must end; that comes back by [`crate::Event::UsageEnded`].
    Evict {
        /// Whose.
        framework_id: FrameworkId,
        /// For which role.
        role: String,
        /// Where.
        agent_id: AgentId,
        /// How much, and of what: tasks that give back at least this.
        part: ResourcePart,
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
    /// It is not asked any more: it uses nothing there now, the plan was changed, or the agent is gone.
    InverseRescinded {
        /// Who was asked.
        framework_id: FrameworkId,
        /// Which agent.
        agent_id: AgentId,
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

/// What became of asking a framework to leave an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inverse {
    pub framework: Idx,
    pub answer: Answer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    Open,
    Accepted,
    /// It is asked again then.
    Declined(UnixMillis),
}

impl Answer {
    fn again(self) -> Option<UnixMillis> {
        match self {
            Self::Declined(at) => Some(at),
            Self::Open | Self::Accepted => None,
        }
    }
}

/// Maintenance and draining of one agent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Upkeep {
    pub window: Option<Unavailability>,
    /// The window has begun, and who was there was told to end.
    pub begun: bool,
    pub inverse: Vec<Inverse>,
    /// Drained, and whether it goes for good then.
    pub draining: Option<bool>,
    pub timer: Option<UnixMillis>,
}

impl Allocator {
    /// Tells that so much of a use must end.
    pub(crate) fn evict(
        &mut self,
        idx: Idx,
        u: &Use,
        resources: Resources,
        max_grace: Option<Millis>,
        reason: EvictReason,
        run: &mut Run,
    ) {
        let client = self.clients.get(u.client);
        let framework = client.and_then(|c| self.frameworks.get(c.framework));
        if let (Some(client), Some(framework), Some(agent)) =
            (client, framework, self.agents.get(idx))
        {
            let stack = self.stacks.get(u.part.pool);
            self.stats.n_evictions += 1;
            run.notices.push(Notice::Evict {
                framework_id: framework.id.clone(),
                role: self.tree.name(client.role).to_owned(),
                agent_id: agent.info.agent_id.clone(),
                part: ResourcePart {
                    reservation: stack.map(|s| s.reservations.clone()).unwrap_or_default(),
                    revocable: u.part.lent,
                    resources,
                },
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
            self.evict(idx, &u, u.resources(), max_grace, reason, run);
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
        self.left(idx, run);
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
        self.rescind_inverse(idx, run, |_| true);
        if let Some(agent) = self.agents.get_mut(idx) {
            agent.upkeep.window = window;
            agent.upkeep.begun = false;
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
            if !std::mem::replace(&mut agent.upkeep.begun, true) {
                // The agent is known, so this is not refused.
                let set = self.set_active(&agent_id, false, run);
                debug_assert!(set.is_ok());
                self.rescind_inverse(idx, run, |_| true);
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
                    r.try_add(&u.resources());
                }
                None => by.push((c.framework, u.resources())),
            }
        }
        let inverse = &mut agent.upkeep.inverse;
        inverse.retain(|i| i.answer.again().is_none_or(|at| at > now));
        let mut next = window.start;
        for i in inverse.iter() {
            next = next.min(i.answer.again().unwrap_or(next));
        }
        let agent_id = agent.info.agent_id.clone();
        for (framework, resources) in by {
            if inverse.iter().any(|i| i.framework == framework) {
                continue;
            }
            inverse.push(Inverse {
                framework,
                answer: Answer::Open,
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

    /// Something was launched on an agent: if its maintenance is planned, who is new there is asked to leave.
    pub(crate) fn ask_newcomers(&mut self, idx: Idx, now: UnixMillis, run: &mut Run) {
        let upkeep = self.agents.get(idx).map(|a| &a.upkeep);
        if upkeep.is_some_and(|u| u.window.is_some() && !u.begun) {
            self.upkeep_due(idx, now, run);
        }
    }

    /// Forgets who was asked, of those that `which` says.
    pub(crate) fn rescind_inverse(&mut self, idx: Idx, run: &mut Run, which: impl Fn(Idx) -> bool) {
        let Some(agent) = self.agents.get_mut(idx) else {
            return;
        };
        let all = std::mem::take(&mut agent.upkeep.inverse);
        for i in all {
            if !which(i.framework) {
                agent.upkeep.inverse.push(i);
            } else if let Some(f) = self.frameworks.get(i.framework)
                && i.answer.again().is_none()
            {
                run.notices.push(Notice::InverseRescinded {
                    framework_id: f.id.clone(),
                    agent_id: agent.info.agent_id.clone(),
                });
            }
        }
    }

    /// Something ended on an agent: who uses nothing there any more is not asked to leave it.
    fn left(&mut self, idx: Idx, run: &mut Run) {
        let Some(agent) = self.agents.get(idx) else {
            return;
        };
        if agent.upkeep.inverse.is_empty() {
            return;
        }
        let clients = agent.uses.iter().filter_map(|u| self.clients.get(u.client));
        let here: Vec<Idx> = clients.map(|c| c.framework).collect();
        self.rescind_inverse(idx, run, |f| !here.contains(&f));
    }

    /// Books an answer to an inverse offer; `None` when none is out.
    pub(crate) fn answer(
        &mut self,
        framework: Idx,
        idx: Idx,
        accepted: bool,
        refuse: Millis,
        now: UnixMillis,
    ) -> Option<()> {
        let upkeep = &mut self.agents.get_mut(idx)?.upkeep;
        let window = upkeep.window?;
        let inverse = upkeep
            .inverse
            .iter_mut()
            .find(|i| i.framework == framework && i.answer == Answer::Open)?;
        inverse.answer = if accepted {
            Answer::Accepted
        } else {
            Answer::Declined(now + refuse.max(Millis(1)))
        };
        let next = upkeep.inverse.iter().filter_map(|i| i.answer.again());
        let next = next.min();
        let next = next.unwrap_or(window.start).min(window.start);
        if let Some(old) = upkeep.timer.replace(next) {
            self.timers.remove(&(old, Timer::Upkeep(idx)));
        }
        self.timers.insert((next, Timer::Upkeep(idx)));
        Some(())
    }
}

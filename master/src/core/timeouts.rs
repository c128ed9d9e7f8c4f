//! Silence: agents that are not heard, and when to believe that they are gone.

use waggle_types::{AgentId, Millis, RoleSubscription, UnixMillis};

use super::{MasterCore, Measure, SessionId, levels::service_framework};

impl MasterCore {
    /// The next moment at which silence means something.
    pub(super) fn next_timeout(&self) -> Option<UnixMillis> {
        let silent = self.agents.next_silence(self.config.agent_timeout);
        let recovery = self
            .recovering
            .then(|| self.started_at + self.config.recovery_grace);
        let held = self
            .held_losses
            .iter()
            .filter_map(|id| self.agents.all.get(id)?.lost_at)
            .map(|at| {
                let given_up = at + self.config.mass_loss_hold;
                if self.mass_loss {
                    given_up
                } else {
                    given_up.min(self.calm_at)
                }
            })
            .min();
        let away = self.frameworks.next_timeout();
        let launches = self.launches.next_timeout();
        let drains = self.drains.next_timeout();
        let subnets = self.networks.next_timeout();
        let steps = self.next_step_deadline();
        [
            silent, recovery, held, away, launches, drains, subnets, steps,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) fn tick(&mut self, now: UnixMillis) {
        let silent = self.agents.silent(now, self.config.agent_timeout);
        for id in &silent {
            self.lost(id, now);
        }
        self.tell_losses(now);
        self.end_recovery_when_done(now);
        self.remove_gone_frameworks(now);
        self.expire_subnets(now);
        self.allocate(waggle_allocator::Event::Tick, now);
        self.tick_scheduler(now);
        self.go_back_late(now);
        self.tick_jobs(now);
    }

    /// Marks an agent and its tasks unreachable; whether they are replaced is decided by
    /// [`MasterCore::tell_losses`] and their service's strategy.
    fn lost(&mut self, id: &AgentId, now: UnixMillis) {
        self.agents.lost(id, now);
        self.held_losses.insert(id.clone());
        self.measure(Measure::Event {
            name: "waggle.agent.lost",
            attrs: vec![("waggle.agent.id", id.to_string())],
            trace: None,
        });
        let agent_id = id.clone();
        self.allocate(waggle_allocator::Event::AgentDeactivated { agent_id }, now);
        for task in self.tasks.on_agent(id) {
            self.tasks.change(&task, |t| t.unreachable = true);
        }
        self.net_dirty = true;
    }

    /// Tells the framework of lost agents, unless so many are gone at once that the fault is more
    /// likely on this side (DESIGN section 5).
    pub(super) fn tell_losses(&mut self, now: UnixMillis) {
        let (n, gone) = (self.agents.all.len(), self.agents.n_unreachable());
        let mass = gone > 1 && gone * 10 > n * 3;
        if self.mass_loss && !mass {
            // Others are on their way back: a loss counts again when they had the time for it.
            self.calm_at = now + self.config.agent_timeout;
        }
        self.mass_loss = mass;
        let calm = !mass && now >= self.calm_at;
        let due: Vec<AgentId> = self
            .held_losses
            .iter()
            .filter(|id| {
                let lost_at = self.agents.all.get(*id).and_then(|a| a.lost_at);
                let held = lost_at.map_or(Millis(u64::MAX), |at| now.since(at));
                calm || held >= self.config.mass_loss_hold
            })
            .cloned()
            .collect();
        for id in due {
            self.held_losses.remove(&id);
            if let Some(a) = self.agents.all.get_mut(&id) {
                a.told_lost = true;
                self.tell_unreachable(&id, now);
            }
        }
    }

    /// Ends recovery when every known agent is back or the grace is over: only now does the framework
    /// get offers.
    pub(super) fn end_recovery_when_done(&mut self, now: UnixMillis) {
        if !self.recovering {
            return;
        }
        let over = now.since(self.started_at) >= self.config.recovery_grace;
        if !over && !self.expected.is_empty() {
            return;
        }
        self.recovering = false;
        let roles = self.scheduler.roles().iter().map(RoleSubscription::new);
        let spec = service_framework(roles.collect());
        let framework_id = self.framework_id.clone();
        self.allocate(
            waggle_allocator::Event::Subscribed { framework_id, spec },
            now,
        );
        self.subscribe_framework(now);
        self.resume_jobs(now);
    }

    /// A session ended. Its agent's clock runs on; nothing of it is offered until it is back.
    pub(super) fn disconnected(&mut self, session: SessionId, now: UnixMillis) {
        if let Some(agent_id) = self.agents.close(session) {
            self.allocate(waggle_allocator::Event::AgentDeactivated { agent_id }, now);
        }
    }

    /// Nobody could be heard for a while, through no fault of theirs: their clocks start anew.
    pub(super) fn stalled(&mut self, now: UnixMillis) {
        for a in self.agents.all.values_mut().filter(|a| a.reachable) {
            a.last_heard = now;
        }
    }
}

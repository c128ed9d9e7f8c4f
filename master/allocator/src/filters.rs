//! Decline filters and the timers of filters and offers.

use waggle_types::{AgentId, FrameworkId, Millis, Offer, OfferId, Resources, UnixMillis};

use crate::{Allocator, RescindReason, allocator::Run};

/// Decline filters that stand at once for one framework on one agent.
pub const MAX_FILTERS: usize = 64;

#[derive(Debug, Clone)]
pub(crate) struct Filter {
    resources: Resources,
    until: UnixMillis,
}

/// What a framework declined on one agent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filters {
    list: Vec<Filter>,
    /// The timer that is set for the first of them.
    pub timer: Option<UnixMillis>,
}

impl Filters {
    /// Until when a bundle is covered by one of them.
    pub fn until(&self, free: &Resources) -> Option<UnixMillis> {
        self.list
            .iter()
            .filter(|f| f.resources.contains(free))
            .map(|f| f.until)
            .max()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Offer(OfferId),
    Filter(FrameworkId, AgentId),
}

impl Allocator {
    /// Runs the timers that are due.
    pub(crate) fn expire(&mut self, now: UnixMillis, run: &mut Run) {
        while let Some((at, _)) = self.timers.first() {
            if *at > now {
                break;
            }
            match self.timers.pop_first() {
                Some((_, Timer::Offer(id))) => {
                    self.stats.n_timed_out += 1;
                    if let Some(offer) = self.rescind(&id, RescindReason::Timeout, run) {
                        self.turned_down(&offer, self.config.default_refuse, now);
                    }
                }
                Some((_, Timer::Filter(framework_id, agent_id))) => {
                    if let Some(framework) = self.frameworks.get_mut(&framework_id)
                        && let Some(filters) = framework.filters.get_mut(&agent_id)
                    {
                        filters.list.retain(|f| f.until > now);
                    }
                    self.retime(&framework_id, &agent_id);
                    run.dirty.insert(agent_id);
                }
                None => {}
            }
        }
    }

    /// A decline or a timeout: the filter stands, and the framework goes to the end of the round.
    pub(crate) fn turned_down(&mut self, offer: &Offer, refuse: Millis, now: UnixMillis) {
        if let Some(agent) = self.agents.get_mut(&offer.agent_id)
            && let Some(turn) = agent.turns.get_mut(&offer.framework_id)
        {
            turn.declined = true;
        }
        let resources = offer.resources.clone();
        self.add_filter(&offer.framework_id, &offer.agent_id, resources, refuse, now);
    }

    pub(crate) fn add_filter(
        &mut self,
        framework_id: &FrameworkId,
        agent_id: &AgentId,
        resources: Resources,
        refuse: Millis,
        now: UnixMillis,
    ) {
        let until = now + refuse.min(self.config.max_refuse);
        let Some(framework) = self.frameworks.get_mut(framework_id) else {
            return;
        };
        if until <= now {
            return;
        }
        let filters = &mut framework.filters.entry(agent_id.clone()).or_default().list;
        // What the new filter covers for at least as long need not be kept.
        filters.retain(|f| f.until > until || !resources.contains(&f.resources));
        filters.push(Filter { resources, until });
        if filters.len() > MAX_FILTERS {
            let first = filters.iter().enumerate().min_by_key(|(_, f)| f.until);
            if let Some((idx, _)) = first {
                filters.remove(idx);
                self.stats.n_filters_dropped += 1;
            }
        }
        self.retime(framework_id, agent_id);
    }

    /// One timer per framework and agent: the first expiry among its filters.
    fn retime(&mut self, framework_id: &FrameworkId, agent_id: &AgentId) {
        let Some(framework) = self.frameworks.get_mut(framework_id) else {
            return;
        };
        let Some(filters) = framework.filters.get_mut(agent_id) else {
            return;
        };
        let next = filters.list.iter().map(|f| f.until).min();
        let timer = || Timer::Filter(framework_id.clone(), agent_id.clone());
        if let Some(old) = filters.timer.take() {
            self.timers.remove(&(old, timer()));
        }
        match next {
            Some(at) => {
                filters.timer = Some(at);
                self.timers.insert((at, timer()));
            }
            None => {
                framework.filters.remove(agent_id);
            }
        }
    }

    pub(crate) fn clear_filters(&mut self, framework_id: &FrameworkId) {
        let Some(framework) = self.frameworks.get_mut(framework_id) else {
            return;
        };
        for (agent_id, filters) in std::mem::take(&mut framework.filters) {
            if let Some(at) = filters.timer {
                let timer = Timer::Filter(framework_id.clone(), agent_id);
                self.timers.remove(&(at, timer));
            }
        }
    }
}

//! The event loop's body: books, filters, timers and the choice of who is next.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{
    AgentId, AgentInfo, FrameworkId, Milli, Millis, Offer, OfferId, Resources, ScalarKind,
    UnixMillis,
};

use crate::{
    Effect, Event, Rejection, RescindReason,
    filters::{Filters, Timer},
    ledger::{Agent, is_negative},
    share::{self, Scalars},
};

/// What an operator can set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocatorConfig {
    /// Start of offer ids, different for each life of the master: `<id_prefix>-O<n>`.
    pub id_prefix: String,
    /// An offer that is held for longer is taken back.
    pub offer_timeout: Millis,
    /// Filter after a timeout.
    pub default_refuse: Millis,
    /// Longest filter; longer ones are cut to it.
    pub max_refuse: Millis,
    /// An agent's free resources are offered when they reach either this or [`Self::min_mem`].
    pub min_cpus: Milli,
    /// See [`Self::min_cpus`]; in MiB.
    pub min_mem: Milli,
}

impl Default for AllocatorConfig {
    /// Mesos's constants (CONTRACTS section 1.3), and an offer timeout of 30 s where Mesos has none.
    fn default() -> Self {
        Self {
            id_prefix: "waggle".into(),
            offer_timeout: Millis::from_secs(30),
            default_refuse: Millis::from_secs(5),
            max_refuse: Millis::from_secs(365 * 24 * 3600),
            min_cpus: Milli(10),
            min_mem: Milli::units(32),
        }
    }
}

impl AllocatorConfig {
    pub(crate) fn allocatable(&self, r: &Resources) -> bool {
        r.get(ScalarKind::Cpus) >= self.min_cpus || r.get(ScalarKind::Mem) >= self.min_mem
    }
}

/// Counts since the start, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Offers made.
    pub n_offers: u64,
    /// Offers taken back.
    pub n_rescinded: u64,
    /// Of these, by timeout.
    pub n_timed_out: u64,
    /// Offers accepted.
    pub n_accepted: u64,
    /// Offers declined.
    pub n_declined: u64,
    /// Events or offer ids refused.
    pub n_rejected: u64,
    /// Filters that gave way because [`MAX_FILTERS`] stood already.
    pub n_filters_dropped: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Framework {
    pub role: String,
    pub suppressed: bool,
    pub allocated: Scalars,
    /// Count of its latest offer, for age.
    pub last_offer: u64,
    pub filters: BTreeMap<AgentId, Filters>,
}

impl Framework {
    /// Until when `free` of this agent is not to be offered, if so.
    pub fn filtered_until(&self, agent_id: &AgentId, free: &Resources) -> Option<UnixMillis> {
        self.filters.get(agent_id)?.until(free)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Role {
    pub weight_milli: u32,
    pub allocated: Scalars,
    pub last_offer: u64,
    frameworks: BTreeSet<FrameworkId>,
}

#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub offer: Offer,
    pub expires: UnixMillis,
}

/// One `apply`: what it touched and what it answers.
#[derive(Default)]
pub(crate) struct Run {
    /// Agents where something may have become placeable.
    pub dirty: BTreeSet<AgentId>,
    pub effects: Vec<Effect>,
}

/// The allocator; see the crate's documentation.
#[derive(Debug, Clone)]
pub struct Allocator {
    pub(crate) config: AllocatorConfig,
    pub(crate) agents: BTreeMap<AgentId, Agent>,
    pub(crate) frameworks: BTreeMap<FrameworkId, Framework>,
    pub(crate) roles: BTreeMap<String, Role>,
    pub(crate) offers: BTreeMap<OfferId, Held>,
    pub(crate) timers: BTreeSet<(UnixMillis, Timer)>,
    pub(crate) total: Scalars,
    pub(crate) seq: u64,
    pub(crate) stats: Stats,
}

impl Allocator {
    /// An allocator that knows nobody.
    pub fn new(config: AllocatorConfig) -> Self {
        Self {
            config,
            agents: BTreeMap::new(),
            frameworks: BTreeMap::new(),
            roles: BTreeMap::new(),
            offers: BTreeMap::new(),
            timers: BTreeSet::new(),
            total: Scalars::default(),
            seq: 0,
            stats: Stats::default(),
        }
    }

    /// Takes an event, and all timers that are due at `now`, and says what follows.
    pub fn apply(&mut self, event: Event, now: UnixMillis) -> Vec<Effect> {
        let mut run = Run::default();
        self.expire(now, &mut run);
        let what = name(&event);
        if let Err(reason) = self.take(event, now, &mut run) {
            self.reject(what, reason, &mut run);
        }
        self.allocate(now, &mut run);
        run.effects
    }

    /// When `Tick` is needed next: the first offer timeout or filter expiry.
    pub fn next_deadline(&self) -> Option<UnixMillis> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn take(&mut self, event: Event, now: UnixMillis, run: &mut Run) -> Result<(), Rejection> {
        match event {
            Event::AgentAdded { info, used } => self.agent_added(info, used, run),
            Event::AgentRemoved { agent_id } => {
                self.agent_removed(&agent_id, RescindReason::AgentRemoved, run)
            }
            Event::AgentDeactivated { agent_id } => {
                self.agent_mut(&agent_id)?.active = false;
                self.rescind_agent(&agent_id, RescindReason::AgentDeactivated, run);
                Ok(())
            }
            Event::AgentActivated { agent_id } => {
                self.agent_mut(&agent_id)?.active = true;
                run.dirty.insert(agent_id);
                Ok(())
            }
            Event::FrameworkAdded {
                framework_id,
                role,
                weight_milli,
            } => self.framework_added(framework_id, role, weight_milli, run),
            Event::FrameworkRemoved { framework_id } => {
                self.framework_removed(&framework_id, RescindReason::FrameworkRemoved, run)
            }
            Event::Accepted {
                framework_id,
                offer_ids,
                used,
                refuse,
            } => self.accepted(&framework_id, &offer_ids, &used, refuse, now, run),
            Event::Declined {
                framework_id,
                offer_ids,
                refuse,
            } => {
                self.framework(&framework_id)?;
                for id in &offer_ids {
                    if let Err(reason) = self.declined(&framework_id, id, refuse, now, run) {
                        self.reject("decline", reason, run);
                    }
                }
                Ok(())
            }
            Event::Released {
                framework_id,
                agent_id,
                resources,
            } => self.released(&framework_id, agent_id, resources, run),
            Event::Suppress { framework_id } => {
                self.framework_mut(&framework_id)?.suppressed = true;
                Ok(())
            }
            Event::Revive { framework_id } => {
                self.framework_mut(&framework_id)?.suppressed = false;
                self.clear_filters(&framework_id);
                run.dirty.extend(self.agents.keys().cloned());
                Ok(())
            }
            Event::Tick => Ok(()),
        }
    }

    fn agent_added(
        &mut self,
        info: AgentInfo,
        used: Vec<(FrameworkId, Resources)>,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        let agent_id = info.agent_id.clone();
        let agent = Agent::open(info, used)?;
        if self.agents.contains_key(&agent_id) {
            self.agent_removed(&agent_id, RescindReason::AgentChanged, run)?;
        }
        share::add(&mut self.total, &agent.info.total);
        for (framework_id, r) in &agent.used_by {
            self.account(framework_id, r, share::add);
        }
        self.agents.insert(agent_id.clone(), agent);
        run.dirty.insert(agent_id);
        Ok(())
    }

    fn agent_removed(
        &mut self,
        agent_id: &AgentId,
        reason: RescindReason,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        self.agent_mut(agent_id)?;
        self.rescind_agent(agent_id, reason, run);
        run.dirty.remove(agent_id);
        if let Some(agent) = self.agents.remove(agent_id) {
            share::sub(&mut self.total, &agent.info.total);
            for (framework_id, r) in &agent.used_by {
                self.account(framework_id, r, share::sub);
            }
        }
        for (framework_id, framework) in &mut self.frameworks {
            if let Some(at) = framework.filters.remove(agent_id).and_then(|f| f.timer) {
                let timer = Timer::Filter(framework_id.clone(), agent_id.clone());
                self.timers.remove(&(at, timer));
            }
        }
        Ok(())
    }

    fn framework_added(
        &mut self,
        framework_id: FrameworkId,
        role: String,
        weight_milli: u32,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        if weight_milli == 0 {
            return Err(Rejection::ZeroWeight(role));
        }
        if self.frameworks.contains_key(&framework_id) {
            self.framework_removed(&framework_id, RescindReason::FrameworkChanged, run)?;
        }
        let mut allocated = Scalars::default();
        for r in self
            .agents
            .values()
            .filter_map(|a| a.used_by.get(&framework_id))
        {
            share::add(&mut allocated, r);
        }
        let entry = self.roles.entry(role.clone()).or_insert_with(|| Role {
            weight_milli,
            allocated: Scalars::default(),
            last_offer: 0,
            frameworks: BTreeSet::new(),
        });
        entry.weight_milli = weight_milli;
        entry.frameworks.insert(framework_id.clone());
        for (a, b) in entry.allocated.iter_mut().zip(allocated) {
            *a = a.saturating_add(b);
        }
        let framework = Framework {
            role,
            suppressed: false,
            allocated,
            last_offer: 0,
            filters: BTreeMap::new(),
        };
        self.frameworks.insert(framework_id, framework);
        run.dirty.extend(self.agents.keys().cloned());
        Ok(())
    }

    fn framework_removed(
        &mut self,
        framework_id: &FrameworkId,
        reason: RescindReason,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        self.framework(framework_id)?;
        let held: Vec<OfferId> = self
            .offers
            .values()
            .filter(|h| h.offer.framework_id == *framework_id)
            .map(|h| h.offer.offer_id.clone())
            .collect();
        for id in held {
            self.rescind(&id, reason, run);
        }
        self.clear_filters(framework_id);
        if let Some(framework) = self.frameworks.remove(framework_id)
            && let Some(role) = self.roles.get_mut(&framework.role)
        {
            role.frameworks.remove(framework_id);
            for (a, b) in role.allocated.iter_mut().zip(framework.allocated) {
                *a = a.saturating_sub(b);
            }
            if role.frameworks.is_empty() {
                self.roles.remove(&framework.role);
            }
        }
        for agent in self.agents.values_mut() {
            agent.turns.remove(framework_id);
        }
        Ok(())
    }

    fn released(
        &mut self,
        framework_id: &FrameworkId,
        agent_id: AgentId,
        resources: Resources,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        if is_negative(&resources) {
            return Err(Rejection::Negative(resources));
        }
        let agent = self.agent_mut(&agent_id)?;
        if agent.release(framework_id, &resources).is_none() {
            return Err(Rejection::NotUsed {
                framework_id: framework_id.clone(),
                agent_id,
                resources,
            });
        }
        self.account(framework_id, &resources, share::sub);
        run.dirty.insert(agent_id);
        Ok(())
    }

    /// Offers what is free on the agents that were touched, each whole to the framework that is next.
    fn allocate(&mut self, now: UnixMillis, run: &mut Run) {
        for agent_id in std::mem::take(&mut run.dirty) {
            let Some((framework_id, choice)) = self.next_for(&agent_id, now) else {
                continue;
            };
            if let Some(offer) = self.make_offer(&agent_id, framework_id, choice, now) {
                run.effects.push(Effect::Offer(offer));
            }
        }
    }

    /// Adds to or takes from the sums of a framework and its role, if it is subscribed.
    pub(crate) fn account(
        &mut self,
        framework_id: &FrameworkId,
        r: &Resources,
        op: fn(&mut Scalars, &Resources),
    ) {
        if let Some(framework) = self.frameworks.get_mut(framework_id) {
            op(&mut framework.allocated, r);
            if let Some(role) = self.roles.get_mut(&framework.role) {
                op(&mut role.allocated, r);
            }
        }
    }

    pub(crate) fn reject(&mut self, what: &'static str, reason: Rejection, run: &mut Run) {
        self.stats.n_rejected += 1;
        run.effects.push(Effect::Rejected { what, reason });
    }

    pub(crate) fn agent_mut(&mut self, agent_id: &AgentId) -> Result<&mut Agent, Rejection> {
        self.agents
            .get_mut(agent_id)
            .ok_or_else(|| Rejection::UnknownAgent(agent_id.clone()))
    }

    pub(crate) fn framework(&self, framework_id: &FrameworkId) -> Result<&Framework, Rejection> {
        self.frameworks
            .get(framework_id)
            .ok_or_else(|| Rejection::UnknownFramework(framework_id.clone()))
    }

    fn framework_mut(&mut self, framework_id: &FrameworkId) -> Result<&mut Framework, Rejection> {
        self.frameworks
            .get_mut(framework_id)
            .ok_or_else(|| Rejection::UnknownFramework(framework_id.clone()))
    }
}

fn name(event: &Event) -> &'static str {
    match event {
        Event::AgentAdded { .. } => "agent added",
        Event::AgentRemoved { .. } => "agent removed",
        Event::AgentDeactivated { .. } => "agent deactivated",
        Event::AgentActivated { .. } => "agent activated",
        Event::FrameworkAdded { .. } => "framework added",
        Event::FrameworkRemoved { .. } => "framework removed",
        Event::Accepted { .. } => "accept",
        Event::Declined { .. } => "decline",
        Event::Released { .. } => "release",
        Event::Suppress { .. } => "suppress",
        Event::Revive { .. } => "revive",
        Event::Tick => "tick",
    }
}

//! The event loop's body: what each event does, and the round of allocation that follows.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{
    AgentId, Capabilities, FrameworkId, Milli, Millis, OfferId, Resources, RoleSubscription,
    ScalarKind, UnixMillis,
};

use crate::{
    Effect, Event, FrameworkSpec, Notice, Rejection, RescindReason,
    bits::{BitSet, Idx, Index, Slab},
    choose::{Look, Scratch},
    clients::{Client, Framework},
    filters::Timer,
    kinds::{self, Kinds, Rows},
    ledger::Agent,
    lend::Wave,
    offers::Held,
    reserve::Stacks,
    roles::Tree,
};

/// Effects that there is room made for at once.
const MAX_RESERVED: usize = 65_536;

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
    /// The master's own region: agents of others are for frameworks that are aware of regions. `None`:
    /// regions are not looked at.
    pub region: Option<String>,
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
            region: None,
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
    /// Filters that gave way because [`crate::MAX_FILTERS`] stood already.
    pub n_filters_dropped: u64,
    /// Evictions of what was lent, or of a drained agent.
    pub n_evictions: u64,
    /// Times that an agent was looked at for somebody to offer it to.
    pub n_looked_at: u64,
}

/// One `apply`: what it touched and what it answers.
#[derive(Default)]
pub(crate) struct Run {
    /// Agents where something may have become placeable.
    pub dirty: Vec<Idx>,
    /// The same for all agents with something free.
    pub all_free: bool,
    pub effects: Vec<Effect>,
    pub notices: Vec<Notice>,
}

impl Run {
    pub fn dirty_list(&mut self, agents: impl Iterator<Item = Idx>) {
        self.dirty.extend(agents);
    }
}

/// The allocator; see the crate's documentation.
#[derive(Debug, Clone)]
pub struct Allocator {
    pub(crate) config: AllocatorConfig,
    pub(crate) agents: Slab<Agent>,
    pub(crate) agent_ids: Index<AgentId>,
    pub(crate) frameworks: Slab<Framework>,
    pub(crate) framework_ids: Index<FrameworkId>,
    pub(crate) clients: Slab<Client>,
    pub(crate) tree: Tree,
    pub(crate) kinds: Kinds,
    pub(crate) stacks: Stacks,
    pub(crate) offers: BTreeMap<u64, Held>,
    pub(crate) timers: BTreeSet<(UnixMillis, Timer)>,
    /// Clients that are subscribed and not suppressed.
    pub(crate) askable: BitSet,
    /// Active agents with something free; agents with reservations.
    pub(crate) with_free: BitSet,
    pub(crate) with_pools: BitSet,
    /// By agent: what a look at it begins with, side by side.
    pub(crate) looks: Vec<Look>,
    /// What is lent and in use: by the role that it is reserved for, and agent. Who takes it back.
    pub(crate) lent: BTreeSet<(Idx, Idx)>,
    pub(crate) waves: BTreeMap<Idx, Wave>,
    /// Agents of which something was held back for quota.
    pub(crate) held_back: BitSet,
    /// There is more room under quota than there was.
    pub(crate) room: bool,
    pub(crate) total: Rows,
    /// Unreserved and free, on active agents.
    pub(crate) available: Rows,
    pub(crate) seq: u64,
    pub(crate) n_births: u64,
    pub(crate) stats: Stats,
    pub(crate) notices: Vec<Notice>,
    pub(crate) scratch: Scratch,
}

impl Allocator {
    /// An allocator that knows nobody.
    pub fn new(config: AllocatorConfig) -> Self {
        Self {
            config,
            agents: Slab::default(),
            agent_ids: Index::default(),
            frameworks: Slab::default(),
            framework_ids: Index::default(),
            clients: Slab::default(),
            tree: Tree::new(),
            kinds: Kinds::default(),
            stacks: Stacks::default(),
            offers: BTreeMap::new(),
            timers: BTreeSet::new(),
            askable: BitSet::default(),
            with_free: BitSet::default(),
            with_pools: BitSet::default(),
            looks: Vec::new(),
            lent: BTreeSet::new(),
            waves: BTreeMap::new(),
            held_back: BitSet::default(),
            room: false,
            total: Rows::default(),
            available: Rows::default(),
            seq: 0,
            n_births: 0,
            stats: Stats::default(),
            notices: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Takes an event, and all timers that are due at `now`, and says what follows.
    pub fn apply(&mut self, event: Event, now: UnixMillis) -> Vec<Effect> {
        self.apply_all([event], now)
    }

    /// Takes a micro-batch of events, in order, and allocates once. Effects are in the order of events,
    /// offers come last.
    pub fn apply_all(
        &mut self,
        events: impl IntoIterator<Item = Event>,
        now: UnixMillis,
    ) -> Vec<Effect> {
        let mut run = Run::default();
        self.expire(now, &mut run);
        for event in events {
            let what = event.name();
            if let Err(reason) = self.take(event, now, &mut run) {
                self.reject(what, reason, &mut run);
            }
        }
        self.allocate(now, &mut run);
        self.take_back_lent(now, &mut run);
        self.notices = run.notices;
        run.effects
    }

    /// The first of these events that would be refused when all are applied at once, and why. They are tried on a
    /// copy, so nothing changes; it takes the time and the memory of one (some milliseconds for 10,000 agents).
    pub fn would_refuse(
        &self,
        events: impl IntoIterator<Item = Event>,
        now: UnixMillis,
    ) -> Option<(usize, Rejection)> {
        let (mut copy, mut run) = (self.clone(), Run::default());
        copy.expire(now, &mut run);
        let refused = |(i, event)| Some((i, copy.take(event, now, &mut run).err()?));
        events.into_iter().enumerate().find_map(refused)
    }

    /// What else follows from the latest `apply`: evictions, inverse offers, drained agents.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// When `Tick` is needed next: the first offer timeout, filter expiry or maintenance.
    pub fn next_deadline(&self) -> Option<UnixMillis> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn take(&mut self, event: Event, now: UnixMillis, run: &mut Run) -> Result<(), Rejection> {
        match event {
            Event::AgentAdded { info, used } => self.agent_added(info, used, run),
            Event::AgentJoined { spec, used } => self.agent_joined(spec, used, run),
            Event::AgentRemoved { agent_id } => {
                self.agent_removed(&agent_id, RescindReason::AgentRemoved, run)
            }
            Event::AgentDeactivated { agent_id } => self.set_active(&agent_id, false, run),
            Event::AgentActivated { agent_id } => self.set_active(&agent_id, true, run),
            Event::AgentDrained {
                agent_id,
                max_grace,
                mark_gone,
            } => self.drain(&agent_id, max_grace, mark_gone, run),
            Event::FrameworkAdded {
                framework_id,
                role,
                weight_milli,
            } => self.framework_added(&framework_id, role, weight_milli, run),
            Event::Subscribed { framework_id, spec } => self.subscribe(&framework_id, spec, run),
            Event::FrameworkRemoved { framework_id } => self.framework_removed(&framework_id, run),
            Event::Accepted {
                framework_id,
                offer_ids,
                used,
                refuse,
            } => self.accepted(&framework_id, &offer_ids, &used, refuse, now, run),
            Event::Operated {
                framework_id,
                offer_ids,
                operations,
                refuse,
            } => self.operated(&framework_id, &offer_ids, &operations, refuse, now, run),
            Event::Declined {
                framework_id,
                offer_ids,
                refuse,
            } => self.all_declined(&framework_id, &offer_ids, refuse, now, run),
            Event::Released {
                framework_id,
                agent_id,
                resources,
            } => self.released(&framework_id, &agent_id, &resources, run),
            Event::UsageEnded { agent_id, usage } => self.usage_ended(&agent_id, &usage, run),
            Event::Suppress { framework_id } => self.suppress(&framework_id, None, run),
            Event::SuppressRoles {
                framework_id,
                roles,
            } => self.suppress(&framework_id, Some(&roles), run),
            Event::Revive { framework_id } => self.revive(&framework_id, None, run),
            Event::ReviveRoles {
                framework_id,
                roles,
            } => self.revive(&framework_id, Some(&roles), run),
            Event::Demand {
                framework_id,
                role,
                smallest,
            } => self.demand(&framework_id, role, smallest, run),
            Event::WeightSet { role, weight_milli } => self.weight_set(&role, weight_milli, true),
            Event::QuotaSet { role, quota, force } => self.quota_set(&role, &quota, force, run),
            Event::Reserve {
                agent_id,
                stack,
                resources,
            } => self.reserve(&agent_id, &stack, &resources, run),
            Event::Unreserve {
                agent_id,
                stack,
                resources,
            } => self.unreserve(&agent_id, &stack, &resources, run),
            Event::CreateVolume {
                agent_id,
                stack,
                volume_id,
                volume,
            } => self.create_volume(&agent_id, &stack, &volume_id, volume, run),
            Event::DestroyVolume {
                agent_id,
                stack,
                volume_id,
            } => self.destroy_volume(&agent_id, &stack, &volume_id, run),
            Event::ResizeVolume {
                agent_id,
                stack,
                volume_id,
                size,
            } => self.resize_volume(&agent_id, &stack, &volume_id, size, run),
            Event::MaintenanceSet { agent_id, window } => {
                self.maintenance_set(&agent_id, window, now, run)
            }
            Event::InverseAnswered {
                framework_id,
                agent_id,
                accepted,
                refuse,
            } => self.inverse_answered(&framework_id, &agent_id, accepted, refuse, now),
            Event::Tick => Ok(()),
        }
    }

    fn framework_added(
        &mut self,
        id: &FrameworkId,
        role: String,
        weight_milli: u32,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        if weight_milli == 0 {
            return Err(Rejection::ZeroWeight(role));
        }
        let spec = FrameworkSpec {
            roles: vec![RoleSubscription {
                role: role.clone(),
                ..RoleSubscription::default()
            }],
            capabilities: Capabilities {
                gpus: true,
                region_aware: true,
                revocable: false,
            },
        };
        self.subscribe(id, spec, run)?;
        self.weight_set(&role, weight_milli, false)
    }

    fn weight_set(&mut self, role: &str, weight_milli: u32, pin: bool) -> Result<(), Rejection> {
        if weight_milli == 0 {
            return Err(Rejection::ZeroWeight(role.to_owned()));
        }
        waggle_types::check_role(role)?;
        let idx = self.tree.hold(role);
        self.tree.set_weight(idx, weight_milli);
        if let Some(node) = self.tree.nodes.get_mut(idx)
            && pin
        {
            node.pinned = weight_milli != 1000;
        }
        self.tree.release(idx);
        Ok(())
    }

    /// Offers what is free on the agents that were touched, each to the framework that is next, and what
    /// quota leaves of it to the next one.
    fn allocate(&mut self, now: UnixMillis, run: &mut Run) {
        if std::mem::take(&mut self.room) {
            run.dirty_list(self.held_back.iter());
            self.held_back.clear();
        }
        if run.all_free {
            run.dirty_list(self.with_free.iter());
        }
        let mut dirty = std::mem::take(&mut run.dirty);
        dirty.sort_unstable();
        dirty.dedup();
        self.resort();
        // Mostly there is one offer for each; growing step by step would move them all.
        run.effects.reserve(dirty.len().min(MAX_RESERVED));
        for agent in dirty {
            self.stats.n_looked_at += 1;
            while let Some(offer) = self.offer_next(agent, now) {
                run.effects.push(Effect::Offer(offer));
            }
        }
    }

    /// Books what an agent has free, after any change of that, and puts it on the list.
    pub(crate) fn touch(&mut self, idx: Idx, run: &mut Run) {
        self.recount(idx);
        run.dirty.push(idx);
    }

    pub(crate) fn recount(&mut self, idx: Idx) {
        let Some(agent) = self.agents.get_mut(idx) else {
            return;
        };
        let now = if agent.active {
            agent.plain_free_rows(&self.kinds)
        } else {
            Rows::default()
        };
        if now != agent.counted {
            let more = now.iter().zip(&agent.counted).any(|(n, o)| n > o);
            kinds::sub(&mut self.available, &agent.counted);
            kinds::add(&mut self.available, &now);
            agent.counted = now;
            self.room |= more && self.tree.n_quotas > 0;
        }
        self.with_free
            .set(idx, agent.active && !agent.free.is_empty());
        if let Some(look) = self.looks.get_mut(idx as usize) {
            look.open = agent.active && self.config.allocatable(&agent.free);
            look.known = false;
        }
    }

    pub(crate) fn reject(&mut self, what: &'static str, reason: Rejection, run: &mut Run) {
        self.stats.n_rejected += 1;
        run.effects.push(Effect::Rejected { what, reason });
    }

    pub(crate) fn agent_idx(&self, id: &AgentId) -> Result<Idx, Rejection> {
        let idx = self.agent_ids.get(id).copied();
        idx.ok_or_else(|| Rejection::UnknownAgent(id.clone()))
    }

    pub(crate) fn agent(&self, id: &AgentId) -> Option<&Agent> {
        self.agents.get(*self.agent_ids.get(id)?)
    }

    /// The number in an offer's id.
    pub(crate) fn number(&self, id: &OfferId) -> Option<u64> {
        let rest = id.as_str().strip_prefix(self.config.id_prefix.as_str())?;
        let digits = rest.strip_prefix("-O")?;
        let canonical = !digits.starts_with(['0', '+']);
        digits.parse().ok().filter(|_| canonical)
    }
}

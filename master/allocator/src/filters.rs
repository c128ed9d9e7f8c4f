//! Decline filters and the timers of filters, offers and maintenance.
//!
//! Filters are kept per agent, in groups: who declined the same bundle until the same time is one bit
//! each. Expiry is rounded up by less than a 64th of the refusal, so that there are few groups, and so
//! that an agent which everybody has declined is passed over with a handful of word operations.

use waggle_types::{Millis, Resources, UnixMillis};

use crate::{
    Allocator, RescindReason,
    allocator::Run,
    bits::{BitSet, Idx, NONE},
    ledger::Bundle,
    offers::Held,
};

/// Groups of decline filters that stand at once on one agent.
pub const MAX_FILTERS: usize = 256;

/// What some frameworks declined on an agent, until one time.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub resources: Resources,
    /// Whether reserved, and lent, resources were among it: those are only covered if they were.
    pub kinds: Kinds,
    pub until: UnixMillis,
    pub who: BitSet,
}

/// What kinds of parts a bundle has besides unreserved ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Kinds {
    pub reserved: bool,
    pub lent: bool,
}

impl Kinds {
    pub fn of(bundle: &Bundle) -> Self {
        Self {
            reserved: bundle.parts.iter().any(|p| p.pool != NONE && !p.lent),
            lent: bundle.parts.iter().any(|p| p.lent),
        }
    }

    fn cover(self, other: Self) -> bool {
        (self.reserved || !other.reserved) && (self.lent || !other.lent)
    }
}

impl Group {
    /// Whether a bundle is within what was declined.
    pub fn covers(&self, bundle: &Bundle) -> bool {
        self.kinds.cover(Kinds::of(bundle)) && self.resources.contains(&bundle.sum)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Offer(u64),
    Filters(Idx),
    Upkeep(Idx),
    Wave(Idx),
}

/// When a filter of this length expires: `now + refuse`, rounded up to a power of two of milliseconds
/// that is at most a 64th of `refuse`.
pub fn filter_expiry(now: UnixMillis, refuse: Millis) -> UnixMillis {
    let step = match refuse.0 / 64 {
        0 => 1,
        n => 1 << n.ilog2(),
    };
    let until = (now + refuse).0;
    UnixMillis(until.div_ceil(step).saturating_mul(step))
}

impl Allocator {
    /// Runs the timers that are due.
    pub(crate) fn expire(&mut self, now: UnixMillis, run: &mut Run) {
        while let Some((at, _)) = self.timers.first() {
            if *at > now {
                break;
            }
            match self.timers.pop_first() {
                Some((_, Timer::Offer(number))) => {
                    self.stats.n_timed_out += 1;
                    if let Some(held) = self.rescind(number, RescindReason::Timeout, run) {
                        self.turned_down(&held, self.config.default_refuse, now);
                    }
                }
                Some((_, Timer::Filters(idx))) => {
                    if let Some(agent) = self.agents.get_mut(idx) {
                        agent.filter_timer = None;
                        agent.filters.retain(|g| g.until > now);
                        if agent.filters.is_empty() {
                            // There are many agents, and most have none most of the time.
                            agent.filters = Vec::new();
                        }
                    }
                    if let Some(look) = self.looks.get_mut(idx as usize) {
                        look.known = false;
                    }
                    self.retime(idx);
                    run.dirty.push(idx);
                }
                Some((_, Timer::Upkeep(idx))) => self.upkeep_due(idx, now, run),
                Some((_, Timer::Wave(role))) => {
                    if let Some(wave) = self.waves.get_mut(&role) {
                        wave.again = None;
                    }
                }
                None => {}
            }
        }
    }

    /// A decline or a timeout: the filter stands, and the framework goes to the end of the round.
    pub(crate) fn turned_down(&mut self, held: &Held, refuse: Millis, now: UnixMillis) {
        if let Some(agent) = self.agents.get_mut(held.agent) {
            agent.declined.insert(held.client);
        }
        self.add_filter(held.client, held.agent, &held.bundle, refuse, now);
    }

    pub(crate) fn add_filter(
        &mut self,
        client: Idx,
        idx: Idx,
        bundle: &Bundle,
        refuse: Millis,
        now: UnixMillis,
    ) {
        let refuse = refuse.min(self.config.max_refuse);
        let until = filter_expiry(now, refuse);
        let (Some(c), Some(agent)) = (self.clients.get_mut(client), self.agents.get_mut(idx))
        else {
            return;
        };
        if until <= now || bundle.sum.is_empty() {
            return;
        }
        if let Some(look) = self.looks.get_mut(idx as usize) {
            look.known = false;
        }
        c.filtered.insert(idx);
        let kinds = Kinds::of(bundle);
        let mut joined = false;
        for g in &mut agent.filters {
            let same = g.until == until && g.kinds == kinds && g.resources == bundle.sum;
            if same {
                g.who.insert(client);
                joined = true;
            } else if g.until <= until
                && g.who.contains(client)
                && kinds.cover(g.kinds)
                && bundle.sum.contains(&g.resources)
            {
                // What the new filter covers for at least as long need not be kept.
                g.who.remove(client);
            }
        }
        agent.filters.retain(|g| !g.who.is_empty());
        if !joined {
            let mut who = BitSet::default();
            who.insert(client);
            agent.filters.reserve_exact(1);
            agent.filters.push(Group {
                resources: bundle.sum.clone(),
                kinds,
                until,
                who,
            });
        }
        if agent.filters.len() > MAX_FILTERS {
            let first = agent
                .filters
                .iter()
                .enumerate()
                .min_by_key(|(_, g)| g.until);
            if let Some((at, _)) = first {
                agent.filters.remove(at);
                self.stats.n_filters_dropped += 1;
            }
        }
        self.retime(idx);
    }

    /// One timer per agent: the first expiry among its filters.
    fn retime(&mut self, idx: Idx) {
        let Some(agent) = self.agents.get_mut(idx) else {
            return;
        };
        let next = agent.filters.iter().map(|g| g.until).min();
        if next == agent.filter_timer {
            return;
        }
        if let Some(old) = std::mem::replace(&mut agent.filter_timer, next) {
            self.timers.remove(&(old, Timer::Filters(idx)));
        }
        if let Some(at) = next {
            self.timers.insert((at, Timer::Filters(idx)));
        }
    }

    pub(crate) fn clear_filters(&mut self, client: Idx) {
        let Some(c) = self.clients.get_mut(client) else {
            return;
        };
        for idx in std::mem::take(&mut c.filtered).iter() {
            if let Some(agent) = self.agents.get_mut(idx) {
                for g in &mut agent.filters {
                    g.who.remove(client);
                }
                agent.filters.retain(|g| !g.who.is_empty());
            }
            if let Some(look) = self.looks.get_mut(idx as usize) {
                look.known = false;
            }
            self.retime(idx);
        }
    }
}

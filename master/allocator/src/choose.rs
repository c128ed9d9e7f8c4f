//! Who is next: unmet guarantees, then weighted dominant resource fairness down the tree of roles, in
//! rounds per agent so that nobody starves.
//!
//! Rank of a client, the smallest goes first: who has turned this agent down in the current round goes
//! last; then who is owed something; then the roles on its path by share, age and number, and at last the
//! framework by share, age and number. When only such are left who have turned it down, a new round begins.

use std::collections::BTreeMap;

use waggle_types::{Offer, Resources, UnixMillis};

use crate::{
    Allocator,
    bits::{BitSet, Idx},
    ledger::{Agent, Bundle, Part},
    roles::ROOT,
    volumes::without_volumes,
};

/// Up to this many candidates are ranked one by one; more are found by walking the tree.
const FEW: u32 = 16;

/// What a look at an agent begins with. It is computed when it is needed, and is of no value after a change
/// of what is free there, of filters, or of who is barred.
#[derive(Debug, Clone, Default)]
pub(crate) struct Look {
    /// It is active, and what is free is worth an offer.
    pub open: bool,
    pub known: bool,
    /// Clients that are barred, or have filtered all that is free.
    blocked: BitSet,
}

/// Sets that are used again and again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scratch {
    candidates: BitSet,
    fresh: BitSet,
}

impl Allocator {
    /// Offers what is free on this agent to whoever is next, if anybody.
    pub(crate) fn offer_next(&mut self, idx: Idx, now: UnixMillis) -> Option<Offer> {
        let look = self.looks.get_mut(idx as usize)?;
        if !look.open {
            return None;
        }
        if !look.known {
            let agent = self.agents.get(idx)?;
            look.blocked.copy_from(&agent.barred);
            // No bundle is larger than all that is free, unless it is of a kind that was not declined.
            let groups = agent.filters.iter().filter(|_| agent.pools.is_empty());
            for g in groups.filter(|g| g.resources.contains(&agent.free)) {
                look.blocked.union(&g.who);
            }
            look.known = true;
        }
        if self.askable.is_within(&look.blocked) {
            return None;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.candidates.copy_from(&self.askable);
        scratch.candidates.subtract(&look.blocked);
        let choice = self.choose(idx, &mut scratch);
        let n = scratch.candidates.len();
        self.scratch = scratch;
        let (client, bundle, new_round) = choice?;
        if new_round && let Some(agent) = self.agents.get_mut(idx) {
            agent.declined.clear();
        }
        self.make_offer(idx, client, bundle, n, now)
    }

    /// Who, what, and whether a new round begins.
    fn choose(&mut self, idx: Idx, sets: &mut Scratch) -> Option<(Idx, Bundle, bool)> {
        let agent = self.agents.get(idx)?;
        let (mut held_back, mut new_round) = (false, false);
        let mut found = None;
        if agent.declined.is_empty() {
            found = self.choose_among(agent, &sets.candidates, &mut held_back);
        } else {
            sets.fresh.copy_from(&sets.candidates);
            sets.fresh.subtract(&agent.declined);
            if !sets.fresh.is_empty() {
                found = self.choose_among(agent, &sets.fresh, &mut held_back);
            }
            if found.is_none() {
                // Those who are left have all turned it down in this round.
                let mut again = sets.candidates.clone();
                again.subtract(&sets.fresh);
                found = self.choose_among(agent, &again, &mut held_back);
                new_round = true;
            }
        }
        if held_back {
            self.held_back.insert(idx);
        }
        found.map(|(client, bundle)| (client, bundle, new_round))
    }

    fn choose_among(
        &self,
        agent: &Agent,
        candidates: &BitSet,
        held_back: &mut bool,
    ) -> Option<(Idx, Bundle)> {
        let owed = self.owed_among(candidates);
        if owed.is_empty() {
            return self.first(candidates, |c| self.bundle_for(agent, c, held_back));
        }
        let found = self.first(&owed, |c| self.bundle_for(agent, c, held_back));
        if found.is_some() {
            return found;
        }
        let mut rest = candidates.clone();
        rest.subtract(&owed);
        self.first(&rest, |c| self.bundle_for(agent, c, held_back))
    }

    /// Candidates whose role, or one above it, is owed something of its guarantee that they could be given.
    fn owed_among(&self, candidates: &BitSet) -> BitSet {
        let mut owed = BitSet::default();
        let mut by_role: BTreeMap<Idx, bool> = BTreeMap::new();
        for role in &self.tree.owed {
            self.tree.walk(*role, candidates, &mut |client| {
                let role = self.clients.get(client).map_or(ROOT, |c| c.role);
                let is_owed = || self.allowance(role).is_some_and(|a| a.owed);
                owed.set(client, *by_role.entry(role).or_insert_with(is_owed));
                false
            });
        }
        owed
    }

    /// The first candidate by rank who can be offered something, and what.
    fn first(
        &self,
        candidates: &BitSet,
        mut bundle: impl FnMut(Idx) -> Option<Bundle>,
    ) -> Option<(Idx, Bundle)> {
        let mut found = None;
        let mut visit = |client: Idx| {
            found = bundle(client).map(|b| (client, b));
            found.is_some()
        };
        if candidates.len() <= FEW {
            let rank = |idx: &Idx| {
                let c = self.clients.get(*idx);
                c.map(|c| self.tree.rank(c.role, c.slot))
            };
            let mut few: Vec<Idx> = candidates.iter().collect();
            few.sort_by_cached_key(rank);
            debug_assert_eq!(few, self.walked(candidates), "both ways give one order");
            few.into_iter().any(visit);
        } else {
            self.tree.walk(ROOT, candidates, &mut visit);
        }
        found
    }

    /// All candidates in the order of the tree.
    fn walked(&self, candidates: &BitSet) -> Vec<Idx> {
        let mut all = Vec::new();
        self.tree.walk(ROOT, candidates, &mut |client| {
            all.push(client);
            false
        });
        all
    }

    /// What this client could be offered of an agent now, if that is worth an offer and not filtered.
    /// `held_back` is set when quota made it less.
    pub(crate) fn bundle_for(
        &self,
        agent: &Agent,
        client: Idx,
        held_back: &mut bool,
    ) -> Option<Bundle> {
        let c = self.clients.get(client)?;
        let bundle = if agent.pools.is_empty() && self.tree.n_quotas == 0 {
            Bundle {
                sum: agent.free.clone(),
                parts: Vec::new(),
            }
        } else {
            self.divided(agent, client, held_back)
        };
        let enough = !bundle.sum.is_empty()
            && self.config.allocatable(&bundle.sum)
            && c.smallest.as_ref().is_none_or(|s| bundle.sum.contains(s));
        let filtered = |bundle: &Bundle| {
            let of_it = agent.filters.iter().filter(|g| g.who.contains(client));
            of_it.into_iter().any(|g| g.covers(bundle))
        };
        (enough && !filtered(&bundle)).then_some(bundle)
    }

    /// What is unreserved and allowed by quota, what is reserved for this client's role, and what is lent.
    pub(crate) fn divided(&self, agent: &Agent, client: Idx, held_back: &mut bool) -> Bundle {
        let mut bundle = Bundle::default();
        let Some(c) = self.clients.get(client) else {
            return bundle;
        };
        let capabilities = self.frameworks.get(c.framework).map(|f| f.capabilities);
        let revocable = capabilities.is_some_and(|c| c.revocable);
        let mut plain = agent.plain_free();
        if let Some(allowance) = self.allowance(c.role) {
            *held_back |= self.kinds.cut(&mut plain, &allowance.most);
            if plain.scalars.iter().all(|s| s.0 == 0) {
                // Ports and custom kinds alone are of no use, and would be missing where they are.
                plain = Resources::default();
            }
        }
        for pool in agent.pools.iter().filter(|p| !p.free.is_empty()) {
            let Some(stack) = self.stacks.get(pool.key) else {
                continue;
            };
            let lent = !self.tree.is_within(c.role, stack.role);
            if lent && !(revocable && self.is_idle(stack.role)) {
                continue;
            }
            let resources = if lent {
                without_volumes(&pool.free).into_owned()
            } else {
                pool.free.clone()
            };
            if resources.is_empty() {
                continue;
            }
            bundle.add(Part {
                pool: pool.key,
                lent,
                resources,
            });
        }
        bundle.sum.try_add(&plain);
        bundle
    }
}

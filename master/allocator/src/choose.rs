//! Who is next: unmet guarantees, then weighted dominant resource fairness down the tree of roles, in
//! rounds per agent so that nobody starves.
//!
//! Rank of a client, the smallest goes first: who has turned this agent down in the current round goes
//! last; then who is owed something; then the roles on its path by share, age and number, and at last the
//! framework by share, age and number. When only such are left who have turned it down, a new round begins.

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

impl Allocator {
    /// Offers what is free on this agent to whoever is next, if anybody.
    pub(crate) fn offer_next(&mut self, idx: Idx, now: UnixMillis) -> Option<Offer> {
        let agent = self.agents.get(idx)?;
        if !agent.active || agent.free.is_empty() || !self.config.allocatable(&agent.free) {
            return None;
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.copy_from(&self.askable);
        candidates.subtract(&agent.barred);
        for group in &agent.filters {
            // No bundle is larger than all that is free, unless it is of a kind that was not declined.
            if agent.pools.is_empty() && group.resources.contains(&agent.free) {
                candidates.subtract(&group.who);
            }
        }
        let choice = self.choose(idx, &candidates);
        let n = candidates.len();
        self.candidates = candidates;
        let (client, bundle, new_round) = choice?;
        if new_round && let Some(agent) = self.agents.get_mut(idx) {
            agent.declined.clear();
        }
        self.make_offer(idx, client, bundle, n, now)
    }

    /// Who, what, and whether a new round begins.
    fn choose(&mut self, idx: Idx, candidates: &BitSet) -> Option<(Idx, Bundle, bool)> {
        if candidates.is_empty() {
            return None;
        }
        let mut held_back = false;
        let mut found = None;
        let agent = self.agents.get(idx)?;
        if agent.declined.is_empty() {
            found = self.choose_among(agent, candidates, &mut held_back);
        } else {
            let mut fresh = candidates.clone();
            fresh.subtract(&agent.declined);
            found = found.or_else(|| self.choose_among(agent, &fresh, &mut held_back));
            if found.is_none() {
                let mut again = candidates.clone();
                again.subtract(&fresh);
                let second = self.choose_among(agent, &again, &mut held_back);
                if let Some((client, bundle)) = second {
                    if held_back {
                        self.held_back.insert(idx);
                    }
                    return Some((client, bundle, true));
                }
            }
        }
        if held_back {
            self.held_back.insert(idx);
        }
        found.map(|(client, bundle)| (client, bundle, false))
    }

    fn choose_among(
        &self,
        agent: &Agent,
        candidates: &BitSet,
        held_back: &mut bool,
    ) -> Option<(Idx, Bundle)> {
        if self.tree.n_quotas == 0 {
            return self.first(candidates, |client| {
                self.bundle_for(agent, client, held_back)
            });
        }
        let owed = |client: Idx| {
            let role = self.clients.get(client).map_or(ROOT, |c| c.role);
            self.allowance(role).is_some_and(|a| a.owed)
        };
        let mut first = BitSet::default();
        for client in candidates.iter().filter(|c| owed(*c)) {
            first.insert(client);
        }
        if !first.is_empty() {
            let found = self.first(&first, |c| self.bundle_for(agent, c, held_back));
            if found.is_some() {
                return found;
            }
        }
        let mut rest = candidates.clone();
        rest.subtract(&first);
        self.first(&rest, |client| self.bundle_for(agent, client, held_back))
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

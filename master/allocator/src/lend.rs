//! Lending what idle roles have reserved, and taking it back.
//!
//! What is reserved for a role in which nobody wants anything is lent to frameworks that take revocable
//! resources. When somebody in the role wants offers again, offers of it are rescinded at once, and what is
//! free goes to the owner first. Tasks are evicted only for what the owner finds nothing else for: in waves,
//! on one agent, then on two, on four, each when the one before has ended and nobody in the role holds an
//! offer (it has been used, or was turned down). On each agent no more is taken than makes the smallest
//! bundle that somebody in the role has use for; all of it, if nobody has said. When the role is idle again
//! the rest stays lent.

use std::collections::BTreeSet;

use waggle_types::{Millis, Resources, UnixMillis};

use crate::{
    Allocator, EvictReason, RescindReason,
    allocator::Run,
    bits::{Idx, NONE},
    filters::Timer,
    ledger::{Part, Use},
};

/// When nothing of use could be taken back: how long until it is looked at again.
const LOOK_AGAIN: Millis = Millis(1000);

/// A role takes back what it has lent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wave {
    /// On how many agents the next one takes something back.
    size: usize,
    /// Agents on which tasks were told to end, and have not.
    awaited: BTreeSet<Idx>,
    /// Not to be looked at before.
    pub again: Option<UnixMillis>,
}

impl Allocator {
    /// Whether nobody who may use what is reserved for this role wants it: all are suppressed, or there is
    /// nobody.
    pub(crate) fn is_idle(&self, role: Idx) -> bool {
        self.tree.nodes.get(role).is_none_or(|n| n.n_askable == 0)
    }

    fn owner(&self, part: &Part) -> Option<Idx> {
        self.stacks.get(part.pool).map(|s| s.role)
    }

    fn is_lent_by(&self, role: Idx, part: &Part) -> bool {
        part.lent && self.owner(part) == Some(role)
    }

    /// Somebody who may use what is reserved for this role wants offers again: what is lent of it and not in
    /// use comes back at once.
    pub(crate) fn wanted_back(&mut self, role: Idx, run: &mut Run) {
        let owned = |key: Idx| self.stacks.get(key).is_some_and(|s| s.role == role);
        let has = |idx: &Idx| {
            let pools = self.agents.get(*idx).map(|a| &a.pools);
            pools.is_some_and(|p| p.iter().any(|p| owned(p.key)))
        };
        let agents: Vec<Idx> = self.with_pools.iter().filter(has).collect();
        for idx in agents {
            let holds = |number: &&u64| {
                let parts = self.offers.get(number).map(|h| &h.bundle.parts);
                parts.is_some_and(|p| p.iter().any(|p| self.is_lent_by(role, p)))
            };
            let offers = self.agents.get(idx).map(|a| &a.offers);
            let offers: Vec<u64> = offers
                .into_iter()
                .flatten()
                .filter(holds)
                .copied()
                .collect();
            for number in offers {
                self.rescind(number, RescindReason::Reclaimed, run);
            }
            run.dirty.push(idx);
        }
        self.begin(role);
    }

    fn begin(&mut self, role: Idx) {
        let lent = self.lent.range((role, 0)..=(role, NONE)).next();
        if lent.is_some() && !self.is_idle(role) {
            self.waves.entry(role).or_insert(Wave {
                size: 1,
                awaited: BTreeSet::new(),
                again: None,
            });
        }
    }

    fn end(&mut self, role: Idx) {
        if let Some(at) = self.waves.remove(&role).and_then(|w| w.again) {
            self.timers.remove(&(at, Timer::Wave(role)));
        }
    }

    /// A use of an agent, perhaps of something lent, has become more or less.
    pub(crate) fn lent_changed(&mut self, idx: Idx, part: &Part) {
        if !part.lent {
            return;
        }
        let Some(role) = self.owner(part) else {
            return;
        };
        let uses = self.agents.get(idx).map(|a| &a.uses);
        let mut of_role = uses
            .into_iter()
            .flatten()
            .filter(|u| self.is_lent_by(role, &u.part));
        let ending = of_role.clone().any(|u| u.ending().is_some());
        if of_role.next().is_some() {
            self.lent.insert((role, idx));
            self.begin(role);
        } else {
            self.lent.remove(&(role, idx));
        }
        if let Some(wave) = self.waves.get_mut(&role)
            && !ending
        {
            wave.awaited.remove(&idx);
        }
        if self.lent.range((role, 0)..=(role, NONE)).next().is_none() {
            self.end(role);
        }
    }

    /// An agent is out of reach: nobody waits for what was to end there.
    pub(crate) fn not_awaited(&mut self, idx: Idx) {
        for wave in self.waves.values_mut() {
            wave.awaited.remove(&idx);
        }
    }

    /// The next wave of each role that has lent something and wants it.
    pub(crate) fn take_back_lent(&mut self, now: UnixMillis, run: &mut Run) {
        if self.waves.is_empty() {
            return;
        }
        // From the deepest roles up: what was reserved for a subrole goes back to it first.
        let mut roles: Vec<Idx> = self.waves.keys().copied().collect();
        roles.sort_by_key(|r| (std::cmp::Reverse(self.tree.path(*r).count()), *r));
        for role in roles {
            if self.is_idle(role) {
                self.end(role);
                continue;
            }
            let below =
                |(r, w): (&Idx, &Wave)| !w.awaited.is_empty() && self.tree.is_within(*r, role);
            let offered = self.tree.nodes.get(role).is_some_and(|n| n.n_offers > 0);
            let rests = self.waves.get(&role).is_none_or(|w| w.again.is_some());
            if rests || offered || self.waves.iter().any(below) {
                continue;
            }
            self.wave(role, now, run);
        }
    }

    fn wave(&mut self, role: Idx, now: UnixMillis, run: &mut Run) {
        let size = self.waves.get(&role).map_or(1, |w| w.size);
        let mut clients = Vec::new();
        self.tree.walk(role, &self.askable, &mut |client| {
            clients.push(client);
            false
        });
        let lent_on: Vec<Idx> = self
            .lent
            .range((role, 0)..=(role, NONE))
            .map(|(_, idx)| *idx)
            .collect();
        let mut awaited = BTreeSet::new();
        for idx in lent_on {
            if awaited.len() == size {
                break;
            }
            let back = clients.iter().find_map(|c| self.of_use(idx, role, *c));
            for (at, resources) in back.unwrap_or_default() {
                self.take_back_use(idx, at, resources, run);
                awaited.insert(idx);
            }
        }
        let Some(wave) = self.waves.get_mut(&role) else {
            return;
        };
        if awaited.is_empty() {
            // Filters may expire, agents come back, other resources become free.
            wave.again = Some(now + LOOK_AGAIN);
            self.timers.insert((now + LOOK_AGAIN, Timer::Wave(role)));
        } else {
            wave.size = size.saturating_mul(2);
            wave.awaited = awaited;
        }
    }

    /// What uses of an agent have to end, and of each how much, so that this client can be offered it.
    fn of_use(&self, idx: Idx, role: Idx, client: Idx) -> Option<Vec<(usize, Resources)>> {
        let agent = self.agents.get(idx)?;
        let c = self.clients.get(client)?;
        if !agent.active || agent.barred.contains(client) {
            return None;
        }
        let mut bundle = self.divided(agent, client, &mut false);
        // What ends by now comes anyhow.
        let uses = || {
            let all = agent.uses.iter().enumerate();
            all.filter(|(_, u)| self.is_lent_by(role, &u.part))
        };
        for (_, u) in uses() {
            if let Some(ending) = u.ending() {
                bundle.add(Part {
                    lent: false,
                    resources: ending.clone(),
                    ..u.part
                });
            }
        }
        let mut missing = match &c.smallest {
            Some(smallest) => Some(smallest.checked_sub(&smallest.common(&bundle.sum))?),
            None => None,
        };
        let mut out = Vec::new();
        for (at, u) in uses() {
            let rest = match u.ending() {
                Some(ending) => u.part.resources.checked_sub(ending)?,
                None => u.part.resources.clone(),
            };
            let back = match &mut missing {
                Some(missing) => {
                    let back = rest.common(missing);
                    missing.try_sub(&back)?;
                    back
                }
                None => rest,
            };
            if !back.is_empty() {
                bundle.add(Part {
                    lent: false,
                    resources: back.clone(),
                    ..u.part
                });
                out.push((at, back));
            }
        }
        let enough = missing.is_none_or(|m| m.is_empty()) && self.config.allocatable(&bundle.sum);
        let mut filters = agent.filters.iter().filter(|g| g.who.contains(client));
        let wanted = enough && !filters.any(|g| g.covers(&bundle));
        (wanted && !out.is_empty()).then_some(out)
    }

    fn take_back_use(&mut self, idx: Idx, at: usize, resources: Resources, run: &mut Run) {
        let uses = self.agents.get_mut(idx).map(|a| &mut a.uses);
        let Some(u) = uses.and_then(|u| u.get_mut(at)) else {
            return;
        };
        u.end(&resources);
        let u: Use = u.clone();
        self.evict(idx, &u, resources, None, EvictReason::Reclaimed, run);
    }
}

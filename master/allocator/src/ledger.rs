//! One agent's books: what is used, offered and free, in total and of each reservation.

use std::{collections::BTreeMap, sync::Arc};

use waggle_types::{AgentInfo, Resources, UnixMillis, Volume, VolumeId};

use crate::{
    LastChoice,
    bits::{BitSet, Idx, NONE},
    filters::Group,
    kinds::{self, Kinds, Rows},
    maintain::Upkeep,
    volumes::owned,
};

/// Up to so many uses, an agent keeps room for no more than it has.
const EXACT: usize = 16;

/// Books that do not add up: a bug, found by [`crate::Allocator::check`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// `used + offered + free` is not `total`.
    #[error("agent {agent_id}: {books}")]
    Unbalanced {
        /// Which agent.
        agent_id: waggle_types::AgentId,
        /// All four sums, as text.
        books: String,
    },
    /// The parts that a sum is kept of do not add up to it.
    #[error("{what} of {of} is not the sum of its parts")]
    WrongSum {
        /// Which sum.
        what: &'static str,
        /// Of which agent, framework or role.
        of: String,
    },
    /// A role holds more than its limit by the allocator's own act.
    #[error("role {0} is over its limit")]
    OverLimit(String),
}

/// Resources of one reservation (or of none), owned or lent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Number of the reservation, or [`NONE`].
    pub pool: Idx,
    /// Lent from a reservation of another role: revocable.
    pub lent: bool,
    pub resources: Resources,
}

/// What an offer holds: the sum, and of it what is reserved or lent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Bundle {
    pub sum: Resources,
    pub parts: Vec<Part>,
}

impl Bundle {
    /// The unreserved rest.
    pub fn plain(&self) -> Resources {
        let mut plain = self.sum.clone();
        for part in &self.parts {
            let fits = plain.try_sub(&part.resources);
            debug_assert!(fits.is_some(), "parts are within their sum");
        }
        plain
    }

    /// Adds to the sum and to the part of its kind.
    pub fn add(&mut self, part: Part) {
        let same = |p: &&mut Part| (p.pool, p.lent) == (part.pool, part.lent);
        self.sum.try_add(&part.resources);
        match self.parts.iter_mut().find(same) {
            Some(p) => {
                p.resources.try_add(&part.resources);
            }
            None if part.resources.is_empty() => {}
            None => self.parts.push(part),
        }
    }

    /// All parts, the unreserved one last.
    pub fn all_parts(&self) -> Vec<Part> {
        let mut all = self.parts.clone();
        let resources = self.plain();
        if !resources.is_empty() {
            all.push(Part {
                pool: NONE,
                lent: false,
                resources,
            });
        }
        all
    }
}

/// What a framework uses of an agent, of one reservation.
#[derive(Debug, Clone)]
pub(crate) struct Use {
    pub client: Idx,
    /// All but shared volumes.
    pub part: Part,
    /// Few uses have any of it, and there are several to each of very many agents.
    rare: Option<Box<Rare>>,
}

/// What few uses have; never empty while it is kept.
#[derive(Debug, Clone, Default)]
struct Rare {
    /// Shared volumes, and how many times each.
    shared: BTreeMap<VolumeId, (Volume, usize)>,
    /// Of what is lent: what was told to end and has not ended.
    ending: Resources,
}

impl Use {
    /// Shared volumes, and how many times each.
    fn shared(&self) -> impl Iterator<Item = (&VolumeId, &(Volume, usize))> {
        self.rare.iter().flat_map(|r| &r.shared)
    }

    /// One of these.
    fn shared_as(&self, id: &VolumeId) -> Option<&(Volume, usize)> {
        self.rare.as_ref()?.shared.get(id)
    }

    /// Of what is lent: what was told to end and has not ended, if anything.
    pub fn ending(&self) -> Option<&Resources> {
        let ending = self.rare.as_ref().map(|r| &r.ending);
        ending.filter(|e| !e.is_empty())
    }

    /// What is told to end besides.
    pub fn end(&mut self, resources: &Resources) {
        if !resources.is_empty() {
            self.rare.get_or_insert_default().ending.try_add(resources);
        }
    }

    /// These shared volumes are in use once less, and so much of the rest ends.
    fn ended(&mut self, part: &Resources, owned: &Resources) {
        let Some(rare) = &mut self.rare else {
            return;
        };
        for (id, _) in shared(part) {
            if let Some((_, n)) = rare.shared.get_mut(id) {
                *n -= 1;
            }
        }
        let ended = rare.ending.common(owned);
        rare.ending.try_sub(&ended);
        rare.shared.retain(|_, (_, n)| *n > 0);
        if rare.shared.is_empty() && rare.ending.is_empty() {
            self.rare = None;
        }
    }

    /// All that is used, shared volumes included.
    pub fn resources(&self) -> Resources {
        let mut all = self.part.resources.clone();
        for (id, (volume, _)) in self.shared() {
            all.custom.set_volume(id.clone(), *volume);
        }
        all
    }

    /// What is both used and in another bundle.
    pub fn common(&self, other: &Resources) -> Resources {
        if self.shared().next().is_none() {
            self.part.resources.common(other)
        } else {
            self.resources().common(other)
        }
    }

    /// All that is used, in parts that use each shared volume once at most.
    pub fn one_by_one(&self) -> Vec<Part> {
        let most = self.shared().map(|(_, (_, n))| *n).max();
        let part = |at: usize| {
            let mut part = self.part.clone();
            if at > 0 {
                part.resources = Resources::default();
            }
            for (id, (volume, _)) in self.shared().filter(|(_, (_, n))| *n > at) {
                part.resources.custom.set_volume(id.clone(), *volume);
            }
            part
        };
        (0..most.unwrap_or(0).max(1)).map(part).collect()
    }

    /// How many times it uses a volume.
    pub fn times(&self, id: &VolumeId) -> usize {
        let owned = self.part.resources.custom.volume(id).is_some();
        self.shared_as(id).map_or(0, |(_, n)| *n) + usize::from(owned)
    }

    fn is_empty(&self) -> bool {
        self.part.resources.is_empty() && self.shared().next().is_none()
    }
}

/// A reservation on an agent. Shared volumes are always free.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    pub key: Idx,
    pub total: Resources,
    pub used: Resources,
    pub offered: Resources,
    pub free: Resources,
}

#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub info: Arc<AgentInfo>,
    pub active: bool,
    /// All that it has, with volumes in place of the disk that they are made of.
    pub total: Resources,
    pub used: Resources,
    pub offered: Resources,
    pub free: Resources,
    pub pools: Vec<Pool>,
    pub uses: Vec<Use>,
    /// Numbers of the offers that are out.
    pub offers: Vec<u64>,
    pub filters: Vec<Group>,
    /// When the first of the filters expires.
    pub filter_timer: Option<UnixMillis>,
    /// Clients that were asked in this round; a round begins when somebody turns the agent down.
    pub declined: BitSet,
    /// Clients that are never offered it.
    pub barred: BitSet,
    pub last_choice: Option<LastChoice>,
    pub upkeep: Upkeep,
    /// What it adds to the cluster's unreserved free resources.
    pub counted: Rows,
}

impl Agent {
    /// An offer of it was answered. Who turns it down (or takes nothing of it, or an idle framework could
    /// keep the others waiting) goes behind everybody who was not asked since; and as long as somebody
    /// waits there, who took something has been asked too. Otherwise one decline would put a framework
    /// behind a greedy one for good.
    pub fn answered(&mut self, client: Idx, took: bool) {
        if !took || !self.declined.is_empty() {
            self.declined.insert(client);
        }
    }

    /// An agent of which all is free and nothing reserved.
    pub fn open(info: Arc<AgentInfo>, total: Resources) -> Self {
        Self {
            active: true,
            used: Resources::default(),
            offered: Resources::default(),
            free: total.clone(),
            total,
            info,
            pools: Vec::new(),
            uses: Vec::new(),
            offers: Vec::new(),
            filters: Vec::new(),
            filter_timer: None,
            declined: BitSet::default(),
            barred: BitSet::default(),
            last_choice: None,
            upkeep: Upkeep::default(),
            counted: Rows::default(),
        }
    }

    pub fn pool(&self, key: Idx) -> Option<&Pool> {
        self.pools.iter().find(|p| p.key == key)
    }

    pub fn pool_mut(&mut self, key: Idx) -> Option<&mut Pool> {
        self.pools.iter_mut().find(|p| p.key == key)
    }

    /// What is free and not reserved.
    pub fn plain_free(&self) -> Resources {
        let mut free = self.free.clone();
        for pool in &self.pools {
            let fits = free.try_sub(&pool.free);
            debug_assert!(fits.is_some(), "pools are within the agent");
        }
        free
    }

    /// The same, in rows.
    pub fn plain_free_rows(&self, kinds: &Kinds) -> Rows {
        let mut free = kinds.rows(&self.free);
        for pool in &self.pools {
            kinds::sub(&mut free, &kinds.rows(&pool.free));
        }
        free
    }

    /// Free of one reservation, or of none.
    pub fn free_of(&self, pool: Idx) -> Resources {
        if pool == NONE {
            self.plain_free()
        } else {
            self.pool(pool).map(|p| p.free.clone()).unwrap_or_default()
        }
    }

    /// Free becomes offered. `None`, and nothing changed, when it is not free.
    pub fn hold(&mut self, bundle: &Bundle, number: u64) -> Option<()> {
        for part in &bundle.parts {
            self.pool(part.pool)?.free.checked_sub(&part.resources)?;
        }
        let sum = owned(&bundle.sum);
        if self.free == *sum && self.offered.is_empty() {
            std::mem::swap(&mut self.free, &mut self.offered);
        } else {
            self.free.try_sub(&sum)?;
            self.offered.try_add(&sum)?;
        }
        for part in &bundle.parts {
            let pool = self.pool_mut(part.pool)?;
            let r = owned(&part.resources);
            pool.free.try_sub(&r)?;
            pool.offered.try_add(&r)?;
        }
        self.offers.push(number);
        Some(())
    }

    /// An offer ends: what it held is free.
    pub fn unhold(&mut self, bundle: &Bundle, number: u64) {
        let sum = owned(&bundle.sum);
        let mut fits = true;
        if self.offered == *sum && self.free.is_empty() {
            std::mem::swap(&mut self.free, &mut self.offered);
        } else {
            fits &= self.offered.try_sub(&sum).is_some();
            fits &= self.free.try_add(&sum).is_some();
        }
        for part in &bundle.parts {
            let r = owned(&part.resources);
            if let Some(pool) = self.pool_mut(part.pool) {
                fits &= pool.offered.try_sub(&r).is_some();
                fits &= pool.free.try_add(&r).is_some();
            }
        }
        debug_assert!(fits, "an offer holds what was booked for it");
        self.offers.retain(|n| *n != number);
    }

    /// Free becomes used. `None`, and nothing changed, when it is not free.
    pub fn take(&mut self, client: Idx, part: &Part) -> Option<()> {
        if part.pool == NONE {
            self.plain_free().checked_sub(&part.resources)?;
        } else {
            self.pool(part.pool)?.free.checked_sub(&part.resources)?;
        }
        let r = owned(&part.resources);
        self.free.try_sub(&r)?;
        self.used.try_add(&r)?;
        if let Some(pool) = self.pool_mut(part.pool) {
            pool.free.try_sub(&r)?;
            pool.used.try_add(&r)?;
        }
        let at = if let Some(at) = self.use_at(client, part) {
            self.uses[at].part.resources.try_add(&r)?;
            at
        } else {
            if self.uses.len() < EXACT {
                // Mostly few frameworks are at work on an agent, and there are many agents.
                self.uses.reserve_exact(1);
            }
            self.uses.push(Use {
                client,
                part: Part {
                    resources: r.into_owned(),
                    ..*part
                },
                rare: None,
            });
            self.uses.len() - 1
        };
        for (id, volume) in shared(&part.resources) {
            let rare = self.uses[at].rare.get_or_insert_default();
            rare.shared.entry(id.clone()).or_insert((volume, 0)).1 += 1;
        }
        Some(())
    }

    fn use_at(&self, client: Idx, part: &Part) -> Option<usize> {
        let same = |u: &Use| (u.client, u.part.pool, u.part.lent) == (client, part.pool, part.lent);
        self.uses.iter().position(same)
    }

    /// Used becomes free. `None`, and nothing changed, when the framework does not use that much of it.
    pub fn release(&mut self, client: Idx, part: &Part) -> Option<()> {
        let at = self.use_at(client, part)?;
        let of = self.uses.get_mut(at)?;
        if !shared(&part.resources).all(|(id, v)| of.shared_as(id).is_some_and(|s| s.0 == v)) {
            return None;
        }
        let r = owned(&part.resources);
        of.part.resources.try_sub(&r)?;
        of.ended(&part.resources, &r);
        if of.is_empty() {
            self.uses.remove(at);
        }
        self.used.try_sub(&r)?;
        self.free.try_add(&r)?;
        if let Some(pool) = self.pool_mut(part.pool) {
            pool.used.try_sub(&r)?;
            pool.free.try_add(&r)?;
        }
        Some(())
    }

    /// Moves free resources from one reservation (or none) to another. `None`, and nothing changed, when
    /// they are not free.
    pub fn move_free(&mut self, from: Idx, to: Idx, r: &Resources) -> Option<()> {
        self.free_of(from).checked_sub(r)?;
        if let Some(pool) = self.pool_mut(from) {
            pool.free.try_sub(r)?;
            pool.total.try_sub(r)?;
        }
        if to != NONE {
            if self.pool(to).is_none() {
                self.pools.push(Pool {
                    key: to,
                    total: Resources::default(),
                    used: Resources::default(),
                    offered: Resources::default(),
                    free: Resources::default(),
                });
                self.pools.sort_by_key(|p| p.key);
            }
            let pool = self.pool_mut(to)?;
            pool.free.try_add(r)?;
            pool.total.try_add(r)?;
        }
        self.pools.retain(|p| !p.total.is_empty());
        Some(())
    }

    pub fn check(&self) -> Result<(), LedgerError> {
        let wrong = |books: String| LedgerError::Unbalanced {
            agent_id: self.info.agent_id.clone(),
            books,
        };
        let sum = |parts: [&Resources; 3]| {
            parts
                .iter()
                .try_fold(Resources::default(), |s, r| s.checked_add(r))
        };
        if sum([&self.used, &self.offered, &self.free]).as_ref() != Some(&self.total) {
            return Err(wrong(format!(
                "used {}, offered {} and free {} do not add up to {}",
                self.used, self.offered, self.free, self.total
            )));
        }
        let mut reserved = Resources::default();
        for p in &self.pools {
            let same = sum([&p.used, &p.offered, &p.free]).as_ref() == Some(&p.total);
            if !same || reserved.try_add(&p.total).is_none() || !self.free.contains(&p.free) {
                return Err(wrong(format!("reservation {} does not add up", p.key)));
            }
            let mut used = Resources::default();
            for u in self.uses.iter().filter(|u| u.part.pool == p.key) {
                used = used.checked_add(&u.part.resources).unwrap_or_default();
            }
            if used != p.used {
                return Err(wrong(format!(
                    "use of reservation {} is not its sum",
                    p.key
                )));
            }
        }
        for u in &self.uses {
            let of = self.pool(u.part.pool).map(|p| &p.free.custom);
            let there = |(id, (v, n)): (&VolumeId, &(Volume, usize))| {
                *n > 0 && v.shared && of.is_some_and(|f| f.volume(id) == Some(*v))
            };
            if !u.shared().all(there) {
                return Err(wrong("a shared volume in use is not there".to_owned()));
            }
        }
        if !self.total.contains(&reserved) {
            return Err(wrong(format!("{reserved} is reserved")));
        }
        let by = self.uses.iter().try_fold(Resources::default(), |s, u| {
            s.checked_add(&u.part.resources)
        });
        if by.as_ref() == Some(&self.used) {
            Ok(())
        } else {
            Err(LedgerError::WrongSum {
                what: "usage by framework",
                of: self.info.agent_id.to_string(),
            })
        }
    }
}

fn shared(r: &Resources) -> impl Iterator<Item = (&VolumeId, Volume)> {
    r.custom.volumes().filter(|(_, v)| v.shared)
}

/// Divides `want` among `from`, in order. `None` when there is not enough.
pub(crate) fn split(from: &[Part], want: &Resources) -> Option<Vec<Part>> {
    let mut left = want.clone();
    let mut out = Vec::new();
    for part in from {
        let resources = part.resources.common(&left);
        if !resources.is_empty() {
            left.try_sub(&resources)?;
            out.push(Part {
                resources,
                ..part.clone()
            });
        }
    }
    left.is_empty().then_some(out)
}

pub(crate) fn is_negative(r: &Resources) -> bool {
    r.is_negative()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_small_for_there_are_several_to_each_of_many_agents() {
        let words = size_of::<Use>() / size_of::<usize>();
        assert!(words <= 11, "{words} words");
    }

    #[test]
    fn what_few_uses_have_is_gone_with_the_last_of_it() {
        let mut u = Use {
            client: 0,
            part: Part {
                pool: NONE,
                lent: true,
                resources: Resources::from_millis(2000, 0, 0),
            },
            rare: None,
        };
        let one = Resources::from_millis(1000, 0, 0);
        u.end(&Resources::default());
        assert!(u.rare.is_none(), "nothing is told to end");
        u.end(&one);
        u.end(&one);
        u.ended(&one, &one);
        assert_eq!(u.ending(), Some(&one));
        u.ended(&one, &one);
        assert_eq!(u.ending(), None);
        assert!(u.rare.is_none(), "nothing is left of it");
    }
}

//! One agent's books: what is used, offered and free, in total and of each reservation.

use waggle_types::{AgentInfo, Resources, UnixMillis};

use crate::{
    LastChoice, Rejection,
    bits::{BitSet, Idx, NONE},
    filters::Group,
    maintain::Upkeep,
    share::{Scalars, scalars},
};

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
    pub part: Part,
}

/// A reservation on an agent.
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
    pub info: AgentInfo,
    pub active: bool,
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
    pub counted: Scalars,
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

    pub fn open(info: AgentInfo) -> Result<Self, Rejection> {
        if is_negative(&info.total) {
            return Err(Rejection::Negative(info.total));
        }
        Ok(Self {
            active: true,
            used: Resources::default(),
            offered: Resources::default(),
            free: info.total.clone(),
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
            counted: Scalars::default(),
        })
    }

    pub fn pool(&self, key: Idx) -> Option<&Pool> {
        self.pools.iter().find(|p| p.key == key)
    }

    fn pool_mut(&mut self, key: Idx) -> Option<&mut Pool> {
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

    /// The same, scalars only.
    pub fn plain_free_scalars(&self) -> Scalars {
        let mut free = scalars(&self.free);
        for pool in &self.pools {
            for (a, b) in free.iter_mut().zip(scalars(&pool.free)) {
                *a -= b;
            }
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
        if self.free == bundle.sum {
            self.free = Resources::default();
        } else {
            self.free.try_sub(&bundle.sum)?;
        }
        self.offered.try_add(&bundle.sum)?;
        for part in &bundle.parts {
            let pool = self.pool_mut(part.pool)?;
            pool.free.try_sub(&part.resources)?;
            pool.offered.try_add(&part.resources)?;
        }
        self.offers.push(number);
        Some(())
    }

    /// An offer ends: what it held is free.
    pub fn unhold(&mut self, bundle: &Bundle, number: u64) {
        let mut fits = self.offered.try_sub(&bundle.sum).is_some();
        fits &= self.free.try_add(&bundle.sum).is_some();
        for part in &bundle.parts {
            if let Some(pool) = self.pool_mut(part.pool) {
                fits &= pool.offered.try_sub(&part.resources).is_some();
                fits &= pool.free.try_add(&part.resources).is_some();
            }
        }
        debug_assert!(fits, "an offer holds what was booked for it");
        self.offers.retain(|n| *n != number);
    }

    /// Free becomes used. `None`, and nothing changed, when it is not free.
    pub fn take(&mut self, client: Idx, part: &Part) -> Option<()> {
        let r = &part.resources;
        if part.pool == NONE {
            self.plain_free().checked_sub(r)?;
        } else {
            self.pool(part.pool)?.free.checked_sub(r)?;
        }
        self.free.try_sub(r)?;
        self.used.try_add(r)?;
        if let Some(pool) = self.pool_mut(part.pool) {
            pool.free.try_sub(r)?;
            pool.used.try_add(r)?;
        }
        let same =
            |u: &&mut Use| (u.client, u.part.pool, u.part.lent) == (client, part.pool, part.lent);
        match self.uses.iter_mut().find(same) {
            Some(u) => u.part.resources.try_add(r)?,
            None => self.uses.push(Use {
                client,
                part: part.clone(),
            }),
        }
        Some(())
    }

    /// Used becomes free. `None`, and nothing changed, when the framework does not use that much of it.
    pub fn release(&mut self, client: Idx, part: &Part) -> Option<()> {
        let r = &part.resources;
        let same = |u: &Use| (u.client, u.part.pool, u.part.lent) == (client, part.pool, part.lent);
        let at = self.uses.iter().position(same)?;
        let of = self.uses.get_mut(at)?;
        of.part.resources.try_sub(r)?;
        if of.part.resources.is_empty() {
            self.uses.remove(at);
        }
        self.used.try_sub(r)?;
        self.free.try_add(r)?;
        if let Some(pool) = self.pool_mut(part.pool) {
            pool.used.try_sub(r)?;
            pool.free.try_add(r)?;
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
        if sum([&self.used, &self.offered, &self.free]).as_ref() != Some(&self.info.total) {
            return Err(wrong(format!(
                "used {}, offered {} and free {} do not add up to {}",
                self.used, self.offered, self.free, self.info.total
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
        if !self.info.total.contains(&reserved) {
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

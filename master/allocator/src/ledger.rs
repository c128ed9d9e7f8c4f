//! One agent's books: what is used, offered and free, and who was asked when.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{AgentId, AgentInfo, FrameworkId, OfferId, Resources};

use crate::{Choice, Rejection};

/// Books that do not add up: a bug, found by [`crate::Allocator::check`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// `used + offered + free` is not `total`.
    #[error("agent {agent_id}: {books}")]
    Unbalanced {
        /// Which agent.
        agent_id: AgentId,
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
}

/// What happened the last time that a framework was offered an agent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Turn {
    /// Count of the offer.
    pub offered: u64,
    /// Whether it was declined or timed out, not accepted.
    pub declined: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub info: AgentInfo,
    pub active: bool,
    pub used: Resources,
    pub offered: Resources,
    pub free: Resources,
    pub used_by: BTreeMap<FrameworkId, Resources>,
    pub offers: BTreeSet<OfferId>,
    pub turns: BTreeMap<FrameworkId, Turn>,
    pub last_choice: Option<Choice>,
}

impl Agent {
    /// Opens the books with what the agent says that it runs.
    pub fn open(info: AgentInfo, used: Vec<(FrameworkId, Resources)>) -> Result<Self, Rejection> {
        if is_negative(&info.total) {
            return Err(Rejection::Negative(info.total));
        }
        let mut sum = Resources::default();
        let mut used_by: BTreeMap<FrameworkId, Resources> = BTreeMap::new();
        for (framework_id, r) in used {
            if is_negative(&r) {
                return Err(Rejection::Negative(r));
            }
            let of = used_by.entry(framework_id).or_default();
            match (sum.checked_add(&r), of.checked_add(&r)) {
                (Some(s), Some(o)) => {
                    sum = s;
                    *of = o;
                }
                _ => return Err(exceeds(info)),
            }
        }
        used_by.retain(|_, r| !r.is_empty());
        let Some(free) = info.total.checked_sub(&sum) else {
            return Err(exceeds(info));
        };
        Ok(Self {
            info,
            active: true,
            used: sum,
            offered: Resources::default(),
            free,
            used_by,
            offers: BTreeSet::new(),
            turns: BTreeMap::new(),
            last_choice: None,
        })
    }

    /// All that is free becomes offered; returns it.
    pub fn offer_all(&mut self, offer_id: OfferId) -> Option<Resources> {
        self.offered = self.offered.checked_add(&self.free)?;
        self.offers.insert(offer_id);
        Some(std::mem::take(&mut self.free))
    }

    /// An offer ends: what it held is free. `None`, and nothing changed, when it does not fit.
    pub fn close_offer(&mut self, offer_id: &OfferId, resources: &Resources) -> Option<()> {
        let offered = self.offered.checked_sub(resources)?;
        self.free = self.free.checked_add(resources)?;
        self.offered = offered;
        self.offers.remove(offer_id);
        Some(())
    }

    /// Free becomes used. `None`, and nothing changed, when it does not fit.
    pub fn take_free(&mut self, framework_id: &FrameworkId, r: &Resources) -> Option<()> {
        let free = self.free.checked_sub(r)?;
        let used = self.used.checked_add(r)?;
        if !r.is_empty() {
            let of = self.used_by.entry(framework_id.clone()).or_default();
            *of = of.checked_add(r)?;
        }
        self.free = free;
        self.used = used;
        Some(())
    }

    /// Used becomes free. `None`, and nothing changed, when the framework does not use that much.
    pub fn release(&mut self, framework_id: &FrameworkId, r: &Resources) -> Option<()> {
        let of = self.used_by.get_mut(framework_id)?;
        let left = of.checked_sub(r)?;
        let used = self.used.checked_sub(r)?;
        let free = self.free.checked_add(r)?;
        if left.is_empty() {
            self.used_by.remove(framework_id);
        } else {
            *of = left;
        }
        self.used = used;
        self.free = free;
        Some(())
    }

    pub fn check(&self) -> Result<(), LedgerError> {
        let sum = self
            .used
            .checked_add(&self.offered)
            .and_then(|s| s.checked_add(&self.free));
        if sum.as_ref() != Some(&self.info.total) {
            return Err(LedgerError::Unbalanced {
                agent_id: self.info.agent_id.clone(),
                books: format!(
                    "used {}, offered {} and free {} do not add up to {}",
                    self.used, self.offered, self.free, self.info.total
                ),
            });
        }
        let by = self
            .used_by
            .values()
            .try_fold(Resources::default(), |s, r| s.checked_add(r));
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

pub(crate) fn is_negative(r: &Resources) -> bool {
    r.scalars.iter().any(|s| s.0 < 0)
}

fn exceeds(info: AgentInfo) -> Rejection {
    Rejection::UsedExceedsTotal {
        agent_id: info.agent_id,
        total: info.total,
    }
}

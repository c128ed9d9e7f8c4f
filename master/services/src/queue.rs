//! The launch queue: what waits, since when, and why offers did not do.

use std::{collections::BTreeMap, sync::Arc};

use waggle_types::{Offer, ServiceId, UnixMillis};

use crate::{DeclineReason, OpenOffer, Refusal, Rule, RuleCount};

/// Unused offers that are kept to be shown, of each service that waits.
const MAX_UNUSED: usize = 8;

/// An offer that was looked at and not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusedOffer {
    /// What was offered, less what others took of it.
    pub offer: Arc<Offer>,
    /// Why.
    pub reason: DeclineReason,
    /// When.
    pub at: UnixMillis,
}

/// How often a demand turned offers away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReasonCount {
    /// Offers that did not meet it.
    pub declined: u64,
    /// Offers that were held against it (those that met all demands before it).
    pub processed: u64,
}

/// Offers seen since the last launch, and the newest batch of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct OfferSummary {
    pub n_processed: u64,
    pub n_unused: u64,
    pub last_unused_at: Option<UnixMillis>,
    pub last_used_at: Option<UnixMillis>,
    pub attempt: BTreeMap<DeclineReason, ReasonCount>,
    pub last: BTreeMap<DeclineReason, ReasonCount>,
    /// The same as `attempt`, by the rule itself.
    pub rules: BTreeMap<Rule, RuleCount>,
    /// The newest ones.
    pub unused: Vec<UnusedOffer>,
}

/// The demands that Marathon reports, in the order in which they are checked.
const CHECKED: [DeclineReason; 8] = [
    DeclineReason::UnfulfilledRole,
    DeclineReason::UnfulfilledConstraint,
    DeclineReason::NoCorrespondingReservationFound,
    DeclineReason::InsufficientCpus,
    DeclineReason::InsufficientMemory,
    DeclineReason::InsufficientDisk,
    DeclineReason::InsufficientGpus,
    DeclineReason::InsufficientPorts,
];

impl OfferSummary {
    /// A batch was looked at: `n_used` of the offers were used, the others refused.
    pub fn saw(
        &mut self,
        n_used: u64,
        refusals: &[Refusal],
        offers: &[OpenOffer],
        now: UnixMillis,
    ) {
        if !refusals.is_empty() {
            self.unused.clear();
        }
        for r in refusals {
            let Some(open) = offers.get(r.offer_idx) else {
                continue;
            };
            let count = self.rules.entry(r.rule.clone()).or_default();
            count.add(&open.offer.hostname, r.had);
            if self.unused.len() < MAX_UNUSED {
                self.unused.push(UnusedOffer {
                    offer: Arc::new(open.offer.clone()),
                    reason: r.reason,
                    at: now,
                });
            }
        }
        self.n_processed += n_used + refusals.len() as u64;
        self.n_unused += refusals.len() as u64;
        if n_used > 0 {
            self.last_used_at = Some(now);
        }
        if !refusals.is_empty() {
            self.last_unused_at = Some(now);
        }
        self.last.clear();
        let mut left = n_used + refusals.len() as u64;
        for reason in CHECKED {
            let declined = refusals.iter().filter(|r| r.reason == reason).count() as u64;
            let count = ReasonCount {
                declined,
                processed: left,
            };
            self.last.insert(reason, count);
            let sum = self.attempt.entry(reason).or_default();
            sum.declined += declined;
            sum.processed += left;
            left -= declined;
        }
    }
}

/// A service that waits for offers or for its backoff delay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueItem {
    /// The service.
    pub service: ServiceId,
    /// Instances that are to be launched.
    pub count: u32,
    /// Since when it waits.
    pub since: UnixMillis,
    /// No launch before this.
    pub delayed_until: Option<UnixMillis>,
    /// Offers looked at since it began to wait.
    pub n_processed_offers: u64,
    /// Of these, not used.
    pub n_unused_offers: u64,
    /// When an offer was last refused.
    pub last_unused_at: Option<UnixMillis>,
    /// When an offer was last used.
    pub last_used_at: Option<UnixMillis>,
    /// Reasons since it began to wait.
    pub launch_attempt: BTreeMap<DeclineReason, ReasonCount>,
    /// Reasons of the newest batch of offers.
    pub last_offers: BTreeMap<DeclineReason, ReasonCount>,
    /// Rules that turned offers away since it began to wait.
    pub rules: BTreeMap<Rule, RuleCount>,
    /// The newest offers that were not used; a few.
    pub unused: Vec<UnusedOffer>,
}

//! Decisions that were made: why an instance is where it is, and what its service had waited for.

use std::{collections::VecDeque, fmt, sync::Arc};

use waggle_types::UnixMillis;

use crate::{OpenOffer, Plan, Service, Why, tell};

/// Decisions that are kept of each service, the newest.
const MAX_KEPT: usize = 16;

/// Why, of the offers that fitted, one was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// The instance's volumes are there.
    Home,
    /// Nothing else fitted.
    Only,
    /// The fewest instances have its value of what `GROUP_BY` names.
    Group,
    /// Of all that have room it has the least left.
    Fullest,
    /// This many instances were there already, in its region, its zone and on itself: nowhere fewer.
    Fewest([u64; 3]),
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home => write!(f, "its volumes are there"),
            Self::Only => write!(f, "nothing else fits"),
            Self::Group => write!(f, "GROUP_BY: the fewest have its value"),
            Self::Fullest => write!(f, "the least is left there"),
            Self::Fewest([region, zone, node]) => write!(
                f,
                "the fewest are there: {node} on the node, {zone} in its zone, {region} in its region"
            ),
        }
    }
}

/// A choice among offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// How many fitted.
    pub n_fit: u32,
    /// Why this one.
    pub because: Because,
}

/// A placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The instance: `shop_cart.instance-<uuid>`.
    pub instance: String,
    /// Where it was placed.
    pub hostname: String,
    /// When.
    pub at: UnixMillis,
    /// Offers that were looked at together.
    pub n_offers: u32,
    /// The choice among them.
    pub choice: Choice,
    /// Offers that its service had looked at before, since it began to wait.
    pub n_before: u64,
    /// What had turned those away, the rule that turned most away first.
    pub refused: Arc<[Why]>,
}

/// What the decisions of one look at a service have in common.
#[derive(Debug, Default)]
pub(crate) struct Waited {
    n_offers: u32,
    n_before: u64,
    refused: Arc<[Why]>,
}

impl Waited {
    pub fn of(service: &Service, offers: &[OpenOffer], plan: &Plan) -> Self {
        // Most looks decide nothing.
        if plan.launches.is_empty() {
            return Self::default();
        }
        let role = service.spec.role();
        let mine = offers.iter().filter(|o| o.offer.role == role).count();
        let refused = tell(&service.spec, &service.offers.rules, "offer");
        Self {
            n_offers: u32::try_from(mine).unwrap_or(u32::MAX),
            n_before: service.offers.n_processed,
            refused: refused.into(),
        }
    }

    pub fn decision(
        &self,
        (instance, hostname): (String, String),
        choice: Choice,
        at: UnixMillis,
    ) -> Decision {
        Decision {
            instance,
            hostname,
            at,
            n_offers: self.n_offers,
            choice,
            n_before: self.n_before,
            refused: Arc::clone(&self.refused),
        }
    }
}

/// The newest decisions about a service.
#[derive(Debug, Clone, Default)]
pub(crate) struct Decisions(VecDeque<Arc<Decision>>);

impl Decisions {
    pub fn note(&mut self, decision: Decision) {
        if self.0.len() == MAX_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Arc::new(decision));
    }

    /// Oldest first.
    pub fn kept(&self) -> impl DoubleEndedIterator<Item = &Arc<Decision>> {
        self.0.iter()
    }
}

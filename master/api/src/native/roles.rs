//! Roles, their weights and quotas.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use waggle_types::{Milli, Quota};

use super::{
    FrameworkRef, ResourcesView,
    resources::{quantities, read_quantities},
};
use crate::{
    marathon::Number,
    read::{Errors, Obj},
};

/// A role that has frameworks, a weight, a quota or reservations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoleView {
    /// Its path: `eng/batch`.
    pub name: String,
    /// Among its siblings; 1 unless it is set.
    pub weight: Number,
    /// The largest part of any resource kind that is allocated to it (used or offered), by its weight.
    pub share: f64,
    /// Its frameworks.
    pub frameworks: Vec<FrameworkRef>,
    /// Held by tasks, ports left out.
    pub used: ResourcesView,
    /// Out in offers, ports left out.
    pub offered: ResourcesView,
    /// Its quota and how far it is used; `null` when it has none.
    pub quota: Option<QuotaView>,
}

/// A role's quota and how far it is used. Quantities are by kind; a kind that is missing is promised nothing
/// of, or has no limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuotaView {
    /// Whose.
    pub role: String,
    /// Promised, and held back for it.
    pub guarantee: BTreeMap<String, Number>,
    /// Never exceeded.
    pub limit: BTreeMap<String, Number>,
    /// What counts against it: unreserved allocations, and all reservations, used or not.
    pub charged: BTreeMap<String, Number>,
    /// What is still held back for it and its subroles.
    pub owed: BTreeMap<String, Number>,
    /// What its limit leaves, of the kinds that it limits.
    pub headroom: BTreeMap<String, Number>,
}

impl QuotaView {
    /// Of the kinds that the quota names.
    pub fn new(
        role: &str,
        quota: &Quota,
        charged: &BTreeMap<String, Milli>,
        owed: &BTreeMap<String, Milli>,
    ) -> Self {
        let of = |by_kind: &BTreeMap<String, Milli>, kind: &str| {
            by_kind.get(kind).copied().unwrap_or_default()
        };
        let named = |by_kind: &BTreeMap<String, Milli>| {
            let kinds = quota.guarantee.keys().chain(quota.limit.keys());
            kinds.map(|k| (k.clone(), of(by_kind, k))).collect()
        };
        let left = |(k, l): (&String, &Milli)| {
            let left = l.0.saturating_sub(of(charged, k).0).max(0);
            (k.clone(), Milli(left))
        };
        Self {
            role: role.to_owned(),
            guarantee: quantities(&quota.guarantee),
            limit: quantities(&quota.limit),
            charged: quantities(&named(charged)),
            owed: {
                let mut owed = owed.clone();
                owed.retain(|_, q| q.0 != 0);
                quantities(&owed)
            },
            headroom: quantities(&quota.limit.iter().map(left).collect()),
        }
    }
}

/// A role's weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightView {
    /// Whose.
    pub role: String,
    /// Among its siblings; 1 unless it is set.
    pub weight: Number,
}

impl WeightView {
    /// From thousandths.
    pub fn new(role: &str, weight_milli: u32) -> Self {
        Self {
            role: role.to_owned(),
            weight: thousandths(weight_milli),
        }
    }
}

/// Of a weight.
pub(super) fn thousandths(n: u32) -> Number {
    Number(f64::from(n) / 1000.0)
}

/// Reads guarantee and limit.
pub(super) fn read_quota(obj: &Obj<'_>, errs: &mut Errors) -> Quota {
    obj.only(&["guarantee", "limit"], errs);
    let mut read = |key: &str| {
        let by_kind = obj.object(key, errs);
        by_kind.map(|o| read_quantities(&o, errs))
    };
    Quota {
        guarantee: read("guarantee").unwrap_or_default(),
        limit: read("limit").unwrap_or_default(),
    }
}

//! Roles, quotas and weights.

use waggle_api::{
    marathon::Number,
    native::{FrameworkRef, QuotaView, RoleView, WeightView},
};

use crate::view::{self, ClusterView};

/// Every role that somebody has or that something is set or reserved for.
pub(super) fn roles(view: &ClusterView) -> Vec<RoleView> {
    let one = |(name, r): (&String, &view::RoleView)| RoleView {
        name: name.clone(),
        weight: Number(f64::from(r.weight_milli) / 1000.0),
        share: r.share,
        frameworks: r.frameworks.iter().map(|id| framework(view, id)).collect(),
        used: (&r.used).into(),
        offered: (&r.offered).into(),
        quota: (!r.quota.is_empty()).then(|| quota_of(name, r)),
    };
    view.roles.iter().map(one).collect()
}

/// Every quota that is set.
pub(super) fn quotas(view: &ClusterView) -> Vec<QuotaView> {
    let set = view.roles.iter().filter(|(_, r)| !r.quota.is_empty());
    set.map(|(name, r)| quota_of(name, r)).collect()
}

/// One role's quota; nothing when none is set.
pub(super) fn quota(view: &ClusterView, role: &str) -> QuotaView {
    match view.roles.get(role) {
        Some(r) => quota_of(role, r),
        None => QuotaView::new(
            role,
            &waggle_types::Quota::default(),
            &std::collections::BTreeMap::new(),
            &std::collections::BTreeMap::new(),
        ),
    }
}

fn quota_of(role: &str, r: &view::RoleView) -> QuotaView {
    QuotaView::new(role, &r.quota, &r.charged, &r.owed)
}

/// Every weight that is set.
pub(super) fn weights(view: &ClusterView) -> Vec<WeightView> {
    let set = view.roles.iter().filter(|(_, r)| r.weight_milli != 1000);
    set.map(|(name, r)| WeightView::new(name, r.weight_milli))
        .collect()
}

/// By id, with the name if it is known.
pub(super) fn framework(view: &ClusterView, id: &waggle_types::FrameworkId) -> FrameworkRef {
    let known = view.frameworks.get(id);
    FrameworkRef {
        id: id.to_string(),
        name: known.map(|f| f.name.clone()).unwrap_or_default(),
    }
}

//! Quota: guarantees whose headroom is held back, and limits that are never exceeded.
//!
//! What counts against a role's quota is what its subtree holds (used or offered) of unreserved,
//! not lent resources, and all that is reserved for it, used or not.
//!
//! What a role is still *owed* is the larger of its own unmet guarantee and the sum of what its subroles
//! are owed. Others may only be offered what leaves enough unreserved, unallocated resources for all that
//! is owed in the cluster.

use std::collections::BTreeMap;

use waggle_types::{Quota, Resources, ScalarKind, check_role};

use crate::{
    Allocator, Rejection,
    allocator::Run,
    bits::Idx,
    roles::ROOT,
    share::{N, Scalars, scalars},
};

/// Limits by kind; `None` is no limit.
pub(crate) type Limit = [Option<i64>; N];

/// A role's quota and how far it is used.
#[derive(Debug, Clone, Default)]
pub(crate) struct Books {
    pub guarantee: Scalars,
    pub limit: Limit,
    /// What counts against it, with all below.
    pub charged: Scalars,
    /// What subroles are owed.
    pub owed_below: Scalars,
    /// What it is owed, with all below.
    pub owed: Scalars,
}

impl Books {
    pub fn is_set(&self) -> bool {
        self.guarantee != Scalars::default() || self.limit != Limit::default()
    }

    fn unmet(&self, k: usize) -> i64 {
        (self.guarantee[k] - self.charged[k]).max(0)
    }

    /// Computes anew what is owed; answers by how much that changed.
    pub fn refresh(&mut self) -> Scalars {
        let owed: Scalars = std::array::from_fn(|k| self.unmet(k).max(self.owed_below[k]));
        let change = std::array::from_fn(|k| owed[k] - self.owed[k]);
        self.owed = owed;
        change
    }
}

/// How much a role may be offered of unreserved resources, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub most: Scalars,
    /// Whether some of it would be owed to it.
    pub owed: bool,
}

impl Allocator {
    /// See [`Allowance`]; `None` when no quota is set anywhere.
    pub(crate) fn allowance(&self, role: Idx) -> Option<Allowance> {
        if self.tree.n_quotas == 0 {
            return None;
        }
        let root = self.tree.nodes.get(ROOT)?;
        let mut most = [i64::MAX; N];
        let mut owed = false;
        for (k, most) in most.iter_mut().enumerate() {
            // Of what the role is offered, the first `due` units lower what is owed in the cluster.
            let mut due = 0;
            for (_, node) in self.tree.path(role) {
                let books = &node.quota;
                due += (books.unmet(k) - books.owed_below[k]).max(0);
                if let Some(limit) = books.limit[k] {
                    *most = (*most).min(limit - books.charged[k]);
                }
            }
            if root.quota.owed[k] > 0 {
                let spare = (self.available[k] - root.quota.owed[k]).max(0);
                *most = (*most).min(due.saturating_add(spare));
            }
            *most = (*most).max(0);
            owed |= due > 0 && *most > 0;
        }
        Some(Allowance { most, owed })
    }

    /// Checks and sets a role's quota.
    pub(crate) fn quota_set(
        &mut self,
        role: &str,
        quota: &Quota,
        force: bool,
        run: &mut Run,
    ) -> Result<(), Rejection> {
        check_role(role)?;
        if role == "*" {
            return Err(Rejection::DefaultRole("quota"));
        }
        let (guarantee, limit) = by_kind(role, quota)?;
        let negative = guarantee.iter().any(|g| *g < 0) || limit.iter().flatten().any(|l| *l < 0);
        let over = |g: &Scalars, l: &Limit| {
            let exceeds = |k: &usize| l[*k].is_some_and(|l| g[*k] > l);
            (0..N).find(exceeds).map(kind_name)
        };
        if negative {
            return Err(Rejection::BadQuota {
                role: role.to_owned(),
                rule: "a quantity is negative",
                kind: String::new(),
            });
        }
        let bad = |rule, kind: &str| Rejection::BadQuota {
            role: role.to_owned(),
            rule,
            kind: kind.to_owned(),
        };
        if let Some(kind) = over(&guarantee, &limit) {
            return Err(bad("the guarantee is over the limit", kind));
        }
        let idx = self.tree.hold(role);
        let checked = self.quota_fits(idx, &guarantee, &limit, force);
        if let Err((rule, kind)) = checked {
            self.tree.release(idx);
            return Err(bad(rule, kind));
        }
        self.tree.set_quota(idx, guarantee, limit);
        self.tree.release(idx);
        run.all_free = true;
        Ok(())
    }

    /// The rules of a tree of quota: what is promised below is promised above, a limit below is at most the
    /// limit above, and the cluster has what is promised (which an operator may override).
    fn quota_fits(
        &self,
        idx: Idx,
        guarantee: &Scalars,
        limit: &Limit,
        force: bool,
    ) -> Result<(), (&'static str, &'static str)> {
        let books = |i: Idx| {
            let b = self.tree.nodes.get(i).map(|n| &n.quota);
            let b = b.cloned().unwrap_or_default();
            if i == idx {
                (*guarantee, *limit)
            } else {
                (b.guarantee, b.limit)
            }
        };
        let below = |i: Idx| {
            let children = self
                .tree
                .nodes
                .iter()
                .filter(move |(c, n)| n.parent == i && *c != ROOT);
            children.map(|(c, _)| books(c)).collect::<Vec<_>>()
        };
        let parent = self.tree.nodes.get(idx).map_or(ROOT, |n| n.parent);
        for k in 0..N {
            let sum = |i: Idx| {
                below(i)
                    .iter()
                    .map(|(g, _)| g[k])
                    .fold(0, i64::saturating_add)
            };
            if books(idx).0[k] > 0 && sum(idx) > guarantee[k] {
                return Err(("the guarantees of its subroles are over it", kind_name(k)));
            }
            if parent != ROOT && books(parent).0[k] > 0 && sum(parent) > books(parent).0[k] {
                return Err(("its parent's guarantee does not cover it", kind_name(k)));
            }
            let above = self
                .tree
                .path(parent)
                .filter_map(|(_, n)| n.quota.limit[k])
                .min();
            let mine = limit[k].unwrap_or(guarantee[k]);
            if above.is_some_and(|above| mine > above) {
                return Err(("a limit above it is lower", kind_name(k)));
            }
            let lower = |l: Option<i64>| {
                let all = self
                    .tree
                    .nodes
                    .iter()
                    .filter(|(i, _)| *i != idx && self.tree.is_within(*i, idx));
                let most = all
                    .map(|(_, n)| n.quota.limit[k].unwrap_or(0).max(n.quota.guarantee[k]))
                    .max();
                l.zip(most).is_some_and(|(l, most)| most > l)
            };
            if lower(limit[k]) {
                return Err(("a limit or guarantee below it is higher", kind_name(k)));
            }
            if !force && sum(ROOT) > self.total[k] {
                return Err(("the guarantees are over what the cluster has", kind_name(k)));
            }
        }
        Ok(())
    }

    /// Whether a role's limits, and those above it, leave room for `more`, when what is charged to roles has
    /// `changed` by so much already.
    pub(crate) fn within_limits(
        &self,
        role: Idx,
        changed: &BTreeMap<Idx, Scalars>,
        more: &Resources,
    ) -> Result<(), Rejection> {
        let more = scalars(more);
        for (idx, node) in self.tree.path(role) {
            let changed = changed.get(&idx).copied().unwrap_or_default();
            let over = |k: &usize| {
                let room = node.quota.limit[*k].map(|l| l - node.quota.charged[*k] - changed[*k]);
                more[*k] > 0 && room.is_some_and(|room| more[*k] > room)
            };
            if let Some(k) = (0..N).find(over) {
                return Err(Rejection::OverLimit {
                    role: node.name.clone(),
                    kind: kind_name(k).to_owned(),
                });
            }
        }
        Ok(())
    }
}

pub(crate) fn kind_name(k: usize) -> &'static str {
    ScalarKind::ALL.get(k).map_or("", |k| k.name())
}

/// A quota as rows by kind; kinds that nobody knows are refused.
fn by_kind(role: &str, quota: &Quota) -> Result<(Scalars, Limit), Rejection> {
    let (mut guarantee, mut limit) = (Scalars::default(), Limit::default());
    let position = |name: &str| ScalarKind::ALL.iter().position(|k| k.name() == name);
    let unknown = |name: &str| Rejection::UnknownKind {
        role: role.to_owned(),
        kind: name.chars().take(100).collect(),
    };
    for (name, q) in &quota.guarantee {
        guarantee[position(name).ok_or_else(|| unknown(name))?] = q.0;
    }
    for (name, q) in &quota.limit {
        limit[position(name).ok_or_else(|| unknown(name))?] = Some(q.0);
    }
    Ok((guarantee, limit))
}

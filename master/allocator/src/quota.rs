//! Quota: guarantees whose headroom is held back, and limits that are never exceeded.
//!
//! What counts against a role's quota is what its subtree holds (used or offered) of unreserved,
//! not lent resources, and all that is reserved for it, used or not.
//!
//! What a role is still *owed* is the larger of its own unmet guarantee and the sum of what its subroles
//! are owed. Others may only be offered what leaves enough unreserved, unallocated resources for all that
//! is owed in the cluster.

use std::{cmp::Reverse, collections::BTreeMap};

use waggle_types::{Milli, Quota, check_role};

use crate::{
    Allocator, Rejection, RescindReason,
    allocator::Run,
    bits::Idx,
    kinds::{self, MAX_KINDS, Rows},
    offers::Held,
    roles::ROOT,
};

/// Roles that have a quota.
pub const MAX_QUOTAS: usize = 4096;
/// Most that is promised or allowed of one kind, in thousandths.
const MAX_QUANTITY: i64 = 1_000_000_000_000_000;

/// Limits by kind; `None` is no limit.
pub(crate) type Limit = [Option<i64>; MAX_KINDS];

/// What is charged to quota, by role.
pub(crate) type Charges = BTreeMap<Idx, Rows>;

/// A role's quota and how far it is used.
#[derive(Debug, Clone, Default)]
pub(crate) struct Books {
    pub guarantee: Rows,
    pub limit: Limit,
    /// What counts against it, with all below.
    pub charged: Rows,
    /// What subroles are owed.
    pub owed_below: Rows,
    /// What it is owed, with all below.
    pub owed: Rows,
}

impl Books {
    pub fn is_set(&self) -> bool {
        self.guarantee != Rows::default() || self.limit != Limit::default()
    }

    /// The rows that it says something of.
    fn rows(&self) -> Vec<usize> {
        let set = |k: &usize| self.guarantee[*k] > 0 || self.limit[*k].is_some();
        (0..MAX_KINDS).filter(set).collect()
    }

    /// Whether it is owed more of its own guarantee than its subroles are owed.
    pub fn is_owed(&self) -> bool {
        (0..MAX_KINDS).any(|k| self.unmet(k) > self.owed_below[k])
    }

    /// The rows of which more is charged than its limits allow, as bits.
    fn over(&self) -> u32 {
        let over = |k: &usize| self.limit[*k].is_some_and(|l| self.charged[*k] > l);
        (0..MAX_KINDS).filter(over).map(|k| 1 << k).sum()
    }

    fn unmet(&self, k: usize) -> i64 {
        (self.guarantee[k] - self.charged[k]).max(0)
    }

    /// Computes anew what is owed; answers by how much that changed.
    pub fn refresh(&mut self) -> Rows {
        let owed: Rows = std::array::from_fn(|k| self.unmet(k).max(self.owed_below[k]));
        let change = std::array::from_fn(|k| owed[k] - self.owed[k]);
        self.owed = owed;
        change
    }
}

/// How much a role may be offered of unreserved resources, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub most: Rows,
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
        let mut most = [i64::MAX; MAX_KINDS];
        let mut owed = false;
        for (k, most) in most.iter_mut().enumerate().take(self.kinds.len()) {
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
        let full = self.tree.n_quotas >= MAX_QUOTAS;
        if full && !self.tree.node(role).is_some_and(|n| n.quota.is_set()) && !quota.is_empty() {
            return Err(Rejection::Full {
                what: "quotas",
                max: MAX_QUOTAS,
            });
        }
        self.check_quantities(role, quota, force)?;
        // Kinds and the role are held while it is checked; it is as before if that fails.
        let mut held = Vec::new();
        for name in names(quota) {
            let Some(row) = self.kinds.hold(name) else {
                self.release_kinds(held);
                return Err(Rejection::Full {
                    what: "kinds of resources",
                    max: MAX_KINDS,
                });
            };
            held.push(row);
        }
        let (guarantee, limit) = self.by_row(quota);
        let idx = self.tree.hold(role);
        if let Err((rule, k)) = self.quota_fits(idx, &guarantee, &limit, force) {
            let kind = self.kinds.name(k).to_owned();
            self.tree.release(idx);
            self.release_kinds(held);
            let role = role.to_owned();
            return Err(Rejection::BadQuota { role, rule, kind });
        }
        let old = self.tree.nodes.get(idx).map(|n| n.quota.rows());
        self.tree.set_quota(idx, guarantee, limit);
        self.tree.release(idx);
        self.release_kinds(old.unwrap_or_default());
        self.rescind_over_limit(idx, run);
        run.all_free = true;
        Ok(())
    }

    fn release_kinds(&mut self, rows: Vec<usize>) {
        for row in rows.into_iter().rev() {
            self.kinds.release(row);
        }
    }

    /// Whether each quantity can be one, of a kind that there is (or that is forced to be).
    fn check_quantities(&self, role: &str, quota: &Quota, force: bool) -> Result<(), Rejection> {
        for (name, q) in quota.guarantee.iter().chain(&quota.limit) {
            let known = self.kinds.find(name).is_some();
            if !known && !force {
                return Err(Rejection::UnknownKind {
                    role: role.to_owned(),
                    kind: name.chars().take(100).collect(),
                });
            }
            if !known {
                waggle_types::check_kind(name)?;
            }
            let rule = match q.0 {
                ..0 => "a quantity is negative",
                0..=MAX_QUANTITY => continue,
                _ => "a quantity is over 10^12",
            };
            return Err(Rejection::BadQuota {
                role: role.to_owned(),
                rule,
                kind: name.clone(),
            });
        }
        let exceeds = |(name, l): &(&String, &Milli)| {
            let g = quota.guarantee.get(*name);
            g.is_some_and(|g| g > *l)
        };
        if let Some((name, _)) = quota.limit.iter().find(exceeds) {
            return Err(Rejection::BadQuota {
                role: role.to_owned(),
                rule: "the guarantee is over the limit",
                kind: name.clone(),
            });
        }
        Ok(())
    }

    /// A quota whose kinds are known, by row.
    fn by_row(&self, quota: &Quota) -> (Rows, Limit) {
        let (mut guarantee, mut limit) = (Rows::default(), Limit::default());
        for (name, q) in &quota.guarantee {
            if let Some(k) = self.kinds.find(name) {
                guarantee[k] = q.0;
            }
        }
        for (name, q) in &quota.limit {
            if let Some(k) = self.kinds.find(name) {
                limit[k] = Some(q.0);
            }
        }
        (guarantee, limit)
    }

    /// The rules of a tree of quota: what is promised below is promised above, a limit below is at most the
    /// limit above, and the cluster has what is promised (which an operator may override).
    fn quota_fits(
        &self,
        idx: Idx,
        guarantee: &Rows,
        limit: &Limit,
        force: bool,
    ) -> Result<(), (&'static str, usize)> {
        let mut quotas: BTreeMap<Idx, (Rows, Limit)> = BTreeMap::new();
        let mut by_depth: Vec<(usize, Idx)> = Vec::new();
        for (i, n) in self.tree.nodes.iter().filter(|(i, _)| *i != ROOT) {
            quotas.insert(i, (n.quota.guarantee, n.quota.limit));
            by_depth.push((self.tree.path(i).count(), i));
        }
        quotas.insert(idx, (*guarantee, *limit));
        by_depth.sort_unstable_by_key(|(depth, i)| (Reverse(*depth), *i));
        // By parent: the sum of what its subroles are promised, with all below them.
        let mut below: BTreeMap<Idx, Rows> = BTreeMap::new();
        for (_, i) in by_depth {
            let own = quotas.get(&i).map(|q| q.0).unwrap_or_default();
            let subroles = below.get(&i).copied().unwrap_or_default();
            let all = std::array::from_fn(|k| own[k].max(subroles[k]));
            let parent = self.tree.nodes.get(i).map_or(ROOT, |n| n.parent);
            kinds::add(below.entry(parent).or_default(), &all);
        }
        let sum = |i: Idx, k: usize| below.get(&i).map_or(0, |b| b[k]);
        let parent = self.tree.nodes.get(idx).map_or(ROOT, |n| n.parent);
        let of_parent = quotas.get(&parent).map(|q| q.0).unwrap_or_default();
        let under: Vec<&(Rows, Limit)> = quotas
            .iter()
            .filter(|(i, _)| **i != idx && self.tree.is_within(**i, idx))
            .map(|(_, q)| q)
            .collect();
        for k in 0..self.kinds.len() {
            if guarantee[k] > 0 && sum(idx, k) > guarantee[k] {
                return Err(("the guarantees of its subroles are over it", k));
            }
            if of_parent[k] > 0 && sum(parent, k) > of_parent[k] {
                return Err(("its parent's guarantee does not cover it", k));
            }
            let above = self.tree.path(parent).filter_map(|(_, n)| n.quota.limit[k]);
            let mine = limit[k].unwrap_or(guarantee[k]);
            if above.min().is_some_and(|above| mine > above) {
                return Err(("a limit above it is lower", k));
            }
            let most = under.iter().map(|(g, l)| l[k].unwrap_or(0).max(g[k]));
            if limit[k].zip(most.max()).is_some_and(|(l, most)| most > l) {
                return Err(("a limit or guarantee below it is higher", k));
            }
            if !force && guarantee[k] > 0 && sum(ROOT, k) > self.total[k] {
                return Err(("the guarantees are over what the cluster has", k));
            }
        }
        Ok(())
    }

    /// A limit that has become lower takes effect on what is out: the latest offers of unreserved resources
    /// come back until the role is within it. What runs goes on.
    fn rescind_over_limit(&mut self, idx: Idx, run: &mut Run) {
        let over = |a: &Self| a.tree.nodes.get(idx).map_or(0, |n| n.quota.over());
        if over(self) == 0 {
            return;
        }
        let of_it = |(number, held): (&u64, &Held)| {
            let client = self.clients.get(held.client)?;
            self.tree.is_within(client.role, idx).then_some(*number)
        };
        let mut numbers: Vec<u64> = self.offers.iter().filter_map(of_it).collect();
        while let Some(number) = numbers.pop() {
            let plain = self.offers.get(&number).map(|h| h.bundle.plain());
            let rows = self.kinds.rows(&plain.unwrap_or_default());
            let over = over(self);
            if (0..MAX_KINDS).any(|k| rows[k] > 0 && over >> k & 1 == 1) {
                self.rescind(number, RescindReason::Limited, run);
            }
        }
    }

    /// Adds to, or takes from, the charges of a role and those above it.
    pub(crate) fn charge_path(&self, to: &mut Charges, role: Idx, what: &Rows, add: bool) {
        let op = if add { kinds::add } else { kinds::sub };
        for (idx, _) in self.tree.path(role) {
            op(to.entry(idx).or_default(), what);
        }
    }

    /// Whether limits leave room for `more`, when what is charged to roles has `changed` by so much already.
    /// A role that is over its limit, which happens when it is set lower or an agent comes with what runs
    /// there, may go on with what it has: only what is more is refused.
    pub(crate) fn within_limits(&self, changed: &Charges, more: &Charges) -> Result<(), Rejection> {
        let Some((idx, k)) = self.over_limits(changed, more).first().copied() else {
            return Ok(());
        };
        let role = self.tree.nodes.get(idx);
        Err(Rejection::OverLimit {
            role: role.map(|n| n.name.clone()).unwrap_or_default(),
            kind: self.kinds.name(k).to_owned(),
        })
    }

    /// Of which roles and kinds `more` would be too much.
    pub(crate) fn over_limits(&self, changed: &Charges, more: &Charges) -> Vec<(Idx, usize)> {
        let mut out = Vec::new();
        for (idx, more) in more {
            let Some(node) = self.tree.nodes.get(*idx) else {
                continue;
            };
            let changed = changed.get(idx).copied().unwrap_or_default();
            let over = |k: &usize| {
                let room = node.quota.limit[*k].map(|l| l - node.quota.charged[*k] - changed[*k]);
                more[*k] > 0 && room.is_some_and(|room| more[*k] > room)
            };
            out.extend((0..self.kinds.len()).filter(over).map(|k| (*idx, k)));
        }
        out
    }
}

/// The kinds that a quota says something of.
fn names(quota: &Quota) -> impl Iterator<Item = &String> {
    let promised = quota.guarantee.iter().filter(|(_, q)| q.0 > 0);
    let more = promised.filter(|(name, _)| !quota.limit.contains_key(*name));
    more.map(|(name, _)| name).chain(quota.limit.keys())
}

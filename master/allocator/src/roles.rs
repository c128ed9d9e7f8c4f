//! The tree of roles: who holds how much, in the order of weighted dominant shares.
//!
//! Every role keeps an ordered index of what competes within it: its subroles, and its own frameworks
//! together as one entry ([`OWN`], weight 1). The next to be asked is found by going down along the
//! smallest entries; a change re-files one entry per level.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::MAX_ROLE_DEPTH;

use crate::{
    bits::{BitSet, Idx, Slab},
    kinds::{self, Rows},
    quota::{Books, Limit},
    share::Yardstick,
};

/// The root: the parent of all top roles; not a role itself.
pub(crate) const ROOT: Idx = 0;

/// Entry of a role's own frameworks among its subroles.
pub(crate) const OWN: Idx = Idx::MAX;

/// A place in an order: by share, then who has waited longest, then by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Entry {
    pub share: u64,
    pub age: u64,
    pub child: Idx,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// The whole path: `a/b`.
    pub name: String,
    pub parent: Idx,
    pub weight_milli: u32,
    /// An operator has set its weight: it stays when empty.
    pub pinned: bool,
    /// Used and offered, with all below.
    pub allocated: Rows,
    /// Of this, by its own frameworks.
    pub own: Rows,
    pub quota: Books,
    /// Count of its latest offer, for age; and of its own frameworks' latest.
    pub last_offer: u64,
    pub own_last_offer: u64,
    /// Frameworks, reservations and subroles that need it.
    pub refs: u32,
    /// Unsuppressed subscriptions here and below.
    pub n_askable: u32,
    /// Offers that are out to these.
    pub n_offers: u32,
    /// Subscriptions here and below; 0 keeps it out of its parent's order.
    n_below: u32,
    slot: Entry,
    own_slot: Entry,
    order: BTreeSet<Entry>,
    members: BTreeSet<Entry>,
}

/// All roles.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub nodes: Slab<Node>,
    names: BTreeMap<String, Idx>,
    pub yardstick: Yardstick,
    /// Roles with a guarantee or a limit.
    pub n_quotas: usize,
    /// Roles that are owed more of their own guarantee than their subroles are owed.
    pub owed: BTreeSet<Idx>,
}

impl Tree {
    pub fn new() -> Self {
        let mut tree = Self {
            nodes: Slab::default(),
            names: BTreeMap::new(),
            yardstick: Yardstick::default(),
            n_quotas: 0,
            owed: BTreeSet::new(),
        };
        tree.nodes.insert(Node::new(String::new(), ROOT));
        tree
    }

    pub fn find(&self, name: &str) -> Option<Idx> {
        self.names.get(name).copied()
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(self.find(name)?)
    }

    pub fn name(&self, idx: Idx) -> &str {
        self.nodes.get(idx).map_or("", |n| n.name.as_str())
    }

    /// Roles by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.names
            .iter()
            .filter_map(|(name, idx)| Some((name.as_str(), self.nodes.get(*idx)?)))
    }

    /// The role and its ancestors, without the root.
    pub fn path(&self, idx: Idx) -> impl Iterator<Item = (Idx, &Node)> {
        let up = move |i: Idx| {
            let node = self.nodes.get(i)?;
            (i != ROOT).then_some((i, node))
        };
        std::iter::successors(up(idx), move |(_, n)| up(n.parent))
    }

    /// Whether `idx` is `ancestor` or below it.
    pub fn is_within(&self, idx: Idx, ancestor: Idx) -> bool {
        self.path(idx).any(|(i, _)| i == ancestor)
    }

    /// The role of this name, made with its ancestors if it is new, and held by the caller until
    /// [`Tree::release`].
    pub fn hold(&mut self, name: &str) -> Idx {
        let idx = if let Some(idx) = self.names.get(name) {
            *idx
        } else {
            let parent = match name.rsplit_once('/') {
                Some((parent, _)) => self.hold(parent),
                None => ROOT,
            };
            let idx = self.nodes.insert(Node::new(name.to_owned(), parent));
            self.names.insert(name.to_owned(), idx);
            idx
        };
        if let Some(node) = self.nodes.get_mut(idx) {
            node.refs += 1;
        }
        idx
    }

    pub fn release(&mut self, idx: Idx) {
        if let Some(node) = self.nodes.get_mut(idx) {
            node.refs = node.refs.saturating_sub(1);
        }
        self.sweep(idx);
    }

    /// Forgets a role that nobody needs.
    pub fn sweep(&mut self, idx: Idx) {
        let unused = |n: &Node| n.refs == 0 && !n.pinned && !n.quota.is_set();
        if idx == ROOT || !self.nodes.get(idx).is_some_and(unused) {
            return;
        }
        if let Some(node) = self.nodes.remove(idx) {
            self.owed.remove(&idx);
            self.names.remove(&node.name);
            if node.parent != ROOT {
                self.release(node.parent);
            }
        }
    }

    /// Adds what a framework of this role holds now (`sign` 1) or no longer holds (-1). Only what is
    /// `plain` counts against quota: reservations are counted as a whole when they are made, and what is
    /// lent does not count.
    pub fn charge(&mut self, idx: Idx, what: &Rows, add: bool, plain: bool) {
        let op = if add { kinds::add } else { kinds::sub };
        if let Some(node) = self.nodes.get_mut(idx) {
            op(&mut node.own, what);
        }
        let mut at = idx;
        while at != ROOT {
            let Some(node) = self.nodes.get_mut(at) else {
                break;
            };
            op(&mut node.allocated, what);
            let parent = node.parent;
            self.refile(at);
            at = parent;
        }
        self.refile_own(idx);
        if plain {
            self.count(idx, what, add);
        }
    }

    /// An offer is out: counts it, and marks its number for age.
    pub fn offered(&mut self, idx: Idx, seq: u64) {
        let mut at = idx;
        if let Some(node) = self.nodes.get_mut(idx) {
            node.own_last_offer = seq;
        }
        while at != ROOT {
            let Some(node) = self.nodes.get_mut(at) else {
                break;
            };
            node.last_offer = seq;
            node.n_offers += 1;
            at = node.parent;
        }
    }

    /// An offer to this role has ended.
    pub fn offer_ended(&mut self, idx: Idx) {
        let mut at = idx;
        while at != ROOT {
            let Some(node) = self.nodes.get_mut(at) else {
                break;
            };
            node.n_offers = node.n_offers.saturating_sub(1);
            at = node.parent;
        }
    }

    /// Counts what is charged to quota, up to the root, and what guarantees are still owed.
    pub fn count(&mut self, idx: Idx, what: &Rows, add: bool) {
        let op = if add { kinds::add } else { kinds::sub };
        let mut at = idx;
        let mut change = Rows::default();
        while let Some(node) = self.nodes.get_mut(at) {
            if at != ROOT {
                op(&mut node.quota.charged, what);
            }
            // Without a guarantee anywhere nothing is owed, and nothing changes.
            if self.n_quotas > 0 {
                kinds::add(&mut node.quota.owed_below, &change);
                change = node.quota.refresh();
                if node.quota.is_owed() {
                    self.owed.insert(at);
                } else {
                    self.owed.remove(&at);
                }
            }
            if at == ROOT {
                break;
            }
            at = node.parent;
        }
    }

    /// Sets guarantee and limit, which the caller has checked.
    pub fn set_quota(&mut self, idx: Idx, guarantee: Rows, limit: Limit) {
        if let Some(node) = self.nodes.get_mut(idx) {
            let was = node.quota.is_set();
            node.quota.guarantee = guarantee;
            node.quota.limit = limit;
            let is = node.quota.is_set();
            // Counted while there is one, before or after: what is owed is computed by that.
            self.n_quotas += 1;
            self.count(idx, &Rows::default(), true);
            self.n_quotas = self.n_quotas - 1 + usize::from(is) - usize::from(was);
        }
    }

    pub fn set_weight(&mut self, idx: Idx, weight_milli: u32) {
        if let Some(node) = self.nodes.get_mut(idx) {
            node.weight_milli = weight_milli;
        }
        self.refile(idx);
    }

    /// A framework takes its place among those of this role.
    pub fn join(&mut self, idx: Idx, entry: Entry) {
        if let Some(node) = self.nodes.get_mut(idx)
            && node.members.insert(entry)
        {
            if node.members.len() == 1 {
                node.own_slot = node.own_entry(&self.yardstick);
                node.order.insert(node.own_slot);
            }
            self.populate(idx, true);
        }
    }

    pub fn leave(&mut self, idx: Idx, entry: Entry) {
        if let Some(node) = self.nodes.get_mut(idx)
            && node.members.remove(&entry)
        {
            if node.members.is_empty() {
                let slot = node.own_slot;
                node.order.remove(&slot);
            }
            self.populate(idx, false);
        }
    }

    pub fn move_member(&mut self, idx: Idx, from: Entry, to: Entry) {
        if from != to
            && let Some(node) = self.nodes.get_mut(idx)
            && node.members.remove(&from)
        {
            node.members.insert(to);
        }
    }

    /// Counts unsuppressed subscriptions; answers roles that had none and have some now.
    pub fn set_askable(&mut self, idx: Idx, on: bool) -> Vec<Idx> {
        let mut woken = Vec::new();
        let mut at = idx;
        while at != ROOT {
            let Some(node) = self.nodes.get_mut(at) else {
                break;
            };
            if on {
                node.n_askable += 1;
                if node.n_askable == 1 {
                    woken.push(at);
                }
            } else {
                node.n_askable = node.n_askable.saturating_sub(1);
            }
            at = node.parent;
        }
        woken
    }

    /// One more, or less, subscription below each role of the path.
    fn populate(&mut self, idx: Idx, more: bool) {
        let mut at = idx;
        while at != ROOT {
            let Some(node) = self.nodes.get_mut(at) else {
                return;
            };
            let was = node.n_below;
            node.n_below = if more { was + 1 } else { was.saturating_sub(1) };
            let (now, parent) = (node.n_below, node.parent);
            if was == 0 {
                node.slot = node.entry(at, &self.yardstick);
            }
            let slot = node.slot;
            if let Some(parent) = self.nodes.get_mut(parent) {
                match (was, now) {
                    (0, 1..) => {
                        parent.order.insert(slot);
                    }
                    (1.., 0) => {
                        parent.order.remove(&slot);
                    }
                    _ => {}
                }
            }
            at = parent;
        }
    }

    /// Puts a role into its place among its siblings.
    fn refile(&mut self, idx: Idx) {
        let Some(node) = self.nodes.get_mut(idx) else {
            return;
        };
        let (old, new) = (node.slot, node.entry(idx, &self.yardstick));
        if old == new || node.n_below == 0 {
            return;
        }
        node.slot = new;
        let parent = node.parent;
        if let Some(parent) = self.nodes.get_mut(parent) {
            parent.order.remove(&old);
            parent.order.insert(new);
        }
    }

    fn refile_own(&mut self, idx: Idx) {
        if let Some(node) = self.nodes.get_mut(idx) {
            let (old, new) = (node.own_slot, node.own_entry(&self.yardstick));
            if old != new && !node.members.is_empty() {
                node.order.remove(&old);
                node.order.insert(new);
                node.own_slot = new;
            }
        }
    }

    /// Sorts everything anew on a new yardstick; `member` says each framework's new share.
    pub fn resort(&mut self, member: impl Fn(Idx) -> u64) {
        let all: Vec<Idx> = self.nodes.iter().map(|(i, _)| i).collect();
        for idx in &all {
            if let Some(node) = self.nodes.get_mut(*idx) {
                let moved = |e: &Entry| Entry {
                    share: member(e.child),
                    ..*e
                };
                node.members = node.members.iter().map(moved).collect();
            }
            self.refile(*idx);
            self.refile_own(*idx);
        }
    }

    /// Frameworks among `candidates` from the one that is next, until `visit` takes one.
    pub fn walk(
        &self,
        from: Idx,
        candidates: &BitSet,
        visit: &mut impl FnMut(Idx) -> bool,
    ) -> bool {
        let Some(node) = self.nodes.get(from) else {
            return false;
        };
        node.order.iter().any(|e| {
            if e.child == OWN {
                let mut of_role = node.members.iter().map(|m| m.child);
                of_role.any(|m| candidates.contains(m) && visit(m))
            } else {
                self.walk(e.child, candidates, visit)
            }
        })
    }

    /// A framework's rank among all: the entries from the top role down to its own.
    pub fn rank(&self, role: Idx, member: Entry) -> [Entry; MAX_ROLE_DEPTH + 2] {
        let mut rank = [Entry::default(); MAX_ROLE_DEPTH + 2];
        let depth = self.path(role).count().min(MAX_ROLE_DEPTH);
        for (at, (_, node)) in (0..depth).rev().zip(self.path(role)) {
            rank[at] = node.slot;
        }
        if let Some(node) = self.nodes.get(role) {
            rank[depth] = node.own_slot;
        }
        rank[depth + 1] = member;
        rank
    }
}

impl Node {
    fn new(name: String, parent: Idx) -> Self {
        Self {
            name,
            parent,
            weight_milli: 1000,
            pinned: false,
            allocated: Rows::default(),
            own: Rows::default(),
            quota: Books::default(),
            last_offer: 0,
            own_last_offer: 0,
            refs: 0,
            n_askable: 0,
            n_offers: 0,
            n_below: 0,
            slot: Entry::default(),
            own_slot: Entry::default(),
            order: BTreeSet::new(),
            members: BTreeSet::new(),
        }
    }

    fn entry(&self, idx: Idx, yardstick: &Yardstick) -> Entry {
        Entry {
            share: yardstick.share(&self.allocated, self.weight_milli),
            age: self.last_offer,
            child: idx,
        }
    }

    fn own_entry(&self, yardstick: &Yardstick) -> Entry {
        Entry {
            share: yardstick.share(&self.own, 1000),
            age: self.own_last_offer,
            child: OWN,
        }
    }
}

//! What changed between two snapshots of the network: what a node is sent once it has one.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use crate::{
    AgentId, AgentNet, Cause, Generation, NetSnapshot, Network, NetworkPolicy, SourceRange, TaskId,
    TaskNet, VipKey, VipLease, VipName, Vxlan,
};

/// Changes from one generation to a later one; `None` where something is gone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetDelta {
    /// The generation that it changes; it means nothing to a node that has another.
    pub from: Generation,
    /// The generation after it.
    pub to: Generation,
    /// As in the later snapshot.
    pub leader: Option<Ipv4Addr>,
    /// As in the later snapshot.
    pub masters: Vec<Ipv4Addr>,
    /// Agents that came, changed or went.
    pub agents: BTreeMap<AgentId, Option<AgentNet>>,
    /// Tasks that came, changed or went.
    pub tasks: BTreeMap<TaskId, Option<Arc<TaskNet>>>,
    /// Named VIPs that came, changed or went.
    pub vips: BTreeMap<VipName, Option<VipLease>>,
    /// All literal VIPs, when one came or went.
    pub literal_vips: Option<Vec<VipKey>>,
    /// VIPs whose sources came, changed or went.
    pub sources: BTreeMap<VipKey, Option<Vec<SourceRange>>>,
    /// Overlay networks that came, changed or went.
    pub networks: BTreeMap<String, Option<Network>>,
    /// Policies that came, changed or went.
    pub policies: BTreeMap<String, Option<Arc<NetworkPolicy>>>,
    /// As in the later snapshot.
    pub vxlan: Vxlan,
    /// Why the later generation exists.
    pub causes: Vec<Cause>,
}

impl NetDelta {
    /// Entries that it changes.
    pub fn len(&self) -> usize {
        let lists = self.literal_vips.iter().count() + self.sources.len();
        let lists = lists + self.networks.len() + self.policies.len();
        self.agents.len() + self.tasks.len() + self.vips.len() + lists
    }

    /// Makes this the change that it and `later`, which follows it, are together. Of the causes at most `max_causes` stay,
    /// the newest.
    pub fn extend(&mut self, later: Self, max_causes: usize) {
        self.to = later.to;
        self.leader = later.leader;
        self.masters = later.masters;
        self.agents.extend(later.agents);
        self.tasks.extend(later.tasks);
        self.vips.extend(later.vips);
        self.literal_vips = later.literal_vips.or(self.literal_vips.take());
        self.sources.extend(later.sources);
        self.networks.extend(later.networks);
        self.policies.extend(later.policies);
        self.vxlan = later.vxlan;
        self.causes.extend(later.causes);
        let old = self.causes.len().saturating_sub(max_causes);
        self.causes.drain(..old);
    }

    /// Whether it changes nothing but the generation.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl NetSnapshot {
    /// The changes from this snapshot to `later`.
    pub fn delta_to(&self, later: &Self) -> NetDelta {
        let literal = (self.literal_vips != later.literal_vips).then(|| later.literal_vips.clone());
        NetDelta {
            from: self.generation,
            to: later.generation,
            leader: later.leader,
            masters: later.masters.clone(),
            agents: changes(&self.agents, &later.agents, |a, b| a == b),
            tasks: changes(&self.tasks, &later.tasks, |a, b| {
                Arc::ptr_eq(a, b) || a == b
            }),
            vips: changes(&self.vips, &later.vips, |a, b| a == b),
            literal_vips: literal,
            sources: changes(&self.sources, &later.sources, |a, b| a == b),
            networks: changes(&self.networks, &later.networks, |a, b| a == b),
            policies: changes(&self.policies, &later.policies, |a, b| {
                Arc::ptr_eq(a, b) || a == b
            }),
            vxlan: later.vxlan,
            causes: later.causes.clone(),
        }
    }

    /// Makes this the later snapshot. Only for a delta from this very generation.
    pub fn apply(&mut self, delta: &NetDelta) {
        self.generation = delta.to;
        self.leader = delta.leader;
        self.masters.clone_from(&delta.masters);
        merge(&mut self.agents, &delta.agents);
        merge(&mut self.tasks, &delta.tasks);
        merge(&mut self.vips, &delta.vips);
        if let Some(literal) = &delta.literal_vips {
            self.literal_vips.clone_from(literal);
        }
        merge(&mut self.sources, &delta.sources);
        merge(&mut self.networks, &delta.networks);
        merge(&mut self.policies, &delta.policies);
        self.vxlan = delta.vxlan;
        self.causes.clone_from(&delta.causes);
    }
}

fn changes<K: Ord + Clone, V: Clone>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
) -> BTreeMap<K, Option<V>> {
    let mut out = BTreeMap::new();
    let (mut a, mut b) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return out,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((x, _)), Some((y, _))) => x.cmp(y),
        };
        let before = if order.is_le() { a.next() } else { None };
        let after = if order.is_ge() { b.next() } else { None };
        match (before, after) {
            (Some((_, x)), Some((_, y))) if same(x, y) => {}
            (_, Some((key, y))) => {
                out.insert(key.clone(), Some(y.clone()));
            }
            (Some((key, _)), None) => {
                out.insert(key.clone(), None);
            }
            (None, None) => return out,
        }
    }
}

fn merge<K: Ord + Clone, V: Clone>(into: &mut BTreeMap<K, V>, changes: &BTreeMap<K, Option<V>>) {
    for (key, change) in changes {
        match change {
            Some(value) => into.insert(key.clone(), value.clone()),
            None => into.remove(key),
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map() -> impl Strategy<Value = BTreeMap<u8, u8>> {
        prop::collection::btree_map(0..20u8, 0..3u8, 0..12)
    }

    proptest! {
        #[test]
        fn merging_the_changes_makes_the_later_map(old in map(), new in map()) {
            let delta = changes(&old, &new, |a, b| a == b);
            let mut merged = old.clone();
            merge(&mut merged, &delta);
            prop_assert_eq!(&merged, &new);
            let mut both = changes(&new, &BTreeMap::new(), |a, b| a == b);
            both.extend(changes(&BTreeMap::new(), &old, |a, b| a == b));
            merge(&mut merged, &both);
            prop_assert_eq!(&merged, &old, "changes after each other are one");
            // And nothing else is in it.
            for (key, change) in &delta {
                prop_assert_ne!(old.get(key), change.as_ref());
            }
        }
    }
}

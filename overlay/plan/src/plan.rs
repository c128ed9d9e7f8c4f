//! One node's picture of the network, kept as it changes: each change answers with the steps for the VIP table.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{AgentId, Generation, NetDelta, NetSnapshot, TaskId, VipKey};

use crate::{
    BackendSet, Fact, LocalFacts, MapOp, VipTable,
    index::{Index, keys_of},
};

/// A snapshot, what the node knows itself, and the table that follows from both.
///
/// The table is at any time what [`crate::table()`] makes of the same snapshot and facts, seen from this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    here: Option<AgentId>,
    snapshot: NetSnapshot,
    local: LocalFacts,
    index: Index,
    table: VipTable,
}

impl Plan {
    /// Of nothing. `here` is the node's agent, whose backends and zone may be preferred.
    pub fn new(here: Option<AgentId>) -> Self {
        Self {
            here,
            ..Self::default()
        }
    }

    /// The snapshot that it has.
    pub const fn snapshot(&self) -> &NetSnapshot {
        &self.snapshot
    }

    /// Its generation; 0 before the first one.
    pub const fn generation(&self) -> Generation {
        self.snapshot.generation
    }

    /// What the node knows itself.
    pub const fn local(&self) -> &LocalFacts {
        &self.local
    }

    /// The VIP table.
    pub const fn table(&self) -> &VipTable {
        &self.table
    }

    /// Whose picture it is.
    pub const fn here(&self) -> Option<&AgentId> {
        self.here.as_ref()
    }

    /// Says whose picture it is: an agent learns its id from the master.
    pub fn set_here(&mut self, here: AgentId) -> Vec<MapOp> {
        if self.here.as_ref() == Some(&here) {
            return Vec::new();
        }
        self.here = Some(here);
        let all: BTreeSet<VipKey> = self.index.defined().map(|(key, _)| *key).collect();
        self.renew(&all)
    }

    /// Takes a whole snapshot.
    pub fn replace(&mut self, snapshot: &NetSnapshot) -> Vec<MapOp> {
        let mut delta = self.snapshot.delta_to(snapshot);
        delta.from = self.snapshot.generation;
        self.change(&delta)
    }

    /// Takes a change of the snapshot that it has.
    pub fn change(&mut self, delta: &NetDelta) -> Vec<MapOp> {
        let mut touched = BTreeSet::new();
        for id in delta.tasks.keys() {
            if let Some(old) = self.snapshot.tasks.get(id) {
                touched.extend(self.index.backed_by(old, &self.snapshot));
                self.index.remove_task(id, old);
            }
        }
        for name in delta.vips.keys() {
            if let Some(old) = self.snapshot.vips.get(name) {
                for key in keys_of(old) {
                    self.index.undefine(&key);
                    touched.insert(key);
                }
            }
        }
        if let Some(literal) = &delta.literal_vips {
            let (old, new) = (&self.snapshot.literal_vips, literal);
            for key in old.iter().filter(|k| !new.contains(k)) {
                self.index.undefine(key);
                touched.insert(*key);
            }
            touched.extend(new.iter().filter(|k| !old.contains(k)));
        }
        touched.extend(delta.sources.keys());
        // An agent's zone matters to every VIP with a preference; only its own backends can change otherwise.
        let moved = |id: &AgentId, new: Option<&waggle_types::AgentNet>| {
            let old = self.snapshot.agents.get(id);
            self.here.as_ref() == Some(id) && old.map(|a| &a.domain) != new.map(|a| &a.domain)
        };
        let all = delta.agents.iter().any(|(id, new)| moved(id, new.as_ref()));
        self.snapshot.apply(delta);
        for name in delta.vips.keys() {
            if let Some(new) = self.snapshot.vips.get(name) {
                for key in keys_of(new) {
                    self.index.define(key, Some(name.clone()));
                    touched.insert(key);
                }
            }
        }
        // Leases that were taken over from a literal VIP, or the other way round, in one step.
        for key in delta.literal_vips.iter().flatten() {
            if !self.index.is_defined(key) {
                self.index.define(*key, None);
            }
        }
        for id in delta.tasks.keys() {
            if let Some(new) = self.snapshot.tasks.get(id) {
                self.index.add_task(id, new);
                touched.extend(self.index.backed_by(new, &self.snapshot));
            }
        }
        for agent in delta.agents.keys() {
            for id in self.index.on_agent(agent) {
                if let Some(task) = self.snapshot.tasks.get(id) {
                    touched.extend(self.index.backed_by(task, &self.snapshot));
                }
            }
        }
        if all {
            touched.extend(self.index.defined().map(|(key, _)| *key));
        }
        self.renew(&touched)
    }

    /// Takes what this node sees of its own tasks; `None` forgets.
    pub fn local_facts(&mut self, facts: &BTreeMap<TaskId, Option<Fact>>) -> Vec<MapOp> {
        let mut touched = BTreeSet::new();
        for (id, fact) in facts {
            let old = match fact {
                Some(fact) => self.local.insert(id.clone(), *fact),
                None => self.local.remove(id),
            };
            if old != *fact
                && let Some(task) = self.snapshot.tasks.get(id)
            {
                touched.extend(self.index.backed_by(task, &self.snapshot));
            }
        }
        self.renew(&touched)
    }

    /// Makes the sets of some VIPs anew; removals first, so that a full map has room.
    fn renew(&mut self, keys: &BTreeSet<VipKey>) -> Vec<MapOp> {
        let (mut removed, mut set) = (Vec::new(), Vec::new());
        for key in keys {
            if !self.index.is_defined(key) {
                if self.table.remove(key).is_some() {
                    removed.push(MapOp::Remove { key: *key });
                }
                continue;
            }
            let name = self.index.name(key);
            let here = self.here.as_ref();
            let candidates = self
                .index
                .candidates(key, &self.snapshot, &self.local, here);
            let new = BackendSet::of(key, name.cloned(), &candidates, &self.snapshot);
            if self.table.get(key) != Some(&new) {
                self.table.insert(*key, new.clone());
                set.push(MapOp::Set {
                    key: *key,
                    set: new,
                });
            }
        }
        removed.append(&mut set);
        removed
    }
}

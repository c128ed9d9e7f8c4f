//! Names that tasks were told by the node's resolver, and what they may do with the addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use waggle_types::{PolicyPorts, PolicyProtocol};

use super::{Lowering, PolicyWrite, PortSet, Sets, said::Pattern};

/// Shortest time that an answer is believed, seconds: programs keep answers for a while whatever their time to live says.
pub const MIN_TTL_S: u32 = 30;
/// Longest time, seconds.
pub const MAX_TTL_S: u32 = 3600;
/// How long after that flows that have begun may go on by a change of policies, seconds.
const GRACE_S: u32 = 3600;
/// Addresses of one task; the one that expires first gives way.
const MAX_OF_TASK: usize = 1024;
/// Names of one address.
const MAX_OF_ADDRESS: usize = 16;

/// What a task may do with an address that it was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameEntry {
    /// Ports, beside those that it may use anyway.
    pub sets: Sets,
    /// Until then flows may begin, `CLOCK_MONOTONIC` seconds.
    pub expires_s: u32,
}

/// A task's address and the one that it was told of.
type Key = (IpAddr, IpAddr);

/// What tasks were told.
#[derive(Debug, Clone, Default)]
pub struct Learned {
    /// Names, and when each expires.
    told: BTreeMap<Key, BTreeMap<String, u32>>,
    /// What another process learned is in the tables, its names are not known here.
    adopted: BTreeSet<Key>,
    dropped: u64,
}

impl Learned {
    /// All, with names and when they expire.
    pub fn all(&self) -> impl Iterator<Item = (&Key, &BTreeMap<String, u32>)> {
        self.told.iter()
    }

    /// How many were given up for want of room.
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(super) fn is_adopted(&self, key: &Key) -> bool {
        self.adopted.contains(key)
    }

    pub(super) fn adopt(&mut self, keys: impl IntoIterator<Item = Key>) {
        let unknown = keys.into_iter().filter(|k| !self.told.contains_key(k));
        self.adopted = unknown.collect();
    }

    /// What has expired for long is forgotten.
    pub(super) fn forget(&mut self, now_s: u32) {
        self.told.retain(|_, names| {
            names.retain(|_, expires| expires.saturating_add(GRACE_S) > now_s);
            !names.is_empty()
        });
    }

    /// Who gives way for one more address of a task: what it was told itself if that is much, else what expires first of all.
    fn room(
        &mut self,
        task: IpAddr,
        entries: &BTreeMap<Key, NameEntry>,
        most: usize,
    ) -> Option<Key> {
        let first = (task, IpAddr::from([0; 4]));
        let of_task = self
            .told
            .range(first..)
            .take_while(|((t, _), _)| *t == task);
        let soonest = |(_, names): &(&Key, &BTreeMap<String, u32>)| names.values().copied().max();
        let gone = if of_task.clone().count() >= MAX_OF_TASK {
            of_task.min_by_key(soonest).map(|(key, _)| *key)
        } else if entries.len() >= most {
            let soonest = entries.iter().min_by_key(|(_, entry)| entry.expires_s);
            soonest.map(|(key, _)| *key)
        } else if self.told.len() >= most {
            self.told.iter().min_by_key(soonest).map(|(key, _)| *key)
        } else {
            None
        };
        self.dropped += u64::from(gone.is_some());
        gone
    }
}

impl Lowering {
    /// A task was told an address for a name (lower case, without a dot behind), for so many seconds. To be written before
    /// the task has its answer.
    pub fn learn(
        &mut self,
        task: IpAddr,
        name: &str,
        told: &[(IpAddr, u32)],
        now_s: u32,
    ) -> Vec<PolicyWrite> {
        let mut writes = Vec::new();
        let number = self
            .tables
            .addresses
            .get(&task)
            .filter(|e| e.selected == Some(true));
        let Some(patterns) = number.and_then(|e| self.patterns.get(&e.number)) else {
            return writes;
        };
        if !patterns.iter().any(|p| p.name.matches(name)) {
            return writes;
        }
        let (patterns, most) = (patterns.clone(), self.limits.names);
        for (ip, ttl) in told {
            let key = (task, *ip);
            if !self.may_be_named(&self.tables, *ip) {
                continue;
            }
            if !self.learned.told.contains_key(&key)
                && let Some(gone) = self.learned.room(task, &self.tables.names, most)
            {
                self.learned.told.remove(&gone);
                if self.tables.names.remove(&gone).is_some() {
                    writes.push(PolicyWrite::RemoveName(gone.0, gone.1));
                }
            }
            let names = self.learned.told.entry(key).or_default();
            let expires_s = now_s.saturating_add((*ttl).clamp(MIN_TTL_S, MAX_TTL_S));
            if names.len() < MAX_OF_ADDRESS || names.contains_key(name) {
                let at = names.entry(name.to_owned()).or_default();
                *at = expires_s.max(*at);
            }
            let expires_s = names.values().copied().max().unwrap_or(expires_s);
            let both = ports(&patterns, names);
            let Some(sets) = self.sets_of(&both) else {
                continue;
            };
            for (number, set) in [(sets.in_force, &both.0), (sets.with_audit, &both.1)] {
                if number >= waggle_ebpf_common::policy::set::FIRST
                    && !self.tables.sets.contains_key(&number)
                {
                    self.tables.sets.insert(number, set.clone());
                    writes.push(PolicyWrite::PutSet(number, set.clone()));
                }
            }
            let entry = NameEntry { sets, expires_s };
            if self.tables.names.insert(key, entry) != Some(entry) {
                writes.push(PolicyWrite::PutName(key.0, key.1, entry));
            }
        }
        writes
    }

    /// What tasks were told.
    pub const fn learned(&self) -> &Learned {
        &self.learned
    }

    /// Addresses of this node's tasks some of whose rules name names: what these are told must be learned.
    pub fn askers(&self) -> BTreeSet<IpAddr> {
        let asks = |number: &u32| self.patterns.get(number).is_some_and(|p| !p.is_empty());
        if self.patterns.values().all(Vec::is_empty) {
            return BTreeSet::new();
        }
        let all = self.tables.addresses.iter();
        all.filter(|(_, e)| e.selected == Some(true) && asks(&e.number))
            .map(|(ip, _)| *ip)
            .collect()
    }
}

/// The ports that patterns give to any of these names: in force, and with audit.
pub(super) fn ports(patterns: &[Pattern], names: &BTreeMap<String, u32>) -> (PortSet, PortSet) {
    let mut both = (PortSet::default(), PortSet::default());
    for pattern in patterns {
        if names.keys().any(|name| pattern.name.matches(name)) {
            both.1.add(&pattern.ports);
            if !pattern.audit {
                both.0.add(&pattern.ports);
            }
        }
    }
    both
}

/// The resolver's port, both protocols.
pub(super) fn asking(port: u16) -> [PolicyPorts; 2] {
    [PolicyProtocol::Tcp, PolicyProtocol::Udp].map(|protocol| PolicyPorts {
        protocol,
        first: port,
        last: port,
    })
}

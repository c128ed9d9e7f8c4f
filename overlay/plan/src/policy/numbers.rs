//! Numbers for whoever can be a peer, kept as long as somebody has them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waggle_ebpf_common::policy::{MAX_SETS, number, set as set_number};
use waggle_types::{IpNet, PolicySubject};

use super::PortSet;

/// What makes an address outside of the cluster's networks a peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Term {
    /// A rule's network and its exceptions.
    Cidr(IpNet, Vec<IpNet>),
    /// It is a node's.
    Node,
    /// It is the resolver's.
    Resolver,
}

/// What those who share a number have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// Tasks that are the same to every policy that can be written.
    Tasks(Arc<PolicySubject>),
    /// Addresses that are the same to every policy that is there.
    Addresses(BTreeSet<Term>),
}

/// Numbers in use. Who has the same kind has the same number.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers {
    of: BTreeMap<Kind, u32>,
    used: BTreeSet<u32>,
    /// Numbers that were given back, or that tables of another process have: not used for what is made now.
    resting: BTreeSet<u32>,
}

impl Numbers {
    /// Numbers that somebody else gave out and that may still be in the kernel's tables.
    pub(super) fn rest(&mut self, numbers: impl IntoIterator<Item = u32>) {
        self.resting.extend(numbers);
    }

    /// The number of a kind, a new one where it has none. `None`: all are in use.
    pub(super) fn get(&mut self, kind: &Kind, most: u32) -> Option<u32> {
        if let Kind::Addresses(terms) = kind
            && terms.is_empty()
        {
            return Some(number::OUTSIDE);
        }
        if let Some(n) = self.of.get(kind) {
            return Some(*n);
        }
        let free = |n: &u32| !self.used.contains(n) && !self.resting.contains(n);
        let after = self
            .used
            .last()
            .max(self.resting.last())
            .map_or(0, |n| n + 1);
        let n = [after.max(number::FIRST)]
            .into_iter()
            .find(|n| *n < number::FIRST + most)
            .or_else(|| (number::FIRST..number::FIRST + most).find(free))?;
        self.of.insert(kind.clone(), n);
        self.used.insert(n);
        Some(n)
    }

    /// Gives back what is not in use any more; such numbers rest until the next call.
    pub(super) fn keep(&mut self, used: &BTreeSet<u32>) {
        self.resting.clear();
        self.of.retain(|_, n| used.contains(n));
        let gone: Vec<u32> = self.used.difference(used).copied().collect();
        self.resting.extend(&gone);
        for n in gone {
            self.used.remove(&n);
        }
    }

    /// All kinds with their numbers.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Kind, u32)> {
        self.of.iter().map(|(kind, n)| (kind, *n))
    }
}

/// Port sets by number.
#[derive(Debug, Clone, Default)]
pub(super) struct SetNumbers {
    of: BTreeMap<PortSet, u32>,
    by_number: BTreeMap<u32, PortSet>,
    resting: BTreeSet<u32>,
    /// Where to look for a free one.
    next: u32,
    most: usize,
}

impl SetNumbers {
    /// None yet; at most so many, and these of another process stay unused for now.
    pub(super) fn new(most: usize, resting: BTreeSet<u32>) -> Self {
        Self {
            resting,
            most,
            ..Self::default()
        }
    }

    /// All, by number.
    pub(super) const fn all(&self) -> &BTreeMap<u32, PortSet> {
        &self.by_number
    }

    /// A set's number; `None`: all are in use.
    pub(super) fn get(&mut self, set: &PortSet) -> Option<u32> {
        if set.is_empty() {
            return Some(set_number::NONE);
        }
        if *set == PortSet::all() {
            return Some(set_number::ALL);
        }
        if let Some(n) = self.of.get(set) {
            return Some(*n);
        }
        if self.of.len() >= self.most {
            return None;
        }
        let first = self.next.max(set_number::FIRST);
        let n = (first..MAX_SETS)
            .chain(set_number::FIRST..first)
            .find(|n| !self.by_number.contains_key(n) && !self.resting.contains(n))?;
        self.next = n + 1;
        self.put(n, set);
        Some(n)
    }

    pub(super) fn put(&mut self, n: u32, set: &PortSet) {
        self.of.insert(set.clone(), n);
        self.by_number.insert(n, set.clone());
    }

    pub(super) fn keep(&mut self, used: &BTreeSet<u32>) {
        self.of.retain(|_, n| used.contains(n));
        let gone = self.by_number.extract_if(.., |n, _| !used.contains(n));
        self.resting = gone.map(|(n, _)| n).collect();
    }
}

//! The writes between two tables, in an order in which no flow ever has a third verdict.
//!
//! 1. Port sets with numbers that nothing refers to yet.
//! 2. What numbers that addresses only come to will say (those that nobody has yet, above all), what others will say of them, and
//!    what tasks may do with addresses that they may do nothing with now.
//! 3. For every address whose number changes, the side of its word that does not hold yet; then the sides are switched, for
//!    all at once; then the other side follows.
//! 4. What numbers that stay say: pairs that are new or changed, then defaults, then pairs that are gone. Each is one element, which the
//!    kernel replaces as a whole.
//! 5. Whatever nothing refers to any more; and last a new generation, so that what was decided meanwhile is decided again.
//!
//! A flow's verdict depends on the task's word, the peer's number, one pair and one default. Where words or numbers change it changes with step 3, and
//! finds what it needs there by step 2; where they stay it changes with one write of step 4. Where neither can be, because a number is come
//! to and changes what it says at once, there is a [`detour`](super::detour) by tables in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use waggle_ebpf_common::policy as abi;
use waggle_types::IpNet;

use super::{
    Direction, Entry, Local, NetEntry, PairKey, PortSet, Sets, Tables, detour::detour,
    names::NameEntry,
};

/// One change of the kernel's tables. `Sided` values are given as (the side that holds before the switch, the one that holds after).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyWrite {
    /// A port set, wholly, where none is.
    PutSet(u32, PortSet),
    /// Its blocks go.
    RemoveSet(u32, PortSet),
    /// What a number says to everybody.
    PutLocal(u32, Local),
    /// It says nothing any more.
    RemoveLocal(u32),
    /// What it says to one.
    PutPair(PairKey, Sets),
    /// Nothing beside what it says to everybody.
    RemovePair(PairKey),
    /// Both sides of an address's word.
    PutAddress(IpAddr, Entry, Entry),
    /// It has none any more.
    RemoveAddress(IpAddr),
    /// Both sides of a net's.
    PutNet(IpNet, NetEntry, NetEntry),
    /// It has none any more.
    RemoveNet(IpNet),
    /// From now on the other side holds.
    Switch,
    /// What a task may do with what it was told.
    PutName(IpAddr, IpAddr, NameEntry),
    /// Nothing.
    RemoveName(IpAddr, IpAddr),
    /// Whether there are policies; and a new generation.
    Finish {
        /// There are.
        is_on: bool,
    },
}

/// The writes that make `new` of `old`. Numbers and sets of `old` that `new` has not are not used for other things in it.
pub fn diff(old: &Tables, new: &Tables) -> Vec<PolicyWrite> {
    if old == new {
        return Vec::new();
    }
    detour(old, new).map_or_else(
        || direct(old, new),
        |mid| {
            let mut w = direct(old, &mid);
            w.append(&mut direct(&mid, new));
            w
        },
    )
}

fn direct(old: &Tables, new: &Tables) -> Vec<PolicyWrite> {
    let mut w = Vec::new();
    if old.is_on && !new.is_on {
        w.push(PolicyWrite::Finish { is_on: false });
    }
    for (n, set) in &new.sets {
        if old.sets.get(n) != Some(set) {
            w.push(PolicyWrite::PutSet(*n, set.clone()));
        }
    }
    let moves = Moves::new(old, new);
    let passing = moves.passing(old, new);
    let early = |(local, peer, _): &PairKey| moves.is_early(*local, *peer);
    for (key, sets) in new.pairs.iter().filter(|(k, _)| early(k)) {
        if old.pairs.get(key) != Some(sets) {
            w.push(PolicyWrite::PutPair(*key, *sets));
        }
    }
    for (key, sets) in &passing {
        w.push(PolicyWrite::PutPair(*key, *sets));
    }
    let changed = |n: &u32, local: &Local| old.locals.get(n) != Some(local);
    for (n, local) in &new.locals {
        if changed(n, local) && moves.is_local_early(*n) {
            w.push(PolicyWrite::PutLocal(*n, *local));
        }
    }
    for ((task, peer), entry) in &new.names {
        if !old.names.contains_key(&(*task, *peer)) {
            w.push(PolicyWrite::PutName(*task, *peer, *entry));
        }
    }
    switch(old, new, &mut w);
    for (key, sets) in new.pairs.iter().filter(|(k, _)| !early(k)) {
        if old.pairs.get(key) != Some(sets) {
            w.push(PolicyWrite::PutPair(*key, *sets));
        }
    }
    for (n, local) in &new.locals {
        if changed(n, local) && !moves.is_local_early(*n) {
            w.push(PolicyWrite::PutLocal(*n, *local));
        }
    }
    let gone: BTreeSet<&PairKey> = old.pairs.keys().chain(passing.keys()).collect();
    for key in gone.into_iter().filter(|k| !new.pairs.contains_key(k)) {
        w.push(PolicyWrite::RemovePair(*key));
    }
    for n in old.locals.keys().filter(|n| !new.locals.contains_key(n)) {
        w.push(PolicyWrite::RemoveLocal(*n));
    }
    for ((task, peer), entry) in &new.names {
        let before = old.names.get(&(*task, *peer));
        if before.is_some_and(|before| before != entry) {
            w.push(PolicyWrite::PutName(*task, *peer, *entry));
        }
    }
    for key in old.names.keys().filter(|k| !new.names.contains_key(k)) {
        w.push(PolicyWrite::RemoveName(key.0, key.1));
    }
    for (n, set) in &old.sets {
        if !new.sets.contains_key(n) {
            w.push(PolicyWrite::RemoveSet(*n, set.clone()));
        }
    }
    if new.is_on || !old.is_on {
        w.push(PolicyWrite::Finish { is_on: new.is_on });
    }
    w
}

/// Which numbers addresses come to and leave when sides are switched.
pub(super) struct Moves {
    /// No address had them.
    pub(super) fresh: BTreeSet<u32>,
    /// Tasks of this node that policies select had them.
    locals: BTreeSet<u32>,
    pub(super) joined: BTreeSet<u32>,
    left: BTreeSet<u32>,
    /// Pairs that the kernel has room for beside the old and the new ones.
    n_room: usize,
}

impl Moves {
    pub(super) fn new(old: &Tables, new: &Tables) -> Self {
        let known = numbers(old);
        let fresh = &numbers(new) - &known;
        let (mut joined, mut left) = (BTreeSet::new(), BTreeSet::new());
        let mut moved = |before: u32, then: u32| {
            if before != then {
                left.insert(before);
                joined.insert(then);
            }
        };
        for ip in old.addresses.keys().chain(new.addresses.keys()) {
            moved(old.effective(*ip).number, new.effective(*ip).number);
        }
        for net in old.nets.keys().chain(new.nets.keys()) {
            moved(net_entry(old, net).number, net_entry(new, net).number);
        }
        let both = old.pairs.keys().chain(new.pairs.keys());
        let n_pairs = both.collect::<BTreeSet<_>>().len();
        Self {
            fresh,
            locals: old.locals.keys().copied().collect(),
            joined,
            left,
            n_room: (abi::MAX_PAIRS as usize).saturating_sub(n_pairs),
        }
    }

    /// What two numbers say of each other is written before the switch: nobody who had both sees it sooner than who is to.
    pub(super) fn is_early(&self, local: u32, peer: u32) -> bool {
        let stays = |n| !self.left.contains(&n);
        let joins = self.joined.contains(&local) || self.joined.contains(&peer);
        !self.locals.contains(&local)
            || self.fresh.contains(&peer)
            || (joins && stays(local) && stays(peer))
    }

    fn is_local_early(&self, local: u32) -> bool {
        let joins = self.joined.contains(&local) && !self.left.contains(&local);
        !self.locals.contains(&local) || joins
    }

    /// Who comes to a number meets the old default of tasks whose default changes later: pairs with the new one until then. As many
    /// as there is room for; without one such flows have the old default meanwhile, which allows nobody more.
    fn passing(&self, old: &Tables, new: &Tables) -> BTreeMap<PairKey, Sets> {
        let mut out = BTreeMap::new();
        for (local, then) in &new.locals {
            let Some(before) = old.locals.get(local).filter(|before| *before != then) else {
                continue;
            };
            for direction in [Direction::Egress, Direction::Ingress] {
                let sets = then.sets(direction);
                if before.sets(direction) == sets {
                    continue;
                }
                for peer in &self.joined {
                    let key = (*local, *peer, direction);
                    if out.len() < self.n_room
                        && self.is_early(*local, *peer)
                        && !new.pairs.contains_key(&key)
                    {
                        out.insert(key, sets);
                    }
                }
            }
        }
        out
    }
}

/// Numbers that some table knows.
pub(super) fn numbers(tables: &Tables) -> BTreeSet<u32> {
    let mut known: BTreeSet<u32> = tables.locals.keys().copied().collect();
    known.extend([0, 1]);
    known.extend(tables.addresses.values().map(|e| e.number));
    known.extend(tables.nets.values().map(|n| n.number));
    known.extend(tables.pairs.keys().flat_map(|(a, b, _)| [*a, *b]));
    known
}

fn switch(old: &Tables, new: &Tables, w: &mut Vec<PolicyWrite>) {
    let ips: BTreeSet<IpAddr> = old
        .addresses
        .keys()
        .chain(new.addresses.keys())
        .copied()
        .collect();
    let nets: BTreeSet<IpNet> = old.nets.keys().chain(new.nets.keys()).copied().collect();
    let mut after = Vec::new();
    for ip in ips {
        if old.addresses.get(&ip) == new.addresses.get(&ip) {
            continue;
        }
        let (before, then) = (old.effective(ip), new.effective(ip));
        w.push(PolicyWrite::PutAddress(ip, before, then));
        after.push(match new.addresses.get(&ip) {
            Some(_) => PolicyWrite::PutAddress(ip, then, then),
            None => PolicyWrite::RemoveAddress(ip),
        });
    }
    for net in nets {
        if old.nets.get(&net) == new.nets.get(&net) {
            continue;
        }
        let (before, then) = (net_entry(old, &net), net_entry(new, &net));
        w.push(PolicyWrite::PutNet(net, before, then));
        after.push(match new.nets.get(&net) {
            Some(_) => PolicyWrite::PutNet(net, then, then),
            None => PolicyWrite::RemoveNet(net),
        });
    }
    if !after.is_empty() {
        w.push(PolicyWrite::Switch);
        w.append(&mut after);
    }
}

/// What holds for a net's addresses that have no longer prefix.
pub(super) fn net_entry(tables: &Tables, net: &IpNet) -> NetEntry {
    let shorter = (0..=net.prefix()).rev();
    shorter
        .filter_map(|prefix| tables.nets.get(&IpNet::around(net.ip(), prefix)))
        .copied()
        .next()
        .unwrap_or(NetEntry::OUTSIDE)
}

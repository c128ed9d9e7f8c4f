//! A detour for addresses that come to a number whose rules change at the same time.
//!
//! Whoever stays at such a number must see its rules change with one write, and whoever comes to it with another one: no order of writes
//! does both. So who comes goes to a number of its own first, which says (and of which others say) the same, and from there to the
//! number once its rules are written.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use waggle_ebpf_common::policy as abi;
use waggle_types::IpNet;

use super::{
    Direction, Entry, Local, NetEntry, Sets, Tables,
    diff::{Moves, net_entry, numbers},
};

/// Tables that say what `new` says, and that `old` can become without a third verdict. `None`: `new` is, or there is no room for both.
pub(super) fn detour(old: &Tables, new: &Tables) -> Option<Tables> {
    if !(old.is_on && new.is_on) {
        return None;
    }
    let moves = Moves::new(old, new);
    let crowded = crowded(&moves, old, new);
    if crowded.is_empty() {
        return None;
    }
    let aside = aside(&crowded, old, new);
    let mut mid = new.clone();
    for ip in old.addresses.keys().chain(new.addresses.keys()) {
        let then = new.effective(*ip);
        if let Some(number) = aside.get(&then.number)
            && old.effective(*ip).number != then.number
        {
            let selected = then.selected;
            let number = *number;
            mid.addresses.insert(*ip, Entry { number, selected });
        }
    }
    for net in old.nets.keys().chain(new.nets.keys()) {
        let then = net_entry(new, net);
        if let Some(number) = aside.get(&then.number)
            && net_entry(old, net).number != then.number
        {
            let is_closed = then.is_closed;
            let number = *number;
            mid.nets.insert(*net, NetEntry { number, is_closed });
        }
    }
    for (number, own) in &aside {
        if let Some(local) = new.locals.get(number) {
            mid.locals.insert(*own, *local);
        }
    }
    for ((local, peer, direction), sets) in &new.pairs {
        let (own, of_peer) = (aside.get(local), aside.get(peer));
        for local in own.into_iter().chain([local]) {
            for peer in of_peer.into_iter().chain([peer]) {
                mid.pairs.insert((*local, *peer, *direction), *sets);
            }
        }
    }
    is_room(old, &mid).then_some(mid)
}

/// Known numbers that addresses come to with the switch, where what they would find by then is written only afterwards, or would be
/// seen by others before.
fn crowded(moves: &Moves, old: &Tables, new: &Tables) -> BTreeSet<u32> {
    let mut out = BTreeSet::new();
    let comes = |n: &u32| moves.joined.contains(n) && !moves.fresh.contains(n);
    let mut late = |local: u32, peer: u32| {
        if !moves.is_early(local, peer) {
            out.extend([local, peer].iter().filter(|n| comes(n)));
        }
    };
    let of = |tables: &Tables, local: &Local, key| -> Sets {
        let (_, _, direction) = key;
        let pair = tables.pairs.get(&key).copied();
        pair.unwrap_or_else(|| local.sets(direction))
    };
    let keys: BTreeSet<_> = old.pairs.keys().chain(new.pairs.keys()).collect();
    for key in keys {
        if let (Some(before), Some(then)) = (old.locals.get(&key.0), new.locals.get(&key.0))
            && of(old, before, *key) != of(new, then, *key)
        {
            late(key.0, key.1);
        }
    }
    let mut of_default = BTreeSet::new();
    for (number, before) in &old.locals {
        let Some(then) = new.locals.get(number).filter(|then| *then != before) else {
            continue;
        };
        for direction in [Direction::Egress, Direction::Ingress] {
            if before.sets(direction) != then.sets(direction) {
                for peer in &moves.joined {
                    late(*number, *peer);
                }
            }
        }
        of_default.extend(Some(*number).filter(comes));
    }
    out.append(&mut of_default);
    out
}

/// A number for each that nobody is ever given.
fn aside(crowded: &BTreeSet<u32>, old: &Tables, new: &Tables) -> BTreeMap<u32, u32> {
    let known = &numbers(old) | &numbers(new);
    let first = abi::number::FIRST + abi::MAX_NUMBERS;
    let free = (first..abi::number::MASK).filter(|n| !known.contains(n));
    crowded.iter().copied().zip(free).collect()
}

/// Whether the kernel's tables have room for both at once.
fn is_room(old: &Tables, mid: &Tables) -> bool {
    fn both<K: Ord + Copy, V>(a: &BTreeMap<K, V>, b: &BTreeMap<K, V>) -> usize {
        a.len() + b.keys().filter(|k| !a.contains_key(k)).count()
    }
    both::<IpAddr, _>(&old.addresses, &mid.addresses) <= abi::MAX_ADDRESSES as usize
        && both::<IpNet, _>(&old.nets, &mid.nets) <= abi::MAX_NETS as usize
        && both(&old.locals, &mid.locals) <= abi::MAX_LOCALS as usize
        && both(&old.pairs, &mid.pairs) <= abi::MAX_PAIRS as usize
}

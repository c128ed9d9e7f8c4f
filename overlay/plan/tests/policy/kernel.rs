//! The kernel's maps as writes leave them, and the program's lookups in them.

use std::{collections::BTreeMap, net::IpAddr};

use waggle_ebpf_common::policy::{BLOCK_PORTS, Block, PortWords, number, set};
use waggle_overlay_plan::policy::{
    Direction, Entry, Local, NameEntry, NetEntry, PairKey, PolicyWrite, PortSet, Sets, Tables,
    Verdict,
};
use waggle_types::IpNet;

use crate::worlds::TestFlow;

#[derive(Debug, Default)]
pub struct Kernel {
    is_on: bool,
    side: usize,
    pub generation: u32,
    addresses: BTreeMap<IpAddr, [u32; 2]>,
    nets: BTreeMap<IpNet, [u32; 2]>,
    locals: BTreeMap<u32, Local>,
    pairs: BTreeMap<PairKey, Sets>,
    sets: BTreeMap<u32, PortWords>,
    blocks: BTreeMap<(u32, u32, u32), Block>,
    names: BTreeMap<(IpAddr, IpAddr), NameEntry>,
}

const fn net_word(net: NetEntry) -> u32 {
    net.number | if net.is_closed { 0 } else { number::OPEN }
}

impl Kernel {
    pub fn write(&mut self, write: &PolicyWrite) {
        let sides = |side: usize, before: u32, after: u32| {
            if side == 0 {
                [before, after]
            } else {
                [after, before]
            }
        };
        match write {
            PolicyWrite::PutSet(n, set) => {
                assert!(!self.sets.contains_key(n), "a set in use is written over");
                let (words, blocks) = set.words();
                for (at, block, bits) in blocks {
                    self.blocks.insert((*n, at, block), bits);
                }
                self.sets.insert(*n, words);
            }
            PolicyWrite::RemoveSet(n, set) => {
                for (at, block, _) in set.words().1 {
                    assert!(self.blocks.remove(&(*n, at, block)).is_some());
                }
                assert!(self.sets.remove(n).is_some());
            }
            PolicyWrite::PutLocal(n, local) => {
                self.locals.insert(*n, *local);
            }
            PolicyWrite::RemoveLocal(n) => assert!(self.locals.remove(n).is_some()),
            PolicyWrite::PutPair(key, sets) => {
                self.pairs.insert(*key, *sets);
            }
            PolicyWrite::RemovePair(key) => assert!(self.pairs.remove(key).is_some()),
            PolicyWrite::PutAddress(ip, before, after) => {
                let words = sides(self.side, before.word(), after.word());
                self.addresses.insert(*ip, words);
            }
            PolicyWrite::RemoveAddress(ip) => assert!(self.addresses.remove(ip).is_some()),
            PolicyWrite::PutNet(net, before, after) => {
                let words = sides(self.side, net_word(*before), net_word(*after));
                self.nets.insert(*net, words);
            }
            PolicyWrite::RemoveNet(net) => assert!(self.nets.remove(net).is_some()),
            PolicyWrite::Switch => self.side = 1 - self.side,
            PolicyWrite::PutName(task, peer, entry) => {
                self.names.insert((*task, *peer), *entry);
            }
            PolicyWrite::RemoveName(task, peer) => {
                assert!(self.names.remove(&(*task, *peer)).is_some());
            }
            PolicyWrite::Finish { is_on } => {
                self.is_on = *is_on;
                self.generation += 1;
            }
        }
    }

    fn net(&self, ip: IpAddr) -> u32 {
        // As its keys are: IPv4 within IPv6.
        let mapped = |net: &IpNet| match net.ip() {
            IpAddr::V4(v4) => {
                IpNet::around(v4.to_ipv6_mapped().into(), net.prefix().saturating_add(96))
            }
            IpAddr::V6(_) => *net,
        };
        let ip = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
            IpAddr::V6(_) => ip,
        };
        let all = self.nets.iter().map(|(net, words)| (mapped(net), words));
        all.filter(|(net, _)| net.contains(ip))
            .max_by_key(|(net, _)| net.prefix())
            .map_or(number::OUTSIDE | number::OPEN, |(_, words)| {
                words[self.side]
            })
    }

    fn word(&self, ip: IpAddr) -> u32 {
        let own = self.addresses.get(&ip).map(|words| words[self.side]);
        own.unwrap_or_else(|| self.net(ip))
    }

    fn has(&self, n: u32, protocol: u8, port: u16) -> bool {
        if n < set::FIRST {
            return n == set::ALL;
        }
        let words = self.sets.get(&n).expect("a set that is referred to");
        let at = match protocol {
            6 => 0_u32,
            17 => 1,
            1 | 58 => return words.flags & 1 != 0,
            _ => return words.flags & 2 != 0,
        };
        let (block, bit) = (u32::from(port) / BLOCK_PORTS, u32::from(port) % BLOCK_PORTS);
        if words.full[at as usize] >> block & 1 == 1 {
            return true;
        }
        words.partial[at as usize] >> block & 1 == 1
            && self.blocks[&(n, at, block)].bits[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    /// As the program does it.
    pub fn verdict(&self, flow: &TestFlow, now_s: u32) -> Verdict {
        if !self.is_on {
            return Verdict::Open;
        }
        let word = self.word(flow.task);
        if word & number::OPEN != 0 {
            return Verdict::Open;
        }
        if word & number::SELECTED == 0 {
            return Verdict::NoState;
        }
        let Some(local) = self.locals.get(&(word & number::MASK)) else {
            return Verdict::NoState;
        };
        let mut sets = local.sets(flow.direction);
        if sets == Sets::OPEN {
            return Verdict::Open;
        }
        let peer = self.word(flow.peer) & number::MASK;
        if let Some(pair) = self.pairs.get(&(word & number::MASK, peer, flow.direction)) {
            sets = *pair;
        }
        let mut passes = self.has(sets.in_force, flow.protocol, flow.port);
        let mut would = self.has(sets.with_audit, flow.protocol, flow.port);
        if local.has_names
            && flow.direction == Direction::Egress
            && let Some(name) = self.names.get(&(flow.task, flow.peer))
            && name.expires_s > now_s
        {
            passes |= self.has(name.sets.in_force, flow.protocol, flow.port);
            would |= self.has(name.sets.with_audit, flow.protocol, flow.port);
        }
        match (passes, would) {
            (false, _) => Verdict::Denied,
            (true, false) => Verdict::Audited,
            (true, true) => Verdict::Allowed,
        }
    }

    /// What a process that starts reads of it.
    pub fn tables(&self) -> Tables {
        let entry = |words: &[u32; 2]| Entry::of_word(words[self.side]);
        let net = |words: &[u32; 2]| NetEntry {
            number: words[self.side] & number::MASK,
            is_closed: words[self.side] & number::OPEN == 0,
        };
        let set = |n: &u32, words: &PortWords| {
            PortSet::from_words(words, |at, block| self.blocks[&(*n, at, block)])
        };
        Tables {
            is_on: self.is_on,
            addresses: self
                .addresses
                .iter()
                .map(|(ip, w)| (*ip, entry(w)))
                .collect(),
            nets: self.nets.iter().map(|(c, w)| (*c, net(w))).collect(),
            locals: self.locals.clone(),
            pairs: self.pairs.clone(),
            sets: self.sets.iter().map(|(n, w)| (*n, set(n, w))).collect(),
            names: self.names.clone(),
        }
    }
}

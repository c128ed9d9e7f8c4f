//! Plain tables from and to the kernel's.

use std::collections::BTreeMap;

use waggle_ebpf::{LoadError, overlay::PolicyMaps};
use waggle_ebpf_common::policy::{
    self as abi, Block, BlockKey, Config, EGRESS, INGRESS, PairKey, config_flags, local_flags,
    number,
};
use waggle_overlay_plan::policy::{
    Direction, Entry, Local, NameEntry, NetEntry, PolicyWrite, PortSet, Sets, Tables,
};
use waggle_types::IpNet;

/// Blocks of one protocol.
const BLOCKS: u32 = 64;

const fn sets(sets: Sets) -> abi::Sets {
    abi::Sets {
        in_force: sets.in_force,
        with_audit: sets.with_audit,
    }
}

const fn plain_sets(sets: abi::Sets) -> Sets {
    Sets {
        in_force: sets.in_force,
        with_audit: sets.with_audit,
    }
}

const fn direction(direction: Direction) -> u32 {
    match direction {
        Direction::Egress => EGRESS,
        Direction::Ingress => INGRESS,
    }
}

const fn net_word(net: NetEntry) -> u32 {
    net.number | if net.is_closed { 0 } else { number::OPEN }
}

/// What holds now, and what will.
const fn sides(side: u32, before: u32, after: u32) -> [u32; 2] {
    if side == 0 {
        [before, after]
    } else {
        [after, before]
    }
}

/// Does one write. `adopt_until_s` is asked when policies begin.
pub(super) fn write(
    maps: &mut PolicyMaps,
    write: &PolicyWrite,
    adopt_until_s: impl FnOnce() -> u32,
) -> Result<(), LoadError> {
    match write {
        PolicyWrite::PutSet(n, set) => {
            let (words, blocks) = set.words();
            let blocks: Vec<(u32, Block)> = blocks
                .into_iter()
                .map(|(protocol, block, bits)| (protocol * BLOCKS + block, bits))
                .collect();
            maps.put_set(*n, words, &blocks)
        }
        PolicyWrite::RemoveSet(n, set) => {
            let (_, blocks) = set.words();
            let at = |(protocol, block, _): &(u32, u32, Block)| protocol * BLOCKS + block;
            maps.remove_set(*n, &blocks.iter().map(at).collect::<Vec<_>>())
        }
        PolicyWrite::PutLocal(n, local) => {
            let flags = if local.has_names {
                local_flags::NAMES
            } else {
                0
            };
            let value = abi::Local {
                sets: [sets(local.egress), sets(local.ingress)],
                flags,
                pad: 0,
            };
            maps.put_local(*n, value)
        }
        PolicyWrite::RemoveLocal(n) => maps.remove_local(*n),
        PolicyWrite::PutPair(key, value) => maps.put_pair(pair(*key), sets(*value)),
        PolicyWrite::RemovePair(key) => maps.remove_pair(pair(*key)),
        PolicyWrite::PutAddress(ip, before, after) => {
            let side = maps.config()?.side;
            maps.put_address(*ip, sides(side, before.word(), after.word()))
        }
        PolicyWrite::RemoveAddress(ip) => maps.remove_address(*ip),
        PolicyWrite::PutNet(net, before, after) => {
            let side = maps.config()?.side;
            let words = sides(side, net_word(*before), net_word(*after));
            maps.put_net((net.ip(), net.prefix()), words)
        }
        PolicyWrite::RemoveNet(net) => maps.remove_net((net.ip(), net.prefix())),
        PolicyWrite::Switch => {
            let config = maps.config()?;
            maps.set_config(Config {
                side: 1 - (config.side & 1),
                ..config
            })
        }
        PolicyWrite::PutName(task, peer, entry) => {
            let value = abi::Name {
                sets: sets(entry.sets),
                expires_s: entry.expires_s,
                pad: 0,
            };
            maps.put_name(*task, *peer, value)
        }
        PolicyWrite::RemoveName(task, peer) => maps.remove_name(*task, *peer),
        PolicyWrite::Finish { is_on } => {
            let config = maps.config()?;
            let was_on = config.flags & config_flags::ON != 0;
            maps.set_config(Config {
                flags: if *is_on { config_flags::ON } else { 0 },
                // 0 says that nobody has ever said anything.
                generation: config.generation.wrapping_add(1).max(1),
                adopt_until_s: if *is_on && !was_on {
                    adopt_until_s()
                } else {
                    config.adopt_until_s
                },
                ..config
            })
        }
    }
}

fn pair((local, peer, way): (u32, u32, Direction)) -> PairKey {
    PairKey {
        local,
        peer,
        direction: direction(way),
    }
}

/// Reads the kernel's tables.
pub(super) fn observe(maps: &PolicyMaps) -> Result<Tables, LoadError> {
    let config = maps.config()?;
    let now = |words: &[u32; 2]| {
        let [first, second] = *words;
        if config.side & 1 == 0 { first } else { second }
    };
    let blocks = maps.blocks()?;
    let mut tables = Tables {
        is_on: config.flags & config_flags::ON != 0,
        ..Tables::default()
    };
    for (ip, words) in maps.addresses()? {
        tables.addresses.insert(ip, Entry::of_word(now(&words)));
    }
    for ((ip, prefix), words) in maps.nets()? {
        let entry = NetEntry {
            number: now(&words) & number::MASK,
            is_closed: now(&words) & number::OPEN == 0,
        };
        tables
            .nets
            .extend(IpNet::new(ip, prefix).map(|net| (net, entry)));
    }
    for (n, local) in maps.locals()? {
        let [egress, ingress] = local.sets;
        let local = Local {
            egress: plain_sets(egress),
            ingress: plain_sets(ingress),
            has_names: local.flags & local_flags::NAMES != 0,
        };
        tables.locals.insert(n, local);
    }
    for (key, value) in maps.pairs()? {
        let way = if key.direction == EGRESS {
            Direction::Egress
        } else {
            Direction::Ingress
        };
        tables
            .pairs
            .insert((key.local, key.peer, way), plain_sets(value));
    }
    for (key, name) in maps.names()? {
        let entry = NameEntry {
            sets: plain_sets(name.sets),
            expires_s: name.expires_s,
        };
        tables.names.insert(key, entry);
    }
    read_sets(maps, &blocks, &mut tables)?;
    Ok(tables)
}

/// The sets that something refers to, and those that have blocks.
fn read_sets(
    maps: &PolicyMaps,
    blocks: &BTreeMap<BlockKey, Block>,
    tables: &mut Tables,
) -> Result<(), LoadError> {
    let of_locals = tables.locals.values().flat_map(|l| [l.egress, l.ingress]);
    let of_names = tables.names.values().map(|n| n.sets);
    let all = of_locals
        .chain(of_names)
        .chain(tables.pairs.values().copied());
    let mut numbers: Vec<u32> = all.flat_map(|s| [s.in_force, s.with_audit]).collect();
    numbers.extend(blocks.keys().map(|key| key.set));
    numbers.sort_unstable();
    numbers.dedup();
    for n in numbers.into_iter().filter(|n| *n >= abi::set::FIRST) {
        let words = maps.set(n)?;
        let set = PortSet::from_words(&words, |protocol, block| {
            let key = BlockKey {
                set: n,
                block: protocol * BLOCKS + block,
            };
            blocks.get(&key).copied().unwrap_or_default()
        });
        tables.sets.insert(n, set);
    }
    Ok(())
}

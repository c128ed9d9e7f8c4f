//! Sets of protocols and ports, exact.

use waggle_ebpf_common::policy::{BLOCK_PORTS, Block, PortWords, port_flags};
use waggle_types::{PolicyPorts, PolicyProtocol};

/// Which protocols and ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PortSet {
    /// Ranges of ports, sorted, neither touching nor overlapping.
    tcp: Vec<(u16, u16)>,
    udp: Vec<(u16, u16)>,
    icmp: bool,
    /// All other protocols.
    others: bool,
}

impl PortSet {
    /// Every protocol and port.
    pub fn all() -> Self {
        Self {
            tcp: vec![(0, u16::MAX)],
            udp: vec![(0, u16::MAX)],
            icmp: true,
            others: true,
        }
    }

    /// What a rule says; nothing said is everything.
    pub fn of(ports: &[PolicyPorts]) -> Self {
        if ports.is_empty() {
            return Self::all();
        }
        let mut set = Self::default();
        for p in ports {
            match p.protocol {
                PolicyProtocol::Tcp => set.tcp.push((p.first, p.last)),
                PolicyProtocol::Udp => set.udp.push((p.first, p.last)),
                PolicyProtocol::Icmp => set.icmp = true,
            }
        }
        normalize(&mut set.tcp);
        normalize(&mut set.udp);
        set
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [(&mut self.tcp, &other.tcp), (&mut self.udp, &other.udp)] {
            if !theirs.is_empty() && mine != theirs {
                mine.extend(theirs);
                normalize(mine);
            }
        }
        self.icmp |= other.icmp;
        self.others |= other.others;
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a protocol (IANA's number; both ICMPs are alike) and port are in it.
    pub fn contains(&self, protocol: u8, port: u16) -> bool {
        let within = |ranges: &[(u16, u16)]| {
            let at = ranges.partition_point(|(first, _)| *first <= port);
            at > 0 && ranges.get(at - 1).is_some_and(|(_, last)| port <= *last)
        };
        match protocol {
            6 => within(&self.tcp),
            17 => within(&self.udp),
            1 | 58 => self.icmp,
            _ => self.others,
        }
    }

    /// The kernel's form: one element, and the blocks that are partly in it (protocol's position, block, bits).
    pub fn words(&self) -> (PortWords, Vec<(u32, u32, Block)>) {
        let mut words = PortWords::default();
        let mut blocks = Vec::new();
        if self.icmp {
            words.flags |= port_flags::ICMP;
        }
        if self.others {
            words.flags |= port_flags::OTHERS;
        }
        for (at, ranges) in [(0_u32, &self.tcp), (1, &self.udp)] {
            for block in edges(ranges) {
                words.partial[at as usize] |= 1 << block;
                blocks.push((at, block, bits_of(ranges, block)));
            }
            for block in 0..BLOCKS {
                if is_full(ranges, block) {
                    words.full[at as usize] |= 1 << block;
                }
            }
        }
        (words, blocks)
    }

    /// How many blocks are partly in it.
    pub fn n_blocks(&self) -> usize {
        edges(&self.tcp).len() + edges(&self.udp).len()
    }

    /// From the kernel's form; `block` gives the bits of blocks that are partly in it.
    pub fn from_words(words: &PortWords, mut block: impl FnMut(u32, u32) -> Block) -> Self {
        let mut set = Self {
            icmp: words.flags & port_flags::ICMP != 0,
            others: words.flags & port_flags::OTHERS != 0,
            ..Self::default()
        };
        for (at, ranges) in [(0_u32, &mut set.tcp), (1, &mut set.udp)] {
            for n in 0..BLOCKS {
                let first = n * BLOCK_PORTS;
                let bits = if words.full[at as usize] >> n & 1 == 1 {
                    Block {
                        bits: [u64::MAX; 16],
                    }
                } else if words.partial[at as usize] >> n & 1 == 1 {
                    block(at, n)
                } else {
                    continue;
                };
                let has = |bit: &u32| bits.bits[(bit / 64) as usize] >> (bit % 64) & 1 == 1;
                for bit in (0..BLOCK_PORTS).filter(has) {
                    let port = u16::try_from(first + bit).unwrap_or(u16::MAX);
                    ranges.push((port, port));
                }
            }
            normalize(ranges);
        }
        set
    }
}

/// Blocks of each protocol.
const BLOCKS: u32 = 65_536 / BLOCK_PORTS;

fn is_full(ranges: &[(u16, u16)], block: u32) -> bool {
    let (low, high) = (block * BLOCK_PORTS, block * BLOCK_PORTS + BLOCK_PORTS - 1);
    ranges
        .iter()
        .any(|(first, last)| u32::from(*first) <= low && high <= u32::from(*last))
}

/// Blocks that are partly in ranges: only where one begins or ends.
fn edges(ranges: &[(u16, u16)]) -> Vec<u32> {
    let mut out: Vec<u32> = ranges
        .iter()
        .flat_map(|(first, last)| [u32::from(*first), u32::from(*last)])
        .map(|port| port / BLOCK_PORTS)
        .filter(|block| !is_full(ranges, *block))
        .collect();
    out.sort_unstable();
    out.dedup();
    out
}

fn bits_of(ranges: &[(u16, u16)], block: u32) -> Block {
    let mut bits = Block::default();
    let (low, high) = (block * BLOCK_PORTS, block * BLOCK_PORTS + BLOCK_PORTS - 1);
    for (first, last) in ranges {
        for port in u32::from(*first).max(low)..=u32::from(*last).min(high) {
            let bit = port - low;
            bits.bits[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }
    bits
}

fn normalize(ranges: &mut Vec<(u16, u16)>) {
    ranges.sort_unstable();
    let mut out: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges.drain(..) {
        match out.last_mut() {
            Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = (*end).max(last),
            _ => out.push((first, last)),
        }
    }
    *ranges = out;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range() -> impl Strategy<Value = PolicyPorts> {
        let port = prop_oneof![Just(0_u16), Just(65535), 1020..1030_u16, any::<u16>()];
        (0..3_usize, port.clone(), port).prop_map(|(protocol, a, b)| {
            let protocol = PolicyProtocol::ALL[protocol];
            if protocol == PolicyProtocol::Icmp {
                return PolicyPorts::all(protocol);
            }
            PolicyPorts {
                protocol,
                first: a.min(b),
                last: a.max(b),
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_set_has_what_some_range_has(
            a in prop::collection::vec(range(), 1..6),
            b in prop::collection::vec(range(), 1..6),
            ports in prop::collection::vec(prop_oneof![any::<u16>(), 1018..1032_u16], 30),
        ) {
            let mut set = PortSet::of(&a);
            set.add(&PortSet::of(&b));
            let (words, blocks) = set.words();
            for port in ports {
                for (protocol, number, at) in
                    [(PolicyProtocol::Tcp, 6_u8, 0_usize), (PolicyProtocol::Udp, 17, 1)]
                {
                    let said = a.iter().chain(&b).any(|r| {
                        r.protocol == protocol && (r.first..=r.last).contains(&port)
                    });
                    prop_assert_eq!(set.contains(number, port), said);
                    let block = u32::from(port) / BLOCK_PORTS;
                    let bit = u32::from(port) % BLOCK_PORTS;
                    let partly = blocks.iter().any(|(a, b, bits)| {
                        *a as usize == at
                            && *b == block
                            && bits.bits[(bit / 64) as usize] >> (bit % 64) & 1 == 1
                    });
                    let full = words.full[at] >> block & 1 == 1;
                    prop_assert_eq!(full || partly, said);
                    prop_assert!(!full || words.partial[at] >> block & 1 == 0);
                }
            }
            let back = PortSet::from_words(&words, |at, block| {
                let found = blocks.iter().find(|b| (b.0, b.1) == (at, block));
                found.map_or_else(Block::default, |b| b.2)
            });
            prop_assert_eq!(&back, &set);
            prop_assert_eq!(set.n_blocks(), blocks.len());
            let icmp = a.iter().chain(&b).any(|r| r.protocol == PolicyProtocol::Icmp);
            prop_assert_eq!(set.contains(1, 0), icmp);
            prop_assert!(!set.contains(132, 0));
        }
    }
}

//! Tables of network policies, as bytes. What is written in which order is `waggle-overlay-plan`'s to say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use waggle_ebpf_common::policy::{
    Block, BlockKey, Config, Flow, FlowKey, Local, Name, NameKey, Net, PairKey, PolicyRecord,
    PortWords, Sets, Sided, untold, verdict,
};
use waggle_ebpf_common::{Addr, addr_of, ip_of};

use crate::LoadError;
use crate::maps::open;
use crate::maps::{count, gone, list};

const CONFIG: &str = "POLICY_CONFIG";
const ADDRESSES: &str = "POLICY_ADDRESSES";
const NETS: &str = "POLICY_NETS";
const LOCALS: &str = "POLICY_LOCALS";
const PAIRS: &str = "POLICY_PAIRS";
const SETS: &str = "POLICY_SETS";
const BLOCKS: &str = "POLICY_BLOCKS";
const NAMES: &str = "POLICY_NAMES";
const FLOWS: &str = "POLICY_FLOWS";
const COUNTS: &str = "POLICY_COUNTS";
const RECORDS: &str = "POLICY_RECORDS";
const UNTOLD: &str = "POLICY_UNTOLD";
/// Every map of policies that outlives the process.
pub(super) const MAPS: [&str; 14] = [
    CONFIG,
    ADDRESSES,
    NETS,
    LOCALS,
    PAIRS,
    SETS,
    BLOCKS,
    NAMES,
    FLOWS,
    "POLICY_FRAGS",
    COUNTS,
    RECORDS,
    "POLICY_TOLD",
    UNTOLD,
];

/// The maps of policies. Each write is one element, which the kernel replaces as a whole.
pub struct PolicyMaps {
    config: Array<MapData, Config>,
    addresses: HashMap<MapData, Addr, Sided>,
    nets: LpmTrie<MapData, Addr, Net>,
    locals: HashMap<MapData, u32, Local>,
    pairs: HashMap<MapData, PairKey, Sets>,
    sets: Array<MapData, PortWords>,
    blocks: HashMap<MapData, BlockKey, Block>,
    names: HashMap<MapData, NameKey, Name>,
    flows: HashMap<MapData, FlowKey, Flow>,
    counts: PerCpuArray<MapData, u64>,
    records: RingBuf<MapData>,
    untold: PerCpuArray<MapData, u64>,
}

impl std::fmt::Debug for PolicyMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // aya's map handles have no Debug.
        f.debug_struct("PolicyMaps").finish_non_exhaustive()
    }
}

/// A net's address and the length of its prefix, as it is written.
pub type Prefix = (IpAddr, u8);

fn key_of((ip, prefix): Prefix) -> Key<Addr> {
    let before = if ip.is_ipv4() { 96 } else { 0 };
    Key::new(u32::from(prefix) + before, addr_of(ip))
}

impl PolicyMaps {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            config: open(ebpf, CONFIG)?,
            addresses: open(ebpf, ADDRESSES)?,
            nets: open(ebpf, NETS)?,
            locals: open(ebpf, LOCALS)?,
            pairs: open(ebpf, PAIRS)?,
            sets: open(ebpf, SETS)?,
            blocks: open(ebpf, BLOCKS)?,
            names: open(ebpf, NAMES)?,
            flows: open(ebpf, FLOWS)?,
            counts: open(ebpf, COUNTS)?,
            records: open(ebpf, RECORDS)?,
            untold: open(ebpf, UNTOLD)?,
        })
    }

    /// What all programs read first.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel, as of all others here.
    pub fn config(&self) -> Result<Config, LoadError> {
        self.config
            .get(&0, 0)
            .map_err(|e| LoadError::map("read", CONFIG, e))
    }

    /// Changes it; fields of 32 bits change one by one.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn set_config(&mut self, config: Config) -> Result<(), LoadError> {
        self.config
            .set(0, config, 0)
            .map_err(|e| LoadError::map("write", CONFIG, e))
    }

    /// An address's words.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn put_address(&mut self, ip: IpAddr, words: [u32; 2]) -> Result<(), LoadError> {
        self.addresses
            .insert(addr_of(ip), Sided { words }, 0)
            .map_err(|e| LoadError::map("write", ADDRESSES, e))
    }

    /// What is not there is removed, here and in the others.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn remove_address(&mut self, ip: IpAddr) -> Result<(), LoadError> {
        gone(self.addresses.remove(&addr_of(ip)), ADDRESSES)
    }

    /// All addresses.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn addresses(&self) -> Result<BTreeMap<IpAddr, [u32; 2]>, LoadError> {
        let all = list(&self.addresses, ADDRESSES)?;
        Ok(all.into_iter().map(|(a, s)| (ip_of(a), s.words)).collect())
    }

    /// A net's words.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn put_net(&mut self, net: Prefix, words: [u32; 2]) -> Result<(), LoadError> {
        self.nets
            .insert(&key_of(net), Net { words }, 0)
            .map_err(|e| LoadError::map("write", NETS, e))
    }

    /// It has none.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn remove_net(&mut self, net: Prefix) -> Result<(), LoadError> {
        gone(self.nets.remove(&key_of(net)), NETS)
    }

    /// All nets.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn nets(&self) -> Result<BTreeMap<Prefix, [u32; 2]>, LoadError> {
        let mut all = BTreeMap::new();
        for key in self.nets.keys() {
            let key = key.map_err(|e| LoadError::map("list", NETS, e))?;
            let Ok(net) = self.nets.get(&key, 0) else {
                continue;
            };
            let mut ip = ip_of(key.data());
            let mut prefix = key.prefix_len();
            // A net of IPv6 that has IPv4's place in it looks like one of IPv4 (`::/0`, say).
            if prefix >= 96 && ip.is_ipv4() {
                prefix -= 96;
            } else if let IpAddr::V4(v4) = ip {
                ip = IpAddr::V6(v4.to_ipv6_mapped());
            }
            let prefix = u8::try_from(prefix).unwrap_or(u8::MAX);
            all.insert((ip, prefix), net.words);
        }
        Ok(all)
    }

    /// What a number says to everybody.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn put_local(&mut self, number: u32, local: Local) -> Result<(), LoadError> {
        self.locals
            .insert(number, local, 0)
            .map_err(|e| LoadError::map("write", LOCALS, e))
    }

    /// Nothing.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn remove_local(&mut self, number: u32) -> Result<(), LoadError> {
        gone(self.locals.remove(&number), LOCALS)
    }

    /// What all numbers say to everybody.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn locals(&self) -> Result<BTreeMap<u32, Local>, LoadError> {
        list(&self.locals, LOCALS)
    }

    /// What a number says to one.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn put_pair(&mut self, key: PairKey, sets: Sets) -> Result<(), LoadError> {
        self.pairs
            .insert(key, sets, 0)
            .map_err(|e| LoadError::map("write", PAIRS, e))
    }

    /// No more than to everybody.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn remove_pair(&mut self, key: PairKey) -> Result<(), LoadError> {
        gone(self.pairs.remove(&key), PAIRS)
    }

    /// All of these.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn pairs(&self) -> Result<BTreeMap<PairKey, Sets>, LoadError> {
        list(&self.pairs, PAIRS)
    }

    /// A set of ports, which nothing refers to yet: blocks first.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn put_set(
        &mut self,
        number: u32,
        words: PortWords,
        blocks: &[(u32, Block)],
    ) -> Result<(), LoadError> {
        for (block, bits) in blocks {
            let key = BlockKey {
                set: number,
                block: *block,
            };
            self.blocks
                .insert(key, bits, 0)
                .map_err(|e| LoadError::map("write", BLOCKS, e))?;
        }
        self.sets
            .set(number, words, 0)
            .map_err(|e| LoadError::map("write", SETS, e))
    }

    /// A set that nothing refers to any more.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn remove_set(&mut self, number: u32, blocks: &[u32]) -> Result<(), LoadError> {
        self.sets
            .set(number, PortWords::default(), 0)
            .map_err(|e| LoadError::map("write", SETS, e))?;
        for block in blocks {
            let key = BlockKey {
                set: number,
                block: *block,
            };
            gone(self.blocks.remove(&key), BLOCKS)?;
        }
        Ok(())
    }

    /// A set; one that was never written has nothing in it.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn set(&self, number: u32) -> Result<PortWords, LoadError> {
        self.sets
            .get(&number, 0)
            .map_err(|e| LoadError::map("read", SETS, e))
    }

    /// All blocks of all sets.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn blocks(&self) -> Result<BTreeMap<BlockKey, Block>, LoadError> {
        list(&self.blocks, BLOCKS)
    }

    /// What a task may do with what it was told.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn put_name(&mut self, task: IpAddr, peer: IpAddr, name: Name) -> Result<(), LoadError> {
        let key = NameKey {
            local: addr_of(task),
            peer: addr_of(peer),
        };
        self.names
            .insert(key, name, 0)
            .map_err(|e| LoadError::map("write", NAMES, e))
    }

    /// Nothing.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn remove_name(&mut self, task: IpAddr, peer: IpAddr) -> Result<(), LoadError> {
        let key = NameKey {
            local: addr_of(task),
            peer: addr_of(peer),
        };
        gone(self.names.remove(&key), NAMES)
    }

    /// All of these: (task, address).
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn names(&self) -> Result<BTreeMap<(IpAddr, IpAddr), Name>, LoadError> {
        let all = list(&self.names, NAMES)?;
        let one = |(key, name): (NameKey, Name)| ((ip_of(key.local), ip_of(key.peer)), name);
        Ok(all.into_iter().map(one).collect())
    }

    /// What was decided of flows. What comes and goes meanwhile may be missing.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn flows(&self) -> Result<BTreeMap<FlowKey, Flow>, LoadError> {
        list(&self.flows, FLOWS)
    }

    /// Forgets a flow, as a full map would. For tests.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn forget(&mut self, key: &FlowKey) -> Result<(), LoadError> {
        gone(self.flows.remove(key), FLOWS)
    }

    /// All verdicts' counts by name, over all CPUs.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn counts(&self) -> Result<Vec<(&'static str, u64)>, LoadError> {
        (0..)
            .zip(verdict::NAMES)
            .map(|(at, name)| Ok((*name, self.count(at)?)))
            .collect()
    }

    /// What was dropped, or would be, and was not read yet, oldest first: at most so many. What is not read stays over a restart of
    /// the process.
    pub fn take_records(&mut self, most: usize) -> Vec<PolicyRecord> {
        let mut out = Vec::new();
        while out.len() < most
            && let Some(item) = self.records.next()
        {
            // What is shorter than a record was written by none of our programs.
            out.extend(PolicyRecord::from_bytes(&item));
        }
        out
    }

    /// Packets that have no record of their own, by name of the reason, over all CPUs.
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn untold(&self) -> Result<Vec<(&'static str, u64)>, LoadError> {
        (0..)
            .zip(untold::NAMES)
            .map(|(at, name)| Ok((*name, count(&self.untold, UNTOLD, at)?)))
            .collect()
    }

    /// One of them ([`verdict`]).
    ///
    /// # Errors
    /// [`LoadError::Map`].
    pub fn count(&self, verdict: u32) -> Result<u64, LoadError> {
        count(&self.counts, COUNTS, verdict)
    }
}

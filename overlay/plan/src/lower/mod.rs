//! Lowering: from table steps to writes of kernel maps, in an order that is safe after every write.
//!
//! A VIP's entry leads to a range of cells: a header and its backends (`waggle_ebpf_common::vip`). A changed set is
//! written to fresh cells first, then the entry is switched in one write, and the old cells rest in quarantine until no
//! program can still read them. So a reader sees the old set or the new one, whole.
//!
//! When no fresh range is left, the columns of backends that are gone are handed to survivors, word by word, so that
//! the dead leave nonetheless; backends that did not find room are reported, and what is there keeps working.

mod cells;
mod ramp;
pub(crate) mod slots;
mod squeeze;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Range,
};

use waggle_ebpf_common as abi;
use waggle_types::{Millis, Protocol, UnixMillis, VipKey};

pub use self::cells::{backend_from_kernel, backend_to_kernel};
use self::{cells::set_cells, ramp::Ramps, slots::Slots, squeeze::Patch};
use crate::table::{BackendSet, MapOp, VipTable};

/// Capacities, and how long cells rest before they are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoweringConfig {
    /// Most VIPs.
    pub max_vips: u32,
    /// Cells in the array of sets.
    pub max_cells: u32,
    /// Time until cells that were left are used again: longer than any program runs.
    pub quarantine: Millis,
}

impl Default for LoweringConfig {
    fn default() -> Self {
        Self {
            max_vips: abi::MAX_VIPS,
            max_cells: abi::MAX_CELLS,
            quarantine: Millis(1_000),
        }
    }
}

/// One write, to be executed in order; after the first failure the rest must not be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapWrite {
    /// A set into cells `base..`, which nobody reads.
    WriteCells {
        /// First cell.
        base: u32,
        /// Kernel bytes.
        cells: Vec<abi::Cell>,
    },
    /// One word of a cell that is read, atomically.
    Patch {
        /// The cell.
        cell: u32,
        /// Which of its words.
        word: u8,
        /// Kernel bytes.
        value: u32,
    },
    /// Where a VIP's set is, atomically.
    SetVip {
        /// Kernel key.
        key: abi::VipKey,
        /// The set's first cell.
        cell: u32,
    },
    /// No entry: the address is not ours any more.
    RemoveVip {
        /// Kernel key.
        key: abi::VipKey,
        /// Its number, so that its counters can be forgotten; 0 when it had none.
        vip_id: u32,
    },
}

/// What could not be lowered. The VIP named keeps working with what it has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LowerError {
    /// The VIP map is full.
    #[error("no room for vip {key}: all {max} entries are in use")]
    VipsFull {
        /// Who found no room.
        key: VipKey,
        /// The map's capacity.
        max: u32,
    },
    /// The array of sets is full.
    #[error("no room for {missing} backends of vip {key}: {free} cells free, {resting} resting")]
    CellsFull {
        /// Who found no room.
        key: VipKey,
        /// Backends that are not in the kernel's set.
        missing: usize,
        /// Free cells (perhaps not in one piece).
        free: u32,
        /// Cells in quarantine: trying again later may work.
        resting: u32,
    },
    /// More backends than a set can have; those with the highest addresses are left out.
    #[error("vip {key} has {n} backends, {max} are the most")]
    SetFull {
        /// Whose set.
        key: VipKey,
        /// How many there are.
        n: usize,
        /// How many a set can have.
        max: u32,
    },
}

/// What a change became.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lowered {
    /// Writes in the order in which they must happen.
    pub writes: Vec<MapWrite>,
    /// What found no room; lower it again later ([`Lowering::converge`]).
    pub failures: Vec<LowerError>,
}

/// An entry found in pinned maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Kernel key.
    pub key: abi::VipKey,
    /// The set's first cell.
    pub cell: u32,
    /// The set, header first; shorter than the header says, or empty, where it points outside of the array.
    pub cells: Vec<abi::Cell>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    vip_id: u32,
    /// The set as the kernel has it; none when it can't be trusted and must be written again.
    cells: Option<Vec<abi::Cell>>,
    /// Cells that belong to it, in one range unless it was adopted damaged.
    slots: Vec<Range<u32>>,
}

impl Entry {
    fn header(&self) -> Option<abi::SetHeader> {
        Some((*self.cells.as_ref()?.first()?).into())
    }

    /// Its backends, those that are chosen first.
    fn backends(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        let cells = self.cells.iter().flat_map(|c| c.iter().skip(1));
        cells.filter_map(|c| backend_from_kernel(&(*c).into()))
    }
}

/// What the kernel's maps hold, as written by us, and which cells are free.
#[derive(Debug, Clone)]
pub struct Lowering {
    config: LoweringConfig,
    entries: BTreeMap<VipKey, Entry>,
    ids: BTreeSet<u32>,
    slots: Slots,
    ramps: Ramps,
    /// Adopted keys that no VIP of ours can have; removed by the next [`Lowering::converge`].
    strays: BTreeMap<abi::VipKey, u32>,
}

impl Lowering {
    /// Of empty maps.
    pub fn new(config: LoweringConfig) -> Self {
        Self {
            config,
            entries: BTreeMap::new(),
            ids: BTreeSet::new(),
            slots: Slots::new(config.max_cells),
            ramps: Ramps::default(),
            strays: BTreeMap::new(),
        }
    }

    /// Of maps that outlived the agent: their entries keep their cells and numbers, so that nothing is
    /// written until a snapshot asks for something else.
    ///
    /// An entry that overlaps another, points outside of the array, holds an empty cell, is another VIP's or shares its
    /// number is not trusted: it is written again as soon as a table is lowered.
    pub fn adopt(config: LoweringConfig, found: Vec<Adopted>) -> Self {
        let mut this = Self::new(config);
        for Adopted {
            key: raw,
            cell,
            cells,
        } in found
        {
            let header: abi::SetHeader = cells.first().copied().unwrap_or_default().into();
            let Some(key) = key_from_kernel(&raw) else {
                this.strays.insert(raw, header.vip_id);
                continue;
            };
            let n = 1 + u32::from(header.members);
            let (slots, whole) = this.slots.claim(cell, n);
            let id_is_own = header.vip_id != 0 && this.ids.insert(header.vip_id);
            let filled = |c: &abi::Cell| backend_from_kernel(&(*c).into()).is_some();
            let sound = whole
                && id_is_own
                && (header.addr, header.port, header.proto) == (raw.addr, raw.port, raw.proto)
                && cells.len() == n as usize
                && header.n <= header.members
                && cells.iter().skip(1).all(filled);
            this.entries.insert(
                key,
                Entry {
                    vip_id: if id_is_own { header.vip_id } else { 0 },
                    cells: sound.then_some(cells),
                    slots,
                },
            );
        }
        this
    }

    /// Takes what the maps hold now for the truth (after a failed write, or to check them): as [`Lowering::adopt`], but
    /// cells that a program may still read by way of an entry that has left rest first.
    pub fn observe(&mut self, found: Vec<Adopted>, now: UnixMillis) {
        let mut fresh = Self::adopt(self.config, found);
        let until = now + self.config.quarantine;
        let resting = self.slots.resting().map(|(until, r)| (*until, r.clone()));
        let left = self.entries.values().flat_map(|e| e.slots.iter());
        let all: Vec<(UnixMillis, Range<u32>)> =
            resting.chain(left.map(|r| (until, r.clone()))).collect();
        for (until, range) in all {
            let (slots, _all_free) = fresh.slots.claim(range.start, range.end - range.start);
            for range in slots {
                fresh.slots.rest(range, until);
            }
        }
        fresh.ramps = std::mem::take(&mut self.ramps);
        *self = fresh;
    }

    /// Number of a VIP on this node.
    pub fn vip_id(&self, key: &VipKey) -> Option<u32> {
        self.entries
            .get(key)
            .map(|e| e.vip_id)
            .filter(|id| *id != 0)
    }

    /// VIPs with their numbers.
    pub fn vip_ids(&self) -> impl Iterator<Item = (u32, VipKey)> + '_ {
        self.entries
            .iter()
            .filter(|(_, e)| e.vip_id != 0)
            .map(|(k, e)| (e.vip_id, *k))
    }

    /// Whom the kernel chooses from for a VIP; none for a VIP that is not there or not trusted.
    pub fn serves(&self, key: &VipKey) -> Option<BTreeSet<SocketAddr>> {
        let entry = self.entries.get(key)?;
        let n = entry.header()?.n;
        Some(entry.backends().take(n.into()).collect())
    }

    /// Everybody in a VIP's set as the kernel has it, those that drain too.
    pub fn members(&self, key: &VipKey) -> impl Iterator<Item = SocketAddr> + '_ {
        self.entries.get(key).into_iter().flat_map(Entry::backends)
    }

    /// The set as the kernel has it, header first.
    pub fn cells(&self, key: &VipKey) -> Option<&[abi::Cell]> {
        self.entries.get(key)?.cells.as_deref()
    }

    /// Entries in the VIP map.
    pub fn n_vips(&self) -> usize {
        self.entries.len() + self.strays.len()
    }

    /// Free cells and cells in quarantine.
    pub fn free_slots(&self) -> (u32, u32) {
        (self.slots.n_free(), self.slots.n_resting())
    }

    /// When weights change by themselves, because a backend starts slowly: [`Lowering::ramp`] is due then.
    pub fn next_ramp(&self) -> Option<UnixMillis> {
        self.ramps.next()
    }

    /// The writes for backends that start slowly.
    pub fn ramp(&mut self, table: &VipTable, now: UnixMillis) -> Lowered {
        let mut out = Lowered::default();
        self.slots.release(now);
        for key in self.ramps.due(now) {
            match table.get(&key) {
                Some(set) => self.set(key, set, now, &mut out),
                None => self.ramps.forget(&key),
            }
        }
        out
    }

    /// The writes for `ops`.
    pub fn lower(&mut self, ops: &[MapOp], now: UnixMillis) -> Lowered {
        self.slots.release(now);
        let mut out = Lowered::default();
        for op in ops {
            match op {
                MapOp::Remove { key } => self.remove(*key, now, &mut out),
                MapOp::Set { key, set } => self.set(*key, set, now, &mut out),
            }
        }
        out
    }

    /// The writes from whatever the maps hold to `desired`: after adoption, after a failure, and as the
    /// periodic safety net.
    pub fn converge(&mut self, desired: &VipTable, now: UnixMillis) -> Lowered {
        self.slots.release(now);
        let mut out = Lowered::default();
        for (key, vip_id) in std::mem::take(&mut self.strays) {
            out.writes.push(MapWrite::RemoveVip { key, vip_id });
        }
        let gone: Vec<VipKey> = self
            .entries
            .keys()
            .filter(|k| !desired.contains_key(k))
            .copied()
            .collect();
        for key in gone {
            self.remove(key, now, &mut out);
        }
        for (key, set) in desired {
            self.set(*key, set, now, &mut out);
        }
        out
    }

    fn remove(&mut self, key: VipKey, now: UnixMillis, out: &mut Lowered) {
        self.ramps.forget(&key);
        let Some(entry) = self.entries.remove(&key) else {
            return;
        };
        self.ids.remove(&entry.vip_id);
        self.rest(entry.slots, now);
        out.writes.push(MapWrite::RemoveVip {
            key: key_to_kernel(&key),
            vip_id: entry.vip_id,
        });
    }

    fn set(&mut self, key: VipKey, set: &BackendSet, now: UnixMillis, out: &mut Lowered) {
        let old = self.entries.get(&key);
        if old.is_none() && self.n_vips() >= self.config.max_vips as usize {
            out.failures.push(LowerError::VipsFull {
                key,
                max: self.config.max_vips,
            });
            return;
        }
        // Only a set that is not of this run's making says who served before it; later all are in the ramps.
        let served: BTreeSet<SocketAddr> = match old {
            Some(e) if set.backends.values().any(|s| s.slow_start_s > 0) => e.backends().collect(),
            _ => BTreeSet::new(),
        };
        let known = |addr: &SocketAddr| served.contains(addr);
        let mut weights = self.ramps.weights(&key, set, known, now);
        if weights.len() > abi::MAX_SET as usize {
            out.failures.push(LowerError::SetFull {
                key,
                n: weights.len(),
                max: abi::MAX_SET,
            });
            while weights.len() > abi::MAX_SET as usize {
                weights.pop_last();
            }
        }
        let vip_id = match self.entries.get(&key).map(|e| e.vip_id) {
            Some(id) if id != 0 => id,
            _ => self.new_id(key),
        };
        let cells = set_cells(&key, vip_id, set, &weights);
        if let Some(old) = self.entries.get(&key)
            && old.cells.as_ref() == Some(&cells)
        {
            return;
        }
        let n = u32::try_from(cells.len()).unwrap_or(u32::MAX);
        match self.slots.take(n) {
            Some(base) => self.switch(key, vip_id, base, cells, now, out),
            None => self.squeeze(key, vip_id, &weights, now, out),
        }
    }

    /// The set to fresh cells, then the entry, then the old cells rest.
    fn switch(
        &mut self,
        key: VipKey,
        vip_id: u32,
        base: u32,
        cells: Vec<abi::Cell>,
        now: UnixMillis,
        out: &mut Lowered,
    ) {
        let n = u32::try_from(cells.len()).unwrap_or_default();
        out.writes.push(MapWrite::WriteCells {
            base,
            cells: cells.clone(),
        });
        out.writes.push(MapWrite::SetVip {
            key: key_to_kernel(&key),
            cell: base,
        });
        let entry = Entry {
            vip_id,
            cells: Some(cells),
            slots: std::iter::once(base..base + n).collect(),
        };
        if let Some(old) = self.entries.insert(key, entry) {
            self.rest(old.slots, now);
        }
    }

    /// No fresh range: what survives of the old set stays in its cells and gets the columns of the dead.
    fn squeeze(
        &mut self,
        key: VipKey,
        vip_id: u32,
        weights: &BTreeMap<SocketAddr, u32>,
        now: UnixMillis,
        out: &mut Lowered,
    ) {
        let (free, resting) = self.free_slots();
        let mut failed = |missing| {
            out.failures.push(LowerError::CellsFull {
                key,
                missing,
                free,
                resting,
            });
        };
        let known = self.entries.get_mut(&key);
        let Some((entry, base)) = known.and_then(|e| {
            let base = e.slots.first().filter(|_| e.cells.is_some())?.start;
            Some((e, base))
        }) else {
            if !self.entries.contains_key(&key) {
                self.ids.remove(&vip_id);
            }
            failed(weights.len());
            return;
        };
        let chosen = entry.header().map_or(0, |h| h.n);
        let Some(cells) = &mut entry.cells else {
            return;
        };
        let serves = |c: &abi::Cell| {
            let addr = backend_from_kernel(&(*c).into());
            addr.is_some_and(|a| weights.get(&a).is_some_and(|w| *w > 0))
        };
        let (patches, alive) = squeeze::patches(cells, serves);
        let missing = weights.values().filter(|w| **w > 0).count() - alive;
        if missing > 0 {
            failed(missing);
        }
        for Patch { cell, word, value } in patches {
            cells[cell as usize].words[usize::from(word)] = value;
            out.writes.push(MapWrite::Patch {
                cell: base + cell,
                word,
                value,
            });
        }
        if alive == 0 && chosen > 0 {
            // Nobody is left: the header alone stays.
            cells.truncate(1);
            let left =
                std::mem::replace(&mut entry.slots, std::iter::once(base..base + 1).collect());
            let left = left.into_iter().map(|r| r.start.max(base + 1)..r.end);
            let left = left.collect();
            self.rest(left, now);
        }
    }

    fn rest(&mut self, ranges: Vec<Range<u32>>, now: UnixMillis) {
        let until = now + self.config.quarantine;
        for range in ranges {
            self.slots.rest(range, until);
        }
    }

    /// A number derived from the key, so that a VIP has the same one after it was away and a
    /// socket that still carries a retired number is not counted for another VIP.
    fn new_id(&mut self, key: VipKey) -> u32 {
        let mut bytes = match key.ip {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        bytes.extend(key.port.to_be_bytes());
        bytes.push(key.protocol.number());
        let mut id = fnv1a(&bytes);
        while id == 0 || !self.ids.insert(id) {
            id = id.wrapping_add(1);
        }
        id
    }
}

/// FNV-1a, 32 bits: stable over versions and machines, which std's hashers are not.
pub(crate) fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |h, b| {
        (h ^ u32::from(*b)).wrapping_mul(0x0100_0193)
    })
}

/// The kernel's form of a VIP's key.
pub fn key_to_kernel(key: &VipKey) -> abi::VipKey {
    abi::VipKey {
        addr: abi::addr_of(key.ip),
        port: key.port.to_be(),
        proto: key.protocol.number(),
        pad: 0,
    }
}

/// A VIP's key from the kernel's form; none for a protocol that has no VIPs.
pub fn key_from_kernel(key: &abi::VipKey) -> Option<VipKey> {
    let protocol = match key.proto {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    (key.pad == 0).then(|| VipKey {
        protocol,
        ip: abi::ip_of(key.addr),
        port: u16::from_be(key.port),
    })
}

//! Lowering: from table steps to writes of kernel maps, in an order that is safe after every write.
//!
//! A VIP's entry names a range of slots in one shared backend array. A changed set is written to fresh
//! slots first, then the entry is switched in one write, and the old slots rest in quarantine until no
//! program can still hold the old entry. So a reader sees the old set or the new one, whole.
//!
//! When no fresh range is left, the survivors of the old set are spread over its own slots (each of which
//! keeps holding a backend of this VIP) so that dead backends leave nonetheless; backends that did not
//! find room are reported, and what is there keeps working.

mod slots;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
    ops::Range,
};

use waggle_ebpf_common as abi;
use waggle_types::{Millis, Protocol, UnixMillis, VipKey};

use self::slots::Slots;
use crate::table::{BackendSet, MapOp, VipTable};

/// Capacities, and how long slots rest before they are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoweringConfig {
    /// Most VIPs.
    pub max_vips: u32,
    /// Slots in the backend array.
    pub max_backends: u32,
    /// Time until slots that were left are used again: longer than any program runs.
    pub quarantine: Millis,
}

impl Default for LoweringConfig {
    fn default() -> Self {
        Self {
            max_vips: abi::MAX_VIPS,
            max_backends: abi::MAX_BACKENDS,
            quarantine: Millis(1_000),
        }
    }
}

/// One write, to be executed in order; after the first failure the rest must not be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapWrite {
    /// Backends into slots `base..`.
    SetBackends {
        /// First slot.
        base: u32,
        /// Kernel bytes.
        backends: Vec<abi::Backend>,
    },
    /// An entry, atomically.
    SetVip {
        /// Kernel key.
        key: abi::VipKey,
        /// Kernel value.
        value: abi::VipValue,
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
    /// The backend array is full.
    #[error("no room for {missing} backends of vip {key}: {free} slots free, {resting} resting")]
    SlotsFull {
        /// Who found no room.
        key: VipKey,
        /// Backends that are not in the kernel's set.
        missing: usize,
        /// Free slots (perhaps not in one piece).
        free: u32,
        /// Slots in quarantine: trying again later may work.
        resting: u32,
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
    /// Kernel value.
    pub value: abi::VipValue,
    /// What its slots hold; may be shorter than `value.n` where it points outside of the array.
    pub backends: Vec<abi::Backend>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    value: abi::VipValue,
    /// What the kernel serves; none when the entry can't be trusted and must be written again.
    serves: Option<BTreeSet<SocketAddrV4>>,
    /// Slots that belong to it.
    slots: Vec<Range<u32>>,
}

/// What the kernel's maps hold, as written by us, and which slots are free.
#[derive(Debug, Clone)]
pub struct Lowering {
    config: LoweringConfig,
    entries: BTreeMap<VipKey, Entry>,
    ids: BTreeSet<u32>,
    slots: Slots,
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
            slots: Slots::new(config.max_backends),
            strays: BTreeMap::new(),
        }
    }

    /// Of maps that outlived the agent: their entries keep their slots and numbers, so that nothing is
    /// written until a snapshot asks for something else.
    ///
    /// An entry that overlaps another, points outside of the array, holds an empty slot or shares its number is
    /// not trusted: it is written again as soon as a table is lowered.
    pub fn adopt(config: LoweringConfig, found: Vec<Adopted>) -> Self {
        let mut this = Self::new(config);
        for Adopted {
            key: raw,
            value,
            backends,
        } in found
        {
            let Some(key) = key_from_kernel(&raw) else {
                this.strays.insert(raw, value.vip_id);
                continue;
            };
            let (slots, whole) = this.slots.claim(value.base, value.n);
            let serves: BTreeSet<SocketAddrV4> =
                backends.iter().filter_map(backend_from_kernel).collect();
            let id_is_own = value.vip_id != 0 && this.ids.insert(value.vip_id);
            let sound = whole && id_is_own && serves.len() == value.n as usize;
            let value = abi::VipValue {
                vip_id: if id_is_own { value.vip_id } else { 0 },
                ..value
            };
            this.entries.insert(
                key,
                Entry {
                    value,
                    serves: sound.then_some(serves),
                    slots,
                },
            );
        }
        this
    }

    /// Takes what the maps hold now for the truth (after a failed write, or to check them): as [`Lowering::adopt`], but
    /// slots that a program may still read by way of an entry that has left rest first.
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
        *self = fresh;
    }

    /// Number of a VIP on this node.
    pub fn vip_id(&self, key: &VipKey) -> Option<u32> {
        self.entries
            .get(key)
            .map(|e| e.value.vip_id)
            .filter(|id| *id != 0)
    }

    /// VIPs with their numbers.
    pub fn vip_ids(&self) -> impl Iterator<Item = (u32, VipKey)> + '_ {
        self.entries
            .iter()
            .filter(|(_, e)| e.value.vip_id != 0)
            .map(|(k, e)| (e.value.vip_id, *k))
    }

    /// What the kernel serves for a VIP; none for a VIP that is not there or not trusted.
    pub fn serves(&self, key: &VipKey) -> Option<&BTreeSet<SocketAddrV4>> {
        self.entries.get(key).and_then(|e| e.serves.as_ref())
    }

    /// Entries in the VIP map.
    pub fn n_vips(&self) -> usize {
        self.entries.len() + self.strays.len()
    }

    /// Free slots and slots in quarantine.
    pub fn free_slots(&self) -> (u32, u32) {
        (self.slots.n_free(), self.slots.n_resting())
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
        let Some(entry) = self.entries.remove(&key) else {
            return;
        };
        let vip_id = entry.value.vip_id;
        self.ids.remove(&vip_id);
        self.rest(entry.slots, now);
        out.writes.push(MapWrite::RemoveVip {
            key: key_to_kernel(&key),
            vip_id,
        });
    }

    fn set(&mut self, key: VipKey, set: &BackendSet, now: UnixMillis, out: &mut Lowered) {
        let old = self.entries.get(&key);
        if old.is_some_and(|e| e.serves.as_ref() == Some(&set.backends)) {
            return;
        }
        if old.is_none() && self.n_vips() >= self.config.max_vips as usize {
            out.failures.push(LowerError::VipsFull {
                key,
                max: self.config.max_vips,
            });
            return;
        }
        let vip_id = match old.map(|e| e.value.vip_id) {
            Some(id) if id != 0 => id,
            _ => self.new_id(key),
        };
        let n = u32::try_from(set.backends.len()).unwrap_or(u32::MAX);
        match self.slots.take(n) {
            Some(base) => {
                let slots = (n > 0).then(|| base..base + n).into_iter().collect();
                self.switch(key, vip_id, slots, set.backends.clone(), now, out);
            }
            None => self.squeeze(key, vip_id, set, now, out),
        }
    }

    /// Backends to fresh slots, then the entry, then the old slots rest.
    fn switch(
        &mut self,
        key: VipKey,
        vip_id: u32,
        slots: Vec<Range<u32>>,
        backends: BTreeSet<SocketAddrV4>,
        now: UnixMillis,
        out: &mut Lowered,
    ) {
        let base = slots.first().map_or(0, |r| r.start);
        if !backends.is_empty() {
            out.writes.push(MapWrite::SetBackends {
                base,
                backends: backends.iter().map(backend_to_kernel).collect(),
            });
        }
        let value = abi::VipValue {
            base,
            n: u32::try_from(backends.len()).unwrap_or_default(),
            vip_id,
            flags: 0,
        };
        out.writes.push(MapWrite::SetVip {
            key: key_to_kernel(&key),
            value,
        });
        let entry = Entry {
            value,
            serves: Some(backends),
            slots,
        };
        if let Some(old) = self.entries.insert(key, entry) {
            self.rest(old.slots, now);
        }
    }

    /// No fresh range: what survives of the old set stays, in its own slots.
    fn squeeze(
        &mut self,
        key: VipKey,
        vip_id: u32,
        set: &BackendSet,
        now: UnixMillis,
        out: &mut Lowered,
    ) {
        let (free, resting) = self.free_slots();
        let survivors: BTreeSet<SocketAddrV4> = self
            .serves(&key)
            .map(|old| old.intersection(&set.backends).copied().collect())
            .unwrap_or_default();
        let missing = set.backends.len() - survivors.len();
        if missing > 0 {
            out.failures.push(LowerError::SlotsFull {
                key,
                missing,
                free,
                resting,
            });
        }
        if Some(&survivors) == self.serves(&key) {
            return;
        }
        let own = self.entries.get(&key).filter(|e| e.serves.is_some());
        let range = own.and_then(|e| e.slots.first().cloned());
        let (Some(range), false) = (range, survivors.is_empty()) else {
            // Nobody is left, or it is new: refuse instead of sending to the dead.
            self.switch(key, vip_id, vec![], survivors, now, out);
            return;
        };
        // Every old slot gets a survivor, so that readers of the old entry find one wherever they look.
        let kernel: Vec<abi::Backend> = survivors.iter().map(backend_to_kernel).collect();
        let n = u32::try_from(survivors.len()).unwrap_or_default();
        out.writes.push(MapWrite::SetBackends {
            base: range.start,
            backends: kernel.iter().cycle().take(range.len()).copied().collect(),
        });
        let value = abi::VipValue {
            base: range.start,
            n,
            vip_id,
            flags: 0,
        };
        out.writes.push(MapWrite::SetVip {
            key: key_to_kernel(&key),
            value,
        });
        let kept = range.start..range.start + n;
        let left = kept.end..range.end;
        if let Some(entry) = self.entries.get_mut(&key) {
            *entry = Entry {
                value,
                serves: Some(survivors),
                slots: vec![kept],
            };
        }
        self.rest(vec![left], now);
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
        let mut bytes = [0; 7];
        bytes[..4].copy_from_slice(&key.ip.octets());
        bytes[4..6].copy_from_slice(&key.port.to_be_bytes());
        bytes[6] = key.protocol.number();
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
        addr: u32::from_ne_bytes(key.ip.octets()),
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
        ip: Ipv4Addr::from(key.addr.to_ne_bytes()),
        port: u16::from_be(key.port),
    })
}

/// The kernel's form of a backend.
pub fn backend_to_kernel(addr: &SocketAddrV4) -> abi::Backend {
    abi::Backend {
        addr: u32::from_ne_bytes(addr.ip().octets()),
        port: addr.port().to_be(),
        pad: 0,
    }
}

/// A backend from the kernel's form; none for an empty slot.
pub fn backend_from_kernel(backend: &abi::Backend) -> Option<SocketAddrV4> {
    let ip = Ipv4Addr::from(backend.addr.to_ne_bytes());
    (backend.addr != 0 && backend.port != 0)
        .then(|| SocketAddrV4::new(ip, u16::from_be(backend.port)))
}

//! The edge's tables: VIPs, records, rings, backends, client ranges.
//!
//! Stores go through shared memory ([`Shared`]); the order in which a change is safe is the caller's plan
//! (`waggle-overlay-plan`, `maglev`): backends and slots, then the record, then the VIP that names it.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData, MapError};
use waggle_ebpf_common::edge::{self, BUCKET_WAYS, BUCKETS, Backend, Bucket, Range, Record};

use super::raw::Shared;
use crate::LoadError;

const BUCKETS_MAP: &str = "EDGE_BUCKETS";
const OVERFLOW_MAP: &str = "EDGE_OVERFLOW";
const RECORDS_MAP: &str = "EDGE_RECORDS";
const RING_MAP: &str = "EDGE_RING";
const BACKENDS_MAP: &str = "EDGE_BACKENDS";
const RANGES_MAP: &str = "EDGE_RANGES";

/// Offset of the first record index within a bucket.
const RECORDS_AT: usize = 8 * BUCKET_WAYS;
/// Offset of the overflow mark within a bucket.
const OVERFLOW_AT: usize = RECORDS_AT + 4 * BUCKET_WAYS;

/// The 8 bytes of a backend that hold its generation, and where within them it is.
const WORD: usize = std::mem::offset_of!(Backend, generation) / 8 * 8;
const AT: usize = std::mem::offset_of!(Backend, generation) - WORD;

/// Handles of the edge's tables.
pub struct EdgeTables {
    buckets: Shared,
    records: Shared,
    ring: Shared,
    backends: Shared,
    /// Writers of the VIP table, one at a time.
    overflow: Mutex<HashMap<MapData, u64, u32>>,
    ranges: Mutex<LpmTrie<MapData, Range, u32>>,
}

impl fmt::Debug for EdgeTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // aya's map handles have no Debug.
        f.debug_struct("EdgeTables").finish_non_exhaustive()
    }
}

impl EdgeTables {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        let shared = |ebpf: &mut Ebpf, name: &'static str| {
            let map = take(ebpf, name)?;
            let Map::Array(data) = map else {
                return Err(LoadError::Missing {
                    what: "array",
                    name,
                });
            };
            let info = data
                .info()
                .map_err(|e| LoadError::map("inspect", name, e))?;
            let bytes = info.value_size() as usize * info.max_entries() as usize;
            Shared::map(data.fd().as_fd(), bytes).map_err(|source| LoadError::Link {
                action: "map memory of",
                name,
                source,
            })
        };
        Ok(Self {
            buckets: shared(ebpf, BUCKETS_MAP)?,
            records: shared(ebpf, RECORDS_MAP)?,
            ring: shared(ebpf, RING_MAP)?,
            backends: shared(ebpf, BACKENDS_MAP)?,
            overflow: Mutex::new(
                take(ebpf, OVERFLOW_MAP)?
                    .try_into()
                    .map_err(|e| LoadError::map("open", OVERFLOW_MAP, e))?,
            ),
            ranges: Mutex::new(
                take(ebpf, RANGES_MAP)?
                    .try_into()
                    .map_err(|e| LoadError::map("open", RANGES_MAP, e))?,
            ),
        })
    }

    /// Slots in the arena of rings.
    pub fn slot_capacity(&self) -> u32 {
        u32::try_from(self.ring.bytes() / 4).unwrap_or(u32::MAX)
    }

    /// Places for backends.
    pub fn backend_capacity(&self) -> u32 {
        u32::try_from(self.backends.bytes() / size_of::<Backend>()).unwrap_or(u32::MAX)
    }

    /// Places for records.
    pub fn record_capacity(&self) -> u32 {
        u32::try_from(self.records.bytes() / size_of::<Record>()).unwrap_or(u32::MAX)
    }

    /// Writes backends into places that no slot names.
    ///
    /// # Errors
    /// [`LoadError::OutOfTable`] before anything is written.
    pub fn set_backends(&self, base: u32, backends: &[Backend]) -> Result<(), LoadError> {
        check("backends", base, backends.len(), self.backend_capacity())?;
        for (at, backend) in (base as usize..).zip(backends) {
            self.backends.store(at, backend);
        }
        Ok(())
    }

    /// Changes the next hop of a backend in use, in one store: destination and the first bytes of the source address.
    ///
    /// # Errors
    /// [`LoadError::OutOfTable`] before anything is written.
    pub fn set_next_hop(&self, at: u32, next_hop: [u8; 6]) -> Result<(), LoadError> {
        check("backends", at, 1, self.backend_capacity())?;
        let offset = at as usize * size_of::<Backend>();
        let mut word = self.backends.read64(offset).to_ne_bytes();
        word[..6].copy_from_slice(&next_hop);
        self.backends.store64(offset, u64::from_ne_bytes(word));
        Ok(())
    }

    /// Makes the flows that are remembered for a place nobody's, in one store; packets on their way are still sent.
    ///
    /// # Errors
    /// [`LoadError::OutOfTable`] before anything is written.
    pub fn retire(&self, at: u32) -> Result<(), LoadError> {
        check("backends", at, 1, self.backend_capacity())?;
        let offset = at as usize * size_of::<Backend>() + WORD;
        let mut word = self.backends.read64(offset).to_ne_bytes();
        word[AT..AT + 2].fill(0);
        self.backends.store64(offset, u64::from_ne_bytes(word));
        Ok(())
    }

    /// Reads a backend.
    ///
    /// # Errors
    /// [`LoadError::OutOfTable`].
    pub fn backend(&self, at: u32) -> Result<Backend, LoadError> {
        check("backends", at, 1, self.backend_capacity())?;
        Ok(self.backends.read(at as usize))
    }

    /// Writes slots, each in one store.
    ///
    /// # Errors
    /// [`LoadError::OutOfTable`] before anything is written.
    pub fn set_slots(&self, base: u32, slots: &[u32]) -> Result<(), LoadError> {
        check("ring slots", base, slots.len(), self.slot_capacity())?;
        for (at, slot) in (base as usize..).zip(slots) {
            self.ring.store32(at * 4, *slot);
        }
        Ok(())
    }

    /// Writes some slots of a ring, by position in it, each in one store.
    ///
    /// # Errors
    /// [`LoadError::OutOfTable`] before anything is written.
    pub fn set_slots_at(&self, base: u32, slots: &BTreeMap<u32, u32>) -> Result<(), LoadError> {
        if let Some((last, _)) = slots.last_key_value() {
            check("ring slots", base, *last as usize + 1, self.slot_capacity())?;
        }
        for (at, slot) in slots {
            self.ring.store32((base + at) as usize * 4, *slot);
        }
        Ok(())
    }

    /// Reads slots.
    ///
    /// # Errors
    /// [`LoadError::OutOfTable`].
    pub fn slots(&self, base: u32, n: u32) -> Result<Vec<u32>, LoadError> {
        check("ring slots", base, n as usize, self.slot_capacity())?;
        let base = base as usize;
        Ok((base..base + n as usize)
            .map(|at| self.ring.read32(at * 4))
            .collect())
    }

    /// Writes a record that no VIP names.
    ///
    /// # Errors
    /// [`LoadError::OutOfTable`] for its own place, its ring or its backends, before anything is written.
    pub fn set_record(&self, at: u32, record: &Record) -> Result<(), LoadError> {
        check("records", at, 1, self.record_capacity())?;
        check(
            "ring slots",
            record.ring_base,
            record.ring_size as usize,
            self.slot_capacity(),
        )?;
        check("backends", record.backend_base, 0, self.backend_capacity())?;
        check("traffic counters", record.vip_id, 1, self.record_capacity())?;
        self.records.store(at as usize, record);
        Ok(())
    }

    /// Makes a VIP lead to a record, in one store; what it led to before rests as long as a program may run.
    ///
    /// # Errors
    /// [`LoadError::Full`] when neither its bucket nor the overflow map has room (nothing changes).
    pub fn publish(&self, key: u64, record: u32) -> Result<(), LoadError> {
        check("records", record, 1, self.record_capacity())?;
        let mut overflow = self.overflow.lock().unwrap_or_else(PoisonError::into_inner);
        let base = bucket_offset(key);
        if let Some(way) = self.way(base, key) {
            self.buckets.store32(base + RECORDS_AT + 4 * way, record);
            return Ok(());
        }
        let is_over = overflow.get(&key, 0).is_ok();
        if !is_over && let Some(way) = self.way(base, 0) {
            self.buckets.store32(base + RECORDS_AT + 4 * way, record);
            self.buckets.store64(base + 8 * way, key);
            return Ok(());
        }
        overflow
            .insert(key, record, 0)
            .map_err(|e| LoadError::map("write", OVERFLOW_MAP, e))?;
        self.buckets.store32(base + OVERFLOW_AT, 1);
        Ok(())
    }

    /// Makes a VIP lead nowhere: its packets are passed on. One that is not there is success.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn withdraw(&self, key: u64) -> Result<(), LoadError> {
        let mut overflow = self.overflow.lock().unwrap_or_else(PoisonError::into_inner);
        let base = bucket_offset(key);
        let fail = |e| LoadError::map("write", OVERFLOW_MAP, e);
        let Some(way) = self.way(base, key) else {
            return match overflow.remove(&key) {
                Ok(()) | Err(MapError::KeyNotFound) => self.unmark(&overflow, base),
                Err(MapError::SyscallError(e))
                    if e.io_error.raw_os_error() == Some(libc::ENOENT) =>
                {
                    Ok(())
                }
                Err(error) => Err(fail(error)),
            };
        };
        self.buckets.store64(base + 8 * way, 0);
        // One of those that found no room takes the place: there first, then no longer in the map.
        let waiting = neighbors(&overflow, base)?.into_iter().next();
        if let Some((key, record)) = waiting {
            self.buckets.store32(base + RECORDS_AT + 4 * way, record);
            self.buckets.store64(base + 8 * way, key);
            overflow.remove(&key).map_err(fail)?;
            self.unmark(&overflow, base)?;
        }
        Ok(())
    }

    /// All VIPs with their records, sorted by key.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn list(&self) -> Result<Vec<(u64, u32, Record)>, LoadError> {
        let overflow = self.overflow.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        for at in 0..BUCKETS as usize {
            // Most are empty: two words tell.
            let base = at * size_of::<Bucket>();
            for way in 0..BUCKET_WAYS {
                let key = self.buckets.read64(base + 8 * way);
                if key != 0 {
                    found.push((key, self.buckets.read32(base + RECORDS_AT + 4 * way)));
                }
            }
        }
        for entry in overflow.iter() {
            found.push(entry.map_err(|e| LoadError::map("list", OVERFLOW_MAP, e))?);
        }
        found.sort_unstable();
        found
            .into_iter()
            .map(|(key, at)| {
                check("records", at, 1, self.record_capacity())?;
                Ok((key, at, self.records.read(at as usize)))
            })
            .collect()
    }

    /// Lets clients of a network use the VIPs with this set of ranges. `prefix` is 0 to 32.
    ///
    /// # Errors
    /// [`LoadError::Full`] without room; [`LoadError::Map`] from the kernel.
    pub fn allow(&self, range: Range, prefix: u8) -> Result<(), LoadError> {
        self.ranges
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(&range_key(range, prefix), 1, 0)
            .map_err(|e| LoadError::map("write", RANGES_MAP, e))
    }

    /// The opposite of [`EdgeTables::allow`]; a network that is not there is success.
    ///
    /// # Errors
    /// [`LoadError::Map`] from the kernel.
    pub fn disallow(&self, range: Range, prefix: u8) -> Result<(), LoadError> {
        let mut map = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        match map.remove(&range_key(range, prefix)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => {
                Ok(())
            }
            Err(error) => Err(LoadError::map("remove from", RANGES_MAP, error)),
        }
    }

    /// Where in a bucket a key is.
    fn way(&self, base: usize, key: u64) -> Option<usize> {
        (0..BUCKET_WAYS).find(|way| self.buckets.read64(base + 8 * way) == key)
    }

    /// Takes the overflow mark off a bucket of which nothing is in the map.
    fn unmark(&self, overflow: &HashMap<MapData, u64, u32>, base: usize) -> Result<(), LoadError> {
        if neighbors(overflow, base)?.is_empty() {
            self.buckets.store32(base + OVERFLOW_AT, 0);
        }
        Ok(())
    }
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    ebpf.take_map(name)
        .ok_or(LoadError::Missing { what: "map", name })
}

fn bucket_offset(key: u64) -> usize {
    edge::bucket(key) as usize * size_of::<Bucket>()
}

/// What of a bucket is in the overflow map.
fn neighbors(
    overflow: &HashMap<MapData, u64, u32>,
    base: usize,
) -> Result<Vec<(u64, u32)>, LoadError> {
    let mut found = Vec::new();
    for entry in overflow {
        let (key, record) = entry.map_err(|e| LoadError::map("list", OVERFLOW_MAP, e))?;
        if bucket_offset(key) == base {
            found.push((key, record));
        }
    }
    Ok(found)
}

fn range_key(range: Range, prefix: u8) -> Key<Range> {
    Key::new(32 + u32::from(prefix.min(32)), range)
}

fn check(table: &'static str, base: u32, n: usize, capacity: u32) -> Result<(), LoadError> {
    let end = u64::from(base).saturating_add(n as u64);
    if end <= u64::from(capacity) {
        Ok(())
    } else {
        Err(LoadError::OutOfTable {
            table,
            end,
            capacity,
        })
    }
}

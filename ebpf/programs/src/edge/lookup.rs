//! VIP -> record.

use aya_ebpf::btf_maps::lpm_trie::Key;
use waggle_ebpf_common::edge::{self, Range, Record};

use crate::maps::{EDGE_BUCKETS, EDGE_OVERFLOW, EDGE_RANGES, EDGE_RECORDS};

/// The record of a VIP.
#[inline(always)]
pub fn record(key: u64) -> Option<&'static Record> {
    let bucket = EDGE_BUCKETS.get(edge::bucket(key))?;
    let keys = (&raw const bucket.keys).cast::<u64>();
    // SAFETY: reads within the bucket; volatile since user space writes it meanwhile.
    let index = unsafe {
        let records = (&raw const bucket.records).cast::<u32>();
        if keys.read_volatile() == key {
            records.read_volatile()
        } else if keys.add(1).read_volatile() == key {
            records.add(1).read_volatile()
        } else if keys.add(2).read_volatile() == key {
            records.add(2).read_volatile()
        } else if keys.add(3).read_volatile() == key {
            records.add(3).read_volatile()
        } else if (&raw const bucket.overflow).read_volatile() != 0 {
            *EDGE_OVERFLOW.get(&key)?
        } else {
            return None;
        }
    };
    let record = EDGE_RECORDS.get(index)?;
    // A place that was emptied and taken again between the two reads names another VIP's record.
    (record.key == key).then_some(record)
}

/// Whether a client is within a VIP's ranges.
#[inline(always)]
pub fn is_in_range(ranges: u32, addr: u32) -> bool {
    EDGE_RANGES
        .get(&Key::new(64, Range { ranges, addr }))
        .is_some()
}

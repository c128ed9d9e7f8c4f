//! Counters: found or made, added to atomically; what fails is a loss.

use aya_ebpf::bindings::BPF_NOEXIST;
use waggle_ebpf_common::{CgroupNet, HIST_BUCKETS, TcpKey, TcpStats, loss};

use crate::histogram::log2_bucket;
use crate::maps::{CGROUP_NET, NO_NET, NO_TCP, TCP_STATS};
pub use crate::tally::{add, add32, lost, vip_choice, vip_stat};

/// The packet counters of a cgroup.
#[inline(always)]
pub fn cgroup_net(cgroup_id: u64) -> Option<*mut CgroupNet> {
    if let Some(net) = CGROUP_NET.get_ptr_mut(&cgroup_id) {
        return Some(net);
    }
    let _ = CGROUP_NET.insert(&cgroup_id, &NO_NET, u64::from(BPF_NOEXIST));
    let found = CGROUP_NET.get_ptr_mut(&cgroup_id);
    if found.is_none() {
        lost(loss::CGROUP_MAP_FULL);
    }
    found
}

/// The TCP counters of a cgroup towards a VIP (0: no VIP).
#[inline(always)]
pub fn tcp(cgroup_id: u64, vip_id: u32) -> Option<*mut TcpStats> {
    let key = TcpKey {
        cgroup_id,
        vip_id,
        pad: 0,
    };
    if let Some(stats) = TCP_STATS.get_ptr_mut(&key) {
        return Some(stats);
    }
    let _ = TCP_STATS.insert(&key, &NO_TCP, u64::from(BPF_NOEXIST));
    let found = TCP_STATS.get_ptr_mut(&key);
    if found.is_none() {
        lost(loss::TCP_MAP_FULL);
    }
    found
}

/// Counts a sample in a histogram.
///
/// # Safety
/// `histogram` points into a map value.
#[inline(always)]
pub unsafe fn sample(histogram: *mut [u64; HIST_BUCKETS], micros: u64) {
    let bucket = log2_bucket(micros);
    // SAFETY: `bucket` is below HIST_BUCKETS.
    unsafe { add(histogram.cast::<u64>().add(bucket), 1) };
}

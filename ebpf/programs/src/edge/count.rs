//! Counters. Plain additions: XDP programs of one CPU don't interrupt each other.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use waggle_ebpf_common::edge::{Budget, Traffic, tick};

use crate::maps::{EDGE_BUDGET, EDGE_COUNTS, EDGE_TRAFFIC};

/// Counts by reason.
#[inline(always)]
pub fn count(reason: u32) {
    if let Some(counter) = EDGE_COUNTS.get_ptr_mut(reason) {
        // SAFETY: this CPU's own value.
        unsafe { *counter += 1 };
    }
}

/// Counts for a VIP.
#[inline(always)]
pub fn traffic(vip_id: u32, add: impl FnOnce(&mut Traffic)) {
    if let Some(traffic) = EDGE_TRAFFIC.get_ptr_mut(vip_id) {
        // SAFETY: this CPU's own value.
        add(unsafe { &mut *traffic });
    }
}

/// `CLOCK_MONOTONIC` of the last timer tick.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: takes nothing, always succeeds.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Takes one of this tick's `limit` from this CPU's budget; false when they are used up.
#[inline(always)]
pub fn take(now_ns: u64, limit: u32, which: impl FnOnce(&mut Budget) -> &mut u32) -> bool {
    let Some(budget) = EDGE_BUDGET.get_ptr_mut(0) else {
        return false;
    };
    let tick = tick(now_ns);
    // SAFETY: this CPU's own value, three words. Volatile, since the compiler would call memset.
    let budget = unsafe {
        if (*budget).tick != tick {
            let words = budget.cast::<u64>();
            words.write_volatile(tick);
            words.add(1).write_volatile(0);
            words.add(2).write_volatile(0);
        }
        &mut *budget
    };
    let used = which(budget);
    if *used >= limit {
        return false;
    }
    *used += 1;
    true
}

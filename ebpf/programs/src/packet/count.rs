//! Counters of this object, and those that it shares.

pub use crate::tally::{add, add32, lost, vip_choice, vip_stat};

use crate::maps::PACKET_COUNTS;

/// Counts by reason. Atomic: a system call's packet may be interrupted by a device's.
#[inline(always)]
pub fn count(reason: u32) {
    if let Some(counter) = PACKET_COUNTS.get_ptr_mut(reason) {
        // SAFETY: a map value.
        unsafe { add(counter, 1) };
    }
}

//! Counting, and the end of a packet.

use crate::frame::SHOT;
use crate::maps::OV_COUNTS;

/// Counts by reason. Plain: programs at tc of one CPU don't interrupt each other.
#[inline(always)]
pub fn count(reason: u32) {
    if let Some(counter) = OV_COUNTS.get_ptr_mut(reason) {
        // SAFETY: this CPU's own value.
        unsafe { *counter += 1 };
    }
}

/// Counts, and drops.
#[inline(always)]
pub fn drop(reason: u32) -> i32 {
    count(reason);
    SHOT
}

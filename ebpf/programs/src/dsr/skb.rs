//! Reading packets, and counting.

pub use crate::frame::{
    Bytes, ETH, ETH_IPV4, FRAGMENT, FRAGMENT_OFFSET, ICMP, IP, OK, SHOT, TCP, UDP,
};
use crate::maps::{DSR_COUNTS, DSR_PORTS};

/// Counts by reason. Plain: these programs of one CPU don't interrupt each other.
#[inline(always)]
pub fn count(reason: u32) {
    if let Some(counter) = DSR_COUNTS.get_ptr_mut(reason) {
        // SAFETY: this CPU's own value.
        unsafe { *counter += 1 };
    }
}

/// Whether a backend here has the port (network order).
#[inline(always)]
pub fn is_port(port: u16) -> bool {
    let port = u32::from(u16::from_be(port));
    match DSR_PORTS.get(port >> 6) {
        Some(word) => *word >> (port & 63) & 1 != 0,
        None => false,
    }
}

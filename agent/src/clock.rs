//! The one place that reads the wall clock for the core.

use std::time::{SystemTime, UNIX_EPOCH};

use waggle_types::UnixMillis;

/// Milliseconds since the epoch.
pub fn now() -> UnixMillis {
    UnixMillis(now_ns() / 1_000_000)
}

/// Nanoseconds since the epoch.
pub fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

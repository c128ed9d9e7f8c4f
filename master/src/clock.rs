//! The loop's clock: Unix milliseconds that never go back, whatever is done to the system's clock.

use std::{
    sync::OnceLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use waggle_types::UnixMillis;

/// Nanoseconds since this was first asked.
pub(crate) fn stopwatch() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let since = ORIGIN.get_or_init(Instant::now).elapsed();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads the system clock once and counts on monotonically from there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
    unix_ms: u64,
}

fn millis(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            origin: Instant::now(),
            unix_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, millis),
        }
    }

    pub(crate) fn now(&self) -> UnixMillis {
        UnixMillis(self.unix_ms.saturating_add(millis(self.origin.elapsed())))
    }

    /// The moment as the runtime's timer knows it; moments that have passed are now.
    pub(crate) fn instant(&self, at: UnixMillis) -> tokio::time::Instant {
        let ahead = at.0.saturating_sub(self.unix_ms);
        let then = self
            .origin
            .checked_add(std::time::Duration::from_millis(ahead))
            .unwrap_or(self.origin);
        tokio::time::Instant::from_std(then)
    }
}

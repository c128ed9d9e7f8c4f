//! How long to wait before a failing service is launched again.

use waggle_types::{Backoff, Millis, UnixMillis};

/// A failure after at least this long is taken for a new trouble, not for the old one going on.
const CALM: Millis = Millis::from_secs(60);

/// Delay of one service; failures lengthen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Delay {
    length: Millis,
    /// No launch before this.
    pub until: Option<UnixMillis>,
}

impl Delay {
    /// An instance failed that had run for `ran`.
    pub fn failed(&mut self, rules: &Backoff, ran: Millis, now: UnixMillis) {
        let calm = ran >= CALM.max(Millis(self.length.0.saturating_mul(4)));
        self.length = if calm || self.length.0 == 0 {
            rules.initial
        } else {
            let next = u128::from(self.length.0) * u128::from(rules.factor_milli.max(1000)) / 1000;
            // A factor that rounds to nothing still moves on.
            let next = u64::try_from(next).unwrap_or(u64::MAX);
            Millis(next.max(self.length.0.saturating_add(1)))
        }
        .min(rules.max);
        self.until = Some(now + self.length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_limit_and_start_again_after_calm() {
        let rules = Backoff::default();
        let mut delay = Delay::default();
        let mut seen = Vec::new();
        for _ in 0..60 {
            delay.failed(&rules, Millis(0), UnixMillis(0));
            seen.push(delay.until.unwrap().0);
        }
        assert_eq!(&seen[..4], &[1000, 1150, 1322, 1520]);
        assert_eq!(seen.last(), Some(&300_000));
        delay.failed(&rules, Millis::from_secs(3600), UnixMillis(0));
        assert_eq!(delay.until, Some(UnixMillis(1000)));
    }
}

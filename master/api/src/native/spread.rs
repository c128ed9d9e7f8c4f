//! How long something took, over many times: counts by powers of two, which add up over nodes.

use serde::{Deserialize, Serialize};

/// More than ten days of microseconds.
const BUCKETS: usize = 40;

/// Counts of microseconds: place `i` holds what is below `2^(i+1)` and not below `2^i`, as the kernel's histograms do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Spread(Vec<u64>);

impl Spread {
    /// Of counts that were made so already.
    pub fn of(counts: &[u64]) -> Self {
        let mut out = Self::default();
        for (place, n) in counts.iter().enumerate() {
            out.put(place, *n);
        }
        out
    }

    /// One more.
    pub fn add(&mut self, us: u64) {
        self.put(us.max(1).ilog2() as usize, 1);
    }

    /// Those of another one, too.
    pub fn merge(&mut self, other: &Self) {
        for (place, n) in other.0.iter().enumerate() {
            self.put(place, *n);
        }
    }

    /// What came after an earlier state of the same.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let was = |place: usize| earlier.0.get(place).copied().unwrap_or(0);
        let counts = self.0.iter().enumerate();
        let counts: Vec<u64> = counts.map(|(i, n)| n.saturating_sub(was(i))).collect();
        Self::of(&counts)
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Microseconds below which a share of all is (0 to 1), about: within a place they are taken to be even.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let wanted = self.count() as f64 * share.clamp(0.0, 1.0);
        let mut below = 0.0;
        let last = self.0.iter().rposition(|n| *n > 0)?;
        for (place, n) in self.0.iter().enumerate().take(last + 1) {
            let n = *n as f64;
            if n > 0.0 && (below + n >= wanted || place == last) {
                let low = if place == 0 { 0 } else { 1_u64 << place };
                let part = ((wanted - below) / n).clamp(0.0, 1.0);
                let wide = ((1_u64 << (place + 1)) - low) as f64;
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a part of a width"
                )]
                return Some(low + (part * wide) as u64);
            }
            below += n;
        }
        None
    }

    fn put(&mut self, place: usize, n: u64) {
        if n == 0 {
            return;
        }
        let place = place.min(BUCKETS - 1);
        if self.0.len() <= place {
            self.0.resize(place + 1, 0);
        }
        if let Some(count) = self.0.get_mut(place) {
            *count = count.saturating_add(n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_all_is_below_the_median() {
        let mut spread = Spread::default();
        assert_eq!(spread.quantile(0.5), None);
        for us in [100, 110, 120, 5000] {
            spread.add(us);
        }
        assert_eq!(spread.count(), 4);
        let half = spread.quantile(0.5).unwrap();
        assert!((64..128).contains(&half), "{half}");
        let most = spread.quantile(0.99).unwrap();
        assert!((4096..8192).contains(&most), "{most}");
        assert_eq!(Spread::of(&[0, 3]).quantile(1.0), Some(4));
    }

    #[test]
    fn they_add_up_and_are_told_from_what_was_before() {
        let (mut a, mut b) = (Spread::default(), Spread::default());
        a.add(3);
        b.add(70);
        let before = a.clone();
        a.merge(&b);
        assert_eq!(a.count(), 2);
        assert_eq!(a.since(&before), b);
        // What another version says is not longer than what we keep.
        a.merge(&Spread(vec![1; 1000]));
        assert_eq!(a.0.len(), BUCKETS);
        assert_eq!(a.count(), 1002);
        a.add(u64::MAX);
        assert!(a.quantile(1.0).is_some());
    }
}

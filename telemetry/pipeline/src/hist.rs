//! Histograms: the kernel's log2 microseconds, and bounds for what is recorded in user space.

use std::borrow::Cow;

use waggle_ebpf_common::HIST_BUCKETS;

use crate::PointData;

/// Bounds of histograms recorded in user space, in seconds: 100 us to 100 s, about 3 per decade.
pub const SECONDS_BOUNDS: &[f64] = &[
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 25.0, 50.0, 100.0,
];

/// Upper bounds, in seconds, of the kernel's log2 buckets: bucket `i` ends below 2^(i+1) us, the last
/// one is open. The kernel truncates to whole microseconds, so no observation sits on a bound.
const LOG2_BOUNDS: [f64; HIST_BUCKETS - 1] = {
    let mut out = [0.0; HIST_BUCKETS - 1];
    let mut i = 0;
    while i < out.len() {
        out[i] = (1u64 << (i + 1)) as f64 / 1e6;
        i += 1;
    }
    out
};

/// The bounds that [`log2_us_histogram`] gives: 2 us, 4 us, ... 8.4 s.
pub const fn log2_us_bounds() -> &'static [f64] {
    &LOG2_BOUNDS
}

/// Turns a kernel histogram (log2 of microseconds) into one with explicit bounds in seconds. Exact:
/// buckets map one to one; `count` is their sum, so that it agrees with them even when the kernel was
/// writing while it was read.
pub fn log2_us_histogram(buckets: &[u64; HIST_BUCKETS], sum_us: u64) -> PointData {
    PointData::Histogram {
        bounds: Cow::Borrowed(log2_us_bounds()),
        counts: buckets.to_vec(),
        sum: sum_us as f64 / 1e6,
        count: buckets.iter().fold(0, |a, b| a.saturating_add(*b)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the kernel does.
    fn kernel_bucket(us: u64) -> usize {
        (us.max(1).ilog2() as usize).min(HIST_BUCKETS - 1)
    }

    proptest! {
        #[test]
        fn every_observation_is_below_its_bound(us in prop_oneof![0u64..100, any::<u64>()]) {
            let i = kernel_bucket(us);
            let bounds = log2_us_bounds();
            let seconds = us as f64 / 1e6;
            if i < bounds.len() { prop_assert!(seconds < bounds[i]); }
            if i > 0 { prop_assert!(seconds >= bounds[i - 1]); }
        }

        #[test]
        fn nothing_is_lost(b in prop::array::uniform24(0u64..1000), sum in any::<u64>()) {
            let PointData::Histogram { bounds, counts, count, .. } = log2_us_histogram(&b, sum) else {
                return Err(TestCaseError::fail("not a histogram"));
            };
            prop_assert_eq!(counts.len(), bounds.len() + 1);
            prop_assert_eq!(counts.iter().sum::<u64>(), count);
            prop_assert_eq!(counts, b.to_vec());
            prop_assert!(bounds.windows(2).all(|w| w[0] < w[1]));
        }
    }
}

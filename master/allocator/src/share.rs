//! Dominant shares as exact integers, so that order is the same on every machine.

use std::fmt;

use crate::kinds::{MAX_KINDS, Rows};

/// A weighted dominant share in units of 10^-12 of the cluster: the largest part of any one resource kind
/// that is allocated (used or offered), divided by the weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Share(pub u128);

impl Share {
    const UNIT: u64 = 1_000_000_000_000;

    /// As a fraction: 0.25 is a quarter of the cluster at weight 1.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / Self::UNIT as f64
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}", self.as_f64())
    }
}

/// What shares are measured against: the cluster's total, as of the last time that a kind of it had
/// changed by more than 1/256. All shares are compared on one yardstick, so that a joining agent does not
/// cost a new sort of every role; the order that follows is off by less than half a percent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Yardstick {
    total: Rows,
    /// Rows that are not zero are before this one.
    n: usize,
    /// `2^shift * UNIT / total` as a number of 64 bits, so that a share is a multiplication; 0 for kinds
    /// that the cluster has none of, which do not count.
    reciprocals: [(u64, u32); MAX_KINDS],
}

impl Yardstick {
    /// Whether it was replaced.
    pub fn update(&mut self, total: &Rows) -> bool {
        let far = |(old, new): (&i64, &i64)| old.abs_diff(*new) > old.unsigned_abs() / 256;
        if !self.total.iter().zip(total).any(far) {
            return false;
        }
        self.total = *total;
        self.n = total.iter().rposition(|t| *t != 0).map_or(0, |at| at + 1);
        self.reciprocals = total.map(reciprocal);
        true
    }

    /// The share in units of [`Share`]. A weight of 0 is taken as 1 thousandth (it is refused at the door).
    pub fn share(&self, allocated: &Rows, weight_milli: u32) -> u64 {
        let mut dominant = 0;
        for (a, (reciprocal, shift)) in allocated.iter().zip(&self.reciprocals).take(self.n) {
            let a = u128::from(u64::try_from(*a).unwrap_or(0));
            let part = (a * u128::from(*reciprocal)) >> shift;
            dominant = dominant.max(u64::try_from(part).unwrap_or(u64::MAX));
        }
        if weight_milli == 1000 {
            dominant
        } else {
            dominant.saturating_mul(1000) / u64::from(weight_milli.max(1))
        }
    }
}

/// See [`Yardstick::reciprocals`].
fn reciprocal(total: i64) -> (u64, u32) {
    let Some(total) = u128::try_from(total).ok().filter(|t| *t > 0) else {
        return (0, 0);
    };
    // As many bits as fit: the unit has 40, and 87 more leave one to spare.
    let whole = (u128::from(Share::UNIT) << 87) / total;
    let spare = 64_u32.saturating_sub(whole.leading_zeros());
    (
        u64::try_from(whole >> spare).unwrap_or(u64::MAX),
        87 - spare,
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kinds::MAX_TOTAL;

    proptest! {
        #[test]
        fn a_share_is_the_fraction(total in 1..=MAX_TOTAL, part in 0.0..=1.0, weight in 1u32..100_000) {
            let mut y = Yardstick::default();
            let mut rows = Rows::default();
            rows[7] = total;
            prop_assert!(y.update(&rows));
            #[allow(clippy::cast_possible_truncation, reason = "a part of the total")]
            let of = ((total as f64 * part) as i64).min(total);
            rows[7] = of;
            let exact = u128::from(Share::UNIT) * u128::try_from(of).unwrap() / u128::try_from(total).unwrap();
            let share = u128::from(y.share(&rows, 1000));
            prop_assert!(share.abs_diff(exact) <= 1, "{} not {}", share, exact);
            let weighted = u128::from(y.share(&rows, weight));
            prop_assert_eq!(weighted, share * 1000 / u128::from(weight));
        }
    }

    #[test]
    fn kinds_that_nobody_has_do_not_count() {
        let mut y = Yardstick::default();
        let mut total = Rows::default();
        total[0] = 3;
        y.update(&total);
        let mut of = [i64::MAX; MAX_KINDS];
        of[0] = 1;
        assert_eq!(y.share(&of, 1000), 333_333_333_333);
        assert!(!y.update(&total), "nothing has changed");
    }
}

//! Dominant shares as exact integers, so that order is the same on every machine.

use std::fmt;

use waggle_types::{Resources, ScalarKind};

/// How many scalar kinds there are.
pub(crate) const N: usize = ScalarKind::ALL.len();

/// Scalar sums over agents, in milli-units.
pub(crate) type Scalars = [i64; N];

pub(crate) fn scalars(r: &Resources) -> Scalars {
    r.scalars.map(|s| s.0)
}

pub(crate) fn add(to: &mut Scalars, what: &Scalars) {
    for (a, b) in to.iter_mut().zip(what) {
        *a = a.saturating_add(*b);
    }
}

pub(crate) fn sub(from: &mut Scalars, what: &Scalars) {
    for (a, b) in from.iter_mut().zip(what) {
        *a = a.saturating_sub(*b);
    }
}

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
    total: Scalars,
    /// `2^32 * UNIT / total`, so that a share is a multiplication.
    reciprocals: [u128; N],
}

impl Yardstick {
    /// Whether it was replaced.
    pub fn update(&mut self, total: &Scalars) -> bool {
        let far = |(old, new): (&i64, &i64)| old.abs_diff(*new) > old.unsigned_abs() / 256;
        if !self.total.iter().zip(total).any(far) {
            return false;
        }
        self.total = *total;
        // Kinds that the cluster has none of do not count.
        self.reciprocals = total.map(|t| {
            let t = u128::try_from(t).unwrap_or(0);
            (u128::from(Share::UNIT) << 32).checked_div(t).unwrap_or(0)
        });
        true
    }

    /// The share in units of [`Share`]. A weight of 0 is taken as 1 thousandth (it is refused at the door).
    pub fn share(&self, allocated: &Scalars, weight_milli: u32) -> u64 {
        let dominant = allocated
            .iter()
            .zip(&self.reciprocals)
            .map(|(a, reciprocal)| {
                let a = u64::try_from(*a).unwrap_or(0);
                u64::try_from(u128::from(a).saturating_mul(*reciprocal) >> 32).unwrap_or(u64::MAX)
            })
            .max()
            .unwrap_or(0);
        if weight_milli == 1000 {
            dominant
        } else {
            dominant.saturating_mul(1000) / u64::from(weight_milli.max(1))
        }
    }
}

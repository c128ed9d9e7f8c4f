//! Dominant shares as exact integers, so that order is the same on every machine.

use std::fmt;

use waggle_types::{Resources, ScalarKind};

/// Scalar sums over agents, in milli-units.
pub(crate) type Scalars = [i64; ScalarKind::ALL.len()];

pub(crate) fn scalars(r: &Resources) -> Scalars {
    r.scalars.map(|s| s.0)
}

pub(crate) fn add(to: &mut Scalars, r: &Resources) {
    for (a, b) in to.iter_mut().zip(scalars(r)) {
        *a = a.saturating_add(b);
    }
}

pub(crate) fn sub(from: &mut Scalars, r: &Resources) {
    for (a, b) in from.iter_mut().zip(scalars(r)) {
        *a = a.saturating_sub(b);
    }
}

/// A weighted dominant share in units of 10^-12 of the cluster: the largest part of any one resource kind
/// that is allocated (used or offered), divided by the weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Share(pub u128);

impl Share {
    const UNIT: u128 = 1_000_000_000_000;

    /// Share of `allocated` in `total`; kinds that the cluster has none of do not count. A weight of 0 is
    /// taken as 1 thousandth (it is refused at the door).
    pub(crate) fn of(allocated: &Scalars, total: &Scalars, weight_milli: u32) -> Self {
        let dominant = allocated
            .iter()
            .zip(total)
            .filter_map(|(a, t)| {
                let (a, t) = (u128::try_from(*a).ok()?, u128::try_from(*t).ok()?);
                (t > 0).then(|| a * Self::UNIT / t)
            })
            .max()
            .unwrap_or(0);
        Self(dominant * 1000 / u128::from(weight_milli.max(1)))
    }

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

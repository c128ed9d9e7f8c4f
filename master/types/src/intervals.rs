//! Numbers as disjoint, sorted intervals: ports, and ranges of custom resources.

use std::fmt;

/// What intervals are made of.
pub trait Point: Copy + Ord + fmt::Display {
    /// The next one; `None` for the last.
    fn succ(self) -> Option<Self>;
    /// The one before; `None` for the first.
    fn pred(self) -> Option<Self>;
    /// As a plain number.
    fn index(self) -> u64;
    /// From a plain number; `None` when it is too large.
    fn at(index: u64) -> Option<Self>;
}

impl Point for u16 {
    fn succ(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn pred(self) -> Option<Self> {
        self.checked_sub(1)
    }
    fn index(self) -> u64 {
        self.into()
    }
    fn at(index: u64) -> Option<Self> {
        index.try_into().ok()
    }
}

impl Point for u64 {
    fn succ(self) -> Option<Self> {
        self.checked_add(1)
    }
    fn pred(self) -> Option<Self> {
        self.checked_sub(1)
    }
    fn index(self) -> u64 {
        self
    }
    fn at(index: u64) -> Option<Self> {
        Some(index)
    }
}

/// An inclusive interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval<T> {
    /// First.
    pub begin: T,
    /// Last, `>= begin`.
    pub end: T,
}

/// An inclusive range of ports.
pub type PortRange = Interval<u16>;
/// A set of ports.
pub type PortSet = Intervals<u16>;
/// A set of numbers of a custom resource.
pub type RangeSet = Intervals<u64>;

/// A set of numbers, kept as sorted, disjoint, non-adjacent intervals.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Intervals<T>(Vec<Interval<T>>);

impl<T> Default for Intervals<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Point> Intervals<T> {
    /// The empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The set of the given intervals, in any order, overlapping or not; those with `end < begin` are empty.
    pub fn from_ranges(ranges: impl IntoIterator<Item = Interval<T>>) -> Self {
        let mut all: Vec<Interval<T>> = ranges.into_iter().filter(|r| r.begin <= r.end).collect();
        // Stable, since it merges what is in order already, such as the halves of a union, in linear time.
        all.sort();
        let mut out: Vec<Interval<T>> = Vec::with_capacity(all.len());
        for r in all {
            match out.last_mut() {
                Some(last) if last.end.succ().is_none_or(|next| r.begin <= next) => {
                    last.end = last.end.max(r.end);
                }
                _ => out.push(r),
            }
        }
        Self(out)
    }

    /// The set of single numbers.
    pub fn from_ports(ports: impl IntoIterator<Item = T>) -> Self {
        Self::from_ranges(ports.into_iter().map(|p| Interval { begin: p, end: p }))
    }

    /// The intervals, sorted and disjoint.
    pub fn ranges(&self) -> &[Interval<T>] {
        &self.0
    }

    /// How many numbers are in the set, at most `u64::MAX`.
    pub fn len(&self) -> u64 {
        self.0
            .iter()
            .fold(0u64, |sum, r| sum.saturating_add(r.len()))
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a number is in the set.
    pub fn contains(&self, point: T) -> bool {
        self.from(point).next().is_some_and(|r| r.begin <= point)
    }

    /// Whether everything in `other` is in this set.
    pub fn contains_all(&self, other: &Self) -> bool {
        let holds = |r: &Interval<T>, o: &Interval<T>| r.begin <= o.begin && o.end <= r.end;
        let mut all = other.0.iter();
        all.all(|o| self.from(o.begin).next().is_some_and(|r| holds(r, o)))
    }

    /// Whether something is in both.
    pub fn intersects(&self, other: &Self) -> bool {
        let (few, many) = if self.0.len() < other.0.len() {
            (self, other)
        } else {
            (other, self)
        };
        let meets = |r: &Interval<T>| many.from(r.begin).next().is_some_and(|o| o.begin <= r.end);
        few.0.iter().any(meets)
    }

    /// The intervals that end at a number or after it.
    fn from(&self, point: T) -> impl Iterator<Item = &Interval<T>> {
        self.0[self.0.partition_point(|r| r.end < point)..].iter()
    }

    /// What is in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let both = self.0.iter().flat_map(|r| {
            let meets = other.from(r.begin).take_while(|o| o.begin <= r.end);
            meets.map(|o| Interval {
                begin: r.begin.max(o.begin),
                end: r.end.min(o.end),
            })
        });
        Self::from_ranges(both)
    }

    /// What is in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if other.0.is_empty() {
            return self.clone();
        }
        if self.0.is_empty() {
            return other.clone();
        }
        Self::from_ranges(self.0.iter().chain(&other.0).copied())
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut out = Vec::new();
        for r in &self.0 {
            // `None` when the rest of `r` is gone up to the last number that there is.
            let mut begin = Some(r.begin);
            for o in other.from(r.begin).take_while(|o| o.begin <= r.end) {
                if let (Some(from), Some(end)) = (begin, o.begin.pred())
                    && from <= end
                {
                    out.push(Interval { begin: from, end });
                }
                begin = begin.zip(o.end.succ()).map(|(b, next)| b.max(next));
            }
            if let Some(begin) = begin.filter(|b| *b <= r.end) {
                out.push(Interval { begin, end: r.end });
            }
        }
        Self(out)
    }

    /// Every number, ascending.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.0.iter().flat_map(|r| {
            std::iter::successors(Some(r.begin), |at| at.succ().filter(|next| *next <= r.end))
        })
    }

    /// The `idx`-th number in ascending order.
    pub fn nth(&self, idx: u64) -> Option<T> {
        let mut left = idx;
        for r in &self.0 {
            if left < r.len() {
                return T::at(r.begin.index().checked_add(left)?);
            }
            left -= r.len();
        }
        None
    }
}

impl<T: Point> Interval<T> {
    fn len(&self) -> u64 {
        (self.end.index() - self.begin.index()).saturating_add(1)
    }
}

impl<T: Point> fmt::Display for Intervals<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, r) in self.0.iter().enumerate() {
            write!(f, "{}{}-{}", if i > 0 { ", " } else { "" }, r.begin, r.end)?;
        }
        f.write_str("]")
    }
}

impl<T: Point> fmt::Debug for Intervals<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set() -> impl Strategy<Value = PortSet> {
        prop::collection::vec((0u16..60, 0u16..6), 0..8).prop_map(|v| {
            PortSet::from_ranges(v.into_iter().map(|(b, n)| PortRange {
                begin: b,
                end: b + n,
            }))
        })
    }

    fn model(s: &PortSet) -> BTreeSet<u16> {
        s.iter().collect()
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(a in set(), b in set()) {
            let (ma, mb) = (model(&a), model(&b));
            prop_assert_eq!(model(&a.union(&b)), &ma | &mb);
            prop_assert_eq!(model(&a.difference(&b)), &ma - &mb);
            prop_assert_eq!(model(&a.intersection(&b)), &ma & &mb);
            prop_assert_eq!(a.contains_all(&b), mb.is_subset(&ma));
            prop_assert_eq!(a.intersects(&b), !ma.is_disjoint(&mb));
            prop_assert_eq!(a.len(), ma.len() as u64);
            for (i, p) in ma.iter().enumerate() {
                prop_assert_eq!(a.nth(u64::try_from(i).unwrap()), Some(*p));
            }
            prop_assert_eq!(a.nth(a.len()), None);
        }

        #[test]
        fn normal_form_is_unique(a in set()) {
            prop_assert_eq!(PortSet::from_ports(a.iter()), a);
        }
    }

    #[test]
    fn the_last_port_is_handled() {
        let all = PortSet::from_ranges([PortRange {
            begin: 0,
            end: u16::MAX,
        }]);
        assert_eq!(all.len(), 65536);
        assert!(all.difference(&all).is_empty());
        let wide = RangeSet::from_ranges([Interval {
            begin: 1,
            end: u64::MAX,
        }]);
        assert_eq!(wide.len(), u64::MAX);
        let one = RangeSet::from_ports([7]);
        assert_eq!(wide.difference(&one).union(&one), wide);
        assert_eq!(wide.difference(&one).ranges().len(), 2);
        assert_eq!(wide.nth(u64::MAX - 1), Some(u64::MAX));
    }
}

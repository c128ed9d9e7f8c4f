//! Ports as disjoint, sorted intervals.

use std::fmt;

/// An inclusive range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// First port.
    pub begin: u16,
    /// Last port, `>= begin`.
    pub end: u16,
}

/// A set of ports, kept as sorted, disjoint, non-adjacent ranges.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PortSet(Vec<PortRange>);

impl PortSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The set of the given ranges, in any order, overlapping or not; ranges with `end < begin` are empty.
    pub fn from_ranges(ranges: impl IntoIterator<Item = PortRange>) -> Self {
        let mut all: Vec<PortRange> = ranges.into_iter().filter(|r| r.begin <= r.end).collect();
        all.sort_unstable();
        let mut out: Vec<PortRange> = Vec::with_capacity(all.len());
        for r in all {
            match out.last_mut() {
                Some(last) if u32::from(r.begin) <= u32::from(last.end) + 1 => {
                    last.end = last.end.max(r.end);
                }
                _ => out.push(r),
            }
        }
        Self(out)
    }

    /// The set of single ports.
    pub fn from_ports(ports: impl IntoIterator<Item = u16>) -> Self {
        Self::from_ranges(ports.into_iter().map(|p| PortRange { begin: p, end: p }))
    }

    /// The ranges, sorted and disjoint.
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// How many ports are in the set.
    pub fn len(&self) -> u32 {
        self.0
            .iter()
            .map(|r| u32::from(r.end) - u32::from(r.begin) + 1)
            .sum()
    }

    /// Whether no port is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `port` is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|r| r.begin <= port && port <= r.end)
    }

    /// Whether every port of `other` is in this set.
    pub fn contains_all(&self, other: &Self) -> bool {
        other
            .0
            .iter()
            .all(|o| self.0.iter().any(|r| r.begin <= o.begin && o.end <= r.end))
    }

    /// Whether some port is in both.
    pub fn intersects(&self, other: &Self) -> bool {
        self.0
            .iter()
            .any(|r| other.0.iter().any(|o| r.begin <= o.end && o.begin <= r.end))
    }

    /// Ports that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let both = self.0.iter().flat_map(|r| {
            other.0.iter().map(|o| PortRange {
                begin: r.begin.max(o.begin),
                end: r.end.min(o.end),
            })
        });
        Self::from_ranges(both)
    }

    /// Ports that are in either set.
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

    /// Ports of this set that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut out = Vec::new();
        for r in &self.0 {
            let mut begin = u32::from(r.begin);
            for o in &other.0 {
                if o.end < r.begin || o.begin > r.end {
                    continue;
                }
                if u32::from(o.begin) > begin {
                    out.push(range(begin, u32::from(o.begin) - 1));
                }
                begin = begin.max(u32::from(o.end) + 1);
            }
            if begin <= u32::from(r.end) {
                out.push(range(begin, u32::from(r.end)));
            }
        }
        Self(out)
    }

    /// Every port, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(|r| r.begin..=r.end)
    }

    /// The `idx`-th port in ascending order.
    pub fn nth(&self, idx: u32) -> Option<u16> {
        let mut left = idx;
        for r in &self.0 {
            let n = u32::from(r.end) - u32::from(r.begin) + 1;
            if left < n {
                return u16::try_from(u32::from(r.begin) + left).ok();
            }
            left -= n;
        }
        None
    }
}

/// Both bounds come from `u16` arithmetic, so they fit.
fn range(begin: u32, end: u32) -> PortRange {
    PortRange {
        begin: u16::try_from(begin).unwrap_or(u16::MAX),
        end: u16::try_from(end).unwrap_or(u16::MAX),
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, r) in self.0.iter().enumerate() {
            write!(f, "{}{}-{}", if i > 0 { ", " } else { "" }, r.begin, r.end)?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for PortSet {
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
            prop_assert_eq!(a.len() as usize, ma.len());
            for (i, p) in ma.iter().enumerate() {
                prop_assert_eq!(a.nth(u32::try_from(i).unwrap()), Some(*p));
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
    }
}

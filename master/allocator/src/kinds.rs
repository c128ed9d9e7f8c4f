//! Rows of quantities: what is counted in shares and quota.
//!
//! The first rows are the built-in scalars and ports, the others are given to custom kinds as agents bring
//! them (or a quota names them by force), and are free again when no agent and no quota has the kind. Ports,
//! ranges and sets count by how many numbers or items they hold, in thousandths like all others; volumes
//! count as the disk that they are made of.

use std::borrow::Cow;

use waggle_types::{Interval, Intervals, Milli, Point, Resources, ScalarKind};

/// How many kinds a cluster can have, the built-in ones included.
pub const MAX_KINDS: usize = 16;

/// Row of ports, after the built-in scalars.
const PORTS: usize = ScalarKind::ALL.len();
/// First row of custom kinds.
const CUSTOM: usize = PORTS + 1;

/// Sums over agents by row, in milli-units. They can't overflow: what a cluster has of a kind is bounded
/// by [`MAX_TOTAL`] at the door, and all other sums are parts of that.
pub(crate) type Rows = [i64; MAX_KINDS];

/// Most of one kind in a cluster, in thousandths.
pub(crate) const MAX_TOTAL: i64 = 1 << 60;

/// Adds in place.
pub(crate) fn add(to: &mut Rows, what: &Rows) {
    for (a, b) in to.iter_mut().zip(what) {
        *a = a.wrapping_add(*b);
    }
}

/// Takes away in place.
pub(crate) fn sub(from: &mut Rows, what: &Rows) {
    for (a, b) in from.iter_mut().zip(what) {
        *a = a.wrapping_sub(*b);
    }
}

/// Which row is of which custom kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kinds {
    /// By row from [`CUSTOM`] on: the name, and how many agents and quotas have it.
    custom: [Option<(String, u32)>; MAX_KINDS - CUSTOM],
}

impl Kinds {
    /// Rows in use: all beyond are zero everywhere.
    pub fn len(&self) -> usize {
        let last = self.custom.iter().rposition(Option::is_some);
        CUSTOM + last.map_or(0, |at| at + 1)
    }

    pub fn name(&self, row: usize) -> &str {
        match row {
            0..PORTS => ScalarKind::ALL[row].name(),
            PORTS => "ports",
            _ => {
                let of = self.custom.get(row - CUSTOM);
                of.and_then(Option::as_ref).map_or("", |(n, _)| n.as_str())
            }
        }
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        if let Some(row) = ScalarKind::ALL.iter().position(|k| k.name() == name) {
            return Some(row);
        }
        if name == "ports" {
            return Some(PORTS);
        }
        self.find_custom(name)
    }

    fn find_custom(&self, name: &str) -> Option<usize> {
        let of = |k: &Option<(String, u32)>| k.as_ref().is_some_and(|(n, _)| n == name);
        Some(CUSTOM + self.custom.iter().position(of)?)
    }

    /// The row of a kind, held until [`Kinds::release`]; `None` when all rows are taken.
    pub fn hold(&mut self, name: &str) -> Option<usize> {
        let row = if let Some(row) = self.find(name) {
            row
        } else {
            let free = self.custom.iter().position(Option::is_none)?;
            self.custom[free] = Some((name.to_owned(), 0));
            CUSTOM + free
        };
        if let Some(Some((_, refs))) = row
            .checked_sub(CUSTOM)
            .and_then(|at| self.custom.get_mut(at))
        {
            *refs += 1;
        }
        Some(row)
    }

    pub fn release(&mut self, row: usize) {
        let Some(kind) = row
            .checked_sub(CUSTOM)
            .and_then(|at| self.custom.get_mut(at))
        else {
            return;
        };
        if let Some((_, refs)) = kind {
            *refs = refs.saturating_sub(1);
            if *refs == 0 {
                *kind = None;
            }
        }
    }

    /// The rows when `old` has given up its kinds and `new` has come; `None` when there are not enough.
    pub fn exchanged(&self, old: Option<&Resources>, new: &Resources) -> Option<Self> {
        let mut after = self.clone();
        for name in old.into_iter().flat_map(names) {
            if let Some(row) = after.find_custom(&name) {
                after.release(row);
            }
        }
        for name in names(new) {
            after.hold(&name)?;
        }
        Some(after)
    }

    /// The quantities in a bundle; kinds that nobody has are not counted.
    pub fn rows(&self, r: &Resources) -> Rows {
        let mut rows = Rows::default();
        for (row, q) in rows.iter_mut().zip(&r.scalars) {
            *row = q.0;
        }
        rows[PORTS] = thousands(r.ports.len());
        if !r.custom.is_empty() {
            self.count_custom(&mut rows, r);
        }
        rows
    }

    #[cold]
    fn count_custom(&self, rows: &mut Rows, r: &Resources) {
        let mut count = |name: &str, q: i64| {
            if let Some(row) = self.find_custom(name) {
                rows[row] = rows[row].saturating_add(q);
            }
        };
        r.custom.scalars().for_each(|(name, q)| count(name, q.0));
        r.custom
            .ranges()
            .for_each(|(name, of)| count(name, thousands(of.len())));
        r.custom
            .sets()
            .for_each(|(name, of)| count(name, thousands(of.len() as u64)));
        for (id, v) in r.custom.volumes() {
            let row = match id.kind() {
                Some(kind) => self.find_custom(&kind),
                None => Some(ScalarKind::Disk as usize),
            };
            if let Some(row) = row {
                rows[row] = rows[row].saturating_add(v.size.0);
            }
        }
    }

    /// Cuts a bundle (without volumes) to at most this much of each row; answers whether it got less.
    pub fn cut(&self, r: &mut Resources, most: &Rows) -> bool {
        let mut less = false;
        for (q, most) in r.scalars.iter_mut().zip(most) {
            if q.0 > *most {
                *q = Milli(*most);
                less = true;
            }
        }
        if thousands(r.ports.len()) > most[PORTS] {
            r.ports = first(&r.ports, most[PORTS] / 1000);
            less = true;
        }
        if !r.custom.is_empty() {
            less |= self.cut_custom(r, most);
        }
        less
    }

    #[cold]
    fn cut_custom(&self, r: &mut Resources, most: &Rows) -> bool {
        let all = r.custom.clone();
        // A name may be a scalar here and a set there; then they share what is allowed.
        let mut left = *most;
        let mut less = false;
        let mut take = |name: &str, has: i64, step: i64| {
            let Some(row) = self.find_custom(name) else {
                return has;
            };
            let got = has.min(left[row] / step * step);
            left[row] -= got;
            less |= got < has;
            got
        };
        for (name, q) in all.scalars() {
            r.custom.set_scalar(name, Milli(take(name, q.0, 1)));
        }
        for (name, of) in all.ranges() {
            let n = take(name, thousands(of.len()), 1000) / 1000;
            r.custom.set_ranges(name, first(of, n));
        }
        for (name, of) in all.sets() {
            let n = take(name, thousands(of.len() as u64), 1000) / 1000;
            let n = usize::try_from(n).unwrap_or(0);
            r.custom
                .set_items(name, of.iter().take(n).cloned().collect());
        }
        less
    }
}

/// The custom kinds of a bundle, each once, those that its volumes are made of too.
pub(crate) fn names(r: &Resources) -> Vec<Cow<'_, str>> {
    let scalars = r.custom.scalars().map(|(n, _)| n);
    let ranges = r.custom.ranges().map(|(n, _)| n);
    let sets = r.custom.sets().map(|(n, _)| n);
    let named = scalars.chain(ranges).chain(sets).map(Cow::Borrowed);
    let volumes = r.custom.volumes();
    let made_of = volumes.filter_map(|(id, _)| id.kind().map(Cow::Owned));
    let mut all: Vec<Cow<'_, str>> = named.chain(made_of).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn thousands(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX).saturating_mul(1000)
}

/// The first `n` numbers of a set.
fn first<T: Point>(of: &Intervals<T>, n: i64) -> Intervals<T> {
    let mut left = u64::try_from(n).unwrap_or(0);
    let mut out = Vec::new();
    for r in of.ranges() {
        let Some(more) = left.checked_sub(1) else {
            break;
        };
        let last = r.begin.index().saturating_add(more);
        let end = T::at(last).map_or(r.end, |end| end.min(r.end));
        out.push(Interval {
            begin: r.begin,
            end,
        });
        left -= end.index() - r.begin.index() + 1;
    }
    Intervals::from_ranges(out)
}

#[cfg(test)]
mod tests {
    use waggle_types::RangeSet;

    use super::*;

    fn bundle() -> Resources {
        let mut r = Resources::from_millis(1000, 0, 5000);
        r.custom.set_scalar("licenses", Milli(2500));
        r.custom
            .set_ranges("vlans", RangeSet::from_ports([1, 2, 3, 10, u64::MAX]));
        r.custom
            .set_items("zones", ["a".to_owned(), "b".to_owned()].into());
        r
    }

    #[test]
    fn rows_are_given_and_come_back() {
        let mut kinds = Kinds::default();
        assert_eq!(kinds.len(), 5);
        let held: Vec<usize> = names(&bundle())
            .iter()
            .map(|n| kinds.hold(n).unwrap())
            .collect();
        assert_eq!(kinds.len(), 8);
        let rows = kinds.rows(&bundle());
        assert_eq!(rows[..8], [1000, 0, 5000, 0, 0, 2500, 5000, 2000]);
        assert_eq!(kinds.find("vlans"), Some(held[1]));
        assert_eq!(
            (kinds.name(4), kinds.name(7), kinds.name(9)),
            ("ports", "zones", "")
        );
        kinds.release(held[1]);
        assert_eq!(kinds.len(), 8, "a row in the middle");
        assert_eq!(kinds.find("vlans"), None);
        assert_eq!(kinds.hold("more"), Some(held[1]));
        for n in 3..MAX_KINDS - CUSTOM {
            assert!(kinds.hold(&format!("k{n}")).is_some());
        }
        assert_eq!(kinds.hold("one-too-many"), None);
        let mut two = bundle();
        two.custom.set_ranges("vlans", RangeSet::default());
        let same = kinds.exchanged(Some(&two), &two);
        assert!(same.is_some(), "it gives up what it takes");
        assert_eq!(kinds.exchanged(None, &bundle()), None);
    }

    #[test]
    fn bundles_are_cut_to_whole_numbers_and_items() {
        let mut kinds = Kinds::default();
        let rows: Vec<usize> = names(&bundle())
            .iter()
            .map(|n| kinds.hold(n).unwrap())
            .collect();
        let mut most = [i64::MAX; MAX_KINDS];
        let mut whole = bundle();
        assert!(!kinds.cut(&mut whole, &most));
        assert_eq!(whole, bundle());
        most[rows[0]] = 700;
        most[rows[1]] = 4999;
        most[rows[2]] = 1000;
        let mut less = bundle();
        assert!(kinds.cut(&mut less, &most));
        assert_eq!(
            less.to_string(),
            "cpus:1; disk:5; licenses:0.7; vlans:[1-3, 10-10]; zones:{a}"
        );
    }
}

//! Resources beyond the built-in kinds: custom scalars, ranges and sets, and persistent volumes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{FieldError, Milli, RangeSet, ScalarKind, VolumeId};

/// Longest name of a kind, in bytes.
const MAX_KIND: usize = 64;

/// A persistent volume: disk that has an identity. It belongs to the reservation that it was made of and is
/// one thing: whoever holds it holds all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Volume {
    /// Its size, in MiB; it counts as disk.
    pub size: Milli,
    /// Several tasks may use it at once.
    pub shared: bool,
}

/// Quantities by name. Without any it costs one word.
///
/// Invariant: nothing in it is empty (no zero scalar, no empty set), so that equal quantities are equal values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Custom(Option<Box<Kinds>>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Kinds {
    scalars: BTreeMap<String, Milli>,
    ranges: BTreeMap<String, RangeSet>,
    sets: BTreeMap<String, BTreeSet<String>>,
    volumes: BTreeMap<VolumeId, Volume>,
}

impl Kinds {
    fn is_empty(&self) -> bool {
        self.scalars.is_empty()
            && self.ranges.is_empty()
            && self.sets.is_empty()
            && self.volumes.is_empty()
    }
}

/// The rule for names of custom kinds: `[A-Za-z0-9._-]`, not one of the built-in names.
pub fn check_kind(name: &str) -> Result<(), FieldError> {
    let of = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let built_in = name == "ports" || ScalarKind::ALL.iter().any(|k| k.name() == name);
    if name.is_empty() || name.len() > MAX_KIND || !name.chars().all(of) || built_in {
        let rule = format!(
            "must be at most {MAX_KIND} of [A-Za-z0-9._-] and not cpus, mem, disk, gpus or ports, is {name:.80?}"
        );
        return Err(FieldError::new("name", rule));
    }
    Ok(())
}

impl Custom {
    /// All of it at once; what is empty in it is left out.
    pub fn new(
        scalars: BTreeMap<String, Milli>,
        ranges: BTreeMap<String, RangeSet>,
        sets: BTreeMap<String, BTreeSet<String>>,
        volumes: BTreeMap<VolumeId, Volume>,
    ) -> Self {
        Self::from_kinds(Kinds {
            scalars,
            ranges,
            sets,
            volumes,
        })
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Sets a scalar; zero removes it.
    pub fn set_scalar(&mut self, name: impl Into<String>, quantity: Milli) {
        let name = name.into();
        self.change(|k| {
            if quantity.0 == 0 {
                k.scalars.remove(&name);
            } else {
                k.scalars.insert(name, quantity);
            }
        });
    }

    /// Sets ranges; an empty set removes them.
    pub fn set_ranges(&mut self, name: impl Into<String>, ranges: RangeSet) {
        let name = name.into();
        self.change(|k| {
            if ranges.is_empty() {
                k.ranges.remove(&name);
            } else {
                k.ranges.insert(name, ranges);
            }
        });
    }

    /// Sets items; none removes them.
    pub fn set_items(&mut self, name: impl Into<String>, items: BTreeSet<String>) {
        let name = name.into();
        self.change(|k| {
            if items.is_empty() {
                k.sets.remove(&name);
            } else {
                k.sets.insert(name, items);
            }
        });
    }

    /// Puts a volume in; answers what was there under the same id.
    pub fn set_volume(&mut self, id: VolumeId, volume: Volume) -> Option<Volume> {
        let mut old = None;
        self.change(|k| old = k.volumes.insert(id, volume));
        old
    }

    /// Takes a volume out.
    pub fn remove_volume(&mut self, id: &VolumeId) -> Option<Volume> {
        let mut old = None;
        self.change(|k| old = k.volumes.remove(id));
        old
    }

    /// Custom scalars, by name.
    pub fn scalars(&self) -> impl Iterator<Item = (&str, Milli)> {
        self.0
            .iter()
            .flat_map(|k| k.scalars.iter().map(|(n, q)| (n.as_str(), *q)))
    }

    /// Custom ranges, by name.
    pub fn ranges(&self) -> impl Iterator<Item = (&str, &RangeSet)> {
        self.0
            .iter()
            .flat_map(|k| k.ranges.iter().map(|(n, r)| (n.as_str(), r)))
    }

    /// Custom sets, by name.
    pub fn sets(&self) -> impl Iterator<Item = (&str, &BTreeSet<String>)> {
        self.0
            .iter()
            .flat_map(|k| k.sets.iter().map(|(n, s)| (n.as_str(), s)))
    }

    /// Volumes, by id.
    pub fn volumes(&self) -> impl Iterator<Item = (&VolumeId, Volume)> {
        self.0
            .iter()
            .flat_map(|k| k.volumes.iter().map(|(id, v)| (id, *v)))
    }

    /// One scalar; zero when there is none.
    pub fn scalar(&self, name: &str) -> Milli {
        let kinds = self.0.as_ref();
        kinds
            .and_then(|k| k.scalars.get(name).copied())
            .unwrap_or_default()
    }

    /// One volume.
    pub fn volume(&self, id: &VolumeId) -> Option<Volume> {
        self.0.as_ref()?.volumes.get(id).copied()
    }

    /// Whether a scalar, or a volume's size, is negative.
    pub fn is_negative(&self) -> bool {
        self.0.as_ref().is_some_and(|k| {
            k.scalars.values().any(|s| s.0 < 0) || k.volumes.values().any(|v| v.size.0 < 0)
        })
    }

    /// Whether `other` fits into this.
    pub fn contains(&self, other: &Self) -> bool {
        let Some(small) = &other.0 else {
            return true;
        };
        let Some(big) = &self.0 else {
            return false;
        };
        let scalar =
            |(name, q): (&String, &Milli)| big.scalars.get(name).copied().unwrap_or_default() >= *q;
        let ranges = |(name, r): (&String, &RangeSet)| {
            big.ranges.get(name).is_some_and(|b| b.contains_all(r))
        };
        let set = |(name, s): (&String, &BTreeSet<String>)| {
            big.sets.get(name).is_some_and(|b| s.is_subset(b))
        };
        let volume = |(id, v): (&VolumeId, &Volume)| big.volumes.get(id) == Some(v);
        small.scalars.iter().all(scalar)
            && small.ranges.iter().all(ranges)
            && small.sets.iter().all(set)
            && small.volumes.iter().all(volume)
    }

    /// Sum. `None` when a number, item or volume is in both (a shared volume may be), or a sum overflows.
    #[must_use]
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        let (Some(a), Some(b)) = (&self.0, &other.0) else {
            return Some(if self.is_empty() { other } else { self }.clone());
        };
        let mut out = a.as_ref().clone();
        for (name, q) in &b.scalars {
            let sum = out.scalars.entry(name.clone()).or_default();
            sum.0 = sum.0.checked_add(q.0)?;
        }
        for (name, r) in &b.ranges {
            let sum = out.ranges.entry(name.clone()).or_default();
            if sum.intersects(r) {
                return None;
            }
            *sum = sum.union(r);
        }
        for (name, s) in &b.sets {
            let sum = out.sets.entry(name.clone()).or_default();
            for item in s {
                if !sum.insert(item.clone()) {
                    return None;
                }
            }
        }
        for (id, v) in &b.volumes {
            match out.volumes.insert(id.clone(), *v) {
                Some(old) if !(old == *v && v.shared) => return None,
                _ => {}
            }
        }
        Some(Self::from_kinds(out))
    }

    /// Difference. `None` when `other` does not fit.
    #[must_use]
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        if !self.contains(other) {
            return None;
        }
        let (Some(a), Some(b)) = (&self.0, &other.0) else {
            return Some(self.clone());
        };
        let mut out = a.as_ref().clone();
        for (name, q) in &b.scalars {
            let left = out.scalars.entry(name.clone()).or_default();
            left.0 -= q.0;
        }
        for (name, r) in &b.ranges {
            let left = out.ranges.entry(name.clone()).or_default();
            *left = left.difference(r);
        }
        for (name, s) in &b.sets {
            let left = out.sets.entry(name.clone()).or_default();
            left.retain(|item| !s.contains(item));
        }
        for id in b.volumes.keys() {
            out.volumes.remove(id);
        }
        Some(Self::from_kinds(out))
    }

    /// What is in both.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let (Some(a), Some(b)) = (&self.0, &other.0) else {
            return Self::default();
        };
        let mut out = Kinds::default();
        for (name, q) in &a.scalars {
            let both = (*q).min(b.scalars.get(name).copied().unwrap_or_default());
            out.scalars.insert(name.clone(), both);
        }
        for (name, r) in &a.ranges {
            if let Some(other) = b.ranges.get(name) {
                out.ranges.insert(name.clone(), r.intersection(other));
            }
        }
        for (name, s) in &a.sets {
            if let Some(other) = b.sets.get(name) {
                let both = s.intersection(other).cloned().collect();
                out.sets.insert(name.clone(), both);
            }
        }
        let in_both = |(id, v): &(&VolumeId, &Volume)| b.volumes.get(*id) == Some(*v);
        out.volumes = a
            .volumes
            .iter()
            .filter(in_both)
            .map(|(id, v)| (id.clone(), *v))
            .collect();
        Self::from_kinds(out)
    }

    fn change(&mut self, with: impl FnOnce(&mut Kinds)) {
        let mut kinds = self.0.take().map(|k| *k).unwrap_or_default();
        with(&mut kinds);
        *self = Self::from_kinds(kinds);
    }

    fn from_kinds(mut k: Kinds) -> Self {
        k.scalars.retain(|_, q| q.0 != 0);
        k.ranges.retain(|_, r| !r.is_empty());
        k.sets.retain(|_, s| !s.is_empty());
        Self((!k.is_empty()).then(|| Box::new(k)))
    }
}

impl fmt::Display for Custom {
    /// `licenses:2; vlans:[1-4]; zones:{a, b}; volume db:512`, each kind by name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sep = "";
        for (name, q) in self.scalars() {
            write!(f, "{sep}{name}:{q}")?;
            sep = "; ";
        }
        for (name, r) in self.ranges() {
            write!(f, "{sep}{name}:{r}")?;
            sep = "; ";
        }
        for (name, s) in self.sets() {
            let items: Vec<&str> = s.iter().map(String::as_str).collect();
            write!(f, "{sep}{name}:{{{}}}", items.join(", "))?;
            sep = "; ";
        }
        for (id, v) in self.volumes() {
            let shared = if v.shared { " (shared)" } else { "" };
            write!(f, "{sep}volume {id}:{}{shared}", v.size)?;
            sep = "; ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn custom() -> impl Strategy<Value = Custom> {
        let scalars = prop::collection::btree_map("[ab]", 0i64..50, 0..3);
        let ranges =
            prop::collection::btree_map("[cd]", prop::collection::vec(0u64..20, 0..6), 0..3);
        let sets =
            prop::collection::btree_map("[ef]", prop::collection::btree_set("[x-z]", 0..4), 0..3);
        let volumes = prop::collection::btree_map("[vw]", (1i64..3, any::<bool>()), 0..3);
        (scalars, ranges, sets, volumes).prop_map(|(scalars, ranges, sets, volumes)| {
            let mut out = Custom::default();
            for (n, q) in scalars {
                out.set_scalar(n, Milli(q));
            }
            for (n, r) in ranges {
                out.set_ranges(n, RangeSet::from_ports(r));
            }
            for (n, s) in sets {
                out.set_items(n, s);
            }
            for (id, (size, shared)) in volumes {
                let size = Milli(size);
                out.set_volume(VolumeId::new(id).unwrap(), Volume { size, shared });
            }
            out
        })
    }

    proptest! {
        #[test]
        fn what_is_added_can_be_taken_away(a in custom(), b in custom()) {
            if let Some(sum) = a.checked_add(&b) {
                prop_assert!(sum.contains(&a) && sum.contains(&b));
                let left = sum.checked_sub(&b).unwrap();
                // A shared volume of both is gone with the first that takes it away.
                let shared = a.common(&b).volumes().next().is_some();
                prop_assert!(shared || left == a);
                prop_assert_eq!(b.checked_add(&a), Some(sum));
            }
            let common = a.common(&b);
            prop_assert!(a.contains(&common) && b.contains(&common));
            prop_assert_eq!(b.common(&a), common.clone());
            prop_assert!(a.checked_sub(&common).is_some());
            prop_assert_eq!(a.checked_sub(&b).is_some(), a.contains(&b));
        }
    }

    #[test]
    fn kinds_have_rules_and_a_text() {
        for name in ["", "cpus", "ports", "a b", "a/b", &"x".repeat(65)] {
            assert!(check_kind(name).is_err(), "{name}");
        }
        assert_eq!(check_kind("nvidia.com-mig.1g"), Ok(()));
        let mut c = Custom::default();
        assert_eq!(c.to_string(), "");
        c.set_scalar("licenses", Milli(1500));
        c.set_ranges("vlans", RangeSet::from_ports([1, 2, 7]));
        c.set_items("zones", ["b".to_owned(), "a".to_owned()].into());
        let volume = Volume {
            size: Milli::units(512),
            shared: true,
        };
        let id = VolumeId::new("db").unwrap();
        c.set_volume(id.clone(), volume);
        assert_eq!(
            c.to_string(),
            "licenses:1.5; vlans:[1-2, 7-7]; zones:{a, b}; volume db:512 (shared)"
        );
        assert_eq!(c.checked_add(&c), None, "numbers and items have one holder");
        let mut only = Custom::default();
        only.set_volume(id.clone(), volume);
        assert_eq!(
            only.checked_add(&only),
            Some(only.clone()),
            "a shared one has several"
        );
        assert_eq!(only.remove_volume(&id), Some(volume));
        assert_eq!(only, Custom::default());
    }
}

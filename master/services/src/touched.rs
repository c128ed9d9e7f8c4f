//! An ordered map that remembers which of its entries may have changed, so that readers make only those anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
};

/// Keys that are remembered; when more have been touched since they were last taken, all count as touched.
const MAX_KEYS: usize = 16_384;

/// Which entries may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touches<K> {
    /// Any of them.
    All,
    /// These; some may not be there any more.
    Some(BTreeSet<K>),
}

impl<K: Ord> Touches<K> {
    /// Remembers one more.
    pub fn add(&mut self, key: K) {
        if let Self::Some(keys) = self {
            keys.insert(key);
            if keys.len() > MAX_KEYS {
                *self = Self::All;
            }
        }
    }

    /// What was remembered; from here on nothing is.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Some(BTreeSet::new()))
    }
}

/// A map that can be read as any, and whose entries are only changed one by one.
#[derive(Debug, Clone)]
pub(crate) struct TouchedMap<K, V> {
    all: BTreeMap<K, V>,
    touches: Touches<K>,
}

impl<K: Ord + Clone, V> TouchedMap<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            all: BTreeMap::new(),
            touches: Touches::All,
        }
    }

    /// The entry of a key, to be changed.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let value = self.all.get_mut(key)?;
        self.touches.add(key.clone());
        Some(value)
    }

    /// The entry of a key, to be changed, made where there is none.
    pub(crate) fn get_or_insert_with(&mut self, key: &K, make: impl FnOnce() -> V) -> &mut V {
        self.touches.add(key.clone());
        self.all.entry(key.clone()).or_insert_with(make)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.touches.add(key.clone());
        self.all.remove(key)
    }

    /// Keys of the entries that a rule picks, in order.
    pub(crate) fn keys_where(&self, rule: impl Fn(&V) -> bool) -> Vec<K> {
        let picked = self.all.iter().filter(|(_, v)| rule(v));
        picked.map(|(k, _)| k.clone()).collect()
    }

    pub(crate) fn take_touches(&mut self) -> Touches<K> {
        self.touches.take()
    }
}

impl<K, V> Deref for TouchedMap<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_remembered_until_they_are_taken() {
        let mut map = TouchedMap::new();
        assert_eq!(map.take_touches(), Touches::All, "nobody has seen it");
        *map.get_or_insert_with(&1, || 10) += 1;
        assert_eq!(map.get(&1), Some(&11));
        assert!(map.get_mut(&2).is_none());
        assert_eq!(map.take_touches(), Touches::Some([1].into()));
        assert_eq!(map.take_touches(), Touches::Some([].into()));
        map.remove(&1);
        assert_eq!(map.take_touches(), Touches::Some([1].into()));
    }

    #[test]
    fn what_nobody_takes_is_bounded() {
        let mut touches = Touches::Some(BTreeSet::new());
        (0..=MAX_KEYS).for_each(|k| touches.add(k));
        assert_eq!(touches, Touches::All);
        touches.add(0);
        assert_eq!(touches.take(), Touches::All);
        assert_eq!(touches, Touches::Some(BTreeSet::new()));
    }
}

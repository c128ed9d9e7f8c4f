//! Rows of bits and slots by number: what makes a full cycle cheap.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

/// Number of a slot.
pub(crate) type Idx = u32;

/// No slot.
pub(crate) const NONE: Idx = Idx::MAX;

/// Strings to slots. The hasher has a fixed key, and nobody iterates, so nothing depends on its order.
pub(crate) type Index<K> = HashMap<K, Idx, BuildHasherDefault<DefaultHasher>>;

/// A set of slot numbers, one bit each; grows to the highest that was ever set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BitSet {
    words: Vec<u64>,
}

impl BitSet {
    pub fn contains(&self, idx: Idx) -> bool {
        let word = self.words.get(idx as usize / 64).copied().unwrap_or(0);
        word >> (idx % 64) & 1 == 1
    }

    pub fn insert(&mut self, idx: Idx) {
        let at = idx as usize / 64;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        self.words[at] |= 1 << (idx % 64);
    }

    pub fn remove(&mut self, idx: Idx) {
        if let Some(word) = self.words.get_mut(idx as usize / 64) {
            *word &= !(1 << (idx % 64));
        }
    }

    pub fn set(&mut self, idx: Idx, on: bool) {
        if on {
            self.insert(idx);
        } else {
            self.remove(idx);
        }
    }

    pub fn clear(&mut self) {
        self.words.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    pub fn len(&self) -> u32 {
        self.words.iter().map(|w| w.count_ones()).sum()
    }

    /// Becomes a copy of another, in the memory that it has.
    pub fn copy_from(&mut self, other: &Self) {
        self.words.clone_from(&other.words);
    }

    pub fn union(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (a, b) in self.words.iter_mut().zip(&other.words) {
            *a |= b;
        }
    }

    /// Whether all of it is in another.
    pub fn is_within(&self, other: &Self) -> bool {
        let others = other.words.iter().chain(std::iter::repeat(&0));
        self.words.iter().zip(others).all(|(a, b)| a & !b == 0)
    }

    pub fn subtract(&mut self, other: &Self) {
        for (a, b) in self.words.iter_mut().zip(&other.words) {
            *a &= !b;
        }
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = Idx> + '_ {
        (0..).zip(&self.words).flat_map(|(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                (left != 0).then(|| {
                    let bit = left.trailing_zeros();
                    left &= left - 1;
                    at * 64 + bit
                })
            })
        })
    }
}

/// Things by number; freed numbers are used again, the latest first.
#[derive(Debug, Clone)]
pub(crate) struct Slab<T> {
    items: Vec<Option<T>>,
    free: Vec<Idx>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    pub fn insert(&mut self, item: T) -> Idx {
        if let Some(idx) = self.free.pop() {
            self.items[idx as usize] = Some(item);
            return idx;
        }
        let idx = Idx::try_from(self.items.len()).unwrap_or(NONE);
        self.items.push(Some(item));
        idx
    }

    pub fn get(&self, idx: Idx) -> Option<&T> {
        self.items.get(idx as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, idx: Idx) -> Option<&mut T> {
        self.items.get_mut(idx as usize)?.as_mut()
    }

    pub fn remove(&mut self, idx: Idx) -> Option<T> {
        let item = self.items.get_mut(idx as usize)?.take()?;
        self.free.push(idx);
        Some(item)
    }

    pub fn len(&self) -> usize {
        self.items.len() - self.free.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Idx, &T)> {
        (0..)
            .zip(&self.items)
            .filter_map(|(i, t)| Some((i, t.as_ref()?)))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Idx, &mut T)> {
        (0..)
            .zip(&mut self.items)
            .filter_map(|(i, t)| Some((i, t.as_mut()?)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_are_a_set(
            a in prop::collection::vec((0u32..300, any::<bool>()), 0..60),
            b in prop::collection::btree_set(0u32..300, 0..60),
        ) {
            let mut set = BitSet::default();
            let mut model = BTreeSet::new();
            for (idx, on) in a {
                set.set(idx, on);
                if on { model.insert(idx); } else { model.remove(&idx); }
            }
            prop_assert!(set.iter().eq(model.iter().copied()));
            prop_assert_eq!(set.len() as usize, model.len());
            let mut other = BitSet::default();
            for i in &b { other.insert(*i); }
            let mut both = set.clone();
            both.union(&other);
            prop_assert!(both.iter().eq(model.union(&b).copied()));
            prop_assert!(set.is_within(&both) && other.is_within(&both));
            prop_assert_eq!(set.is_within(&other), model.is_subset(&b));
            set.subtract(&other);
            prop_assert!(set.iter().eq(model.difference(&b).copied()));
            prop_assert_eq!(set.is_empty(), model.is_subset(&b));
        }
    }
}

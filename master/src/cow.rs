//! An ordered map whose copies are cheap: what readers see is a copy of what the core works on.
//!
//! Entries lie in chunks of a few dozen; a copy shares the chunks, and a change makes a new one of the
//! chunk that it touches only while a copy still holds that. So a snapshot of half a million entries costs
//! some ten thousand reference counts, and the entries are in memory once.

use std::{
    borrow::Borrow,
    fmt,
    ops::Index,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Most entries in a chunk; a full one is split.
const MAX: usize = 48;
/// A chunk with fewer is joined with a neighbor when both fit into one.
const MIN: usize = 12;

/// A value that holds its own key.
pub trait Keyed {
    /// The key's type.
    type Key: Ord + Clone;
    /// The key; it must not change while the value is in a map.
    fn key(&self) -> &Self::Key;
}

/// Entries that are copied together.
type Chunk<V> = Arc<Vec<Arc<V>>>;

/// See the module's documentation.
pub struct CowMap<V: Keyed> {
    /// In key order, none empty; with each the key of its first entry.
    chunks: Vec<(V::Key, Chunk<V>)>,
    len: usize,
    /// The chunk that was asked for last: who works on an entry asks for it again, and neighbors come together. A hint
    /// alone, wrong without harm.
    last: AtomicUsize,
}

impl<V: Keyed> Default for CowMap<V> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
            last: AtomicUsize::new(0),
        }
    }
}

impl<V: Keyed> Clone for CowMap<V> {
    fn clone(&self) -> Self {
        Self {
            chunks: self.chunks.clone(),
            len: self.len,
            last: AtomicUsize::new(0),
        }
    }
}

impl<V: Keyed + fmt::Debug> fmt::Debug for CowMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values()).finish()
    }
}

impl<V: Keyed + PartialEq> PartialEq for CowMap<V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.values().eq(other.values())
    }
}

impl<V: Keyed> CowMap<V> {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries in key order.
    pub fn values(&self) -> impl Iterator<Item = &Arc<V>> {
        self.chunks.iter().flat_map(|(_, c)| c.iter())
    }

    /// Keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &V::Key> {
        self.values().map(|v| v.key())
    }

    /// Keys and entries in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&V::Key, &Arc<V>)> {
        self.values().map(|v| (v.key(), v))
    }

    /// The chunk in which a key is, or would be.
    fn chunk_of<Q>(&self, key: &Q) -> usize
    where
        V::Key: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let last = self.last.load(Ordering::Relaxed);
        let begins = |at: usize| self.chunks.get(at).map(|(k, _)| k.borrow() <= key);
        if begins(last) == Some(true) && begins(last + 1) != Some(true) {
            return last;
        }
        let after = self.chunks.partition_point(|(k, _)| k.borrow() <= key);
        let at = after.saturating_sub(1);
        self.last.store(at, Ordering::Relaxed);
        at
    }

    fn find<Q>(&self, key: &Q) -> Option<(usize, usize)>
    where
        V::Key: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let c = self.chunk_of(key);
        let (_, chunk) = self.chunks.get(c)?;
        let at = chunk.binary_search_by(|v| v.key().borrow().cmp(key)).ok()?;
        Some((c, at))
    }

    /// The entry of a key.
    pub fn get<Q>(&self, key: &Q) -> Option<&Arc<V>>
    where
        V::Key: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (c, at) = self.find(key)?;
        self.chunks.get(c)?.1.get(at)
    }

    /// Whether a key is in it.
    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        V::Key: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.find(key).is_some()
    }

    /// Puts an entry in; answers what was there under its key.
    pub fn insert(&mut self, value: Arc<V>) -> Option<Arc<V>> {
        if self.chunks.is_empty() {
            let first = value.key().clone();
            self.chunks.push((first, Arc::new(vec![value])));
            self.len = 1;
            return None;
        }
        let c = self.chunk_of(value.key());
        let n_chunks = self.chunks.len();
        let (first, chunk) = self.chunks.get_mut(c)?;
        let chunk = Arc::make_mut(chunk);
        match chunk.binary_search_by(|v| v.key().cmp(value.key())) {
            Ok(at) => Some(std::mem::replace(&mut chunk[at], value)),
            Err(at) => {
                if at == 0 {
                    *first = value.key().clone();
                }
                let grows_at_the_end = c + 1 == n_chunks && at == chunk.len();
                chunk.insert(at, value);
                self.len += 1;
                if chunk.len() > MAX {
                    // Keys that grow fill chunks up instead of leaving them half empty.
                    let half = if grows_at_the_end { MAX } else { MAX / 2 };
                    let mut upper = Vec::with_capacity(MAX + 1);
                    upper.extend(chunk.drain(half..));
                    if let Some(key) = upper.first().map(|v| v.key().clone()) {
                        self.chunks.insert(c + 1, (key, Arc::new(upper)));
                    }
                }
                None
            }
        }
    }

    /// Takes an entry out.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<Arc<V>>
    where
        V::Key: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (c, at) = self.find(key)?;
        let (first, chunk) = self.chunks.get_mut(c)?;
        let chunk = Arc::make_mut(chunk);
        let out = chunk.remove(at);
        self.len -= 1;
        match chunk.first() {
            None => {
                self.chunks.remove(c);
            }
            Some(v) => {
                if at == 0 {
                    *first = v.key().clone();
                }
                if chunk.len() < MIN {
                    self.join(c);
                }
            }
        }
        Some(out)
    }

    /// Joins a small chunk with its neighbor, if both fit into one.
    fn join(&mut self, c: usize) {
        let left = if c + 1 < self.chunks.len() {
            c
        } else {
            c.saturating_sub(1)
        };
        let sizes = |i: usize| self.chunks.get(i).map_or(MAX, |(_, c)| c.len());
        if left + 1 >= self.chunks.len() || sizes(left) + sizes(left + 1) > MAX {
            return;
        }
        let (_, upper) = self.chunks.remove(left + 1);
        if let Some((_, lower)) = self.chunks.get_mut(left) {
            Arc::make_mut(lower).extend(upper.iter().cloned());
        }
    }
}

impl<V: Keyed + Clone> CowMap<V> {
    /// The entry of a key, to be changed; copies that others hold stay as they are.
    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        V::Key: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (c, at) = self.find(key)?;
        let (_, chunk) = self.chunks.get_mut(c)?;
        Arc::make_mut(chunk).get_mut(at).map(Arc::make_mut)
    }
}

impl<V, Q> Index<&Q> for CowMap<V>
where
    V: Keyed<Key: Borrow<Q>>,
    Q: Ord + ?Sized,
{
    type Output = Arc<V>;

    /// The entry of a key that is known to be there.
    #[allow(clippy::expect_used, reason = "what Index is for")]
    fn index(&self, key: &Q) -> &Arc<V> {
        self.get(key).expect("no entry of this key")
    }
}

impl<V: Keyed> FromIterator<V> for CowMap<V> {
    fn from_iter<I: IntoIterator<Item = V>>(all: I) -> Self {
        let mut out = Self::default();
        for v in all {
            out.insert(Arc::new(v));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Entry(u16, u32);

    impl Keyed for Entry {
        type Key = u16;
        fn key(&self) -> &u16 {
            &self.0
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        Put(u16, u32),
        Remove(u16),
        Change(u16, u32),
        Copy,
    }

    fn op() -> impl Strategy<Value = Op> {
        let key = || 0_u16..600;
        prop_oneof![
            6 => (key(), any::<u32>()).prop_map(|(k, v)| Op::Put(k, v)),
            4 => key().prop_map(Op::Remove),
            2 => (key(), any::<u32>()).prop_map(|(k, v)| Op::Change(k, v)),
            1 => Just(Op::Copy),
        ]
    }

    fn same(map: &CowMap<Entry>, model: &BTreeMap<u16, u32>) {
        assert_eq!(map.len(), model.len());
        let all: Vec<(u16, u32)> = map.values().map(|e| (e.0, e.1)).collect();
        let want: Vec<(u16, u32)> = model.iter().map(|(k, v)| (*k, *v)).collect();
        assert_eq!(all, want);
        assert!(map.chunks.iter().all(|(k, c)| {
            !c.is_empty() && c.len() <= MAX && c.first().is_some_and(|e| e.0 == *k)
        }));
    }

    proptest! {
        #[test]
        fn it_is_an_ordered_map_and_copies_do_not_change(ops in prop::collection::vec(op(), 1..800)) {
            let (mut map, mut model) = (CowMap::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for op in ops {
                match op {
                    Op::Put(k, v) => {
                        let old = map.insert(Arc::new(Entry(k, v))).map(|e| e.1);
                        prop_assert_eq!(old, model.insert(k, v));
                    }
                    Op::Remove(k) => {
                        prop_assert_eq!(map.remove(&k).map(|e| e.1), model.remove(&k));
                    }
                    Op::Change(k, v) => {
                        let found = map.get_mut(&k).map(|e| e.1 = v);
                        prop_assert_eq!(found, model.get_mut(&k).map(|x| *x = v));
                    }
                    Op::Copy => copies.push((map.clone(), model.clone())),
                }
                for k in [0, 17, 599] {
                    prop_assert_eq!(map.get(&k).map(|e| e.1), model.get(&k).copied());
                }
            }
            same(&map, &model);
            for (map, model) in copies {
                same(&map, &model);
            }
        }
    }

    #[test]
    fn growing_keys_fill_chunks() {
        let map: CowMap<Entry> = (0..4800).map(|k| Entry(k, 0)).collect();
        assert_eq!(map.chunks.len(), 4800 / MAX);
    }
}

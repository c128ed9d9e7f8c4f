//! Files that were fetched, kept for other tasks: by user and URI, as Mesos does; at most so many bytes, the least
//! recently used go first, and what is being copied from stays. Several tasks that want the same wait for one download.
//!
//! It begins empty with every agent: what is in its directory from before is removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;

/// Whose, and what: two users never share a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The task's user; `None` is the agent's.
    pub uid: Option<u32>,
    /// As in the request.
    pub uri: String,
}

/// A downloaded file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Where it is.
    pub path: PathBuf,
    /// Its SHA-256.
    pub sha256: [u8; 32],
}

/// The cache.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    max_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Key, Entry>,
    bytes: u64,
    // Counts uses; a clock that never stands still.
    uses: u64,
    n_files: u64,
    n_evicted: u64,
}

#[derive(Debug)]
struct Entry {
    cell: Arc<OnceCell<Ready>>,
    path: PathBuf,
    bytes: u64,
    used_by: usize,
    last_use: u64,
}

/// What an eviction looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate<K> {
    /// Which.
    pub key: K,
    /// Its size.
    pub bytes: u64,
    /// When it was used last.
    pub last_use: u64,
}

/// Which entries must go so that `need` bytes fit beside the rest: the least recently used first, and no more than it
/// takes. `None`: they would not fit even without all of them; then none goes.
pub fn evict<K: Clone>(
    mut free: Vec<Candidate<K>>,
    bytes: u64,
    max_bytes: u64,
    need: u64,
) -> Option<Vec<K>> {
    free.sort_by_key(|c| c.last_use);
    let mut left = bytes;
    let mut out = Vec::new();
    let fits = |left: u64| left.checked_add(need).is_some_and(|sum| sum <= max_bytes);
    for c in free {
        if fits(left) {
            break;
        }
        left = left.saturating_sub(c.bytes);
        out.push(c.key);
    }
    fits(left).then_some(out)
}

impl Cache {
    /// In a directory of its own, which is emptied. Blocking.
    pub fn open(dir: &Path, max_bytes: u64) -> io::Result<Self> {
        match fs::remove_dir_all(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => fs::create_dir_all(dir)?,
        }
        Ok(Self(Arc::new(Inner {
            dir: dir.to_owned(),
            max_bytes,
            state: Mutex::default(),
        })))
    }

    /// The entry for a key, held until it is dropped, and whether it was there before. Whoever fills its cell first
    /// downloads; the others wait for that.
    pub fn hold(&self, key: &Key) -> (Held, bool) {
        let mut state = self.0.state();
        state.uses += 1;
        let now = state.uses;
        let hit = state.entries.contains_key(key);
        if !hit {
            state.n_files += 1;
            let path = self.0.dir.join(format!("f{}", state.n_files));
            let entry = Entry {
                cell: Arc::default(),
                path,
                bytes: 0,
                used_by: 0,
                last_use: now,
            };
            state.entries.insert(key.clone(), entry);
        }
        let (cell, path) = match state.entries.get_mut(key) {
            Some(e) => {
                e.used_by += 1;
                e.last_use = now;
                (Arc::clone(&e.cell), e.path.clone())
            }
            None => (Arc::default(), PathBuf::new()),
        };
        drop(state);
        let held = Held {
            cache: Arc::clone(&self.0),
            key: key.clone(),
            cell,
            path,
        };
        (held, hit)
    }

    /// Bytes in it, and how many entries were evicted so far.
    pub fn figures(&self) -> (u64, u64) {
        let state = self.0.state();
        (state.bytes, state.n_evicted)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry that can't be evicted meanwhile.
#[derive(Debug)]
pub struct Held {
    cache: Arc<Inner>,
    key: Key,
    /// The file, once somebody has downloaded it.
    pub cell: Arc<OnceCell<Ready>>,
    /// Where to download it to.
    pub path: PathBuf,
}

impl Held {
    /// Room for more bytes of this entry. `false`: there is none, whatever is evicted.
    pub fn reserve(&self, more: u64) -> bool {
        let mut state = self.cache.state();
        let free = state
            .entries
            .iter()
            .filter(|(_, e)| e.used_by == 0)
            .map(|(key, e)| Candidate {
                key: key.clone(),
                bytes: e.bytes,
                last_use: e.last_use,
            })
            .collect();
        let Some(gone) = evict(free, state.bytes, self.cache.max_bytes, more) else {
            return false;
        };
        for key in gone.into_iter().collect::<BTreeSet<_>>() {
            if let Some(e) = state.entries.remove(&key) {
                state.bytes -= e.bytes;
                state.n_evicted += 1;
                let _ = fs::remove_file(&e.path);
            }
        }
        state.bytes += more;
        if let Some(e) = state.entries.get_mut(&self.key) {
            e.bytes += more;
        }
        true
    }

    /// An attempt failed: its bytes are given back.
    pub fn give_back(&self) {
        let mut state = self.cache.state();
        let bytes = match state.entries.get_mut(&self.key) {
            Some(e) => std::mem::take(&mut e.bytes),
            None => 0,
        };
        state.bytes -= bytes;
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.cache.state();
        let Some(e) = state.entries.get_mut(&self.key) else {
            return;
        };
        e.used_by -= 1;
        // Nobody has it, and nobody waits for it.
        if e.used_by == 0 && !e.cell.initialized() {
            let bytes = e.bytes;
            let _ = fs::remove_file(&e.path);
            state.entries.remove(&self.key);
            state.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(uri: &str) -> Key {
        Key {
            uid: None,
            uri: uri.to_owned(),
        }
    }

    fn fill(cache: &Cache, uri: &str, bytes: u64) -> bool {
        let (held, _) = cache.hold(&key(uri));
        if !held.reserve(bytes) {
            return false;
        }
        fs::write(&held.path, vec![0; usize::try_from(bytes).unwrap()]).unwrap();
        let ready = Ready {
            path: held.path.clone(),
            sha256: [0; 32],
        };
        held.cell.set(ready).is_ok()
    }

    #[test]
    fn the_least_recently_used_goes_and_what_is_used_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("old"), "x").unwrap();
        let cache = Cache::open(dir.path(), 100).unwrap();
        let n_files = || fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(n_files(), 0, "it begins empty");
        assert!(fill(&cache, "a", 40) && fill(&cache, "b", 40));
        let (a, hit) = cache.hold(&key("a"));
        assert!(hit && a.cell.initialized());
        assert!(fill(&cache, "c", 60), "b goes");
        assert_eq!(cache.figures(), (100, 1));
        assert_eq!(n_files(), 2);
        assert!(!fill(&cache, "d", 61), "a is used, c alone is not enough");
        assert_eq!(cache.figures(), (100, 1), "and nothing went for it");
        drop(a);
        assert!(fill(&cache, "d", 100));
        assert_eq!((cache.figures(), n_files()), ((100, 3), 1));
        // A download that failed leaves nothing.
        let (e, hit) = cache.hold(&key("e"));
        assert!(!hit && e.reserve(10));
        e.give_back();
        drop(e);
        assert_eq!(cache.figures().0, 0);
        assert!(!cache.hold(&key("e")).1);
    }

    proptest! {
        #[test]
        fn evictions_make_room_and_no_more(
            all in prop::collection::vec((1u64..50, 0u64..100), 0..12),
            used in 0u64..100, max in 0u64..400, need in 0u64..200,
        ) {
            let free: Vec<Candidate<usize>> = all.iter().enumerate()
                .map(|(key, (bytes, last_use))| Candidate { key, bytes: *bytes, last_use: *last_use })
                .collect();
            let size = |k: &usize| all[*k].0;
            let bytes = used + all.iter().map(|(b, _)| b).sum::<u64>();
            match evict(free, bytes, max, need) {
                None => prop_assert!(used + need > max),
                Some(gone) => {
                    let freed: u64 = gone.iter().map(size).sum();
                    prop_assert!(bytes - freed + need <= max);
                    if let Some(last) = gone.last() {
                        prop_assert!(bytes - freed + size(last) + need > max, "one too many");
                        let newest = gone.iter().map(|k| all[*k].1).max().unwrap();
                        let kept = (0..all.len()).filter(|k| !gone.contains(k));
                        prop_assert!(kept.map(|k| all[k].1).all(|u| u >= newest));
                    }
                }
            }
        }
    }
}

//! A store that forgets at exit, for tests and simulations; also injects failures.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::{BoxFuture, FutureExt, ready};

use super::{Compare, Entry, Store, StoreError, StoreOp, Txn, check_limits};

#[derive(Debug, Default)]
struct State {
    revision: u64,
    entries: BTreeMap<String, (Vec<u8>, u64)>,
}

/// Everything in one ordered map; clones share it, so a "restarted" master finds it again.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    failures_left: Arc<AtomicUsize>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next `n` transactions fail with [`StoreError::Io`] and write nothing.
    pub fn fail_next(&self, n: usize) {
        self.failures_left.store(n, Ordering::SeqCst);
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        // A panic elsewhere cannot leave the map half written: every change is one call.
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn run(&self, compare: &[Compare], ops: Vec<StoreOp>) -> Result<Txn, StoreError> {
        check_limits(compare, &ops)?;
        let failing = self
            .failures_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .is_ok();
        if failing {
            return Err(StoreError::Io {
                operation: "commit",
                source: "failure injected by a test".into(),
            });
        }
        Ok(self.with(|s| {
            for c in compare {
                let found = s.entries.get(&c.key).map_or(0, |(_, r)| *r);
                if found != c.revision {
                    let key = c.key.clone();
                    return Txn::Conflict { key, found };
                }
            }
            s.revision += 1;
            let revision = s.revision;
            for op in ops {
                match op {
                    StoreOp::Put { key, value } => {
                        s.entries.insert(key, (value, revision));
                    }
                    StoreOp::Delete { key } => {
                        s.entries.remove(&key);
                    }
                }
            }
            Txn::Committed { revision }
        }))
    }
}

impl Store for MemoryStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        let found = self.with(|s| {
            s.entries.get(key).map(|(value, revision)| Entry {
                key: key.to_owned(),
                value: value.clone(),
                revision: *revision,
            })
        });
        ready(Ok(found)).boxed()
    }

    fn range<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Entry>, StoreError>> {
        let found = self.with(|s| {
            s.entries
                .range(prefix.to_owned()..)
                .take_while(|(k, _)| k.starts_with(prefix))
                .map(|(key, (value, revision))| Entry {
                    key: key.clone(),
                    value: value.clone(),
                    revision: *revision,
                })
                .collect()
        });
        ready(Ok(found)).boxed()
    }

    fn txn(
        &self,
        compare: Vec<Compare>,
        ops: Vec<StoreOp>,
    ) -> BoxFuture<'_, Result<Txn, StoreError>> {
        ready(self.run(&compare, ops)).boxed()
    }
}

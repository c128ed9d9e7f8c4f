//! Work that several wait for is done once.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

/// Work under way, by what it is for. It goes on while anybody waits, and is dropped when nobody does.
pub struct Flights<K, T: Clone> {
    flying: Mutex<BTreeMap<K, WeakShared<BoxFuture<'static, T>>>>,
}

impl<K: Ord, T: Clone> Default for Flights<K, T> {
    fn default() -> Self {
        Self {
            flying: Mutex::new(BTreeMap::new()),
        }
    }
}

impl<K: Ord, T: Clone> Flights<K, T> {
    /// Joins the work for `key`, or begins it.
    pub fn join(
        &self,
        key: K,
        begin: impl FnOnce() -> BoxFuture<'static, T>,
    ) -> Shared<BoxFuture<'static, T>> {
        let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
        // Bounded by what is under way.
        flying.retain(|_, f| f.upgrade().is_some_and(|f| f.peek().is_none()));
        if let Some(shared) = flying.get(&key).and_then(WeakShared::upgrade) {
            return shared;
        }
        let shared = begin().shared();
        if let Some(weak) = shared.downgrade() {
            flying.insert(key, weak);
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn many_wait_for_one() {
        let n = Arc::new(AtomicU32::new(0));
        let flights = Flights::<u8, u32>::default();
        let begin = || {
            let n = Arc::clone(&n);
            async move {
                tokio::task::yield_now().await;
                n.fetch_add(1, Ordering::SeqCst)
            }
            .boxed()
        };
        let all: Vec<_> = (0..10).map(|_| flights.join(1, begin)).collect();
        assert_eq!(futures::future::join_all(all).await, [0; 10]);
        // What has ended is done again, and what nobody waits for is not done.
        assert_eq!(flights.join(1, begin).await, 1);
        drop(flights.join(1, begin));
        assert_eq!(flights.join(1, begin).await, 2);
    }
}

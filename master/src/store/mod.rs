//! What agents cannot know and must survive: a small ordered key-value store with transactions.
//!
//! [`Store`] has exactly what the master needs: get, range, and a transaction that compares
//! revisions before it writes. [`SqliteStore`] is the embedded one; [`MemoryStore`] is for tests and
//! simulations. One conformance suite runs on both (see the tests here).

mod memory;
mod sqlite;
#[cfg(test)]
mod tests;

use futures::future::BoxFuture;

pub use memory::MemoryStore;
pub use sqlite::SqliteStore;

/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 512;
/// Longest value, in bytes: an app definition is at most 1 MiB of JSON.
pub const MAX_VALUE_BYTES: usize = 2 << 20;
/// Most writes in one transaction.
pub const MAX_OPS: usize = 4096;

/// A stored value and the revision of its last write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The bytes.
    pub value: Vec<u8>,
    /// Revision of the transaction that wrote it; grows over the whole store, never 0.
    pub revision: u64,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// Its revision must be this; 0 means that the key must not exist.
    pub revision: u64,
}

/// A write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreOp {
    /// Set a key.
    Put {
        /// The key.
        key: String,
        /// The bytes.
        value: Vec<u8>,
    },
    /// Remove a key; nothing happens when it is not there.
    Delete {
        /// The key.
        key: String,
    },
}

impl StoreOp {
    /// The key that is written.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Txn {
    /// Every write is durable, at this revision.
    Committed {
        /// Revision of the writes.
        revision: u64,
    },
    /// A condition did not hold; nothing was written.
    Conflict {
        /// The key of the first condition that failed.
        key: String,
        /// Its revision, 0 when it does not exist.
        found: u64,
    },
}

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database could not be opened.
    #[error("cannot open the store {path}")]
    Open {
        /// Its file.
        path: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process holds the store.
    #[error("the store {path} is in use by another process")]
    InUse {
        /// Its file.
        path: String,
    },
    /// The file was written by a newer Waggle.
    #[error("the store {path} has format {found}, this version knows up to {known}")]
    TooNew {
        /// Its file.
        path: String,
        /// Format found.
        found: i64,
        /// Newest known format.
        known: i64,
    },
    /// A read or write failed; nothing of the transaction was applied.
    #[error("the store failed to {operation}")]
    Io {
        /// `read`, `commit`, ..
        operation: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A key, value or transaction is over its limit; nothing was applied.
    #[error("{what} of {len} is over the limit of {max}")]
    TooLarge {
        /// `key`, `value`, `transaction`.
        what: &'static str,
        /// Found.
        len: usize,
        /// Allowed.
        max: usize,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// An ordered key-value store with compare-and-write transactions.
///
/// Transactions are atomic, isolated and, when `Committed` is answered, durable. Reads see every
/// transaction that was answered before they were asked.
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>>;

    /// Every entry whose key starts with `prefix`, in key order.
    fn range<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Entry>, StoreError>>;

    /// Applies all of `ops`, in order, if every condition holds, else nothing.
    fn txn(
        &self,
        compare: Vec<Compare>,
        ops: Vec<StoreOp>,
    ) -> BoxFuture<'_, Result<Txn, StoreError>>;
}

/// The limits, checked by every store before anything is written.
fn check_limits(compare: &[Compare], ops: &[StoreOp]) -> Result<(), StoreError> {
    let n = compare.len().max(ops.len());
    if n > MAX_OPS {
        return Err(StoreError::TooLarge {
            what: "transaction",
            len: n,
            max: MAX_OPS,
        });
    }
    let keys = compare.iter().map(|c| c.key.as_str());
    for key in keys.chain(ops.iter().map(StoreOp::key)) {
        if key.len() > MAX_KEY_BYTES {
            return Err(StoreError::TooLarge {
                what: "key",
                len: key.len(),
                max: MAX_KEY_BYTES,
            });
        }
    }
    for op in ops {
        if let StoreOp::Put { value, .. } = op
            && value.len() > MAX_VALUE_BYTES
        {
            return Err(StoreError::TooLarge {
                what: "value",
                len: value.len(),
                max: MAX_VALUE_BYTES,
            });
        }
    }
    Ok(())
}

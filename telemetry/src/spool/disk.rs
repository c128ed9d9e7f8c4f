//! A spool that tasks of the runtime use: what blocks is done elsewhere, what it says of itself is read without it.

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Lost, Record, Spool, SpoolLimits};
use crate::pipe::{lock, now_ns};

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Disk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spool: Mutex<Spool>,
    limit: u64,
    /// Bytes of all segments.
    size: AtomicU64,
    /// When the oldest was written, Unix milliseconds; 0: nothing waits.
    oldest: AtomicU64,
    /// There is something to read.
    more: Notify,
    /// Nothing will be written any more.
    no_more: CancellationToken,
}

impl Disk {
    /// Opens it; answers how many items were found.
    pub(crate) fn open(dir: &Path, limits: SpoolLimits) -> io::Result<(Self, u64)> {
        let spool = Spool::open(dir, limits)?;
        let found = spool.items();
        let disk = Self(Arc::new(Inner {
            limit: limits.max_bytes,
            size: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
            more: Notify::new(),
            no_more: CancellationToken::new(),
            spool: Mutex::new(spool),
        }));
        disk.0.show(&lock(&disk.0.spool));
        Ok((disk, found))
    }

    /// Writes a record; wakes who reads.
    pub(crate) async fn append(&self, payload: Vec<u8>, items: u32) -> (io::Result<()>, Lost) {
        let done = self.with(move |s| {
            let done = s.append(&payload, items, now_ms());
            (done, s.take_lost())
        });
        let done = done.await;
        self.0.more.notify_one();
        done.unwrap_or_else(|e| (Err(e), Lost::default()))
    }

    /// The oldest record, and what was lost on the way to it.
    pub(crate) async fn next(&self) -> (io::Result<Option<Record>>, Lost) {
        let done = self.with(|s| (s.next(now_ms()), s.take_lost()));
        done.await.unwrap_or_else(|e| (Err(e), Lost::default()))
    }

    /// The record that was handed out is settled: how many of its items are to be booked.
    pub(crate) async fn settle(&self) -> io::Result<u64> {
        self.with(Spool::settle).await
    }

    /// The record that was handed out is not settled; what is lost by that.
    pub(crate) async fn give_back(&self) -> Lost {
        let done = self.with(|s| {
            s.give_back();
            s.take_lost()
        });
        done.await.unwrap_or_default()
    }

    /// Over a failure of the machine.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        self.with(Spool::sync).await?
    }

    /// Waits until there may be more; false when there will not be.
    pub(crate) async fn wait(&self) -> bool {
        tokio::select! {
            () = self.0.more.notified() => true,
            () = self.0.no_more.cancelled() => false,
        }
    }

    /// The last record is written.
    pub(crate) fn end(&self) {
        self.0.no_more.cancel();
    }

    /// Whether it is.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.no_more.is_cancelled()
    }

    /// Bytes that wait, and most that may.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.0.size.load(Ordering::Relaxed), self.0.limit)
    }

    /// How long the oldest has waited, in seconds.
    pub(crate) fn oldest_age(&self) -> f64 {
        match self.0.oldest.load(Ordering::Relaxed) {
            0 => 0.0,
            at => now_ms().saturating_sub(at) as f64 / 1000.0,
        }
    }

    async fn with<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> io::Result<T> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            let mut spool = lock(&inner.spool);
            let out = f(&mut spool);
            inner.show(&spool);
            out
        });
        done.await.map_err(io::Error::other)
    }
}

impl Inner {
    fn show(&self, spool: &Spool) {
        self.size.store(spool.bytes(), Ordering::Relaxed);
        let oldest = spool.oldest().unwrap_or(0);
        self.oldest.store(oldest, Ordering::Relaxed);
    }
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    now_ns() / 1_000_000
}

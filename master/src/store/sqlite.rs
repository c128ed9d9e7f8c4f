//! The embedded store: SQLite in WAL mode with `synchronous=FULL`, on a thread of its own.
//!
//! Jobs that wait together are committed together: one fsync pays for all of them (RUNTIME.md
//! section 7 measures about 250 commits a second). Each job runs in a savepoint, so that one that
//! fails takes nothing of the others with it.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use futures::future::{BoxFuture, FutureExt};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{mpsc, oneshot};

use super::{Compare, Entry, Store, StoreError, StoreOp, Txn, check_limits};

/// Format of the file, in `PRAGMA user_version`.
const FORMAT: i64 = 1;
/// Jobs that may wait; a sender waits for room.
const QUEUE: usize = 1024;
/// Most jobs in one commit.
const GROUP: usize = 256;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Job {
    Get(String, Reply<Option<Entry>>),
    Range(String, Reply<Vec<Entry>>),
    Txn(Vec<Compare>, Vec<StoreOp>, Reply<Txn>),
}

/// A handle to the store's thread. The last one dropped ends the thread after what is queued.
#[derive(Debug)]
pub struct SqliteStore {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens or creates the file and starts its thread. Blocks for the time of a few file operations.
    ///
    /// A `<path>.lock` file beside it is held, so that two masters never share one store.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = take_lock(path)?;
        let db = open_database(path)?;
        let (jobs, rx) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("waggle-store".into())
            .spawn(move || {
                serve(&db, rx);
                if let Err((_, err)) = db.close() {
                    tracing::warn!(error = %err, "failed to close the store");
                }
                drop(lock);
            })
            .map_err(|e| open_error(path, e))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, StoreError> {
        let (tx, rx) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?;
        jobs.send(job(tx)).await.map_err(|_| StoreError::Closed)?;
        rx.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for SqliteStore {
    /// Waits for what is queued, so that the file can be opened again at once.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's thread panicked");
        }
    }
}

impl Store for SqliteStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        self.ask(|reply| Job::Get(key.to_owned(), reply)).boxed()
    }

    fn range<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Vec<Entry>, StoreError>> {
        self.ask(|reply| Job::Range(prefix.to_owned(), reply))
            .boxed()
    }

    fn txn(
        &self,
        compare: Vec<Compare>,
        ops: Vec<StoreOp>,
    ) -> BoxFuture<'_, Result<Txn, StoreError>> {
        async move {
            check_limits(&compare, &ops)?;
            self.ask(|reply| Job::Txn(compare, ops, reply)).await
        }
        .boxed()
    }
}

fn open_error(
    path: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Open {
        path: path.display().to_string(),
        source: source.into(),
    }
}

fn take_lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(PathBuf::from(name))
        .map_err(|e| open_error(path, e))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
            path: path.display().to_string(),
        }),
        Err(TryLockError::Error(e)) => Err(open_error(path, e)),
    }
}

fn open_database(path: &Path) -> Result<Connection, StoreError> {
    let db = Connection::open(path).map_err(|e| open_error(path, e))?;
    let format = prepare(&db).map_err(|e| open_error(path, e))?;
    if format > FORMAT {
        return Err(StoreError::TooNew {
            path: path.display().to_string(),
            found: format,
            known: FORMAT,
        });
    }
    Ok(db)
}

/// Sets the pragmas and makes the tables; answers the format found, untouched when it is newer.
fn prepare(db: &Connection) -> rusqlite::Result<i64> {
    let format: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    if format > FORMAT {
        return Ok(format);
    }
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "busy_timeout", 2000)?;
    if format == 0 {
        db.execute_batch(
            "BEGIN IMMEDIATE;
             CREATE TABLE IF NOT EXISTS kv (
                 key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL
             ) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS meta (
                 name TEXT PRIMARY KEY, number INTEGER NOT NULL
             ) WITHOUT ROWID;
             INSERT OR IGNORE INTO meta VALUES ('revision', 0);
             PRAGMA user_version = 1;
             COMMIT;",
        )?;
    }
    Ok(FORMAT)
}

/// Runs jobs until every sender is gone.
fn serve(db: &Connection, mut jobs: mpsc::Receiver<Job>) {
    let mut group = Vec::new();
    while let Some(first) = jobs.blocking_recv() {
        group.push(first);
        while group.len() < GROUP
            && let Ok(next) = jobs.try_recv()
        {
            group.push(next);
        }
        let mut writes = Vec::new();
        for job in group.drain(..) {
            match job {
                Job::Txn(compare, ops, reply) => writes.push((compare, ops, reply)),
                // Reads see all that was asked before them: pending writes go first.
                Job::Get(key, reply) => {
                    commit(db, std::mem::take(&mut writes));
                    let _ = reply.send(get(db, &key).map_err(|e| io("read", e)));
                }
                Job::Range(prefix, reply) => {
                    commit(db, std::mem::take(&mut writes));
                    let _ = reply.send(range(db, &prefix).map_err(|e| io("read", e)));
                }
            }
        }
        commit(db, writes);
    }
}

fn io(operation: &'static str, source: rusqlite::Error) -> StoreError {
    StoreError::Io {
        operation,
        source: Box::new(source),
    }
}

type Write = (Vec<Compare>, Vec<StoreOp>, Reply<Txn>);

/// Commits a group of transactions with one fsync and answers each.
fn commit(db: &Connection, writes: Vec<Write>) {
    if writes.is_empty() {
        return;
    }
    if let Err(e) = db.execute_batch("BEGIN IMMEDIATE") {
        return fail_all(writes.into_iter().map(|w| w.2), "begin", &e);
    }
    let mut answers = Vec::with_capacity(writes.len());
    for (compare, ops, reply) in writes {
        answers.push((savepoint(db, &compare, &ops), reply));
    }
    if let Err(e) = db.execute_batch("COMMIT") {
        // A failed COMMIT (disk full, I/O error) may leave the transaction open.
        if let Err(again) = db.execute_batch("ROLLBACK") {
            tracing::debug!(error = %again, "nothing to roll back");
        }
        return fail_all(answers.into_iter().map(|a| a.1), "commit", &e);
    }
    for (answer, reply) in answers {
        let _ = reply.send(answer);
    }
}

fn fail_all(replies: impl Iterator<Item = Reply<Txn>>, what: &'static str, e: &rusqlite::Error) {
    for reply in replies {
        let _ = reply.send(Err(StoreError::Io {
            operation: what,
            source: e.to_string().into(),
        }));
    }
}

fn savepoint(db: &Connection, compare: &[Compare], ops: &[StoreOp]) -> Result<Txn, StoreError> {
    db.execute_batch("SAVEPOINT job")
        .map_err(|e| io("write", e))?;
    let done = apply(db, compare, ops);
    let end = if matches!(done, Ok(Txn::Committed { .. })) {
        "RELEASE job"
    } else {
        "ROLLBACK TO job; RELEASE job"
    };
    db.execute_batch(end).map_err(|e| io("write", e))?;
    done.map_err(|e| io("write", e))
}

fn apply(db: &Connection, compare: &[Compare], ops: &[StoreOp]) -> rusqlite::Result<Txn> {
    for c in compare {
        let found: Option<i64> = db
            .prepare_cached("SELECT revision FROM kv WHERE key = ?1")?
            .query_row([&c.key], |r| r.get(0))
            .optional()?;
        let found = found.map_or(0, i64::cast_unsigned);
        if found != c.revision {
            let key = c.key.clone();
            return Ok(Txn::Conflict { key, found });
        }
    }
    let revision: i64 = db
        .prepare_cached(
            "UPDATE meta SET number = number + 1 WHERE name = 'revision' RETURNING number",
        )?
        .query_row([], |r| r.get(0))?;
    for op in ops {
        match op {
            StoreOp::Put { key, value } => db
                .prepare_cached("INSERT OR REPLACE INTO kv VALUES (?1, ?2, ?3)")?
                .execute(params![key, value, revision])?,
            StoreOp::Delete { key } => db
                .prepare_cached("DELETE FROM kv WHERE key = ?1")?
                .execute([key])?,
        };
    }
    Ok(Txn::Committed {
        revision: revision.cast_unsigned(),
    })
}

fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: row.get(0)?,
        value: row.get(1)?,
        revision: row.get::<_, i64>(2)?.cast_unsigned(),
    })
}

fn get(db: &Connection, key: &str) -> rusqlite::Result<Option<Entry>> {
    db.prepare_cached("SELECT key, value, revision FROM kv WHERE key = ?1")?
        .query_row([key], entry)
        .optional()
}

fn range(db: &Connection, prefix: &str) -> rusqlite::Result<Vec<Entry>> {
    // `substr` instead of an upper bound: there is no largest string. The index still gives the start.
    db.prepare_cached(
        "SELECT key, value, revision FROM kv
         WHERE key >= ?1 AND substr(key, 1, length(?1)) = ?1 ORDER BY key",
    )?
    .query_map([prefix], entry)?
    .collect()
}

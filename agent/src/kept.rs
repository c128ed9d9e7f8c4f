//! The node's last desired state on disk, so that a restarted agent answers DNS and keeps its VIPs while no master
//! answers.
//!
//! Two files: `<work_dir>/net.pb`, a snapshot as protobuf, without its causes, since those are spans that were recorded;
//! and `<work_dir>/net.log`, the changes since, each with its length before it, until they are longer than the snapshot.
//! Both are written **before** the maps are changed: something older would make the next run of the agent
//! take back what the maps already have. They are not synced to the disk, for they have to survive only the agent: a
//! machine that loses power loses the maps too, and then the master is asked.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use tokio::sync::Semaphore;
use waggle_api::proto::session as pb;
use waggle_types::{NetDelta, NetSnapshot};

use crate::session::MAX_MESSAGE;

const FILE: &str = "net.pb";
const LOG: &str = "net.log";
/// A log of fewer bytes is never too long.
const SHORT_LOG: u64 = 256 * 1024;
/// How long the data plane waits for the disk.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where it is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    path: PathBuf,
    log: PathBuf,
    // One write at a time: a late one must not overtake the next.
    writing: Arc<Semaphore>,
}

impl Kept {
    /// In this work directory.
    pub fn new(work_dir: &Path) -> Self {
        Self {
            path: work_dir.join(FILE),
            log: work_dir.join(LOG),
            writing: Arc::new(Semaphore::new(1)),
        }
    }

    /// What was kept; `None` where there is nothing or nothing that can be read (said in the log).
    pub async fn read(&self) -> Option<NetSnapshot> {
        let this = self.clone();
        let read = tokio::task::spawn_blocking(move || this.try_read()).await;
        match read {
            Ok(Ok(snapshot)) => Some(snapshot),
            Ok(Err(e)) if e.kind() == io::ErrorKind::NotFound => None,
            Ok(Err(e)) => {
                let path = self.path.display();
                tracing::warn!(%path, error = %e, "the last desired state is not readable");
                None
            }
            // The runtime shuts down.
            Err(_) => None,
        }
    }

    /// Replaces what is kept. Where that fails nothing is kept, rather than something old; a disk that does not answer
    /// holds nobody up for longer than [`PATIENCE`] (both said in the log).
    pub async fn write(&self, snapshot: Arc<NetSnapshot>) {
        self.on_disk(move |this| this.try_write(&snapshot)).await;
    }

    /// Adds a change to what is kept, as [`Kept::write`] does; `true` when the changes are so many that the snapshot
    /// should be written.
    pub async fn add(&self, delta: Arc<NetDelta>) -> bool {
        let long = self.on_disk(move |this| this.try_add(&delta)).await;
        long.unwrap_or(true)
    }

    /// What came of it; `None` where it failed, or hangs.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Option<T> {
        let path = self.path.display();
        let Ok(turn) = Arc::clone(&self.writing).try_acquire_owned() else {
            tracing::warn!(%path, "the desired state is not kept: an earlier write hangs");
            return None;
        };
        let this = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let written = work(&this).inspect_err(|_| {
                // If not even that works, generations and the master's next word set it right.
                let _ = fs::remove_file(&this.path);
            });
            drop(turn);
            written
        });
        match tokio::time::timeout(PATIENCE, written).await {
            Ok(Ok(Ok(done))) => Some(done),
            Ok(Ok(Err(e))) => {
                tracing::warn!(%path, error = %e, "the desired state is not kept");
                None
            }
            Err(_) => {
                tracing::warn!(%path, "the desired state is not kept yet: the disk is slow");
                None
            }
            // The runtime shuts down.
            Ok(Err(_)) => None,
        }
    }

    fn try_read(&self) -> io::Result<NetSnapshot> {
        let mut bytes = Vec::new();
        let most = MAX_MESSAGE as u64 + 1;
        File::open(&self.path)?.take(most).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too large"));
        }
        let invalid = |e: String| io::Error::new(io::ErrorKind::InvalidData, e);
        let snapshot =
            pb::NetSnapshot::decode(bytes.as_slice()).map_err(|e| invalid(e.to_string()))?;
        let mut snapshot = NetSnapshot::try_from(snapshot).map_err(|e| invalid(e.to_string()))?;
        snapshot.causes.clear();
        for delta in self.read_log(most)? {
            // Those of before the snapshot, where it was written but not yet the log removed.
            if delta.from == snapshot.generation {
                snapshot.apply(&delta);
            }
        }
        Ok(snapshot)
    }

    /// Changes up to the first one that was not written whole.
    fn read_log(&self, most: u64) -> io::Result<Vec<NetDelta>> {
        let mut bytes = Vec::new();
        match File::open(&self.log) {
            Ok(file) => file.take(most).read_to_end(&mut bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let (mut rest, mut out) = (bytes.as_slice(), Vec::new());
        while let Ok(wire) = pb::NetDelta::decode_length_delimited(&mut rest) {
            match NetDelta::try_from(wire) {
                Ok(delta) => out.push(delta),
                Err(_) => break,
            }
            if rest.is_empty() {
                break;
            }
        }
        Ok(out)
    }

    fn try_add(&self, delta: &NetDelta) -> io::Result<bool> {
        let mut wire = pb::NetDelta::from(delta);
        wire.causes.clear();
        let snapshot = fs::metadata(&self.path)?.len();
        let mut log = File::options().append(true).create(true).open(&self.log)?;
        log.write_all(&wire.encode_length_delimited_to_vec())?;
        Ok(log.metadata()?.len() > snapshot.max(SHORT_LOG))
    }

    fn try_write(&self, snapshot: &NetSnapshot) -> io::Result<()> {
        let mut wire = pb::NetSnapshot::from(snapshot);
        wire.causes.clear();
        let tmp = self.path.with_extension("tmp");
        fs::write(&tmp, wire.encode_to_vec())?;
        fs::rename(&tmp, &self.path)?;
        match fs::remove_file(&self.log) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use waggle_types::{Cause, Generation, TaskId, TraceContext};

    use super::*;

    fn snapshot(generation: u64) -> NetSnapshot {
        NetSnapshot {
            generation: Generation(generation),
            leader: Some(std::net::Ipv4Addr::new(10, 0, 0, 1)),
            causes: vec![Cause {
                task_id: TaskId::new("t1").unwrap(),
                trace: TraceContext {
                    trace_id: 1,
                    span_id: 2,
                    flags: 1,
                },
            }],
            ..NetSnapshot::default()
        }
    }

    #[tokio::test]
    async fn what_is_kept_comes_back_without_causes() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::new(dir.path());
        assert_eq!(kept.read().await, None);
        for generation in [7, 8] {
            kept.write(Arc::new(snapshot(generation))).await;
            let want = NetSnapshot {
                causes: Vec::new(),
                ..snapshot(generation)
            };
            assert_eq!(kept.read().await, Some(want));
        }
    }

    #[tokio::test]
    async fn changes_are_added_up_to_the_first_that_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::new(dir.path());
        let delta = |n: u64| {
            let mut later = snapshot(n + 1);
            later.leader = Some(std::net::Ipv4Addr::new(10, 0, 1, u8::try_from(n).unwrap()));
            Arc::new(snapshot(n).delta_to(&later))
        };
        assert!(kept.add(delta(7)).await, "nothing is there to be changed");
        kept.write(Arc::new(snapshot(7))).await;
        for n in 7..10 {
            assert!(!kept.add(delta(n)).await);
        }
        let read = kept.read().await.unwrap();
        assert_eq!(read.generation, Generation(10));
        assert_eq!(read.leader, delta(9).leader);
        let log = dir.path().join(LOG);
        let whole = fs::read(&log).unwrap();
        fs::write(&log, &whole[..whole.len() - 3]).unwrap();
        assert_eq!(kept.read().await.unwrap().generation, Generation(9));
        fs::write(&log, b"\xff\xff\xff\xff\xff\xff").unwrap();
        assert_eq!(kept.read().await.unwrap().generation, Generation(7));
        // A log that outlived a newer snapshot changes nothing.
        kept.write(Arc::new(snapshot(20))).await;
        fs::write(&log, &whole).unwrap();
        assert_eq!(kept.read().await.unwrap().generation, Generation(20));
    }

    #[tokio::test]
    async fn bytes_that_are_no_snapshot_are_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::new(dir.path());
        for bytes in [&b"\xff\xff\xff"[..], b"{}", &[0x1a; 70]] {
            fs::write(dir.path().join(FILE), bytes).unwrap();
            assert_eq!(kept.read().await, None);
        }
    }

    #[tokio::test]
    async fn a_disk_that_hangs_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::new(dir.path());
        // Opening a pipe that nobody reads hangs as a dead disk does.
        let tmp = dir.path().join("net.tmp");
        nix::unistd::mkfifo(&tmp, nix::sys::stat::Mode::S_IRWXU).unwrap();
        kept.write(Arc::new(snapshot(7))).await;
        let begun = std::time::Instant::now();
        kept.write(Arc::new(snapshot(8))).await;
        assert!(begun.elapsed() < PATIENCE, "only the first one waits");
        // The disk is back: the write that hung ends, and the next one counts.
        let reader = std::thread::spawn(move || fs::read(tmp));
        drop(kept.writing.acquire().await.unwrap());
        reader.join().unwrap().unwrap();
        fs::remove_file(dir.path().join(FILE)).unwrap();
        kept.write(Arc::new(snapshot(9))).await;
        assert_eq!(kept.read().await.map(|s| s.generation.0), Some(9));
    }

    #[tokio::test]
    async fn what_cannot_be_replaced_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::new(dir.path());
        kept.write(Arc::new(snapshot(7))).await;
        // A directory in the way of the temporary file.
        fs::create_dir(dir.path().join("net.tmp")).unwrap();
        kept.write(Arc::new(snapshot(8))).await;
        assert_eq!(kept.read().await, None, "nothing rather than something old");
    }
}

//! The node's last desired state on disk, so that a restarted agent answers DNS and keeps its VIPs while no master
//! answers.
//!
//! One file, `<work_dir>/net.pb`: the newest snapshot as protobuf, without its causes, since those are spans that were
//! recorded. It is replaced whole **before** the maps are changed: an older one would make the next run of the agent
//! take back what the maps already have. It is not synced to the disk, for it has to survive only the agent: a
//! machine that loses power loses the maps too, and then the master is asked.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use tokio::sync::Semaphore;
use waggle_api::proto::session as pb;
use waggle_types::NetSnapshot;

use crate::session::MAX_MESSAGE;

const FILE: &str = "net.pb";
/// How long the data plane waits for the disk.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where it is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    path: PathBuf,
    // One write at a time: a late one must not overtake the next.
    writing: Arc<Semaphore>,
}

impl Kept {
    /// In this work directory.
    pub fn new(work_dir: &Path) -> Self {
        Self {
            path: work_dir.join(FILE),
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
        let path = self.path.display();
        let Ok(turn) = Arc::clone(&self.writing).try_acquire_owned() else {
            tracing::warn!(%path, "the desired state is not kept: an earlier write hangs");
            return;
        };
        let this = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let written = this.try_write(&snapshot).inspect_err(|_| {
                // If not even that works, generations and the master's next word set it right.
                let _ = fs::remove_file(&this.path);
            });
            drop(turn);
            written
        });
        match tokio::time::timeout(PATIENCE, written).await {
            Ok(Ok(Err(e))) => {
                tracing::warn!(%path, error = %e, "the desired state is not kept");
            }
            Err(_) => tracing::warn!(%path, "the desired state is not kept yet: the disk is slow"),
            // Written, or the runtime shuts down.
            Ok(Ok(Ok(())) | Err(_)) => {}
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
        Ok(snapshot)
    }

    fn try_write(&self, snapshot: &NetSnapshot) -> io::Result<()> {
        let mut wire = pb::NetSnapshot::from(snapshot);
        wire.causes.clear();
        let tmp = self.path.with_extension("tmp");
        fs::write(&tmp, wire.encode_to_vec())?;
        fs::rename(&tmp, &self.path)
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

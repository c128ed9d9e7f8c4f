//! The node's last desired state on disk, so that a restarted agent answers DNS and keeps its VIPs while no master
//! answers.
//!
//! One file, `<work_dir>/net.pb`: the newest snapshot as protobuf, without its causes, since those are spans that were
//! recorded. It is replaced whole, and at a bounded rate: what is lost in between comes again from the master,
//! and generations keep the old from replacing the new.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message;
use tokio::sync::watch;
use waggle_api::proto::session as pb;
use waggle_types::{Generation, NetSnapshot};

use crate::{session::MAX_MESSAGE, shim::write_durably};

const FILE: &str = "net.pb";
/// Shortest time between two writes.
const PAUSE: Duration = Duration::from_secs(1);
/// A slow disk gets this many times the last write's time to rest.
const REST: u32 = 20;

/// Where it is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    path: PathBuf,
}

impl Kept {
    /// In this work directory.
    pub fn new(work_dir: &Path) -> Self {
        Self {
            path: work_dir.join(FILE),
        }
    }

    /// What was kept; `None` where there is nothing or nothing that can be read (said in the log). Blocking.
    pub fn read(&self) -> Option<NetSnapshot> {
        match self.try_read() {
            Ok(snapshot) => Some(snapshot),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                let path = self.path.display();
                tracing::warn!(%path, error = %e, "the last desired state is not readable");
                None
            }
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

    /// Replaces what is kept. Blocking.
    pub fn write(&self, snapshot: &NetSnapshot) -> io::Result<()> {
        let mut wire = pb::NetSnapshot::from(snapshot);
        wire.causes.clear();
        write_durably(&self.path, &wire.encode_to_vec())
    }

    /// Keeps the newest of `newest` until that ends, at most one write per second.
    pub async fn follow(self, mut newest: watch::Receiver<Option<Arc<NetSnapshot>>>) {
        let mut written: Option<Generation> = None;
        while newest.changed().await.is_ok() {
            let Some(snapshot) = newest.borrow_and_update().clone() else {
                continue;
            };
            // The master's resync repeats a generation.
            if written == Some(snapshot.generation) {
                continue;
            }
            let generation = snapshot.generation;
            let begun = Instant::now();
            let this = self.clone();
            let done = tokio::task::spawn_blocking(move || this.write(&snapshot)).await;
            match done {
                Ok(Ok(())) => written = Some(generation),
                Ok(Err(e)) => {
                    let path = self.path.display();
                    tracing::warn!(%path, error = %e, "the desired state is not kept");
                }
                // The runtime shuts down.
                Err(_) => return,
            }
            tokio::time::sleep((begun.elapsed() * REST).max(PAUSE)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use waggle_types::{Cause, TaskId, TraceContext};

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

    #[test]
    fn what_is_kept_comes_back_without_causes() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::new(dir.path());
        assert_eq!(kept.read(), None);
        kept.write(&snapshot(7)).unwrap();
        let want = NetSnapshot {
            causes: Vec::new(),
            ..snapshot(7)
        };
        assert_eq!(kept.read(), Some(want));
    }

    #[test]
    fn bytes_that_are_no_snapshot_are_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::new(dir.path());
        for bytes in [&b"\xff\xff\xff"[..], b"{}", &[0x1a; 70]] {
            std::fs::write(dir.path().join(FILE), bytes).unwrap();
            assert_eq!(kept.read(), None);
        }
    }

    #[tokio::test]
    async fn the_newest_is_written_at_a_bounded_rate() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::new(dir.path());
        let newest = watch::Sender::new(None);
        let follow = tokio::spawn(kept.clone().follow(newest.subscribe()));
        let seen = async |wanted: u64| {
            let mut seen = std::collections::BTreeSet::new();
            let until = Instant::now() + Duration::from_secs(10);
            while !seen.contains(&wanted) {
                assert!(
                    Instant::now() < until,
                    "{wanted} is never written: {seen:?}"
                );
                seen.extend(kept.read().map(|s| s.generation.0));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            seen
        };
        newest.send_replace(Some(Arc::new(snapshot(1))));
        seen(1).await;
        for g in 2..=50 {
            newest.send_replace(Some(Arc::new(snapshot(g))));
        }
        assert_eq!(seen(50).await.len(), 2, "1, then 50");
        follow.abort();
    }
}

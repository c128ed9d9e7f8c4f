//! Who on this node may send telemetry, and which connection is whose.
//!
//! A task that has an address of its own is known by it: nobody else on the node has it. A connection from an address of the
//! node itself is known by the cgroup of the socket at its other end, which the kernel tells (`sock_diag`); what is in no task's
//! cgroup is nobody's. Nothing that a task says about itself is asked.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use waggle_overlay::sock_diag::{SockDiag, Transport};
use waggle_telemetry::Sender;
use waggle_telemetry_pipeline::TaskLabels;
use waggle_types::TaskId;

use crate::{cgroup::TaskCgroup, networks::Own};

/// How far below a task's cgroup a process may be, and how many directories are looked at.
const MAX_DEPTH: usize = 4;
const MAX_DIRS: usize = 256;

/// The kernel answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Known {
    sender: Arc<Sender>,
    own: Own,
    cgroup_id: u64,
    cgroup: Option<PathBuf>,
}

/// The tasks that run on this node.
#[derive(Debug, Default)]
pub struct Senders {
    known: RwLock<BTreeMap<TaskId, Known>>,
}

impl Senders {
    /// A task runs.
    pub fn add(&self, labels: &Arc<TaskLabels>, cgroup: &TaskCgroup, own: Own) {
        let known = Known {
            sender: Arc::new(Sender::new(Arc::clone(labels))),
            own,
            cgroup_id: labels.cgroup_id,
            cgroup: cgroup.v2.clone(),
        };
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(labels.task_id.clone(), known);
    }

    /// A task is over.
    pub fn remove(&self, task_id: &TaskId) {
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        all.remove(task_id);
    }

    /// Whether a task runs.
    pub fn knows(&self, task_id: &TaskId) -> bool {
        self.of_task(task_id).is_some()
    }

    /// A running task's.
    pub fn of_task(&self, task_id: &TaskId) -> Option<Arc<Sender>> {
        let all = self.known.read().unwrap_or_else(PoisonError::into_inner);
        all.get(task_id).map(|known| Arc::clone(&known.sender))
    }

    /// The task that has an address of its own, where it is one.
    pub fn at(&self, ip: IpAddr) -> Option<Arc<Sender>> {
        let ip = ip.to_canonical();
        let all = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let known = all.values().find(|known| has(&known.own, ip))?;
        Some(Arc::clone(&known.sender))
    }

    /// Whose socket it is that speaks with one of ours, by the addresses of both. Blocking, for a moment.
    pub fn of(
        &self,
        transport: Transport,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Option<Arc<Sender>> {
        let ip = peer.ip().to_canonical();
        // The lock is not held while the kernel and files are asked: who adds a task must not wait for these.
        let mut of_host = Vec::new();
        {
            let all = self.known.read().unwrap_or_else(PoisonError::into_inner);
            for known in all.values() {
                let sender = Arc::clone(&known.sender);
                if has(&known.own, ip) {
                    return Some(sender);
                }
                if known.own.is_empty() {
                    of_host.push((known.cgroup_id, known.cgroup.clone(), sender));
                }
            }
        }
        let diag = SockDiag::open(PATIENCE);
        let found = diag.and_then(|mut d| d.cgroup_of(transport, peer, local));
        let id = match found {
            Ok(id) => id?,
            Err(e) => {
                tracing::debug!(error = %e, %peer, "the kernel does not say whose socket this is");
                return None;
            }
        };
        let at = of_host.iter().find(|(own, _, _)| *own == id);
        let is_in = |dir: &Option<PathBuf>| dir.as_deref().is_some_and(|d| is_below(d, id));
        let below = || of_host.iter().find(|(_, dir, _)| is_in(dir));
        at.or_else(below).map(|(_, _, sender)| Arc::clone(sender))
    }
}

fn has(own: &Own, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => own.v4 == Some(v4),
        IpAddr::V6(v6) => own.v6 == Some(v6),
    }
}

/// Whether a cgroup is one of those below a directory: its id is the directory's inode.
fn is_below(top: &Path, id: u64) -> bool {
    let mut left = vec![(top.to_owned(), 0)];
    let mut seen = 0;
    while let Some((dir, depth)) = left.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if !meta.is_dir() {
                continue;
            }
            seen += 1;
            if meta.ino() == id {
                return true;
            }
            if seen >= MAX_DIRS {
                return false;
            }
            if depth + 1 < MAX_DEPTH {
                left.push((entry.path(), depth + 1));
            }
        }
    }
    false
}

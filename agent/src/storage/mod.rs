//! What a task's files are made of beside its image: its volumes, paths of the host, what a pod shares, storage outside
//! of the node.
//!
//! [`Storage::prepare`] makes it all and says what the runtime is to mount; a task without an image finds links in its
//! sandbox instead, which lead to a read-only mount where they must not be written. [`Storage::release`] undoes it;
//! what a task holds is written down before it is made, so that an agent after this one can undo it too.
//!
//! # Invariants
//! - Data of a volume is removed by the master's word only ([`volumes`]).
//! - Nothing is mounted below a sandbox on the host: removing a sandbox can't reach a volume.

pub mod api;
mod csi;
pub mod disks;
pub mod gc;
mod make;
mod plan;
pub mod records;
pub mod snapshots;
pub mod usage;
pub mod volumes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use waggle_types::{TaskId, TaskSpec, VolumeId};

use crate::shim::UserIds;
use csi::Csi;
use disks::Disk;
use plan::{Planned, Source};
use records::{Record, Records};
use snapshots::{Snapshot, SnapshotError};
use volumes::{Kept, Volumes};

/// Something that the runtime is to bind into a task's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// A path of the host.
    pub from: PathBuf,
    /// Absolute inside an image; relative: below the sandbox.
    pub target: String,
    /// Whether it can't be written.
    pub read_only: bool,
}

/// What storage is told by the operator.
#[derive(Debug, Clone)]
pub struct StorageSettings {
    /// Disks beside the work directory's.
    pub disks: Vec<Disk>,
    /// Whether tasks that hold more disk than they asked for are killed; otherwise it is only shown.
    pub enforce_disk: bool,
    /// Time between two looks at how much disk tasks hold; Mesos's default is 15 s.
    pub disk_watch: Duration,
    /// How long sandboxes of ended tasks are kept when there is room enough; Mesos's default is 1 week.
    pub gc_delay: Duration,
    /// Part of the disk that should stay free: the fuller it is, the sooner sandboxes go. Mesos's default is 0.1.
    pub gc_headroom: f64,
    /// Drivers of storage outside of the node: name, and the socket that each listens on.
    pub csi: BTreeMap<String, PathBuf>,
}

impl Default for StorageSettings {
    fn default() -> Self {
        Self {
            disks: Vec::new(),
            enforce_disk: false,
            disk_watch: Duration::from_secs(15),
            gc_delay: Duration::from_hours(7 * 24),
            gc_headroom: 0.1,
            csi: BTreeMap::new(),
        }
    }
}

/// The node's storage.
#[derive(Debug, Clone)]
pub struct Storage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    work_dir: PathBuf,
    host_paths: Vec<PathBuf>,
    volumes: Volumes,
    records: Records,
    csi: Csi,
    /// Volumes that somebody works on, and what for: tasks wait for the next offer.
    busy: Mutex<BTreeMap<VolumeId, &'static str>>,
}

impl Storage {
    /// Below a work directory; of the host, tasks may mount `host_paths` and what is below them. Blocking.
    pub fn open(
        work_dir: &Path,
        settings: &StorageSettings,
        host_paths: &[PathBuf],
    ) -> io::Result<Self> {
        Ok(Self(Arc::new(Inner {
            work_dir: work_dir.to_owned(),
            host_paths: host_paths.to_vec(),
            volumes: Volumes::new(work_dir, &settings.disks),
            records: Records::open(&work_dir.join("storage"))?,
            csi: Csi::open(&work_dir.join("storage/csi"), &settings.csi)?,
            busy: Mutex::default(),
        })))
    }

    /// Makes everything that a task's mounts name. The error is for people, and names the mount; then nothing is left
    /// behind but volumes, which are made once.
    pub async fn prepare(
        &self,
        spec: &TaskSpec,
        sandbox: &Path,
        owner: Option<&UserIds>,
    ) -> Result<Vec<BindMount>, String> {
        let planned = plan::plan(spec, &self.0.host_paths)?;
        if planned.is_empty() {
            return Ok(Vec::new());
        }
        let (inner, spec) = (Arc::clone(&self.0), spec.clone());
        let (sandbox, owner) = (sandbox.to_owned(), owner.cloned());
        let task_id = spec.task_id.clone();
        let made = async {
            let failed = |e| Err(format!("failed to prepare the mounts: {e}"));
            let (storage, spec, mut planned) = (Arc::clone(&inner), Arc::new(spec), planned);
            let (held, of) = (planned.clone(), Arc::clone(&spec));
            tokio::task::spawn_blocking(move || storage.hold(&of, &held))
                .await
                .unwrap_or_else(failed)?;
            for p in &mut planned {
                if let Source::External(volume) = &p.source {
                    let at = inner.csi.publish(&spec.task_id, volume, p.read_only);
                    p.source = Source::Published(at.await?);
                }
            }
            tokio::task::spawn_blocking(move || {
                inner.make(&spec, &planned, &sandbox, owner.as_ref())
            })
            .await
            .unwrap_or_else(|e| Err(format!("failed to prepare the mounts: {e}")))
        }
        .await;
        if made.is_err() {
            let storage = self.clone();
            let undone = tokio::task::spawn_blocking(move || storage.release(&task_id)).await;
            if let Ok(Err(e)) = undone {
                tracing::warn!(error = %e, "leftovers of a failed launch stay");
            }
        }
        made
    }

    /// Undoes what [`Storage::prepare`] made for a task, but for its volumes. Blocking; nothing to undo is fine.
    pub fn release(&self, task_id: &TaskId) -> io::Result<()> {
        self.let_go(task_id)?;
        // What fails here, or has nobody to ask, is written down, and done by `settle`.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.block_on(self.0.unpublish(task_id.as_str()));
        }
        Ok(())
    }

    /// All of it but storage outside of the node.
    fn let_go(&self, task_id: &TaskId) -> io::Result<()> {
        let Some(record) = self.0.records.read(task_id)? else {
            return Ok(());
        };
        self.0.unmount(task_id)?;
        self.0.records.remove(task_id)?;
        if let Some(pod) = record.pod {
            let others = self.0.records.all()?;
            if !others.iter().any(|(_, r)| r.pod.as_ref() == Some(&pod)) {
                make::remove_dir(&self.0.pod_dir(&pod))?;
            }
        }
        Ok(())
    }

    /// Releases what tasks hold that do not live any more, but for storage outside of the node, which
    /// [`Storage::settle`] does: no driver keeps an agent from starting. Blocking.
    pub fn keep(&self, live: &BTreeSet<TaskId>) -> io::Result<()> {
        for (task_id, _) in self.0.records.all()? {
            if !live.contains(&task_id) {
                tracing::info!(%task_id, "storage of an ended task is released");
                self.let_go(&task_id)?;
            }
        }
        Ok(())
    }

    /// Takes storage outside of the node away from tasks that have ended, where a driver was away then.
    pub async fn settle(&self) {
        let inner = Arc::clone(&self.0);
        let left = tokio::task::spawn_blocking(move || -> io::Result<BTreeSet<String>> {
            let held = inner.csi.held()?;
            let records = inner.records.all()?;
            let lives = |t: &str| records.iter().any(|(id, _)| id.as_str() == t);
            Ok(held
                .into_iter()
                .map(|(t, _)| t)
                .filter(|t| !lives(t))
                .collect())
        });
        match left.await {
            Ok(Ok(left)) => {
                for task in left {
                    self.0.unpublish(&task).await;
                }
            }
            Ok(Err(e)) => tracing::warn!(error = %e, "records of external volumes are not read"),
            Err(e) => tracing::warn!(error = %e, "external volumes are not looked at"),
        }
    }

    /// Does what the master says about the volumes of this node. Blocking, but short.
    pub fn keep_volumes(
        &self,
        kept: &[VolumeId],
        destroyed: &[VolumeId],
        now_ms: u64,
    ) -> io::Result<Kept> {
        let mut used = BTreeSet::new();
        for (_, record) in self.0.records.all()? {
            used.extend(record.volumes);
        }
        used.extend(self.0.busy().keys().cloned());
        let fresh = || uuid::Uuid::new_v4().to_string();
        self.0.volumes.keep(kept, destroyed, &used, now_ms, fresh)
    }

    /// Removes the data of volumes that are gone. Blocking, for as long as it takes.
    pub fn sweep(&self) -> io::Result<()> {
        self.0.volumes.sweep()
    }

    /// Where a volume's data is. The error is for people.
    pub fn volume_dir(&self, id: &VolumeId) -> Result<PathBuf, String> {
        Ok(self.0.volumes.place(id)?.volumes.join(id.as_str()))
    }

    /// Tasks that hold a volume. Blocking.
    pub fn users(&self, id: &VolumeId) -> io::Result<Vec<TaskId>> {
        let all = self.0.records.all()?.into_iter();
        let users = all.filter(|(_, r)| r.volumes.contains(id));
        Ok(users.map(|(task_id, _)| task_id).collect())
    }

    /// Every volume that has data or snapshots on this node. Blocking.
    pub fn volumes(&self) -> io::Result<Vec<(VolumeId, Vec<Snapshot>)>> {
        let mut all = BTreeMap::new();
        for place in self.0.volumes.places() {
            let mut ids = snapshots::volumes(&place)?;
            match fs::read_dir(&place.volumes) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => {
                    for entry in other? {
                        let name = entry?.file_name();
                        ids.extend(name.to_str().and_then(|n| VolumeId::new(n).ok()));
                    }
                }
            }
            for id in ids {
                let of = snapshots::list(&place, &id)?;
                all.insert(id, of);
            }
        }
        Ok(all.into_iter().collect())
    }

    /// Copies a volume, also one in use. Blocking, for as long as that takes.
    pub fn snapshot(
        &self,
        id: &VolumeId,
        name: &str,
        now_ms: u64,
    ) -> Result<Snapshot, SnapshotError> {
        let _busy = self.0.take(id, "a snapshot of it is being taken")?;
        let place = self.0.place(id)?;
        let consistent = self.0.is_free(id)?;
        snapshots::take(&place, id, name, consistent, now_ms)
    }

    /// Puts a snapshot in a volume's place; no task may use it. Blocking, for as long as a copy takes.
    pub fn restore(&self, id: &VolumeId, name: &str) -> Result<Snapshot, SnapshotError> {
        let _busy = self.0.take(id, "it is being restored")?;
        let place = self.0.place(id)?;
        if !self.0.is_free(id)? {
            let users = self.users(id).unwrap_or_default();
            let users: Vec<&str> = users.iter().map(TaskId::as_str).collect();
            return Err(SnapshotError::Busy {
                id: id.clone(),
                why: format!("is used by {}; stop that first", users.join(", ")),
            });
        }
        snapshots::restore(&place, id, name, uuid::Uuid::new_v4().to_string())
    }

    /// Removes a snapshot. Blocking.
    pub fn forget_snapshot(&self, id: &VolumeId, name: &str) -> Result<(), SnapshotError> {
        let _busy = self.0.take(id, "a snapshot of it is being removed")?;
        snapshots::forget(&self.0.place(id)?, id, name)
    }
}

/// Whoever works on a volume holds this.
struct Busy {
    inner: Arc<Inner>,
    id: VolumeId,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.inner.busy().remove(&self.id);
    }
}

impl Inner {
    fn busy(&self) -> std::sync::MutexGuard<'_, BTreeMap<VolumeId, &'static str>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, id: &VolumeId, why: &'static str) -> Result<Busy, SnapshotError> {
        let mut busy = self.busy();
        if let Some(other) = busy.get(id) {
            return Err(SnapshotError::Busy {
                id: id.clone(),
                why: (*other).to_owned(),
            });
        }
        busy.insert(id.clone(), why);
        Ok(Busy {
            inner: Arc::clone(self),
            id: id.clone(),
        })
    }

    fn place(&self, id: &VolumeId) -> Result<volumes::Place, SnapshotError> {
        self.volumes
            .place(id)
            .map_err(|_| SnapshotError::NoVolume(id.clone()))
    }

    fn is_free(&self, id: &VolumeId) -> Result<bool, SnapshotError> {
        let all = self.records.all().map_err(|source| SnapshotError::Io {
            what: "read",
            path: self.records.dir().to_owned(),
            source,
        })?;
        Ok(!all.iter().any(|(_, r)| r.volumes.contains(id)))
    }

    /// Takes every external volume from a task; what fails is told, and stays written down.
    async fn unpublish(&self, task: &str) {
        let held = match self.csi.held() {
            Ok(held) => held,
            Err(e) => {
                tracing::warn!(task, error = %e, "records of external volumes are not read");
                return;
            }
        };
        for (_, of) in held.iter().filter(|(t, _)| t == task) {
            if let Err(error) = self.csi.unpublish(task, of).await {
                let volume = &of.name;
                tracing::warn!(
                    task,
                    volume,
                    error,
                    "an external volume stays with an ended task"
                );
            }
        }
    }

    /// Writes down what the task will hold. A volume that is being restored is not given away meanwhile.
    fn hold(&self, spec: &TaskSpec, planned: &[Planned]) -> Result<(), String> {
        let volumes: BTreeSet<VolumeId> = planned
            .iter()
            .filter_map(|p| match &p.source {
                Source::Volume(id) => Some(id.clone()),
                _ => None,
            })
            .collect();
        let shares = planned
            .iter()
            .any(|p| matches!(p.source, Source::Shared(_)));
        // Under the lock: whoever takes a volume to work on sees the record, or is seen here.
        let busy = self.busy();
        if let Some((id, why)) = volumes.iter().find_map(|id| Some((id, busy.get(id)?))) {
            return Err(format!("volume {id}: {why}"));
        }
        let record = Record {
            pod: spec.container.pod.clone().filter(|_| shares),
            volumes,
        };
        let written = self.records.write(&spec.task_id, &record);
        written.map_err(|e| format!("failed to write down what the task holds: {e}"))
    }
}

#[cfg(test)]
mod tests;

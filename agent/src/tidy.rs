//! What the agent does about disks now and then: sandboxes of ended tasks go, and live tasks' use is measured.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::statvfs::statvfs;
use tokio::sync::watch;
use waggle_lifecycle::Event;
use waggle_telemetry::{Telemetry, names};
use waggle_telemetry_pipeline::{PointData, TaskLabels};
use waggle_types::{Milli, ScalarKind, TaskId, TaskSpec, UnixMillis, VolumeId};

use crate::{
    checkpoint::TaskDir,
    clock,
    meter::Out,
    run::{Agent, Input, blocking},
    storage::{
        Storage,
        gc::{Finished, max_age},
        usage::{self, Pace},
    },
};

/// Time between two looks at what may go.
const GC_INTERVAL: Duration = Duration::from_mins(1);

/// How much disk a running task holds, as it was measured last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskUse {
    /// Its sandbox, with what it wrote over its image's files; bytes.
    pub sandbox_bytes: u64,
    /// Its volumes; bytes.
    pub volumes: BTreeMap<VolumeId, u64>,
}

/// The same of all, replaced by each measurement.
pub type DiskUses = Arc<BTreeMap<TaskId, DiskUse>>;

/// Sandboxes that are kept, and when they were looked at.
pub struct Tidy {
    finished: Finished,
    looked: Option<Instant>,
    removing: Arc<tokio::sync::Semaphore>,
    measuring: Arc<tokio::sync::Semaphore>,
    settling: Arc<tokio::sync::Semaphore>,
    measured: Option<Instant>,
    uses: watch::Sender<DiskUses>,
}

impl Tidy {
    /// With the tasks that ended before this agent began.
    pub fn new(finished: Finished) -> Self {
        Self {
            finished,
            looked: None,
            removing: Arc::new(tokio::sync::Semaphore::new(1)),
            measuring: Arc::new(tokio::sync::Semaphore::new(1)),
            settling: Arc::new(tokio::sync::Semaphore::new(1)),
            measured: None,
            uses: watch::Sender::default(),
        }
    }
}

impl Tidy {
    /// What was measured last, from now on.
    pub fn disk_uses(&self) -> watch::Receiver<DiskUses> {
        self.uses.subscribe()
    }
}

/// What is measured of one task.
pub struct DiskWatch {
    /// Whose.
    pub task_id: TaskId,
    /// Its sandbox.
    pub sandbox: PathBuf,
    /// What it has written over its image's files; not there for a task without one.
    pub written: Option<PathBuf>,
    /// What it asked for.
    pub spec: Arc<TaskSpec>,
    /// Whom its figures are about.
    pub labels: Option<Arc<TaskLabels>>,
}

impl Agent {
    /// A task's directory may go from now on.
    pub(crate) async fn finished(&mut self, task_id: TaskId) {
        let dir = self.work.task(&task_id);
        if let Err(e) = blocking(move || dir.mark_done()).await {
            tracing::warn!(%task_id, error = %e, "a finished task's files are not tidied up");
        }
        self.tidy.finished.add(clock::now(), task_id);
        if self.tidy.finished.len() > self.config.kept_sandboxes {
            self.remove_old().await;
        }
    }

    /// At each tick: what is due of it.
    pub(crate) async fn tidy(&mut self) {
        let due = |at: Option<Instant>, every| at.is_none_or(|at| at.elapsed() >= every);
        if due(self.tidy.looked, GC_INTERVAL) {
            self.tidy.looked = Some(Instant::now());
            self.settle();
            self.remove_old().await;
        }
        if due(self.tidy.measured, self.config.storage.disk_watch) {
            self.measure_disks();
        }
    }

    /// What a driver of storage owed is asked of it again, off the loop.
    fn settle(&mut self) {
        let Ok(permit) = Arc::clone(&self.tidy.settling).try_acquire_owned() else {
            return;
        };
        let storage = self.storage.clone();
        self.tasks.spawn(async move {
            storage.settle().await;
            drop(permit);
        });
    }

    /// Moves old sandboxes out of the way at once, so that nothing of them is taken for a task's that comes again, and
    /// removes them in the background.
    async fn remove_old(&mut self) {
        let settings = &self.config.storage;
        let used = used_part(&self.config.work_dir);
        let age = max_age(
            settings.gc_delay,
            settings.gc_headroom,
            used.unwrap_or(f64::NAN),
        );
        let keep = self.config.kept_sandboxes;
        let old = self.tidy.finished.take_old(clock::now(), age, keep);
        let n = self.tidy.finished.len();
        self.telemetry.set(&names::SANDBOXES_KEPT, &[], n as f64);
        let trash = self.work.trash();
        if !old.is_empty() {
            let n = old.len() as u64;
            tracing::info!(n, used, max_age_s = age.as_secs(), "sandboxes go");
            self.telemetry.count(&names::SANDBOXES_REMOVED, &[], n);
            let dirs: Vec<TaskDir> = old.iter().map(|id| self.work.task(id)).collect();
            let to = trash.clone();
            if let Err(e) = blocking(move || discard(&dirs, &to)).await {
                tracing::warn!(error = %e, "old sandboxes stay");
            }
        }
        let Ok(permit) = Arc::clone(&self.tidy.removing).try_acquire_owned() else {
            return;
        };
        self.tasks.spawn(async move {
            if let Err(e) = blocking(move || empty(&trash)).await {
                tracing::warn!(error = %e, "old sandboxes are not removed");
            }
            drop(permit);
        });
    }

    /// Measures the sandboxes and volumes of running tasks, off the loop; one that holds more than it asked for is told
    /// of, and ended where that is enforced.
    fn measure_disks(&mut self) {
        let Ok(permit) = Arc::clone(&self.tidy.measuring).try_acquire_owned() else {
            return;
        };
        let watches = self.tasks.disk_watches();
        let (storage, telemetry) = (self.storage.clone(), self.telemetry.clone());
        let (enforce, inputs) = (self.config.storage.enforce_disk, self.inputs.clone());
        let uses = self.tidy.uses.clone();
        self.tidy.measured = Some(Instant::now());
        self.tasks.spawn(async move {
            let (over, used) = blocking(move || measure(&watches, &storage, &telemetry)).await;
            uses.send_replace(Arc::new(used));
            for (task_id, why) in over {
                if enforce {
                    let event = Event::OverDisk { task_id, why };
                    if inputs.send(Input::Event(event)).await.is_err() {
                        return;
                    }
                } else {
                    tracing::warn!(%task_id, why, "disk use is over what was asked for");
                }
            }
            drop(permit);
        });
    }
}

/// Tasks that were finished before this agent began. Blocking.
pub fn finished(dirs: &[TaskDir]) -> Finished {
    let mut out = Finished::default();
    for dir in dirs {
        if let Some(at) = dir.done_at() {
            out.add(at, dir.task_id().clone());
        }
    }
    out
}

/// Only of tasks that are finished: one with the same id may have come meanwhile.
fn discard(dirs: &[TaskDir], trash: &Path) -> io::Result<()> {
    fs::create_dir_all(trash)?;
    for dir in dirs.iter().filter(|d| d.is_done()) {
        let to = trash.join(uuid::Uuid::new_v4().to_string());
        match fs::rename(dir.path(), to) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Removes what is in a directory, but for what something is mounted below: whatever that is, it is not the task's.
fn empty(trash: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(trash) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        if has_mounts(&mounts, &path) {
            tracing::warn!(path = %path.display(), "something is mounted below: it stays");
            continue;
        }
        fs::remove_dir_all(&path)?;
    }
    Ok(())
}

/// Whether something is mounted at a path or below it (proc_pid_mountinfo(5): the fifth field).
fn has_mounts(mountinfo: &str, path: &Path) -> bool {
    let mut points = mountinfo.lines().filter_map(|l| l.split(' ').nth(4));
    points.any(|p| Path::new(p).starts_with(path))
}

/// As `df` shows it: of what may be used by others than root.
fn used_part(path: &Path) -> Option<f64> {
    let stat = statvfs(path).ok()?;
    let used = stat.blocks().saturating_sub(stat.blocks_free()) as f64;
    let all = used + stat.blocks_available() as f64;
    (all > 0.0).then(|| used / all)
}

/// Tasks that hold more than they asked for, and of what; and what each holds.
fn measure(
    watches: &[DiskWatch],
    storage: &Storage,
    telemetry: &Telemetry,
) -> (Vec<(TaskId, String)>, BTreeMap<TaskId, DiskUse>) {
    let (mut over, mut uses) = (Vec::new(), BTreeMap::new());
    // Each volume once, whoever shares it.
    let mut volumes: BTreeMap<VolumeId, u64> = BTreeMap::new();
    for watch in watches {
        // One that is just ending has none any more.
        let Ok(mut used) = usage::of(&watch.sandbox, Pace::GENTLE) else {
            continue;
        };
        let written = watch.written.as_ref();
        let written = written.and_then(|dir| usage::of(dir, Pace::GENTLE).ok());
        used.bytes = used.bytes.saturating_add(written.unwrap_or_default().bytes);
        let mut held = DiskUse {
            sandbox_bytes: used.bytes,
            ..DiskUse::default()
        };
        let now_ns = clock::now_ns();
        let mut points = Out::new(now_ns, now_ns);
        let limit = bytes(watch.spec.resources.get(ScalarKind::Disk));
        space(&mut points, used.bytes, limit);
        if limit > 0 && used.bytes > limit {
            let what = match written {
                Some(_) => "its sandbox with what it wrote over its image's files",
                None => "its sandbox",
            };
            let why = describe(what, used.bytes, limit);
            over.push((watch.task_id.clone(), why));
        }
        for (id, volume) in watch.spec.held_volumes() {
            let used = if let Some(used) = volumes.get(id) {
                *used
            } else {
                let dir = storage.volume_dir(id);
                let Some(used) = dir.ok().and_then(|d| usage::of(&d, Pace::GENTLE).ok()) else {
                    continue;
                };
                volumes.insert(id.clone(), used.bytes);
                used.bytes
            };
            held.volumes.insert(id.clone(), used);
            let value = i64::try_from(used).unwrap_or(i64::MAX);
            let attrs = vec![(names::VOLUME, id.as_str().into())];
            points.push(
                &names::CONTAINER_VOLUME_USAGE,
                attrs,
                PointData::UpDown(value),
            );
            let limit = bytes(volume.size);
            if used > limit {
                let why = describe(&format!("volume {id}"), used, limit);
                over.push((watch.task_id.clone(), why));
            }
        }
        if let Some(labels) = &watch.labels {
            telemetry.task_points(labels, points.into_points());
        }
        uses.insert(watch.task_id.clone(), held);
    }
    (over, uses)
}

/// What a task takes, and of its disk, where it has asked for one, all and what is left.
fn space(points: &mut Out, used: u64, limit: u64) {
    let mut figure = |metric, bytes: u64| {
        let value = i64::try_from(bytes).unwrap_or(i64::MAX);
        points.push(metric, vec![], PointData::UpDown(value));
    };
    figure(&names::CONTAINER_FILESYSTEM_USAGE, used);
    if limit > 0 {
        figure(&names::CONTAINER_FILESYSTEM_CAPACITY, limit);
        let left = limit.saturating_sub(used);
        figure(&names::CONTAINER_FILESYSTEM_AVAILABLE, left);
    }
}

fn describe(what: &str, used: u64, limit: u64) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!(
        "disk limit exceeded: {what} holds {:.1} MiB ({used} bytes), its limit is {:.1} MiB",
        mib(used),
        mib(limit)
    )
}

/// Thousandths of a MiB in bytes.
pub fn bytes(mib: Milli) -> u64 {
    let milli = u128::from(u64::try_from(mib.0).unwrap_or(0));
    u64::try_from(milli * (1 << 20) / 1000).unwrap_or(u64::MAX)
}

/// The time of a file's last change.
pub fn modified(path: &Path) -> Option<UnixMillis> {
    let at = fs::metadata(path).and_then(|m| m.modified()).ok()?;
    let since = at.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?;
    Some(UnixMillis(
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_below_a_path() {
        let info = "30 1 0:1 / / rw - ext4 /dev/vda rw\n\
                    31 30 0:2 / /node/trash/a/b rw - tmpfs tmpfs rw\n";
        assert!(has_mounts(info, Path::new("/node/trash/a")));
        assert!(!has_mounts(info, Path::new("/node/trash/ab")));
        assert!(!has_mounts("", Path::new("/node/trash/a")));
    }

    #[test]
    fn what_is_left_is_told_of_who_has_a_limit() {
        let told = |used, limit| {
            let mut points = Out::new(1, 1);
            space(&mut points, used, limit);
            let all = points.into_points().into_iter();
            let value = |p: waggle_telemetry_pipeline::Point| match p.data {
                PointData::UpDown(n) => (p.def.name, n),
                other => panic!("{other:?}"),
            };
            all.map(value).collect::<Vec<_>>()
        };
        let usage = "container.filesystem.usage";
        let (capacity, available) = (
            "container.filesystem.capacity",
            "container.filesystem.available",
        );
        assert_eq!(told(5, 0), [(usage, 5)]);
        assert_eq!(told(5, 9), [(usage, 5), (capacity, 9), (available, 4)]);
        assert_eq!(told(10, 9), [(usage, 10), (capacity, 9), (available, 0)]);
    }

    #[test]
    fn limits_are_told_with_use() {
        assert_eq!(bytes(Milli(1500)), 1_572_864);
        assert_eq!(
            describe("its sandbox", 3 << 20, 1 << 20),
            "disk limit exceeded: its sandbox holds 3.0 MiB (3145728 bytes), its limit is 1.0 MiB"
        );
    }
}

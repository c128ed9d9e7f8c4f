//! What the agent writes down: its own id, and for each task a directory with all that a later
//! agent needs.
//!
//! `<work_dir>/tasks/<task_id>/` holds `spec.pb`, `stream.pb` (status updates), the files of
//! [`crate::shim`], `tail.json` (how far its output was shipped), `sandbox/`, and `done` once nobody is
//! owed anything; such directories are kept for their logs, the oldest go first. `<work_dir>/net.pb` is
//! [`crate::kept`]'s.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg};
use prost::Message;
use waggle_api::proto::session as pb;
use waggle_lifecycle::{Checkpoint, StreamRecord};
use waggle_types::{AgentId, TaskId, TaskSpec, TaskStatus, UnixMillis};

use crate::{
    AgentError, crash,
    shim::{self, ExitRecord, write_durably},
    sys::ProcessId,
};

const SPEC: &str = "spec.pb";
const STREAM: &str = "stream.pb";
const DONE: &str = "done";
/// There is a task from before the machine booted.
const REBOOTED: &str = "shim.before-boot";
/// How long to wait for the agent before this one to let go of the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// The agent's work directory, locked.
pub struct WorkDir {
    root: PathBuf,
    _lock: Flock<File>,
}

impl WorkDir {
    /// Makes and locks it. Blocking.
    pub fn open(root: &Path) -> Result<Self, AgentError> {
        let tasks = root.join("tasks");
        fs::create_dir_all(&tasks).map_err(AgentError::file("create", &tasks))?;
        let path = root.join("agent.lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(AgentError::file("open", &path))?;
        // An agent that is just ending lets go in a moment.
        let until = Instant::now() + LOCK_PATIENCE;
        let mut file = file;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => {
                    return Ok(Self {
                        root: root.to_owned(),
                        _lock: lock,
                    });
                }
                Err(_) if Instant::now() > until => return Err(AgentError::Locked { path }),
                Err((back, _)) => file = back,
            }
            crate::cgroup::pause();
        }
    }

    /// The agent's id, made from `fresh` the first time.
    pub fn agent_id(&self, fresh: impl FnOnce() -> String) -> Result<AgentId, AgentError> {
        let path = self.root.join("agent_id");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let id = fresh();
                write_durably(&path, id.as_bytes()).map_err(AgentError::file("write", &path))?;
                id
            }
            Err(e) => return Err(AgentError::file("read", &path)(e)),
        };
        AgentId::new(text.trim()).map_err(|source| AgentError::BadAgentId { path, source })
    }

    /// After a boot, processes that were recorded before are forgotten: their numbers, and the moments of their start,
    /// which count from boot, may be other processes' by now. Whether that was so. Blocking.
    pub fn forget_processes_of_another_boot(&self, boot_id: &Path) -> io::Result<bool> {
        let now = fs::read_to_string(boot_id)?;
        let path = self.root.join("boot_id");
        let before = match fs::read_to_string(&path) {
            Ok(before) if before == now => return Ok(false),
            Ok(before) => Some(before),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        if before.is_some() {
            for dir in self.all()? {
                dir.forget_processes()?;
            }
        }
        // Last: until then the next agent begins anew.
        write_durably(&path, now.as_bytes())?;
        Ok(before.is_some())
    }

    /// Since when this node's kernel maps count, Unix nanoseconds: they are pinned and outlive the agent, so
    /// their start is kept beside them. `now_ns` the first time, or when it cannot be kept.
    pub fn counting_since(&self, now_ns: u64) -> u64 {
        let path = self.root.join("counting_since");
        let kept = fs::read_to_string(&path).ok();
        kept.and_then(|t| t.trim().parse().ok()).unwrap_or_else(|| {
            if let Err(e) = fs::write(&path, now_ns.to_string()) {
                tracing::debug!(error = %e, "start of the kernel's counters not kept");
            }
            now_ns
        })
    }

    /// Where a task's files are.
    pub fn task(&self, task_id: &TaskId) -> TaskDir {
        TaskDir::new(&self.root, task_id)
    }

    /// The directory of all tasks.
    pub fn tasks_dir(&self) -> PathBuf {
        self.root.join("tasks")
    }

    /// Every task directory, finished ones too.
    pub fn all(&self) -> io::Result<Vec<TaskDir>> {
        let mut out = Vec::new();
        for entry in fs::read_dir(self.root.join("tasks"))? {
            let name = entry?.file_name();
            if let Some(id) = name.to_str().and_then(|n| TaskId::new(n).ok()) {
                out.push(TaskDir::new(&self.root, &id));
            }
        }
        out.sort_by(|a, b| a.task_id.cmp(&b.task_id));
        Ok(out)
    }

    /// Where directories of tasks go that are to be removed.
    pub fn trash(&self) -> PathBuf {
        self.root.join("tasks-gone")
    }
}

/// One task's directory.
#[derive(Debug, Clone)]
pub struct TaskDir {
    task_id: TaskId,
    path: PathBuf,
}

impl TaskDir {
    /// The directory of a task below a work directory.
    pub fn new(work_dir: &Path, task_id: &TaskId) -> Self {
        Self {
            task_id: task_id.clone(),
            path: work_dir.join("tasks").join(task_id.as_str()),
        }
    }

    /// Whose it is.
    pub fn task_id(&self) -> &TaskId {
        &self.task_id
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Working directory of the task, with its output.
    pub fn sandbox(&self) -> PathBuf {
        self.path.join("sandbox")
    }

    /// Makes the directory and the spec durable. Blocking.
    pub fn write_spec(&self, spec: &TaskSpec) -> io::Result<()> {
        if self.is_done() {
            // Ids are unique over time; should one come again, its old files must not be taken for new.
            self.remove()?;
        }
        fs::create_dir_all(self.sandbox())?;
        let bytes = pb::TaskSpec::from(spec).encode_to_vec();
        write_durably(&self.path.join(SPEC), &bytes)?;
        match self.path.parent() {
            Some(tasks) => File::open(tasks)?.sync_all(),
            None => Ok(()),
        }
    }

    /// The same for a task that an executor in another task's directory runs: it has that one's sandbox.
    pub fn write_spec_on(&self, spec: &TaskSpec, container: &Self) -> io::Result<()> {
        if self.is_done() {
            self.remove()?;
        }
        fs::create_dir_all(&self.path)?;
        let to = Path::new("..")
            .join(container.task_id.as_str())
            .join("sandbox");
        match std::os::unix::fs::symlink(to, self.sandbox()) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let bytes = pb::TaskSpec::from(spec).encode_to_vec();
        write_durably(&self.path.join(SPEC), &bytes)?;
        match self.path.parent() {
            Some(tasks) => File::open(tasks)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Makes the stream durable. Blocking.
    pub fn write_stream(&self, record: &StreamRecord) -> io::Result<()> {
        write_durably(&self.path.join(STREAM), &encode_stream(record))
    }

    /// Keeps that a shim may have been started, and not which process it was. Who was started is not on disk for
    /// sure when a machine loses power: after a boot nobody can say that a task never was.
    fn forget_processes(&self) -> io::Result<()> {
        if self.is_done() {
            return Ok(());
        }
        fs::write(self.path.join(REBOOTED), b"")?;
        for file in [shim::TASK, shim::SHIM] {
            match fs::remove_file(self.path.join(file)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Marks it finished: nobody is owed anything.
    pub fn mark_done(&self) -> io::Result<()> {
        let path = self.path.join(DONE);
        crash::point(&path, "begin");
        fs::write(&path, b"")?;
        crash::point(&path, "written");
        Ok(())
    }

    /// Whether it is finished.
    pub fn is_done(&self) -> bool {
        self.path.join(DONE).exists()
    }

    /// When it was finished.
    pub fn done_at(&self) -> Option<UnixMillis> {
        crate::tidy::modified(&self.path.join(DONE))
    }

    /// Removes it all.
    pub fn remove(&self) -> io::Result<()> {
        crash::point(Path::new("task"), "remove");
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// The identity of its shim.
    pub fn shim(&self) -> Option<ProcessId> {
        shim::read_json(&self.path.join(shim::SHIM)).ok().flatten()
    }

    /// The identity of its process.
    pub fn process(&self) -> Option<ProcessId> {
        shim::read_json(&self.path.join(shim::TASK)).ok().flatten()
    }

    /// When this agent, or one before it, had got it.
    pub fn received(&self) -> Option<UnixMillis> {
        crate::tidy::modified(&self.path.join(SPEC))
    }

    /// When its process began: the record is written then, once.
    pub fn process_since(&self) -> Option<UnixMillis> {
        crate::tidy::modified(&self.path.join(shim::TASK))
    }

    /// How it ended.
    pub fn exit(&self) -> Option<ExitRecord> {
        shim::read_json(&self.path.join(shim::EXIT)).ok().flatten()
    }

    /// All that was written, as far as it can be read.
    pub fn read(&self) -> Checkpoint {
        let stream = fs::read(self.path.join(STREAM))
            .ok()
            .and_then(|b| decode_stream(&b))
            .unwrap_or_default();
        let spec = fs::read(self.path.join(SPEC))
            .ok()
            .and_then(|b| pb::TaskSpec::decode(b.as_slice()).ok())
            .and_then(|s| TaskSpec::try_from(s).ok());
        Checkpoint {
            spec,
            latest: stream.latest,
            pending: stream.pending,
            shim_recorded: self.path.join(shim::SHIM).exists() || self.path.join(REBOOTED).exists(),
            pid: self.process().map(|p| p.pid),
            exit: self.exit().map(|r| r.exit()),
        }
    }
}

/// First byte: whether `latest` is there; then length-delimited protobuf statuses.
fn encode_stream(record: &StreamRecord) -> Vec<u8> {
    let mut out = vec![u8::from(record.latest.is_some())];
    for status in record.latest.iter().chain(&record.pending) {
        out.extend(pb::TaskStatus::from(status).encode_length_delimited_to_vec());
    }
    out
}

fn decode_stream(bytes: &[u8]) -> Option<StreamRecord> {
    let (has_latest, mut rest) = bytes.split_first()?;
    let mut all = Vec::new();
    while !rest.is_empty() {
        let status = pb::TaskStatus::decode_length_delimited(&mut rest).ok()?;
        all.push(TaskStatus::try_from(status).ok()?);
    }
    let latest = match has_latest {
        0 => None,
        _ if all.is_empty() => return None,
        _ => Some(all.remove(0)),
    };
    Some(StreamRecord {
        latest,
        pending: all,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use waggle_types::{HealthState, StatusReason, StatusSource, StatusUuid, TaskState};

    use super::*;

    fn status() -> impl Strategy<Value = TaskStatus> {
        (0usize..14, any::<u64>(), any::<[u8; 16]>(), ".*").prop_map(
            |(state, at, uuid, message)| TaskStatus {
                ip: None,
                ip6: None,
                ready: None,
                check: None,
                responses: Vec::new(),
                task_id: TaskId::new("t1").unwrap(),
                agent_id: AgentId::new("a1").unwrap(),
                state: TaskState::ALL[state],
                health: HealthState::Healthy,
                reason: Some(StatusReason::TaskKilled),
                message,
                source: StatusSource::Executor,
                at: UnixMillis(at),
                uuid: Some(StatusUuid(uuid)),
                executor: None,
            },
        )
    }

    proptest! {
        #[test]
        fn streams_round_trip(
            latest in prop::option::of(status()),
            pending in prop::collection::vec(status(), 0..4),
        ) {
            let record = StreamRecord { latest, pending };
            prop_assert_eq!(decode_stream(&encode_stream(&record)), Some(record));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_stream(&bytes);
        }
    }

    #[test]
    fn the_id_is_kept_and_the_directory_is_locked() {
        let dir = tempfile::tempdir().unwrap();
        let work = WorkDir::open(dir.path()).unwrap();
        let id = work.agent_id(|| "first".to_owned()).unwrap();
        assert_eq!(work.agent_id(|| "second".to_owned()).unwrap(), id);
        assert!(matches!(
            WorkDir::open(dir.path()),
            Err(AgentError::Locked { .. })
        ));
    }
}

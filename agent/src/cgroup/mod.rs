//! A task's cgroups on pure v2, hybrid and v1 hosts: make, limit, read, kill, remove.
//!
//! The task's directory in the cgroup2 hierarchy (`<cgroup_root>/tasks/<task_id>`, and
//! `<cgroup_root>/waggle.tasks/<task_id>` where that is the mount itself) attributes packets to it; its inode number is the cgroup id that BPF programs see. Limits are in the same directory
//! on a pure v2 host, and in `<controller mount>/<cgroup_root below the cgroup2 mount>/waggle.tasks/<task_id>`
//! where controllers are v1.

mod host;
mod stats;

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

pub use host::{CgroupHost, Hierarchy};
pub use stats::{Stats, memory_end};

/// Mesos's floor (`MIN_MEMORY`): less does not even start a shell reliably.
const MIN_MEMORY_BYTES: u64 = 32 * 1024 * 1024;
/// Generous: stops a fork bomb, nothing else.
const MAX_PIDS: u32 = 4096;
/// Mesos `CPU_SHARES_PER_CPU`, and the smallest that the kernel takes.
const SHARES_PER_CPU: u64 = 1024;
const MIN_SHARES: u64 = 2;

/// A step on a cgroup that failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what} {}", path.display())]
pub struct CgroupError {
    /// The verb.
    pub what: &'static str,
    /// The object.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

impl CgroupError {
    fn new(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { what, path, source }
    }
}

/// What a task may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// CPU shares in thousandths of a CPU: a weight, not a ceiling, as in Mesos.
    pub cpus_milli: u64,
    /// Hard limit; raised to 32 MiB.
    pub memory_bytes: u64,
}

/// One task's cgroup directories.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskCgroup {
    /// In the cgroup2 hierarchy.
    pub v2: Option<PathBuf>,
    /// The same below the mount, as `/proc/<pid>/cgroup` shows it; empty without one.
    pub v2_path: String,
    /// Whether the cgroup2 directory also has the controllers.
    pub unified: bool,
    /// In v1 hierarchies, by controller names (`cpu,cpuacct`).
    pub v1: Vec<(String, PathBuf)>,
}

impl TaskCgroup {
    /// Every directory, to join.
    pub fn dirs(&self) -> Vec<PathBuf> {
        let v1 = self.v1.iter().map(|(_, dir)| dir.clone());
        self.v2.iter().cloned().chain(v1).collect()
    }

    /// The one whose processes are the task's.
    pub fn kill_dir(&self) -> Option<&Path> {
        self.v2
            .as_deref()
            .or_else(|| self.v1.first().map(|(_, dir)| dir.as_path()))
    }

    /// The directory with the files of a controller.
    pub fn controller(&self, name: &str) -> Option<&Path> {
        if self.unified {
            return self.v2.as_deref();
        }
        self.v1
            .iter()
            .find(|(names, _)| names.split(',').any(|n| n == name))
            .map(|(_, dir)| dir.as_path())
    }

    /// The id that BPF programs see, 0 without a cgroup2 directory.
    pub fn id(&self) -> u64 {
        let meta = self.v2.as_deref().map(fs::metadata);
        meta.and_then(Result::ok).map_or(0, |m| m.ino())
    }

    /// Makes the directories and sets the limits that the host allows.
    pub fn create(&self, limits: &Limits) -> Result<(), CgroupError> {
        for dir in self.dirs() {
            fs::create_dir_all(&dir).map_err(CgroupError::new("create cgroup", &dir))?;
        }
        let shares = (limits.cpus_milli * SHARES_PER_CPU / 1000).max(MIN_SHARES);
        let memory = limits.memory_bytes.max(MIN_MEMORY_BYTES).to_string();
        if self.unified {
            // The kernel's own conversion of shares [2, 262144] to weights [1, 10000].
            let weight = 1 + (shares.min(262_144) - 2) * 9999 / 262_142;
            self.set("cpu", "cpu.weight", &weight.to_string())?;
            self.set("memory", "memory.max", &memory)?;
            self.set("memory", "memory.swap.max", "0")?;
        } else {
            self.set("cpu", "cpu.shares", &shares.to_string())?;
            self.set("memory", "memory.limit_in_bytes", &memory)?;
            self.set("memory", "memory.memsw.limit_in_bytes", &memory)?;
        }
        self.set("pids", "pids.max", &MAX_PIDS.to_string())
    }

    /// Writes one file; what the host does not have is no error.
    fn set(&self, controller: &str, file: &str, value: &str) -> Result<(), CgroupError> {
        let Some(path) = self.controller(controller).map(|dir| dir.join(file)) else {
            return Ok(());
        };
        if !path.exists() {
            return Ok(());
        }
        fs::write(&path, value).map_err(CgroupError::new("write", &path))
    }

    /// Whether a process of the task is left.
    pub fn populated(&self) -> bool {
        self.dirs().iter().any(|dir| populated(dir))
    }

    /// Kills what is left and waits until it is gone, at most `patience`. Blocking.
    pub fn kill_and_wait(&self, patience: Duration) -> Result<(), CgroupError> {
        let until = Instant::now() + patience;
        while self.populated() {
            for dir in self.dirs() {
                kill_all(&dir).map_err(CgroupError::new("kill", &dir))?;
            }
            if Instant::now() > until {
                let dir = self.kill_dir().unwrap_or(Path::new(""));
                let e = io::Error::from(io::ErrorKind::TimedOut);
                return Err(CgroupError::new("empty cgroup", dir)(e));
            }
            pause();
        }
        Ok(())
    }

    /// Removes the directories, deepest first; a missing one is fine. Blocking.
    pub fn remove(&self, patience: Duration) -> Result<(), CgroupError> {
        self.kill_and_wait(patience)?;
        for dir in self.dirs() {
            let until = Instant::now() + patience;
            // A process that was just reaped can keep a directory busy for a moment.
            while let Err(e) = remove_tree(&dir) {
                if Instant::now() > until {
                    return Err(CgroupError::new("remove cgroup", &dir)(e));
                }
                pause();
            }
        }
        Ok(())
    }
}

/// Between two looks at a cgroup that is emptying: the kernel offers v1 nothing to wait on.
pub fn pause() {
    let _ = nix::poll::poll(&mut [], nix::poll::PollTimeout::from(2u8));
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    for child in children(dir) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

/// Whether a cgroup or one below it has processes.
pub fn populated(dir: &Path) -> bool {
    if let Ok(events) = fs::read_to_string(dir.join("cgroup.events")) {
        return events.lines().any(|l| l == "populated 1");
    }
    !procs(dir).is_empty() || children(dir).iter().any(|c| populated(c))
}

/// SIGKILL to every process of a cgroup and below: at once with `cgroup.kill` (v2, Linux 5.14), else one
/// by one, to be repeated until it is empty.
pub fn kill_all(dir: &Path) -> io::Result<()> {
    let file = dir.join("cgroup.kill");
    if file.exists() {
        return fs::write(file, "1");
    }
    for pid in procs(dir) {
        let _ = kill(pid, Signal::SIGKILL);
    }
    for child in children(dir) {
        kill_all(&child)?;
    }
    Ok(())
}

fn procs(dir: &Path) -> Vec<Pid> {
    fs::read_to_string(dir.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        // 0 is a process of another pid namespace: kill(0) would be ourselves.
        .filter_map(|l| l.parse().ok().filter(|p| *p > 0))
        .map(Pid::from_raw)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_where_the_host_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let v2 = dir.path().join("t");
        fs::create_dir_all(&v2).unwrap();
        for file in ["cpu.weight", "memory.max", "pids.max"] {
            fs::write(v2.join(file), "").unwrap();
        }
        let cgroup = TaskCgroup {
            v2: Some(v2.clone()),
            unified: true,
            ..TaskCgroup::default()
        };
        let limits = Limits {
            cpus_milli: 1000,
            memory_bytes: 1,
        };
        cgroup.create(&limits).unwrap();
        let read = |f: &str| fs::read_to_string(v2.join(f)).unwrap();
        assert_eq!(
            read("cpu.weight"),
            "39",
            "1 CPU is the default weight of v1"
        );
        assert_eq!(read("memory.max"), "33554432");
        assert_eq!(read("pids.max"), "4096");
    }

    #[test]
    fn a_cgroup_that_does_not_exist_is_empty_and_removed() {
        let cgroup = TaskCgroup {
            v2: Some(PathBuf::from("/nonexistent/cgroup")),
            unified: true,
            ..TaskCgroup::default()
        };
        assert!(!cgroup.populated());
        assert_eq!(cgroup.id(), 0);
        cgroup.remove(Duration::ZERO).unwrap();
    }
}

//! A task's cgroups on pure v2, hybrid and v1 hosts: make, limit, read, kill, remove.
//!
//! The task's directory in the cgroup2 hierarchy (`<cgroup_root>/tasks/<task_id>`, and
//! `<cgroup_root>/waggle.tasks/<task_id>` where that is the mount itself) attributes packets to it; its inode number is the cgroup id that BPF programs see. Limits are in the same directory
//! on a pure v2 host, and in `<controller mount>/<cgroup_root below the cgroup2 mount>/waggle.tasks/<task_id>`
//! where controllers are v1.

pub mod disks;
mod host;
mod limits;
mod stats;
mod waiting;

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

pub use disks::DiskIo;
pub use host::{CgroupHost, Hierarchy};
pub use limits::{CPU_PERIOD_US, Limits, NodeLimits, limits, limits_of, process_limits};
pub use stats::{Stats, memory_end};
pub use waiting::waited;

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

/// One task's cgroup directories.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskCgroup {
    /// In the cgroup2 hierarchy.
    pub v2: Option<PathBuf>,
    /// The same below the mount, as `/proc/<pid>/cgroup` shows it; empty without one.
    pub v2_path: String,
    /// Below the mount of each hierarchy with controllers: where an OCI runtime puts a container, which is in the
    /// directories of `v1` then. In a cgroup2 hierarchy beside them it may be another one than `v2`. Empty without
    /// cgroups.
    pub runtime_path: String,
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
        if self.unified {
            self.limit_v2(limits)?;
        } else {
            self.limit_v1(limits)?;
        }
        self.set("pids", "pids.max", &limits.pids.to_string())
    }

    /// Limits of a container that runs. Memory's hard limit only grows: what is used beyond a smaller one would be
    /// killed for it (Mesos's memory isolator does the same).
    pub fn update(&self, limits: &Limits) -> Result<(), CgroupError> {
        let file = if self.unified {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        let path = self.controller("memory").map(|dir| dir.join(file));
        let now = path.and_then(|path| fs::read_to_string(path).ok());
        let now: Option<u64> = now.and_then(|text| text.trim().parse().ok());
        let kept = Limits {
            memory_bytes: match (limits.memory_bytes, now) {
                (Some(bytes), Some(now)) => Some(bytes.max(now)),
                (_, None) | (None, _) => None,
            },
            ..*limits
        };
        if self.unified {
            return self.limit_v2(&kept);
        }
        if let Some(bytes) = kept.memory_bytes {
            // The one with swap first, since it may not be below the other.
            let bytes = bytes.to_string();
            self.set("memory", "memory.memsw.limit_in_bytes", &bytes)?;
        }
        self.limit_v1(&kept)
    }

    fn limit_v2(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.set("cpu", "cpu.weight", &limits.cpu_weight().to_string())?;
        let quota = limits
            .cpu_quota_us
            .map_or_else(|| "max".to_owned(), |q| q.to_string());
        self.set("cpu", "cpu.max", &format!("{quota} {CPU_PERIOD_US}"))?;
        let (memory, swap) = match limits.memory_bytes {
            Some(bytes) => (bytes.to_string(), "0"),
            None => ("max".to_owned(), "max"),
        };
        self.set("memory", "memory.low", &limits.memory_low_bytes.to_string())?;
        self.set("memory", "memory.max", &memory)?;
        self.set("memory", "memory.swap.max", swap)?;
        if let (Some(v1), Some(v2)) = (limits.io_weight, limits.io_weight_v2()) {
            self.set("io", "io.bfq.weight", &v1.to_string())?;
            self.set("io", "io.weight", &format!("default {v2}"))?;
        }
        Ok(())
    }

    fn limit_v1(&self, limits: &Limits) -> Result<(), CgroupError> {
        self.set("cpu", "cpu.shares", &limits.cpu_shares().to_string())?;
        self.set("cpu", "cpu.cfs_period_us", &CPU_PERIOD_US.to_string())?;
        let quota = limits
            .cpu_quota_us
            .map_or_else(|| "-1".to_owned(), |q| q.to_string());
        self.set("cpu", "cpu.cfs_quota_us", &quota)?;
        let low = limits.memory_low_bytes.to_string();
        self.set("memory", "memory.soft_limit_in_bytes", &low)?;
        let memory = limits
            .memory_bytes
            .map_or_else(|| "-1".to_owned(), |m| m.to_string());
        // One may never be above the other: a new cgroup has no limits, so this order always works.
        self.set("memory", "memory.limit_in_bytes", &memory)?;
        self.set("memory", "memory.memsw.limit_in_bytes", &memory)?;
        if let Some(weight) = limits.io_weight {
            self.set("blkio", "blkio.bfq.weight", &weight.to_string())?;
            self.set("blkio", "blkio.weight", &weight.to_string())?;
        }
        Ok(())
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

/// Removes a directory and those below it; a missing one is fine.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
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

/// Processes of a cgroup and below.
pub fn pids_below(dir: &Path) -> Vec<u32> {
    let here = procs(dir);
    let here = here.iter().filter_map(|p| u32::try_from(p.as_raw()).ok());
    let mut all: Vec<u32> = here.collect();
    for child in children(dir) {
        all.extend(pids_below(&child));
    }
    all
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

    const LIMITS: Limits = Limits {
        cpus_milli: 500,
        cpu_quota_us: Some(50_000),
        memory_bytes: Some(64 << 20),
        memory_low_bytes: 32 << 20,
        pids: 100,
        io_weight: Some(500),
    };

    /// A directory with these files, empty.
    fn tree(dir: &Path, files: &[&str]) -> PathBuf {
        fs::create_dir_all(dir).unwrap();
        for file in files {
            fs::write(dir.join(file), "").unwrap();
        }
        dir.to_owned()
    }

    fn written(dir: &Path) -> String {
        let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap()).collect();
        files.sort_by_key(fs::DirEntry::file_name);
        let line = |e: &fs::DirEntry| {
            let text = fs::read_to_string(e.path()).unwrap();
            format!("{}={text}\n", e.file_name().display())
        };
        files.iter().map(line).collect()
    }

    const V2_FILES: [&str; 7] = [
        "cpu.max",
        "cpu.weight",
        "io.weight",
        "memory.low",
        "memory.max",
        "memory.swap.max",
        "pids.max",
    ];

    #[test]
    fn a_v2_host_has_all_limits_in_one_place() {
        let dir = tempfile::tempdir().unwrap();
        let v2 = tree(&dir.path().join("t"), &V2_FILES);
        let cgroup = TaskCgroup {
            v2: Some(v2.clone()),
            unified: true,
            ..TaskCgroup::default()
        };
        cgroup.create(&LIMITS).unwrap();
        let want = "cpu.max=50000 100000\ncpu.weight=20\nio.weight=default 4950\nmemory.low=33554432\n\
            memory.max=67108864\nmemory.swap.max=0\npids.max=100\n";
        assert_eq!(written(&v2), want);
        let unlimited = Limits {
            cpu_quota_us: None,
            memory_bytes: None,
            ..LIMITS
        };
        cgroup.create(&unlimited).unwrap();
        let text = written(&v2);
        assert!(text.contains("cpu.max=max 100000\n") && text.contains("memory.max=max\n"));
        assert!(text.contains("memory.swap.max=max\n"));
    }

    #[test]
    fn v1_and_hybrid_hosts_have_them_by_controller() {
        for is_hybrid in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str, files: &[&str]| {
                let dir = tree(&dir.path().join(name).join("t"), files);
                (name.to_owned(), dir)
            };
            let v1 = vec![
                at(
                    "cpu,cpuacct",
                    &["cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares"],
                ),
                at(
                    "memory",
                    &[
                        "memory.limit_in_bytes",
                        "memory.memsw.limit_in_bytes",
                        "memory.soft_limit_in_bytes",
                    ],
                ),
                at("pids", &["pids.max"]),
                at("blkio", &["blkio.weight"]),
            ];
            // What is there on a hybrid host is not its limits' place.
            let v2 = tree(&dir.path().join("unified/t"), &V2_FILES);
            let cgroup = TaskCgroup {
                v2: is_hybrid.then(|| v2.clone()),
                unified: false,
                v1: v1.clone(),
                ..TaskCgroup::default()
            };
            cgroup.create(&LIMITS).unwrap();
            let all: Vec<String> = v1.iter().map(|(_, dir)| written(dir)).collect();
            assert_eq!(
                all,
                [
                    "cpu.cfs_period_us=100000\ncpu.cfs_quota_us=50000\ncpu.shares=512\n",
                    "memory.limit_in_bytes=67108864\nmemory.memsw.limit_in_bytes=67108864\n\
                     memory.soft_limit_in_bytes=33554432\n",
                    "pids.max=100\n",
                    "blkio.weight=500\n",
                ]
            );
            assert!(written(&v2).lines().all(|line| line.ends_with('=')));
            let unlimited = Limits {
                cpu_quota_us: None,
                memory_bytes: None,
                ..LIMITS
            };
            cgroup.create(&unlimited).unwrap();
            assert!(written(&v1[0].1).contains("cpu.cfs_quota_us=-1\n"));
            assert!(written(&v1[1].1).contains("memory.memsw.limit_in_bytes=-1\n"));
        }
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

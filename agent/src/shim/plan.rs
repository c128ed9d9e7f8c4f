//! Files between an agent and a task's shim; the directory is the interface.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use waggle_lifecycle::Exit;

use crate::{crash, logs::Limits, runtime::Instruction};

/// What the shim is to do; written by the agent.
pub const PLAN: &str = "plan.json";
/// Held exclusively by the shim for its whole life.
pub const LOCK: &str = "shim.lock";
/// Written by an agent that gave the task up: a shim that starts late must not run it.
pub const ABANDONED: &str = "abandoned";
/// The shim's [`crate::sys::ProcessId`].
pub const SHIM: &str = "shim.json";
/// The task's [`crate::sys::ProcessId`].
pub const TASK: &str = "task.json";
/// How it ended, an [`ExitRecord`].
pub const EXIT: &str = "exit.json";

/// Everything that a shim needs; it reads nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimPlan {
    /// Program and arguments, never empty.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Working directory; holds `stdout` and `stderr`.
    pub sandbox: PathBuf,
    /// Directories of cgroups to join, each with a `cgroup.procs`.
    pub cgroups: Vec<PathBuf>,
    /// The cgroup whose processes are the task's, for the final kill.
    pub kill_cgroup: Option<PathBuf>,
    /// The cgroup with the memory counters.
    pub memory_cgroup: Option<PathBuf>,
    /// Whether the task's standard streams are a terminal; a container's are by its runtime.
    #[serde(default)]
    pub tty: bool,
    /// Network namespace to enter; `None` keeps the agent's.
    #[serde(default)]
    pub netns: Option<PathBuf>,
    /// POSIX limits by name: number, soft, hard; `None` is unlimited.
    #[serde(default)]
    pub rlimits: BTreeMap<String, (i32, Option<u64>, Option<u64>)>,
    /// Unix user.
    pub user: Option<UserIds>,
    /// SIGTERM to SIGKILL.
    pub kill_grace_ms: u64,
    /// What is kept of its output.
    #[serde(default)]
    pub logs: Limits,
    /// How it is contained, where it has an image; then `argv`, `env` are what its init starts inside.
    #[serde(default)]
    pub container: Option<ContainerPlan>,
}

/// How the shim starts a container, and what whoever enters it is confined by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// The OCI runtime's command: makes the container, starts its init and ends.
    pub run: Vec<String>,
    /// The bundle, where that command runs.
    pub bundle: PathBuf,
    /// Where the runtime writes the init's process number.
    pub pid_file: PathBuf,
    /// Whether the runtime hands over a terminal.
    pub tty: bool,
    /// Cgroup directories that the init is moved to before it starts the command: those that the runtime does not join.
    pub join: Vec<PathBuf>,
    /// Instead of SIGTERM.
    pub stop_signal: i32,
    /// The user inside.
    pub user: UserIds,
    /// Working directory inside.
    pub work_dir: String,
    /// Capabilities that may ever be had.
    pub bounding: u64,
    /// Capabilities that are had.
    pub effective: u64,
    /// Whether execve gives no privileges.
    pub no_new_privileges: bool,
    /// Whether it has a user namespace of its own.
    pub user_namespace: bool,
    /// The seccomp filter; empty: none.
    pub seccomp: Vec<Instruction>,
    /// Whether the init is given the filter; otherwise the runtime has made one of the same profile.
    #[serde(default)]
    pub init_takes_filter: bool,
}

/// A user, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserIds {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// How a task ended, as written to disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Exit code.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// Processes that the kernel killed for memory, in the task's whole life.
    pub oom_kills: u64,
    /// Memory limit in bytes, 0 when unknown.
    pub memory_limit_bytes: u64,
    /// Highest memory use in bytes, 0 when unknown.
    pub memory_peak_bytes: u64,
    /// Why it was never started.
    pub launch_error: Option<String>,
    /// Output that could not be written (a full disk).
    pub lost_output_bytes: u64,
    /// Unix time in milliseconds.
    pub at_ms: u64,
}

impl ExitRecord {
    /// In the core's words. SIGKILL after an OOM kill in its cgroup is the kernel's doing.
    pub fn exit(&self) -> Exit {
        if let Some(why) = &self.launch_error {
            return Exit::LaunchFailed(why.clone());
        }
        // A shell reports a child killed by SIGKILL as 128 + 9.
        let killed = self.signal == Some(libc::SIGKILL) || self.code == Some(128 + libc::SIGKILL);
        match (self.code, self.signal) {
            _ if self.oom_kills > 0 && killed => Exit::OutOfMemory {
                limit_bytes: self.memory_limit_bytes,
                peak_bytes: self.memory_peak_bytes,
            },
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unknown,
        }
    }
}

/// Replaces a file so that a reader, or a machine that lost power, sees the old bytes or the new ones.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = beside(path);
    crash::point(path, "begin");
    let mut file = File::create(&tmp)?;
    let (half, rest) = crash::half(bytes);
    file.write_all(half)?;
    crash::point(path, "torn");
    file.write_all(rest)?;
    file.sync_all()?;
    crash::point(path, "written");
    fs::rename(&tmp, path)?;
    crash::point(path, "renamed");
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Where a file is written before it takes another's place: its whole name and `.tmp`, so that `a.json` and `a.pb` have
/// one each. Nobody else's name ends so; what a crash left there is written over.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// [`write_durably`] of a value as JSON.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write_durably(path, &serde_json::to_vec(value)?)
}

/// Replaces a file so that a reader sees the old value or the new one, and does not wait for the disk: a machine that
/// lost power may have lost it. For what is about processes, which are gone then as well.
pub fn write_json_for_boot<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let tmp = beside(path);
    crash::point(path, "begin");
    fs::write(&tmp, serde_json::to_vec(value)?)?;
    crash::point(path, "written");
    fs::rename(&tmp, path)?;
    crash::point(path, "renamed");
    Ok(())
}

/// Reads a JSON file; `None` when it is not there.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

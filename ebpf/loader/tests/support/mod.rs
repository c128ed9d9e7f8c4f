//! A cgroup and a pin directory for one test, and child processes inside of the cgroup.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use waggle_ebpf::{DataPlane, LoadError, LoaderConfig};
use waggle_tests_support::{enter::Entry, netns::NetNs};

pub mod child;
pub mod tables;

/// What one test owns; removed when dropped.
pub struct Node {
    pub cgroup: PathBuf,
    pub pin_dir: PathBuf,
    bpffs: PathBuf,
    leaves: Vec<PathBuf>,
}

impl Node {
    /// `None` (after saying why) where the test can't run.
    pub fn new(name: &str) -> anyhow::Result<Option<Self>> {
        if !is_root() {
            eprintln!("SKIP: needs root");
            return Ok(None);
        }
        if !waggle_ebpf::is_built_with_ebpf() {
            eprintln!("SKIP: {}", LoadError::BuiltWithoutEbpf);
            return Ok(None);
        }
        let Some(cgroup2) = waggle_ebpf::find_cgroup2_mount() else {
            eprintln!("SKIP: no cgroup2 hierarchy is mounted");
            return Ok(None);
        };
        let name = format!("wgl-t-ebpf-{name}-{}", std::process::id());
        // A bpffs of its own, so that the machine's is neither needed nor left mounted.
        let bpffs = std::env::temp_dir().join(&name);
        fs::create_dir(&bpffs)?;
        let cgroup = cgroup2.join(&name);
        let node = Self {
            pin_dir: bpffs.join("node"),
            cgroup,
            bpffs,
            leaves: Vec::new(),
        };
        run(Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(&node.bpffs))?;
        fs::create_dir(&node.cgroup)?;
        Ok(Some(node))
    }

    pub fn config(&self) -> LoaderConfig {
        LoaderConfig {
            cgroup_root: self.cgroup.clone(),
            pin_dir: self.pin_dir.clone(),
        }
    }

    pub fn open(&self) -> Result<DataPlane, LoadError> {
        DataPlane::open(&self.config())
    }

    /// A cgroup below the node's, with its id.
    pub fn leaf(&mut self, name: &str) -> anyhow::Result<(PathBuf, u64)> {
        let path = self.cgroup.join(name);
        fs::create_dir(&path)?;
        self.leaves.push(path.clone());
        let id = waggle_ebpf::cgroup_id(&path)?;
        Ok((path, id))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = DataPlane::remove(&self.pin_dir) {
            eprintln!("unpin {}: {error}", self.pin_dir.display());
        }
        for path in self.leaves.iter().chain([&self.cgroup]) {
            // Children were waited for, but the kernel empties a cgroup a moment later.
            let removed = eventually(|| Ok(fs::remove_dir(path).is_ok()));
            if let Err(error) = removed {
                eprintln!("remove {}: {error}", path.display());
            }
        }
        // A child of another test, between fork and exec, may hold a descriptor for a moment.
        let unmounted = eventually(|| Ok(run(Command::new("umount").arg(&self.bpffs)).is_ok()));
        if let Err(error) = unmounted.and_then(|()| Ok(fs::remove_dir(&self.bpffs)?)) {
            eprintln!("unmount {}: {error}", self.bpffs.display());
        }
    }
}

/// A process in a cgroup that does what it is told, by lines on its standard input (child.rs).
pub struct Task {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Task {
    pub fn start(cgroup: &Path) -> anyhow::Result<Self> {
        Self::begin(Command::new(std::env::current_exe()?), cgroup)
    }

    /// The same in a network namespace.
    pub fn start_in(cgroup: &Path, netns: &NetNs) -> anyhow::Result<Self> {
        let entry = Entry {
            netns: netns.path(),
            cgroup: None,
            binds: Vec::new(),
            detached: false,
        };
        Self::begin(entry.command(std::env::current_exe()?)?, cgroup)
    }

    fn begin(mut command: Command, cgroup: &Path) -> anyhow::Result<Self> {
        let mut child = command
            .args(["--exact", child::TEST, "--nocapture"])
            .env(child::ENV, cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Self {
            child,
            stdin,
            stdout,
        })
    }

    /// Sends a command and returns the answer.
    pub fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        writeln!(self.stdin.as_mut().context("stdin")?, "{command}")?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.stdout.read_line(&mut line)? == 0 {
                bail!("the task ended at {command:?}");
            }
            // The test harness of the child prints on the same stream.
            if let Some((_, answer)) = line.split_once(child::MARK) {
                return Ok(answer.trim().to_owned());
            }
        }
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // End of input ends it.
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Polls a condition; an error after 5 seconds.
pub fn eventually(mut condition: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition()? {
        if Instant::now() > deadline {
            bail!("condition not met within 5 s");
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "the one poll loop of these tests"
        )]
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .find_map(|line| {
            line.strip_prefix("Uid:")?
                .split_whitespace()
                .nth(1)
                .map(|uid| uid == "0")
        })
        .unwrap_or(false)
}

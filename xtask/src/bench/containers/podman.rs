//! Podman, where it is installed, with the same root and runtime; its storage is a directory of the bench.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::run::find;

/// A store of its own, and the root that its containers share.
pub struct Podman {
    dir: PathBuf,
    rootfs: PathBuf,
}

impl Podman {
    /// `None` where it is not installed.
    pub fn new(dir: &Path, rootfs: &Path) -> Option<Self> {
        find("podman").map(|_| Self {
            dir: dir.to_owned(),
            rootfs: rootfs.to_owned(),
        })
    }

    /// What it says of itself.
    pub fn version() -> anyhow::Result<String> {
        let out = Command::new("podman").arg("--version").output()?;
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    fn command(&self) -> Command {
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(self.dir.join("root"))
            .arg("--runroot")
            .arg(self.dir.join("run"))
            // Neither a journal nor a service manager is needed for any of it.
            .args(["--runtime", "runc", "--cgroup-manager", "cgroupfs"])
            .args(["--storage-driver", "overlay", "--events-backend", "none"])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// Starts a container of the root, on the host's network; how long that took.
    pub fn start(&self, id: &str) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let mut command = self.command();
        command
            .args(["run", "--detach", "--network", "host", "--name", id])
            // Its own are above what a machine's owner may allow.
            .args([
                "--ulimit",
                "nofile=1024:1024",
                "--ulimit",
                "nproc=1024:1024",
            ])
            .arg("--rootfs")
            .arg(&self.rootfs)
            .args(["/bin/sleep", "36000"]);
        done(&mut command, &self.dir.join("podman.log"))?;
        Ok(began.elapsed())
    }

    /// Kills and removes it; how long that took.
    pub fn stop(&self, id: &str) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let mut command = self.command();
        command.args(["rm", "--force", "--time", "0", id]);
        done(&mut command, &self.dir.join("podman.log"))?;
        Ok(began.elapsed())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let mut command = self.command();
        command.args(["rm", "--force", "--all", "--time", "0"]);
        let _ = command.stderr(Stdio::null()).status();
        // What it leaves: the directory above its containers', in each hierarchy.
        for dir in super::cgroup_mounts() {
            for below in ["libpod_parent/conmon", "libpod_parent"] {
                let _ = std::fs::remove_dir(dir.join(below));
            }
        }
    }
}

/// A container keeps what it is given: no pipe, or the wait for its end would be one for the container's.
fn done(command: &mut Command, log: &Path) -> anyhow::Result<()> {
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let status = command
        .stderr(std::fs::File::create(log)?)
        .status()
        .context("podman")?;
    if !status.success() {
        let said = std::fs::read_to_string(log).unwrap_or_default();
        bail!("podman: {status}: {}", said.trim());
    }
    Ok(())
}

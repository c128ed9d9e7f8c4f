//! Spawning a command inside a node: its network namespace, its cgroup, its resolver.
//!
//! Between fork and exec only plain system calls run (the parent may have threads); every path and
//! descriptor that they need is prepared before.
#![allow(
    unsafe_code,
    reason = "pre_exec: the only way to act between fork and exec"
)]

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// Where a command shall run.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The namespace's file.
    pub netns: PathBuf,
    /// The cgroup2 directory to join.
    pub cgroup: Option<PathBuf>,
    /// Files bound over others in a mount namespace of its own: (source, target).
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// A session of its own: signals from our terminal do not reach it.
    pub detached: bool,
}

impl Entry {
    /// A command that starts there. Fails when something that it needs is missing.
    pub fn command(&self, program: impl AsRef<OsStr>) -> anyhow::Result<Command> {
        let netns = File::open(&self.netns)
            .with_context(|| format!("open network namespace {}", self.netns.display()))?;
        let procs = match &self.cgroup {
            None => None,
            Some(dir) => Some(
                File::options()
                    .write(true)
                    .open(dir.join("cgroup.procs"))
                    .with_context(|| format!("open cgroup {}", dir.display()))?,
            ),
        };
        let mut binds = Vec::new();
        for (source, target) in &self.binds {
            // Resolved now: a target may be a symbolic link (systemd-resolved), or absent.
            if let Ok(target) = target.canonicalize() {
                binds.push((c_path(source)?, c_path(&target)?));
            }
        }
        let detached = self.detached;
        let mut command = Command::new(program);
        // SAFETY: the closure calls only async-signal-safe system calls on memory and descriptors
        // that it owns; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || {
                if detached {
                    check(libc::setsid())?;
                }
                if let Some(procs) = &procs {
                    let zero = b"0";
                    if libc::write(procs.as_raw_fd(), zero.as_ptr().cast(), zero.len()) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                check(libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET))?;
                check(libc::unshare(libc::CLONE_NEWNS))?;
                // Slave: mounts made inside stay inside, the host's unmounts still arrive.
                check(libc::mount(
                    c"none".as_ptr(),
                    c"/".as_ptr(),
                    std::ptr::null(),
                    libc::MS_REC | libc::MS_SLAVE,
                    std::ptr::null(),
                ))?;
                for (source, target) in &binds {
                    check(libc::mount(
                        source.as_ptr(),
                        target.as_ptr(),
                        std::ptr::null(),
                        libc::MS_BIND,
                        std::ptr::null(),
                    ))?;
                }
                Ok(())
            });
        }
        Ok(command)
    }
}

fn c_path(path: &Path) -> anyhow::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .with_context(|| format!("a NUL byte in {}", path.display()))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

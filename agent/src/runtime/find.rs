//! Finding an OCI runtime and asking what it is.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::version::{self, Version};
use crate::cgroup::{CgroupHost, Hierarchy};

/// How long a runtime may take to say what it is.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer to that.
const MAX_ANSWER: u64 = 64 << 10;

/// What `waggle doctor` and the agent find at a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its path.
    pub program: PathBuf,
    /// What it is.
    pub version: Version,
    /// What is known against it.
    pub faults: Vec<&'static str>,
}

/// Looks for a runtime, asks what it is and whether it can work on this host. The error is for people. Blocking.
pub fn look(program: &Path) -> Result<Found, String> {
    let path = which(program)?;
    let shown = path.display();
    let answer = ask(&path, &["--version"])?;
    let version = version::parse(&answer)
        .ok_or_else(|| format!("{shown} is no OCI runtime: --version says {answer:.80?}"))?;
    let help = ask(&path, &["run", "--help"])?;
    for flag in ["preserve-fds", "pid-file", "detach"] {
        if !help.contains(flag) {
            return Err(format!(
                "{shown} ({} {}) can't be used: its run command has no --{flag}",
                version.name, version.text
            ));
        }
    }
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let root = waggle_ebpf::find_cgroup2_mount().unwrap_or_default();
    let hierarchy = CgroupHost::from_mountinfo(&mountinfo, &root).hierarchy();
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    // Upstream's policy (crun, src/libcrun/cgroup.c).
    if version.name == "crun" && hierarchy == Hierarchy::Hybrid && !controllers.trim().is_empty() {
        return Err(format!(
            "{shown} (crun {}) refuses hosts with v1 cgroups whose cgroup2 hierarchy has controllers ({}): use runc here",
            version.text,
            controllers.trim()
        ));
    }
    Ok(Found {
        faults: version::faults(&version),
        program: path,
        version,
    })
}

/// A path, or a name looked up in `PATH` and where system programs are.
fn which(program: &Path) -> Result<PathBuf, String> {
    let runs = |p: &Path| {
        fs::metadata(p).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    let shown = program.display();
    if program.is_absolute() {
        return if runs(program) {
            Ok(program.to_owned())
        } else {
            Err(format!(
                "the OCI runtime {shown} is not there: install it, or name another (--runtime)"
            ))
        };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|dir| dir.join(program))
        .find(|p| runs(p))
        .ok_or_else(|| {
            format!(
                "no OCI runtime: {shown} is not in PATH: install it, or name another (--runtime)"
            )
        })
}

/// What a program prints, in bounded time and size. Blocking.
fn ask(program: &Path, args: &[&str]) -> Result<String, String> {
    let shown = program.display();
    let failed = |e: io::Error| format!("failed to run {shown}: {e}");
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut out = Vec::new();
    let until = Instant::now() + ASK_TIMEOUT;
    let mut result = Ok(());
    if let Some(mut pipe) = child.stdout.take() {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let mut fds = [PollFd::new(
                std::os::fd::AsFd::as_fd(&pipe),
                PollFlags::POLLIN,
            )];
            if !matches!(poll(&mut fds, wait), Ok(n) if n > 0) {
                let _ = child.kill();
                result = Err(format!("{shown} does not answer"));
                break;
            }
            let mut some = [0; 4096];
            match io::Read::read(&mut pipe, &mut some) {
                Ok(0) => break,
                Ok(_) if out.len() as u64 > MAX_ANSWER => {}
                Ok(n) => out.extend(&some[..n]),
                Err(e) => {
                    result = Err(failed(e));
                    break;
                }
            }
        }
    }
    let _ = child.wait();
    result.map(|()| String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_runtime_is_said() {
        let missing = look(Path::new("no-such-runtime")).unwrap_err();
        assert!(
            missing.contains("no-such-runtime is not in PATH"),
            "{missing}"
        );
        let other = look(Path::new("/bin/true")).unwrap_err();
        assert!(other.contains("/bin/true is no OCI runtime"), "{other}");
    }
}

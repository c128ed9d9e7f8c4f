//! Processes by pid: look, signal, never by name.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// Sends a signal; a process that is gone is fine. Refuses pids that address groups.
pub fn signal(pid: i32, signal: Signal) {
    if pid > 1 {
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
    }
}

/// SIGTERM.
pub fn terminate(pid: i32) {
    signal(pid, Signal::SIGTERM);
}

/// Whether the pid is a live process (a zombie is not).
#[must_use]
pub fn alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The process's name as the kernel has it.
#[must_use]
pub fn comm(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// The executable's file name.
#[must_use]
pub fn exe_name(pid: i32) -> Option<String> {
    let exe: PathBuf = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = exe.file_name()?.to_string_lossy().into_owned();
    Some(name.trim_end_matches(" (deleted)").to_owned())
}

/// Every pid on the machine.
#[must_use]
pub fn all() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect()
}

/// Pids whose network namespace has this inode.
#[must_use]
pub fn in_netns(inode: u64) -> Vec<i32> {
    all()
        .into_iter()
        .filter(|pid| {
            std::fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| m.ino() == inode)
        })
        .collect()
}

/// CPU time used so far, user and system, in clock ticks (100 per second on Linux).
#[must_use]
pub fn cpu_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Resident memory in KiB.
#[must_use]
pub fn rss_kib(pid: i32) -> Option<u64> {
    status_kib(pid, "VmRSS:")
}

/// Its part that is the process's own, not pages of files.
#[must_use]
pub fn anonymous_kib(pid: i32) -> Option<u64> {
    status_kib(pid, "RssAnon:")
}

fn status_kib(pid: i32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Collects children of ours that ended, so that they do not stay as zombies.
pub fn reap(pid: i32) {
    let flags = Some(nix::sys::wait::WaitPidFlag::WNOHANG);
    let _ = nix::sys::wait::waitpid(Pid::from_raw(pid), flags);
}

/// When the process started, in clock ticks since boot: tells a reused pid from the original.
#[must_use]
pub fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

//! The few system calls that `nix` does not wrap, and process identities.
#![allow(
    unsafe_code,
    reason = "pidfd calls and prctl have no safe wrapper in nix 0.30"
)]

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

use crate::shim::UserIds;

/// A process that can be told from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process number.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks from boot to its start.
    pub start_ticks: u64,
}

impl ProcessId {
    /// The identity of the process that has this number now.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name (field 2) may hold spaces and parentheses: count from the last one.
        let start_ticks = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(19))
            .and_then(|t| t.parse().ok())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Self { pid, start_ticks })
    }

    /// A descriptor for exactly this process: opened first, then the start time is compared, so a reused
    /// number is noticed. It is readable when the process ends.
    pub fn open(self) -> io::Result<OwnedFd> {
        let fd = pidfd_open(self.pid)?;
        if Self::of(self.pid)? == self {
            Ok(fd)
        } else {
            Err(io::Error::from(io::ErrorKind::NotFound))
        }
    }
}

/// Datagrams that the kernel has thrown away since a socket was opened, because nobody read in time (`SK_MEMINFO_DROPS` of
/// `SO_MEMINFO`, Linux 4.12). It counts in 32 bits and begins again at 0.
///
/// # Errors
/// What the kernel says.
pub(crate) fn dropped_datagrams(socket: &impl AsRawFd) -> io::Result<u32> {
    /// Its place among the nine numbers (`linux/sock_diag.h`).
    const DROPS: usize = 8;
    let mut numbers = [0_u32; 9];
    let mut len = libc::socklen_t::try_from(size_of_val(&numbers)).unwrap_or(0);
    // SAFETY: the kernel writes at most `len` bytes, all of which are ours; any bits are a number.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(numbers[DROPS])
}

fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: two integer arguments; the result is a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Registers a pidfd with the runtime; it becomes readable when its process ends.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the returned value owns the descriptor, so it stays open and the same for as long as it is registered.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// Sends a signal to the process behind a pidfd.
pub fn pidfd_signal(fd: &OwnedFd, signal: i32) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo means "as kill(2) does".
    let rc = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, info, 0) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Opens a file for reading with the rights of a user, groups and all: what they may not read is not read for them.
/// Blocking.
pub fn open_as(user: &UserIds, path: &Path) -> io::Result<fs::File> {
    let (user, path) = (user.clone(), path.to_owned());
    // These identities are a thread's own; this one ends with its work.
    let opened = std::thread::spawn(move || {
        // SAFETY: the slice outlives the call. The raw call changes this thread alone, where libc's changes all.
        let rc =
            unsafe { libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()) };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
        nix::unistd::setfsgid(nix::unistd::Gid::from_raw(user.gid));
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(user.uid));
        open_plain(&path)
    });
    opened
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that opens the file ended")))
}

/// Opens a regular file for reading, without waiting for the other end of a pipe. Blocking.
pub fn open_plain(path: &Path) -> io::Result<fs::File> {
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        ))
    }
}

/// kill(2) with any signal, for a child that is not reaped yet; one that has ended is no error.
pub fn kill(pid: i32, signal: i32) {
    // SAFETY: integer arguments only.
    unsafe { libc::kill(pid, signal) };
}

/// Makes orphaned descendants children of this process instead of init's.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: integer arguments only.
    let rc = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes this process (and shims, which inherit it) the last that the kernel kills for memory; tasks are set back to
/// 0 when they are started. Needs CAP_SYS_RESOURCE.
pub fn protect_from_oom() -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", "-999")
}

/// Clock ticks per second of `/proc/<pid>/stat`.
pub fn ticks_per_second() -> u64 {
    // SAFETY: an integer argument, no memory.
    let n = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(n).unwrap_or(100).max(1)
}

/// Which boot of the machine this is; empty where the kernel does not say.
pub fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// Number of CPUs online.
pub fn n_cpus() -> i64 {
    // SAFETY: an integer argument, no memory.
    let n = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    n.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_with_the_users_rights() {
        use std::os::unix::fs::PermissionsExt;
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIP: taking a user's rights needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(dir.path(), 0o755);
        let file = dir.path().join("x");
        fs::write(&file, "x").unwrap();
        mode(&file, 0o600);
        let user = UserIds {
            uid: 65534,
            gid: 65534,
            groups: vec![65534],
        };
        let refused = open_as(&user, &file).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        mode(&file, 0o644);
        assert!(open_as(&user, &file).is_ok());
        mode(&file, 0o600);
        assert!(open_plain(&file).is_ok(), "only that thread was another");
        assert!(open_plain(dir.path()).is_err());
    }

    #[test]
    fn a_process_is_known_by_number_and_start_time() {
        let me = ProcessId::of(std::process::id()).unwrap();
        assert!(me.open().is_ok());
        let other = ProcessId {
            start_ticks: me.start_ticks + 1,
            ..me
        };
        assert!(other.open().is_err());
    }
}

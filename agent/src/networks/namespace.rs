//! Namespaces that no process holds: each is pinned by a bind mount of its file, so that it outlives the agent and the
//! tasks in it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::statfs::{FsType, statfs},
};

use waggle_overlay::netlink::{Batch, Netlink};

/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS: FsType = FsType(0x6e73_6673);
/// `lo` is the first device of every namespace.
const LOOPBACK: u32 = 1;
/// What a namespace of its own lets its tasks do without privileges: listen on any port, and ping. Nobody else is there
/// to be harmed.
const SYSCTLS: [(&str, &str); 2] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
];

/// Kinds of namespaces, as `/proc/<pid>/ns` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Network.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
}

impl Kind {
    /// Every kind, for cleaning up.
    pub const ALL: [Self; 3] = [Self::Net, Self::Ipc, Self::Uts];

    /// The name of its file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
        }
    }

    const fn flag(self) -> CloneFlags {
        match self {
            Self::Net => CloneFlags::CLONE_NEWNET,
            Self::Ipc => CloneFlags::CLONE_NEWIPC,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
        }
    }
}

/// Makes namespaces of these kinds and pins each at its path. A network namespace has its loopback device up; the result
/// is a socket in it.
pub fn make(pins: &[(Kind, PathBuf)], hostname: &str) -> io::Result<Option<Netlink>> {
    // A thread of its own: what it leaves, it can't go back to.
    let made = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("namespace".to_owned())
            .stack_size(128 * 1024)
            .spawn_scoped(scope, || enter_new(pins, hostname))
            .map(|thread| {
                let gone = |_| Err(io::Error::other("the thread that makes it panicked"));
                thread.join().unwrap_or_else(gone)
            })
    });
    made.and_then(|made| made).inspect_err(|_| {
        for (_, path) in pins {
            let _ = unpin(path);
        }
    })
}

fn enter_new(pins: &[(Kind, PathBuf)], hostname: &str) -> io::Result<Option<Netlink>> {
    let flags = pins
        .iter()
        .fold(CloneFlags::empty(), |all, (kind, _)| all | kind.flag());
    unshare(flags)?;
    for (kind, path) in pins {
        let own = format!("/proc/thread-self/ns/{}", kind.name());
        pin(Path::new(&own), path)?;
    }
    if flags.contains(CloneFlags::CLONE_NEWUTS) {
        nix::unistd::sethostname(hostname)?;
    }
    if !flags.contains(CloneFlags::CLONE_NEWNET) {
        return Ok(None);
    }
    for (file, value) in SYSCTLS {
        if let Err(e) = fs::write(file, value) {
            tracing::debug!(file, error = %e, "not set in a new namespace");
        }
    }
    let up = || {
        let mut netlink = Netlink::open()?;
        let mut batch = Batch::default();
        batch.set_up(LOOPBACK);
        netlink.run(batch).map(|()| netlink)
    };
    up().map(Some).map_err(io::Error::other)
}

/// Pins the namespace behind a file of `/proc` at a path.
pub fn pin(namespace: &Path, at: &Path) -> io::Result<()> {
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(at)?;
    let none = None::<&str>;
    mount(Some(namespace), at, none, MsFlags::MS_BIND, none)?;
    Ok(())
}

/// Whether a namespace is pinned there.
pub fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == NSFS)
}

/// Lets go of it; the kernel frees it with its last process. Nothing there is fine.
pub fn unpin(path: &Path) -> io::Result<()> {
    while is_pinned(path) {
        umount2(path, MntFlags::MNT_DETACH)?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

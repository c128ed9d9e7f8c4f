//! Network namespaces by name (compatible with `ip -n NAME`), and guards that enter them.
//!
//! Not through `ip netns`: that turns `/run/netns` into a shared mount which stays behind, and
//! `ip netns exec` remounts `/sys`, which hides bpffs and the cgroups.

use std::fs::File;
use std::io::Write as _;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;

const DIR: &str = "/run/netns";

/// A named network namespace. Dropping it leaves the namespace in place; see [`NetNs::delete`].
#[derive(Debug, Clone)]
pub struct NetNs {
    name: String,
}

impl NetNs {
    /// Makes a namespace with `lo` up.
    pub fn create(name: &str) -> anyhow::Result<Self> {
        let ns = Self {
            name: name.to_owned(),
        };
        let path = ns.path();
        std::fs::create_dir_all(DIR).with_context(|| format!("create {DIR}"))?;
        File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("network namespace {name} exists already"))?;
        let made = std::thread::scope(|scope| {
            scope
                .spawn(|| -> anyhow::Result<()> {
                    nix::sched::unshare(CloneFlags::CLONE_NEWNET)
                        .context("unshare the network namespace")?;
                    nix::mount::mount(
                        Some("/proc/thread-self/ns/net"),
                        &path,
                        None::<&str>,
                        MsFlags::MS_BIND,
                        None::<&str>,
                    )
                    .context("bind the namespace to its name")
                })
                .join()
        });
        let made = made.unwrap_or_else(|_| bail!("the thread that makes the namespace panicked"));
        if let Err(error) = made {
            let _ = std::fs::remove_file(&path);
            return Err(error.context(format!("failed to create network namespace {name}")));
        }
        ns.ip("link set lo up\n")?;
        Ok(ns)
    }

    /// A namespace that exists.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        let ns = Self {
            name: name.to_owned(),
        };
        if !ns.path().exists() {
            bail!("no network namespace {name}");
        }
        Ok(ns)
    }

    /// Removes the name; the kernel frees the namespace with its last process and socket. Absent is
    /// fine and returns false.
    pub fn delete(name: &str) -> anyhow::Result<bool> {
        let path = Path::new(DIR).join(name);
        if !path.exists() {
            return Ok(false);
        }
        // EINVAL: only a file without a mount, left by a crash between the two.
        match nix::mount::umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::EINVAL) => {}
            Err(error) => return Err(error).with_context(|| format!("unmount {}", path.display())),
        }
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        Ok(true)
    }

    /// The name alone, whether or not it exists; using it fails when it does not.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// All names in use on this machine.
    pub fn list() -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(DIR) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIR).join(&self.name)
    }

    /// Its inode, as in `/proc/PID/ns/net`.
    #[must_use]
    pub fn inode(&self) -> Option<u64> {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(self.path()).ok().map(|m| m.ino())
    }

    /// Runs lines of `ip -batch` in it.
    pub fn ip(&self, lines: &str) -> anyhow::Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("run ip (iproute2)")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin
                .write_all(lines.as_bytes())
                .context("write to ip -batch")?;
        }
        let out = child.wait_with_output().context("wait for ip")?;
        if !out.status.success() {
            bail!(
                "ip -n {}: {}",
                self.name,
                String::from_utf8_lossy(&out.stderr).trim()
            );
        }
        Ok(())
    }

    /// Runs `f` on a thread of its own inside the namespace. Sockets made there stay there.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let file = File::open(self.path()).with_context(|| format!("open netns {}", self.name))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || -> anyhow::Result<T> {
                nix::sched::setns(&file, CloneFlags::CLONE_NEWNET).context("setns")?;
                Ok(f())
            });
            thread
                .join()
                .unwrap_or_else(|_| bail!("a thread inside netns {} panicked", self.name))
        })
    }

    /// Connects from inside the namespace.
    pub fn connect(&self, addr: SocketAddr, timeout: Duration) -> anyhow::Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&addr, timeout))?
            .with_context(|| format!("connect to {addr} in {}", self.name))
    }

    /// Listens inside the namespace.
    pub fn listen(&self, addr: SocketAddr) -> anyhow::Result<TcpListener> {
        self.run(|| TcpListener::bind(addr))?
            .with_context(|| format!("listen on {addr} in {}", self.name))
    }
}

/// Puts the current thread into a namespace until dropped. Not `Send`: it belongs to its thread.
#[derive(Debug)]
pub struct NetNsGuard {
    home: File,
    _not_send: PhantomData<*const ()>,
}

impl NetNsGuard {
    /// Enters `ns`.
    pub fn enter(ns: &NetNs) -> anyhow::Result<Self> {
        let home = File::open("/proc/thread-self/ns/net").context("open the own namespace")?;
        let there = File::open(ns.path()).with_context(|| format!("open netns {}", ns.name))?;
        nix::sched::setns(&there, CloneFlags::CLONE_NEWNET).context("setns")?;
        Ok(Self {
            home,
            _not_send: PhantomData,
        })
    }
}

impl Drop for NetNsGuard {
    fn drop(&mut self) {
        if let Err(error) = nix::sched::setns(&self.home, CloneFlags::CLONE_NEWNET) {
            eprintln!("failed to return to the home network namespace: {error}");
        }
    }
}

/// A namespace that is deleted when dropped, for tests.
#[derive(Debug)]
pub struct TempNetNs(NetNs);

impl TempNetNs {
    /// Makes it; the name must be unused.
    pub fn create(name: &str) -> anyhow::Result<Self> {
        NetNs::create(name).map(Self)
    }
}

impl std::ops::Deref for TempNetNs {
    type Target = NetNs;

    fn deref(&self) -> &NetNs {
        &self.0
    }
}

impl Drop for TempNetNs {
    fn drop(&mut self) {
        if let Err(error) = NetNs::delete(self.0.name()) {
            eprintln!(
                "failed to delete network namespace {}: {error:#}",
                self.0.name()
            );
        }
    }
}

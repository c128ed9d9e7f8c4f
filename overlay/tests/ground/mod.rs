//! Where a test's node lives.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::mount::{MsFlags, mount, umount};
use waggle_ebpf::{DataPlane, LoadError, LoaderConfig};

/// A cgroup and a bpf file system of its own, gone when dropped: the machine's may not be mounted, and is not
/// this test's to mount.
pub struct Ground {
    /// Where the node is.
    pub config: LoaderConfig,
    bpffs: PathBuf,
}

impl Ground {
    /// `None`, after saying why, where the test can't run.
    pub fn new() -> Option<Self> {
        let skip = |why: &str| {
            eprintln!("SKIP: {why}");
            None
        };
        if !nix::unistd::geteuid().is_root() {
            return skip("needs root");
        }
        if !waggle_ebpf::is_built_with_ebpf() {
            return skip(&LoadError::BuiltWithoutEbpf.to_string());
        }
        if Command::new("curl").arg("--version").output().is_err() {
            return skip("curl is not installed");
        }
        let Some(cgroup2) = waggle_ebpf::find_cgroup2_mount() else {
            return skip("no cgroup2 hierarchy is mounted");
        };
        let name = format!("wgh-e-net-{}", std::process::id());
        let bpffs = std::env::temp_dir().join(&name);
        std::fs::create_dir(&bpffs).unwrap();
        let none = None::<&str>;
        if let Err(e) = mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), none) {
            std::fs::remove_dir(&bpffs).unwrap();
            return skip(&format!("no bpf file system: {e}"));
        }
        let config = LoaderConfig {
            cgroup_root: cgroup2.join(&name),
            pin_dir: bpffs.join("node"),
        };
        let ground = Self { config, bpffs };
        std::fs::create_dir(&ground.config.cgroup_root).unwrap();
        Some(ground)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let LoaderConfig {
            cgroup_root,
            pin_dir,
        } = &self.config;
        if let Err(e) = DataPlane::remove(pin_dir) {
            eprintln!("failed to unpin {}: {e}", pin_dir.display());
        }
        // Processes were waited for; the kernel empties their cgroup, and lets go of the mount, a moment later.
        let deadline = Instant::now() + Duration::from_secs(5);
        let done = || {
            let cgroup = !Path::exists(cgroup_root) || std::fs::remove_dir(cgroup_root).is_ok();
            // Refused when it was unmounted in the round before.
            let _ = umount(&self.bpffs);
            let mount = !Path::exists(&self.bpffs) || std::fs::remove_dir(&self.bpffs).is_ok();
            cgroup && mount
        };
        while !done() {
            if Instant::now() > deadline {
                eprintln!(
                    "{} or {} stays",
                    cgroup_root.display(),
                    self.bpffs.display()
                );
                return;
            }
            std::thread::yield_now();
        }
    }
}

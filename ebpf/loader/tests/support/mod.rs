//! A cgroup and a pin directory for one test, and a child process inside of the cgroup.

use std::fs;
use std::path::{Path, PathBuf};

use waggle_ebpf::{DataPlane, LoadError, LoaderConfig};

/// What one test owns; removed when dropped.
pub struct Node {
    pub cgroup: PathBuf,
    pub pin_dir: PathBuf,
}

impl Node {
    /// `None` (after saying why) where the test can't run.
    pub fn new(name: &str) -> anyhow::Result<Option<Self>> {
        if !nix_is_root() {
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
        waggle_ebpf::mount_bpffs_if_missing()?;
        let name = format!("wgh-a-{name}-{}", std::process::id());
        let cgroup = cgroup2.join(&name);
        fs::create_dir(&cgroup)?;
        let pin_dir = Path::new("/sys/fs/bpf").join(name);
        Ok(Some(Self { cgroup, pin_dir }))
    }

    pub fn config(&self) -> LoaderConfig {
        LoaderConfig { cgroup_root: self.cgroup.clone(), pin_dir: self.pin_dir.clone() }
    }

    pub fn open(&self) -> Result<DataPlane, LoadError> {
        DataPlane::open(&self.config())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = DataPlane::remove(&self.pin_dir) {
            eprintln!("unpin {}: {error}", self.pin_dir.display());
        }
        if let Err(error) = fs::remove_dir(&self.cgroup) {
            eprintln!("remove {}: {error}", self.cgroup.display());
        }
    }
}

fn nix_is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1).map(|uid| uid == "0"))
        .unwrap_or(false)
}

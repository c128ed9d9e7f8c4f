//! A cgroup and a bpf file system of the bench's own, gone when dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::mount::{MsFlags, mount, umount};
use waggle_ebpf::{DataPlane, LoaderConfig};

pub struct Ground {
    config: LoaderConfig,
    bpffs: PathBuf,
    /// The cgroup that this process was in.
    home: PathBuf,
}

impl Ground {
    /// `None`, after saying why, where it can't run.
    pub fn new() -> anyhow::Result<Option<Self>> {
        let skip = |why: &str| {
            eprintln!("SKIP: {why}");
            Ok(None)
        };
        if !nix::unistd::geteuid().is_root() {
            return skip("needs root");
        }
        if !waggle_ebpf::is_built_with_ebpf() {
            return skip("built without ebpf programs: run `cargo xtask build-ebpf` first");
        }
        let Some(cgroup2) = waggle_ebpf::find_cgroup2_mount() else {
            return skip("no cgroup2 hierarchy is mounted");
        };
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own
            .lines()
            .find_map(|l| l.strip_prefix("0::/"))
            .unwrap_or("");
        let name = format!("wgb-tables-{}", std::process::id());
        let bpffs = std::env::temp_dir().join(&name);
        fs::create_dir(&bpffs)?;
        mount(
            Some("bpf"),
            &bpffs,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )?;
        let config = LoaderConfig {
            cgroup_root: cgroup2.join(&name),
            pin_dir: bpffs.join("node"),
        };
        fs::create_dir(&config.cgroup_root)?;
        Ok(Some(Self {
            config,
            bpffs,
            home: cgroup2.join(own),
        }))
    }

    pub fn open(&self) -> anyhow::Result<DataPlane> {
        Ok(DataPlane::open(&self.config)?)
    }

    /// Forgets all maps.
    pub fn clear(&self) -> anyhow::Result<()> {
        Ok(DataPlane::remove(&self.config.pin_dir)?)
    }

    /// Does something in the cgroup, with this whole process.
    pub fn in_cgroup<T>(&self, f: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        fs::write(self.config.cgroup_root.join("cgroup.procs"), "0")?;
        let done = f();
        fs::write(self.home.join("cgroup.procs"), "0").context("back to the own cgroup")?;
        done
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Err(e) = self.clear() {
            eprintln!("unpin: {e}");
        }
        let deadline = Instant::now() + Duration::from_secs(5);
        let root = &self.config.cgroup_root;
        loop {
            let cgroup = !Path::exists(root) || fs::remove_dir(root).is_ok();
            // Refused when it was unmounted in the round before.
            let _ = umount(&self.bpffs);
            let mount = !Path::exists(&self.bpffs) || fs::remove_dir(&self.bpffs).is_ok();
            if cgroup && mount {
                return;
            }
            if Instant::now() > deadline {
                eprintln!("{} or {} stays", root.display(), self.bpffs.display());
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// Memory that the kernel says it holds for this process's maps, or for those of one name.
pub fn map_bytes(name: Option<&str>) -> anyhow::Result<u64> {
    let mut sum = 0;
    let mut seen = std::collections::BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        if fs::read_link(entry.path()).is_ok_and(|l| l.as_os_str() != "anon_inode:bpf-map") {
            continue;
        }
        let info = Path::new("/proc/self/fdinfo").join(entry.file_name());
        let Ok(text) = fs::read_to_string(info) else {
            continue;
        };
        let field = |key: &str| -> Option<u64> {
            text.lines()
                .find_map(|l| l.strip_prefix(key)?.strip_prefix(':')?.trim().parse().ok())
        };
        let (Some(id), Some(bytes)) = (field("map_id"), field("memlock")) else {
            continue;
        };
        let entries = field("max_entries").unwrap_or(0);
        let own = match name {
            None => true,
            Some("VIPS") => {
                entries == u64::from(waggle_ebpf_common::MAX_VIPS) && field("value_size") == Some(4)
            }
            Some(_) => entries == u64::from(waggle_ebpf_common::MAX_CELLS),
        };
        if own && seen.insert(id) {
            sum += bytes;
        }
    }
    Ok(sum)
}

pub fn first_words(file: &str, n: usize) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().take(n).collect();
    words.join(" ")
}

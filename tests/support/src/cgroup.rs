//! Cgroups on every host layout: v2, hybrid, v1.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;

use crate::process;
use crate::wait::wait_until;

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Whether it is cgroup2.
    pub v2: bool,
}

/// Every cgroup hierarchy in the mount table, v2 first.
#[must_use]
pub fn hierarchies() -> Vec<Hierarchy> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    parse_mounts(&table)
}

fn parse_mounts(table: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in table.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(mount), Some(kind)) = (fields.next(), fields.next()) else {
            continue;
        };
        let v2 = kind == "cgroup2";
        if (v2 || kind == "cgroup") && !found.iter().any(|h| h.mount == Path::new(mount)) {
            found.push(Hierarchy {
                mount: PathBuf::from(mount),
                v2,
            });
        }
    }
    found.sort_by_key(|h| !h.v2);
    found
}

/// The cgroup2 mount.
pub fn v2_mount() -> anyhow::Result<PathBuf> {
    hierarchies()
        .into_iter()
        .find(|h| h.v2)
        .map(|h| h.mount)
        .context("no cgroup2 hierarchy is mounted (the kernel programs attach to one)")
}

/// Lets children of `dir` use the controllers that it has. A controller that cannot be delegated is
/// left out: on hybrid hosts v1 holds it.
pub fn delegate(dir: &Path) {
    let have = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in have.split_whitespace() {
        if ["cpu", "memory", "pids", "io", "cpuset"].contains(&controller) {
            let _ = std::fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

/// The directory and everything below it, deepest first.
#[must_use]
pub fn subtree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(entries) = std::fs::read_dir(dir) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.extend(subtree(&entry.path()));
            }
        }
        found.push(dir.to_owned());
    }
    found
}

/// Pids in the directory itself.
#[must_use]
pub fn pids(dir: &Path) -> Vec<i32> {
    std::fs::read_to_string(dir.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .filter(|pid| *pid > 0)
        .collect()
}

/// Pids in the directory and below.
#[must_use]
pub fn pids_below(dir: &Path) -> Vec<i32> {
    let mut all: Vec<i32> = subtree(dir).iter().flat_map(|d| pids(d)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Ends every process in the subtree (SIGKILL, by pid) and removes its directories. Returns how
/// many processes and directories there were.
pub fn remove_tree(dir: &Path) -> anyhow::Result<(usize, usize)> {
    if !dir.exists() {
        return Ok((0, 0));
    }
    let mut ended = std::collections::BTreeSet::new();
    let what = format!("the processes in {} to end", dir.display());
    wait_until(Duration::from_secs(10), &what, || {
        let alive = pids_below(dir);
        for pid in &alive {
            ended.insert(*pid);
            process::signal(*pid, Signal::SIGKILL);
        }
        alive.is_empty().then_some(())
    })?;
    let mut n_dirs = 0;
    let what = format!("{} to become removable", dir.display());
    wait_until(Duration::from_secs(5), &what, || {
        for d in subtree(dir) {
            if std::fs::remove_dir(&d).is_ok() {
                n_dirs += 1;
            }
        }
        (!dir.exists()).then_some(())
    })?;
    Ok((ended.len(), n_dirs))
}

/// A cgroup2 directory that is emptied and removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes `<cgroup2 mount>/<name>`; the name must be unused.
    pub fn create(name: &str) -> anyhow::Result<Self> {
        let path = v2_mount()?.join(name);
        if path.exists() {
            bail!("cgroup {} exists already", path.display());
        }
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Pids below it.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        pids_below(&self.path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            eprintln!("failed to remove cgroup {}: {error:#}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_told_apart() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let got = parse_mounts(hybrid);
        assert_eq!(got.len(), 2);
        assert!(got[0].v2 && got[0].mount == Path::new("/sys/fs/cgroup/unified"));
        let pure = parse_mounts("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        assert_eq!(pure.len(), 1);
        assert!(parse_mounts("").is_empty());
    }
}

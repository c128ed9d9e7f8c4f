//! A snapshot of everything that Waggle could leave behind on a machine, for before/after checks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::names::Names;
use crate::wait::wait_until;
use crate::{bpf, cgroup, netns, process};

/// The kernel frees programs and maps a moment after the last holder let go (RCU).
const SETTLE: Duration = Duration::from_secs(5);

/// What there was at one moment, one readable line per object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    lines: BTreeSet<String>,
}

impl Snapshot {
    /// Takes one for the cluster with these names. Other clusters on the machine do not count.
    #[must_use]
    pub fn take(names: &Names) -> Self {
        let mut lines = BTreeSet::new();
        for name in netns::NetNs::list() {
            if names.owns_netns(&name) {
                lines.insert(format!("netns {name}"));
            }
        }
        for hierarchy in cgroup::hierarchies() {
            for dir in cgroup::subtree(&hierarchy.mount.join(names.cgroup())) {
                lines.insert(format!("cgroup {}", dir.display()));
            }
        }
        for pin in files_below(&names.bpf_dir()) {
            lines.insert(format!("pin {}", pin.display()));
        }
        for path in files_below(&names.state_dir()) {
            lines.insert(format!("file {}", path.display()));
        }
        lines.extend(mounts(names));
        let ours = processes(names);
        lines.extend(bpf_objects(names, &ours));
        let process = |pid: &i32| format!("process {pid} {}", process::comm(*pid));
        lines.extend(ours.iter().map(process));
        Self { lines }
    }

    /// What is left of the cluster after it was taken down, once the kernel has had the time to
    /// free what nobody holds.
    #[must_use]
    pub fn left_behind(names: &Names, before: &Self) -> Vec<String> {
        let mut left = Vec::new();
        let _ = wait_until(SETTLE, "the kernel to free what is not held", || {
            left = Self::take(names).new_since(before);
            left.is_empty().then_some(())
        });
        left
    }

    /// What is here and was not there.
    #[must_use]
    pub fn new_since(&self, before: &Self) -> Vec<String> {
        self.lines.difference(&before.lines).cloned().collect()
    }

    /// Every line.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

/// Mount points of ours in the own mount namespace, bpffs itself included.
fn mounts(names: &Names) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let state = names.state_dir();
    let bpf = names.bpf_dir();
    // In use by others, it is theirs to unmount.
    let others_pin = bpffs_entries().iter().any(|entry| *entry != bpf);
    table
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(at, kind)| {
            let netns = at
                .strip_prefix("/run/netns/")
                .is_some_and(|name| names.owns_netns(name));
            let ours = Path::new(at).starts_with(&state) || Path::new(at).starts_with(&bpf);
            (*kind == "bpf" && !others_pin) || netns || ours || *at == "/run/netns"
        })
        .map(|(at, kind)| format!("mount {at} ({kind})"))
        .collect()
}

/// What is pinned at the top of bpffs, without what the kernel itself puts there (`maps.debug`,
/// `progs.debug`).
pub(crate) fn bpffs_entries() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/sys/fs/bpf") else {
        return Vec::new();
    };
    let paths = entries.flatten().map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_none_or(|ext| ext != "debug"))
        .collect()
}

/// Processes in the cluster's cgroups, or that run a program of ours with the cluster's directory
/// among their arguments (a task that escaped its cgroup).
fn processes(names: &Names) -> Vec<i32> {
    let cgroup = format!("/{}", names.cgroup());
    let state = names.state_dir().display().to_string();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    process::all()
        .into_iter()
        .filter(|pid| *pid != own && process::alive(*pid))
        .filter(|pid| {
            let read = |file: &str| {
                std::fs::read(format!("/proc/{pid}/{file}"))
                    .map(|b| String::from_utf8_lossy(&b).into_owned())
                    .unwrap_or_default()
            };
            let in_cgroup = read("cgroup").lines().any(|line| {
                line.splitn(3, ':')
                    .nth(2)
                    .is_some_and(|path| path == cgroup || path.starts_with(&format!("{cgroup}/")))
            });
            let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            in_cgroup || read("cmdline").contains(&state) || cwd.starts_with(&state)
        })
        .collect()
}

/// Programs, maps and links in the kernel, by id, that nobody else is seen to hold: what we pinned,
/// what our processes hold, and what is attached without anybody holding it.
fn bpf_objects(names: &Names, ours: &[i32]) -> Vec<String> {
    // First the objects, then their holders: what others make meanwhile is not taken for ours.
    let mut objects = bpf::all();
    let own_dir = names.bpf_dir();
    let pins = files_below(Path::new("/sys/fs/bpf"));
    let others_pins = pins
        .iter()
        .map(PathBuf::as_path)
        .filter(|path| !path.starts_with(&own_dir));
    let others = bpf::pinned(others_pins);
    objects.retain(|object| !others.contains(object));
    if !objects.is_empty() {
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let pids = process::all();
        let strangers = pids
            .into_iter()
            .filter(|pid| *pid != own && !ours.contains(pid));
        let held = bpf::held_by(strangers);
        objects.retain(|object| !held.contains(object));
    }
    objects.into_iter().map(bpf::describe).collect()
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else {
        return found;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&path));
        }
        found.push(path);
    }
    found
}

//! Which hierarchies the host has, from `/proc/self/mountinfo`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{CgroupError, TaskCgroup};

/// Controllers that tasks are put into.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "blkio", "io"];

/// The directory of tasks in a v1 hierarchy, only ever ours: what is found there may be removed. (`tasks`
/// is a file in v1.)
const V1_TASKS: &str = "waggle.tasks";

/// RUNTIME.md section 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hierarchy {
    /// Pure v2: one hierarchy for everything.
    V2,
    /// v1 controllers, and a cgroup2 hierarchy beside them.
    Hybrid,
    /// v1 controllers only: no attribution by BPF.
    V1,
    /// No usable cgroups: tasks run without limits.
    None,
}

/// The host's hierarchies and where this node's tasks are in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupHost {
    hierarchy: Hierarchy,
    // The node's cgroup2 directory.
    root: Option<PathBuf>,
    // The same below the mount.
    root_path: PathBuf,
    // Controller names and the node's directory in that hierarchy.
    v1: Vec<(String, PathBuf)>,
}

impl CgroupHost {
    /// Without cgroups.
    pub fn none() -> Self {
        Self {
            hierarchy: Hierarchy::None,
            root: None,
            root_path: PathBuf::new(),
            v1: Vec::new(),
        }
    }

    /// Finds the hierarchies and prepares the node's directories.
    pub fn open(cgroup_root: &Path) -> Result<Self, CgroupError> {
        let mountinfo = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(mountinfo).map_err(CgroupError::new("read", mountinfo))?;
        let host = Self::from_mountinfo(&text, cgroup_root);
        host.prepare()?;
        Ok(host)
    }

    /// What `mountinfo` (proc(5)) says. A later mount hides an earlier one on the same directory.
    pub fn from_mountinfo(text: &str, cgroup_root: &Path) -> Self {
        let mut v2_mount: Option<PathBuf> = None;
        let mut v1_mounts: Vec<(String, PathBuf)> = Vec::new();
        for line in text.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = left.split(' ').nth(4).map(PathBuf::from) else {
                continue;
            };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") if cgroup_root.starts_with(&point) => v2_mount = Some(point),
                Some("cgroup") => {
                    let options = right.nth(1).unwrap_or_default();
                    let names: Vec<&str> = options
                        .split(',')
                        .filter(|o| CONTROLLERS.contains(o))
                        .collect();
                    if !names.is_empty() {
                        v1_mounts.push((names.join(","), point));
                    }
                }
                _ => {}
            }
        }
        // Where the node is in every hierarchy.
        let relative = match &v2_mount {
            Some(mount) => cgroup_root.strip_prefix(mount).unwrap_or(Path::new("")),
            None => cgroup_root
                .strip_prefix("/sys/fs/cgroup")
                .or_else(|_| cgroup_root.strip_prefix("/"))
                .unwrap_or(Path::new("waggle")),
        };
        let v1: Vec<(String, PathBuf)> = v1_mounts
            .into_iter()
            .map(|(names, mount)| (names, mount.join(relative).join(V1_TASKS)))
            .collect();
        let hierarchy = match (&v2_mount, v1.is_empty()) {
            (Some(_), true) => Hierarchy::V2,
            (Some(_), false) => Hierarchy::Hybrid,
            (None, false) => Hierarchy::V1,
            (None, true) => Hierarchy::None,
        };
        Self {
            hierarchy,
            root_path: Path::new("/").join(relative),
            root: v2_mount.map(|_| cgroup_root.to_owned()),
            v1,
        }
    }

    /// Which kind of host this is.
    pub fn hierarchy(&self) -> Hierarchy {
        self.hierarchy
    }

    /// Where a task's cgroups are, whether they exist or not.
    pub fn task(&self, task_id: &str) -> TaskCgroup {
        let path = self.root_path.join("tasks").join(task_id);
        TaskCgroup {
            v2_path: self
                .root
                .as_ref()
                .map_or_else(String::new, |_| path.display().to_string()),
            v2: self.root.as_ref().map(|r| r.join("tasks").join(task_id)),
            unified: self.hierarchy == Hierarchy::V2,
            v1: self
                .v1
                .iter()
                .map(|(names, dir)| (names.clone(), dir.join(task_id)))
                .collect(),
        }
    }

    /// Names of the task directories that exist in any hierarchy.
    pub fn existing_tasks(&self) -> Vec<String> {
        let tasks = self.root.as_ref().map(|r| r.join("tasks"));
        let dirs = tasks
            .into_iter()
            .chain(self.v1.iter().map(|(_, d)| d.clone()));
        let mut names: Vec<String> = dirs
            .flat_map(|dir| super::children(&dir))
            .filter_map(|p| Some(p.file_name()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    fn prepare(&self) -> Result<(), CgroupError> {
        if let Some(root) = &self.root {
            let tasks = root.join("tasks");
            fs::create_dir_all(&tasks).map_err(CgroupError::new("create cgroup", &tasks))?;
            if self.hierarchy == Hierarchy::V2 {
                leave(root)?;
                for dir in tasks
                    .ancestors()
                    .take_while(|d| d.starts_with("/sys/fs/cgroup"))
                {
                    enable_controllers(dir);
                }
            }
        }
        for (_, dir) in &self.v1 {
            fs::create_dir_all(dir).map_err(CgroupError::new("create cgroup", dir))?;
        }
        Ok(())
    }
}

/// A v2 cgroup with controllers for its children may have no processes itself: when we are in it, we
/// move to a leaf.
fn leave(root: &Path) -> Result<(), CgroupError> {
    let procs = root.join("cgroup.procs");
    let me = std::process::id().to_string();
    let here = fs::read_to_string(&procs).unwrap_or_default();
    // The root of the hierarchy is exempt; it is the one without cgroup.type.
    if !root.join("cgroup.type").exists() || !here.lines().any(|l| l == me) {
        return Ok(());
    }
    let leaf = root.join("agent");
    fs::create_dir_all(&leaf).map_err(CgroupError::new("create cgroup", &leaf))?;
    let procs = leaf.join("cgroup.procs");
    fs::write(&procs, me).map_err(CgroupError::new("write", &procs))
}

/// Best effort: a controller that cannot be enabled only means that its limit is not set.
fn enable_controllers(dir: &Path) {
    for controller in ["cpu", "memory", "pids", "io"] {
        let _: io::Result<()> =
            fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_host_has_both() {
        let root = Path::new("/sys/fs/cgroup/unified/wgl/n1");
        let host = CgroupHost::from_mountinfo(HYBRID, root);
        assert_eq!(host.hierarchy(), Hierarchy::Hybrid);
        let task = host.task("t1");
        assert_eq!(task.v2.as_deref(), Some(&*root.join("tasks/t1")));
        assert_eq!(task.v2_path, "/wgl/n1/tasks/t1");
        assert_eq!(
            task.controller("cpuacct"),
            Some(Path::new(
                "/sys/fs/cgroup/cpu,cpuacct/wgl/n1/waggle.tasks/t1"
            ))
        );
        assert_eq!(task.controller("pids"), None);
    }

    #[test]
    fn other_peoples_cgroups_are_never_taken_for_tasks() {
        let mount = Path::new("/sys/fs/cgroup/unified");
        let host = CgroupHost::from_mountinfo(HYBRID, mount);
        for (_, dir) in host.task("t1").v1 {
            assert!(dir.ends_with("waggle.tasks/t1"), "{}", dir.display());
        }
        assert_eq!(host.task("t1").v2, Some(mount.join("tasks/t1")));
    }

    #[test]
    fn a_v2_host_has_one_directory() {
        let text = "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let root = Path::new("/sys/fs/cgroup/waggle");
        let host = CgroupHost::from_mountinfo(text, root);
        assert_eq!(host.hierarchy(), Hierarchy::V2);
        let task = host.task("t1");
        assert_eq!(task.controller("memory"), task.v2.as_deref());
        assert_eq!(task.dirs().len(), 1);
    }

    #[test]
    fn a_v1_host_has_no_cgroup2_directory() {
        let text = "32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let host = CgroupHost::from_mountinfo(text, Path::new("/sys/fs/cgroup/waggle"));
        assert_eq!(host.hierarchy(), Hierarchy::V1);
        let task = host.task("t1");
        assert_eq!(
            task.kill_dir(),
            Some(Path::new("/sys/fs/cgroup/memory/waggle/waggle.tasks/t1"))
        );
        assert_eq!(
            CgroupHost::from_mountinfo("", Path::new("/x")).hierarchy(),
            Hierarchy::None
        );
    }
}

//! Which hierarchies the host has, from `/proc/self/mountinfo`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{CgroupError, TaskCgroup};

/// Controllers that tasks are put into.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "blkio", "io"];

/// The directory of tasks in every hierarchy where the node has no directory of its own, and in all where there are v1
/// ones (where `tasks` is a file): an OCI runtime puts a container at the same path in each, and nothing is to be moved
/// then. Only ever ours: what is found there may be removed.
const OWN_TASKS: &str = "waggle.tasks";
/// The same below a cgroup2 directory that is the node's alone, where that is all there is. Earlier versions had it on
/// hybrid hosts as well: their tasks may run still.
const TASKS: &str = "tasks";
/// Where the agent moves when it sits in the cgroup2 directory itself.
const LEAF: &str = "waggle.agent";

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
    // Name of the directory of tasks below `root`.
    tasks: &'static str,
    // Controller names and the node's directory of tasks in that hierarchy.
    v1: Vec<(String, PathBuf)>,
}

impl CgroupHost {
    /// Without cgroups.
    pub fn none() -> Self {
        Self {
            hierarchy: Hierarchy::None,
            root: None,
            root_path: PathBuf::new(),
            tasks: TASKS,
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
        // The same hierarchy may be mounted at several places: one is enough.
        let mut devices = BTreeSet::new();
        for line in text.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let mut left = left.split(' ').skip(2);
            let (Some(device), Some(point)) = (left.next(), left.nth(1).map(PathBuf::from)) else {
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
                    if !names.is_empty() && devices.insert(device) {
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
            .map(|(names, mount)| (names, mount.join(relative).join(OWN_TASKS)))
            .collect();
        let hierarchy = match (&v2_mount, v1.is_empty()) {
            (Some(_), true) => Hierarchy::V2,
            (Some(_), false) => Hierarchy::Hybrid,
            (None, false) => Hierarchy::V1,
            (None, true) => Hierarchy::None,
        };
        let is_mount = v2_mount.as_deref() == Some(cgroup_root);
        Self {
            hierarchy,
            tasks: if is_mount || hierarchy == Hierarchy::Hybrid {
                OWN_TASKS
            } else {
                TASKS
            },
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
        let before = self
            .tasks_before()
            .map(|dir| dir.join(task_id))
            .filter(|d| d.exists());
        let holder = if before.is_some() { TASKS } else { self.tasks };
        let path = self.root_path.join(holder).join(task_id);
        TaskCgroup {
            v2_path: self
                .root
                .as_ref()
                .map_or_else(String::new, |_| path.display().to_string()),
            runtime_path: match self.hierarchy {
                Hierarchy::None => String::new(),
                Hierarchy::V2 => path.display().to_string(),
                Hierarchy::Hybrid | Hierarchy::V1 => {
                    let path = self.root_path.join(OWN_TASKS).join(task_id);
                    path.display().to_string()
                }
            },
            v2: before.or_else(|| self.v2_tasks().map(|dir| dir.join(task_id))),
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
        let mut names: Vec<String> = self
            .holders()
            .flat_map(|dir| super::children(&dir))
            .filter_map(|p| Some(p.file_name()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Says that this process owns the directories of tasks, until the result is dropped: whoever else finds tasks there
    /// would take them for leftovers. `None` when another process owns one of them.
    pub fn claim(&self) -> Result<Option<Vec<Flock<File>>>, CgroupError> {
        let mut locks = Vec::new();
        for dir in self.holders() {
            let file = File::open(&dir).map_err(CgroupError::new("open", &dir))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => locks.push(lock),
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, e)) => return Err(CgroupError::new("lock", &dir)(e.into())),
            }
        }
        Ok(Some(locks))
    }

    fn v2_tasks(&self) -> Option<PathBuf> {
        self.root.as_ref().map(|root| root.join(self.tasks))
    }

    /// Where an agent before this one had the tasks of a hybrid host, if it did.
    fn tasks_before(&self) -> Option<PathBuf> {
        let root = self.root.as_ref()?;
        let dir = root.join(TASKS);
        // At the hierarchy's root it was never ours.
        let ours = self.hierarchy == Hierarchy::Hybrid && self.root_path != Path::new("/");
        (ours && dir.exists()).then_some(dir)
    }

    /// The directories of tasks, one in each hierarchy.
    fn holders(&self) -> impl Iterator<Item = PathBuf> {
        let v1 = self.v1.iter().map(|(_, dir)| dir.clone());
        let v2 = self.v2_tasks().into_iter().chain(self.tasks_before());
        v2.chain(v1)
    }

    fn prepare(&self) -> Result<(), CgroupError> {
        if let (Some(root), Some(tasks)) = (&self.root, self.v2_tasks()) {
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
        if let Some(before) = self.tasks_before() {
            // Stays as long as a task is in there.
            let _ = fs::remove_dir(before);
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
    let leaf = root.join(LEAF);
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

    #[test]
    fn a_hierarchy_that_is_mounted_twice_counts_once() {
        let again = "40 30 0:28 / /mnt/chroot/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let root = Path::new("/sys/fs/cgroup/unified");
        let text = format!("{HYBRID}{again}");
        assert_eq!(
            CgroupHost::from_mountinfo(&text, root),
            CgroupHost::from_mountinfo(HYBRID, root)
        );
    }

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
        assert_eq!(task.v2.as_deref(), Some(&*root.join("waggle.tasks/t1")));
        assert_eq!(task.v2_path, "/wgl/n1/waggle.tasks/t1");
        assert_eq!(task.runtime_path, task.v2_path, "nothing is to be moved");
        assert_eq!(
            task.controller("cpuacct"),
            Some(Path::new(
                "/sys/fs/cgroup/cpu,cpuacct/wgl/n1/waggle.tasks/t1"
            ))
        );
        assert_eq!(task.controller("pids"), None);
    }

    #[test]
    fn at_the_root_of_any_hierarchy_tasks_have_a_directory_of_ours() {
        let pure = "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        for (text, mount) in [
            (HYBRID, "/sys/fs/cgroup/unified"),
            (HYBRID, "/sys/fs/cgroup/unified/"),
            (pure, "/sys/fs/cgroup"),
        ] {
            let host = CgroupHost::from_mountinfo(text, Path::new(mount));
            let task = host.task("t1");
            assert!(!task.dirs().is_empty());
            for dir in task.dirs() {
                assert!(dir.ends_with("waggle.tasks/t1"), "{}", dir.display());
            }
            for dir in host.holders() {
                assert!(dir.ends_with("waggle.tasks"), "{}", dir.display());
            }
            assert_eq!(task.v2_path, "/waggle.tasks/t1");
            assert_eq!(task.runtime_path, task.v2_path, "nothing is to be moved");
        }
    }

    /// A host whose hierarchies are plain directories.
    fn fake(dir: &Path) -> CgroupHost {
        fake_at(dir, "unified")
    }

    fn fake_at(dir: &Path, root: &str) -> CgroupHost {
        let line = |device: &str, point: &str, kind: &str, options: &str| {
            let point = dir.join(point);
            fs::create_dir_all(&point).unwrap();
            format!(
                "1 1 {device} / {} rw - {kind} x {options}\n",
                point.display()
            )
        };
        let text = line("0:1", "memory", "cgroup", "rw,memory")
            + &line("0:2", "systemd", "cgroup", "rw,name=systemd")
            + &line("0:3", "unified", "cgroup2", "rw");
        CgroupHost::from_mountinfo(&text, &dir.join(root))
    }

    #[test]
    fn tasks_of_an_earlier_version_stay_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let before = dir.path().join("unified/n1/tasks/old");
        fs::create_dir_all(&before).unwrap();
        let host = fake_at(dir.path(), "unified/n1");
        host.prepare().unwrap();
        let (old, new) = (host.task("old"), host.task("new"));
        assert_eq!(
            (old.v2.as_ref(), old.v2_path.as_str()),
            (Some(&before), "/n1/tasks/old")
        );
        assert_eq!(new.v2_path, "/n1/waggle.tasks/new");
        for dir in new.dirs() {
            fs::create_dir_all(dir).unwrap();
        }
        assert_eq!(host.existing_tasks(), ["new", "old"]);
        old.remove(std::time::Duration::ZERO).unwrap();
        assert_eq!(host.existing_tasks(), ["new"]);
    }

    #[test]
    fn nothing_foreign_is_listed_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let host = fake(dir.path());
        assert_eq!(host.hierarchy(), Hierarchy::Hybrid);
        // What else is on a real node, names of ours at other places included.
        let foreign = [
            "unified/system.slice/ssh.service",
            "unified/tasks/other",
            "unified/t1",
            "memory/docker/0123",
            "memory/t1",
            "memory/waggle/t1",
            "systemd/waggle.tasks/t9",
        ]
        .map(|d| dir.path().join(d));
        for d in &foreign {
            fs::create_dir_all(d).unwrap();
        }
        host.prepare().unwrap();
        assert_eq!(host.existing_tasks(), Vec::<String>::new());
        for name in ["t1", "t2"] {
            for d in host.task(name).dirs() {
                fs::create_dir_all(d).unwrap();
            }
        }
        assert_eq!(host.existing_tasks(), ["t1", "t2"]);
        for name in host.existing_tasks() {
            let gone = host.task(&name);
            gone.remove(std::time::Duration::ZERO).unwrap();
        }
        assert_eq!(host.existing_tasks(), Vec::<String>::new());
        for d in &foreign {
            assert!(d.is_dir(), "{}", d.display());
        }
    }

    #[test]
    fn two_agents_do_not_share_tasks() {
        let dir = tempfile::tempdir().unwrap();
        let host = fake(dir.path());
        host.prepare().unwrap();
        let first = host.claim().unwrap().unwrap();
        assert_eq!(first.len(), 2);
        assert!(host.claim().unwrap().is_none());
        drop(first);
        assert!(host.claim().unwrap().is_some());
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

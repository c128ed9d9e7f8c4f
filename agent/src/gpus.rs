//! Which GPUs the node has, and whose they are.
//!
//! They are found by what their drivers show: `/proc/driver/nvidia/gpus` of NVIDIA's, and render nodes of `amdgpu` below
//! `/sys/class/drm`; or they are the device nodes that the operator names. A GPU is one task's alone. Which ones a task
//! has is written down, so that the next agent knows; it holds for one boot.
//!
//! A container sees the device nodes of its GPUs and no others. A plain process sees what its user may open: it is only
//! told, by `NVIDIA_VISIBLE_DEVICES` and the like, which are its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use waggle_types::{ScalarKind, TaskId, TaskSpec};

use crate::shim::read_json;

/// PCI vendor of AMD.
const AMD: &str = "0x1002";
/// Device nodes that every user of an NVIDIA GPU needs, where they are.
const NVIDIA_SHARED: [&str; 4] = [
    "nvidiactl",
    "nvidia-uvm",
    "nvidia-uvm-tools",
    "nvidia-modeset",
];
/// The same of AMD's.
const AMD_SHARED: [&str; 1] = ["kfd"];

/// How programs are told which GPUs are theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vendor {
    Nvidia,
    Amd,
    /// By the operator's word.
    Named,
}

/// A GPU of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// What it is known by from one start to the next: UUID, or the path of its device node.
    pub id: String,
    /// For people.
    pub model: String,
    /// Device nodes of its own, and those that it shares with others.
    pub nodes: Vec<PathBuf>,
    vendor: Vendor,
    // Its number among those of its kind, as libraries count.
    index: usize,
}

/// Where GPUs are found. Blocking.
pub trait Source {
    /// Those that there are, in a stable order.
    fn gpus(&self) -> Vec<Gpu>;
}

/// What the drivers show below this directory: `/`, but for tests.
pub struct Drivers<'a>(pub &'a Path);

/// The device nodes that the operator names.
pub struct Named<'a>(pub &'a [PathBuf]);

impl Source for Drivers<'_> {
    fn gpus(&self) -> Vec<Gpu> {
        let mut all = self.nvidia();
        all.extend(self.amd());
        all
    }
}

impl Drivers<'_> {
    /// `/proc/driver/nvidia/gpus/<PCI address>/information`.
    fn nvidia(&self) -> Vec<Gpu> {
        let mut found: Vec<(u32, Gpu)> = Vec::new();
        for dir in names(&self.0.join("proc/driver/nvidia/gpus")) {
            let text = fs::read_to_string(dir.join("information")).unwrap_or_default();
            let field = |key: &str| {
                let mut all = text.lines().filter_map(|l| l.split_once(':'));
                all.find(|(k, _)| k.trim() == key)
                    .map(|(_, v)| v.trim().to_owned())
            };
            let Some(minor) = field("Device Minor").and_then(|m| m.parse::<u32>().ok()) else {
                continue;
            };
            let node = self.0.join(format!("dev/nvidia{minor}"));
            let gpu = Gpu {
                // A driver that can't tell shows question marks.
                id: field("GPU UUID")
                    .filter(|id| !id.contains('?'))
                    .unwrap_or_else(|| node.display().to_string()),
                model: field("Model").unwrap_or_else(|| "NVIDIA".to_owned()),
                nodes: self.with_shared(node, &NVIDIA_SHARED),
                vendor: Vendor::Nvidia,
                index: 0,
            };
            found.push((minor, gpu));
        }
        found.sort_by_key(|(minor, _)| *minor);
        numbered(found.into_iter().map(|(_, gpu)| gpu))
    }

    /// `/sys/class/drm/renderD<minor>/device/vendor`.
    fn amd(&self) -> Vec<Gpu> {
        let dirs = names(&self.0.join("sys/class/drm"));
        let gpus = dirs.iter().filter_map(|dir| {
            let name = dir.file_name()?.to_str()?;
            let vendor = fs::read_to_string(dir.join("device/vendor")).ok()?;
            if !name.starts_with("renderD") || vendor.trim() != AMD {
                return None;
            }
            let node = self.0.join("dev/dri").join(name);
            Some(Gpu {
                id: node.display().to_string(),
                model: "AMD".to_owned(),
                nodes: self.with_shared(node, &AMD_SHARED),
                vendor: Vendor::Amd,
                index: 0,
            })
        });
        numbered(gpus)
    }

    fn with_shared(&self, own: PathBuf, shared: &[&str]) -> Vec<PathBuf> {
        let shared = shared.iter().map(|name| self.0.join("dev").join(name));
        std::iter::once(own)
            .chain(shared.filter(|path| path.exists()))
            .collect()
    }
}

impl Source for Named<'_> {
    fn gpus(&self) -> Vec<Gpu> {
        numbered(self.0.iter().map(|path| Gpu {
            id: path.display().to_string(),
            model: path.display().to_string(),
            nodes: vec![path.clone()],
            vendor: Vendor::Named,
            index: 0,
        }))
    }
}

/// Entries of a directory, sorted.
fn names(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = entries.map(|e| e.path()).collect();
    all.sort();
    all
}

fn numbered(gpus: impl Iterator<Item = Gpu>) -> Vec<Gpu> {
    gpus.enumerate()
        .map(|(index, gpu)| Gpu { index, ..gpu })
        .collect()
}

/// The node's: the operator's, or those that are found. Blocking.
pub fn discover(named: Option<&[PathBuf]>) -> Vec<Gpu> {
    match named {
        Some(paths) => Named(paths).gpus(),
        None => Drivers(Path::new("/")).gpus(),
    }
}

/// What a task was given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assigned {
    /// Device nodes to put into its container, and to allow there.
    pub devices: Vec<DeviceNode>,
    /// Says which are its own.
    pub env: Vec<(String, String)>,
}

/// A character device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// On the host and inside.
    pub path: PathBuf,
    /// Its driver.
    pub major: u32,
    /// Which of the driver's.
    pub minor: u32,
    /// Permissions and owner, as on the host.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl DeviceNode {
    /// Looks at the host's. Blocking.
    fn of(path: &Path) -> Result<Self, String> {
        let what = |why: &str| format!("gpus: device {}: {why}", path.display());
        let meta = fs::metadata(path).map_err(|e| what(&e.to_string()))?;
        if !meta.file_type().is_char_device() {
            return Err(what("is no character device"));
        }
        let part = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Self {
            path: path.to_owned(),
            major: part(nix::sys::stat::major(meta.rdev())),
            minor: part(nix::sys::stat::minor(meta.rdev())),
            mode: meta.mode() & 0o777,
            uid: meta.uid(),
            gid: meta.gid(),
        })
    }
}

/// Whose GPUs are whose.
pub struct Gpus {
    all: Vec<Gpu>,
    file: PathBuf,
    boot: String,
    held: Mutex<BTreeMap<TaskId, Vec<String>>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    boot: String,
    held: BTreeMap<String, Vec<String>>,
}

impl Gpus {
    /// With what an earlier agent gave. Blocking.
    pub fn open(work_dir: &Path, all: Vec<Gpu>) -> Self {
        let file = work_dir.join("gpus.json");
        let boot = crate::sys::boot_id();
        let stored: Option<Stored> = read_json(&file).ok().flatten();
        let held = stored
            .filter(|s| s.boot == boot)
            .map_or_else(BTreeMap::new, |s| {
                let known = |(id, gpus)| Some((TaskId::new(id).ok()?, gpus));
                s.held.into_iter().filter_map(known).collect()
            });
        Self {
            all,
            file,
            boot,
            held: Mutex::new(held),
        }
    }

    /// Gives a task as many as it asks for; the same again when it asks again. `None` where it asks for none, or where
    /// the operator only counts GPUs and named no devices. Blocking.
    pub fn take(&self, spec: &TaskSpec) -> Result<Option<Assigned>, String> {
        let asked = spec.resources.get(ScalarKind::Gpus).0;
        if asked <= 0 || self.all.is_empty() {
            return Ok(None);
        }
        if asked % 1000 != 0 {
            return Err(format!("gpus: must be whole, is {}", asked as f64 / 1000.0));
        }
        let n = usize::try_from(asked / 1000).unwrap_or(usize::MAX);
        let mut held = self.lock();
        let mine = held.get(&spec.task_id).cloned();
        let chosen: Vec<&Gpu> = if let Some(mine) = mine {
            self.all.iter().filter(|g| mine.contains(&g.id)).collect()
        } else {
            let taken: BTreeSet<&String> = held.values().flatten().collect();
            let free = self.all.iter().filter(|g| !taken.contains(&g.id));
            let chosen: Vec<&Gpu> = free.take(n).collect();
            if chosen.len() < n {
                return Err(format!(
                    "gpus: {n} asked for, {} of this node's {} are free",
                    chosen.len(),
                    self.all.len()
                ));
            }
            chosen
        };
        let mut devices: Vec<DeviceNode> = Vec::new();
        for path in chosen.iter().flat_map(|g| &g.nodes) {
            if !devices.iter().any(|d| d.path == *path) {
                devices.push(DeviceNode::of(path)?);
            }
        }
        let ids = chosen.iter().map(|g| g.id.clone()).collect();
        held.insert(spec.task_id.clone(), ids);
        self.save(&held)
            .map_err(|e| format!("gpus: failed to write {}: {e}", self.file.display()))?;
        Ok(Some(Assigned {
            devices,
            env: environment(&chosen),
        }))
    }

    /// They are free again. Blocking.
    pub fn release(&self, task_id: &TaskId) -> io::Result<()> {
        let mut held = self.lock();
        match held.remove(task_id) {
            Some(_) => self.save(&held),
            None => Ok(()),
        }
    }

    /// After a restart: what no living task has is free. Blocking.
    pub fn keep(&self, live: &BTreeMap<TaskId, TaskSpec>) -> io::Result<()> {
        let mut held = self.lock();
        let before = held.len();
        held.retain(|id, _| live.contains_key(id));
        if held.len() == before {
            return Ok(());
        }
        self.save(&held)
    }

    fn save(&self, held: &BTreeMap<TaskId, Vec<String>>) -> io::Result<()> {
        let stored = Stored {
            boot: self.boot.clone(),
            held: held
                .iter()
                .map(|(id, gpus)| (id.as_str().to_owned(), gpus.clone()))
                .collect(),
        };
        crate::shim::write_json_for_boot(&self.file, &stored)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, Vec<String>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What libraries read: CUDA and its container tools, ROCm.
fn environment(gpus: &[&Gpu]) -> Vec<(String, String)> {
    let list = |vendor, name: fn(&Gpu) -> String| {
        let all: Vec<String> = gpus
            .iter()
            .filter(|g| g.vendor == vendor)
            .map(|g| name(g))
            .collect();
        (!all.is_empty()).then(|| all.join(","))
    };
    let mut env = Vec::new();
    let named = list(Vendor::Named, |g| g.index.to_string());
    if let Some(ids) = list(Vendor::Nvidia, |g| g.id.clone()).or(named) {
        env.push(("NVIDIA_VISIBLE_DEVICES".to_owned(), ids.clone()));
        env.push(("CUDA_VISIBLE_DEVICES".to_owned(), ids));
    }
    if let Some(numbers) = list(Vendor::Amd, |g| g.index.to_string()) {
        env.push(("ROCR_VISIBLE_DEVICES".to_owned(), numbers));
    }
    env
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    use waggle_types::Milli;

    use super::*;
    use crate::fixture;

    /// A device node that does what `/dev/null` does; `None`, said loudly, without the right to make one.
    fn node(path: &Path) -> Option<()> {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let made = mknod(
            path,
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(0o660),
            makedev(1, 3),
        );
        if made.is_err() {
            eprintln!("SKIP: device nodes need root");
        }
        made.ok()
    }

    fn nvidia(root: &Path, pci: &str, minor: u32, uuid: &str) -> Option<()> {
        let dir = root.join("proc/driver/nvidia/gpus").join(pci);
        fs::create_dir_all(&dir).unwrap();
        let text = format!(
            "Model: \t\t NVIDIA A100\nIRQ:   \t\t 200\nGPU UUID: \t {uuid}\nBus Type: \t PCIe\n\
             Device Minor: \t {minor}\n"
        );
        fs::write(dir.join("information"), text).unwrap();
        node(&root.join(format!("dev/nvidia{minor}")))
    }

    fn task(id: &str, gpus_milli: i64) -> TaskSpec {
        let mut spec = fixture::spec(id);
        spec.resources.scalars[ScalarKind::Gpus as usize] = Milli(gpus_milli);
        spec
    }

    fn paths(root: &Path, assigned: &Assigned) -> Vec<String> {
        let below = |d: &DeviceNode| d.path.strip_prefix(root).unwrap().display().to_string();
        assigned.devices.iter().map(below).collect()
    }

    #[test]
    fn gpus_are_what_their_drivers_show() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(Drivers(root).gpus(), []);
        let made = nvidia(root, "0000:41:00.0", 1, "GPU-b")
            .and_then(|()| nvidia(root, "0000:c1:00.0", 0, "GPU-????????"))
            .and_then(|()| node(&root.join("dev/nvidiactl")));
        if made.is_none() {
            return;
        }
        for (name, vendor) in [
            ("renderD128", "0x8086"),
            ("renderD129", AMD),
            ("card1", AMD),
        ] {
            let device = root.join("sys/class/drm").join(name).join("device");
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("vendor"), format!("{vendor}\n")).unwrap();
        }
        let found = Drivers(root).gpus();
        let ids: Vec<String> = found
            .iter()
            .map(|g| g.id.replace(&root.display().to_string(), ""))
            .collect();
        assert_eq!(ids, ["/dev/nvidia0", "GPU-b", "/dev/dri/renderD129"]);
        assert_eq!(found[1].model, "NVIDIA A100");
        assert_eq!(
            found[1].nodes,
            [root.join("dev/nvidia1"), root.join("dev/nvidiactl")]
        );
    }

    #[test]
    fn a_gpu_is_one_tasks_alone_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let made = nvidia(&root, "a", 0, "GPU-0")
            .and_then(|()| nvidia(&root, "b", 1, "GPU-1"))
            .and_then(|()| node(&root.join("dev/nvidiactl")));
        if made.is_none() {
            return;
        }
        let gpus = Gpus::open(dir.path(), Drivers(&root).gpus());
        assert_eq!(gpus.take(&task("none", 0)), Ok(None));
        let a = gpus.take(&task("a", 1000)).unwrap().unwrap();
        assert_eq!(paths(&root, &a), ["dev/nvidia0", "dev/nvidiactl"]);
        assert_eq!((a.devices[0].major, a.devices[0].minor), (1, 3));
        assert_eq!(a.env[0], ("NVIDIA_VISIBLE_DEVICES".into(), "GPU-0".into()));
        let b = gpus.take(&task("b", 1000)).unwrap().unwrap();
        assert_eq!(paths(&root, &b), ["dev/nvidia1", "dev/nvidiactl"]);
        assert_eq!(
            gpus.take(&task("c", 2000)).unwrap_err(),
            "gpus: 2 asked for, 0 of this node's 2 are free"
        );
        assert_eq!(
            gpus.take(&task("c", 500)).unwrap_err(),
            "gpus: must be whole, is 0.5"
        );

        // The next agent knows; what has no task any more is free.
        let gpus = Gpus::open(dir.path(), Drivers(&root).gpus());
        gpus.keep(&[(b_id(), task("b", 1000))].into()).unwrap();
        let c = gpus.take(&task("c", 1000)).unwrap().unwrap();
        assert_eq!(paths(&root, &c), ["dev/nvidia0", "dev/nvidiactl"]);
        gpus.take(&task("d", 1000)).unwrap_err();
        gpus.release(&b_id()).unwrap();
        gpus.release(&b_id()).unwrap();
        let d = gpus.take(&task("d", 1000)).unwrap().unwrap();
        assert_eq!(paths(&root, &d), ["dev/nvidia1", "dev/nvidiactl"]);
        assert_eq!(gpus.take(&task("d", 1000)), Ok(Some(d)), "asked again");
    }

    fn b_id() -> TaskId {
        TaskId::new("b").unwrap()
    }

    #[test]
    fn the_operator_may_name_devices_or_only_count_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fake0");
        if node(&path).is_none() {
            return;
        }
        let missing = dir.path().join("missing");
        let gpus = Gpus::open(dir.path(), discover(Some(&[path.clone(), missing.clone()])));
        let first = gpus.take(&task("a", 1000)).unwrap().unwrap();
        assert_eq!(first.devices[0].path, path);
        assert_eq!(first.env[0].1, "0");
        let why = gpus.take(&task("b", 1000)).unwrap_err();
        assert!(
            why.starts_with(&format!("gpus: device {}: ", missing.display())),
            "{why}"
        );
        let counted = Gpus::open(dir.path(), discover(Some(&[])));
        assert_eq!(counted.take(&task("a", 1000)), Ok(None));
    }
}

//! Making what a task's mounts lead to, and taking it away again: the steps that touch files.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use waggle_types::{TaskId, TaskSpec};

use super::{
    BindMount, Inner,
    disks::DiskKind,
    plan::{self, Planned, Source, Target},
    records,
};
use crate::{
    shim::UserIds,
    unpack::root::{Below, Root},
};

impl Inner {
    /// Makes all of them in order; answers what the runtime is to bind.
    pub(super) fn make(
        &self,
        spec: &TaskSpec,
        planned: &[Planned],
        sandbox: &Path,
        owner: Option<&UserIds>,
    ) -> Result<Vec<BindMount>, String> {
        let has_image = spec.container.image.is_some();
        let root =
            Root::open(sandbox, owner).map_err(|e| format!("failed to open the sandbox: {e}"))?;
        let mut out = Vec::new();
        for (n, p) in planned.iter().enumerate() {
            let from = self.source(spec, p, &root, sandbox, owner)?;
            match &p.target {
                Target::Inside(path) => out.push(BindMount {
                    from,
                    target: path.display().to_string(),
                    read_only: p.read_only,
                }),
                Target::Sandbox(path) if has_image => {
                    mount_point(&root, path, &from)?;
                    out.push(BindMount {
                        from,
                        target: path.display().to_string(),
                        read_only: p.read_only,
                    });
                }
                Target::Sandbox(path) => {
                    let to = if p.read_only {
                        self.bind_read_only(&spec.task_id, n, &from)?
                    } else {
                        from
                    };
                    link(&root, path, &to)?;
                }
            }
        }
        Ok(out)
    }

    /// What a mount leads to; made where it is missing and may be made.
    fn source(
        &self,
        spec: &TaskSpec,
        planned: &Planned,
        root: &Root,
        sandbox: &Path,
        owner: Option<&UserIds>,
    ) -> Result<PathBuf, String> {
        match &planned.source {
            Source::Volume(id) => {
                let Some((_, volume)) = spec.volumes().find(|(of, _)| *of == id) else {
                    return Err(format!("volume {id}: is not among the task's resources"));
                };
                if let Some(disk) = self.volumes.disk(id)?
                    && disk.kind == DiskKind::Mount
                {
                    let all = disk.detect().map_err(|e| e.to_string())?;
                    if volume.size != all {
                        return Err(format!(
                            "volume {id}: disk {} is one volume of {all} MiB, not {}",
                            disk.name, volume.size
                        ));
                    }
                }
                self.volumes.make(id, volume.shared, owner)
            }
            Source::Host(path) => {
                // Links count as where they lead to.
                let real = fs::canonicalize(path)
                    .map_err(|e| format!("failed to find {} on the host: {e}", path.display()))?;
                plan::host_path(&real.display().to_string(), &self.real_host_paths())?;
                Ok(real)
            }
            Source::Shared(path) => match &spec.container.pod {
                Some(pod) => {
                    let dir = self.pod_dir(pod);
                    let made = || -> io::Result<PathBuf> {
                        fs::create_dir_all(&dir)?;
                        Root::open(&dir, owner)?.make_dir(&below(path)?)?;
                        Ok(dir.join(path))
                    };
                    made().map_err(|e| format!("failed to make {}: {e}", path.display()))
                }
                None => below(path)
                    .and_then(|b| root.make_dir(&b))
                    .map(|()| sandbox.join(path))
                    .map_err(|e| format!("failed to make {} in the sandbox: {e}", path.display())),
            },
            Source::External(volume) => {
                Err(format!("external volume {} was not published", volume.name))
            }
            Source::Published(path) => Ok(path.clone()),
        }
    }

    fn real_host_paths(&self) -> Vec<PathBuf> {
        let real = |p: &PathBuf| fs::canonicalize(p).unwrap_or_else(|_| p.clone());
        self.host_paths.iter().map(real).collect()
    }

    /// What a pod's tasks share.
    pub(super) fn pod_dir(&self, pod: &str) -> PathBuf {
        self.work_dir
            .join("storage/pods")
            .join(records::file_name(pod))
    }

    fn mounts_dir(&self, task_id: &TaskId) -> PathBuf {
        self.work_dir.join("storage/mounts").join(task_id.as_str())
    }

    /// A link can't keep anybody from writing; a mount can. Outside of the sandbox, which is removed with all in it.
    fn bind_read_only(&self, task_id: &TaskId, n: usize, from: &Path) -> Result<PathBuf, String> {
        let at = self.mounts_dir(task_id).join(n.to_string());
        let done = || -> io::Result<()> {
            if let Some(parent) = at.parent() {
                fs::create_dir_all(parent)?;
            }
            if from.is_dir() {
                fs::create_dir_all(&at)?;
            } else {
                fs::File::create(&at)?;
            }
            let none: Option<&str> = None;
            mount(Some(from), &at, none, MsFlags::MS_BIND, none)?;
            let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(none, &at, none, read_only, none)?;
            Ok(())
        };
        done().map_err(|e| format!("failed to mount {} read-only: {e}", from.display()))?;
        Ok(at)
    }

    /// Takes a task's read-only mounts off. What is mounted can't be removed by mistake: directories are removed one by
    /// one, and only empty ones.
    pub(super) fn unmount(&self, task_id: &TaskId) -> io::Result<()> {
        let dir = self.mounts_dir(task_id);
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let path = entry?.path();
            // Until nothing is mounted there any more: an agent that was killed may have mounted twice.
            let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
            while umount2(&path, flags).is_ok() {}
            if path.is_dir() {
                fs::remove_dir(&path)?;
            } else {
                fs::remove_file(&path)?;
            }
        }
        fs::remove_dir(&dir)
    }
}

/// Where the runtime mounts over something of the sandbox, it must be there, and be no link.
fn mount_point(root: &Root, path: &Path, from: &Path) -> Result<(), String> {
    let made = below(path).and_then(|b| {
        if from.is_dir() {
            root.make_dir(&b)
        } else {
            root.create(&b, 0o644).map(drop)
        }
    });
    made.map_err(|e| format!("failed to make {} in the sandbox: {e}", path.display()))
}

fn below(path: &Path) -> io::Result<Below> {
    Below::new(path.as_os_str().as_bytes())
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

/// A link at a path of the sandbox; one that is there already is fine.
fn link(root: &Root, path: &Path, to: &Path) -> Result<(), String> {
    let made = below(path).and_then(|b| root.symlink(&b, to.as_os_str()));
    made.map_err(|e| format!("failed to link {} into the sandbox: {e}", path.display()))
}

/// Removes a directory and all in it; one that is not there is fine.
pub(super) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

//! A task's root file system: its image's layers below a directory of its own, by overlayfs.
//!
//! The directory `root` of the task's own holds `upper` and `work` (what the task writes), `merged` (the mount) and
//! `image.json` (which image it is, for the agent after this one).

use std::{
    fs::{self, File, Permissions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
};
use serde::{Deserialize, Serialize};

use super::{digest::Digest, unpack::remove_path};
use crate::shim::{read_json, write_json_for_boot};

/// What mount(2) takes as options: a page, with its final NUL.
const MAX_OPTIONS: usize = 4095;

/// Where a task's own files over its image's are, below its directory.
pub fn written(task_dir: &Path) -> PathBuf {
    task_dir.join("root/upper")
}

/// A task's directory for its root.
pub struct RootDir {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Of {
    image: Digest,
    layers: Vec<Digest>,
}

impl RootDir {
    /// Below the task's directory.
    pub fn new(task_dir: &Path) -> Self {
        Self {
            path: task_dir.join("root"),
        }
    }

    /// Which image it is of, and which layers.
    pub fn image(&self) -> Option<(Digest, Vec<Digest>)> {
        let of: Option<Of> = read_json(&self.path.join("image.json")).ok().flatten();
        of.map(|o| (o.image, o.layers))
    }

    /// Whether there is anything.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Mounts it: `layers`, the lowest first, each with where its files are, below a new empty directory. Blocking.
    pub fn make(&self, image: Digest, layers: &[(Digest, PathBuf)]) -> io::Result<PathBuf> {
        // What an earlier try left.
        self.remove()?;
        fs::create_dir_all(&self.path)?;
        // Images hold set-uid programs; the way to them is not for the host's users.
        fs::set_permissions(&self.path, Permissions::from_mode(0o700))?;
        let (ids, layers): (Vec<Digest>, Vec<PathBuf>) = layers.iter().cloned().unzip();
        let of = Of { image, layers: ids };
        write_json_for_boot(&self.path.join("image.json"), &of)?;
        let [upper, work, merged, none] =
            ["upper", "work", "merged", "none"].map(|d| self.path.join(d));
        for dir in [&upper, &work, &merged] {
            fs::create_dir(dir)?;
        }
        let mut lower = lower(&layers);
        // Its top decides the root's owner and permissions, unless upper's say otherwise: they are copied.
        if let Some(top) = lower.first() {
            let of = fs::metadata(top)?;
            fs::set_permissions(&upper, of.permissions())?;
            chown(&upper, Some(of.uid()), Some(of.gid()))?;
        } else {
            fs::create_dir(&none)?;
            fs::set_permissions(&upper, Permissions::from_mode(0o755))?;
            lower.push(&none);
        }
        let mut options = options(&lower, &upper, &work);
        // The kernel resolves them while it mounts; then they may be closed.
        let mut opened = Vec::new();
        if options.len() > MAX_OPTIONS {
            let short: Vec<PathBuf> = lower
                .iter()
                .map(|dir| {
                    let file = File::open(dir)?;
                    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
                    opened.push(file);
                    Ok(path)
                })
                .collect::<io::Result<_>>()?;
            let short: Vec<&Path> = short.iter().map(PathBuf::as_path).collect();
            options = self::options(&short, &upper, &work);
        }
        let kind = Some("overlay");
        mount(
            kind,
            &merged,
            kind,
            MsFlags::MS_NODEV,
            Some(options.as_str()),
        )
        .map_err(|e| {
            io::Error::new(
                io::Error::from(e).kind(),
                format!(
                    "mount(overlay) of {} layers on {}: {e}",
                    lower.len(),
                    merged.display()
                ),
            )
        })?;
        Ok(merged)
    }

    /// Unmounts and removes it; nothing that is not there. Blocking.
    pub fn remove(&self) -> io::Result<()> {
        let merged = self.path.join("merged");
        if merged.exists() {
            // Also what was mounted over it. Processes that are left there keep the files, not the mount.
            let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
            loop {
                match umount2(&merged, flags) {
                    Ok(()) => {}
                    // Not a mount (any more).
                    Err(Errno::EINVAL | Errno::ENOENT) => break,
                    // Without the right to mount nothing was mounted.
                    Err(Errno::EPERM) if !nix::unistd::geteuid().is_root() => break,
                    Err(e) => return Err(e.into()),
                }
            }
        }
        remove_path(&self.path)
    }
}

/// The directories as overlayfs wants them: the top first, each once. A layer that comes twice hides itself below: all
/// that it has, and all that it takes away, is on top again.
fn lower(layers: &[PathBuf]) -> Vec<&Path> {
    let mut out: Vec<&Path> = Vec::with_capacity(layers.len());
    for layer in layers.iter().rev() {
        if !out.contains(&layer.as_path()) {
            out.push(layer);
        }
    }
    out
}

/// Options of the mount. Layers can't lead it elsewhere: their `trusted.overlay.*` attributes were not unpacked, and
/// what would follow them is off.
fn options(lower: &[&Path], upper: &Path, work: &Path) -> String {
    let lower: Vec<String> = lower.iter().map(|p| escaped(p, true)).collect();
    format!(
        "lowerdir={},upperdir={},workdir={},index=off,metacopy=off,redirect_dir=nofollow",
        lower.join(":"),
        escaped(upper, false),
        escaped(work, false)
    )
}

/// `:` divides directories, `,` divides options.
fn escaped(path: &Path, in_list: bool) -> String {
    let mut out = String::new();
    for c in path.to_string_lossy().chars() {
        if c == '\\' || c == ',' || (c == ':' && in_list) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_overlayfs_s() {
        let layers = ["/s/1", "/s/2", "/s/1", "/s/a:b,c"].map(PathBuf::from);
        let text = options(&lower(&layers), Path::new("/t/u:,"), Path::new("/t/w\\"));
        assert_eq!(
            text,
            "lowerdir=/s/a\\:b\\,c:/s/1:/s/2,upperdir=/t/u:\\,,workdir=/t/w\\\\,index=off,metacopy=off,redirect_dir=nofollow"
        );
    }
}

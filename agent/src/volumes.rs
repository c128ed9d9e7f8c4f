//! Persistent volumes: directories that outlive the tasks that use them.
//!
//! A volume is `<work_dir>/volumes/<id>`; a task finds it as `volumes/<id>` in its sandbox. It is made when
//! the first task is launched on it, as that task's user's, and goes when the master says that it does not
//! exist any more: moved away at once, so that a volume with the same name begins empty, and removed in the
//! background.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{chown, symlink},
    path::{Path, PathBuf},
};

use waggle_types::VolumeId;

use crate::shim::UserIds;

/// Where they are.
#[derive(Debug, Clone)]
pub struct Volumes {
    root: PathBuf,
    /// Data that nobody can reach any more.
    gone: PathBuf,
}

impl Volumes {
    /// Below a work directory.
    pub fn new(work_dir: &Path) -> Self {
        Self {
            root: work_dir.join("volumes"),
            gone: work_dir.join("volumes-gone"),
        }
    }

    /// Makes those that are missing and links all of them into a sandbox. Blocking.
    pub fn link(
        &self,
        ids: &[VolumeId],
        sandbox: &Path,
        owner: Option<&UserIds>,
    ) -> io::Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let links = sandbox.join("volumes");
        fs::create_dir_all(&links)?;
        for id in ids {
            let dir = self.root.join(id.as_str());
            if !dir.exists() {
                fs::create_dir_all(&dir)?;
                if let Some(UserIds { uid, gid, .. }) = owner {
                    chown(&dir, Some(*uid), Some(*gid))?;
                }
            }
            match symlink(&dir, links.join(id.as_str())) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Moves away those that were destroyed, and all others that are not kept. Blocking, but short; `fresh`
    /// names are unique. Answers how many there were: [`Volumes::sweep`] removes their data.
    pub fn keep(
        &self,
        kept: &[VolumeId],
        destroyed: &[VolumeId],
        mut fresh: impl FnMut() -> String,
    ) -> io::Result<usize> {
        let kept: BTreeSet<&str> = kept.iter().map(VolumeId::as_str).collect();
        let destroyed: BTreeSet<&str> = destroyed.iter().map(VolumeId::as_str).collect();
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other?,
        };
        let mut n_gone = 0;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            if kept.contains(name) && !destroyed.contains(name) {
                continue;
            }
            fs::create_dir_all(&self.gone)?;
            fs::rename(entry.path(), self.gone.join(fresh()))?;
            n_gone += 1;
        }
        Ok(n_gone)
    }

    /// Removes the data of volumes that are gone. Blocking, for as long as it takes.
    pub fn sweep(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.gone) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_stays_until_the_volume_goes() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::new(dir.path());
        let id = |s: &str| VolumeId::new(s).unwrap();
        let sandbox = |n: u8| dir.path().join(format!("sandbox-{n}"));
        let mut n = 0;
        let mut keep = |kept: &[VolumeId], destroyed: &[VolumeId]| {
            let fresh = || {
                n += 1;
                format!("g{n}")
            };
            volumes.keep(kept, destroyed, fresh).unwrap()
        };
        assert_eq!(keep(&[], &[]), 0, "there is none yet");
        let both = [id("db"), id("log")];
        volumes.link(&both, &sandbox(1), None).unwrap();
        fs::write(sandbox(1).join("volumes/db/data"), "x").unwrap();
        volumes.link(&both, &sandbox(1), None).unwrap();
        volumes.link(&both[..1], &sandbox(2), None).unwrap();
        let data = |n| fs::read_to_string(sandbox(n).join("volumes/db/data")).ok();
        assert_eq!(data(2).as_deref(), Some("x"));
        assert_eq!(keep(&both, &[]), 0);
        assert_eq!(keep(&both[..1], &[]), 1, "log is gone");
        assert_eq!(data(2).as_deref(), Some("x"));
        // Destroyed, and made again in the same breath: it begins empty.
        assert_eq!(keep(&both[..1], &both[..1]), 1);
        volumes.link(&both[..1], &sandbox(3), None).unwrap();
        assert_eq!(data(3), None);
        volumes.sweep().unwrap();
        volumes.sweep().unwrap();
        assert!(!dir.path().join("volumes-gone").exists());
        assert!(dir.path().join("volumes/db").exists());
    }
}

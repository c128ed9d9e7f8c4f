//! Persistent volumes: directories that outlive the tasks that use them.
//!
//! A volume is `<work_dir>/volumes/<id>`, or `<disk>/waggle-volumes/<id>` on a disk of its own. It is made when the
//! first task is launched on it, as that task's user's, and goes when the master says that it was destroyed: moved away
//! at once, so that a volume with the same name begins empty, and removed in the background.
//!
//! Only that word removes data. A volume that the master does not name any more without having said that it was
//! destroyed - its store was lost or is an old one, or the word was spoken while this node was away - is put aside
//! as a snapshot, out of reach of a new volume with its name, and stays until a person says.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
};

use waggle_types::VolumeId;

use super::disks::{Disk, of_volume};
use crate::shim::UserIds;

/// Directories of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Volumes, by id.
    pub volumes: PathBuf,
    /// Data that nobody can reach any more.
    pub gone: PathBuf,
    /// Snapshots, by volume and name.
    pub snapshots: PathBuf,
}

/// Where they are.
#[derive(Debug, Clone)]
pub struct Volumes {
    home: Place,
    disks: Vec<Disk>,
}

/// What [`Volumes::keep`] has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// Volumes whose data is gone: [`Volumes::sweep`] removes it.
    pub n_destroyed: usize,
    /// Volumes that the master does not know: put aside.
    pub unclaimed: Vec<VolumeId>,
}

impl Volumes {
    /// Below a work directory, and on the node's other disks.
    pub fn new(work_dir: &Path, disks: &[Disk]) -> Self {
        Self {
            home: Place {
                volumes: work_dir.join("volumes"),
                gone: work_dir.join("volumes-gone"),
                snapshots: work_dir.join("volume-snapshots"),
            },
            disks: disks.to_vec(),
        }
    }

    /// The directories of each disk.
    pub fn places(&self) -> Vec<Place> {
        let others = self.disks.iter().map(on_disk);
        std::iter::once(self.home.clone()).chain(others).collect()
    }

    /// The directories of the disk that a volume is on. The error names the disk that this node does not have.
    pub fn place(&self, id: &VolumeId) -> Result<Place, String> {
        Ok(match of_volume(id, &self.disks)? {
            Some(disk) => on_disk(disk),
            None => self.home.clone(),
        })
    }

    /// The disk of its own that a volume is on.
    pub fn disk(&self, id: &VolumeId) -> Result<Option<&Disk>, String> {
        of_volume(id, &self.disks)
    }

    /// Makes a volume's directory if it is missing; it belongs to `owner`, as Mesos does it, unless the volume is shared
    /// and somebody had it before. Blocking.
    pub fn make(
        &self,
        id: &VolumeId,
        shared: bool,
        owner: Option<&UserIds>,
    ) -> Result<PathBuf, String> {
        let dir = self.place(id)?.volumes.join(id.as_str());
        let made = || -> io::Result<()> {
            let new = !dir.exists();
            fs::create_dir_all(&dir)?;
            if let Some(UserIds { uid, gid, .. }) = owner
                && (new || !shared)
                && fs::symlink_metadata(&dir)?.uid() != *uid
            {
                chown(&dir, Some(*uid), Some(*gid))?;
            }
            Ok(())
        };
        made().map_err(|e| format!("volume {id}: failed to make {}: {e}", dir.display()))?;
        Ok(dir)
    }

    /// Moves away those that were destroyed, and puts aside all others that are not kept and not used. Blocking, but
    /// short; `fresh` names are unique.
    pub fn keep(
        &self,
        kept: &[VolumeId],
        destroyed: &[VolumeId],
        used: &BTreeSet<VolumeId>,
        now_ms: u64,
        mut fresh: impl FnMut() -> String,
    ) -> io::Result<Kept> {
        let kept: BTreeSet<&str> = kept.iter().map(VolumeId::as_str).collect();
        let destroyed: BTreeSet<&str> = destroyed.iter().map(VolumeId::as_str).collect();
        let mut done = Kept::default();
        for place in self.places() {
            let entries = match fs::read_dir(&place.volumes) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                let Some(id) = name.to_str().and_then(|n| VolumeId::new(n).ok()) else {
                    continue;
                };
                if destroyed.contains(id.as_str()) {
                    fs::create_dir_all(&place.gone)?;
                    fs::rename(entry.path(), place.gone.join(fresh()))?;
                    done.n_destroyed += 1;
                } else if !kept.contains(id.as_str()) && !used.contains(&id) {
                    super::snapshots::put_aside(&place, &id, now_ms)?;
                    done.unclaimed.push(id);
                }
            }
        }
        Ok(done)
    }

    /// Removes the data of volumes that are gone. Blocking, for as long as it takes.
    pub fn sweep(&self) -> io::Result<()> {
        for place in self.places() {
            match fs::remove_dir_all(&place.gone) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

fn on_disk(disk: &Disk) -> Place {
    Place {
        volumes: disk.volumes(),
        gone: disk.root.join("waggle-volumes-gone"),
        snapshots: disk.root.join("waggle-volume-snapshots"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{disks::DiskKind, snapshots};

    fn id(s: &str) -> VolumeId {
        VolumeId::new(s).unwrap()
    }

    #[test]
    fn data_stays_until_the_word_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk {
            name: "fast".to_owned(),
            kind: DiskKind::Path,
            root: dir.path().join("fast"),
            size: None,
        };
        fs::create_dir(&disk.root).unwrap();
        let volumes = Volumes::new(&dir.path().join("work"), std::slice::from_ref(&disk));
        let mut n = 0;
        let used = BTreeSet::from([id("used")]);
        let mut keep = |kept: &[VolumeId], destroyed: &[VolumeId]| {
            let fresh = || {
                n += 1;
                format!("g{n}")
            };
            volumes.keep(kept, destroyed, &used, 5, fresh).unwrap()
        };
        assert_eq!(keep(&[], &[]), Kept::default(), "there is none yet");
        let both = [id("db"), id("log@fast")];
        let make = |id: &VolumeId| volumes.make(id, false, None).unwrap();
        fs::write(make(&both[0]).join("data"), "x").unwrap();
        assert_eq!(make(&both[1]), disk.root.join("waggle-volumes/log@fast"));
        fs::write(make(&both[1]).join("data"), "y").unwrap();
        assert!(make(&both[0]).join("data").exists(), "made once");
        let other = volumes.make(&id("x@slow"), false, None).unwrap_err();
        assert!(other.contains("no disk \"slow\""), "{other}");
        make(&id("used"));
        assert_eq!(keep(&both, &[]), Kept::default(), "not under a task");
        // The master does not know it: out of reach, and there.
        let aside = keep(&both[..1], &[]);
        assert_eq!(
            (aside.n_destroyed, aside.unclaimed),
            (0, vec![id("log@fast")])
        );
        volumes.sweep().unwrap();
        assert!(!make(&both[1]).join("data").exists(), "a new one is empty");
        let place = volumes.place(&both[1]).unwrap();
        let aside = snapshots::list(&place, &both[1]).unwrap();
        assert_eq!(aside.len(), 1);
        assert!(aside[0].unclaimed);
        snapshots::restore(&place, &both[1], &aside[0].name, "g".to_owned()).unwrap();
        let back = fs::read_to_string(make(&both[1]).join("data")).unwrap();
        assert_eq!(back, "y");
        // Destroyed, and made again in the same breath: it begins empty.
        assert_eq!(keep(&both, &both[..1]).n_destroyed, 1);
        assert!(!make(&both[0]).join("data").exists());
        volumes.sweep().unwrap();
        volumes.sweep().unwrap();
        assert!(!dir.path().join("work/volumes-gone").exists());
    }
}

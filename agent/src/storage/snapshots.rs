//! Copies of volumes on the same disk: `<snapshots>/<volume>/<name>/` with `data/` and `snapshot.json`, which is
//! written last, so that half a copy is none.
//!
//! Files are copied as clones where the file system has them (XFS, btrfs), which costs no space until they differ,
//! and in full elsewhere. A copy of a volume that no task uses is what the volume was; one of a volume in use is what
//! a disk has after the power failed ("crash-consistent"), file by file, and says so.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::{Deserialize, Serialize};
use waggle_types::VolumeId;

use super::{usage, volumes::Place};
use crate::shim::{read_json, write_json};

/// Most snapshots of one volume that people made.
pub const MAX_SNAPSHOTS: usize = 32;
/// Longest name, in bytes.
const MAX_NAME: usize = 64;
const META: &str = "snapshot.json";

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name, unique for its volume.
    pub name: String,
    /// When it was made, Unix milliseconds.
    pub taken_ms: u64,
    /// Space that its files take, in bytes; clones share theirs with the volume.
    pub bytes: u64,
    /// Whether no task used the volume; otherwise it is crash-consistent.
    pub consistent: bool,
    /// Whether nobody made it: the volume was put aside when the master did not know it any more.
    pub unclaimed: bool,
}

/// Why there is no snapshot, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A name that must not be.
    #[error("name: must be 1 to {MAX_NAME} of [A-Za-z0-9._-] and not begin with a dot, is {0:?}")]
    Name(String),
    /// It is taken.
    #[error("name: there is a snapshot {0:?} already")]
    Exists(String),
    /// There is none.
    #[error("name: there is no snapshot {0:?}")]
    Unknown(String),
    /// The volume has no data on this node.
    #[error("volume {0}: has no data on this node")]
    NoVolume(VolumeId),
    /// Something must go first.
    #[error("volume {0}: has {MAX_SNAPSHOTS} snapshots already")]
    TooMany(VolumeId),
    /// It can't be done now.
    #[error("volume {id}: {why}")]
    Busy {
        /// Which.
        id: VolumeId,
        /// By whom.
        why: String,
    },
    /// A step that failed.
    #[error("failed to {what} {}", path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// The object.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl SnapshotError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// Checks a name.
pub fn check_name(name: &str) -> Result<(), SnapshotError> {
    let of = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let bad = name.is_empty() || name.len() > MAX_NAME || name.starts_with('.');
    if bad || !name.chars().all(of) {
        return Err(SnapshotError::Name(name.to_owned()));
    }
    Ok(())
}

/// All of a volume, oldest first. Blocking.
pub fn list(place: &Place, id: &VolumeId) -> io::Result<Vec<Snapshot>> {
    let entries = match fs::read_dir(place.snapshots.join(id.as_str())) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut all = Vec::new();
    for entry in entries {
        // A directory without its description is a copy that was not finished.
        if let Ok(Some(snapshot)) = read_json::<Snapshot>(&entry?.path().join(META)) {
            all.push(snapshot);
        }
    }
    all.sort_by(|a, b| (a.taken_ms, &a.name).cmp(&(b.taken_ms, &b.name)));
    Ok(all)
}

/// Volumes that have any, also those that are gone. Blocking.
pub fn volumes(place: &Place) -> io::Result<Vec<VolumeId>> {
    let entries = match fs::read_dir(&place.snapshots) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        all.extend(name.to_str().and_then(|n| VolumeId::new(n).ok()));
    }
    all.sort();
    Ok(all)
}

/// Copies a volume. Blocking, for as long as that takes.
pub fn take(
    place: &Place,
    id: &VolumeId,
    name: &str,
    consistent: bool,
    now_ms: u64,
) -> Result<Snapshot, SnapshotError> {
    check_name(name)?;
    let volume = place.volumes.join(id.as_str());
    if !volume.is_dir() {
        return Err(SnapshotError::NoVolume(id.clone()));
    }
    let of_volume = place.snapshots.join(id.as_str());
    let all = list(place, id).map_err(SnapshotError::io("list", &of_volume))?;
    if all.iter().any(|s| s.name == name) {
        return Err(SnapshotError::Exists(name.to_owned()));
    }
    if all.iter().filter(|s| !s.unclaimed).count() >= MAX_SNAPSHOTS {
        return Err(SnapshotError::TooMany(id.clone()));
    }
    let dir = of_volume.join(name);
    remove(&dir).map_err(SnapshotError::io("remove", &dir))?;
    let copied = copy(&volume, &dir.join("data")).and_then(|bytes| {
        let snapshot = Snapshot {
            name: name.to_owned(),
            taken_ms: now_ms,
            bytes,
            consistent,
            unclaimed: false,
        };
        let meta = dir.join(META);
        write_json(&meta, &snapshot).map_err(SnapshotError::io("write", &meta))?;
        Ok(snapshot)
    });
    if copied.is_err() {
        let _ = remove(&dir);
    }
    copied
}

/// Puts a snapshot's data in place of the volume's, which is moved away to be removed. Nobody may use the volume.
/// `fresh` is a unique name. Blocking, for as long as a copy takes.
pub fn restore(
    place: &Place,
    id: &VolumeId,
    name: &str,
    fresh: String,
) -> Result<Snapshot, SnapshotError> {
    check_name(name)?;
    let dir = place.snapshots.join(id.as_str()).join(name);
    let found = read_json::<Snapshot>(&dir.join(META)).map_err(SnapshotError::io("read", &dir))?;
    let snapshot = found.ok_or_else(|| SnapshotError::Unknown(name.to_owned()))?;
    fs::create_dir_all(&place.gone).map_err(SnapshotError::io("create", &place.gone))?;
    fs::create_dir_all(&place.volumes).map_err(SnapshotError::io("create", &place.volumes))?;
    let new = place.gone.join(fresh);
    if let Err(e) = copy(&dir.join("data"), &new) {
        let _ = remove(&new);
        return Err(e);
    }
    let volume = place.volumes.join(id.as_str());
    let swapped = if volume.exists() {
        // At no moment is there none, or half of one.
        renameat2(
            AT_FDCWD,
            &new,
            AT_FDCWD,
            &volume,
            RenameFlags::RENAME_EXCHANGE,
        )
        .map_err(io::Error::from)
    } else {
        fs::rename(&new, &volume)
    };
    swapped.map_err(SnapshotError::io("replace", &volume))?;
    sync(&place.volumes).map_err(SnapshotError::io("sync", &place.volumes))?;
    let _ = remove(&new);
    Ok(snapshot)
}

/// Removes a snapshot. Blocking.
pub fn forget(place: &Place, id: &VolumeId, name: &str) -> Result<(), SnapshotError> {
    check_name(name)?;
    let of_volume = place.snapshots.join(id.as_str());
    let dir = of_volume.join(name);
    if !dir.join(META).exists() {
        return Err(SnapshotError::Unknown(name.to_owned()));
    }
    fs::remove_file(dir.join(META)).map_err(SnapshotError::io("remove", &dir))?;
    remove(&dir).map_err(SnapshotError::io("remove", &dir))?;
    // The last one takes the volume's directory with it.
    let _ = fs::remove_dir(&of_volume);
    Ok(())
}

/// Moves a volume among its snapshots. Blocking, but short.
pub(super) fn put_aside(place: &Place, id: &VolumeId, now_ms: u64) -> io::Result<()> {
    let of_volume = place.snapshots.join(id.as_str());
    let free = |name: &String| !of_volume.join(name).exists();
    let name = (0..1000)
        .map(|n| format!("unclaimed-{now_ms}-{n}"))
        .find(free)
        .ok_or_else(|| io::Error::other("too many volumes were put aside at once"))?;
    let dir = of_volume.join(&name);
    fs::create_dir_all(&dir)?;
    let snapshot = Snapshot {
        name,
        taken_ms: now_ms,
        bytes: 0,
        consistent: false,
        unclaimed: true,
    };
    // Described first: a description without data is found and says so, data without one would be taken for half a
    // copy.
    write_json(&dir.join(META), &snapshot)?;
    fs::rename(place.volumes.join(id.as_str()), dir.join("data"))?;
    sync(&place.volumes)
}

/// Copies a directory with owners, modes, times, links and holes, and makes it durable. Answers the bytes.
fn copy(from: &Path, to: &Path) -> Result<u64, SnapshotError> {
    fs::create_dir_all(to).map_err(SnapshotError::io("create", to))?;
    // coreutils' cp knows clones, holes, hard links, extended attributes and access lists.
    let done = Command::new("cp")
        .args(["--archive", "--reflink=auto", "--one-file-system", "--"])
        .arg(from.join("."))
        .arg(to)
        .output()
        .map_err(SnapshotError::io("run cp for", from))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let said = said.lines().next().unwrap_or("cp failed").to_owned();
        return Err(SnapshotError::io("copy", from)(io::Error::other(said)));
    }
    sync(to).map_err(SnapshotError::io("sync", to))?;
    let used = usage::of(to, usage::Pace::FULL).map_err(SnapshotError::io("measure", to))?;
    Ok(used.bytes)
}

fn sync(dir: &Path) -> io::Result<()> {
    let dir = fs::File::open(dir)?;
    Ok(nix::unistd::syncfs(dir.as_fd())?)
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_snapshot_is_what_the_volume_was() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            volumes: dir.path().join("v"),
            gone: dir.path().join("g"),
            snapshots: dir.path().join("s"),
        };
        let id = VolumeId::new("db").unwrap();
        let no_volume = take(&place, &id, "a", true, 1).unwrap_err();
        assert_eq!(no_volume.to_string(), "volume db: has no data on this node");
        let volume = place.volumes.join("db");
        fs::create_dir_all(volume.join("sub")).unwrap();
        fs::write(volume.join("sub/data"), "one").unwrap();
        fs::hard_link(volume.join("sub/data"), volume.join("same")).unwrap();
        std::os::unix::fs::symlink("sub/data", volume.join("link")).unwrap();
        let taken = take(&place, &id, "a", true, 1).unwrap();
        assert!(taken.bytes > 0 && taken.consistent && !taken.unclaimed);
        assert!(matches!(
            take(&place, &id, "a", true, 2),
            Err(SnapshotError::Exists(_))
        ));
        fs::write(volume.join("sub/data"), "two").unwrap();
        fs::write(volume.join("new"), "x").unwrap();
        take(&place, &id, "b", false, 2).unwrap();
        let names: Vec<String> = list(&place, &id)
            .unwrap()
            .into_iter()
            .map(|s| s.name)
            .collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(volumes(&place).unwrap().len(), 1);

        restore(&place, &id, "a", "f1".to_owned()).unwrap();
        assert_eq!(fs::read_to_string(volume.join("sub/data")).unwrap(), "one");
        assert_eq!(fs::read_to_string(volume.join("link")).unwrap(), "one");
        assert_eq!(fs::metadata(volume.join("same")).unwrap().nlink(), 2);
        assert!(!volume.join("new").exists());
        // The snapshot is still there, and the other one too.
        restore(&place, &id, "b", "f2".to_owned()).unwrap();
        assert_eq!(fs::read_to_string(volume.join("sub/data")).unwrap(), "two");
        forget(&place, &id, "b").unwrap();
        assert!(matches!(
            forget(&place, &id, "b"),
            Err(SnapshotError::Unknown(_))
        ));
        // Of a volume that is gone.
        fs::remove_dir_all(&volume).unwrap();
        restore(&place, &id, "a", "f3".to_owned()).unwrap();
        assert_eq!(fs::read_to_string(volume.join("same")).unwrap(), "one");
        forget(&place, &id, "a").unwrap();
        assert_eq!(volumes(&place).unwrap(), []);
    }

    #[test]
    fn half_a_copy_is_none_and_the_number_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            volumes: dir.path().join("v"),
            gone: dir.path().join("g"),
            snapshots: dir.path().join("s"),
        };
        let id = VolumeId::new("db").unwrap();
        fs::create_dir_all(place.volumes.join("db")).unwrap();
        fs::create_dir_all(place.snapshots.join("db/half/data")).unwrap();
        assert_eq!(list(&place, &id).unwrap(), []);
        assert!(matches!(
            restore(&place, &id, "half", "f".to_owned()),
            Err(SnapshotError::Unknown(_))
        ));
        for n in 0..MAX_SNAPSHOTS {
            take(&place, &id, &format!("s{n}"), true, 1).unwrap();
        }
        assert!(matches!(
            take(&place, &id, "more", true, 1),
            Err(SnapshotError::TooMany(_))
        ));
        for bad in ["", ".x", "a/b", "..", "a b"] {
            assert!(
                matches!(check_name(bad), Err(SnapshotError::Name(_))),
                "{bad}"
            );
        }
    }
}

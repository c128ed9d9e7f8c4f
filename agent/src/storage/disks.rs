//! Disks of the node beside the work directory's, and which of them a volume is on.
//!
//! Mesos gives a `disk` resource a source: none is the disk of the work directory, `PATH` a directory on another disk
//! that many volumes share, `MOUNT` a disk that is one volume, wholly or not at all (mesos.proto, `DiskInfo.Source`).
//! Here each disk that the operator names is a kind of its own, `disk.<name>` in MiB, so that reservations, quota
//! and offers work for it as for every kind; and a volume says by its id where it is: `db@fast` is made of
//! `disk.fast`, `db` of `disk`. Of a `mount` disk a volume is all or nothing: the agent offers it whole, and refuses a
//! volume on it that is smaller.

use std::path::{Path, PathBuf};

use waggle_types::{FieldError, Milli, Resources, VolumeId};

/// Most disks of a node.
pub const MAX_DISKS: usize = 64;

/// How a disk is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskKind {
    /// A directory; volumes share it.
    Path,
    /// A mount point; one volume has it.
    Mount,
}

/// A disk beside the work directory's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its name, of `[a-z0-9-]`.
    pub name: String,
    /// How it is used.
    pub kind: DiskKind,
    /// Where it is.
    pub root: PathBuf,
    /// How much of it is offered; `None`: what the file system has.
    pub size: Option<Milli>,
}

impl Disk {
    /// Reads `NAME=path:/data1:102400`, `NAME=mount:/mnt/x` (sizes in MiB).
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let bad = |rule: &str| {
            FieldError::new(
                "disk",
                format!("{rule}: NAME=path:DIR:MIB or NAME=mount:DIR[:MIB], is {text:?}"),
            )
        };
        let (name, rest) = text
            .split_once('=')
            .ok_or_else(|| bad("must have a name"))?;
        let of = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 32 || !name.chars().all(of) {
            return Err(bad("the name must be 1 to 32 of [a-z0-9-]"));
        }
        let (kind, rest) = rest
            .split_once(':')
            .ok_or_else(|| bad("must have a kind"))?;
        let (root, size) = match rest.rsplit_once(':') {
            Some((root, size)) => {
                let mib: i64 = size
                    .parse()
                    .ok()
                    .filter(|m| (1..=1 << 40).contains(m))
                    .ok_or_else(|| bad("the size must be whole MiB over 0"))?;
                (root, Some(Milli::units(mib)))
            }
            None => (rest, None),
        };
        let kind = match kind {
            "path" if size.is_none() => return Err(bad("a path needs a size")),
            "path" => DiskKind::Path,
            "mount" => DiskKind::Mount,
            _ => return Err(bad("the kind must be path or mount")),
        };
        if !Path::new(root).is_absolute() {
            return Err(bad("the directory must be absolute"));
        }
        Ok(Self {
            name: name.to_owned(),
            kind,
            root: PathBuf::from(root),
            size,
        })
    }

    /// The kind of resource that it is.
    pub fn resource(&self) -> String {
        format!("{DISK}{}", self.name)
    }

    /// Where its volumes are.
    pub fn volumes(&self) -> PathBuf {
        self.root.join("waggle-volumes")
    }

    /// How much of it is offered, looked up where the operator did not say. Blocking.
    pub fn detect(&self) -> Result<Milli, FieldError> {
        let bad = |rule: String| FieldError::new(format!("disk {}", self.name), rule);
        if !self.root.is_dir() {
            return Err(bad(format!("{} is no directory", self.root.display())));
        }
        if self.kind == DiskKind::Mount && !is_mount_point(&self.root) {
            return Err(bad(format!("{} is no mount point", self.root.display())));
        }
        if let Some(size) = self.size {
            return Ok(size);
        }
        let stat = nix::sys::statvfs::statvfs(&self.root)
            .map_err(|e| bad(format!("{}: {e}", self.root.display())))?;
        let mib = stat.blocks().saturating_mul(stat.fragment_size()) >> 20;
        Ok(Milli::units(i64::try_from(mib).unwrap_or(1 << 40)))
    }
}

/// What kinds of disks are named.
const DISK: &str = "disk.";

/// Adds the disks to what a node has. The error names a disk that does not work or is given twice.
pub fn offer(total: &mut Resources, disks: &[Disk]) -> Result<(), FieldError> {
    if disks.len() > MAX_DISKS {
        return Err(FieldError::new(
            "disk",
            format!("must be at most {MAX_DISKS}, are {}", disks.len()),
        ));
    }
    for disk in disks {
        let kind = disk.resource();
        if total.custom.scalar(&kind).0 != 0 {
            let rule = "must not be given twice, nor be among the resources";
            return Err(FieldError::new(kind, rule));
        }
        let size = disk.detect()?;
        total.custom.set_scalar(kind, size);
    }
    Ok(())
}

/// The disk that a volume's id names; `None` is the work directory's.
pub fn of_volume<'a>(id: &VolumeId, disks: &'a [Disk]) -> Result<Option<&'a Disk>, String> {
    let Some(name) = id.disk() else {
        return Ok(None);
    };
    match disks.iter().find(|d| d.name == name) {
        Some(disk) => Ok(Some(disk)),
        None => Err(format!(
            "volume {id}: this node has no disk {name:?} (--disk {name}=...)"
        )),
    }
}

fn is_mount_point(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let of = |p: &Path| std::fs::metadata(p).map(|m| (m.dev(), m.ino())).ok();
    match (of(path), of(&path.join(".."))) {
        (Some((dev, ino)), Some((up_dev, up_ino))) => dev != up_dev || ino == up_ino,
        _ => false,
    }
}

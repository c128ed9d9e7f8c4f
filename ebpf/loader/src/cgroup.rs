//! cgroup2 directories and their ids.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{LoadError, sys};

/// Opens a cgroup2 directory for attaching.
pub(crate) fn open(path: &Path) -> Result<File, LoadError> {
    let refused = |source| LoadError::NotCgroup2 {
        path: path.to_path_buf(),
        source,
    };
    let dir = File::open(path).map_err(refused)?;
    if sys::fs_type(dir.as_fd()).map_err(refused)? != sys::CGROUP2_SUPER_MAGIC {
        return Err(refused(io::Error::from(io::ErrorKind::Unsupported)));
    }
    Ok(dir)
}

/// The id by which the kernel programs know a cgroup2 directory (its inode number).
///
/// # Errors
/// [`LoadError::NotCgroup2`] when the path is not a cgroup2 directory.
pub fn cgroup_id(path: &Path) -> Result<u64, LoadError> {
    let dir = open(path)?;
    let meta = dir.metadata().map_err(|source| LoadError::NotCgroup2 {
        path: path.to_path_buf(),
        source,
    })?;
    Ok(meta.ino())
}

/// Where this mount namespace has its cgroup2 hierarchy: `/sys/fs/cgroup` on a pure v2 host,
/// `/sys/fs/cgroup/unified` on a hybrid one; `None` when it is not mounted.
pub fn find_cgroup2_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_device, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

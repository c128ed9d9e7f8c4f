//! One owner per pin directory.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::LoadError;

/// Holds the lock until dropped; the kernel drops it when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _dir: File,
}

/// Locks a directory (bpffs holds no ordinary files, but its directories can be locked).
pub(crate) fn lock(path: &Path) -> Result<Lock, LoadError> {
    let fail = |source| LoadError::File {
        action: "lock",
        path: path.to_path_buf(),
        source,
    };
    let dir = File::open(path).map_err(fail)?;
    match dir.try_lock() {
        Ok(()) => Ok(Lock { _dir: dir }),
        Err(TryLockError::WouldBlock) => Err(LoadError::Busy {
            path: path.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}

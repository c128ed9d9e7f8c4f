//! One owner per pin directory.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::LoadError;

/// Holds the lock until dropped; the kernel drops it when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _dir: File,
}

/// How long a lock that is about to be released is waited for. A process that was just killed, or a child
/// between fork and exec in another thread, holds it for a moment longer than its owner.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(5);

/// Locks a directory (bpffs holds no ordinary files, but its directories can be locked).
pub(crate) fn lock(path: &Path) -> Result<Lock, LoadError> {
    let fail = |source| LoadError::File {
        action: "lock",
        path: path.to_path_buf(),
        source,
    };
    let dir = File::open(path).map_err(fail)?;
    let start = Instant::now();
    loop {
        match dir.try_lock() {
            Ok(()) => return Ok(Lock { _dir: dir }),
            Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                #[allow(
                    clippy::disallowed_methods,
                    reason = "flock has no timeout; bounded by PATIENCE"
                )]
                std::thread::sleep(PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(LoadError::Busy {
                    path: path.to_path_buf(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(fail(source)),
        }
    }
}

//! How much space a directory takes, as `du` counts it: blocks, hard links once, one file system, no links followed.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2},
    sys::stat::{Mode, fstatat},
};

/// Hard links that are remembered; beyond, each is counted as a file of its own.
const MAX_LINKED: usize = 100_000;

/// How fast to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// After so many entries...
    pub entries: u64,
    /// ...rest for so long.
    pub rest: Duration,
}

impl Pace {
    /// Without rest.
    pub const FULL: Self = Self {
        entries: u64::MAX,
        rest: Duration::ZERO,
    };
    /// At most some 40,000 entries a second, so that a task with millions of files costs the node little.
    pub const GENTLE: Self = Self {
        entries: 2000,
        rest: Duration::from_millis(50),
    };
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Space in bytes.
    pub bytes: u64,
    /// Entries looked at.
    pub entries: u64,
    /// Directories that could not be looked into: deeper than a path can say, or just removed.
    pub skipped: u64,
}

/// Measures a directory. Blocking. What is made or removed meanwhile is counted or not.
pub fn of(root: &Path, pace: Pace) -> io::Result<Usage> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let root = open(root, flags, Mode::empty())?;
    let own = nix::sys::stat::fstat(&root)?;
    let mut used = Usage {
        bytes: blocks(own.st_blocks),
        ..Usage::default()
    };
    let mut linked = BTreeSet::new();
    let mut left = vec![PathBuf::from(".")];
    let mut next_rest = pace.entries;
    while let Some(path) = left.pop() {
        let Ok(dir) = open_below(&root, &path) else {
            used.skipped += 1;
            continue;
        };
        let mut dir = Dir::from_fd(dir)?;
        let names: Vec<Vec<u8>> = dir
            .iter()
            .flatten()
            .map(|e| e.file_name().to_bytes().to_vec())
            .filter(|n| n != b"." && n != b"..")
            .collect();
        for name in names {
            let name = OsStr::from_bytes(&name);
            let stat = match fstatat(dir.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => continue,
                other => other?,
            };
            used.entries += 1;
            if used.entries >= next_rest {
                rest(pace.rest);
                next_rest = used.entries.saturating_add(pace.entries);
            }
            if stat.st_dev != own.st_dev {
                continue;
            }
            let is_dir = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
            if !is_dir
                && stat.st_nlink > 1
                && linked.len() < MAX_LINKED
                && !linked.insert(stat.st_ino)
            {
                continue;
            }
            used.bytes = used.bytes.saturating_add(blocks(stat.st_blocks));
            if is_dir {
                left.push(path.join(name));
            }
        }
    }
    Ok(used)
}

/// Whatever a task does to its directories meanwhile, nothing outside of the root is opened.
fn open_below(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    openat2(root, path, how)
}

#[allow(
    clippy::disallowed_methods,
    reason = "nothing is waited for: this keeps a long walk from taking a whole core"
)]
fn rest(time: Duration) {
    std::thread::sleep(time);
}

/// `st_blocks` counts 512 bytes, whatever the file system's blocks are (stat(2)).
fn blocks(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0).saturating_mul(512)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn space_is_counted_as_du_counts_it() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("big"), vec![1; 1 << 20]).unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), vec![1; 300_000]).unwrap();
        fs::hard_link(root.join("a/b/file"), root.join("same")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("volume")).unwrap();
        // Delayed allocation: blocks are known once they are written.
        nix::unistd::syncfs(fs::File::open(root).unwrap().as_fd()).unwrap();
        let used = of(root, Pace::FULL).unwrap();
        let du = std::process::Command::new("du")
            .args(["-s", "-B1"])
            .arg(root)
            .output()
            .unwrap();
        let text = String::from_utf8(du.stdout).unwrap();
        let said: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(used.bytes, said);
        assert_eq!((used.entries, used.skipped), (5, 0));
        assert!(used.bytes < 1 << 20, "what a link leads to is not counted");
    }
}

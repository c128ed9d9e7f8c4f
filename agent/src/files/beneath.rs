//! Opening what is below a directory, and nothing else: the task owns its sandbox and may put any link into it.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, Metadata},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{Mode, mkdirat},
    unistd::{Gid, Uid, fchownat},
};

/// Entries of a directory that are told at most.
pub const MAX_ENTRIES: usize = 4096;

/// A directory that nothing leads out of.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

/// Something below a [`Root`], found but not opened: a FIFO or a device does nothing yet.
#[derive(Debug)]
pub struct Found {
    fd: OwnedFd,
    /// What it is.
    pub meta: Metadata,
}

/// One entry of a directory, not followed.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// What it is.
    pub meta: Metadata,
}

impl Root {
    /// The directory itself is trusted: only the agent writes its parents.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(dir)?;
        Ok(Self { fd: file.into() })
    }

    /// What `path` names; links are followed as far as they stay below. Leading slashes and `.` mean nothing, `..`
    /// is refused (`InvalidInput`), and so is what leads out (`PermissionDenied`).
    pub fn find(&self, path: &str) -> io::Result<Found> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .mode(Mode::empty())
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = normal(path)?;
        // RESOLVE_BENEATH answers EAGAIN when something is renamed meanwhile.
        let mut tries = 0;
        let fd = loop {
            match openat2(self.fd.as_fd(), &path, how) {
                Err(nix::errno::Errno::EAGAIN) if tries < 32 => tries += 1,
                Err(nix::errno::Errno::EXDEV) => {
                    return Err(io::Error::new(
                        io::ErrorKind::PermissionDenied,
                        "leads out of the sandbox",
                    ));
                }
                other => break other?,
            }
        };
        // By the descriptor: nothing can be put in its place any more.
        let meta = fs::metadata(by_number(&fd))?;
        Ok(Found { fd, meta })
    }

    /// Makes the directories of a path that are not there, for whom the root is, and gives the last. No link is followed.
    pub fn make_dirs(&self, path: &Path) -> io::Result<Found> {
        let owner = fs::metadata(by_number(&self.fd))?;
        let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
        let mut at = self.fd.try_clone()?;
        for name in path {
            let name = Path::new(name);
            let made = match mkdirat(&at, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) => true,
                Err(nix::errno::Errno::EEXIST) => false,
                Err(e) => return Err(e.into()),
            };
            at = directory(&at, name)?;
            if made {
                // By the descriptor, of a directory: the name may be another file's by now.
                fchownat(&at, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
            }
        }
        let meta = fs::metadata(by_number(&at))?;
        Ok(Found { fd: at, meta })
    }

    /// Removes a directory with all that is in it; links are removed and not followed.
    pub fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut at = self.fd.try_clone()?;
        for name in path.parent().into_iter().flatten() {
            at = directory(&at, Path::new(name))?;
        }
        let name = path.file_name();
        let name = name.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        fs::remove_dir_all(by_number(&at).join(name))
    }
}

/// A directory in another, which is no link.
fn directory(at: &OwnedFd, name: &Path) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(openat2(at, name, how)?)
}

impl Found {
    /// Opens a regular file; anything else is `InvalidInput`.
    pub fn open(&self) -> io::Result<File> {
        if !self.meta.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "is no regular file",
            ));
        }
        fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(by_number(&self.fd))
    }

    /// User and group.
    pub fn owner(&self) -> (u32, u32) {
        (self.meta.uid(), self.meta.gid())
    }

    /// A path that leads to what is in this directory, for as long as this is held.
    pub fn path(&self) -> PathBuf {
        by_number(&self.fd)
    }

    /// A directory's entries by name, at most [`MAX_ENTRIES`], and whether there are more.
    pub fn entries(&self) -> io::Result<(Vec<Entry>, bool)> {
        let mut out = Vec::new();
        let mut truncated = false;
        for entry in fs::read_dir(by_number(&self.fd))? {
            let entry = entry?;
            if out.len() == MAX_ENTRIES {
                truncated = true;
                break;
            }
            // Gone between the two looks: not an entry.
            let Ok(meta) = entry.metadata() else { continue };
            out.push(Entry {
                name: entry.file_name(),
                meta,
            });
        }
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((out, truncated))
    }
}

/// `PATH` of a descriptor that was opened with O_PATH: the kernel resolves it to the very same file.
fn by_number(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn normal(path: &str) -> io::Result<PathBuf> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if path.contains('\0') {
        return refused("must not hold a NUL");
    }
    let mut out = PathBuf::new();
    for part in Path::new(OsStr::new(path)).components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => out.push(name),
            Component::ParentDir | Component::Prefix(_) => return refused("must not hold .."),
        }
    }
    if out.as_os_str().is_empty() {
        out.push(".");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::fs::symlink};

    use super::*;

    fn sandbox() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), "not yours").unwrap();
        let inside = dir.path().join("sandbox");
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::write(inside.join("a/b/file"), "yours").unwrap();
        let root = Root::open(&inside).unwrap();
        (dir, root)
    }

    fn read(root: &Root, path: &str) -> io::Result<String> {
        let mut out = String::new();
        root.find(path)?.open()?.read_to_string(&mut out)?;
        Ok(out)
    }

    #[test]
    fn what_is_below_is_found() {
        let (dir, root) = sandbox();
        symlink("b/file", dir.path().join("sandbox/a/link")).unwrap();
        for path in ["a/b/file", "/a//b/./file", "./a/b/file", "a/link"] {
            assert_eq!(read(&root, path).unwrap(), "yours", "{path}");
        }
        assert!(root.find("").unwrap().meta.is_dir());
        let missing = root.find("a/x").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn nothing_leads_out() {
        let (dir, root) = sandbox();
        let inside = dir.path().join("sandbox");
        symlink(dir.path().join("secret"), inside.join("absolute")).unwrap();
        symlink("../secret", inside.join("relative")).unwrap();
        symlink("..", inside.join("up")).unwrap();
        symlink("/", inside.join("slash")).unwrap();
        symlink("a/../../secret", inside.join("crooked")).unwrap();
        symlink("/proc/self/root", inside.join("magic")).unwrap();
        let wild = [
            "../secret",
            "a/../../secret",
            "absolute",
            "relative",
            "up/secret",
            "slash/etc/passwd",
            "crooked",
            "magic/etc/passwd",
            "a\0b",
        ];
        for path in wild {
            let kind = read(&root, path).unwrap_err().kind();
            let refused = [io::ErrorKind::PermissionDenied, io::ErrorKind::InvalidInput];
            assert!(refused.contains(&kind), "{path}: {kind:?}");
        }
    }

    #[test]
    fn links_that_bite_their_tail_end() {
        let (dir, root) = sandbox();
        symlink("loop", dir.path().join("sandbox/loop")).unwrap();
        assert!(root.find("loop").is_err());
    }

    #[test]
    fn a_pipe_is_not_opened() {
        let (dir, root) = sandbox();
        let path = dir.path().join("sandbox/fifo");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        // Without the check this would wait for a writer for ever.
        let kind = read(&root, "fifo").unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::InvalidInput);
        assert_eq!(
            read(&root, "a").unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn a_link_that_changes_under_way_never_shows_the_outside() {
        let (dir, root) = sandbox();
        let inside = dir.path().join("sandbox");
        fs::write(inside.join("secret"), "mine").unwrap();
        let secret = dir.path().to_owned();
        let swap = inside.join("swap");
        symlink("a", &swap).unwrap();
        fs::write(inside.join("a/secret"), "mine").unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (one, two) = (inside.join("l1"), inside.join("l2"));
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    symlink(&secret, &one).unwrap();
                    fs::rename(&one, &swap).unwrap();
                    symlink("a", &two).unwrap();
                    fs::rename(&two, &swap).unwrap();
                }
            });
            for _ in 0..2000 {
                if let Ok(text) = read(&root, "swap/secret") {
                    assert_eq!(text, "mine");
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn directories_are_made_and_removed_below() {
        let (dir, root) = sandbox();
        let inside = dir.path().join("sandbox");
        let made = root
            .make_dirs(Path::new("containers/one/containers/two"))
            .unwrap();
        fs::write(made.path().join("stdout"), "x").unwrap();
        assert!(inside.join("containers/one/containers/two/stdout").exists());
        assert!(root.make_dirs(Path::new("containers/one")).is_ok(), "again");
        // A link in the way is refused, wherever it leads, and one that is removed is removed itself.
        symlink(dir.path(), inside.join("containers/away")).unwrap();
        for path in ["containers/away", "containers/away/x"] {
            assert!(root.make_dirs(Path::new(path)).is_err(), "{path}");
        }
        assert!(
            root.remove_dir(Path::new("containers/away/secret"))
                .is_err()
        );
        symlink(dir.path(), inside.join("containers/one/link")).unwrap();
        root.remove_dir(Path::new("containers/one")).unwrap();
        assert!(!inside.join("containers/one").exists());
        assert!(dir.path().join("secret").exists());
        assert!(root.remove_dir(Path::new("")).is_err());
    }

    #[test]
    fn entries_are_not_followed() {
        let (dir, root) = sandbox();
        symlink("/etc/passwd", dir.path().join("sandbox/a/link")).unwrap();
        let (entries, truncated) = root.find("a").unwrap().entries().unwrap();
        let names: Vec<_> = entries.iter().map(|e| e.name.to_str().unwrap()).collect();
        assert_eq!((names, truncated), (vec!["b", "link"], false));
        assert!(entries[1].meta.is_symlink());
    }
}

//! Writing below a root directory that nothing leaves: every path is resolved by the kernel with `RESOLVE_IN_ROOT`
//! (openat2(2)), every last part is handled without following it.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat, openat2, renameat2},
    sys::{
        stat::{Mode, SFlag, UtimensatFlags, fstat, fstatat, mkdirat, mknodat, utimensat},
        time::TimeSpec,
    },
    unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat},
};

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// A root directory.
pub struct Tree {
    root: OwnedFd,
    // Most entries come beside each other.
    last: Option<(Vec<u8>, OwnedFd)>,
}

fn os(path: &[u8]) -> &OsStr {
    OsStr::from_bytes(path)
}

fn how(flags: OFlag) -> OpenHow {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    OpenHow::new().flags(flags).resolve(resolve)
}

impl Tree {
    /// The directory `path`, which must exist.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = nix::fcntl::open(path, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())?;
        Ok(Self { root, last: None })
    }

    /// The root itself.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The directory `parent`, made where it is missing. The flag says for each directory that is made whether it
    /// took the place of a whiteout, see `make_dir`.
    pub fn parent(
        &mut self,
        parent: &[u8],
        opaque: &mut impl FnMut(BorrowedFd<'_>) -> nix::Result<()>,
    ) -> nix::Result<BorrowedFd<'_>> {
        // It may have been removed since, for something else of its name.
        let is_there = |fd: &OwnedFd| fstat(fd).is_ok_and(|s| s.st_nlink > 0);
        let known = self
            .last
            .as_ref()
            .is_some_and(|(path, fd)| path == parent && is_there(fd));
        if !known {
            let fd = self.resolve(parent, opaque)?;
            self.last = Some((parent.to_vec(), fd));
        }
        match &self.last {
            Some((_, fd)) => Ok(fd.as_fd()),
            None => Err(Errno::EINVAL),
        }
    }

    fn resolve(
        &self,
        parent: &[u8],
        opaque: &mut impl FnMut(BorrowedFd<'_>) -> nix::Result<()>,
    ) -> nix::Result<OwnedFd> {
        if parent.is_empty() {
            return self.directory(b".");
        }
        match self.directory(parent) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            done => return done,
        }
        let mut at = self.directory(b".")?;
        let mut end = 0;
        for part in parent.split(|b| *b == b'/') {
            end += part.len();
            at = match self.directory(&parent[..end]) {
                Err(Errno::ENOENT | Errno::ENOTDIR) => {
                    if make_dir(at.as_fd(), part)? {
                        let made = open_dir(at.as_fd(), part)?;
                        opaque(made.as_fd())?;
                    }
                    self.directory(&parent[..end])?
                }
                found => found?,
            };
            end += 1;
        }
        Ok(at)
    }

    fn directory(&self, path: &[u8]) -> nix::Result<OwnedFd> {
        openat2(&self.root, os(path), how(DIRECTORY))
    }

    /// A file for reading, links followed below the root.
    pub fn read(&self, path: &[u8]) -> nix::Result<std::fs::File> {
        // Not to wait for the other end of a pipe.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = std::fs::File::from(openat2(&self.root, os(path), how(flags))?);
        match file.metadata() {
            Ok(m) if m.is_file() => Ok(file),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Gives the file at `target` the name `name` in `at`; a link as the last part of `target` is not followed.
    pub fn link(&self, target: (&[u8], &[u8]), at: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
        let (dir, of) = target;
        let from = self.directory(if dir.is_empty() { b"." } else { dir })?;
        let made = linkat(&from, os(of), at, os(name), AtFlags::empty());
        if made != Err(Errno::EEXIST) {
            return made;
        }
        remove(at, name)?;
        linkat(&from, os(of), at, os(name), AtFlags::empty())
    }

    /// Sets the time of a directory's last change, if it still is there.
    pub fn set_directory_time(&self, path: &[u8], seconds: i64) {
        if let Ok(fd) = self.directory(if path.is_empty() { b"." } else { path }) {
            let time = TimeSpec::new(seconds, 0);
            let _ = nix::sys::stat::futimens(&fd, &time, &time);
        }
    }
}

/// Opens a directory by its name alone.
pub fn open_dir(at: BorrowedFd<'_>, name: &[u8]) -> nix::Result<OwnedFd> {
    openat(at, os(name), DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())
}

/// Makes a directory where none is; what else has the name is removed. Whether that was a whiteout: then what lower
/// layers have below it must stay hidden.
pub fn make_dir(at: BorrowedFd<'_>, name: &[u8]) -> nix::Result<bool> {
    match mkdirat(at, os(name), Mode::from_bits_truncate(0o755)) {
        Err(Errno::EEXIST) => {}
        made => return made.map(|()| false),
    }
    let kind = kind(at, name)?;
    if kind == SFlag::S_IFDIR {
        return Ok(false);
    }
    remove(at, name)?;
    mkdirat(at, os(name), Mode::from_bits_truncate(0o755))?;
    // Devices of layers are left out, so one that is there is a whiteout.
    Ok(kind == SFlag::S_IFCHR)
}

/// What has the name.
pub fn kind(at: BorrowedFd<'_>, name: &[u8]) -> nix::Result<SFlag> {
    let stat = fstatat(at, os(name), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(SFlag::from_bits_truncate(
        stat.st_mode & SFlag::S_IFMT.bits(),
    ))
}

/// Makes an empty file in place of what has the name.
pub fn make_file(at: BorrowedFd<'_>, name: &[u8]) -> nix::Result<std::fs::File> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o600);
    let fd = in_place_of(at, name, || openat(at, os(name), flags, mode))?;
    Ok(fd.into())
}

/// Makes a symbolic link in place of what has the name.
pub fn make_symlink(at: BorrowedFd<'_>, name: &[u8], to: &[u8]) -> nix::Result<()> {
    in_place_of(at, name, || symlinkat(os(to), at, os(name)))
}

/// Makes a named pipe in place of what has the name.
pub fn make_fifo(at: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
    let mode = Mode::from_bits_truncate(0o600);
    in_place_of(at, name, || mknodat(at, os(name), SFlag::S_IFIFO, mode, 0))
}

/// Makes overlayfs's whiteout, a character device 0:0 (Documentation/filesystems/overlayfs.rst). Nothing when the name
/// is taken: whiteouts are about lower layers.
pub fn make_whiteout(at: BorrowedFd<'_>, name: &[u8]) -> nix::Result<bool> {
    match mknodat(at, os(name), SFlag::S_IFCHR, Mode::empty(), 0) {
        Err(Errno::EEXIST) => Ok(false),
        made => made.map(|()| true),
    }
}

/// Sets the time of the last change of what has the name.
pub fn set_time(at: BorrowedFd<'_>, name: &[u8], seconds: i64) -> nix::Result<()> {
    let time = TimeSpec::new(seconds, 0);
    utimensat(at, os(name), &time, &time, UtimensatFlags::NoFollowSymlink)
}

fn in_place_of<T>(
    at: BorrowedFd<'_>,
    name: &[u8],
    make: impl Fn() -> nix::Result<T>,
) -> nix::Result<T> {
    match make() {
        Err(Errno::EEXIST) => {
            remove(at, name)?;
            make()
        }
        made => made,
    }
}

/// Removes what has the name, with all below it; nothing that is not there. However deep it is, it takes one level of
/// descriptors: directories are moved up before they are emptied.
pub fn remove(at: BorrowedFd<'_>, name: &[u8]) -> nix::Result<()> {
    match unlinkat(at, os(name), UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(Errno::ENOENT) => return Ok(()),
        done => return done,
    }
    let mut n = 0u64;
    let mut dirs = vec![name.to_vec()];
    while let Some(dir) = dirs.pop() {
        match unlinkat(at, os(&dir), UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
            Ok(()) | Err(Errno::ENOENT) => continue,
            Err(e) => return Err(e),
        }
        let mut open = Dir::from_fd(open_dir(at, &dir)?)?;
        let names: Vec<Vec<u8>> = open
            .iter()
            .map(|e| e.map(|e| e.file_name().to_bytes().to_vec()))
            .collect::<nix::Result<_>>()?;
        let fd = open_dir(at, &dir)?;
        // Once more, when it is empty.
        dirs.push(dir);
        for name in names.iter().filter(|n| *n != b"." && *n != b"..") {
            match unlinkat(&fd, os(name), UnlinkatFlags::NoRemoveDir) {
                Err(Errno::EISDIR | Errno::EPERM) => {}
                done => {
                    done?;
                    continue;
                }
            }
            if unlinkat(&fd, os(name), UnlinkatFlags::RemoveDir).is_ok() {
                continue;
            }
            loop {
                n += 1;
                let moved = format!(".waggle-removed-{n}").into_bytes();
                let flags = RenameFlags::RENAME_NOREPLACE;
                match renameat2(&fd, os(name), at, os(&moved), flags) {
                    Err(Errno::EEXIST) => {}
                    done => {
                        done?;
                        dirs.push(moved);
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Removes a directory with all below it; nothing that is not there.
pub fn remove_path(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let at = match nix::fcntl::open(parent, DIRECTORY, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        at => at?,
    };
    Ok(remove(at.as_fd(), name.as_bytes())?)
}

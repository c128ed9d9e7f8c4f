//! A directory that is written into without ever following a link, so that nothing lands outside of it whatever
//! is in it already.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, open, openat},
    sys::stat::{Mode, fchmod, fstatat, mkdirat},
    unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat},
};

use crate::shim::UserIds;

/// Longest path below a directory, in bytes (Linux's PATH_MAX).
pub const MAX_PATH: usize = 4096;
/// Deepest path below a directory.
pub const MAX_DEPTH: usize = 256;

/// A path that stays below where it is used: no root, no `..`, not empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Below(PathBuf);

/// Why a path may not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// Nothing is named.
    #[error("is empty")]
    Empty,
    /// It begins at the root.
    #[error("is absolute")]
    Absolute,
    /// It leads out by `..`.
    #[error("leads out by ..")]
    Escapes,
    /// Over [`MAX_PATH`] or [`MAX_DEPTH`].
    #[error("is too long or too deep")]
    TooLong,
    /// File systems can't hold it.
    #[error("holds a zero byte")]
    Zero,
}

impl Below {
    /// Checks bytes of any encoding; `.` and repeated slashes are left out.
    pub fn new(path: &[u8]) -> Result<Self, BadPath> {
        match Self::or_here(path)? {
            Some(below) => Ok(below),
            None => Err(BadPath::Empty),
        }
    }

    /// The same; `None` for the directory itself.
    pub fn or_here(path: &[u8]) -> Result<Option<Self>, BadPath> {
        if path.is_empty() {
            return Err(BadPath::Empty);
        }
        if path.contains(&0) {
            return Err(BadPath::Zero);
        }
        if path.len() > MAX_PATH {
            return Err(BadPath::TooLong);
        }
        let mut out = PathBuf::new();
        let mut depth = 0;
        for part in Path::new(OsStr::from_bytes(path)).components() {
            match part {
                Component::Normal(name) => {
                    out.push(name);
                    depth += 1;
                }
                Component::CurDir => {}
                Component::ParentDir => return Err(BadPath::Escapes),
                Component::RootDir | Component::Prefix(_) => return Err(BadPath::Absolute),
            }
        }
        if depth > MAX_DEPTH {
            return Err(BadPath::TooLong);
        }
        Ok((depth > 0).then_some(Self(out)))
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// Directory and last name.
    fn split(&self) -> (Vec<&OsStr>, &OsStr) {
        let mut parts: Vec<&OsStr> = self.0.iter().collect();
        let name = parts.pop().unwrap_or_default();
        (parts, name)
    }

    /// Whether a symbolic link here that says `target` leads to something below the same directory, as far as names
    /// tell. Links are never followed while files are written, so what matters is where they lead later.
    pub fn link_stays(&self, target: &[u8]) -> bool {
        let target = Path::new(OsStr::from_bytes(target));
        let mut depth = self.split().0.len();
        for part in target.components() {
            match part {
                Component::Normal(_) => depth += 1,
                Component::CurDir => {}
                Component::ParentDir => match depth.checked_sub(1) {
                    Some(up) => depth = up,
                    None => return false,
                },
                Component::RootDir | Component::Prefix(_) => return false,
            }
        }
        !target.as_os_str().is_empty()
    }
}

/// The directory.
pub struct Root {
    dir: OwnedFd,
    owner: Option<(Uid, Gid)>,
}

impl Root {
    /// An existing directory; what is made in it belongs to `owner`, or to who runs this.
    pub fn open(path: &Path, owner: Option<&UserIds>) -> io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Self {
            dir: open(path, flags | OFlag::O_RDONLY, Mode::empty())?,
            owner: owner.map(|o| (Uid::from_raw(o.uid), Gid::from_raw(o.gid))),
        })
    }

    /// Makes a directory and those above it; one that is there is kept. An error when something else is in the way,
    /// a link to a directory too.
    pub fn make_dir(&self, path: &Below) -> io::Result<()> {
        let parts: Vec<&OsStr> = path.0.iter().collect();
        self.walk(&parts).map(drop)
    }

    /// Sets the permissions of a directory or file (no set-id bits).
    pub fn set_mode(&self, path: &Below, mode: u32) -> io::Result<()> {
        let (parents, name) = path.split();
        let dir = self.walk(&parents)?;
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let fd = openat(dir.as_fd(self), name, flags, Mode::empty())?;
        Ok(fchmod(&fd, plain_mode(mode))?)
    }

    /// A new empty file in place of what has the name, if that is no directory.
    pub fn create(&self, path: &Below, mode: u32) -> io::Result<File> {
        let (parents, name) = path.split();
        let dir = self.walk(&parents)?;
        remove(&dir, self, name)?;
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(dir.as_fd(self), name, flags, plain_mode(mode))?;
        // The mode first: who owns it may already look.
        fchmod(&fd, plain_mode(mode))?;
        if let Some((uid, gid)) = self.owner {
            fchown(&fd, Some(uid), Some(gid))?;
        }
        Ok(File::from(fd))
    }

    /// Opens a regular file for reading.
    pub fn read(&self, path: &Below) -> io::Result<File> {
        let (parents, name) = path.split();
        let dir = self.walk(&parents)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let fd = openat(dir.as_fd(self), name, flags, Mode::empty())?;
        Ok(File::from(fd))
    }

    /// A symbolic link in place of what has the name, if that is no directory. Where it may lead is the caller's.
    pub fn symlink(&self, path: &Below, target: &OsStr) -> io::Result<()> {
        let (parents, name) = path.split();
        let dir = self.walk(&parents)?;
        remove(&dir, self, name)?;
        symlinkat(target, dir.as_fd(self), name)?;
        if let Some((uid, gid)) = self.owner {
            let no_follow = AtFlags::AT_SYMLINK_NOFOLLOW;
            fchownat(dir.as_fd(self), name, Some(uid), Some(gid), no_follow)?;
        }
        Ok(())
    }

    /// A second name of a regular file that is below this directory.
    pub fn hard_link(&self, path: &Below, existing: &Below) -> io::Result<()> {
        let (from_parents, from_name) = existing.split();
        let from = self.walk(&from_parents)?;
        let stat = fstatat(from.as_fd(self), from_name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a hard link to something that is no regular file",
            ));
        }
        let (parents, name) = path.split();
        let dir = self.walk(&parents)?;
        if path != existing {
            remove(&dir, self, name)?;
            let flags = LinkatFlags::empty();
            linkat(from.as_fd(self), from_name, dir.as_fd(self), name, flags)?;
        }
        Ok(())
    }

    /// Opens directory after directory without following links, making those that are missing.
    fn walk(&self, parts: &[&OsStr]) -> io::Result<Dir> {
        let mut at = Dir(None);
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        for part in parts {
            let made = match mkdirat(at.as_fd(self), *part, Mode::from_bits_truncate(0o755)) {
                Ok(()) => true,
                Err(Errno::EEXIST) => false,
                Err(e) => return Err(e.into()),
            };
            let next =
                openat(at.as_fd(self), *part, flags, Mode::empty()).map_err(|e| match e {
                    Errno::ELOOP | Errno::ENOTDIR => io::Error::new(
                        io::ErrorKind::InvalidInput,
                        format!("{} is no directory", Path::new(part).display()),
                    ),
                    e => e.into(),
                })?;
            if made {
                fchmod(&next, Mode::from_bits_truncate(0o755))?;
                if let Some((uid, gid)) = self.owner {
                    fchown(&next, Some(uid), Some(gid))?;
                }
            }
            at = Dir(Some(next));
        }
        Ok(at)
    }
}

/// A directory below a root; `None` is the root itself.
struct Dir(Option<OwnedFd>);

impl Dir {
    fn as_fd<'a>(&'a self, root: &'a Root) -> &'a OwnedFd {
        self.0.as_ref().unwrap_or(&root.dir)
    }
}

fn remove(dir: &Dir, root: &Root, name: &OsStr) -> io::Result<()> {
    match unlinkat(dir.as_fd(root), name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "a directory is in the way",
        )),
        Err(e) => Err(e.into()),
    }
}

/// Without set-user-id, set-group-id and sticky bits; readable and writable by its owner in any case, so that what was
/// written can be tidied up.
fn plain_mode(mode: u32) -> Mode {
    Mode::from_bits_truncate((mode & 0o777) | 0o600)
}

/// The last part of a URI's path as a file name: percent-decoded bytes, so that names of any language work.
pub fn percent_decode(text: &str) -> OsString {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |b: u8| char::from(b).to_digit(16);
        let pair = bytes.get(i + 1).zip(bytes.get(i + 2));
        let decoded = pair.and_then(|(a, b)| hex(*a).zip(hex(*b)));
        match decoded {
            Some((a, b)) if bytes[i] == b'%' => {
                out.push(u8::try_from(a * 16 + b).unwrap_or_default());
                i += 3;
            }
            _ => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    OsString::from_vec(out)
}

//! Unpacking archives that nobody vouches for.
//!
//! # Invariants
//! - Nothing outside of the root is made, changed, read or removed, whatever the archive says: paths with `..`, absolute
//!   paths, symbolic links, hard links.
//! - No device node comes out of an archive; they are left out and counted.
//! - Bytes, entries, depth, names, attributes and headers are bounded, and the bound holds before something is written
//!   or kept in memory.

mod attributes;
mod error;
mod path;
mod reader;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::AtFlags,
    sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat},
    unistd::{Gid, Uid, fchownat},
};

pub use self::{
    error::{UnpackError, is_no_space},
    tree::{Tree, remove_path},
};
use self::{
    path::{Meaning, Member, meaning, member},
    reader::{Entry, Kind, TarReader},
};

/// Most directories whose time of change is set at the end; of others it is when they were unpacked.
const MAX_TIMES: usize = 200_000;
/// Size of one piece of a file.
const PIECE: usize = 256 << 10;

/// What an archive may be at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the archive, uncompressed.
    pub max_bytes: u64,
    /// Entries.
    pub max_entries: u64,
    /// Directories above a file.
    pub max_depth: usize,
    /// Bytes of a path.
    pub max_path: usize,
    /// Bytes of an entry's extended attributes.
    pub max_xattr: usize,
}

impl Limits {
    /// Those for an archive of so many bytes as it comes, compressed or not.
    pub fn for_size(compressed_bytes: u64, max_bytes: u64) -> Self {
        /// What any archive may become.
        const FREE: u64 = 512 << 20;
        /// How many times its size; text compresses to a tenth.
        const RATIO: u64 = 100;
        Self {
            max_bytes: max_bytes.min(compressed_bytes.saturating_mul(RATIO).max(FREE)),
            max_entries: 1_000_000,
            max_depth: 128,
            max_path: 4095,
            max_xattr: 64 << 10,
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        Self {
            max_bytes: 4 << 20,
            max_entries: 100,
            max_depth: 32,
            max_path: 1000,
            max_xattr: 4096,
        }
    }
}

/// What kind of archive it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A layer of an image: owners as they are, whiteouts in overlayfs's form.
    Layer,
    /// Anything else: all belongs to who unpacks, names mean nothing, nothing is set-uid.
    Plain,
}

/// What came out of an archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries.
    pub n_entries: u64,
    /// About how much of the disk they take.
    pub disk_bytes: u64,
    /// Devices that were left out.
    pub n_devices: u64,
}

/// Unpacks a tar stream below `root`, which must be an empty directory, and reads the stream to its end. Blocking.
/// After an error what is there must not be used.
pub fn unpack(
    stream: &mut impl Read,
    root: &Path,
    style: Style,
    limits: &Limits,
) -> Result<Unpacked, UnpackError> {
    let tree = Tree::open(root).map_err(|source| UnpackError::Write {
        entry: root.display().to_string(),
        source,
    })?;
    let mut reader = TarReader::new(stream, limits);
    let mut work = Work {
        tree,
        style,
        limits,
        times: BTreeMap::new(),
        done: Unpacked::default(),
        // Without the right to give files away they belong to who unpacks.
        owners: style == Style::Layer && nix::unistd::geteuid().is_root(),
        piece: vec![0; PIECE],
    };
    while let Some(entry) = reader.next()? {
        work.done.n_entries += 1;
        if work.done.n_entries > limits.max_entries {
            return Err(UnpackError::TooMuch {
                what: "entries",
                most: limits.max_entries,
            });
        }
        work.entry(&entry, &mut reader)?;
    }
    reader.drain()?;
    // The last first: making a file changes the time of the directory above it.
    for (path, seconds) in work.times.iter().rev() {
        work.tree.set_directory_time(path, *seconds);
    }
    Ok(work.done)
}

struct Work<'a> {
    tree: Tree,
    style: Style,
    limits: &'a Limits,
    times: BTreeMap<Vec<u8>, i64>,
    done: Unpacked,
    owners: bool,
    piece: Vec<u8>,
}

impl Work<'_> {
    fn entry<R: Read>(
        &mut self,
        entry: &Entry,
        reader: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        let member = member(&entry.path, self.limits)?;
        let failed = UnpackError::write(&entry.path);
        let Some(name) = member.name else {
            return self.of_root(entry);
        };
        if entry.kind == Kind::Device {
            self.done.n_devices += 1;
            return Ok(());
        }
        self.done.disk_bytes += 4096 + entry.size.next_multiple_of(4096);
        let what = match self.style {
            Style::Layer => meaning(name)?,
            Style::Plain => Meaning::File,
        };
        let parent = member.parent();
        match what {
            Meaning::Note => return Ok(()),
            Meaning::Opaque => {
                let at = self.parent(&parent).map_err(&failed)?;
                return attributes::set_opaque(at).map_err(&failed);
            }
            Meaning::Whiteout(hidden) => {
                let at = self.parent(&parent).map_err(&failed)?;
                return whiteout(at, hidden).map_err(&failed);
            }
            Meaning::File => {}
        }
        let style = self.style;
        let owners = self.owners;
        match entry.kind {
            Kind::File => {
                let at = self.parent(&parent).map_err(&failed)?;
                let mut file = tree::make_file(at, name).map_err(&failed)?;
                self.body(&mut file, entry, reader)?;
                attributes::apply(&file, &tamed(entry, style), owners).map_err(&failed)?;
                let at = self.parent(&parent).map_err(&failed)?;
                tree::set_time(at, name, entry.mtime).map_err(&failed)?;
            }
            Kind::Directory => {
                let at = self.parent(&parent).map_err(&failed)?;
                let was_whiteout = tree::make_dir(at, name).map_err(&failed)?;
                let dir = tree::open_dir(at, name).map_err(&failed)?;
                let mut tamed = tamed(entry, style);
                if !owners {
                    // Or nothing could be made in it.
                    tamed.mode |= 0o700;
                }
                attributes::apply(&dir, &tamed, owners).map_err(&failed)?;
                if was_whiteout {
                    attributes::set_opaque(&dir).map_err(&failed)?;
                }
                self.remember(&member, entry.mtime);
            }
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.contains(&0) || entry.link.len() > 4095 {
                    let rule = "link: must be 1 to 4095 bytes without NUL";
                    return Err(UnpackError::rule(&entry.path, rule));
                }
                let at = self.parent(&parent).map_err(&failed)?;
                tree::make_symlink(at, name, &entry.link).map_err(&failed)?;
                own(at, name, entry, owners).map_err(&failed)?;
                tree::set_time(at, name, entry.mtime).map_err(&failed)?;
            }
            Kind::HardLink => self.hard_link(entry, &parent, name)?,
            Kind::Fifo if self.style == Style::Layer => {
                let at = self.parent(&parent).map_err(&failed)?;
                tree::make_fifo(at, name).map_err(&failed)?;
                own(at, name, entry, owners).map_err(&failed)?;
            }
            Kind::Fifo | Kind::Device => self.done.n_devices += 1,
        }
        Ok(())
    }

    fn hard_link(&mut self, entry: &Entry, parent: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        let failed = UnpackError::write(&entry.path);
        let target = member(&entry.link, self.limits)?;
        let Some(of) = target.name else {
            let rule = "link: must name a file";
            return Err(UnpackError::rule(&entry.path, rule));
        };
        let dir = target.parent();
        if (dir.as_slice(), of) == (parent, name) {
            return Ok(());
        }
        // Its own descriptor: the tree is asked for the target's directory meanwhile.
        let at = self.parent(parent).map_err(&failed)?;
        let at = at
            .try_clone_to_owned()
            .map_err(|source| UnpackError::Write {
                entry: String::from_utf8_lossy(&entry.path).into_owned(),
                source,
            })?;
        match self.tree.link((&dir, of), at.as_fd(), name) {
            Err(Errno::ENOENT | Errno::EPERM | Errno::ENOTDIR | Errno::ELOOP) => {
                let link = String::from_utf8_lossy(&entry.link);
                let rule = format!("link: must name a file before it in the archive, is {link:?}");
                Err(UnpackError::rule(&entry.path, rule))
            }
            done => done.map_err(&failed),
        }
    }

    /// Of the root only owner and permissions are taken.
    fn of_root(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Directory {
            let rule = "path: the root must be a directory";
            return Err(UnpackError::rule(&entry.path, rule));
        }
        if self.style == Style::Layer {
            let mut tamed = tamed(entry, self.style);
            if !self.owners {
                tamed.mode |= 0o700;
            }
            attributes::apply(self.tree.root(), &tamed, self.owners)
                .map_err(UnpackError::write(&entry.path))?;
            self.remember(
                &Member {
                    dirs: Vec::new(),
                    name: None,
                },
                entry.mtime,
            );
        }
        Ok(())
    }

    fn parent(&mut self, parent: &[u8]) -> nix::Result<BorrowedFd<'_>> {
        self.tree
            .parent(parent, &mut |dir| attributes::set_opaque(dir))
    }

    fn body<R: Read>(
        &mut self,
        file: &mut std::fs::File,
        entry: &Entry,
        reader: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        loop {
            let n = reader.body(&mut self.piece)?;
            if n == 0 {
                return Ok(());
            }
            file.write_all(&self.piece[..n])
                .map_err(|source| UnpackError::Write {
                    entry: String::from_utf8_lossy(&entry.path).into_owned(),
                    source,
                })?;
        }
    }

    fn remember(&mut self, member: &Member<'_>, mtime: i64) {
        if self.times.len() < MAX_TIMES {
            let mut path = member.parent();
            if let (false, Some(_)) = (path.is_empty(), member.name) {
                path.push(b'/');
            }
            path.extend(member.name.unwrap_or_default());
            self.times.insert(path, mtime);
        }
    }
}

/// A whiteout; over a directory of the same layer it hides what lower layers have in it.
fn whiteout(at: BorrowedFd<'_>, hidden: &[u8]) -> nix::Result<()> {
    if !tree::make_whiteout(at, hidden)? && tree::kind(at, hidden)? == SFlag::S_IFDIR {
        attributes::set_opaque(tree::open_dir(at, hidden)?)?;
    }
    Ok(())
}

fn own(at: BorrowedFd<'_>, name: &[u8], entry: &Entry, owners: bool) -> nix::Result<()> {
    let name = OsStr::from_bytes(name);
    if owners {
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        fchownat(at, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    }
    if entry.kind == Kind::Fifo {
        let mode = Mode::from_bits_truncate(entry.mode & 0o777);
        fchmodat(at, name, mode, FchmodatFlags::FollowSymlink)?;
    }
    Ok(())
}

/// Set-uid, set-gid and sticky bits are a layer's alone.
fn tamed(entry: &Entry, style: Style) -> Entry {
    let mut entry = entry.clone();
    if style == Style::Plain {
        entry.mode &= 0o777;
        entry.xattrs.clear();
    }
    entry
}

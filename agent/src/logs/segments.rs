//! Which segments a stream is made of. Written by the shim, durably enough for what outlives it: the page cache.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

/// Most segments of one stream; beyond that the oldest goes, whatever the quota says.
pub const MAX_SEGMENTS: usize = 64;
/// Looks at an index before a segment that it names counts as gone: a rotation is three steps.
const TRIES: usize = 8;

/// Where one stream of a task is.
#[derive(Debug, Clone)]
pub struct OutputDir {
    /// Holds the segments; the task's.
    pub sandbox: PathBuf,
    /// Holds index and times; not the task's.
    pub beside: PathBuf,
    /// `stdout` or `stderr`.
    pub name: String,
}

/// The segments of a stream, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Index {
    /// Oldest first; the last one is written to.
    pub segments: Vec<Segment>,
    /// Milliseconds that the task was kept waiting.
    #[serde(default)]
    pub blocked_ms: u64,
}

/// One file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Bytes of the stream before it.
    pub base: u64,
    /// The file's.
    pub inode: u64,
    /// When the file was made, Unix microseconds, where the file system knows: inodes are given out anew.
    #[serde(default)]
    pub born_us: u64,
    /// When it was begun, Unix microseconds.
    pub since_us: u64,
}

/// A file that nobody has yet, for what a task writes: it owns the directory, so neither a link nor a file that it put there may
/// choose where that goes.
pub fn fresh(path: &Path, owner: Option<(u32, u32)>) -> io::Result<File> {
    let new = || {
        OpenOptions::new()
            .create_new(true)
            .append(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
    };
    let file = match new() {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
            new()?
        }
        other => other?,
    };
    if let Some((uid, gid)) = owner {
        // Readable by its user; a failure only means that it is not.
        let _ = std::os::unix::fs::fchown(&file, Some(uid), Some(gid));
    }
    Ok(file)
}

impl OutputDir {
    /// Of a stream in a sandbox, with its index in another directory.
    pub fn new(sandbox: &Path, beside: &Path, name: &str) -> Self {
        Self {
            sandbox: sandbox.to_owned(),
            beside: beside.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The file of a segment: 0 is the newest.
    pub fn file(&self, age: usize) -> PathBuf {
        match age {
            0 => self.sandbox.join(&self.name),
            age => self.sandbox.join(format!("{}.{age}", self.name)),
        }
    }

    /// The times of a segment's bytes.
    pub fn times(&self, base: u64) -> PathBuf {
        self.beside.join(format!("{}.times.{base}", self.name))
    }

    fn index(&self) -> PathBuf {
        self.beside.join(format!("{}.segments", self.name))
    }

    /// Replaces the index.
    pub fn write(&self, index: &Index) -> io::Result<()> {
        let tmp = self.beside.join(format!("{}.segments.tmp", self.name));
        fs::write(&tmp, serde_json::to_vec(index)?)?;
        fs::rename(&tmp, self.index())
    }

    /// The index; `None` where the stream has none: it was not begun, or by a shim of before there were any.
    pub fn read(&self) -> Option<Index> {
        let bytes = fs::read(self.index()).ok()?;
        let index: Index = serde_json::from_slice(&bytes).ok()?;
        (!index.segments.is_empty()).then_some(index)
    }

    /// The same from the files alone, as such shims left them: two, which are all that is known of. `known` is a segment
    /// whose place is known; where it is gone, they go on at `at`.
    pub fn guess(&self, known: Option<(u64, u64)>, at: u64) -> Option<Index> {
        let mut segments = Vec::new();
        let mut base = 0;
        for age in [1, 0] {
            let Ok(meta) = open(&self.file(age)).and_then(|f| f.metadata()) else {
                continue;
            };
            segments.push(Segment {
                base,
                inode: meta.ino(),
                born_us: born_us(&meta),
                since_us: 0,
            });
            base += meta.len();
        }
        if let Some((inode, base)) = known {
            let by = match segments.iter().find(|s| s.inode == inode) {
                Some(same) => base.wrapping_sub(same.base),
                None => at,
            };
            for s in &mut segments {
                // The one before a known one may have begun before all that is counted.
                let moved = s.base.wrapping_add(by);
                s.base = if moved > u64::MAX / 2 { 0 } else { moved };
            }
        }
        (!segments.is_empty()).then_some(Index {
            segments,
            blocked_ms: 0,
        })
    }

    /// Opens a segment that an index names; `None` when it is there no more.
    pub fn open(&self, wanted: &Segment) -> Option<File> {
        let same = |path: &Path| {
            let file = open(path).ok()?;
            let meta = file.metadata().ok()?;
            let born = wanted.born_us == 0 || wanted.born_us == born_us(&meta);
            (meta.is_file() && meta.ino() == wanted.inode && born).then_some(file)
        };
        for _ in 0..TRIES {
            let index = self.read().or_else(|| self.guess(None, 0))?;
            let at = index
                .segments
                .iter()
                .position(|s| s.inode == wanted.inode)?;
            let age = index.segments.len() - 1 - at;
            // Where it should be, and where it is when a rotation is under way or a name was missing.
            let ages = [age, age + 1, age.saturating_sub(1)].into_iter();
            let found = ages
                .chain(0..index.segments.len())
                .find_map(|age| same(&self.file(age)));
            if found.is_some() {
                return found;
            }
            std::thread::yield_now();
        }
        None
    }
}

/// When a file was made; 0 where nobody knows.
pub fn born_us(meta: &Metadata) -> u64 {
    let since = meta
        .created()
        .ok()
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(0))
}

/// Opens what a task may have put there: no link is followed, no pipe waited for.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

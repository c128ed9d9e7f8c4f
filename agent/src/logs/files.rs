//! Files that a task writes by itself and wants logged, by label (`WAGGLE_LOG_FILES`).
//!
//! A file is followed by its inode: one that was renamed is read to its end before the one that took its place, one
//! that was cut off is read anew. What another file of the same name says is another stream.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use waggle_telemetry_pipeline::{Entry, Joiner, LineSplitter, MAX_LINE, MAX_LOG_FILES};

use crate::files::beneath::{Found, Root};

/// Where the places are, in the task's directory.
const PLACES: &str = "files.json";
/// Bytes by which a file is known again: inodes are given out anew.
const HEAD: u64 = 64;
/// Most bytes of one file at a time.
const MAX_PER_POLL: u64 = 4 << 20;
/// Most bytes of one that is read for the last time: it may be as long as the task likes.
const MAX_AT_END: u64 = 16 << 20;

/// How far a file was shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Place {
    inode: u64,
    offset: u64,
    head: u64,
    head_len: u64,
}

/// A record of a file.
#[derive(Debug)]
pub struct FileEntry {
    /// Below the sandbox.
    pub path: String,
    /// What tells this file from others of its name.
    pub stream: String,
    /// Its lines.
    pub entry: Entry,
}

/// The files of one task.
#[derive(Debug)]
pub struct FollowedFiles {
    sandbox: PathBuf,
    places: PathBuf,
    wanted: Vec<String>,
    kept: BTreeMap<String, Place>,
    open: BTreeMap<String, Followed>,
    // Bytes that were left out and not told yet.
    left_out: u64,
    // Most files that were too many at once, and how many of these were not told yet.
    beyond: (usize, usize),
}

#[derive(Debug)]
struct Followed {
    file: File,
    place: Place,
    // Bytes read; the place is where entries were handed out.
    read: u64,
    splitter: LineSplitter,
    joiner: Joiner,
}

impl FollowedFiles {
    /// `wanted` below `sandbox`; a `*` in a name stands for anything. Goes on where an agent before stopped.
    pub fn new(sandbox: &Path, task_dir: &Path, wanted: &[String]) -> Self {
        let places = task_dir.join(PLACES);
        let kept = fs::read(&places)
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok());
        Self {
            sandbox: sandbox.to_owned(),
            places,
            wanted: wanted.to_vec(),
            kept: kept.unwrap_or_default(),
            open: BTreeMap::new(),
            left_out: 0,
            beyond: (0, 0),
        }
    }

    /// What is new. `last`: nothing more comes. Blocking.
    pub fn poll(&mut self, last: bool) -> Vec<FileEntry> {
        let mut out = Vec::new();
        if self.wanted.is_empty() {
            return out;
        }
        let Ok(root) = Root::open(&self.sandbox) else {
            return out;
        };
        let mut paths = self.paths(&root);
        let beyond = paths.len().saturating_sub(MAX_LOG_FILES);
        paths.truncate(MAX_LOG_FILES);
        let more = beyond.saturating_sub(self.beyond.0);
        self.beyond = (self.beyond.0 + more, self.beyond.1 + more);
        for path in paths {
            self.look(&root, &path, last, &mut out);
        }
        let places = self.open.iter().map(|(path, f)| (path.clone(), f.place));
        let places: BTreeMap<String, Place> = places.collect();
        if places != self.kept {
            self.kept = places;
            if let Err(e) = self.keep() {
                tracing::debug!(error = %e, "places in a task's files not written: lines may come twice");
            }
        }
        out
    }

    /// Bytes that were left out since the last time: more than is read of a file at its end.
    pub fn left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }

    /// Files that are not followed since there are too many, as far as they were not told yet.
    pub fn beyond(&mut self) -> u64 {
        std::mem::take(&mut self.beyond.1) as u64
    }

    fn keep(&self) -> io::Result<()> {
        let tmp = self.places.with_extension("tmp");
        fs::write(&tmp, serde_json::to_vec(&self.kept)?)?;
        fs::rename(&tmp, &self.places)
    }

    /// Those that are there, and those that were: what is open stays before what is not.
    fn paths(&self, root: &Root) -> Vec<String> {
        let mut out: Vec<String> = self.open.keys().cloned().collect();
        for wanted in &self.wanted {
            let wanted = wanted.trim_start_matches('/');
            let (dir, name) = wanted.rsplit_once('/').unwrap_or(("", wanted));
            if !name.contains('*') {
                out.push(wanted.to_owned());
                continue;
            }
            let entries = root.find(dir).and_then(|found| found.entries());
            let names = entries.map(|(e, _)| e).unwrap_or_default().into_iter();
            let names = names.filter_map(|e| e.name.into_string().ok());
            let fits = names.filter(|n| matches(name, n));
            out.extend(fits.map(|n| {
                if dir.is_empty() {
                    n
                } else {
                    format!("{dir}/{n}")
                }
            }));
        }
        let mut seen = std::collections::BTreeSet::new();
        out.retain(|path| seen.insert(path.clone()));
        out
    }

    fn look(&mut self, root: &Root, path: &str, last: bool, out: &mut Vec<FileEntry>) {
        let found = root.find(path).ok().filter(|f| f.meta.is_file());
        let inode = found.as_ref().map(|f| f.meta.ino());
        if let Some(open) = self.open.get_mut(path) {
            let replaced = match inode {
                Some(inode) => inode != open.place.inode,
                // Renamed, it may still be written to; removed, it is done with.
                None => open.file.metadata().is_ok_and(|m| m.nlink() == 0),
            };
            self.left_out += open.read_on(path, last || replaced, out);
            if !replaced {
                return;
            }
        }
        // What was open was read to its end just now.
        let was_open = self.open.remove(path).is_some();
        let Some(found) = found else { return };
        let kept = self.kept.get(path).filter(|_| !was_open);
        let kept = kept.copied().unwrap_or_default();
        // It may have been renamed while no agent looked: then its rest comes first.
        if kept.inode != 0
            && kept.inode != found.meta.ino()
            && let Some(older) = beside(root, path, kept.inode)
            && let Some(mut older) = Followed::open(&older, kept)
            && older.read > 0
        {
            self.left_out += older.read_on(path, true, out);
        }
        if let Some(mut open) = Followed::open(&found, kept) {
            self.left_out += open.read_on(path, last, out);
            self.open.insert(path.to_owned(), open);
        }
    }
}

/// A file of the same directory by its inode.
fn beside(root: &Root, path: &str, inode: u64) -> Option<Found> {
    let (dir, _) = path.rsplit_once('/').unwrap_or(("", path));
    let (entries, _) = root.find(dir).ok()?.entries().ok()?;
    let same = entries.into_iter().find(|e| e.meta.ino() == inode)?;
    let name = same.name.into_string().ok()?;
    root.find(&format!("{dir}/{name}")).ok()
}

impl Followed {
    /// At a place, if it is of this very file; else from its beginning.
    fn open(found: &Found, kept: Place) -> Option<Self> {
        let file = found.open().ok()?;
        let inode = found.meta.ino();
        let same = kept.inode == inode
            && kept.offset <= found.meta.len()
            && head(&file, kept.head_len) == Some(kept.head);
        let place = if same {
            kept
        } else {
            Place {
                inode,
                ..Place::default()
            }
        };
        Some(Self {
            file,
            place,
            read: place.offset,
            splitter: LineSplitter::at_offset(MAX_LINE, place.offset),
            joiner: Joiner::default(),
        })
    }

    /// Reads on; how many bytes are left out for good.
    fn read_on(&mut self, path: &str, last: bool, out: &mut Vec<FileEntry>) -> u64 {
        let len = self.file.metadata().map_or(0, |m| m.len());
        let same = self.place.head_len == 0
            || head(&self.file, self.place.head_len) == Some(self.place.head);
        if len < self.read || !same {
            // Cut off: what comes now is another stream.
            self.flush(path, out);
            let Place { inode, .. } = self.place;
            self.place = Place {
                inode,
                ..Place::default()
            };
            self.read = 0;
            self.splitter = LineSplitter::default();
        }
        if self.place.head_len == 0 && len > 0 {
            let head_len = len.min(HEAD);
            self.place.head = head(&self.file, head_len).unwrap_or(0);
            self.place.head_len = head_len;
        }
        let (mut n_read, mut buffer) = (0, vec![0; 64 << 10]);
        let most = if last { MAX_AT_END } else { MAX_PER_POLL };
        while n_read < most {
            let Ok(n @ 1..) = self.file.read_at(&mut buffer, self.read) else {
                break;
            };
            self.read += n as u64;
            n_read += n as u64;
            for line in self.splitter.push(&buffer[..n]) {
                let whole = self.joiner.push(line);
                self.hand_out(path, whole, out);
            }
        }
        if last {
            self.flush(path, out);
        } else if n_read == 0 {
            // Nothing came since the last look.
            let held = self.joiner.flush();
            self.hand_out(path, held, out);
        }
        if last {
            len.saturating_sub(self.read)
        } else {
            0
        }
    }

    fn flush(&mut self, path: &str, out: &mut Vec<FileEntry>) {
        if let Some(line) = self.splitter.flush() {
            let whole = self.joiner.push(line);
            self.hand_out(path, whole, out);
        }
        let held = self.joiner.flush();
        self.hand_out(path, held, out);
    }

    fn hand_out(
        &mut self,
        path: &str,
        entries: impl IntoIterator<Item = Entry>,
        out: &mut Vec<FileEntry>,
    ) {
        for entry in entries {
            self.place.offset = entry.end_offset;
            let Place { inode, head, .. } = self.place;
            out.push(FileEntry {
                path: path.to_owned(),
                stream: format!("{path}:{inode:x}:{head:x}"),
                entry,
            });
        }
    }
}

fn head(file: &File, len: u64) -> Option<u64> {
    let mut bytes = vec![0; usize::try_from(len.min(HEAD)).ok()?];
    file.read_exact_at(&mut bytes, 0).ok()?;
    // FNV-1a.
    Some(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    }))
}

/// Whether a name fits; `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    struct Task(tempfile::TempDir);

    impl Task {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("sandbox/logs")).unwrap();
            Self(dir)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join("sandbox/logs").join(name)
        }

        fn add(&self, name: &str, text: &str) {
            let mut options = fs::OpenOptions::new();
            let file = options.create(true).append(true).open(self.path(name));
            file.unwrap().write_all(text.as_bytes()).unwrap();
        }

        fn files(&self, wanted: &str) -> FollowedFiles {
            let sandbox = self.0.path().join("sandbox");
            FollowedFiles::new(&sandbox, self.0.path(), &[wanted.to_owned()])
        }
    }

    /// Looks until nothing comes: the second look sees that nothing more of a record does.
    fn lines(files: &mut FollowedFiles) -> Vec<String> {
        let mut out = Vec::new();
        for _ in 0..3 {
            out.extend(files.poll(false).into_iter().map(|e| {
                let text = String::from_utf8(e.entry.bytes).unwrap();
                format!("{}: {text}", e.path)
            }));
        }
        out
    }

    #[test]
    fn a_file_is_followed_over_renaming_cutting_and_restarts() {
        let task = Task::new();
        let mut files = task.files("logs/app.log");
        assert!(lines(&mut files).is_empty());
        task.add("app.log", "one\ntw");
        assert_eq!(lines(&mut files), ["logs/app.log: one"]);
        task.add("app.log", "o\n");
        // Renamed, and written to once more.
        fs::rename(task.path("app.log"), task.path("app.log.1")).unwrap();
        task.add("app.log.1", "three\n");
        task.add("app.log", "four\n");
        let seen = ["two", "three", "four"].map(|l| format!("logs/app.log: {l}"));
        assert_eq!(lines(&mut files), seen);
        // Again, while no agent looks.
        task.add("app.log", "five\n");
        fs::rename(task.path("app.log"), task.path("app.log.2")).unwrap();
        task.add("app.log", "six\n");
        let mut files = task.files("logs/app.log");
        let seen = ["five", "six"].map(|l| format!("logs/app.log: {l}"));
        assert_eq!(lines(&mut files), seen);
        // Cut off in place.
        fs::write(task.path("app.log"), "7\n").unwrap();
        assert_eq!(lines(&mut files), ["logs/app.log: 7"]);
        let mut files = task.files("logs/app.log");
        assert!(lines(&mut files).is_empty());
        // Another file, though it may have the inode of one before.
        fs::remove_file(task.path("app.log")).unwrap();
        task.add("app.log", "eight\nnine\n");
        let mut files = task.files("logs/app.log");
        let seen = ["eight", "nine"].map(|l| format!("logs/app.log: {l}"));
        assert_eq!(lines(&mut files), seen);
        task.add("app.log", "no end");
        let rest = files.poll(true);
        assert_eq!(rest[0].entry.bytes, b"no end");
    }

    #[test]
    fn too_many_files_are_told_once() {
        let task = Task::new();
        for n in 0..MAX_LOG_FILES + 3 {
            task.add(&format!("{n:02}.log"), "line\n");
        }
        let mut files = task.files("logs/*.log");
        assert_eq!(lines(&mut files).len(), MAX_LOG_FILES);
        assert_eq!((files.beyond(), files.beyond()), (3, 0));
        task.add("99.log", "line\n");
        assert!(lines(&mut files).is_empty());
        assert_eq!(files.beyond(), 1);
    }

    #[test]
    fn what_is_read_again_is_known_again() {
        let task = Task::new();
        task.add("app.log", "one\ntwo\nthree\n");
        let uids = |files: &mut FollowedFiles| -> Vec<(String, u64)> {
            let all = files.poll(true).into_iter();
            all.map(|e| (e.stream, e.entry.start_offset)).collect()
        };
        let first = uids(&mut task.files("logs/app.log"));
        fs::remove_file(task.0.path().join(PLACES)).unwrap();
        assert_eq!(uids(&mut task.files("logs/app.log")), first);
        assert_eq!(first.len(), 3);
    }

    #[test]
    fn names_may_have_stars_and_lead_nowhere_else() {
        for (pattern, name, fits) in [
            ("*.log", "a.log", true),
            ("*.log", "a.log.1", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c", false),
            ("*", "x", true),
            ("a*", "b", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
        let task = Task::new();
        fs::write(task.0.path().join("secret"), "not yours\n").unwrap();
        std::os::unix::fs::symlink("../../secret", task.path("x.log")).unwrap();
        task.add("y.log", "yours\n");
        assert_eq!(lines(&mut task.files("logs/*.log")), ["logs/y.log: yours"]);
        assert!(lines(&mut task.files("../secret")).is_empty());
    }
}

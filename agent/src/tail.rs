//! A task's output, from its segment files to the entries that log records are made of, each line once.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use waggle_telemetry_pipeline::{Entry, Joiner, LineSplitter, MAX_LINE};

use crate::shim::previous;

/// Most bytes taken in one call, so that a task that writes without end cannot hold up the others; the
/// rest follows at the next tick, or is counted as lost when its segment was replaced meanwhile.
const MAX_PER_POLL: u64 = 32 << 20;
/// When nothing was written for this long, nothing more of a record is coming.
const QUIET: Duration = Duration::from_millis(500);

/// How far a stream was shipped: a place that survives a restart of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The segment, 0 before the first.
    pub inode: u64,
    /// Bytes of it that are dealt with, up to the end of a line.
    pub offset: u64,
}

/// What one call found.
#[derive(Debug, Default)]
pub struct Polled {
    /// Whole lines, those of one record together.
    pub entries: Vec<Entry>,
    /// How many lines that are.
    pub n_lines: u64,
    /// Bytes read.
    pub n_bytes: u64,
    /// Whether a segment was replaced before it was read to its end.
    pub lost_segment: bool,
}

/// Follows one stream over its segments.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    file: Option<(u64, File)>,
    splitter: LineSplitter,
    joiner: Joiner,
    // Up to where entries were handed out, as the splitter counts.
    handed_out: u64,
    // Stream offset (as the splitter counts) at which the open segment begins; negative after a restart
    // in the middle of one.
    base: i64,
    // The segment before and where it began, for a line that spans both.
    before: Option<(u64, i64)>,
    n_read: u64,
    resume: Position,
}

impl Tail {
    /// Continues at `position`.
    pub fn new(path: &Path, position: Position) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
            splitter: LineSplitter::new(MAX_LINE),
            joiner: Joiner::default(),
            handed_out: 0,
            base: 0,
            before: None,
            n_read: 0,
            resume: position,
        }
    }

    /// Where to continue after a restart.
    pub fn position(&self) -> Position {
        let committed = i64::try_from(self.handed_out).unwrap_or(i64::MAX);
        match (&self.file, self.before) {
            (Some((inode, _)), _) if committed >= self.base => Position {
                inode: *inode,
                offset: u64::try_from(committed - self.base).unwrap_or(0),
            },
            (_, Some((inode, base))) => Position {
                inode,
                offset: u64::try_from(committed - base).unwrap_or(0),
            },
            _ => self.resume,
        }
    }

    /// Reads what is new. With `last`, the task has ended: an unfinished line is handed out too. Blocking.
    pub fn poll(&mut self, last: bool) -> Polled {
        let mut out = Polled::default();
        let mut buffer = vec![0; 64 * 1024];
        while out.n_bytes < MAX_PER_POLL {
            if self.file.is_none() && !self.open(&mut out) {
                break;
            }
            let Some((inode, file)) = &mut self.file else {
                break;
            };
            match file.read(&mut buffer) {
                Ok(0) => {
                    let current = fs::metadata(&self.path).map(|m| m.ino());
                    if current.is_ok_and(|c| c != *inode) {
                        // Rotated. What was written between our read and the rename is still in it.
                        let n = file.read(&mut buffer).unwrap_or(0);
                        if n > 0 {
                            self.take(&buffer[..n], &mut out);
                            continue;
                        }
                        self.before = Some((*inode, self.base));
                        self.resume = Position::default();
                        self.file = None;
                        continue;
                    }
                    break;
                }
                Ok(n) => self.take(&buffer[..n], &mut out),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if last && let Some(line) = self.splitter.flush() {
            out.n_lines += 1;
            out.entries.extend(self.joiner.push(line));
        }
        let at_end = out.n_bytes < MAX_PER_POLL;
        if last || (at_end && self.joiner.held_bytes() > 0 && self.is_quiet()) {
            out.entries.extend(self.joiner.flush());
        }
        if let Some(newest) = out.entries.last() {
            self.handed_out = newest.end_offset;
        }
        out
    }

    /// Whether the task has said nothing for a while; without an answer the record is not held up.
    fn is_quiet(&self) -> bool {
        let written = self
            .file
            .as_ref()
            .and_then(|(_, f)| f.metadata().ok()?.modified().ok());
        let since = written.and_then(|w| SystemTime::now().duration_since(w).ok());
        since.is_none_or(|s| s >= QUIET)
    }

    fn take(&mut self, bytes: &[u8], out: &mut Polled) {
        out.n_bytes += bytes.len() as u64;
        self.n_read += bytes.len() as u64;
        for line in self.splitter.push(bytes) {
            out.n_lines += 1;
            out.entries.extend(self.joiner.push(line));
        }
    }

    /// Opens the segment that comes next. Returns whether there is one.
    fn open(&mut self, out: &mut Polled) -> bool {
        let older = previous(&self.path);
        let wanted = self.resume;
        let last_read = self.before.map(|(inode, _)| inode);
        // The older segment first, where it is the one to continue in or one that was never seen.
        for path in [&older, &self.path] {
            let Ok(mut file) = File::open(path) else {
                continue;
            };
            let Ok(meta) = file.metadata() else { continue };
            let inode = meta.ino();
            if Some(inode) == last_read {
                continue;
            }
            let is_current = *path == self.path;
            let found = wanted.inode != 0 && inode == wanted.inode;
            if wanted.inode != 0 && !found && !is_current && self.current_is(wanted.inode) {
                continue;
            }
            if wanted.inode != 0 && !found {
                out.lost_segment = true;
            }
            let offset = if found {
                wanted.offset.min(meta.len())
            } else {
                0
            };
            if file.seek(SeekFrom::Start(offset)).is_err() {
                continue;
            }
            let read = i64::try_from(self.n_read).unwrap_or(i64::MAX);
            self.base = read - i64::try_from(offset).unwrap_or(0);
            self.file = Some((inode, file));
            return true;
        }
        false
    }

    fn current_is(&self, inode: u64) -> bool {
        fs::metadata(&self.path).is_ok_and(|m| m.ino() == inode)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn texts(polled: &Polled) -> Vec<String> {
        let text = |e: &Entry| String::from_utf8_lossy(&e.bytes).into_owned();
        polled.entries.iter().map(text).collect()
    }

    /// As if nothing had been written for a while.
    fn rest(file: &File) {
        let then = SystemTime::now() - 2 * QUIET;
        file.set_modified(then).unwrap();
    }

    #[test]
    fn a_record_is_held_until_nothing_more_comes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout");
        let mut file = File::create(&path).unwrap();
        let mut tail = Tail::new(&path, Position::default());
        write!(file, "one\nERROR boom\n  at x\n").unwrap();
        assert_eq!(texts(&tail.poll(false)), ["one"]);
        writeln!(file, "  at y").unwrap();
        assert!(tail.poll(false).entries.is_empty());

        // A restart in the middle of it: it comes whole.
        let mut again = Tail::new(&path, tail.position());
        rest(&file);
        assert_eq!(texts(&again.poll(false)), ["ERROR boom\n  at x\n  at y"]);
        assert_eq!(texts(&tail.poll(false)), ["ERROR boom\n  at x\n  at y"]);
        assert_eq!(again.position(), tail.position());
        assert!(tail.poll(true).entries.is_empty());
    }

    #[test]
    fn lines_come_once_over_rotation_and_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout");
        let mut file = File::create(&path).unwrap();
        let mut tail = Tail::new(&path, Position::default());
        write!(file, "a\nb").unwrap();
        rest(&file);
        assert_eq!(texts(&tail.poll(false)), ["a"]);

        // Restarted in the middle of a line: it comes whole.
        let mut tail = Tail::new(&path, tail.position());
        writeln!(file, "b").unwrap();
        rest(&file);
        assert_eq!(texts(&tail.poll(false)), ["bb"]);

        // A line that spans two segments.
        write!(file, "c").unwrap();
        assert!(tail.poll(false).entries.is_empty());
        fs::rename(&path, previous(&path)).unwrap();
        let mut file = File::create(&path).unwrap();
        assert!(tail.poll(false).entries.is_empty());
        let spanning = tail.position();
        write!(file, "c\nd\nrest").unwrap();
        rest(&file);
        assert_eq!(texts(&tail.poll(false)), ["cc", "d"]);

        // Restarted where that line began, in the older segment.
        let mut again = Tail::new(&path, spanning);
        assert_eq!(texts(&again.poll(false)), ["cc", "d"]);

        assert_eq!(texts(&tail.poll(true)), ["rest"], "the end of the task");
        assert!(!tail.poll(true).lost_segment);
    }

    #[test]
    fn a_replaced_segment_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout");
        fs::write(&path, "new\n").unwrap();
        rest(&File::open(&path).unwrap());
        let gone = Position {
            inode: u64::MAX,
            offset: 10,
        };
        let polled = Tail::new(&path, gone).poll(false);
        assert!(polled.lost_segment);
        assert_eq!(texts(&polled), ["new"]);
    }

    #[test]
    fn no_file_is_no_output() {
        let mut tail = Tail::new(Path::new("/nonexistent/stdout"), Position::default());
        assert!(tail.poll(true).entries.is_empty());
    }
}

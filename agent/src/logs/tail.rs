//! A task's output, from its segments to the entries that log records are made of, each line once.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use waggle_telemetry_pipeline::{Entry, Joiner, Line, LineSplitter, MAX_LINE};

use super::{
    reader::{Reader, Step},
    segments::OutputDir,
};

/// Most bytes taken in one call, so that a task that writes without end cannot hold up the others; the
/// rest follows at the next tick, or is counted as lost when its segment was removed meanwhile.
pub const MAX_PER_POLL: u64 = 32 << 20;
/// When nothing was written for this long, nothing more of a record is coming.
const QUIET: Duration = Duration::from_millis(500);
/// How far both streams were shipped; the shim of a task that waits for that reads it.
const SHIPPED: &str = "tail.json";

/// How far a stream was shipped: a place that survives a restart of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The segment, 0 before the first.
    pub inode: u64,
    /// Bytes of it that are dealt with, up to the end of a line.
    pub offset: u64,
    /// Bytes of the stream; agents of before did not know.
    #[serde(default)]
    pub at: Option<u64>,
}

/// How far both streams were shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shipped {
    /// Standard output.
    #[serde(default)]
    pub stdout: Position,
    /// Standard error.
    #[serde(default)]
    pub stderr: Position,
}

impl Shipped {
    /// What is written down in a task's directory.
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(SHIPPED)).ok()?).ok()
    }

    /// Writes it down. Not fsynced: after a power loss some lines come again, as the same records.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let tmp = dir.join("tail.tmp");
        fs::write(&tmp, serde_json::to_vec(self)?)?;
        fs::rename(&tmp, dir.join(SHIPPED))
    }

    /// Of a stream.
    pub fn of(&self, stream: &str) -> Position {
        match stream {
            "stderr" => self.stderr,
            _ => self.stdout,
        }
    }
}

/// A record, and when it came.
#[derive(Debug)]
pub struct Came {
    /// Its lines.
    pub entry: Entry,
    /// When its first byte came, Unix microseconds; 0 where nobody knows.
    pub us: u64,
}

/// What one call found.
#[derive(Debug, Default)]
pub struct Polled {
    /// Whole lines, those of one record together.
    pub entries: Vec<Came>,
    /// How many lines that are.
    pub n_lines: u64,
    /// Bytes read.
    pub n_bytes: u64,
    /// Bytes that were removed before they were read.
    pub lost_bytes: u64,
}

/// Follows one stream over its segments.
#[derive(Debug)]
pub struct Tail {
    reader: Reader,
    splitter: LineSplitter,
    joiner: Joiner,
    // Up to where entries were handed out.
    handed_out: u64,
}

impl Tail {
    /// Continues at `position`.
    pub fn new(dir: OutputDir, position: Position) -> Self {
        let Position { inode, offset, at } = position;
        // A place without the stream's count, from before there was one: its segment says where it is.
        let base = dir.read().and_then(|index| {
            let same = index.segments.iter().find(|s| s.inode == inode)?;
            Some(same.base)
        });
        let at = at.unwrap_or_else(|| base.unwrap_or(0) + offset);
        let known = (inode != 0).then(|| (inode, at.saturating_sub(offset)));
        Self {
            reader: Reader::new(dir, at, known),
            splitter: LineSplitter::at_offset(MAX_LINE, at),
            joiner: Joiner::default(),
            handed_out: at,
        }
    }

    /// Where to continue after a restart.
    pub fn position(&self) -> Position {
        let at = self.handed_out;
        let (inode, base) = self.reader.segment().unwrap_or_default();
        if at >= base {
            let offset = if inode == 0 { 0 } else { at - base };
            return Position {
                inode,
                offset,
                at: Some(at),
            };
        }
        // In one before: a line that spans two.
        let index = self.reader.index().unwrap_or_default();
        let of = index.segments.iter().rfind(|s| s.base <= at);
        Position {
            inode: of.map_or(0, |s| s.inode),
            offset: of.map_or(0, |s| at - s.base),
            at: Some(at),
        }
    }

    /// Milliseconds that the task was kept waiting by its output.
    pub fn blocked_ms(&self) -> u64 {
        self.reader.index().map_or(0, |i| i.blocked_ms)
    }

    /// Reads what is new, at most about `most` bytes. With `last`, the task has ended: an unfinished line is handed out
    /// too. Blocking.
    pub fn poll(&mut self, last: bool, most: u64) -> Polled {
        let mut out = Polled::default();
        let mut buffer = vec![0; 64 * 1024];
        let most = most.min(MAX_PER_POLL);
        let mut at_end = false;
        while out.n_bytes < most {
            match self.reader.step(&mut buffer) {
                Ok(Step::Bytes(n)) => {
                    out.n_bytes += n as u64;
                    for line in self.splitter.push(&buffer[..n]) {
                        self.take(line, &mut out);
                    }
                }
                Ok(Step::Gap(lost)) => {
                    out.lost_bytes += lost;
                    // What was begun before is all that is left of it.
                    if let Some(rest) = self.splitter.skip_to(self.reader.at()) {
                        self.take(rest, &mut out);
                    }
                    let held = self.joiner.flush();
                    self.hand_out(held, &mut out);
                    self.handed_out = self.reader.at();
                }
                Ok(Step::End) | Err(_) => {
                    at_end = true;
                    break;
                }
            }
        }
        if last
            && at_end
            && let Some(line) = self.splitter.flush()
        {
            self.take(line, &mut out);
        }
        if at_end && (last || (self.joiner.held_bytes() > 0 && self.is_quiet())) {
            let held = self.joiner.flush();
            self.hand_out(held, &mut out);
        }
        out
    }

    fn take(&mut self, line: Line, out: &mut Polled) {
        out.n_lines += 1;
        let whole = self.joiner.push(line);
        self.hand_out(whole, out);
    }

    fn hand_out(&mut self, entries: impl IntoIterator<Item = Entry>, out: &mut Polled) {
        for entry in entries {
            self.handed_out = entry.end_offset;
            out.entries.push(Came {
                us: self.reader.time_us(entry.start_offset),
                entry,
            });
        }
    }

    /// Whether the task has said nothing for a while; without an answer the record is not held up.
    fn is_quiet(&self) -> bool {
        let written = self.reader.modified();
        let since = written.and_then(|w| SystemTime::now().duration_since(w).ok());
        since.is_none_or(|s| s >= QUIET)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write};

    use super::*;

    fn texts(polled: &Polled) -> Vec<String> {
        let text = |c: &Came| String::from_utf8_lossy(&c.entry.bytes).into_owned();
        polled.entries.iter().map(text).collect()
    }

    /// As if nothing had been written for a while.
    fn rest(file: &File) {
        let then = SystemTime::now() - 2 * QUIET;
        file.set_modified(then).unwrap();
    }

    fn tail(dir: &Path, position: Position) -> Tail {
        Tail::new(OutputDir::new(dir, dir, "stdout"), position)
    }

    fn poll(tail: &mut Tail) -> Vec<String> {
        let polled = tail.poll(false, u64::MAX);
        assert_eq!(polled.lost_bytes, 0);
        texts(&polled)
    }

    #[test]
    fn a_record_is_held_until_nothing_more_comes() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = File::create(dir.path().join("stdout")).unwrap();
        let mut first = tail(dir.path(), Position::default());
        write!(file, "one\nERROR boom\n  at x\n").unwrap();
        assert_eq!(poll(&mut first), ["one"]);
        writeln!(file, "  at y").unwrap();
        assert!(poll(&mut first).is_empty());

        // A restart in the middle of it: it comes whole.
        let mut again = tail(dir.path(), first.position());
        rest(&file);
        assert_eq!(poll(&mut again), ["ERROR boom\n  at x\n  at y"]);
        assert_eq!(poll(&mut first), ["ERROR boom\n  at x\n  at y"]);
        assert_eq!(again.position(), first.position());
        assert!(first.poll(true, u64::MAX).entries.is_empty());
    }

    #[test]
    fn lines_come_once_over_rotation_and_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stdout");
        let mut file = File::create(&path).unwrap();
        let mut first = tail(dir.path(), Position::default());
        write!(file, "a\nb").unwrap();
        rest(&file);
        assert_eq!(poll(&mut first), ["a"]);

        // Restarted in the middle of a line: it comes whole.
        let mut first = tail(dir.path(), first.position());
        writeln!(file, "b").unwrap();
        rest(&file);
        assert_eq!(poll(&mut first), ["bb"]);

        // A line that spans two segments, of a shim that kept no index.
        write!(file, "c").unwrap();
        assert!(poll(&mut first).is_empty());
        fs::rename(&path, dir.path().join("stdout.1")).unwrap();
        let mut file = File::create(&path).unwrap();
        assert!(poll(&mut first).is_empty());
        let spanning = first.position();
        write!(file, "c\nd\nrest").unwrap();
        rest(&file);
        assert_eq!(poll(&mut first), ["cc", "d"]);

        // Restarted where that line began, in the older segment; also by the word of an agent of before.
        for at in [spanning.at, None] {
            let mut again = tail(dir.path(), Position { at, ..spanning });
            assert_eq!(poll(&mut again), ["cc", "d"]);
        }
        let ended = first.poll(true, u64::MAX);
        assert_eq!(texts(&ended), ["rest"], "the end of the task");
        assert_eq!(first.poll(true, u64::MAX).lost_bytes, 0);
    }

    #[test]
    fn who_must_wait_is_read_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let text = "x\n".repeat(100_000);
        fs::write(dir.path().join("stdout"), &text).unwrap();
        let mut parts = tail(dir.path(), Position::default());
        assert_eq!(parts.poll(false, 0).n_bytes, 0);
        let first = parts.poll(false, 1);
        assert_eq!(first.n_bytes, 64 << 10);
        let rest = parts.poll(true, u64::MAX);
        assert_eq!(first.n_lines + rest.n_lines, 100_000);
        // What is read again is the same.
        let offsets = |polled: &Polled| -> Vec<u64> {
            let of = |c: &Came| c.entry.start_offset;
            polled.entries.iter().map(of).collect()
        };
        let mut both = offsets(&first);
        both.extend(offsets(&rest));
        let all = tail(dir.path(), Position::default()).poll(true, u64::MAX);
        assert_eq!(both, offsets(&all));
    }

    #[test]
    fn no_file_is_no_output() {
        let mut tail = tail(Path::new("/nonexistent"), Position::default());
        assert!(tail.poll(true, u64::MAX).entries.is_empty());
    }
}

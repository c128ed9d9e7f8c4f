//! The lines of one task, both streams in the order in which they came. Blocking; no HTTP here.

use std::io;

use waggle_api::logs::{LineView, LogEvent, LogQuery, MAX_PIECE};
use waggle_telemetry_pipeline::{LineSplitter, Merge, line_uid, uid_text};

use super::{
    reader::{Reader, Step},
    segments::OutputDir,
};
use crate::checkpoint::TaskDir;

/// Most bytes of a stream that one look takes.
const MAX_LOOK: usize = 128 << 10;
/// Lines of a stream that wait for the other one; then it is read no further.
const MAX_HELD: usize = 256;
/// How long one stream waits for the other.
const WINDOW_NS: u64 = 1_000_000_000;
/// From a shim's stamp on bytes to their being in the file. What takes longer comes late, which is no loss.
const SLACK_US: u64 = 20_000;
/// Most bytes that are searched for a number of last lines.
const MAX_TAIL: u64 = 8 << 20;

/// Why lines can't be told.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// Where it would go on is there no more.
    #[error(
        "cursor: {bytes} bytes of {stream} of {task} behind it were removed; ask without a cursor for what is left, or with may_skip=true"
    )]
    TooOld {
        /// Whose.
        task: String,
        /// Which.
        stream: String,
        /// How many.
        bytes: u64,
    },
    /// It is of other output.
    #[error("cursor: is beyond the end of {stream} of {task}")]
    Beyond {
        /// Whose.
        task: String,
        /// Which.
        stream: String,
    },
    /// A segment can't be read.
    #[error("failed to read output")]
    Read(#[from] io::Error),
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Where the query says.
    Query,
    /// So many lines before a byte; `None`: before the end.
    At {
        /// The byte; what is gone counts as its beginning.
        at: Option<u64>,
        /// Lines before it.
        back: u64,
    },
}

/// What a look found.
#[derive(Debug, Default)]
pub struct Look {
    /// In order.
    pub events: Vec<LogEvent>,
    /// There may be more at once.
    pub more: bool,
    /// The task has ended and all of it was told.
    pub over: bool,
}

/// Follows one task.
pub struct Follow {
    task: String,
    node: String,
    sources: Vec<Source>,
    merge: Merge<usize, LogEvent>,
    told_us: u64,
}

struct Source {
    name: String,
    reader: Reader,
    splitter: LineSplitter,
    // What came before is not told.
    since_us: u64,
    // A place in the middle of a line: what is left of that is not told.
    in_line: bool,
    over: bool,
}

impl Follow {
    /// Begins where a query says.
    pub fn new(
        dir: &TaskDir,
        node: &str,
        query: &LogQuery,
        begin: Begin,
    ) -> Result<Self, FollowError> {
        let task = dir.task_id().to_string();
        let mut sources = Vec::new();
        for name in ["stdout", "stderr"] {
            if query.stream.as_deref().is_some_and(|s| s != name) {
                continue;
            }
            let place = OutputDir::new(&dir.sandbox(), dir.path(), name);
            let reader = Reader::new(place, 0, None);
            sources.push(match begin {
                Begin::Query => Source::new(reader, &task, name, query)?,
                Begin::At { at, back } => Source::before(reader, name, at, back)?,
            });
        }
        let mut merge = Merge::new(WINDOW_NS);
        for i in 0..sources.len() {
            merge.join(i);
        }
        Ok(Self {
            task,
            node: node.to_owned(),
            sources,
            merge,
            told_us: 0,
        })
    }

    /// Whose lines.
    pub fn task(&self) -> &str {
        &self.task
    }

    /// Where each stream begins, for a cursor; not in the middle of a line.
    pub fn places(&self) -> impl Iterator<Item = (&str, u64)> {
        let whole = self.sources.iter().filter(|s| !s.in_line);
        whole.map(|s| (s.name.as_str(), s.reader.at()))
    }

    /// What is there now. `ended`: the task had ended before this was asked.
    pub fn look(&mut self, now_us: u64, ended: bool) -> Result<Look, FollowError> {
        let mut look = Look::default();
        for i in 0..self.sources.len() {
            look.more |= self.read_on(i, now_us, ended)?;
        }
        while let Some(merged) = self.merge.pop(now_us.saturating_mul(1000)) {
            look.events.push(merged.item);
        }
        look.over = ended && self.sources.iter().all(|s| s.over) && self.merge.floor() == 0;
        if look.over {
            look.events.push(LogEvent::Ended {
                ended: self.task.clone(),
            });
        } else if self.merge.floor() > self.told_us {
            self.told_us = self.merge.floor();
            look.events.push(LogEvent::Upto {
                upto_us: self.told_us,
            });
        }
        Ok(look)
    }

    /// Reads one stream on; whether it has more.
    fn read_on(&mut self, i: usize, now_us: u64, ended: bool) -> Result<bool, FollowError> {
        let Some(source) = self.sources.get_mut(i) else {
            return Ok(false);
        };
        let mut buffer = vec![0; MAX_PIECE];
        let mut n_read = 0;
        while !source.over {
            if n_read >= MAX_LOOK || self.merge.held(&i) >= MAX_HELD {
                return Ok(true);
            }
            let lines = match source.reader.step(&mut buffer)? {
                Step::Bytes(n) => {
                    n_read += n;
                    source.splitter.push(&buffer[..n])
                }
                Step::Gap(gap_bytes) => {
                    let rest = source.splitter.skip_to(source.reader.at());
                    let us = source.reader.time_us(source.reader.at());
                    let gap = LogEvent::Gap {
                        gap_bytes,
                        task: self.task.clone(),
                        stream: source.name.clone(),
                    };
                    self.merge.push(&i, us, gap, now_us.saturating_mul(1000));
                    rest.into_iter().collect()
                }
                Step::End if ended => {
                    source.over = true;
                    source.splitter.flush().into_iter().collect()
                }
                Step::End => {
                    self.merge.upto(&i, now_us.saturating_sub(SLACK_US));
                    return Ok(false);
                }
            };
            for line in lines {
                let rest = source.in_line;
                source.in_line &= line.partial;
                let time_us = source.reader.time_us(line.start_offset);
                if rest || time_us < source.since_us {
                    continue;
                }
                let uid = line_uid(&self.task, &source.name, line.start_offset, time_us * 1000);
                let view = LineView {
                    time_us,
                    task: self.task.clone(),
                    node: self.node.clone(),
                    stream: source.name.clone(),
                    offset: line.start_offset,
                    next: line.end_offset,
                    uid: uid_text(uid),
                    line: String::from_utf8_lossy(&line.bytes).into_owned(),
                    partial: line.partial,
                };
                let now_ns = now_us.saturating_mul(1000);
                self.merge.push(&i, time_us, LogEvent::Line(view), now_ns);
            }
        }
        self.merge.leave(&i);
        Ok(false)
    }
}

impl Source {
    fn before(
        mut reader: Reader,
        name: &str,
        at: Option<u64>,
        back: u64,
    ) -> Result<Self, FollowError> {
        let (first, end) = reader.bounds();
        let at = at.unwrap_or(end).clamp(first, end);
        let (at, whole) = match back {
            0 => (at, true),
            lines => last_lines(&mut reader, first, at, lines)?,
        };
        reader.seek(at);
        Ok(Self {
            name: name.to_owned(),
            splitter: LineSplitter::at_offset(MAX_PIECE, at),
            reader,
            since_us: 0,
            in_line: !whole,
            over: false,
        })
    }

    fn new(
        mut reader: Reader,
        task: &str,
        name: &str,
        query: &LogQuery,
    ) -> Result<Self, FollowError> {
        let (first, end) = reader.bounds();
        let from_cursor = query.cursor.as_ref().and_then(|c| c.place(task, name));
        let mut in_line = false;
        let at = match (from_cursor, &query.cursor) {
            (Some(at), _) if at < first && !query.may_skip => {
                return Err(FollowError::TooOld {
                    task: task.to_owned(),
                    stream: name.to_owned(),
                    bytes: first - at,
                });
            }
            (Some(at), _) if at > end => {
                return Err(FollowError::Beyond {
                    task: task.to_owned(),
                    stream: name.to_owned(),
                });
            }
            (Some(at), _) => at,
            (None, Some(cursor)) => since(&mut reader, cursor.floor_us, first, &mut in_line)?,
            (None, None) => {
                let since = if let Some(us) = query.since_us {
                    since(&mut reader, us, first, &mut in_line)?
                } else {
                    // The oldest segment may begin in the middle of a line.
                    in_line = first > 0;
                    first
                };
                match query.tail {
                    Some(lines) => {
                        let (tail, whole) = last_lines(&mut reader, first, end, lines)?;
                        if tail >= since {
                            in_line = !whole;
                        }
                        tail.max(since)
                    }
                    None => since,
                }
            }
        };
        reader.seek(at);
        let floor_us = query.cursor.as_ref().map(|c| c.floor_us);
        let since_us = match from_cursor {
            Some(_) => 0,
            // A stream that a cursor does not know begins where it was made.
            None => floor_us.or(query.since_us).unwrap_or(0),
        };
        Ok(Self {
            since_us,
            name: name.to_owned(),
            splitter: LineSplitter::at_offset(MAX_PIECE, at),
            reader,
            in_line,
            over: false,
        })
    }
}

/// Where what came since begins, and whether in the middle of a line.
fn since(reader: &mut Reader, us: u64, first: u64, in_line: &mut bool) -> io::Result<u64> {
    let at = reader.place_of(us).max(first);
    *in_line = at > 0;
    if at > first {
        reader.seek(at - 1);
        let mut before = [0; 1];
        if reader.step(&mut before)? == Step::Bytes(1) {
            *in_line = before != *b"\n";
        }
    }
    Ok(at)
}

/// Where the last `lines` lines begin, and whether at the beginning of a line.
fn last_lines(reader: &mut Reader, first: u64, end: u64, lines: u64) -> io::Result<(u64, bool)> {
    if lines == 0 {
        return Ok((end, true));
    }
    // Twice as far back until there are enough.
    let mut back = 64 << 10;
    loop {
        let from = end.saturating_sub(back).max(first);
        reader.seek(from);
        let mut bytes = vec![0; usize::try_from(end - from).unwrap_or(0)];
        let mut n = 0;
        while n < bytes.len() {
            match reader.step(&mut bytes[n..])? {
                Step::Bytes(more) => n += more,
                // Nothing before it counts.
                Step::Gap(_) | Step::End => break,
            }
        }
        bytes.truncate(n);
        let mut left = lines.saturating_add(u64::from(bytes.ends_with(b"\n")));
        let cut = bytes.iter().rposition(|b| {
            left -= u64::from(*b == b'\n');
            left == 0
        });
        match cut {
            Some(cut) => return Ok((from + cut as u64 + 1, true)),
            None if from == first => return Ok((first, first == 0)),
            None if back >= MAX_TAIL => return Ok((from, false)),
            None => back *= 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, fs::File, io::Write};

    use waggle_api::logs::{LogCursor, LogForm};
    use waggle_types::TaskId;

    use super::*;
    use crate::logs::{Limits, Output, Stalled};

    struct Task {
        _dir: tempfile::TempDir,
        dir: TaskDir,
        out: [Output; 2],
        pipes: [File; 2],
    }

    fn task(segment: u64, quota: u64) -> Task {
        let root = tempfile::tempdir().unwrap();
        let dir = TaskDir::new(root.path(), &TaskId::new("web.1").unwrap());
        fs::create_dir_all(dir.sandbox()).unwrap();
        let limits = Limits {
            quota_bytes: quota,
            ..Limits::two_each(segment)
        };
        let make = |name| {
            let (reader, writer) = nix::unistd::pipe().unwrap();
            let place = OutputDir::new(&dir.sandbox(), dir.path(), name);
            let out = Output::new(Some(File::from(reader)), place, limits, None, 1);
            (out, File::from(writer))
        };
        let ((out, stdout), (err, stderr)) = (make("stdout"), make("stderr"));
        Task {
            _dir: root,
            dir,
            out: [out, err],
            pipes: [stdout, stderr],
        }
    }

    impl Task {
        fn say(&mut self, stream: usize, text: &str, us: u64) {
            self.pipes[stream].write_all(text.as_bytes()).unwrap();
            self.out[stream].pump(&mut [0; 1000], us);
            Stalled::default().keep(&mut self.out, false, us);
        }

        fn follow(&self, query: &str) -> Result<Follow, FollowError> {
            let pairs = query.split('&').filter_map(|p| p.split_once('='));
            let query = LogQuery::read(pairs, None, LogForm::Json, 0).unwrap();
            Follow::new(&self.dir, "n1", &query, Begin::Query)
        }
    }

    const S: u64 = 1_000_000;

    fn lines(events: &[LogEvent]) -> Vec<String> {
        let of = |e: &LogEvent| match e {
            LogEvent::Line(l) => Some(l.line.clone()),
            LogEvent::Gap { gap_bytes, .. } => Some(format!("gap {gap_bytes}")),
            _ => None,
        };
        events.iter().filter_map(of).collect()
    }

    fn all(follow: &mut Follow, now_us: u64, ended: bool) -> Vec<LogEvent> {
        let mut out = Vec::new();
        loop {
            let look = follow.look(now_us, ended).unwrap();
            out.extend(look.events);
            if !look.more {
                return out;
            }
        }
    }

    #[test]
    fn both_streams_come_in_order() {
        let mut task = task(1 << 20, 1 << 30);
        let mut follow = task.follow("").unwrap();
        for i in 0..10u64 {
            task.say((i % 2) as usize, &format!("line {i}\n"), S + i * 5000);
        }
        task.say(0, "no end", 2 * S);
        let seen = all(&mut follow, 3 * S, false);
        let want: Vec<String> = (0..10).map(|i| format!("line {i}")).collect();
        assert_eq!(lines(&seen), want);
        assert!(matches!(seen.last(), Some(LogEvent::Upto { .. })));
        let seen = all(&mut follow, 3 * S, true);
        assert_eq!(lines(&seen), ["no end"]);
        let ended = LogEvent::Ended {
            ended: "web.1".into(),
        };
        assert_eq!(seen.last(), Some(&ended));
    }

    #[test]
    fn a_cursor_goes_on_exactly_there() {
        let mut task = task(40, 1 << 30);
        for i in 0..100u64 {
            task.say((i % 2) as usize, &format!("line {i}\n"), S + i * 5000);
        }
        let whole = all(&mut task.follow("").unwrap(), 9 * S, true);
        let mut cursor = LogCursor::default();
        for (n, event) in whole.iter().enumerate() {
            let rest = all(
                &mut task.follow(&format!("cursor={cursor}")).unwrap(),
                9 * S,
                true,
            );
            assert_eq!(rest, whole[n..]);
            if let LogEvent::Line(l) = event {
                cursor.set(&l.task, &l.stream, l.next);
                cursor.floor_us = l.time_us;
            }
        }
    }

    #[test]
    fn tail_and_since_begin_at_lines() {
        let mut task = task(50, 1 << 30);
        for i in 0..20u64 {
            task.say(0, &format!("line {i}\nand"), S + i * S);
            task.say(0, " more\n", S + i * S + S / 2);
        }
        let seen = |query: &str| lines(&all(&mut task.follow(query).unwrap(), 99 * S, true));
        assert_eq!(seen("tail=3"), ["and more", "line 19", "and more"]);
        assert_eq!(seen("tail=0"), Vec::<String>::new());
        assert_eq!(seen("tail=1000").len(), 40);
        // Milliseconds: the half of a line that came at 19.5 s is no line.
        assert_eq!(seen("since=19500"), ["line 19", "and more"]);
        assert_eq!(seen("since=20000&tail=1"), ["and more"]);
        assert_eq!(seen("since=99000"), Vec::<String>::new());
    }

    #[test]
    fn what_is_gone_is_told() {
        let mut task = task(20, 100);
        for i in 0..50u64 {
            task.say(0, &format!("line {i:02}\n"), S + i);
        }
        let mut cursor = LogCursor::default();
        cursor.set("web.1", "stdout", 8);
        let Err(e) = task.follow(&format!("cursor={cursor}")) else {
            panic!("a cursor that is too old");
        };
        assert!(e.to_string().contains("bytes of stdout of web.1"), "{e}");
        let mut follow = task
            .follow(&format!("cursor={cursor}&may_skip=true"))
            .unwrap();
        let seen = lines(&all(&mut follow, 9 * S, true));
        assert!(seen[0].starts_with("gap "), "{seen:?}");
        assert_eq!(seen.last().unwrap(), "line 49");
        cursor.set("web.1", "stdout", 9999);
        let Err(e) = task.follow(&format!("cursor={cursor}")) else {
            panic!("a cursor of something else");
        };
        assert!(matches!(e, FollowError::Beyond { .. }));
        // Without one it begins with what is left, at a line.
        let seen = lines(&all(&mut task.follow("").unwrap(), 9 * S, true));
        assert!(seen.iter().all(|l| l.len() == 7), "{seen:?}");
    }

    #[test]
    fn a_long_line_comes_in_pieces() {
        let mut task = task(1 << 20, 1 << 30);
        let long = "x".repeat(900);
        for _ in 0..20 {
            task.say(0, &long, S);
        }
        task.say(0, "\nnext\n", S);
        let seen = all(&mut task.follow("").unwrap(), 9 * S, true);
        let text: String = seen.iter().map(LogEvent::text).collect();
        assert_eq!(text, format!("{}\nnext\n", long.repeat(20)));
        assert!(matches!(&seen[0], LogEvent::Line(l) if l.partial && l.line.len() == MAX_PIECE));
    }
}

//! Lines that are one record: stack traces, indented blocks, JSON over several lines.
//!
//! A line belongs to the one before it where it is indented, or where it continues something that was begun: a
//! traceback of Python, a panic of Go or Rust, an uncaught error of Node or PHP, a cause in Java, the second line of
//! `java.util.logging`. The record before is held until the next line, or until somebody says that none is coming.

use std::cell::Cell;

use crate::{
    AttrValue, IoStream, Line, LogRecord, Severity, decode::strip_ansi, decode_line,
    lines::MAX_LINE,
};

/// Most lines of one record; what goes on is another.
const MAX_LINES: u32 = 2000;
/// Attribute that says how many lines a record has, where it is more than one.
const LINES: &str = "waggle.log.lines";
/// Attribute of pieces of a line that is too long for one record: which piece, from 1.
const PART: &str = "waggle.log.part";

const TRACEBACK: &[u8] = b"Traceback (most recent call last):";

/// Some lines of a stream that are one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The bytes as written, lines apart by `\n`, without the last one's end.
    pub bytes: Vec<u8>,
    /// How many lines.
    pub n_lines: u32,
    /// Which piece of a line longer than [`MAX_LINE`] this is, from 1.
    pub part: Option<u32>,
    /// Bytes of the stream before it: what tells it from all others, also when it is read again.
    pub start_offset: u64,
    /// Bytes of the stream up to and with its end: a safe offset to continue from.
    pub end_offset: u64,
}

/// What was begun, and so may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    /// Frames are to come, or have begun.
    Python {
        frames: bool,
    },
    /// The exception is named; another may follow.
    PythonEnd,
    /// "During handling of ..." was said: a traceback follows.
    PythonNext,
    Go,
    Rust {
        message_next: bool,
    },
    Node,
    Php,
    /// `{` alone in a line.
    Json,
    /// Date, class and method in a line; level and message are in the next.
    Jul,
    /// Whole: nothing belongs to it.
    Closed,
}

#[derive(Debug)]
struct Group {
    bytes: Vec<u8>,
    first_len: usize,
    n_lines: u32,
    start_offset: u64,
    end_offset: u64,
    mode: Mode,
    // A line ends with a brace: an object is printed.
    is_open: bool,
    // What `warns` found. The first two lines decide it, so it is asked once of each.
    warns: Cell<Option<bool>>,
}

/// Joins the lines of one stream. Holds one record of at most [`MAX_LINE`] bytes.
#[derive(Debug, Default)]
pub struct Joiner {
    held: Option<Group>,
    /// Pieces of the line at hand that were handed out.
    parts: u32,
}

impl Joiner {
    /// Takes a line; hands out the records that are whole by it, at most two.
    pub fn push(&mut self, line: Line) -> Vec<Entry> {
        let mut out = Vec::new();
        if line.partial || self.parts > 0 {
            out.extend(self.flush());
            self.parts += 1;
            let part = Some(self.parts);
            if !line.partial {
                self.parts = 0;
            }
            let Line {
                bytes,
                start_offset,
                end_offset,
                ..
            } = line;
            out.push(Entry {
                bytes,
                n_lines: 1,
                part,
                start_offset,
                end_offset,
            });
            return out;
        }
        if let Some(held) = &mut self.held
            && let Some(mode) = held.goes_on(&line.bytes)
        {
            let fits = held.bytes.len() + 1 + line.bytes.len() <= MAX_LINE;
            if fits && held.n_lines < MAX_LINES {
                held.add(&line, mode);
                return out;
            }
            out.extend(self.flush());
            self.held = Some(Group::new(line, Some(mode)));
            return out;
        }
        out.extend(self.flush());
        self.held = Some(Group::new(line, None));
        out
    }

    /// Hands out what is held: nothing is coming, or it has taken long enough.
    pub fn flush(&mut self) -> Option<Entry> {
        let Group {
            bytes,
            n_lines,
            start_offset,
            end_offset,
            ..
        } = self.held.take()?;
        Some(Entry {
            bytes,
            n_lines,
            part: None,
            start_offset,
            end_offset,
        })
    }

    /// Bytes of the record that is held.
    pub fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |g| g.bytes.len())
    }
}

impl Group {
    fn new(line: Line, mode: Option<Mode>) -> Self {
        let mode = mode.unwrap_or_else(|| begins(bare(&line.bytes)));
        Self {
            first_len: line.bytes.len(),
            is_open: line.bytes.ends_with(b"{"),
            bytes: line.bytes,
            n_lines: 1,
            start_offset: line.start_offset,
            end_offset: line.end_offset,
            mode,
            warns: Cell::new(None),
        }
    }

    fn add(&mut self, line: &Line, mode: Mode) {
        self.bytes.push(b'\n');
        self.bytes.extend_from_slice(&line.bytes);
        self.n_lines += 1;
        self.end_offset = line.end_offset;
        self.mode = mode;
        self.is_open |= line.bytes.ends_with(b"{");
        if self.n_lines == 2 {
            self.warns.set(None);
        }
    }

    fn first(&self) -> &[u8] {
        self.bytes.get(..self.first_len).unwrap_or_default()
    }

    /// Whether the first line says that something is wrong: then an exception after it is its own.
    fn warns(&self) -> bool {
        if let Some(known) = self.warns.get() {
            return known;
        }
        let warns = self.says_that_it_warns();
        self.warns.set(Some(warns));
        warns
    }

    fn says_that_it_warns(&self) -> bool {
        // Structure is one record: with text after it, nobody could read it.
        if self.is_json() {
            return false;
        }
        let of = |line| decode_line(line, IoStream::Stdout, 0).severity;
        let second = self.bytes.get(self.first_len + 1..).unwrap_or_default();
        let second = second.split(|b| *b == b'\n').next().unwrap_or_default();
        match of(self.first()) {
            Severity::UNSPECIFIED if is_jul_level(second) => of(second) >= Severity::WARN,
            first => first >= Severity::WARN,
        }
    }

    /// What the record is with this line; `None` when the line is not of it.
    fn goes_on(&self, line: &[u8]) -> Option<Mode> {
        let line = bare(line);
        let indented = line.first().is_some_and(|b| matches!(b, b' ' | b'\t'));
        let blank = line.iter().all(u8::is_ascii_whitespace);
        let mode = self.mode;
        match mode {
            Mode::Json if line.first() == Some(&b'}') => Some(Mode::Closed),
            Mode::Json => (indented && !blank).then_some(mode),
            Mode::Jul => is_jul_level(line).then_some(Mode::Plain),
            Mode::Node => self.node(line, blank || indented),
            Mode::Go => (blank || indented || is_go(line)).then_some(mode),
            Mode::PythonEnd | Mode::PythonNext if blank => Some(mode),
            Mode::PythonEnd if says_next(line) => Some(Mode::PythonNext),
            Mode::PythonNext | Mode::Plain if line == TRACEBACK && self.may_trace() => {
                Some(Mode::Python { frames: false })
            }
            Mode::PythonNext | Mode::Closed => None,
            _ if blank => None,
            Mode::Python { .. } if indented => Some(Mode::Python { frames: true }),
            Mode::Python { frames: true } => Some(Mode::PythonEnd),
            Mode::Rust { message_next: true } => Some(Mode::Rust {
                message_next: false,
            }),
            Mode::Rust { .. } if starts(line, &["note: ", "stack backtrace:"]) => Some(mode),
            Mode::Php if is_php(line) => Some(mode),
            _ if indented => (!self.is_json()).then_some(mode),
            _ if line == b"}" && self.n_lines > 1 && self.is_open => Some(mode),
            _ if starts(line, &["Caused by:", "Suppressed: "]) => (!self.is_json()).then_some(mode),
            Mode::Plain if line == b"Stack trace:" => Some(Mode::Php),
            Mode::Plain if is_java(line) && self.warns() => Some(mode),
            _ => None,
        }
    }

    /// A traceback belongs to the record that says that something failed.
    fn may_trace(&self) -> bool {
        self.mode == Mode::PythonNext || self.warns()
    }

    fn is_json(&self) -> bool {
        let first = self.first().trim_ascii();
        first.first() == Some(&b'{') && first.last() == Some(&b'}')
    }

    /// File and line, the source, a caret, the error, its stack, and last the version.
    fn node(&self, line: &[u8], open: bool) -> Option<Mode> {
        if line.starts_with(b"Node.js v") {
            return Some(Mode::Closed);
        }
        let error = line.split(|b| *b == b':' || *b == b' ').next();
        let error = error.is_some_and(|w| w.ends_with(b"Error") || w.ends_with(b"Exception"));
        let tail = starts(line, &["throw ", "}", "Thrown at:"]);
        (self.n_lines == 1 || open || error || tail).then_some(Mode::Node)
    }
}

/// What a line begins.
fn begins(line: &[u8]) -> Mode {
    if line == TRACEBACK {
        Mode::Python { frames: false }
    } else if starts(line, &["panic: ", "fatal error: ", "goroutine "]) {
        Mode::Go
    } else if line.starts_with(b"thread '") && contains(line, b" panicked at ") {
        let message_next = line.ends_with(b":");
        Mode::Rust { message_next }
    } else if starts(line, &["PHP Fatal error:", "Fatal error: Uncaught"]) {
        Mode::Php
    } else if line.trim_ascii_end() == b"{" {
        Mode::Json
    } else if is_script_place(line) {
        Mode::Node
    } else if is_jul_head(line) {
        Mode::Jul
    } else {
        Mode::Plain
    }
}

/// A line without the colors before its first character.
fn bare(mut line: &[u8]) -> &[u8] {
    while let Some(rest) = line.strip_prefix(b"\x1b[") {
        let end = rest.iter().position(u8::is_ascii_alphabetic);
        let Some(rest) = end.and_then(|e| rest.get(e + 1..)) else {
            break;
        };
        line = rest;
    }
    line
}

fn starts(line: &[u8], with: &[&str]) -> bool {
    with.iter().any(|w| line.starts_with(w.as_bytes()))
}

fn contains(line: &[u8], part: &[u8]) -> bool {
    line.windows(part.len()).any(|w| w == part)
}

fn says_next(line: &[u8]) -> bool {
    starts(
        line,
        &[
            "During handling of the above exception",
            "The above exception was the direct cause",
        ],
    )
}

fn is_go(line: &[u8]) -> bool {
    starts(
        line,
        &[
            "goroutine ",
            "created by ",
            "[signal ",
            "exit status ",
            "panic: ",
            "...additional",
        ],
    ) || (line.ends_with(b")") && contains(line, b"("))
}

/// `#0 /app/x.php(7): f()`, and the words around them.
fn is_php(line: &[u8]) -> bool {
    let numbered = line.first() == Some(&b'#') && line.get(1).is_some_and(u8::is_ascii_digit);
    numbered || starts(line, &["Stack trace:", "thrown in "])
}

/// `java.lang.IllegalStateException: no`: a qualified class that is an exception.
fn is_java(line: &[u8]) -> bool {
    let class = line.split(|b| *b == b':').next().unwrap_or_default();
    let of_names = class
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'$' | b'_'));
    let ends = [b"Exception".as_slice(), b"Error", b"Throwable"];
    of_names && class.contains(&b'.') && ends.iter().any(|e| class.ends_with(e))
}

/// `/app/server.js:12`.
fn is_script_place(line: &[u8]) -> bool {
    let Some(at) = line.iter().rposition(|b| *b == b':') else {
        return false;
    };
    let (file, number) = (&line[..at], &line[at + 1..]);
    let ends = [b".js".as_slice(), b".mjs", b".cjs", b".ts"];
    !number.is_empty()
        && number.iter().all(u8::is_ascii_digit)
        && !file.contains(&b' ')
        && (ends.iter().any(|e| file.ends_with(e)) || file.starts_with(b"node:internal"))
}

/// `Nov 23, 2026 4:14:51 AM org.example.App main`.
fn is_jul_head(line: &[u8]) -> bool {
    let month = line.first().is_some_and(u8::is_ascii_uppercase);
    let mut words = line.split(|b| *b == b' ').skip(1);
    let (day, year, _, half) = (words.next(), words.next(), words.next(), words.next());
    month
        && day.is_some_and(|d| d.ends_with(b",") && d.len() <= 3)
        && year.is_some_and(|y| y.len() == 4 && y.iter().all(u8::is_ascii_digit))
        && matches!(half, Some(b"AM" | b"PM"))
}

fn is_jul_level(line: &[u8]) -> bool {
    starts(
        line,
        &[
            "SEVERE: ",
            "WARNING: ",
            "INFO: ",
            "CONFIG: ",
            "FINE: ",
            "FINER: ",
            "FINEST: ",
        ],
    )
}

/// Reads an entry. The first line says what it is; the others stand below it in the body.
pub fn decode_entry(entry: &Entry, stream: IoStream, read_ns: u64) -> LogRecord {
    let mut record = if entry.n_lines == 1 || entry.bytes.first() == Some(&b'{') {
        decode_line(&entry.bytes, stream, read_ns)
    } else {
        joined(&entry.bytes, stream, read_ns)
    };
    if entry.n_lines > 1 {
        record.attrs.push((LINES.into(), entry.n_lines.into()));
    }
    if let Some(part) = entry.part {
        record.attrs.push((PART.into(), part.into()));
    }
    record
}

fn joined(bytes: &[u8], stream: IoStream, read_ns: u64) -> LogRecord {
    let at = bytes
        .iter()
        .position(|b| *b == b'\n')
        .unwrap_or(bytes.len());
    let (first, rest) = bytes.split_at(at);
    let mut record = decode_line(first, stream, read_ns);
    let below = String::from_utf8_lossy(rest);
    if record.severity == Severity::UNSPECIFIED {
        let second = below.lines().nth(1).unwrap_or_default();
        if is_jul_level(second.as_bytes()) {
            let of = decode_line(second.as_bytes(), stream, read_ns);
            (record.severity, record.severity_text) = (of.severity, of.severity_text);
        }
    }
    let below = strip_ansi(&below);
    // Frames of a stack: whatever the first line says, something was thrown.
    let frame = |l: &str| l.starts_with([' ', '\t']) && l.trim_start().starts_with("at ");
    let ruby = |l: &str| l.starts_with("\tfrom ");
    if record.severity == Severity::UNSPECIFIED && below.lines().any(|l| frame(l) || ruby(l)) {
        record.severity = Severity::ERROR;
    }
    let body = match &record.body {
        AttrValue::Str(first) => format!("{first}{below}"),
        other => format!("{}{below}", other.to_text()),
    };
    record.body = body.trim_end_matches(['\n', '\r']).into();
    record
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::LineSplitter;

    fn join(text: &[u8], max: usize) -> Vec<Entry> {
        let mut splitter = LineSplitter::new(max);
        let mut joiner = Joiner::default();
        let mut lines = splitter.push(text);
        lines.extend(splitter.flush());
        let mut out: Vec<Entry> = lines.into_iter().flat_map(|l| joiner.push(l)).collect();
        out.extend(joiner.flush());
        out
    }

    #[test]
    fn a_long_line_comes_in_numbered_pieces() {
        let line = [vec![b'x'; 5 << 20], b"\nnext\n".to_vec()].concat();
        let entries = join(&line, MAX_LINE);
        let parts: Vec<_> = entries.iter().map(|e| e.part).collect();
        assert_eq!(parts, [Some(1), Some(2), Some(3), Some(4), Some(5), None]);
        let n: usize = entries.iter().map(|e| e.bytes.len()).sum();
        assert_eq!(n, (5 << 20) + 4);
        let record = decode_entry(&entries[1], IoStream::Stdout, 7);
        assert_eq!(record.attr(PART), Some(&2.into()));
    }

    #[test]
    fn a_record_is_bounded() {
        let text = format!("head\n{}", " frame\n".repeat(3 * MAX_LINES as usize));
        let entries = join(text.as_bytes(), MAX_LINE);
        assert!(entries.iter().all(|e| e.n_lines <= MAX_LINES));
        assert_eq!(entries.len(), 4);
    }

    /// What a line costs must not grow with the record that it may belong to.
    #[test]
    fn joining_is_linear() {
        let head = format!("ERROR {}\n", "x".repeat(900_000));
        // Each of these asks whether the record warns, or is open.
        for line in ["com.example.BadException: x\n", " at frame\n", "}\n"] {
            let text = format!("{head}{}", line.repeat(20_000));
            let begun = std::time::Instant::now();
            let entries = join(text.as_bytes(), MAX_LINE);
            assert!(entries.iter().map(|e| u64::from(e.n_lines)).sum::<u64>() == 20_001);
            // Quadratic it takes minutes.
            assert!(
                begun.elapsed().as_secs() < 20,
                "{line:?}: {:?}",
                begun.elapsed()
            );
        }
    }

    proptest! {
        /// Every line is in one entry, in order, whatever the lines are.
        #[test]
        fn no_line_lost(
            lines in prop::collection::vec(prop_oneof![
                Just("Traceback (most recent call last):".to_owned()),
                Just("  File \"x\"".to_owned()),
                Just("ValueError: x".to_owned()),
                Just("panic: x".to_owned()),
                Just("/x.js:1".to_owned()),
                Just("{".to_owned()),
                Just("}".to_owned()),
                Just("2026-11-23 04:14:51 ERROR x".to_owned()),
                Just(String::new()),
                "[ \t#a-z{}:]{0,12}",
            ], 0..40),
            max in 4usize..40,
        ) {
            let text: String = lines.iter().flat_map(|l| [l.as_str(), "\n"]).collect();
            let mut back = Vec::new();
            for e in join(text.as_bytes(), max) {
                prop_assert_eq!(back.len() as u64, e.start_offset);
                back.extend_from_slice(&e.bytes);
                if (back.len() as u64) < e.end_offset { back.push(b'\n'); }
                prop_assert_eq!(back.len() as u64, e.end_offset);
            }
            prop_assert_eq!(String::from_utf8(back).unwrap(), text);
        }
    }
}

//! Output that is followed: lines, what stands between them, and cursors.
//!
//! Agents tell the lines of a task, masters those of all tasks of a service, in this one form: a JSON object to a line,
//! or as server-sent events.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Most streams that a cursor has places of.
pub const MAX_PLACES: usize = 2048;
/// Longest piece of a line that is told at once.
pub const MAX_PIECE: usize = 16 << 10;

/// One line of output, or a piece of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineView {
    /// When it came, Unix microseconds by its node's clock.
    pub time_us: u64,
    /// Whose it is.
    pub task: String,
    /// Where that runs.
    pub node: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Bytes of the stream before it.
    pub offset: u64,
    /// Bytes of the stream up to its end: where it goes on.
    pub next: u64,
    /// `log.record.uid` of the record that begins with it: the same however often it is told.
    pub uid: String,
    /// Its text; bytes that are none are replaced.
    pub line: String,
    /// More of the same line follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// What is told of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LogEvent {
    /// A line.
    Line(LineView),
    /// Output that was removed before it was told.
    Gap {
        /// Bytes of it.
        gap_bytes: u64,
        /// Whose it was.
        task: String,
        /// `stdout` or `stderr`.
        stream: String,
    },
    /// Everything that came before has been told.
    Upto {
        /// Unix microseconds.
        upto_us: u64,
    },
    /// A task has ended, and all of it has been told.
    Ended {
        /// Which.
        ended: String,
    },
    /// There are more tasks than are followed at once; those that are left out are told once others have ended.
    LeftOut {
        /// How many.
        left_out: usize,
    },
}

impl LogEvent {
    /// As a line of JSON.
    pub fn json(&self) -> String {
        let mut out = serde_json::to_string(self).unwrap_or_default();
        out.push('\n');
        out
    }

    /// As a server-sent event, with a cursor where it moves one.
    pub fn sse(&self, cursor: Option<&LogCursor>) -> String {
        let kind = match self {
            Self::Line(_) => "",
            Self::Gap { .. } => "event: gap\n",
            Self::Upto { .. } => return ":\n\n".to_owned(),
            Self::Ended { .. } => "event: ended\n",
            Self::LeftOut { .. } => "event: left_out\n",
        };
        let id = cursor.map(|c| format!("id: {c}\n")).unwrap_or_default();
        format!("{id}{kind}data: {}\n", self.json())
    }

    /// As text, as the task wrote it.
    pub fn text(&self) -> String {
        match self {
            Self::Line(line) if line.partial => line.line.clone(),
            Self::Line(line) => format!("{}\n", line.line),
            _ => String::new(),
        }
    }
}

/// How far output was told, over any number of streams: opaque to clients.
///
/// A stream that has no place here begins at the time up to which all of them were told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogCursor {
    /// Unix microseconds: everything of every stream from before was told.
    pub floor_us: u64,
    places: BTreeMap<u64, u64>,
}

/// A text that is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cursor: {0}")]
pub struct CursorError(&'static str);

impl LogCursor {
    /// With no places: everything from before a time was told.
    pub const fn at(floor_us: u64) -> Self {
        Self {
            floor_us,
            places: BTreeMap::new(),
        }
    }

    /// Where a stream goes on.
    pub fn place(&self, task: &str, stream: &str) -> Option<u64> {
        self.places.get(&key(task, stream)).copied()
    }

    /// A stream was told up to `at`.
    pub fn set(&mut self, task: &str, stream: &str, at: u64) {
        if self.places.len() < MAX_PLACES || self.places.contains_key(&key(task, stream)) {
            self.places.insert(key(task, stream), at);
        }
    }

    /// Nothing more comes of a stream.
    pub fn remove(&mut self, task: &str, stream: &str) {
        self.places.remove(&key(task, stream));
    }

    /// Streams that it has places of.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

impl fmt::Display for LogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{:x}", self.floor_us)?;
        for (key, at) in &self.places {
            write!(f, ".{key:x}-{at:x}")?;
        }
        Ok(())
    }
}

impl FromStr for LogCursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        const NO_CURSOR: CursorError = CursorError("is none that was given out here");
        let hex = |text: &str| {
            let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
            let number = u64::from_str_radix(text, 16).ok();
            number.filter(|_| digits).ok_or(NO_CURSOR)
        };
        let mut parts = text.split('.');
        if parts.next() != Some("1") {
            return Err(NO_CURSOR);
        }
        let mut out = Self {
            floor_us: hex(parts.next().ok_or(NO_CURSOR)?)?,
            places: BTreeMap::new(),
        };
        for part in parts {
            if out.places.len() == MAX_PLACES {
                return Err(CursorError("has too many streams"));
            }
            let (key, at) = part.split_once('-').ok_or(NO_CURSOR)?;
            out.places.insert(hex(key)?, hex(at)?);
        }
        Ok(out)
    }
}

/// FNV-1a: short, and the same in every version.
fn key(task: &str, stream: &str) -> u64 {
    let all = task.bytes().chain([0]).chain(stream.bytes());
    all.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// In which form output is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogForm {
    /// The lines alone.
    Text,
    /// JSON objects, one to a line.
    Json,
    /// Server-sent events.
    Events,
}

impl LogForm {
    /// By an `Accept` header.
    pub fn of(accept: &str) -> Self {
        if accept.contains("text/event-stream") {
            Self::Events
        } else if accept.contains("json") {
            Self::Json
        } else {
            Self::Text
        }
    }

    /// The content type of an answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Json => "application/x-ndjson",
            Self::Events => "text/event-stream",
        }
    }

    /// An event in this form.
    pub fn write(self, event: &LogEvent, cursor: Option<&LogCursor>) -> String {
        match self {
            Self::Text => event.text(),
            Self::Json => event.json(),
            Self::Events => event.sse(cursor),
        }
    }
}

/// Which part of some output is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogQuery {
    /// Only this stream.
    pub stream: Option<String>,
    /// So many lines before the end of each stream, instead of all.
    pub tail: Option<u64>,
    /// Only what came since, Unix microseconds.
    pub since_us: Option<u64>,
    /// Most lines that are told.
    pub limit: Option<u64>,
    /// Whether what comes from now on is told, too.
    pub follow: bool,
    /// Whether it is also told up to when everything was told.
    pub marks: bool,
    /// Where to go on, instead of all of these.
    pub cursor: Option<LogCursor>,
    /// Whether what a cursor points to may be gone: then a gap is told.
    pub may_skip: bool,
}

impl LogQuery {
    /// Reads what a URL's query and a `Last-Event-ID` say; names what is wrong.
    pub fn read<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        last_event: Option<&str>,
        form: LogForm,
        now_us: u64,
    ) -> Result<Self, String> {
        let mut out = Self {
            follow: form == LogForm::Events,
            ..Self::default()
        };
        for (name, value) in pairs {
            let number = || {
                let n = value.parse::<u64>();
                n.map_err(|_| format!("{name}: must be a whole number, is {value:.40?}"))
            };
            let flag = || match value {
                "true" | "1" | "" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(format!("{name}: must be true or false, is {value:.40?}")),
            };
            match name {
                "stream" => match value {
                    "stdout" | "stderr" => out.stream = Some(value.to_owned()),
                    _ => return Err(format!("stream: must be stdout or stderr, is {value:.40?}")),
                },
                "tail" => out.tail = Some(number()?),
                "limit" => out.limit = Some(number()?),
                "since" => out.since_us = Some(since(value, now_us)?),
                "follow" => out.follow = flag()?,
                "marks" => out.marks = flag()?,
                "may_skip" => out.may_skip = flag()?,
                "cursor" => out.cursor = Some(cursor(value)?),
                _ => {}
            }
        }
        // What the browser remembers comes after what the page asked for at first.
        if let Some(id) = last_event.filter(|id| !id.is_empty()) {
            out.cursor = Some(cursor(id)?);
        }
        Ok(out)
    }

    /// The same as a query; without the cursor.
    pub fn write(&self) -> String {
        let mut out = format!(
            "follow={}&marks={}&may_skip={}",
            self.follow, self.marks, self.may_skip
        );
        for (name, value) in [("tail", self.tail), ("limit", self.limit)] {
            if let Some(value) = value {
                out.push_str(&format!("&{name}={value}"));
            }
        }
        if let Some(us) = self.since_us {
            out.push_str(&format!("&since={}", us / 1000));
        }
        if let Some(stream) = &self.stream {
            out.push_str(&format!("&stream={stream}"));
        }
        out
    }
}

fn cursor(text: &str) -> Result<LogCursor, String> {
    text.parse().map_err(|e: CursorError| e.to_string())
}

/// `90s`, `10m`, `2h`, `1d`: so long ago; or Unix milliseconds.
fn since(text: &str, now_us: u64) -> Result<u64, String> {
    let wrong =
        || format!("since: must be like 90s, 10m, 2h, 1d, or Unix milliseconds, is {text:.40?}");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let n: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let second = 1_000_000u64;
    let unit = match &text[digits..] {
        "" => return Ok(n.saturating_mul(1000)),
        "s" => second,
        "m" => 60 * second,
        "h" => 3600 * second,
        "d" => 86_400 * second,
        _ => return Err(wrong()),
    };
    Ok(now_us.saturating_sub(n.saturating_mul(unit)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line() -> LineView {
        LineView {
            time_us: 1_795_407_292_000_001,
            task: "web.1".into(),
            node: "n1".into(),
            stream: "stdout".into(),
            offset: 3,
            next: 9,
            uid: "01".into(),
            line: "a\n b\u{fffd}".into(),
            partial: false,
        }
    }

    #[test]
    fn events_read_as_they_are_written() {
        let gap = LogEvent::Gap {
            gap_bytes: 7,
            task: "web.1".into(),
            stream: "stderr".into(),
        };
        let ended = LogEvent::Ended {
            ended: "web.1".into(),
        };
        let upto = LogEvent::Upto { upto_us: 8 };
        for event in [LogEvent::Line(line()), gap, ended, upto] {
            let text = event.json();
            assert_eq!(text.lines().count(), 1, "a line of JSON is one line");
            assert_eq!(serde_json::from_str::<LogEvent>(&text).unwrap(), event);
        }
        let mut cursor = LogCursor::default();
        cursor.set("web.1", "stdout", 9);
        let sse = LogEvent::Line(line()).sse(Some(&cursor));
        assert!(sse.starts_with("id: 1.0."), "{sse}");
        assert!(sse.contains("\ndata: {\"time_us\":"), "{sse}");
        assert!(
            sse.ends_with("}\n\n") && sse.lines().count() == 3,
            "{sse:?}"
        );
    }

    #[test]
    fn questions_read_as_they_are_written_and_nonsense_is_named() {
        let now = 1_000_000_000_000_000;
        let read = |pairs: &[(&str, &str)], last: Option<&str>| {
            LogQuery::read(pairs.iter().copied(), last, LogForm::Json, now)
        };
        let query = read(
            &[
                ("tail", "5"),
                ("since", "10m"),
                ("stream", "stderr"),
                ("follow", "true"),
                ("limit", "9"),
            ],
            None,
        )
        .unwrap();
        assert_eq!(query.since_us, Some(now - 600_000_000));
        let text = query.write();
        let pairs = text.split('&').map(|p| p.split_once('=').unwrap());
        let again = LogQuery::read(pairs, None, LogForm::Json, 0).unwrap();
        assert_eq!(again, query);
        let both = read(&[("cursor", "1.5")], Some("1.7")).unwrap();
        assert_eq!(both.cursor.unwrap().floor_us, 7);
        for (name, value) in [
            ("tail", "-1"),
            ("since", "yesterday"),
            ("since", "5x"),
            ("stream", "stdin"),
            ("follow", "maybe"),
            ("cursor", "1"),
            ("cursor", "1.x"),
            ("cursor", "1.+5"),
            ("cursor", "1.5.5"),
            ("cursor", "2.5"),
        ] {
            let why = read(&[(name, value)], None).unwrap_err();
            assert!(why.starts_with(&format!("{name}: ")), "{why}");
        }
        assert!(read(&[], Some("junk")).is_err());
    }

    proptest! {
        #[test]
        fn cursors_read_as_they_are_written(
            floor in any::<u64>(),
            places in prop::collection::vec(("[a-z.]{1,20}", any::<bool>(), any::<u64>()), 0..20),
        ) {
            let mut cursor = LogCursor { floor_us: floor, ..LogCursor::default() };
            for (task, err, at) in &places {
                cursor.set(task, if *err { "stderr" } else { "stdout" }, *at);
            }
            prop_assert_eq!(cursor.to_string().parse::<LogCursor>().unwrap(), cursor);
        }

        #[test]
        fn reading_is_total(text in "[0-9a-f.x-]{0,40}|\\PC{0,20}") {
            let _ = text.parse::<LogCursor>();
            let _ = since(&text, 5);
        }
    }
}

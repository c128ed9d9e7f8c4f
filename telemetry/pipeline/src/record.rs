//! Log records: OpenTelemetry's data model of one line or event.

use std::{borrow::Cow, fmt};

use waggle_types::TraceContext;

use crate::AttrValue;

/// Which pipe a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IoStream {
    /// Standard output.
    Stdout,
    /// Standard error. Says nothing about severity.
    Stderr,
}

impl IoStream {
    /// Value of `log.iostream`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// OpenTelemetry's severity: six ranges of four, 1 to 24; 0 when it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Severity(u8);

impl Severity {
    /// Not known.
    pub const UNSPECIFIED: Self = Self(0);
    /// Fine-grained debugging.
    pub const TRACE: Self = Self(1);
    /// Debugging.
    pub const DEBUG: Self = Self(5);
    /// Something happened.
    pub const INFO: Self = Self(9);
    /// Normal but worth a look (syslog notice).
    pub const NOTICE: Self = Self(10);
    /// Something is off.
    pub const WARN: Self = Self(13);
    /// Something failed.
    pub const ERROR: Self = Self(17);
    /// A failure that needs action (syslog critical).
    pub const CRITICAL: Self = Self(18);
    /// The same, at once (syslog alert).
    pub const ALERT: Self = Self(19);
    /// The program cannot go on.
    pub const FATAL: Self = Self(21);

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The short name of the range.
    pub const fn name(self) -> &'static str {
        match self.0 {
            1..=4 => "TRACE",
            5..=8 => "DEBUG",
            9..=12 => "INFO",
            13..=16 => "WARN",
            17..=20 => "ERROR",
            21..=24 => "FATAL",
            _ => "",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One log record.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRecord {
    /// When it happened: the time in the line, else the time it was read. Unix nanoseconds.
    pub time_ns: u64,
    /// When it was read. Unix nanoseconds.
    pub observed_ns: u64,
    /// Severity, as far as it could be told.
    pub severity: Severity,
    /// The original token: `warn`, `W`, `30`.
    pub severity_text: String,
    /// The message; the whole line when it has no structure.
    pub body: AttrValue,
    /// Everything else.
    pub attrs: Vec<(Cow<'static, str>, AttrValue)>,
    /// Set for events.
    pub event_name: Option<String>,
    /// Trace id and, when it is known, span id (else 0), from the line or the emitting span.
    pub trace: Option<TraceContext>,
    /// The pipe, for a task's lines.
    pub stream: Option<IoStream>,
}

impl LogRecord {
    /// A record with a text body and nothing else.
    pub fn text(body: impl Into<String>, time_ns: u64) -> Self {
        Self {
            time_ns,
            observed_ns: time_ns,
            severity: Severity::UNSPECIFIED,
            severity_text: String::new(),
            body: AttrValue::Str(body.into()),
            attrs: Vec::new(),
            event_name: None,
            trace: None,
            stream: None,
        }
    }

    /// Looks an attribute up.
    pub fn attr(&self, key: &str) -> Option<&AttrValue> {
        self.attrs.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// About how many bytes it takes on the wire; for queue limits.
    pub fn approx_bytes(&self) -> usize {
        let attrs: usize = self
            .attrs
            .iter()
            .map(|(k, v)| k.len() + 8 + v.approx_bytes())
            .sum();
        let event = self.event_name.as_ref().map_or(0, String::len);
        // 96: fixed fields, and the uid, stream and trace ids that the shell adds.
        96 + self.severity_text.len() + self.body.approx_bytes() + attrs + event
    }
}

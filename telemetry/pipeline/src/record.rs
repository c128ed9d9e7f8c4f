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

/// A ULID that a line keeps however often it is read: its time, and a hash of the stream and its place there.
pub fn line_uid(task: &str, stream: &str, offset: u64, time_ns: u64) -> u128 {
    // FNV-1a, 128 bits wide: the same on every node and in every version.
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0100_0000_0000_0000_0000_013b;
    const HASH_BITS: u32 = 80;
    let offset = offset.to_le_bytes();
    let all = [task.as_bytes(), b"\0", stream.as_bytes(), b"\0", &offset];
    let hash = all.into_iter().flatten().fold(BASIS, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
    });
    let time_ms = u128::from(time_ns / 1_000_000) & ((1 << 48) - 1);
    (time_ms << HASH_BITS) | (hash & ((1 << HASH_BITS) - 1))
}

/// The text of such bits, as ULIDs are written.
pub fn uid_text(uid: u128) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let digit = |i: u32| char::from(DIGITS[(uid >> (5 * i) & 31) as usize]);
    (0..26).rev().map(digit).collect()
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
    /// What tells it from all others, the bits of a ULID; a new one is made where it has none.
    pub uid: Option<u128>,
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
            uid: None,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_line_is_known_again() {
        let uid = |task, stream, offset| line_uid(task, stream, offset, 1_795_407_292_000_000_000);
        assert_eq!(uid("a", "stdout", 7), uid("a", "stdout", 7));
        // Pinned: who deduplicates has those of earlier versions.
        assert_eq!(
            uid("a", "stdout", 7) >> 80,
            1_795_407_292_000,
            "the time comes first"
        );
        // Of the specification's examples: 2^80 - 1 at time 0.
        assert_eq!(uid_text((1 << 80) - 1), "0000000000ZZZZZZZZZZZZZZZZ");
        assert_eq!(uid_text(u128::MAX), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
        let mut all = BTreeSet::new();
        for task in ["a", "b", "web.instance-1", "web.instance-2"] {
            for stream in ["stdout", "stderr", "logs/app.log"] {
                for offset in (0..20_000).chain([u64::MAX, 1 << 40]) {
                    assert!(all.insert(uid(task, stream, offset)));
                }
            }
        }
    }
}

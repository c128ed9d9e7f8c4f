//! From a line to a record. Total: any bytes give a record.
//!
//! Order of attempts: JSON object, klog, syslog priority, logfmt, then any text with a time and a level
//! near its start. What is recognized is *also* left in the body of text lines: only JSON and logfmt
//! lines are taken apart.

mod json;
mod logfmt;
mod severity;
mod text;
mod time;
mod trace;

use std::borrow::Cow;

pub(crate) use time::format_rfc3339;

use crate::{AttrValue, IoStream, LogRecord, Severity};

/// Most attributes taken from one line; the rest is counted in [`DROPPED_ATTRS`].
const MAX_ATTRS: usize = 64;
/// Attribute that says how many attributes were left off.
const DROPPED_ATTRS: &str = "waggle.log.attributes.dropped";
/// Attribute set on lines that are not UTF-8; bad sequences are replaced by U+FFFD.
const INVALID_UTF8: &str = "waggle.log.invalid_utf8";

/// Reads one line (with or without its end). Times without a zone are taken as UTC; the time of reading
/// stands in where the line has none.
pub fn decode_line(line: &[u8], stream: IoStream, read_ns: u64) -> LogRecord {
    let text = String::from_utf8_lossy(line);
    let invalid = matches!(text, Cow::Owned(_));
    let text = strip_ansi(text.trim_end_matches(['\n', '\r']));
    let found = json::decode(&text, read_ns)
        .or_else(|| text::klog(&text, read_ns))
        .or_else(|| text::syslog(&text, read_ns))
        .or_else(|| logfmt::decode(&text, read_ns))
        .unwrap_or_else(|| text::plain(&text, read_ns));
    let mut rec = LogRecord {
        time_ns: found.time_ns.unwrap_or(read_ns),
        observed_ns: read_ns,
        severity: found.severity,
        severity_text: found.severity_text,
        body: found.body.unwrap_or_else(|| text.into_owned().into()),
        attrs: found.attrs,
        event_name: found.event_name,
        trace: found.trace.context(),
        stream: Some(stream),
        uid: None,
    };
    if rec.attrs.len() > MAX_ATTRS {
        let dropped = rec.attrs.len() - MAX_ATTRS;
        rec.attrs.truncate(MAX_ATTRS);
        rec.attrs.push((DROPPED_ATTRS.into(), dropped.into()));
    }
    if invalid {
        rec.attrs.push((INVALID_UTF8.into(), true.into()));
    }
    rec
}

/// What a format found in a line.
#[derive(Debug, Default)]
struct Found {
    time_ns: Option<u64>,
    severity: Severity,
    severity_text: String,
    /// `None` for the whole line.
    body: Option<AttrValue>,
    attrs: Vec<(Cow<'static, str>, AttrValue)>,
    event_name: Option<String>,
    trace: trace::Ids,
}

impl Found {
    fn level(&mut self, severity: Severity, token: &str) {
        self.severity = severity;
        token.clone_into(&mut self.severity_text);
    }
}

/// Removes colors and cursor movements: `ESC [ ... letter`, and other two-byte escapes.
pub(crate) fn strip_ansi(s: &str) -> Cow<'_, str> {
    if !s.contains('\u{1b}') {
        return Cow::Borrowed(s);
    }
    let mut out = String::with_capacity(s.len());
    let mut chars = s.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            out.push(c);
        } else if chars.next_if_eq(&'[').is_some() {
            // Parameters and intermediates, then one final byte (ECMA-48, 5.4).
            while chars.next_if(|c| (' '..='?').contains(c)).is_some() {}
            chars.next_if(|c| ('@'..='~').contains(c));
        } else {
            chars.next_if(char::is_ascii_graphic);
        }
    }
    Cow::Owned(out)
}

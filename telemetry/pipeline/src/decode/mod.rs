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

use crate::{AttrValue, IoStream, LogRecord, Severity, names};

/// Most attributes taken from one line; the rest is counted in [`DROPPED_ATTRS`].
const MAX_ATTRS: usize = 64;
/// Attribute that says how many attributes were left off.
const DROPPED_ATTRS: &str = "waggle.log.attributes.dropped";
/// Attribute set on lines that are not UTF-8; bad sequences are replaced by U+FFFD.
const INVALID_UTF8: &str = "waggle.log.invalid_utf8";

/// What the node says of a record.
const OF_NODE: [&str; 4] = [
    "log.iostream",
    "log.record.uid",
    "log.file.name",
    "log.file.path",
];

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
    let n_found = rec.attrs.len();
    rec.attrs.retain(|(key, _)| !is_nodes(key));
    rec.attrs.truncate(MAX_ATTRS);
    let dropped = n_found - rec.attrs.len();
    if dropped > 0 {
        rec.attrs.push((DROPPED_ATTRS.into(), dropped.into()));
    }
    if rec.event_name.as_deref().is_some_and(is_event_of_ours) {
        rec.event_name = None;
    }
    if invalid {
        rec.attrs.push((INVALID_UTF8.into(), true.into()));
    }
    rec
}

/// Whether a key is the node's to write: what it says of a record, and all of Waggle's own. A line that has it would speak for
/// the node, or of another task.
fn is_nodes(key: &str) -> bool {
    key.starts_with("waggle.") || OF_NODE.contains(&key)
}

fn is_event_of_ours(name: &str) -> bool {
    name.starts_with("waggle.") || names::find_event(name).is_some()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_does_not_speak_for_the_node_or_of_another_task() {
        let json = r#"{"msg":"x","event.name":"waggle.task.state_changed","waggle.task.id":"bank.1",
            "waggle.state":"TASK_FAILED","log.record.uid":"0","log.iostream":"stderr","shop.id":"7"}"#;
        let json = json.replace('\n', "");
        let logfmt = "level=info msg=x waggle.task.id=bank.1 waggle.state=TASK_FAILED \
            log.record.uid=0 log.iostream=stderr shop.id=7";
        for line in [json.as_str(), logfmt] {
            let rec = decode_line(line.as_bytes(), IoStream::Stdout, 1);
            assert_eq!(rec.event_name, None, "{line}");
            let keys: Vec<&str> = rec.attrs.iter().map(|(k, _)| k.as_ref()).collect();
            assert_eq!(keys, ["shop.id", DROPPED_ATTRS], "{line}");
            assert_eq!(rec.attrs[1].1, AttrValue::from(4_usize), "{line}");
        }
        let own = r#"{"msg":"x","event.name":"shop.order"}"#;
        let rec = decode_line(own.as_bytes(), IoStream::Stdout, 1);
        assert_eq!(rec.event_name.as_deref(), Some("shop.order"));
    }
}

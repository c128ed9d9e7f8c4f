//! `key=value` lines: Go's slog, logrus, Traefik, Prometheus.

use std::borrow::Cow;

use super::{Found, severity, time};

/// Most pairs looked at.
const MAX_PAIRS: usize = 128;

/// `None` unless the line starts with a pair and holds a level or a message among pairs.
pub(super) fn decode(line: &str, read_ns: u64) -> Option<Found> {
    let pairs = pairs(line.trim())?;
    let mut found = Found::default();
    let mut known = false;
    for (key, value) in pairs {
        match key {
            "time" | "ts" | "timestamp" | "t" if found.time_ns.is_none() => {
                found.time_ns = time::whole(&value, read_ns);
                if found.time_ns.is_none() {
                    found.attrs.push((key.to_owned().into(), value.into()));
                }
            }
            "level" | "lvl" | "severity" if found.severity_text.is_empty() => {
                known = true;
                found.level(severity::from_token(&value).unwrap_or_default(), &value);
            }
            "msg" | "message" if found.body.is_none() => {
                known = true;
                found.body = Some(value.into());
            }
            _ if found.trace.take(key, &value) => {}
            _ => found.attrs.push((Cow::Owned(key.to_owned()), value.into())),
        }
    }
    if found.body.is_none() {
        // Pairs without a message: the line stays whole, so nothing is said twice.
        found.attrs.clear();
    }
    known.then_some(found)
}

/// All pairs, or `None` when something in the line is not one.
fn pairs(line: &str) -> Option<Vec<(&str, String)>> {
    let mut out = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let eq = rest.find('=')?;
        let (key, after) = (&rest[..eq], &rest[eq + 1..]);
        let ok = |c: char| c.is_ascii_alphanumeric() || "_.-@/".contains(c);
        if key.is_empty() || !key.chars().all(ok) || out.len() >= MAX_PAIRS {
            return None;
        }
        let (value, tail) = if let Some(quoted) = after.strip_prefix('"') {
            unquote(quoted)?
        } else {
            let end = after.find(' ').unwrap_or(after.len());
            (after[..end].to_owned(), &after[end..])
        };
        out.push((key, value));
        rest = tail.trim_start_matches(' ');
        if rest.len() == tail.len() && !rest.is_empty() {
            return None;
        }
    }
    (!out.is_empty()).then_some(out)
}

/// What stands before the closing quote, and what comes after it.
fn unquote(s: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = s.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, &s[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                other => out.push(other),
            },
            c => out.push(c),
        }
    }
    None
}

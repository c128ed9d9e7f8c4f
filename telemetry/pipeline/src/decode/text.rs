//! Text lines: a time and a level near the start, in the many ways they are written.

use super::{Found, severity, time};
use crate::Severity;

/// Levels are looked for in this many words after the time.
const MAX_WORDS: usize = 7;
/// ... and in this many bytes.
const MAX_HEAD: usize = 160;

/// `I1123 04:14:52.123456   7 server.go:12] message` (glog, klog).
pub(super) fn klog(line: &str, read_ns: u64) -> Option<Found> {
    let letter = line.chars().next()?;
    let sev = severity::from_letter(letter)?;
    let ns = time::klog(line.get(1..)?, read_ns)?;
    let mut found = Found {
        time_ns: Some(ns),
        ..Found::default()
    };
    found.level(sev, &line[..1]);
    Some(found)
}

/// `<134>Nov 23 04:14:52 host app: message` (RFC 3164) and `<134>1 2026-11-23T... ` (RFC 5424).
pub(super) fn syslog(line: &str, read_ns: u64) -> Option<Found> {
    let (pri, rest) = line.strip_prefix('<')?.split_once('>')?;
    if pri.is_empty() || pri.len() > 3 || !pri.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let pri: u64 = pri.parse().ok().filter(|p| *p <= 191)?;
    let rest = rest.strip_prefix("1 ").unwrap_or(rest);
    let mut found = Found {
        time_ns: time::prefix(rest, read_ns).and_then(|(ns, _)| ns),
        ..Found::default()
    };
    let sev = severity::from_syslog(pri % 8)?;
    found.level(sev, &(pri % 8).to_string());
    Some(found)
}

/// Anything else.
pub(super) fn plain(line: &str, read_ns: u64) -> Found {
    let mut found = Found::default();
    if let Some(redis) = redis(line, read_ns) {
        return redis;
    }
    let trimmed = line.trim_start();
    let unbracketed = trimmed.strip_prefix('[').unwrap_or(trimmed);
    let (timed, rest) = match time::prefix(unbracketed, read_ns) {
        Some((ns, len)) => {
            found.time_ns = ns;
            (true, unbracketed.get(len..).unwrap_or(""))
        }
        None => (false, trimmed),
    };
    if let Some((sev, token)) = level(rest, timed) {
        found.level(sev, token);
    } else if !timed {
        found.time_ns = access_time(trimmed, read_ns);
    }
    found
}

/// `1:M 23 Nov 2026 04:14:52.123 * Ready to accept connections` (Redis: . - * #).
fn redis(line: &str, read_ns: u64) -> Option<Found> {
    let (pid_role, rest) = line.split_once(' ')?;
    let (pid, role) = pid_role.split_once(':')?;
    let role_ok = matches!(role, "M" | "S" | "C" | "X");
    if !role_ok || pid.is_empty() || !pid.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (ns, len) = time::prefix(rest, read_ns)?;
    let mark = rest.get(len..)?.trim_start().chars().next()?;
    let sev = match mark {
        '.' | '-' => Severity::DEBUG,
        '*' => Severity::NOTICE,
        '#' => Severity::WARN,
        _ => return None,
    };
    let mut found = Found {
        time_ns: ns,
        ..Found::default()
    };
    found.level(sev, mark.encode_utf8(&mut [0; 4]));
    Some(found)
}

/// The time of an access log line, in brackets after the client: `1.2.3.4 - - [23/Nov/2026:...] "GET`.
fn access_time(line: &str, read_ns: u64) -> Option<u64> {
    let head = head(line);
    let at = head.find('[')?;
    time::prefix(&head[at + 1..], read_ns).and_then(|(ns, _)| ns)
}

/// The first bytes of a line, cut at a character.
fn head(s: &str) -> &str {
    let mut end = s.len().min(MAX_HEAD);
    while !s.is_char_boundary(end) {
        end -= 1;
    }
    &s[..end]
}

/// Finds a level: bracketed in any case; else a word in capitals (after a time, or first in the line);
/// else one of the plain words, first and with a colon or (after a time) a blank.
fn level(rest: &str, timed: bool) -> Option<(Severity, &str)> {
    let head = head(rest);
    let is_sep = |c: char| c.is_whitespace() || "[]()|:,<>".contains(c);
    let mut words = 0;
    let mut at = 0;
    while at < head.len() && words < MAX_WORDS {
        let Some(word) = head.get(at..) else { break };
        let end = word.find(is_sep).unwrap_or(word.len());
        let token = &word[..end];
        if !token.is_empty() {
            let before = head[..at].chars().next_back();
            let after = word[end..].chars().next();
            let first = words == 0;
            if let Some(sev) = severity::from_token(token) {
                let bracketed = after == Some(']') && matches!(before, Some('[' | ':'));
                let capitals = token.bytes().all(|b| !b.is_ascii_lowercase());
                let plain = first
                    && severity::is_plain_word(token)
                    && (after == Some(':') || (timed && after == Some(' ')));
                if bracketed || (capitals && (timed || first)) || plain {
                    return Some((sev, token));
                }
            }
            // Dashes between the parts of a line are not words.
            words += usize::from(token.bytes().any(|b| b != b'-'));
        }
        at += end + word[end..].chars().next().map_or(1, char::len_utf8);
        // Without a time only brackets may come before a level.
        if !timed && words > 0 && !head.starts_with('[') {
            break;
        }
    }
    None
}

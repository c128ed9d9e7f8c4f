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
    let special = redis(line, read_ns)
        .or_else(|| ruby(line, read_ns))
        .or_else(|| erlang(line, read_ns));
    if let Some(special) = special {
        return special;
    }
    let trimmed = line.trim_start();
    let (own, of_pid) = match without_pid(trimmed) {
        Some(rest) => (rest, true),
        None => (trimmed, false),
    };
    let unbracketed = own.strip_prefix('[').unwrap_or(own);
    let (timed, rest) = match time::prefix(unbracketed, read_ns) {
        Some((ns, len)) => {
            found.time_ns = ns;
            (true, unbracketed.get(len..).unwrap_or(""))
        }
        None => match after_uptime(trimmed) {
            Some(rest) => (true, rest),
            None => (false, trimmed),
        },
    };
    let words = rest.trim_start_matches([' ', ':', ']']);
    let tool = ["PHP ", "npm "].iter().find_map(|t| words.strip_prefix(t));
    let mark = rest.trim_start().split_once(' ').map_or("", |(m, _)| m);
    if let Some((sev, token)) = level(tool.unwrap_or(rest), timed || tool.is_some()) {
        found.level(sev, token);
        if !timed {
            found.time_ns = time_after(trimmed, read_ns);
        }
    } else if let Some((sev, token)) = letter(rest).filter(|_| timed) {
        found.level(sev, token);
    } else if let Some(sev) = redis_mark(mark).filter(|_| timed && of_pid) {
        found.level(sev, mark);
    } else if let Some((sev, token)) = letter_first(unbracketed) {
        found.level(sev, token);
        found.time_ns = time_after(unbracketed, read_ns);
    } else if !timed {
        found.time_ns = access_time(trimmed, read_ns);
        if is_uncaught(trimmed) {
            found.severity = Severity::ERROR;
        }
    }
    found
}

/// What follows a process id in brackets (NATS, old Redis).
fn without_pid(line: &str) -> Option<&str> {
    let (pid, rest) = line.strip_prefix('[')?.split_once("] ")?;
    (pid.len() <= 7 && pid.bytes().all(|b| b.is_ascii_digit())).then_some(rest)
}

/// What follows seconds since the start, in brackets: `[     0.012345s]` (linkerd), `[12345.678901]` (the kernel).
fn after_uptime(line: &str) -> Option<&str> {
    let (inner, rest) = line.strip_prefix('[')?.split_once(']')?;
    let (s, fraction) = inner.trim_start().split_once('.')?;
    let fraction = fraction.strip_suffix('s').unwrap_or(fraction);
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    (digits(s) && digits(fraction)).then_some(rest)
}

/// `[I 2026-11-23 04:14:52.123 ServerApp]` (Jupyter, Tornado), after the bracket.
fn letter_first(inner: &str) -> Option<(Severity, &str)> {
    let sev = inner.chars().next().and_then(severity::from_letter)?;
    let rest = inner.get(1..)?.strip_prefix(' ')?;
    rest.starts_with(|c: char| c.is_ascii_digit())
        .then(|| (sev, &inner[..1]))
}

/// Redis's levels.
fn redis_mark(mark: &str) -> Option<Severity> {
    Some(match mark {
        "." | "-" => Severity::DEBUG,
        "*" => Severity::NOTICE,
        "#" => Severity::WARN,
        _ => return None,
    })
}

/// What runtimes say of an error that nobody caught; there is no word for its level.
fn is_uncaught(line: &str) -> bool {
    let begins = [
        "Traceback (most recent call last):",
        "Exception in thread ",
        "Unhandled exception",
        "Uncaught ",
        "fatal error: ",
        "terminate called ",
    ];
    begins.iter().any(|b| line.starts_with(b))
        || (line.starts_with("thread '") && line.contains(" panicked at "))
}

/// `I, [2026-11-23T04:14:52.123456 #7]  INFO -- : message` (Ruby's Logger).
fn ruby(line: &str, read_ns: u64) -> Option<Found> {
    let (letter, rest) = line.split_once(", [")?;
    matches!(letter, "D" | "I" | "W" | "E" | "F" | "A").then_some(())?;
    let (ns, len) = time::prefix(rest, read_ns)?;
    let mut found = Found {
        time_ns: ns,
        ..Found::default()
    };
    let (_, after) = rest.get(len..)?.split_once("] ")?;
    let token = after.split_whitespace().next()?;
    found.level(severity::from_token(token).unwrap_or_default(), token);
    Some(found)
}

/// `=ERROR REPORT==== 23-Nov-2026::04:14:52.123456 ===` (Erlang).
fn erlang(line: &str, read_ns: u64) -> Option<Found> {
    let (token, rest) = line.strip_prefix('=')?.split_once(" REPORT==== ")?;
    let sev = severity::from_token(token)?;
    let mut found = Found {
        time_ns: time::prefix(rest, read_ns).and_then(|(ns, _)| ns),
        ..Found::default()
    };
    found.level(sev, token);
    Some(found)
}

/// One letter after the time, before a component: `I NETWORK`, `W | etcdserver`, `E tensorflow/x.cc:1]`, `I [MSGID: 1]`.
fn letter(rest: &str) -> Option<(Severity, &str)> {
    let rest = rest.trim_start_matches([' ', ':', ']']);
    let sev = rest.chars().next().and_then(severity::from_letter)?;
    let after = rest.get(1..)?.strip_prefix(' ')?.trim_start();
    let word = after.split_whitespace().next()?;
    let component = word.len() > 1 && word.bytes().all(|b| b.is_ascii_uppercase());
    let place = word.ends_with(']') && word.contains(':');
    (component || place || matches!(word, "|" | "-") || word.starts_with('['))
        .then(|| (sev, &rest[..1]))
}

/// A time among the first words after a level: `INFO  [main] 2026-11-23 04:14:52,123` (Cassandra).
fn time_after(line: &str, read_ns: u64) -> Option<u64> {
    let head = head(line);
    let starts = head.char_indices().filter(|(at, _)| {
        let before = head[..*at].chars().next_back();
        before.is_some_and(|c| c == ' ' || c == '[')
    });
    starts
        .take(4)
        .find_map(|(at, _)| time::prefix(&head[at..], read_ns).and_then(|(ns, _)| ns))
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
    let mark = rest.get(len..)?.split_whitespace().next()?;
    let sev = redis_mark(mark)?;
    let mut found = Found {
        time_ns: ns,
        ..Found::default()
    };
    found.level(sev, mark);
    Some(found)
}

/// The time of an access log line, in brackets after the client: `1.2.3.4 - - [23/Nov/2026:...] "GET`.
fn access_time(line: &str, read_ns: u64) -> Option<u64> {
    let head = head(line);
    let brackets = head.match_indices('[').take(4);
    brackets
        .filter_map(|(at, _)| time::prefix(head.get(at + 1..)?, read_ns))
        .find_map(|(ns, _)| ns)
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
/// else one of the plain words, first or second and with a colon or (after a time) a blank.
fn level(rest: &str, timed: bool) -> Option<(Severity, &str)> {
    let head = head(rest);
    let is_sep = |c: char| c.is_whitespace() || "[]()|:,<>\"".contains(c);
    let mut words = 0;
    let mut at = 0;
    while at < head.len() && words < MAX_WORDS {
        let Some(word) = head.get(at..) else { break };
        let end = word.find(is_sep).unwrap_or(word.len());
        let token = &word[..end];
        if !token.is_empty() {
            let before = head[..at].trim_end_matches(' ').chars().next_back();
            let after = word[end..].chars().next();
            let first = words == 0;
            let token = level_part(token);
            if let Some(sev) = severity::from_token(token) {
                let bracketed = match after {
                    Some(']') => matches!(before, Some('[' | ':')),
                    Some('>') => before == Some('<'),
                    _ => false,
                };
                let capitals = token.bytes().all(|b| !b.is_ascii_lowercase());
                let named = after == Some(':') && words <= usize::from(timed);
                let spaced = timed && first && matches!(after, Some(' ' | '\t'));
                let plain = severity::is_plain_word(token) && (named || spaced);
                if bracketed || (capitals && (timed || first)) || plain {
                    return Some((sev, token));
                }
            }
            // Dashes between the parts of a line are not words.
            words += usize::from(token.bytes().any(|b| b != b'-'));
        }
        at += end + word[end..].chars().next().map_or(1, char::len_utf8);
        // Without a time only brackets may come before a level, or it is in the next ones.
        let next = head.get(at..).unwrap_or("").trim_start();
        if !timed && words > 0 && !head.starts_with('[') && !next.starts_with('[') {
            break;
        }
    }
    None
}

/// The level in a word: `app.ERROR` (Monolog), `INFO/MainProcess` (Celery), `ERR!` (npm).
fn level_part(token: &str) -> &str {
    let token = token.trim_end_matches('!');
    let token = token.split('/').next().unwrap_or(token);
    match token.rsplit_once('.') {
        Some((_, level)) if level.len() > 2 && level.bytes().all(|b| b.is_ascii_uppercase()) => {
            level
        }
        _ => token,
    }
}

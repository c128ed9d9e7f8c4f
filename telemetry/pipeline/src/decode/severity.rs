//! Words and numbers for severity, as loggers write them.

use crate::Severity;

/// A level's word, in any case: of syslog, log4j, Python, Go, Rust, nginx, PostgreSQL, MySQL.
pub(super) fn from_token(token: &str) -> Option<Severity> {
    Some(match token.to_ascii_lowercase().as_str() {
        "trace" | "trc" | "trce" | "silly" | "finest" | "finer" => Severity::TRACE,
        "debug" | "dbg" | "dbug" | "debu" | "verbose" | "fine" | "debug1" | "debug2" | "debug3"
        | "debug4" | "debug5" => Severity::DEBUG,
        "info" | "inf" | "success" | "information" | "informational" | "log" | "note"
        | "config" => Severity::INFO,
        "notice" => Severity::NOTICE,
        "warn" | "warning" | "wrn" => Severity::WARN,
        "error" | "err" | "eror" | "erro" | "severe" | "fail" => Severity::ERROR,
        "crit" | "critical" | "dpanic" => Severity::CRITICAL,
        "alert" => Severity::ALERT,
        "fatal" | "ftl" | "panic" | "emerg" | "emergency" => Severity::FATAL,
        _ => return None,
    })
}

/// Words that are a level even in lower case at the start of a line (`error: ...`); the others are
/// ordinary words too often.
pub(super) fn is_plain_word(token: &str) -> bool {
    matches!(
        token.to_ascii_lowercase().as_str(),
        "trace"
            | "debug"
            | "info"
            | "notice"
            | "warn"
            | "warning"
            | "error"
            | "err"
            | "critical"
            | "alert"
            | "fatal"
            | "panic"
            | "emerg"
            | "crit"
            | "dbug"
            | "fail"
            | "trce"
    )
}

/// The letters of klog, MongoDB, capnslog.
pub(super) fn from_letter(c: char) -> Option<Severity> {
    Some(match c {
        'D' => Severity::DEBUG,
        'I' => Severity::INFO,
        'C' => Severity::CRITICAL,
        'W' => Severity::WARN,
        'E' => Severity::ERROR,
        'F' => Severity::FATAL,
        _ => return None,
    })
}

/// RFC 5424, table 2.
pub(super) fn from_syslog(n: u64) -> Option<Severity> {
    Some(match n {
        0 => Severity::FATAL,
        1 => Severity::ALERT,
        2 => Severity::CRITICAL,
        3 => Severity::ERROR,
        4 => Severity::WARN,
        5 => Severity::NOTICE,
        6 => Severity::INFO,
        7 => Severity::DEBUG,
        _ => return None,
    })
}

/// A number under `key`: syslog's 0-7 (GELF, journald), pino's and bunyan's 10-60, Python's `levelno`.
pub(super) fn from_number(key: &str, n: u64) -> Option<Severity> {
    if key == "levelno" {
        return Some(match n {
            0..=9 => Severity::TRACE,
            10..=19 => Severity::DEBUG,
            20..=29 => Severity::INFO,
            30..=39 => Severity::WARN,
            40..=49 => Severity::ERROR,
            _ => Severity::CRITICAL,
        });
    }
    Some(match n {
        0..=7 => return from_syslog(n),
        10..=19 => Severity::TRACE,
        20..=29 => Severity::DEBUG,
        30..=39 => Severity::INFO,
        40..=49 => Severity::WARN,
        50..=59 => Severity::ERROR,
        60..=69 => Severity::FATAL,
        _ => return None,
    })
}

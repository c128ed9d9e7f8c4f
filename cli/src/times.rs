//! Times and durations as people write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use waggle_api::marathon::parse_version;
use waggle_types::UnixMillis;

use crate::error::{CliError, usage};

/// Units by their letters, in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];
/// Longest time that operators can ask for: a year.
pub const YEAR: Duration = Duration::from_hours(365 * 24);

/// The wall clock, in Unix milliseconds.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    millis(since.unwrap_or_default())
}

/// Whole milliseconds.
pub fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// `500ms`, `5s`, `2m`, `4h`, `1d`: between 1 ms and `most`. Errors begin with `field`.
pub fn duration(field: &str, text: &str, most: Duration) -> Result<Duration, CliError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale = UNITS.iter().find(|(u, _)| *u == unit).map(|(_, ms)| *ms);
    let ms = number
        .parse::<u64>()
        .ok()
        .zip(scale)
        .and_then(|(n, scale)| n.checked_mul(scale));
    let found = ms.map(Duration::from_millis);
    found
        .filter(|d| !d.is_zero() && *d <= most)
        .ok_or_else(|| {
            let most = span(millis(most));
            usage(format!(
                "{field}: must be a duration between 1ms and {most} such as 500ms, 5s, 2m or 4h, is {text:?}"
            ))
        })
}

/// `now`, `+10m`, or RFC 3339 (`2030-01-31T22:00:00Z`, `2030-01-31T22:00:00+01:00`), in Unix milliseconds.
pub fn moment(field: &str, text: &str, now: u64) -> Result<u64, CliError> {
    if text == "now" {
        return Ok(now);
    }
    if let Some(later) = text.strip_prefix('+') {
        let later = duration(field, later, YEAR)?;
        return Ok(now.saturating_add(millis(later)));
    }
    rfc3339(text).ok_or_else(|| {
        usage(format!(
            "{field}: must be now, +DURATION such as +10m, or a time such as 2030-01-31T22:00:00Z, is {text:?}"
        ))
    })
}

fn rfc3339(text: &str) -> Option<u64> {
    let text = text.to_ascii_uppercase();
    if text.ends_with('Z') {
        return parse_version(&text).map(|v| v.0.0);
    }
    let at = text.rfind(['+', '-'])?;
    let (local, offset) = text.split_at_checked(at)?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes): (u64, u64) = (hours.parse().ok()?, minutes.parse().ok()?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let local = parse_version(&format!("{local}Z"))?.0.0;
    let offset_ms = (hours * 60 + minutes) * 60_000;
    if offset.starts_with('+') {
        local.checked_sub(offset_ms)
    } else {
        local.checked_add(offset_ms)
    }
}

/// `in 10 min`, `3 s ago`, `now`.
pub fn relative(at: u64, now: u64) -> String {
    match at.checked_sub(now) {
        Some(ms) if ms >= 1000 => format!("in {}", span(ms)),
        None if now - at >= 1000 => format!("{} ago", span(now - at)),
        _ => "now".to_owned(),
    }
}

/// The latest time that has a text: the end of the year 9999.
const LAST: u64 = 253_402_300_799_999;

/// Like [`absolute`], to the millisecond.
pub fn exact(at: u64) -> String {
    UnixMillis(at.min(LAST)).rfc3339().to_string()
}

/// `2030-01-31T22:00:00Z`, to the second.
pub fn absolute(at: u64) -> String {
    let whole = UnixMillis(at.min(LAST) / 1000 * 1000);
    whole.rfc3339().to_string().replace(".000Z", "Z")
}

/// `1 d 2 h`, `10 min`, `3 s`: the two largest units.
pub fn span(ms: u64) -> String {
    if ms < 1000 {
        return format!("{ms} ms");
    }
    let seconds = ms / 1000;
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let two = parts.iter().skip_while(|(n, _)| *n == 0).take(2);
    let texts: Vec<String> = two
        .filter(|(n, _)| *n > 0)
        .map(|(n, unit)| format!("{n} {unit}"))
        .collect();
    texts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_relative_or_absolute() {
        let now = 1_795_405_620_000;
        assert_eq!(moment("start", "now", now).unwrap(), now);
        assert_eq!(moment("start", "+10m", now).unwrap(), now + 600_000);
        let z = moment("start", "2030-01-31T22:00:00Z", now).unwrap();
        assert_eq!(absolute(z), "2030-01-31T22:00:00Z");
        let plus = moment("start", "2030-02-01T00:30:00+02:30", now).unwrap();
        let minus = moment("start", "2030-01-31T20:00:00-02:00", now).unwrap();
        assert_eq!((plus, minus), (z, z));
        for bad in [
            "",
            "tomorrow",
            "10m",
            "+",
            "+10",
            "+400d",
            "2030-01-31",
            "2030-01-31T22:00:00",
            "2030-01-31T22:00:00+0100",
            "2030-01-31T22:00:00+99:00",
            "2030-13-31T22:00:00Z",
            "äö+äö:äö",
        ] {
            let err = moment("start", bad, now).unwrap_err();
            assert_eq!(err.exit_code(), 2, "{bad}");
            assert!(err.to_string().starts_with("start: "), "{err}");
        }
    }

    #[test]
    fn spans_read_well() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (3500, "3 s"),
            (60_000, "1 min"),
            (61_000, "1 min 1 s"),
            (3_600_000, "1 h"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(span(ms), text);
        }
        assert_eq!(relative(10_000, 5000), "in 5 s");
        assert_eq!(relative(5000, 10_000), "5 s ago");
        assert_eq!(relative(5000, 5400), "now");
    }
}

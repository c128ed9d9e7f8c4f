//! Versions as timestamps.

use waggle_types::{ServiceVersion, UnixMillis};

/// Parses `%Y-%m-%dT%H:%M:%S[.fff]Z`, the only form that Marathon's clients write; `None` for any other.
/// Digits past the third of the fraction are dropped.
pub fn parse_version(text: &str) -> Option<ServiceVersion> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once('T')?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !in_range || fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let millis: u64 = fraction
        .chars()
        .chain("00".chars())
        .take(3)
        .collect::<String>()
        .parse()
        .ok()?;
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(ServiceVersion(UnixMillis(seconds * 1000 + millis)))
}

fn numbers(text: &str, sep: char, widths: [usize; 3]) -> Option<[u64; 3]> {
    let mut out = [0; 3];
    let mut parts = text.split(sep);
    for (slot, width) in out.iter_mut().zip(widths) {
        let part = parts.next()?;
        if part.len() != width || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *slot = part.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}

fn days_in_month(year: u64, month: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 (Howard Hinnant's `days_from_civil`), for years from 1970.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y / 400;
    let yoe = y % 400;
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let doy = (153 * shifted + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn printed_versions_parse(ms in 0u64..253_402_300_800_000) {
            let v = ServiceVersion(UnixMillis(ms));
            prop_assert_eq!(parse_version(&v.to_string()), Some(v));
        }

        #[test]
        fn any_text_is_survived(s in ".{0,30}") {
            let _ = parse_version(&s);
        }
    }

    #[test]
    fn other_forms_are_refused() {
        assert!(parse_version("2026-11-23T03:47:00Z").is_some());
        for bad in [
            "",
            "2026-11-23",
            "2026-02-29T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T03:47:00.Z",
            "2026-11-23T03:47:00+00:00",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(parse_version(bad), None, "{bad}");
        }
    }
}

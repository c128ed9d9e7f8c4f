//! Durations as Mesos writes them for people: `30secs`, `5mins` (stout's `duration.hpp`), and protobuf's `30s`.

use waggle_types::Millis;

/// Units in milliseconds; `s` last, since others end in it.
const UNITS: [(&str, f64); 9] = [
    ("weeks", 604_800_000.0),
    ("days", 86_400_000.0),
    ("hrs", 3_600_000.0),
    ("mins", 60_000.0),
    ("secs", 1000.0),
    ("ms", 1.0),
    ("us", 0.001),
    ("ns", 0.000_001),
    ("s", 1000.0),
];

/// Reads one; none where it is not a number of at most 10^12 ms with a unit.
pub fn parse(text: &str) -> Option<Millis> {
    let mut units = UNITS.iter();
    let (number, ms) = units.find_map(|(unit, ms)| Some((text.strip_suffix(unit)?, ms)))?;
    let ms = number.parse::<f64>().ok()? * ms;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 10^12"
    )]
    (0.0..1e12).contains(&ms).then_some(Millis(ms as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mesoss_units_are_read() {
        for (text, want) in [
            ("1weeks", Some(604_800_000)),
            ("1.5hrs", Some(5_400_000)),
            ("5mins", Some(300_000)),
            ("30secs", Some(30_000)),
            ("30s", Some(30_000)),
            ("1500us", Some(1)),
            ("30", None),
            ("-1secs", None),
            ("NaNsecs", None),
            ("secs", None),
            ("9999999weeks", None),
            ("", None),
        ] {
            assert_eq!(parse(text), want.map(Millis), "{text}");
        }
    }
}

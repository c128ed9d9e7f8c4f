//! Cron's five fields, as sets: minute, hour, day of the month, month, day of the week.

use waggle_types::FieldError;

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Words that stand for a whole expression.
const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Numbers up to 63.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Set(u64);

impl Set {
    pub fn has(self, n: u8) -> bool {
        n < 64 && self.0 & (1 << n) != 0
    }

    fn add(&mut self, n: u8) {
        self.0 |= 1 << (n & 63);
    }

    /// Members in order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..64).filter(move |n| self.has(*n))
    }

    pub fn len(self) -> u32 {
        self.0.count_ones()
    }
}

/// A parsed expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cron {
    pub minutes: Set,
    pub hours: Set,
    days: Set,
    months: Set,
    /// Sunday is 0.
    weekdays: Set,
    /// Days of the month are restricted.
    by_day: bool,
    /// Days of the week are restricted.
    by_weekday: bool,
}

/// One field: its name in errors, its bounds and its words.
struct Field {
    name: &'static str,
    min: u8,
    max: u8,
    words: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field {
        name: "minute",
        min: 0,
        max: 59,
        words: &[],
    },
    Field {
        name: "hour",
        min: 0,
        max: 23,
        words: &[],
    },
    Field {
        name: "day of the month",
        min: 1,
        max: 31,
        words: &[],
    },
    Field {
        name: "month",
        min: 1,
        max: 12,
        words: &MONTHS,
    },
    // 7 is Sunday, too.
    Field {
        name: "day of the week",
        min: 0,
        max: 7,
        words: &DAYS,
    },
];

impl Cron {
    /// Parses five fields (`*`, `?`, numbers, names, ranges, lists, steps) or a word such as `@daily`. The error names the field of
    /// the definition (`cron`) and the rule.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let lower = text.trim().to_ascii_lowercase();
        let word = WORDS.iter().find(|(w, _)| *w == lower).map(|(_, e)| *e);
        let given: Vec<&str> = word.unwrap_or(&lower).split_whitespace().collect();
        if given.len() != FIELDS.len() {
            let rule = format!(
                "must be five fields (minute hour day-of-month month day-of-week), has {}",
                given.len()
            );
            return Err(FieldError::new("cron", rule));
        }
        let mut sets = [Set::default(); 5];
        for ((set, field), text) in sets.iter_mut().zip(&FIELDS).zip(&given) {
            *set = parse_field(field, text)?;
        }
        let [minutes, hours, days, months, mut weekdays] = sets;
        if weekdays.has(7) {
            weekdays.add(0);
        }
        // As cron(8) has it: a field that begins with a star restricts nothing of its own.
        let free = |text: &str| text.starts_with('*') || text == "?";
        Ok(Self {
            minutes,
            hours,
            days,
            months,
            weekdays,
            by_day: !free(given[2]),
            by_weekday: !free(given[4]),
        })
    }

    /// Whether it runs on a date; `weekday` counts from Sunday. When both kinds of day are restricted, either will do (POSIX
    /// crontab).
    pub fn is_on(&self, month: u8, day: u8, weekday: u8) -> bool {
        let (d, w) = (self.days.has(day), self.weekdays.has(weekday));
        let day = if self.by_day && self.by_weekday {
            d || w
        } else {
            d && w
        };
        self.months.has(month) && day
    }

    /// Whether it runs in every hour: then it is about an interval, not about a time of the day.
    pub fn is_hourly(&self) -> bool {
        self.hours.len() == 24
    }
}

fn wrong(field: &Field, part: &str, rule: impl AsRef<str>) -> FieldError {
    let rule = format!("{} {:?}: {}", field.name, clip(part), rule.as_ref());
    FieldError::new("cron", rule)
}

fn clip(part: &str) -> &str {
    &part[..part.floor_char_boundary(40)]
}

fn parse_field(field: &Field, text: &str) -> Result<Set, FieldError> {
    let mut out = Set::default();
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => match step.parse::<u8>() {
                Ok(n) if (1..=field.max).contains(&n) => (range, Some(n)),
                _ => {
                    let rule = format!("a step must be between 1 and {}", field.max);
                    return Err(wrong(field, part, rule));
                }
            },
            None => (part, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => (field.min, field.max - u8::from(field.max == 7)),
            Some((a, b)) => {
                let (first, mut last) = (number(field, part, a)?, number(field, part, b)?);
                if last < first && field.max == 7 && last == 0 {
                    last = 7;
                }
                if last < first {
                    return Err(wrong(field, part, "a range must not end before it begins"));
                }
                (first, last)
            }
            None => {
                let n = number(field, part, range)?;
                // `5/15` goes on to the end.
                (n, if step.is_some() { field.max } else { n })
            }
        };
        for n in (first..=last).step_by(usize::from(step.unwrap_or(1))) {
            out.add(n);
        }
    }
    Ok(out)
}

fn number(field: &Field, part: &str, text: &str) -> Result<u8, FieldError> {
    let named = field
        .words
        .iter()
        .zip(field.min..)
        .find(|(w, _)| *w == &text);
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let n = match named {
        Some((_, n)) => Some(n),
        None => text.parse::<u8>().ok().filter(|_| digits),
    };
    n.filter(|n| (field.min..=field.max).contains(n))
        .ok_or_else(|| {
            let rule = format!("must be between {} and {}", field.min, field.max);
            wrong(field, part, rule)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Cron {
        Cron::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn fields_are_sets() {
        let c = parse("*/20 9-17/4 1,15 jan-Mar mon-fri");
        assert_eq!(c.minutes.iter().collect::<Vec<_>>(), [0, 20, 40]);
        assert_eq!(c.hours.iter().collect::<Vec<_>>(), [9, 13, 17]);
        assert_eq!(c.months.iter().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(parse("5/25 * * * *").minutes.iter().count(), 3);
        assert_eq!(parse("@daily"), parse("0 0 * * *"));
        assert!(parse("0 * * * *").is_hourly() && !parse("0 */2 * * *").is_hourly());
    }

    #[test]
    fn days_are_either_when_both_are_said() {
        let both = parse("0 0 13 * fri");
        assert!(both.is_on(6, 13, 1) && both.is_on(6, 12, 5) && !both.is_on(6, 12, 4));
        let month = parse("0 0 13 * *");
        assert!(month.is_on(6, 13, 1) && !month.is_on(6, 12, 5));
        let week = parse("0 0 ? * 7");
        assert!(week.is_on(6, 1, 0) && !week.is_on(6, 1, 1));
        assert!(parse("0 0 * * fri-sun").is_on(6, 1, 0));
        assert!(parse("0 0 * * 0/2").is_on(6, 1, 6));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bad, says) in [
            ("", "five fields"),
            ("* * * *", "five fields"),
            ("60 * * * *", "minute \"60\""),
            ("* 24 * * *", "hour \"24\""),
            ("* * 0 * *", "day of the month"),
            ("* * * 13 *", "month \"13\""),
            ("* * * * 8", "day of the week"),
            ("*/0 * * * *", "a step"),
            ("9-5 * * * *", "a range"),
            ("1,, * * * *", "minute"),
            ("+1 * * * *", "minute"),
            ("* * * foo *", "month \"foo\""),
            ("@never", "five fields"),
        ] {
            let e = Cron::parse(bad).unwrap_err();
            assert_eq!(e.field, "cron");
            assert!(e.rule.contains(says), "{bad}: {e}");
        }
    }
}

//! Times in lines. All integer arithmetic; no clock: the year of times without one is the reader's.

const DAY: i64 = 86_400;
const DAY_NS: u64 = 86_400_000_000_000;
/// 2000-01-01: earlier times are mistakes.
const EARLIEST_NS: u64 = 946_684_800_000_000_000;

/// Unix nanoseconds as RFC 3339 in UTC with milliseconds.
pub(crate) fn format_rfc3339(unix_ns: u64) -> String {
    let secs = unix_ns / 1_000_000_000;
    let ms = unix_ns / 1_000_000 % 1000;
    let (y, m, d) = civil(i64::try_from(secs / 86_400).unwrap_or(0));
    let s = secs % 86_400;
    format!(
        "{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}.{ms:03}Z",
        s / 3600,
        s / 60 % 60,
        s % 60
    )
}

/// A string that is a time and nothing else.
pub(super) fn whole(s: &str, read_ns: u64) -> Option<u64> {
    let s = s.trim();
    if let Ok(n) = s.parse::<f64>() {
        return epoch(n, s.parse().ok(), read_ns);
    }
    match prefix(s, read_ns)? {
        (Some(ns), len) if s.get(len..).is_some_and(|r| r.trim().is_empty()) => Some(ns),
        _ => None,
    }
}

/// Seconds, milliseconds, microseconds or nanoseconds since 1970, told apart by magnitude. `exact` is
/// the same number where it is whole.
pub(super) fn epoch(n: f64, exact: Option<u64>, read_ns: u64) -> Option<u64> {
    let unit: u64 = match n {
        n if n < 1e8 => return None,
        n if n < 1e11 => 1_000_000_000,
        n if n < 1e14 => 1_000_000,
        n if n < 1e17 => 1000,
        n if n < 1e19 => 1,
        _ => return None,
    };
    let ns = if let Some(n) = exact {
        n.checked_mul(unit)?
    } else {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "1e8 <= n < 1e19, and both parts are below 1e19"
        )]
        let (whole, fraction) = (n.trunc() as u64, (n.fract() * unit as f64) as u64);
        whole.checked_mul(unit)?.checked_add(fraction)?
    };
    plausible(ns, read_ns)
}

/// Not before 2000 and not more than a day after it was read.
fn plausible(ns: u64, read_ns: u64) -> Option<u64> {
    (ns >= EARLIEST_NS && ns <= read_ns.saturating_add(DAY_NS)).then_some(ns)
}

/// A time at the start of a text, and its length with the zone. The first is `None` for a time without
/// a date (`04:14:52.123`) or one that is not plausible: it is one, but says nothing.
pub(super) fn prefix(s: &str, read_ns: u64) -> Option<(Option<u64>, usize)> {
    let mut c = Cursor {
        s: s.as_bytes(),
        at: 0,
    };
    let parsed = c
        .attempt(Cursor::iso)
        .or_else(|| c.attempt(Cursor::clf))
        .or_else(|| c.attempt(Cursor::short))
        .or_else(|| c.attempt(|c| c.day_month(read_ns)))
        .or_else(|| c.attempt(|c| c.month_day(read_ns)))
        .or_else(|| c.attempt(Cursor::epoch));
    if let Some(ns) = parsed {
        return Some((plausible(ns, read_ns), c.at));
    }
    c.attempt(Cursor::kitchen)
        .or_else(|| c.attempt(Cursor::clock).map(|_| ()))
        .map(|()| (None, c.at))
}

/// `1123 04:14:52.123456`: month and day, then the time of day; the year may stand before them, whole or in two digits.
pub(super) fn klog(s: &str, read_ns: u64) -> Option<u64> {
    let mut c = Cursor {
        s: s.as_bytes(),
        at: 0,
    };
    let year = c
        .attempt(|c| {
            let y = c.digits(4)?;
            (c.digits_ahead() == 4).then_some(y)
        })
        .or_else(|| {
            c.attempt(|c| {
                let y = c.digits(2)?;
                (c.digits_ahead() == 4).then_some(2000 + y)
            })
        });
    let month = c.digits(2)?;
    let day = c.digits(2)?;
    c.byte(b' ')?;
    let clock = c.clock()?;
    // klog always writes microseconds (gRPC nanoseconds): without them it is something else.
    matches!(clock.fraction_digits, 6 | 9).then_some(())?;
    let ns = match year {
        Some(y) => unix_ns(y, month, day, clock.ns, 0),
        None => latest(month, day, clock.ns, read_ns),
    };
    plausible(ns?, read_ns)
}

/// A time of day.
struct Clock {
    ns: u64,
    fraction_digits: usize,
}

struct Cursor<'a> {
    s: &'a [u8],
    at: usize,
}

/// Parsers of a whole time give 0 for one that does not exist (month 13): recognized, not believed.
impl Cursor<'_> {
    fn attempt<T>(&mut self, f: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let at = self.at;
        let out = f(self);
        if out.is_none() {
            self.at = at;
        }
        out
    }

    fn peek(&self) -> Option<u8> {
        self.s.get(self.at).copied()
    }

    fn byte(&mut self, b: u8) -> Option<()> {
        (self.peek() == Some(b)).then(|| self.at += 1)
    }

    fn any(&mut self, set: &[u8]) -> Option<u8> {
        let b = self.peek().filter(|b| set.contains(b))?;
        self.at += 1;
        Some(b)
    }

    fn digits(&mut self, n: usize) -> Option<i64> {
        let part = self.s.get(self.at..self.at + n)?;
        if !part.iter().all(u8::is_ascii_digit) {
            return None;
        }
        self.at += n;
        Some(part.iter().fold(0, |v, b| v * 10 + i64::from(b - b'0')))
    }

    /// How many digits come next.
    fn digits_ahead(&self) -> usize {
        let rest = self.s.get(self.at..).unwrap_or_default();
        rest.iter().take_while(|b| b.is_ascii_digit()).count()
    }

    /// One or two digits, or a blank and one.
    fn day(&mut self) -> Option<i64> {
        self.byte(b' ');
        self.attempt(|c| c.digits(2)).or_else(|| self.digits(1))
    }

    fn month(&mut self) -> Option<i64> {
        const NAMES: &[u8] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
        let name = self.s.get(self.at..self.at + 3)?;
        let idx = NAMES.chunks(3).position(|m| m == name)?;
        self.at += 3;
        i64::try_from(idx + 1).ok()
    }

    /// `04:14:52`, with `.123456` or `,123`.
    fn clock(&mut self) -> Option<Clock> {
        let h = self.attempt(|c| c.digits(2)).or_else(|| self.hour())?;
        self.byte(b':')?;
        let m = self.digits(2)?;
        self.byte(b':')?;
        let s = self.digits(2)?;
        if h > 23 || m > 59 || s > 60 {
            return None;
        }
        let mut ns = u64::try_from(h * 3600 + m * 60 + s).ok()? * 1_000_000_000;
        let mut fraction_digits = 0;
        let fraction = self.attempt(|c| {
            c.any(b".,")?;
            let mut unit = 1_000_000_000u64;
            let mut out = 0;
            let mut n = 0;
            while let Some(d) = c.peek().filter(u8::is_ascii_digit) {
                c.at += 1;
                n += 1;
                unit /= 10;
                out += u64::from(d - b'0') * unit;
            }
            (n > 0).then_some((out, n))
        });
        if let Some((add, n)) = fraction {
            ns += add;
            fraction_digits = n;
        }
        Some(Clock {
            ns,
            fraction_digits,
        })
    }

    /// A blank and one digit: MariaDB's hours.
    fn hour(&mut self) -> Option<i64> {
        self.attempt(|c| {
            c.byte(b' ')?;
            c.digits(1)
        })
    }

    /// `4:14AM` (zerolog's console).
    fn kitchen(&mut self) -> Option<()> {
        self.digits(self.digits_ahead().clamp(1, 2))?;
        self.byte(b':')?;
        self.digits(2)?;
        self.any(b"AP")?;
        self.byte(b'M')
    }

    /// `1795407292.123 ` (Squid) and `1795407292: ` (Mosquitto): seconds, and something that says so.
    fn epoch(&mut self) -> Option<u64> {
        let s = u64::try_from(self.digits(10)?).ok()?;
        let ms = self.attempt(|c| {
            c.byte(b'.')?;
            c.digits(3)
        });
        let next = self.peek();
        let said = match ms {
            Some(_) => matches!(next, Some(b' ' | b']' | b':')),
            None => next == Some(b':'),
        };
        let ms = u64::try_from(ms.unwrap_or(0)).ok()?;
        said.then_some(s * 1_000_000_000 + ms * 1_000_000)
    }

    /// `26/11/23 04:14:52` (Spark).
    fn short(&mut self) -> Option<u64> {
        let y = self.digits(2)?;
        self.byte(b'/')?;
        let m = self.digits(2)?;
        self.byte(b'/')?;
        let d = self.digits(2)?;
        self.byte(b' ')?;
        let clock = self.clock()?;
        Some(unix_ns(2000 + y, m, d, clock.ns, 0).unwrap_or(0))
    }

    /// `Z`, `+01:00`, `-0500`, ` +0000`, ` UTC`: seconds east of UTC; 0 without one.
    fn zone(&mut self) -> i64 {
        self.attempt(|c| {
            c.byte(b' ');
            if c.any(b"Zz").is_some() {
                return Some(0);
            }
            if matches!(c.s.get(c.at..c.at + 3), Some(b"UTC" | b"GMT")) {
                c.at += 3;
                return Some(0);
            }
            let sign = if c.any(b"+-")? == b'-' { -1 } else { 1 };
            let h = c.digits(2)?;
            c.byte(b':');
            let m = c.digits(2)?;
            (h <= 14 && m <= 59).then_some(sign * (h * 3600 + m * 60))
        })
        .unwrap_or(0)
    }

    /// `2026-11-23T04:14:52.123Z`, with a blank for the `T`, a comma for the point, slashes or points for dashes.
    fn iso(&mut self) -> Option<u64> {
        let y = self.digits(4)?;
        let sep = self.any(b"-/.")?;
        let m = self.digits(2)?;
        self.byte(sep)?;
        let d = self.digits(2)?;
        if self.any(b"T t")? == b' ' {
            // Gin.
            self.attempt(|c| {
                c.byte(b'-')?;
                c.byte(b' ')
            });
        }
        let clock = self.clock()?;
        let zone = self.zone();
        Some(unix_ns(y, m, d, clock.ns, zone).unwrap_or(0))
    }

    /// `23/Nov/2026:04:14:52 +0000` (common log format; Django has a blank), and with dashes (Tomcat, PHP, BIND, Erlang).
    fn clf(&mut self) -> Option<u64> {
        let d = self.digits(2)?;
        let sep = self.any(b"/-")?;
        let m = self.month()?;
        self.byte(sep)?;
        let y = self.digits(4)?;
        self.any(b": ")?;
        self.byte(b':');
        let clock = self.clock()?;
        let zone = self.zone();
        Some(unix_ns(y, m, d, clock.ns, zone).unwrap_or(0))
    }

    /// `23 Nov 2026 04:14:52.123` (Redis; older ones without the year).
    fn day_month(&mut self, read_ns: u64) -> Option<u64> {
        let d = self.day()?;
        self.byte(b' ')?;
        let m = self.month()?;
        self.byte(b' ')?;
        let year = self.attempt(|c| {
            let y = c.digits(4)?;
            c.byte(b' ')?;
            Some(y)
        });
        let clock = self.clock()?;
        let ns = match year {
            Some(y) => unix_ns(y, m, d, clock.ns, 0),
            None => latest(m, d, clock.ns, read_ns),
        };
        Some(ns.unwrap_or(0))
    }

    /// `, 2026 4:14:52 AM` (java.util.logging), after month and day.
    fn half_day(&mut self, month: i64, day: i64) -> Option<u64> {
        self.byte(b',')?;
        self.byte(b' ')?;
        let year = self.digits(4)?;
        self.byte(b' ')?;
        let hour = self.digits(self.digits_ahead().clamp(1, 2))?;
        self.byte(b':')?;
        let minute = self.digits(2)?;
        self.byte(b':')?;
        let second = self.digits(2)?;
        // A narrow blank since Java 20.
        if self.byte(b' ').is_none() {
            let narrow = "\u{202f}".as_bytes();
            self.s.get(self.at..)?.strip_prefix(narrow)?;
            self.at += narrow.len();
        }
        let half = self.any(b"AP")?;
        self.byte(b'M')?;
        (hour <= 12 && minute <= 59 && second <= 60).then_some(())?;
        let hour = hour % 12 + if half == b'P' { 12 } else { 0 };
        let ns = u64::try_from(hour * 3600 + minute * 60 + second).ok()? * 1_000_000_000;
        Some(unix_ns(year, month, day, ns, 0).unwrap_or(0))
    }

    /// `Nov 23 04:14:52` (syslog) and `Mon Nov 23 04:14:52.123456 2026` (asctime, Apache).
    fn month_day(&mut self, read_ns: u64) -> Option<u64> {
        const DAYS: [&[u8]; 7] = [
            b"Mon ", b"Tue ", b"Wed ", b"Thu ", b"Fri ", b"Sat ", b"Sun ",
        ];
        if DAYS.iter().any(|d| self.s[self.at..].starts_with(d)) {
            self.at += 4;
        }
        let m = self.month()?;
        self.byte(b' ')?;
        let d = self.day()?;
        if let Some(ns) = self.attempt(|c| c.half_day(m, d)) {
            return Some(ns);
        }
        self.byte(b' ')?;
        let clock = self.clock()?;
        let year = self.attempt(|c| {
            c.byte(b' ')?;
            let y = c.digits(4)?;
            c.peek()
                .is_none_or(|b| !b.is_ascii_alphanumeric())
                .then_some(y)
        });
        let ns = match year {
            Some(y) => unix_ns(y, m, d, clock.ns, 0),
            None => latest(m, d, clock.ns, read_ns),
        };
        Some(ns.unwrap_or(0))
    }
}

/// The latest such day that is not more than a day after `read_ns`.
fn latest(month: i64, day: i64, clock_ns: u64, read_ns: u64) -> Option<u64> {
    let read_day = i64::try_from(read_ns / DAY_NS).ok()?;
    let (year, _, _) = civil(read_day);
    [year + 1, year, year - 1]
        .into_iter()
        .filter_map(|y| unix_ns(y, month, day, clock_ns, 0))
        .find(|ns| *ns <= read_ns.saturating_add(DAY_NS))
}

fn unix_ns(y: i64, m: i64, d: i64, clock_ns: u64, zone_s: i64) -> Option<u64> {
    if !(1..=12).contains(&m) || !(1..=31).contains(&d) || !(1970..=2500).contains(&y) {
        return None;
    }
    let secs = days(y, m, d) * DAY - zone_s;
    u64::try_from(secs)
        .ok()?
        .checked_mul(1_000_000_000)?
        .checked_add(clock_ns)
}

/// Year, month, day to days since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days(y: i64, m: i64, d: i64) -> i64 {
    let y = y - i64::from(m <= 2);
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * ((m + 9) % 12) + 2) / 5 + d - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

/// The inverse of [`days`].
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let d = doy - (153 * mp + 2) / 5 + 1;
    let m = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(m <= 2), m, d)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-23T04:14:52Z.
    const READ: u64 = 1_795_407_292_000_000_000;

    #[test]
    fn read_constant_is_right() {
        assert_eq!(format_rfc3339(READ), "2026-11-23T04:14:52.000Z");
    }

    #[test]
    fn every_form_means_the_same() {
        for s in [
            "2026-11-23T04:14:52Z",
            "2026-11-23 04:14:52.000",
            "2026-11-23 04:14:52,000",
            "2026/11/23 04:14:52",
            "2026-11-23T05:14:52+01:00",
            "2026-11-22 23:14:52 -0500",
            "2026-11-23 04:14:52 UTC",
            "23/Nov/2026:04:14:52 +0000",
            "23 Nov 2026 04:14:52.000",
            "Nov 23 04:14:52",
            "Mon Nov 23 04:14:52.000000 2026",
            "2026.11.23 04:14:52",
            "2026-11-23  4:14:52",
            "23-Nov-2026 04:14:52",
            "23-Nov-2026::04:14:52",
            "23/Nov/2026 04:14:52",
            "26/11/23 04:14:52",
            "23 Nov 04:14:52.000",
            "Nov 23, 2026 4:14:52 AM",
            "1795407292",
            "1795407292000",
            "1795407292000000",
            "1795407292000000000",
        ] {
            assert_eq!(whole(s, READ), Some(READ), "{s}");
        }
    }

    #[test]
    fn a_missing_year_is_the_last_one() {
        // Read on January 1, written on December 31.
        let read = unix_ns(2027, 1, 1, 0, 0).unwrap();
        let want = unix_ns(2026, 12, 31, 0, 0);
        assert_eq!(whole("Dec 31 00:00:00", read), want);
    }

    #[test]
    fn implausible_times_are_not_believed() {
        for s in [
            "1999-12-31T00:00:00Z",
            "2026-11-25T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "12",
        ] {
            assert_eq!(whole(s, READ), None, "{s}");
        }
    }

    proptest! {
        #[test]
        fn days_and_civil_are_inverse(d in 0i64..200_000) {
            let (y, m, day) = civil(d);
            prop_assert_eq!(days(y, m, day), d);
        }

        #[test]
        fn formatted_times_parse_back(ms in EARLIEST_NS / 1_000_000..READ / 1_000_000) {
            let ns = ms * 1_000_000;
            prop_assert_eq!(whole(&format_rfc3339(ns), READ), Some(ns));
        }

        #[test]
        fn any_text_is_survived(s in ".{0,80}", read in any::<u64>()) {
            let _ = prefix(&s, read);
            let _ = whole(&s, read);
            let _ = klog(&s, read);
        }
    }
}

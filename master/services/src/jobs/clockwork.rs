//! When a schedule is due: cron's fields read in a time zone.
//!
//! A schedule's times are those on the wall. Where the clock is put forward, the times that are left out are one moment: that at
//! which it is put forward. Where it is put back, times come twice: a schedule that runs in every hour of the day is about
//! an interval and has both, any other is about a time of the day and has the first. So each day has each of its times once, and
//! times never go back (property tests below; cron(8) of Debian has the same rules, for changes of less than three hours).

use jiff::{
    Span, Timestamp,
    civil::{Date, DateTime, Time},
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};
use waggle_types::{FieldError, ScheduleSpec, UnixMillis};

use super::cron::Cron;

/// Days that are looked at for the next time: a 29th of February may be eight years away.
const MAX_DAYS: u32 = 366 * 9;
/// No change of a clock is longer: one that leaves out a day (Samoa, 2011) is this long.
const LONGEST_CHANGE_H: i64 = 26;

/// A schedule's cron and time zone, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clockwork {
    cron: Cron,
    zone: TimeZone,
}

impl Clockwork {
    /// Parses cron and time zone; errors name the field of the schedule.
    pub fn new(spec: &ScheduleSpec) -> Result<Self, FieldError> {
        let cron = Cron::parse(&spec.cron)?;
        let zone = TimeZoneDatabase::bundled()
            .get(&spec.time_zone)
            .map_err(|_| {
                let name: String = spec.time_zone.chars().take(80).collect();
                let rule =
                    format!("must be a time zone of IANA such as Europe/Berlin, is {name:?}");
                FieldError::new("timezone", rule)
            })?;
        Ok(Self { cron, zone })
    }

    /// The first time after `after`; `None` when there is none within nine years.
    pub fn next_after(&self, after: UnixMillis) -> Option<UnixMillis> {
        let after = i64::try_from(after.0).ok()?;
        let from = Timestamp::from_millisecond(after).ok()?;
        let steady = self.is_steady(from);
        let wall = self.zone.to_datetime(from);
        // A day earlier where the clock changes: what is due may have been on the wall yesterday.
        let (mut date, start) = if steady {
            (wall.date(), wall.time())
        } else {
            (wall.date().yesterday().ok()?, Time::midnight())
        };
        let mut earliest = start;
        let mut found: Option<i64> = None;
        for _ in 0..MAX_DAYS {
            let here = self.first_on(date, earliest, after, steady);
            // Beside a change the times of two days may interleave.
            let more_to_come = found.is_none() && !steady && here.is_some();
            found = found.into_iter().chain(here).min();
            if found.is_some() && !more_to_come {
                break;
            }
            date = date.tomorrow().ok()?;
            earliest = Time::midnight();
        }
        u64::try_from(found?).ok().map(UnixMillis)
    }

    /// The newest time that is not after `now` and after `after`, given that there is one.
    pub fn newest(&self, after: UnixMillis, now: UnixMillis) -> Option<UnixMillis> {
        let due = |x: u64| self.next_after(UnixMillis(x)).filter(|t| *t <= now);
        let (mut known, mut over) = (after.0, now.0);
        due(known)?;
        // The last moment that has a time after it which is due is the one just before that time.
        while over - known > 1 {
            let middle = known + (over - known) / 2;
            if due(middle).is_some() {
                known = middle;
            } else {
                over = middle;
            }
        }
        due(known)
    }

    /// Whether the clock does not change near a moment.
    fn is_steady(&self, at: Timestamp) -> bool {
        let near = |hours: i64| {
            let near = at.checked_add(Span::new().hours(hours));
            near.ok().map(|t| self.zone.to_offset(t))
        };
        let here = Some(self.zone.to_offset(at));
        near(-LONGEST_CHANGE_H) == here && near(LONGEST_CHANGE_H) == here
    }

    /// The first time of a date that is after `after`, of those from `earliest` on. Where the clock is steady they are in order.
    fn first_on(&self, date: Date, earliest: Time, after: i64, steady: bool) -> Option<i64> {
        let weekday = date.weekday().to_sunday_zero_offset();
        let (month, day) = (date.month(), date.day());
        let number = |n: i8| u8::try_from(n).unwrap_or(0);
        if !self.cron.is_on(number(month), number(day), number(weekday)) {
            return None;
        }
        let mut best: Option<i64> = None;
        for hour in self.cron.hours.iter() {
            for minute in self.cron.minutes.iter() {
                let (hour, minute) = (i8::try_from(hour).ok()?, i8::try_from(minute).ok()?);
                let time = Time::new(hour, minute, 0, 0).ok()?;
                if time < earliest {
                    continue;
                }
                let [first, second] = self.moments(DateTime::from_parts(date, time));
                for moment in [first, second].into_iter().flatten() {
                    if moment > after && best.is_none_or(|b| moment < b) {
                        best = Some(moment);
                    }
                }
                if best.is_some() && steady {
                    return best;
                }
            }
        }
        best
    }

    /// What a time on the wall is: one moment, or two where it comes twice and both count.
    fn moments(&self, wall: DateTime) -> [Option<i64>; 2] {
        let of = |offset: jiff::tz::Offset| offset.to_timestamp(wall).ok();
        let ms = |t: Timestamp| t.as_millisecond();
        match self.zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Unambiguous { offset } => [of(offset).map(ms), None],
            AmbiguousOffset::Gap { after, .. } => {
                // With the later offset it is a moment before the change.
                let change = of(after).and_then(|t| self.zone.following(t).next());
                [change.map(|c| ms(c.timestamp())), None]
            }
            AmbiguousOffset::Fold { before, after } => {
                let second = of(after).map(ms).filter(|_| self.cron.is_hourly());
                [of(before).map(ms), second]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use waggle_types::{Concurrency, Millis};

    use super::*;

    fn clock(cron: &str, zone: &str) -> Clockwork {
        let spec = ScheduleSpec {
            id: "s".into(),
            cron: cron.into(),
            time_zone: zone.into(),
            starting_deadline: Millis(0),
            concurrency: Concurrency::Allow,
            enabled: true,
        };
        Clockwork::new(&spec).unwrap()
    }

    fn at(text: &str) -> UnixMillis {
        let t: Timestamp = text.parse().unwrap();
        UnixMillis(u64::try_from(t.as_millisecond()).unwrap())
    }

    fn times(clock: &Clockwork, from: &str, n: usize) -> Vec<String> {
        let mut t = at(from);
        let mut out = Vec::new();
        for _ in 0..n {
            t = clock.next_after(t).unwrap();
            out.push(t.rfc3339().to_string().replace(":00.000Z", "Z"));
        }
        out
    }

    #[test]
    fn times_follow_the_wall() {
        let c = clock("30 2 * * *", "Europe/Berlin");
        assert_eq!(
            times(&c, "2026-06-01T00:30:00Z", 2),
            ["2026-06-02T00:30Z", "2026-06-03T00:30Z"]
        );
        // From summer to winter: an hour later by UTC.
        let c = clock("0 12 * * *", "Europe/Berlin");
        assert_eq!(
            times(&c, "2026-10-24T11:00:00Z", 2),
            ["2026-10-25T11:00Z", "2026-10-26T11:00Z"]
        );
        let c = clock("0 0 29 2 *", "UTC");
        assert_eq!(times(&c, "2096-03-01T00:00:00Z", 1), ["2104-02-29T00:00Z"]);
        assert_eq!(
            clock("0 0 31 2 *", "UTC").next_after(at("2026-01-01T00:00:00Z")),
            None
        );
    }

    #[test]
    fn times_that_are_left_out_are_the_moment_of_the_change() {
        // Berlin, 29 March 2026: 02:00 becomes 03:00, which is 01:00 UTC.
        let c = clock("30 2 * * *", "Europe/Berlin");
        assert_eq!(
            times(&c, "2026-03-28T02:00:00Z", 2),
            ["2026-03-29T01:00Z", "2026-03-30T00:30Z"]
        );
        let c = clock("*/20 * * * *", "Europe/Berlin");
        assert_eq!(
            times(&c, "2026-03-29T00:35:00Z", 4),
            [
                "2026-03-29T00:40Z",
                "2026-03-29T01:00Z",
                "2026-03-29T01:20Z",
                "2026-03-29T01:40Z"
            ]
        );
        // Samoa had no 30 December 2011: its noon is the moment at which the 31st began.
        let c = clock("0 12 30 12 *", "Pacific/Apia");
        assert_eq!(
            times(&c, "2011-12-01T00:00:00Z", 2),
            ["2011-12-30T10:00Z", "2012-12-29T22:00Z"]
        );
    }

    #[test]
    fn times_that_come_twice_are_once_or_an_interval() {
        // Berlin, 25 October 2026: 03:00 becomes 02:00, which is 01:00 UTC.
        let c = clock("30 2 * * *", "Europe/Berlin");
        assert_eq!(
            times(&c, "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30Z", "2026-10-26T01:30Z"]
        );
        let c = clock("0,30 * * * *", "Europe/Berlin");
        assert_eq!(
            times(&c, "2026-10-25T00:10:00Z", 4),
            [
                "2026-10-25T00:30Z",
                "2026-10-25T01:00Z",
                "2026-10-25T01:30Z",
                "2026-10-25T02:00Z"
            ]
        );
    }

    #[test]
    fn the_newest_time_is_found_in_any_number() {
        let c = clock("*/5 * * * *", "Asia/Kolkata");
        let (from, now) = (at("2026-01-01T00:00:00Z"), at("2026-09-01T00:03:00Z"));
        assert_eq!(c.newest(from, now), Some(at("2026-09-01T00:00:00Z")));
        assert_eq!(c.newest(at("2026-09-01T00:00:00Z"), now), None);
    }

    #[test]
    fn what_is_no_zone_is_named() {
        for bad in ["", "Mars/Olympus", "../etc/passwd"] {
            let spec = ScheduleSpec {
                time_zone: bad.into(),
                id: "s".into(),
                cron: "* * * * *".into(),
                starting_deadline: Millis(0),
                concurrency: Concurrency::Allow,
                enabled: true,
            };
            assert_eq!(
                Clockwork::new(&spec).unwrap_err().field,
                "timezone",
                "{bad}"
            );
        }
    }

    const ZONES: [&str; 7] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
        "America/Sao_Paulo",
        "Africa/Casablanca",
        "Asia/Kathmandu",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        /// Times go up, none is left out however one asks, each is on the wall at that moment or at the end of
        /// a change, and a day that the clock does not touch has as many as its fields say.
        #[test]
        fn times_are_a_sequence(
            zone in 0..ZONES.len(),
            start in 1_000_000_000u64..2_500_000_000,
            hours in prop_oneof![Just("*"), Just("*/2"), Just("1,2,3"), Just("0"), Just("23")],
            minutes in prop_oneof![Just("0"), Just("*/15"), Just("30"), Just("59")],
            skip in 1u64..7_200_000,
        ) {
            let c = clock(&format!("{minutes} {hours} * * *"), ZONES[zone]);
            let start = UnixMillis(start * 1000);
            let mut t = start;
            let mut all = Vec::new();
            for _ in 0..60 {
                let next = c.next_after(t).unwrap();
                prop_assert!(next > t);
                // Asked a little later, the same.
                let between = UnixMillis((t.0 + skip).min(next.0 - 1));
                prop_assert_eq!(c.next_after(between), Some(next));
                let stamp = Timestamp::from_millisecond(next.0.try_into().unwrap()).unwrap();
                let wall = c.zone.to_datetime(stamp);
                let on = c.cron.minutes.has(wall.minute().try_into().unwrap())
                    && c.cron.hours.has(wall.hour().try_into().unwrap());
                let before = Timestamp::from_millisecond(stamp.as_millisecond() - 1).unwrap();
                let change = c.zone.to_offset(before) != c.zone.to_offset(stamp);
                prop_assert!(on || change, "{} {}", wall, ZONES[zone]);
                all.push(next);
                t = next;
            }
            prop_assert_eq!(c.newest(start, t), Some(t));
        }
    }
}

//! What becomes of a task's output: how much is logged and kept, and what happens beyond that.

/// Lines a second.
const LINES: &str = "WAGGLE_LOG_LINES_PER_SECOND";
/// Bytes a second.
const BYTES: &str = "WAGGLE_LOG_BYTES_PER_SECOND";
/// `drop` or `block`.
const POLICY: &str = "WAGGLE_LOG_POLICY";
/// Bytes of output that are kept, both streams together.
const QUOTA: &str = "WAGGLE_LOG_QUOTA_BYTES";
/// Seconds that output is kept.
const AGE: &str = "WAGGLE_LOG_MAX_AGE_SECONDS";
/// Files in the sandbox that are logged, too, apart by commas.
const FILES: &str = "WAGGLE_LOG_FILES";
/// What is saved up at most, in seconds of the rate.
const BURST_S: u64 = 30;
const SECOND_NS: u64 = 1_000_000_000;
/// Least quota: segments smaller than 16 KiB would be all there is to do.
const LEAST_QUOTA: u64 = 128 << 10;
/// Largest segment, whatever the quota.
const MOST_SEGMENT: u64 = 256 << 20;
/// Segments that a quota is made of.
const SEGMENTS: u64 = 8;
/// Most files that one task has followed.
pub const MAX_LOG_FILES: usize = 16;

/// Names of files, or patterns of such, that are read: whoever follows them tells which are too many.
const MAX_NAMED: usize = 4 * MAX_LOG_FILES;

/// What a task may log, on average.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRate {
    /// Lines a second.
    pub lines_s: u64,
    /// Bytes a second.
    pub bytes_s: u64,
}

impl Default for LogRate {
    fn default() -> Self {
        Self {
            lines_s: 10_000,
            bytes_s: 4 << 20,
        }
    }
}

/// What happens to output beyond what may be logged and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogPolicy {
    /// It is left out, and counted; the task never waits.
    #[default]
    Drop,
    /// The task waits in its write until there is room; the time is counted.
    Block,
}

/// What a node does with the output of tasks that say nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogDefaults {
    /// Bytes that are kept of a task's output.
    pub quota_bytes: u64,
    /// Seconds that output is kept; `None`: as long as there is room.
    pub max_age_s: Option<u64>,
}

impl Default for LogDefaults {
    fn default() -> Self {
        Self {
            quota_bytes: 40 << 20,
            max_age_s: None,
        }
    }
}

/// What becomes of one task's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRules {
    /// How much is logged.
    pub rate: LogRate,
    /// What happens beyond that.
    pub policy: LogPolicy,
    /// Bytes that are kept, both streams together.
    pub quota_bytes: u64,
    /// Seconds that output is kept.
    pub max_age_s: Option<u64>,
    /// Files in the sandbox that are logged, too.
    pub files: Vec<String>,
}

impl LogRules {
    /// The node's defaults with what a task says of itself, by label or else in its environment. What can't be read is left
    /// alone: a task runs with a wrong label, too.
    pub fn read<'a>(defaults: LogDefaults, said: impl Fn(&str) -> Option<&'a str>) -> Self {
        let number = |name: &str| {
            let given = said(name).and_then(|v| v.trim().parse::<u64>().ok());
            given.filter(|n| *n > 0)
        };
        let rate = LogRate::default();
        let files = said(FILES).unwrap_or_default().split(',');
        let files = files.map(str::trim).filter(|f| !f.is_empty());
        Self {
            rate: LogRate {
                lines_s: number(LINES).unwrap_or(rate.lines_s),
                bytes_s: number(BYTES).unwrap_or(rate.bytes_s),
            },
            policy: match said(POLICY).map(str::trim) {
                Some("block") => LogPolicy::Block,
                _ => LogPolicy::Drop,
            },
            // A task may keep less than the node allows, not more.
            quota_bytes: number(QUOTA)
                .unwrap_or(u64::MAX)
                .clamp(LEAST_QUOTA, defaults.quota_bytes.max(LEAST_QUOTA)),
            max_age_s: number(AGE).map_or(defaults.max_age_s, |own| {
                Some(own.min(defaults.max_age_s.unwrap_or(u64::MAX)))
            }),
            files: files.take(MAX_NAMED).map(ToOwned::to_owned).collect(),
        }
    }

    /// Size of one segment of a stream.
    pub fn segment_bytes(&self) -> u64 {
        (self.quota_bytes / SEGMENTS).min(MOST_SEGMENT)
    }
}

/// A task's account: fills with time, pays for what is logged.
#[derive(Debug, Clone)]
pub struct LogBudget {
    // Most that is saved up; what is owed is below zero.
    full: (i64, i64),
    rate: LogRate,
    lines: i64,
    bytes: i64,
    filled_ns: u64,
    dropped: Dropped,
}

/// What was left out since it was said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Lines.
    pub lines: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl LogBudget {
    /// A full account.
    pub fn new(rate: LogRate, now_ns: u64) -> Self {
        Self::with_burst(rate, BURST_S, now_ns)
    }

    /// The same where so many seconds of the rate are saved up at most.
    pub fn with_burst(rate: LogRate, burst_s: u64, now_ns: u64) -> Self {
        let full = (burst(rate.lines_s, burst_s), burst(rate.bytes_s, burst_s));
        Self {
            full,
            rate,
            lines: full.0,
            bytes: full.1,
            filled_ns: now_ns,
            dropped: Dropped::default(),
        }
    }

    /// Whether a record of so many lines and bytes is logged; what is not, is remembered as dropped.
    pub fn take(&mut self, lines: u64, bytes: u64, now_ns: u64) -> bool {
        self.fill(now_ns);
        // One larger than all that can be saved up is let through by a full account.
        let lines_due = amount(lines).min(self.full.0);
        let bytes_due = amount(bytes).min(self.full.1);
        if self.lines < lines_due || self.bytes < bytes_due {
            self.dropped.lines += lines;
            self.dropped.bytes += bytes;
            return false;
        }
        self.lines -= lines_due;
        self.bytes -= bytes_due;
        true
    }

    /// Bytes that may be read now by who can wait: none while anything is owed.
    pub fn room(&mut self, now_ns: u64) -> u64 {
        self.fill(now_ns);
        if self.lines > 0 {
            u64::try_from(self.bytes).unwrap_or(0)
        } else {
            0
        }
    }

    /// Pays for what is logged whatever it costs; what the account lacks is owed.
    pub fn charge(&mut self, lines: u64, bytes: u64) {
        self.lines = self.lines.saturating_sub(amount(lines));
        self.bytes = self.bytes.saturating_sub(amount(bytes));
    }

    /// What was dropped since the last call.
    pub fn take_dropped(&mut self) -> Dropped {
        std::mem::take(&mut self.dropped)
    }

    fn fill(&mut self, now_ns: u64) {
        let Some(passed) = now_ns.checked_sub(self.filled_ns).filter(|p| *p > 0) else {
            return;
        };
        let more = |rate: u64| {
            let more = u128::from(rate) * u128::from(passed) / u128::from(SECOND_NS);
            i64::try_from(more).unwrap_or(i64::MAX)
        };
        let (lines, bytes) = (more(self.rate.lines_s), more(self.rate.bytes_s));
        // Time that brought nothing yet counts with the next.
        if lines > 0 && bytes > 0 {
            self.lines = self.lines.saturating_add(lines).min(self.full.0);
            self.bytes = self.bytes.saturating_add(bytes).min(self.full.1);
            self.filled_ns = now_ns;
        }
    }
}

fn burst(rate: u64, seconds: u64) -> i64 {
    amount(rate).saturating_mul(amount(seconds))
}

fn amount(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(said: &[(&str, &str)]) -> LogRules {
        LogRules::read(LogDefaults::default(), |name| {
            said.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
        })
    }

    #[test]
    fn labels_change_the_rules_and_nonsense_does_not() {
        assert_eq!(rules(&[(LINES, "7")]).rate.lines_s, 7);
        for nonsense in ["0", "-1", "many", ""] {
            for name in [LINES, BYTES, POLICY, QUOTA, AGE] {
                assert_eq!(rules(&[(name, nonsense)]), rules(&[]), "{name}={nonsense}");
            }
        }
        let own = rules(&[
            (POLICY, "block"),
            (QUOTA, "1048576"),
            (AGE, "60"),
            (FILES, "logs/app.log, ,audit.log"),
        ]);
        assert_eq!(own.policy, LogPolicy::Block);
        assert_eq!(own.segment_bytes(), 128 << 10);
        assert_eq!(own.max_age_s, Some(60));
        assert_eq!(own.files, ["logs/app.log", "audit.log"]);
        // What the node allows is the most.
        let much = rules(&[(QUOTA, "999999999999")]);
        assert_eq!(much.quota_bytes, LogDefaults::default().quota_bytes);
        assert_eq!(rules(&[(QUOTA, "1")]).quota_bytes, LEAST_QUOTA);
        let node = LogDefaults {
            max_age_s: Some(50),
            ..LogDefaults::default()
        };
        let said = |name: &str| (name == AGE).then_some("60");
        assert_eq!(LogRules::read(node, said).max_age_s, Some(50));
    }

    #[test]
    fn who_waits_owes_and_pays() {
        let rate = LogRate {
            lines_s: 10,
            bytes_s: 100,
        };
        let mut budget = LogBudget::new(rate, 0);
        assert_eq!(budget.room(0), 3000);
        budget.charge(1, 3500);
        assert_eq!(budget.room(0), 0);
        assert_eq!(budget.room(5 * SECOND_NS), 0, "500 are owed");
        assert_eq!(budget.room(6 * SECOND_NS), 100);
        budget.charge(400, 0);
        assert_eq!(budget.room(6 * SECOND_NS), 0, "too many lines");
        assert_eq!(budget.take_dropped(), Dropped::default());
    }

    proptest! {
        /// Over any time no more is let through than the rate and the burst say, and all of it is counted.
        #[test]
        fn the_rate_holds(
            steps in prop::collection::vec((0u64..3_000_000_000, 1u64..50, 1u64..500), 1..200),
        ) {
            let rate = LogRate { lines_s: 10, bytes_s: 1000 };
            let mut budget = LogBudget::new(rate, 0);
            let (mut now, mut lines, mut bytes, mut all) = (0, 0, 0, 0);
            for (wait, l, b) in steps {
                now += wait;
                all += l;
                if budget.take(l, b, now) {
                    lines += l;
                    bytes += b;
                }
            }
            let s = now / SECOND_NS + 1;
            let burst = BURST_S;
            prop_assert!(lines <= 10 * (burst + s), "{lines} lines in {s} s");
            prop_assert!(bytes <= 1000 * (burst + s));
            prop_assert_eq!(lines + budget.take_dropped().lines, all);
            prop_assert_eq!(budget.take_dropped(), Dropped::default());
        }
    }
}

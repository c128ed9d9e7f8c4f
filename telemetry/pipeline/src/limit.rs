//! How much of a task's output becomes log records.

use std::collections::BTreeMap;

/// Label of a task: lines a second.
const LINES: &str = "WAGGLE_LOG_LINES_PER_SECOND";
/// Label of a task: bytes a second.
const BYTES: &str = "WAGGLE_LOG_BYTES_PER_SECOND";
/// What is saved up at most, in seconds of the rate.
const BURST_S: u64 = 30;
const SECOND_NS: u64 = 1_000_000_000;

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

impl LogRate {
    /// The default with what the task's labels change of it. What is no whole number above zero is left alone: a task runs with
    /// a wrong label, too.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Self {
        let read = |label: &str, default| {
            let given = labels.get(label).and_then(|v| v.trim().parse().ok());
            given.filter(|n| *n > 0).unwrap_or(default)
        };
        let default = Self::default();
        Self {
            lines_s: read(LINES, default.lines_s),
            bytes_s: read(BYTES, default.bytes_s),
        }
    }
}

/// A task's account: fills with time, pays for what is logged.
#[derive(Debug, Clone)]
pub struct LogBudget {
    rate: LogRate,
    burst_s: u64,
    lines: u64,
    bytes: u64,
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
        Self {
            rate,
            burst_s,
            lines: rate.lines_s.saturating_mul(burst_s),
            bytes: rate.bytes_s.saturating_mul(burst_s),
            filled_ns: now_ns,
            dropped: Dropped::default(),
        }
    }

    /// Whether a record of so many lines and bytes is logged; what is not, is remembered as dropped.
    pub fn take(&mut self, lines: u64, bytes: u64, now_ns: u64) -> bool {
        self.fill(now_ns);
        // One larger than all that can be saved up is let through by a full account.
        let most = |rate: u64| rate.saturating_mul(self.burst_s);
        let lines_due = lines.min(most(self.rate.lines_s));
        let bytes_due = bytes.min(most(self.rate.bytes_s));
        if self.lines < lines_due || self.bytes < bytes_due {
            self.dropped.lines += lines;
            self.dropped.bytes += bytes;
            return false;
        }
        self.lines -= lines_due;
        self.bytes -= bytes_due;
        true
    }

    /// What was dropped since the last call.
    pub fn take_dropped(&mut self) -> Dropped {
        std::mem::take(&mut self.dropped)
    }

    fn fill(&mut self, now_ns: u64) {
        let Some(passed) = now_ns.checked_sub(self.filled_ns).filter(|p| *p > 0) else {
            return;
        };
        let burst_s = self.burst_s;
        let passed = passed.min(burst_s.saturating_mul(SECOND_NS));
        let grown = |have: u64, rate: u64| {
            let more = u128::from(rate) * u128::from(passed) / u128::from(SECOND_NS);
            let more = u64::try_from(more).unwrap_or(u64::MAX);
            (
                have.saturating_add(more).min(rate.saturating_mul(burst_s)),
                more > 0,
            )
        };
        let (lines, some_lines) = grown(self.lines, self.rate.lines_s);
        let (bytes, some_bytes) = grown(self.bytes, self.rate.bytes_s);
        // Time that brought nothing yet counts with the next.
        if some_lines && some_bytes {
            (self.lines, self.bytes, self.filled_ns) = (lines, bytes, now_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_change_the_rate_and_nonsense_does_not() {
        let labels = |v: &str| BTreeMap::from([(LINES.to_owned(), v.to_owned())]);
        assert_eq!(LogRate::from_labels(&labels("7")).lines_s, 7);
        for nonsense in ["0", "-1", "many", ""] {
            assert_eq!(LogRate::from_labels(&labels(nonsense)), LogRate::default());
        }
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
            prop_assert!(lines <= 10 * (BURST_S + s), "{lines} lines in {s} s");
            prop_assert!(bytes <= 1000 * (BURST_S + s));
            prop_assert_eq!(lines + budget.take_dropped().lines, all);
            prop_assert_eq!(budget.take_dropped(), Dropped::default());
        }
    }
}

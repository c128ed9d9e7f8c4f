//! When each check is due: pure, with the time as an argument, in milliseconds since any moment.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use waggle_types::{CheckPurpose, HealthCheck};

/// First pause between attempts of a check that may still fail freely; it doubles.
const EAGER_FIRST_MS: u64 = 50;
/// Longest such pause.
const EAGER_MAX_MS: u64 = 1000;
/// Checks that are taken over after a restart begin within this time, not all at once.
const SPREAD_MS: u64 = 5000;

/// A check of a task, for its whole time in a schedule. Numbers are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckId(u64);

/// What a check's times depend on.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// When it began to count; may be in the past.
    pub since_ms: u64,
    /// The first attempt comes so long after that.
    pub delay_ms: u64,
    /// Time between the starts of two attempts.
    pub interval_ms: u64,
    /// Until when attempts that fail come close together, so that the first pass is noticed soon after it is.
    pub eager_until_ms: u64,
    /// Longest pause between such attempts.
    pub eager_max_ms: u64,
    /// Whether it is known to have passed.
    pub passed: bool,
    /// Spreads checks of the same interval over it: any number, the same for the same check.
    pub seed: u64,
}

impl Timing {
    /// Of a check that began to count at `since_ms`.
    pub fn of(check: &HealthCheck, since_ms: u64, passed: bool, seed: u64) -> Self {
        let interval_ms = check.interval.0.max(10);
        let eager = match check.purpose {
            // Nothing is counted before it passes, so nothing is lost by asking often at first and ever less.
            CheckPurpose::Readiness => (u64::MAX, interval_ms),
            // What it says is what is asked for, whatever it is.
            CheckPurpose::Report => (0, interval_ms),
            CheckPurpose::Health | CheckPurpose::Startup => (
                since_ms.saturating_add(check.grace_period.0),
                EAGER_MAX_MS.min(interval_ms),
            ),
        };
        Self {
            since_ms,
            delay_ms: check.delay.0,
            interval_ms,
            eager_until_ms: eager.0,
            eager_max_ms: eager.1,
            passed,
            seed,
        }
    }
}

#[derive(Debug)]
struct Entry {
    timing: Timing,
    // The pause before the next eager attempt.
    eager_ms: u64,
    // While an attempt is under way it is in no heap.
    running: bool,
    due_ms: u64,
}

/// A check whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub id: CheckId,
    /// When it should have begun.
    pub due_ms: u64,
}

/// All checks of a node. A check is never due again before its attempt is over.
#[derive(Debug, Default)]
pub struct Schedule {
    entries: BTreeMap<CheckId, Entry>,
    // Of removed checks, too: they are skipped when their time comes.
    heap: BinaryHeap<Reverse<(u64, CheckId)>>,
    n_ids: u64,
}

impl Schedule {
    /// Takes a check in.
    pub fn add(&mut self, timing: Timing, now_ms: u64) -> CheckId {
        self.n_ids += 1;
        let id = CheckId(self.n_ids);
        let first = timing.since_ms.saturating_add(timing.delay_ms).max(now_ms);
        // One that is known to have passed is no news for anybody.
        let due_ms = if timing.passed {
            first + mix(timing.seed) % SPREAD_MS.min(timing.interval_ms)
        } else {
            first
        };
        let entry = Entry {
            timing,
            eager_ms: EAGER_FIRST_MS.min(timing.eager_max_ms),
            running: false,
            due_ms,
        };
        self.entries.insert(id, entry);
        self.heap.push(Reverse((due_ms, id)));
        id
    }

    /// Forgets a check; what is told of it later is ignored.
    pub fn remove(&mut self, id: CheckId) {
        self.entries.remove(&id);
        // Removed ones may not outnumber the others for long.
        if self.heap.len() > 64 + 2 * self.entries.len() {
            let entries = &self.entries;
            self.heap
                .retain(|Reverse((_, id))| entries.contains_key(id));
        }
    }

    /// When the next one is due.
    pub fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }

    /// The check that should have begun first, if any should have.
    pub fn take(&mut self, now_ms: u64) -> Option<Due> {
        loop {
            let Reverse((due_ms, _)) = self.heap.peek()?;
            if *due_ms > now_ms {
                return None;
            }
            let Reverse((due_ms, id)) = self.heap.pop()?;
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.running = true;
                return Some(Due { id, due_ms });
            }
        }
    }

    /// An attempt is over that began at `begun_ms`.
    pub fn done(&mut self, id: CheckId, passed: bool, begun_ms: u64, now_ms: u64) {
        let Some(entry) = self.entries.get_mut(&id).filter(|e| e.running) else {
            return;
        };
        let t = &mut entry.timing;
        let first_pass = passed && !t.passed;
        t.passed |= passed;
        let next = if first_pass {
            // From here on at its own place in the interval, away from others that passed at the same moment.
            let half = t.interval_ms / 2;
            begun_ms + half + mix(t.seed) % (t.interval_ms - half)
        } else if t.passed || begun_ms >= t.eager_until_ms {
            // At its place however long it waited for its turn; what is missed is not made up for.
            let next = entry.due_ms + t.interval_ms;
            if next > now_ms {
                next
            } else {
                begun_ms + t.interval_ms
            }
        } else {
            let pause = entry.eager_ms;
            entry.eager_ms = (pause * 2).min(t.eager_max_ms);
            begun_ms + pause
        };
        entry.running = false;
        entry.due_ms = next.max(now_ms);
        self.heap.push(Reverse((entry.due_ms, id)));
    }
}

/// Mixes a number well (the finalizer of splitmix64).
const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use waggle_types::{HealthProbe, Millis};

    use super::*;

    fn check(purpose: CheckPurpose, interval: u64, grace: u64) -> HealthCheck {
        HealthCheck {
            name: None,
            purpose,
            probe: HealthProbe::Tcp {
                port_index: 0,
                port: None,
            },
            delay: Millis(0),
            grace_period: Millis(grace),
            interval: Millis(interval),
            timeout: Millis(100),
            max_consecutive_failures: 3,
            keep_response: false,
        }
    }

    /// When attempts begin that take no time and end as said, `n` of them.
    fn attempts(check: &HealthCheck, n: usize, passes: impl Fn(usize) -> bool) -> Vec<u64> {
        let mut s = Schedule::default();
        s.add(Timing::of(check, 0, false, 1), 0);
        let mut out = Vec::new();
        for i in 0..n {
            let at = s.next_ms().unwrap();
            let due = s.take(at).unwrap();
            assert_eq!(s.take(at), None, "once at a time");
            s.done(due.id, passes(i), at, at);
            out.push(at);
        }
        out
    }

    #[test]
    fn attempts_come_close_together_until_the_first_pass() {
        let health = check(CheckPurpose::Health, 10_000, 3000);
        let at = attempts(&health, 9, |_| false);
        assert_eq!(at, [0, 50, 150, 350, 750, 1550, 2550, 3550, 13_550]);
        let at = attempts(&health, 5, |i| i >= 2);
        assert_eq!(at[..3], [0, 50, 150]);
        let gap = at[3] - at[2];
        assert!((5000..10_000).contains(&gap), "{gap}");
        assert_eq!(at[4] - at[3], 10_000);
        // Readiness backs off to its interval, whatever its grace.
        let ready = check(CheckPurpose::Readiness, 2000, 0);
        let at = attempts(&ready, 9, |_| false);
        assert_eq!(at, [0, 50, 150, 350, 750, 1550, 3150, 5150, 7150]);
    }

    #[test]
    fn delays_and_spreads() {
        let mut s = Schedule::default();
        let mut late = check(CheckPurpose::Health, 1000, 0);
        late.delay = Millis(700);
        s.add(Timing::of(&late, 100, false, 1), 300);
        assert_eq!(s.next_ms(), Some(800));
        let mut s = Schedule::default();
        let known = check(CheckPurpose::Health, 60_000, 0);
        for seed in 0..1000 {
            s.add(Timing::of(&known, 0, true, seed), 10_000);
        }
        // Some two hundred a second, not a thousand at once.
        for second in 10..15 {
            let mut n = 0;
            while s.take(second * 1000 + 999).is_some() {
                n += 1;
            }
            assert!((140..260).contains(&n), "{n} in second {second}");
        }
        assert_eq!(s.take(u64::MAX), None);
    }

    #[test]
    fn what_was_missed_is_not_made_up_for() {
        let mut s = Schedule::default();
        let id = s.add(
            Timing::of(&check(CheckPurpose::Health, 100, 0), 0, true, 0),
            0,
        );
        let due = s.take(1000).unwrap();
        // It waited for its turn, and took long.
        s.done(id, true, 5000, 5040);
        assert!(due.due_ms <= 100);
        assert_eq!(s.next_ms(), Some(5100));
    }

    proptest! {
        /// Over any history: an attempt begins no sooner than it is due, one at a time for each check, the one that waits
        /// longest first; removed checks never come; the heap stays small.
        #[test]
        fn a_schedule_is_fair(ops in prop::collection::vec((0u8..5, any::<u8>(), 0u64..2000), 1..300)) {
            let mut s = Schedule::default();
            let (mut now, mut known, mut running) = (0u64, Vec::new(), Vec::new());
            for (op, n, ms) in ops {
                let pick = |of: &Vec<CheckId>| (!of.is_empty()).then(|| usize::from(n) % of.len());
                match op {
                    0 => {
                        let purpose = [CheckPurpose::Health, CheckPurpose::Readiness, CheckPurpose::Startup][usize::from(n) % 3];
                        let timing = Timing::of(&check(purpose, 10 + ms, ms), now, n > 128, ms);
                        known.push(s.add(timing, now));
                    }
                    1 => if let Some(at) = pick(&known) {
                        let id = known.remove(at);
                        s.remove(id);
                        running.retain(|r| *r != id);
                    }
                    2 => if let Some(at) = pick(&running) {
                        let id = running.remove(at);
                        s.done(id, n > 100, now, now);
                    }
                    3 => now += ms,
                    _ => {
                        let mut last = 0;
                        while let Some(due) = s.take(now) {
                            prop_assert!(due.due_ms <= now && due.due_ms >= last);
                            last = due.due_ms;
                            prop_assert!(known.contains(&due.id) && !running.contains(&due.id));
                            running.push(due.id);
                        }
                        prop_assert!(s.next_ms().is_none_or(|at| at > now));
                    }
                }
                prop_assert_eq!(s.entries.len(), known.len());
                prop_assert!(s.heap.len() <= 65 + 2 * known.len());
            }
        }
    }
}

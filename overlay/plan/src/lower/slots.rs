//! Which slots of the backend array are free, used or resting.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use waggle_types::UnixMillis;

/// Free ranges, disjoint and never adjacent, and ranges that become free later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slots {
    /// Start to end (exclusive).
    free: BTreeMap<u32, u32>,
    n_free: u32,
    /// By time of release, which never goes back since quarantine is one constant.
    resting: VecDeque<(UnixMillis, Range<u32>)>,
    n_resting: u32,
    max: u32,
}

impl Slots {
    pub(crate) fn new(max: u32) -> Self {
        let mut this = Self {
            free: BTreeMap::new(),
            n_free: 0,
            resting: VecDeque::new(),
            n_resting: 0,
            max,
        };
        this.give_back(0..max);
        this
    }

    pub(crate) fn n_free(&self) -> u32 {
        self.n_free
    }

    pub(crate) fn n_resting(&self) -> u32 {
        self.n_resting
    }

    /// Ranges in quarantine and when they leave it, in order of time.
    pub(crate) fn resting(&self) -> impl Iterator<Item = &(UnixMillis, Range<u32>)> {
        self.resting.iter()
    }

    /// First range of `n` slots that is free; `Some(0)` for none of them.
    pub(crate) fn take(&mut self, n: u32) -> Option<u32> {
        if n == 0 {
            return Some(0);
        }
        let (start, end) = self
            .free
            .iter()
            .find(|(s, e)| **e - **s >= n)
            .map(|(s, e)| (*s, *e))?;
        self.free.remove(&start);
        if start + n < end {
            self.free.insert(start + n, end);
        }
        self.n_free -= n;
        Some(start)
    }

    /// Takes what is free of `base..base + n` (an adopted entry's slots), and says whether that was all of it.
    pub(crate) fn claim(&mut self, base: u32, n: u32) -> (Vec<Range<u32>>, bool) {
        let wanted = base.min(self.max)..base.saturating_add(n).min(self.max);
        if n == 0 {
            return (Vec::new(), true);
        }
        let mut got = Vec::new();
        let overlapping: Vec<(u32, u32)> = self
            .free
            .range(..wanted.end)
            .rev()
            .take_while(|(_, e)| **e > wanted.start)
            .map(|(s, e)| (*s, *e))
            .collect();
        for (start, end) in overlapping {
            self.free.remove(&start);
            let mine = start.max(wanted.start)..end.min(wanted.end);
            if start < mine.start {
                self.free.insert(start, mine.start);
            }
            if mine.end < end {
                self.free.insert(mine.end, end);
            }
            self.n_free -= mine.end - mine.start;
            got.push(mine);
        }
        let n_got: u32 = got.iter().map(|r| r.end - r.start).sum();
        (got, n_got == n)
    }

    /// Keeps a range out of use until a time.
    pub(crate) fn rest(&mut self, range: Range<u32>, until: UnixMillis) {
        if range.is_empty() {
            return;
        }
        self.n_resting += range.end - range.start;
        self.resting.push_back((until, range));
    }

    /// Ends the rest of what has rested long enough. A clock that jumps back only makes it longer.
    pub(crate) fn release(&mut self, now: UnixMillis) {
        while self.resting.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, range)) = self.resting.pop_front() {
                self.n_resting -= range.end - range.start;
                self.give_back(range);
            }
        }
    }

    fn give_back(&mut self, range: Range<u32>) {
        if range.is_empty() {
            return;
        }
        self.n_free += range.end - range.start;
        let mut merged = range;
        if let Some((&s, &e)) = self.free.range(..merged.start).next_back()
            && e == merged.start
        {
            self.free.remove(&s);
            merged.start = s;
        }
        if let Some(e) = self.free.remove(&merged.end) {
            merged.end = e;
        }
        self.free.insert(merged.start, merged.end);
    }
}

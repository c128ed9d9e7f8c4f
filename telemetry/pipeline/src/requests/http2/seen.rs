//! Which bytes were looked at: a packet may come again, and must not be decoded twice; or late, which must not go unnoticed.

use crate::requests::segment::{Segment, ahead};

/// Ranges that are remembered.
const MAX_RANGES: usize = 32;

/// What a piece is to those before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// Next, or further on.
    New,
    /// Again: all of what is left of it.
    Again,
    /// Later than what was behind it.
    Late,
}

/// The last ranges of sequence numbers, oldest first.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ranges: Vec<(u32, u32)>,
}

impl Seen {
    /// Where the newest ends.
    pub(super) fn high(&self) -> Option<u32> {
        self.ranges.last().map(|(_, end)| *end)
    }

    /// Judges a segment, and takes off its front what has come before.
    pub(super) fn judge(&self, segment: &mut Segment<'_>) -> Came {
        let Some(high) = self.high() else {
            return Came::New;
        };
        if segment.until(high) <= 0 {
            return Came::New;
        }
        let is_before = |(begin, end): &&(u32, u32)| {
            ahead(*begin, segment.sequence) >= 0 && segment.until(*end) > 0
        };
        let Some((_, end)) = self.ranges.iter().find(is_before) else {
            return Came::Late;
        };
        let overlap = segment.until(*end).unsigned_abs();
        let is_newest = *end == high;
        if overlap >= segment.length {
            return Came::Again;
        }
        if !is_newest {
            // Behind what it repeats there is a hole that it would fill.
            return Came::Late;
        }
        segment.skip(overlap);
        Came::New
    }

    /// Remembers what was looked at.
    pub(super) fn add(&mut self, begin: u32, end: u32) {
        if begin == end {
            return;
        }
        if let Some(last) = self.ranges.last_mut()
            && last.1 == begin
        {
            last.1 = end;
            return;
        }
        if self.ranges.len() >= MAX_RANGES {
            self.ranges.remove(0);
        }
        self.ranges.push((begin, end));
    }

    pub(super) fn forget(&mut self) {
        self.ranges.clear();
    }
}

//! Several streams of timed items as one, in the order of their times.
//!
//! Each source is in order by itself, and says up to when it has told everything. An item goes out when no source can
//! still bring an earlier one, or when it has waited for as long as anybody is waited for: then what comes later from
//! a source that was slow is out of order, and counted.

use std::collections::{BTreeMap, VecDeque};

/// Merges items of type `T` from sources known by keys of type `K`.
#[derive(Debug)]
pub struct Merge<K, T> {
    sources: BTreeMap<K, Source<T>>,
    window_ns: u64,
    // Time of the newest item that went out.
    out: u64,
    late: u64,
}

#[derive(Debug)]
struct Source<T> {
    held: VecDeque<Held<T>>,
    // Nothing earlier comes any more.
    upto: u64,
}

#[derive(Debug)]
struct Held<T> {
    time: u64,
    came_ns: u64,
    item: T,
}

/// One item, in its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged<K, T> {
    /// Whose it is.
    pub source: K,
    /// Its time.
    pub time: u64,
    /// What it is.
    pub item: T,
}

impl<K: Ord + Clone, T> Merge<K, T> {
    /// Waits at most `window_ns` for a source.
    pub fn new(window_ns: u64) -> Self {
        Self {
            sources: BTreeMap::new(),
            window_ns,
            out: 0,
            late: 0,
        }
    }

    /// A source that has told nothing yet.
    pub fn join(&mut self, source: K) {
        self.sources.entry(source).or_insert_with(|| Source {
            held: VecDeque::new(),
            upto: 0,
        });
    }

    /// A source that tells nothing any more; what it told still goes out.
    pub fn leave(&mut self, source: &K) {
        if let Some(s) = self.sources.get_mut(source) {
            s.upto = u64::MAX;
        }
    }

    /// Items that a source has here; who has many should be read no further.
    pub fn held(&self, source: &K) -> usize {
        self.sources.get(source).map_or(0, |s| s.held.len())
    }

    /// Takes an item. `now_ns` is the merging side's clock, which need not agree with the items' times.
    pub fn push(&mut self, source: &K, time: u64, item: T, now_ns: u64) {
        self.join(source.clone());
        let Some(s) = self.sources.get_mut(source) else {
            return;
        };
        // A clock that was set back does not change the order of its source.
        let time = s.held.back().map_or(time, |last| time.max(last.time));
        s.upto = s.upto.max(time);
        s.held.push_back(Held {
            time,
            came_ns: now_ns,
            item,
        });
    }

    /// A source has told everything up to `time`.
    pub fn upto(&mut self, source: &K, time: u64) {
        if let Some(s) = self.sources.get_mut(source) {
            s.upto = s.upto.max(time);
        }
    }

    /// The next item that may go out.
    pub fn pop(&mut self, now_ns: u64) -> Option<Merged<K, T>> {
        // Sources that have left and told all are done with.
        self.sources
            .retain(|_, s| s.upto < u64::MAX || !s.held.is_empty());
        let heads = self.sources.iter().filter_map(|(key, s)| {
            let head = s.held.front()?;
            Some((head.time, key, head.came_ns))
        });
        let (time, key, came_ns) = heads.min()?;
        let waited = now_ns.saturating_sub(came_ns) >= self.window_ns;
        let silent = |s: &Source<T>| s.held.is_empty() && s.upto < time;
        if !waited && self.sources.values().any(silent) {
            return None;
        }
        let source = key.clone();
        let head = self.sources.get_mut(&source)?.held.pop_front()?;
        self.late += u64::from(head.time < self.out);
        self.out = self.out.max(head.time);
        Some(Merged {
            source,
            time: head.time,
            item: head.item,
        })
    }

    /// Up to when everything of every source has gone out: where a source that is not known here yet would begin.
    pub fn floor(&self) -> u64 {
        let of = |s: &Source<T>| s.held.front().map_or(s.upto, |head| head.time);
        self.sources.values().map(of).min().unwrap_or(0)
    }

    /// Items that went out after later ones, since the last call.
    pub const fn take_late(&mut self) -> u64 {
        std::mem::replace(&mut self.late, 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(merge: &mut Merge<char, u64>, now: u64) -> Vec<(char, u64)> {
        std::iter::from_fn(|| merge.pop(now).map(|m| (m.source, m.time))).collect()
    }

    #[test]
    fn a_silent_source_is_waited_for_and_not_for_ever() {
        let mut merge = Merge::new(100);
        merge.join('a');
        merge.join('b');
        merge.push(&'a', 5, 0, 1000);
        assert_eq!(all(&mut merge, 1050), []);
        merge.push(&'b', 4, 0, 1060);
        merge.upto(&'b', 5);
        assert_eq!(all(&mut merge, 1060), [('b', 4), ('a', 5)]);
        merge.push(&'a', 9, 0, 1070);
        assert_eq!(all(&mut merge, 1169), []);
        assert_eq!(all(&mut merge, 1170), [('a', 9)]);
        assert_eq!(merge.floor(), 5, "b may still have told of 6");
        merge.push(&'b', 6, 0, 1171);
        assert_eq!(all(&mut merge, 1171), [('b', 6)]);
        assert_eq!(merge.take_late(), 1);
        merge.push(&'a', 10, 0, 1171);
        merge.leave(&'b');
        assert_eq!(all(&mut merge, 1171), [('a', 10)]);
    }

    proptest! {
        /// Every item once, each source in order; all in order as long as nobody is given up on.
        #[test]
        fn nothing_lost_or_doubled(
            steps in prop::collection::vec((0usize..3, 0u64..20, 0u64..30, any::<bool>()), 0..200),
            window in prop_oneof![Just(10u64), Just(u64::MAX)],
        ) {
            let sources = ['a', 'b', 'c'];
            let mut merge = Merge::new(window);
            for s in sources {
                merge.join(s);
            }
            let (mut clock, mut now) = ([0u64; 3], 0);
            let (mut given, mut got) = (Vec::new(), Vec::new());
            for (i, (of, step, wait, mark)) in steps.into_iter().enumerate() {
                now += wait;
                clock[of] += step;
                if mark {
                    merge.upto(&sources[of], clock[of]);
                } else {
                    merge.push(&sources[of], clock[of], i, now);
                    given.push((sources[of], i));
                }
                while let Some(m) = merge.pop(now) {
                    got.push((m.time, m.source, m.item));
                }
            }
            for s in sources {
                merge.leave(&s);
            }
            while let Some(m) = merge.pop(now) {
                got.push((m.time, m.source, m.item));
            }
            if window == u64::MAX {
                prop_assert!(got.is_sorted_by_key(|(time, ..)| *time));
                prop_assert_eq!(merge.take_late(), 0);
            }
            for source in sources {
                let of = |(s, i): (char, usize)| (s == source).then_some(i);
                let given: Vec<usize> = given.iter().copied().filter_map(of).collect();
                let got: Vec<usize> = got.iter().map(|(_, s, i)| (*s, *i)).filter_map(of).collect();
                prop_assert_eq!(given, got);
            }
            prop_assert_eq!(merge.floor(), 0);
        }
    }
}

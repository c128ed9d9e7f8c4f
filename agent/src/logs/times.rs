//! When the bytes of a segment came: a file of pairs, place in the segment and time, each true up to the next.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
};

/// Bytes of one pair: a place (4) and Unix microseconds (8), little-endian.
pub const PAIR: usize = 12;
/// Times closer than this are one.
const GRAIN_US: u64 = 1000;

/// Writes the times of one segment.
#[derive(Debug)]
pub struct TimeWriter {
    file: File,
    n: u64,
    last_us: u64,
}

impl TimeWriter {
    /// Begins anew. No time is before `since_us`.
    pub fn create(path: &Path, since_us: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(path)?;
        Ok(Self {
            file,
            n: 0,
            last_us: since_us,
        })
    }

    /// What comes from here on came now. Written before the bytes, so that nobody sees bytes without their time.
    pub fn note(&mut self, at: u64, now_us: u64) {
        let Ok(at) = u32::try_from(at) else { return };
        if self.n > 0 && now_us < self.last_us + GRAIN_US {
            return;
        }
        // A clock that is set back changes no order.
        self.last_us = self.last_us.max(now_us);
        let mut pair = [0; PAIR];
        pair[..4].copy_from_slice(&at.to_le_bytes());
        pair[4..].copy_from_slice(&self.last_us.to_le_bytes());
        // One that can't be written (a full disk) leaves the time before it in force.
        if self.file.write_all(&pair).is_ok() {
            self.n += 1;
        }
    }

    /// Pairs written.
    pub const fn len(&self) -> u64 {
        self.n
    }

    /// The newest time.
    pub const fn last_us(&self) -> u64 {
        self.last_us
    }
}

/// Looks up times of one segment, fastest in order.
#[derive(Debug)]
pub struct TimeReader {
    file: Option<File>,
    // The pair in force and the place where it ends, as far as it is known.
    now: Option<(u64, u32, u64)>,
    since_us: u64,
}

impl TimeReader {
    /// Of the file at `path`; without one, everything came at `since_us`.
    pub fn open(path: &Path, since_us: u64) -> Self {
        Self {
            file: File::open(path).ok(),
            now: None,
            since_us,
        }
    }

    /// When the byte at `at` came, Unix microseconds.
    pub fn at(&mut self, at: u64) -> u64 {
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        // The pair in force mostly is, or is the one before.
        let mut i = match self.now {
            Some((i, from, _)) if from <= at => i,
            _ => match self.search(at) {
                Some(i) => i,
                None => return self.since_us,
            },
        };
        let mut found = self
            .now
            .filter(|n| n.0 == i)
            .map(|(_, from, us)| (from, us));
        // A reader that goes on a little steps; one that jumps searches.
        for _ in 0..64 {
            match self.pair(i + u64::from(found.is_some())) {
                Some((from, us)) if from <= at => {
                    i += u64::from(found.is_some());
                    found = Some((from, us));
                }
                _ => return self.settle(i, found),
            }
        }
        match self.search(at) {
            Some(i) => {
                let pair = self.pair(i);
                self.settle(i, pair)
            }
            None => self.settle(i, found),
        }
    }

    fn settle(&mut self, i: u64, found: Option<(u32, u64)>) -> u64 {
        if let Some((from, us)) = found {
            self.now = Some((i, from, us));
            return us;
        }
        self.since_us
    }

    /// The last pair that is not beyond `at`.
    fn search(&self, at: u32) -> Option<u64> {
        let len = self.file.as_ref()?.metadata().ok()?.len() / PAIR as u64;
        let (mut low, mut high) = (0, len);
        while low < high {
            let middle = low.midpoint(high);
            if self.pair(middle)?.0 <= at {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }

    /// Where the first byte that came at or after `us` is in the segment; `None`: all came before.
    pub fn first_since(&self, us: u64) -> Option<u64> {
        let len = self.file.as_ref()?.metadata().ok()?.len() / PAIR as u64;
        let (mut low, mut high) = (0, len);
        while low < high {
            let middle = low.midpoint(high);
            if self.pair(middle)?.1 < us {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.pair(low).map(|(at, _)| at.into())
    }

    fn pair(&self, i: u64) -> Option<(u32, u64)> {
        let mut pair = [0; PAIR];
        let file = self.file.as_ref()?;
        file.read_exact_at(&mut pair, i * PAIR as u64).ok()?;
        let (at, us) = pair.split_first_chunk::<4>()?;
        Some((
            u32::from_le_bytes(*at),
            u64::from_le_bytes(us.try_into().ok()?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_a_file_the_segments_own_time_is_all() {
        let mut times = TimeReader::open(Path::new("/nonexistent"), 7);
        assert_eq!((times.at(0), times.at(1 << 40)), (7, 7));
        assert_eq!(times.first_since(0), None);
    }

    proptest! {
        /// Looking up in any order gives what a plain list gives.
        #[test]
        fn as_a_list_has_it(
            steps in prop::collection::vec((0u64..200, 0u64..5000), 0..300),
            asked in prop::collection::vec(0u64..30_000, 1..100),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("times");
            let mut writer = TimeWriter::create(&path, 1000).unwrap();
            let mut reader = TimeReader::open(&path, 1000);
            let (mut at, mut us) = (0, 0);
            let mut list: Vec<(u64, u64)> = Vec::new();
            for (bytes, step) in steps {
                us += step;
                let before = writer.len();
                writer.note(at, us);
                if writer.len() > before {
                    list.push((at, writer.last_us()));
                }
                // Asked while it grows, too.
                let now = list.iter().rev().find(|(from, _)| *from <= at).map_or(1000, |l| l.1);
                prop_assert_eq!(reader.at(at), now);
                at += bytes;
            }
            prop_assert!(list.is_sorted_by_key(|l| l.1));
            for at in asked {
                let want = list.iter().rev().find(|(from, _)| *from <= at).map_or(1000, |l| l.1);
                prop_assert_eq!(reader.at(at), want, "{}", at);
                let since = list.iter().find(|(_, us)| *us >= at).map(|(from, _)| *from);
                prop_assert_eq!(reader.first_since(at), since);
            }
        }
    }
}

//! The reading side: a stream's bytes from any place on, over all its segments.

use std::{fs::File, io, os::unix::fs::FileExt};

use super::{
    segments::{Index, OutputDir, Segment},
    times::TimeReader,
};

/// What a look at a stream finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many bytes, from the place where the reader was.
    Bytes(usize),
    /// So many bytes are there no more; the reader is behind them.
    Gap(u64),
    /// Nothing more for now.
    End,
}

/// Reads one stream.
#[derive(Debug)]
pub struct Reader {
    dir: OutputDir,
    at: u64,
    open: Option<Open>,
    // A segment whose place is known, for streams that have no index.
    known: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Open {
    segment: Segment,
    file: File,
    times: TimeReader,
    // Once another segment is in force nothing is added to this one, and no byte of it is behind this place.
    over: Option<u64>,
}

impl Reader {
    /// From byte `at` of a stream. `known` is a segment, by inode, and where it begins.
    pub fn new(dir: OutputDir, at: u64, known: Option<(u64, u64)>) -> Self {
        Self {
            dir,
            at,
            open: None,
            known,
        }
    }

    /// Where it is.
    pub const fn at(&self) -> u64 {
        self.at
    }

    /// The segment that it reads: inode and place.
    pub fn segment(&self) -> Option<(u64, u64)> {
        self.open
            .as_ref()
            .map(|o| (o.segment.inode, o.segment.base))
    }

    /// The stream's segments as they are now.
    pub fn index(&self) -> Option<Index> {
        self.dir
            .read()
            .or_else(|| self.dir.guess(self.known, self.at))
    }

    /// The first byte that is there, and the one behind the last.
    pub fn bounds(&self) -> (u64, u64) {
        let Some(index) = self.index() else {
            return (0, 0);
        };
        let first = index.segments.first().map_or(0, |s| s.base);
        let end = index.segments.last().map_or(0, |s| {
            let len = self.dir.open(s).and_then(|f| f.metadata().ok());
            s.base + len.map_or(0, |m| m.len())
        });
        (first, end)
    }

    /// Goes to another place.
    pub fn seek(&mut self, at: u64) {
        self.at = at;
        if let Some(open) = self.open.take() {
            self.known = Some((open.segment.inode, open.segment.base));
        }
    }

    /// Where what came since `us` begins.
    pub fn place_of(&self, us: u64) -> u64 {
        let Some(index) = self.index() else {
            return 0;
        };
        // One that was begun then may have others before it with bytes of the same moment.
        let at = index.segments.iter().rposition(|s| s.since_us < us);
        for segment in index.segments.get(at.unwrap_or(0)..).unwrap_or_default() {
            let times = TimeReader::open(&self.dir.times(segment.base), segment.since_us);
            if let Some(first) = times.first_since(us) {
                return segment.base + first;
            }
        }
        self.bounds().1
    }

    /// When the byte at `at` of the segment at hand came, Unix microseconds.
    pub fn time_us(&mut self, at: u64) -> u64 {
        if let Some(open) = &mut self.open
            && at >= open.segment.base
        {
            return open.times.at(at - open.segment.base);
        }
        // Of an earlier one: a line that spans two.
        let index = self.index().unwrap_or_default();
        let found = index.segments.iter().rfind(|s| s.base <= at);
        let found = found.or(index.segments.first());
        found.map_or(0, |s| {
            TimeReader::open(&self.dir.times(s.base), s.since_us).at(at.saturating_sub(s.base))
        })
    }

    /// When anything was last written to the segment at hand.
    pub fn modified(&self) -> Option<std::time::SystemTime> {
        self.open.as_ref()?.file.metadata().ok()?.modified().ok()
    }

    /// Reads on. Blocking.
    pub fn step(&mut self, buffer: &mut [u8]) -> io::Result<Step> {
        loop {
            let Some(open) = &mut self.open else {
                match self.enter() {
                    Some(Step::Bytes(_)) => continue,
                    Some(found) => return Ok(found),
                    None => return Ok(Step::End),
                }
            };
            let place = self.at - open.segment.base;
            let room = open
                .over
                .map_or(u64::MAX, |end| end.saturating_sub(self.at));
            let room = usize::try_from(room)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            match open.file.read_at(&mut buffer[..room], place) {
                Ok(n) if n > 0 => {
                    self.at += n as u64;
                    return Ok(Step::Bytes(n));
                }
                Ok(_) if open.over.is_some() => {
                    // Read to its end after it was over: that was all.
                    self.known = Some((open.segment.inode, open.segment.base));
                    self.open = None;
                    match self.enter() {
                        Some(Step::Bytes(_)) => {}
                        Some(found) => return Ok(found),
                        None => return Ok(Step::End),
                    }
                }
                Ok(_) => {
                    let Segment { inode, base, .. } = open.segment;
                    self.known = Some((inode, base));
                    let guess = || self.dir.guess(self.known, self.at);
                    let index = self.dir.read().or_else(guess).unwrap_or_default();
                    if index.segments.last().is_none_or(|s| s.inode == inode) {
                        return Ok(Step::End);
                    }
                    let next = index.segments.iter().find(|s| s.base > base);
                    open.over = Some(next.map_or(u64::MAX, |s| s.base));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Opens the segment that `at` is in; `Bytes` when it is open, a gap when it is there no more.
    fn enter(&mut self) -> Option<Step> {
        let index = self.index()?;
        let all = &index.segments;
        let first = all.first()?;
        if self.at < first.base {
            let lost = first.base - self.at;
            self.at = first.base;
            return Some(Step::Gap(lost));
        }
        // Of two that begin at the same byte the first one is empty.
        let i = all.iter().rposition(|s| s.base <= self.at)?;
        let segment = all[i];
        let next = all.get(i + 1);
        let opened = self.dir.open(&segment);
        // A place inside of a segment that was read to its end before, or was emptied: what is missing up to the next.
        let left = opened.as_ref().and_then(|f| f.metadata().ok());
        let left = left.map_or(0, |m| (segment.base + m.len()).saturating_sub(self.at));
        if let Some(next) = next
            && left == 0
        {
            let lost = next.base - self.at;
            self.at = next.base;
            return Some(Step::Gap(lost));
        }
        let times = TimeReader::open(&self.dir.times(segment.base), segment.since_us);
        self.open = Some(Open {
            segment,
            file: opened?,
            times,
            over: next.map(|s| s.base),
        });
        Some(Step::Bytes(0))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, path::Path, thread};

    use proptest::prelude::*;

    use super::*;
    use crate::logs::{Limits, Output, Stalled};

    fn writer(dir: &Path, limits: Limits) -> ([Output; 2], File) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let of = |pipe, name| Output::new(pipe, OutputDir::new(dir, dir, name), limits, None, 1);
        let out = [of(Some(File::from(reader)), "stdout"), of(None, "stderr")];
        (out, File::from(writer))
    }

    fn reader(dir: &Path, at: u64) -> Reader {
        Reader::new(OutputDir::new(dir, dir, "stdout"), at, None)
    }

    /// The byte at a place of the stream that these tests write.
    fn byte(at: u64) -> u8 {
        at.wrapping_mul(2_654_435_761).to_le_bytes()[1]
    }

    fn pump(out: &mut [Output; 2], pipe: &mut File, from: u64, n: u64, now_us: u64) {
        let bytes: Vec<u8> = (from..from + n).map(byte).collect();
        pipe.write_all(&bytes).unwrap();
        let mut left = bytes.len();
        while left > 0 {
            left -= out[0].pump(&mut [0; 97], now_us);
            Stalled::default().keep(out, false, now_us);
        }
    }

    /// Reads up to `most` times; every byte is the one of its place. Bytes and gaps seen.
    fn check(reader: &mut Reader, buffer: usize, most: usize) -> (u64, u64) {
        let (mut n_read, mut n_lost) = (0, 0);
        let mut buffer = vec![0; buffer];
        for _ in 0..most {
            let at = reader.at();
            match reader.step(&mut buffer).unwrap() {
                Step::Bytes(n) => {
                    for (i, b) in buffer[..n].iter().enumerate() {
                        assert_eq!(*b, byte(at + i as u64), "at {at} + {i}");
                    }
                    n_read += n as u64;
                }
                Step::Gap(n) => n_lost += n,
                Step::End => break,
            }
        }
        (n_read, n_lost)
    }

    proptest! {
        // Each case renames thousands of files.
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// However writing, rotating, dropping, reading and starting anew are interleaved, every byte is read once or
        /// is in a gap, and is the one of its place.
        #[test]
        fn every_byte_once(
            steps in prop::collection::vec((0u64..40, 0usize..6, any::<bool>()), 1..40),
            segment in 4u64..40,
            quota in 40u64..400,
            buffer in 1usize..50,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let limits = Limits { quota_bytes: quota, ..Limits::two_each(segment) };
            let (mut out, mut pipe) = writer(dir.path(), limits);
            let mut r = reader(dir.path(), 0);
            let (mut written, mut seen) = (0, 0);
            for (i, (n, reads, anew)) in steps.into_iter().enumerate() {
                pump(&mut out, &mut pipe, written, n, i as u64 * 3000);
                written += n;
                let (read, lost) = check(&mut r, buffer, reads);
                seen += read + lost;
                prop_assert_eq!(r.at(), seen);
                if anew {
                    r = reader(dir.path(), r.at());
                }
            }
            let (read, lost) = check(&mut r, buffer, usize::MAX);
            prop_assert_eq!(seen + read + lost, written);
            prop_assert_eq!(r.bounds().1, written);
            // Times: none before the one before it.
            let (first, end) = r.bounds();
            r.seek(first);
            let mut last = 0;
            for at in first..end {
                let us = r.time_us(at);
                prop_assert!(us >= last);
                last = us;
                prop_assert!(r.place_of(us) <= at);
            }
        }
    }

    #[test]
    fn a_reader_beside_the_writer_loses_nothing() {
        const ALL: u64 = 1_000_000;
        let dir = tempfile::tempdir().unwrap();
        // Room for all of it, so that a gap would be the reader's mistake.
        let limits = Limits {
            quota_bytes: 1 << 30,
            ..Limits::two_each(20_000)
        };
        let path = dir.path().to_owned();
        let (mut out, mut pipe) = writer(dir.path(), limits);
        let write = thread::spawn(move || {
            let mut at = 0;
            while at < ALL {
                let n = 1 + at % 701;
                pump(&mut out, &mut pipe, at, n.min(ALL - at), at);
                at += n;
            }
        });
        let mut readers = [reader(&path, 0), reader(&path, 0)];
        let mut seen = [0u64; 2];
        while seen.iter().any(|s| *s < ALL) {
            for (i, r) in readers.iter_mut().enumerate() {
                let (read, lost) = check(r, 1000, 3);
                assert_eq!(lost, 0);
                seen[i] += read;
            }
            // One of them starts anew all the time, as agents do.
            readers[1] = reader(&path, readers[1].at());
        }
        write.join().unwrap();
        assert_eq!(seen, [ALL; 2]);
    }

    #[test]
    fn what_the_node_empties_is_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            quota_bytes: 1 << 20,
            ..Limits::two_each(10)
        };
        let (mut out, mut pipe) = writer(dir.path(), limits);
        pump(&mut out, &mut pipe, 0, 35, 1);
        fs::write(dir.path().join("stdout.2"), "").unwrap();
        let mut r = reader(dir.path(), 0);
        assert_eq!(check(&mut r, 4, 100), (25, 10));
        // The task removed one.
        fs::remove_file(dir.path().join("stdout.1")).unwrap();
        let mut r = reader(dir.path(), 0);
        assert_eq!(check(&mut r, 4, 100), (15, 20));
        // And put another file of its own in its place.
        fs::write(dir.path().join("stdout.1"), "forged").unwrap();
        let mut r = reader(dir.path(), 22);
        assert_eq!(check(&mut r, 4, 100), (5, 8));
    }

    #[test]
    fn a_stream_without_an_index_is_what_its_files_are() {
        let dir = tempfile::tempdir().unwrap();
        let (file, old) = (dir.path().join("stdout"), dir.path().join("stdout.1"));
        let put = |path: &Path, from: u64, n: u64| {
            let bytes: Vec<u8> = (from..from + n).map(byte).collect();
            fs::write(path, bytes).unwrap();
        };
        put(&file, 0, 10);
        let mut r = reader(dir.path(), 0);
        assert_eq!(check(&mut r, 4, 100), (10, 0));
        fs::rename(&file, &old).unwrap();
        put(&file, 10, 10);
        assert_eq!(check(&mut r, 4, 100), (10, 0));
        // A later reader is told which segment it was in.
        let known = r.segment();
        fs::rename(&file, &old).unwrap();
        put(&file, 20, 7);
        let mut again = Reader::new(OutputDir::new(dir.path(), dir.path(), "stdout"), 15, known);
        assert_eq!(check(&mut again, 4, 100), (12, 0));
        assert_eq!(check(&mut r, 4, 100), (7, 0));
    }
}

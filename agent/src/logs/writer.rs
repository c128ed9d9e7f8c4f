//! The writing side, in the shim: pipes copied into segments.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    segments::{Index, MAX_SEGMENTS, OutputDir, Segment, born_us, fresh},
    tail::Shipped,
    times::{PAIR, TimeWriter},
};

/// A segment has at most one time for so many bytes of its size; then the next is begun.
const BYTES_PER_TIME: u64 = 64;
/// A segment is begun anew when it is older than this part of what is kept.
const AGE_PARTS: u64 = 4;
/// Between two looks whether a task that waits may go on.
pub const LOOK: Duration = Duration::from_millis(50);

/// What is kept of a task's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Size of one segment.
    pub segment_bytes: u64,
    /// Size of all of them, both streams together.
    pub quota_bytes: u64,
    /// Seconds that output is kept.
    pub max_age_s: Option<u64>,
    /// Whether the task waits, instead of losing what nobody has read yet.
    pub block: bool,
}

impl Limits {
    /// Two segments for each stream.
    pub const fn two_each(segment_bytes: u64) -> Self {
        Self {
            segment_bytes,
            quota_bytes: 4 * segment_bytes,
            max_age_s: None,
            block: false,
        }
    }
}

impl Default for Limits {
    /// As plans of before have it, which say nothing.
    fn default() -> Self {
        Self::two_each(10 << 20)
    }
}

/// One stream of a task: the pipe's end and the segments that it goes to.
///
/// A write that fails (a full disk) is counted and the pipe is still drained, so the task never waits on its output,
/// unless it asked for that.
pub struct Output {
    pipe: Option<File>,
    dir: OutputDir,
    limits: Limits,
    owner: Option<(u32, u32)>,
    index: Index,
    file: Option<File>,
    // Bytes of the stream before the current segment, and in it.
    base: u64,
    written: u64,
    times: Option<TimeWriter>,
    // Bytes of segments that are full, oldest first.
    full: Vec<u64>,
    // What could not be written and is kept, where the task waits.
    waiting: Vec<u8>,
    lost_bytes: u64,
}

impl Output {
    /// Copies `pipe` to the segments in `dir`; without one the file stays empty.
    pub fn new(
        pipe: Option<File>,
        dir: OutputDir,
        limits: Limits,
        owner: Option<(u32, u32)>,
        now_us: u64,
    ) -> Self {
        let mut output = Self {
            pipe,
            dir,
            limits: Limits {
                // Places in a segment are 32 bits wide where times are kept.
                segment_bytes: limits.segment_bytes.clamp(1, u64::from(u32::MAX) / 2),
                ..limits
            },
            owner,
            index: Index::default(),
            file: None,
            base: 0,
            written: 0,
            times: None,
            full: Vec::new(),
            waiting: Vec::new(),
            lost_bytes: 0,
        };
        // The file exists from the start, also while nothing is written.
        output.begin(now_us);
        output
    }

    /// The pipe, while its writers may still write.
    pub fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Bytes that were read and could not be written.
    pub fn lost_bytes(&self) -> u64 {
        self.lost_bytes + self.waiting.len() as u64
    }

    /// Takes what is in the pipe now (one read). Returns how much of the buffer it filled.
    pub fn pump(&mut self, buffer: &mut [u8], now_us: u64) -> usize {
        if !self.retry(now_us) {
            return 0;
        }
        let Some(pipe) = &mut self.pipe else {
            return 0;
        };
        match pipe.read(buffer) {
            Ok(0) => {
                self.pipe = None;
                0
            }
            Ok(n) => {
                self.store(&buffer[..n], now_us);
                n
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                0
            }
            Err(_) => {
                self.pipe = None;
                0
            }
        }
    }

    /// Writes what could not be written before; whether nothing of it is left.
    fn retry(&mut self, now_us: u64) -> bool {
        let waiting = std::mem::take(&mut self.waiting);
        if !waiting.is_empty() {
            self.store(&waiting, now_us);
        }
        self.waiting.is_empty()
    }

    fn store(&mut self, mut bytes: &[u8], now_us: u64) {
        while !bytes.is_empty() {
            if self.is_full() {
                self.rotate(now_us);
            }
            // Without a segment the times are those of the one before.
            if self.file.is_some()
                && let Some(times) = &mut self.times
            {
                times.note(self.written, now_us);
            }
            let room = self.limits.segment_bytes.saturating_sub(self.written);
            let room = usize::try_from(room).unwrap_or(usize::MAX).max(1);
            let part = &bytes[..bytes.len().min(room)];
            let result = match &mut self.file {
                Some(file) => file.write(part),
                None => Err(io::Error::from(io::ErrorKind::NotFound)),
            };
            match result {
                Ok(n) if n > 0 => {
                    self.written += n as u64;
                    bytes = &bytes[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) if self.limits.block => {
                    self.waiting = bytes.to_vec();
                    return;
                }
                Ok(_) | Err(_) => {
                    self.lost_bytes += bytes.len() as u64;
                    return;
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        let most_times = (self.limits.segment_bytes / BYTES_PER_TIME).max(64);
        let n_times = self.times.as_ref().map_or(0, TimeWriter::len);
        self.file.is_none() || self.written >= self.limits.segment_bytes || n_times >= most_times
    }

    /// The current segment gets another name, and a new one is begun. Readers look at the index last, and it says so
    /// last: whoever finds the old one in force misses nothing, since nothing is added to it any more.
    fn rotate(&mut self, now_us: u64) {
        while self.index.segments.len() >= MAX_SEGMENTS {
            self.drop_oldest();
        }
        if let Some(file) = self.file.take() {
            // The task may have written to the file, too.
            let len = file
                .metadata()
                .map_or(self.written, |m| m.len().max(self.written));
            for age in (0..self.index.segments.len()).rev() {
                // A name that the task removed is missing, no more.
                let _ = fs::rename(self.dir.file(age), self.dir.file(age + 1));
            }
            self.full.push(self.written + self.n_time_bytes());
            self.base += len;
        }
        self.begin(now_us);
    }

    fn begin(&mut self, now_us: u64) {
        let base = self.base;
        self.file = fresh(&self.dir.file(0), self.owner).ok();
        self.written = 0;
        let Some(meta) = self.file.as_ref().and_then(|f| f.metadata().ok()) else {
            // No segment: tried again with the next bytes.
            return;
        };
        let since_us = self
            .times
            .as_ref()
            .map_or(now_us, |t| now_us.max(t.last_us()));
        self.times = TimeWriter::create(&self.dir.times(base), since_us).ok();
        self.index.segments.push(Segment {
            base,
            inode: meta.ino(),
            born_us: born_us(&meta),
            since_us,
        });
        self.tell();
    }

    fn n_time_bytes(&self) -> u64 {
        self.times.as_ref().map_or(0, |t| t.len() * PAIR as u64)
    }

    /// A reader that has no newer index reads what it knows of; so a failure only delays.
    fn tell(&self) {
        let _ = self.dir.write(&self.index);
    }

    fn drop_oldest(&mut self) {
        let n = self.index.segments.len();
        if n < 2 {
            return;
        }
        let gone = self.index.segments.remove(0);
        self.full.remove(0);
        self.tell();
        // Where none could be begun, all have moved on by a name.
        let n_moved = n - usize::from(self.file.is_some());
        let _ = fs::remove_file(self.dir.file(n_moved));
        let _ = fs::remove_file(self.dir.times(gone.base));
    }

    fn kept_bytes(&self) -> u64 {
        self.full.iter().sum::<u64>() + self.written + self.n_time_bytes()
    }

    /// When the oldest segment that may be dropped was begun.
    fn oldest_us(&self, read: Option<u64>) -> Option<u64> {
        let [oldest, next, ..] = self.index.segments.as_slice() else {
            return None;
        };
        let is_read = read.is_none_or(|read| read >= next.base);
        is_read.then_some(oldest.since_us)
    }

    /// What is older than allowed goes.
    fn age(&mut self, now_us: u64) {
        let Some(max_us) = self.limits.max_age_s.map(|s| s.saturating_mul(1_000_000)) else {
            return;
        };
        let older = |since_us: u64, than: u64| now_us.saturating_sub(since_us) > than;
        if self.written > 0
            && let Some(current) = self.index.segments.last()
            && older(current.since_us, max_us / AGE_PARTS)
        {
            self.rotate(now_us);
        }
        // The next one's beginning is the end of the oldest.
        while let [_, next, ..] = self.index.segments.as_slice()
            && older(next.since_us, max_us)
        {
            self.drop_oldest();
        }
    }
}

/// Whether the task waits, and for how long it has; both streams together.
#[derive(Debug, Default)]
pub struct Stalled {
    since_us: Option<u64>,
    told_us: u64,
    ms: u64,
}

impl Stalled {
    /// Whether the pipes are left alone for now.
    pub const fn is_so(&self) -> bool {
        self.since_us.is_some()
    }

    /// Keeps both streams within their limits. Where the task may be kept waiting, says whether it is; not once it has
    /// ended.
    pub fn keep(&mut self, outputs: &mut [Output; 2], ended: bool, now_us: u64) {
        for output in outputs.iter_mut() {
            // While the task waits nobody else tries again.
            output.retry(now_us);
            output.age(now_us);
        }
        let limits = outputs[0].limits;
        let over = |outputs: &[Output; 2]| {
            outputs.iter().map(Output::kept_bytes).sum::<u64>() > limits.quota_bytes
        };
        let mut shipped = None;
        let mut stuck = false;
        while over(outputs) {
            if limits.block && shipped.is_none() {
                shipped = Some(Shipped::read(&outputs[0].dir.beside).unwrap_or_default());
            }
            let read = |name: &str| shipped.map(|s| s.of(name).at.unwrap_or(0));
            let oldest = outputs.iter_mut().filter_map(|o| {
                let since = o.oldest_us(read(&o.dir.name))?;
                Some((since, o))
            });
            if let Some((_, oldest)) = oldest.min_by_key(|(since, _)| *since) {
                oldest.drop_oldest();
            } else {
                // Nothing that was read is left; or there are only current segments.
                stuck = limits.block && outputs.iter().any(|o| o.index.segments.len() > 1);
                break;
            }
        }
        stuck |= outputs.iter().any(|o| !o.waiting.is_empty());
        self.count(outputs, stuck && !ended, now_us);
    }

    fn count(&mut self, outputs: &mut [Output; 2], stalled: bool, now_us: u64) {
        let since = self.since_us.take();
        if stalled {
            self.since_us = Some(now_us);
        }
        let Some(since) = since else { return };
        self.ms += now_us.saturating_sub(since).div_ceil(1000);
        // Told once a second, and at its end.
        if !stalled || now_us.saturating_sub(self.told_us) > 1_000_000 {
            self.told_us = now_us;
            outputs[0].index.blocked_ms = self.ms;
            outputs[0].tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Task {
        dir: tempfile::TempDir,
        out: [Output; 2],
        writer: File,
    }

    fn task(limits: Limits) -> Task {
        let dir = tempfile::tempdir().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let output = |pipe, name| {
            let place = OutputDir::new(dir.path(), dir.path(), name);
            Output::new(pipe, place, limits, None, 1)
        };
        let out = [
            output(Some(File::from(reader)), "stdout"),
            output(None, "stderr"),
        ];
        let writer = File::from(writer);
        Task { dir, out, writer }
    }

    impl Task {
        fn say(&mut self, text: &[u8], now_us: u64) -> Stalled {
            self.writer.write_all(text).unwrap();
            assert!(self.out[0].pump(&mut [0; 256], now_us) > 0);
            let mut stalled = Stalled::default();
            stalled.keep(&mut self.out, false, now_us);
            stalled
        }

        fn file(&self, name: &str) -> String {
            fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
        }

        fn ship(&self, at: u64) {
            let shipped = format!(r#"{{"stdout":{{"inode":0,"offset":0,"at":{at}}}}}"#);
            fs::write(self.dir.path().join("tail.json"), shipped).unwrap();
        }
    }

    #[test]
    fn output_is_kept_in_segments_that_fill_the_quota() {
        // The times take 12 bytes for each millisecond.
        let limits = Limits {
            quota_bytes: 100,
            ..Limits::two_each(20)
        };
        let mut task = task(limits);
        let mut all = String::new();
        for i in 0..60u8 {
            let line = format!("line {i:02}\n");
            task.say(line.as_bytes(), 1);
            all.push_str(&line);
            let kept: u64 = task.out.iter().map(Output::kept_bytes).sum();
            assert!(kept <= 100 + 20, "{kept}");
        }
        let kept: String = (0..4)
            .rev()
            .map(|age| {
                task.file(&match age {
                    0 => "stdout".to_owned(),
                    age => format!("stdout.{age}"),
                })
            })
            .collect();
        assert!(kept.len() >= 40 && all.ends_with(&kept), "{kept}");
        let index = task.out[0].dir.read().unwrap();
        let oldest = index.segments.first().unwrap();
        assert_eq!(oldest.base, (all.len() - kept.len()) as u64);
        let times = fs::read_dir(task.dir.path()).unwrap();
        let times = times.filter(|e| {
            let name = e.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("stdout.times.")
        });
        assert_eq!(times.count(), index.segments.len());
    }

    #[test]
    fn what_is_old_goes_though_there_is_room() {
        let limits = Limits {
            max_age_s: Some(40),
            ..Limits::two_each(1 << 20)
        };
        let mut task = task(limits);
        let s = 1_000_000;
        task.say(b"old\n", s);
        task.say(b"older than ten seconds\n", 12 * s);
        task.say(b"new\n", 13 * s);
        assert_eq!(task.file("stdout"), "new\n");
        assert!(task.file("stdout.1").starts_with("old\n"));
        // Nothing comes, and it goes all the same: the second segment begins at 12 s.
        for output in &mut task.out {
            output.age(52 * s);
        }
        assert!(
            task.file("stdout.1").starts_with("old\n")
                || task.file("stdout.2").starts_with("old\n")
        );
        for output in &mut task.out {
            output.age(53 * s);
        }
        assert!(!task.file("stdout.1").starts_with("old\n"));
        assert_eq!(task.file("stdout.2"), "");
    }

    #[test]
    fn a_task_that_asked_for_it_waits_until_it_is_read() {
        let limits = Limits {
            block: true,
            quota_bytes: 60,
            ..Limits::two_each(10)
        };
        let mut task = task(limits);
        for _ in 0..3 {
            assert!(!task.say(&[b'x'; 6], 1).is_so());
        }
        let mut stalled = task.say(&[b'x'; 10], 5_000);
        assert!(stalled.is_so());
        // Nothing was removed.
        assert_eq!(task.out[0].index.segments[0].base, 0);
        stalled.keep(&mut task.out, false, 9_000);
        assert!(stalled.is_so());
        task.ship(10);
        stalled.keep(&mut task.out, false, 25_000);
        assert!(!stalled.is_so());
        assert_eq!(task.out[0].index.segments[0].base, 10);
        let index = task.out[0].dir.read().unwrap();
        assert_eq!(index.blocked_ms, 20);
        // Once it has ended, it waits no more; and what was not read stays.
        let mut stalled = task.say(&[b'x'; 20], 30_000);
        assert!(stalled.is_so());
        stalled.keep(&mut task.out, true, 31_000);
        assert!(!stalled.is_so());
        assert_eq!(task.out[0].index.segments[0].base, 10);
    }

    #[test]
    fn what_could_not_be_written_is_tried_again_and_the_oldest_is_the_oldest() {
        let limits = Limits {
            block: true,
            quota_bytes: 1 << 20,
            ..Limits::two_each(10)
        };
        let (sandbox, beside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let inside = sandbox.path().join("sandbox");
        fs::create_dir(&inside).unwrap();
        let output = |name| {
            let place = OutputDir::new(&inside, beside.path(), name);
            Output::new(None, place, limits, None, 1)
        };
        let mut outputs = [output("stdout"), output("stderr")];
        let mut stalled = Stalled::default();
        outputs[0].store(b"aaaaaaaaaa", 1);
        outputs[0].store(b"bbbbbbbbbb", 2);
        // No segment can be begun: the task took the directory away.
        let away = sandbox.path().join("away");
        fs::rename(&inside, &away).unwrap();
        for us in 3..100 {
            outputs[0].store(b"c", us * 5_000);
            stalled.keep(&mut outputs, false, us * 5_000);
            assert!(stalled.is_so());
            outputs[0].waiting.clear();
        }
        outputs[0].store(b"cccc", 500_000);
        let n_times = outputs[0].times.as_ref().unwrap().len();
        assert!(n_times < 10, "{n_times} times of one segment");
        // It is back, and so is what came meanwhile.
        fs::rename(&away, &inside).unwrap();
        stalled.keep(&mut outputs, false, 600_000);
        assert!(!stalled.is_so());
        assert_eq!(fs::read(inside.join("stdout")).unwrap(), b"cccc");
        // Without a current one the oldest has one name more.
        outputs[0].file = None;
        fs::rename(inside.join("stdout"), inside.join("stdout.2")).unwrap();
        fs::write(inside.join("stdout.1"), b"newer").unwrap();
        let n = outputs[0].index.segments.len();
        fs::write(inside.join(format!("stdout.{n}")), b"oldest").unwrap();
        outputs[0].drop_oldest();
        assert!(!inside.join(format!("stdout.{n}")).exists());
        assert!(inside.join("stdout.1").exists());
    }

    #[test]
    fn nothing_that_the_task_puts_in_the_way_is_written_to() {
        let mut task = task(Limits::two_each(4));
        task.say(b"abcd", 1);
        let outside = tempfile::NamedTempFile::new().unwrap();
        let path = task.dir.path().join("stdout");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(outside.path(), &path).unwrap();
        task.say(b"efgh", 1);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        task.say(b"ijkl", 1);
        assert_eq!(task.file("stdout"), "ijkl");
        assert_eq!(fs::read(outside.path()).unwrap(), b"");
        assert_eq!(task.out[0].lost_bytes(), 0);
    }
}

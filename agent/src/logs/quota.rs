//! What all running tasks' output may take on a node.

use std::{
    fs::OpenOptions,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::PathBuf,
};

use super::segments::{OutputDir, Segment};

/// Keeps output within what the node has for it.
#[derive(Debug, Clone, Copy)]
pub struct NodeQuota {
    bytes: u64,
}

impl NodeQuota {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self { bytes }
    }

    /// Whether so many bytes could be too much at all.
    pub const fn may_be_over(self, most: u64) -> bool {
        most > self.bytes
    }

    /// Empties the oldest segments of all streams until the rest fits; bytes that went. Never the newest of a stream.
    ///
    /// Emptied through a descriptor, not removed by name: the shim renames them meanwhile. Readers see a gap.
    pub fn keep(self, streams: &[OutputDir]) -> u64 {
        let mut total = 0;
        let mut full: Vec<(u64, u64, &OutputDir, Segment)> = Vec::new();
        for dir in streams {
            let Some(index) = dir.read() else { continue };
            let newest = index.segments.len().saturating_sub(1);
            for (i, segment) in index.segments.into_iter().enumerate() {
                let meta = dir.open(&segment).and_then(|f| f.metadata().ok());
                // A task may make its file as long as it likes: what counts is what it takes.
                let len = meta.map_or(0, |m| m.len().min(m.blocks() * 512));
                total += len;
                if i < newest && len > 0 {
                    full.push((segment.since_us, len, dir, segment));
                }
            }
        }
        if total <= self.bytes {
            return 0;
        }
        full.sort_by_key(|(since_us, ..)| *since_us);
        let mut gone = 0;
        for (_, len, dir, segment) in full {
            if total - gone <= self.bytes {
                break;
            }
            if empty(dir, &segment) {
                gone += len;
            }
        }
        gone
    }
}

fn empty(dir: &OutputDir, segment: &Segment) -> bool {
    let Some(file) = dir.open(segment) else {
        return false;
    };
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let cut = OpenOptions::new().write(true).truncate(true).open(path);
    cut.is_ok()
}

#[cfg(test)]
mod tests {
    use std::{fs, fs::File, io::Write};

    use super::*;
    use crate::logs::{Limits, Output, Reader, Step};

    #[test]
    fn the_oldest_of_all_goes_first_and_the_newest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            quota_bytes: 1 << 20,
            ..Limits::two_each(10)
        };
        let mut streams = Vec::new();
        // The second task's output is older.
        for (task, since) in [("a", 200), ("b", 100)] {
            let place = dir.path().join(task);
            fs::create_dir(&place).unwrap();
            let (reader, writer) = nix::unistd::pipe().unwrap();
            let place = OutputDir::new(&place, &place, "stdout");
            let mut out = Output::new(Some(File::from(reader)), place.clone(), limits, None, since);
            File::from(writer).write_all(&[b'x'; 25]).unwrap();
            assert_eq!(out.pump(&mut [0; 64], since), 25);
            streams.push(place);
        }
        assert_eq!(NodeQuota::new(50).keep(&streams), 0);
        assert_eq!(NodeQuota::new(35).keep(&streams), 20);
        let read = |i: usize| {
            let mut reader = Reader::new(streams[i].clone(), 0, None);
            let mut seen = Vec::new();
            while let Ok(step @ (Step::Bytes(_) | Step::Gap(_))) = reader.step(&mut [0; 64]) {
                seen.push(step);
            }
            seen
        };
        assert_eq!(read(0), [10, 10, 5].map(Step::Bytes));
        assert_eq!(read(1), [Step::Gap(10), Step::Gap(10), Step::Bytes(5)]);
        assert_eq!(NodeQuota::new(0).keep(&streams), 20);
        assert_eq!(read(0).last(), Some(&Step::Bytes(5)));
    }
}

//! Ended connections on disk: blocks of compressed JSON lines in segment files, the oldest file goes first.
//!
//! # Invariants
//! - The files hold no more than the limit, but for one block.
//! - What a crash cut off is left out; a file is never appended to by a second process.
//! - A block says which time it spans, so that a question about an hour ago reads that hour alone.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use waggle_api::native::EndedFlow;

use super::filter::Filter;

const MAGIC: [u8; 4] = *b"WFL1";
const HEADER: usize = 32;
/// Files, about: what goes when it is full is one of them.
const SEGMENTS: u64 = 32;
const SMALLEST: u64 = 64 << 10;
/// Compressed and not, a block is no larger.
const MAX_BLOCK: u32 = 64 << 20;
/// Level 1: twice as fast as the default, and a tenth larger.
const LEVEL: i32 = 1;
const ENDING: &str = "flows";

/// One file.
#[derive(Debug)]
struct Segment {
    path: PathBuf,
    bytes: u64,
    /// End of the newest connection in it.
    to_us: u64,
}

/// A file as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    path: PathBuf,
    bytes: u64,
}

/// What is kept, and where it is written.
#[derive(Debug)]
pub struct Segments {
    dir: PathBuf,
    limit: u64,
    age_us: u64,
    files: VecDeque<Segment>,
    open: Option<File>,
    next: u64,
}

impl Segments {
    /// Goes on after what is there. `limit` in bytes, `age` in microseconds.
    pub fn open(dir: &Path, limit: u64, age_us: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if let Some(number) = number(&path) {
                found.push((number, path));
            }
        }
        found.sort();
        let next = found.last().map_or(0, |(n, _)| n + 1);
        let files = found.into_iter().map(|(_, path)| {
            let bytes = fs::metadata(&path).map_or(0, |m| m.len());
            let extent = Extent { path, bytes };
            let to_us = headers(&extent).map(|h| h.to_us).max().unwrap_or(0);
            let path = extent.path;
            Segment { path, bytes, to_us }
        });
        Ok(Self {
            files: files.collect(),
            dir: dir.to_owned(),
            limit,
            age_us,
            open: None,
            next,
        })
    }

    /// Writes connections, in the order in which they ended, and makes room.
    pub fn append(&mut self, flows: &[EndedFlow], now_us: u64) -> io::Result<()> {
        let (Some(first), Some(last)) = (flows.first(), flows.last()) else {
            return Ok(());
        };
        let block = block(flows, first.ended_us, last.ended_us)?;
        let size = block.len() as u64;
        self.make_room(size, now_us);
        let largest = (self.limit / SEGMENTS).max(SMALLEST);
        if self.files.back().is_none_or(|f| f.bytes >= largest) {
            self.open = None;
        }
        let written = self.write(&block, last.ended_us);
        if written.is_err() {
            // What is half written ends its file.
            self.open = None;
        }
        written
    }

    fn write(&mut self, block: &[u8], to_us: u64) -> io::Result<()> {
        let file = if let Some(file) = &mut self.open {
            file
        } else {
            let path = self.dir.join(format!("{:016}.{ENDING}", self.next));
            let file = OpenOptions::new()
                .create_new(true)
                .append(true)
                .open(&path)?;
            self.next += 1;
            self.files.push_back(Segment {
                path,
                bytes: 0,
                to_us: 0,
            });
            self.open.insert(file)
        };
        file.write_all(block)?;
        if let Some(segment) = self.files.back_mut() {
            segment.bytes += block.len() as u64;
            segment.to_us = segment.to_us.max(to_us);
        }
        Ok(())
    }

    /// The oldest go, for want of room or for their age.
    fn make_room(&mut self, size: u64, now_us: u64) {
        let oldest = now_us.saturating_sub(self.age_us);
        while let Some(first) = self.files.front() {
            let held: u64 = self.files.iter().map(|f| f.bytes).sum();
            if held + size <= self.limit && first.to_us >= oldest {
                return;
            }
            if let Err(e) = fs::remove_file(&first.path)
                && e.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(file = %first.path.display(), error = %e, "old connections stay on disk");
            }
            self.files.pop_front();
            if self.files.is_empty() {
                self.open = None;
            }
        }
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// What is there now, oldest first.
    pub fn extents(&self) -> Vec<Extent> {
        let extent = |f: &Segment| Extent {
            path: f.path.clone(),
            bytes: f.bytes,
        };
        self.files.iter().map(extent).collect()
    }
}

/// The newest connections that a filter lets pass, oldest first. Files that go meanwhile are left out.
pub fn read(extents: &[Extent], filter: &Filter) -> Vec<EndedFlow> {
    let mut found: VecDeque<EndedFlow> = VecDeque::new();
    'files: for extent in extents.iter().rev() {
        let path = &extent.path;
        let blocks: Vec<Header> = headers(extent).collect();
        for header in blocks.iter().rev() {
            if header.to_us < filter.since_us {
                break 'files;
            }
            if header.from_us > filter.until_us {
                continue;
            }
            let Ok(flows) = unpack(path, header) else {
                tracing::warn!(file = %path.display(), "a block of connections is damaged and left out");
                continue;
            };
            for flow in flows.into_iter().rev().filter(|f| filter.matches(f)) {
                found.push_front(flow);
                if found.len() == filter.limit {
                    break 'files;
                }
            }
        }
    }
    found.into()
}

/// Hands on what a filter lets pass, block by block from the newest on, until so many connections were looked at. Answers
/// from when on all were, where that is not all of them.
pub fn each(
    extents: &[Extent],
    filter: &Filter,
    most: usize,
    mut take: impl FnMut(&EndedFlow),
) -> Option<u64> {
    let mut looked = 0;
    for extent in extents.iter().rev() {
        let path = &extent.path;
        let blocks: Vec<Header> = headers(extent).collect();
        for header in blocks.iter().rev() {
            if header.to_us < filter.since_us {
                return None;
            }
            if looked >= most {
                return Some(header.to_us + 1);
            }
            if header.from_us > filter.until_us {
                continue;
            }
            let Ok(flows) = unpack(path, header) else {
                tracing::warn!(file = %path.display(), "a block of connections is damaged and left out");
                continue;
            };
            looked += flows.len();
            flows
                .iter()
                .filter(|f| filter.matches(f))
                .for_each(&mut take);
        }
    }
    None
}

fn number(path: &Path) -> Option<u64> {
    if path.extension()? != ENDING {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}

/// A block's place and what it says of itself.
#[derive(Debug, Clone, Copy)]
struct Header {
    at: u64,
    packed: u32,
    sum: [u8; 8],
    from_us: u64,
    to_us: u64,
}

fn block(flows: &[EndedFlow], from_us: u64, to_us: u64) -> io::Result<Vec<u8>> {
    let mut out = vec![0; HEADER];
    let mut packer = zstd::stream::write::Encoder::new(&mut out, LEVEL)?;
    for flow in flows {
        serde_json::to_writer(&mut packer, flow)?;
        packer.write_all(b"\n")?;
    }
    packer.finish()?;
    let packed = u32::try_from(out.len() - HEADER).unwrap_or(u32::MAX);
    let sum = sum(&out[HEADER..]);
    out[..4].copy_from_slice(&MAGIC);
    out[4..8].copy_from_slice(&packed.to_le_bytes());
    out[8..16].copy_from_slice(&sum);
    out[16..24].copy_from_slice(&from_us.to_le_bytes());
    out[24..32].copy_from_slice(&to_us.to_le_bytes());
    Ok(out)
}

fn sum(bytes: &[u8]) -> [u8; 8] {
    let hash = Sha256::digest(bytes);
    let mut sum = [0; 8];
    sum.copy_from_slice(&hash[..8]);
    sum
}

/// The whole blocks of a file, in order.
fn headers(extent: &Extent) -> impl Iterator<Item = Header> {
    let mut file = File::open(&extent.path).ok();
    let size = extent.bytes;
    let mut at = 0;
    std::iter::from_fn(move || {
        let file = file.as_mut()?;
        let mut bytes = [0; HEADER];
        file.seek(SeekFrom::Start(at)).ok()?;
        file.read_exact(&mut bytes).ok()?;
        let word = |from: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[from..from + 8]);
            word
        };
        let packed = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let next = at + HEADER as u64 + u64::from(packed);
        if bytes[..4] != MAGIC || packed > MAX_BLOCK || next > size {
            return None;
        }
        let header = Header {
            at,
            packed,
            sum: word(8),
            from_us: u64::from_le_bytes(word(16)),
            to_us: u64::from_le_bytes(word(24)),
        };
        at = next;
        Some(header)
    })
}

fn unpack(path: &Path, header: &Header) -> io::Result<Vec<EndedFlow>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(header.at + HEADER as u64))?;
    let mut packed = vec![0; header.packed as usize];
    file.read_exact(&mut packed)?;
    if sum(&packed) != header.sum {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let unpacked = zstd::stream::read::Decoder::new(packed.as_slice())?;
    let mut flows = Vec::new();
    for line in BufReader::new(unpacked.take(u64::from(MAX_BLOCK) * 8)).lines() {
        // A later version may have written what this one can't read.
        if let Ok(flow) = serde_json::from_str(&line?) {
            flows.push(flow);
        }
    }
    Ok(flows)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow_log::tests::flow;

    fn all() -> Filter {
        Filter {
            until_us: u64::MAX,
            limit: usize::MAX,
            ..Filter::default()
        }
    }

    fn ends(flows: &[EndedFlow]) -> Vec<u64> {
        flows.iter().map(|f| f.ended_us).collect()
    }

    #[test]
    fn what_was_written_is_read_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut segments = Segments::open(dir.path(), 1 << 20, u64::MAX).unwrap();
        segments.append(&[flow(1), flow(2)], 2).unwrap();
        segments.append(&[flow(3)], 3).unwrap();
        let mut segments = Segments::open(dir.path(), 1 << 20, u64::MAX).unwrap();
        segments.append(&[flow(4)], 4).unwrap();
        let extents = segments.extents();
        assert_eq!(ends(&read(&extents, &all())), [1, 2, 3, 4]);
        let newest = Filter { limit: 2, ..all() };
        assert_eq!(ends(&read(&extents, &newest)), [3, 4]);
        let middle = Filter {
            since_us: 2,
            until_us: 3,
            ..all()
        };
        assert_eq!(ends(&read(&extents, &middle)), [2, 3]);
    }

    #[test]
    fn the_oldest_goes_first_for_room_and_for_age() {
        let dir = tempfile::tempdir().unwrap();
        let limit = 8 * SMALLEST;
        let mut segments = Segments::open(dir.path(), limit, 1_000_000).unwrap();
        let mut n = 0;
        let mut one = || {
            let flows: Vec<EndedFlow> = (0..500)
                .map(|_| {
                    n += 1;
                    let mut flow = flow(n);
                    // What can't be compressed away.
                    flow.peer = format!("{:x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                    flow
                })
                .collect();
            segments.append(&flows, n).unwrap();
            assert!(segments.bytes() <= limit);
        };
        for _ in 0..150 {
            one();
        }
        let kept = ends(&read(&segments.extents(), &all()));
        assert_eq!(kept.last(), Some(&75_000));
        assert!(kept[0] > 1, "{}", kept[0]);
        assert!(kept.windows(2).all(|w| w[1] == w[0] + 1), "no hole");
        segments.append(&[flow(10_000_000)], 10_000_000).unwrap();
        assert_eq!(ends(&read(&segments.extents(), &all())), [10_000_000]);
    }

    #[test]
    fn all_are_looked_at_until_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let mut segments = Segments::open(dir.path(), 1 << 20, u64::MAX).unwrap();
        for n in 0..4 {
            segments
                .append(&[flow(10 * n), flow(10 * n + 1)], 1)
                .unwrap();
        }
        let looked = |since_us, most| {
            let mut ends = Vec::new();
            let filter = Filter { since_us, ..all() };
            let cut = each(&segments.extents(), &filter, most, |f| {
                ends.push(f.ended_us);
            });
            ends.sort_unstable();
            (ends, cut)
        };
        assert_eq!(looked(0, 100), (vec![0, 1, 10, 11, 20, 21, 30, 31], None));
        assert_eq!(looked(21, 100), (vec![21, 30, 31], None));
        // What was not looked at ended before.
        assert_eq!(looked(0, 3), (vec![20, 21, 30, 31], Some(12)));
        assert_eq!(looked(20, 4), (vec![20, 21, 30, 31], None));
    }

    proptest! {
        /// A crash in the middle of a write, bytes that were never ours: what is whole before is read.
        #[test]
        fn a_file_may_end_anywhere(cut in 0_usize..4000, noise in proptest::collection::vec(any::<u8>(), 0..100)) {
            let dir = tempfile::tempdir().unwrap();
            let mut segments = Segments::open(dir.path(), 1 << 20, u64::MAX).unwrap();
            let mut sizes = Vec::new();
            for n in 0..5 {
                segments.append(&[flow(2 * n), flow(2 * n + 1)], 1).unwrap();
                sizes.push(usize::try_from(segments.bytes()).unwrap());
            }
            let path = segments.extents().remove(0).path;
            let mut bytes = fs::read(&path).unwrap();
            let cut = cut.min(bytes.len());
            bytes.truncate(cut);
            bytes.extend_from_slice(&noise);
            let size = bytes.len() as u64;
            fs::write(&path, bytes).unwrap();
            let whole = sizes.iter().filter(|s| **s <= cut).count();
            let found = read(&[Extent { path, bytes: size }], &all());
            prop_assert!(found.len() >= whole * 2);
            prop_assert!(ends(&found).starts_with(&(0..whole as u64 * 2).collect::<Vec<_>>()));
            Segments::open(dir.path(), 1 << 20, u64::MAX).unwrap();
        }
    }
}

//! What waits on disk for the endpoint: one directory per signal, segments of whole export requests.
//!
//! # Invariants
//! - Records come out in the order in which they went in; one is handed out until it is settled ([`Spool::settle`]), also by the
//!   next process. So every record is delivered at least once, unless it is counted as lost.
//! - Every item that went in is settled once, or counted in exactly one [`Lost`].
//! - The files never hold more than the limit, but for one record: the oldest segments go first.
//! - A segment is never appended to by a second process; what a crash cut off is left out.
//!
//! # What it never does
//! It knows nothing of OTLP and nothing of books, and reads no clock.

mod cursor;
pub(crate) mod disk;
mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use cursor::{Cursor, Place};
use record::{HEADER, Header};

/// Segments per spool, about: what is dropped when it is full is one of them.
const SEGMENTS: u64 = 64;
/// Smallest and largest segment, in bytes, where the limit leaves the choice.
const SEGMENT: (u64, u64) = (64 << 10, 8 << 20);

/// Items that are lost, by what took them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Lost {
    /// There was no room.
    pub full: u64,
    /// They waited for too long.
    pub old: u64,
    /// They are not what was written.
    pub damaged: u64,
}

impl Lost {
    /// Of all kinds.
    pub(crate) fn total(&self) -> u64 {
        self.full + self.old + self.damaged
    }
}

/// A record that was handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub payload: Vec<u8>,
    pub items: u64,
    /// When it was written, Unix milliseconds.
    pub at: u64,
}

/// Bounds of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpoolLimits {
    /// Of all its files, in bytes.
    pub max_bytes: u64,
    /// How long a record may wait, in milliseconds.
    pub max_age_ms: u64,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    path: PathBuf,
    /// Bytes of whole records.
    len: u64,
    /// Items of records that are not settled.
    items: u64,
    /// When its last record was written.
    newest: u64,
}

/// The one that is handed out.
#[derive(Debug, Clone, Copy)]
struct InHand {
    place: Place,
    whole: u64,
    items: u64,
    /// Its segment was dropped meanwhile: it lives in the hand alone.
    alone: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    limits: SpoolLimits,
    /// Oldest first; the last one may be the writer's.
    segments: VecDeque<Segment>,
    writer: Option<File>,
    reader: Option<(u64, File)>,
    cursor: Cursor,
    in_hand: Option<InHand>,
    next_number: u64,
    lost: Lost,
    unsynced: bool,
    /// The cursor's last write failed, and that was said.
    stale: bool,
}

impl Spool {
    /// Opens a directory, made where it is missing, with what a process before this one left in it.
    pub(crate) fn open(dir: &Path, limits: SpoolLimits) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut cursor = Cursor::open(&dir.join("cursor"))?;
        let mut numbers: Vec<u64> = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|n| n.strip_suffix(".seg"));
            numbers.extend(number.and_then(|n| u64::from_str_radix(n, 16).ok()));
        }
        numbers.sort_unstable();
        let next_number = numbers.last().map_or(cursor.place().segment, |n| n + 1);
        let next_number = next_number.max(cursor.place().segment + 1);
        let mut segments = VecDeque::new();
        for number in numbers {
            let path = dir.join(file_name(number));
            let from = match number.cmp(&cursor.place().segment) {
                std::cmp::Ordering::Less => u64::MAX,
                std::cmp::Ordering::Equal => cursor.place().offset,
                std::cmp::Ordering::Greater => 0,
            };
            let segment = scan(number, &path, from)?;
            if segment.items > 0 {
                segments.push_back(segment);
            } else {
                fs::remove_file(&path)?;
            }
        }
        if let Some(first) = segments.front()
            && first.number != cursor.place().segment
        {
            cursor.set(Place {
                segment: first.number,
                offset: 0,
            })?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            limits,
            segments,
            writer: None,
            reader: None,
            cursor,
            in_hand: None,
            next_number,
            lost: Lost::default(),
            unsynced: false,
            stale: false,
        })
    }

    /// Items that are not settled.
    pub(crate) fn items(&self) -> u64 {
        let hand = self.in_hand.filter(|h| h.alone).map_or(0, |h| h.items);
        self.segments.iter().map(|s| s.items).sum::<u64>() + hand
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.len).sum()
    }

    /// About when the oldest record that waits was written: never later than it was, by one segment at most.
    pub(crate) fn oldest(&self) -> Option<u64> {
        let mut all = self.segments.iter();
        all.find(|s| s.len > 0).map(|s| s.newest)
    }

    /// What was lost since the last call.
    pub(crate) fn take_lost(&mut self) -> Lost {
        std::mem::take(&mut self.lost)
    }

    /// Writes a record. When this fails, nothing of it is there, and what was dropped to make room is in [`Self::take_lost`].
    pub(crate) fn append(&mut self, payload: &[u8], items: u32, now: u64) -> io::Result<()> {
        let bytes = record::write(payload, items, now)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a record of this size"))?;
        self.expire(now);
        self.make_room(bytes.len() as u64);
        loop {
            match self.write(&bytes, items, now) {
                Ok(()) => return Ok(()),
                // The disk is full: what waits for longest makes room.
                Err(e) if is_full(&e) && self.drop_oldest(|l, n| l.full += n) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The oldest record that is not settled; the same one until it is.
    pub(crate) fn next(&mut self, now: u64) -> io::Result<Option<Record>> {
        self.give_back();
        self.expire(now);
        while let Some((number, len)) = self.segments.front().map(|s| (s.number, s.len)) {
            let offset = match self.cursor.place() {
                at if at.segment == number => at.offset,
                _ => 0,
            };
            let place = Place {
                segment: number,
                offset,
            };
            let Some(header) = self.header(place, len)? else {
                // What is left of it can't be told apart any more.
                self.drop_oldest(|l, n| l.damaged += n);
                continue;
            };
            let mut payload = vec![0; header.len as usize];
            let (_, file) = self.reader(number)?;
            let whole = file
                .read_exact_at(&mut payload, offset + HEADER as u64)
                .is_ok();
            let hand = InHand {
                place,
                whole: header.whole(),
                items: u64::from(header.items),
                alone: false,
            };
            if !whole || !header.fits(&payload) {
                let gone = self.step(hand);
                self.lost.damaged += gone;
                continue;
            }
            if header.at.saturating_add(self.limits.max_age_ms) < now {
                let gone = self.step(hand);
                self.lost.old += gone;
                continue;
            }
            self.in_hand = Some(hand);
            return Ok(Some(Record {
                payload,
                items: hand.items,
                at: header.at,
            }));
        }
        Ok(None)
    }

    /// The record that [`Self::next`] handed out is settled. Answers how many items that were.
    pub(crate) fn settle(&mut self) -> u64 {
        match self.in_hand.take() {
            Some(hand) if hand.alone => hand.items,
            Some(hand) => self.step(hand),
            None => 0,
        }
    }

    /// The record that was handed out is not settled: it comes again, unless it was dropped meanwhile.
    pub(crate) fn give_back(&mut self) {
        if let Some(hand) = self.in_hand.take()
            && hand.alone
        {
            self.lost.full += hand.items;
        }
    }

    /// Makes what was written last over a failure of the machine.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.unsynced)
            && let Some(writer) = &self.writer
        {
            writer.sync_data()?;
        }
        Ok(())
    }

    fn segment_bytes(&self) -> u64 {
        (self.limits.max_bytes / SEGMENTS).clamp(SEGMENT.0, SEGMENT.1)
    }

    fn write(&mut self, bytes: &[u8], items: u32, now: u64) -> io::Result<()> {
        let full = self
            .segments
            .back()
            .is_none_or(|s| s.len + bytes.len() as u64 > self.segment_bytes());
        if self.writer.is_none() || full {
            self.roll()?;
        }
        let (Some(writer), Some(segment)) = (&self.writer, self.segments.back_mut()) else {
            return Err(io::Error::other("no segment to write to"));
        };
        if let Err(e) = writer.write_all_at(bytes, segment.len) {
            // A part of it may be there: the next record is written over it.
            let _ = writer.set_len(segment.len);
            return Err(e);
        }
        segment.len += bytes.len() as u64;
        segment.items += u64::from(items);
        segment.newest = segment.newest.max(now);
        self.unsynced = true;
        Ok(())
    }

    /// Begins another segment.
    fn roll(&mut self) -> io::Result<()> {
        self.sync()?;
        self.writer = None;
        let number = self.next_number;
        let path = self.dir.join(file_name(number));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        self.next_number += 1;
        // One that nothing was written to is nobody's.
        if self.segments.back().is_some_and(|s| s.len == 0)
            && let Some(empty) = self.segments.pop_back()
        {
            remove(&empty.path);
        }
        self.segments.push_back(Segment {
            number,
            path,
            len: 0,
            items: 0,
            newest: 0,
        });
        self.writer = Some(file);
        self.forget_settled();
        Ok(())
    }

    fn make_room(&mut self, bytes: u64) {
        while self.bytes() + bytes > self.limits.max_bytes && self.drop_oldest(|l, n| l.full += n) {
        }
    }

    fn expire(&mut self, now: u64) {
        let oldest = now.saturating_sub(self.limits.max_age_ms);
        while self
            .segments
            .front()
            .is_some_and(|s| s.len > 0 && s.newest < oldest)
        {
            self.drop_oldest(|l, n| l.old += n);
        }
    }

    /// Drops the oldest segment; false when there is none with anything in it.
    fn drop_oldest(&mut self, count: impl FnOnce(&mut Lost, u64)) -> bool {
        let Some(oldest) = self.segments.pop_front() else {
            return false;
        };
        if self.segments.is_empty() {
            self.writer = None;
        }
        let mut items = oldest.items;
        if let Some(hand) = &mut self.in_hand
            && !hand.alone
            && hand.place.segment == oldest.number
        {
            hand.items = hand.items.min(items);
            hand.alone = true;
            items -= hand.items;
        }
        count(&mut self.lost, items);
        if self
            .reader
            .as_ref()
            .is_some_and(|(n, _)| *n == oldest.number)
        {
            self.reader = None;
        }
        remove(&oldest.path);
        oldest.len > 0
    }

    fn reader(&mut self, number: u64) -> io::Result<&(u64, File)> {
        let there = self.reader.take().filter(|(n, _)| *n == number);
        let reader = match there {
            Some(there) => there,
            None => (number, File::open(self.dir.join(file_name(number)))?),
        };
        Ok(self.reader.insert(reader))
    }

    fn header(&mut self, at: Place, len: u64) -> io::Result<Option<Header>> {
        if at.offset + HEADER as u64 > len {
            return Ok(None);
        }
        let mut bytes = [0; HEADER];
        let read = self
            .reader(at.segment)
            .and_then(|(_, file)| file.read_exact_at(&mut bytes, at.offset));
        match read {
            Ok(()) => {}
            // Somebody cut it or took it away.
            Err(e) if is_gone(&e) => return Ok(None),
            Err(e) => return Err(e),
        }
        let header = Header::read(&bytes);
        Ok(header.filter(|h| at.offset + h.whole() <= len))
    }

    /// Goes past a record; answers its items, as far as they are not counted yet.
    fn step(&mut self, hand: InHand) -> u64 {
        let Some(first) = self.segments.front_mut() else {
            return 0;
        };
        if first.number != hand.place.segment {
            return 0;
        }
        let items = hand.items.min(first.items);
        first.items -= items;
        let moved = self.cursor.set(Place {
            segment: hand.place.segment,
            offset: hand.place.offset + hand.whole,
        });
        // This process goes on from there all the same; the next one may send some again, and records have ids.
        if let Err(e) = &moved
            && !self.stale
        {
            tracing::warn!(dir = %self.dir.display(), error = %e, "the spool's cursor can't be written");
        }
        self.stale = moved.is_err();
        self.forget_settled();
        items
    }

    /// Removes segments in which nothing waits, but for the one that is written.
    fn forget_settled(&mut self) {
        while self.segments.len() > 1 || self.writer.is_none() {
            match self.segments.front() {
                Some(s) if s.items == 0 => {}
                _ => return,
            }
            if let Some(done) = self.segments.pop_front() {
                remove(&done.path);
            }
        }
        // All of it was read: begin anew, so that the disk gives the room back.
        if let [only] = self.segments.make_contiguous()
            && only.items == 0
            && only.len > 0
        {
            self.writer = None;
            self.forget_settled();
        }
    }
}

fn file_name(number: u64) -> String {
    format!("{number:016x}.seg")
}

/// A file that can't be removed is looked at again by the next process.
fn remove(path: &Path) {
    if let Err(e) = fs::remove_file(path) {
        tracing::debug!(path = %path.display(), error = %e, "a segment of the spool stays");
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn is_gone(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound
    )
}

/// Counts what a segment holds from an offset on, as far as its headers lead.
fn scan(number: u64, path: &Path, from: u64) -> io::Result<Segment> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut segment = Segment {
        number,
        path: path.to_owned(),
        len: 0,
        items: 0,
        newest: 0,
    };
    let mut bytes = [0; HEADER];
    while segment.len + HEADER as u64 <= size {
        file.read_exact_at(&mut bytes, segment.len)?;
        let Some(header) = Header::read(&bytes).filter(|h| segment.len + h.whole() <= size) else {
            break;
        };
        if segment.len >= from {
            segment.items += u64::from(header.items);
        }
        segment.newest = segment.newest.max(header.at);
        segment.len += header.whole();
    }
    if segment.len < size {
        tracing::warn!(path = %path.display(), bytes = size - segment.len, "the end of a segment of the spool is damaged");
    }
    Ok(segment)
}

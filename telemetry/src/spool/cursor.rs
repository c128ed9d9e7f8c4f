//! How far the spool was read: two slots, written in turn, so that one of them is always whole.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

/// Bytes of a slot: how many there were before it, segment, offset, checksum, padding.
const SLOT: usize = 32;

/// A place in the spool: everything before it is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// Number of a segment.
    pub segment: u64,
    /// Bytes into it.
    pub offset: u64,
}

/// The file.
#[derive(Debug)]
pub struct Cursor {
    file: File,
    n: u64,
    at: Place,
}

impl Cursor {
    /// Opens it, or makes it with nothing read. What can't be read counts as nothing read: items may come twice then.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut newest = (0, Place::default());
        for slot in 0..2 {
            let mut bytes = [0; SLOT];
            if file.read_exact_at(&mut bytes, slot * SLOT as u64).is_ok()
                && let Some(read) = read(&bytes)
            {
                newest = newest.max(read);
            }
        }
        let (n, at) = newest;
        Ok(Self { file, n, at })
    }

    /// How far it was read.
    pub fn place(&self) -> Place {
        self.at
    }

    /// Moves it; what is on disk stays behind when this fails.
    pub fn set(&mut self, to: Place) -> io::Result<()> {
        self.n += 1;
        self.at = to;
        let mut bytes = [0; SLOT];
        bytes[..8].copy_from_slice(&self.n.to_le_bytes());
        bytes[8..16].copy_from_slice(&to.segment.to_le_bytes());
        bytes[16..24].copy_from_slice(&to.offset.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..24]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&bytes, (self.n % 2) * SLOT as u64)
    }
}

fn read(bytes: &[u8; SLOT]) -> Option<(u64, Place)> {
    let long = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let crc = u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]);
    let place = Place {
        segment: long(8),
        offset: long(16),
    };
    (crc == crc32fast::hash(&bytes[..24]) && long(0) > 0).then_some((long(0), place))
}

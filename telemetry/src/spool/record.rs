//! A record of a segment: what one export request holds, with a checksum.
//!
//! ```text
//! 0        4        8        12                20               20 + len
//! | len    | crc    | items  | at (Unix ms)    | payload        |
//! ```
//! Little endian. The checksum (CRC-32, as in zlib) is over everything after it.

/// Bytes before the payload.
pub const HEADER: usize = 20;
/// Longest payload; what says to be longer is damage.
pub const MAX_PAYLOAD: usize = 64 << 20;

/// What is known of a record without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the payload.
    pub len: u32,
    crc: u32,
    /// Items in it, as the books count them.
    pub items: u32,
    /// When it was written, Unix milliseconds.
    pub at: u64,
}

impl Header {
    /// Bytes of the whole record.
    pub fn whole(&self) -> u64 {
        HEADER as u64 + u64::from(self.len)
    }

    /// Reads one; `None` for what no writer wrote.
    pub fn read(bytes: &[u8; HEADER]) -> Option<Self> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let header = Self {
            len: word(0),
            crc: word(4),
            items: word(8),
            at: u64::from(word(12)) | u64::from(word(16)) << 32,
        };
        // An empty record is what a hole in a file looks like.
        let sane = header.items > 0 && header.len as usize <= MAX_PAYLOAD;
        sane.then_some(header)
    }

    /// Whether the payload is what was written with it.
    pub fn fits(&self, payload: &[u8]) -> bool {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.items.to_le_bytes());
        crc.update(&self.at.to_le_bytes());
        crc.update(payload);
        payload.len() == self.len as usize && crc.finalize() == self.crc
    }
}

/// A whole record; `None` when there is nothing in it, or too much.
pub fn write(payload: &[u8], items: u32, at: u64) -> Option<Vec<u8>> {
    let len = u32::try_from(payload.len()).ok()?;
    if items == 0 || payload.len() > MAX_PAYLOAD {
        return None;
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&items.to_le_bytes());
    crc.update(&at.to_le_bytes());
    crc.update(payload);
    let mut out = Vec::with_capacity(HEADER + payload.len());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&items.to_le_bytes());
    out.extend_from_slice(&at.to_le_bytes());
    out.extend_from_slice(payload);
    Some(out)
}

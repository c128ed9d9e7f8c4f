//! HPACK (RFC 7541), read by somebody who has not seen everything.
//!
//! An endpoint may refuse what it can't decode; this one goes on. Whoever came late, or has lost a block, knows the newest entries
//! of the dynamic table all the same, since they are numbered from the newest: what an index means is known, or known to be unknown. It is
//! never guessed.
//!
//! # Invariants
//! - Of fields that nobody asks for there are sizes and no text: cookies and keys are not held.
//! - A table holds at most [`MAX_TABLE`] bytes by HPACK's count, and no text longer than [`MAX_TEXT`].
//! - Any bytes give a list or a [`BadBlock`]; work is linear in them.

mod huffman;
mod table;

use table::{Entry, Table};

/// What a peer may have a table grow to; what would be older is unknown.
pub(super) const MAX_TABLE: usize = 64 * 1024;
/// Bytes of a value that are kept.
pub(super) const MAX_TEXT: usize = 1024;
/// Fields of one block.
const MAX_FIELDS: usize = 512;

/// Fields that somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Method,
    Path,
    Scheme,
    Authority,
    Status,
    ContentType,
    ContentLength,
    GrpcStatus,
    Traceparent,
    /// Any other.
    Other,
}

impl Name {
    /// By its lower-case text.
    pub(super) fn of(text: &[u8]) -> Self {
        match text {
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":status" => Self::Status,
            b"content-type" => Self::ContentType,
            b"content-length" => Self::ContentLength,
            b"grpc-status" => Self::GrpcStatus,
            b"traceparent" => Self::Traceparent,
            _ => Self::Other,
        }
    }
}

/// A field of a block; `None` is what can't be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Option<Name>,
    pub(super) value: Option<String>,
}

/// A block that is not HPACK, or more than anybody needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadBlock;

/// One direction's decoder.
#[derive(Debug)]
pub(super) struct Decoder {
    table: Table,
}

impl Decoder {
    /// From the beginning of a connection.
    pub(super) fn new() -> Self {
        Self {
            table: Table::new(),
        }
    }

    /// From somewhere in the middle: what is in the table is not known.
    pub(super) fn late() -> Self {
        let mut out = Self::new();
        out.lost();
        out
    }

    /// A block was missed: nothing that the table held is known any more.
    pub(super) fn lost(&mut self) {
        self.table.forget();
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.table.held()
    }

    #[cfg(test)]
    /// Whether everything since the beginning was seen.
    pub(super) fn is_whole(&self) -> bool {
        self.table.is_whole()
    }

    /// Decodes one whole block. After a [`BadBlock`] the table is unknown.
    pub(super) fn decode(&mut self, block: &[u8]) -> Result<Vec<Field>, BadBlock> {
        let out = self.fields(block);
        if out.is_none() {
            self.lost();
        }
        out.ok_or(BadBlock)
    }

    fn fields(&mut self, block: &[u8]) -> Option<Vec<Field>> {
        let mut rest = block;
        let mut out = Vec::new();
        while let [first, ..] = rest {
            if out.len() >= MAX_FIELDS {
                return None;
            }
            match first {
                0x80.. => {
                    let index = integer(&mut rest, 7)?;
                    out.push(self.table.get(index)?.field());
                }
                0x40.. => {
                    let entry = self.literal(&mut rest, 6)?;
                    out.push(entry.field());
                    self.table.insert(entry);
                }
                0x20.. => {
                    let size = integer(&mut rest, 5)?;
                    self.table.resize(size);
                }
                // Without indexing, never indexed.
                _ => out.push(self.literal(&mut rest, 4)?.field()),
            }
        }
        Some(out)
    }

    fn literal(&self, rest: &mut &[u8], bits: u32) -> Option<Entry> {
        let index = integer(rest, bits)?;
        let (name, name_bytes) = if index == 0 {
            let (text, bytes) = string(rest, MAX_NAME)?;
            (Some(Name::of(&text)), Some(bytes))
        } else {
            let entry = self.table.get(index)?;
            (entry.name, entry.name_bytes)
        };
        let keep = match name {
            Some(Name::Other) => 0,
            _ => MAX_TEXT,
        };
        let (value, value_bytes) = string(rest, keep)?;
        let value = match name {
            None | Some(Name::Other) => None,
            Some(_) => Some(String::from_utf8_lossy(&value).into_owned()),
        };
        Some(Entry {
            name,
            value,
            name_bytes,
            value_bytes: Some(value_bytes),
        })
    }
}

/// Longer than any name that is asked for.
const MAX_NAME: usize = 32;

/// RFC 7541, 5.1: an integer behind a prefix of so many bits.
fn integer(rest: &mut &[u8], bits: u32) -> Option<usize> {
    let (first, mut tail) = rest.split_first()?;
    let mask = (1_usize << bits) - 1;
    let mut value = usize::from(*first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (byte, after) = tail.split_first()?;
            tail = after;
            // Four bytes more are 2^28: beyond any table and any string.
            if shift > 21 {
                return None;
            }
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = tail;
    Some(value)
}

/// RFC 7541, 5.2: a string and its length, of which no more than `keep` bytes are kept.
fn string(rest: &mut &[u8], keep: usize) -> Option<(Vec<u8>, usize)> {
    let is_huffman = rest.first()? & 0x80 != 0;
    let length = integer(rest, 7)?;
    let (bytes, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    if is_huffman {
        return huffman::decode(bytes, keep);
    }
    let kept = bytes.get(..length.min(keep))?;
    Some((kept.to_vec(), length))
}

#[cfg(test)]
mod tests;

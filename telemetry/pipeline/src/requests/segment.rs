//! Where in a stream bytes are: TCP's sequence numbers, which wrap.

use super::Piece;

/// Heads that are longer are taken as far as this.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// What is left of a piece.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment<'a> {
    pub(super) at: u64,
    pub(super) sequence: u32,
    /// From `sequence` on; more than `bytes` has if it is cut.
    pub(super) length: u32,
    pub(super) thread: Option<u64>,
    pub(super) bytes: &'a [u8],
    /// Nothing of it is taken yet.
    pub(super) is_fresh: bool,
}

impl<'a> Segment<'a> {
    pub(super) fn of(piece: &Piece<'a>) -> Self {
        let seen = u32::try_from(piece.bytes.len()).unwrap_or(u32::MAX);
        Self {
            at: piece.at,
            sequence: piece.sequence,
            length: piece.length.max(seen),
            thread: piece.thread,
            bytes: piece.bytes,
            is_fresh: true,
        }
    }

    /// Goes on, over what is not seen as well.
    pub(super) fn skip(&mut self, n: u32) {
        let n = n.min(self.length);
        if n > 0 {
            self.is_fresh = false;
        }
        self.sequence = self.sequence.wrapping_add(n);
        self.length -= n;
        let seen = usize::try_from(n).unwrap_or(usize::MAX);
        self.bytes = self.bytes.get(seen..).unwrap_or(&[]);
    }

    pub(super) fn skip_all(&mut self) {
        self.skip(self.length);
    }

    /// How far a place is ahead of this one; negative: it is behind.
    pub(super) fn until(&self, sequence: u32) -> i32 {
        ahead(self.sequence, sequence)
    }
}

/// How far `to` is ahead of `from`, within two gigabytes.
pub(super) fn ahead(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from).cast_signed()
}

/// A count of bytes as a distance in sequence numbers.
pub(super) fn distance(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

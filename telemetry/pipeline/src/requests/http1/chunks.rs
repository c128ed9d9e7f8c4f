//! The chunked coding (RFC 9112, 7.1), followed over bytes that are not seen as long as no chunk begins among them.

use crate::requests::segment::Segment;

/// Where in a chunked body.
#[derive(Debug, Clone, Copy)]
pub(super) enum Chunks {
    /// In the line that says a chunk's size; so many digits, the size so far, whether an extension follows.
    Size {
        n_digits: u8,
        size: u64,
        in_extension: bool,
    },
    /// So many bytes are left of a chunk and the line's end behind it.
    Data(u64),
    /// Behind the last chunk: in a line of so many bytes.
    Trailer(u32),
}

impl Default for Chunks {
    fn default() -> Self {
        Self::Size {
            n_digits: 0,
            size: 0,
            in_extension: false,
        }
    }
}

/// What came of following.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// It goes on.
    More,
    /// The body is over, where the segment now is.
    End,
    /// Nobody can say where it ends.
    Lost,
}

impl Chunks {
    /// Goes over a gap of unseen bytes, then over a segment.
    pub(super) fn follow(&mut self, gap: u32, segment: &mut Segment<'_>) -> Followed {
        if gap > 0 {
            match self {
                Self::Data(left) if *left >= u64::from(gap) => {
                    self.data_taken(gap);
                }
                _ => return Followed::Lost,
            }
        }
        while segment.length > 0 {
            if let Self::Data(left) = *self {
                let n = u32::try_from(left).unwrap_or(u32::MAX).min(segment.length);
                segment.skip(n);
                self.data_taken(n);
                continue;
            }
            let Some(byte) = segment.bytes.first().copied() else {
                return Followed::Lost;
            };
            segment.skip(1);
            match self.byte(byte) {
                Some(true) => return Followed::End,
                Some(false) => {}
                None => return Followed::Lost,
            }
        }
        Followed::More
    }

    fn data_taken(&mut self, n: u32) {
        if let Self::Data(left) = self {
            *left -= u64::from(n).min(*left);
            if *left == 0 {
                *self = Self::default();
            }
        }
    }

    /// `Some(true)`: that was the last byte. `None`: it is no such coding.
    fn byte(&mut self, byte: u8) -> Option<bool> {
        match self {
            Self::Data(_) => {}
            Self::Size {
                n_digits,
                size,
                in_extension,
            } => match (byte, char::from(byte).to_digit(16)) {
                (b'\n', _) => {
                    if *n_digits == 0 {
                        return None;
                    }
                    *self = match *size {
                        0 => Self::Trailer(0),
                        n => Self::Data(n.checked_add(2)?),
                    };
                }
                _ if *in_extension => {}
                (b'\r', _) => {}
                (b';' | b' ' | b'\t', _) => *in_extension = true,
                (_, Some(digit)) if *n_digits < 15 => {
                    *n_digits += 1;
                    *size = *size << 4 | u64::from(digit);
                }
                _ => return None,
            },
            Self::Trailer(n) => match byte {
                b'\n' if *n == 0 => return Some(true),
                b'\n' => *n = 0,
                b'\r' => {}
                _ => *n = n.saturating_add(1),
            },
        }
        Some(false)
    }
}

//! Splitting a byte stream into lines, with a cap.

/// Longest line, in bytes, without its end. A longer one comes out in pieces, each but the last marked partial.
pub const MAX_LINE: usize = 1 << 20;

/// A line or a piece of one, without `\n` or `\r\n`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The bytes as written.
    pub bytes: Vec<u8>,
    /// More of the same line follows (it is longer than the cap).
    pub partial: bool,
    /// Bytes of the stream before it.
    pub start_offset: u64,
    /// Bytes of the stream up to and with this line's end: a safe offset to continue from.
    pub end_offset: u64,
}

/// Splits a stream into lines. Holds at most the cap.
#[derive(Debug)]
pub struct LineSplitter {
    max: usize,
    held: Vec<u8>,
    offset: u64,
    // Where what is held begins.
    begun: u64,
}

impl Default for LineSplitter {
    fn default() -> Self {
        Self::new(MAX_LINE)
    }
}

impl LineSplitter {
    /// Splits at `max` bytes (at least 1).
    pub fn new(max: usize) -> Self {
        Self::at_offset(max, 0)
    }

    /// Continues a stream whose first `offset` bytes have been dealt with.
    pub fn at_offset(max: usize, offset: u64) -> Self {
        Self {
            max: max.max(1),
            held: Vec::new(),
            offset,
            begun: offset,
        }
    }

    /// Takes bytes, hands out the lines that they complete.
    pub fn push(&mut self, mut chunk: &[u8]) -> Vec<Line> {
        let mut out = Vec::new();
        while !chunk.is_empty() {
            let room = self.max - self.held.len();
            let newline = chunk.iter().take(room + 1).position(|b| *b == b'\n');
            if let Some(at) = newline {
                self.held.extend_from_slice(&chunk[..at]);
                chunk = &chunk[at + 1..];
                self.offset += at as u64 + 1;
                if self.held.last() == Some(&b'\r') {
                    self.held.pop();
                }
                out.push(self.line(false));
            } else if chunk.len() > room {
                self.held.extend_from_slice(&chunk[..room]);
                chunk = &chunk[room..];
                self.offset += room as u64;
                out.push(self.line(true));
            } else {
                self.held.extend_from_slice(chunk);
                self.offset += chunk.len() as u64;
                chunk = &[];
            }
        }
        out
    }

    /// Hands out what is left when the stream has ended (or has been silent long enough).
    pub fn flush(&mut self) -> Option<Line> {
        if self.held.is_empty() {
            None
        } else {
            Some(self.line(false))
        }
    }

    /// Bytes of an unfinished line.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Where the stream goes on after bytes that nobody will see; what is held before them is handed out.
    pub fn skip_to(&mut self, offset: u64) -> Option<Line> {
        let rest = self.flush();
        self.offset = offset;
        self.begun = offset;
        rest
    }

    /// Where to continue from after a restart: the end of the last line handed out.
    pub fn committed_offset(&self) -> u64 {
        self.begun
    }

    fn line(&mut self, partial: bool) -> Line {
        let start_offset = std::mem::replace(&mut self.begun, self.offset);
        Line {
            bytes: std::mem::take(&mut self.held),
            partial,
            start_offset,
            end_offset: self.offset,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn crlf_and_rest() {
        let mut s = LineSplitter::new(100);
        let lines = s.push(b"a\r\n\nb");
        let texts: Vec<&[u8]> = lines.iter().map(|l| l.bytes.as_slice()).collect();
        assert_eq!(texts, [b"a".as_slice(), b""]);
        assert_eq!(s.committed_offset(), 4);
        assert_eq!(s.flush().unwrap().bytes, b"b");
        assert_eq!(s.flush(), None);
    }

    #[test]
    fn what_is_skipped_ends_a_line() {
        let mut s = LineSplitter::at_offset(100, 10);
        s.push(b"ab");
        let rest = s.skip_to(50).unwrap();
        assert_eq!((rest.start_offset, rest.end_offset), (10, 12));
        let next = s.push(b"c\n").remove(0);
        assert_eq!((next.start_offset, next.end_offset), (50, 52));
    }

    #[test]
    fn a_line_of_exactly_the_cap_is_whole() {
        let mut s = LineSplitter::new(3);
        assert!(!s.push(b"abc\n")[0].partial);
        let lines = s.push(b"abcd\n");
        assert!(lines[0].partial);
        assert_eq!(lines[1].bytes, b"d");
    }

    proptest! {
        /// No byte is lost, whatever the chunks; a restart at any line's end continues seamlessly.
        #[test]
        fn no_byte_lost(
            data in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'x'), any::<u8>()], 0..200),
            cuts in prop::collection::vec(1usize..20, 1..30),
            max in 1usize..16,
        ) {
            let data: Vec<u8> = data.into_iter().filter(|b| *b != b'\r').collect();
            let mut s = LineSplitter::new(max);
            let mut lines = Vec::new();
            let mut rest = data.as_slice();
            for c in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let n = (*c).min(rest.len());
                lines.extend(s.push(&rest[..n]));
                rest = &rest[n..];
                prop_assert!(s.held_bytes() <= max);
            }
            lines.extend(s.flush());
            let mut back = Vec::new();
            for l in &lines {
                prop_assert!(l.bytes.len() <= max);
                prop_assert_eq!(back.len() as u64, l.start_offset);
                back.extend_from_slice(&l.bytes);
                if !l.partial && (back.len() as u64) < l.end_offset { back.push(b'\n'); }
                prop_assert_eq!(back.len() as u64, l.end_offset);
            }
            prop_assert_eq!(back, data);
        }
    }
}

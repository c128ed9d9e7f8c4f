//! `RecordIO`, Mesos's framing of event streams: a record's length in decimal, a newline, the record.

/// Longest record that a reader takes, in bytes.
pub const MAX_RECORD: usize = 64 << 20;
/// Longest length: more digits than [`MAX_RECORD`] has.
const MAX_DIGITS: usize = 10;

/// A record with its length before it.
pub fn frame(record: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(record.len() + MAX_DIGITS);
    out.extend_from_slice(record.len().to_string().as_bytes());
    out.push(b'\n');
    out.extend_from_slice(record);
    out
}

/// A stream that is no `RecordIO`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record's length {found:?} is no number of at most {max}")]
pub struct FrameError {
    found: String,
    max: usize,
}

/// Takes a stream in pieces of any size and gives its records.
#[derive(Debug)]
pub struct Reader {
    /// What has come and was not given.
    rest: Vec<u8>,
    /// Longest record.
    max: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self::of_at_most(MAX_RECORD)
    }
}

impl Reader {
    /// Of records that are no longer than this.
    pub const fn of_at_most(max: usize) -> Self {
        Self {
            rest: Vec::new(),
            max,
        }
    }

    /// Takes a piece.
    pub fn push(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
    }

    /// The next record, once all of it has come.
    pub fn next_record(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let head = self.rest.len().min(MAX_DIGITS + 1);
        let Some(end) = self.rest[..head].iter().position(|b| *b == b'\n') else {
            return if self.rest.len() > MAX_DIGITS {
                Err(self.wrong(MAX_DIGITS))
            } else {
                Ok(None)
            };
        };
        let digits = std::str::from_utf8(&self.rest[..end]).unwrap_or_default();
        let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let length = digits
            .parse::<usize>()
            .ok()
            .filter(|n| whole && *n <= self.max);
        let Some(length) = length else {
            return Err(self.wrong(end));
        };
        if self.rest.len() < end + 1 + length {
            return Ok(None);
        }
        let record = self.rest[end + 1..end + 1 + length].to_vec();
        self.rest.drain(..end + 1 + length);
        Ok(Some(record))
    }

    fn wrong(&self, n: usize) -> FrameError {
        FrameError {
            found: String::from_utf8_lossy(&self.rest[..n]).into_owned(),
            max: self.max,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_come_back_however_the_stream_is_cut(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            cut in 1usize..20,
        ) {
            let stream: Vec<u8> = records.iter().flat_map(|r| frame(r)).collect();
            let (mut reader, mut got) = (Reader::default(), Vec::new());
            for piece in stream.chunks(cut) {
                reader.push(piece);
                while let Some(r) = reader.next_record().unwrap() {
                    got.push(r);
                }
            }
            prop_assert_eq!(got, records);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::default();
            reader.push(&bytes);
            for _ in 0..=bytes.len() {
                if !matches!(reader.next_record(), Ok(Some(_))) {
                    break;
                }
            }
        }
    }

    #[test]
    fn lengths_are_numbers_with_a_bound() {
        for bad in [
            "x\n",
            "-1\n",
            "+1\n",
            " 1\n",
            "\n",
            "99999999999",
            "9999999999\n",
        ] {
            let mut reader = Reader::default();
            reader.push(bad.as_bytes());
            assert!(reader.next_record().is_err(), "{bad:?}");
        }
        assert_eq!(frame(b"{}"), b"2\n{}");
        let mut short = Reader::of_at_most(3);
        short.push(b"3\nabc4\n");
        assert_eq!(short.next_record().unwrap().unwrap(), b"abc");
        assert!(short.next_record().is_err(), "before its bytes are there");
    }
}

//! Where a request's head ends, what of it matters, and what comes after it.
//!
//! The law: where it can't be said for certain what the next byte of a connection is, the connection is left alone for good.

use super::{count, state};

/// Bytes of `traceparent: 00-<32>-<16>-<2>\r\n`.
pub const HEADER: usize = 70;
/// `traceparent: 00-`.
const NAME: &[u8; 16] = b"traceparent: 00-";

/// What was found that the rest depends on.
pub mod flags {
    /// No head of HTTP/1.1 as it must be.
    pub const BAD: u32 = 1;
    /// `Transfer-Encoding`.
    pub const CODED: u32 = 2;
    /// `Upgrade`.
    pub const UPGRADE: u32 = 4;
    /// A length that is none, or two.
    pub const BAD_LENGTH: u32 = 8;
    /// `Content-Length`.
    pub const LENGTH: u32 = 16;
    /// Its digits are being read.
    pub const DIGITS: u32 = 32;
    /// At least one was.
    pub const DIGIT: u32 = 64;
    /// In the name of a field, or at the beginning of its line.
    pub const NAME: u32 = 128;
    /// A space after the digits.
    pub const SPACE: u32 = 256;
}

/// A walk over the bytes of a head.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Scan {
    /// The last sixteen bytes, capitals of fields made small: the older half.
    pub older: u64,
    /// The newer half.
    pub newer: u64,
    /// Value of `Content-Length`.
    pub length: u64,
    /// Bytes that were looked at.
    pub n: u32,
    /// Place after the first line; 0 for none.
    pub line_end: u32,
    /// Place after the head; 0 for none.
    pub head_end: u32,
    /// Place after the name of `traceparent`; 0 for none.
    pub context_at: u32,
    /// [`flags`].
    pub flags: u32,
    /// Zero.
    pub pad: u32,
}

/// A head that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where a field can be put.
    pub line_end: u32,
    /// Whether it is to be.
    pub is_wanted: bool,
    /// Bytes from the message's first to the last of the body; 0 where the connection is left alone from then on.
    pub until: u32,
    /// Why it is ([`count`]), with that.
    pub why: u32,
}

/// Most of a length that is read.
const MAX_LENGTH: u64 = 1 << 50;
/// Longest body that is followed.
const MAX_BODY: u64 = 1 << 30;
const LOW_5: u64 = 0xff_ffff_ffff;

const fn word(bytes: [u8; 8]) -> u64 {
    u64::from_be_bytes(bytes)
}

impl Scan {
    /// One byte more. `true`: there is no need of another.
    #[inline(always)]
    pub fn step(&mut self, raw: u8) -> bool {
        let before = self.newer as u8;
        let is_first_line = self.line_end == 0;
        let byte = if !is_first_line && raw.is_ascii_uppercase() {
            raw | 0x20
        } else {
            raw
        };
        self.n += 1;
        self.older = self.older << 8 | self.newer >> 56;
        self.newer = self.newer << 8 | u64::from(byte);
        if is_first_line {
            if byte == b'\n' {
                if self.newer != word(*b"TP/1.1\r\n") || self.older & 0xff_ffff != 0x20_4854 {
                    self.flags |= flags::BAD;
                    return true;
                }
                self.line_end = self.n;
                self.flags |= flags::NAME;
            }
            return false;
        }
        if byte == b'\n' {
            if before != b'\r' {
                self.flags |= flags::BAD;
                return true;
            }
            if self.newer as u32 == 0x0d0a_0d0a {
                self.head_end = self.n;
                return true;
            }
            self.flags |= flags::NAME;
            return false;
        }
        if self.flags & flags::DIGITS != 0 {
            self.digit(byte);
        }
        if self.flags & flags::NAME != 0 {
            return self.name(byte, before);
        }
        false
    }

    /// In the name of a field. Where a space would make one server read a field, and another none, nothing is done.
    #[inline(always)]
    fn name(&mut self, byte: u8, before: u8) -> bool {
        if byte == b' ' || byte == b'\t' || byte == 0 {
            self.flags |= flags::BAD;
            return true;
        }
        if byte != b':' {
            return false;
        }
        self.flags &= !flags::NAME;
        let (older, newer) = (self.older, self.newer);
        if newer == word(*b"eparent:") && older & LOW_5 == word(*b"\0\0\0\ntrac") {
            self.context_at = self.n;
        } else if newer == word(*b"-length:") && older == word(*b"\ncontent") {
            if self.flags & flags::LENGTH != 0 {
                self.flags |= flags::BAD_LENGTH;
            }
            self.flags |= flags::LENGTH | flags::DIGITS;
        } else if newer == word(*b"ncoding:") && older == word(*b"ansfer-e") {
            self.flags |= flags::CODED;
        } else if newer == word(*b"upgrade:") && older as u8 == b'\n' {
            self.flags |= flags::UPGRADE;
        } else if before == b'\n' {
            self.flags |= flags::BAD;
        }
        false
    }

    #[inline(always)]
    fn digit(&mut self, byte: u8) {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            if self.flags & flags::SPACE != 0 || self.length > MAX_LENGTH {
                self.flags |= flags::BAD_LENGTH;
            }
            self.flags |= flags::DIGIT;
            self.length = self.length.wrapping_mul(10).wrapping_add(u64::from(digit));
        } else if byte == b' ' || byte == b'\t' {
            if self.flags & flags::DIGIT != 0 {
                self.flags |= flags::SPACE;
            }
        } else {
            if byte != b'\r' || self.flags & flags::DIGIT == 0 {
                self.flags |= flags::BAD_LENGTH;
            }
            self.flags &= !flags::DIGITS;
        }
    }

    /// What a message of `size` bytes is, of which those in the window were looked at; an error is why the connection is left alone.
    #[inline(always)]
    pub fn judge(&self, seen: u32, size: u32) -> Result<Found, u32> {
        if self.flags & flags::BAD != 0 {
            return Err(count::NOT_HTTP);
        }
        if self.head_end == 0 {
            let is_cut = seen < size;
            let why = if is_cut {
                count::LONG_HEAD
            } else {
                count::SPLIT_HEAD
            };
            return Err(why);
        }
        if self.flags & flags::UPGRADE != 0 {
            return Err(count::UPGRADE);
        }
        let is_coded = self.flags & flags::CODED != 0;
        let has_length = self.flags & flags::LENGTH != 0;
        let no_digit = has_length && self.flags & flags::DIGIT == 0;
        if self.flags & flags::BAD_LENGTH != 0 || no_digit || is_coded && has_length {
            return Err(count::BAD_LENGTH);
        }
        let mut found = Found {
            line_end: self.line_end,
            is_wanted: self.context_at == 0,
            until: 0,
            why: count::CHUNKED,
        };
        if is_coded {
            return Ok(found);
        }
        if u64::from(size.wrapping_sub(self.head_end)) > self.length {
            found.why = count::PIPELINED;
        } else if self.length > MAX_BODY {
            found.why = count::LONG_BODY;
        } else {
            found.until = self.head_end + self.length as u32;
        }
        Ok(found)
    }
}

/// Where a message of `size` bytes belongs whose first byte has the number `at`, if the body ends before `end`: a [`state`], or why the
/// connection is left alone.
#[inline(always)]
pub fn place(end: u32, at: u32, size: u32) -> Result<u32, u32> {
    // Numbers go round.
    let left = end.wrapping_sub(at);
    if left == 0 {
        Ok(state::BEGIN)
    } else if left > 1 << 31 || size > left {
        Err(count::PIPELINED)
    } else {
        Ok(state::BODY)
    }
}

/// Writes the whole field, with the end of its line.
#[inline(always)]
pub fn write(out: &mut [u8; HEADER], (high, low): (u64, u64), span: u64, is_sampled: bool) {
    let mut n = 0;
    while n < NAME.len() {
        out[n] = NAME[n];
        n += 1;
    }
    n = 0;
    while n < 16 {
        let shift = 60 - 4 * n as u32;
        out[16 + n] = digit((high >> shift) as u8 & 0xf);
        out[32 + n] = digit((low >> shift) as u8 & 0xf);
        out[49 + n] = digit((span >> shift) as u8 & 0xf);
        n += 1;
    }
    out[48] = b'-';
    out[65] = b'-';
    out[66] = b'0';
    out[67] = b'0' + u8::from(is_sampled);
    out[68] = b'\r';
    out[69] = b'\n';
}

/// A digit of a small number, without a branch.
#[inline(always)]
fn digit(n: u8) -> u8 {
    // 1 from ten on.
    let is_letter = n.wrapping_add(6) >> 4;
    b'0' + n + is_letter * (b'a' - b'0' - 10)
}

/// Bytes of a field's value that hold a context: `00-<32>-<16>-<2>`.
pub const VALUE: usize = 55;

/// Trace and sampling of a context; `None` for what is none.
#[inline(always)]
pub fn read(value: &[u8; VALUE]) -> Option<((u64, u64), u32)> {
    let (mut high, mut low, mut last) = (0_u64, 0_u64, 0_u64);
    let mut bad = 0_u8;
    let mut n = 0;
    while n < 16 {
        high = high << 4 | value_of(value[3 + n], &mut bad);
        low = low << 4 | value_of(value[19 + n], &mut bad);
        n += 1;
    }
    n = 0;
    while n < 2 {
        last = last << 4 | value_of(value[53 + n], &mut bad);
        n += 1;
    }
    bad |= value[0] ^ b'0' | value[1] ^ b'0' | value[2] ^ b'-';
    bad |= value[35] ^ b'-' | value[52] ^ b'-';
    if bad != 0 || high == 0 && low == 0 {
        return None;
    }
    Some(((high, low), last as u32 & 1))
}

/// Value of a digit, and whether it is one, without a branch.
#[inline(always)]
fn value_of(digit: u8, bad: &mut u8) -> u64 {
    let n = digit.wrapping_sub(b'0');
    let letter = digit.wrapping_sub(b'a');
    // 0x80 where the subtraction went below, or from the bound on.
    let is_digit = (u32::from(n).wrapping_sub(10) >> 31) as u8;
    let is_letter = (u32::from(letter).wrapping_sub(6) >> 31) as u8;
    *bad |= 1 ^ (is_digit | is_letter);
    u64::from(n) * u64::from(is_digit) + (u64::from(letter) + 10) * u64::from(is_letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &[u8]) -> Scan {
        let mut scan = Scan::default();
        for byte in text {
            if scan.step(*byte) {
                break;
            }
        }
        scan
    }

    fn judge(text: &str) -> Result<Found, u32> {
        let size = text.len() as u32;
        scan(text.as_bytes()).judge(size, size)
    }

    #[test]
    fn a_field_goes_after_the_first_line() {
        let found = judge("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!((found.line_end, found.is_wanted), (16, true));
        assert_eq!(found.until, 27);
        let found = judge("GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!((found.line_end, found.until), (16, 18));
    }

    #[test]
    fn where_a_body_ends_is_known_to_the_byte() {
        let head = "POST / HTTP/1.1\r\ncontent-LENGTH:  5 \r\nHost: a\r\n\r\n";
        let end = head.len() as u32 + 5;
        for body in ["", "abc", "abcde"] {
            assert_eq!(judge(&[head, body].concat()).unwrap().until, end);
        }
        let found = judge(&[head, "abcdeG"].concat()).unwrap();
        assert_eq!((found.until, found.why), (0, count::PIPELINED));
        let long = judge("POST / HTTP/1.1\r\nContent-Length: 1073741825\r\n\r\n").unwrap();
        assert_eq!((long.until, long.why), (0, count::LONG_BODY));
    }

    #[test]
    fn what_could_not_be_sent_comes_again_and_is_no_more_than_it_was() {
        let end = 3;
        let at = 0_u32.wrapping_sub(7);
        assert_eq!(place(end, at, 10), Ok(state::BODY));
        assert_eq!(place(end, at, 10), Ok(state::BODY), "the same again");
        assert_eq!(place(end, at.wrapping_add(4), 6), Ok(state::BODY));
        assert_eq!(place(end, at.wrapping_add(4), 7), Err(count::PIPELINED));
        assert_eq!(place(end, end, 100), Ok(state::BEGIN));
        assert_eq!(place(end, end + 1, 1), Err(count::PIPELINED), "behind it");
    }

    #[test]
    fn what_is_not_certain_is_left_alone() {
        for (text, why) in [
            ("GET / HTTP/1.0\r\n\r\n", count::NOT_HTTP),
            ("GET /\r\n\r\n", count::NOT_HTTP),
            ("GET / http/1.1\r\n\r\n", count::NOT_HTTP),
            ("GET / HTTP/1.1\n\n", count::NOT_HTTP),
            (
                "GET / HTTP/1.1\r\nContent-Length : 5\r\n\r\n",
                count::NOT_HTTP,
            ),
            ("GET / HTTP/1.1\r\nA: b\r\n c: d\r\n\r\n", count::NOT_HTTP),
            ("GET / HTTP/1.1\r\nA: b\n\r\n", count::NOT_HTTP),
            ("GET / HTTP/1.1\r\n: b\r\n\r\n", count::NOT_HTTP),
            ("GET / HTTP/1.1\r\nHost: a\r\n", count::SPLIT_HEAD),
            ("GE", count::SPLIT_HEAD),
            ("GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n", count::UPGRADE),
            (
                "GET / HTTP/1.1\r\nContent-Length:\r\n\r\n",
                count::BAD_LENGTH,
            ),
            (
                "GET / HTTP/1.1\r\nContent-Length: 1 2\r\n\r\n",
                count::BAD_LENGTH,
            ),
            (
                "GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
                count::BAD_LENGTH,
            ),
            (
                "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
                count::BAD_LENGTH,
            ),
            (
                "GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                count::BAD_LENGTH,
            ),
            (
                "GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: x\r\n\r\n",
                count::BAD_LENGTH,
            ),
        ] {
            assert_eq!(judge(text), Err(why), "{text:?}");
        }
        let scan = scan(b"GET / HTTP/1.1\r\nHost: a");
        assert_eq!(scan.judge(23, 5000), Err(count::LONG_HEAD));
    }

    #[test]
    fn a_body_in_chunks_is_not_followed() {
        let found = judge("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        assert_eq!((found.is_wanted, found.until), (true, 0));
        assert_eq!(found.why, count::CHUNKED);
    }

    #[test]
    fn a_context_that_is_there_stays_the_only_one() {
        let text = "GET / HTTP/1.1\r\nTraceParent:x\r\n\r\n";
        assert!(!judge(text).unwrap().is_wanted);
        assert_eq!(scan(text.as_bytes()).context_at, 28);
        // Only a field's name is one.
        let found = judge("GET /\ttraceparent: HTTP/1.1\r\nX-traceparent: a\r\n\r\n").unwrap();
        assert!(found.is_wanted);
        let found = judge("GET / HTTP/1.1\r\nA: traceparent:\r\n\r\n").unwrap();
        assert!(found.is_wanted);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut out = [0; HEADER];
        let trace = (0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210);
        write(&mut out, trace, 0x00f0_67aa_0ba9_02b7, true);
        let want = b"traceparent: 00-0123456789abcdeffedcba9876543210-00f067aa0ba902b7-01\r\n";
        assert_eq!(&out, want);
        let mut value = [0; VALUE];
        value.copy_from_slice(&out[13..68]);
        assert_eq!(read(&value), Some((trace, 1)));
        for (at, byte) in [(0, b'1'), (2, b' '), (5, b'G'), (19, b'A'), (53, b'/')] {
            let mut other = value;
            other[at] = byte;
            assert_eq!(read(&other), None, "{at}");
        }
        write(&mut out, (0, 0), 1, false);
        value.copy_from_slice(&out[13..68]);
        assert_eq!(read(&value), None, "no trace is all zeros");
    }
}

//! DNS messages as bytes: what a resolver must read of questions and answers, and what it writes.
//!
//! Everything that is read came from somebody else: each step is bounded by the bytes that there are, names by
//! RFC 1035's 255 bytes, pointers must lead backwards (so that they end). What is no good is refused with a
//! reason ([`Fault`]), which is counted. Nothing here allocates by what a message claims.

mod query;
mod reply;
mod scan;
mod told;

pub use self::{
    query::{Edns, Query, Refused, question},
    reply::{ErrorReply, Limits, Rendered, Written, write_error},
    scan::{Scan, ScanError, scan},
    told::told,
};

/// Length of a header.
pub const HEADER: usize = 12;
/// Longest name (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 255;
/// Largest UDP answer: fits every path without fragments (DNS flag day 2020).
pub const UDP_PAYLOAD: u16 = 1232;
/// Largest UDP answer for who does not speak EDNS.
pub const UDP_PLAIN: u16 = 512;

/// Codes of answers.
pub mod rcode {
    /// An answer, perhaps an empty one.
    pub const NOERROR: u16 = 0;
    /// The question can't be read.
    pub const FORMERR: u16 = 1;
    /// No answer could be had.
    pub const SERVFAIL: u16 = 2;
    /// No such name.
    pub const NXDOMAIN: u16 = 3;
    /// No such operation here.
    pub const NOTIMP: u16 = 4;
    /// Not for you, or not here.
    pub const REFUSED: u16 = 5;
    /// A version of EDNS that is not spoken.
    pub const BADVERS: u16 = 16;
}

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// No whole header.
    Short,
    /// An answer where a question is expected: answering it could go on forever.
    Response,
    /// Another operation than a query.
    Operation,
    /// Not exactly one question.
    Questions,
    /// Records in the answer section of a question.
    Answers,
    /// A name or record that is cut off or malformed.
    Malformed,
    /// EDNS twice, or not at the root.
    Edns,
    /// A version of EDNS above 0.
    EdnsVersion,
    /// Longer than a question may be.
    Long,
}

impl Fault {
    /// All, for counters.
    pub const ALL: [Self; 9] = [
        Self::Short,
        Self::Response,
        Self::Operation,
        Self::Questions,
        Self::Answers,
        Self::Malformed,
        Self::Edns,
        Self::EdnsVersion,
        Self::Long,
    ];

    /// One word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Response => "response",
            Self::Operation => "operation",
            Self::Questions => "questions",
            Self::Answers => "answers",
            Self::Malformed => "malformed",
            Self::Edns => "edns",
            Self::EdnsVersion => "edns_version",
            Self::Long => "long",
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([two[0], two[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

/// Where the name at `at` ends, if it is one without pointers.
fn plain_name_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut end = at;
    loop {
        let len = usize::from(*bytes.get(end)?);
        end += 1 + len;
        if len > 63 || end - at > MAX_NAME {
            return None;
        }
        if len == 0 {
            return Some(end);
        }
    }
}

/// Where the name at `at` ends in the message, if it is one: labels, then a root or a pointer to an earlier
/// place. Each pointer leads to before the one that led there, so that no loop is possible.
fn name_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut end = None;
    let mut pos = at;
    let mut earliest = at;
    let mut len_total = 0;
    loop {
        let len = *bytes.get(pos)?;
        match len {
            0 => return Some(end.unwrap_or(pos + 1)),
            1..=63 => {
                len_total += usize::from(len) + 1;
                pos += usize::from(len) + 1;
                if len_total >= MAX_NAME {
                    return None;
                }
            }
            0xc0..=0xff => {
                let target = usize::from(u16_at(bytes, pos)? & 0x3fff);
                end = end.or(Some(pos + 2));
                if target >= earliest || target < HEADER {
                    return None;
                }
                earliest = target;
                pos = target;
            }
            _ => return None,
        }
    }
}

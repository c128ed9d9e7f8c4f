//! Reading an upstream's answer: checked, cut to what can be passed on, and how long it may be kept.

use super::{HEADER, Limits, Query, Written, name_end, plain_name_end, rcode, u16_at, u32_at};
use crate::{
    wire::reply::{write_header, write_opt},
    zone::RType,
};

/// Why an answer is no good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum ScanError {
    /// Not an answer, or to another question (RFC 5452 section 9.1): forged, or late.
    #[error("not an answer to the question")]
    Foreign,
    /// A name or record that is cut off, loops or is too long.
    #[error("a name or record is malformed")]
    Malformed,
}

/// An answer that may be passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Its code, with EDNS's upper part.
    pub code: u16,
    /// Did not fit: ask over TCP.
    pub truncated: bool,
    /// DNSSEC says that it is authentic, in the upstream's view.
    pub authentic: bool,
    /// Seconds that it may be kept; none if it must not be (RFC 2308: a negative answer without SOA).
    pub ttl: Option<u32>,
    /// Records by section: answer, authority, additional; EDNS is not among them.
    counts: [u16; 3],
    /// From behind the question to the last record that is passed on.
    body: Box<[u8]>,
    /// Where in `body` TTLs are.
    ttls: Box<[u16]>,
    question_len: usize,
}

/// Reads the answer to `asked` (question bytes) under `id`.
pub fn scan(bytes: &[u8], id: u16, asked: &[u8]) -> Result<Scan, ScanError> {
    let flags = u16_at(bytes, 2).ok_or(ScanError::Foreign)?;
    let is_answer = u16_at(bytes, 0) == Some(id) && flags & 0xf800 == 0x8000;
    let end = plain_name_end(bytes, HEADER).map(|end| end + 4);
    let question = end.and_then(|end| bytes.get(HEADER..end));
    let same = question.is_some_and(|q| q.eq_ignore_ascii_case(asked));
    if !is_answer || u16_at(bytes, 4) != Some(1) || !same {
        return Err(ScanError::Foreign);
    }
    let begin = HEADER + asked.len();
    let mut walk = Walk {
        bytes,
        at: begin,
        begin,
        ttls: Vec::new(),
        least: None,
        negative: None,
        opt: None,
    };
    let mut counts = [0; 3];
    for (section, count) in counts.iter_mut().enumerate() {
        let n = u16_at(bytes, 6 + 2 * section).ok_or(ScanError::Malformed)?;
        for _ in 0..n {
            let before_opt = walk.opt.is_none();
            walk.record(section).ok_or(ScanError::Malformed)?;
            if before_opt && walk.opt.is_none() {
                *count += 1;
            }
        }
    }
    let (cut, high) = walk.opt.unwrap_or((walk.at, 0));
    let code = (flags & 0xf) | high << 4;
    let has_answer = counts[0] > 0 && code == rcode::NOERROR;
    let ttl = match code {
        _ if flags & 0x0200 != 0 => None,
        rcode::NOERROR if has_answer => walk.least,
        // The SOA's TTL is among all of them (RFC 2308 section 5).
        rcode::NOERROR | rcode::NXDOMAIN => walk.negative.map(|n| n.min(walk.least.unwrap_or(n))),
        _ => None,
    };
    Ok(Scan {
        code,
        truncated: flags & 0x0200 != 0,
        authentic: flags & 0x0020 != 0,
        ttl,
        counts,
        body: bytes[begin..cut].into(),
        ttls: walk.ttls.into(),
        question_len: asked.len(),
    })
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    begin: usize,
    ttls: Vec<u16>,
    least: Option<u32>,
    negative: Option<u32>,
    /// Where EDNS begins, and its part of the code. What comes after it is left out: it is at most additional.
    opt: Option<(usize, u16)>,
}

impl Walk<'_> {
    fn record(&mut self, section: usize) -> Option<()> {
        let owner = self.at;
        let fixed = name_end(self.bytes, owner)?;
        let rtype = RType(u16_at(self.bytes, fixed)?);
        let ttl = u32_at(self.bytes, fixed + 4)?;
        let len = usize::from(u16_at(self.bytes, fixed + 8)?);
        let data = fixed + 10;
        self.at = data + len;
        if self.at > self.bytes.len() {
            return None;
        }
        if rtype == RType::OPT {
            if section != 2 || self.opt.is_some() {
                return None;
            }
            self.opt = Some((owner, u16::try_from(ttl >> 24).unwrap_or(0)));
            return Some(());
        }
        self.names(rtype, data)?;
        if self.opt.is_some() {
            return Some(());
        }
        // RFC 2181 section 8: the top bit set means 0.
        let ttl = if ttl > 0x7fff_ffff { 0 } else { ttl };
        self.least = Some(self.least.map_or(ttl, |least| least.min(ttl)));
        if section == 1 && rtype == RType::SOA {
            let minimum = u32_at(self.bytes, self.at.checked_sub(4)?)?;
            self.negative = Some(minimum.min(ttl));
        }
        self.ttls.push(u16::try_from(fixed + 4 - self.begin).ok()?);
        Some(())
    }

    /// Checks the names in a record's data, for the types whose names may be compressed (RFC 3597 section 4).
    fn names(&self, rtype: RType, data: usize) -> Option<()> {
        let (skip, n) = match rtype {
            RType::NS | RType::CNAME | RType::PTR => (0, 1),
            RType::SOA => (0, 2),
            RType(15) => (2, 1),
            RType::SRV => (6, 1),
            _ => return Some(()),
        };
        let tail = if rtype == RType::SOA { 20 } else { 0 };
        let mut at = data + skip;
        for _ in 0..n {
            at = name_end(self.bytes, at)?;
        }
        (at + tail == self.at).then_some(())
    }
}

impl Scan {
    /// Bytes that it takes to keep.
    pub fn len(&self) -> usize {
        self.body.len() + 2 * self.ttls.len() + self.question_len
    }

    /// Whether it has no records.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Whether it says that there is no such name or no such record.
    pub fn is_negative(&self) -> bool {
        self.code == rcode::NXDOMAIN || (self.code == rcode::NOERROR && self.counts[0] == 0)
    }

    /// Appends the answer to `out`, whose end must be the message's begin, each TTL by `change`. What does not fit
    /// is left out whole, with TC.
    pub fn write(
        &self,
        query: &Query<'_>,
        limits: Limits,
        change: impl Fn(u32) -> u32,
        out: &mut Vec<u8>,
    ) -> Written {
        let begin = out.len();
        out.resize(begin + HEADER, 0);
        out.extend_from_slice(query.question);
        let opt = if query.edns.is_some() { 11 } else { 0 };
        let body = out.len();
        let fits = body - begin + self.body.len() + opt <= limits.max
            // A body's pointers only fit a question of the same length.
            && query.question.len() == self.question_len;
        let mut counts = [0; 3];
        if fits {
            out.extend_from_slice(&self.body);
            counts = self.counts;
            for at in &self.ttls {
                let at = body + usize::from(*at);
                let ttl = change(u32_at(out, at).unwrap_or(0));
                out[at..at + 4].copy_from_slice(&ttl.to_be_bytes());
            }
        }
        if let Some(edns) = query.edns {
            write_opt(out, self.code, edns.dnssec_ok);
            counts[2] += 1;
        }
        let truncated = !fits || self.truncated;
        let mut flags = 0x8080 | (self.code & 0xf);
        flags |= u16::from(truncated) << 9;
        flags |= u16::from(query.recursion) << 8;
        flags |= u16::from(self.authentic) << 5;
        flags |= u16::from(query.checking_disabled) << 4;
        write_header(
            &mut out[begin..],
            query.id,
            flags,
            [1, counts[0], counts[1], counts[2]],
        );
        Written {
            code: self.code,
            truncated,
        }
    }
}

//! Writing answers: of zones once for many questions, and errors.

use super::{HEADER, Query, UDP_PAYLOAD, rcode};
use crate::zone::{Answer, DnsName, Outcome, RData, RType, Rr};

/// Refresh, retry and expire of the SOA: there are no secondaries, so nobody uses them.
const SOA_TIMES: [u32; 3] = [60, 180, 86_400];
const OPT_LEN: usize = 11;

/// An answer of a zone to a name and type, as bytes. It fits every question with that name and type, whatever its
/// id, letter case and EDNS: owners are pointers into the question, and nothing else points anywhere, so that
/// records can be left out and change places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    code: u16,
    authoritative: bool,
    answers: Vec<u8>,
    /// Where each answer ends.
    ends: Vec<usize>,
    authority: (u16, Vec<u8>),
    additional: (u16, Vec<u8>),
}

/// What an answer must keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes.
    pub max: usize,
    /// Whether other names are answered too (the RA bit).
    pub recursion_available: bool,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The code.
    pub code: u16,
    /// Whether records that were asked for did not fit (the TC bit).
    pub truncated: bool,
}

impl Rendered {
    /// Of an answer to a question about `name`.
    pub fn new(name: &DnsName, answer: &Answer) -> Self {
        let code = match answer.outcome {
            Outcome::Found | Outcome::NoData => rcode::NOERROR,
            Outcome::NxDomain => rcode::NXDOMAIN,
            // Who asks a zone for a name that is in none has lost his way.
            Outcome::Refused | Outcome::NotOurs => rcode::REFUSED,
        };
        let labels: Vec<&[u8]> = name.labels_from_root().collect();
        let mut answers = Vec::new();
        let ends = answer
            .answers
            .iter()
            .map(|rr| {
                write_record(&mut answers, &labels, rr);
                answers.len()
            })
            .collect();
        let section = |rrs: &[Rr]| {
            let mut out = Vec::new();
            for rr in rrs {
                write_record(&mut out, &labels, rr);
            }
            (u16::try_from(rrs.len()).unwrap_or(u16::MAX), out)
        };
        Self {
            code,
            authoritative: code != rcode::REFUSED,
            answers,
            ends,
            authority: section(&answer.authority),
            additional: section(&answer.additional),
        }
    }

    /// Appends the answer to `out`, whose end must be the message's begin. Clients take the first address, so
    /// it begins at another one for each id: those are as good as dice.
    pub fn write(&self, query: &Query<'_>, limits: Limits, out: &mut Vec<u8>) -> Written {
        let begin = out.len();
        let opt = if query.edns.is_some() { OPT_LEN } else { 0 };
        out.resize(begin + HEADER, 0);
        out.extend_from_slice(query.question);
        let room = limits.max.saturating_sub(opt) + begin;
        let n = self.ends.len();
        let mut n_answers: u16 = 0;
        if n > 0 {
            let first = usize::from(query.id) % n;
            for i in (first..n).chain(0..first) {
                let from = if i == 0 { 0 } else { self.ends[i - 1] };
                let record = &self.answers[from..self.ends[i]];
                if out.len() + record.len() > room || n_answers == u16::MAX {
                    break;
                }
                out.extend_from_slice(record);
                n_answers += 1;
            }
        }
        let mut truncated = usize::from(n_answers) < n;
        let mut counts = [n_answers, 0, 0];
        if !truncated {
            let (n, bytes) = &self.authority;
            if out.len() + bytes.len() <= room {
                out.extend_from_slice(bytes);
                counts[1] = *n;
            } else {
                truncated = true;
            }
            // What was not asked for may be missing (RFC 2181 section 9).
            let (n, bytes) = &self.additional;
            if out.len() + bytes.len() <= room {
                out.extend_from_slice(bytes);
                counts[2] = *n;
            }
        }
        if let Some(edns) = query.edns {
            write_opt(out, self.code, edns.dnssec_ok);
            counts[2] += 1;
        }
        let mut flags = 0x8000 | (self.code & 0xf);
        flags |= u16::from(self.authoritative) << 10;
        flags |= u16::from(truncated) << 9;
        flags |= u16::from(query.recursion) << 8;
        flags |= u16::from(limits.recursion_available) << 7;
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

/// An answer without records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorReply<'a> {
    /// The question's.
    pub id: u16,
    /// The question's: operation, RD and CD are repeated.
    pub flags: u16,
    /// The code.
    pub code: u16,
    /// The question's bytes; empty if it can't be read.
    pub question: &'a [u8],
    /// Whether the asker speaks EDNS.
    pub has_edns: bool,
}

/// Appends an error to `out`.
pub fn write_error(error: &ErrorReply<'_>, recursion_available: bool, out: &mut Vec<u8>) {
    let begin = out.len();
    out.resize(begin + HEADER, 0);
    out.extend_from_slice(error.question);
    if error.has_edns {
        write_opt(out, error.code, false);
    }
    let flags =
        0x8000 | (error.flags & 0x7910) | u16::from(recursion_available) << 7 | (error.code & 0xf);
    let counts = [
        u16::from(!error.question.is_empty()),
        0,
        0,
        u16::from(error.has_edns),
    ];
    write_header(&mut out[begin..], error.id, flags, counts);
}

/// Fills in a header.
pub(super) fn write_header(at: &mut [u8], id: u16, flags: u16, counts: [u16; 4]) {
    let words = [id, flags, counts[0], counts[1], counts[2], counts[3]];
    for (bytes, word) in at.chunks_exact_mut(2).zip(words) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
}

pub(super) fn write_opt(out: &mut Vec<u8>, code: u16, dnssec_ok: bool) {
    let [payload_0, payload_1] = UDP_PAYLOAD.to_be_bytes();
    let [_, high] = (code >> 4).to_be_bytes();
    let dnssec_ok = u8::from(dnssec_ok) << 7;
    out.extend_from_slice(&[0, 0, 41, payload_0, payload_1, high, 0, dnssec_ok, 0, 0, 0]);
}

fn write_record(out: &mut Vec<u8>, question: &[&[u8]], rr: &Rr) {
    write_name(out, Some(question), &rr.owner);
    let RType(rtype) = rr.data.rtype();
    out.extend_from_slice(&rtype.to_be_bytes());
    out.extend_from_slice(&1u16.to_be_bytes());
    out.extend_from_slice(&rr.ttl.to_be_bytes());
    let at = out.len();
    out.extend_from_slice(&[0, 0]);
    match &rr.data {
        RData::A(ip) => out.extend_from_slice(&ip.octets()),
        RData::Aaaa(ip) => out.extend_from_slice(&ip.octets()),
        RData::Ns(name) | RData::Ptr(name) => write_name(out, Some(question), name),
        RData::Soa {
            mname,
            rname,
            serial,
            minimum,
        } => {
            write_name(out, Some(question), mname);
            write_name(out, Some(question), rname);
            let [refresh, retry, expire] = SOA_TIMES;
            for number in [*serial, refresh, retry, expire, *minimum] {
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
        RData::Srv { port, target } => {
            out.extend_from_slice(&[0, 0, 0, 0]);
            out.extend_from_slice(&port.to_be_bytes());
            // RFC 2782: not compressed.
            write_name(out, None, target);
        }
        RData::Txt(strings) => {
            for string in strings {
                let bytes = string.as_bytes();
                let bytes = &bytes[..bytes.len().min(255)];
                out.push(u8::try_from(bytes.len()).unwrap_or(0));
                out.extend_from_slice(bytes);
            }
        }
    }
    // Names have at most 255 bytes and zones hold short texts.
    let len = u16::try_from(out.len() - at - 2).unwrap_or(0);
    out[at..at + 2].copy_from_slice(&len.to_be_bytes());
}

/// A name, its end as a pointer to where the question (labels from the root) has the same.
fn write_name(out: &mut Vec<u8>, question: Option<&[&[u8]]>, name: &DnsName) {
    let labels: Vec<&[u8]> = name.labels_from_root().collect();
    let question = question.unwrap_or_default();
    let n_same = labels
        .iter()
        .zip(question)
        .take_while(|(a, b)| a == b)
        .count();
    for label in labels[n_same..].iter().rev() {
        // At most 63, which fits.
        out.push(u8::try_from(label.len()).unwrap_or(0));
        out.extend_from_slice(label);
    }
    if n_same == 0 {
        out.push(0);
        return;
    }
    let before: usize = question[n_same..].iter().map(|l| l.len() + 1).sum();
    // A name has at most 255 bytes.
    let pointer = 0xc000 | u16::try_from(HEADER + before).unwrap_or(0);
    out.extend_from_slice(&pointer.to_be_bytes());
}

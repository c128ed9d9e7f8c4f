//! Reading a question.

use super::{Fault, HEADER, name_end, plain_name_end, rcode, u16_at, u32_at};
use crate::zone::{DnsName, RType};

/// What a question's OPT record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// Largest UDP answer that the asker takes.
    pub payload: u16,
    /// Wants DNSSEC's records.
    pub dnssec_ok: bool,
}

/// A question that can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// To be repeated.
    pub id: u16,
    /// Recursion desired.
    pub recursion: bool,
    /// Checking disabled.
    pub checking_disabled: bool,
    /// The question's bytes: name (letter case as asked, no pointers), type, class.
    pub question: &'a [u8],
    /// What is asked for.
    pub rtype: RType,
    /// 1 is IN.
    pub class: u16,
    /// If the asker speaks EDNS.
    pub edns: Option<Edns>,
}

/// A message that is no such question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused<'a> {
    /// Why.
    pub fault: Fault,
    /// What to answer; nothing if it can't or must not be answered.
    pub reply: Option<super::ErrorReply<'a>>,
}

impl<'a> Query<'a> {
    /// Reads a message. Total; takes time in proportion to its length.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Refused<'a>> {
        let silent = |fault| Refused { fault, reply: None };
        let (Some(id), Some(flags)) = (u16_at(bytes, 0), u16_at(bytes, 2)) else {
            return Err(silent(Fault::Short));
        };
        if bytes.len() < HEADER {
            return Err(silent(Fault::Short));
        }
        if flags & 0x8000 != 0 {
            return Err(silent(Fault::Response));
        }
        let mut reply = super::ErrorReply {
            id,
            flags,
            code: rcode::FORMERR,
            question: &[],
            has_edns: false,
        };
        let refuse = |reply: super::ErrorReply<'a>, fault| Refused {
            fault,
            reply: Some(reply),
        };
        if flags & 0x7800 != 0 {
            reply.code = rcode::NOTIMP;
            return Err(refuse(reply, Fault::Operation));
        }
        let count = |at| u16_at(bytes, at).unwrap_or(0);
        if count(4) != 1 {
            return Err(refuse(reply, Fault::Questions));
        }
        let name_end = plain_name_end(bytes, HEADER);
        let Some((name_end, question)) =
            name_end.and_then(|end| Some((end, bytes.get(HEADER..end + 4)?)))
        else {
            return Err(refuse(reply, Fault::Malformed));
        };
        reply.question = question;
        if count(6) != 0 {
            return Err(refuse(reply, Fault::Answers));
        }
        let edns = match edns(bytes, name_end + 4, count(8), count(10)) {
            Ok(edns) => edns,
            Err(fault) => {
                if fault == Fault::EdnsVersion {
                    reply.code = rcode::BADVERS;
                    reply.has_edns = true;
                }
                return Err(refuse(reply, fault));
            }
        };
        Ok(Self {
            id,
            recursion: flags & 0x0100 != 0,
            checking_disabled: flags & 0x0010 != 0,
            question,
            rtype: RType(count(name_end)),
            class: count(name_end + 2),
            edns,
        })
    }

    /// The name's bytes on the wire, its root's 0 included.
    pub fn name_wire(&self) -> &'a [u8] {
        &self.question[..self.question.len() - 4]
    }

    /// The name.
    pub fn name(&self) -> DnsName {
        // Checked when it was read.
        DnsName::from_wire(self.name_wire()).unwrap_or_default()
    }

    /// Most bytes that an answer over UDP may have.
    pub fn udp_limit(&self) -> usize {
        usize::from(self.edns.map_or(super::UDP_PLAIN, |e| {
            e.payload.clamp(super::UDP_PLAIN, super::UDP_PAYLOAD)
        }))
    }

    /// An answer without records.
    pub fn error(&self, code: u16) -> super::ErrorReply<'a> {
        super::ErrorReply {
            id: self.id,
            flags: u16::from(self.recursion) << 8 | u16::from(self.checking_disabled) << 4,
            code,
            question: self.question,
            has_edns: self.edns.is_some(),
        }
    }

    /// A message that asks the same of somebody else, under an id of one's own.
    pub fn write(&self, id: u16, with_edns: bool) -> Vec<u8> {
        let flags = u16::from(self.recursion) << 8 | u16::from(self.checking_disabled) << 4;
        let mut out = Vec::with_capacity(HEADER + self.question.len() + 11);
        for word in [id, flags, 1, 0, 0, u16::from(with_edns)] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(self.question);
        if with_edns {
            let dnssec_ok = self.edns.is_some_and(|e| e.dnssec_ok);
            super::reply::write_opt(&mut out, rcode::NOERROR, dnssec_ok);
        }
        out
    }
}

/// A message that asks for `name`, recursion desired, without EDNS.
pub fn question(id: u16, name: &DnsName, rtype: RType) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + 64);
    for word in [id, 0x0100, 1, 0, 0, 0] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(&name.to_wire());
    out.extend_from_slice(&rtype.0.to_be_bytes());
    out.extend_from_slice(&1u16.to_be_bytes());
    out
}

/// The OPT record among the records after the question, if all of them are whole.
fn edns(
    bytes: &[u8],
    at: usize,
    n_authority: u16,
    n_additional: u16,
) -> Result<Option<Edns>, Fault> {
    let mut at = at;
    let mut found = None;
    // The common case: nothing, or OPT alone.
    for i in 0..u32::from(n_authority) + u32::from(n_additional) {
        let owner = at;
        let body = name_end(bytes, at).ok_or(Fault::Malformed)?;
        let rtype = u16_at(bytes, body).ok_or(Fault::Malformed)?;
        let len = u16_at(bytes, body + 8).ok_or(Fault::Malformed)?;
        at = body + 10 + usize::from(len);
        if at > bytes.len() {
            return Err(Fault::Malformed);
        }
        if RType(rtype) != RType::OPT {
            continue;
        }
        if found.is_some() || body != owner + 1 || i < u32::from(n_authority) {
            return Err(Fault::Edns);
        }
        let ttl = u32_at(bytes, body + 4).ok_or(Fault::Malformed)?;
        if (ttl >> 16) & 0xff != 0 {
            return Err(Fault::EdnsVersion);
        }
        found = Some(Edns {
            payload: u16_at(bytes, body + 2).ok_or(Fault::Malformed)?,
            dnssec_ok: ttl & 0x8000 != 0,
        });
    }
    Ok(found)
}

//! What zones hold and what is asked of them: types, data, records, questions, answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{DnsName, NameError};

/// What is asked for, as numbers on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RType(pub u16);

impl RType {
    /// IPv4 address.
    pub const A: Self = Self(1);
    /// Name server.
    pub const NS: Self = Self(2);
    /// Another name of the same (only in answers of upstreams).
    pub const CNAME: Self = Self(5);
    /// Start of authority.
    pub const SOA: Self = Self(6);
    /// Name of an address.
    pub const PTR: Self = Self(12);
    /// Text.
    pub const TXT: Self = Self(16);
    /// IPv6 address.
    pub const AAAA: Self = Self(28);
    /// Service location (RFC 2782).
    pub const SRV: Self = Self(33);
    /// EDNS (RFC 6891).
    pub const OPT: Self = Self(41);
    /// Incremental zone transfer.
    pub const IXFR: Self = Self(251);
    /// Zone transfer.
    pub const AXFR: Self = Self(252);
    /// Whatever there is.
    pub const ANY: Self = Self(255);

    /// The types that zones hold, with their names in text.
    pub const NAMED: [(Self, &'static str); 8] = [
        (Self::A, "A"),
        (Self::AAAA, "AAAA"),
        (Self::SRV, "SRV"),
        (Self::PTR, "PTR"),
        (Self::TXT, "TXT"),
        (Self::NS, "NS"),
        (Self::SOA, "SOA"),
        (Self::ANY, "ANY"),
    ];

    /// By its name, letter case aside.
    pub fn from_name(name: &str) -> Option<Self> {
        let mut all = Self::NAMED.iter();
        all.find(|(_, n)| n.eq_ignore_ascii_case(name))
            .map(|(t, _)| *t)
    }
}

/// The name, or RFC 3597's `TYPE65` for what has none here.
impl std::fmt::Display for RType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match Self::NAMED.iter().find(|(t, _)| t == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

/// Data of one record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RData {
    /// An address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// A name server.
    Ns(DnsName),
    /// Whose address it is.
    Ptr(DnsName),
    /// Start of authority; refresh, retry and expire are dcos-net's constants.
    Soa {
        /// Primary server.
        mname: DnsName,
        /// Mailbox of the operator.
        rname: DnsName,
        /// Version of the zone.
        serial: u32,
        /// Seconds that a negative answer may be cached.
        minimum: u32,
    },
    /// Where a service's port is; priority and weight are 0.
    Srv {
        /// Port on the target.
        port: u16,
        /// Whose A record has the address.
        target: DnsName,
    },
    /// Strings of at most 255 bytes each; what is longer is cut.
    Txt(Vec<String>),
}

impl RData {
    /// The type that asks for it.
    pub const fn rtype(&self) -> RType {
        match self {
            Self::A(_) => RType::A,
            Self::Aaaa(_) => RType::AAAA,
            Self::Ns(_) => RType::NS,
            Self::Ptr(_) => RType::PTR,
            Self::Soa { .. } => RType::SOA,
            Self::Srv { .. } => RType::SRV,
            Self::Txt(_) => RType::TXT,
        }
    }
}

impl From<IpAddr> for RData {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::A(ip),
            IpAddr::V6(ip) => Self::Aaaa(ip),
        }
    }
}

/// A record of an answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rr {
    /// Whose it is.
    pub owner: DnsName,
    /// Seconds.
    pub ttl: u32,
    /// The data.
    pub data: RData,
}

/// A question, class IN.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// The name.
    pub name: DnsName,
    /// The type.
    pub rtype: RType,
}

impl Question {
    /// From text.
    pub fn new(name: &str, rtype: RType) -> Result<Self, NameError> {
        let name = DnsName::parse(name)?;
        Ok(Self { name, rtype })
    }
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// There are records.
    Found,
    /// The name is there (perhaps only above other names), but has no such record: NOERROR without answer.
    NoData,
    /// No such name, and none below it.
    NxDomain,
    /// Zone transfers are not offered.
    Refused,
    /// The name is in no zone of ours.
    NotOurs,
}

/// An answer's sections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What became of it.
    pub outcome: Outcome,
    /// Answer section.
    pub answers: Vec<Rr>,
    /// Authority section: the SOA when the answer is negative (RFC 2308).
    pub authority: Vec<Rr>,
    /// Additional section: addresses of SRV targets and name servers.
    pub additional: Vec<Rr>,
}

impl Answer {
    pub(super) const fn empty(outcome: Outcome) -> Self {
        Self {
            outcome,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
        }
    }
}

//! The DNS zones of the cluster, as one immutable value, and answers from it.
//!
//! Served zones: `mesos`, `dcos.thisdcos.directory`, `l4lb.thisdcos.directory`, their parent
//! `thisdcos.directory`, `spartan`, and DC/OS's aliases `dclb.thisdcos.directory` and `*.thisdcos.global`.
//! For every other name the outcome is [`Outcome::NotOurs`]: it is forwarded.
//!
//! TTLs are 5 s. CONTRACTS section 3 lists 60 s for `.mesos` because mesos-dns polls every 30 s; here changes
//! are pushed, so a longer TTL would only make clients wait longer. NS records have 3600 s as in dcos-net.
//!
//! Not yet (left to the full DNS): AAAA data, PTR, `zk`, the crypto-id alias, DNSSEC.

mod build;
mod name;
mod sha1;

use std::{collections::BTreeMap, net::Ipv4Addr};

pub use self::{
    build::{ZoneOptions, zone, zone_with},
    name::{DnsName, NameError},
};

/// Seconds that a record may be cached.
pub const TTL: u32 = 5;
/// Seconds that NS records may be cached.
pub const NS_TTL: u32 = 3600;

/// What is asked for, as numbers on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RType(pub u16);

impl RType {
    /// IPv4 address.
    pub const A: Self = Self(1);
    /// Name server.
    pub const NS: Self = Self(2);
    /// Start of authority.
    pub const SOA: Self = Self(6);
    /// IPv6 address.
    pub const AAAA: Self = Self(28);
    /// Service location (RFC 2782).
    pub const SRV: Self = Self(33);
    /// Incremental zone transfer.
    pub const IXFR: Self = Self(251);
    /// Zone transfer.
    pub const AXFR: Self = Self(252);
    /// Whatever there is.
    pub const ANY: Self = Self(255);
}

/// Data of one record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RData {
    /// An address.
    A(Ipv4Addr),
    /// A name server.
    Ns(DnsName),
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
}

impl RData {
    /// The type that asks for it.
    pub const fn rtype(&self) -> RType {
        match self {
            Self::A(_) => RType::A,
            Self::Ns(_) => RType::NS,
            Self::Soa { .. } => RType::SOA,
            Self::Srv { .. } => RType::SRV,
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
    /// Additional section: addresses of SRV targets.
    pub additional: Vec<Rr>,
}

impl Answer {
    const fn empty(outcome: Outcome) -> Self {
        Self {
            outcome,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
        }
    }
}

/// Records of one name, sorted and without doubles.
type Node = Vec<(u32, RData)>;

/// All zones of a cluster, at one moment. Build it with [`zone()`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    serial: u32,
    /// Names with records and the names above them (RFC 8020: those exist too).
    nodes: BTreeMap<DnsName, Node>,
    apexes: Vec<DnsName>,
    /// Ends of names that stand for other ends, longest first.
    aliases: Vec<(DnsName, DnsName)>,
}

impl Zone {
    /// Version, as in the SOA.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Number of names, those without records of their own included.
    pub fn n_names(&self) -> usize {
        self.nodes.len()
    }

    /// Whether `name` is in a zone of ours.
    pub fn is_ours(&self, name: &DnsName) -> bool {
        is_ours(name)
    }

    /// Every record in order of names, for tables and golden text.
    pub fn records(&self) -> impl Iterator<Item = Rr> + '_ {
        self.nodes.iter().flat_map(|(owner, node)| {
            node.iter().map(|(ttl, data)| Rr {
                owner: owner.clone(),
                ttl: *ttl,
                data: data.clone(),
            })
        })
    }

    /// Answers a question; total.
    pub fn answer(&self, question: &Question) -> Answer {
        let (name, alias) = self.resolve_alias(&question.name);
        let Some(apex) = self
            .apexes
            .iter()
            .filter(|a| name.is_within(a))
            .max_by_key(|a| a.labels_from_root().count())
        else {
            return Answer::empty(Outcome::NotOurs);
        };
        if matches!(question.rtype, RType::AXFR | RType::IXFR) {
            return Answer::empty(Outcome::Refused);
        }
        let node = self.nodes.get(&name);
        let mut answer = Answer::empty(match node {
            None => Outcome::NxDomain,
            Some(_) => Outcome::NoData,
        });
        for (ttl, data) in node.into_iter().flatten() {
            if question.rtype == RType::ANY || data.rtype() == question.rtype {
                answer.outcome = Outcome::Found;
                answer.answers.push(Rr {
                    owner: question.name.clone(),
                    ttl: *ttl,
                    data: data.clone(),
                });
            }
        }
        if answer.outcome == Outcome::Found {
            answer.additional = self.additional(&answer.answers);
        } else {
            answer.authority = self.negative(apex, alias);
        }
        answer
    }

    fn resolve_alias<'a>(&'a self, asked: &DnsName) -> (DnsName, Option<&'a (DnsName, DnsName)>) {
        for alias in &self.aliases {
            if let Some(name) = asked.rebase(&alias.0, &alias.1) {
                return (name, Some(alias));
            }
        }
        (asked.clone(), None)
    }

    fn additional(&self, answers: &[Rr]) -> Vec<Rr> {
        let mut out: Vec<Rr> = Vec::new();
        for rr in answers {
            let (RData::Srv { target, .. } | RData::Ns(target)) = &rr.data else {
                continue;
            };
            for (ttl, data) in self.nodes.get(target).into_iter().flatten() {
                if data.rtype() == RType::A {
                    out.push(Rr {
                        owner: target.clone(),
                        ttl: *ttl,
                        data: data.clone(),
                    });
                }
            }
        }
        out.sort();
        out.dedup();
        out
    }

    /// The zone's SOA; under an alias with the owner that the asker can see above the name asked for.
    fn negative(&self, apex: &DnsName, alias: Option<&(DnsName, DnsName)>) -> Vec<Rr> {
        let owner = match alias {
            Some((from, to)) => apex.rebase(to, from).unwrap_or_else(|| from.clone()),
            None => apex.clone(),
        };
        let soa = self.nodes.get(apex).into_iter().flatten();
        soa.filter(|(_, d)| d.rtype() == RType::SOA)
            .map(|(_, data)| Rr {
                owner: owner.clone(),
                // RFC 2308 section 5: the smaller of the SOA's TTL and its minimum.
                ttl: match data {
                    RData::Soa { minimum, .. } => TTL.min(*minimum),
                    _ => TTL,
                },
                data: data.clone(),
            })
            .collect()
    }
}

/// Whether `name` is in a zone that every Waggle cluster serves, whatever its state; what has no zone yet
/// (an agent that just started) must not forward such a name.
pub fn is_ours(name: &DnsName) -> bool {
    let Some(top) = name.labels_from_root().next() else {
        return false;
    };
    let second = name.labels_from_root().nth(1);
    match top {
        b"mesos" | b"spartan" => true,
        b"directory" | b"global" => second == Some(b"thisdcos"),
        _ => false,
    }
}

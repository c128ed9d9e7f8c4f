//! The DNS zones of the cluster, as one immutable value, and answers from it.
//!
//! Served zones: `mesos`, `dcos.thisdcos.directory`, `l4lb.thisdcos.directory`, their parent
//! `thisdcos.directory`, `spartan`, `zk`, `localhost`, the addresses of the cluster in `in-addr.arpa` and `ip6.arpa`,
//! and DC/OS's aliases: `dclb.thisdcos.directory`, `*.thisdcos.global`, `<zone>.<crypto-id>.dcos.directory`.
//! For every other name the outcome is [`Outcome::NotOurs`]: it is forwarded. That holds for addresses that are
//! not the cluster's too: each address of the cluster is a reverse zone of its own.
//!
//! TTLs are 5 s. CONTRACTS section 3 lists 60 s for `.mesos` because mesos-dns polls every 30 s; here changes
//! are pushed, so a longer TTL would only make clients wait longer. NS records have 3600 s as in dcos-net.
//!
//! Names beyond the contract: `<hostname>.node.dcos.thisdcos.directory` is an agent (what its address is named by),
//! and the TXT record of `_zone.thisdcos.directory` says what this node answers from: serial, generation, tasks.
//!
//! Which tasks a name of several holds is decided by [`HealthPolicy`]; a name of one task always holds it.
//! Not served: DNSSEC, and mesos-dns's 24-character names (off by default there too).

mod build;
mod listing;
mod name;
mod record;
mod reverse;
mod scope;
mod sha1;
mod trace;

use std::collections::BTreeMap;

pub use self::{
    build::{ZoneOptions, zone, zone_with},
    listing::{HealthPolicy, Listed, listing},
    name::{DnsName, NameError},
    record::{Answer, Outcome, Question, RData, RType, Rr},
    reverse::{reverse_address, reverse_name},
    scope::Scope,
    trace::{Rule, Trace, trace},
};

/// Seconds that a record may be cached.
pub const TTL: u32 = 5;
/// Seconds that NS records may be cached.
pub const NS_TTL: u32 = 3600;

/// Records of one name, sorted and without doubles.
type Node = Vec<(u32, RData)>;

/// All zones of a cluster, at one moment. Build it with [`zone()`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    serial: u32,
    /// Names with records and the names above them (RFC 8020: those exist too).
    nodes: BTreeMap<DnsName, Node>,
    scope: Scope,
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

    /// Whether `name` is in a zone of ours: [`Scope::is_ours`], and addresses of the cluster.
    pub fn is_ours(&self, name: &DnsName) -> bool {
        self.scope.is_ours(name) || self.is_reverse(name)
    }

    /// Number of records.
    pub fn n_records(&self) -> usize {
        self.nodes.values().map(Vec::len).sum()
    }

    /// Whether `name` has records or names below it.
    pub fn exists(&self, name: &DnsName) -> bool {
        self.nodes.contains_key(name)
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
        let (name, alias) = self.scope.resolve(&question.name);
        let Some(apex) = self.apex(&name) else {
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

    /// An address of the cluster is the apex of a zone that holds only itself.
    fn is_reverse(&self, name: &DnsName) -> bool {
        name.labels_from_root().next() == Some(b"arpa")
            && self.nodes.get(name).is_some_and(|node| !node.is_empty())
    }

    fn apex<'a>(&'a self, name: &'a DnsName) -> Option<&'a DnsName> {
        let reverse = || self.is_reverse(name).then_some(name);
        self.scope.apex(name).or_else(reverse)
    }

    fn additional(&self, answers: &[Rr]) -> Vec<Rr> {
        let mut out: Vec<Rr> = Vec::new();
        for rr in answers {
            let (RData::Srv { target, .. } | RData::Ns(target)) = &rr.data else {
                continue;
            };
            for (ttl, data) in self.nodes.get(target).into_iter().flatten() {
                if matches!(data, RData::A(_) | RData::Aaaa(_)) {
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

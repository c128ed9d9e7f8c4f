//! Whether an agent may go on as another than it was: Mesos's `--reconfiguration_policy`.
//!
//! The agent writes down what it registers as, and compares when it starts. Its address is not compared (Mesos's is not, either).
//! `any`, which Mesos does not have, is the default here: the master takes an agent with other resources, and what does not fit any
//! more gives way, so nothing has to be wiped for a machine that got a larger disk.

use std::{fmt, io, path::Path};

use prost::Message as _;
use waggle_api::proto::session as pb;
use waggle_types::{AgentInfo, Resources};

use crate::{AgentError, shim::write_durably};

const FILE: &str = "agent_info.pb";

/// What of an agent may change from one start to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reconfiguration {
    /// Nothing.
    Equal,
    /// It may have more than before: resources, attributes, a domain.
    Additive,
    /// Anything.
    #[default]
    Any,
}

impl Reconfiguration {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Equal, Self::Additive, Self::Any];

    /// As flags have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Additive => "additive",
            Self::Any => "any",
        }
    }
}

impl fmt::Display for Reconfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Refuses an agent that is not what it was, and writes down what it is. Blocking.
pub fn settle(
    work_dir: &Path,
    info: &AgentInfo,
    policy: Reconfiguration,
) -> Result<(), AgentError> {
    let path = work_dir.join(FILE);
    if policy != Reconfiguration::Any
        && let Some(before) = read(&path).map_err(AgentError::file("read", &path))?
    {
        let what = differences(&before, info, policy);
        if !what.is_empty() {
            let what = what.join("; ");
            return Err(AgentError::Reconfigured { policy, what });
        }
    }
    let now = pb::AgentInfo::from(info).encode_to_vec();
    write_durably(&path, &now).map_err(AgentError::file("write", &path))
}

fn read(path: &Path) -> io::Result<Option<AgentInfo>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let invalid = |e: &dyn fmt::Display| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
    let message = pb::AgentInfo::decode(bytes.as_slice()).map_err(|e| invalid(&e))?;
    let info = AgentInfo::try_from(message).map_err(|e| invalid(&e))?;
    Ok(Some(info))
}

/// What the policy does not allow to be other than before, for people.
fn differences(before: &AgentInfo, now: &AgentInfo, policy: Reconfiguration) -> Vec<String> {
    let mut out = Vec::new();
    let more = match policy {
        Reconfiguration::Any => return out,
        Reconfiguration::Additive => true,
        Reconfiguration::Equal => false,
    };
    let mut differs = |what: &str, was: &dyn fmt::Display, is: &dyn fmt::Display| {
        out.push(format!("{what} was {was}, is {is}"));
    };
    if before.hostname != now.hostname {
        differs("hostname", &before.hostname, &now.hostname);
    }
    if before.http_port != now.http_port {
        differs("http port", &before.http_port, &now.http_port);
    }
    let domain = |a: &AgentInfo| {
        let d = a.domain.as_ref();
        d.map_or_else(|| "none".to_owned(), |d| format!("{}/{}", d.region, d.zone))
    };
    if before.domain != now.domain && !(more && before.domain.is_none()) {
        differs("domain", &domain(before), &domain(now));
    }
    let fits = |was: &Resources, is: &Resources| if more { is.contains(was) } else { is == was };
    let none = Resources::default();
    let reserved = |a: &AgentInfo, role: &str| {
        let mut all = a.reserved.iter();
        let of = all.find(|(r, _)| r == role).map(|(_, of)| of.clone());
        of.unwrap_or_else(|| none.clone())
    };
    let roles = before.reserved.iter().chain(&now.reserved);
    let mut roles: Vec<&String> = roles.map(|(role, _)| role).collect();
    roles.sort();
    roles.dedup();
    for role in roles {
        let (was, is) = (reserved(before, role), reserved(now, role));
        if !fits(&was, &is) {
            differs(&format!("what is reserved for role {role}"), &was, &is);
        }
    }
    let (was, is) = (unreserved(before), unreserved(now));
    if !fits(&was, &is) {
        differs("what is unreserved", &was, &is);
    }
    let missing = "none".to_owned();
    for (name, was) in &before.attributes {
        let is = now.attributes.get(name).unwrap_or(&missing);
        if now.attributes.get(name) != Some(was) {
            differs(&format!("attribute {name}"), was, is);
        }
    }
    for (name, is) in &now.attributes {
        if !more && !before.attributes.contains_key(name) {
            differs(&format!("attribute {name}"), &missing, is);
        }
    }
    out
}

fn unreserved(a: &AgentInfo) -> Resources {
    let mut out = a.total.clone();
    for (_, of) in &a.reserved {
        // An agent reserves no more than it has.
        out = out.checked_sub(of).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr};

    use waggle_types::{AgentId, Domain, PortRange, PortSet};

    use super::*;

    fn ports(begin: u16, end: u16) -> PortSet {
        PortSet::from_ranges([PortRange { begin, end }])
    }

    fn agent() -> AgentInfo {
        AgentInfo {
            agent_id: AgentId::new("a").unwrap(),
            hostname: "n1".to_owned(),
            ip: Ipv4Addr::new(10, 0, 0, 1),
            ip6: None,
            http_port: 5051,
            total: Resources::from_millis(4000, 1_000_000, 0).with_ports(ports(31000, 32000)),
            reserved: vec![("eng".to_owned(), Resources::from_millis(1000, 0, 0))],
            attributes: BTreeMap::from([("rack".to_owned(), "a1".to_owned())]),
            domain: None,
        }
    }

    fn other(change: impl FnOnce(&mut AgentInfo)) -> AgentInfo {
        let mut info = agent();
        change(&mut info);
        info
    }

    /// What each policy says, `equal` first.
    fn both(now: &AgentInfo) -> [Vec<String>; 2] {
        assert!(differences(&agent(), now, Reconfiguration::Any).is_empty());
        [Reconfiguration::Equal, Reconfiguration::Additive].map(|p| differences(&agent(), now, p))
    }

    #[test]
    fn the_same_and_another_address_are_allowed_by_all() {
        for now in [agent(), other(|a| a.ip = Ipv4Addr::new(10, 0, 0, 9))] {
            assert_eq!(both(&now), [Vec::<String>::new(), Vec::new()]);
        }
    }

    #[test]
    fn more_of_it_is_only_another_agent_to_equal() {
        let more = [
            other(|a| {
                a.total =
                    Resources::from_millis(5000, 1_000_000, 0).with_ports(ports(31000, 33000));
            }),
            other(|a| a.attributes.extend([("zone".to_owned(), "x".to_owned())])),
            other(|a| a.reserved.push(("ops".to_owned(), Resources::default()))),
            other(|a| {
                a.domain = Some(Domain {
                    region: "eu".to_owned(),
                    zone: "a".to_owned(),
                });
            }),
        ];
        for now in more {
            let [equal, additive] = both(&now);
            assert!(additive.is_empty(), "{additive:?}");
            let nothing = now.reserved.len() == 2;
            assert_eq!(equal.is_empty(), nothing, "{equal:?}");
        }
    }

    #[test]
    fn less_or_other_is_named() {
        let less: [(AgentInfo, &str); 6] = [
            (
                other(|a| a.hostname = "n2".to_owned()),
                "hostname was n1, is n2",
            ),
            (other(|a| a.http_port = 1), "http port was 5051, is 1"),
            (
                other(|a| a.total.scalars[0].0 -= 1),
                "what is unreserved was cpus:3",
            ),
            (
                other(|a| a.reserved.clear()),
                "what is reserved for role eng was cpus:1",
            ),
            (
                other(|a| drop(a.attributes.insert("rack".to_owned(), "a2".to_owned()))),
                "attribute rack was a1, is a2",
            ),
            (
                other(|a| a.attributes.clear()),
                "attribute rack was a1, is none",
            ),
        ];
        for (now, why) in less {
            for said in both(&now) {
                assert!(said.iter().any(|s| s.starts_with(why)), "{why}: {said:?}");
            }
        }
        let placed = other(|a| {
            a.domain = Some(Domain {
                region: "eu".to_owned(),
                zone: "a".to_owned(),
            });
        });
        let said = differences(&placed, &agent(), Reconfiguration::Additive);
        assert_eq!(said, ["domain was eu/a, is none"]);
    }

    #[test]
    fn what_it_is_is_written_down_unless_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let start = |info: &AgentInfo, policy| settle(dir.path(), info, policy);
        start(&agent(), Reconfiguration::Equal).unwrap();
        start(&agent(), Reconfiguration::Equal).unwrap();
        let more = other(|a| a.total.scalars[0].0 += 1000);
        for _ in 0..2 {
            let refused = start(&more, Reconfiguration::Equal).unwrap_err();
            let text = refused.to_string();
            assert!(text.contains("equal") && text.contains("cpus"), "{text}");
        }
        start(&more, Reconfiguration::Additive).unwrap();
        assert!(start(&agent(), Reconfiguration::Additive).is_err());
        start(&agent(), Reconfiguration::Any).unwrap();
        start(&agent(), Reconfiguration::Equal).unwrap();
        std::fs::write(dir.path().join(FILE), b"\xff").unwrap();
        assert!(start(&agent(), Reconfiguration::Equal).is_err());
        start(&agent(), Reconfiguration::Any).unwrap();
        start(&agent(), Reconfiguration::Equal).unwrap();
    }
}

//! Network policies: which tasks may speak with whom, as operators write it down.
//!
//! A policy selects tasks and says, for ingress and for egress, who may be a peer. A direction that some policy of a task
//! speaks of is closed but for what any of them allows; there are no rules that forbid, so their order means nothing. A direction
//! that no policy speaks of stays open. A policy in audit mode changes nothing: what it would drop passes and is counted.
//!
//! Only tasks with an address of their own are selected and can be peers by what they are; tasks in host mode are their
//! node ([`PolicyPeer::Nodes`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use crate::{FieldError, IpNet, check_role};

/// Most policies in a cluster.
pub const MAX_POLICIES: usize = 1024;
/// Most rules of one policy, both directions together.
pub const MAX_POLICY_RULES: usize = 10_000;
/// Most rules of all policies together.
pub const MAX_ALL_POLICY_RULES: usize = 20_000;
/// Most peers of a rule, and most port ranges of one.
pub const MAX_RULE_PARTS: usize = 256;
/// Most label tests of a selector, most values of one test, most exceptions of a network.
pub const MAX_SELECTOR_PARTS: usize = 64;
/// Most different label keys that all policies together may ask for: tasks' labels with these keys go to every node.
pub const MAX_POLICY_KEYS: usize = 128;
/// Most bytes of a label's key or value in a selector. A longer value of a task equals nothing that can be written here.
pub const MAX_POLICY_LABEL: usize = 128;

/// What a task is to policies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PolicySubject {
    /// The network that its address is of.
    pub network: String,
    /// Framework's DNS name.
    pub framework: String,
    /// Role whose resources it has.
    pub role: String,
    /// The service's path, `/shop/cart`; empty for tasks of other frameworks.
    pub service: String,
    /// Labels; only those with keys that some policy asks for.
    pub labels: BTreeMap<String, String>,
}

/// A path, or all below one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathMatch {
    /// `/shop/cart`.
    Is(String),
    /// `/shop/*`: what is below, the path itself not.
    Below(String),
}

impl PathMatch {
    /// Reads `a/b` or `a/b/*`.
    pub fn parse(text: &str) -> Self {
        match text.strip_suffix("/*") {
            Some(above) => Self::Below(above.to_owned()),
            None => Self::Is(text.to_owned()),
        }
    }

    /// Whether a path is meant.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Is(wanted) => wanted == path,
            Self::Below(above) => path
                .strip_prefix(above.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.starts_with('/')),
        }
    }

    fn path(&self) -> &str {
        match self {
            Self::Is(path) | Self::Below(path) => path,
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(path) => f.write_str(path),
            Self::Below(above) => write!(f, "{above}/*"),
        }
    }
}

/// Which networks a selector means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum NetworkMatch {
    /// Nothing is said: of a peer, the network of the task whose policy it is; of a policy's own tasks, any network.
    #[default]
    Unsaid,
    /// That one.
    Named(String),
    /// Any, `*`.
    Any,
}

/// What a label's value must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LabelTest {
    /// This value.
    Is(String),
    /// One of these.
    In(BTreeSet<String>),
    /// Any.
    Exists,
}

impl LabelTest {
    fn holds(&self, value: Option<&String>) -> bool {
        match (self, value) {
            (_, None) => false,
            (Self::Is(wanted), Some(value)) => wanted == value,
            (Self::In(wanted), Some(value)) => wanted.contains(value),
            (Self::Exists, Some(_)) => true,
        }
    }
}

/// Tasks by what they are: all of what is said must hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TaskSelector {
    /// Network.
    pub network: NetworkMatch,
    /// Framework's DNS name.
    pub framework: Option<String>,
    /// Role, or roles below one.
    pub role: Option<PathMatch>,
    /// Service, or services below a path.
    pub service: Option<PathMatch>,
    /// Labels by key.
    pub labels: BTreeMap<String, LabelTest>,
}

impl TaskSelector {
    /// Whether a task is meant. `home` is the network of the task whose policy it is, for a peer.
    pub fn matches(&self, task: &PolicySubject, home: Option<&str>) -> bool {
        let network = match &self.network {
            NetworkMatch::Unsaid => home.is_none_or(|home| home == task.network),
            NetworkMatch::Named(name) => *name == task.network,
            NetworkMatch::Any => true,
        };
        let path = |wanted: &Option<PathMatch>, has: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted.matches(has))
        };
        network
            && self.framework.as_ref().is_none_or(|f| *f == task.framework)
            && path(&self.role, &task.role)
            && path(&self.service, &task.service)
            && self
                .labels
                .iter()
                .all(|(key, test)| test.holds(task.labels.get(key)))
    }

    /// Whether it says nothing at all, and so would mean everybody by accident.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn check(&self, field: &str) -> Result<(), FieldError> {
        if let NetworkMatch::Named(name) = &self.network
            && (name.is_empty() || name.len() > 63)
        {
            let rule = "must be the name of a network, or * for any";
            return Err(FieldError::new(format!("{field}.network"), rule));
        }
        if let Some(role) = &self.role {
            check_role(role.path()).map_err(|e| {
                FieldError::new(format!("{field}.role"), format!("is no role: {}", e.rule))
            })?;
        }
        if let Some(service) = &self.service {
            let path = service.path();
            // Below the root, `/*`, has an empty path.
            let whole = path.starts_with('/') && path.len() > 1 && !path.ends_with('/');
            let root = matches!(service, PathMatch::Below(above) if above.is_empty());
            if (!whole && !root) || path.contains("//") || path.contains('*') {
                let rule =
                    format!("must be a service's path, or a path with /* behind, is {service:.80}");
                return Err(FieldError::new(format!("{field}.service"), rule));
            }
        }
        if self.framework.as_ref().is_some_and(String::is_empty) {
            let rule = "must not be empty";
            return Err(FieldError::new(format!("{field}.framework"), rule));
        }
        at_most(
            &format!("{field}.labels"),
            self.labels.len(),
            MAX_SELECTOR_PARTS,
        )?;
        for (key, test) in &self.labels {
            let at = format!("{field}.labels.{key:.40}");
            let short = |text: &str| text.len() <= MAX_POLICY_LABEL;
            let values: Vec<&String> = match test {
                LabelTest::Is(value) => vec![value],
                LabelTest::In(values) => values.iter().collect(),
                LabelTest::Exists => Vec::new(),
            };
            at_most(&at, values.len(), MAX_SELECTOR_PARTS)?;
            if matches!(test, LabelTest::In(_)) && values.is_empty() {
                return Err(FieldError::new(at, "no value is allowed: names nobody"));
            }
            if key.is_empty() || !short(key) || !values.iter().all(|v| short(v)) {
                let rule = format!("keys and values have at most {MAX_POLICY_LABEL} bytes");
                return Err(FieldError::new(at, rule));
            }
        }
        Ok(())
    }
}

/// DNS names: one, or all below one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamePattern {
    /// Lower case, without a dot behind.
    name: String,
    /// `*.`: any number of labels before the name, at least one.
    is_below: bool,
}

impl NamePattern {
    /// Reads `api.example.com` or `*.example.com`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.trim_end_matches('.').to_ascii_lowercase();
        let (name, is_below) = match lower.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (lower.as_str(), false),
        };
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.len() > 253 || !name.split('.').all(label) || name.parse::<IpAddr>().is_ok() {
            return Err(format!(
                "must be a DNS name such as api.example.com or *.example.com, is {text:.80?}"
            ));
        }
        let name = name.to_owned();
        Ok(Self { name, is_below })
    }

    /// Whether a name is meant: lower case, without a dot behind.
    pub fn matches(&self, name: &str) -> bool {
        if !self.is_below {
            return self.name == name;
        }
        name.strip_suffix(self.name.as_str())
            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.is_below { "*." } else { "" };
        write!(f, "{star}{}", self.name)
    }
}

/// Who may be on the other side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyPeer {
    /// Tasks with an address of their own.
    Tasks(TaskSelector),
    /// Addresses outside of the cluster's networks, and nodes' own. Never a task's: those are told by what they are.
    Cidr {
        /// Which.
        net: IpNet,
        /// But not these; all within it.
        except: Vec<IpNet>,
    },
    /// What the node's resolver said to the task itself about such a name, for as long as it said. Egress only.
    Name(NamePattern),
    /// The cluster's nodes, and what runs in host mode there.
    Nodes,
    /// The node's own resolver. Whoever may reach names may reach it, too.
    Resolver,
}

/// Protocols that rules tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6 that is no answer and no error: those pass with the flow that they belong to.
    Icmp,
}

impl PolicyProtocol {
    /// All, in order.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];

    /// `tcp`, `udp` or `icmp`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// Ports of the side that is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyPorts {
    /// Protocol.
    pub protocol: PolicyProtocol,
    /// The first one; 0 with 65535 is all, and so it is with ICMP.
    pub first: u16,
    /// The last one.
    pub last: u16,
}

impl PolicyPorts {
    /// All ports of a protocol.
    pub const fn all(protocol: PolicyProtocol) -> Self {
        Self {
            protocol,
            first: 0,
            last: u16::MAX,
        }
    }
}

impl fmt::Display for PolicyPorts {
    /// `tcp`, `tcp/80`, `udp/1000-2000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.protocol.name())?;
        match (self.first, self.last) {
            (0, u16::MAX) => Ok(()),
            (first, last) if first == last => write!(f, "/{first}"),
            (first, last) => write!(f, "/{first}-{last}"),
        }
    }
}

impl std::str::FromStr for PolicyPorts {
    type Err = String;

    /// `tcp`, `tcp/80`, `udp/1000-2000`, `icmp`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("must be such as tcp, tcp/80, udp/1000-2000 or icmp, is {text:.40?}");
        let (protocol, ports) = match text.split_once('/') {
            Some((protocol, ports)) => (protocol, Some(ports)),
            None => (text, None),
        };
        let mut all = PolicyProtocol::ALL.into_iter();
        let protocol = all.find(|p| p.name() == protocol).ok_or_else(wrong)?;
        let Some(ports) = ports else {
            return Ok(Self::all(protocol));
        };
        if protocol == PolicyProtocol::Icmp {
            return Err(format!("icmp has no ports, is {text:.40?}"));
        }
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |text: &str| text.parse::<u16>().ok().filter(|p| *p > 0);
        let first = port(first).ok_or_else(wrong)?;
        let last = port(last).ok_or_else(wrong)?;
        if first > last {
            return Err(format!(
                "the first port must not be above the last, is {text:.40?}"
            ));
        }
        Ok(Self {
            protocol,
            first,
            last,
        })
    }
}

/// One permission: any of these peers with any of these ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PolicyRule {
    /// Empty: everybody.
    pub peers: Vec<PolicyPeer>,
    /// Empty: every protocol and port.
    pub ports: Vec<PolicyPorts>,
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkPolicy {
    /// Unique in the cluster: a DNS label.
    pub name: String,
    /// Whose traffic it is about.
    pub selects: TaskSelector,
    /// Nothing is dropped by it: what it would drop is counted.
    pub audit: bool,
    /// Who may speak to the tasks; `None`: it says nothing about that.
    pub ingress: Option<Vec<PolicyRule>>,
    /// To whom the tasks may speak; `None`: it says nothing about that.
    pub egress: Option<Vec<PolicyRule>>,
}

impl NetworkPolicy {
    /// How many rules it has.
    pub fn n_rules(&self) -> usize {
        let n = |rules: &Option<Vec<PolicyRule>>| rules.as_ref().map_or(0, Vec::len);
        n(&self.ingress) + n(&self.egress)
    }

    /// Label keys that it asks for.
    pub fn label_keys(&self) -> BTreeSet<&str> {
        let rules = self.ingress.iter().chain(&self.egress).flatten();
        let peers = rules
            .flat_map(|rule| &rule.peers)
            .filter_map(|peer| match peer {
                PolicyPeer::Tasks(tasks) => Some(tasks),
                _ => None,
            });
        peers
            .chain([&self.selects])
            .flat_map(|selector| selector.labels.keys().map(String::as_str))
            .collect()
    }

    /// Whether it is well formed by itself.
    ///
    /// # Errors
    /// The first field that breaks a rule.
    pub fn check(&self) -> Result<(), FieldError> {
        check_policy_name(&self.name)?;
        if self.selects.is_empty() {
            let rule = "names nobody: say a network, role, service, framework or label, or network * for all tasks";
            return Err(FieldError::new("selects", rule));
        }
        self.selects.check("selects")?;
        if self.ingress.is_none() && self.egress.is_none() {
            let rule = "must be there, or egress; an empty list allows nobody";
            return Err(FieldError::new("ingress", rule));
        }
        at_most("rules", self.n_rules(), MAX_POLICY_RULES)?;
        for (direction, rules) in [("ingress", &self.ingress), ("egress", &self.egress)] {
            for (n, rule) in rules.iter().flatten().enumerate() {
                check_rule(&format!("{direction}[{n}]"), rule, direction == "egress")?;
            }
        }
        Ok(())
    }
}

/// A policy's name is a DNS label.
///
/// # Errors
/// Names the field `name`.
pub fn check_policy_name(name: &str) -> Result<(), FieldError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good {
        return Ok(());
    }
    let rule = format!("must be 1 to 63 of a-z, 0-9 and - (not first or last), is {name:.80?}");
    Err(FieldError::new("name", rule))
}

fn check_rule(field: &str, rule: &PolicyRule, is_egress: bool) -> Result<(), FieldError> {
    at_most(&format!("{field}.peers"), rule.peers.len(), MAX_RULE_PARTS)?;
    at_most(&format!("{field}.ports"), rule.ports.len(), MAX_RULE_PARTS)?;
    for (n, peer) in rule.peers.iter().enumerate() {
        let at = format!("{field}.peers[{n}]");
        match peer {
            PolicyPeer::Tasks(tasks) if tasks.is_empty() => {
                let rule = "names nobody: say a network, role, service, framework or label, or network * for all tasks";
                return Err(FieldError::new(at, rule));
            }
            PolicyPeer::Tasks(tasks) => tasks.check(&at)?,
            PolicyPeer::Cidr { net, except } => {
                at_most(&format!("{at}.except"), except.len(), MAX_SELECTOR_PARTS)?;
                for (net, at) in except
                    .iter()
                    .map(|e| (e, format!("{at}.except")))
                    .chain([(net, at.clone())])
                {
                    if is_mapped(*net) {
                        let rule = format!("{net} stands for addresses of IPv4: say them as such");
                        return Err(FieldError::new(at, rule));
                    }
                }
                if let Some(outside) = except.iter().find(|e| !net.covers(**e) || *e == net) {
                    let rule = format!("must be within {net} and smaller, is {outside}");
                    return Err(FieldError::new(format!("{at}.except"), rule));
                }
            }
            PolicyPeer::Name(_) if !is_egress => {
                return Err(FieldError::new(at, "names are of egress rules only"));
            }
            PolicyPeer::Resolver if !is_egress => {
                return Err(FieldError::new(
                    at,
                    "the resolver dials nobody: egress only",
                ));
            }
            PolicyPeer::Name(_) | PolicyPeer::Nodes | PolicyPeer::Resolver => {}
        }
    }
    for (n, ports) in rule.ports.iter().enumerate() {
        let all = (ports.first, ports.last) == (0, u16::MAX);
        if ports.first > ports.last || (ports.protocol == PolicyProtocol::Icmp && !all) {
            let rule = "the first port must not be above the last; icmp has none";
            return Err(FieldError::new(format!("{field}.ports[{n}]"), rule));
        }
    }
    Ok(())
}

/// Whether it is a net of addresses that stand for IPv4's (RFC 4291 section 2.5.5.2), which no packet has.
fn is_mapped(net: IpNet) -> bool {
    matches!(net.ip(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some()) && net.prefix() >= 96
}

fn at_most(field: &str, n: usize, most: usize) -> Result<(), FieldError> {
    if n <= most {
        return Ok(());
    }
    Err(FieldError::new(
        field,
        format!("must be at most {most}, is {n}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> NetworkPolicy {
        NetworkPolicy {
            name: "db".into(),
            selects: TaskSelector {
                service: Some(PathMatch::parse("/shop/db")),
                ..TaskSelector::default()
            },
            audit: false,
            ingress: Some(vec![PolicyRule::default()]),
            egress: None,
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let selector = |service: &str| TaskSelector {
            service: Some(PathMatch::parse(service)),
            ..TaskSelector::default()
        };
        let peer = |peer| PolicyRule {
            peers: vec![peer],
            ports: Vec::new(),
        };
        let cidr = |net: &str, except: &str| PolicyPeer::Cidr {
            net: net.parse().unwrap(),
            except: vec![except.parse().unwrap()],
        };
        let mut p = policy();
        p.name = "A".into();
        assert_eq!(p.check().unwrap_err().field, "name");
        let mut p = policy();
        p.selects = TaskSelector::default();
        assert_eq!(p.check().unwrap_err().field, "selects");
        let mut p = policy();
        p.ingress = None;
        assert_eq!(p.check().unwrap_err().field, "ingress");
        let rules = [
            (
                "ingress[0].peers[0]",
                peer(PolicyPeer::Cidr {
                    net: "::ffff:10.0.0.0/104".parse().unwrap(),
                    except: Vec::new(),
                }),
            ),
            (
                "ingress[0].peers[0].except",
                peer(cidr("::/0", "::ffff:0:0/96")),
            ),
            (
                "ingress[0].peers[0]",
                peer(PolicyPeer::Tasks(TaskSelector::default())),
            ),
            (
                "ingress[0].peers[0].service",
                peer(PolicyPeer::Tasks(selector("shop"))),
            ),
            (
                "ingress[0].peers[0].service",
                peer(PolicyPeer::Tasks(selector("/a*"))),
            ),
            (
                "ingress[0].peers[0].except",
                peer(cidr("10.0.0.0/8", "11.0.0.0/16")),
            ),
            (
                "ingress[0].peers[0].except",
                peer(cidr("10.0.0.0/8", "10.0.0.0/8")),
            ),
            (
                "ingress[0].peers[0]",
                peer(PolicyPeer::Name(NamePattern::parse("a.example").unwrap())),
            ),
            ("ingress[0].peers[0]", peer(PolicyPeer::Resolver)),
        ];
        for (field, rule) in rules {
            let mut p = policy();
            p.ingress = Some(vec![rule]);
            assert_eq!(p.check().unwrap_err().field, field);
        }
        let mut p = policy();
        p.ingress = Some(vec![PolicyRule::default(); MAX_POLICY_RULES + 1]);
        assert_eq!(p.check().unwrap_err().field, "rules");
        assert_eq!(policy().check(), Ok(()));
    }

    #[test]
    fn names_and_ports_are_read() {
        let below = NamePattern::parse("*.Example.com.").unwrap();
        assert_eq!(below.to_string(), "*.example.com");
        for (name, meant) in [
            ("a.example.com", true),
            ("b.a.example.com", true),
            ("example.com", false),
            (".example.com", false),
            ("badexample.com", false),
            ("example.com.evil", false),
        ] {
            assert_eq!(below.matches(name), meant, "{name}");
        }
        for bad in ["", "*", "*.", "a..b", "a.*.b", "10.0.0.1", "a b", "*.*.a"] {
            NamePattern::parse(bad).unwrap_err();
        }

        for good in ["tcp", "tcp/80", "udp/1000-2000", "icmp"] {
            assert_eq!(good.parse::<PolicyPorts>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "sctp",
            "tcp/0",
            "tcp/2-1",
            "icmp/8",
            "tcp/",
            "tcp/65536",
        ] {
            bad.parse::<PolicyPorts>().unwrap_err();
        }
    }

    #[test]
    fn a_peer_is_of_the_same_network_unless_said() {
        let task = |network: &str| PolicySubject {
            network: network.into(),
            labels: BTreeMap::from([("tier".into(), "web".into())]),
            service: "/shop/web/one".into(),
            ..PolicySubject::default()
        };
        let mut peer = TaskSelector {
            labels: BTreeMap::from([("tier".into(), LabelTest::Is("web".into()))]),
            ..TaskSelector::default()
        };
        assert!(peer.matches(&task("blue"), Some("blue")));
        assert!(!peer.matches(&task("green"), Some("blue")));
        assert!(peer.matches(&task("green"), None));
        peer.network = NetworkMatch::Any;
        assert!(peer.matches(&task("green"), Some("blue")));
        peer.network = NetworkMatch::Named("green".into());
        assert!(peer.matches(&task("green"), Some("blue")));
        assert!(!peer.matches(&task("blue"), Some("blue")));
        peer.service = Some(PathMatch::parse("/shop/*"));
        assert!(peer.matches(&task("green"), None));
        peer.service = Some(PathMatch::parse("/sho/*"));
        assert!(!peer.matches(&task("green"), None));
        assert!(PathMatch::parse("/*").matches("/a"));
        assert!(!PathMatch::parse("/*").matches(""));
    }
}

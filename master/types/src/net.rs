//! The network's view of the cluster: what VIP tables and DNS zones are computed from.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use crate::{
    AgentId, AgentOverlay, Balance, Domain, FieldError, Generation, HealthState, Network,
    NetworkPolicy, PolicySubject, SourceRange, TaskId, TaskState, TraceContext, Vxlan,
};

/// Transport protocol of a port or VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A VIP by name: `web` of framework `marathon` is `web.marathon.l4lb.thisdcos.directory`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipName {
    /// Mangled name, labels joined by dots.
    pub label: String,
    /// Framework's DNS name.
    pub framework: String,
}

impl fmt::Display for VipName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}.l4lb.thisdcos.directory",
            self.label, self.framework
        )
    }
}

/// A `VIP_<n>` label's value, parsed: DC/OS's `name:port` or `ip:port`, split at the last colon; an IPv6 address may be
/// in brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VipLabel {
    /// `"/web:80"`.
    Named {
        /// Mangled name.
        name: String,
        /// VIP port, never 0.
        port: u16,
    },
    /// `"11.1.2.3:80"`.
    Literal {
        /// The address.
        ip: IpAddr,
        /// VIP port, never 0.
        port: u16,
    },
}

impl VipLabel {
    /// Whether a label's key marks a VIP: it starts with `VIP` or `vip`.
    pub fn is_key(key: &str) -> bool {
        key.starts_with("VIP") || key.starts_with("vip")
    }

    /// Parses a label value; `field` names it in the error.
    pub fn parse(field: &str, value: &str) -> Result<Self, FieldError> {
        let Some((name, port)) = value.rsplit_once(':') else {
            return Err(FieldError::new(
                field,
                format!("must be name:port or ip:port, is {value:?}"),
            ));
        };
        let port = match port.parse::<u16>() {
            Ok(p) if p > 0 => p,
            _ => {
                let rule = format!("port must be between 1 and 65535, is {port:?}");
                return Err(FieldError::new(field, rule));
            }
        };
        let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
        let ip = match bare {
            Some(bare) => bare.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => name.parse::<IpAddr>().ok(),
        };
        if let Some(ip) = ip {
            return Ok(Self::Literal {
                ip: ip.to_canonical(),
                port,
            });
        }
        let mangled: Vec<String> = name
            .split('.')
            .map(mangle_label)
            .filter(|l| !l.is_empty())
            .collect();
        if mangled.is_empty() {
            return Err(FieldError::new(
                field,
                format!("name is empty in {value:?}"),
            ));
        }
        Ok(Self::Named {
            name: mangled.join("."),
            port,
        })
    }

    /// The VIP's port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Named { port, .. } | Self::Literal { port, .. } => *port,
        }
    }
}

impl fmt::Display for VipLabel {
    /// `web:80`, `11.1.2.3:80`, `[fd01:c::7]:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named { name, port } => write!(f, "{name}:{port}"),
            Self::Literal { ip, port } => SocketAddr::new(*ip, *port).fmt(f),
        }
    }
}

/// One DNS label as DC/OS makes it (mesos_state.erl `label`): lower case; `.`, `_`, `-` become `-`;
/// other characters are dropped; leading non-alphanumerics dropped; at most 63; trailing `-` stripped.
pub fn mangle_label(s: &str) -> String {
    let mut out = String::new();
    for c in s.chars().flat_map(char::to_lowercase) {
        match c {
            'a'..='z' | '0'..='9' => out.push(c),
            '.' | '_' | '-' if !out.is_empty() => out.push('-'),
            _ => {}
        }
        if out.len() == 63 {
            break;
        }
    }
    out.trim_end_matches('-').to_owned()
}

/// What a client dials: protocol, address, port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipKey {
    /// Transport.
    pub protocol: Protocol,
    /// VIP address.
    pub ip: IpAddr,
    /// VIP port.
    pub port: u16,
}

impl fmt::Display for VipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = SocketAddr::new(self.ip, self.port);
        write!(f, "{at}/{}", self.protocol)
    }
}

/// An address held for a named VIP by the master's store.
///
/// Every VIP of a *defined* service is here, with or without a backend, so that its name resolves and
/// its connects are refused instead of hanging.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VipLease {
    /// The leased address.
    pub ip: Ipv4Addr,
    /// The same over IPv6, where a service says that it listens there (`LB_IPV6`).
    pub ip6: Option<Ipv6Addr>,
    /// Ports and protocols that services define on it.
    pub ports: Vec<(Protocol, u16)>,
}

/// An agent, as the network sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentNet {
    /// Node name.
    pub hostname: String,
    /// Underlay address.
    pub ip: Ipv4Addr,
    /// Underlay address over IPv6, where it has one.
    pub ip6: Option<Ipv6Addr>,
    /// Whether the master hears from it.
    pub reachable: bool,
    /// Where it stands.
    pub domain: Option<Domain>,
    /// Its part of the overlay networks.
    pub overlay: AgentOverlay,
}

/// A task's port, as the network sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortNet {
    /// Optional name.
    pub name: Option<String>,
    /// Port on the agent; 0 where only the task's own address has it.
    pub host_port: u16,
    /// Port inside, where the task has an address of its own; `None`: the same.
    pub container_port: Option<u16>,
    /// Protocols served.
    pub protocols: Vec<Protocol>,
    /// VIPs that it backs.
    pub vips: Vec<VipLabel>,
    /// How these choose.
    pub balance: Balance,
}

/// A task, as the network sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskNet {
    /// Its agent.
    pub agent_id: AgentId,
    /// Discovery name: `cart.shop`.
    pub name: String,
    /// Framework's DNS name: `marathon`.
    pub framework: String,
    /// State as the master knows it.
    pub state: TaskState,
    /// Whether a health check is defined.
    pub has_check: bool,
    /// Health as last reported.
    pub health: HealthState,
    /// Whether every readiness and start check passes; `None` where there is none.
    pub ready: Option<bool>,
    /// An address of its own, where it is not on its node's network.
    pub ip: Option<Ipv4Addr>,
    /// The same over IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// The overlay network that it is on.
    pub network: Option<String>,
    /// What it is to policies; `None` on no network, and while there are no policies.
    pub subject: Option<Arc<PolicySubject>>,
    /// Ports in definition order.
    pub ports: Vec<PortNet>,
}

/// What caused the newest change, so that nodes can join the deployment's trace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause {
    /// The task whose change it was.
    pub task_id: TaskId,
    /// The `vip.publish` span.
    pub trace: TraceContext,
}

/// All that VIP tables and DNS zones are computed from: desired state, pushed to every node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetSnapshot {
    /// Receivers refuse to go below the one they have.
    pub generation: Generation,
    /// Address of the leading master.
    pub leader: Option<Ipv4Addr>,
    /// Addresses of all masters.
    pub masters: Vec<Ipv4Addr>,
    /// Agents by id.
    pub agents: BTreeMap<AgentId, AgentNet>,
    /// Tasks that are not terminal, by id. Shared, so that a copy of a snapshot is cheap.
    pub tasks: BTreeMap<TaskId, Arc<TaskNet>>,
    /// Named VIPs of defined services and their leases.
    pub vips: BTreeMap<VipName, VipLease>,
    /// Literal VIPs of defined services.
    pub literal_vips: Vec<VipKey>,
    /// Who may use a VIP from outside (`LB_SOURCES`); one that is not here serves everybody.
    pub sources: BTreeMap<VipKey, Vec<SourceRange>>,
    /// Overlay networks by name, at most [`crate::MAX_NETWORKS`].
    pub networks: BTreeMap<String, Network>,
    /// Network policies by name, at most [`crate::MAX_POLICIES`].
    pub policies: BTreeMap<String, Arc<NetworkPolicy>>,
    /// How they are carried between nodes.
    pub vxlan: Vxlan,
    /// Why this generation exists; bounded by the sender.
    pub causes: Vec<Cause>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_are_mangled_as_dcos_does() {
        for (given, want) in [
            ("/web", "web"),
            ("/mygroup/myapp", "mygroupmyapp"),
            ("My_App", "my-app"),
            ("--x--", "x"),
            ("", ""),
        ] {
            assert_eq!(mangle_label(given), want, "{given}");
        }
    }

    #[test]
    fn vip_labels_parse() {
        let named = |n: &str, port| VipLabel::Named {
            name: n.into(),
            port,
        };
        assert_eq!(VipLabel::parse("l", "/web:80").unwrap(), named("web", 80));
        assert_eq!(VipLabel::parse("l", "a.b:1").unwrap(), named("a.b", 1));
        assert_eq!(
            VipLabel::parse("l", "11.1.2.3:5000").unwrap(),
            VipLabel::Literal {
                ip: Ipv4Addr::new(11, 1, 2, 3).into(),
                port: 5000
            }
        );
        for six in ["[fd01:c::7]:5000", "fd01:c::7:5000"] {
            let ip = "fd01:c::7".parse().unwrap();
            assert_eq!(
                VipLabel::parse("l", six).unwrap(),
                VipLabel::Literal { ip, port: 5000 }
            );
        }
        for bad in ["web", "web:", "web:0", "web:65536", ":80", "/:80"] {
            let err = VipLabel::parse("portDefinitions[0].labels.VIP_0", bad).unwrap_err();
            assert_eq!(err.field, "portDefinitions[0].labels.VIP_0", "{bad}");
        }
    }

    proptest! {
        #[test]
        fn mangled_labels_are_dns_labels(s in ".*") {
            let m = mangle_label(&s);
            prop_assert!(m.len() <= 63);
            prop_assert!(m.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert!(!m.starts_with('-') && !m.ends_with('-'));
        }
    }
}

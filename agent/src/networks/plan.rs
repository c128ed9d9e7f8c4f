//! Pure: what a task's definition asks of the network, and the packet filter's rules as text.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
};

use serde::{Deserialize, Serialize};
use waggle_overlay::overlay::Ranges;
use waggle_types::{IpNet, NetworkMode, Protocol, TaskId, TaskSpec};

use super::{Own, subnet::Subnet};

/// Name of the map of host ports in our table.
pub const MAP: &str = "ports";
/// The same for IPv6.
pub const MAP6: &str = "ports6";

/// Whose namespaces they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Holder {
    /// One task's.
    Task(String),
    /// Those of the tasks that name this pod.
    Pod(String),
}

impl Holder {
    /// A file name for it, the same at every time: what can be read of it, and a digest that tells it from others.
    pub fn file_name(&self) -> String {
        let (kind, name) = match self {
            Self::Task(id) => ("task", id),
            Self::Pod(name) => ("pod", name),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let readable: String = name
            .chars()
            .map(|c| if plain(c) { c } else { '_' })
            .take(80)
            .collect();
        format!("{kind}-{readable}-{:016x}", fnv(name.as_bytes()))
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Task(id) => write!(f, "task {id}"),
            Self::Pod(name) => write!(f, "pod {name}"),
        }
    }
}

/// FNV-1a: stable over versions, unlike the standard library's.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A port of the node that leads to one of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mapping {
    /// Transport.
    pub protocol: Protocol,
    /// On the node.
    pub host_port: u16,
    /// Inside.
    pub container_port: u16,
}

/// What a task asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Whose namespaces.
    pub holder: Holder,
    /// Which network: never [`NetworkMode::Host`] but in a pod.
    pub network: NetworkMode,
    /// Its ports.
    pub ports: BTreeSet<Mapping>,
    /// Host name of the pod.
    pub hostname: String,
    /// Whether it may send on what it is sent: it may change its network.
    pub may_forward: bool,
}

impl Want {
    /// `None` for a task that sees what the node sees.
    pub fn of(spec: &TaskSpec) -> Option<Self> {
        let container = &spec.container;
        let holder = match &container.pod {
            Some(pod) => Holder::Pod(pod.clone()),
            None if container.network == NetworkMode::Host => return None,
            None => Holder::Task(spec.task_id.as_str().to_owned()),
        };
        let is_mapped = matches!(
            container.network,
            NetworkMode::Bridge | NetworkMode::Container(_)
        );
        let ports = spec.ports.iter().filter(|p| is_mapped && p.host_port > 0);
        let ports = ports.flat_map(|port| {
            port.protocols.iter().map(|protocol| Mapping {
                protocol: *protocol,
                host_port: port.host_port,
                container_port: port.container_port.unwrap_or(port.host_port),
            })
        });
        let name = container.hostname.as_ref().or(container.pod.as_ref());
        Some(Self {
            holder,
            network: container.network.clone(),
            ports: ports.collect(),
            may_forward: may_forward(spec),
            hostname: hostname(name.map_or(spec.task_id.as_str(), String::as_str)),
        })
    }
}

/// Whether a task may pass on packets of others, as it can set up its own network.
pub fn may_forward(spec: &TaskSpec) -> bool {
    let isolation = &spec.container.isolation;
    let has = |c: &&str| isolation.cap_add.contains(*c);
    isolation.privileged || ["NET_ADMIN", "ALL"].iter().any(has)
}

/// A host name made of any text: at most 63 of letters, digits and `-`.
pub fn hostname(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    let clean = clean.trim_matches('-');
    if clean.is_empty() {
        "task".to_owned()
    } else {
        clean.to_ascii_lowercase()
    }
}

/// A network by the name that people use.
pub fn network_name(network: &NetworkMode) -> String {
    match network {
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Bridge => "bridge".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Container(name) => format!("container/{name}"),
    }
}

/// The node's end of a task's pair of devices: at most 15 characters, the same for the same address.
pub fn device_name(ip: Ipv4Addr) -> String {
    format!("wgl{:08x}", ip.to_bits())
}

/// A locally administered hardware address, the same for the same address: who has it in a cache reaches its next
/// holder, too.
pub fn hardware_address(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x02, 0x77, a, b, c, d]
}

/// What our table is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules<'a> {
    /// Its name, and the bridge's.
    pub bridge: &'a str,
    /// The bridge's.
    pub subnet: Subnet,
    /// Addresses of this node on which something of its own answers on every port: its DNS server.
    pub own: &'a [IpAddr],
    /// Where host ports lead.
    pub ports: &'a [(Ipv4Addr, Vec<Mapping>)],
}

impl Rules<'_> {
    /// For `nft -f -`: the whole table, in one transaction, whether there was one before or not.
    ///
    /// - `guard`: the loopback addresses, that `route_localnet` opens, are closed to tasks; a task can't send in
    ///   another's name; nobody outside reaches a port that is not mapped, nor sends in a task's name.
    /// - `inbound`, `local`: a mapped port of any address of the node leads to its task, from outside, from other
    ///   tasks and from the node itself. The source stays.
    /// - `outbound`: what leaves for elsewhere has the node's address. What comes back through the bridge, or from a
    ///   loopback address, gets the bridge's, or the answer would go another way.
    pub fn script(&self) -> String {
        let (bridge, subnet) = (self.bridge, self.subnet);
        let mut own: Vec<String> = self
            .own
            .iter()
            .filter(|ip| ip.is_ipv4())
            .map(ToString::to_string)
            .collect();
        own.dedup();
        let skip = if own.is_empty() {
            String::new()
        } else {
            format!("ip daddr {{ {} }} return\n    ", own.join(", "))
        };
        let translate =
            format!("{skip}fib daddr type local dnat ip to meta l4proto . th dport map @{MAP}");
        let mut out = format!(
            "\
table inet {bridge} {{}}
delete table inet {bridge}
table inet {bridge} {{
  map {MAP} {{
    type inet_proto . inet_service : ipv4_addr . inet_service
  }}
  chain guard {{
    type filter hook prerouting priority -300; policy accept;
    iifname \"{bridge}\" ip daddr 127.0.0.0/8 drop
    iifname \"{bridge}\" ip saddr != {subnet} drop
    iifname != {{ \"{bridge}\", \"lo\" }} ip daddr {subnet} drop
    iifname != {{ \"{bridge}\", \"lo\" }} ip saddr {subnet} drop
  }}
  chain inbound {{
    type nat hook prerouting priority -100; policy accept;
    {translate}
  }}
  chain local {{
    type nat hook output priority -100; policy accept;
    {translate}
  }}
  chain outbound {{
    type nat hook postrouting priority 100; policy accept;
    oifname != \"{bridge}\" ip saddr {subnet} ip daddr != {subnet} masquerade
    oifname \"{bridge}\" ip saddr {subnet} ct status dnat masquerade
    oifname \"{bridge}\" ip saddr 127.0.0.0/8 masquerade
  }}
}}
"
        );
        for (ip, ports) in self.ports {
            for p in ports {
                let _ = writeln!(
                    out,
                    "add element inet {bridge} {MAP} {{ {} . {} : {ip} . {} }}",
                    p.protocol, p.host_port, p.container_port
                );
            }
        }
        out
    }
}

/// What our table for named networks is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayRules<'a> {
    /// Its name.
    pub table: &'a str,
    /// What names of the host's ends of containers begin with.
    pub devices: &'a str,
    /// Addresses of this node on which something of its own answers on every port: its DNS server.
    pub own: &'a [IpAddr],
    /// Addresses of the networks.
    pub ranges: &'a Ranges,
    /// Where host ports lead.
    pub ports: &'a [(Own, Vec<Mapping>)],
}

impl OverlayRules<'_> {
    /// For `nft -f -`: the whole table, in one transaction, whether there was one before or not.
    ///
    /// - `guard`: the loopback addresses, that `route_localnet` opens, are closed to containers; nobody outside of the
    ///   overlay reaches an address of a masqueraded network of this node.
    /// - `inbound`, `local`: a mapped port of any address of the node leads to its container. The source stays.
    /// - `outbound`: what leaves the overlay has the node's address. What was led to a container from another one, or
    ///   from a loopback address, comes from the node's address in the overlay, or the answer would go another way.
    pub fn script(&self) -> String {
        let table = self.table;
        let four = self.family(true);
        let six = self.family(false);
        let guard = format!(
            "iifname \"{}*\" ip daddr 127.0.0.0/8 drop\n{}{}",
            self.devices, four.guard, six.guard
        );
        let inbound = four.inbound + &six.inbound;
        let outbound = four.outbound + &six.outbound;
        let mut out = format!(
            "\
table inet {table} {{}}
delete table inet {table}
table inet {table} {{
  map {MAP} {{
    type inet_proto . inet_service : ipv4_addr . inet_service
  }}
  map {MAP6} {{
    type inet_proto . inet_service : ipv6_addr . inet_service
  }}
  chain guard {{
    type filter hook prerouting priority -300; policy accept;
    {}
  }}
  chain inbound {{
    type nat hook prerouting priority -100; policy accept;
    {}
  }}
  chain local {{
    type nat hook output priority -100; policy accept;
    {}
  }}
  chain outbound {{
    type nat hook postrouting priority 100; policy accept;
    {}
  }}
}}
",
            guard.trim(),
            inbound.trim(),
            inbound.trim(),
            outbound.trim(),
        );
        for (own, ports) in self.ports {
            for p in ports {
                for ip in own.ips() {
                    let map = if ip.is_ipv4() { MAP } else { MAP6 };
                    let _ = writeln!(
                        out,
                        "add element inet {table} {map} {{ {} . {} : {ip} . {} }}",
                        p.protocol, p.host_port, p.container_port
                    );
                }
            }
        }
        out
    }

    /// The rules of one family.
    fn family(&self, is_ipv4: bool) -> FamilyRules {
        let (devices, ranges) = (self.devices, self.ranges);
        let (family, map) = if is_ipv4 { ("ip", MAP) } else { ("ip6", MAP6) };
        let mut rules = FamilyRules::default();
        let own = self.own.iter().filter(|ip| ip.is_ipv4() == is_ipv4);
        let mut own: Vec<String> = own.map(ToString::to_string).collect();
        own.dedup();
        let except = if own.is_empty() {
            String::new()
        } else {
            format!("{family} daddr != {{ {} }} ", own.join(", "))
        };
        let nfproto = if is_ipv4 { "ipv4" } else { "ipv6" };
        rules.inbound = format!(
            "    {except}meta nfproto {nfproto} fib daddr type local dnat {family} to meta l4proto . th dport map @{map}\n"
        );
        let Some(inside) = set_of(&ranges.inside, is_ipv4) else {
            return rules;
        };
        let vtep = ranges.vtep.and_then(|v| {
            if is_ipv4 {
                Some(IpAddr::from(v.ip))
            } else {
                v.ip6.map(IpAddr::from)
            }
        });
        if let Some(vtep) = vtep {
            let loopback = if is_ipv4 { "127.0.0.0/8" } else { "::1" };
            rules.outbound = format!(
                "    oifname \"{devices}*\" {family} saddr {inside} ct status dnat snat {family} to {vtep}\n    \
                 oifname \"{devices}*\" {family} saddr {loopback} snat {family} to {vtep}\n"
            );
        }
        if let Some(masqueraded) = set_of(&ranges.masqueraded, is_ipv4) {
            let _ = writeln!(
                rules.outbound,
                "    {family} saddr {masqueraded} {family} daddr != {inside} masquerade"
            );
            rules.guard = format!(
                "    iifname != {{ \"{devices}*\", \"vtep*\", \"lo\" }} {family} daddr {masqueraded} drop\n"
            );
        }
        rules
    }
}

/// Lines of the chains.
#[derive(Default)]
struct FamilyRules {
    guard: String,
    inbound: String,
    outbound: String,
}

/// The nets of one family as nft writes a set; `None` where there are none.
fn set_of(nets: &[IpNet], is_ipv4: bool) -> Option<String> {
    let nets = nets.iter().filter(|n| n.is_ipv4() == is_ipv4);
    let nets: Vec<String> = nets.map(ToString::to_string).collect();
    (!nets.is_empty()).then(|| format!("{{ {} }}", nets.join(", ")))
}

/// Who already has one of these host ports.
pub fn conflict<'a>(
    ports: &BTreeSet<Mapping>,
    mut held: impl Iterator<Item = (&'a TaskId, Mapping)>,
) -> Option<String> {
    let same = |a: &Mapping, b: Mapping| (a.protocol, a.host_port) == (b.protocol, b.host_port);
    let (task_id, taken) = held.find(|(_, taken)| ports.iter().any(|p| same(p, *taken)))?;
    Some(format!(
        "host port {}/{} leads to task {task_id} already",
        taken.host_port, taken.protocol
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(protocol: Protocol, host_port: u16, container_port: u16) -> Mapping {
        Mapping {
            protocol,
            host_port,
            container_port,
        }
    }

    #[test]
    fn file_names_are_plain_short_and_different() {
        let names: BTreeSet<String> = [
            Holder::Task("a/b".into()),
            Holder::Task("a_b".into()),
            Holder::Pod("a_b".into()),
            Holder::Pod("é".repeat(200)),
        ]
        .iter()
        .map(Holder::file_name)
        .collect();
        assert_eq!(names.len(), 4);
        for name in &names {
            assert!(name.len() < 128 && !name.contains('/'), "{name}");
        }
        // Files of an earlier version are found again.
        assert_eq!(
            Holder::Task("web.1".into()).file_name(),
            "task-web.1-6679d22e096491d4"
        );
    }

    #[test]
    fn devices_fit_the_kernel() {
        let ip = Ipv4Addr::new(172, 31, 254, 255);
        assert_eq!(device_name(ip), "wglac1ffeff");
        assert_eq!(hardware_address(ip)[0] & 3, 2, "local, one station");
    }

    #[test]
    fn host_names_are_names() {
        for (text, name) in [
            ("Web_1", "web-1"),
            ("/shop/cart", "shop-cart"),
            ("--", "task"),
            (&"x".repeat(99), &"x".repeat(63)),
        ] {
            assert_eq!(hostname(text), name);
        }
    }

    #[test]
    fn the_rules_are_one_transaction() {
        let ports = [(
            Ipv4Addr::new(172, 31, 254, 2),
            vec![
                mapping(Protocol::Tcp, 31000, 80),
                mapping(Protocol::Udp, 31000, 53),
            ],
        )];
        let rules = Rules {
            bridge: "waggle0",
            subnet: "172.31.254.0/24".parse().unwrap(),
            own: &[
                "198.51.100.1".parse().unwrap(),
                "fd01:d::1".parse().unwrap(),
            ],
            ports: &ports,
        };
        let want = r#"table inet waggle0 {}
delete table inet waggle0
table inet waggle0 {
  map ports {
    type inet_proto . inet_service : ipv4_addr . inet_service
  }
  chain guard {
    type filter hook prerouting priority -300; policy accept;
    iifname "waggle0" ip daddr 127.0.0.0/8 drop
    iifname "waggle0" ip saddr != 172.31.254.0/24 drop
    iifname != { "waggle0", "lo" } ip daddr 172.31.254.0/24 drop
    iifname != { "waggle0", "lo" } ip saddr 172.31.254.0/24 drop
  }
  chain inbound {
    type nat hook prerouting priority -100; policy accept;
    ip daddr { 198.51.100.1 } return
    fib daddr type local dnat ip to meta l4proto . th dport map @ports
  }
  chain local {
    type nat hook output priority -100; policy accept;
    ip daddr { 198.51.100.1 } return
    fib daddr type local dnat ip to meta l4proto . th dport map @ports
  }
  chain outbound {
    type nat hook postrouting priority 100; policy accept;
    oifname != "waggle0" ip saddr 172.31.254.0/24 ip daddr != 172.31.254.0/24 masquerade
    oifname "waggle0" ip saddr 172.31.254.0/24 ct status dnat masquerade
    oifname "waggle0" ip saddr 127.0.0.0/8 masquerade
  }
}
add element inet waggle0 ports { tcp . 31000 : 172.31.254.2 . 80 }
add element inet waggle0 ports { udp . 31000 : 172.31.254.2 . 53 }
"#;
        assert_eq!(rules.script(), want);
    }

    #[test]
    fn the_rules_of_networks_are_one_transaction() {
        let both = Own {
            v4: Some(Ipv4Addr::new(9, 0, 1, 2)),
            v6: Some("fd01:b::2".parse().unwrap()),
        };
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let ranges = Ranges {
            masqueraded: vec![net("9.0.1.0/24"), net("fd01:b::/80")],
            inside: vec![net("9.0.0.0/8"), net("fd01:b::/64"), net("44.128.0.0/20")],
            vtep: Some(waggle_types::Vtep {
                ip: Ipv4Addr::new(44, 128, 0, 2),
                ip6: None,
            }),
        };
        let rules = OverlayRules {
            table: "waggle0-overlay",
            devices: "wgo",
            own: &["198.51.100.1".parse().unwrap()],
            ranges: &ranges,
            ports: &[(both, vec![mapping(Protocol::Tcp, 31000, 80)])],
        };
        let want = r#"table inet waggle0-overlay {}
delete table inet waggle0-overlay
table inet waggle0-overlay {
  map ports {
    type inet_proto . inet_service : ipv4_addr . inet_service
  }
  map ports6 {
    type inet_proto . inet_service : ipv6_addr . inet_service
  }
  chain guard {
    type filter hook prerouting priority -300; policy accept;
    iifname "wgo*" ip daddr 127.0.0.0/8 drop
    iifname != { "wgo*", "vtep*", "lo" } ip daddr { 9.0.1.0/24 } drop
    iifname != { "wgo*", "vtep*", "lo" } ip6 daddr { fd01:b::/80 } drop
  }
  chain inbound {
    type nat hook prerouting priority -100; policy accept;
    ip daddr != { 198.51.100.1 } meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @ports
    meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport map @ports6
  }
  chain local {
    type nat hook output priority -100; policy accept;
    ip daddr != { 198.51.100.1 } meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @ports
    meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport map @ports6
  }
  chain outbound {
    type nat hook postrouting priority 100; policy accept;
    oifname "wgo*" ip saddr { 9.0.0.0/8, 44.128.0.0/20 } ct status dnat snat ip to 44.128.0.2
    oifname "wgo*" ip saddr 127.0.0.0/8 snat ip to 44.128.0.2
    ip saddr { 9.0.1.0/24 } ip daddr != { 9.0.0.0/8, 44.128.0.0/20 } masquerade
    ip6 saddr { fd01:b::/80 } ip6 daddr != { fd01:b::/64 } masquerade
  }
}
add element inet waggle0-overlay ports { tcp . 31000 : 9.0.1.2 . 80 }
add element inet waggle0-overlay ports6 { tcp . 31000 : fd01:b::2 . 80 }
"#;
        assert_eq!(rules.script(), want);
    }

    #[test]
    fn a_host_port_has_one_task() {
        let held = TaskId::new("other").unwrap();
        let taken = [(&held, mapping(Protocol::Tcp, 31000, 80))];
        let ask = |p| conflict(&BTreeSet::from([p]), taken.iter().copied());
        let why = ask(mapping(Protocol::Tcp, 31000, 8080));
        assert_eq!(
            why.as_deref(),
            Some("host port 31000/tcp leads to task other already")
        );
        assert_eq!(ask(mapping(Protocol::Udp, 31000, 80)), None);
        assert_eq!(ask(mapping(Protocol::Tcp, 31001, 80)), None);
    }
}

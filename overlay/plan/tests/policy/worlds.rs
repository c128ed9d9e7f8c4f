//! Random worlds: few words, so that policies and tasks meet.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use proptest::prelude::*;
use waggle_overlay_plan::policy::{Direction, PolicyWorld, WorldTask};
use waggle_types::{
    IpNet, LabelTest, NamePattern, NetworkMatch, NetworkPolicy, PathMatch, PolicyPeer, PolicyPorts,
    PolicyProtocol, PolicyRule, PolicySubject, TaskSelector,
};

pub const NETWORKS: [(&str, &str, &str); 2] = [
    ("blue", "9.1.0.0/16", "fd01:1::/64"),
    ("green", "9.2.0.0/16", "fd01:2::/64"),
];
const ROLES: [&str; 3] = ["eng", "eng/web", "ops"];
const SERVICES: [&str; 4] = ["/shop/cart", "/shop/db", "/db", ""];
const KEYS: [&str; 2] = ["tier", "env"];
const VALUES: [&str; 3] = ["web", "db", "x"];
const CIDRS: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "9.0.0.0/8",
    "9.1.0.0/20",
    "::/0",
    "2001:db8::/32",
];
const NAMES: [&str; 3] = ["*.example.com", "api.example.com", "example.org"];
pub const TOLD: [&str; 4] = [
    "api.example.com",
    "a.b.example.com",
    "example.org",
    "other.net",
];
const PORTS: [u16; 8] = [0, 53, 80, 1023, 1024, 2047, 8080, 65535];

fn of<T: Copy + std::fmt::Debug>(all: &'static [T]) -> impl Strategy<Value = T> {
    (0..all.len()).prop_map(|n| all[n])
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn subject() -> impl Strategy<Value = PolicySubject> {
    let labels = prop::collection::btree_map(
        of(&KEYS).prop_map(str::to_owned),
        of(&VALUES).prop_map(str::to_owned),
        0..3,
    );
    (of(&NETWORKS), of(&ROLES), of(&SERVICES), labels).prop_map(
        |(network, role, service, labels)| PolicySubject {
            network: network.0.into(),
            framework: "marathon".into(),
            role: role.into(),
            service: service.into(),
            labels,
        },
    )
}

fn selector() -> impl Strategy<Value = TaskSelector> {
    let network = prop_oneof![
        4 => Just(NetworkMatch::Unsaid),
        1 => Just(NetworkMatch::Any),
        1 => of(&NETWORKS).prop_map(|n| NetworkMatch::Named(n.0.into())),
    ];
    let path = |paths: &'static [&'static str]| {
        prop::option::weighted(0.3, of(paths).prop_map(PathMatch::parse))
    };
    let test = prop_oneof![
        of(&VALUES).prop_map(|v| LabelTest::Is(v.into())),
        prop::collection::btree_set(of(&VALUES).prop_map(str::to_owned), 1..3)
            .prop_map(LabelTest::In),
        Just(LabelTest::Exists),
    ];
    let labels = prop::collection::btree_map(of(&KEYS).prop_map(str::to_owned), test, 0..2);
    (
        network,
        path(&["eng", "eng/*", "ops"]),
        path(&["/shop/*", "/shop/db", "/*", "/db"]),
        labels,
    )
        .prop_map(|(network, role, service, labels)| TaskSelector {
            network,
            framework: None,
            role,
            service,
            labels,
        })
}

fn cidr() -> impl Strategy<Value = PolicyPeer> {
    (of(&CIDRS), prop::collection::vec(of(&CIDRS), 0..3)).prop_map(|(net, except)| {
        let net: IpNet = net.parse().unwrap();
        let except = except.into_iter().map(|e| e.parse().unwrap());
        PolicyPeer::Cidr {
            net,
            except: except.filter(|e| net.covers(*e) && *e != net).collect(),
        }
    })
}

fn ports() -> impl Strategy<Value = PolicyPorts> {
    (0..3_usize, of(&PORTS), of(&PORTS)).prop_map(|(protocol, a, b)| {
        match PolicyProtocol::ALL[protocol] {
            PolicyProtocol::Icmp => PolicyPorts::all(PolicyProtocol::Icmp),
            protocol => PolicyPorts {
                protocol,
                first: a.min(b),
                last: a.max(b),
            },
        }
    })
}

fn rule(egress: bool) -> impl Strategy<Value = PolicyRule> {
    let peer = prop_oneof![
        4 => selector().prop_map(PolicyPeer::Tasks),
        3 => cidr(),
        1 => Just(PolicyPeer::Nodes),
        1 => Just(PolicyPeer::Resolver),
        2 => of(&NAMES).prop_map(|n| PolicyPeer::Name(NamePattern::parse(n).unwrap())),
    ];
    let peer = peer.prop_filter("names are of egress", move |peer| {
        egress || !matches!(peer, PolicyPeer::Name(_) | PolicyPeer::Resolver)
    });
    (
        prop::collection::vec(peer, 0..4),
        prop::collection::vec(ports(), 0..3),
    )
        .prop_map(|(peers, ports)| PolicyRule { peers, ports })
}

pub fn policy() -> impl Strategy<Value = NetworkPolicy> {
    (
        selector(),
        prop::bool::weighted(0.25),
        prop::option::weighted(0.7, prop::collection::vec(rule(false), 0..4)),
        prop::option::weighted(0.7, prop::collection::vec(rule(true), 0..4)),
    )
        .prop_map(|(selects, audit, ingress, egress)| NetworkPolicy {
            name: "p".into(),
            selects,
            audit,
            ingress,
            egress,
        })
}

/// Tasks get their address by their position: `9.<net>.0.<n>`, and one of IPv6.
pub fn task_ips(network: &str, n: usize) -> Vec<IpAddr> {
    let (v4, v6) = if network == "blue" { (1, 1) } else { (2, 2) };
    vec![
        ip(&format!("9.{v4}.0.{n}")),
        ip(&format!("fd01:{v6}::{n:x}")),
    ]
}

pub fn world() -> impl Strategy<Value = PolicyWorld> {
    let tasks = prop::collection::vec((subject(), any::<bool>()), 0..8);
    (prop::collection::vec(policy(), 0..5), tasks).prop_map(|(policies, tasks)| {
        let policies = policies.into_iter().enumerate().map(|(n, mut p)| {
            p.name = format!("p{n}");
            Arc::new(p)
        });
        let tasks = tasks
            .into_iter()
            .enumerate()
            .map(|(n, (subject, is_here))| WorldTask {
                ips: task_ips(&subject.network, n + 1),
                is_here,
                subject: Arc::new(subject),
            });
        PolicyWorld {
            policies: policies.collect(),
            tasks: tasks.collect(),
            networks: networks(),
            nodes: [ip("10.1.2.3"), ip("192.0.2.1"), ip("9.1.0.250")].into(),
            resolvers: [ip("198.51.100.1")].into(),
        }
    })
}

pub fn networks() -> BTreeMap<String, Vec<IpNet>> {
    let one = |(name, v4, v6): (&str, &str, &str)| {
        (
            name.to_owned(),
            vec![v4.parse().unwrap(), v6.parse().unwrap()],
        )
    };
    NETWORKS.into_iter().map(one).collect()
}

/// Addresses that something is known of, and some of which nothing is.
pub fn address() -> impl Strategy<Value = IpAddr> {
    let others = [
        "10.1.2.3",
        "10.1.2.4",
        "10.1.3.1",
        "10.2.0.1",
        "192.0.2.1",
        "192.0.2.2",
        "198.51.100.1",
        "9.1.0.250",
        "9.3.0.1",
        "2001:db8::1",
        "2001:db9::1",
        "9.1.0.200",
        "fd01:2::c8",
    ];
    prop_oneof![
        3 => (of(&NETWORKS), 1..10_usize, 0..2_usize)
            .prop_map(|(network, n, family)| task_ips(network.0, n)[family]),
        2 => (0..others.len()).prop_map(move |n| ip(others[n])),
    ]
}

#[derive(Debug, Clone)]
pub struct TestFlow {
    pub direction: Direction,
    pub task: IpAddr,
    pub peer: IpAddr,
    pub protocol: u8,
    pub port: u16,
}

pub fn flow() -> impl Strategy<Value = TestFlow> {
    let task = (of(&NETWORKS), 1..10_usize, 0..2_usize)
        .prop_map(|(network, n, family)| task_ips(network.0, n)[family]);
    let protocol = of(&[6_u8, 6, 17, 1, 58, 132]);
    let near = (of(&PORTS), 0..3_u16).prop_map(|(p, d)| p.wrapping_add(d).wrapping_sub(1));
    (any::<bool>(), task, address(), protocol, near).prop_map(
        |(egress, task, peer, protocol, port)| TestFlow {
            direction: if egress {
                Direction::Egress
            } else {
                Direction::Ingress
            },
            task,
            peer,
            protocol,
            port: if matches!(protocol, 6 | 17) { port } else { 0 },
        },
    )
}

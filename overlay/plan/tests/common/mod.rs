//! Snapshots for tests: by hand and generated.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use proptest::prelude::*;
use waggle_types::{
    AgentId, AgentNet, Balance, Domain, Generation, HealthState, Locality, NetSnapshot, Policy,
    PortNet, Protocol, SourceRange, TaskId, TaskNet, TaskState, VipKey, VipLabel, VipLease,
    VipName,
};

pub fn agent_id(i: u8) -> AgentId {
    AgentId::new(format!("a1b2-S{i}")).unwrap()
}

pub fn task_id(s: &str) -> TaskId {
    TaskId::new(s).unwrap()
}

pub fn agent(i: u8, reachable: bool) -> (AgentId, AgentNet) {
    let net = AgentNet {
        overlay: waggle_types::AgentOverlay::default(),
        ip6: None,
        hostname: format!("n{i}"),
        ip: Ipv4Addr::new(10, 0, 0, i),
        reachable,
        domain: None,
    };
    (agent_id(i), net)
}

/// Odd ones in one zone, even ones in another.
pub fn placed(i: u8, reachable: bool) -> (AgentId, AgentNet) {
    let (id, mut net) = agent(i, reachable);
    net.domain = Some(Domain {
        region: "r".into(),
        zone: format!("z{}", i % 2),
    });
    net.ip6 = i
        .is_multiple_of(3)
        .then(|| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, i.into()));
    (id, net)
}

/// A task of a snapshot, to be changed.
pub fn task_mut<'a>(snapshot: &'a mut NetSnapshot, id: &str) -> &'a mut TaskNet {
    Arc::make_mut(snapshot.tasks.get_mut(id).unwrap())
}

pub fn vip_name(label: &str) -> VipName {
    VipName {
        label: label.into(),
        framework: "marathon".into(),
    }
}

pub fn named(name: &str, port: u16) -> VipLabel {
    VipLabel::Named {
        name: name.into(),
        port,
    }
}

/// A running, healthy task `name` on agent `i` whose only port backs `vip`.
pub fn task(name: &str, i: u8, host_port: u16, vip: VipLabel) -> TaskNet {
    TaskNet {
        ip: None,
        ip6: None,
        network: None,
        subject: None,
        ready: None,
        agent_id: agent_id(i),
        name: name.into(),
        framework: "marathon".into(),
        state: TaskState::Running,
        has_check: true,
        health: HealthState::Healthy,
        ports: vec![PortNet {
            container_port: None,
            name: Some("http".into()),
            host_port,
            protocols: vec![Protocol::Tcp],
            vips: vec![vip],
            balance: Balance::default(),
        }],
    }
}

/// Two agents, `web` on both, VIP `web:80` at 11.0.0.1, an empty VIP `idle:5432` and a literal one.
pub fn small() -> NetSnapshot {
    let lease = |last, port| VipLease {
        ip6: None,
        ip: Ipv4Addr::new(11, 0, 0, last),
        ports: vec![(Protocol::Tcp, port)],
    };
    NetSnapshot {
        networks: BTreeMap::new(),
        policies: BTreeMap::new(),
        vxlan: waggle_types::Vxlan::default(),
        sources: BTreeMap::new(),
        generation: Generation(7),
        leader: Some(Ipv4Addr::new(10, 0, 0, 1)),
        masters: vec![Ipv4Addr::new(10, 0, 0, 1)],
        agents: BTreeMap::from([agent(1, true), agent(2, true)]),
        tasks: BTreeMap::from([
            (
                task_id("web.1"),
                task("web", 1, 31001, named("web", 80)).into(),
            ),
            (
                task_id("web.2"),
                task("web", 2, 31002, named("web", 80)).into(),
            ),
            (
                task_id("cart.1"),
                task(
                    "cart.shop",
                    2,
                    31003,
                    VipLabel::Literal {
                        ip: Ipv4Addr::new(11, 9, 9, 9).into(),
                        port: 443,
                    },
                )
                .into(),
            ),
        ]),
        vips: BTreeMap::from([
            (vip_name("web"), lease(1, 80)),
            (vip_name("idle"), lease(2, 5432)),
        ]),
        literal_vips: vec![VipKey {
            protocol: Protocol::Tcp,
            ip: Ipv4Addr::new(11, 9, 9, 9).into(),
            port: 443,
        }],
        causes: vec![],
    }
}

fn any_balance() -> impl Strategy<Value = Balance> {
    let policies = prop::sample::select(vec![Policy::Random, Policy::LeastConnections]);
    let places = prop::sample::select(vec![Locality::Any, Locality::Zone, Locality::Node]);
    let numbers = (0u32..2, 0u32..2, any::<bool>());
    (policies, places, numbers).prop_map(|(policy, locality, (affinity_s, slow, ipv6))| Balance {
        ipv6,
        weight: 1,
        policy,
        affinity_s,
        locality,
        slow_start_s: slow * 10,
    })
}

prop_compose! {
    fn any_task()(
        agent in 1u8..6,
        name in "[a-z]{1,3}(\\.[a-z]{1,3})?",
        state in prop::sample::select(TaskState::ALL.to_vec()),
        running in any::<bool>(),
        has_check in any::<bool>(),
        ready in prop::option::of(any::<bool>()),
        health in prop::sample::select(vec![
            HealthState::Unknown, HealthState::Healthy, HealthState::Unhealthy,
        ]),
        ports in prop::collection::vec((0u8..4, 31000u16..31008, 0usize..5), 0..3),
        weight in 0u16..4,
        balance in any_balance(),
    ) -> TaskNet {
        TaskNet {
            ip: None,
            ip6: None,
            network: None,
            subject: None,
            ready,
            agent_id: agent_id(agent),
            name,
            framework: "marathon".into(),
            // Most tasks of a real cluster run.
            state: if running { TaskState::Running } else { state },
            has_check,
            health,
            ports: ports
                .into_iter()
                .map(|(protocols, host_port, vip)| PortNet {
                    container_port: None,
                    name: None,
                    host_port,
                    protocols: [Protocol::Tcp, Protocol::Udp]
                        .into_iter()
                        .filter(|p| protocols != u8::from(*p == Protocol::Udp))
                        .collect(),
                    vips: match vip {
                        0 => vec![],
                        4 => vec![VipLabel::Literal { ip: Ipv4Addr::new(11, 9, 9, 9).into(), port: 443 }],
                        n => vec![named(&format!("v{n}"), 80), named("v1", 81)],
                    },
                    balance: Balance { weight, ..balance },
                })
                .collect(),
        }
    }
}

prop_compose! {
    /// Small enough to collide: few VIPs, few agents, few ports.
    pub fn any_snapshot()(
        tasks in prop::collection::btree_map("[a-f]", any_task(), 0..8),
        agents in prop::collection::btree_map(1u8..6, any::<bool>(), 0..5),
        leases in prop::collection::btree_map(1usize..5, (1u8..4, any::<bool>()), 0..4),
        literal in any::<bool>(),
        restricted in any::<bool>(),
    ) -> NetSnapshot {
        let range = SourceRange::new(Ipv4Addr::new(192, 0, 2, 0), 24).unwrap();
        let first = VipKey { protocol: Protocol::Tcp, ip: Ipv4Addr::new(11, 0, 0, 1).into(), port: 80 };
        NetSnapshot {
            networks: BTreeMap::new(),
            policies: BTreeMap::new(),
            vxlan: waggle_types::Vxlan::default(),
            sources: restricted.then(|| (first, vec![range])).into_iter().collect(),
            generation: Generation(1),
            leader: None,
            masters: vec![],
            agents: agents.into_iter().map(|(i, reachable)| placed(i, reachable)).collect(),
            tasks: tasks.into_iter().map(|(id, t)| (task_id(&id), t.into())).collect(),
            vips: leases
                .into_iter()
                .map(|(n, (ports, six))| {
                    let ip = Ipv4Addr::new(11, 0, 0, u8::try_from(n).unwrap());
                    let mut lease = VipLease { ip6: six.then(|| waggle_overlay_plan::ipam::twin(ip)), ip, ports: vec![(Protocol::Tcp, 80)] };
                    if ports > 1 { lease.ports.push((Protocol::Udp, 80)); }
                    if ports > 2 { lease.ports.push((Protocol::Tcp, 81)); }
                    (vip_name(&format!("v{n}")), lease)
                })
                .collect(),
            literal_vips: literal
                .then_some(VipKey { protocol: Protocol::Tcp, ip: Ipv4Addr::new(11, 9, 9, 9).into(), port: 443 })
                .into_iter()
                .collect(),
            causes: vec![],
        }
    }
}

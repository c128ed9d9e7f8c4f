//! Networks, policies and snapshots of them.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
};
use serde_json::json;
use waggle_types::{
    AddressPool, AgentId, AgentNet, AgentOverlay, AgentSubnet, Cause, Generation, IpNet,
    NetSnapshot, Network, NetworkPolicy, PortNet, SourceRange, TaskId, TaskNet, VipKey, VipLease,
    VipName, Vtep, Vxlan, WireguardKey,
};

use super::*;
use crate::native::policy_from_text;

fn network() -> impl Strategy<Value = Network> {
    let pool = (0u32..16, 0u8..=8).prop_map(|(n, cut)| AddressPool {
        net: IpNet::around(Ipv4Addr::new(10, 0, 0, 0).into(), 12)
            .nth_subnet(16, n.into())
            .unwrap(),
        prefix: 16 + cut,
    });
    let pool6 = (0u32..16, 0u8..=24).prop_map(|(n, cut)| AddressPool {
        net: IpNet::around("fd00::".parse().unwrap(), 48)
            .nth_subnet(64, n.into())
            .unwrap(),
        prefix: 64 + cut,
    });
    let pools = prop_oneof![
        (option::of(pool.clone()), pool6.clone().prop_map(Some)),
        (pool.prop_map(Some), option::of(pool6)),
    ];
    (pools, option::of(1280u16..9000), any::<bool>()).prop_map(
        |((pool, pool6), mtu, masquerade)| Network {
            pool,
            pool6,
            mtu,
            masquerade,
        },
    )
}

fn vxlan() -> impl Strategy<Value = Vxlan> {
    (0u32..1 << 24, 1u16..).prop_map(|(vni, port)| Vxlan {
        vni,
        port,
        ..Vxlan::default()
    })
}

fn overlay() -> impl Strategy<Value = AgentOverlay> {
    let net = (any::<u32>(), 8u8..=29)
        .prop_map(|(bits, prefix)| IpNet::around(Ipv4Addr::from(bits).into(), prefix));
    let net6 = (any::<u128>(), 16u8..=96)
        .prop_map(|(bits, prefix)| IpNet::around(std::net::Ipv6Addr::from(bits).into(), prefix));
    let subnet = (option::of(net), option::of(net6)).prop_map(|(v4, v6)| AgentSubnet { v4, v6 });
    let vtep = (addr(), addr6()).prop_map(|(ip, ip6)| Vtep { ip, ip6 });
    let key = any::<[u8; 32]>().prop_map(WireguardKey::new);
    let subnets = btree_map("[a-z]{1,9}[0-9]", subnet, 0..3);
    (option::of(vtep), subnets, option::of(key)).prop_map(|(vtep, subnets, key)| AgentOverlay {
        vtep,
        subnets: subnets.into_iter().collect(),
        wireguard: key.flatten(),
    })
}

fn policies() -> impl Strategy<Value = BTreeMap<String, Arc<NetworkPolicy>>> {
    let policy = |name: String| {
        let text = json!({
            "name": name,
            "selects": {"service": "/a"},
            "ingress": [{"from": [{"cidr": "10.1.0.0/16"}], "ports": ["tcp/80"]}],
        });
        (name, Arc::new(policy_from_text(&text.to_string()).unwrap()))
    };
    vec("[a-z]{1,9}", 0..3).prop_map(move |names| names.into_iter().map(policy).collect())
}

pub(in super::super) fn snapshot() -> impl Strategy<Value = NetSnapshot> {
    let place = option::of(domain());
    let agent = (
        word(),
        word(),
        (addr(), addr6()),
        any::<bool>(),
        (place, overlay()),
    )
        .prop_map(|(id, hostname, (ip, ip6), reachable, (domain, overlay))| {
            let net = AgentNet {
                overlay,
                ip6,
                hostname,
                ip,
                reachable,
                domain,
            };
            (AgentId::new(id).unwrap(), net)
        });
    let port = task_port().prop_map(|p| PortNet {
        container_port: p.container_port,
        name: p.name,
        host_port: p.host_port,
        protocols: p.protocols,
        vips: p.vips,
        balance: p.balance,
    });
    let task = (
        (word(), word(), word(), word()),
        (state(), any::<bool>(), health(), vec(port, 0..3)),
        (addr6(), option::of("[a-z]{1,9}")),
    )
        .prop_map(
            |((id, agent, name, framework), (state, has_check, health, ports), (ip6, network))| {
                let net = TaskNet {
                    ip: None,
                    ip6,
                    network,
                    subject: None,
                    ready: None,
                    agent_id: AgentId::new(agent).unwrap(),
                    name,
                    framework,
                    state,
                    has_check,
                    health,
                    ports,
                };
                (TaskId::new(id).unwrap(), net.into())
            },
        );
    let ports = vec((proto(), 1u16..), 0..3);
    let vip =
        (word(), word(), addr(), addr6(), ports).prop_map(|(label, framework, ip, ip6, ports)| {
            (VipName { label, framework }, VipLease { ip, ip6, ports })
        });
    let range = (any::<u32>(), 0u8..=32).prop_map(|(net, prefix)| {
        let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        SourceRange::new(Ipv4Addr::from(net & !hosts), prefix).unwrap()
    });
    let sources = (proto(), any_addr(), 1u16..).prop_map(|(protocol, ip, port)| VipKey {
        protocol,
        ip,
        port,
    });
    let sources = btree_map(sources, vec(range, 1..4), 0..3);
    let key = (proto(), any_addr(), 1u16..).prop_map(|(protocol, ip, port)| VipKey {
        protocol,
        ip,
        port,
    });
    let cause = (word(), trace_context()).prop_map(|(id, trace)| Cause {
        task_id: TaskId::new(id).unwrap(),
        trace,
    });
    (
        (any::<u64>(), option::of(addr()), vec(addr(), 0..3)),
        (vec(agent, 0..3), vec(task, 0..3), vec(vip, 0..3)),
        (vec(key, 0..3), vec(cause, 0..3), sources),
        (
            btree_map("[a-z]{1,9}[0-9]", network(), 0..3),
            vxlan(),
            policies(),
        ),
    )
        .prop_map(
            |(
                (g, leader, masters),
                (agents, tasks, vips),
                (literal_vips, causes, sources),
                (networks, vxlan, policies),
            )| {
                NetSnapshot {
                    networks,
                    policies,
                    vxlan,
                    sources,
                    generation: Generation(g),
                    leader,
                    masters,
                    agents: agents.into_iter().collect(),
                    tasks: tasks.into_iter().collect(),
                    vips: vips.into_iter().collect(),
                    literal_vips,
                    causes,
                }
            },
        )
}

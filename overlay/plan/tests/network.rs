//! Laws of a node's overlay plan, and what it looks like.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use proptest::prelude::*;
use waggle_overlay_plan::network::{
    Leases, NetOp, NodePlan, Observed, Where, apply, check_network, diff, mtu_inside, node_plan,
    overhead,
};
use waggle_types::{
    AddressPool, AgentId, AgentNet, AgentOverlay, IpNet, Millis, NetSnapshot, Network, UnixMillis,
    Vxlan,
};

const MTU: u16 = 1450;

fn id(n: u8) -> AgentId {
    AgentId::new(format!("a-S{n}")).unwrap()
}

fn networks() -> BTreeMap<String, Network> {
    BTreeMap::from([
        ("dcos".to_owned(), Network::dcos()),
        ("dcos6".to_owned(), Network::dcos6()),
    ])
}

/// Agents of those numbers that joined in that order.
fn cluster(order: &[u8], networks: &BTreeMap<String, Network>) -> NetSnapshot {
    let mut leases = Leases::restored(Vxlan::default(), Millis(1000), networks, BTreeMap::new());
    let mut snapshot = NetSnapshot {
        networks: networks.clone(),
        ..NetSnapshot::default()
    };
    for n in order {
        leases.grant(&id(*n), networks);
        let net = AgentNet {
            hostname: format!("n{n}"),
            ip: Ipv4Addr::new(10, 0, 0, *n),
            ip6: None,
            reachable: true,
            domain: None,
            overlay: leases.of(&id(*n)).cloned().unwrap_or_default(),
        };
        snapshot.agents.insert(id(*n), net);
    }
    snapshot
}

fn render(ops: &[NetOp]) -> Vec<String> {
    let mac = |m: &[u8; 6]| m.map(|b| format!("{b:02x}")).join(":");
    ops.iter()
        .map(|op| match op {
            NetOp::MakeDevice(d) => {
                format!("make device port {} {} mtu {}", d.port, mac(&d.mac), d.mtu)
            }
            NetOp::SetRoute(r) => format!("route {} from {}", r.to, r.from),
            NetOp::SetPeer(ip) => format!("peer {ip}"),
            NetOp::SetSubnet(net, home) => match home.place {
                Where::Here => format!("subnet {net} here"),
                Where::Peer(ip) => format!("subnet {net} at {ip}"),
                Where::Nowhere => format!("subnet {net} nowhere"),
            },
            NetOp::RemoveSubnet(net) => format!("no subnet {net}"),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_node_of_two() {
    let snapshot = cluster(&[1, 2], &networks());
    let plan = node_plan(&snapshot, &id(2));
    let subnets: Vec<String> = plan
        .subnets()
        .map(|(n, name)| format!("{name} {n}"))
        .collect();
    assert_eq!(subnets, ["dcos 9.0.1.0/24", "dcos6 fd01:b:0:0:1::/80"]);
    let ops = diff(&Observed::default(), &plan, MTU);
    assert_eq!(
        render(&ops),
        [
            "make device port 64000 70:b3:d5:80:00:02 mtu 1450",
            "AddAddress(44.128.0.2)",
            "AddAddress(fd01:a::2)",
            "route 9.0.0.0/8 from 44.128.0.2",
            "route 44.128.0.0/20 from 44.128.0.2",
            "route fd01:a::/64 from fd01:a::2",
            "route fd01:b::/64 from fd01:a::2",
            "peer 10.0.0.1",
            "subnet 9.0.0.0/8 nowhere",
            "subnet 9.0.0.0/24 at 10.0.0.1",
            "subnet 9.0.1.0/24 here",
            "subnet 44.128.0.0/20 nowhere",
            "subnet 44.128.0.1/32 at 10.0.0.1",
            "subnet 44.128.0.2/32 here",
            "subnet fd01:a::/64 nowhere",
            "subnet fd01:a::1/128 at 10.0.0.1",
            "subnet fd01:a::2/128 here",
            "subnet fd01:b::/64 nowhere",
            "subnet fd01:b::/80 at 10.0.0.1",
            "subnet fd01:b:0:0:1::/80 here",
        ]
    );
}

#[test]
fn a_network_is_removed_at_run_time() {
    let before = node_plan(&cluster(&[1, 2], &networks()), &id(1));
    let mut there = Observed::default();
    for op in diff(&there.clone(), &before, MTU) {
        apply(&op, &mut there);
    }
    let mut fewer = networks();
    fewer.remove("dcos6");
    let after = node_plan(&cluster(&[1, 2], &fewer), &id(1));
    let ops = diff(&there, &after, MTU);
    assert_eq!(
        render(&ops),
        [
            "RemoveRoute(Route { to: IpNet { ip: fd01:b::, prefix: 64 }, from: fd01:a::1 })",
            "no subnet fd01:b::/64",
            "no subnet fd01:b::/80",
            "no subnet fd01:b:0:0:1::/80",
        ]
    );
    let nothing = diff(&there, &NodePlan::default(), MTU);
    assert_eq!(nothing.first(), Some(&NetOp::RemoveDevice));
}

#[test]
fn networks_that_overlap_are_refused() {
    let pool = |text: &str, prefix| {
        let net: IpNet = text.parse().unwrap();
        Some(AddressPool { net, prefix })
    };
    let check = |subnet: &str, prefix| {
        let network = Network {
            pool: pool(subnet, prefix),
            ..Network::dcos()
        };
        let vips = ("11.0.0.0/8".parse().unwrap(), "of VIPs".to_owned());
        check_network("mine", &network, &networks(), &Vxlan::default(), [vips])
            .map_err(|e| e.to_string())
    };
    assert_eq!(check("10.0.0.0/8", 24), Ok(()));
    for (subnet, what) in [
        (
            "9.1.0.0/16",
            "subnet: must not overlap 9.0.0.0/8 of network dcos, is 9.1.0.0/16",
        ),
        (
            "44.0.0.0/8",
            "subnet: must not overlap 44.128.0.0/20 of tunnel endpoints, is 44.0.0.0/8",
        ),
        (
            "11.5.0.0/16",
            "subnet: must not overlap 11.0.0.0/8 of VIPs, is 11.5.0.0/16",
        ),
    ] {
        assert_eq!(check(subnet, 24), Err(what.to_owned()));
    }
}

#[test]
fn the_mtu_follows_the_underlay() {
    let with = |mtu, six: bool| Network {
        mtu,
        ..if six {
            Network::dcos6()
        } else {
            Network::dcos()
        }
    };
    let over = overhead(false);
    assert_eq!(over, 50);
    assert_eq!(mtu_inside(&with(None, false), 1500, over), Ok(1450));
    assert_eq!(mtu_inside(&with(Some(1420), false), 1500, over), Ok(1420));
    assert_eq!(mtu_inside(&with(None, false), 65_536, over), Ok(65_486));
    let why = mtu_inside(&with(Some(1451), false), 1500, over).unwrap_err();
    assert_eq!(
        why.to_string(),
        "mtu: must be at most 1450 on this node, whose underlay carries 1500, is 1451"
    );
    let why = mtu_inside(&with(None, true), 1300, over).unwrap_err();
    assert_eq!(
        why.to_string(),
        "mtu: must be at least 1280, and this node's underlay carries 1300, so 1250"
    );
}

fn order() -> impl Strategy<Value = Vec<u8>> {
    Just((1u8..9).collect::<Vec<u8>>()).prop_shuffle()
}

fn observed() -> impl Strategy<Value = Observed> {
    (order(), 0usize..9, 1u8..9, 1000u16..1500, any::<bool>()).prop_map(
        |(order, n, here, mtu, other_port)| {
            let mut snapshot = cluster(&order[..n.min(8)], &networks());
            if other_port {
                snapshot.vxlan.port = 4789;
            }
            let plan = node_plan(&snapshot, &id(here));
            let mut there = Observed::default();
            for op in diff(&there.clone(), &plan, mtu) {
                apply(&op, &mut there);
            }
            there
        },
    )
}

proptest! {
    #[test]
    fn the_steps_lead_there_and_then_there_are_none(there in observed(), order in order(), here in 1u8..9) {
        let plan = node_plan(&cluster(&order, &networks()), &id(here));
        let mut now = there.clone();
        for op in diff(&there, &plan, MTU) {
            apply(&op, &mut now);
            // No step points at a peer that is not there.
            for home in now.subnets.values() {
                if let Where::Peer(peer) = home.place {
                    prop_assert!(now.peers.contains(&peer), "{op:?}");
                }
            }
        }
        prop_assert_eq!(diff(&now, &plan, MTU), Vec::new());
        // From nothing it is the same.
        let mut fresh = Observed::default();
        for op in diff(&fresh.clone(), &plan, MTU) {
            apply(&op, &mut fresh);
        }
        prop_assert_eq!(fresh, now);
    }

    #[test]
    fn all_nodes_agree_on_who_has_what(order in order()) {
        let snapshot = cluster(&order, &networks());
        let plans: Vec<NodePlan> = order.iter().map(|n| node_plan(&snapshot, &id(*n))).collect();
        for (n, plan) in order.iter().zip(&plans) {
            prop_assert_eq!(plan.peers.len(), 7);
            let own: BTreeSet<IpNet> = plan.subnets().map(|(net, _)| net).collect();
            for other in plans.iter().filter(|p| p.node_ip != plan.node_ip) {
                let seen = &other.peers[&Ipv4Addr::new(10, 0, 0, *n)];
                prop_assert!(own.iter().all(|net| seen.contains_key(net)));
            }
            for net in &own {
                prop_assert!(plan.peers.values().all(|p| p.keys().all(|o| !o.overlaps(*net))));
            }
        }
    }

    #[test]
    fn a_plan_is_the_same_after_a_restart_and_in_any_order(order in order()) {
        let networks = networks();
        let snapshot = cluster(&order, &networks);
        // The master restarts with what it stored, and agents come back in another order.
        let held = snapshot.agents.iter().map(|(id, a)| {
            let held = waggle_overlay_plan::network::Held { overlay: a.overlay.clone(), released_at: None };
            (id.clone(), held)
        });
        let mut leases = Leases::restored(Vxlan::default(), Millis(1000), &networks, held.collect());
        for n in 1..9 {
            prop_assert!(!leases.grant(&id(n), &networks).changed);
            prop_assert_eq!(leases.of(&id(n)), Some(&snapshot.agents[&id(n)].overlay));
        }
        prop_assert!(leases.expire(UnixMillis(u64::MAX / 2)).is_empty());
        prop_assert!(leases.of(&id(99)).is_none());
        prop_assert_eq!(node_plan(&snapshot, &id(99)), NodePlan::default());
        let none = AgentOverlay::default();
        prop_assert!(snapshot.agents.values().all(|a| a.overlay != none));
    }
}

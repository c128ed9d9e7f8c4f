//! Encrypted ways between nodes: who has one, and how the kernel gets there.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use proptest::prelude::*;
use waggle_overlay_plan::wireguard::{
    Excluded, WireguardOp, WireguardPeer, WireguardPlan, wireguard_diff, wireguard_plan,
};
use waggle_types::WireguardKey;

const PORT: u16 = 51820;

fn key(n: u8) -> WireguardKey {
    WireguardKey::new([n.max(1); 32]).unwrap()
}

fn node(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, n)
}

#[test]
fn nodes_with_keys_are_peers_and_others_have_no_way() {
    let nodes = [
        (node(1), Some(key(1))),
        (node(2), Some(key(2))),
        (node(3), None),
        (node(4), Some(key(7))),
        (node(5), Some(key(7))),
        (node(6), Some(key(1))),
    ];
    let plan = wireguard_plan((node(1), key(1)), &nodes, PORT);
    let peer = WireguardPeer {
        node: node(2),
        port: PORT,
    };
    assert_eq!(plan.peers, BTreeMap::from([(key(2), peer)]));
    let excluded = [
        (node(3), Excluded::NoKey),
        (node(4), Excluded::SharedKey),
        (node(5), Excluded::SharedKey),
        (node(6), Excluded::SharedKey),
    ];
    assert_eq!(plan.excluded, BTreeMap::from(excluded));
}

#[test]
fn an_address_that_two_claim_is_nobodys_and_ones_own_stays() {
    let nodes = [
        (node(1), Some(key(9))),
        (node(2), Some(key(2))),
        (node(2), Some(key(3))),
    ];
    let plan = wireguard_plan((node(1), key(1)), &nodes, PORT);
    assert_eq!(plan.peers, BTreeMap::new());
    assert_eq!(
        plan.excluded,
        BTreeMap::from([(node(2), Excluded::SharedAddress)])
    );
}

#[test]
fn a_node_that_changes_its_key_is_removed_and_made() {
    let own = (node(1), key(1));
    let before = wireguard_plan(own, &[(node(2), Some(key(2)))], PORT);
    let after = wireguard_plan(own, &[(node(2), Some(key(3)))], PORT);
    let observed = before
        .peers
        .into_iter()
        .map(|(k, p)| (k, Some(p)))
        .collect();
    let peer = WireguardPeer {
        node: node(2),
        port: PORT,
    };
    assert_eq!(
        wireguard_diff(&observed, &after),
        [WireguardOp::Remove(key(2)), WireguardOp::Set(key(3), peer)]
    );
}

fn nodes() -> impl Strategy<Value = Vec<(Ipv4Addr, Option<WireguardKey>)>> {
    let one = (1_u8..12, proptest::option::of(1_u8..12));
    prop::collection::vec(one, 0..12).prop_map(|nodes| {
        nodes
            .into_iter()
            .map(|(n, k)| (node(n), k.map(key)))
            .collect()
    })
}

fn apply(
    mut observed: BTreeMap<WireguardKey, Option<WireguardPeer>>,
    ops: &[WireguardOp],
) -> BTreeMap<WireguardKey, Option<WireguardPeer>> {
    for op in ops {
        match op {
            WireguardOp::Remove(key) => {
                assert!(observed.remove(key).is_some());
            }
            WireguardOp::Set(key, peer) => {
                observed.insert(*key, Some(*peer));
            }
        }
        // The kernel gives an address to who asked last: it must never have been another's.
        let addresses: Vec<Ipv4Addr> = observed.values().flatten().map(|p| p.node).collect();
        let unique: BTreeSet<Ipv4Addr> = addresses.iter().copied().collect();
        assert_eq!(addresses.len(), unique.len());
    }
    observed
}

proptest! {
    #[test]
    fn each_node_has_one_way_or_a_reason(nodes in nodes()) {
        let own = (node(1), key(1));
        let plan = wireguard_plan(own, &nodes, PORT);
        let reached: BTreeSet<Ipv4Addr> = plan.peers.values().map(|peer| peer.node).collect();
        prop_assert_eq!(reached.len(), plan.peers.len());
        prop_assert!(!plan.peers.contains_key(&own.1));
        for (node, _) in &nodes {
            let ways = usize::from(reached.contains(node)) + usize::from(plan.excluded.contains_key(node));
            prop_assert_eq!(ways, usize::from(*node != own.0));
        }
        // In another order and twice: the same.
        let mut again: Vec<_> = nodes.iter().rev().copied().collect();
        again.extend(nodes);
        prop_assert_eq!(wireguard_plan(own, &again, PORT), plan);
    }

    #[test]
    fn differences_lead_to_the_plan(before in nodes(), after in nodes(), lost in any::<u8>()) {
        let own = (node(1), key(1));
        let mut observed: BTreeMap<_, _> = wireguard_plan(own, &before, PORT)
            .peers
            .into_iter()
            .map(|(key, peer)| (key, Some(peer)))
            .collect();
        if let Some(one) = observed.values_mut().nth(lost.into()) {
            *one = None;
        }
        let plan = wireguard_plan(own, &after, PORT);
        let ops = wireguard_diff(&observed, &plan);
        let reached = apply(observed, &ops);
        let expected: BTreeMap<_, _> = plan.peers.iter().map(|(k, p)| (*k, Some(*p))).collect();
        prop_assert_eq!(&reached, &expected);
        prop_assert_eq!(wireguard_diff(&reached, &plan), Vec::new());
        prop_assert!(wireguard_diff(&BTreeMap::new(), &WireguardPlan::default()).is_empty());
    }
}

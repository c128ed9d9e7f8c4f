//! Leases are unique, stable, and in the pool.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use proptest::prelude::*;
use waggle_overlay_plan::ipam::{Pool, lease, renew};
use waggle_types::VipName;

fn name(label: &str) -> VipName {
    VipName {
        label: label.into(),
        framework: "marathon".into(),
    }
}

#[test]
fn the_same_name_starts_at_the_same_address() {
    let first = lease(Pool::VIPS, &name("web"), &BTreeSet::new()).unwrap();
    assert_eq!(
        Some(first),
        lease(Pool::VIPS, &name("web"), &BTreeSet::new())
    );
    assert!(Pool::VIPS.contains(first));
    let next = lease(Pool::VIPS, &name("web"), &BTreeSet::from([first])).unwrap();
    assert_ne!(first, next);
}

#[test]
fn pools_are_checked_and_can_be_exhausted() {
    let net = Ipv4Addr::new(11, 0, 0, 0);
    assert!(Pool::new(net, 7).is_err());
    assert!(Pool::new(Ipv4Addr::new(11, 0, 0, 1), 24).is_err());
    let pool = Pool::new(net, 30).unwrap();
    let wanted: BTreeSet<VipName> = ["a", "b", "c"].map(name).into();
    let held = renew(pool, &BTreeMap::new(), &wanted).unwrap();
    // .0 is never leased.
    let ips: Vec<String> = {
        let set: BTreeSet<_> = held.values().copied().collect();
        set.iter().map(ToString::to_string).collect()
    };
    assert_eq!(ips, ["11.0.0.1", "11.0.0.2", "11.0.0.3"]);
    let more: BTreeSet<VipName> = ["a", "b", "c", "d"].map(name).into();
    let error = renew(pool, &held, &more).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no address left in 11.0.0.0-11.0.0.3 for d.marathon.l4lb.thisdcos.directory"
    );
}

proptest! {
    #[test]
    fn leases_are_unique_and_stable(
        rounds in prop::collection::vec(prop::collection::btree_set("[a-h]{1,2}", 0..40), 1..6),
    ) {
        // A small pool, so that names collide all the time.
        let pool = Pool::new(Ipv4Addr::new(11, 0, 0, 0), 26).unwrap();
        let mut held: BTreeMap<VipName, Ipv4Addr> = BTreeMap::new();
        for round in rounds {
            let wanted: BTreeSet<VipName> = round.iter().map(|l| name(l)).collect();
            let next = renew(pool, &held, &wanted).unwrap();
            prop_assert_eq!(next.keys().cloned().collect::<BTreeSet<_>>(), wanted);
            let unique: BTreeSet<_> = next.values().collect();
            prop_assert_eq!(unique.len(), next.len());
            for (name, ip) in &next {
                prop_assert!(pool.contains(*ip));
                prop_assert!(held.get(name).is_none_or(|was| was == ip));
            }
            held = next;
        }
    }
}

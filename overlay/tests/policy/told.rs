//! What is written down of what policies drop, or would: once of many that are alike, and never more than is read.

use std::{net::IpAddr, time::Duration};

use waggle_ebpf_common::{
    addr_of,
    policy::{EGRESS, INGRESS, PolicyRecord, RECORDS_PER_S, untold, verdict},
};
use waggle_tests_support::wait_until;

use crate::{
    flows::{db, ips, rig, world},
    frame::{ACK, Packet, SYN},
};

const LIMIT: Duration = Duration::from_secs(20);

fn of(told: &[PolicyRecord], verdict: u32) -> Vec<&PolicyRecord> {
    let is = |r: &&PolicyRecord| u32::from(r.verdict) == verdict;
    told.iter().filter(is).collect()
}

#[test]
fn who_was_denied_is_told_once_a_second() {
    let Some(mut rig) = rig("told") else { return };
    rig.apply(&world(vec![db()])).unwrap();
    rig.told();
    for family in 0..2 {
        let [db, web, other] = ips(family);
        let before = rig.untold(untold::REPEATED);
        assert!(rig.gets(&Packet::new(web, db, 6, 40_000, 5432)));
        let denied = Packet::new(other, db, 6, 40_000, 5432);
        for _ in 0..5 {
            assert!(!rig.gets(&denied));
        }
        // From another port: the same to who reads it.
        assert!(!rig.gets(&Packet::new(other, db, 6, 40_001, 5432)));
        assert!(!rig.sends(&Packet::new(db, web, 17, 9000, 7)));
        let told = rig.told();
        assert_eq!(told.len(), 2, "{told:?}");
        let [ingress] = of(&told, verdict::DENIED_INGRESS)[..] else {
            panic!("{told:?}")
        };
        let wanted = PolicyRecord {
            at_ns: ingress.at_ns,
            packets: 1,
            local: addr_of(db),
            peer: addr_of(other),
            local_port: 5432_u16.to_be(),
            peer_port: 40_000_u16.to_be(),
            proto: 6,
            verdict: u8::try_from(verdict::DENIED_INGRESS).unwrap(),
            direction: u8::try_from(INGRESS).unwrap(),
            pad: 0,
        };
        assert_eq!(*ingress, wanted);
        let [egress] = of(&told, verdict::DENIED_EGRESS)[..] else {
            panic!("{told:?}")
        };
        let whom = (egress.local, egress.peer, egress.peer_port, egress.proto);
        assert_eq!(whom, (addr_of(db), addr_of(web), 7_u16.to_be(), 17));
        assert_eq!(u32::from(egress.direction), EGRESS);
        assert_eq!(rig.untold(untold::REPEATED) - before, 5);
        // A second later the next one has the number of those that were not told; who asks too early is one of them.
        let mut asked = 5;
        let next = wait_until(LIMIT, "the next record", || {
            assert!(!rig.gets(&denied));
            asked += 1;
            rig.told().pop()
        });
        assert_eq!(next.unwrap().packets, asked);
        assert_eq!(rig.untold(untold::REPEATED) - before, asked - 1);
    }
}

#[test]
fn what_an_audit_would_deny_passes_and_is_told_when_it_begins() {
    let Some(mut rig) = rig("audit") else { return };
    let mut audit = db();
    audit.audit = true;
    rig.apply(&world(vec![audit])).unwrap();
    rig.told();
    let [db, _, other] = ips(0);
    let dial = Packet::new(other, db, 6, 40_000, 5432);
    assert!(rig.gets(&dial));
    assert!(rig.sends(&dial.back().flags(SYN | ACK)));
    assert!(rig.gets(&dial.clone().flags(ACK)));
    let told = rig.told();
    let [audited] = of(&told, verdict::AUDITED_INGRESS)[..] else {
        panic!("{told:?}")
    };
    assert_eq!((audited.peer, audited.packets), (addr_of(other), 1));
    assert_eq!(told.len(), 1, "its later packets and its answers are not");
}

#[test]
fn a_flood_is_told_within_bounds_and_all_of_it_is_counted() {
    const N: u64 = 6000;
    let Some(mut rig) = rig("flood") else { return };
    rig.apply(&world(vec![db()])).unwrap();
    rig.told();
    let [db, ..] = ips(0);
    let before = rig.count(verdict::DENIED_INGRESS);
    let begun = std::time::Instant::now();
    for n in 0..N {
        let [.., a, b] = n.to_be_bytes();
        let from = IpAddr::from([192, 0, a, b]);
        assert!(!rig.gets(&Packet::new(from, db, 6, 40_000, 5432)));
    }
    let seconds = begun.elapsed().as_secs() + 2;
    assert_eq!(rig.count(verdict::DENIED_INGRESS) - before, N);
    let told = rig.told();
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    let n = told.len() as u64;
    assert!(n >= RECORDS_PER_S.min(N) / 2, "{n}");
    assert!(n <= RECORDS_PER_S * seconds * cpus, "{n} in {seconds} s");
    let packets: u64 = told.iter().map(|r| r.packets).sum();
    let not = rig.untold(untold::BUDGET) + rig.untold(untold::RING_FULL);
    assert_eq!(packets + not, N);
}

#[test]
fn what_was_not_read_is_there_after_a_restart() {
    let Some(mut rig) = rig("ring") else { return };
    rig.apply(&world(vec![db()])).unwrap();
    rig.told();
    let [db, _, other] = ips(0);
    assert!(!rig.gets(&Packet::new(other, db, 6, 40_000, 5432)));
    let rig = rig.restart().unwrap();
    let told = rig.told();
    let [one] = told[..] else { panic!("{told:?}") };
    assert_eq!(one.peer, addr_of(other));
}

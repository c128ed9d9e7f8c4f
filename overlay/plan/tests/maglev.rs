//! Laws of rings: even tables, few moves, owners that are not forgotten too early, replicas that follow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use proptest::prelude::*;
use waggle_ebpf_common::edge::{self as abi, slot};
use waggle_overlay_plan::maglev::{
    EdgeAdopted, EdgeBackend, EdgeError, EdgePlan, EdgePlanConfig, EdgeService, EdgeWrite, Member,
    RING_SIZES, Ring, RingConfig, ring_size, table,
};
use waggle_types::{Millis, Protocol, UnixMillis, VipKey};

fn members(ids: &[(u64, u32)]) -> Vec<Member> {
    (0..)
        .zip(ids)
        .map(|(owner, (id, weight))| Member {
            id: *id,
            owner,
            weight: *weight,
        })
        .collect()
}

fn shares(table: &[u16]) -> BTreeMap<u16, usize> {
    let mut shares = BTreeMap::new();
    for owner in table {
        *shares.entry(*owner).or_default() += 1;
    }
    shares
}

#[test]
fn sizes_are_primes_that_fit() {
    for size in RING_SIZES {
        assert!(
            (2..size)
                .take_while(|d| d * d <= size)
                .all(|d| size % d != 0)
        );
    }
    assert_eq!(ring_size(0), 251);
    assert_eq!(ring_size(3), 509);
    assert_eq!(ring_size(100), 16_381);
    assert_eq!(ring_size(1_000_000), 65_537);
}

#[test]
fn who_joins_or_leaves_moves_little_else() {
    let all: Vec<(u64, u32)> = (0..100).map(|id| (id, 1)).collect();
    let before = table(&members(&all), 65_537);
    let after = table(&members(&all[..99]), 65_537);
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(was, is)| **was != 99 && was != is)
        .count();
    // What must move is 1 %; what moves besides stays well below that.
    assert!(moved < 655, "{moved}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_table_is_full_fair_and_the_same_in_any_order(
        ids in proptest::collection::btree_map(any::<u64>(), 0_u32..20, 1..12),
        rotate in 0_usize..12,
    ) {
        let ids: Vec<(u64, u32)> = ids.into_iter().collect();
        let members = members(&ids);
        let made = table(&members, 1_021);
        let total: u32 = ids.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            prop_assert!(made.is_empty());
            return Ok(());
        }
        prop_assert_eq!(made.len(), 1_021);
        let shares = shares(&made);
        for member in &members {
            let due = 1_021.0 * f64::from(member.weight) / f64::from(total);
            let got = shares.get(&member.owner).copied().unwrap_or(0) as f64;
            // One turn of everybody at most.
            prop_assert!((got - due).abs() <= ids.len() as f64, "{got} for {due}");
            prop_assert!(member.weight > 0 || got == 0.0);
        }
        let mut other = members.clone();
        other.rotate_left(rotate % members.len());
        prop_assert_eq!(table(&other, 1_021), made);
    }

    /// The rules of generations, over any history. What the program does with a ring is played by the simplest of
    /// clients: one flow per slot and change, known by memory from its first packet on a marked slot.
    #[test]
    fn no_flow_changes_its_owner_while_that_one_lives(
        steps in proptest::collection::vec((0_usize..4, 0_u16..6), 1..24),
        most_marked in prop_oneof![Just(1000_u32), Just(300)],
    ) {
        const SIZE: u32 = 251;
        let config = RingConfig { window: Millis(60_000), most_marked };
        let mut alive: BTreeSet<u16> = (0..4).collect();
        let table_of = |alive: &BTreeSet<u16>| {
            let members: Vec<Member> = alive
                .iter()
                .map(|owner| Member { id: u64::from(*owner), owner: *owner, weight: 1 })
                .collect();
            table(&members, SIZE)
        };
        let mut ring = Ring::new(&table_of(&alive));
        let mut draining: BTreeSet<u16> = BTreeSet::new();
        let mut now = UnixMillis(0);
        // Slot, owner, whether it is remembered.
        let mut flows: Vec<(u32, u16, bool)> = Vec::new();
        for (step, who) in steps {
            now = now + Millis(1);
            let mut gone = BTreeSet::new();
            match step {
                0 => { alive.insert(who); draining.remove(&who); }
                1 if alive.len() > 1 && alive.remove(&who) => { draining.insert(who); }
                2 if alive.len() > 1 && (alive.remove(&who) || draining.remove(&who)) => {
                    gone.insert(who);
                }
                _ => {
                    // Everybody speaks, then the window passes.
                    for flow in &mut flows {
                        flow.2 |= slot::is_dirty(ring.slots()[flow.0 as usize]);
                    }
                    now = now + config.window;
                    ring.close(config, now);
                    let mut remembered: BTreeMap<u32, BTreeSet<u16>> = BTreeMap::new();
                    for (at, owner, is_known) in &flows {
                        if *is_known {
                            remembered.entry(*at).or_default().insert(*owner);
                        }
                    }
                    ring.clean(&remembered);
                }
            }
            let done = ring.retarget(&table_of(&alive), &gone, config, now);
            prop_assert!(done.deferred == 0 || most_marked < 1000);
            flows.retain(|(_, owner, _)| !gone.contains(owner));
            for owner in ring.owners() {
                prop_assert!(alive.contains(&owner) || draining.contains(&owner), "{owner} is gone");
            }
            for (at, owner, is_known) in &mut flows {
                let word = ring.slots()[*at as usize];
                if !slot::is_dirty(word) {
                    prop_assert_eq!(*owner, slot::current(word), "clean slot {}", at);
                    *is_known = false;
                } else if !*is_known {
                    prop_assert_eq!(*owner, slot::previous(word), "slot {}", at);
                }
            }
            // New connections on every slot; on a marked one they are known from the start.
            if flows.len() < 20_000 {
                for at in 0..SIZE {
                    let word = ring.slots()[at as usize];
                    flows.push((at, slot::current(word), slot::is_dirty(word)));
                }
            }
        }
    }
}

/// The kernel's tables as plain maps, which complain where a reader could be led astray.
#[derive(Clone, Default)]
struct Kernel {
    backends: BTreeMap<u32, abi::Backend>,
    slots: BTreeMap<u32, u32>,
    records: BTreeMap<u32, abi::Record>,
    vips: BTreeMap<u64, u32>,
    ranges: BTreeSet<(abi::Range, u8)>,
}

impl Kernel {
    fn execute(&mut self, writes: &[EdgeWrite]) {
        for write in writes {
            match write {
                EdgeWrite::SetBackends { base, backends } => {
                    for (at, backend) in (*base..).zip(backends) {
                        self.backends.insert(at, *backend);
                    }
                }
                EdgeWrite::Retire { at } => {
                    if let Some(backend) = self.backends.get_mut(at) {
                        backend.generation = 0;
                    }
                }
                EdgeWrite::SetNextHop { at, mac } => {
                    let Some(backend) = self.backends.get_mut(at) else {
                        panic!("no backend at {at}");
                    };
                    backend.header[..6].copy_from_slice(mac);
                }
                EdgeWrite::SetSlots { base, slots } => {
                    for (at, word) in slots {
                        self.slots.insert(base + at, *word);
                    }
                }
                EdgeWrite::SetRecord { at, record } => {
                    assert!(
                        !self.vips.values().any(|used| used == at),
                        "record {at} is in use"
                    );
                    self.records.insert(*at, *record);
                }
                EdgeWrite::Publish { key, record } => {
                    self.vips.insert(*key, *record);
                }
                EdgeWrite::Withdraw { key } => {
                    self.vips.remove(key);
                }
                EdgeWrite::Allow { range, prefix } => {
                    self.ranges.insert((*range, *prefix));
                }
                EdgeWrite::Disallow { range, prefix } => {
                    assert!(self.ranges.remove(&(*range, *prefix)));
                }
            }
            self.check();
        }
    }

    /// As an agent reads them that starts.
    fn found(&self) -> Vec<EdgeAdopted> {
        self.vips
            .values()
            .map(|at| {
                let value = self.records[at];
                let slots = (0..value.ring_size)
                    .map(|n| self.slots[&(value.ring_base + n)])
                    .collect();
                let backends = (0..value.places)
                    .map(|n| self.backends[&(value.backend_base + n)])
                    .collect();
                EdgeAdopted {
                    record: *at,
                    value,
                    slots,
                    backends,
                }
            })
            .collect()
    }

    /// After every single write, every slot of every VIP leads to a backend of that VIP.
    fn check(&self) {
        for (key, at) in &self.vips {
            let record = self.records[at];
            assert_eq!(record.key, *key);
            for n in 0..record.ring_size {
                let word = self.slots[&(record.ring_base + n)];
                for owner in [slot::previous(word), slot::current(word)] {
                    let place = record.backend_base + u32::from(owner);
                    let backend = self.backends[&place];
                    let vip_port = [backend.header[48], backend.header[49]];
                    let port = (record.key >> 16 & 0xffff) as u16;
                    assert_eq!(
                        vip_port,
                        port.to_ne_bytes(),
                        "an empty place or another VIP's"
                    );
                }
            }
        }
    }
}

fn vip(n: u8) -> VipKey {
    VipKey {
        protocol: Protocol::Tcp,
        ip: Ipv4Addr::new(11, 0, 0, n).into(),
        port: 80 + u16::from(n),
    }
}

fn addr(n: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, n), 8000)
}

fn config() -> EdgePlanConfig {
    let mut config = EdgePlanConfig::new(Ipv4Addr::new(10, 9, 9, 9), [2; 6], 1500);
    config.records = 64;
    config.slots = 20_000;
    config.backends = 512;
    config
}

prop_compose! {
    fn service()(
        backends in proptest::collection::btree_map(0_u8..12, (0_u32..3, 0_u8..3), 0..9),
        affinity in any::<bool>(),
        ranges in proptest::option::of(proptest::collection::btree_set((0_u8..3, 8_u8..16), 0..3)),
    ) -> EdgeService {
        EdgeService {
            backends: backends
                .into_iter()
                .map(|(n, (weight, hop))| {
                    let next_hop = (hop > 0).then_some([hop; 6]);
                    (addr(n), EdgeBackend { node: *addr(n).ip(), next_hop, is_local: false, weight })
                })
                .collect(),
            affinity,
            ranges: ranges.map(|nets| nets.into_iter().map(|(n, prefix)| (Ipv4Addr::new(n, 0, 0, 0), prefix)).collect()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_every_write_a_vip_leads_to_backends_of_its_own(
        history in proptest::collection::vec(
            (proptest::collection::btree_map(0_u8..4, service(), 0..4), 1_u64..70_000),
            1..8,
        ),
    ) {
        let mut plan = EdgePlan::new(config());
        let mut kernel = Kernel::default();
        let mut now = UnixMillis(1);
        for (services, later) in history {
            now = now + Millis(later);
            let services: BTreeMap<VipKey, EdgeService> =
                services.into_iter().map(|(n, service)| (vip(n), service)).collect();
            let planned = plan.apply(&services, now);
            prop_assert_eq!(&planned.failures, &vec![]);
            kernel.execute(&planned.writes);
            prop_assert_eq!(kernel.vips.len(), services.len());
            for (key, service) in &services {
                let (ring, record) = plan.vip(key).unwrap();
                prop_assert_eq!(kernel.records[&kernel.vips[&record.key]], *record);
                for (at, word) in (0..).zip(ring.slots()) {
                    if record.ring_size > 0 {
                        prop_assert_eq!(kernel.slots[&(record.ring_base + at)], *word);
                    }
                }
                // Everybody with a weight gets something, nobody else anything new (but what is deferred).
                let has_weight = service.backends.values().any(|b| b.weight > 0);
                let refuses = record.flags & abi::flag::NO_NEW != 0;
                prop_assert_eq!(record.ring_size > 0 && !refuses, has_weight);
                prop_assert!(!refuses || !service.backends.is_empty());
            }
            let writes = plan.settle(|_| BTreeMap::new(), now);
            kernel.execute(&writes);
            // An agent that restarts finds what it wrote, and wants nothing else.
            let has_ranges = services.values().any(|service| service.ranges.is_some());
            if !has_ranges && planned.deferred == 0 {
                let mut adopted = EdgePlan::adopt(config(), kernel.found(), now);
                let planned = adopted.apply(&services, now);
                prop_assert_eq!(&planned.failures, &vec![]);
                let moves = |write: &EdgeWrite| matches!(write, EdgeWrite::Withdraw { .. } | EdgeWrite::Retire { .. });
                prop_assert!(!planned.writes.iter().any(moves), "{:?}", planned.writes);
                for (key, service) in &services {
                    let is_served = plan.vip(key).is_some_and(|(_, record)| record.ring_size > 0);
                    for addr in service.backends.keys().filter(|_| is_served) {
                        prop_assert_eq!(adopted.owner(key, addr), plan.owner(key, addr));
                    }
                }
                // What it writes all the same is as safe.
                let mut copy = kernel.clone();
                copy.execute(&planned.writes);
            }
            // The same again is nothing to do, but for what was deferred.
            let again = plan.apply(&services, now);
            if planned.deferred == 0 {
                prop_assert_eq!(again.writes, vec![]);
            } else {
                kernel.execute(&again.writes);
            }
        }
        // Everything comes back.
        now = now + Millis(5_000);
        kernel.execute(&plan.apply(&BTreeMap::new(), now).writes);
        prop_assert!(kernel.vips.is_empty() && kernel.ranges.is_empty());
        now = now + Millis(5_000);
        plan.apply(&BTreeMap::new(), now);
        let memory = plan.memory();
        prop_assert_eq!(memory.total(), memory.buckets);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// An edge that starts in the middle sends every connection where the one does that was there all along.
    #[test]
    fn an_edge_that_starts_takes_over_the_others_generations(
        history in proptest::collection::vec((service(), 1_u64..40_000), 1..6),
        later in 0_u64..70_000,
    ) {
        let mut config = config();
        config.ring.most_marked = 1000;
        let mut old = EdgePlan::new(config.clone());
        let mut now = UnixMillis(100_000);
        let mut last = BTreeMap::new();
        for (service, pause) in history {
            last = BTreeMap::from([(vip(0), service)]);
            now = now + Millis(pause);
            old.settle(|_| BTreeMap::new(), now);
            old.apply(&last, now);
        }
        now = now + Millis(later);
        old.settle(|_| BTreeMap::new(), now);
        let told = old.marks(now);
        // It says the same again after that, and takes the marks of two like those of one.
        let mut new = EdgePlan::new(config);
        new.learn(&told, now);
        new.learn(&told, now);
        new.apply(&last, now);
        let addrs = |plan: &EdgePlan| -> BTreeMap<u16, SocketAddrV4> {
            let all = last[&vip(0)].backends.keys();
            all.filter_map(|a| Some((plan.owner(&vip(0), a)?, *a))).collect()
        };
        let (of_old, of_new) = (addrs(&old), addrs(&new));
        let (Some((was, old_record)), Some((is, new_record))) = (old.vip(&vip(0)), new.vip(&vip(0))) else {
            return Ok(());
        };
        let has_weight = last[&vip(0)].backends.values().any(|b| b.weight > 0);
        if !has_weight {
            return Ok(());
        }
        prop_assert_eq!(old_record.ring_size, new_record.ring_size);
        for (a, b) in was.slots().iter().zip(is.slots()) {
            prop_assert_eq!(of_old.get(&slot::current(*a)), of_new.get(&slot::current(*b)));
            let previous = of_old.get(&slot::previous(*a));
            // One that is gone serves nobody.
            if slot::previous(*a) != slot::current(*a) && previous.is_some() {
                prop_assert!(slot::is_dirty(*b));
                prop_assert_eq!(previous, of_new.get(&slot::previous(*b)));
            }
        }
        prop_assert_eq!(new.marks(now).len(), told.len());
    }
}

#[test]
fn a_full_table_refuses_the_change_and_keeps_what_is_there() {
    let mut config = config();
    config.slots = 600;
    let mut plan = EdgePlan::new(config);
    let mut kernel = Kernel::default();
    let service = EdgeService {
        backends: BTreeMap::from([(
            addr(1),
            EdgeBackend {
                node: *addr(1).ip(),
                next_hop: None,
                is_local: false,
                weight: 1,
            },
        )]),
        ..EdgeService::default()
    };
    let services: BTreeMap<_, _> = (0..3).map(|n| (vip(n), service.clone())).collect();
    let planned = plan.apply(&services, UnixMillis(1));
    kernel.execute(&planned.writes);
    assert_eq!(kernel.vips.len(), 2);
    assert!(
        matches!(&planned.failures[..], [EdgeError::Full { key, table: "slots", .. }] if *key == vip(2)),
        "{:?}",
        planned.failures
    );
    // With one VIP gone, and rested, there is room.
    let services: BTreeMap<_, _> = (1..3).map(|n| (vip(n), service.clone())).collect();
    let planned = plan.apply(&services, UnixMillis(2));
    assert_eq!(planned.failures.len(), 1);
    kernel.execute(&planned.writes);
    let planned = plan.apply(&services, UnixMillis(2_000));
    assert_eq!(planned.failures, []);
    kernel.execute(&planned.writes);
    assert_eq!(kernel.vips.len(), 2);
}

#[test]
fn ten_thousand_services_fit_in_64_megabytes() {
    let mut plan = EdgePlan::new(EdgePlanConfig::new(
        Ipv4Addr::new(10, 9, 9, 9),
        [2; 6],
        1500,
    ));
    let services: BTreeMap<VipKey, EdgeService> = (0..10_000_u32)
        .map(|n| {
            let backends = (0..3)
                .map(|b| {
                    let node = Ipv4Addr::from(0x0a00_0000 + n % 200 + b);
                    let place = EdgeBackend {
                        node,
                        next_hop: None,
                        is_local: false,
                        weight: 1,
                    };
                    (SocketAddrV4::new(node, 8000), place)
                })
                .collect();
            let key = VipKey {
                protocol: Protocol::Tcp,
                ip: Ipv4Addr::from(0x0b00_0000 + n).into(),
                port: 80,
            };
            let service = EdgeService {
                backends,
                ..EdgeService::default()
            };
            (key, service)
        })
        .collect();
    let planned = plan.apply(&services, UnixMillis(1));
    assert_eq!(planned.failures, []);
    let memory = plan.memory();
    assert!(memory.total() < 64 << 20, "{memory:?}");
}

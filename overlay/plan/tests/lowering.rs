//! The lowering's law, against a model of the kernel's maps: after every single write, and for every program
//! that read an entry a moment ago, a VIP leads to a backend of this VIP and to nothing else.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4},
};

use common::{small, task_id};
use proptest::prelude::*;
use waggle_ebpf_common as abi;
use waggle_overlay_plan::{
    Adopted, BackendSet, LocalFacts, LowerError, Lowering, LoweringConfig, MapWrite, VipTable,
    diff,
    lower::{backend_from_kernel, key_to_kernel},
    render, table,
};
use waggle_types::{Millis, Protocol, UnixMillis, VipKey};

const MAX_VIPS: u32 = 6;
const MAX_BACKENDS: u32 = 14;
const QUARANTINE: u64 = 100;

fn config() -> LoweringConfig {
    LoweringConfig {
        max_vips: MAX_VIPS,
        max_backends: MAX_BACKENDS,
        quarantine: Millis(QUARANTINE),
    }
}

fn key(n: u8) -> VipKey {
    VipKey {
        protocol: Protocol::Tcp,
        ip: Ipv4Addr::new(11, 0, 0, n),
        port: 80,
    }
}

/// Backend addresses tell whose they are: 10.<vip>.0.<i>.
fn backend(vip: u8, i: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, vip, 0, i), 31000)
}

/// The kernel: two maps, and programs that read an entry up to a quarantine ago and its slot now.
#[derive(Default, Clone)]
struct Kernel {
    vips: BTreeMap<abi::VipKey, abi::VipValue>,
    slots: Vec<abi::Backend>,
    /// Entries as they were, until when somebody may hold them.
    held: Vec<(UnixMillis, abi::VipKey, abi::VipValue)>,
}

impl Kernel {
    fn new() -> Self {
        Self {
            slots: vec![abi::Backend::default(); MAX_BACKENDS as usize],
            ..Self::default()
        }
    }

    fn write(&mut self, write: &MapWrite, now: UnixMillis) {
        let until = now + Millis(QUARANTINE);
        match write {
            MapWrite::SetBackends { base, backends } => {
                for (i, b) in backends.iter().enumerate() {
                    self.slots[*base as usize + i] = *b;
                    // Slots are written one by one: every moment between counts.
                    self.check(now);
                }
            }
            MapWrite::SetVip { key, value } => {
                if let Some(old) = self.vips.insert(*key, *value) {
                    self.held.push((until, *key, old));
                }
                assert!(self.vips.len() <= MAX_VIPS as usize);
            }
            MapWrite::RemoveVip { key, .. } => {
                if let Some(old) = self.vips.remove(key) {
                    self.held.push((until, *key, old));
                }
            }
        }
        self.check(now);
    }

    /// Every entry that is there or held leads to backends of its own VIP only.
    fn check(&mut self, now: UnixMillis) {
        self.held.retain(|(until, ..)| *until > now);
        let held = self.held.iter().map(|(_, k, v)| (k, v));
        for (key, value) in self.vips.iter().chain(held) {
            let vip = Ipv4Addr::from(key.addr.to_ne_bytes()).octets()[3];
            for slot in value.base..value.base + value.n {
                let at = backend_from_kernel(&self.slots[slot as usize]);
                let at = at.unwrap_or_else(|| panic!("vip {vip} leads to an empty slot {slot}"));
                assert_eq!(at.ip().octets()[1], vip, "slot {slot} is of another vip");
            }
        }
    }

    fn serves(&self, vip: VipKey) -> Option<BTreeSet<SocketAddrV4>> {
        let value = self.vips.get(&key_to_kernel(&vip))?;
        let slots = &self.slots[value.base as usize..(value.base + value.n) as usize];
        let set: BTreeSet<_> = slots.iter().filter_map(backend_from_kernel).collect();
        assert_eq!(set.len(), value.n as usize, "no backend has two slots");
        Some(set)
    }

    fn observed(&self) -> Vec<Adopted> {
        let read = |v: &abi::VipValue| {
            let end = (v.base + v.n).min(MAX_BACKENDS);
            self.slots[v.base.min(end) as usize..end as usize].to_vec()
        };
        self.vips
            .iter()
            .map(|(key, value)| Adopted {
                key: *key,
                value: *value,
                backends: read(value),
            })
            .collect()
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// VIP -> backends (a bit set).
    Table(BTreeMap<u8, u8>),
    /// By the op path instead of the converge path.
    Ops(BTreeMap<u8, u8>),
    Wait(u64),
    /// The agent is killed and adopts what it finds.
    Restart,
    /// The executor fails after this many writes, then the maps are read again.
    FailAfter(usize, BTreeMap<u8, u8>),
}

fn any_table() -> impl Strategy<Value = BTreeMap<u8, u8>> {
    prop::collection::btree_map(1u8..9, 0u8..32, 0..8)
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any_table().prop_map(Step::Table),
        2 => any_table().prop_map(Step::Ops),
        2 => (0u64..3 * QUARANTINE).prop_map(Step::Wait),
        1 => Just(Step::Restart),
        1 => (0usize..6, any_table()).prop_map(|(n, t)| Step::FailAfter(n, t)),
    ]
}

fn vip_table(of: &BTreeMap<u8, u8>) -> VipTable {
    of.iter()
        .map(|(vip, bits)| {
            let backends = (0..5)
                .filter(|i| bits & (1 << i) != 0)
                .map(|i| backend(*vip, i + 1));
            let set = BackendSet {
                name: None,
                backends: backends.collect(),
            };
            (key(*vip), set)
        })
        .collect()
}

/// Kernel and desire agree, but for what was reported; nobody who is not desired is ever served.
fn agree(kernel: &Kernel, desired: &VipTable, failures: &[LowerError]) {
    let failed: BTreeSet<VipKey> = failures
        .iter()
        .map(|f| match f {
            LowerError::VipsFull { key, .. } | LowerError::SlotsFull { key, .. } => *key,
        })
        .collect();
    for (key, set) in desired {
        match kernel.serves(*key) {
            Some(served) if failed.contains(key) => assert!(served.is_subset(&set.backends)),
            Some(served) => assert_eq!(served, set.backends, "{key}"),
            None => assert!(failed.contains(key), "{key} is missing without a report"),
        }
    }
    let keys: BTreeSet<_> = desired.keys().map(key_to_kernel).collect();
    assert!(kernel.vips.keys().all(|k| keys.contains(k)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_intermediate_state_points_wrong(steps in prop::collection::vec(any_step(), 1..25)) {
        let mut kernel = Kernel::new();
        let mut lowering = Lowering::new(config());
        let mut desired = VipTable::new();
        let mut now = UnixMillis(1_000);
        for step in steps {
            now = now + Millis(1);
            let ids: BTreeMap<VipKey, u32> = lowering.vip_ids().map(|(id, k)| (k, id)).collect();
            match step {
                Step::Table(t) => {
                    desired = vip_table(&t);
                    let lowered = lowering.converge(&desired, now);
                    for w in &lowered.writes {
                        kernel.write(w, now);
                    }
                    agree(&kernel, &desired, &lowered.failures);
                    // Fixpoint: nothing more to write, the same failures again.
                    let again = lowering.converge(&desired, now);
                    prop_assert_eq!(again.writes, vec![]);
                    prop_assert_eq!(again.failures.len(), lowered.failures.len());
                }
                Step::Ops(t) => {
                    let next = vip_table(&t);
                    let lowered = lowering.lower(&diff(&desired, &next), now);
                    desired = next;
                    for w in &lowered.writes {
                        kernel.write(w, now);
                    }
                }
                Step::Wait(ms) => {
                    now = now + Millis(ms);
                    let lowered = lowering.converge(&desired, now);
                    for w in &lowered.writes {
                        kernel.write(w, now);
                    }
                    agree(&kernel, &desired, &lowered.failures);
                }
                Step::Restart => {
                    // A process start takes longer than a program's run.
                    now = now + Millis(QUARANTINE);
                    lowering = Lowering::adopt(config(), kernel.observed());
                    for (k, id) in &ids {
                        prop_assert_eq!(lowering.vip_id(k), Some(*id), "ids outlive restarts");
                    }
                }
                Step::FailAfter(n, t) => {
                    desired = vip_table(&t);
                    for w in lowering.converge(&desired, now).writes.iter().take(n) {
                        kernel.write(w, now);
                    }
                    lowering.observe(kernel.observed(), now);
                    let lowered = lowering.converge(&desired, now);
                    for w in &lowered.writes {
                        kernel.write(w, now);
                    }
                    agree(&kernel, &desired, &lowered.failures);
                }
            }
            // Numbers are unique, never 0, and stay while the VIP stays.
            let after: BTreeMap<VipKey, u32> = lowering.vip_ids().map(|(id, k)| (k, id)).collect();
            let unique: BTreeSet<u32> = after.values().copied().collect();
            prop_assert_eq!(unique.len(), after.len());
            prop_assert!(!unique.contains(&0));
            for (k, id) in &ids {
                prop_assert!(after.get(k).is_none_or(|now| now == id));
            }
        }
    }

    #[test]
    fn wild_entries_are_adopted_without_panic_and_put_right(
        entries in prop::collection::btree_map(
            (1u8..9, 0u8..20),
            (0u32..20, 0u32..20, 0u32..4, any::<bool>()),
            0..6,
        ),
        t in any_table(),
    ) {
        let mut kernel = Kernel::new();
        for ((vip, proto), (base, n, vip_id, huge)) in entries {
            let mut k = key_to_kernel(&key(vip));
            k.proto = proto;
            let base = if huge { u32::MAX - base } else { base };
            kernel.vips.insert(k, abi::VipValue { base, n, vip_id, flags: 0 });
        }
        let found = kernel
            .vips
            .iter()
            .map(|(key, value)| Adopted { key: *key, value: *value, backends: vec![] })
            .collect();
        let mut lowering = Lowering::adopt(config(), found);
        let desired = vip_table(&t);
        let lowered = lowering.converge(&desired, UnixMillis(1));
        // The wild entries were wrong before we came; what we leave behind must be right.
        for w in &lowered.writes {
            match w {
                MapWrite::SetBackends { base, backends } => {
                    for (i, b) in backends.iter().enumerate() {
                        kernel.slots[*base as usize + i] = *b;
                    }
                }
                MapWrite::SetVip { key, value } => {
                    kernel.vips.insert(*key, *value);
                }
                MapWrite::RemoveVip { key, .. } => {
                    kernel.vips.remove(key);
                }
            }
        }
        agree(&kernel, &desired, &lowered.failures);
        kernel.check(UnixMillis(1));
    }
}

#[test]
fn writes_read_well() {
    let mut lowering = Lowering::new(LoweringConfig::default());
    let mut snapshot = small();
    let now = UnixMillis(0);
    let first = lowering.converge(&table(&snapshot, &LocalFacts::new()), now);
    let ids: Vec<u32> = lowering.vip_ids().map(|(id, _)| id).collect();
    assert_eq!(
        render::writes(&first.writes),
        format!(
            "\
slots 0.. = 10.0.0.1:31001 10.0.0.2:31002
vip 11.0.0.1:80/tcp = base 0 n 2 id {}
vip 11.0.0.2:5432/tcp = base 0 n 0 id {}
slots 2.. = 10.0.0.2:31003
vip 11.9.9.9:443/tcp = base 2 n 1 id {}
",
            ids[0], ids[1], ids[2]
        )
    );
    // One backend dies: fresh slots, one switch; the old slots rest.
    snapshot.tasks.remove(&task_id("web.1"));
    snapshot.literal_vips.clear();
    let next = lowering.converge(&table(&snapshot, &LocalFacts::new()), now);
    assert_eq!(
        render::writes(&next.writes),
        format!(
            "\
vip 11.9.9.9:443/tcp removed, id {}
slots 3.. = 10.0.0.2:31002
vip 11.0.0.1:80/tcp = base 3 n 1 id {}
",
            ids[2], ids[0]
        )
    );
    assert_eq!(lowering.free_slots(), (abi::MAX_BACKENDS - 4, 3));
}

#[test]
fn full_maps_are_reported_and_what_is_there_keeps_working() {
    let mut lowering = Lowering::new(LoweringConfig {
        max_vips: 2,
        max_backends: 3,
        quarantine: Millis(QUARANTINE),
    });
    let now = UnixMillis(0);
    let full = vip_table(&BTreeMap::from([(1, 0b111), (2, 0b1), (3, 0b1)]));
    let lowered = lowering.converge(&full, now);
    let texts: Vec<String> = lowered.failures.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "no room for 1 backends of vip 11.0.0.2:80/tcp: 0 slots free, 0 resting",
            "no room for vip 11.0.0.3:80/tcp: all 2 entries are in use"
        ]
    );
    assert_eq!(lowering.serves(&key(1)).map(BTreeSet::len), Some(3));
    // Without a free slot a dead backend leaves nonetheless, in place.
    let fewer = vip_table(&BTreeMap::from([(1, 0b101)]));
    let lowered = lowering.converge(&fewer, now);
    assert_eq!(lowered.failures, []);
    let lines = render::writes(&lowered.writes);
    assert!(
        lines.contains("slots 0.. = 10.1.0.1:31000 10.1.0.3:31000 10.1.0.1:31000"),
        "{lines}"
    );
}

#[test]
fn adoption_of_the_same_table_writes_nothing() {
    let mut lowering = Lowering::new(config());
    let mut kernel = Kernel::new();
    let desired = vip_table(&BTreeMap::from([(1, 0b11), (2, 0)]));
    for w in lowering.converge(&desired, UnixMillis(0)).writes {
        kernel.write(&w, UnixMillis(0));
    }
    let mut next = Lowering::adopt(config(), kernel.observed());
    assert_eq!(next.converge(&desired, UnixMillis(0)).writes, []);
}

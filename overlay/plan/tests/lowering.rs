//! The lowering's law, against a model of the kernel's maps: after every single write, and for every program
//! that read an entry a moment ago, a VIP leads to a backend of this VIP and to nothing else.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use common::{small, task_id};
use proptest::prelude::*;
use waggle_ebpf_common as abi;
use waggle_overlay_plan::{
    Adopted, BackendSet, LocalFacts, LowerError, Lowering, LoweringConfig, MapWrite, Share,
    VipTable, diff,
    lower::{backend_from_kernel, key_to_kernel},
    render, table,
};
use waggle_types::{Millis, Protocol, UnixMillis, VipKey};

const MAX_VIPS: u32 = 6;
const MAX_CELLS: u32 = 20;
const QUARANTINE: u64 = 100;

fn config() -> LoweringConfig {
    LoweringConfig {
        max_vips: MAX_VIPS,
        max_cells: MAX_CELLS,
        quarantine: Millis(QUARANTINE),
    }
}

fn key(n: u8) -> VipKey {
    VipKey {
        protocol: Protocol::Tcp,
        ip: Ipv4Addr::new(11, 0, 0, n).into(),
        port: 80,
    }
}

/// Backend addresses tell whose they are: 10.<vip>.0.<i>.
fn backend(vip: u8, i: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, vip, 0, i), 31000))
}

fn octets(ip: IpAddr) -> [u8; 4] {
    match ip {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(_) => panic!("{ip} is not of this test"),
    }
}

/// The kernel: two maps, and programs that read an entry up to a quarantine ago and its cells now.
#[derive(Default, Clone)]
struct Kernel {
    vips: BTreeMap<abi::VipKey, u32>,
    cells: Vec<abi::Cell>,
    /// Entries as they were, until when somebody may hold them.
    held: Vec<(UnixMillis, abi::VipKey, u32)>,
}

impl Kernel {
    fn new() -> Self {
        Self {
            cells: vec![abi::Cell::default(); MAX_CELLS as usize],
            ..Self::default()
        }
    }

    fn write(&mut self, write: &MapWrite, now: UnixMillis) {
        let until = now + Millis(QUARANTINE);
        match write {
            MapWrite::WriteCells { base, cells } => {
                for (i, cell) in cells.iter().enumerate() {
                    for (j, word) in cell.words.iter().enumerate() {
                        self.cells[*base as usize + i].words[j] = *word;
                    }
                    // Nobody reads them meanwhile: every moment between counts.
                    self.check(now);
                }
            }
            MapWrite::Patch { cell, word, value } => {
                self.cells[*cell as usize].words[usize::from(*word)] = *value;
            }
            MapWrite::SetVip { key, cell } => {
                if let Some(old) = self.vips.insert(*key, *cell) {
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

    fn set(&self, cell: u32) -> (abi::SetHeader, Vec<abi::Backend>) {
        let header: abi::SetHeader = self.cells[cell as usize].into();
        let from = cell as usize + 1;
        let cells = &self.cells[from..from + usize::from(header.members)];
        (header, cells.iter().map(|c| (*c).into()).collect())
    }

    /// Every entry that is there or held leads to a set of its own with backends of its own.
    fn check(&mut self, now: UnixMillis) {
        self.held.retain(|(until, ..)| *until > now);
        let held = self.held.iter().map(|(_, k, v)| (k, v));
        for (key, cell) in self.vips.iter().chain(held) {
            let vip = octets(abi::ip_of(key.addr))[3];
            let (header, backends) = self.set(*cell);
            let own = (header.addr, header.port, header.proto);
            assert_eq!(
                own,
                (key.addr, key.port, key.proto),
                "cell {cell} is not vip {vip}'s"
            );
            assert!(header.n <= header.members);
            for b in &backends {
                let at = backend_from_kernel(b);
                let at = at.unwrap_or_else(|| panic!("vip {vip} has an empty cell"));
                assert_eq!(octets(at.ip())[1], vip, "a backend of another vip");
            }
            for b in &backends[..header.n.into()] {
                assert!(
                    b.alias < header.n.into(),
                    "an alias that drains or is not there"
                );
            }
        }
    }

    /// Whom a connect may get.
    fn serves(&self, vip: VipKey) -> Option<BTreeSet<SocketAddr>> {
        let (header, backends) = self.set(*self.vips.get(&key_to_kernel(&vip))?);
        let mut out = BTreeSet::new();
        for (i, b) in (0..).zip(&backends[..header.n.into()]) {
            if b.threshold > 0 || b.alias == i {
                out.extend(backend_from_kernel(b));
            }
            out.extend(backend_from_kernel(&backends[b.alias as usize]));
        }
        Some(out)
    }

    /// Who keeps what it has.
    fn members(&self, vip: VipKey) -> Option<BTreeSet<SocketAddr>> {
        let (_, backends) = self.set(*self.vips.get(&key_to_kernel(&vip))?);
        Some(backends.iter().filter_map(backend_from_kernel).collect())
    }

    fn observed(&self) -> Vec<Adopted> {
        let read = |cell: u32| {
            let Some(first) = self.cells.get(cell as usize) else {
                return Vec::new();
            };
            let header: abi::SetHeader = (*first).into();
            let end = (cell as usize + 1 + usize::from(header.members)).min(self.cells.len());
            self.cells[cell as usize..end].to_vec()
        };
        self.vips
            .iter()
            .map(|(key, cell)| Adopted {
                key: *key,
                cell: *cell,
                cells: read(*cell),
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
            // The last of them drains; others have weights that differ.
            let backends = (0..5).filter(|i| bits & (1 << i) != 0).map(|i| {
                let weight_milli = if i == 4 { 0 } else { 1000 * (u32::from(i) + 1) };
                let share = Share {
                    weight_milli,
                    ..Share::ONE
                };
                (backend(*vip, i + 1), share)
            });
            let set = BackendSet {
                backends: backends.collect(),
                ..BackendSet::default()
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
            LowerError::VipsFull { key, .. }
            | LowerError::CellsFull { key, .. }
            | LowerError::SetFull { key, .. } => *key,
        })
        .collect();
    for (key, set) in desired {
        let serving: BTreeSet<_> = set.serving().collect();
        match kernel.serves(*key) {
            Some(served) if failed.contains(key) => assert!(served.is_subset(&serving)),
            Some(served) => assert_eq!(served, serving, "{key}"),
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
            (0u32..30, any::<bool>()),
            0..6,
        ),
        junk in prop::collection::vec((0usize..20, 0usize..8, any::<u32>()), 0..40),
        t in any_table(),
    ) {
        let mut kernel = Kernel::new();
        for (cell, word, value) in junk {
            kernel.cells[cell].words[word] = value;
        }
        for ((vip, proto), (cell, huge)) in entries {
            let mut k = key_to_kernel(&key(vip));
            k.proto = proto;
            kernel.vips.insert(k, if huge { u32::MAX - cell } else { cell });
        }
        let mut lowering = Lowering::adopt(config(), kernel.observed());
        let desired = vip_table(&t);
        let lowered = lowering.converge(&desired, UnixMillis(1));
        // The wild entries were wrong before we came; what we leave behind must be right.
        for w in &lowered.writes {
            match w {
                MapWrite::WriteCells { base, cells } => {
                    for (i, c) in cells.iter().enumerate() {
                        kernel.cells[*base as usize + i] = *c;
                    }
                }
                MapWrite::Patch { cell, word, value } => {
                    kernel.cells[*cell as usize].words[usize::from(*word)] = *value;
                }
                MapWrite::SetVip { key, cell } => {
                    kernel.vips.insert(*key, *cell);
                }
                MapWrite::RemoveVip { key, .. } => {
                    kernel.vips.remove(key);
                }
            }
        }
        // What could not be written again for want of room is as wild as it was; it was reported.
        let failed: BTreeSet<_> = lowered.failures.iter().map(failed_key).collect();
        kernel.vips.retain(|k, _| !failed.contains(k));
        let desired = desired
            .into_iter()
            .filter(|(k, _)| !failed.contains(&key_to_kernel(k)))
            .collect();
        agree(&kernel, &desired, &[]);
        kernel.check(UnixMillis(1));
    }
}

fn failed_key(error: &LowerError) -> abi::VipKey {
    let (LowerError::VipsFull { key, .. }
    | LowerError::CellsFull { key, .. }
    | LowerError::SetFull { key, .. }) = error;
    key_to_kernel(key)
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
cells 0.. = id {}, 2 of 2: 10.0.0.1:31001 10.0.0.2:31002
vip 11.0.0.1:80/tcp = cell 0
cells 3.. = id {}, 0 of 0: 
vip 11.0.0.2:5432/tcp = cell 3
cells 4.. = id {}, 1 of 1: 10.0.0.2:31003
vip 11.9.9.9:443/tcp = cell 4
",
            ids[0], ids[1], ids[2]
        )
    );
    // One backend dies: fresh cells, one switch; the old cells rest.
    snapshot.tasks.remove(&task_id("web.1"));
    snapshot.literal_vips.clear();
    let next = lowering.converge(&table(&snapshot, &LocalFacts::new()), now);
    assert_eq!(
        render::writes(&next.writes),
        format!(
            "\
vip 11.9.9.9:443/tcp removed, id {}
cells 6.. = id {}, 1 of 1: 10.0.0.2:31002
vip 11.0.0.1:80/tcp = cell 6
",
            ids[2], ids[0]
        )
    );
    assert_eq!(lowering.free_slots(), (abi::MAX_CELLS - 8, 5));
}

#[test]
fn full_maps_are_reported_and_what_is_there_keeps_working() {
    let mut kernel = Kernel::new();
    let mut lowering = Lowering::new(LoweringConfig {
        max_vips: 2,
        max_cells: 4,
        quarantine: Millis(QUARANTINE),
    });
    let now = UnixMillis(0);
    let full = vip_table(&BTreeMap::from([(1, 0b111), (2, 0b1), (3, 0b1)]));
    let lowered = lowering.converge(&full, now);
    let texts: Vec<String> = lowered.failures.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "no room for 1 backends of vip 11.0.0.2:80/tcp: 0 cells free, 0 resting",
            "no room for 1 backends of vip 11.0.0.3:80/tcp: 0 cells free, 0 resting",
        ]
    );
    for w in &lowered.writes {
        kernel.write(w, now);
    }
    // Without a free cell a dead backend leaves nonetheless, in place.
    let fewer = vip_table(&BTreeMap::from([(1, 0b101)]));
    let lowered = lowering.converge(&fewer, now);
    assert_eq!(lowered.failures, []);
    for w in &lowered.writes {
        assert!(matches!(w, MapWrite::Patch { .. }), "{w:?}");
        kernel.write(w, now);
    }
    let survivors = BTreeSet::from([backend(1, 1), backend(1, 3)]);
    assert_eq!(kernel.serves(key(1)), Some(survivors));
    // And when the last one is gone, nobody is sent to the dead.
    let nobody = vip_table(&BTreeMap::from([(1, 0)]));
    for w in &lowering.converge(&nobody, now).writes {
        kernel.write(w, now);
    }
    assert_eq!(kernel.serves(key(1)), Some(BTreeSet::new()));
}

#[test]
fn a_draining_backend_is_a_member_and_not_chosen() {
    let mut kernel = Kernel::new();
    let mut lowering = Lowering::new(config());
    let now = UnixMillis(0);
    for w in &lowering
        .converge(&vip_table(&BTreeMap::from([(1, 0b10001)])), now)
        .writes
    {
        kernel.write(w, now);
    }
    assert_eq!(kernel.serves(key(1)), Some(BTreeSet::from([backend(1, 1)])));
    let both = BTreeSet::from([backend(1, 1), backend(1, 5)]);
    assert_eq!(kernel.members(key(1)), Some(both));
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

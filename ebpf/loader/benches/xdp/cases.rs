//! The tables of both sides, and what is sent.

use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData};
use aya::programs::Xdp;
use waggle_ebpf::edge::{EdgeConfig, EdgePlane, test_run};
use waggle_ebpf_common::edge::{self, Backend, BackendPath, BenchRun, Record, slot};
use waggle_overlay_plan::maglev::{Member, table};

use crate::measure::{Row, median, table as print};

const VIPS: u32 = 10_000;
const BACKENDS: u16 = 100;
const RING: u32 = 65_537;
/// Shares of changed slots, in thousandths; the last: everything.
const CHANGED: [u32; 3] = [0, 10, 100];
const REPEAT: u32 = 200_000;

const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

/// How many clients: the wrapper's mask.
const ONE: u32 = 0;
const K64: u32 = 0xffff;
const M1: u32 = 0xf_ffff;
const M16: u32 = 0xff_ffff;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Peer,
    PeerSyn,
}

struct Case {
    side: Side,
    program: &'static str,
    /// Which VIP; none: an address that is no VIP.
    vip: Option<u32>,
    flags: u8,
    mask: u32,
    samples: Vec<f64>,
}

/// The peer, loaded and filled.
struct Peer {
    ebpf: Ebpf,
    run: Array<MapData, BenchRun>,
}

impl Peer {
    fn load(object: &[u8]) -> anyhow::Result<Self> {
        let mut ebpf = Ebpf::load(object).context("load the peer")?;
        fill_peer(&mut ebpf)?;
        for name in ["peer_stateless", "peer_table", "peer_null"] {
            let program: &mut Xdp = ebpf.program_mut(name).context(name)?.try_into()?;
            program.load()?;
        }
        let run = Array::try_from(ebpf.take_map("BENCH_RUN").context("BENCH_RUN")?)?;
        Ok(Self { ebpf, run })
    }

    fn test(&self, name: &str, frame: &[u8], repeat: u32) -> anyhow::Result<u32> {
        let program: &Xdp = self.ebpf.program(name).context("no program")?.try_into()?;
        Ok(test_run(program.fd()?.as_fd(), frame, repeat)?.ns)
    }
}

/// Both sides, loaded and filled.
pub struct Bench {
    ours: EdgePlane,
    our_run: Array<MapData, BenchRun>,
    peer: Peer,
    /// With a flow table of its own, so that what it evicts is nobody else's.
    peer_syn: Peer,
    cases: Vec<Case>,
}

/// IPv4 address of the VIP with a number, host order.
fn vip_addr(n: u32) -> u32 {
    (10 << 24) + (200 << 16) + 257 + n
}

fn frame(case: &Case) -> [u8; 64] {
    let mut frame = [0; 64];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    frame[14] = 0x45;
    frame[17] = 46;
    frame[22] = 64;
    frame[23] = 6;
    frame[26..30].copy_from_slice(&[192, 168, 10, 10]);
    let dst = case.vip.map_or((10 << 24) + (9 << 16) + 257, vip_addr);
    frame[30..34].copy_from_slice(&dst.to_be_bytes());
    frame[34..36].copy_from_slice(&31_337_u16.to_be_bytes());
    frame[36..38].copy_from_slice(&80_u16.to_be_bytes());
    frame[46] = 0x50;
    frame[47] = case.flags;
    frame[48] = 0xff;
    frame
}

impl Bench {
    pub fn load(ours: &Path, peer: &Path, bpffs: &Path) -> anyhow::Result<Self> {
        let object = std::fs::read(ours).with_context(|| format!("read {}", ours.display()))?;
        let mut config = EdgeConfig::new(bpffs.join("edge"));
        // No cap: what is measured is the insert.
        config.half_open_per_tick = u32::MAX;
        config.adopted_per_tick = u32::MAX;
        let ours = EdgePlane::open_object(&config, &object, &["bench_edge", "bench_null"])?;
        fill_ours(&ours)?;
        let object = std::fs::read(peer).with_context(|| format!("read {}", peer.display()))?;
        Ok(Self {
            our_run: ours.take_array("BENCH_RUN")?,
            ours,
            peer: Peer::load(&object)?,
            peer_syn: Peer::load(&object)?,
            cases: Vec::new(),
        })
    }

    fn add(&mut self, program: &'static str, vip: Option<u32>, flags: u8, mask: u32) -> usize {
        let side = match (program.starts_with("peer"), flags) {
            (false, _) => Side::Ours,
            (true, SYN) => Side::PeerSyn,
            (true, _) => Side::Peer,
        };
        self.cases.push(Case {
            side,
            program,
            vip,
            flags,
            mask,
            samples: Vec::new(),
        });
        self.cases.len() - 1
    }

    /// Measures, and returns the table.
    pub fn run(&mut self, rounds: usize) -> anyhow::Result<String> {
        let null = self.add("bench_null", None, ACK, ONE);
        let peer_null = self.add("peer_null", None, ACK, ONE);
        let peers: Vec<usize> = [ONE, K64, M1]
            .map(|mask| self.add("peer_stateless", Some(0), ACK, mask))
            .to_vec();
        let tables: Vec<usize> = [ONE, K64, M1]
            .map(|mask| self.add("peer_table", Some(1), ACK, mask))
            .to_vec();
        let peer_syn = self.add("peer_table", Some(2), SYN, M16);
        let peer_none = self.add("peer_stateless", None, ACK, ONE);
        let mut cases = Vec::new();
        for (n, thousandths) in (0..).zip(CHANGED) {
            let percent = thousandths / 10;
            let targets = if thousandths <= 10 {
                [Some(40.0), Some(60.0), Some(75.0), Some(75.0)]
            } else {
                [None; 4]
            };
            let kinds = [
                ("1 flow", ACK, ONE),
                ("64k flows", ACK, K64),
                ("1M flows", ACK, M1),
            ];
            for (at, (name, flags, mask)) in kinds.into_iter().enumerate() {
                let case = self.add("bench_edge", Some(n), flags, mask);
                let title = format!("established, {name}, {percent} % changed slots");
                cases.push((title, case, Some(tables[at]), targets[at]));
            }
            // A VIP of its own, so that its flows are new.
            let case = self.add("bench_edge", Some(n + 3), SYN, M16);
            let title = format!("new connection, all new, {percent} % changed slots");
            cases.push((title, case, Some(peer_syn), targets[3]));
        }
        let none = self.add("bench_edge", None, ACK, ONE);
        cases.push(("packet to no VIP".into(), none, Some(peer_none), Some(10.0)));
        let again = self.add("bench_edge", Some(0), ACK, ONE);

        for case in 0..self.cases.len() {
            let mask = self.cases[case].mask;
            let warm = match mask {
                ONE => 100_000,
                M16 => 300_000,
                mask => (2 * (mask + 1)).min(4_000_000),
            };
            self.measure(case, warm)?;
        }
        for _ in 0..rounds {
            for case in 0..self.cases.len() {
                let ns = self.measure(case, REPEAT)?;
                self.cases[case].samples.push(ns);
            }
        }

        let floor = |side| if side == Side::Ours { null } else { peer_null };
        let net = |case: usize| -> Vec<f64> {
            let floor = floor(self.cases[case].side);
            self.cases[case]
                .samples
                .iter()
                .zip(&self.cases[floor].samples)
                .map(|(with, without)| with - without)
                .collect()
        };
        let ratio =
            |a: usize, b: usize| median(net(a).iter().zip(net(b)).map(|(a, b)| a / b).collect());
        let first = cases[0].1;
        let mut rows: Vec<Row> = cases
            .into_iter()
            .map(|(name, case, peer, target)| Row {
                name,
                ours: median(net(case)),
                peer: peer.map(|peer| (median(net(peer)), ratio(case, peer))),
                target,
            })
            .collect();
        for (name, case) in ["1 flow", "64k flows", "1M flows"].iter().zip(&peers) {
            rows.push(Row {
                name: format!("the peer without a flow table, {name}"),
                ours: f64::NAN,
                peer: Some((median(net(*case)), f64::NAN)),
                target: None,
            });
        }
        let noise = (ratio(again, first) - 1.0).abs();
        let floors = format!(
            "wrapper alone: ours {:.1} ns, peer {:.1} ns; {rounds} rounds of {REPEAT} packets\n",
            median(self.cases[null].samples.clone()),
            median(self.cases[peer_null].samples.clone()),
        );
        Ok(floors + &print(&rows, noise))
    }

    /// Runs a case; checks that its packets went where they should.
    fn measure(&mut self, case: usize, repeat: u32) -> anyhow::Result<f64> {
        let case = &self.cases[case];
        let is_null = case.program.ends_with("null");
        let run = match case.side {
            Side::Ours => &mut self.our_run,
            Side::Peer => &mut self.peer.run,
            Side::PeerSyn => &mut self.peer_syn.run,
        };
        let before = run.get(&0, 0)?;
        let config = BenchRun {
            flow_mask: case.mask,
            grown: u32::from(!is_null),
            ..before
        };
        run.set(0, config, 0)?;
        let frame = frame(case);
        let ns = match case.side {
            Side::Ours => self.ours.test_run_of(case.program, &frame, repeat)?.ns,
            Side::Peer => self.peer.test(case.program, &frame, repeat)?,
            Side::PeerSyn => self.peer_syn.test(case.program, &frame, repeat)?,
        };
        let run = match case.side {
            Side::Ours => &self.our_run,
            Side::Peer => &self.peer.run,
            Side::PeerSyn => &self.peer_syn.run,
        };
        let after = run.get(&0, 0)?;
        let sent = after.sent - before.sent;
        let expected = if case.vip.is_some() || is_null {
            repeat
        } else {
            0
        };
        ensure!(
            sent == u64::from(expected),
            "{}: {sent} of {repeat} packets were sent",
            case.program
        );
        Ok(f64::from(ns))
    }
}

/// 10,000 VIPs; the first six have rings of their own by share of changed slots, the others share the first.
fn fill_ours(plane: &EdgePlane) -> anyhow::Result<()> {
    let tables = plane.tables();
    let backends: Vec<Backend> = (0..BACKENDS)
        .map(|n| {
            Backend::new(&BackendPath {
                next_hop: [2, 0, 0, 0, 0, 2],
                own_mac: [2, 0, 0, 0, 0, 1],
                edge: [172, 16, 0, 1],
                node: [10, 0, 0, n.to_be_bytes()[1]],
                port: 8080,
                vip_port: 80,
                mtu: 1500,
                flags: 0,
                generation: 1,
            })
        })
        .collect();
    tables.set_backends(0, &backends)?;
    let members: Vec<Member> = (0..BACKENDS)
        .map(|owner| Member {
            id: u64::from(owner),
            owner,
            weight: 1,
        })
        .collect();
    let owners = table(&members, RING);
    for (n, thousandths) in (0..).zip(CHANGED) {
        let slots: Vec<u32> = (0_u32..)
            .zip(&owners)
            .map(|(at, owner)| {
                if edge::hash(at, 7, 7) % 1000 < thousandths {
                    slot::pack(*owner, (*owner + 3) % BACKENDS, true)
                } else {
                    slot::pack(*owner, *owner, false)
                }
            })
            .collect();
        tables.set_slots(n * RING, &slots)?;
    }
    for n in 0..VIPS {
        let key = edge::key(vip_addr(n).to_be(), 80_u16.to_be(), 6);
        let ring = if n < 6 { n % 3 } else { 0 };
        let record = Record {
            key,
            ring_base: ring * RING,
            ring_size: RING,
            vip_id: n,
            port_mask: u32::MAX,
            ..Record::default()
        };
        tables.set_record(n, &record)?;
        tables.publish(key, n)?;
    }
    Ok(())
}

fn fill_peer(peer: &mut Ebpf) -> anyhow::Result<()> {
    let mut vips: HashMap<_, [u8; 8], u32> =
        HashMap::try_from(peer.map_mut("PEER_VIPS").context("PEER_VIPS")?)?;
    for n in 0..VIPS {
        let mut key = [0; 8];
        key[..4].copy_from_slice(&vip_addr(n).to_be_bytes());
        key[4..6].copy_from_slice(&80_u16.to_be_bytes());
        key[6] = 6;
        vips.insert(key, n, 0)?;
    }
    let members: Vec<Member> = (0..BACKENDS)
        .map(|owner| Member {
            id: u64::from(owner),
            owner,
            weight: 1,
        })
        .collect();
    let owners = table(&members, RING);
    let mut ring: Array<_, u32> = Array::try_from(peer.map_mut("PEER_RING").context("PEER_RING")?)?;
    for part in 0..4 {
        for (at, owner) in (0..).zip(&owners) {
            ring.set(part * RING + at, u32::from(*owner), 0)?;
        }
    }
    let mut backends: Array<_, u32> =
        Array::try_from(peer.map_mut("PEER_BACKENDS").context("PEER_BACKENDS")?)?;
    for n in 0..u32::from(BACKENDS) {
        backends.set(n, ((10 << 24) + n).to_be(), 0)?;
    }
    Ok(())
}

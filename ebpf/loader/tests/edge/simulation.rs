//! No flow is broken while backends come and go: the plan's writes, the program's verdicts, on two edges.
//!
//! 100 backends, 65,537 slots, 100,000 flows before the first change and 50,000 more after each. Flows take turns between
//! the edges, as routers send them when a path changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Context as _;
use waggle_ebpf::common::edge::{self, reason};
use waggle_ebpf::edge::EdgePlane;
use waggle_overlay_plan::maglev::{EdgeBackend, EdgePlan, EdgePlanConfig, EdgeService, RingConfig};
use waggle_types::{Millis, Protocol, UnixMillis, VipKey};

use crate::packet::{ACK, Packet, SYN};
use crate::rig::{Rig, execute};

const VIP: (Ipv4Addr, u16) = (Ipv4Addr::new(11, 0, 0, 1), 80);
const OLD: u32 = 100_000;
const NEW: u32 = 50_000;
const WINDOW: u64 = 60_000;

fn key() -> VipKey {
    VipKey {
        protocol: Protocol::Tcp,
        ip: VIP.0.into(),
        port: VIP.1,
    }
}

fn node(n: u16) -> Ipv4Addr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(10, 0, high, low)
}

fn backend(n: u16) -> SocketAddrV4 {
    SocketAddrV4::new(node(n), 8080)
}

struct Flow {
    src: Ipv4Addr,
    port: u16,
    /// Who answered its SYN.
    node: Ipv4Addr,
}

struct World {
    edges: Vec<EdgePlane>,
    plan: EdgePlan,
    service: EdgeService,
    flows: Vec<Vec<Flow>>,
    /// Which edge packets go through, by flow.
    turn: usize,
    now: UnixMillis,
}

impl World {
    fn new(rig: &Rig, edges: usize) -> anyhow::Result<Self> {
        let edges = (0..edges)
            .map(|n| rig.open(&format!("edge{n}")))
            .collect::<Result<Vec<_>, _>>()?;
        let mut config = EdgePlanConfig::new(Ipv4Addr::new(10, 9, 9, 9), [2, 0, 0, 0, 0, 1], 1500);
        config.records = 256;
        config.backends = 4096;
        config.slots = 1 << 19;
        config.ring = RingConfig {
            window: Millis(WINDOW),
            most_marked: 200,
        };
        let mut world = Self {
            edges,
            plan: EdgePlan::new(config),
            service: EdgeService::default(),
            flows: Vec::new(),
            turn: 0,
            now: UnixMillis(1_000_000),
        };
        for n in 1..=100 {
            world.join(n);
        }
        // As many slots as the figures of others are for.
        for n in 101..=700 {
            world.service.backends.insert(backend(n), place(n, 0));
        }
        world.change()?;
        for n in 101..=700 {
            world.service.backends.remove(&backend(n));
        }
        world.change()?;
        let (ring, _) = world.plan.vip(&key()).context("no ring")?;
        assert_eq!((ring.slots().len(), ring.marked()), (65_537, 0));
        Ok(world)
    }

    fn join(&mut self, n: u16) {
        self.service.backends.insert(backend(n), place(n, 1));
    }

    fn drain(&mut self, n: u16) {
        self.service.backends.insert(backend(n), place(n, 0));
    }

    /// Plans once, writes to every edge: what they have is data, not their own computation.
    fn change(&mut self) -> anyhow::Result<()> {
        self.now = self.now + Millis(2_000);
        let services = BTreeMap::from([(key(), self.service.clone())]);
        let planned = self.plan.apply(&services, self.now);
        assert_eq!(planned.failures, []);
        for edge in &self.edges {
            execute(edge.tables(), &planned.writes)?;
        }
        Ok(())
    }

    /// Time passes: windows close, and slots of which nothing else is remembered, on any edge, become clean.
    fn settle(&mut self, after: u64) -> anyhow::Result<()> {
        self.now = self.now + Millis(after);
        let mut remembered: BTreeMap<u32, BTreeSet<u16>> = BTreeMap::new();
        let (_, record) = self.plan.vip(&key()).context("no ring")?;
        for edge in &self.edges {
            for (flow, value) in edge.counters().flows()? {
                let hash = edge::hash(flow.src, flow.ports & record.port_mask, record.seed);
                let slot = edge::slot_of(hash, record.ring_size);
                remembered.entry(slot).or_default().insert(value.owner);
            }
        }
        let writes = self.plan.settle(|_| remembered.clone(), self.now);
        for edge in &self.edges {
            execute(edge.tables(), &writes)?;
        }
        Ok(())
    }

    /// Sends a packet by an edge; who gets it.
    fn send(
        &self,
        edge: usize,
        src: (Ipv4Addr, u16),
        flags: u8,
        seq: u32,
    ) -> anyhow::Result<Ipv4Addr> {
        let mut packet = Packet::tcp(src, VIP, flags);
        packet.seq = seq;
        let run = self.edges[edge % self.edges.len()].test_run(&packet.frame(), 1)?;
        assert_eq!(run.verdict, crate::model::TX);
        Ok(Ipv4Addr::new(
            run.packet[30],
            run.packet[31],
            run.packet[32],
            run.packet[33],
        ))
    }

    /// New connections: a SYN and the segment after it.
    fn open(&mut self, n: u32) -> anyhow::Result<()> {
        let generation = self.flows.len() as u64;
        let mut flows = Vec::new();
        for i in 0..n {
            let seed = edge::hash(i, generation as u32, 99);
            let src = Ipv4Addr::from(0x1400_0000 | seed & 0x00ff_ffff);
            let port = (edge::hash(i, generation as u32, 7) >> 16) as u16 | 1;
            let edge = i as usize + self.turn;
            let node = self.send(edge, (src, port), SYN, seed)?;
            let then = self.send(edge, (src, port), ACK, seed.wrapping_add(1))?;
            assert_eq!(node, then, "the handshake of {src}:{port} was split");
            flows.push(Flow { src, port, node });
        }
        self.flows.push(flows);
        Ok(())
    }

    /// Every flow sends; how many got to another backend than before, by whether theirs is `dead`.
    fn check(&self, dead: Option<u16>) -> anyhow::Result<(usize, usize)> {
        let (mut broken, mut own) = (0, 0);
        for flows in &self.flows {
            for (i, flow) in flows.iter().enumerate() {
                let edge = i + self.turn;
                if self.send(edge, (flow.src, flow.port), ACK, 77)? == flow.node {
                    continue;
                }
                if dead.map(node) == Some(flow.node) {
                    own += 1;
                } else {
                    broken += 1;
                }
            }
        }
        Ok((broken, own))
    }

    fn marked(&self) -> usize {
        self.plan.vip(&key()).map_or(0, |(ring, _)| ring.marked())
    }
}

fn place(n: u16, weight: u32) -> EdgeBackend {
    EdgeBackend {
        node: node(n),
        next_hop: Some([2, 0, 0, 0, 1, 1]),
        is_local: false,
        weight,
    }
}

#[test]
fn three_changes_and_a_closed_window_break_no_flow() -> anyhow::Result<()> {
    let Some(rig) = Rig::new("sim")? else {
        return Ok(());
    };
    let mut world = World::new(&rig, 1)?;
    world.open(OLD)?;
    assert_eq!(world.check(None)?, (0, 0));

    world.drain(37);
    world.change()?;
    let slots = world.marked();
    // Maglev moves what it must (655 of 65,537) and a little more.
    assert!((600..2_000).contains(&slots), "{slots} slots changed");
    world.open(NEW)?;
    assert_eq!(world.check(None)?, (0, 0), "after a backend drained");

    world.join(101);
    world.change()?;
    world.open(NEW)?;
    assert_eq!(world.check(None)?, (0, 0), "after another joined");

    world.join(37);
    world.change()?;
    world.open(NEW)?;
    assert_eq!(world.check(None)?, (0, 0), "after the first came back");

    let remembered = world.edges[0].counters().flows()?.len();
    let flows: usize = world.flows.iter().map(Vec::len).sum();
    assert!(
        remembered * 20 < flows,
        "{remembered} of {flows} flows are remembered"
    );
    world.settle(WINDOW)?;
    assert_eq!(world.check(None)?, (0, 0), "after the window was closed");
    // Flows that are another owner's keep their slots marked; the rest is clean.
    let left = world.marked();
    assert!(left < slots * 4, "{left} slots");
    world.settle(WINDOW)?;
    assert_eq!(world.check(None)?, (0, 0), "after slots were cleaned");
    eprintln!(
        "drain marked {slots} slots; {remembered} of {flows} flows remembered; {left} slots marked at the end"
    );
    Ok(())
}

#[test]
fn a_dead_backend_breaks_its_own_flows_only() -> anyhow::Result<()> {
    let Some(rig) = Rig::new("dies")? else {
        return Ok(());
    };
    let mut world = World::new(&rig, 1)?;
    world.open(OLD)?;
    let owned = world.flows[0]
        .iter()
        .filter(|flow| flow.node == node(37))
        .count();
    world.service.backends.remove(&backend(37));
    world.change()?;
    world.open(NEW)?;
    assert_eq!(world.check(Some(37))?, (0, owned));
    // Another in the same place is another: nothing remembered leads to it.
    world.join(137);
    world.change()?;
    world.open(NEW)?;
    assert_eq!(world.check(Some(37))?, (0, owned));
    Ok(())
}

#[test]
fn flows_move_between_edges_that_have_the_same_generations() -> anyhow::Result<()> {
    let Some(rig) = Rig::new("edges")? else {
        return Ok(());
    };
    let mut world = World::new(&rig, 3)?;
    world.open(30_000)?;
    world.drain(37);
    world.change()?;
    assert_eq!(world.check(None)?, (0, 0));
    world.join(101);
    world.change()?;
    // Routers change their minds: every flow that was there before the changes goes through another edge now. What
    // began on a changed slot since then is known to one edge only, so none of that is in this test.
    world.turn = 1;
    assert_eq!(world.check(None)?, (0, 0), "by the second edge");
    world.turn = 2;
    assert_eq!(world.check(None)?, (0, 0), "by the third edge");
    // One that starts now has the slots from the plan, with both owners and marks.
    let fresh = rig.open("fresh")?;
    let (ring, record) = world.plan.vip(&key()).unwrap();
    let (words, record) = (ring.slots().to_vec(), *record);
    let tables = fresh.tables();
    let backends = (0..2048)
        .map(|at| world.edges[0].tables().backend(record.backend_base + at))
        .collect::<Result<Vec<_>, _>>()?;
    tables.set_backends(record.backend_base, &backends)?;
    tables.set_slots(record.ring_base, &words)?;
    tables.set_record(0, &record)?;
    tables.publish(record.key, 0)?;
    world.edges = vec![fresh];
    world.turn = 0;
    assert_eq!(world.check(None)?, (0, 0), "by a fresh edge");
    Ok(())
}

#[test]
fn a_forged_syn_moves_nobody_and_a_flood_evicts_no_flow() -> anyhow::Result<()> {
    let Some(rig) = Rig::new("flood")? else {
        return Ok(());
    };
    let mut world = World::new(&rig, 1)?;
    world.open(20_000)?;
    world.drain(37);
    world.change()?;
    // Before any flow has shown itself: a SYN for each, from who can't see the connection.
    for flow in &world.flows[0] {
        world.send(0, (flow.src, flow.port), SYN, 0x7000_0000)?;
    }
    assert_eq!(world.check(None)?, (0, 0), "after forged SYNs");
    world.open(20_000)?;
    // Three times what the memory of half-open connections holds.
    for n in 0..3 * 131_072_u32 {
        let src = Ipv4Addr::from(0x3000_0000 + n);
        world.send(0, (src, 1), SYN, n)?;
    }
    assert_eq!(world.check(None)?, (0, 0), "after a flood");
    let counters = world.edges[0].counters();
    assert!(counters.count(reason::HALF_OPEN)? > 1000);

    // Without a budget, SYNs go where nothing needs to be remembered.
    let mut config = rig.config("none");
    config.half_open_per_tick = 0;
    config.adopted_per_tick = 0;
    let poor = EdgePlane::open(&config)?;
    let mut other = World::new(&rig, 0)?;
    drop(std::mem::replace(&mut other.edges, vec![poor]));
    let planned = {
        let mut fresh = EdgePlan::new(EdgePlanConfig {
            slots: 1 << 19,
            backends: 4096,
            records: 256,
            ..EdgePlanConfig::new(Ipv4Addr::new(10, 9, 9, 9), [2, 0, 0, 0, 0, 1], 1500)
        });
        let services = BTreeMap::from([(key(), other.service.clone())]);
        let first = fresh.apply(&services, UnixMillis(1));
        other.plan = fresh;
        first
    };
    execute(other.edges[0].tables(), &planned.writes)?;
    other.open(10_000)?;
    other.drain(37);
    other.change()?;
    other.open(10_000)?;
    assert_eq!(other.check(None)?, (0, 0), "without memory");
    assert_eq!(other.edges[0].counters().flows()?.len(), 0);
    assert!(other.edges[0].counters().count(reason::OVER_BUDGET)? > 10);
    Ok(())
}

//! Any packets, in any order: program and model agree on every verdict and every byte.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use waggle_ebpf::edge::EdgePlane;

use crate::model::{Backend, DROP, Model, Vip};
use crate::packet::{ICMP, Packet, TCP, UDP, checksum};
use crate::rig::{Rig, fill};

const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xed];

pub fn backend(n: u8) -> Backend {
    Backend {
        node: Ipv4Addr::new(10, 0, 0, n),
        port: 8000 + u16::from(n),
        next_hop: (n % 4 != 3).then_some([2, 0, 0, 0, 1, n]),
        is_local: n % 4 == 2,
        mtu: if n % 5 == 4 { 600 } else { 1500 },
    }
}

pub fn vip(backends: u8, slots: u16, changed_every: u16) -> Vip {
    let owners = u16::from(backends.max(1));
    Vip {
        ring: (0..slots)
            .map(|at| {
                let (previous, current) = (at % owners, (at + 1) % owners);
                if changed_every > 0 && at % changed_every == 0 {
                    (previous, current, true)
                } else {
                    (current, current, false)
                }
            })
            .collect(),
        backends: (0..backends).map(backend).collect(),
        affinity: false,
        no_new: false,
        ranges: None,
        seed: 5,
    }
}

/// VIPs of every kind.
pub fn model(may_remember: bool) -> Model {
    let ip = |last| Ipv4Addr::new(11, 0, 0, last);
    let mut vips = BTreeMap::new();
    vips.insert((ip(1), 80, TCP), vip(7, 251, 0));
    vips.insert((ip(1), 80, UDP), vip(5, 251, 2));
    vips.insert((ip(2), 80, TCP), vip(7, 509, 2));
    vips.insert(
        (ip(2), 443, TCP),
        Vip {
            affinity: true,
            ..vip(3, 13, 3)
        },
    );
    vips.insert(
        (ip(3), 80, TCP),
        Vip {
            ranges: Some(vec![
                (Ipv4Addr::new(192, 168, 0, 0), 16),
                (Ipv4Addr::new(20, 1, 2, 3), 32),
            ]),
            ..vip(2, 7, 0)
        },
    );
    vips.insert((ip(4), 80, TCP), vip(0, 1, 0));
    vips.insert((ip(4), 53, UDP), vip(0, 1, 0));
    vips.insert((ip(5), 1, TCP), vip(1, 1, 1));
    vips.insert(
        (ip(5), 80, TCP),
        Vip {
            no_new: true,
            ..vip(6, 251, 4)
        },
    );
    Model {
        edge: Ipv4Addr::new(10, 9, 9, 9),
        own_mac: OWN_MAC,
        vip_net: (Ipv4Addr::new(11, 0, 0, 0), 8),
        vips,
        may_remember,
        flows: BTreeMap::new(),
        opening: BTreeMap::new(),
        fragments: BTreeMap::new(),
    }
}

fn client() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        8 => (0_u8..4, 0_u8..8).prop_map(|(a, b)| Ipv4Addr::new(192, 168, a, b)),
        2 => Just(Ipv4Addr::new(20, 1, 2, 3)),
        1 => any::<u32>().prop_map(Ipv4Addr::from),
        1 => Just(Ipv4Addr::new(11, 0, 0, 1)),
        1 => Just(Ipv4Addr::LOCALHOST),
    ]
}

fn target() -> impl Strategy<Value = (Ipv4Addr, u16)> {
    let port = prop_oneof![6 => Just(80_u16), 2 => Just(443), 2 => Just(53), 1 => Just(1), 1 => any::<u16>()];
    let ip = prop_oneof![
        12 => (1_u8..6).prop_map(|last| Ipv4Addr::new(11, 0, 0, last)),
        1 => any::<u32>().prop_map(Ipv4Addr::from),
    ];
    (ip, port)
}

prop_compose! {
    fn packet()(
        src in client(),
        sport in 0_u16..6,
        dst in target(),
        proto in prop_oneof![6 => Just(TCP), 3 => Just(UDP), 1 => any::<u8>()],
        flags in prop_oneof![4 => Just(0x02_u8), 6 => Just(0x10), 1 => any::<u8>()],
        seq in prop_oneof![4 => 0_u32..4, 1 => any::<u32>()],
        tags in prop_oneof![4 => Just(0_usize), 1 => Just(1), 1 => Just(2)],
        fragment in prop_oneof![8 => Just(0x4000_u16), 2 => Just(0), 2 => Just(0x2000), 2 => Just(0x2001), 2 => Just(2), 1 => any::<u16>()],
        id in 0_u16..3,
        tos in prop_oneof![2 => Just(0_u8), 1 => any::<u8>()],
        payload in prop_oneof![8 => 0_usize..40, 1 => 500_usize..620, 1 => 1380_usize..1500],
    ) -> Packet {
        Packet {
            tags: vec![5; tags],
            src,
            dst: dst.0,
            proto,
            sport,
            dport: dst.1,
            seq,
            ack: 99,
            flags,
            tos,
            id,
            fragment,
            payload: vec![0xab; payload],
        }
    }
}

prop_compose! {
    /// A router or the client says that a VIP's answer did not arrive.
    fn icmp_error()(
        inner in packet(),
        kind in prop_oneof![4 => Just(3_u8), 1 => Just(11), 1 => Just(8)],
        quoted in prop_oneof![6 => Just(28_usize), 1 => 20_usize..60],
        router in client(),
        same in prop_oneof![9 => Just(true), 1 => Just(false)],
    ) -> Packet {
        let answer = Packet {
            src: inner.dst,
            sport: inner.dport,
            dst: inner.src,
            dport: inner.sport,
            ..inner.clone()
        };
        let mut payload = vec![kind, 4, 0, 0, 0, 0, 5, 0xdc];
        let mut quote = answer.ip();
        quote.truncate(quoted);
        payload.extend(quote);
        let sum = checksum(&payload);
        payload[2..4].copy_from_slice(&sum.to_be_bytes());
        Packet {
            src: router,
            dst: if same { inner.dst } else { inner.src },
            proto: ICMP,
            fragment: 0,
            payload,
            ..inner
        }
    }
}

/// A frame, short to print.
struct Frame(Vec<u8>);

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0.iter().take(110) {
            write!(f, "{byte:02x}")?;
        }
        write!(f, " ({} bytes)", self.0.len())
    }
}

impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

/// What a wire, or an attacker, does to a frame.
#[derive(Clone, Debug)]
enum Damage {
    None,
    Truncated(usize),
    Padded(usize),
    Flipped(usize, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        8 => Just(Damage::None),
        1 => (14_usize..100).prop_map(Damage::Truncated),
        1 => (0_usize..20).prop_map(Damage::Padded),
        2 => (0_usize..70, 1_u8..=255).prop_map(|(at, bits)| Damage::Flipped(at, bits)),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    let any_packet = prop_oneof![5 => packet(), 1 => icmp_error()];
    (any_packet, damage()).prop_map(|(packet, damage)| {
        let mut frame = packet.frame();
        match damage {
            Damage::None => {}
            Damage::Truncated(length) => frame.truncate(length),
            Damage::Padded(more) => frame.resize(frame.len() + more, 0),
            Damage::Flipped(at, bits) => {
                if let Some(byte) = frame.get_mut(at) {
                    *byte ^= bits;
                }
            }
        }
        Frame(frame)
    })
}

fn agree(plane: &EdgePlane, model: &mut Model, frame: &Frame) -> Result<(), TestCaseError> {
    let run = plane
        .test_run(&frame.0, 1)
        .map_err(|error| TestCaseError::fail(format!("{error:?}: {frame:?}")))?;
    let (verdict, out) = model.run(&frame.0);
    prop_assert_eq!(run.verdict, verdict, "verdict on {:?}", frame);
    // What is dropped is nobody's business any more.
    if verdict != DROP {
        prop_assert_eq!(Frame(run.packet), Frame(out), "bytes of {:?}", frame);
    }
    Ok(())
}

fn any_packets(name: &str, may_remember: bool) -> anyhow::Result<()> {
    let Some(rig) = Rig::new(name)? else {
        return Ok(());
    };
    let mut config = rig.config("edge");
    if !may_remember {
        config.half_open_per_tick = 0;
        config.adopted_per_tick = 0;
    }
    let plane = EdgePlane::open(&config)?;
    let start = model(may_remember);
    fill(plane.tables(), &start)?;
    // The program keeps what it remembers, so the model does: one long history in many cases.
    let model = std::cell::RefCell::new(start);
    let mut runner = TestRunner::new(Config {
        cases: 4_000,
        // Histories can't be replayed: what is remembered stays.
        max_shrink_iters: 0,
        failure_persistence: None,
        ..Config::default()
    });
    let done = runner.run(&proptest::collection::vec(frame(), 1..12), |frames| {
        for frame in &frames {
            agree(&plane, &mut model.borrow_mut(), frame)?;
        }
        Ok(())
    });
    done.map_err(|error| anyhow::anyhow!("{error}"))?;
    let counts = plane.counters().counts()?;
    let named: Vec<String> = waggle_ebpf::common::edge::reason::NAMES
        .iter()
        .zip(&counts)
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    eprintln!("{}", named.join(", "));
    // The flows that are remembered are the model's.
    let known = plane.counters().flows()?;
    assert_eq!(known.len(), model.borrow().flows.len());
    Ok(())
}

#[test]
fn program_and_model_agree() -> anyhow::Result<()> {
    any_packets("agree", true)
}

#[test]
fn program_and_model_agree_without_room_to_remember() -> anyhow::Result<()> {
    any_packets("poor", false)
}

//! The other end: what an edge sends arrives as the client sent it, but for the backend's address.

use std::net::{Ipv4Addr, SocketAddrV4};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use waggle_ebpf::common::edge::{Backend, BackendPath, Record, dsr_reason as reason, key};
use waggle_ebpf::edge::{EdgePlane, NodePlane, Served};

use crate::model::TX;
use crate::packet::{ACK, CLIENT_MAC, EDGE_MAC, ICMP, Packet, SYN, TCP, UDP, checksum};
use crate::rig::Rig;

const OK: u32 = u32::MAX;
const SHOT: u32 = 2;
const EDGE: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 168, 1, 1), 40_000);
const VIP: (Ipv4Addr, u16) = (Ipv4Addr::new(11, 0, 0, 1), 80);
const BACKEND: (Ipv4Addr, u16) = (NODE, 31_007);

fn served(proto: u8) -> Served {
    Served {
        vip: SocketAddrV4::new(VIP.0, VIP.1),
        backend: SocketAddrV4::new(BACKEND.0, BACKEND.1),
        proto,
    }
}

/// An edge with one VIP, and the node of its one backend.
struct Pair {
    edge: EdgePlane,
    node: NodePlane,
    _rig: Rig,
}

impl Pair {
    fn new(name: &str) -> anyhow::Result<Option<Self>> {
        let Some(rig) = Rig::new(name)? else {
            return Ok(None);
        };
        let edge = rig.open("edge")?;
        let tables = edge.tables();
        tables.set_backends(
            0,
            &[Backend::new(&BackendPath {
                next_hop: EDGE_MAC,
                own_mac: CLIENT_MAC,
                edge: EDGE.octets(),
                node: NODE.octets(),
                port: BACKEND.1,
                vip_port: VIP.1,
                mtu: 3000,
                flags: 0,
                generation: 1,
            })],
        )?;
        for (n, proto) in [(0, TCP), (1, UDP)] {
            let record = Record {
                key: key(u32::from(VIP.0).to_be(), VIP.1.to_be(), proto),
                ring_size: 1,
                vip_id: n,
                port_mask: u32::MAX,
                ..Record::default()
            };
            tables.set_record(n, &record)?;
            tables.publish(record.key, n)?;
        }
        let node = NodePlane::open(&rig.bpffs.join("node"))?;
        node.add_edge(EDGE)?;
        node.serve(&served(TCP))?;
        node.serve(&served(UDP))?;
        Ok(Some(Self {
            edge,
            node,
            _rig: rig,
        }))
    }

    /// Through the edge; what the node receives.
    fn encapsulated(&self, packet: &Packet) -> anyhow::Result<Vec<u8>> {
        let run = self.edge.test_run(&packet.frame(), 1)?;
        assert_eq!(run.verdict, TX);
        Ok(run.packet)
    }
}

/// What the node's stack should see: the same, to the backend.
fn delivered(packet: &Packet) -> Vec<u8> {
    Packet {
        dst: BACKEND.0,
        dport: BACKEND.1,
        ..packet.clone()
    }
    .frame()
}

fn an_answer(to: &Packet, from: (Ipv4Addr, u16)) -> Packet {
    Packet {
        src: from.0,
        sport: from.1,
        dst: to.src,
        dport: to.sport,
        ..to.clone()
    }
}

#[test]
fn packets_arrive_as_sent_and_answers_have_the_vip_as_source() -> anyhow::Result<()> {
    let Some(pair) = Pair::new("node")? else {
        return Ok(());
    };
    let packets = (
        any::<u32>(),
        any::<u16>(),
        any::<bool>(),
        proptest::collection::vec(any::<u8>(), 0..1400),
        any::<u32>(),
        any::<u8>(),
        any::<u8>(),
    )
        .prop_filter("a client's address", |(src, ..)| {
            let [first, ..] = src.to_be_bytes();
            first != 0 && first != 127 && first < 224 && first != 11
        })
        .prop_map(|(src, sport, is_tcp, payload, seq, flags, tos)| Packet {
            proto: if is_tcp { TCP } else { UDP },
            payload,
            seq,
            tos,
            ..Packet::tcp((src.into(), sport), VIP, flags)
        });
    let mut runner = TestRunner::new(Config {
        cases: 2_000,
        failure_persistence: None,
        ..Config::default()
    });
    let fail = |error: anyhow::Error| TestCaseError::fail(format!("{error:?}"));
    let done = runner.run(&packets, |packet| {
        let run = pair
            .node
            .test_inbound(&pair.encapsulated(&packet).map_err(fail)?)
            .map_err(|e| fail(e.into()))?;
        prop_assert_eq!(run.verdict, OK);
        prop_assert!(run.packet == delivered(&packet), "{:02x?}", run.packet);
        let answer = an_answer(&packet, BACKEND);
        let run = pair
            .node
            .test_outbound(&answer.frame())
            .map_err(|e| fail(e.into()))?;
        prop_assert_eq!(run.verdict, OK);
        let expected = an_answer(&packet, VIP).frame();
        prop_assert!(run.packet == expected, "{:02x?}", run.packet);
        Ok(())
    });
    done.map_err(|error| anyhow::anyhow!("{error}"))?;
    let n = pair.node.count(reason::DELIVERED)?;
    assert!(n >= 2_000 && n == pair.node.count(reason::ANSWERED)?);
    Ok(())
}

#[test]
fn fragments_are_translated_both_ways() -> anyhow::Result<()> {
    let Some(pair) = Pair::new("frag")? else {
        return Ok(());
    };
    let whole = Packet {
        fragment: 0x2000,
        payload: vec![7; 72],
        ..Packet::udp(CLIENT, VIP, b"")
    };
    let later = Packet {
        fragment: 10,
        payload: vec![8; 3],
        ..whole.clone()
    };
    for packet in [&whole, &later] {
        let run = pair.node.test_inbound(&pair.encapsulated(packet)?)?;
        assert_eq!(run.verdict, OK);
        let mut expected = delivered(packet);
        if packet.fragment == 0x2000 {
            // No checksum in these fixtures: it stays none.
            assert_eq!(run.packet[40..42], [0, 0]);
            expected[40..42].copy_from_slice(&[0, 0]);
        }
        assert_eq!(run.packet, expected);
    }
    for packet in [&whole, &later] {
        let run = pair
            .node
            .test_outbound(&an_answer(packet, BACKEND).frame())?;
        assert_eq!(run.packet, an_answer(packet, VIP).frame());
    }
    Ok(())
}

fn icmp(kind: [u8; 2], quoted: &Packet, src: Ipv4Addr, dst: Ipv4Addr) -> Packet {
    let mut payload = vec![kind[0], kind[1], 0, 0, 0, 0, 5, 0xdc];
    payload.extend(&quoted.ip()[..28]);
    let sum = checksum(&payload);
    payload[2..4].copy_from_slice(&sum.to_be_bytes());
    Packet {
        proto: ICMP,
        fragment: 0,
        payload,
        ..Packet::tcp((src, 0), (dst, 0), 0)
    }
}

/// The quoted packet's own checksum is not translated (nobody reads it), nor compared.
fn same_but_quoted_checksum(mut a: Vec<u8>, mut b: Vec<u8>, proto: u8) {
    assert_eq!(checksum(&a[34..]), 0, "ICMP checksum");
    assert_eq!(checksum(&a[14..34]), 0, "IPv4 checksum");
    assert_eq!(checksum(&a[42..62]), 0, "quoted IPv4 checksum");
    for bytes in [&mut a, &mut b] {
        bytes[36..38].fill(0);
        if proto == UDP {
            bytes[68..70].fill(0);
        }
    }
    assert_eq!(a, b);
}

#[test]
fn icmp_errors_reach_who_can_act_on_them() -> anyhow::Result<()> {
    let Some(pair) = Pair::new("icmp")? else {
        return Ok(());
    };
    for proto in [TCP, UDP] {
        let dialled = Packet {
            proto,
            ..Packet::tcp(CLIENT, VIP, ACK)
        };
        let run = pair.node.test_inbound(&pair.encapsulated(&dialled)?)?;
        assert_eq!(run.verdict, OK);
        // A router could not pass the VIP's answer on: "fragmentation needed".
        let router = Ipv4Addr::new(192, 0, 2, 1);
        let said = icmp([3, 4], &an_answer(&dialled, VIP), router, VIP.0);
        let run = pair.node.test_inbound(&pair.encapsulated(&said)?)?;
        assert_eq!(run.verdict, OK);
        let expected = icmp([3, 4], &an_answer(&dialled, BACKEND), router, BACKEND.0);
        same_but_quoted_checksum(run.packet, expected.frame(), proto);
        // The backend is gone: the node's "port unreachable" is the VIP's.
        let at_node = Packet {
            dst: BACKEND.0,
            dport: BACKEND.1,
            ..dialled.clone()
        };
        let said = icmp([3, 3], &at_node, BACKEND.0, CLIENT.0);
        let run = pair.node.test_outbound(&said.frame())?;
        assert_eq!(run.verdict, OK);
        let expected = icmp([3, 3], &dialled, VIP.0, CLIENT.0);
        same_but_quoted_checksum(run.packet, expected.frame(), proto);
    }
    assert_eq!(pair.node.count(reason::ICMP_ERROR)?, 2);
    assert_eq!(pair.node.count(reason::ICMP_ANSWERED)?, 2);
    Ok(())
}

#[test]
fn only_edges_and_only_what_is_served_here() -> anyhow::Result<()> {
    let Some(pair) = Pair::new("strict")? else {
        return Ok(());
    };
    let node = &pair.node;
    let packet = Packet::tcp(CLIENT, VIP, SYN);
    let good = pair.encapsulated(&packet)?;
    let verdict = |frame: &[u8]| -> anyhow::Result<u32> { Ok(node.test_inbound(frame)?.verdict) };
    let with = |at: usize, byte: u8| {
        let mut frame = good.clone();
        frame[at] = byte;
        frame
    };
    // Another sender; another port of the backend, of the VIP; another protocol inside.
    for (frame, why) in [
        (with(29, 8), reason::NOT_AN_EDGE),
        (with(47, 1), reason::NO_SERVICE),
        (with(49, 1), reason::NO_SERVICE),
        (with(59, 47), reason::NO_SERVICE),
        // GUE with options, of another version, with something else inside; an inner header with options; longer than it is.
        (with(42, 2), reason::MALFORMED),
        (with(42, 0x41), reason::MALFORMED),
        (with(43, 41), reason::MALFORMED),
        (with(50, 0x46), reason::MALFORMED),
        (with(53, 200), reason::MALFORMED),
        // Shorter than a header; to another port than the edge says.
        (with(53, 30), reason::MALFORMED),
        (with(73, 81), reason::MALFORMED),
        (good[..60].to_vec(), reason::MALFORMED),
        (good[..80].to_vec(), reason::MALFORMED),
    ] {
        let before = node.count(why)?;
        assert_eq!(verdict(&frame)?, SHOT, "{why}");
        assert_eq!(node.count(why)?, before + 1, "{why}");
    }
    assert_eq!(node.answers()?.len(), 0);
    assert_eq!(verdict(&good)?, OK);

    // Other traffic is left alone, byte for byte.
    let stranger = Packet::udp(CLIENT, BACKEND, b"to the node itself");
    let run = node.test_inbound(&stranger.frame())?;
    assert_eq!((run.verdict, run.packet), (OK, stranger.frame()));
    let own = an_answer(&Packet::udp((CLIENT.0, 5), BACKEND, b"x"), BACKEND);
    let run = node.test_outbound(&own.frame())?;
    assert_eq!((run.verdict, run.packet), (OK, own.frame()));

    // A client that dials the backend itself is answered by the backend.
    assert_eq!(node.answers()?.len(), 1);
    let direct = Packet::tcp(CLIENT, BACKEND, SYN);
    assert_eq!(verdict(&direct.frame())?, OK);
    assert_eq!(node.count(reason::DIRECT)?, 1);
    assert_eq!(node.answers()?.len(), 0);
    let run = node.test_outbound(&an_answer(&direct, BACKEND).frame())?;
    assert_eq!(run.packet, an_answer(&direct, BACKEND).frame());

    // Not served any more.
    node.forget(&served(TCP))?;
    node.forget(&served(TCP))?;
    assert_eq!(verdict(&good)?, SHOT);
    node.remove_edge(EDGE)?;
    assert_eq!(verdict(&good)?, SHOT);
    Ok(())
}

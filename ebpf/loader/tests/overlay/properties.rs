//! Random frames: the programs do what the model says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use waggle_ebpf::common::overlay::mac_of;

use crate::bench::Bench;
use crate::frame::{Frame, ICMP, ICMP6, Outer, TCP, UDP};
use crate::rig::{ip4, ip6, node_ip};

const CASES: u32 = 700;

/// Somebody of every kind: (node, container).
const SOMEBODY: [(u8, u8); 13] = [
    (1, 1),
    (1, 2),
    (1, 3),
    (1, 4),
    (1, 77),
    (2, 2),
    (2, 3),
    (3, 2),
    (4, 2),
    (5, 2),
    (10, 2),
    (12, 2),
    (99, 2),
];

/// Addresses of every kind, of one family.
fn address(is_v4: bool) -> impl Strategy<Value = IpAddr> {
    let strange: Vec<IpAddr> = if is_v4 {
        vec![
            Ipv4Addr::new(203, 0, 113, 9).into(),
            Ipv4Addr::new(224, 0, 0, 1).into(),
            Ipv4Addr::BROADCAST.into(),
            node_ip(1).into(),
            node_ip(2).into(),
            Ipv4Addr::UNSPECIFIED.into(),
        ]
    } else {
        vec![
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).into(),
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::UNSPECIFIED.into(),
        ]
    };
    let known: Vec<IpAddr> = SOMEBODY
        .iter()
        .map(|(node, n)| {
            if is_v4 {
                ip4(*node, *n).into()
            } else {
                ip6(*node, *n).into()
            }
        })
        .collect();
    prop_oneof![
        8 => proptest::sample::select(known),
        1 => proptest::sample::select(strange),
    ]
}

fn frame(own: Option<(u8, u8)>) -> impl Strategy<Value = Frame> {
    any::<bool>()
        .prop_flat_map(move |is_v4| {
            let own = own.map(|(node, n)| -> IpAddr {
                if is_v4 {
                    ip4(node, n).into()
                } else {
                    ip6(node, n).into()
                }
            });
            let src = address(is_v4);
            let src = match own {
                Some(own) => prop_oneof![6 => Just(own), 1 => src].boxed(),
                None => src.boxed(),
            };
            let icmp = if is_v4 { ICMP } else { ICMP6 };
            let protos = vec![TCP, TCP, UDP, UDP, icmp, 50, 132];
            let fragments = if is_v4 {
                vec![0x4000_u16, 0x4000, 0, 0x2000, 0x2010, 0x0010]
            } else {
                vec![0_u16, 0, 0, 0x0001, 0x0081, 0x0080]
            };
            let ports = prop_oneof![
                3 => any::<[u16; 2]>(),
                1 => Just([40_000, 64_000]),
                // Errors, which are not answered by another one.
                1 => Just([if is_v4 { 0x0303 } else { 0x0104 }, 0]),
                1 => Just([if is_v4 { 0x0800 } else { 0x8000 }, 0]),
            ];
            (
                (src, address(is_v4), proptest::sample::select(protos), ports),
                (
                    any::<u8>(),
                    any::<u8>(),
                    proptest::sample::select(fragments),
                ),
                (prop::bool::weighted(0.1), prop::bool::weighted(0.1)),
                (
                    prop_oneof![4 => 0_usize..200, 1 => 900_usize..1200],
                    prop_oneof![8 => Just(0_i32), 1 => -40..40],
                ),
            )
        })
        .prop_map(
            |(
                (src, dst, proto, ports),
                (flags, tos, fragment),
                (options, lies),
                (payload, lie),
            )| {
                let mut frame = Frame::new(src, dst, proto);
                // A container has one MAC address, whatever the family.
                frame.src_mac = if lies {
                    mac_of(dst)
                } else {
                    mac_of(ip4(1, 2).into())
                };
                frame.ports = ports;
                frame.tcp_flags = flags;
                frame.tos = tos;
                frame.fragment = fragment;
                frame.has_options = options;
                frame.payload = payload;
                frame.lie = lie;
                frame
            },
        )
}

/// Cuts a frame, or turns a bit of it.
fn damage() -> impl Strategy<Value = Option<(bool, usize, u8)>> {
    prop_oneof![
        5 => Just(None),
        1 => (any::<bool>(), 14_usize..140, 0_u8..8).prop_map(Some),
    ]
}

fn damaged(mut bytes: Vec<u8>, damage: Option<(bool, usize, u8)>) -> Vec<u8> {
    match damage {
        Some((true, at, _)) => bytes.truncate(at),
        Some((false, at, bit)) => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        None => {}
    }
    bytes
}

/// ARP and neighbour discovery are not the model's.
fn is_neighbours(frame: &[u8]) -> bool {
    let kind = frame.get(12..14);
    kind == Some(&[0x08, 0x06])
        || kind == Some(&[0x86, 0xdd])
            && (0..frame.len())
                .any(|at| frame[at..].first().is_some_and(|b| (133..=137).contains(b)))
            && frame[14..].contains(&ICMP6)
}

/// The kernel makes no test run with less than the IP header that the EtherType tells of; `e2e` sends such frames.
fn is_runnable(frame: &[u8]) -> bool {
    let least = match frame.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => 15,
    };
    frame.len() >= least
}

fn runner() -> TestRunner {
    TestRunner::new(Config {
        cases: CASES,
        max_global_rejects: 100_000,
        failure_persistence: None,
        ..Config::default()
    })
}

#[test]
fn what_containers_send_goes_where_the_model_says() -> anyhow::Result<()> {
    let Some(bench) = Bench::new("pfrom", u32::MAX)? else {
        return Ok(());
    };
    runner().run(&(frame(Some((1, 2))), damage()), |(frame, damage)| {
        let bytes = damaged(frame.bytes(), damage);
        prop_assume!(!is_neighbours(&bytes) && is_runnable(&bytes));
        let expected = bench.tables.from(bench.ifindex, &bytes);
        let found = bench
            .sent(&bytes)
            .map_err(|e| TestCaseError::fail(format!("{e:#}")))?;
        bench
            .compare(&expected, &bytes, &bytes, &found)
            .map_err(|e| TestCaseError::fail(format!("{e}\nof {bytes:02x?}")))
    })?;
    Ok(())
}

#[test]
fn what_nodes_send_is_delivered_as_the_model_says() -> anyhow::Result<()> {
    let Some(bench) = Bench::new("punder", u32::MAX)? else {
        return Ok(());
    };
    let outer = (
        proptest::sample::select(vec![2_u8, 2, 2, 3, 4, 5, 9]),
        proptest::sample::select(vec![1_u8, 1, 1, 1, 1, 2]),
        any::<u8>(),
        proptest::sample::select(vec![0x4000_u16, 0x4000, 0x4000, 0x4000, 0, 0x2000, 0x0010]),
        proptest::sample::select(vec![64_000_u16, 64_000, 64_000, 64_000, 4789]),
        proptest::sample::select(vec![
            0x0800_0000_u32,
            0x0800_0000,
            0x0800_0000,
            0,
            0x0c00_0000,
        ]),
        proptest::sample::select(vec![1024_u32, 1024, 1024, 1024, 7]),
        prop_oneof![8 => Just(0_i32), 1 => -40..40],
    );
    let inner = frame(Some((2, 2)));
    runner().run(&(inner, outer, damage()), |(frame, outer, damage)| {
        let (src, dst, tos, fragment, port, flags, vni, lie) = outer;
        let outer = Outer {
            src: node_ip(src),
            dst: node_ip(dst),
            tos,
            fragment,
            port,
            flags,
            vni,
            lie,
        };
        let bytes = damaged(outer.wrap(&frame.bytes()), damage);
        prop_assume!(is_runnable(&bytes));
        prop_assume!(bytes.len() <= 50 || !is_neighbours(&bytes[50..]));
        let expected = bench.tables.under(&bytes);
        let found = bench
            .under(&bytes, 0)
            .map_err(|e| TestCaseError::fail(format!("{e:#}")))?;
        let inner = bytes.get(50..).unwrap_or_default();
        bench
            .compare(&expected, &bytes, inner, &found)
            .map_err(|e| TestCaseError::fail(format!("{e}\nof {bytes:02x?}")))
    })?;
    Ok(())
}

//! One rule each: neighbours, segments, budgets, tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use waggle_ebpf::LoadError;
use waggle_ebpf::common::overlay::{mac_of, reason};
use waggle_ebpf::overlay::{At, Endpoint, OverlayPlane, Place, Subnet};

use crate::bench::{Bench, MTU};
use crate::frame::{Frame, ICMP6, Outer, TCP, UDP, is_icmp6_right};
use crate::model::{OK, REDIRECT, SHOT};
use crate::rig::{NETWORK, ip4, ip6, net4, node_ip};

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// RFC 826.
fn arp(what: u8, mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, what]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// RFC 4861, 4.3 and 4.4.
fn discovery(kind: u8, mac: [u8; 6], src: Ipv6Addr, target: Ipv6Addr, has_option: bool) -> Vec<u8> {
    let [.., c, d, e] = target.octets();
    let mut frame = vec![0x33, 0x33, 0xff, c, d, e];
    frame.extend(mac);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0]);
    frame.extend([if has_option { 32 } else { 24 }, ICMP6, 255]);
    frame.extend(src.octets());
    let many = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(c), 0);
    frame.extend(many.octets());
    frame.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend(target.octets());
    if has_option {
        frame.extend([1, 1]);
        frame.extend(mac);
    }
    frame
}

fn own() -> [u8; 6] {
    mac_of(ip4(1, 2).into())
}

#[test]
fn arp_is_answered_for_the_overlay_and_nobody_else() -> anyhow::Result<()> {
    let Some(bench) = Bench::new("arp", u32::MAX)? else {
        return Ok(());
    };
    let me = ip4(1, 2);
    let local = Ipv4Addr::new(169, 254, 1, 1);
    for target in [
        ip4(1, 1),
        ip4(1, 3),
        ip4(1, 77),
        ip4(2, 2),
        ip4(99, 1),
        local,
    ] {
        let (run, reasons) = bench.sent(&arp(REQUEST, own(), me, target))?;
        assert_eq!(
            (run.verdict, reasons),
            (REDIRECT, vec![reason::ARP_ANSWERED])
        );
        let mut expected = arp(REPLY, mac_of(target.into()), target, me);
        expected[..6].copy_from_slice(&own());
        expected[32..38].copy_from_slice(&own());
        assert_eq!(run.packet, expected, "{target}");
    }
    let other = [2, 9, 9, 9, 9, 9];
    let mut half = arp(REQUEST, own(), me, ip4(1, 1));
    half[22..28].copy_from_slice(&other);
    let cut = arp(REQUEST, own(), me, ip4(1, 1))[..40].to_vec();
    let nobody = Ipv4Addr::UNSPECIFIED;
    for (frame, verdict, why) in [
        // Gratuitous, probes (RFC 5227), and addresses of nobody's.
        (arp(REQUEST, own(), me, me), SHOT, reason::NEIGHBOUR_IGNORED),
        (
            arp(REQUEST, own(), nobody, me),
            SHOT,
            reason::NEIGHBOUR_IGNORED,
        ),
        (
            arp(REQUEST, own(), nobody, ip4(2, 2)),
            SHOT,
            reason::NEIGHBOUR_IGNORED,
        ),
        (
            arp(REQUEST, own(), me, Ipv4Addr::new(203, 0, 113, 9)),
            SHOT,
            reason::NEIGHBOUR_IGNORED,
        ),
        (
            arp(REQUEST, own(), ip4(1, 3), ip4(1, 1)),
            SHOT,
            reason::SPOOFED_NEIGHBOUR,
        ),
        (
            arp(REPLY, own(), ip4(1, 1), me),
            SHOT,
            reason::SPOOFED_NEIGHBOUR,
        ),
        (
            arp(REQUEST, other, me, ip4(1, 1)),
            SHOT,
            reason::SPOOFED_MAC,
        ),
        (half, SHOT, reason::SPOOFED_MAC),
        (cut, SHOT, reason::MALFORMED),
        (arp(REPLY, own(), me, ip4(1, 1)), OK, reason::NODE),
    ] {
        let (run, reasons) = bench.sent(&frame)?;
        assert_eq!((run.verdict, reasons), (verdict, vec![why]), "{frame:02x?}");
    }
    Ok(())
}

#[test]
fn solicitations_are_answered_for_the_overlay_and_nobody_else() -> anyhow::Result<()> {
    let Some(bench) = Bench::new("nd", u32::MAX)? else {
        return Ok(());
    };
    let me = ip6(1, 2);
    let link = Ipv6Addr::new(0xfe80, 0, 0, 0, 4, 9, 1, 2);
    for (src, target, flags) in [
        (me, ip6(1, 3), 0x60),
        (me, ip6(2, 2), 0x60),
        (me, ip6(1, 1), 0xe0),
        (link, GATEWAY, 0xe0),
    ] {
        for has_option in [true, false] {
            let (run, reasons) = bench.sent(&discovery(135, own(), src, target, has_option))?;
            assert_eq!(
                (run.verdict, reasons),
                (REDIRECT, vec![reason::ND_ANSWERED]),
                "{target}"
            );
            let out = run.packet;
            let mac = mac_of(target.into());
            assert_eq!((&out[..6], &out[6..12]), (&own()[..], &mac[..]));
            assert_eq!(out[14..22], [0x60, 0, 0, 0, 0, 32, ICMP6, 255]);
            assert_eq!(
                (&out[22..38], &out[38..54]),
                (&target.octets()[..], &src.octets()[..])
            );
            assert!(is_icmp6_right(&out[14..]), "{out:02x?}");
            assert_eq!((out[54], out[58]), (136, flags));
            assert_eq!(out[62..78], target.octets());
            assert_eq!((&out[78..80], &out[80..86]), (&[2, 1][..], &mac[..]));
            assert_eq!(out.len(), 86);
        }
    }
    let other = [2, 9, 9, 9, 9, 9];
    let nobody = Ipv6Addr::UNSPECIFIED;
    let outside = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
    let mut far = discovery(135, own(), me, GATEWAY, true);
    far[21] = 64;
    let mut other_option = discovery(135, own(), me, GATEWAY, true);
    other_option[80..86].copy_from_slice(&other);
    let mut unicast = discovery(136, own(), me, me, false);
    unicast[38..54].copy_from_slice(&ip6(1, 1).octets());
    for (frame, verdict, why) in [
        (
            discovery(135, own(), nobody, me, false),
            SHOT,
            reason::NEIGHBOUR_IGNORED,
        ),
        (
            discovery(135, own(), me, me, true),
            SHOT,
            reason::NEIGHBOUR_IGNORED,
        ),
        (
            discovery(135, own(), me, outside, true),
            SHOT,
            reason::NEIGHBOUR_IGNORED,
        ),
        (
            discovery(133, own(), link, GATEWAY, true),
            SHOT,
            reason::NEIGHBOUR_IGNORED,
        ),
        (
            discovery(136, own(), me, me, false),
            SHOT,
            reason::NEIGHBOUR_IGNORED,
        ),
        (
            discovery(135, own(), ip6(1, 3), GATEWAY, true),
            SHOT,
            reason::SPOOFED_NEIGHBOUR,
        ),
        (
            discovery(136, own(), me, ip6(1, 3), false),
            SHOT,
            reason::SPOOFED_NEIGHBOUR,
        ),
        (
            discovery(134, own(), link, GATEWAY, true),
            SHOT,
            reason::SPOOFED_NEIGHBOUR,
        ),
        (
            discovery(137, own(), me, GATEWAY, true),
            SHOT,
            reason::SPOOFED_NEIGHBOUR,
        ),
        (other_option, SHOT, reason::SPOOFED_NEIGHBOUR),
        (
            discovery(135, other, me, GATEWAY, true),
            SHOT,
            reason::SPOOFED_MAC,
        ),
        (far, SHOT, reason::MALFORMED),
        (unicast, OK, reason::NODE),
    ] {
        let (run, reasons) = bench.sent(&frame)?;
        assert_eq!((run.verdict, reasons), (verdict, vec![why]), "{frame:02x?}");
    }
    Ok(())
}

/// What every node may send to all of them, and what is no packet at all.
#[test]
fn many_are_told_from_what_is_malformed() -> anyhow::Result<()> {
    let Some(bench) = Bench::new("many", u32::MAX)? else {
        return Ok(());
    };
    let many = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let whole = Frame::new(ip6(2, 2).into(), many.into(), UDP).bytes();
    let cut = whole[..whole.len() - 1].to_vec();
    // The header of SCTP is longer than what is there (RFC 9260, 3).
    let short = Frame {
        payload: 0,
        ..Frame::new(ip6(2, 2).into(), many.into(), 132)
    };
    for (frame, verdict, reasons) in [
        (whole, OK, vec![]),
        (cut, SHOT, vec![reason::MALFORMED]),
        (short.bytes(), SHOT, vec![reason::MALFORMED]),
    ] {
        let wire = Outer::new(node_ip(2), node_ip(1)).wrap(&frame);
        let (run, found) = bench.under(&wire, 0)?;
        assert_eq!((run.verdict, found), (verdict, reasons), "{frame:02x?}");
    }
    Ok(())
}

#[test]
fn segments_count_not_their_sum() -> anyhow::Result<()> {
    let Some(bench) = Bench::new("gso", u32::MAX)? else {
        return Ok(());
    };
    let long = |proto: u8| Frame {
        payload: 3000,
        ..Frame::new(ip4(1, 2).into(), ip4(2, 2).into(), proto)
    };
    let may_not = |proto: u8| Frame {
        fragment: 0x4000,
        ..long(proto)
    };
    let mtu = u32::from(MTU);
    for (proto, header) in [(TCP, 40), (UDP, 28)] {
        let (run, reasons) = bench.sent_with(&may_not(proto).bytes(), mtu - header)?;
        // A test run's packets are not known to be of a kind that is segmented: the kernel refuses, and its device takes them.
        let path = if reasons == [reason::SENT] {
            reason::SENT
        } else {
            reason::SLOW_REFUSED
        };
        assert_eq!((run.verdict, reasons), (REDIRECT, vec![path]), "{proto}");
        let (run, reasons) = bench.sent_with(&may_not(proto).bytes(), mtu - header + 1)?;
        assert_eq!(
            (run.verdict, reasons),
            (REDIRECT, vec![reason::ICMP_SENT, reason::TOO_BIG]),
            "{proto}"
        );
        let (run, reasons) = bench.sent_with(&long(proto).bytes(), mtu - header + 1)?;
        assert_eq!(
            (run.verdict, reasons),
            (REDIRECT, vec![reason::SLOW_LONG]),
            "{proto}"
        );
    }
    // From another node: datagrams in segments go by the kernel's device.
    let udp = Frame::new(ip4(2, 2).into(), ip4(1, 2).into(), UDP).bytes();
    let (run, reasons) = bench.under(&Outer::new(node_ip(2), node_ip(1)).wrap(&udp), 1000)?;
    assert_eq!((run.verdict, reasons), (OK, vec![reason::UP_GSO]));
    Ok(())
}

#[test]
fn errors_have_a_budget() -> anyhow::Result<()> {
    let Some(bench) = Bench::new("budget", 0)? else {
        return Ok(());
    };
    let frame = Frame::new(ip4(1, 2).into(), ip4(99, 2).into(), UDP).bytes();
    let (run, reasons) = bench.sent(&frame)?;
    let expected = vec![reason::UNANSWERED, reason::UNKNOWN_DESTINATION];
    assert_eq!((run.verdict, reasons), (SHOT, expected));
    Ok(())
}

#[test]
fn without_a_device_nothing_is_slow() -> anyhow::Result<()> {
    let Some(bench) = Bench::new("nodev", u32::MAX)? else {
        return Ok(());
    };
    let frame = Frame::new(ip4(1, 2).into(), ip4(4, 2).into(), UDP).bytes();
    let (run, reasons) = bench.sent(&frame)?;
    assert_eq!((run.verdict, reasons), (REDIRECT, vec![reason::SLOW_PEER]));
    for ifindex in bench.plane.attached()?.into_keys() {
        bench.plane.detach(ifindex)?;
    }
    let (run, reasons) = bench.sent(&frame)?;
    let expected = vec![reason::SLOW_PEER, reason::NO_DEVICE];
    assert_eq!((run.verdict, reasons), (SHOT, expected));
    Ok(())
}

#[test]
fn tables_are_what_was_written_also_after_a_restart() -> anyhow::Result<()> {
    let Some(bench) = Bench::new("tables", u32::MAX)? else {
        return Ok(());
    };
    let Bench {
        plane,
        tables,
        pins,
        ifindex,
        ..
    } = &bench;
    let check = |plane: &OverlayPlane| -> anyhow::Result<()> {
        assert_eq!(plane.peers()?, tables.peers);
        assert_eq!(plane.subnets()?, tables.subnets);
        assert_eq!(plane.endpoints()?, tables.endpoints);
        Ok(())
    };
    check(plane)?;
    assert!(matches!(
        OverlayPlane::open(&pins.pin_dir, &tables.config),
        Err(LoadError::Busy { .. })
    ));
    // A net on nobody's node is refused, and changes nothing.
    let nowhere = Subnet {
        place: Place::Peer(node_ip(200)),
        network: NETWORK,
    };
    assert!(matches!(
        plane.set_subnet(net4(50), nowhere),
        Err(LoadError::NoPeer { .. })
    ));
    check(plane)?;

    // A node goes with its nets; its place may be another's.
    plane.remove_peer(node_ip(2))?;
    plane.remove_peer(node_ip(2))?;
    assert!(!plane.peers()?.contains_key(&node_ip(2)));
    let left = plane.subnets()?;
    assert!(
        left.values()
            .all(|subnet| subnet.place != Place::Peer(node_ip(2)))
    );
    assert!(
        left.values()
            .any(|subnet| subnet.place == Place::Peer(node_ip(4)))
    );
    plane.set_peer(&tables.peers[&node_ip(2)])?;
    for (net, subnet) in &tables.subnets {
        plane.set_subnet(*net, *subnet)?;
    }
    check(plane)?;

    // The last address behind a device takes its MAC address along.
    let mac = own();
    let ask = arp(REQUEST, mac, ip4(1, 2), ip4(1, 1));
    plane.remove_endpoint(ip6(1, 2).into())?;
    assert_eq!(bench.sent(&ask)?.1, [reason::ARP_ANSWERED]);
    plane.remove_endpoint(ip4(1, 2).into())?;
    plane.remove_endpoint(ip4(1, 2).into())?;
    assert_eq!(bench.sent(&ask)?.1, [reason::SPOOFED_MAC]);
    let endpoint = Endpoint {
        at: At::Container {
            ifindex: *ifindex,
            mac,
            may_forward: false,
        },
        network: NETWORK,
        identity: 0,
    };
    for ip in [IpAddr::from(ip4(1, 2)), ip6(1, 2).into()] {
        plane.set_endpoint(ip, &endpoint)?;
    }
    check(plane)?;

    let Bench {
        plane,
        tables,
        pins,
        guard,
        ns,
        ..
    } = bench;
    drop(plane);
    let plane = OverlayPlane::open(&pins.pin_dir, &tables.config)?;
    assert_eq!(plane.peers()?, tables.peers);
    assert_eq!(plane.subnets()?, tables.subnets);
    assert_eq!(plane.endpoints()?, tables.endpoints);
    assert!(plane.count(reason::SPOOFED_MAC)? > 0, "counters go on");
    drop(plane);
    OverlayPlane::remove(&pins.pin_dir)?;
    assert!(!pins.pin_dir.exists());
    drop((guard, ns));
    Ok(())
}

//! One rule each: fragments, ICMP errors, draining, what is malformed.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use waggle_ebpf::common::packet::{FlowKey, reason};

use crate::fixture::{ACK, FIN, ICMP, Packet, SYN, TCP, UDP, checksum};
use crate::model::{OK, REDIRECT, SHOT, from, refusal, reset, to};
use crate::rig::{At, Rig};

const CLIENT: At = (Ipv4Addr::new(10, 0, 0, 7), 40_000);
const VIP: At = (Ipv4Addr::new(11, 0, 0, 1), 80);
const BACKEND: At = (Ipv4Addr::new(10, 0, 1, 1), 8080);
const OTHER: At = (Ipv4Addr::new(10, 0, 1, 2), 8080);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fn answer_to(packet: &Packet, source: At) -> Packet {
    Packet {
        src: source.0,
        sport: source.1,
        dst: packet.src,
        dport: packet.sport,
        ..packet.clone()
    }
}

/// A rig with one VIP for TCP and UDP, and one backend.
fn rig(name: &str) -> anyhow::Result<Option<Rig>> {
    let Some(rig) = Rig::new(name)? else {
        return Ok(None);
    };
    rig.serve(VIP, TCP, 0, &[BACKEND])?;
    rig.serve(VIP, UDP, 10, &[BACKEND])?;
    Ok(Some(rig))
}

#[test]
fn fragments_follow_their_first_one_both_ways() -> anyhow::Result<()> {
    let Some(rig) = rig("frag")? else {
        return Ok(());
    };
    let first = Packet {
        fragment: 0x2000,
        payload: vec![7; 72],
        ..Packet::udp(CLIENT, VIP, b"")
    };
    let later = Packet {
        fragment: 10,
        payload: vec![8; 3],
        ..first.clone()
    };
    // The wrong way round: lost, and counted.
    let run = rig.packets.test_inbound(&later.frame())?;
    assert_eq!(run.verdict, SHOT);
    assert_eq!(rig.count(reason::FRAGMENT_LOST)?, 1);
    for packet in [&first, &later] {
        let run = rig.packets.test_inbound(&packet.frame())?;
        // No checksum in these fixtures: it stays none.
        assert_eq!((run.verdict, run.packet), (OK, to(packet, BACKEND).frame()));
    }
    for (n, packet) in [&first, &later].into_iter().enumerate() {
        let answer = answer_to(packet, BACKEND);
        let run = match n {
            0 => rig.packets.test_inbound(&answer.frame())?,
            _ => rig.packets.test_outbound(&answer.frame())?,
        };
        let expected = answer_to(packet, VIP).frame();
        assert_eq!((run.verdict, run.packet), (OK, expected));
    }
    assert_eq!(rig.count(reason::FRAGMENT)?, 2);
    // Of another datagram, and to nobody's VIP.
    let stranger = Packet {
        id: 8,
        dst: ROUTER,
        ..later.clone()
    };
    let run = rig.packets.test_inbound(&stranger.frame())?;
    assert_eq!((run.verdict, run.packet), (OK, stranger.frame()));
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
    let Some(rig) = rig("icmp")? else {
        return Ok(());
    };
    for proto in [TCP, UDP] {
        let dialled = Packet {
            proto,
            ..Packet::tcp(CLIENT, VIP, SYN)
        };
        // Nothing is known yet: left alone.
        let early = icmp([3, 4], &answer_to(&dialled, VIP), ROUTER, VIP.0);
        let run = rig.packets.test_inbound(&early.frame())?;
        assert_eq!((run.verdict, run.packet), (OK, early.frame()));
        assert_eq!(rig.packets.test_inbound(&dialled.frame())?.verdict, OK);
        // A router on the client's side could not pass an answer on.
        let run = rig.packets.test_inbound(&early.frame())?;
        let expected = icmp([3, 4], &answer_to(&dialled, BACKEND), ROUTER, BACKEND.0);
        same_but_quoted_checksum(run.packet, expected.frame(), proto);
        // The backend does not listen; a router on its side is narrow. At ingress and at egress.
        let sent = to(&dialled, BACKEND);
        for (kind, source, shown) in [([3, 3], BACKEND.0, VIP.0), ([3, 4], ROUTER, ROUTER)] {
            let said = icmp(kind, &sent, source, CLIENT.0).frame();
            let expected = icmp(kind, &dialled, shown, CLIENT.0).frame();
            for run in [
                rig.packets.test_inbound(&said)?,
                rig.packets.test_outbound(&said)?,
            ] {
                assert_eq!(run.verdict, OK);
                same_but_quoted_checksum(run.packet, expected.clone(), proto);
            }
        }
    }
    assert_eq!(rig.count(reason::ICMP_FORWARDED)?, 2);
    assert_eq!(rig.count(reason::ICMP_ANSWERED)?, 8);
    // An echo is no error.
    let echo = icmp([8, 0], &Packet::tcp(CLIENT, VIP, SYN), CLIENT.0, VIP.0);
    let run = rig.packets.test_inbound(&echo.frame())?;
    assert_eq!((run.verdict, run.packet), (OK, echo.frame()));
    Ok(())
}

#[test]
fn who_drains_keeps_what_it_has() -> anyhow::Result<()> {
    let Some(rig) = rig("drain")? else {
        return Ok(());
    };
    let syn = Packet::tcp(CLIENT, VIP, SYN);
    let data = Packet::tcp(CLIENT, VIP, ACK);
    let datagram = Packet::udp(CLIENT, VIP, b"?");
    let goes = |packet: &Packet, backend: At| -> anyhow::Result<()> {
        let run = rig.packets.test_inbound(&packet.frame())?;
        assert_eq!((run.verdict, run.packet), (OK, to(packet, backend).frame()));
        Ok(())
    };
    goes(&syn, BACKEND)?;
    goes(&datagram, BACKEND)?;
    rig.drain(VIP, TCP, 20, OTHER, &[BACKEND])?;
    rig.drain(VIP, UDP, 30, OTHER, &[BACKEND])?;
    goes(&data, BACKEND)?;
    goes(&datagram, BACKEND)?;
    // New ones go to the other: from another port, and from the same after its end.
    let port = (CLIENT.0, CLIENT.1 + 1);
    goes(&Packet::tcp(port, VIP, SYN), OTHER)?;
    goes(&Packet::udp(port, VIP, b"?"), OTHER)?;
    goes(&Packet::tcp(CLIENT, VIP, FIN | ACK), BACKEND)?;
    goes(&data, BACKEND)?;
    goes(&syn, OTHER)?;
    // Gone from the set: datagrams are given another one, a connection is left to end by itself.
    let third = (CLIENT.0, CLIENT.1 + 2);
    rig.serve(VIP, TCP, 40, &[BACKEND])?;
    goes(&Packet::tcp(third, VIP, SYN), BACKEND)?;
    rig.serve(VIP, TCP, 50, &[OTHER])?;
    rig.serve(VIP, UDP, 60, &[OTHER])?;
    goes(&datagram, OTHER)?;
    goes(&Packet::tcp(third, VIP, ACK), BACKEND)?;
    // No backend at all: the connection goes on, what is new is refused.
    rig.serve(VIP, TCP, 70, &[])?;
    rig.serve(VIP, UDP, 80, &[])?;
    goes(&Packet::tcp(third, VIP, ACK), BACKEND)?;
    for packet in [&Packet::tcp(port, VIP, SYN), &datagram] {
        let run = rig.packets.test_inbound(&packet.frame())?;
        assert_eq!((run.verdict, run.packet), (REDIRECT, refusal(packet)));
    }
    assert_eq!(rig.count(reason::NO_BACKEND)?, 2);
    Ok(())
}

#[test]
fn answers_of_our_own_have_a_budget() -> anyhow::Result<()> {
    for per_tick in [0, 1] {
        let Some(rig) = Rig::with_answers("budget", per_tick)? else {
            return Ok(());
        };
        rig.serve(VIP, TCP, 0, &[])?;
        let syn = Packet::tcp(CLIENT, VIP, SYN);
        for _ in 0..1_000 {
            let verdict = rig.packets.test_inbound(&syn.frame())?.verdict;
            assert!(verdict == REDIRECT || verdict == SHOT);
        }
        let sent = rig.count(reason::RESET_SENT)?;
        let dropped = rig.count(reason::UNANSWERED)?;
        assert_eq!(
            (sent + dropped, rig.count(reason::NO_BACKEND)?),
            (1_000, 1_000)
        );
        assert_eq!(sent > 0, per_tick > 0, "{sent} sent");
        // A thousand runs take less than a thousand ticks of 17 ms.
        assert!(dropped > 0);
    }
    Ok(())
}

#[test]
fn choices_are_spread_and_counted_as_those_of_sockets() -> anyhow::Result<()> {
    let Some(rig) = Rig::new("spread")? else {
        return Ok(());
    };
    rig.serve(VIP, TCP, 0, &[BACKEND, OTHER])?;
    let mut seen = BTreeSet::new();
    for port in 0..64 {
        let syn = Packet::tcp((CLIENT.0, 50_000 + port), VIP, SYN);
        let run = rig.packets.test_inbound(&syn.frame())?;
        assert_eq!(run.verdict, OK);
        seen.insert(run.packet[30..34].to_vec());
        // Repeated: the same.
        let again = rig.packets.test_inbound(&syn.frame())?;
        assert_eq!(again.packet, run.packet);
    }
    assert_eq!(seen.len(), 2);
    let stats = rig.plane.counters().vip_stats()?;
    let n: u64 = stats.iter().map(|(_, stat)| stat.count).sum();
    assert_eq!((n, rig.count(reason::FLOW_MADE)?), (64, 64));
    Ok(())
}

#[test]
fn what_can_not_be_translated_is_dropped_and_counted() -> anyhow::Result<()> {
    let Some(mut rig) = rig("strict")? else {
        return Ok(());
    };
    let good = Packet::tcp(CLIENT, VIP, SYN);
    let verdict = |rig: &Rig, frame: &[u8]| -> anyhow::Result<u32> {
        Ok(rig.packets.test_inbound(frame)?.verdict)
    };
    // IPv4 options; a header that is cut; a length that says so.
    let mut options = good.frame();
    options[14] = 0x46;
    assert_eq!(verdict(&rig, &options)?, SHOT);
    assert_eq!(rig.count(reason::OPTIONS)?, 1);
    assert_eq!(verdict(&rig, &good.frame()[..46])?, SHOT);
    let mut short = good.frame();
    short[17] = 30;
    assert_eq!(verdict(&rig, &short)?, SHOT);
    assert_eq!(rig.count(reason::MALFORMED)?, 2);
    assert_eq!(rig.packets.flows()?.len(), 0);
    // A datagram without a checksum stays without.
    let mut bare = Packet::udp(CLIENT, VIP, b"x").frame();
    bare[40..42].fill(0);
    let run = rig.packets.test_inbound(&bare)?;
    assert_eq!((run.verdict, &run.packet[40..42]), (OK, &[0, 0][..]));
    // The only backend is the client itself.
    let own = Packet::tcp((BACKEND.0, 5), VIP, SYN);
    let run = rig.packets.test_inbound(&own.frame())?;
    assert_eq!((run.verdict, run.packet), (REDIRECT, reset(&own)));
    assert_eq!(rig.count(reason::HAIRPIN)?, 1);
    // One of two: it gets the other one, always.
    rig.serve((VIP.0, 90), TCP, 20, &[BACKEND, OTHER])?;
    for port in 100..132 {
        let own = Packet::tcp((BACKEND.0, port), (VIP.0, 90), SYN);
        let run = rig.packets.test_inbound(&own.frame())?;
        assert_eq!((run.verdict, run.packet), (OK, to(&own, OTHER).frame()));
    }
    assert_eq!(rig.count(reason::HAIRPIN)?, 1);
    // Other traffic is left alone, byte for byte.
    for stranger in [
        Packet::udp(CLIENT, BACKEND, b"to the backend itself"),
        Packet::tcp(CLIENT, (VIP.0, 81), SYN),
    ] {
        for run in [
            rig.packets.test_outbound(&stranger.frame())?,
            rig.packets.test_inbound(&stranger.frame())?,
        ] {
            assert_eq!((run.verdict, run.packet), (OK, stranger.frame()));
        }
    }
    // What the node itself sends is translated at the other side, or refused there.
    let own = Packet::tcp(BACKEND, (VIP.0, 90), SYN);
    let run = rig.packets.test_outbound(&own.frame())?;
    assert_eq!(
        (run.verdict, run.packet),
        (REDIRECT, to(&own, OTHER).frame())
    );
    let alone = from(&good, BACKEND);
    let run = rig.packets.test_outbound(&alone.frame())?;
    assert_eq!((run.verdict, run.packet), (REDIRECT, reset(&alone)));
    assert_eq!(rig.count(reason::HAIRPIN)?, 2);
    // A flow that was forgotten is reset; one whose answers were is mended by the next packet.
    assert_eq!(verdict(&rig, &good.frame())?, OK);
    let data = Packet::tcp(CLIENT, VIP, ACK);
    assert_eq!(verdict(&rig, &data.frame())?, OK);
    rig.packets.forget(&FlowKey {
        src: u32::from(CLIENT.0).to_be(),
        dst: u32::from(VIP.0).to_be(),
        sport: CLIENT.1.to_be(),
        dport: VIP.1.to_be(),
        proto: TCP.into(),
    })?;
    let run = rig.packets.test_inbound(&data.frame())?;
    assert_eq!((run.verdict, run.packet), (REDIRECT, reset(&data)));
    assert_eq!(rig.count(reason::NO_FLOW)?, 1);
    assert_eq!(rig.count(reason::FAILED)?, 0);
    Ok(())
}

//! One packet at a time: what the properties' generators would find late, and what only counters show.

use std::net::Ipv4Addr;

use waggle_ebpf::LoadError;
use waggle_ebpf::common::edge::{self, Backend, Record, Traffic, reason};
use waggle_ebpf::edge::EdgePlane;

use crate::model::{DROP, PASS, TX};
use crate::packet::{ACK, Packet, SYN, TCP};
use crate::properties::model;
use crate::rig::{Rig, fill};

const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 168, 1, 1), 40_000);

fn vip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(11, 0, 0, last)
}

#[test]
fn traffic_is_counted_by_vip_and_reason() -> anyhow::Result<()> {
    let Some(rig) = Rig::new("count")? else {
        return Ok(());
    };
    let plane = rig.open("edge")?;
    fill(plane.tables(), &model(true))?;
    let counters = plane.counters();
    let run = |packet: &Packet| -> anyhow::Result<u32> {
        Ok(plane.test_run(&packet.frame(), 1)?.verdict)
    };

    let good = Packet::tcp(CLIENT, (vip(5), 1), ACK);
    assert_eq!(run(&good)?, TX);
    assert_eq!(plane.test_run(&good.frame(), 1)?.packet.len(), 14 + 36 + 40);
    let expected = Traffic {
        packets: 2,
        bytes: 80,
        ..Traffic::default()
    };
    assert_eq!(counters.traffic(7)?, expected);

    // Number 4 by order of keys: only some networks.
    let stranger = Packet::tcp((Ipv4Addr::new(20, 1, 2, 4), 1), (vip(3), 80), SYN);
    assert_eq!(run(&stranger)?, DROP);
    assert_eq!(counters.traffic(4)?.denied, 1);
    let friend = Packet::tcp((Ipv4Addr::new(20, 1, 2, 3), 1), (vip(3), 80), SYN);
    assert_eq!(run(&friend)?, TX);

    // Nobody there: a reset, which itself is no reason for another.
    let refused = Packet::tcp(CLIENT, (vip(4), 80), SYN);
    assert_eq!(run(&refused)?, TX);
    let answer = plane.test_run(&refused.frame(), 1)?.packet;
    assert_eq!(answer[47], 0x14, "reset and acknowledgement");
    let reset = Packet::tcp(CLIENT, (vip(4), 80), 0x04);
    assert_eq!(run(&reset)?, DROP);
    assert_eq!(counters.traffic(6)?.refused, 3);
    assert_eq!(counters.count(reason::RESET_SENT)?, 2);
    let refused = Packet::udp(CLIENT, (vip(4), 53), b"who");
    assert_eq!(run(&refused)?, TX);
    assert_eq!(counters.count(reason::ICMP_SENT)?, 1);

    // From one VIP to another, from nowhere, from itself.
    for src in [vip(2), Ipv4Addr::LOCALHOST, vip(1), Ipv4Addr::BROADCAST] {
        assert_eq!(run(&Packet::tcp((src, 80), (vip(1), 80), ACK))?, DROP);
    }
    assert_eq!(counters.count(reason::MARTIAN)?, 4);

    // Too short for what it says.
    let mut short = good.frame();
    short.truncate(14 + 39);
    assert_eq!(plane.test_run(&short, 1)?.verdict, DROP);
    assert_eq!(counters.count(reason::MALFORMED)?, 1);
    let mut options = good.frame();
    options[14] = 0x46;
    assert_eq!(plane.test_run(&options, 1)?.verdict, PASS);
    assert_eq!(counters.count(reason::OPTIONS)?, 1);
    let stray = Packet {
        fragment: 3,
        payload: vec![1],
        ..good.clone()
    };
    assert_eq!(run(&stray)?, PASS);
    assert_eq!(counters.count(reason::FRAGMENT_UNKNOWN)?, 1);
    Ok(())
}

#[test]
fn more_vips_than_a_bucket_holds_are_found_too() -> anyhow::Result<()> {
    let Some(rig) = Rig::new("bucket")? else {
        return Ok(());
    };
    let plane = rig.open("edge")?;
    let tables = plane.tables();
    // Seven addresses of one bucket.
    let port = 80_u16;
    let home = edge::bucket(edge::key(
        u32::from_ne_bytes([11, 1, 0, 0]),
        port.to_be(),
        TCP,
    ));
    let addrs: Vec<Ipv4Addr> = (0..u32::MAX)
        .map(|n| Ipv4Addr::from(0x0b01_0000 + n))
        .filter(|addr| {
            edge::bucket(edge::key(
                u32::from_ne_bytes(addr.octets()),
                port.to_be(),
                TCP,
            )) == home
        })
        .take(7)
        .collect();
    let key = |addr: &Ipv4Addr| edge::key(u32::from_ne_bytes(addr.octets()), port.to_be(), TCP);
    let verdict = |addr: &Ipv4Addr| -> Result<u32, LoadError> {
        let packet = Packet::tcp(CLIENT, (*addr, port), ACK);
        Ok(plane.test_run(&packet.frame(), 1)?.verdict)
    };
    tables.set_backends(
        0,
        &[Backend::new(&edge::BackendPath {
            next_hop: [2; 6],
            own_mac: [4; 6],
            edge: [10, 0, 0, 1],
            node: [10, 0, 0, 2],
            port: 1,
            vip_port: port,
            mtu: 1500,
            flags: 0,
            generation: 1,
        })],
    )?;
    for (n, addr) in (0..).zip(&addrs) {
        let record = Record {
            key: key(addr),
            ring_base: 0,
            ring_size: 1,
            vip_id: n,
            ..Record::default()
        };
        tables.set_record(n, &record)?;
        tables.publish(record.key, n)?;
        assert_eq!(tables.list()?.len(), n as usize + 1);
    }
    for addr in &addrs {
        assert_eq!(verdict(addr)?, TX, "{addr}");
    }
    // Whoever leaves makes room, in whatever order.
    for (left, gone) in [2, 0, 6, 5, 1, 4, 3].into_iter().enumerate() {
        tables.withdraw(key(&addrs[gone]))?;
        tables.withdraw(key(&addrs[gone]))?;
        assert_eq!(verdict(&addrs[gone])?, PASS);
        let served = addrs
            .iter()
            .map(&verdict)
            .collect::<Result<Vec<u32>, _>>()?
            .into_iter()
            .filter(|verdict| *verdict == TX)
            .count();
        assert_eq!(served, 6 - left);
        assert_eq!(tables.list()?.len(), 6 - left);
    }
    Ok(())
}

#[test]
fn a_record_of_another_vip_is_never_used() -> anyhow::Result<()> {
    let Some(rig) = Rig::new("reuse")? else {
        return Ok(());
    };
    let plane = rig.open("edge")?;
    fill(plane.tables(), &model(true))?;
    // As a reader sees it who read the index after the place was given to another.
    let key = edge::key(u32::from_ne_bytes(vip(1).octets()), 80_u16.to_be(), TCP);
    plane.tables().publish(key, 3)?;
    let packet = Packet::tcp(CLIENT, (vip(1), 80), ACK);
    assert_eq!(plane.test_run(&packet.frame(), 1)?.verdict, PASS);
    Ok(())
}

#[test]
fn places_outside_of_the_tables_are_refused() -> anyhow::Result<()> {
    let Some(rig) = Rig::new("bounds")? else {
        return Ok(());
    };
    let plane = rig.open("edge")?;
    let tables = plane.tables();
    let outside = |result: Result<(), LoadError>| {
        assert!(
            matches!(result, Err(LoadError::OutOfTable { .. })),
            "{result:?}"
        );
    };
    outside(tables.set_slots(tables.slot_capacity() - 1, &[0, 0]));
    outside(tables.set_backends(tables.backend_capacity(), &[Backend::NONE]));
    outside(tables.set_next_hop(u32::MAX, [0; 6]));
    outside(tables.retire(u32::MAX));
    outside(tables.set_record(tables.record_capacity(), &Record::default()));
    outside(tables.set_record(
        0,
        &Record {
            ring_base: tables.slot_capacity(),
            ring_size: 1,
            ..Record::default()
        },
    ));
    outside(tables.publish(1, tables.record_capacity()));
    assert_eq!(tables.list()?, []);
    Ok(())
}

#[test]
fn tables_and_memory_outlive_the_process_that_wrote_them() -> anyhow::Result<()> {
    let Some(rig) = Rig::new("adopt")? else {
        return Ok(());
    };
    let first = rig.open("edge")?;
    fill(first.tables(), &model(true))?;
    assert!(matches!(rig.open("edge"), Err(LoadError::Busy { .. })));
    let listed = first.tables().list()?;
    let packet = Packet::tcp(CLIENT, (vip(2), 80), ACK);
    for port in 0..200 {
        let packet = Packet {
            sport: port,
            ..packet.clone()
        };
        assert_ne!(first.test_run(&packet.frame(), 1)?.verdict, DROP);
    }
    let flows = first.counters().flows()?;
    assert!(flows.len() > 50, "{}", flows.len());
    drop(first);

    let second = rig.open("edge")?;
    assert_eq!(second.tables().list()?, listed);
    assert_eq!(second.counters().flows()?, flows);
    drop(second);
    // Other capacities are another table.
    let mut config = rig.config("edge");
    config.sizes.records *= 2;
    assert!(matches!(
        EdgePlane::open(&config),
        Err(LoadError::MapLayout { .. })
    ));
    EdgePlane::remove(&config.pin_dir)?;
    assert_eq!(EdgePlane::open(&config)?.tables().list()?, []);
    Ok(())
}

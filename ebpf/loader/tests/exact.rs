//! Exactness: what is counted of tasks is what their devices count, and of a burst of ended connections each is read or counted as lost.
//!
//! Needs root, cgroup2 and the embedded object; skips loudly otherwise. Namespaces of its own, without a way out.

#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::{cell::Cell, net::Ipv4Addr};

use anyhow::{Context, ensure};
use support::{Node, Task, eventually};
use waggle_ebpf::DataPlane;
use waggle_ebpf::common::CgroupNet;
use waggle_ebpf::common::flow::{FlowRecord, outcome};
use waggle_tests_support::netns::NetNs;

/// What children run; nothing in the parent.
#[test]
fn child() -> anyhow::Result<()> {
    support::child::serve()
}

/// Of an Ethernet header: devices count it, sockets don't.
const ETHERNET: u64 = 14;
const IPS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 98, 0, 1), Ipv4Addr::new(10, 98, 0, 2)];

/// Two namespaces that are joined by a veth on which nothing is but what their processes send: no ARP, no IPv6.
struct Wire {
    ends: [NetNs; 2],
}

impl Wire {
    fn new() -> anyhow::Result<Self> {
        let name = |n: usize| format!("wgx{n}-{}", std::process::id());
        let wire = Self {
            ends: [NetNs::create(&name(0))?, NetNs::create(&name(1))?],
        };
        for end in &wire.ends {
            // What a file there is about is decided by who opens it.
            let file = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
            end.run(|| std::fs::write(file, "1"))?.context(file)?;
        }
        wire.ends[0].ip(&format!(
            "link add eth0 address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02 netns {}\n",
            wire.ends[1].name()
        ))?;
        for (at, end) in wire.ends.iter().enumerate() {
            let (own, other) = (IPS[at], IPS[1 - at]);
            let mac = if at == 0 { 2 } else { 1 };
            end.ip(&format!(
                "link set lo up\naddr add {own}/24 dev eth0\nlink set eth0 up\n\
                 neigh replace {other} lladdr 02:00:00:00:00:0{mac} dev eth0 nud permanent\n"
            ))?;
        }
        Ok(wire)
    }

    /// Sent and received by the device at an end: bytes without Ethernet's, and packets.
    fn device(&self, end: usize) -> anyhow::Result<CgroupNet> {
        let text =
            self.ends[end].run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        let line = text.lines().find_map(|l| l.trim().strip_prefix("eth0:"));
        let all: Vec<u64> = line
            .context("no eth0")?
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let (rx_packets, tx_packets) = (all[1], all[9]);
        Ok(CgroupNet {
            rx_bytes: all[0] - ETHERNET * rx_packets,
            rx_packets,
            tx_bytes: all[8] - ETHERNET * tx_packets,
            tx_packets,
        })
    }
}

impl Wire {
    /// Most bytes that came for connections that were over: what is sent again, though it had arrived, finds nobody whose it could be.
    fn again(&self) -> anyhow::Result<u64> {
        const SEGMENT: u64 = 1500;
        let mut n = 0;
        for end in &self.ends {
            let text = end.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
            let mut lines = text.lines().filter_map(|l| l.strip_prefix("Tcp: "));
            let (names, values) = (lines.next().context("Tcp")?, lines.next().context("Tcp")?);
            let mut both = names.split(' ').zip(values.split(' '));
            let (_, value) = both
                .find(|(name, _)| *name == "RetransSegs")
                .context("RetransSegs")?;
            n += value.parse::<u64>()?;
        }
        Ok(n * SEGMENT)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for end in &self.ends {
            if let Err(error) = NetNs::delete(end.name()) {
                eprintln!("{error:#}");
            }
        }
    }
}

fn counted(plane: &DataPlane, cgroup_id: u64) -> anyhow::Result<CgroupNet> {
    let all = plane.counters().cgroup_net()?;
    let own = all.into_iter().find(|(id, _)| *id == cgroup_id);
    Ok(own.map(|(_, net)| net).unwrap_or_default())
}

#[test]
fn bytes_of_tasks_are_what_their_devices_count() -> anyhow::Result<()> {
    const FLOWS: u64 = 10_000;
    let Some(mut node) = Node::new("exact")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let wire = Wire::new()?;
    let (client_cgroup, client_id) = node.leaf("client")?;
    let (server_cgroup, server_id) = node.leaf("server")?;
    let ids = [client_id, server_id];
    let mut client = Task::start_in(&client_cgroup, &wire.ends[0])?;
    let mut server = Task::start_in(&server_cgroup, &wire.ends[1])?;
    let port = server.ask(&format!("listen {}:0", IPS[1]))?;
    let to = format!("{}:{port}", IPS[1]);

    let same = || -> anyhow::Result<Vec<(CgroupNet, CgroupNet)>> {
        (0..2)
            .map(|end| Ok((wire.device(end)?, counted(&plane, ids[end])?)))
            .collect()
    };
    // TCP: each flow begins, carries something both ways, ends.
    let done = client.ask(&format!("dials {to} {FLOWS} 3000"))?;
    ensure!(done == format!("ok {FLOWS}"), "{done}");
    // UDP as well: a question and an answer each.
    let udp = server.ask(&format!("serve-udp {}:0", IPS[1]))?;
    let socket = client.ask(&format!("socket {}:0", IPS[0]))?;
    for _ in 0..100 {
        let answer = client.ask(&format!("send {socket} {}:{udp}", IPS[1]))?;
        ensure!(answer.starts_with(&udp), "{answer}");
    }
    // The last words of the last connections are on their way for a moment.
    eventually(|| Ok(same()?.iter().all(|(device, counted)| device == counted)))
        .with_context(|| format!("device and count of client, server: {:#?}", same()))?;
    let (device, _) = same()?[0];
    assert!(device.tx_bytes > FLOWS * 3000 && device.rx_bytes > FLOWS * 3000);

    // Under load, from several sockets at once: at most one in ten thousand is wrong.
    let loads: Vec<Task> = (0..4)
        .map(|_| Task::start_in(&client_cgroup, &wire.ends[0]))
        .collect::<Result<_, _>>()?;
    let to = &to;
    std::thread::scope(|scope| {
        let all: Vec<_> = loads
            .into_iter()
            .map(|mut load| {
                scope.spawn(move || {
                    let done = load.ask(&format!("dials {to} 20 4000000"));
                    (load, done)
                })
            })
            .collect();
        all.into_iter().try_for_each(|one| {
            let (_load, done) = one.join().map_err(|_| anyhow::anyhow!("a load fell"))?;
            let done = done?;
            ensure!(done == "ok 20", "{done}");
            Ok(())
        })
    })?;
    let again = wire.again()?;
    let near = |a: u64, b: u64| a.abs_diff(b).saturating_sub(again) * 10_000 <= a;
    eventually(|| {
        Ok(same()?.iter().all(|(device, counted)| {
            near(device.tx_bytes, counted.tx_bytes) && near(device.rx_bytes, counted.rx_bytes)
        }))
    })
    .with_context(|| format!("device and count of client, server: {:#?}", same()))?;
    let (device, _) = same()?[0];
    assert!(device.tx_bytes > 80 * 4_000_000, "{device:?}");
    Ok(())
}

#[test]
fn each_of_a_million_ended_connections_is_read_or_counted_as_lost() -> anyhow::Result<()> {
    const CONNECTIONS: u64 = 500_000;
    let Some(mut node) = Node::new("burst")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let mut records = plane.take_flow_records().context("the ring")?;
    let (cgroup, id) = node.leaf("flood")?;
    let mut flood = Task::start(&cgroup)?;
    // Both ends of each connection end. Nobody reads during the first part, so that the ring overflows; then somebody does.
    let part = CONNECTIONS / 5;
    let done = flood.ask(&format!("flood {part}"))?;
    ensure!(done == "ok", "{done}");
    let unread = records.lost()?;
    assert!(unread > 0, "a ring of 20,000 held {part}");
    let read = Cell::new(0_u64);
    let mut take = |record: FlowRecord| {
        assert_eq!(record.cgroup_id, id);
        assert!([outcome::CLOSED, outcome::RESET].contains(&record.outcome));
        read.set(read.get() + 1);
    };
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let rest = scope.spawn(|| flood.ask(&format!("flood {}", CONNECTIONS - part)));
        while !rest.is_finished() {
            records.by_ref().for_each(&mut take);
        }
        let done = rest
            .join()
            .map_err(|_| anyhow::anyhow!("the flood fell"))??;
        ensure!(done == "ok", "{done}");
        Ok(())
    })?;
    // A softirq that was put off may still be at the last end when who reset it has gone on.
    let mut lost = 0;
    let all = eventually(|| {
        records.by_ref().for_each(&mut take);
        lost = records.lost()?;
        Ok(read.get() + lost >= 2 * CONNECTIONS)
    });
    let read = read.get();
    assert_eq!(read + lost, 2 * CONNECTIONS, "read {read}, lost {lost}");
    all?;
    assert!(
        lost < unread + CONNECTIONS,
        "nobody was fast enough: {lost}"
    );
    Ok(())
}

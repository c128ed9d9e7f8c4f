//! UDP sockets that give an address with each datagram: VIPs on this machine's kernel.
//!
//! Needs root, cgroup2 and the embedded object; skips loudly otherwise.

#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use support::tables::{choices, loopback, publish};
use support::{Node, Task};
use waggle_ebpf::common::{Backend, UDP_PEERS, loss};

const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(11, 0, 0, 1), 53);
const VIP_ID: u32 = 7;
const UDP: u8 = 17;

/// What children run; nothing in the parent.
#[test]
fn child() -> anyhow::Result<()> {
    support::child::serve()
}

fn backends(task: &mut Task, n: usize) -> anyhow::Result<Vec<(String, Backend)>> {
    let one = |_| {
        let port = task.ask("serve-udp 127.0.0.1:0")?;
        let backend = loopback(&port)?;
        Ok((port, backend))
    };
    (0..n).map(one).collect()
}

#[test]
fn a_socket_keeps_its_backend_and_hears_the_vip() -> anyhow::Result<()> {
    const SENDS: usize = 20;
    const SOCKETS: usize = 40;
    let Some(mut node) = Node::new("udp")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let (cgroup, _) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let all = backends(&mut task, 2)?;
    let addresses: Vec<Backend> = all.iter().map(|(_, b)| *b).collect();
    publish(&plane, VIP, UDP, 10, VIP_ID, &addresses)?;
    let mut seen = BTreeSet::new();
    for _ in 0..SOCKETS {
        let socket = task.ask("socket 127.0.0.1:0")?;
        let first = task.ask(&format!("send {socket} {VIP}"))?;
        let (port, from) = first.split_once(" from ").unwrap_or_default();
        assert_eq!(from, VIP.to_string(), "{first}");
        assert!(all.iter().any(|(p, _)| p == port), "{first}");
        for _ in 1..SENDS {
            assert_eq!(task.ask(&format!("send {socket} {VIP}"))?, first);
        }
        seen.insert(port.to_owned());
    }
    assert_eq!(seen.len(), 2, "both are chosen (2^-39 that not)");
    // A choice is counted once for each socket.
    let stats = plane.counters().vip_stats()?;
    let chosen: u64 = addresses.iter().map(|b| choices(&stats, VIP_ID, *b)).sum();
    assert_eq!(chosen, SOCKETS as u64);
    assert_eq!(plane.counters().losses()?, [0; loss::COUNT as usize]);
    Ok(())
}

#[test]
fn dual_stack_and_connected_sockets_hear_the_vip_too() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("udp6")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let (cgroup, _) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let all = backends(&mut task, 1)?;
    let (port, backend) = &all[0];
    publish(&plane, VIP, UDP, 0, VIP_ID, &[*backend])?;
    let mapped = format!("[::ffff:{}]:{}", VIP.ip(), VIP.port());
    let dual = task.ask("socket [::]:0")?;
    let answer = task.ask(&format!("send {dual} {mapped}"))?;
    assert_eq!(answer, format!("{port} from {mapped}"));
    let connected = task.ask("socket 127.0.0.1:0")?;
    let answer = task.ask(&format!("ask {connected} {VIP}"))?;
    assert_eq!(answer, format!("{port} from {VIP}"));
    // Not a VIP: as it is.
    let plain = task.ask("socket 127.0.0.1:0")?;
    let direct = format!("127.0.0.1:{port}");
    let answer = task.ask(&format!("send {plain} {direct}"))?;
    assert_eq!(answer, format!("{port} from {direct}"));
    Ok(())
}

#[test]
fn a_backend_that_left_is_replaced_and_no_other() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("udp-leave")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let (cgroup, _) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let all = backends(&mut task, 3)?;
    let of = |some: &[usize]| some.iter().map(|i| all[*i].1).collect::<Vec<_>>();
    publish(&plane, VIP, UDP, 10, VIP_ID, &of(&[0, 1]))?;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let socket = task.ask("socket 127.0.0.1:0")?;
        let answer = task.ask(&format!("send {socket} {VIP}"))?;
        sockets.push((socket, answer));
    }
    // The set moves to other slots, and the first backend is no longer among them.
    publish(&plane, VIP, UDP, 20, VIP_ID, &of(&[2, 1]))?;
    let (gone, new) = (&all[0].0, &all[2].0);
    let mut moved = 0;
    for (socket, before) in &sockets {
        let now = task.ask(&format!("send {socket} {VIP}"))?;
        if before.starts_with(gone.as_str()) {
            moved += 1;
            assert!(!now.starts_with(gone.as_str()), "{now}");
        } else {
            assert_eq!(&now, before, "others keep theirs");
        }
    }
    assert!(moved > 0, "some had the one that left (2^-20 that not)");
    // In the same slots, another backend.
    publish(&plane, VIP, UDP, 20, VIP_ID, &of(&[2, 2]))?;
    for (socket, _) in &sockets {
        let now = task.ask(&format!("send {socket} {VIP}"))?;
        assert!(now.starts_with(new.as_str()), "{now}");
    }
    // None: refused at once, and counted.
    publish(&plane, VIP, UDP, 20, VIP_ID, &[])?;
    let answer = task.ask(&format!("send {} {VIP}", sockets[0].0))?;
    assert_eq!(answer, "error 111");
    let refused = choices(&plane.counters().vip_stats()?, VIP_ID, Backend::default());
    assert_eq!(refused, 1);
    Ok(())
}

#[test]
fn one_socket_talks_to_several_vips() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("udp-many")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let (cgroup, _) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let n = UDP_PEERS + 2;
    let all = backends(&mut task, n)?;
    let vip = |i: u8| SocketAddrV4::new(Ipv4Addr::new(11, 0, 1, i), 53);
    for (i, (_, backend)) in (0..).zip(&all) {
        let at = u32::from(i);
        publish(&plane, vip(i), UDP, 10 + 2 * at, 100 + at, &[*backend])?;
    }
    let socket = task.ask("socket 127.0.0.1:0")?;
    for round in 0..3 {
        for (i, (port, _)) in (0..).zip(&all) {
            let answer = task.ask(&format!("send {socket} {}", vip(i)))?;
            assert_eq!(answer, format!("{port} from {}", vip(i)), "round {round}");
        }
    }
    Ok(())
}

//! Which backend a connect gets, on this machine's kernel: weights, draining, affinity, connections, ejection.
//!
//! Needs root, cgroup2 and the embedded object; skips loudly otherwise.

#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use std::time::Instant;

use support::tables::{backend, choices, loopback, publish, publish_set, sorted, unused_port};
use support::{Node, Task, eventually};
use waggle_ebpf::DataPlane;
use waggle_ebpf::common::{
    Backend, BackendKey, BackendState, EJECT_FIRST_NS, SetHeader, VipStat, VipStatKey, loss,
    set_flags,
};

const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(11, 0, 0, 1), 80);
const VIP_ID: u32 = 7;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What children run; nothing in the parent.
#[test]
fn child() -> anyhow::Result<()> {
    support::child::serve()
}

fn how(n: u16, members: u16) -> SetHeader {
    SetHeader {
        vip_id: VIP_ID,
        n,
        members,
        ..SetHeader::default()
    }
}

/// Failures that a backend can have caused by now: one, then one more each time that its time out is over. Of 20
/// connects one that it gets is sure enough (2^-20 that none).
fn at_most(begun: Instant) -> u64 {
    1 + u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX) / EJECT_FIRST_NS
}

fn count(plane: &DataPlane, backend: Backend) -> anyhow::Result<u64> {
    Ok(choices(&plane.counters().vip_stats()?, VIP_ID, backend))
}

fn stat(plane: &DataPlane, backend: Backend) -> anyhow::Result<VipStat> {
    let key = VipStatKey {
        vip_id: VIP_ID,
        addr: backend.addr,
        port: backend.port,
        pad: 0,
    };
    let all = plane.counters().vip_stats()?;
    let found = all.iter().find(|(k, _)| *k == key);
    Ok(found.map(|(_, stat)| *stat).unwrap_or_default())
}

fn state(plane: &DataPlane, backend: Backend) -> anyhow::Result<BackendState> {
    let key = BackendKey {
        addr: backend.addr,
        port: backend.port,
        proto: TCP,
        pad: 0,
    };
    let all = plane.vips().backend_states()?;
    let found = all.iter().find(|(k, _)| *k == key);
    Ok(found.map(|(_, state)| *state).unwrap_or_default())
}

#[test]
fn choices_follow_thresholds_and_aliases_and_none_falls_on_a_draining_backend() -> anyhow::Result<()>
{
    const DIALS: u64 = 400;
    let Some(mut node) = Node::new("weights")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let (cgroup, _) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(loopback(&task.ask("listen 127.0.0.1:0")?)?);
    }
    let mut all = sorted(all);
    // 1 : 3, by Vose: the first keeps half of its column, the rest of it is the second's.
    all[0].threshold = u32::MAX / 2;
    all[0].alias = 1;
    publish_set(&plane, VIP, TCP, 0, how(2, 3), &all)?;
    for _ in 0..DIALS {
        assert_eq!(task.ask(&format!("dial {VIP} 1"))?, format!("ok {VIP} 1"));
    }
    let light = count(&plane, all[0])?;
    assert_eq!(light + count(&plane, all[1])?, DIALS);
    // 100 expected, deviation 8.7.
    assert!((55..=145).contains(&light), "{light} of {DIALS}");
    assert_eq!(count(&plane, all[2])?, 0);
    assert_eq!(plane.counters().losses()?, [0; loss::COUNT as usize]);
    Ok(())
}

#[test]
fn a_draining_backend_keeps_its_udp_sockets() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("drain")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let (cgroup, _) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let ports = [
        task.ask("serve-udp 127.0.0.1:0")?,
        task.ask("serve-udp 127.0.0.1:0")?,
    ];
    let [old, new] = [loopback(&ports[0])?, loopback(&ports[1])?];
    publish(&plane, VIP, UDP, 0, VIP_ID, &[old])?;
    let before = task.ask("socket 127.0.0.1:0")?;
    let from = |port: &str| format!("{port} from {VIP}");
    assert_eq!(task.ask(&format!("send {before} {VIP}"))?, from(&ports[0]));
    publish_set(&plane, VIP, UDP, 10, how(1, 2), &[new, old])?;
    assert_eq!(task.ask(&format!("send {before} {VIP}"))?, from(&ports[0]));
    let after = task.ask("socket 127.0.0.1:0")?;
    assert_eq!(task.ask(&format!("send {after} {VIP}"))?, from(&ports[1]));
    // With all of them draining new ones are refused, old ones are not.
    publish_set(&plane, VIP, UDP, 20, how(0, 1), &[old])?;
    assert_eq!(task.ask(&format!("send {before} {VIP}"))?, from(&ports[0]));
    assert_eq!(task.ask(&format!("send {after} {VIP}"))?, "error 111");
    Ok(())
}

#[test]
fn a_client_with_affinity_keeps_its_backend_and_others_choose() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("affinity")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let (cgroup, _) = node.leaf("server")?;
    let mut server = Task::start(&cgroup)?;
    let mut all = Vec::new();
    for _ in 0..2 {
        all.push(loopback(&server.ask("listen 127.0.0.1:0")?)?);
    }
    let sticky = SetHeader {
        flags: set_flags::AFFINITY,
        affinity_s: 3600,
        ..how(2, 2)
    };
    let all = sorted(all);
    publish_set(&plane, VIP, TCP, 0, sticky, &all)?;
    let (mut totals, mut first_of) = ([0, 0], Vec::new());
    for client in 0..12 {
        let (cgroup, _) = node.leaf(&format!("client{client}"))?;
        let mut task = Task::start(&cgroup)?;
        for _ in 0..5 {
            task.ask(&format!("dial {VIP} 1"))?;
        }
        let now = [count(&plane, all[0])?, count(&plane, all[1])?];
        let grown = [now[0] - totals[0], now[1] - totals[1]];
        assert!(matches!(grown, [5, 0] | [0, 5]), "{grown:?}");
        totals = now;
        first_of.push(grown[0] == 5);
        if client == 11 {
            // The backend goes: another one is chosen, and kept when it is back.
            let gone = usize::from(grown[0] == 0);
            publish_set(
                &plane,
                VIP,
                TCP,
                10,
                SetHeader {
                    n: 1,
                    members: 1,
                    ..sticky
                },
                &[all[1 - gone]],
            )?;
            task.ask(&format!("dial {VIP} 1"))?;
            publish_set(&plane, VIP, TCP, 20, sticky, &all)?;
            for _ in 0..5 {
                task.ask(&format!("dial {VIP} 1"))?;
            }
            assert_eq!(count(&plane, all[1 - gone])?, totals[1 - gone] + 6);
        }
    }
    assert!(
        first_of.contains(&true) && first_of.contains(&false),
        "2^-11 that not"
    );
    // An affinity of no time is none.
    publish_set(
        &plane,
        VIP,
        TCP,
        30,
        SetHeader {
            affinity_s: 0,
            ..sticky
        },
        &all,
    )?;
    let before = [count(&plane, all[0])?, count(&plane, all[1])?];
    let mut task = Task::start(&node.cgroup.join("client0"))?;
    for _ in 0..40 {
        task.ask(&format!("dial {VIP} 1"))?;
    }
    assert!(count(&plane, all[0])? > before[0] && count(&plane, all[1])? > before[1]);
    Ok(())
}

#[test]
fn the_backend_with_fewer_connections_gets_the_next() -> anyhow::Result<()> {
    const N: u32 = 40;
    let Some(mut node) = Node::new("least")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let (cgroup, _) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let mut all = Vec::new();
    for _ in 0..2 {
        all.push(loopback(&task.ask("listen 127.0.0.1:0")?)?);
    }
    let least = SetHeader {
        flags: set_flags::LEAST_CONNECTIONS,
        ..how(1, 1)
    };
    let all = sorted(all);
    // A head start for the first.
    publish_set(&plane, VIP, TCP, 0, least, &all[..1])?;
    for _ in 0..N {
        assert_eq!(task.ask(&format!("hold {VIP}"))?, "ok");
    }
    assert_eq!(state(&plane, all[0])?.active, N);
    publish_set(
        &plane,
        VIP,
        TCP,
        10,
        SetHeader {
            n: 2,
            members: 2,
            ..least
        },
        &all,
    )?;
    for _ in 0..N {
        assert_eq!(task.ask(&format!("hold {VIP}"))?, "ok");
    }
    // By chance alone the second would get half; of two choices the better one, three quarters.
    let (first, second) = (state(&plane, all[0])?.active, state(&plane, all[1])?.active);
    assert_eq!(first + second, 2 * N);
    assert!(second > N / 2 + 2, "{first} {second}");
    // A connect that is refused leaves no trace, and what ends is no longer counted.
    assert_eq!(task.ask("release")?, "ok");
    eventually(|| Ok(state(&plane, all[0])?.active == 0 && state(&plane, all[1])?.active == 0))?;
    let nobody = loopback(&unused_port()?)?;
    publish_set(&plane, VIP, TCP, 20, least, &[nobody])?;
    assert_eq!(task.ask(&format!("hold {VIP}"))?, "error 111");
    assert_eq!(state(&plane, nobody)?.active, 0);
    Ok(())
}

#[test]
fn a_backend_that_refuses_is_out_at_once_and_tried_again() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("refuse")? else {
        return Ok(());
    };
    let plane = node.open()?;
    plane.watch_resets()?;
    let (cgroup, _) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let good = loopback(&task.ask("listen 127.0.0.1:0")?)?;
    let port = unused_port()?;
    let bad = loopback(&port)?;
    publish(&plane, VIP, TCP, 0, VIP_ID, &[good, bad])?;
    let (mut refused, mut since_refusal, begun) = (0, 0, Instant::now());
    // At most one connect meets the dead backend before it is out.
    for _ in 0..20 {
        if task.ask(&format!("dial {VIP} 1"))?.starts_with("ok") {
            since_refusal += 1;
        } else {
            refused += 1;
            since_refusal = 0;
        }
    }
    let seen = stat(&plane, bad)?;
    assert_eq!(seen.failures, refused);
    assert_eq!(seen.ejections, refused);
    assert!((1..=at_most(begun)).contains(&refused), "{refused}");
    assert!(since_refusal > 0);
    let first = state(&plane, bad)?;
    assert!(first.until_ns >= first.failed_ns + EJECT_FIRST_NS);
    // Tried again after its time, and out for longer.
    eventually(|| {
        task.ask(&format!("dial {VIP} 1"))?;
        Ok(state(&plane, bad)?.failures >= 2)
    })?;
    let second = state(&plane, bad)?;
    assert!(second.failed_ns - first.failed_ns >= EJECT_FIRST_NS);
    assert!(second.until_ns - second.failed_ns >= 2 * EJECT_FIRST_NS);
    // It comes back: found again, and all is forgiven.
    assert_eq!(task.ask(&format!("listen 127.0.0.1:{port}"))?, port);
    eventually(|| {
        assert!(task.ask(&format!("dial {VIP} 1"))?.starts_with("ok"));
        Ok(state(&plane, bad)?.failures == 0)
    })?;
    Ok(())
}

/// "Port unreachable" is how a backend refuses datagrams; only a connected socket hears of it.
#[test]
fn a_backend_that_refuses_datagrams_is_out_at_once() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("refuse-udp")? else {
        return Ok(());
    };
    let plane = node.open()?;
    plane.watch_resets()?;
    let (cgroup, _) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let good = loopback(&task.ask("serve-udp 127.0.0.1:0")?)?;
    let gone = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let bad = loopback(&gone.local_addr()?.port().to_string())?;
    drop(gone);
    publish(&plane, VIP, UDP, 0, VIP_ID, &[good, bad])?;
    let begun = Instant::now();
    let (mut refused, mut answered) = (0, 0);
    // A socket for each question, as resolvers have it.
    for _ in 0..20 {
        let socket = task.ask("socket 127.0.0.1:0")?;
        match task.ask(&format!("ask {socket} {VIP}"))?.as_str() {
            "error 111" => refused += 1,
            _ => answered += 1,
        }
    }
    let seen = stat(&plane, bad)?;
    assert_eq!((seen.failures, seen.ejections), (refused, refused));
    assert!((1..=at_most(begun)).contains(&refused), "{refused}");
    assert!(answered > 0);
    assert_eq!(stat(&plane, good)?.failures, 0);
    Ok(())
}

#[test]
fn with_all_backends_out_connects_go_to_one_all_the_same() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("all-out")? else {
        return Ok(());
    };
    let plane = node.open()?;
    plane.watch_resets()?;
    let (cgroup, _) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let port = unused_port()?;
    let only = loopback(&port)?;
    publish(&plane, VIP, TCP, 0, VIP_ID, &[only])?;
    assert!(task.ask(&format!("dial {VIP} 1"))?.starts_with("error 111"));
    assert_eq!(state(&plane, only)?.failures, 1);
    // Back before its time is over: nobody waits for that.
    assert_eq!(task.ask(&format!("listen 127.0.0.1:{port}"))?, port);
    assert!(task.ask(&format!("dial {VIP} 1"))?.starts_with("ok"));
    Ok(())
}

#[test]
fn a_backend_that_resets_unanswered_requests_is_out_and_one_that_answers_is_not()
-> anyhow::Result<()> {
    let Some(mut node) = Node::new("reset")? else {
        return Ok(());
    };
    let plane = node.open()?;
    plane.watch_resets()?;
    let (cgroup, _) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let good = loopback(&task.ask("listen 127.0.0.1:0")?)?;
    let bad = loopback(&task.ask("listen-rst 127.0.0.1:0")?)?;
    publish(&plane, VIP, TCP, 0, VIP_ID, &[good, bad])?;
    let (mut failed, begun) = (0, Instant::now());
    for _ in 0..20 {
        // 64 kB: more than the server reads before it resets.
        if !task.ask(&format!("dial {VIP} 65536"))?.starts_with("ok") {
            failed += 1;
        }
    }
    let seen = stat(&plane, bad)?;
    assert!((1..=at_most(begun)).contains(&failed), "{failed} {seen:?}");
    assert_eq!(seen.ejections, failed);
    assert_eq!(stat(&plane, good)?.failures, 0);
    Ok(())
}

#[test]
fn a_client_that_gives_up_does_not_count_against_the_backend() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("give-up")? else {
        return Ok(());
    };
    let plane = node.open()?;
    plane.watch_resets()?;
    let (cgroup, _) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let silent = loopback(&task.ask("listen 127.0.0.1:0")?)?;
    publish(&plane, VIP, TCP, 0, VIP_ID, &[silent])?;
    for _ in 0..5 {
        assert_eq!(task.ask(&format!("hold {VIP}"))?, "ok");
        // Closed with nothing sent or read.
        assert_eq!(task.ask("release")?, "ok");
    }
    assert_eq!(stat(&plane, silent)?.failures, 0);
    Ok(())
}

#[test]
fn ipv6_vips_work_at_every_hook() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("ipv6")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let (cgroup, _) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("SKIP: no IPv6 on the loopback device");
        return Ok(());
    }
    let vip = SocketAddrV6::new(Ipv6Addr::new(0xfd01, 0xc, 0, 0, 0, 0, 0, 7), 80, 0, 0);
    let other = SocketAddr::from((Ipv6Addr::new(0xfd01, 0xc, 0, 0, 0, 0, 0, 8), 80));
    let web = backend(Ipv6Addr::LOCALHOST, &task.ask("listen [::1]:0")?)?;
    publish(&plane, vip, TCP, 0, VIP_ID, &[web])?;
    assert_eq!(task.ask(&format!("dial {vip} 9"))?, format!("ok {vip} 9"));
    assert_eq!(count(&plane, web)?, 1);

    let port = task.ask("serve-udp [::1]:0")?;
    let dns = backend(Ipv6Addr::LOCALHOST, &port)?;
    publish(&plane, vip, UDP, 10, VIP_ID + 1, &[dns])?;
    let socket = task.ask("socket [::]:0")?;
    let answer = format!("{port} from {vip}");
    assert_eq!(task.ask(&format!("send {socket} {vip}"))?, answer);
    let connected = task.ask("socket [::1]:0")?;
    assert_eq!(task.ask(&format!("ask {connected} {vip}"))?, answer);

    publish(&plane, other, TCP, 20, VIP_ID + 2, &[])?;
    assert!(
        task.ask(&format!("dial {other} 1"))?
            .starts_with("error 111")
    );
    publish(&plane, other, UDP, 30, VIP_ID + 3, &[])?;
    assert_eq!(task.ask(&format!("send {socket} {other}"))?, "error 111");
    assert_eq!(plane.counters().losses()?, [0; loss::COUNT as usize]);
    Ok(())
}

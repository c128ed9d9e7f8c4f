//! The programs on this machine's kernel: verifier, translation, attribution, counters, adoption.
//!
//! Needs root, cgroup2 and the embedded object; skips loudly otherwise. Every test has a cgroup and a pin
//! directory of its own, and touches nothing else.

#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use support::tables::{choices, loopback, publish, tcp, unused_port, vip_key};
use support::{Node, Task, eventually};
use waggle_ebpf::common::flow::{FlowKey, FlowStats};
use waggle_ebpf::common::{ABI_VERSION, Backend, Cell, CgroupNet, TcpKey, addr_of, loss};
use waggle_ebpf::{DataPlane, LoadError, LoaderConfig, RunStats};

const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(11, 0, 0, 1), 80);
const VIP_ID: u32 = 7;
const ECONNREFUSED: &str = "error 111 ";

/// What children run; nothing in the parent.
#[test]
fn child() -> anyhow::Result<()> {
    support::child::serve()
}

#[test]
fn connects_through_a_vip_are_translated_and_attributed_to_the_leaf_cgroups() -> anyhow::Result<()>
{
    const DIALS: u64 = 60;
    const BYTES: u64 = 3000;
    let Some(mut node) = Node::new("vip")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let (web_cgroup, web_id) = node.leaf("web")?;
    let (cli_cgroup, cli_id) = node.leaf("cli")?;
    let mut web = Task::start(&web_cgroup)?;
    let mut cli = Task::start(&cli_cgroup)?;
    let ports = [web.ask("listen 127.0.0.1:0")?, web.ask("listen [::]:0")?];
    let backends = [loopback(&ports[0])?, loopback(&ports[1])?];
    publish(&plane, VIP, 6, 10, VIP_ID, &backends)?;

    for _ in 0..DIALS {
        assert_eq!(
            cli.ask(&format!("dial {VIP} {BYTES}"))?,
            format!("ok {VIP} {BYTES}")
        );
    }

    // Every choice is counted, and both backends were chosen (2^-59 that not).
    let stats = plane.counters().vip_stats()?;
    let chosen: Vec<u64> = backends
        .iter()
        .map(|b| choices(&stats, VIP_ID, *b))
        .collect();
    assert_eq!(chosen.iter().sum::<u64>(), DIALS, "{stats:?}");
    assert!(chosen.iter().all(|&n| n > 0), "{chosen:?}");

    // The last bytes are counted when the connections are closed on both sides.
    let client = TcpKey {
        cgroup_id: cli_id,
        vip_id: VIP_ID,
        pad: 0,
    };
    let server = TcpKey {
        cgroup_id: web_id,
        vip_id: 0,
        pad: 0,
    };
    let total = DIALS * BYTES;
    eventually(|| {
        let (client, server) = (tcp(&plane, client)?, tcp(&plane, server)?);
        Ok([
            client.tx_bytes,
            client.rx_bytes,
            server.tx_bytes,
            server.rx_bytes,
        ] == [total; 4])
    })
    .with_context(|| format!("{:?}", plane.counters().tcp()))?;

    let (client, server) = (tcp(&plane, client)?, tcp(&plane, server)?);
    assert_eq!(
        (client.connects, client.connect_failures, client.accepts),
        (DIALS, 0, 0)
    );
    assert_eq!(
        (server.connects, server.connect_failures, server.accepts),
        (0, 0, DIALS)
    );
    assert_eq!(client.connect_hist.iter().sum::<u64>(), DIALS);
    assert!(client.connect_sum_us > 0 && client.connect_sum_us < 5_000_000 * DIALS);
    for stats in [client, server] {
        assert!(stats.rtt_count >= DIALS, "{stats:?}");
        assert_eq!(stats.rtt_hist.iter().sum::<u64>(), stats.rtt_count);
        assert!(stats.rtt_sum_us > 0, "{stats:?}");
    }

    // Packets of both, and of nobody else.
    let net = plane.counters().cgroup_net()?;
    let of = |id| {
        net.iter()
            .find(|(key, _)| *key == id)
            .map(|(_, net)| *net)
            .unwrap_or_default()
    };
    for CgroupNet {
        rx_bytes,
        rx_packets,
        tx_bytes,
        tx_packets,
    } in [of(cli_id), of(web_id)]
    {
        assert!(rx_bytes > total + 40 * rx_packets && tx_bytes > total + 40 * tx_packets);
        assert!(
            rx_packets >= 3 * DIALS && tx_packets >= 3 * DIALS,
            "{net:?}"
        );
    }
    assert_eq!(net.len(), 2, "{net:?}");
    assert_eq!(plane.counters().tcp()?.len(), 2);
    assert_eq!(plane.counters().losses()?, [0; loss::COUNT as usize]);

    // What is forgotten is gone, and only that.
    assert_eq!(plane.counters().forget_vip(VIP_ID)?, backends.len() + 1);
    // Packets, TCP, and an edge for each listener.
    let gone = std::collections::BTreeSet::from([web_id]);
    assert_eq!(plane.counters().forget_cgroups(&gone)?, 4);
    assert_eq!(plane.counters().forget_cgroups(&gone)?, 0);
    assert_eq!(plane.counters().vip_stats()?, vec![]);
    assert_eq!(plane.counters().tcp()?, vec![]);
    let left: Vec<u64> = plane
        .counters()
        .cgroup_net()?
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    assert_eq!(left, [cli_id]);
    Ok(())
}

#[test]
fn dual_stack_and_datagram_sockets_reach_vips_too() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("dual")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let (cgroup, id) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let port = task.ask("listen 127.0.0.1:0")?;
    let backend = loopback(&port)?;
    publish(&plane, VIP, 6, 0, VIP_ID, &[backend])?;
    publish(&plane, VIP, 17, 8, VIP_ID + 1, &[backend])?;

    let mapped = format!("[::ffff:{}]:{}", VIP.ip(), VIP.port());
    assert_eq!(
        task.ask(&format!("dial {mapped} 10"))?,
        format!("ok {mapped} 10")
    );
    assert_eq!(choices(&plane.counters().vip_stats()?, VIP_ID, backend), 1);
    let key = TcpKey {
        cgroup_id: id,
        vip_id: VIP_ID,
        pad: 0,
    };
    assert_eq!(tcp(&plane, key)?.connects, 1);

    assert_eq!(task.ask(&format!("udp {VIP}"))?, format!("ok {VIP}"));
    assert_eq!(
        choices(&plane.counters().vip_stats()?, VIP_ID + 1, backend),
        1
    );

    // Not a VIP: as dialled, and counted as nobody's VIP. (`listen` was IPv4 only.)
    let direct = format!("127.0.0.1:{port}");
    assert_eq!(
        task.ask(&format!("dial {direct} 10"))?,
        format!("ok {direct} 10")
    );
    let key = TcpKey {
        cgroup_id: id,
        vip_id: 0,
        pad: 0,
    };
    let stats = tcp(&plane, key)?;
    assert_eq!((stats.connects, stats.accepts), (1, 2));
    assert_eq!(plane.counters().losses()?, [0; loss::COUNT as usize]);
    Ok(())
}

#[test]
fn a_vip_without_backends_refuses_at_once() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("none")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let (cgroup, id) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    publish(&plane, VIP, 6, 0, VIP_ID, &[])?;

    let answer = task.ask(&format!("dial {VIP} 1"))?;
    let millis = answer
        .strip_prefix(ECONNREFUSED)
        .with_context(|| answer.clone())?;
    assert!(millis.parse::<u64>()? < 100, "refused after {millis} ms");
    let refused = Backend::default();
    assert_eq!(choices(&plane.counters().vip_stats()?, VIP_ID, refused), 1);
    let key = TcpKey {
        cgroup_id: id,
        vip_id: VIP_ID,
        pad: 0,
    };
    assert_eq!(tcp(&plane, key)?.connect_failures, 1);

    // A cell that nobody wrote is a refusal too, and a loss.
    plane.vips().set_vip(&vip_key(VIP, 6), 99)?;
    assert!(
        task.ask(&format!("dial {VIP} 1"))?
            .starts_with(ECONNREFUSED)
    );
    assert_eq!(plane.counters().losses()?[loss::BAD_CELL as usize], 1);

    // A backend that refuses is a failed connect, seen by sock_ops.
    let port = unused_port()?;
    publish(&plane, VIP, 6, 0, VIP_ID, &[loopback(&port)?])?;
    assert!(
        task.ask(&format!("dial {VIP} 1"))?
            .starts_with(ECONNREFUSED)
    );
    let key = TcpKey {
        cgroup_id: id,
        vip_id: VIP_ID,
        pad: 0,
    };
    let stats = tcp(&plane, key)?;
    assert_eq!((stats.connects, stats.connect_failures), (0, 2));
    assert_eq!((stats.tx_bytes, stats.rx_bytes), (0, 0));
    Ok(())
}

#[test]
fn links_maps_and_counters_outlive_a_killed_owner() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("adopt")? else {
        return Ok(());
    };
    let (cgroup, id) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let port = task.ask("listen 127.0.0.1:0")?;

    // First owner: sets up, then is gone.
    let first = node.open()?;
    assert!(!first.adopted());
    let links = first.link_ids()?;
    let programs: Vec<u32> = first.programs().iter().map(|program| program.id).collect();
    publish(&first, VIP, 6, 4, VIP_ID, &[loopback(&port)?])?;
    let dial = format!("dial {VIP} 100");
    let ok = format!("ok {VIP} 100");
    // The listener is older than the programs: it has no memory, which is counted, not guessed.
    assert_eq!(task.ask(&dial)?, ok);
    assert_eq!(first.counters().losses()?[loss::UNATTRIBUTED as usize], 1);
    drop(first);
    assert_eq!(task.ask(&dial)?, ok);

    // Second owner: another process, killed.
    let (other_cgroup, _) = node.leaf("owner")?;
    let mut owner = Task::start(&other_cgroup)?;
    let command = format!("plane {} {}", node.cgroup.display(), node.pin_dir.display());
    assert_eq!(owner.ask(&command)?, "open");
    assert!(
        matches!(node.open(), Err(LoadError::Busy { .. })),
        "two owners"
    );
    owner.kill()?;
    assert_eq!(task.ask(&dial)?, ok);

    // Third owner, while connects go on: none fails.
    let stop = AtomicBool::new(false);
    let (third, dials) = std::thread::scope(|scope| -> anyhow::Result<_> {
        let dialer = scope.spawn(|| -> anyhow::Result<u64> {
            let mut dials = 0;
            while !stop.load(Ordering::Relaxed) || dials == 0 {
                assert_eq!(task.ask(&dial)?, ok);
                dials += 1;
            }
            Ok(dials)
        });
        let opened = (0..5).try_fold(None, |last: Option<DataPlane>, _| {
            drop(last);
            node.open().map(Some)
        });
        stop.store(true, Ordering::Relaxed);
        let dials = dialer
            .join()
            .map_err(|_| anyhow::anyhow!("a connect failed"))??;
        Ok((opened?.context("open")?, dials))
    })?;
    assert!(third.adopted());
    assert_eq!(third.link_ids()?, links);
    let renewed: Vec<u32> = third.programs().iter().map(|program| program.id).collect();
    assert!(
        renewed.iter().all(|id| !programs.contains(id)),
        "{renewed:?} {programs:?}"
    );
    assert_eq!(third.vips().list_vips()?, [(vip_key(VIP, 6), 4)]);
    assert_eq!(
        third.vips().read_cells(5, 1)?,
        [Cell::from(loopback(&port)?)]
    );
    let key = TcpKey {
        cgroup_id: id,
        vip_id: VIP_ID,
        pad: 0,
    };
    assert_eq!(tcp(&third, key)?.connects, 3 + dials);
    drop(third);

    // Removed means gone: nothing to adopt, nothing counted.
    DataPlane::remove(&node.pin_dir)?;
    assert!(!node.pin_dir.exists());
    let fresh = node.open()?;
    assert!(!fresh.adopted());
    assert_eq!(fresh.vips().list_vips()?, vec![]);
    assert_eq!(fresh.counters().tcp()?, vec![]);
    Ok(())
}

#[test]
fn programs_of_another_version_translate_until_ours_can() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("abi")? else {
        return Ok(());
    };
    let (cgroup, _) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let port = task.ask("listen 127.0.0.1:0")?;
    let older = node.open()?;
    let links = older.link_ids()?;
    publish(&older, VIP, 6, 4, VIP_ID, &[loopback(&port)?])?;
    drop(older);
    // As if its version were another one.
    let ours = node.pin_dir.join(format!("v{ABI_VERSION}"));
    let theirs = node.pin_dir.join("v0");
    std::fs::rename(&ours, &theirs)?;
    let (dial, ok) = (format!("dial {VIP} 100"), format!("ok {VIP} 100"));

    let plane = node.open()?;
    assert!(!plane.adopted());
    assert_ne!(plane.link_ids()?, links);
    assert_eq!(plane.vips().list_vips()?, vec![]);
    assert_eq!(task.ask(&dial)?, ok, "our maps are empty");
    publish(&plane, VIP, 6, 4, VIP_ID, &[loopback(&port)?])?;
    assert_eq!(task.ask(&dial)?, ok, "both do it");
    assert_eq!(plane.retire_others()?, 1);
    assert!(!theirs.exists() && ours.exists());
    assert_eq!(task.ask(&dial)?, ok, "ours does it");
    assert_eq!(plane.retire_others()?, 0);
    Ok(())
}

#[test]
fn a_removed_cgroup_gets_new_links() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("stale")? else {
        return Ok(());
    };
    let (path, _) = node.leaf("root")?;
    let config = LoaderConfig {
        cgroup_root: path.clone(),
        pin_dir: node.pin_dir.clone(),
    };
    let old = DataPlane::open(&config)?.link_ids()?;
    std::fs::remove_dir(&path)?;
    std::fs::create_dir(&path)?;
    let again = DataPlane::open(&config)?;
    assert!(!again.adopted());
    for (old, new) in old.iter().zip(again.link_ids()?) {
        assert_ne!(old.1, new.1);
    }
    Ok(())
}

#[test]
fn bad_places_are_refused_with_a_typed_error() -> anyhow::Result<()> {
    let Some(node) = Node::new("bad")? else {
        return Ok(());
    };
    let config = LoaderConfig {
        cgroup_root: "/tmp".into(),
        pin_dir: node.pin_dir.clone(),
    };
    assert!(matches!(
        DataPlane::open(&config),
        Err(LoadError::NotCgroup2 { .. })
    ));
    assert!(!node.pin_dir.exists());
    let pin_dir = std::env::temp_dir().join("waggle-no-bpffs");
    let config = LoaderConfig {
        cgroup_root: node.cgroup.clone(),
        pin_dir: pin_dir.clone(),
    };
    assert!(matches!(
        DataPlane::open(&config),
        Err(LoadError::NotBpffs { .. })
    ));
    assert!(!pin_dir.exists());

    let plane = node.open()?;
    let beyond = plane.vips().write_cells(u32::MAX, &[Cell::default()]);
    assert!(matches!(beyond, Err(LoadError::Cells { .. })), "{beyond:?}");
    plane.vips().remove_vip(&vip_key(VIP, 6))?;
    DataPlane::remove(&node.pin_dir.with_file_name("none"))?;
    Ok(())
}

#[test]
fn packet_programs_count_a_test_packet() -> anyhow::Result<()> {
    const ETHERNET: usize = 14;
    let Some(node) = Node::new("skb")? else {
        return Ok(());
    };
    let plane = node.open()?;
    // An IPv4 frame; the programs look at nothing but its length.
    let mut frame = [0_u8; 114];
    frame[12..ETHERNET].copy_from_slice(&[0x08, 0x00]);
    frame[ETHERNET] = 0x45;
    for (program, runs) in [("skb_ingress", 3), ("skb_egress", 5)] {
        let (verdict, ns) = plane.test_run(program, &frame, runs)?;
        assert_eq!(verdict, 1, "{program} lets packets pass");
        eprintln!("{program}: {ns} ns");
    }
    let net = plane.counters().cgroup_net()?;
    let [(_, net)] = net[..] else {
        anyhow::bail!("{net:?}")
    };
    let bytes = (frame.len() - ETHERNET) as u64;
    let expected = CgroupNet {
        rx_bytes: 3 * bytes,
        rx_packets: 3,
        tx_bytes: 5 * bytes,
        tx_packets: 5,
    };
    assert_eq!(net, expected);
    Ok(())
}

/// Figures, not a judgement: machines differ. `cargo test -p waggle-ebpf -- --nocapture figures`
#[test]
fn figures_of_a_connect() -> anyhow::Result<()> {
    let Some(mut node) = Node::new("bench")? else {
        return Ok(());
    };
    let (cgroup, _) = node.leaf("task")?;
    let mut task = Task::start(&cgroup)?;
    let port = task.ask("listen 127.0.0.1:0")?;
    let direct = format!("127.0.0.1:{port}");
    let bare = task.ask(&format!("bench {direct} {direct} 1000"))?;
    let plane = node.open()?;
    publish(&plane, VIP, 6, 0, VIP_ID, &[loopback(&port)?])?;
    let hooked = task.ask(&format!("bench {direct} {VIP} 1000"))?;
    eprintln!("connect(2), median ns: without programs {bare}, then direct and vip {hooked}");
    // Timing every run costs time itself, so it is a round of its own.
    let stats = RunStats::enable()?;
    task.ask(&format!("bench {direct} {VIP} 500"))?;
    drop(stats);
    for program in plane.programs() {
        if let Some(ns) = program.run_ns.checked_div(program.run_cnt) {
            eprintln!(
                "{}: {ns} ns per run, {} runs",
                program.name, program.run_cnt
            );
        }
    }
    Ok(())
}

#[test]
fn edges_tell_who_speaks_with_whom() -> anyhow::Result<()> {
    const DIALS: u64 = 20;
    const BYTES: u64 = 3000;
    let Some(mut node) = Node::new("flow")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let (web_cgroup, web_id) = node.leaf("web")?;
    let (cli_cgroup, cli_id) = node.leaf("cli")?;
    let mut web = Task::start(&web_cgroup)?;
    let mut cli = Task::start(&cli_cgroup)?;
    let port = web.ask("listen 127.0.0.1:0")?;
    let backend = loopback(&port)?;
    publish(&plane, VIP, 6, 10, VIP_ID, &[backend])?;
    for _ in 0..DIALS {
        let echo = cli.ask(&format!("dial {VIP} {BYTES}"))?;
        assert_eq!(echo, format!("ok {VIP} {BYTES}"));
    }
    let closed = unused_port()?;
    assert!(
        cli.ask(&format!("dial 127.0.0.1:{closed} 1"))?
            .starts_with(ECONNREFUSED)
    );

    let key = |cgroup_id, vip_id, port: u16, side| FlowKey {
        cgroup_id,
        peer: addr_of(Ipv4Addr::LOCALHOST.into()),
        vip_id,
        port: port.to_be(),
        side,
    };
    let port: u16 = port.parse()?;
    let total = FlowStats {
        opened: DIALS,
        closed: DIALS,
        failed: 0,
        tx_bytes: DIALS * BYTES,
        rx_bytes: DIALS * BYTES,
    };
    let mut want = BTreeMap::from([
        (key(cli_id, VIP_ID, port, 0), total),
        (key(web_id, 0, port, 1), total),
        (
            key(cli_id, 0, closed.parse()?, 0),
            FlowStats {
                failed: 1,
                ..FlowStats::default()
            },
        ),
        // For what finds no room.
        (FlowKey::default(), FlowStats::default()),
    ]);
    let flows = || plane.counters().flows();
    eventually(|| Ok(flows()? == want)).with_context(|| format!("{:?} {want:?}", flows()))?;

    // What is taken is gone, with all that it had.
    let edge = key(cli_id, VIP_ID, port, 0);
    assert_eq!(plane.counters().take_flow(&edge)?, Some(total));
    assert_eq!(plane.counters().take_flow(&edge)?, None);
    want.remove(&edge);
    assert_eq!(flows()?, want);
    plane.counters().forget_cgroups(&[cli_id].into())?;
    want.retain(|key, _| key.cgroup_id != cli_id);
    assert_eq!(flows()?, want);
    Ok(())
}

//! `cargo xtask bench tables`: what it costs to bring VIP tables to this machine's kernel, whole and change by change,
//! beside targets and nftables. Needs root, cgroup2 and the embedded programs.
//!
//! A change is timed from the call with the delta to the return after the last write, by which every new connect sees
//! it; a share of them is proved by a connect. Plan, alias tables and maps are in it, DNS is made beside.
#![allow(clippy::print_stdout, reason = "its output")]
#![allow(clippy::unwrap_used, reason = "a sample of valid names")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]

mod ground;
mod nft;
#[path = "../../plan/benches/sample/snapshot.rs"]
mod sample;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use ground::Ground;
use waggle_ebpf::DataPlane;
use waggle_overlay::{NodeNet, NodeNetConfig};
use waggle_types::{Generation, NetDelta, NetSnapshot, TaskId, TaskNet};

const SERVICES: u32 = 10_000;
const MANY: u32 = 100_000;
const CHANGES: usize = 20_000;
/// Of so many changes one is proved by a connect.
const PROVED: usize = 500;
/// Cold loads; the median counts.
const LOADS: usize = 5;

fn main() -> anyhow::Result<()> {
    // Cargo passes `--bench`; there are no options.
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    println!(
        "kernel {}; {} CPUs; load average {}",
        ground::first_words("/proc/sys/kernel/osrelease", 1),
        std::thread::available_parallelism().map_or(0, usize::from),
        ground::first_words("/proc/loadavg", 3),
    );
    println!(
        "{:<58} {:>12} {:>12} {:>14}",
        "metric", "ours", "target", "verdict"
    );
    runtime.block_on(measure(&ground))
}

fn row(metric: &str, ours: f64, unit: &str, target: f64) {
    let verdict = if ours <= target { "met" } else { "MISSED" };
    println!("{metric:<58} {ours:>9.2} {unit:<2} {target:>9.2} {unit:<2} {verdict:>14}");
}

async fn node(plane: Arc<DataPlane>) -> anyhow::Result<NodeNet> {
    let config = NodeNetConfig {
        dns_ips: vec![],
        ..NodeNetConfig::new(Ipv4Addr::LOCALHOST)
    };
    Ok(NodeNet::start(config, Some(plane)).await?)
}

async fn measure(ground: &Ground) -> anyhow::Result<()> {
    let snapshot = Arc::new(numbered(sample::snapshot(SERVICES), 1));
    let (mut opens, mut loads, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..LOADS {
        ground.clear()?;
        let begun = Instant::now();
        let plane = Arc::new(ground.open()?);
        opens.push(begun.elapsed());
        let node = node(plane).await?;
        let applied = node.apply(Arc::clone(&snapshot)).await;
        ensure!(applied.failures.is_empty(), "{:?}", applied.failures);
        loads.push(applied.duration);
        node.shutdown().await?;
        drop(node);
        // An agent that comes back: the maps are there.
        let begun = Instant::now();
        let plane = Arc::new(ground.open()?);
        let node = self::node(plane).await?;
        let applied = node.apply(Arc::clone(&snapshot)).await;
        ensure!(
            applied.n_writes == 0,
            "a restart wrote {}",
            applied.n_writes
        );
        again.push(begun.elapsed());
        node.shutdown().await?;
    }
    let (open, load) = (median(&mut opens), median(&mut loads));
    row(
        "cold load, 10k services x 3: snapshot to maps",
        ms(load),
        "ms",
        50.0,
    );
    row(
        "  and with the programs' loading (5 runs, median)",
        ms(open + load),
        "ms",
        150.0,
    );
    println!(
        "  restart over full maps, to the first applied snapshot: {:.1} ms",
        ms(median(&mut again))
    );

    let plane = Arc::new(ground.open()?);
    let memory = ground::map_bytes(None)?;
    row(
        "kernel memory of all maps, 10k services x 3",
        memory as f64 / 1e6,
        "MB",
        64.0,
    );
    println!(
        "  of these the VIPs' own: {:.1} MB",
        ground::map_bytes(Some("VIPS"))? as f64 / 1e6
            + ground::map_bytes(Some("CELLS"))? as f64 / 1e6
    );
    let node = node(plane).await?;
    node.apply(Arc::clone(&snapshot)).await;
    changes(&node, &snapshot, ground).await?;
    node.shutdown().await?;
    drop(node);

    ground.clear()?;
    let plane = Arc::new(ground.open()?);
    let node = self::node(plane).await?;
    let many = Arc::new(numbered(sample::snapshot(MANY), 1));
    let applied = node.apply(many).await;
    ensure!(applied.failures.is_empty(), "{:?}", applied.failures);
    println!(
        "100k services x 3 load: {:.0} ms, {} writes, no failure; all maps {:.0} MB",
        ms(applied.duration),
        applied.n_writes,
        ground::map_bytes(None)? as f64 / 1e6
    );
    node.shutdown().await?;
    drop(node);
    ground.clear()?;
    nft::measure(SERVICES)
}

/// One backend of one service comes and goes, somewhere else each time.
async fn changes(node: &NodeNet, snapshot: &NetSnapshot, ground: &Ground) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || for _ in listener.incoming() {});
    let ids: Vec<&TaskId> = snapshot.tasks.keys().collect();
    let mut generation = node.generation();
    let mut took = Vec::with_capacity(CHANGES);
    let mut proved = 0;
    let begun = Instant::now();
    let mut busy = Duration::ZERO;
    for i in 0..CHANGES / 2 {
        // A prime's multiples visit all of them.
        let id = ids[i * 7_919 % ids.len()];
        let task = &snapshot.tasks[id];
        for there in [None, Some(Arc::clone(task))] {
            let delta = delta(generation, id, there);
            generation = delta.to;
            let delta = Arc::new(delta);
            let at = Instant::now();
            let applied = node.change(delta).await;
            let wall = at.elapsed();
            ensure!(applied.failures.is_empty(), "{:?}", applied.failures);
            busy += wall;
            took.push(applied.duration);
        }
        if i % PROVED == 0 {
            // The service's only backend is now the one that listens here, whom a connect must find at once.
            generation = only_backend(node, snapshot, task, port, generation).await?;
            ground.in_cgroup(|| {
                let vip = lease_of(snapshot, task)?;
                TcpStream::connect_timeout(&vip, Duration::from_secs(1)).context("connect")
            })?;
            proved += 1;
            let back = siblings(snapshot, task).map(|(id, t)| (id.clone(), Some(Arc::clone(t))));
            let delta = NetDelta {
                from: generation,
                to: generation.next(),
                tasks: back.collect(),
                ..NetDelta::default()
            };
            generation = delta.to;
            node.change(Arc::new(delta)).await;
        }
    }
    let n = took.len();
    took.sort_unstable();
    row(
        "one backend changes at 10k services: p50",
        us(took[n / 2]),
        "us",
        100.0,
    );
    row("  p99", us(took[n * 99 / 100]), "us", 1000.0);
    println!(
        "  max {:.0} us, n={n}, {proved} proved by a connect that found the new backend",
        us(took[n - 1])
    );
    let rate = n as f64 / busy.as_secs_f64();
    let verdict = if rate >= 10_000.0 { "met" } else { "MISSED" };
    println!(
        "{:<58} {rate:>9.0} /s {:>9} /s {verdict:>14}",
        "changes a second, one after the other", 10_000
    );
    println!(
        "  (whole round, proofs included: {:.1} s)",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

fn delta(from: Generation, id: &TaskId, task: Option<Arc<TaskNet>>) -> NetDelta {
    NetDelta {
        from,
        to: from.next(),
        tasks: [(id.clone(), task)].into(),
        ..NetDelta::default()
    }
}

fn siblings<'a>(
    snapshot: &'a NetSnapshot,
    task: &'a TaskNet,
) -> impl Iterator<Item = (&'a TaskId, &'a Arc<TaskNet>)> {
    snapshot.tasks.iter().filter(|(_, t)| t.name == task.name)
}

async fn only_backend(
    node: &NodeNet,
    snapshot: &NetSnapshot,
    task: &TaskNet,
    port: u16,
    from: Generation,
) -> anyhow::Result<Generation> {
    let agent = snapshot.agents.iter().find(|(_, a)| a.ip.is_loopback());
    let (agent_id, _) = agent.context("the sample has an agent on the loopback address")?;
    let mut tasks: std::collections::BTreeMap<TaskId, Option<Arc<TaskNet>>> =
        siblings(snapshot, task)
            .map(|(id, _)| (id.clone(), None))
            .collect();
    let first = tasks.keys().next().cloned().context("a sibling")?;
    let mut here = task.clone();
    here.agent_id = agent_id.clone();
    here.ports[0].host_port = port;
    tasks.insert(first, Some(Arc::new(here)));
    let delta = NetDelta {
        from,
        to: from.next(),
        tasks,
        ..NetDelta::default()
    };
    let to = delta.to;
    let applied = node.change(Arc::new(delta)).await;
    ensure!(applied.failures.is_empty(), "{:?}", applied.failures);
    Ok(to)
}

fn lease_of(snapshot: &NetSnapshot, task: &TaskNet) -> anyhow::Result<SocketAddr> {
    let mut leases = snapshot.vips.iter();
    let (_, lease) = leases
        .find(|(n, _)| n.label == task.name)
        .context("a lease")?;
    Ok(SocketAddr::from((lease.ip, 80)))
}

/// A snapshot with a generation, and with one agent more, on this machine.
fn numbered(mut snapshot: NetSnapshot, generation: u64) -> NetSnapshot {
    snapshot.generation = Generation(generation);
    if let Ok(id) = waggle_types::AgentId::new("agents-here") {
        let net = waggle_types::AgentNet {
            overlay: waggle_types::AgentOverlay::default(),
            ip6: None,
            hostname: "here".into(),
            ip: Ipv4Addr::LOCALHOST,
            reachable: true,
            domain: None,
        };
        snapshot.agents.insert(id, net);
    }
    snapshot
}

fn median(samples: &mut [Duration]) -> Duration {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

fn us(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}

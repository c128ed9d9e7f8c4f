//! `cargo xtask bench smoke`: a few figures from a real cluster, each with how it was taken.
//! `cargo xtask bench allocator`: level 1 alone. `cargo xtask bench launch`: all of it through its API.
//! `cargo xtask bench mesos-api`: Mesos's API. `cargo xtask bench failover`: a master that takes over.
//! `cargo xtask bench services`: level 2 through Marathon's API.
//! `cargo xtask bench containers`: containers and images of one node.
//! `cargo xtask bench dns`: the resolver beside others.
//! `cargo xtask bench telemetry`: what telemetry costs and carries.
//! `cargo xtask bench tracing`: what traced requests cost.

mod allocator;
mod checks;
mod containers;
mod dns;
mod launch;
mod node;
mod telemetry;
mod tracing;
mod utilization;
mod vips;
mod xdp;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::Value;
use waggle_tests_support::cluster::{Cluster, Config, Program};
use waggle_tests_support::names::Names;
use waggle_tests_support::process;
use waggle_tests_support::scenario::{App, Probe, WEB_JSON, World, deploy, remove};
use waggle_tests_support::wait::sleep;
use waggle_tests_support::wait_until;

use crate::build::Programs;
use crate::cluster::ready_deadline;
use crate::run::{cargo, run, shown};
use crate::{build, root, setup};

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Deploy time, connect latency through the VIP, the agent's own cost
    Smoke {
        /// Only print what set-up would install
        #[arg(long)]
        no_install: bool,
        /// Measure the build without optimizations: soon there, not for comparisons
        #[arg(long)]
        dev: bool,
    },
    /// Machines for the same work: static partitions, shared offers, lent head-room (a simulation)
    Utilization(utilization::Args),
    /// The allocator alone: cycles, events, fairness, beside targets and peers
    Allocator {
        /// Also with everything filtered, which takes minutes of set-up
        #[arg(long)]
        full: bool,
    },
    /// Checks of tasks: CPU of each, how many a second on one thread, who is late
    Checks(checks::Args),
    /// Level 1 through its API: launches a second, latency of offers, memory, beside targets and peers
    Launch(launch::Args),
    /// Mesos's HTTP API: launches a second, latency of offers, listeners, `/state`
    MesosApi(launch::Args),
    /// Level 2 through Marathon's API: deploy time, latency of reads and writes meanwhile, CPU, memory
    Services(launch::Args),
    /// A master is killed: how long until the next one listens, offers, has all agents back
    Failover(launch::Args),
    /// Containers of one node, beside `runc run`; pulls of images, beside skopeo
    Containers(containers::Args),
    /// The edge: nanoseconds per packet, beside a minimal C load balancer in the same rounds
    Xdp(xdp::Args),
    /// A node's resolver beside dnsmasq and unbound, on one CPU: rate, CPU an answer, latency
    Dns(dns::Args),
    /// VIPs at the socket: what a connect costs, beside direct ones and nftables
    Vip(vips::VipArgs),
    /// Containers of two nodes and of one, beside the kernel's VXLAN, bridges, routes; counting per container
    Overlay(vips::OverlayArgs),
    /// What a traced request costs, in the kernel and on a node, what becomes of bulk, and the store of connections
    Tracing(tracing::Args),
    /// What telemetry adds to packets and connects, and how much it carries, beside rsyslog
    Telemetry(telemetry::Args),
    /// VIP tables in the kernel: cold load, one change, memory, beside nftables
    Tables(vips::TablesArgs),
}

const NODES: u8 = 3;
/// The bench's VIP.
const TARGET: &str = "bench.marathon.l4lb.thisdcos.directory:80";
/// Connects per target.
const ROUNDS: &str = "3000";
/// How long the agent is watched, idle and under load.
const WATCH: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_mins(1);

/// Runs it.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let (no_install, dev) = match &args.what {
        What::Smoke { no_install, dev } => (*no_install, *dev),
        What::Utilization(args) => return utilization::main(args),
        What::Allocator { full } => return allocator::main(*full),
        What::Checks(args) => return checks::main(args),
        What::Launch(args) => return launch::main("launch", args),
        What::MesosApi(args) => return launch::main("mesos_api", args),
        What::Services(args) => return launch::main("services", args),
        What::Failover(args) => return launch::main("failover", args),
        What::Containers(args) => return containers::main(args),
        What::Xdp(args) => return xdp::main(args),
        What::Dns(args) => return dns::main(args),
        What::Vip(args) => return vips::vip(args),
        What::Overlay(args) => return vips::overlay(args),
        What::Tables(args) => return vips::tables(args),
        What::Tracing(args) => return tracing::main(args),
        What::Telemetry(args) => return telemetry::main(args),
    };
    if std::env::var_os("WAGGLE_BIN_DIR").is_none()
        && let Some(code) = setup::ensure(no_install)?
    {
        return Ok(code);
    }
    let programs = if dev {
        build::programs()?
    } else {
        build::release_programs()?
    };
    let dir = programs.waggle.parent().context("no directory")?;
    if let Some(code) = root::again_with("a cluster of namespaces", dir)? {
        return Ok(code);
    }
    let config = Config {
        names: Names::from_env(),
        nodes: NODES,
        program: Program::Waggle(programs.waggle.clone()),
        otlp: None,
        owned: true,
    };
    let mut say = |line: &str| eprintln!("  {line}");
    let world = World::up(config, None, ready_deadline(NODES), &mut say)?;
    let result = smoke(&world, &programs);
    world.down(&mut |_| {})?;
    result.map(|()| ExitCode::SUCCESS)
}

fn smoke(world: &World, programs: &Programs) -> anyhow::Result<()> {
    let cluster = &world.cluster;
    println!(
        "{} build; kernel {}; {} CPUs; {}; load average {} (figures on a busy machine are noise)",
        if programs
            .waggle
            .parent()
            .is_some_and(|dir| dir.ends_with("release"))
        {
            "release"
        } else {
            "dev"
        },
        first_words("/proc/sys/kernel/osrelease", 1),
        std::thread::available_parallelism().map_or(0, usize::from),
        server_version(cluster),
        first_words("/proc/loadavg", 3),
    );
    let mut samples = Vec::new();
    for _ in 0..5 {
        let (_, took) = deploy_one(cluster)?;
        samples.push(took.as_secs_f64() * 1e3);
        remove(cluster, "/bench", LIMIT)?;
    }
    samples.sort_by(f64::total_cmp);
    println!(
        "deploy to first answer (POST to a body through the VIP, 1 nginx): median {:.0} ms, min {:.0}, max {:.0}, n={}",
        samples[samples.len() / 2],
        samples[0],
        samples[samples.len() - 1],
        samples.len()
    );
    let (app, _) = deploy_one(cluster)?;
    let task = app.tasks(cluster)?.into_iter().next().context("no task")?;
    let there = task.node(cluster)?.clone();
    let client = cluster
        .state
        .nodes
        .iter()
        .skip(1)
        .find(|node| node.name != there.name)
        .context("no other node")?
        .clone();
    latency(
        cluster,
        programs,
        &client.name,
        &format!("{}:{}", there.ip, task.port),
    )?;
    // Two agents: one on the client's side, one that also ships the server's log lines.
    let agents = [
        ("the client's node", client.pid),
        ("the server's node", there.pid),
    ];
    let show = |when: &str, costs: &[Cost]| {
        for ((which, _), cost) in agents.iter().zip(costs) {
            let leads = if which.starts_with("the server") && there.index == 1 {
                " (it leads as well)"
            } else {
                ""
            };
            println!(
                "  {when}, {which}{leads}: {:.1} % of a CPU, {:.1} MB resident",
                cost.cpu_percent, cost.rss_mb
            );
        }
    };
    println!("`waggle node`, over {} s:", WATCH.as_secs());
    let pids = agents.map(|(_, pid)| pid);
    show("idle", &watch(&pids, WATCH)?);
    let probe = Probe::start(cluster, &programs.probe, &client.name, TARGET, 1000, 60)?;
    wait_until(LIMIT, "load to run", || {
        (probe.with(<[_]>::len) > 500).then_some(())
    })?;
    let n_before = probe.with(<[_]>::len);
    let busy = watch(&pids, WATCH)?;
    let n_done = probe.with(<[_]>::len) - n_before;
    let failed = probe.stop().iter().filter(|a| a.error.is_some()).count();
    let rate = n_done as f64 / WATCH.as_secs_f64();
    show(
        &format!("{rate:.0} connections/s through the VIP ({failed} failed)"),
        &busy,
    );
    remove(cluster, "/bench", LIMIT)
}

/// Builds and runs a bench target, in the features of the whole workspace: nothing is built twice. `quick`: without optimizations.
fn bench(quick: bool, name: &str, rest: &[&str]) -> anyhow::Result<()> {
    let mut command = cargo();
    command.args(["bench", "--workspace", "--exclude", "waggle-ebpf-programs"]);
    command.args(["--bench", name]);
    if quick {
        command.args(["--profile", "dev"]);
    }
    command.arg("--").args(rest);
    println!("{}", shown(&command));
    run(&mut command)
}

/// The middle one.
fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}

fn first_words(file: &str, n: usize) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace()
        .take(n)
        .collect::<Vec<_>>()
        .join(" ")
}

/// What nginx says of itself, as on a node.
fn server_version(cluster: &Cluster) -> String {
    let said = cluster.command("n1", "sh").ok().and_then(|mut shell| {
        let line = "PATH=$PATH:/usr/sbin nginx -v 2>&1";
        shell.args(["-c", line]).output().ok()
    });
    let text = said.map_or_else(String::new, |out| {
        String::from_utf8_lossy(&out.stdout).into()
    });
    text.trim().trim_start_matches("nginx version: ").to_owned()
}

fn definition() -> anyhow::Result<String> {
    let mut json: Value = serde_json::from_str(WEB_JSON)?;
    json["id"] = "/bench".into();
    json["instances"] = 1.into();
    json["portDefinitions"][0]["labels"]["VIP_0"] = "/bench:80".into();
    Ok(json.to_string())
}

/// Deploys one instance; how long until curl on node 1 got an answer through the VIP.
fn deploy_one(cluster: &Cluster) -> anyhow::Result<(App, Duration)> {
    let start = Instant::now();
    let app = deploy(cluster, &definition()?, LIMIT)?;
    wait_until(LIMIT, "a first answer through the VIP", || {
        let url = format!("http://{TARGET}/");
        let out = cluster
            .command("n1", "curl")
            .ok()?
            .args(["-s", "--fail", "--max-time", "2", &url])
            .output()
            .ok()?;
        out.status.success().then_some(())
    })?;
    Ok((app, start.elapsed()))
}

/// Interleaved connects: VIP, direct, direct again (what the difference between two equals is).
fn latency(cluster: &Cluster, programs: &Programs, node: &str, direct: &str) -> anyhow::Result<()> {
    let out = cluster
        .command(node, &programs.probe)?
        .args(["connect", ROUNDS, TARGET, direct, direct])
        .output()
        .context("run the probe")?;
    if !out.status.success() {
        bail!("the probe failed: {}", String::from_utf8_lossy(&out.stderr));
    }
    let json: Value = serde_json::from_slice(&out.stdout).context("the probe's result")?;
    let p50 = |index: usize| {
        json["targets"][index]["p50_ns"]
            .as_f64()
            .unwrap_or(f64::NAN)
            / 1e3
    };
    let p99 = |index: usize| {
        json["targets"][index]["p99_ns"]
            .as_f64()
            .unwrap_or(f64::NAN)
            / 1e3
    };
    println!(
        "connect from {node}, medians of {ROUNDS} interleaved: VIP {:.1} us, direct {:.1} us, direct again {:.1} us (p99 {:.0}, {:.0}, {:.0})",
        p50(0),
        p50(1),
        p50(2),
        p99(0),
        p99(1),
        p99(2)
    );
    println!(
        "  VIP/direct {:.3} ({:+.1} us); A/A control direct/direct {:.3} ({:+.1} us); {} connects failed",
        p50(0) / p50(1),
        p50(0) - p50(1),
        p50(2) / p50(1),
        p50(2) - p50(1),
        json["failures"]
    );
    Ok(())
}

struct Cost {
    cpu_percent: f64,
    rss_mb: f64,
    // The part of it that is no file's.
    anonymous_mb: f64,
}

/// CPU over the time, and memory at its end, per process.
fn watch(pids: &[i32], time: Duration) -> anyhow::Result<Vec<Cost>> {
    let ticks = |pid: i32| process::cpu_ticks(pid).with_context(|| format!("process {pid} ended"));
    let before: Vec<u64> = pids
        .iter()
        .map(|pid| ticks(*pid))
        .collect::<Result<_, _>>()?;
    let start = Instant::now();
    sleep(time);
    let seconds = start.elapsed().as_secs_f64();
    pids.iter()
        .zip(before)
        .map(|(pid, before)| {
            let mb = |kib: Option<u64>| {
                let kib = kib.with_context(|| format!("process {pid} ended"))?;
                anyhow::Ok(kib as f64 / 1024.0)
            };
            Ok(Cost {
                cpu_percent: ticks(*pid)?.saturating_sub(before) as f64 / seconds,
                rss_mb: mb(process::rss_kib(*pid))?,
                anonymous_mb: mb(process::anonymous_kib(*pid))?,
            })
        })
        .collect()
}

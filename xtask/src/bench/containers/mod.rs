//! `cargo xtask bench containers`: images and containers of one node, beside the tools that people have.
//!
//! Rounds are interleaved, ours and theirs in turn, so that what else the machine does meets both. The peer of starts and
//! stops is `runc run` alone, with the same namespaces and a root that is there already: no overlayfs, nothing written
//! down, nobody who waits for the exit code. It is measured twice: with what `runc spec` writes (no seccomp filter), and
//! with a task's own spec and the default seccomp profile.

mod node;
mod podman;
mod pull;
mod runc;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use waggle_tests_support::cluster::{self, Cluster, Config, Program};
use waggle_tests_support::images::Image;
use waggle_tests_support::names::Names;
use waggle_tests_support::process;

use self::node::Node;
use self::podman::Podman;
use self::runc::{Runc, Spec};
use super::{median, watch};
use crate::cluster::ready_deadline;
use crate::{build, root, setup};

/// Arguments of `bench containers`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only print what set-up would install
    #[arg(long)]
    no_install: bool,
    /// Measure the build without optimizations: soon there, not for comparisons
    #[arg(long)]
    dev: bool,
    /// Containers at once
    #[arg(long, default_value_t = 1000)]
    containers: u32,
    /// Rounds of starts and stops
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// Rounds of pulls
    #[arg(long, default_value_t = 7)]
    pulls: u32,
    /// Megabytes of the image that is pulled, before compression
    #[arg(long, default_value_t = 64)]
    image_mb: usize,
}

/// How long many containers may take.
const STORM_LIMIT: Duration = Duration::from_mins(10);
/// How long the node is watched at rest.
const REST: Duration = Duration::from_secs(10);

/// Runs it.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if std::env::var_os("WAGGLE_BIN_DIR").is_none()
        && let Some(code) = setup::ensure(args.no_install)?
    {
        return Ok(code);
    }
    let programs = if args.dev {
        build::programs()?
    } else {
        build::release_programs()?
    };
    let dir = programs.waggle.parent().context("no directory")?;
    if let Some(code) = root::again_with("a node with containers", dir)? {
        return Ok(code);
    }
    let config = Config {
        names: Names::from_env(),
        nodes: 1,
        program: Program::Waggle(programs.waggle.clone()),
        otlp: None,
        owned: true,
    };
    let mut say = |line: &str| eprintln!("  {line}");
    cluster::clear_leftovers(&config.names, &mut say)?;
    let mut cluster = Cluster::prepare(&config, &mut say)?;
    let result = measure(args, &mut cluster, &programs.waggle);
    let words = cluster.last_words();
    cluster.down(&mut |_| {})?;
    result.context(words).map(|()| ExitCode::SUCCESS)
}

fn measure(args: &Args, cluster: &mut Cluster, waggle: &std::path::Path) -> anyhow::Result<()> {
    println!(
        "{}; kernel {}; {} CPUs; load average {} (figures on a busy machine are noise)",
        runc::version()?,
        super::first_words("/proc/sys/kernel/osrelease", 1),
        std::thread::available_parallelism().map_or(0, usize::from),
        super::first_words("/proc/loadavg", 3),
    );
    let registry = pull::serve(cluster)?;
    let info = cluster.state.nodes.first().context("no node")?.clone();
    // As much of everything as is asked for: what is measured is not the machine's size.
    let toml = format!(
        "resources = \"cpus:1000;mem:1000000;disk:1000000;ports:[31000-32000]\"\nregistry_plain_http = [\"{}\"]\n",
        registry.host()
    );
    std::fs::write(info.work_dir.join("node.toml"), toml)?;
    cluster.start_all()?;
    cluster::wait_ready(cluster, ready_deadline(1))?;
    let cluster = &*cluster;
    let info = cluster.state.nodes.first().context("no node")?.clone();
    pull::measure(cluster, waggle, &registry, args.pulls, args.image_mb)?;

    let image = Image::busybox()?.cmd(&["/bin/sleep", "36000"]);
    let digest = registry.push(&image, "bench/sleep:1")?;
    let reference = format!("{}/bench/sleep@{digest}", registry.host());
    pull::waggle_pull(cluster, waggle, &reference)?;
    let node = Node::new(cluster, &info, &reference);
    let runc = Runc::new(&info.work_dir.join("runc"), &image)?;
    node.deploy()?;
    one_by_one(args, &node, &runc)?;
    storm(args, &node, &runc)?;
    node.remove()
}

/// One container at a time, ours and runc's in turn.
fn one_by_one(args: &Args, node: &Node<'_>, runc: &Runc) -> anyhow::Result<()> {
    let podman = Podman::new(&node.scratch("podman"), &runc.rootfs());
    let mut took: [Vec<f64>; 6] = Default::default();
    let mut podman_took: [Vec<f64>; 2] = Default::default();
    // The first finds cold caches.
    for round in 0..=args.rounds {
        let ours = node.start_one()?;
        if round == 0 {
            runc.learn(&node.bundle()?)?;
        }
        let stop = node.stop_one()?;
        let theirs = runc.start(Spec::Minimal, "one")?;
        let delete = runc.stop("one")?;
        let same = runc.start(Spec::Same, "same")?;
        runc.stop("same")?;
        if let Some(podman) = &podman {
            let both = [podman.start("one")?, podman.stop("one")?];
            for (list, took) in podman_took.iter_mut().zip(both).filter(|_| round > 0) {
                list.push(took.as_secs_f64() * 1e3);
            }
        }
        if round > 0 {
            let all = [ours.launch, theirs, same, ours.deploy, stop, delete];
            for (list, took) in took.iter_mut().zip(all) {
                list.push(took.as_secs_f64() * 1e3);
            }
        }
    }
    let [launch, run, same, deploy, stop, delete] = took.map(median);
    println!(
        "start, medians of {} interleaved: the agent's launch (task received to its process running) {launch:.0} ms; `runc run --detach` alone with a task's spec {same:.0} ms: {:.2} of it; with the least spec {run:.0} ms: {:.2} of it",
        args.rounds,
        launch / same,
        launch / run
    );
    println!("  from PUT to a running task, offers and deployment with it: {deploy:.0} ms");
    println!(
        "stop: from PUT to a task that is gone with all that was made for it {stop:.0} ms, `runc delete --force` alone {delete:.0} ms: {:.2} of runc",
        stop / delete
    );
    match &podman {
        Some(_) => {
            let [start, stop] = podman_took.map(median);
            println!(
                "{} with the same runtime and root: start {start:.0} ms: {:.2} of it; stop {stop:.0} ms",
                Podman::version()?,
                launch / start
            );
        }
        None => println!("podman is not installed: not compared with"),
    }
    Ok(())
}

/// Where cgroup hierarchies are mounted.
fn cgroup_mounts() -> Vec<std::path::PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let one = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let path = fields.next()?;
        let is_cgroup = matches!(fields.next(), Some("cgroup" | "cgroup2"));
        is_cgroup.then(|| path.into())
    };
    mounts.lines().filter_map(one).collect()
}

/// Many at once.
fn storm(args: &Args, node: &Node<'_>, runc: &Runc) -> anyhow::Result<()> {
    let n = args.containers;
    let pid = node.pid();
    let rss = |when| process::rss_kib(pid).with_context(|| format!("the node ended {when}"));
    let (rss_before, cpu_before) = (rss("before")?, node.cpu_seconds()?);
    let began = Instant::now();
    node.scale(n, STORM_LIMIT)?;
    let took = began.elapsed().as_secs_f64();
    let cpu = node.cpu_seconds()? - cpu_before;
    let rss_after = rss("with containers")?;
    println!(
        "{n} containers on one node: all running after {took:.1} s ({:.1} a second), {cpu:.1} s of CPU (node, shims, runtime and tasks; {:.1} s on 2 CPUs, {:.0} ms each)",
        f64::from(n) / took,
        cpu / 2.0,
        cpu * 1e3 / f64::from(n)
    );
    println!(
        "  memory of the node's process (agent and master) per container: {:.0} kB ({:.0} MB before, {:.0} MB after)",
        (rss_after.saturating_sub(rss_before)) as f64 * 1.024 / f64::from(n),
        rss_before as f64 / 1024.0,
        rss_after as f64 / 1024.0
    );
    let cpu_before = node.cpu_seconds()?;
    let rest = watch(&[pid], REST)?;
    let all = (node.cpu_seconds()? - cpu_before) / REST.as_secs_f64();
    println!(
        "  at rest, over {} s: the node's process {:.1} % of a CPU, with shims and tasks {:.1} %",
        REST.as_secs(),
        rest.first().map_or(f64::NAN, |c| c.cpu_percent),
        all * 100.0
    );
    let began = Instant::now();
    node.scale(0, STORM_LIMIT)?;
    println!("  all gone after {:.1} s", began.elapsed().as_secs_f64());
    // A tenth of it says as much.
    let m = (n / 10).max(10);
    for (spec, name) in [(Spec::Same, "a task's"), (Spec::Minimal, "the least")] {
        let (took, cpu) = runc.many(spec, m)?;
        println!(
            "`runc run --detach` alone with {name} spec, {m} by two loops: {:.1} a second, {:.0} ms of CPU each",
            f64::from(m) / took.as_secs_f64(),
            cpu * 1e3 / f64::from(m)
        );
    }
    Ok(())
}

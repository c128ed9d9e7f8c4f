//! `cargo xtask bench overlay`: containers of two nodes and of one, beside the kernel's VXLAN, bridges, routes and bare links; and
//! what counting per container costs.
//!
//! Every configuration is a client and a server in namespaces of their own, all alive at once, pinned to one CPU, on which
//! so all that the kernel does for them runs; a round visits them one after the other, the next round begins with the next one.
//! Figures are medians over rounds of ratios to the same round's baseline; a second baseline shows what is noise.
#![allow(clippy::print_stdout, reason = "its output")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

mod child;
mod ground;
mod metrics;

use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;
use child::{Child, Sample};
use ground::{Ends, Ground, first_words};
use waggle_ebpf::RunStats;
use waggle_ebpf::overlay::{OverlayPlane, Reach};

/// Milliseconds of a visit.
const VISIT_MS: u64 = 200;

fn main() -> anyhow::Result<()> {
    if let Ok(what) = std::env::var(child::ENV) {
        return child::serve(&what);
    }
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str, default: usize| -> anyhow::Result<usize> {
        let at = args.iter().position(|a| a == name);
        match at.and_then(|i| args.get(i + 1)) {
            Some(text) => text.parse().with_context(|| format!("{name} {text}")),
            None => Ok(default),
        }
    };
    let (rounds, cpu) = (value("--rounds", 21)?, value("--cpu", 1)?);
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    println!(
        "kernel {}; CPU {cpu} of {}; {rounds} rounds of {VISIT_MS} ms; load average {}",
        first_words(Path::new("/proc/sys/kernel/osrelease"), 1),
        std::thread::available_parallelism().map_or(0, usize::from),
        first_words(Path::new("/proc/loadavg"), 3),
    );
    between_nodes(&ground, rounds, cpu)?;
    same_node(&ground, rounds, cpu)?;
    metrics::measure(&ground, rounds, cpu)
}

/// One configuration.
struct Config {
    name: &'static str,
    client: Child,
    server: Child,
    to: IpAddr,
    ends: Ends,
}

impl Config {
    fn new(
        name: &'static str,
        ends: Ends,
        cpu: usize,
        cgroup: Option<&Path>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            name,
            server: Child::server(&ends.server, cgroup, cpu, ends.to)?,
            client: Child::client(&ends.client, cgroup, cpu)?,
            to: ends.to,
            ends,
        })
    }
}

/// Of one visit, per operation.
struct Figures {
    /// Operations, or bytes, a second.
    rate: f64,
    /// Microseconds of CPU for an operation, or a byte.
    cpu_us: f64,
    p50_us: f64,
}

impl From<Sample> for Figures {
    fn from(sample: Sample) -> Self {
        Self {
            rate: sample.n / sample.wall_s,
            cpu_us: sample.cpu_s * 1e6 / sample.n,
            p50_us: sample.p50_us,
        }
    }
}

/// By operation, configuration, round.
type Samples = Vec<Vec<Vec<Figures>>>;

fn rounds_of(configs: &mut [Config], rounds: usize, ops: &[&str]) -> anyhow::Result<Samples> {
    let mut samples: Samples = ops
        .iter()
        .map(|_| configs.iter().map(|_| Vec::new()).collect())
        .collect();
    // The first round fills caches and is not counted.
    for round in 0..=rounds {
        for i in 0..configs.len() {
            let at = (i + round) % configs.len();
            let config = &mut configs[at];
            for (op, name) in ops.iter().enumerate() {
                let sample = config
                    .client
                    .measure(&mut config.server, name, config.to, VISIT_MS)
                    .with_context(|| format!("{name} of {}", config.name))?;
                if round > 0 {
                    samples[op][at].push(sample.into());
                }
            }
        }
    }
    Ok(samples)
}

/// Median over rounds of one configuration's figure to another's.
fn ratio(samples: &Samples, op: usize, at: usize, base: usize, figure: fn(&Figures) -> f64) -> f64 {
    let pairs = samples[op][at].iter().zip(&samples[op][base]);
    median(pairs.map(|(a, b)| figure(a) / figure(b)))
}

fn absolute(samples: &Samples, op: usize, at: usize, figure: fn(&Figures) -> f64) -> f64 {
    median(samples[op][at].iter().map(figure))
}

const OPS: [&str; 3] = ["bulk", "rr", "crr"];

/// A table of ratios to the configuration that comes first.
fn print(configs: &[Config], samples: &Samples) {
    println!(
        "  {:<26} {:>8} {:>8} {:>8} {:>8} {:>9} {:>8}   absolute: Gbit/s, RR p50 us, CPU us/conn",
        "", "bulk", "CPU/GB", "RR p50", "RR CPU", "CPU/conn", "conn/s"
    );
    for (at, config) in configs.iter().enumerate() {
        let of = |op: usize, figure: fn(&Figures) -> f64| ratio(samples, op, at, 0, figure);
        println!(
            "  {:<26} {:>8.3} {:>8.3} {:>8.3} {:>8.3} {:>9.3} {:>8.3}   {:.1}, {:.1}, {:.1}",
            config.name,
            of(0, |f| f.rate),
            of(0, |f| f.cpu_us),
            of(1, |f| f.p50_us),
            of(1, |f| f.cpu_us),
            of(2, |f| f.cpu_us),
            of(2, |f| f.rate),
            absolute(samples, 0, at, |f| f.rate) * 8.0 / 1e9,
            absolute(samples, 1, at, |f| f.p50_us),
            absolute(samples, 2, at, |f| f.cpu_us),
        );
    }
}

/// What the programs themselves take, by the kernel's run statistics.
fn programs(configs: &mut [Config]) -> anyhow::Result<()> {
    let stats = RunStats::enable()?;
    for config in configs.iter_mut().filter(|c| !c.ends.planes.is_empty()) {
        let of = |config: &Config| -> Vec<(&'static str, u64, u64)> {
            let all = config.ends.planes.iter().flat_map(OverlayPlane::programs);
            all.map(|p| (p.name, p.run_ns, p.run_cnt)).collect()
        };
        let before = of(config);
        rounds_of(std::slice::from_mut(config), 3, &["rr"])?;
        let mut sums = std::collections::BTreeMap::new();
        for ((name, ns, n), (_, ns_before, n_before)) in of(config).into_iter().zip(before) {
            let sum = sums.entry(name).or_insert((0, 0));
            *sum = (sum.0 + ns - ns_before, sum.1 + n - n_before);
        }
        let told: Vec<String> = sums
            .into_iter()
            .filter(|(_, (_, n))| *n > 0)
            .map(|(name, (ns, n))| format!("{name} {:.0} ns", ns as f64 / n as f64))
            .collect();
        println!(
            "  {}: {} a packet (run statistics are in it)",
            config.name,
            told.join(", ")
        );
    }
    drop(stats);
    Ok(())
}

fn verdict(name: &str, found: f64, target: f64, is_least: bool) {
    let met = if is_least {
        found >= target
    } else {
        found <= target
    };
    let met = if met { "met" } else { "MISSED" };
    println!("  {name} {found:.3} (target {target:.2}: {met})");
}

fn between_nodes(ground: &Ground, rounds: usize, cpu: usize) -> anyhow::Result<()> {
    let slow = Reach::Slow;
    let mut configs = vec![
        Config::new("vxlan + bridge", ground.vxlan_bridge("vb")?, cpu, None)?,
        Config::new(
            "vxlan + bridge (A/A)",
            ground.vxlan_bridge("vb2")?,
            cpu,
            None,
        )?,
        Config::new("direct veth", ground.direct("dv")?, cpu, None)?,
        Config::new("direct veth (A/A)", ground.direct("dv2")?, cpu, None)?,
        Config::new("routed underlay", ground.routed("ru")?, cpu, None)?,
        Config::new(
            "collect_md (our slow path)",
            ground.overlay("cm", slow)?,
            cpu,
            None,
        )?,
        Config::new("waggle", ground.overlay("wg", Reach::Fast)?, cpu, None)?,
    ];
    let samples = rounds_of(&mut configs, rounds, &OPS)?;
    println!(
        "\nBetween nodes, ratio to the kernel's VXLAN and bridge, MTU 1450, median of paired rounds"
    );
    print(&configs, &samples);
    let ours = configs.len() - 1;
    let of = |op: usize, figure: fn(&Figures) -> f64| ratio(&samples, op, ours, 0, figure);
    verdict("CPU/conn", of(2, |f| f.cpu_us), 0.70, false);
    verdict("RR p50", of(1, |f| f.p50_us), 0.75, false);
    verdict("bulk", of(0, |f| f.rate), 1.10, true);
    programs(&mut configs)
}

fn same_node(ground: &Ground, rounds: usize, cpu: usize) -> anyhow::Result<()> {
    let mut configs = vec![
        Config::new("bridge", ground.bridge("lb")?, cpu, None)?,
        Config::new("bridge (A/A)", ground.bridge("lb2")?, cpu, None)?,
        Config::new("waggle", ground.local("lw")?, cpu, None)?,
    ];
    let samples = rounds_of(&mut configs, rounds, &OPS)?;
    println!("\nSame node, ratio to a bridge, MTU 1500, median of paired rounds");
    print(&configs, &samples);
    let of = |op: usize, figure: fn(&Figures) -> f64| ratio(&samples, op, 2, 0, figure);
    verdict("CPU/conn", of(2, |f| f.cpu_us), 0.80, false);
    verdict("RR p50", of(1, |f| f.p50_us), 0.82, false);
    programs(&mut configs)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

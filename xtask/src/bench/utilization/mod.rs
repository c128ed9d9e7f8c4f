//! `cargo xtask bench utilization`: how many machines the same work needs under static partitions, under
//! shared offers, and with the services' unused head-room lent to batch as revocable.
//!
//! # The model
//! - Machines are alike; CPU is the only resource; a batch task takes one CPU and a fixed time.
//! - Four batch tenants with the arrivals and sizes of the SWIM traces (two of them with their hours
//!   turned), or generated ones of that shape. Within a tenant the job with the fewest running tasks
//!   goes first, under every policy. Sizes are scaled so that tenants ask for the same CPUs on average.
//! - Three synthetic services keep twice their ordinary peak under every policy, all day, spread over all
//!   machines. Their load swings with the day and now and then jumps close to what they keep.
//! - The service level is the same for every policy: for each batch tenant by itself 95 % of the jobs
//!   are answered within a bound on response over best possible response (of what is shorter than a
//!   minute a minute is counted), all work is done within two hours after the day, and no service is ever short of a CPU it has load for.
//! - For each policy the smallest cluster that meets it is searched. Useful work is the same everywhere,
//!   so the ratio of machines is the inverse ratio of utilization.
//! - `offers` drives the product's allocator, with tenants as frameworks that suppress themselves when
//!   idle. `fluid` is a control: max-min fair, CPU by CPU.
//! - Lending is modelled in the simulation, not in the allocator: what a service keeps and does not
//!   use (less a margin over its load) is taken by the tenant that holds least; when the load rises, the
//!   youngest lent tasks are evicted and run again from their start.
//!
//! # What it leaves out
//! Memory, disk and packing of unlike tasks (the packing bench below has those), data locality, start-up
//! of machines and failures, interference between lent and own work (eviction takes effect at once), the
//! time of messages, services that scale with their load (they keep their peak, which makes static
//! partitions and sharing alone look worse and lending look better than autoscaled services would), and
//! users' habit of asking for more than they use. Bytes stand for work, which they do only roughly.
//!
//! Never: traces copied into the project; the clock or entropy in a result (only in its time taken).

mod level;
mod packing;
mod search;
mod sim;
#[cfg(test)]
mod tests;
mod workload;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, anyhow};

use search::{Decider, Fit, Static};
use sim::{Outcome, ServiceLevel, Setup, percentile};
use workload::{Shape, Workload};

/// Arguments of `bench utilization`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A small generated workload, in seconds
    #[arg(long)]
    quick: bool,
    /// Of everything that is drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the traces are; a workload is generated when they are not there [default: ../shared/traces
    /// beside the project]
    #[arg(long)]
    traces: Option<PathBuf>,
}

const SETUP: Setup = Setup {
    machines: 0,
    cpus: 8,
    lend: false,
    margin_milli: 100,
    drain_s: 2 * 3600,
    level: LEVEL,
    give_up: true,
};
const LEVEL: ServiceLevel = ServiceLevel {
    p95_slowdown_milli: 2000,
    short_s: 60,
};

/// Runs it.
pub fn main(args: &Args) -> anyhow::Result<ExitCode> {
    if cfg!(debug_assertions) && !args.quick {
        return optimized();
    }
    let start = Instant::now();
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/traces");
    let dir = args.traces.clone().unwrap_or(beside);
    let shape = shape(args.quick, args.seed);
    let w = load((!args.quick).then_some(dir.as_path()), shape)?;
    print!("{}", report(&w, shape, LEVEL)?);
    if !args.quick {
        print!("{}", sensitivity(&dir, shape)?);
    }
    print!("{}", packing::report(&dir, args.quick, args.seed)?);
    println!(
        "\n{} build, {:.1} s",
        if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
        start.elapsed().as_secs_f64()
    );
    Ok(ExitCode::SUCCESS)
}

/// The same command in a build with optimizations: without them it takes minutes.
fn optimized() -> anyhow::Result<ExitCode> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--release", "--quiet", "--package", "xtask", "--"])
        .args(std::env::args_os().skip(1))
        .status()
        .context("cargo run --release")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn shape(quick: bool, seed: u64) -> Shape {
    if quick {
        Shape {
            mean_cpus: 12,
            horizon_s: 6 * 3600,
            service_peak_cpus: 36,
            seed,
        }
    } else {
        Shape {
            mean_cpus: 48,
            horizon_s: 24 * 3600,
            service_peak_cpus: 120,
            seed,
        }
    }
}

fn load(traces: Option<&Path>, shape: Shape) -> anyhow::Result<Workload> {
    let found = match traces {
        Some(dir) => workload::from_traces(dir, shape)?,
        None => None,
    };
    Ok(found.unwrap_or_else(|| workload::generated(shape)))
}

/// A line of the table.
struct Row {
    policy: &'static str,
    machines: usize,
    outcome: Outcome,
}

/// Static partitions, then the shared clusters.
struct Compared {
    partitions: Static,
    fluid: Fit,
    offers: Fit,
    lent: Fit,
}

fn compare(w: &Workload, level: ServiceLevel, decider: Decider) -> anyhow::Result<Compared> {
    let apart = Setup { level, ..SETUP };
    let lend = Setup {
        lend: true,
        ..apart
    };
    let partitions = search::partitions(w, apart).context("static partitions")?;
    let guess = partitions.machines() * 4 / 5;
    let fluid = search::smallest(w, apart, Decider::Fluid, guess)?;
    let guess = fluid.machines * 4 / 5;
    let fluid_lent = search::smallest(w, lend, Decider::Fluid, guess)?;
    let (offers, lent) = match decider {
        Decider::Fluid => (fluid.clone(), fluid_lent),
        Decider::Offers => (
            search::smallest(w, apart, decider, fluid.machines)?,
            search::smallest(w, lend, decider, fluid_lent.machines)?,
        ),
    };
    Ok(Compared {
        partitions,
        fluid,
        offers,
        lent,
    })
}

fn report(w: &Workload, shape: Shape, level: ServiceLevel) -> anyhow::Result<String> {
    let all = compare(w, level, Decider::Offers)?;
    let base = all.partitions.machines();
    let roomy = all.partitions.machines_with_headroom();
    let rows = [
        Row {
            policy: "static, batch has 2x head-room too (a)",
            machines: roomy,
            outcome: all.partitions.outcome.clone(),
        },
        Row {
            policy: "static, batch just fits",
            machines: base,
            outcome: all.partitions.outcome.clone(),
        },
        Row {
            policy: "shared, fluid (control)",
            machines: all.fluid.machines,
            outcome: all.fluid.outcome,
        },
        Row {
            policy: "shared offers (allocator)",
            machines: all.offers.machines,
            outcome: all.offers.outcome,
        },
        Row {
            policy: "shared offers + revocable (b)",
            machines: all.lent.machines,
            outcome: all.lent.outcome,
        },
    ];
    let mut s = String::new();
    s += "# Utilization at equal service level\n\nMeasured here, by simulation (model and what it leaves out: xtask/src/bench/utilization/mod.rs).\n";
    s += &format!(
        "Workload: {}; {} jobs, {} batch tenants ({}), {} services that keep {} CPUs; {} h; seed {}.\n",
        w.source,
        w.jobs.len(),
        w.tenants.len(),
        w.tenants.join(", "),
        w.services.len(),
        w.services.iter().map(|s| s.reserved).sum::<u64>(),
        w.horizon_s / 3600,
        shape.seed,
    );
    s += &format!(
        "Level: p95 of bounded job slowdown (below {} s counts as {0} s) <= {:.1} for each tenant, all jobs done {} h after the end, no service shortfall. Machines of {} CPUs.\n\n",
        level.short_s,
        level.p95_slowdown_milli as f64 / 1000.0,
        SETUP.drain_s / 3600,
        SETUP.cpus,
    );
    s += "| policy | machines | utilization | to static | to static 2x | p50 / p95 slowdown | p95 wait s | batch on lent | evictions | work lost | service shortfall |\n|---|---|---|---|---|---|---|---|---|---|---|\n";
    for row in &rows {
        s += &line(row, base, roomy, w.horizon_s);
    }
    s += &format!(
        "\nStatic partitions, machines: batch {:?}, services {:?}. Slowdown and wait are the worst tenant's. Utilization is useful batch work and service load over all CPUs of the day.\n",
        all.partitions.batch, all.partitions.services
    );
    s += "(a) Slowdowns as of the partitions that just fit; twice the machines can only better them.\n";
    s += "(b) First level by the product's allocator, lending modelled in the simulation.\n";
    s += "Published, not measured here: static 12-15 % -> shared 30-40 % utilization (Mesos-era slides); Borg (EuroSys'15): segregating production and batch needs 20-30 % more machines.\n";
    s += "PERFORMANCE.md's earlier model: sharing 1.12-1.23x, with revocable 1.45-1.63x, 1.9-2.3x where static batch carries 2x; target 1.5x with revocable on, must 1.3x.\n";
    Ok(s)
}

fn line(row: &Row, base: usize, roomy: usize, horizon_s: u64) -> String {
    let out = &row.outcome;
    let capacity = row.machines as f64 * SETUP.cpus as f64 * horizon_s as f64;
    let used = out.useful as f64 + out.service_used_milli as f64 / 1000.0;
    let worst = |pick: fn(&sim::Served) -> &Vec<u64>, percent| {
        let each = out.served.iter().map(|s| percentile(pick(s), percent));
        each.max().unwrap_or(0)
    };
    format!(
        "| {} | {} | {:.1} % | {:.2}x | {:.2}x | {:.2} / {:.2} | {} | {:.1} % | {} | {:.1} % | {} |\n",
        row.policy,
        row.machines,
        100.0 * used / capacity,
        base as f64 / row.machines as f64,
        roomy as f64 / row.machines as f64,
        worst(|s| &s.slowdowns_milli, 50) as f64 / 1000.0,
        worst(|s| &s.slowdowns_milli, 95) as f64 / 1000.0,
        worst(|s| &s.waits_s, 95),
        100.0 * out.lent_useful as f64 / out.useful.max(1) as f64,
        out.evictions,
        100.0 * out.wasted as f64 / (out.useful + out.wasted).max(1) as f64,
        out.shortfall_milli,
    )
}

/// The same figures under other assumptions, by the control: shared offers are
/// the allocator's business, not the assumptions'.
fn sensitivity(dir: &Path, shape: Shape) -> anyhow::Result<String> {
    let mut s = String::from(
        "\nHow much of this is the assumptions (fluid control; ratio to static: sharing, with revocable, with revocable to static 2x)\n\n| workload | services' peak CPUs | p95 slowdown, short s | static | sharing | revocable | to static 2x |\n|---|---|---|---|---|---|---|\n",
    );
    let bound = |p95_slowdown_milli, short_s| ServiceLevel {
        p95_slowdown_milli,
        short_s,
    };
    let other = Shape {
        seed: shape.seed + 1,
        ..shape
    };
    let peak = |service_peak_cpus| Shape {
        service_peak_cpus,
        ..shape
    };
    let cases = [
        (true, other, LEVEL),
        (true, peak(60), LEVEL),
        (true, peak(180), LEVEL),
        (true, shape, bound(1500, 60)),
        (true, shape, bound(4000, 60)),
        (true, shape, bound(2000, 10)),
        (false, shape, LEVEL),
    ];
    let lines: Vec<anyhow::Result<String>> = std::thread::scope(|scope| {
        let started = cases.map(|case| scope.spawn(move || assumption(dir, case)));
        let ended = started.map(std::thread::ScopedJoinHandle::join);
        ended
            .into_iter()
            .map(|line| line.unwrap_or_else(|_| Err(anyhow!("a simulation panicked"))))
            .collect()
    });
    for line in lines {
        s += &line?;
    }
    Ok(s)
}

fn assumption(
    dir: &Path,
    (traces, shape, level): (bool, Shape, ServiceLevel),
) -> anyhow::Result<String> {
    let w = load(traces.then_some(dir), shape)?;
    let all = compare(&w, level, Decider::Fluid)?;
    let base = all.partitions.machines() as f64;
    Ok(format!(
        "| {}, seed {} | {} | {:.1}, {} | {base} | {:.2}x | {:.2}x | {:.2}x |\n",
        w.source,
        shape.seed,
        shape.service_peak_cpus,
        level.p95_slowdown_milli as f64 / 1000.0,
        level.short_s,
        base / all.fluid.machines as f64,
        base / all.lent.machines as f64,
        all.partitions.machines_with_headroom() as f64 / all.lent.machines as f64,
    ))
}

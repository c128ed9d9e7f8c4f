//! What `cargo xtask bench launch` runs: the whole of level 1 through its API: a real master process with its store on
//! disk, frameworks over the typed client, emulated agents over the real session protocol, all on this
//! machine's CPUs.
//!
//! # What is measured
//! - *Memory*: the master's resident bytes before any agent, with all of them, and with all of their tasks.
//! - *Freed resource to offer*: tasks end at times that are fixed beforehand (open loop); the latency is
//!   from the time that was intended, so a queue anywhere counts. The frameworks launch again on what they
//!   are offered.
//! - *Launches*: on some of the agents tasks end as soon as their running is acknowledged, and each freed
//!   bundle is offered, accepted and launched on again, as fast as it goes. One launch is: accept, launch
//!   log on disk (group commit), launch at the agent, RUNNING at the master, update at the framework.
//!
//! # What it leaves out
//! The network (everything is on loopback, which costs CPU on both sides but no time), tasks' own work, and
//! several masters.

mod agent;
mod framework;
#[allow(dead_code, reason = "the other bench uses the rest")]
mod master;
mod report;
#[path = "wire.rs"]
mod session_wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use tokio::runtime::Handle;
use waggle_tests_support::wait;

use agent::Fleet;
use framework::Seen;
use master::Master;
use report::{Figures, Flow, Latency};

#[derive(Debug, Clone, Parser)]
struct Args {
    /// The `waggle` program; without it nothing is measured
    #[arg(long)]
    waggle: Option<PathBuf>,
    /// Agents
    #[arg(long, default_value_t = 50_000)]
    agents: usize,
    /// Tasks of one CPU that fit on an agent
    #[arg(long, default_value_t = 10)]
    tasks: usize,
    /// Frameworks
    #[arg(long, default_value_t = 10)]
    frameworks: usize,
    /// Ends of tasks a second, for the latency of offers
    #[arg(long, default_value_t = 5000)]
    rate: u64,
    /// Agents whose tasks end at once, for the rate of launches
    #[arg(long, default_value_t = 400)]
    flow: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Measurements; the medians are printed
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// 1,000 agents, one short round: whether it works
    #[arg(long)]
    quick: bool,
    /// What cargo says
    #[arg(long, hide = true)]
    bench: bool,
    /// What cargo says in a dry run: the same without a program
    #[arg(long, hide = true)]
    test: bool,
}

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_mins(5);
/// Between measurements, and before memory is looked at.
const SETTLE: Duration = Duration::from_secs(3);

fn main() -> anyhow::Result<()> {
    let mut args = Args::parse();
    let Some(waggle) = args.waggle.take() else {
        eprintln!("nothing is measured without a program: cargo xtask bench launch");
        return Ok(());
    };
    if args.quick {
        args.agents = args.agents.min(1000);
        args.flow = args.flow.min(100);
        args.rate = args.rate.min(500);
        args.seconds = args.seconds.min(3);
        args.rounds = 1;
    }
    let master = Master::start(&waggle)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // Frameworks are processes of their own in a cluster: what they see must not wait for emulated agents.
    let frameworks = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start the frameworks' runtime")?;
    let figures = runtime.block_on(bench(&args, &master, frameworks.handle()));
    // Sessions first: a master that stops while its agents look on only adds noise.
    frameworks.shutdown_timeout(Duration::from_secs(2));
    runtime.shutdown_timeout(Duration::from_secs(2));
    drop(master);
    print!("{}", report::table(&figures?));
    Ok(())
}

/// Runs the emulators beside the measurements; what breaks first ends all.
async fn bench(args: &Args, master: &Master, beside: &Handle) -> anyhow::Result<Figures> {
    let fleet = Arc::new(Fleet::new(args.agents));
    let seen = Arc::new(Seen::default());
    let rss_empty = master.rss()?;
    let tasks = i64::try_from(args.tasks)?;
    let agents = agent::run(Arc::clone(&fleet), master.session, tasks);
    let measuring = measure(args, master, &fleet, &seen, rss_empty, beside);
    tokio::select! {
        broken = agents => match broken? {},
        figures = measuring => figures,
        // The master goes with it.
        told = told_to_stop() => { told?; bail!("told to stop") }
    }
}

async fn told_to_stop() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

async fn measure(
    args: &Args,
    master: &Master,
    fleet: &Arc<Fleet>,
    seen: &Arc<Seen>,
    rss_empty: u64,
    beside: &Handle,
) -> anyhow::Result<Figures> {
    let start = Instant::now();
    let registered = || fleet.counters.registered.load(Ordering::Relaxed);
    until("the agents to register", || registered() >= args.agents).await?;
    let register_s = start.elapsed().as_secs_f64();
    say(&format!(
        "{} agents registered in {register_s:.1} s",
        args.agents
    ));
    tokio::time::sleep(SETTLE).await;
    let rss_agents = master.rss()?;
    say(&format!("{} MB resident", rss_agents >> 20));

    let all = (args.agents * args.tasks) as u64;
    let start = Instant::now();
    let mut frameworks = tokio::task::JoinSet::new();
    for i in 0..args.frameworks {
        let f = framework::run(i, Arc::clone(fleet), Arc::clone(seen), master.session);
        frameworks.spawn_on(f, beside);
    }
    let running = || seen.running.load(Ordering::Relaxed);
    let filled = until("all agents to be full", || {
        running() + seen.refused.load(Ordering::Relaxed) >= all
    });
    tokio::select! {
        f = filled => f?,
        Some(broken) = frameworks.join_next() => match broken?? {},
    }
    let fill_s = start.elapsed().as_secs_f64();
    say(&format!("{all} tasks launched in {fill_s:.1} s"));
    refusals(seen);
    tokio::time::sleep(SETTLE).await;
    let rss_tasks = master.rss()?;
    say(&format!("{} MB resident", rss_tasks >> 20));

    let rounds = async {
        let mut latencies = Vec::new();
        for _ in 0..args.rounds {
            latencies.push(open_loop(args, master, fleet, seen).await?);
            say(&format!("{}", latencies[latencies.len() - 1]));
        }
        let mut flows = Vec::new();
        fleet.flow(args.flow.min(args.agents))?;
        tokio::time::sleep(SETTLE).await;
        for _ in 0..args.rounds {
            flows.push(flow(args, master, seen).await?);
            say(&format!("{}", flows[flows.len() - 1]));
        }
        fleet.flow(0)?;
        anyhow::Ok((latencies, flows))
    };
    let (latencies, flows) = tokio::select! {
        r = rounds => r?,
        Some(broken) = frameworks.join_next() => match broken?? {},
    };
    refusals(seen);
    Ok(Figures {
        agents: args.agents,
        tasks: args.tasks,
        frameworks: args.frameworks,
        rate: args.rate,
        flow: args.flow,
        seconds: args.seconds,
        rss_empty,
        rss_agents,
        rss_tasks,
        register_s,
        fill_s,
        latencies,
        flows,
    })
}

/// Ends tasks at fixed times and looks when what they held is offered.
async fn open_loop(
    args: &Args,
    master: &Master,
    fleet: &Arc<Fleet>,
    seen: &Arc<Seen>,
) -> anyhow::Result<Latency> {
    fleet.forget_due();
    seen.measure();
    let (cpu, start) = (master.cpu()?, Instant::now());
    let n = args.rate * args.seconds;
    // On a thread of its own: it must be punctual, whatever the emulated agents are at.
    let (ending, rate) = (Arc::clone(fleet), args.rate.max(1));
    let ended = tokio::task::spawn_blocking(move || end_all(&ending, rate, n)).await;
    let (skipped, late_ns) = ended.context("the generator")??;
    let took = start.elapsed().as_secs_f64();
    let cpu = (master.cpu()? - cpu) / took;
    // What is still under way is waited for; what never comes is missing from the count.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_, offers) = seen.measured();
    Ok(Latency::of(offers, n - skipped, late_ns, cpu))
}

/// Ends `n` tasks at a rate; answers how many there were none for, and by how much it was late at most.
fn end_all(fleet: &Fleet, rate: u64, n: u64) -> anyhow::Result<(u64, u64)> {
    let (begin_ns, gap_ns) = (fleet.now_ns(), 1_000_000_000 / rate);
    let agents = fleet.agents.len();
    let (mut skipped, mut late_ns) = (0_u64, 0_u64);
    // A large stride visits the agents in an order without pattern and comes to each as often.
    let stride = 7_919 % agents.max(2);
    let mut at = 0;
    for i in 0..n {
        let intended = begin_ns + i * gap_ns;
        let now = fleet.now_ns();
        if now < intended {
            wait::sleep(Duration::from_nanos(intended - now));
        }
        late_ns = late_ns.max(fleet.now_ns().saturating_sub(intended));
        at = (at + stride.max(1)) % agents;
        skipped += u64::from(!fleet.end_one(at, intended)?);
    }
    Ok((skipped, late_ns))
}

/// Counts launches while tasks end at once.
async fn flow(args: &Args, master: &Master, seen: &Arc<Seen>) -> anyhow::Result<Flow> {
    seen.measure();
    let (cpu, own, start) = (master.cpu()?, own_cpu(), Instant::now());
    let count = || {
        (
            seen.running.load(Ordering::Relaxed),
            seen.accepts.load(Ordering::Relaxed),
        )
    };
    let before = count();
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let after = count();
    let took = start.elapsed().as_secs_f64();
    let (launches, _) = seen.measured();
    Ok(Flow::of(
        (after.0 - before.0) as f64 / took,
        (after.1 - before.1) as f64 / took,
        launches,
        (master.cpu()? - cpu) / took,
        (own_cpu() - own) / took,
    ))
}

fn own_cpu() -> f64 {
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    let ticks = waggle_tests_support::process::cpu_ticks(pid);
    ticks.unwrap_or(0) as f64 / 100.0
}

fn refusals(seen: &Seen) {
    if let Some(first) = seen.refusal() {
        let n = seen.refused.load(Ordering::Relaxed);
        say(&format!("{n} launches refused so far, the first: {first}"));
    }
}

fn say(line: &str) {
    eprintln!("  {line}");
}

async fn until(what: &str, done: impl Fn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        if Instant::now() > deadline {
            bail!("waited {LIMIT:?} for {what}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

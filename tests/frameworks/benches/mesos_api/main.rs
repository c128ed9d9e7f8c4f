//! What `cargo xtask bench mesos-api` runs: Mesos's HTTP API of a real master process with its store on disk, with
//! frameworks and listeners over HTTP, and emulated agents over the real session protocol, all on this machine's CPUs.
//!
//! # What is measured
//! - *Freed resource to offer*: tasks end at times that are fixed beforehand (open loop); the latency is from the time
//!   that was intended to the framework's having read the offer.
//! - *Launches*: tasks of some agents end as soon as their running is acknowledged; each freed bundle is offered,
//!   accepted and launched on again as fast as it goes. Every update is acknowledged by a call of its own.
//! - *Listeners*: many subscribers of the operator stream, of whom some never read, while tasks end and begin: the
//!   master's memory, and whether the others hear of it all.
//! - *`/state`* while nothing else happens, and its effect on the latency of offers.
//!
//! # What it leaves out
//! The network, tasks' own work, and several masters.

#[allow(
    dead_code,
    reason = "of the other bench, of which this one uses a part"
)]
#[path = "../launch/agent.rs"]
mod agent;
mod framework;
#[allow(
    dead_code,
    reason = "of the other bench, of which this one uses a part"
)]
#[path = "../launch/master.rs"]
mod master;
#[path = "../launch/wire.rs"]
#[allow(
    dead_code,
    reason = "of the other bench, of which this one uses a part"
)]
mod session_wire;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use tokio::task::JoinSet;

use agent::Fleet;
use framework::Seen;
use master::Master;
use wire::{Media, Stream, get};

#[derive(Debug, Clone, Parser)]
struct Args {
    /// The `waggle` program; without it nothing is measured
    #[arg(long)]
    waggle: Option<PathBuf>,
    /// Agents
    #[arg(long, default_value_t = 10_000)]
    agents: usize,
    /// Tasks of one CPU that fit on an agent
    #[arg(long, default_value_t = 10)]
    tasks: usize,
    /// Frameworks
    #[arg(long, default_value_t = 100)]
    frameworks: usize,
    /// Ends of tasks a second, for the latency of offers
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// Agents whose tasks end at once, for the rate of launches
    #[arg(long, default_value_t = 100)]
    flow: usize,
    /// Listeners of the operator stream, of whom a tenth never read
    #[arg(long, default_value_t = 1000)]
    listeners: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// 500 agents, few listeners, short: whether it works
    #[arg(long)]
    quick: bool,
    /// What cargo says
    #[arg(long, hide = true)]
    bench: bool,
    /// What cargo says in a dry run: the same without a program
    #[arg(long, hide = true)]
    test: bool,
}

/// Agents of the cluster that has listeners: each of them gets all of its state first, which this one process reads a
/// thousand times.
const LISTENED: usize = 200;

/// Ends of tasks a second in it: each is some events, each of which goes to a thousand listeners of this one process.
const LISTENED_RATE: u32 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Calls,
    Listeners,
}

const LIMIT: Duration = Duration::from_mins(5);

fn main() -> anyhow::Result<()> {
    let mut args = Args::parse();
    let Some(waggle) = args.waggle.take() else {
        eprintln!("nothing is measured without a program: cargo xtask bench mesos-api");
        return Ok(());
    };
    if args.quick {
        args.agents = args.agents.min(500);
        args.frameworks = args.frameworks.min(10);
        args.listeners = args.listeners.min(100);
        args.seconds = args.seconds.min(3);
    }
    println!(
        "{} agents, {} tasks on each, {} frameworks, {} s",
        args.agents, args.tasks, args.frameworks, args.seconds
    );
    let few = Args {
        agents: args.agents.min(LISTENED),
        frameworks: args.frameworks.min(10),
        ..args.clone()
    };
    for (media, args, what) in [
        (Media::Json, &args, What::Calls),
        (Media::Protobuf, &args, What::Calls),
        (Media::Json, &few, What::Listeners),
    ] {
        let master = Master::start(&waggle)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let done = runtime.block_on(one(args, &master, media, what));
        runtime.shutdown_timeout(Duration::from_secs(2));
        drop(master);
        done?;
    }
    Ok(())
}

async fn one(args: &Args, master: &Master, media: Media, what: What) -> anyhow::Result<()> {
    println!("{}, {} agents:", media.name(), args.agents);
    let fleet = Arc::new(Fleet::new(args.agents));
    let tasks = i64::try_from(args.tasks)?;
    // Frameworks first: agents that find only some of them fill up with what those launch, which then hear more at once
    // than a master keeps for one of them.
    let seen = Arc::new(Seen::default());
    let mut frameworks = JoinSet::new();
    for n in 0..args.frameworks {
        let (fleet, seen) = (Arc::clone(&fleet), Arc::clone(&seen));
        let at = master.mesos;
        frameworks.spawn(async move {
            let run = framework::run(n, at, media, fleet, seen).await;
            run.with_context(|| format!("framework {n}"))
        });
    }
    until("the frameworks", || {
        seen.subscribed.load(Ordering::Relaxed) == args.frameworks as u64
    })
    .await?;
    let agents = agent::run(Arc::clone(&fleet), master.session, tasks);
    tokio::select! {
        broken = agents => match broken? {},
        Some(broken) = frameworks.join_next() => broken?,
        done = measure(args, master, &fleet, &seen, what) => done,
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > LIMIT {
            bail!("waited {LIMIT:?} for {what}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn quantile(ns: &mut [u64], q: f64) -> f64 {
    ns.sort_unstable();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a length"
    )]
    let at = (ns.len().saturating_sub(1) as f64 * q).round() as usize;
    ns.get(at).map_or(f64::NAN, |ns| *ns as f64 / 1e6)
}

async fn measure(
    args: &Args,
    master: &Master,
    fleet: &Arc<Fleet>,
    seen: &Arc<Seen>,
    what: What,
) -> anyhow::Result<()> {
    let all = (args.agents * args.tasks) as u64;
    let begun = Instant::now();
    until("the cluster to be full", || {
        seen.running.load(Ordering::Relaxed) >= all
    })
    .await?;
    let filled = begun.elapsed().as_secs_f64();
    println!(
        "  filled with {all} tasks in {filled:.1} s ({:.0} launches/s)",
        all as f64 / filled
    );
    let window = Duration::from_secs(args.seconds);
    if what == What::Calls {
        let (mut ns, ended) = paced(args, fleet, seen, window).await?;
        println!(
            "  freed to offered at {}/s: p50 {:.2} ms, p99 {:.2} ms, {} of {ended}",
            args.rate,
            quantile(&mut ns, 0.5),
            quantile(&mut ns, 0.99),
            ns.len()
        );
        state(args, master, fleet, seen).await?;
    }
    match what {
        What::Calls => launches(args, master, fleet, seen, window).await?,
        What::Listeners => tokio::select! {
            broken = ends(args, fleet) => match broken? {},
            done = listeners(args, master, seen, window) => done?,
        },
    }
    let wrong = seen.wrong.load(Ordering::Relaxed);
    if wrong > 0 {
        bail!("{wrong} updates were neither running nor finished");
    }
    Ok(())
}

/// Tasks of some agents that end at once, again and again.
async fn launches(
    args: &Args,
    master: &Master,
    fleet: &Fleet,
    seen: &Seen,
    window: Duration,
) -> anyhow::Result<()> {
    fleet.flow(args.flow)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, cpu) = (seen.running.load(Ordering::Relaxed), master.cpu()?);
    let begun = Instant::now();
    tokio::time::sleep(window).await;
    let took = begun.elapsed().as_secs_f64();
    let n = seen.running.load(Ordering::Relaxed) - before;
    println!(
        "  launches: {:.0}/s, the master uses {:.2} CPUs",
        n as f64 / took,
        (master.cpu()? - cpu) / took
    );
    fleet.flow(0)
}

/// Ends tasks at the pace that listeners are measured with, for as long as it is polled.
async fn ends(args: &Args, fleet: &Fleet) -> anyhow::Result<std::convert::Infallible> {
    let mut due = tokio::time::interval(Duration::from_secs(1) / LISTENED_RATE);
    for n in 0_usize.. {
        due.tick().await;
        fleet.end_one(n.wrapping_mul(7919) % args.agents, fleet.now_ns())?;
    }
    bail!("all numbers are used up")
}

/// Ends tasks at an even pace; answers latencies of offers, and how many ended.
async fn paced(
    args: &Args,
    fleet: &Arc<Fleet>,
    seen: &Seen,
    window: Duration,
) -> anyhow::Result<(Vec<u64>, u64)> {
    fleet.forget_due();
    seen.measure();
    let (begun, mut n, mut ended) = (fleet.now_ns(), 0_u64, 0_u64);
    let step = 1_000_000_000 / args.rate.max(1);
    let end = u64::try_from(window.as_nanos())?;
    while n * step < end {
        let at = begun + n * step;
        let wait = at.saturating_sub(fleet.now_ns());
        tokio::time::sleep(Duration::from_nanos(wait)).await;
        #[allow(
            clippy::cast_possible_truncation,
            reason = "below the number of agents"
        )]
        let agent = (n.wrapping_mul(7919) % args.agents as u64) as usize;
        ended += u64::from(fleet.end_one(agent, at)?);
        n += 1;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok((seen.measured(), ended))
}

/// `/state` of the full cluster.
async fn state(
    args: &Args,
    master: &Master,
    fleet: &Arc<Fleet>,
    seen: &Arc<Seen>,
) -> anyhow::Result<()> {
    let (mut ms, mut len) = (Vec::new(), 0);
    for _ in 0..5 {
        let begun = Instant::now();
        len = get(master.mesos, "/state").await?.len();
        ms.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    ms.sort_by(f64::total_cmp);
    println!("  /state: {:.0} ms for {:.1} MB", ms[2], len as f64 / 1e6);
    let at = master.mesos;
    let reading = tokio::spawn(async move {
        loop {
            if get(at, "/state").await.is_err() {
                return;
            }
        }
    });
    let measured = paced(args, fleet, seen, Duration::from_secs(args.seconds)).await;
    reading.abort();
    let (mut ns, _) = measured?;
    println!(
        "  freed to offered while /state is read: p99 {:.2} ms",
        quantile(&mut ns, 0.99)
    );
    Ok(())
}

/// Many who listen to the operator stream, of whom a tenth never read.
async fn listeners(
    args: &Args,
    master: &Master,
    seen: &Seen,
    window: Duration,
) -> anyhow::Result<()> {
    let before = master.rss()?;
    let heard = Arc::new(AtomicU64::new(0));
    let subscribe = br#"{"type":"SUBSCRIBE"}"#;
    let (mut slow, mut open) = (Vec::new(), 0_u64);
    let begun = Instant::now();
    for n in 0..args.listeners {
        let mut stream = Stream::open(master.mesos, "/api/v1", Media::Json, subscribe).await?;
        if n % 10 == 0 {
            slow.push(stream);
            continue;
        }
        open += 1;
        let heard = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok(record) = stream.next().await {
                // By its bytes: a thousand parsers of one machine would measure themselves.
                if record.starts_with(br#"{"task_added""#)
                    || record.windows(12).take(40).any(|w| w == b"\"TASK_ADDED\"")
                {
                    heard.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    let took = begun.elapsed().as_secs_f64();
    let peak = master.rss()?;
    heard.store(0, Ordering::Relaxed);
    let launched = seen.running.load(Ordering::Relaxed);
    tokio::time::sleep(window).await;
    let after = master.rss()?;
    let launched = seen.running.load(Ordering::Relaxed) - launched;
    println!(
        "  {} listeners in {took:.1} s, {} of them never read: resident {:.0} MB before, {:.0} MB with them, {:.0} MB at the end; \
         {:.1} launches each heard of for {launched} that were",
        args.listeners,
        slow.len(),
        before as f64 / 1e6,
        peak as f64 / 1e6,
        after as f64 / 1e6,
        heard.load(Ordering::Relaxed) as f64 / open.max(1) as f64,
    );
    Ok(())
}

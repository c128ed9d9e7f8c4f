//! What `cargo xtask bench services` runs: level 2 through Marathon's API: a real master process with its store on disk,
//! apps that are posted by some clients at once, emulated agents over the real session protocol, all on this machine's
//! CPUs.
//!
//! # What is measured
//! - *Deploy time*: from the first POST until the event stream has told the end of the last deployment, and every instance
//!   runs.
//! - *POST*: from sending an app's definition to its 201, each on disk by then. As with Marathon, no more than 100
//!   deployments run at once: who is refused for that tries again, and it is counted.
//! - *Reads while deploying*: GETs of an app, and of all apps, at times that are fixed beforehand (open loop); the latency
//!   is from the time that was intended.
//! - *Events*: a listener to all events counts ends of deployments and running tasks; one that is missing fails the run.
//!
//! # What it leaves out
//! The network, the work and the start of real tasks (they run as soon as they are launched), health checks, VIPs.

#[allow(dead_code, reason = "of another bench, of which this one uses a part")]
#[path = "../launch/agent.rs"]
mod agent;
mod http;
#[allow(dead_code, reason = "of another bench, of which this one uses a part")]
#[path = "../launch/master.rs"]
mod master;
#[allow(dead_code, reason = "of another bench, of which this one uses a part")]
#[path = "../launch/wire.rs"]
mod session_wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use agent::Fleet;
use http::Client;
use master::Master;

#[derive(Debug, Clone, Parser)]
struct Args {
    /// The `waggle` program; without it nothing is measured
    #[arg(long)]
    waggle: Option<PathBuf>,
    /// Agents
    #[arg(long, default_value_t = 200)]
    agents: usize,
    /// Apps
    #[arg(long, default_value_t = 1000)]
    apps: usize,
    /// Instances of each
    #[arg(long, default_value_t = 10)]
    instances: usize,
    /// Clients that post at once
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Reads of an app a second, meanwhile
    #[arg(long, default_value_t = 100)]
    reads: u32,
    /// Masters that all of it is done with; the medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// 50 apps on 20 agents, one round: whether it works
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
/// Between reads of all apps.
const LIST_EVERY: Duration = Duration::from_secs(1);
/// Connections that single apps are read over, in turn.
const READERS: u32 = 10;
/// After a refusal, since too many deployments run.
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// Published for Marathon: containers, agents, seconds (OpenStack's performance documents, default settings).
const MARATHON: (f64, u32, f64) = (500.0, 189, 14.2);

/// One round's figures.
#[derive(Debug, Default, Clone)]
struct Figures {
    posted_s: f64,
    deployed_s: f64,
    cpu_s: f64,
    rss_before: u64,
    rss_after: u64,
    posts: Vec<f64>,
    refused: usize,
    reads: Vec<f64>,
    lists: Vec<f64>,
}

fn main() -> anyhow::Result<()> {
    let mut args = Args::parse();
    let Some(waggle) = args.waggle.take() else {
        eprintln!("nothing is measured without a program: cargo xtask bench services");
        return Ok(());
    };
    if args.quick {
        args.agents = args.agents.min(20);
        args.apps = args.apps.min(50);
        args.rounds = 1;
    }
    let mut rounds = Vec::new();
    for _ in 0..args.rounds.max(1) {
        let master = Master::start(&waggle)?;
        // Clients are processes of their own in a cluster: what they see must not wait for emulated agents.
        let (agents, clients) = (runtime()?, runtime()?);
        let done = clients.block_on(round(&args, &master, &agents));
        agents.shutdown_timeout(Duration::from_secs(2));
        clients.shutdown_timeout(Duration::from_secs(2));
        let figures = done?;
        println!("  {}", figures.line(args.apps * args.instances));
        rounds.push(figures);
    }
    print!("{}", table(&args, &rounds));
    Ok(())
}

fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start a runtime")
}

async fn round(args: &Args, master: &Master, beside: &Runtime) -> anyhow::Result<Figures> {
    let fleet = Arc::new(Fleet::new(args.agents));
    let total = args.apps * args.instances;
    // A fifth is spare.
    let each = i64::try_from(total.div_ceil(args.agents) * 6 / 5 + 1)?;
    let agents = beside.spawn(agent::run(Arc::clone(&fleet), master.session, each));
    let registered = || fleet.counters.registered.load(Ordering::Relaxed);
    until("the agents to register", || registered() >= args.agents).await?;
    tokio::select! {
        broken = agents => match broken.context("the agents' task")?? {},
        figures = measure(args, master, total) => figures,
    }
}

/// What the event stream has told.
#[derive(Debug, Default)]
struct Told {
    attached: AtomicBool,
    deployed: AtomicUsize,
    running: AtomicUsize,
    failed: AtomicUsize,
}

impl Told {
    fn take(&self, data: &str) {
        let Ok(event) = serde_json::from_str::<Value>(data) else {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        match event["eventType"].as_str() {
            Some("event_stream_attached") => self.attached.store(true, Ordering::Relaxed),
            Some("deployment_success") => {
                self.deployed.fetch_add(1, Ordering::Relaxed);
            }
            Some("deployment_failed") => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            Some("status_update_event") if event["taskStatus"] == "TASK_RUNNING" => {
                self.running.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

async fn measure(args: &Args, master: &Master, total: usize) -> anyhow::Result<Figures> {
    let at = master.marathon;
    let told = Arc::new(Told::default());
    let hearing = {
        let (told, client) = (Arc::clone(&told), Client::connect(at).await?);
        tokio::spawn(async move { client.events("/v2/events", |data| told.take(data)).await })
    };
    until("the event stream", || told.attached.load(Ordering::Relaxed)).await?;
    let (rss_before, cpu, begun) = (master.rss()?, master.cpu()?, Instant::now());
    let over = Arc::new(AtomicBool::new(false));
    let gap = Duration::from_secs(1) / args.reads.max(1);
    let n = args.apps;
    // Some readers: one that waits for its answer must not hold up what others ask for.
    let ones: Vec<_> = (0..READERS)
        .map(|r| {
            let path = move |i| format!("/v2/apps/bench/app-{}", (i + r as usize) * 7_919 % n);
            tokio::spawn(read(at, gap * READERS, gap * r, Arc::clone(&over), path))
        })
        .collect();
    let all = tokio::spawn(read(
        at,
        LIST_EVERY,
        Duration::ZERO,
        Arc::clone(&over),
        |_| "/v2/apps".to_owned(),
    ));
    let (posts, refused) = post_all(args, at).await?;
    let posted_s = begun.elapsed().as_secs_f64();
    let done = || {
        told.deployed.load(Ordering::Relaxed) >= args.apps
            && told.running.load(Ordering::Relaxed) >= total
    };
    until("every deployment's end to be told", || {
        done() || hearing.is_finished()
    })
    .await?;
    let deployed_s = begun.elapsed().as_secs_f64();
    let (cpu_s, rss_after) = (master.cpu()? - cpu, master.rss()?);
    over.store(true, Ordering::Relaxed);
    let (mut reads, lists) = (Vec::new(), all.await??);
    for one in ones {
        reads.extend(one.await??);
    }
    if hearing.is_finished() || told.failed.load(Ordering::Relaxed) > 0 {
        bail!("the event stream broke off, or told of a failure: {told:?}");
    }
    check(at, args, total).await?;
    hearing.abort();
    Ok(Figures {
        posted_s,
        deployed_s,
        cpu_s,
        rss_before,
        rss_after,
        posts,
        refused,
        reads,
        lists,
    })
}

/// Posts all apps; answers what each took, in ms, and how many were refused since too many deployments ran.
async fn post_all(args: &Args, at: SocketAddr) -> anyhow::Result<(Vec<f64>, usize)> {
    let next = Arc::new(AtomicUsize::new(0));
    let refused = Arc::new(AtomicUsize::new(0));
    let times = Arc::new(Mutex::new(Vec::new()));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..args.clients.max(1) {
        let (next, times, args) = (Arc::clone(&next), Arc::clone(&times), args.clone());
        let refused = Arc::clone(&refused);
        clients.spawn(async move {
            let mut client = Client::connect(at).await?;
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= args.apps {
                    return anyhow::Ok(());
                }
                let app = app(i, args.instances);
                let took = loop {
                    let begun = Instant::now();
                    let (status, body) = client.ask("POST", "/v2/apps", &app).await?;
                    match status {
                        201 => break begun.elapsed().as_secs_f64() * 1e3,
                        403 => {
                            refused.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(TRY_AGAIN).await;
                        }
                        _ => bail!("{status}: {}", String::from_utf8_lossy(&body)),
                    }
                };
                times
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(took);
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
    let refused = refused.load(Ordering::Relaxed);
    Ok((std::mem::take(&mut times), refused))
}

fn app(i: usize, instances: usize) -> String {
    json!({
        "id": format!("/bench/app-{i}"), "cmd": "exec /opt/app/run", "cpus": 1, "mem": 128,
        "instances": instances, "env": {"LANG": "C.UTF-8"}, "labels": {"team": "bench"},
        "portDefinitions": [{"port": 0, "name": "http"}],
    })
    .to_string()
}

/// Reads at fixed times, the first after `begin`, until told to stop; answers what each took from then, in ms. What is not there yet counts, too.
async fn read(
    at: SocketAddr,
    gap: Duration,
    begin: Duration,
    over: Arc<AtomicBool>,
    path: impl Fn(usize) -> String + Send,
) -> anyhow::Result<Vec<f64>> {
    let mut client = Client::connect(at).await?;
    let (mut times, mut intended) = (Vec::new(), tokio::time::Instant::now() + begin);
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep_until(intended).await;
        let (status, body) = client.ask("GET", &path(times.len()), "").await?;
        if status != 200 && status != 404 {
            bail!("{status}: {}", String::from_utf8_lossy(&body));
        }
        times.push(intended.elapsed().as_secs_f64() * 1e3);
        intended += gap;
    }
    Ok(times)
}

/// What runs is what was asked for.
async fn check(at: SocketAddr, args: &Args, total: usize) -> anyhow::Result<()> {
    let mut client = Client::connect(at).await?;
    let (_, body) = client.ask("GET", "/v2/apps", "").await?;
    let answer: Value = serde_json::from_slice(&body)?;
    let apps = answer["apps"].as_array().context("no apps")?;
    let running: u64 = apps.iter().filter_map(|a| a["tasksRunning"].as_u64()).sum();
    if apps.len() != args.apps || running != total as u64 {
        bail!("{} apps with {running} running instances", apps.len());
    }
    Ok(())
}

fn quantile(of: &[f64], q: f64) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a length"
    )]
    let at = (last as f64 * q).round() as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

impl Figures {
    fn line(&self, total: usize) -> String {
        format!(
            "posted in {:.2} s, all run after {:.2} s ({:.0} instances/s); read p99 {:.1} ms, list p99 {:.0} ms, \
             POST p99 {:.1} ms ({} refused); {:.1} CPU s, {} to {} MB",
            self.posted_s,
            self.deployed_s,
            total as f64 / self.deployed_s,
            quantile(&self.reads, 0.99),
            quantile(&self.lists, 0.99),
            quantile(&self.posts, 0.99),
            self.refused,
            self.cpu_s,
            self.rss_before >> 20,
            self.rss_after >> 20,
        )
    }
}

fn table(args: &Args, rounds: &[Figures]) -> String {
    let median = |of: &dyn Fn(&Figures) -> f64| {
        let all: Vec<f64> = rounds.iter().map(of).collect();
        quantile(&all, 0.5)
    };
    let total = (args.apps * args.instances) as f64;
    let deployed = median(&|f| f.deployed_s);
    let (containers, agents, seconds) = MARATHON;
    let ms = |of: &dyn Fn(&Figures) -> Vec<f64>| {
        let at = |q: f64| median(&|f| quantile(&of(f), q));
        format!(
            "p50 {:.1}, p99 {:.1}, max {:.1} ms",
            at(0.5),
            at(0.99),
            at(1.0)
        )
    };
    format!(
        "{} apps with {} instances on {} agents; medians of {}\n\
         deploy time          {deployed:.2} s, {:.0} instances/s (Marathon, published: {containers:.0} containers on {agents} agents in {seconds} s, {:.0}/s)\n\
         POST /v2/apps        {} ({:.0}/s with {} clients; {:.0} were refused and tried again)\n\
         GET /v2/apps/ID      {} ({} a second)\n\
         GET /v2/apps         {} (1 a second, {} apps at last)\n\
         master               {:.1} CPU s, {:.0} MB before, {:.0} MB after\n",
        args.apps,
        args.instances,
        args.agents,
        rounds.len(),
        total / deployed,
        containers / seconds,
        ms(&|f| f.posts.clone()),
        args.apps as f64 / median(&|f| f.posted_s),
        args.clients,
        median(&|f| f.refused as f64),
        ms(&|f| f.reads.clone()),
        args.reads,
        ms(&|f| f.lists.clone()),
        args.apps,
        median(&|f| f.cpu_s),
        median(&|f| (f.rss_before >> 20) as f64),
        median(&|f| (f.rss_after >> 20) as f64),
    )
}

async fn until(what: &str, done: impl Fn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        if Instant::now() > deadline {
            bail!("waited {LIMIT:?} for {what}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

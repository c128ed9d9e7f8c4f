//! What `cargo xtask bench dns` runs: our DNS server, dnsmasq and unbound with the same records, one after the other in
//! short turns, each on the same one CPU, asked from the other one.
//!
//! # What is measured
//! - *Rate*: a window of questions is kept in flight (`hammer`), and with dnsperf as a second opinion.
//! - *CPU*: nanoseconds that the server's threads ran, per answer: what is left when the asker is the bottleneck.
//! - *Latency*: questions at times that are fixed beforehand (open loop), from the time that was intended.
//!
//! The statistic is the median over rounds of the ratio within a round. `ours again` is a second process of the
//! same program: how far it is from 1 is the noise band.
//!
//! # What it leaves out
//! The network (all is on loopback), TCP, and names that have to be forwarded.

mod hammer;
mod servers;

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;

use hammer::{Load, Question};
use servers::{Kind, Running};

#[derive(Debug, Clone, Parser)]
struct Args {
    /// Names with an address
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 10_000])]
    names: Vec<usize>,
    /// Rounds; medians are printed
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// Milliseconds of each turn
    #[arg(long, default_value_t = 250)]
    turn: u64,
    /// Questions in flight
    #[arg(long, default_value_t = 128)]
    window: usize,
    /// Sockets that they come from, in the rows of many askers
    #[arg(long, default_value_t = 32)]
    askers: usize,
    /// Questions a second, for latency
    #[arg(long, default_value_t = 30_000)]
    rate: u64,
    /// Rounds of dnsperf, of two seconds for each server; 0 leaves it out
    #[arg(long, default_value_t = 5)]
    dnsperf: usize,
    /// One short round: whether it works
    #[arg(long)]
    quick: bool,
    /// Serve so many names on 127.0.0.1 instead (what a turn asks)
    #[arg(long, hide = true)]
    serve: Option<usize>,
    /// Where to serve
    #[arg(long, hide = true, default_value_t = 0)]
    port: u16,
    /// What cargo says
    #[arg(long, hide = true)]
    bench: bool,
    /// What cargo says in a dry run
    #[arg(long, hide = true)]
    test: bool,
}

/// Ours must be this many times the better of the others.
const TARGET: f64 = 1.5;

fn main() -> anyhow::Result<()> {
    let mut args = Args::parse();
    if let Some(n) = args.serve {
        return servers::serve(n, args.port);
    }
    if args.test {
        return Ok(());
    }
    if args.quick {
        (args.names, args.rounds, args.dnsperf) = (vec![100], 3, 1);
    }
    for program in ["dnsmasq", "unbound", "dnsperf", "taskset"] {
        if servers::find(program).is_none() {
            bail!("{program} is not installed; cargo xtask bench dns installs it");
        }
    }
    servers::pin_self(1).context("two CPUs are needed: one serves, one asks")?;
    println!(
        "{}; {}; {}; kernel {}; {} rounds of {} ms; server on CPU 0, asker on CPU 1; load average {}",
        servers::version("dnsmasq", &["--version"]),
        servers::version("unbound", &["-V"]),
        servers::version("dnsperf", &["-h"]),
        servers::words("/proc/sys/kernel/osrelease", 1),
        args.rounds,
        args.turn,
        servers::words("/proc/loadavg", 3),
    );
    println!(
        "{:<42} {:>12} {:>12} {:>12} {:>7} {:>7} {:>7}  verdict",
        "", "ours", "dnsmasq", "unbound", "ratio", "noise", "target"
    );
    for n in &args.names {
        scenario(&args, *n)?;
    }
    Ok(())
}

fn scenario(args: &Args, n: usize) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let kinds = [Kind::Ours, Kind::OursAgain, Kind::Dnsmasq, Kind::Unbound];
    let servers: Vec<Running> = kinds
        .into_iter()
        .map(|kind| Running::start(kind, n, dir.path()))
        .collect::<Result<_, _>>()?;
    let there = Question::all_of(n, true);
    let missing = Question::all_of(n, false);
    for server in &servers {
        server.wait(&there)?;
    }
    let many = args.askers;
    rates(args, &format!("A, {n} names"), &servers, &there, 1)?;
    let what = format!("A, {n} names, {many} askers");
    rates(args, &what, &servers, &there, many)?;
    let what = format!("no such name, {n} names");
    rates(args, &what, &servers, &missing, 1)?;
    latencies(args, n, &servers, &there)?;
    if args.dnsperf > 0 {
        dnsperf(args, n, &servers, dir.path())?;
    }
    Ok(())
}

/// Further values of the same rounds, as they come.
#[derive(Default)]
struct PerServer(Vec<(Kind, f64)>);

impl PerServer {
    fn push(&mut self, server: &Running, value: f64) {
        self.0.push((server.kind, value));
    }

    fn rounds(self) -> Rounds {
        let round = |chunk: &[(Kind, f64)]| {
            let mut values = [0.0; 4];
            for (kind, value) in chunk {
                values[*kind as usize] = *value;
            }
            values
        };
        Rounds(self.0.chunks(4).map(round).collect())
    }
}

/// One value of each server in each round.
struct Rounds(Vec<[f64; 4]>);

impl Rounds {
    /// The servers in turn, beginning with another one each round.
    fn run(
        n: usize,
        servers: &[Running],
        mut measure: impl FnMut(&Running) -> anyhow::Result<f64>,
    ) -> anyhow::Result<Self> {
        let mut rounds = Vec::new();
        for round in 0..n {
            let mut values = [0.0; 4];
            for i in 0..servers.len() {
                let which = (round + i) % servers.len();
                values[which] = measure(&servers[which])?;
            }
            rounds.push(values);
        }
        Ok(Self(rounds))
    }

    fn median(&self, of: impl Fn(&[f64; 4]) -> f64) -> f64 {
        let mut all: Vec<f64> = self.0.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Prints a row. With `more_is_better` the ratio is ours to the better other, else the other way round.
    fn row(&self, what: &str, more_is_better: bool, target: f64, show: impl Fn(f64) -> String) {
        // The better one over all rounds: of two noisy values the better one in each round flatters them.
        let (dnsmasq, unbound) = (self.median(|r| r[2]), self.median(|r| r[3]));
        let better = if (dnsmasq > unbound) == more_is_better {
            2
        } else {
            3
        };
        let ratio = self.median(|r| {
            if more_is_better {
                r[0] / r[better]
            } else {
                r[better] / r[0]
            }
        });
        let noise = (self.median(|r| r[1] / r[0]) - 1.0).abs();
        // Inside of the noise nothing is said.
        let verdict = if ratio >= target * (1.0 + noise) {
            "met"
        } else if ratio >= target * (1.0 - noise) {
            "not distinguishable"
        } else {
            "MISSED"
        };
        let value = |i: usize| show(self.median(|r| r[i]));
        println!(
            "{what:<42} {:>12} {:>12} {:>12} {ratio:>6.2}x {:>6.1}% {target:>6.1}x  {verdict}",
            value(0),
            value(2),
            value(3),
            noise * 100.0
        );
    }
}

fn rates(
    args: &Args,
    what: &str,
    servers: &[Running],
    asked: &[Question],
    askers: usize,
) -> anyhow::Result<()> {
    let load = Load {
        window: args.window,
        askers,
        time: Duration::from_millis(args.turn),
    };
    let mut cpu = PerServer::default();
    let rates = Rounds::run(args.rounds, servers, |server| {
        let before = server.cpu_ns()?;
        let done = load.saturate(server.addr(), asked)?;
        let spent = server.cpu_ns()? - before;
        cpu.push(server, spent as f64 / done.answered as f64);
        Ok(done.answered as f64 / done.time.as_secs_f64())
    })?;
    let cpu = cpu.rounds();
    rates.row(&format!("{what}, answers/s"), true, TARGET, |v| {
        format!("{v:.0}")
    });
    cpu.row(&format!("{what}, CPU/answer"), false, TARGET, |v| {
        format!("{v:.0} ns")
    });
    Ok(())
}

fn latencies(args: &Args, n: usize, servers: &[Running], asked: &[Question]) -> anyhow::Result<()> {
    let time = Duration::from_millis(args.turn);
    let mut medians = PerServer::default();
    let mut lost = 0;
    let p99 = Rounds::run(args.rounds, servers, |server| {
        let seen = hammer::open_loop(server.addr(), asked, args.rate, time)?;
        medians.push(server, seen.p50_ns);
        lost += seen.lost;
        Ok(seen.p99_ns)
    })?;
    let p50 = medians.rounds();
    let us = |v: f64| format!("{:.1} us", v / 1e3);
    let at = format!("A, {n} names, {}/s", args.rate);
    p50.row(&format!("{at}, p50"), false, 1.0, us);
    p99.row(&format!("{at}, p99"), false, 1.0, us);
    if lost > 0 {
        println!("  {lost} questions of the latency rows were not answered");
    }
    Ok(())
}

fn dnsperf(
    args: &Args,
    n: usize,
    servers: &[Running],
    dir: &std::path::Path,
) -> anyhow::Result<()> {
    let questions = dir.join("questions");
    let mut text = String::new();
    for i in 0..n {
        text.push_str(&format!("{} A\n", servers::name(i)));
    }
    std::fs::write(&questions, text)?;
    let mut cpu = PerServer::default();
    let rates = Rounds::run(args.dnsperf, servers, |server| {
        let before = server.cpu_ns()?;
        let out = std::process::Command::new("dnsperf")
            .args(["-s", "127.0.0.1", "-l", "2", "-q", &args.window.to_string()])
            .args(["-p", &server.addr().port().to_string(), "-d"])
            .arg(&questions)
            .output()?;
        let said = String::from_utf8_lossy(&out.stdout);
        let rate = said
            .lines()
            .find_map(|l| l.trim().strip_prefix("Queries per second:"))
            .and_then(|v| v.trim().parse::<f64>().ok());
        let answered = said
            .lines()
            .find_map(|l| l.trim().strip_prefix("Queries completed:"))
            .and_then(|v| v.split_whitespace().next()?.parse::<f64>().ok());
        let spent = (server.cpu_ns()? - before) as f64;
        cpu.push(server, spent / answered.unwrap_or(f64::NAN));
        rate.with_context(|| format!("dnsperf said: {said}"))
    })?;
    let what = format!("A, {n} names, dnsperf");
    let plain = |v: f64| format!("{v:.0}");
    rates.row(&format!("{what}, answers/s"), true, TARGET, plain);
    let cpu = cpu.rounds();
    cpu.row(&format!("{what}, CPU/answer"), false, TARGET, |v| {
        format!("{v:.0} ns")
    });
    Ok(())
}

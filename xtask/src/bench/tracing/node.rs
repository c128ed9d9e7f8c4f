//! A real node with two equal services, of which one is traced: requests a second of wrk at each in turn, CPU and memory of `waggle
//! node` meanwhile, spans made and what was lost. wrk is no task, so that a request is one span, the server's.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use waggle_tests_support::cluster::{Config, NodeInfo, Program, port};
use waggle_tests_support::names::Names;
use waggle_tests_support::scenario::{WEB_JSON, World, Wrk, deploy, remove, wrk};
use waggle_tests_support::wait::sleep;

use crate::bench::{LIMIT, first_words, watch};
use crate::build::Programs;
use crate::cluster::ready_deadline;

/// Of each service in a round.
const SECONDS: u64 = 5;
const ROUNDS: usize = 7;
/// What wrk takes to begin, and how long the node is watched after it.
const BEGIN: Duration = Duration::from_millis(500);
const WATCHED: Duration = Duration::from_secs(4);
/// More than there will be: what the node can do is asked for, not what it allows.
const SPANS_S: &str = "100000";

/// Names of the services, and whether their requests are traced.
const SERVICES: [(&str, bool); 2] = [("plain", false), ("traced", true)];

/// What one visit has shown.
#[derive(Debug, Default, Clone, Copy)]
struct Visit {
    requests_s: f64,
    cpu_percent: f64,
    rss_mb: f64,
    requests: f64,
    spans: f64,
    lost: f64,
}

/// Brings up a node, measures, takes it down.
pub fn measure(programs: &Programs, quick: bool) -> anyhow::Result<()> {
    let config = Config {
        names: Names::from_env(),
        nodes: 1,
        program: Program::Waggle(programs.waggle.clone()),
        otlp: None,
        owned: true,
    };
    let mut say = |line: &str| eprintln!("  {line}");
    let world = World::up(config, None, ready_deadline(1), &mut say)?;
    let result = figures(&world, if quick { 1 } else { ROUNDS });
    world.down(&mut |_| {})?;
    result
}

fn figures(world: &World, rounds: usize) -> anyhow::Result<()> {
    println!(
        "\n`waggle node` that also leads, nginx and wrk with 8 connections that close after each request, all on this machine;\n\
         {rounds} rounds of {SECONDS} s for each service; load average {}",
        first_words("/proc/loadavg", 3)
    );
    let node = world.cluster.state.nodes.first().context("no node")?;
    for (name, is_traced) in SERVICES {
        deploy(&world.cluster, &definition(name, is_traced)?, LIMIT)?;
    }
    let mut visits = [(); 2].map(|()| Vec::new());
    for round in 0..rounds {
        for turn in 0..SERVICES.len() {
            let at = (round + turn) % SERVICES.len();
            visits[at].push(visit(world, node, SERVICES[at].0)?);
        }
    }
    for ((name, _), visits) in SERVICES.iter().zip(&visits) {
        let of = |what: fn(&Visit) -> f64| median(visits.iter().map(what).collect());
        println!(
            "  {name:7} {:.0} requests/s; node {:.1} % of a CPU, {:.1} MiB resident",
            of(|v| v.requests_s),
            of(|v| v.cpu_percent),
            of(|v| v.rss_mb),
        );
    }
    let pairs = visits[0].iter().zip(&visits[1]);
    let ratio = median(pairs.map(|(a, b)| b.requests_s / a.requests_s).collect());
    let traced = &visits[1];
    let sum = |what: fn(&Visit) -> f64| traced.iter().map(what).sum::<f64>();
    let all_s = (SECONDS * traced.len() as u64) as f64;
    println!("  requests/s traced / plain: {ratio:.3} (median of rounds)");
    println!(
        "  of {:.0} traced requests {:.0} spans ({:.0}/s), {:.0} items counted as lost",
        sum(|v| v.requests),
        sum(|v| v.spans),
        sum(|v| v.spans) / all_s,
        sum(|v| v.lost),
    );
    for (name, _) in SERVICES {
        remove(&world.cluster, &format!("/{name}"), LIMIT)?;
    }
    Ok(())
}

fn visit(world: &World, node: &NodeInfo, service: &str) -> anyhow::Result<Visit> {
    let url = format!("http://{service}.marathon.l4lb.thisdcos.directory/");
    let before = told(world, node)?;
    let load = wrk(&world.cluster, &node.name, &url, SECONDS)?;
    sleep(BEGIN);
    let cost = watch(&[node.pid], WATCHED)?.remove(0);
    let said = Wrk::finish(load)?;
    // What the ring still holds.
    let mut after = told(world, node)?;
    loop {
        sleep(Duration::from_secs(1));
        let now = told(world, node)?;
        if now == after {
            break;
        }
        after = now;
    }
    Ok(Visit {
        requests_s: said.per_second,
        cpu_percent: cost.cpu_percent,
        rss_mb: cost.rss_mb,
        requests: said.requests as f64,
        spans: after.0 - before.0,
        lost: after.1 - before.1,
    })
}

fn definition(name: &str, is_traced: bool) -> anyhow::Result<String> {
    let mut json: Value = serde_json::from_str(WEB_JSON)?;
    json["id"] = format!("/{name}").into();
    json["instances"] = 1.into();
    json["portDefinitions"][0]["labels"]["VIP_0"] = format!("/{name}:80").into();
    // What it logs of each request is another feature's.
    let cmd = json["cmd"].as_str().context("no cmd")?;
    json["cmd"] = cmd
        .replace("access_log /dev/stdout combined", "access_log off")
        .into();
    let word = if is_traced { "requests" } else { "none" };
    json["labels"]["WAGGLE_TRACE"] = word.into();
    json["labels"]["WAGGLE_TRACE_SPANS_PER_SECOND"] = SPANS_S.into();
    Ok(json.to_string())
}

/// Spans of requests that were made, and what was lost, so far.
fn told(world: &World, node: &NodeInfo) -> anyhow::Result<(f64, f64)> {
    let addr = SocketAddr::from((node.ip, port::METRICS));
    let page = world.cluster.client().get(addr, "/metrics")?.ok()?.body;
    let sum = |name: &str| -> f64 {
        page.lines()
            .filter(|l| l.split(['{', ' ']).next() == Some(name))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    };
    Ok((
        sum("waggle_requests_spans_total"),
        sum("waggle_requests_lost_total"),
    ))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

//! A real node with two equal services, of which one is traced: requests a second of wrk at each in turn, CPU and memory of `waggle
//! node` meanwhile, spans made and what was lost. wrk is no task, so that a request is one span, the server's.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use waggle_tests_support::cluster::NodeInfo;
use waggle_tests_support::scenario::{WEB_JSON, World, Wrk, deploy, remove, wrk};
use waggle_tests_support::wait::sleep;
use waggle_tests_support::wait_until;

use crate::bench::node::{on_one, totals};
use crate::bench::{LIMIT, first_words, median, watch};
use crate::build::Programs;

/// Of each service in a round.
const SECONDS: u64 = 5;
const ROUNDS: usize = 7;
/// What wrk takes to begin, and how long the node is watched after it.
const BEGIN: Duration = Duration::from_millis(500);
const WATCHED: Duration = Duration::from_secs(4);
/// Longest that spans may come after their requests.
const SETTLED: Duration = Duration::from_secs(10);
/// Spans of requests that were made, and what was lost.
const TOLD: [&str; 2] = ["waggle_requests_spans_total", "waggle_requests_lost_total"];
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

/// Measures on a node of its own.
pub fn measure(programs: &Programs, quick: bool) -> anyhow::Result<()> {
    let rounds = if quick { 1 } else { ROUNDS };
    on_one(programs, |world, node| figures(world, node, rounds))
}

fn figures(world: &World, node: &NodeInfo, rounds: usize) -> anyhow::Result<()> {
    println!(
        "\n`waggle node` that also leads, nginx and wrk with 8 connections that close after each request, all on this machine;\n\
         {rounds} rounds of {SECONDS} s for each service; load average {}",
        first_words("/proc/loadavg", 3)
    );
    for (name, is_traced) in SERVICES {
        deploy(&world.cluster, &definition(name, is_traced)?, LIMIT)?;
        // Its check says nothing of its VIP.
        wait_until(LIMIT, "an answer of its VIP", || {
            let mut curl = world.cluster.command(&node.name, "curl").ok()?;
            curl.args(["--silent", "--fail", "--output", "/dev/null", &url(name)]);
            curl.status().ok()?.success().then_some(())
        })?;
    }
    let mut visits = [(); 2].map(|()| Vec::new());
    for round in 0..rounds {
        for turn in 0..SERVICES.len() {
            let at = (round + turn) % SERVICES.len();
            visits[at].push(visit(world, node, SERVICES[at])?);
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

fn visit(
    world: &World,
    node: &NodeInfo,
    (service, is_traced): (&str, bool),
) -> anyhow::Result<Visit> {
    let before = totals(world, node, TOLD)?;
    let load = wrk(&world.cluster, &node.name, &url(service), SECONDS)?;
    sleep(BEGIN);
    let cost = watch(&[node.pid], WATCHED)?.remove(0);
    let said = Wrk::finish(load)?;
    let since = || -> anyhow::Result<[f64; 2]> {
        let now = totals(world, node, TOLD)?;
        Ok([now[0] - before[0], now[1] - before[1]])
    };
    let requests = said.requests as f64;
    let mut made = since()?;
    if is_traced {
        // The node looks at its ring a moment later. What does not come in time is missing in the figures, and seen there.
        let _ = wait_until(SETTLED, "a span of each request", || {
            made = since().ok()?;
            (made[0] + made[1] >= requests).then_some(())
        });
    }
    Ok(Visit {
        requests_s: said.per_second,
        cpu_percent: cost.cpu_percent,
        rss_mb: cost.rss_mb,
        requests,
        spans: made[0],
        lost: made[1],
    })
}

fn url(service: &str) -> String {
    format!("http://{service}.marathon.l4lb.thisdcos.directory/")
}

fn definition(name: &str, is_traced: bool) -> anyhow::Result<String> {
    let mut app: Value = serde_json::from_str(WEB_JSON)?;
    app["id"] = format!("/{name}").into();
    app["instances"] = 1.into();
    app["portDefinitions"][0]["labels"]["VIP_0"] = format!("/{name}:80").into();
    // One that asks nothing of the server: a check by HTTP would make spans.
    app["healthChecks"] = json!([{
        "protocol": "COMMAND",
        "command": {"value": "true"},
        "intervalSeconds": 60,
    }]);
    // What it logs of each request is another feature's.
    let cmd = app["cmd"].as_str().context("no cmd")?;
    app["cmd"] = cmd
        .replace("access_log /dev/stdout combined", "access_log off")
        .into();
    let word = if is_traced { "requests" } else { "none" };
    app["labels"]["WAGGLE_TRACE"] = word.into();
    app["labels"]["WAGGLE_TRACE_SPANS_PER_SECOND"] = SPANS_S.into();
    Ok(app.to_string())
}

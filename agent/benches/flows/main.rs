//! What is kept of connections that have ended: how many a second are written, what one takes on disk, how long questions take.
//! Part of `cargo xtask bench tracing`; alone `cargo bench -p waggle-agent --bench flows`.
//!
//! The store is filled until it is full and the oldest files have gone, by looks of a busy node, four a second. Everything is one
//! thread, by CPU time and by the clock; what is written goes to a directory of the build's disk and is not synced, as in the agent.
//! The floor of a write is the same connections as JSON in memory. `--quick` for a store of 4 MiB.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program that prints figures and fails loudly"
)]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use waggle_agent::flow_store::{Extent, Filter, Query, Segments, each, read};
use waggle_api::native::EndedFlow;

/// Connections of one look, and between two of them.
const LOOK: u64 = 1000;
const EVERY_US: u64 = 250_000;
const SERVICES: u64 = 40;
const TASKS: u64 = 10;
/// 2026, in Unix microseconds.
const BEGIN_US: u64 = 1_790_000_000_000_000;
const ROUNDS: usize = 9;
const DAY_US: u64 = 86_400_000_000;
/// What a map of services looks at, at most.
const LOOKED_AT: usize = 200_000;

fn main() {
    let is_quick = std::env::args().any(|a| a == "--quick");
    let limit: u64 = if is_quick { 4 << 20 } else { 128 << 20 };
    let dir = tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let mut store = Segments::open(dir.path(), limit, DAY_US).unwrap();
    println!("load average {}", words("/proc/loadavg", 3));
    let (now_us, n_kept) = fill(&mut store, limit);
    ask(&store.extents(), now_us, n_kept);
    println!(
        "  at its largest this process had {} kB resident",
        high_water_kb()
    );
}

/// When it was full, and how many are in it.
fn fill(store: &mut Segments, limit: u64) -> (u64, u64) {
    let (mut written, mut lines, mut n) = (Duration::ZERO, Duration::ZERO, 0_u64);
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut most = 0;
    let mut made_room = 0;
    let mut now_us = BEGIN_US;
    // Until a quarter of it is new again.
    while made_room < 8 {
        let flows = look(n, now_us);
        n += LOOK;
        now_us += EVERY_US;
        let floor = cpu();
        for flow in &flows {
            std::hint::black_box(serde_json::to_vec(flow).unwrap());
        }
        lines += cpu().saturating_sub(floor);
        let (began, at) = (Instant::now(), cpu());
        let before = store.bytes();
        store.append(&flows, now_us).unwrap();
        written += cpu().saturating_sub(at);
        slowest = slowest.max(began.elapsed());
        made_room += u32::from(store.bytes() < before);
        most = most.max(store.bytes());
    }
    let held = store.bytes();
    let n_kept = count(&store.extents());
    println!(
        "flow store, {} MiB: {n} connections in looks of {LOOK}, {:.1} s",
        limit >> 20,
        begun.elapsed().as_secs_f64()
    );
    println!(
        "  written {:.0}/s of CPU time, {:.2} us each; as JSON in memory alone {:.2} us; ratio {:.2}; the slowest look {:.1} ms",
        n as f64 / written.as_secs_f64(),
        us(written) / n as f64,
        us(lines) / n as f64,
        us(written) / us(lines),
        us(slowest) / 1000.0,
    );
    println!(
        "  {n_kept} kept in {held} bytes, {:.1} bytes each; never more than {:.3} of the bound",
        held as f64 / n_kept as f64,
        most as f64 / limit as f64,
    );
    (now_us, n_kept)
}

fn ask(extents: &[Extent], now_us: u64, n_kept: u64) {
    let oldest = now_us - n_kept / LOOK * EVERY_US;
    let middle = oldest + (now_us - oldest) / 2;
    let last = now_us - 10_000_000;
    for (what, query) in [
        (
            "the last 10 s of a service",
            json!({"service": "/shop/s7", "since_us": last}),
        ),
        (
            "10 s of a service, long ago",
            json!({"service": "/shop/s7", "since_us": middle, "until_us": middle + 10_000_000}),
        ),
        ("the newest 1,000 of all", json!({})),
        (
            "the newest 1,000 refused (1 in 1,000)",
            json!({"verdict": "refused"}),
        ),
        (
            "a verdict that there is none of: all are read",
            json!({"verdict": "no_backend"}),
        ),
        ("the newest 100,000", json!({"limit": 100_000})),
    ] {
        let query: Query = serde_json::from_value(query).unwrap();
        let filter = Filter::try_from(query).unwrap();
        let mut found = 0;
        let took = median(|| found = read(extents, &filter).len());
        println!("  {what}: {found} found in {:.1} ms", us(took) / 1000.0);
    }
    let all = Filter::try_from(Query::default()).unwrap();
    let mut bytes = 0;
    let took = median(|| {
        each(extents, &all, LOOKED_AT, |flow| bytes += flow.tx_bytes);
    });
    std::hint::black_box(bytes);
    println!(
        "  what a map is made of, {LOOKED_AT} connections: {:.1} ms, {:.0}/s",
        us(took) / 1000.0,
        LOOKED_AT.min(usize::try_from(n_kept).unwrap()) as f64 / took.as_secs_f64()
    );
}

/// Connections of many services to one another, as a node names them.
fn look(from: u64, now_us: u64) -> Vec<EndedFlow> {
    (from..from + LOOK)
        .map(|n| {
            let random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
            let (service, task) = (random % SERVICES, random / SERVICES % TASKS);
            let other = random / 1000 % SERVICES;
            let is_source = random & 1 == 0;
            let name = |s: u64, t: u64| format!("s{s}-{t:04x}.marathon");
            let (own, peer) = (name(service, task), name(other, random / 77 % TASKS));
            let (source, destination) = if is_source { (own, peer) } else { (peer, own) };
            EndedFlow {
                ended_us: now_us - EVERY_US + (n - from) * EVERY_US / LOOK,
                duration_us: random % 3_000_000,
                node: "n1".to_owned(),
                observer: if is_source { "source" } else { "destination" }.to_owned(),
                source,
                destination,
                task_id: format!("shop_s{service}.instance-{task:08x}-2b7e-11ee._app.1"),
                service: format!("/shop/s{service}"),
                vip: is_source.then(|| format!("s{other}.marathon.l4lb.thisdcos.directory:80")),
                local: Some(format!(
                    "9.0.{}.{}:{}",
                    service,
                    task + 2,
                    32_768 + random % 28_000
                )),
                peer: format!("9.0.{}.{}:{}", other, random % 10 + 2, 8080 + random % 7),
                protocol: "tcp".to_owned(),
                verdict: if n.is_multiple_of(1000) {
                    "refused"
                } else {
                    "closed"
                }
                .to_owned(),
                tx_bytes: random % 100_000,
                rx_bytes: random / 3 % 1_000_000,
                connect_us: u32::try_from(random % 900).unwrap(),
                rtt_us: u32::try_from(random % 700).unwrap(),
                ..EndedFlow::default()
            }
        })
        .collect()
}

fn count(extents: &[Extent]) -> u64 {
    let all = Filter::try_from(Query::default()).unwrap();
    let mut n = 0;
    each(extents, &all, usize::MAX, |_| n += 1);
    n
}

fn median(mut run: impl FnMut()) -> Duration {
    let mut all: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            run();
            begun.elapsed()
        })
        .collect();
    all.sort();
    all[ROUNDS / 2]
}

fn us(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}

fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

fn words(file: &str, n: usize) -> String {
    let text = fs::read_to_string(file).unwrap();
    let words: Vec<&str> = text.split_whitespace().take(n).collect();
    words.join(" ")
}

fn high_water_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

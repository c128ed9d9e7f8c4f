//! Step 6: what arrived over OTLP.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use waggle_tests_support::scenario::Task;
use waggle_tests_support::sink::{Log, Span, Store, forest, render};
use waggle_tests_support::wait_until;

use super::Stage;

/// How long telemetry may lag behind.
const ARRIVE_LIMIT: Duration = Duration::from_secs(15);
/// The resource attribute that names a task.
const TASK: &str = "waggle.task.id";
/// Spans that a deployment's trace holds.
const SPANS: [&str; 9] = [
    "deployment",
    "offer.allocate",
    "offer.accept",
    "task.launch",
    "task.receive",
    "container.create",
    "healthcheck.first_pass",
    "task.running",
    "vip.publish",
];

/// Step 6.
pub fn show(stage: &mut Stage) -> anyhow::Result<()> {
    let app = stage.app.as_ref().context("no app")?;
    let tasks = app.tasks(&stage.world.cluster)?;
    let n_nodes = stage.world.cluster.state.nodes.len();
    let mut problems = Vec::new();
    if let Err(error) = metrics(stage, &tasks) {
        problems.push(format!("{error:#}"));
    }
    if let Err(error) = logs(stage, &tasks) {
        problems.push(format!("{error:#}"));
    }
    if let Err(error) = trace(stage, &app.deployment, n_nodes) {
        problems.push(format!("{error:#}"));
    }
    stage.world.sink.with(|store| {
        println!(
            "  arrived: {} spans, {} log records, {} metric points in {} series; {} not kept, {} not relayed",
            store.spans.len(),
            store.logs.len(),
            store.points_received,
            store.points.len(),
            store.dropped,
            store.relay_dropped
        );
        let mut losses: Vec<String> = store
            .points
            .values()
            .filter(|p| p.name.starts_with("waggle.telemetry.") && p.name.contains("dropped"))
            .filter(|p| p.value > 0.0)
            .map(|p| format!("{} {:?} {}", p.name, p.attributes, p.value))
            .collect();
        losses.sort();
        println!("  losses that the nodes report: {}", if losses.is_empty() { "none".to_owned() } else { losses.join("; ") });
    });
    if problems.is_empty() {
        Ok(())
    } else {
        bail!("{}", problems.join("; "))
    }
}

/// One task's figures; none where no such metric arrived.
#[derive(Debug, Clone, Copy)]
struct Figures {
    bytes_in: Option<f64>,
    bytes_out: Option<f64>,
    packets: Option<f64>,
    connects: Option<f64>,
    rtt_s: Option<f64>,
    retransmits: Option<f64>,
    cpu_s: Option<f64>,
    memory_bytes: Option<f64>,
}

fn figures(store: &Store, task: &str) -> Figures {
    let io = |direction| {
        store.total_with(
            "container.network.io",
            (TASK, task),
            ("network.io.direction", direction),
        )
    };
    let histogram = |name: &str| -> Option<(f64, f64)> {
        let mut points = store.points_of(name, TASK, task).peekable();
        points.peek()?;
        Some(points.fold((0.0, 0.0), |(sum, n), p| {
            (sum + p.value, n + p.count as f64)
        }))
    };
    let accepts = store.total("waggle.tcp.server.accept.count", TASK, task);
    let connects = histogram("waggle.tcp.client.connect.duration").map(|(_, n)| n);
    Figures {
        bytes_in: io("receive"),
        bytes_out: io("transmit"),
        packets: store.total("waggle.container.network.packet.count", TASK, task),
        connects: match (accepts, connects) {
            (None, None) => None,
            (a, c) => Some(a.unwrap_or(0.0) + c.unwrap_or(0.0)),
        },
        rtt_s: histogram("waggle.tcp.rtt").map(|(sum, n)| if n > 0.0 { sum / n } else { 0.0 }),
        retransmits: store.total("waggle.tcp.retransmits", TASK, task),
        cpu_s: store.total("container.cpu.time", TASK, task),
        memory_bytes: store.total("container.memory.usage", TASK, task),
    }
}

fn metrics(stage: &Stage, tasks: &[Task]) -> anyhow::Result<()> {
    let sink = &stage.world.sink;
    let missing = |task: &Task| -> Vec<&'static str> {
        let f = sink.with(|store| figures(store, &task.id));
        let positive = |v: Option<f64>| v.is_some_and(|v| v > 0.0);
        [
            ("bytes", positive(f.bytes_in) && positive(f.bytes_out)),
            ("packets", positive(f.packets)),
            ("connects", f.connects.is_some()),
            ("RTT", f.rtt_s.is_some()),
            ("retransmits", f.retransmits.is_some()),
            ("CPU", positive(f.cpu_s)),
            ("memory", positive(f.memory_bytes)),
        ]
        .into_iter()
        .filter(|(_, there)| !there)
        .map(|(name, _)| name)
        .collect()
    };
    let complete = wait_until(ARRIVE_LIMIT, "every task's metrics", || {
        tasks
            .iter()
            .all(|task| missing(task).is_empty())
            .then_some(())
    });
    println!(
        "  {:46} {:>10} {:>10} {:>8} {:>8} {:>9} {:>7} {:>8} {:>9}",
        "container",
        "bytes in",
        "bytes out",
        "packets",
        "connects",
        "RTT",
        "retrans",
        "CPU",
        "memory"
    );
    let whole = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.0}"));
    for task in tasks {
        let f = sink.with(|store| figures(store, &task.id));
        println!(
            "  {:46} {:>10} {:>10} {:>8} {:>8} {:>9} {:>7} {:>8} {:>9}",
            task.id.chars().take(46).collect::<String>(),
            whole(f.bytes_in),
            whole(f.bytes_out),
            whole(f.packets),
            whole(f.connects),
            f.rtt_s
                .map_or_else(|| "-".to_owned(), |v| format!("{:.0} us", v * 1e6)),
            whole(f.retransmits),
            f.cpu_s
                .map_or_else(|| "-".to_owned(), |v| format!("{v:.2} s")),
            f.memory_bytes
                .map_or_else(|| "-".to_owned(), |v| format!("{:.1} MB", v / 1e6)),
        );
    }
    complete.map_err(|error| {
        let gaps: Vec<String> = tasks
            .iter()
            .map(|task| (task, missing(task)))
            .filter(|(_, gaps)| !gaps.is_empty())
            .map(|(task, gaps)| format!("{}: no {}", task.id, gaps.join(", ")))
            .collect();
        error.context(gaps.join("; "))
    })
}

fn logs(stage: &Stage, tasks: &[Task]) -> anyhow::Result<()> {
    let of = |store: &Store, task: &str| -> Vec<Log> {
        let ours = |log: &&Log| log.resource.get(TASK).is_some_and(|id| id == task);
        let mut list: Vec<Log> = store.logs.iter().filter(ours).cloned().collect();
        list.sort_by_key(|log| log.time_ns);
        list
    };
    let sink = &stage.world.sink;
    let from_stream = |log: &Log| log.attributes.contains_key("log.iostream");
    let arrived = wait_until(ARRIVE_LIMIT, "every task's log lines", || {
        let all = |store: &Store| {
            tasks
                .iter()
                .all(|t| of(store, &t.id).iter().any(from_stream))
        };
        sink.with(all).then_some(())
    });
    println!("  last log lines:");
    for task in tasks {
        for log in sink
            .with(|store| of(store, &task.id))
            .iter()
            .filter(|l| from_stream(l))
            .rev()
            .take(1)
        {
            println!(
                "    {} {}",
                log.severity_text,
                log.body.chars().take(160).collect::<String>()
            );
            println!("      attributes {:?}", log.attributes);
            println!("      resource   {:?}", log.resource);
        }
    }
    arrived
}

fn trace(stage: &Stage, deployment: &str, n_nodes: usize) -> anyhow::Result<()> {
    let sink = &stage.world.sink;
    let find = |store: &Store| -> Option<String> {
        let of_this = |span: &&Span| {
            span.name.starts_with("deployment")
                && (deployment.is_empty()
                    || span.name.contains(deployment)
                    || span.attributes.values().any(|value| value == deployment))
        };
        store
            .spans
            .iter()
            .find(of_this)
            .map(|span| span.trace_id.clone())
    };
    let missing = |spans: &[Span]| -> Vec<String> {
        let mut gaps: Vec<String> = SPANS
            .iter()
            .filter(|name| {
                !spans
                    .iter()
                    .any(|s| s.name == **name || s.name.starts_with(&format!("{name} ")))
            })
            .map(|name| (*name).to_owned())
            .collect();
        let n_applied = spans
            .iter()
            .filter(|span| span.name == "vip.apply")
            .filter_map(|span| span.resource.get("host.name").cloned())
            .collect::<BTreeSet<_>>()
            .len();
        if n_applied < n_nodes {
            gaps.push(format!("vip.apply on {n_applied} of {n_nodes} nodes"));
        }
        gaps
    };
    let spans_now = || {
        sink.with(|store| find(store).map(|id| store.trace(&id)))
            .unwrap_or_default()
    };
    let complete = wait_until(ARRIVE_LIMIT, "the deployment's whole trace", || {
        missing(&spans_now()).is_empty().then_some(())
    });
    let spans = spans_now();
    match spans.first() {
        None => {
            let mut names: Vec<String> =
                sink.with(|s| s.spans.iter().map(|s| s.name.clone()).collect());
            names.sort();
            names.dedup();
            bail!(
                "no span of deployment {deployment} arrived; spans that did: {}",
                names.join(", ")
            );
        }
        Some(span) => println!("  trace {} of deployment {deployment}:", span.trace_id),
    }
    let roots = forest(&spans);
    for line in render(&roots).lines() {
        println!("  {line}");
    }
    if roots.len() != 1 {
        bail!(
            "the trace has {} roots: some parents did not arrive",
            roots.len()
        );
    }
    complete.map_err(|error| error.context(format!("no {}", missing(&spans).join(", "))))
}

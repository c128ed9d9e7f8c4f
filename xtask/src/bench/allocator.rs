//! `cargo xtask bench allocator`: the allocator's figures beside their targets and the peers' published
//! ones. What is measured is in `master/allocator/benches`; this prints the table.

use std::io::{BufRead as _, BufReader};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, bail};

use crate::run::{cargo, shown};

/// A row of the table.
struct Row {
    /// Name in the bench's output.
    name: &'static str,
    what: &'static str,
    /// Most that is good; in the unit of the figure.
    target: Option<f64>,
    /// Of whom, how much, and who measured it.
    peer: &'static str,
}

const ROWS: &[Row] = &[
    Row {
        name: "cycle_10k_1k",
        what: "full cycle, 10,000 agents x 1,000 frameworks",
        target: Some(15.0),
        peer: "Mesos 1.7.1: 1,060 ms (published)",
    },
    Row {
        name: "cycle_50k_1k",
        what: "full cycle, 50,000 x 1,000",
        target: Some(60.0),
        peer: "Mesos: 5-6 s (extrapolated from its charts)",
    },
    Row {
        name: "cycle_50k_1k_wall",
        what: "the same on the clock, next to whatever else runs",
        target: None,
        peer: "",
    },
    Row {
        name: "all_filtered_50k_1k",
        what: "all filtered, 50,000 x 1,000",
        target: Some(10.0),
        peer: "hash sets in the manner of Mesos: 15.5 s (imitation measured on the development machine)",
    },
    Row {
        name: "trial_10k_agents_100k_tasks",
        what: "a call of several parts is tried on a copy, 10,000 agents, 100,000 tasks",
        target: None,
        peer: "",
    },
    Row {
        name: "event_p50",
        what: "one event, 50,000 x 1,000, 1.65 M tasks: p50",
        target: None,
        peer: "",
    },
    Row {
        name: "event_p99",
        what: "the same: p99",
        target: Some(10.0),
        peer: "Mesos: the next batch, 1 s by default (published)",
    },
    Row {
        name: "event_end_p99",
        what: "of these, task ends and is offered: p99",
        target: None,
        peer: "",
    },
    Row {
        name: "event_launch_p99",
        what: "of these, offer is accepted: p99",
        target: None,
        peer: "",
    },
    Row {
        name: "multi_framework",
        what: "MultiFrameworkAllocations, 80 agents, 19,500 tasks",
        target: Some(1000.0),
        peer: "none published; time limit of Mesos's own benchmark: 30 s",
    },
    Row {
        name: "fairness_deviation",
        what: "fairness: weighted shares from their mean",
        target: Some(1.0),
        peer: "",
    },
    Row {
        name: "fairness_deviation_tasks",
        what: "the same, in tasks",
        target: Some(1.0),
        peer: "",
    },
    Row {
        name: "worst_wait_500",
        what: "worst wait among 500 decliners (simulated time)",
        target: Some(1000.0),
        peer: "Mesos: without bound (spark#10924, marathon#1931)",
    },
];

/// Builds and runs the bench, and prints the table.
pub fn main(full: bool) -> anyhow::Result<ExitCode> {
    let mut command = cargo();
    command.args(["bench", "-p", "waggle-allocator", "--bench", "allocator"]);
    if full {
        command.args(["--", "--full"]);
    }
    println!("{}", shown(&command));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo bench")?;
    let out = child.stdout.take().context("read from cargo bench")?;
    let mut missed = 0;
    println!(
        "{:<52} {:>14} {:>12}  peer",
        "measured here", "ours", "target"
    );
    for line in BufReader::new(out).lines() {
        let line = line.context("read from cargo bench")?;
        let mut words = line.split_whitespace();
        let (Some(name), Some(value), Some(unit)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let (Some(row), Ok(value)) = (ROWS.iter().find(|r| r.name == name), value.parse::<f64>())
        else {
            continue;
        };
        let unit = unit.split('_').next().unwrap_or(unit);
        let target = row
            .target
            .map_or_else(String::new, |t| format!("{t} {unit}"));
        let miss = row.target.is_some_and(|t| value > t);
        missed += u32::from(miss);
        println!(
            "{:<52} {:>14} {:>12}  {}{}",
            row.what,
            format!("{value:.2} {unit}"),
            target,
            row.peer,
            if miss { "  MISSED" } else { "" }
        );
    }
    let status = child.wait().context("wait for cargo bench")?;
    if !status.success() {
        bail!("the bench of waggle-allocator failed: {status}");
    }
    println!(
        "one thread; cycles: medians of 9, time on the CPU; events: time on the clock; method and targets: PERFORMANCE.md sections 4 and 5"
    );
    if !full {
        println!("not shown: all filtered (fifty million declines of set-up; add --full)");
    }
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

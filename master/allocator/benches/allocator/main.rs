//! The allocator's figures: one line each, `NAME VALUE UNIT`, medians where a figure is a time.
//!
//! `cargo xtask bench allocator` puts targets and published figures beside them. With `--test` (as in
//! `cargo bench -- --test`) everything runs once and small, to show that it still does. `--only NAME` runs
//! what prints figures that begin with NAME: `cycle_50k`, `all_filtered`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may fail as tests do"
)]

mod cluster;
mod fair;
mod speed;

use cluster::Scale;

/// As in the `waggle` binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn figure(name: &str, value: f64, unit: &str) {
    println!("{name} {value:.3} {unit}");
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let small = args.iter().any(|a| a == "--test");
    let only = args.iter().position(|a| a == "--only");
    let only = only.and_then(|at| args.get(at + 1)).cloned();
    let wanted = |name: &str| {
        only.as_ref()
            .is_none_or(|only| name.starts_with(only.as_str()))
    };
    // A dry run is a hundredth of the size.
    let scale = |agents: usize, frameworks: usize| {
        let by = if small { 100 } else { 1 };
        Scale {
            agents: agents / by,
            frameworks: (frameworks / by).max(4),
        }
    };
    let rounds = if small { 1 } else { 9 };
    for (name, agents) in [("cycle_10k_1k", 10_000), ("cycle_50k_1k", 50_000)] {
        if wanted(name) {
            let (cpu, wall) = speed::cycle(scale(agents, 1000), rounds);
            figure(name, cpu, "ms");
            figure(&format!("{name}_wall"), wall, "ms");
        }
    }
    if wanted("trial") {
        let name = "trial_10k_agents_100k_tasks";
        figure(name, speed::trial(scale(10_000, 100), 10, rounds), "ms");
    }
    if wanted("event") {
        for (name, value) in speed::incremental(scale(50_000, 1000)) {
            figure(name, value, "us");
        }
    }
    if wanted("multi_framework") {
        let (ms, n_tasks, n_offers) = speed::multi_framework(if small { 50 } else { 1 });
        figure("multi_framework", ms, "ms");
        figure("multi_framework_tasks", f64::from(n_tasks), "tasks");
        figure("multi_framework_offers", f64::from(n_offers), "offers");
    }
    if wanted("fairness_deviation") {
        let (percent, tasks) = fair::deviation(small);
        figure("fairness_deviation", percent, "%");
        figure("fairness_deviation_tasks", tasks, "tasks");
    }
    if wanted("worst_wait_500") {
        figure("worst_wait_500", fair::worst_wait(small), "ms_simulated");
    }
    if wanted("all_filtered_50k_1k") {
        let all = speed::all_filtered(scale(50_000, 1000), rounds);
        figure("all_filtered_50k_1k", all.again.0, "ms");
        figure("all_filtered_50k_1k_wall", all.again.1, "ms");
        figure("all_filtered_first", all.look.0, "ms");
        figure("all_filtered_first_wall", all.look.1, "ms");
        figure("all_filtered_decline", all.decline_us, "us");
        figure("all_filtered_setup", all.setup_s, "s");
    }
}

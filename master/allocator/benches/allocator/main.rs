//! The allocator's figures: one line each, `NAME VALUE UNIT`, medians where a figure is a time.
//!
//! `cargo xtask bench allocator` puts targets and published figures beside them. With `--test` (as in
//! `cargo bench -- --test`) everything runs once and small, to show that it still does. `--full` adds what
//! takes minutes to set up.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may fail as tests do"
)]

mod cluster;
mod fair;
mod speed;

use cluster::Scale;

fn figure(name: &str, value: f64, unit: &str) {
    println!("{name} {value:.3} {unit}");
}

fn main() {
    let small = std::env::args().any(|a| a == "--test");
    // A dry run is a hundredth of the size.
    let scale = |agents: usize, frameworks: usize| {
        let by = if small { 100 } else { 1 };
        Scale {
            agents: agents / by,
            frameworks: (frameworks / by).max(4),
        }
    };
    let rounds = if small { 1 } else { 9 };
    let (cpu, wall) = speed::cycle(scale(10_000, 1000), rounds);
    figure("cycle_10k_1k", cpu, "ms");
    figure("cycle_10k_1k_wall", wall, "ms");
    let (cpu, wall) = speed::cycle(scale(50_000, 1000), rounds);
    figure("cycle_50k_1k", cpu, "ms");
    figure("cycle_50k_1k_wall", wall, "ms");
    for (name, value) in speed::incremental(scale(50_000, 1000)) {
        figure(name, value, "us");
    }
    let (ms, n_tasks, n_offers) = speed::multi_framework(if small { 50 } else { 1 });
    figure("multi_framework", ms, "ms");
    figure("multi_framework_tasks", f64::from(n_tasks), "tasks");
    figure("multi_framework_offers", f64::from(n_offers), "offers");
    let (percent, tasks) = fair::deviation(small);
    figure("fairness_deviation", percent, "%");
    figure("fairness_deviation_tasks", tasks, "tasks");
    figure("worst_wait_500", fair::worst_wait(small), "ms_simulated");
    if small || std::env::args().any(|a| a == "--full") {
        let (setup, looked) = speed::all_filtered(scale(50_000, 1000), rounds);
        figure("all_filtered_50k_1k", looked, "ms");
        figure("all_filtered_setup", setup, "s");
    }
}

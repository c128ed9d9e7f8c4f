//! Many seeds of whole histories. A failing one is named: run it alone with `WAGGLE_SIM_SEED=<n>`.
//! `WAGGLE_SIM_SEEDS=<n>` runs more of them, `WAGGLE_SIM_VERBOSE=1` says what each did.

use waggle_sim::{Plan, Sim};

fn check(plan: &Plan, seeds: std::ops::Range<u64>) {
    let number = |name| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let one = number("WAGGLE_SIM_SEED");
    let seeds = match number("WAGGLE_SIM_SEEDS") {
        Some(n) => seeds.start..seeds.start + n,
        None => seeds,
    };
    let mut n_started = 0;
    for seed in one.map_or(seeds, |s| s..s + 1) {
        let mut sim = Sim::new(seed, plan.clone());
        if let Err(violation) = sim.settle() {
            for line in sim.history() {
                eprintln!("{line}");
            }
            panic!("seed {seed}: {violation}");
        }
        n_started += sim.n_started();
        if std::env::var_os("WAGGLE_SIM_VERBOSE").is_some() {
            eprintln!("seed {seed}: {}", sim.summary());
        }
    }
    assert!(
        one.is_some() || n_started > 100,
        "nothing happens: {n_started} tasks"
    );
}

#[test]
fn calm_clusters_converge() {
    check(&Plan::calm(), 0..15);
}

#[test]
fn clusters_survive_chaos_and_converge() {
    check(&Plan::chaos(), 1000..1025);
}

#[test]
fn a_lone_node_survives_chaos() {
    let plan = Plan {
        n_agents: 1,
        n_services: 1,
        ..Plan::chaos()
    };
    check(&plan, 2000..2015);
}

#[test]
fn jobs_survive_chaos_and_converge() {
    check(&Plan::jobs(), 5000..5010);
}

#[test]
fn pods_survive_chaos_and_converge() {
    check(&Plan::pods(), 6000..6012);
}

#[test]
fn pods_survive_what_operators_do() {
    let plan = Plan {
        operators: 250,
        ..Plan::pods()
    };
    check(&plan, 7000..7006);
}

#[test]
fn all_of_level_1_converges() {
    check(&Plan::roles(), 3000..3008);
}

#[test]
fn all_of_level_1_survives_chaos() {
    check(&Plan::all_of_it(), 4000..4012);
}

#[test]
fn the_same_seed_is_the_same_history() {
    let history = |seed| {
        let mut sim = Sim::new(seed, Plan::chaos());
        let end = sim.settle();
        (
            format!("{end:?}"),
            sim.history().map(str::to_owned).collect::<Vec<_>>(),
        )
    };
    assert_eq!(history(7), history(7));
    assert_ne!(history(7), history(8));
}

//! `waggle app canary` under traffic: the new version's part of the connections is near its weight, and none fails.

use anyhow::{Context as _, ensure};
use waggle_tests_privileged::{LIMIT, answers_everywhere, can_run, cli, healthy, probe, shared};
use waggle_tests_support::{
    scenario::{Attempt, Probe, World, deploy, remove},
    wait_until,
};

use crate::nginx::{Web, app};

/// Answers that a part is taken of.
const SAMPLE: usize = 2000;

fn web(version: &str) -> String {
    let web = Web {
        id: "/sung",
        vip: "/sung:80",
        version,
        instances: 3,
    };
    app(&web).to_string()
}

/// The part of the next answers that the new version gives, in percent.
fn part(probe: &Probe) -> anyhow::Result<f64> {
    let from = probe.with(<[_]>::len);
    wait_until(LIMIT * 2, "answers", || {
        (probe.with(<[_]>::len) >= from + SAMPLE).then_some(())
    })?;
    let new = |a: &&Attempt| a.body.as_deref().is_some_and(|b| b.starts_with("v2 "));
    let n = probe.with(|list| list[from..from + SAMPLE].iter().filter(new).count());
    Ok(n as f64 * 100.0 / SAMPLE as f64)
}

/// Six standard deviations of a fair choice for each connection.
fn near(part: f64, wanted: f64) -> anyhow::Result<()> {
    let p = wanted / 100.0;
    let off = 600.0 * (p * (1.0 - p) / SAMPLE as f64).sqrt();
    ensure!((part - wanted).abs() <= off, "{part} %, not {wanted} %");
    Ok(())
}

fn sing(world: &World) -> anyhow::Result<()> {
    let deployed = deploy(&world.cluster, &web("v1"), LIMIT)?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("v2.json");
    std::fs::write(&file, web("v2"))?;
    let file = file.to_string_lossy().into_owned();
    let name = "sung.marathon.l4lb.thisdcos.directory:80";
    answers_everywhere(world, name)?;
    let seen = Probe::start(&world.cluster, &probe()?, "n3", name, 2000, 300)?;
    let canary = ["app", "canary"];
    let run = |args: &[&str]| cli::run(world, &[canary.as_slice(), args].concat());
    let shown = run(&["start", "/sung", &file, "--weight", "20"])?;
    ensure!(shown.contains("20.0%"), "{shown}");
    near(part(&seen)?, 20.0)?;
    run(&["weight", "/sung", "60"])?;
    // The nodes hear of it a moment later.
    wait_until(LIMIT, "the new weight to be in force", || {
        let recent = |l: &[Attempt]| l[l.len().saturating_sub(200)..].to_vec();
        let last = seen.with(recent);
        let new = |a: &&Attempt| a.body.as_deref().is_some_and(|b| b.starts_with("v2 "));
        (last.iter().filter(new).count() > 80).then_some(())
    })?;
    near(part(&seen)?, 60.0)?;
    run(&["promote", "/sung"])?;
    healthy(world, &deployed, 3)?;
    near(part(&seen)?, 100.0)?;
    let list = seen.stop();
    let failed: Vec<&Attempt> = list.iter().filter(|a| a.error.is_some()).collect();
    ensure!(
        failed.is_empty(),
        "{} of {} failed, first {:?}",
        failed.len(),
        list.len(),
        failed[0]
    );
    remove(&world.cluster, "/sung", LIMIT)
}

#[test]
fn a_canary_gets_the_part_of_the_traffic_that_it_was_given() -> anyhow::Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut shared = shared()?;
    let world = shared.world()?;
    sing(world).with_context(|| world.cluster.last_words())
}

//! A new version of a web service under load: no request fails, whether connections are kept or made anew.

use std::process::{Child, Stdio};

use anyhow::{Context as _, ensure};
use serde_json::json;
use waggle_tests_privileged::{LIMIT, answers_everywhere, can_run, healthy, probe, shared};
use waggle_tests_support::{
    cluster::Cluster,
    scenario::{Attempt, Probe, World, Wrk, deploy, remove, wrk},
    wait_until,
};

use crate::{
    call,
    nginx::{Web, app},
};

const NAME: &str = "rolled.marathon.l4lb.thisdcos.directory";
/// Longer than it all takes; wrk ends by itself.
const SECONDS: u64 = 40;

/// wrk that keeps its connections for as long as the server does.
fn keeping(cluster: &Cluster, node: &str) -> anyhow::Result<Child> {
    let mut wrk = cluster.command(node, "wrk")?;
    wrk.args(["-t1", "-c8", "--timeout", "5s", &format!("-d{SECONDS}s")]);
    wrk.arg(format!("http://{NAME}:80/"));
    wrk.stdin(Stdio::null()).stdout(Stdio::piped());
    wrk.spawn().context("start wrk")
}

fn roll(world: &World) -> anyhow::Result<()> {
    let web = |version| Web {
        id: "/rolled",
        vip: "/rolled:80",
        version,
        instances: 4,
    };
    let first = app(&web("v1"));
    let deployed = deploy(&world.cluster, &first.to_string(), LIMIT)
        .with_context(|| world.cluster.last_words())?;
    answers_everywhere(world, &format!("{NAME}:80"))?;
    // A record of each answer, beside the volume.
    let seen = Probe::start(
        &world.cluster,
        &probe()?,
        "n2",
        &format!("{NAME}:80"),
        5000,
        120,
    )?;
    let answers = |what: &str, of: &dyn Fn(&[Attempt]) -> bool| {
        wait_until(LIMIT, what, || seen.with(|list| of(list)).then_some(()))
    };
    let says = |a: &Attempt, version: &str| {
        let body = a.body.as_deref().unwrap_or_default();
        body.starts_with(version)
    };
    answers("the first version to answer", &|l| {
        l.iter().any(|a| says(a, "v1"))
    })?;
    let kept = keeping(&world.cluster, "n1")?;
    let anew = wrk(&world.cluster, "n3", &format!("http://{NAME}:80/"), SECONDS)?;
    let so_far = seen.with(<[_]>::len);
    answers("load to run", &|l| l.len() > so_far + 100)?;
    call(world, "PUT", "/v2/apps/rolled", &app(&web("v2")))?;
    healthy(world, &deployed, 4)?;
    let so_far = seen.with(<[_]>::len);
    answers("more answers", &|l| l.len() > so_far + 200)?;
    let list = seen.stop();
    let failed: Vec<&Attempt> = list.iter().filter(|a| a.error.is_some()).collect();
    ensure!(
        failed.is_empty(),
        "{} of {} failed, first {:?}",
        failed.len(),
        list.len(),
        failed[0]
    );
    let (old, new) = list.split_at(so_far);
    ensure!(old.iter().any(|a| says(a, "v1")), "the old one answered");
    let late = new.iter().filter(|a| !says(a, "v2"));
    ensure!(late.count() == 0, "the old version answers after its end");
    for (how, load) in [("kept", kept), ("made anew", anew)] {
        let load = Wrk::finish(load)?;
        println!("connections {how}: {load:?}");
        ensure!(load.requests > 1000, "connections {how}: {load:?}");
        ensure!(load.failed == 0, "connections {how}: {load:?}");
    }
    remove(&world.cluster, "/rolled", LIMIT)
}

#[test]
fn nginx_is_rolled_under_load_without_a_failed_request() -> anyhow::Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut shared = shared()?;
    let world = shared.world()?;
    roll(world).with_context(|| {
        let shown = call(world, "GET", "/v2/apps/rolled", &json!(null));
        format!("{:?}", shown.map(|s| s["app"]["lastTaskFailure"].clone()))
    })
}

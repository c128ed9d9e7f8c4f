//! Steps 4 and 5: what breaks while requests run.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use waggle_tests_support::cluster::{Cluster, port};
use waggle_tests_support::process;
use waggle_tests_support::scenario::{Attempt, Probe, Task, VIP_NAME, Wrk, wrk};
use waggle_tests_support::wait_until;

use super::Stage;

/// How long a dead backend may still be chosen.
const EJECT_LIMIT: Duration = Duration::from_secs(2);
/// How long a replacement may take.
const REPLACE_LIMIT: Duration = Duration::from_secs(40);
/// How long a restarted agent may take to adopt its tasks.
const ADOPT_LIMIT: Duration = Duration::from_secs(20);

fn now_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

fn target() -> String {
    format!("{VIP_NAME}:80")
}

/// Step 4.
pub fn kill_backend(stage: &mut Stage) -> anyhow::Result<()> {
    let cluster = &stage.world.cluster;
    let tasks = stage.app.as_ref().context("no app")?.tasks(cluster)?;
    let victim = tasks.last().context("no task")?.clone();
    let known: BTreeSet<String> = tasks.iter().map(|task| task.id.clone()).collect();
    let there = victim.node(cluster)?.name.clone();
    let elsewhere = cluster
        .state
        .nodes
        .iter()
        .map(|node| node.name.clone())
        .find(|name| *name != there)
        .context("only one node")?;
    let seconds = 8;
    let load = wrk(
        cluster,
        &elsewhere,
        &format!("http://{VIP_NAME}:80/"),
        seconds,
    )?;
    let start =
        |node: &str| Probe::start(cluster, &stage.programs.probe, node, &target(), 2000, 60);
    let probes = [
        (there.clone(), start(&there)?),
        (elsewhere.clone(), start(&elsewhere)?),
    ];
    for (node, probe) in &probes {
        wait_until(
            Duration::from_secs(10),
            &format!("the victim to answer {node}"),
            || {
                let from_victim = |a: &Attempt| a.task() == Some(victim.id.as_str());
                probe
                    .with(|list| list.iter().any(from_victim))
                    .then_some(())
            },
        )?;
    }
    let pids = victim.nginx_pids(cluster)?;
    if pids.is_empty() {
        bail!("{}: no nginx process in its cgroup", victim.id);
    }
    let killed_ns = now_ns();
    for pid in &pids {
        process::signal(*pid, Signal::SIGKILL);
    }
    println!("  SIGKILL to {} on {there} (processes {pids:?})", victim.id);
    let is_new = |a: &Attempt| a.task().is_some_and(|task| !known.contains(task));
    let mut problems = Vec::new();
    for (node, probe) in &probes {
        let what = format!("the replacement to answer {node}");
        if let Err(error) = wait_until(REPLACE_LIMIT, &what, || {
            probe.with(|list| list.iter().any(is_new)).then_some(())
        }) {
            problems.push(format!("{error:#}"));
        }
    }
    let wrk = Wrk::finish(load)?;
    println!(
        "  wrk from {elsewhere}: {} requests in {seconds} s ({:.0}/s), {} failed",
        wrk.requests, wrk.per_second, wrk.failed
    );
    for (node, probe) in probes {
        let list = probe.stop();
        let failed: Vec<&Attempt> = list.iter().filter(|a| a.error.is_some()).collect();
        let hit = |a: &&Attempt| {
            a.at_ns >= killed_ns && (a.error.is_some() || a.task() == Some(victim.id.as_str()))
        };
        let ejected_ns = list
            .iter()
            .filter(hit)
            .map(Attempt::end_ns)
            .max()
            .map_or(0, |end| end - killed_ns);
        let replaced = list
            .iter()
            .find(|a| is_new(a))
            .map(|a| a.end_ns().saturating_sub(killed_ns));
        println!(
            "  probe on {node}: {} requests, {} failed; VIP stopped choosing it after {:.1} ms; replacement served after {}",
            list.len(),
            failed.len(),
            ms(ejected_ns),
            replaced.map_or_else(|| "never".to_owned(), |ns| format!("{:.0} ms", ms(ns))),
        );
        if let Some(first) = failed.first() {
            let after = ms(first.at_ns.saturating_sub(killed_ns));
            let error = first.error.as_deref().unwrap_or_default();
            println!("    first failure {after:.1} ms after the kill: {error}");
        }
        if Duration::from_nanos(ejected_ns) > EJECT_LIMIT {
            problems.push(format!(
                "{node}: requests still failed or reached it {:.1} s after its end",
                ms(ejected_ns) / 1e3
            ));
        }
    }
    if wrk.requests == 0 || wrk.failed * 20 > wrk.requests {
        problems.push(format!(
            "wrk: {} of {} requests failed",
            wrk.failed, wrk.requests
        ));
    }
    if problems.is_empty() {
        wait_three(stage)
    } else {
        bail!("{}", problems.join("; "))
    }
}

/// The service is whole again before the next step starts.
fn wait_three(stage: &Stage) -> anyhow::Result<()> {
    let cluster = &stage.world.cluster;
    let app = stage.app.as_ref().context("no app")?;
    wait_until(REPLACE_LIMIT, "3 healthy instances", || {
        let shown = app.show(cluster).ok()?;
        let healthy = shown["tasksHealthy"].as_u64() == Some(app.instances);
        (healthy && shown["tasksRunning"].as_u64() == Some(app.instances)).then_some(())
    })
}

/// Step 5.
pub fn kill_agent(stage: &mut Stage) -> anyhow::Result<()> {
    let tasks = stage
        .app
        .as_ref()
        .context("no app")?
        .tasks(&stage.world.cluster)?;
    // Not node 1, which leads; one that has a task, if there is one.
    let position = {
        let cluster = &stage.world.cluster;
        let has_task = |name: &str| {
            tasks
                .iter()
                .any(|task| task.node(cluster).is_ok_and(|node| node.name == name))
        };
        let others = || cluster.state.nodes.iter().enumerate().skip(1);
        others()
            .find(|(_, node)| has_task(&node.name))
            .or_else(|| others().next())
            .map(|(position, _)| position)
            .context("only one node")?
    };
    let node = stage.world.cluster.state.nodes[position].clone();
    let here: Vec<Task> = tasks
        .into_iter()
        .filter(|task| {
            task.node(&stage.world.cluster)
                .is_ok_and(|n| n.name == node.name)
        })
        .collect();
    let pids = pids_of(&stage.world.cluster, &here)?;
    let mut probes = Vec::new();
    for other in &stage.world.cluster.state.nodes {
        let probe = &stage.programs.probe;
        probes.push((
            other.name.clone(),
            Probe::start(
                &stage.world.cluster,
                probe,
                &other.name,
                &target(),
                5000,
                60,
            )?,
        ));
    }
    let warm = |n: usize| {
        wait_until(Duration::from_secs(20), "requests on every node", || {
            probes
                .iter()
                .all(|(_, probe)| probe.with(<[Attempt]>::len) >= n)
                .then_some(())
        })
    };
    warm(100)?;
    stage.world.cluster.kill_node(position)?;
    println!(
        "  SIGKILL to {} (process {}), which runs {} tasks",
        node.name,
        node.pid,
        here.len()
    );
    warm(400)?;
    let began = std::time::Instant::now();
    stage.world.cluster.start_node(position)?;
    let cluster = &stage.world.cluster;
    let client = cluster.client();
    let agent = (node.ip, port::AGENT).into();
    wait_until(
        ADOPT_LIMIT,
        &format!("{} to show its tasks again", node.name),
        || {
            let shown = client.get(agent, "/waggle/v1/tasks").ok()?;
            (shown.status == 200 && here.iter().all(|task| shown.body.contains(&task.id)))
                .then_some(())
        },
    )
    .with_context(|| cluster.last_words())?;
    println!(
        "  {} is back and has adopted its tasks after {:.2} s",
        node.name,
        began.elapsed().as_secs_f64()
    );
    warm(800)?;
    let mut problems = Vec::new();
    for (name, probe) in probes {
        let list = probe.stop();
        let failed: Vec<&Attempt> = list.iter().filter(|a| a.error.is_some()).collect();
        println!(
            "  probe on {name}: {} requests, {} failed",
            list.len(),
            failed.len()
        );
        if let Some(first) = failed.first() {
            let error = first.error.as_deref().unwrap_or_default();
            problems.push(format!(
                "{name}: {} requests failed, first: {error}",
                failed.len()
            ));
        }
    }
    let after = pids_of(cluster, &here)?;
    println!("  its nginx processes before {pids:?}, after {after:?}");
    if pids != after {
        problems.push("tasks were restarted instead of adopted".to_owned());
    }
    if problems.is_empty() {
        wait_three(stage)
    } else {
        bail!("{}", problems.join("; "))
    }
}

fn pids_of(cluster: &Cluster, tasks: &[Task]) -> anyhow::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for task in tasks {
        pids.extend(task.nginx_pids(cluster)?);
    }
    pids.sort_unstable();
    Ok(pids)
}

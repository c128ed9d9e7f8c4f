//! Kills while requests run.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use waggle_tests_privileged::{LIMIT, can_run, healthy, probe, shared, web};
use waggle_tests_support::cluster::{NodeInfo, port};
use waggle_tests_support::scenario::{Attempt, Probe, Task, VIP_NAME, World};
use waggle_tests_support::{process, wait_until};

fn start_probe(world: &World, node: &str) -> Probe {
    let target = format!("{VIP_NAME}:80");
    Probe::start(&world.cluster, &probe().unwrap(), node, &target, 4000, 120).unwrap()
}

fn pids(world: &World, tasks: &[Task]) -> Vec<i32> {
    let mut all: Vec<i32> = tasks
        .iter()
        .flat_map(|t| t.nginx_pids(&world.cluster).unwrap())
        .collect();
    all.sort_unstable();
    all
}

/// Name and inode of every pin of a node.
/// Not of links at tracepoints, which are renewed: the kernel can't update such.
fn pins(node: &NodeInfo) -> BTreeSet<(String, u64)> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![node.bpf_dir.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else {
                let inode = entry.metadata().unwrap().ino();
                let renewed = ["reset", "udp_error", "task_exited", "io_done", "dropped"];
                if !renewed.iter().any(|name| entry.file_name() == *name) {
                    found.insert((entry.path().display().to_string(), inode));
                }
            }
        }
    }
    found
}

#[test]
fn a_killed_backend_is_ejected_and_replaced() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let (app, tasks) = web(world).unwrap();
    let known: BTreeSet<String> = tasks.iter().map(|t| t.id.clone()).collect();
    let victim = &tasks[0];
    let probe = start_probe(world, "n3");
    wait_until(LIMIT, "the victim to answer", || {
        probe
            .with(|l| l.iter().any(|a| a.task() == Some(&victim.id)))
            .then_some(())
    })
    .unwrap();
    let killed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    for pid in victim.nginx_pids(&world.cluster).unwrap() {
        process::signal(pid, Signal::SIGKILL);
    }
    wait_until(LIMIT, "a replacement to answer", || {
        let new = |a: &Attempt| a.task().is_some_and(|task| !known.contains(task));
        probe.with(|l| l.iter().any(new)).then_some(())
    })
    .unwrap();
    let list = probe.stop();
    let limit = u64::try_from((killed + Duration::from_secs(2)).as_nanos()).unwrap();
    let late: Vec<&Attempt> = list
        .iter()
        .filter(|a| a.at_ns > limit && (a.error.is_some() || a.task() == Some(&victim.id)))
        .collect();
    assert!(
        late.is_empty(),
        "still chosen 2 s after its end: {:?}",
        late.first()
    );
    healthy(world, &app, 3).unwrap();
}

#[test]
fn a_killed_agent_adopts_its_tasks_and_no_request_fails() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let (app, tasks) = web(world).unwrap();
    // Node 2 or 3: node 1 leads.
    let position = if tasks
        .iter()
        .any(|t| t.node(&world.cluster).unwrap().name == "n2")
    {
        1
    } else {
        2
    };
    let node = world.cluster.state.nodes[position].clone();
    let (before, pinned) = (pids(world, &tasks), pins(&node));
    let probes = [start_probe(world, &node.name), start_probe(world, "n1")];
    let run = |n: usize| {
        wait_until(LIMIT, "requests", || {
            probes
                .iter()
                .all(|p| p.with(<[Attempt]>::len) >= n)
                .then_some(())
        })
        .unwrap();
    };
    run(50);
    world.cluster.kill_node(position).unwrap();
    run(300);
    world.cluster.start_node(position).unwrap();
    let here: Vec<&Task> = tasks
        .iter()
        .filter(|t| t.node(&world.cluster).unwrap().name == node.name)
        .collect();
    let client = world.cluster.client();
    wait_until(LIMIT, "the agent to show its tasks", || {
        let shown = client
            .get((node.ip, port::AGENT).into(), "/waggle/v1/tasks")
            .ok()?;
        (shown.status == 200 && here.iter().all(|t| shown.body.contains(&t.id))).then_some(())
    })
    .unwrap();
    run(600);
    for probe in probes {
        let failed: Vec<Attempt> = probe
            .stop()
            .into_iter()
            .filter(|a| a.error.is_some())
            .collect();
        assert!(
            failed.is_empty(),
            "{} failed, first {:?}",
            failed.len(),
            failed[0]
        );
    }
    assert_eq!(pids(world, &tasks), before, "tasks were restarted");
    assert_eq!(pins(&node), pinned, "pins were replaced instead of adopted");
    healthy(world, &app, 3).unwrap();
}

#[test]
fn a_rolling_restart_loses_no_request() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let (app, tasks) = web(world).unwrap();
    let known: BTreeSet<String> = tasks.iter().map(|t| t.id.clone()).collect();
    let probes = [start_probe(world, "n1"), start_probe(world, "n3")];
    let path = format!("/v2/apps{}/restart", app.id);
    let marathon = world.cluster.leader(port::MARATHON);
    let client = world.cluster.client();
    let answer = client
        .request("POST", marathon, &path, Some(b"{}"), &[])
        .unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    wait_until(LIMIT, "only new instances to answer", || {
        let newest = |p: &Probe| {
            p.with(|all| {
                let last = all.iter().rev().take(50);
                let mut tasks = last.map(|a| a.task().map(str::to_owned));
                all.len() > 50 && tasks.all(|t| t.is_some_and(|t| !known.contains(&t)))
            })
        };
        probes.iter().all(newest).then_some(())
    })
    .unwrap();
    healthy(world, &app, 3).unwrap();
    for probe in probes {
        let all = probe.stop();
        let failed: Vec<&Attempt> = all.iter().filter(|a| a.error.is_some()).collect();
        let (n, of) = (failed.len(), all.len());
        assert!(
            failed.is_empty(),
            "{n} of {of} failed, first {:?}",
            failed[0]
        );
    }
}

#[test]
fn a_killed_leader_comes_back_with_its_services() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let (app, tasks) = web(world).unwrap();
    let before = pids(world, &tasks);
    let probe = start_probe(world, "n2");
    wait_until(LIMIT, "requests", || {
        (probe.with(<[_]>::len) > 50).then_some(())
    })
    .unwrap();
    world.cluster.kill_node(0).unwrap();
    let at = probe.with(<[_]>::len);
    wait_until(LIMIT, "requests without a master", || {
        (probe.with(<[_]>::len) > at + 200).then_some(())
    })
    .unwrap();
    world.cluster.start_node(0).unwrap();
    healthy(world, &app, 3).unwrap();
    let failed: Vec<Attempt> = probe
        .stop()
        .into_iter()
        .filter(|a| a.error.is_some())
        .collect();
    assert!(
        failed.is_empty(),
        "{} failed, first {:?}",
        failed.len(),
        failed[0]
    );
    assert_eq!(pids(world, &tasks), before, "tasks were restarted");
}

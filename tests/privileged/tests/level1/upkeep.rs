//! Draining, maintenance, and a framework with state.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use tokio::sync::watch;
use waggle_tests_frameworks::stateful::{self, Seen, Service};
use waggle_tests_privileged::{
    LIMIT, can_run,
    cli::{says, shows},
    healthy, probe, shared, web,
};
use waggle_tests_support::{
    cgroup, process,
    scenario::{App, Attempt, Probe, Task, VIP_NAME, World},
    wait_until,
};
use waggle_types::{ContainerSpec, Resources};

use crate::cast::running;
use crate::member::Member;

/// A node with tasks of the app, not the first, where the master is; and one that is neither.
fn victim(world: &World, tasks: &[Task]) -> (String, String) {
    let busy: BTreeSet<String> = tasks
        .iter()
        .map(|t| t.node(&world.cluster).unwrap().name.clone())
        .collect();
    if busy.contains("n2") {
        ("n2".to_owned(), "n3".to_owned())
    } else {
        ("n3".to_owned(), "n2".to_owned())
    }
}

fn start_probe(world: &World, node: &str) -> Probe {
    let target = format!("{VIP_NAME}:80");
    let probe = Probe::start(&world.cluster, &probe().unwrap(), node, &target, 4000, 120).unwrap();
    wait_until(LIMIT, "requests", || {
        (probe.with(<[Attempt]>::len) > 50).then_some(())
    })
    .unwrap();
    probe
}

/// Waits until the app is whole again without this node.
fn moved(world: &World, app: &App, node: &str) {
    wait_until(LIMIT, "the tasks to move", || {
        let tasks = app.tasks(&world.cluster).ok()?;
        let on_it = |t: &Task| t.node(&world.cluster).is_ok_and(|n| n.name == node);
        (tasks.len() == 3 && !tasks.iter().any(on_it)).then_some(())
    })
    .unwrap();
    healthy(world, app, 3).unwrap();
    let of = world.cluster.node(node).unwrap();
    let left = cgroup::pids_below(&of.cgroup);
    let left = left.iter().filter(|pid| process::comm(**pid) == "nginx");
    assert_eq!(left.count(), 0, "nginx still runs on {node}");
}

/// The VIP answered all the while but for what was under way when the tasks were ended.
fn answered(probe: Probe, since: Duration) {
    let at = probe.with(<[Attempt]>::len);
    wait_until(LIMIT, "requests after the move", || {
        (probe.with(<[Attempt]>::len) > at + 100).then_some(())
    })
    .unwrap();
    let all = probe.stop();
    let limit = u64::try_from((since + Duration::from_secs(2)).as_nanos()).unwrap();
    let failed = || all.iter().filter(|a| a.error.is_some());
    let late: Vec<&Attempt> = failed().filter(|a| a.at_ns > limit).collect();
    assert!(
        late.is_empty(),
        "{} failed, first {:?}",
        late.len(),
        late[0]
    );
    let n = failed().count();
    assert!(n * 50 <= all.len(), "{n} of {} failed", all.len());
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn until_mode(world: &World, node: &str, wanted: &str) {
    wait_until(LIMIT, &format!("{node} to be {wanted}"), || {
        let nodes = shows(world, &["node", "list"]);
        let mut all = nodes.as_array()?.iter();
        let found = all.find(|n| n["hostname"] == node)?;
        (found["mode"] == wanted).then_some(())
    })
    .unwrap();
}

#[test]
fn a_drained_nodes_tasks_move_and_the_vip_goes_on() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let (app, tasks) = web(world).unwrap();
    let (node, other) = victim(world, &tasks);
    let probe = start_probe(world, &other);
    let since = now();
    says(world, &["node", "drain", &node]);
    moved(world, &app, &node);
    until_mode(world, &node, "drained");
    answered(probe, since);
    // A master that starts anew knows it, too.
    world.cluster.kill_node(0).unwrap();
    world.cluster.start_node(0).unwrap();
    healthy(world, &app, 3).unwrap();
    until_mode(world, &node, "drained");
    says(world, &["node", "activate", &node]);
    until_mode(world, &node, "active");
}

#[test]
fn maintenance_empties_a_node_when_it_begins() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let (app, tasks) = web(world).unwrap();
    let (node, other) = victim(world, &tasks);
    let probe = start_probe(world, &other);
    let plan = ["maintenance", "schedule", "--agent", &node];
    let when = ["--start", "+3s", "--duration", "1h"];
    says(world, &[&plan[..], &when].concat());
    let since = now() + Duration::from_secs(3);
    let planned = |world: &World, n: usize| {
        wait_until(LIMIT, &format!("{n} windows"), || {
            let all = shows(world, &["maintenance", "list"]);
            (all.as_array()?.len() == n).then_some(())
        })
        .unwrap();
    };
    planned(world, 1);
    moved(world, &app, &node);
    answered(probe, since);
    says(world, &["maintenance", "cancel", "--agent", &node]);
    planned(world, 0);
    until_mode(world, &node, "active");
}

/// Ends the process of a task, as a crash would. It may run for a moment before it is the program that it is
/// meant to be.
fn crash(world: &World, task: &str) {
    let is_it = |pid: &i32| {
        let of = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        process::comm(*pid) == "sleep" && of.contains(task)
    };
    wait_until(LIMIT, "the task's process", || {
        let nodes = world.cluster.state.nodes.iter();
        let below = nodes.flat_map(|n| cgroup::pids_below(&n.cgroup));
        let pids: Vec<i32> = below.filter(is_it).collect();
        for pid in &pids {
            process::signal(*pid, Signal::SIGKILL);
        }
        (!pids.is_empty()).then_some(())
    })
    .unwrap();
}

#[test]
fn a_stateful_task_comes_back_to_its_volume() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    web(world).unwrap();
    let service = Service {
        name: "db".to_owned(),
        role: "prod/db".to_owned(),
        prefix: "db".to_owned(),
        command: "exec sleep 1000".to_owned(),
        container: ContainerSpec::default(),
        resources: Resources::from_millis(100, 32_000, 64_000),
        id: None,
        volume: None,
    };
    let (tx, seen) = watch::channel(Seen::default());
    let db = Member::start(&world.cluster, async move |channel| {
        // It ends when it is dropped.
        let _ = stateful::run(channel, service, tx).await;
    });
    let one = |world: &World| {
        let mut all = running(world, "db-").into_iter();
        all.next().filter(|_| all.next().is_none())
    };
    let first = wait_until(LIMIT, "its task", || one(world)).unwrap();
    let home = wait_until(LIMIT, "its volume", || seen.borrow().home.clone()).unwrap();
    // Its task dies while the master is away.
    world.cluster.kill_node(0).unwrap();
    crash(world, &first);
    world.cluster.start_node(0).unwrap();
    wait_until(LIMIT, "another task in the same place", || {
        let back = one(world)? != first && seen.borrow().n_returned == 1;
        back.then_some(())
    })
    .unwrap();
    assert_eq!(seen.borrow().home, Some(home), "it is the same volume");
    let volumes = shows(world, &["volume", "list"]);
    let [volume] = &volumes.as_array().unwrap()[..] else {
        panic!("{volumes}")
    };
    drop(db);
    says(world, &["framework", "teardown", "db"]);
    wait_until(LIMIT, "its processes to be gone", || {
        running(world, "db-").is_empty().then_some(())
    })
    .unwrap();
    let text = |key: &str| volume[key].as_str().unwrap().to_owned();
    let (id, agent) = (text("id"), text("agent_id"));
    wait_until(LIMIT, "the volume to be free", || {
        let all = shows(world, &["volume", "list"]);
        (all[0]["tasks"].as_array()?.is_empty()).then_some(())
    })
    .unwrap();
    says(world, &["volume", "destroy", &id, "--yes"]);
    let of = ["--agent", &agent, "--role", "prod/db", "--principal", "db"];
    says(world, &[&["reservation", "remove"][..], &of].concat());
}

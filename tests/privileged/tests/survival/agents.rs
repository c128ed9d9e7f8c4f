//! Agents that are killed, and replaced by another version, under load.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use waggle_tests_privileged::{LIMIT, can_run, healthy, shared, waggle, web};
use waggle_tests_support::bpf::{self, Kind, Object};
use waggle_tests_support::cluster::{NodeInfo, Program, port};
use waggle_tests_support::scenario::{Task, VIP_NAME, World, remove};
use waggle_tests_support::{process, sleep, wait_until};

use crate::calm::{Calm, run_app};
use crate::load::Load;

/// Tasks on the node whose agent goes, beside those behind the VIP.
const TASKS: usize = 50;
/// How soon all of them are adopted: the goal is 3 s; a debug build on a busy machine has needed ten.
const ADOPTED: Duration = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 3 });

/// Links at tracepoints: the kernel can't update such, a second one comes before the first goes.
const RENEWED: [&str; 5] = ["reset", "udp_error", "task_exited", "io_done", "dropped"];

/// What of the node's links, programs and maps is pinned, but for [`RENEWED`].
fn pinned(node: &NodeInfo) -> BTreeSet<Object> {
    let mut files: Vec<PathBuf> = Vec::new();
    let mut dirs = vec![node.bpf_dir.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else if !RENEWED.iter().any(|name| entry.file_name() == *name) {
                files.push(entry.path());
            }
        }
    }
    bpf::pinned_themselves(files.iter().map(PathBuf::as_path))
}

fn links_and_maps(node: &NodeInfo) -> BTreeSet<Object> {
    let mut found = pinned(node);
    found.retain(|(kind, _)| *kind != Kind::Program);
    found
}

/// Looks all the time while `f` runs: whether everything of `kept` was always there.
fn watched<T>(node: &NodeInfo, kept: &BTreeSet<Object>, f: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut n = 0_u64;
            while !over.load(Ordering::Relaxed) {
                let missing = kept - &pinned(node);
                if !missing.is_empty() {
                    return Err(format!("{missing:?} of {kept:?} at look {n}"));
                }
                n += 1;
                sleep(Duration::from_millis(2));
            }
            Ok(n)
        });
        let out = f();
        over.store(true, Ordering::Relaxed);
        let n = watch.join().unwrap().unwrap();
        assert!(n > 10, "{n} looks are no watch");
        out
    })
}

/// Many tasks on n2.
fn many(world: &World) -> Vec<Task> {
    let definition = format!(
        r#"{{"id": "/many", "instances": {TASKS}, "cpus": 0.01, "mem": 32, "cmd": "exec sleep 100000",
            "constraints": [["hostname", "CLUSTER", "n2"]]}}"#
    );
    let tasks = run_app(world, &definition);
    assert_eq!(tasks.len(), TASKS);
    tasks
}

/// The process of every task, as the node's cgroups have them.
fn processes(world: &World) -> BTreeSet<(i32, u64)> {
    let nodes = world.cluster.state.nodes.iter();
    nodes
        // The name on a hybrid host, and on others.
        .flat_map(|n| ["waggle.tasks", "tasks"].map(|holder| n.cgroup.join(holder)))
        .flat_map(|tasks| waggle_tests_support::cgroup::pids_below(&tasks))
        .filter_map(|pid| Some((pid, process::start_ticks(pid)?)))
        .collect()
}

/// Until the agent shows all of these tasks as running.
fn adopted(world: &World, node: &NodeInfo, tasks: &[Task]) -> Duration {
    let begun = Instant::now();
    let client = world.cluster.client();
    wait_until(LIMIT, "the agent to show its tasks", || {
        let agent = (node.ip, port::AGENT).into();
        let answer = client.get(agent, "/waggle/v1/tasks").ok()?.json().ok()?;
        let shown: BTreeSet<&str> = answer["tasks"]
            .as_array()?
            .iter()
            .filter(|t| t["state"] == "TASK_RUNNING")
            .filter_map(|t| t["id"].as_str())
            .collect();
        tasks
            .iter()
            .all(|t| shown.contains(t.id.as_str()))
            .then_some(())
    })
    .unwrap();
    begun.elapsed()
}

#[test]
fn a_killed_agent_takes_nothing_with_it() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let (app, _) = web(world).unwrap();
    let calm = Calm::before(world);
    let mut tasks = many(world);
    let node = world.cluster.node("n2").unwrap().clone();
    let load = Load::start(&world.cluster, ["n2", "n3"], &format!("{VIP_NAME}:80"));
    let (before, kept) = (processes(world), links_and_maps(&node));
    assert!(before.len() >= TASKS && kept.iter().any(|(kind, _)| *kind == Kind::Link));
    let took = watched(&node, &kept, || {
        world.cluster.kill_node(1).unwrap();
        load.on(200);
        world.cluster.start_node(1).unwrap();
        let took = adopted(world, &node, &tasks);
        load.on(200);
        took
    });
    let said = load.assert_whole();
    println!(
        "{said}; {} tasks adopted in {} ms",
        tasks.len(),
        took.as_millis()
    );
    assert!(took < ADOPTED, "{took:?}");
    assert_eq!(processes(world), before, "processes changed");
    assert_eq!(links_and_maps(&node), kept, "links or maps changed");
    healthy(world, &app, 3).unwrap();
    tasks.clear();
    remove(&world.cluster, "/many", LIMIT).unwrap();
    calm.assert_after(world);
}

/// The version before this one, where `WAGGLE_PREVIOUS` names a binary of it; else this one once more, from another
/// file: then only the way from one binary to the next is shown.
fn previous(dir: &Path) -> (PathBuf, bool) {
    if let Some(path) = std::env::var_os("WAGGLE_PREVIOUS") {
        return (PathBuf::from(path), true);
    }
    let copy = dir.join("waggle");
    std::fs::copy(waggle().unwrap(), &copy).unwrap();
    (copy, false)
}

#[test]
fn another_version_takes_over_without_a_failed_connection() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let (app, _) = web(world).unwrap();
    let calm = Calm::before(world);
    let dir = tempfile::tempdir().unwrap();
    let (older, real) = previous(dir.path());
    let node = world.cluster.node("n2").unwrap().clone();
    let load = Load::start(&world.cluster, ["n2", "n3"], &format!("{VIP_NAME}:80"));
    let before = processes(world);
    let here: Vec<Task> = app
        .tasks(&world.cluster)
        .unwrap()
        .into_iter()
        .filter(|t| t.node(&world.cluster).unwrap().name == "n2")
        .collect();
    // Down and up again, as a service manager does it: asked to stop, then started from the other file.
    for program in [older, waggle().unwrap()] {
        world.cluster.stop_node(1).unwrap();
        load.on(100);
        let program = Program::Waggle(program);
        world.cluster.start_node_as(1, &program).unwrap();
        adopted(world, &node, &here);
        load.on(200);
        assert_eq!(processes(world), before, "processes changed");
    }
    let said = load.assert_whole();
    let what = if real {
        "to the version before and back"
    } else {
        "to the same version in another file and back (WAGGLE_PREVIOUS names none before)"
    };
    println!("{what}: {said}");
    healthy(world, &app, 3).unwrap();
    calm.assert_after(world);
}

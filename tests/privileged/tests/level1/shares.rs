//! The service framework, a batch framework and a hoarder at once; quota and weights.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tokio::sync::watch;
use waggle_tests_frameworks::{
    batch::{self, Job, Report},
    hoarder::{self, Seen},
};
use waggle_tests_privileged::{
    LIMIT, can_run,
    cli::{says, shows},
    healthy, shared, web,
};
use waggle_tests_support::{
    cluster::port,
    scenario::{App, World},
    wait_until,
};
use waggle_types::Resources;

use crate::cast::{info, running, task};
use crate::member::Member;

/// What a batch reports when all of it has ended.
type Told = Arc<Mutex<Option<Report>>>;

/// A batch of equal commands.
fn batch(world: &World, name: &str, n: usize, command: &str) -> (Member, Told) {
    run(world, name, vec![command.to_owned(); n], task())
}

fn run(world: &World, name: &str, commands: Vec<String>, task: Resources) -> (Member, Told) {
    let job = Job {
        info: info(name),
        prefix: name.to_owned(),
        commands,
        resources: task,
        max_failures: 2,
    };
    let report = Arc::new(Mutex::new(None));
    let told = Arc::clone(&report);
    let member = Member::start(&world.cluster, async move |channel| {
        let done = batch::run(channel, job).await.unwrap();
        *told.lock().unwrap() = Some(done);
    });
    (member, report)
}

fn scale(world: &World, app: &App, n: u64) {
    let path = format!("/v2/apps{}?force=true", app.id);
    let body = json!({"instances": n}).to_string();
    let client = world.cluster.client();
    let marathon = world.cluster.leader(port::MARATHON);
    let answer = client.request("PUT", marathon, &path, Some(body.as_bytes()), &[]);
    answer.unwrap().ok().unwrap();
    healthy(world, app, n).unwrap();
}

#[test]
fn a_hoarder_keeps_nobody_from_running() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let (app, _) = web(world).unwrap();
    let (tx, seen) = watch::channel(Seen::default());
    let hoarder = Member::start(&world.cluster, async move |channel| {
        // It ends when it is dropped.
        let _ = hoarder::run(channel, info("hoarder"), tx).await;
    });
    wait_until(LIMIT, "the hoarder to sit on every node", || {
        (seen.borrow().offers >= 3).then_some(())
    })
    .unwrap();
    let explained = says(world, &["explain", "framework", "hoarder"]);
    assert!(explained.contains("hoarder"), "{explained}");
    let (_batch, report) = batch(world, "batch", 40, "sleep 0.2");
    scale(world, &app, 4);
    let report = wait_until(LIMIT, "the batch to end", || report.lock().unwrap().clone()).unwrap();
    assert_eq!((report.finished, report.failed), (40, 0), "{report:?}");
    assert!(seen.borrow().rescinded > 0, "what it hoards is taken back");
    drop(hoarder);
    scale(world, &app, 3);
    wait_until(LIMIT, "the batch's processes to be gone", || {
        running(world, "batch-").is_empty().then_some(())
    })
    .unwrap();
}

#[test]
fn a_limit_holds_at_every_moment() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    web(world).unwrap();
    says(world, &["quota", "set", "capped", "--limit", "cpus=0.3"]);
    let (_batch, report) = batch(world, "capped", 12, "sleep 1");
    let mut most = 0;
    let report = wait_until(LIMIT, "the batch to end", || {
        let now = running(world, "capped-");
        assert!(now.len() <= 3, "more than the limit runs: {now:?}");
        most = most.max(now.len());
        report.lock().unwrap().clone()
    })
    .unwrap();
    assert_eq!(report.finished, 12, "{report:?}");
    assert_eq!(most, 3, "it gets what it may have");
    says(world, &["quota", "remove", "capped"]);
}

#[test]
fn weighted_shares_hold_while_tasks_come_and_go() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    web(world).unwrap();
    says(world, &["weight", "set", "heavy", "2"]);
    // Half a CPU each; some take longer than others, or whole nodes would change hands at once.
    let task = Resources::from_millis(500, 16_000, 0);
    let sleep = |n: u32| format!("sleep 0.{}", 3 + n * 7 % 5);
    let light = run(world, "light", (0..400).map(sleep).collect(), task.clone());
    let heavy = run(world, "heavy", (0..400).map(sleep).collect(), task);
    let (mut seen, mut sums) = (BTreeSet::new(), (0, 0));
    wait_until(LIMIT, "a hundred tasks to run", || {
        let (h, l) = (running(world, "heavy-"), running(world, "light-"));
        if !h.is_empty() && !l.is_empty() {
            sums.0 += h.len();
            sums.1 += l.len();
        }
        seen.extend(h);
        seen.extend(l);
        (seen.len() > 100).then_some(())
    })
    .unwrap();
    // By tenths: 2 to 1, as far as a handful of tasks can be shared out.
    let ratio = sums.0 * 10 / sums.1;
    assert!((15..=26).contains(&ratio), "{sums:?}");
    drop((light, heavy));
    for name in ["light", "heavy"] {
        says(world, &["framework", "teardown", name]);
    }
    says(world, &["weight", "remove", "heavy"]);
    wait_until(LIMIT, "their processes to be gone", || {
        let left = [running(world, "heavy-"), running(world, "light-")];
        left.iter().all(BTreeSet::is_empty).then_some(())
    })
    .unwrap();
}

#[test]
fn what_operators_set_outlives_the_master() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let (app, _) = web(world).unwrap();
    let ops = ["--agent", "n3", "--role", "prod", "--principal", "ops"];
    let cut = ["--resources", "cpus:0.2;mem:64;disk:128"];
    says(world, &["weight", "set", "prod", "2.5"]);
    let promise = ["--guarantee", "cpus=0.5,mem=128", "--limit", "cpus=1"];
    says(world, &[&["quota", "set", "prod"][..], &promise].concat());
    says(world, &[&["reservation", "add"][..], &ops, &cut].concat());
    let size = ["--size", "64"];
    says(
        world,
        &[&["volume", "create", "kept"][..], &ops, &size].concat(),
    );
    let set = |world: &World| {
        [
            shows(world, &["weight", "list"]),
            shows(world, &["quota", "list"]),
            shows(world, &["reservation", "list"]),
            shows(world, &["volume", "list"]),
        ]
    };
    // The view follows within some milliseconds.
    let mut before = set(world);
    wait_until(LIMIT, "everything to be shown", || {
        before = set(world);
        let all = before
            .iter()
            .all(|v| v.as_array().is_some_and(|v| v.len() == 1));
        all.then_some(())
    })
    .unwrap();
    world.cluster.kill_node(0).unwrap();
    world.cluster.start_node(0).unwrap();
    healthy(world, &app, 3).unwrap();
    wait_until(LIMIT, "everything to be as it was set", || {
        (set(world) == before).then_some(())
    })
    .unwrap();
    says(world, &["volume", "destroy", "kept", "--yes"]);
    says(world, &[&["reservation", "remove"][..], &ops].concat());
    says(world, &["quota", "remove", "prod"]);
    says(world, &["weight", "remove", "prod"]);
    wait_until(LIMIT, "everything to be undone", || {
        let left = set(world);
        let none = left.iter().all(|v| v.as_array().is_some_and(Vec::is_empty));
        none.then_some(())
    })
    .unwrap();
}

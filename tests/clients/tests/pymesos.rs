//! pymesos 0.3.15, unmodified, on nodes of a real cluster.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

use std::path::{Path, PathBuf};

use waggle_tests_clients::old_python_with;
use waggle_tests_privileged::{bin_dir, can_run, shared};

fn python() -> Option<PathBuf> {
    if !can_run() {
        return None;
    }
    match old_python_with(&["pymesos==0.3.15"], &bin_dir().unwrap()) {
        Ok(python) => Some(python),
        Err(e) => {
            eprintln!("SKIP: pymesos can't be installed here: {e:#}");
            None
        }
    }
}

/// Runs steps of the script on a node; each says what it has shown.
fn run(node: &str, steps: &[&str], shown: &[&str]) {
    let Some(python) = python() else {
        return;
    };
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/pymesos_client.py");
    let out = world
        .cluster
        .command(node, python.to_str().unwrap())
        .unwrap()
        .arg(script)
        .arg("127.0.0.1:5050")
        .args(steps)
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&out.stdout);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{stdout}{stderr}");
    for step in shown {
        assert!(stdout.contains(step), "{step:?} is not in {stdout}");
    }
}

#[test]
fn pymesos_runs_kills_and_reconciles_tasks() {
    // Not on the leading node: the client follows the redirect.
    let shown = [
        "ok command tasks, failure, kill, kill policy",
        "ok stale offers, unknown tasks, late acknowledgements, over-sized tasks",
        "ok reconciliation, teardown",
        "ok explicit acknowledgements, partition-aware states",
    ];
    run("n2", &["tasks", "acks"], &shown);
}

#[test]
fn pymesos_hears_what_checks_say() {
    run("n1", &["checks"], &["ok general checks"]);
}

#[test]
fn pymesos_declines_suppresses_and_fails_over() {
    let shown = [
        "ok roles, decline with refuse_seconds, suppress and revive",
        "ok failover with the same id, teardown ends the id",
    ];
    run("n1", &["offers", "failover"], &shown);
}

#[test]
fn pymesos_reserves_and_keeps_data() {
    let shown = ["ok reserve, create, launch, destroy, unreserve"];
    run("n1", &["volumes"], &shown);
}

#[test]
fn pymesos_runs_tasks_on_its_own_executor() {
    let shown = [
        "ok several tasks on pymesos's executor, messages, kill, its exit",
        "ok an executor ends with its framework",
    ];
    run("n1", &["executors"], &shown);
}

#[test]
fn pymesos_operates_and_listens() {
    run("n2", &["operator"], &["ok operator driver"]);
}

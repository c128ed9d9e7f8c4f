//! marathon-python 0.13, unmodified, on a node of a real cluster.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

use std::path::Path;

use waggle_tests_clients::old_python_with;
use waggle_tests_privileged::{bin_dir, can_run, shared};

/// Runs a script on a node that does not lead, so that the client follows redirects.
fn run_on_n2(script: &str, steps: &[&str]) {
    if !can_run() {
        return;
    }
    let python = match old_python_with(&["marathon==0.13.0"], &bin_dir().unwrap()) {
        Ok(python) => python,
        Err(e) => {
            eprintln!("SKIP: marathon-python can't be installed here: {e:#}");
            return;
        }
    };
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scripts")
        .join(script);
    let out = world
        .cluster
        .command("n2", python.to_str().unwrap())
        .unwrap()
        .arg(script)
        .arg("http://127.0.0.1:8080")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&out.stdout);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{stdout}{stderr}");
    for step in steps {
        assert!(stdout.contains(step), "{stdout}");
    }
}

#[test]
fn marathon_python_lives_through_the_life_of_an_app() {
    let steps = ["ok container, readiness checks", "ok removal, errors"];
    run_on_n2("marathon_client.py", &steps);
}

#[test]
fn marathon_python_hears_of_every_event_and_makes_every_call() {
    let steps = [
        "ok events of a deployment",
        "ok kills",
        "ok queue, deployments, metrics",
        "ok groups",
        "ok abdication",
    ];
    run_on_n2("marathon_events.py", &steps);
}

#[test]
fn marathon_python_lives_through_the_life_of_a_group() {
    let steps = [
        "ok group, its apps and steps",
        "ok lock, cancel",
        "ok removal",
    ];
    run_on_n2("marathon_groups.py", &steps);
}

//! task_processing 1.4.0 (Yelp), unmodified, on a node of a real cluster.

use std::path::Path;

use waggle_tests_clients::old_python_with;
use waggle_tests_privileged::{bin_dir, can_run, shared};

/// What it needs is named: the extra of its package for Mesos is spelled in two ways, so that pip finds neither.
const REQUIREMENTS: [&str; 3] = [
    "task_processing==1.4.0",
    "pymesos==0.3.15",
    "requests==2.32.3",
];

#[test]
fn task_processing_runs_ten_tasks() {
    if !can_run() {
        return;
    }
    let python = match old_python_with(&REQUIREMENTS, &bin_dir().unwrap()) {
        Ok(python) => python,
        Err(e) => {
            eprintln!("SKIP: task_processing can't be installed here: {e:#}");
            return;
        }
    };
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/task_processing_client.py");
    // Not on the leading node: the client follows the redirect.
    let out = world
        .cluster
        .command("n2", python.to_str().unwrap())
        .unwrap()
        .arg(script)
        .arg("127.0.0.1:5050")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&out.stdout);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{stdout}{stderr}");
    for step in [
        "ok ten tasks on task_processing's executor",
        "ok their output by its logging executor",
        "ok a kill",
    ] {
        assert!(stdout.contains(step), "{step:?} is not in {stdout}{stderr}");
    }
}

//! Jobs as people use them: run now, failing and tried again, on a schedule, over a restart of the master.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::{Value, json};
use waggle_tests_privileged::{
    LIMIT, can_run,
    cli::{fails, says},
    shared,
};
use waggle_tests_support::{
    cluster::{port, wait_ready},
    scenario::World,
    wait_until,
};

fn get(world: &World, path: &str) -> Value {
    let leader = world.cluster.leader(port::MARATHON);
    let answer = world.cluster.client().get(leader, path).unwrap();
    answer.ok().unwrap().json().unwrap()
}

/// A file of its own, gone with the test.
struct File(tempfile::TempDir);

impl File {
    fn new(value: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("job.json"), value.to_string()).unwrap();
        Self(dir)
    }

    fn path(&self) -> String {
        let path: PathBuf = self.0.path().join("job.json");
        path.to_string_lossy().into_owned()
    }
}

fn add(world: &World, value: &Value) {
    let file = File::new(value);
    says(world, &["job", "add", &file.path()]);
}

fn show(world: &World, id: &str) -> Value {
    let embed = "embed=activeRuns&embed=history&embed=schedules";
    get(world, &format!("/v1/jobs/{id}?{embed}"))
}

fn remove(world: &World, id: &str) {
    says(world, &["job", "remove", id, "--stop-runs"]);
}

#[test]
fn a_job_runs_now_and_its_task_has_a_name() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let value = json!({
        "id": "test.now",
        // Its own name is what others find it by.
        "run": {"cmd": "test \"$WHO\" = bees && until dig +short A now.test.metronome.mesos | grep -q .; do sleep 0.1; done",
            "cpus": 0.1, "mem": 32, "disk": 0},
    });
    add(world, &value);
    let done = says(
        world,
        &[
            "job",
            "run",
            "test.now",
            "--env",
            "WHO=bees",
            "--wait",
            "--timeout",
            "1m",
        ],
    );
    assert!(done.contains("succeeded"), "{done}");
    let failed = fails(world, &["job", "run", "test.now", "--wait"], 1);
    assert!(failed.contains("TASK_FAILED"), "{failed}");
    let shown = show(world, "test.now");
    assert_eq!(shown["history"]["successCount"], 1, "{shown}");
    assert_eq!(shown["history"]["failureCount"], 1, "{shown}");
    let history = says(world, &["job", "history", "test.now"]);
    assert!(
        history.contains("succeeded") && history.contains("failed"),
        "{history}"
    );
    let listed = says(world, &["job", "list"]);
    assert!(listed.contains("test.now"), "{listed}");
    let missing = fails(world, &["job", "run", "test.none"], 1);
    assert!(missing.contains("test.none"), "{missing}");
    remove(world, "test.now");
}

#[test]
fn a_failing_job_is_tried_again_until_it_succeeds() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let dir = tempfile::tempdir().unwrap();
    // All nodes are on this machine: the third attempt finds two marks.
    let marks = dir.path().display();
    let cmd = format!("touch {marks}/$$; test $(ls {marks} | wc -l) -ge 3");
    let value = json!({
        "id": "test.again",
        "run": {"cmd": cmd, "cpus": 0.1, "mem": 32, "disk": 0, "restart": {"policy": "ON_FAILURE"}},
    });
    add(world, &value);
    says(
        world,
        &["job", "run", "test.again", "--wait", "--timeout", "2m"],
    );
    let shown = show(world, "test.again");
    let ended = &shown["history"]["successfulFinishedRuns"][0];
    assert_eq!(ended["tasks"].as_array().unwrap().len(), 3, "{shown}");
    remove(world, "test.again");
}

#[test]
fn what_fits_nowhere_is_explained() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let value =
        json!({"id": "test.large", "run": {"cmd": "true", "cpus": 4000, "mem": 32, "disk": 0}});
    add(world, &value);
    says(world, &["job", "run", "test.large"]);
    let explained = wait_until(LIMIT, "offers to be refused", || {
        let text = says(world, &["explain", "job", "test.large"]);
        text.contains("needs 4000 cpus").then_some(text)
    })
    .unwrap();
    assert!(explained.contains("offers had less"), "{explained}");
    let queue = says(world, &["job", "queue"]);
    assert!(queue.contains("test.large"), "{queue}");
    remove(world, "test.large");
}

/// Unix seconds.
fn now() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    since.as_secs()
}

#[test]
fn a_schedule_and_a_run_outlive_their_master() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let marks = dir.path().display().to_string();
    let long = format!("while test ! -e {marks}/go; do sleep 0.1; done");
    add(
        world,
        &json!({"id": "test.long", "run": {"cmd": long, "cpus": 0.1, "mem": 32, "disk": 0}}),
    );
    says(world, &["job", "run", "test.long"]);
    let task = wait_until(LIMIT, "the run's task", || {
        let run = show(world, "test.long")["activeRuns"][0].clone();
        (run["status"] == "ACTIVE").then(|| run["tasks"][0]["id"].clone())
    })
    .unwrap();
    // Each run leaves the time that it is for, and its own id.
    let cmd = format!("touch {marks}/$WAGGLE_JOB_SCHEDULED_AT.$WAGGLE_JOB_RUN_ID");
    let scheduled = json!({
        "id": "test.minutely",
        "run": {"cmd": cmd, "cpus": 0.1, "mem": 32, "disk": 0},
        "schedules": [{"id": "each", "cron": "* * * * *", "timezone": "Europe/Berlin"}],
    });
    add(world, &scheduled);
    let before = show(world, "test.minutely")["schedules"][0]["nextRunAt"].clone();
    let shown = says(world, &["job", "show", "test.minutely"]);
    assert!(shown.contains("Europe/Berlin"), "{shown}");

    // No master is there when its time comes.
    let minute = now() / 60;
    world.cluster.kill_node(0).unwrap();
    wait_until(LIMIT * 2, "the next minute", || {
        (now() / 60 > minute).then_some(())
    })
    .unwrap();
    world.cluster.start_node(0).unwrap();
    wait_ready(&world.cluster, LIMIT).unwrap();
    let fired = || {
        let names = std::fs::read_dir(dir.path()).unwrap();
        let names = names.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|n| n.contains('.')).collect::<Vec<_>>()
    };
    wait_until(LIMIT, "the run that was missed", || {
        (!fired().is_empty()).then_some(())
    })
    .unwrap();
    wait_until(LIMIT, "its end in the history", || {
        let shown = show(world, "test.minutely");
        (shown["history"]["successCount"].as_u64() >= Some(1)).then_some(())
    })
    .unwrap();
    says(
        world,
        &["job", "schedule", "remove", "test.minutely", "each"],
    );
    let times: Vec<String> = fired()
        .iter()
        .map(|n| n.split('.').next().unwrap().to_owned())
        .collect();
    let distinct: BTreeSet<&String> = times.iter().collect();
    assert_eq!(
        distinct.len(),
        times.len(),
        "a time had two runs: {times:?}"
    );
    let said = before.as_str().unwrap().split('.').next().unwrap();
    assert!(
        times.iter().any(|t| t.starts_with(said)),
        "{said}: {times:?}"
    );

    // The other run went on meanwhile, and ends as if nothing had been.
    let run = wait_until(LIMIT, "the run to be known again", || {
        let run = show(world, "test.long")["activeRuns"][0].clone();
        (run["tasks"][0]["status"] == "TASK_RUNNING").then_some(run)
    })
    .unwrap();
    assert_eq!(run["tasks"].as_array().unwrap().len(), 1, "{run}");
    assert_eq!(run["tasks"][0]["id"], task);
    std::fs::write(dir.path().join("go"), "").unwrap();
    wait_until(LIMIT, "the long run's end", || {
        let shown = show(world, "test.long");
        (shown["history"]["successCount"] == 1).then_some(())
    })
    .unwrap();
    remove(world, "test.long");
    remove(world, "test.minutely");
}

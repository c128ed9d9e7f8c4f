//! Another implementation of OTLP (Python's grpcio and opentelemetry-proto, into SQLite) takes all
//! that a cluster ships, and answers questions about it with joins.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

use waggle_telemetry_pipeline::names;
use waggle_tests_clients::python_with;
use waggle_tests_privileged::{LIMIT, bin_dir, can_run, config, web};
use waggle_tests_support::scenario::World;
use waggle_tests_support::wait_until;

const REQUIREMENTS: [&str; 2] = ["grpcio==1.85.1", "opentelemetry-proto==1.45.2"];

#[test]
fn the_three_signals_agree_in_another_implementation() {
    if !can_run() {
        return;
    }
    let python = match python_with(&REQUIREMENTS, &bin_dir().unwrap()) {
        Ok(python) => python,
        Err(error) => {
            eprintln!("SKIP: Python's OTLP packages can't be installed here: {error:#}");
            return;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/otlp_sink.py");
    let mut sink = Command::new(python)
        .arg(script)
        .arg(dir.path().join("sink.db"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(sink.stdout.take().unwrap());
    let mut first = String::new();
    said.read_line(&mut first).unwrap();
    let port = first.trim().strip_prefix("port ").unwrap().to_owned();

    let url = format!("http://127.0.0.1:{port}");
    let world = World::up(config(2).unwrap(), Some(url), LIMIT, &mut |line| {
        println!("{line}");
    })
    .unwrap();
    let (_, tasks) = web(&world).unwrap();
    wait_until(
        LIMIT,
        "metrics and logs of every task, and the trace",
        || {
            let complete = world.sink.with(|store| {
                let all = tasks.iter().all(|task| {
                    let logs = |log: &waggle_tests_support::sink::Log| {
                        log.resource.get("waggle.task.id") == Some(&task.id)
                    };
                    let cpu = store.total("container.cpu.time", "waggle.task.id", &task.id);
                    cpu.is_some() && store.logs.iter().any(logs)
                });
                let is_root = |name: &str| name.starts_with("deployment");
                all && store.spans.iter().any(|span| is_root(&span.name))
            });
            complete.then_some(())
        },
    )
    .unwrap();
    // What the nodes still hold is shipped when they stop, and relayed before the sink ends.
    world.down(&mut |_| {}).unwrap();

    let pid = i32::try_from(sink.id()).unwrap();
    waggle_tests_support::process::terminate(pid);
    let mut report = String::new();
    said.read_to_string(&mut report).unwrap();
    let status = sink.wait().unwrap();
    assert!(status.success(), "{status}:\n{report}");
    let arrived: BTreeSet<&str> = report
        .lines()
        .filter_map(|line| line.strip_prefix("metric "))
        .collect();
    assert!(arrived.contains("container.cpu.time"), "{report}");
    let strangers: Vec<&str> = arrived
        .into_iter()
        .filter(|name| names::find(name).is_none())
        .collect();
    assert_eq!(strangers, Vec::<&str>::new(), "not in the registry");
}

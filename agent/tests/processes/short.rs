//! Tasks that are over almost as soon as they have begun: none may be without its exit, its output or its CPU time, and nothing may be
//! without its task.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    time::{Duration, Instant},
};

use waggle_api::proto::session::TaskState;
use waggle_telemetry::{Destination, Signal, SpoolConfig, Telemetry, TelemetryConfig};
use waggle_tests_support::sink::{Sink, Store};

use crate::{
    agent::{Agent, block_on, launch, spec, until},
    master::{ENDS, Master},
    support::{CgroupRoot, PATIENCE},
};

/// How many there are, unless the variable says otherwise: the full proof is 10,000.
const TASKS: usize = 300;
const VARIABLE: &str = "WAGGLE_TEST_SHORT_TASKS";
/// How many are looked at before the next ones begin, and how many run at once.
const WAVE: usize = 500;
const AT_ONCE: usize = 16;
/// Says who it is, and computes for some milliseconds.
const SHELL: &str = "echo $MESOS_TASK_ID; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done";
const TASK: &str = "waggle.task.id";

fn id(n: usize) -> String {
    format!("short.{n}")
}

/// What has come of one task.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    lines: usize,
    /// Seconds.
    cpu: Option<f64>,
    exits: usize,
}

/// By task; what is a task's and has none is under "".
fn seen(store: &Store) -> BTreeMap<String, Seen> {
    let mut all: BTreeMap<String, Seen> = BTreeMap::new();
    for log in &store.logs {
        let of = log.resource.get(TASK).cloned().unwrap_or_default();
        if log.attributes.contains_key("log.iostream") {
            assert_eq!(log.body, of, "a line under another task's name");
            all.entry(of).or_default().lines += 1;
        } else if log.event == "waggle.task.state_changed"
            && log
                .attributes
                .get("waggle.state")
                .is_some_and(|s| s == "TASK_FINISHED")
        {
            all.entry(of).or_default().exits += 1;
        }
    }
    for point in store
        .points
        .values()
        .filter(|p| p.name == "container.cpu.time")
    {
        let of = point.resource.get(TASK).cloned().unwrap_or_default();
        *all.entry(of).or_default().cpu.get_or_insert(0.0) += point.value;
    }
    all
}

pub fn every_short_task_has_its_exit_output_and_cpu_time() {
    let given = std::env::var(VARIABLE).ok().and_then(|n| n.parse().ok());
    let tasks: usize = given.unwrap_or(TASKS);
    block_on(async {
        let Some(cgroups) = CgroupRoot::new() else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let sink = Sink::start(listener, None).unwrap();
        let mut config = TelemetryConfig::new("waggle-agent", "n1", "test");
        config.otlp = vec![Destination::new(url)];
        config.install_subscriber = false;
        config.spool = Some(SpoolConfig::new(dir.path().join("spool")));
        let (telemetry, guard) = Telemetry::start(&config).unwrap();
        let master = Master::start().await;
        let work_dir = dir.path().join("agent");
        let agent = Agent::start_telling(&work_dir, vec![master.addr], &cgroups, telemetry).await;
        until("registration", || {
            (master.n_registrations() == 1).then_some(())
        })
        .await;
        for first in (0..tasks).step_by(WAVE) {
            let wave = first..tasks.min(first + WAVE);
            for n in wave.clone() {
                until("a place", || (master.n_ended() + AT_ONCE > n).then_some(())).await;
                master.send(launch(spec(&id(n), SHELL))).await;
            }
            until("all ends", || (master.n_ended() == wave.end).then_some(())).await;
            for n in wave.clone() {
                let end = master.last(&id(n)).unwrap();
                assert!(ENDS.contains(&end.state()));
                assert_eq!(end.state(), TaskState::TaskFinished, "{end:?}");
            }
            // Where cgroups of version 1 count CPU time, they do so by the tick: it may be none.
            let complete = |s: &Seen| s.lines == 1 && s.exits == 1 && s.cpu.is_some();
            let deadline = Instant::now() + PATIENCE;
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            loop {
                tick.tick().await;
                let all = sink.with(seen);
                let is_whole = |n| all.get(&id(n)).is_some_and(complete);
                let missing: Vec<_> = wave.clone().filter(|n| !is_whole(*n)).collect();
                if missing.is_empty() {
                    assert_eq!(all.len(), wave.len(), "somebody else: {:?}", all.keys());
                    break;
                }
                let first = missing.first().and_then(|n| all.get(&id(*n)));
                assert!(
                    Instant::now() < deadline,
                    "{} of {} are not whole; the first has {first:?}",
                    missing.len(),
                    wave.len()
                );
            }
            sink.forget();
        }
        agent.vanish().await;
        let losses = guard.shutdown(Duration::from_secs(20)).await;
        assert!(losses.balanced(), "{losses:?}");
        for signal in Signal::ALL {
            assert_eq!(losses.of(signal).dropped_total(), 0, "{losses:?}");
        }
    });
}

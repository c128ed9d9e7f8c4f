//! After a test, the nodes hold what they held before it.

use std::collections::BTreeSet;
use std::time::Duration;

use waggle_tests_privileged::LIMIT;
use waggle_tests_support::cluster::port;
use waggle_tests_support::leak::Snapshot;
use waggle_tests_support::scenario::{App, Task, World};
use waggle_tests_support::wait_until;

/// What there is, but for files, and for the nodes' own processes, whose numbers change.
pub struct Calm {
    before: BTreeSet<String>,
}

impl Calm {
    /// Before a test.
    pub fn before(world: &World) -> Self {
        Self {
            before: look(world),
        }
    }

    /// After it, with its apps removed: no cgroup, namespace, mount, pin, program, map, link or process more.
    pub fn assert_after(&self, world: &World) {
        let mut more = BTreeSet::new();
        let calm = wait_until(Duration::from_secs(20), "nothing more than before", || {
            more = &look(world) - &self.before;
            more.is_empty().then_some(())
        });
        calm.unwrap_or_else(|e| panic!("{e:#}: {more:#?}"));
    }
}

fn look(world: &World) -> BTreeSet<String> {
    let cluster = &world.cluster;
    let nodes: Vec<String> = cluster
        .state
        .nodes
        .iter()
        .map(|n| format!("process {} ", n.pid))
        .collect();
    Snapshot::take(&cluster.names)
        .lines()
        .into_iter()
        .filter(|l| !l.starts_with("file ") && !nodes.iter().any(|n| l.starts_with(n)))
        .collect()
}

/// Adds an app without checks and waits until all of it runs.
pub fn run_app(world: &World, definition: &str) -> Vec<Task> {
    let cluster = &world.cluster;
    let marathon = cluster.leader(port::MARATHON);
    let body = Some(definition.as_bytes());
    let answer = cluster
        .client()
        .request("POST", marathon, "/v2/apps", body, &[])
        .unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
    let wanted: serde_json::Value = serde_json::from_str(definition).unwrap();
    let app = App {
        id: wanted["id"].as_str().unwrap().to_owned(),
        deployment: String::new(),
        accepted: Duration::ZERO,
        running: Duration::ZERO,
        healthy: Duration::ZERO,
        deployed: Duration::ZERO,
        instances: wanted["instances"].as_u64().unwrap(),
    };
    let mut last = serde_json::Value::Null;
    let runs = wait_until(LIMIT, &format!("all of {} to run", app.id), || {
        last = app.show(cluster).ok()?;
        let idle = last["deployments"].as_array()?.is_empty();
        (last["tasksRunning"] == app.instances && idle).then_some(())
    });
    runs.unwrap_or_else(|e| panic!("{e:#}: {last}"));
    app.tasks(cluster).unwrap()
}

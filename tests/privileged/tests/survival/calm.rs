//! After a test, the nodes hold what they held before it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use waggle_tests_privileged::LIMIT;
use waggle_tests_support::cluster::port;
use waggle_tests_support::leak::Snapshot;
use waggle_tests_support::scenario::{App, Task, World};
use waggle_tests_support::{bpf, cgroup, wait_until};

/// What there is and how often, but for files, and for the nodes' own processes. Objects of the kernel data plane are
/// counted: a program that was replaced has another number.
pub struct Calm {
    before: BTreeMap<String, usize>,
}

impl Calm {
    /// Before a test, once every node's data plane and its addresses are whole.
    pub fn before(world: &World) -> Self {
        let before = wait_until(LIMIT, "the nodes' data planes", || {
            let now = look(world);
            let nodes = &world.cluster.state.nodes;
            let is_whole = nodes.iter().all(|n| {
                let own = format!("address {} vtep1024 inet6 fe80:", n.name);
                now.keys().any(|line| line.starts_with(&own))
            });
            let is_tentative = |line: &String| line.contains(" tentative");
            let whole = is_whole
                && now.get("bpf prog overlay_up") == Some(&nodes.len())
                && !now.keys().any(is_tentative);
            whole.then_some(now)
        });
        Self {
            before: before.unwrap(),
        }
    }

    /// After it, with its apps removed: no cgroup, namespace, mount, pin, program, map, link or process more, no
    /// address, rule or element of the packet filter, nor element of a map; and the data plane whole again, also where
    /// an agent has just started.
    pub fn assert_after(&self, world: &World) {
        let mut other = Vec::new();
        let calm = wait_until(Duration::from_secs(20), "what there was before", || {
            let now = look(world);
            let count =
                |of: &BTreeMap<String, usize>, line: &String| of.get(line).copied().unwrap_or(0);
            let all = now.keys().chain(self.before.keys()).cloned();
            let counted = all.map(|line| (count(&self.before, &line), count(&now, &line), line));
            let kept = |line: &str| line.starts_with("bpf ") || line.starts_with("pin ");
            other = counted
                .filter(|(was, is, line)| is > was || (is < was && kept(line)))
                .collect();
            other.is_empty().then_some(())
        });
        calm.unwrap_or_else(|e| panic!("{e:#}, before and now: {other:#?}"));
    }
}

fn look(world: &World) -> BTreeMap<String, usize> {
    let cluster = &world.cluster;
    let nodes: Vec<String> = cluster
        .state
        .nodes
        .iter()
        .map(|n| format!("process {} ", n.pid))
        .collect();
    let mut found = BTreeMap::new();
    for line in Snapshot::take(&cluster.names).lines() {
        if line.starts_with("file ") || nodes.iter().any(|n| line.starts_with(n)) {
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let line = match words.as_slice() {
            ["bpf", kind, _id, name @ ..] => format!("bpf {kind} {}", name.join(" ")),
            _ => line,
        };
        *found.entry(line).or_default() += 1;
    }
    for node in &cluster.state.nodes {
        let keys = |map: &str| {
            pinned(&node.bpf_dir, map)
                .and_then(|pin| bpf::keys(&pin))
                .unwrap_or_default()
        };
        found.insert(format!("elements {} VIPS", node.name), keys("VIPS").len());
        // Cgroups are counted by their inode numbers: those that are gone are not counted any more.
        let alive: BTreeSet<u64> = cgroup::subtree(&node.cgroup)
            .iter()
            .chain([&node.cgroup])
            .filter_map(|dir| Some(std::fs::metadata(dir).ok()?.ino()))
            .collect();
        let of = |key: Vec<u8>| key.try_into().map_or(0, u64::from_ne_bytes);
        let n_gone = keys("CGROUP_NET")
            .into_iter()
            .map(of)
            .filter(|id| !alive.contains(id))
            .count();
        found.insert(format!("elements {} CGROUP_NET", node.name), n_gone);
        for (what, program, arguments) in [
            ("address", "ip", &["-o", "addr", "show"][..]),
            ("filter", "nft", &["-s", "list", "ruleset"]),
        ] {
            let out = cluster
                .command(&node.name, program)
                .unwrap()
                .args(arguments)
                .output();
            let text = String::from_utf8_lossy(&out.unwrap().stdout).into_owned();
            for line in text.lines() {
                // Without the number of the device and what is left of an address's life.
                let words: Vec<&str> = line
                    .split_whitespace()
                    .skip_while(|w| w.ends_with(':'))
                    .take(8)
                    .collect();
                *found
                    .entry(format!("{what} {} {}", node.name, words.join(" ")))
                    .or_default() += 1;
            }
        }
    }
    found
}

/// Where a map of the node is pinned, whatever its version.
fn pinned(bpf_dir: &Path, map: &str) -> Option<PathBuf> {
    let versions = std::fs::read_dir(bpf_dir).ok()?.flatten();
    let mut pins = versions.map(|v| v.path().join("maps").join(map));
    pins.find(|pin| pin.exists())
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

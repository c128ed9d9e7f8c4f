//! The output of a service on three nodes as one: over the end of an instance, rotations, and restarts of an agent and of
//! the master nothing is lost and nothing comes twice.

use std::{
    collections::BTreeMap,
    fs::File,
    path::Path,
    process::{Child, Stdio},
};

use serde_json::{Value, json};
use waggle_tests_privileged::{LIMIT, can_run, shared, waggle};
use waggle_tests_support::{
    cluster::{port, wait_ready},
    scenario::{World, remove},
    wait_until,
};

const ID: &str = "/numbers";

/// Numbers its lines, on both streams; about 50 kB a second.
fn definition() -> Value {
    let program = "import sys, time\n\
        n = [0, 0]\n\
        while True:\n\
        \x20   to = 1 if n[0] % 10 == 9 and n[1] <= n[0] // 10 else 0\n\
        \x20   print('%06d %s' % (n[to], 'x' * 200), file=[sys.stdout, sys.stderr][to], flush=True)\n\
        \x20   n[to] += 1\n\
        \x20   time.sleep(0.004)\n";
    json!({
        "id": ID,
        "cmd": format!("exec python3 -c \"{program}\""),
        "cpus": 0.1, "mem": 64, "instances": 3,
        "constraints": [["hostname", "UNIQUE"]],
        // Segments of 256 KiB: a new one every few seconds.
        "labels": {"WAGGLE_LOG_QUOTA_BYTES": "2097152"},
    })
}

fn tasks(world: &World) -> Vec<(String, String)> {
    let leader = world.cluster.leader(port::MARATHON);
    let answer = world
        .cluster
        .client()
        .get(leader, &format!("/v2/apps{ID}/tasks"));
    let Some(json) = answer.ok().and_then(|a| a.json().ok()) else {
        return Vec::new();
    };
    let all = json["tasks"].as_array().into_iter().flatten();
    let running = all.filter(|t| t["state"] == "TASK_RUNNING");
    let text = |t: &Value, key: &str| t[key].as_str().unwrap_or_default().to_owned();
    running.map(|t| (text(t, "id"), text(t, "host"))).collect()
}

fn three_run(world: &World, but: &str) -> Vec<(String, String)> {
    wait_until(LIMIT, "three instances to run", || {
        let all = tasks(world);
        (all.len() == 3 && all.iter().all(|(id, _)| id != but)).then_some(all)
    })
    .unwrap()
}

/// `waggle logs -f`, and what it has printed.
struct Follower {
    child: Child,
    dir: tempfile::TempDir,
}

impl Follower {
    fn start(world: &World) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let open = |name| File::create(dir.path().join(name)).unwrap();
        let mut command = world.cluster.command("n1", waggle().unwrap()).unwrap();
        let master = format!("http://{}", world.cluster.leader(port::MESOS));
        let child = command
            .args(["logs", "-f", ID, "--tail", "1000000", "--json"])
            .env("WAGGLE_MASTER", master)
            .stdin(Stdio::null())
            .stdout(open("out"))
            .stderr(open("err"))
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.path().join("out")).unwrap();
        // The last one may not be whole yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let all = whole
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap());
        let lines: Vec<Value> = all.collect();
        assert!(lines.iter().all(|l| l.get("gap_bytes").is_none()));
        lines
            .into_iter()
            .filter(|l| l.get("line").is_some())
            .collect()
    }

    fn wait_for(&self, what: &str, holds: impl Fn(&[Value]) -> bool) {
        let done = wait_until(LIMIT, what, || holds(&self.lines()).then_some(()));
        let err = std::fs::read_to_string(self.dir.path().join("err")).unwrap();
        done.unwrap_or_else(|e| panic!("{e:#}: {} lines; {err}", self.lines().len()));
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn of<'a>(lines: &'a [Value], task: &'a str) -> impl Iterator<Item = &'a Value> {
    lines.iter().filter(move |l| l["task"] == task)
}

fn count(lines: &[Value], task: &str) -> usize {
    of(lines, task).count()
}

fn number(line: &Value) -> u64 {
    let text = line["line"].as_str().unwrap();
    assert_eq!(text.len(), 207, "{text}");
    text[..6].parse().unwrap()
}

/// Every stream counts on from its first number without a hole; what the last one is.
fn whole(lines: &[Value], first: Option<u64>) -> BTreeMap<(String, String), u64> {
    let mut last = BTreeMap::new();
    for line in lines {
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        let n = number(line);
        let key = (text("task"), text("stream"));
        match last.insert(key.clone(), n) {
            Some(before) => assert_eq!(n, before + 1, "{key:?}"),
            None => assert!(
                first.is_none_or(|first| n == first),
                "{key:?} begins at {n}"
            ),
        }
    }
    last
}

fn times(lines: &[Value]) -> Vec<u64> {
    lines
        .iter()
        .map(|l| l["time_us"].as_u64().unwrap())
        .collect()
}

/// curl for some seconds, from an event on.
fn curl(world: &World, query: &str, last_event: Option<&str>) -> (Vec<Value>, String) {
    let master = world.cluster.leader(port::MESOS);
    let mut curl = world.cluster.command("n2", "curl").unwrap();
    curl.args(["-sN", "--max-time", "3", "-H", "Accept: text/event-stream"]);
    if let Some(id) = last_event {
        curl.args(["-H", &format!("Last-Event-ID: {id}")]);
    }
    let out = curl
        .arg(format!("http://{master}/waggle/v1/logs?of={ID}{query}"))
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let (mut lines, mut id) = (Vec::new(), String::new());
    // What was cut off is no event.
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
    for event in whole.split("\n\n") {
        let field = |name: &str| event.lines().find_map(|l| l.strip_prefix(name));
        if let Some(data) = field("data: ") {
            lines.push(serde_json::from_str::<Value>(data).unwrap());
            if let Some(new) = field("id: ") {
                new.clone_into(&mut id);
            }
        }
    }
    (lines, id)
}

fn last_number_on_disk(world: &World, task: &str, host: &str, stream: &str) -> u64 {
    let node = world.cluster.node(host).unwrap();
    let sandbox = node.work_dir.join("agent/tasks").join(task).join("sandbox");
    let text = std::fs::read_to_string(sandbox.join(stream)).unwrap();
    let line = text.lines().next_back().unwrap();
    line[..6].parse().unwrap()
}

fn position(world: &World, host: &str) -> usize {
    let nodes = &world.cluster.state.nodes;
    nodes.iter().position(|n| n.name == host).unwrap()
}

#[test]
fn a_service_is_followed_over_everything() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let leader = world.cluster.leader(port::MARATHON);
    let body = definition().to_string();
    let client = world.cluster.client();
    let answer = client.request("POST", leader, "/v2/apps", Some(body.as_bytes()), &[]);
    assert_eq!(answer.unwrap().status, 201);
    let first = three_run(world, "");

    let follower = Follower::start(world);
    follower.wait_for("some lines of all three", |lines| {
        first.iter().all(|(task, _)| count(lines, task) > 300)
    });
    let calm = follower.lines();
    assert!(times(&calm).is_sorted(), "in the order of time");
    whole(&calm, Some(0));

    // By the ids of events, while nothing happens.
    let (head, id) = curl(world, "&tail=5", None);
    let (rest, _) = curl(world, "&tail=5", Some(&id));
    assert!(
        head.len() > 100 && rest.len() > 100,
        "{} {}",
        head.len(),
        rest.len()
    );
    let mut both = head;
    both.extend(rest);
    whole(&both, None);
    assert!(times(&both).is_sorted());
    // Neither is a cursor that nobody gave out.
    let bad = client.request(
        "GET",
        world.cluster.leader(port::MESOS),
        &format!("/waggle/v1/logs?of={ID}&cursor=17"),
        None,
        &[],
    );
    assert_eq!(bad.unwrap().status, 400);

    // An instance ends; another one takes its place.
    let (gone, gone_host) = first[2].clone();
    let path = format!("/v2/apps{ID}/tasks/{gone}");
    client
        .request("DELETE", leader, &path, None, &[])
        .unwrap()
        .ok()
        .unwrap();
    let second = three_run(world, &gone);
    follower.wait_for("lines of the new instance", |lines| {
        second.iter().all(|(task, _)| count(lines, task) > 300)
    });

    // An agent that leads nobody vanishes and comes back.
    let (_, host) = second.iter().find(|(_, host)| host != "n1").unwrap();
    let at = position(world, host);
    world.cluster.kill_node(at).unwrap();
    world.cluster.start_node(at).unwrap();
    wait_ready(&world.cluster, LIMIT).unwrap();
    let now = follower.lines();
    follower.wait_for("more lines of all", |lines| {
        second
            .iter()
            .all(|(task, _)| count(lines, task) > count(&now, task) + 300)
    });

    // The master does, and the node's agent with it.
    let leading = position(world, "n1");
    world.cluster.kill_node(leading).unwrap();
    world.cluster.start_node(leading).unwrap();
    wait_ready(&world.cluster, LIMIT).unwrap();
    let now = follower.lines();
    follower.wait_for("more lines of all", |lines| {
        second
            .iter()
            .all(|(task, _)| count(lines, task) > count(&now, task) + 300)
    });

    // It was rotated meanwhile.
    for (task, host) in &second {
        let node = world.cluster.node(host).unwrap();
        let sandbox = node.work_dir.join("agent/tasks").join(task).join("sandbox");
        let rotated = Path::new(&sandbox).join("stdout.1");
        let what = format!("a rotation of {task}");
        wait_until(LIMIT, &what, || rotated.exists().then_some(())).unwrap();
    }
    let all = follower.lines();
    drop(follower);
    let last = whole(&all, Some(0));
    assert_eq!(last.len(), 8, "two streams of four tasks: {last:?}");
    for stream in ["stdout", "stderr"] {
        let key = (gone.clone(), stream.to_owned());
        let written = last_number_on_disk(world, &gone, &gone_host, stream);
        assert_eq!(last[&key], written, "to the last line of what has ended");
    }
    let mut uids: Vec<&str> = all.iter().map(|l| l["uid"].as_str().unwrap()).collect();
    uids.sort_unstable();
    uids.dedup();
    assert_eq!(uids.len(), all.len());

    // DC/OS's way: a redirect, and the last lines of one stream.
    let (task, _) = &second[0];
    let mut curl = world.cluster.command("n2", "curl").unwrap();
    let master = world.cluster.leader(port::MESOS);
    let out = curl
        .args(["-sfL", "--max-time", "5"])
        .arg(format!(
            "http://{master}/system/v1/logs/v2/task/{task}/file/stderr?cursor=END&skip=-3"
        ))
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    remove(&world.cluster, ID, LIMIT).unwrap();
}

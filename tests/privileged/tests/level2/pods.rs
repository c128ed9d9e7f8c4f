//! Pods as people use them: containers that share network and files, one VIP, replaced whole, and a node whose agent
//! starts anew.

use std::path::PathBuf;

use serde_json::{Value, json};
use waggle_tests_privileged::{
    LIMIT, can_run,
    cli::{fails, output, says, shows},
    shared,
};
use waggle_tests_support::{scenario::World, wait_until};

fn status(world: &World, id: &str) -> Value {
    serde_json::from_str(&says(world, &["pod", "status", id, "--json"])).unwrap()
}

/// Two containers: one serves what the other writes, and the other asks the first over the loopback they share.
fn definition(id: &str, networks: &Value, endpoint: &Value) -> Value {
    let side = "echo hello > out/hello; until curl -sf http://127.0.0.1:8000/hello | grep -q hello; do sleep 0.1; done; \
        touch out/seen; until test -e out/die; do sleep 0.1; done; exit 3";
    json!({
        "id": id,
        "networks": networks,
        "volumes": [{"name": "spool"}],
        "containers": [
            {
                "name": "web",
                "exec": {"command": {"shell": "exec python3 -m http.server 8000 --directory in"}},
                "resources": {"cpus": 0.1, "mem": 64},
                "endpoints": [endpoint],
                "volumeMounts": [{"name": "spool", "mountPath": "in", "readOnly": true}],
                "healthCheck": {
                    "http": {"endpoint": "http", "path": "/"},
                    "gracePeriodSeconds": 30, "intervalSeconds": 1, "delaySeconds": 0
                },
                "lifecycle": {"killGracePeriodSeconds": 1}
            },
            {
                "name": "side",
                "exec": {"command": {"shell": side}},
                "resources": {"cpus": 0.1, "mem": 64},
                "environment": {"GENERATION": "1"},
                "volumeMounts": [{"name": "spool", "mountPath": "out"}],
                "lifecycle": {"killGracePeriodSeconds": 1}
            }
        ]
    })
}

/// A file of its own, gone with the test.
struct File(tempfile::TempDir);

impl File {
    fn new(value: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pod.json"), value.to_string()).unwrap();
        Self(dir)
    }

    fn path(&self) -> String {
        let path: PathBuf = self.0.path().join("pod.json");
        path.to_string_lossy().into_owned()
    }
}

/// What the VIP answers, asked on a node.
fn ask(world: &World, node: &str, vip: &str, path: &str) -> Option<String> {
    let url = format!("http://{vip}.marathon.l4lb.thisdcos.directory/{path}");
    let mut curl = world.cluster.command(node, "curl").unwrap();
    let out = curl
        .args(["-sf", "--max-time", "2", &url])
        .output()
        .unwrap();
    let body = String::from_utf8_lossy(&out.stdout).into_owned();
    out.status.success().then_some(body)
}

/// Ids of the instances that are stable.
fn stable(status: &Value) -> Vec<String> {
    let all = status["instances"].as_array().into_iter().flatten();
    let all = all.filter(|i| i["status"] == "STABLE");
    let mut ids: Vec<String> = all.map(|i| i["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

fn wait_for(world: &World, what: &str, id: &str, holds: impl Fn(&Value) -> bool) -> Value {
    wait_until(LIMIT, what, || {
        let now = status(world, id);
        holds(&now).then_some(now)
    })
    .unwrap()
}

fn life_of(world: &World, id: &str, networks: &Value, endpoint: &Value) {
    let vip = id.trim_start_matches('/');
    let first = definition(id, networks, endpoint);
    says(world, &["pod", "add", &File::new(&first).path(), "--wait"]);
    let shown = wait_for(world, "the pod is stable", id, |s| s["status"] == "STABLE");
    let instances = stable(&shown);
    assert_eq!(instances.len(), 1, "{shown}");
    let containers = shown["instances"][0]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2, "{shown}");
    assert!(
        containers.iter().all(|c| c["status"] == "TASK_RUNNING"),
        "{shown}"
    );
    for node in ["n1", "n2", "n3"] {
        wait_until(LIMIT, "the containers share loopback and volume", || {
            ask(world, node, vip, "seen")
        })
        .unwrap();
    }
    let listed = says(world, &["pod", "list"]);
    assert!(
        listed.contains(id) && listed.contains("web,side"),
        "{listed}"
    );

    // One container ends: the instance is replaced whole.
    let side = format!("{}.side.1", instances[0]);
    says(world, &["exec", &side, "--", "touch", "out/die"]);
    let after = wait_for(world, "another instance has taken its place", id, |s| {
        let now = stable(s);
        now.len() == 1 && now != instances && s["instances"].as_array().unwrap().len() == 1
    });
    let ended = &after["terminationHistory"][0];
    assert_eq!(ended["instanceID"], instances[0].as_str(), "{after}");
    assert!(ended["message"].as_str().unwrap().contains('3'), "{after}");
    assert_eq!(ended["containers"].as_array().unwrap().len(), 2, "{after}");

    let scaled = says(world, &["pod", "scale", id, "3", "--wait"]);
    assert!(scaled.contains("done"), "{scaled}");
    let three = stable(&wait_for(world, "three instances are stable", id, |s| {
        stable(s).len() == 3
    }));

    // Another definition replaces all of each.
    let mut second = definition(id, networks, endpoint);
    second["containers"][1]["environment"]["GENERATION"] = json!("2");
    second["scaling"] = json!({"kind": "fixed", "instances": 2});
    says(
        world,
        &["pod", "update", &File::new(&second).path(), "--wait"],
    );
    let two = wait_for(world, "two new instances are stable", id, |s| {
        let now = stable(s);
        now.len() == 2 && now.iter().all(|i| !three.contains(i))
    });
    let versions = says(world, &["pod", "versions", id]);
    assert!(versions.contains("in force"), "{versions}");

    let killed = stable(&two)[0].clone();
    says(world, &["pod", "kill", id, &killed]);
    wait_for(world, "a killed instance is replaced", id, |s| {
        let now = stable(s);
        now.len() == 2 && !now.contains(&killed)
    });
    says(world, &["pod", "remove", id, "--wait"]);
    fails(world, &["pod", "status", id], 1);
    assert!(ask(world, "n1", vip, "hello").is_none());
}

#[test]
fn containers_behind_a_bridge_live_and_end_together() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let endpoint = json!({"name": "http", "containerPort": 8000, "hostPort": 0,
        "labels": {"VIP_0": "/pod-bridged:80"}});
    let networks = json!([{"mode": "container/bridge"}]);
    life_of(world, "/pod-bridged", &networks, &endpoint);
}

#[test]
fn containers_on_a_network_have_one_address() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let endpoint =
        json!({"name": "http", "containerPort": 8000, "labels": {"VIP_0": "/pod-overlaid:80"}});
    let networks = json!([{"mode": "container", "name": "dcos"}]);
    life_of(world, "/pod-overlaid", &networks, &endpoint);
}

#[test]
fn pods_outlive_their_agent() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let id = "/pod-stays";
    let endpoint = json!({"name": "http", "containerPort": 8000, "hostPort": 0,
        "labels": {"VIP_0": "/pod-stays:80"}});
    let mut pod = definition(id, &json!([{"mode": "container/bridge"}]), &endpoint);
    pod["scaling"] = json!({"kind": "fixed", "instances": 3});
    let spread = json!([{"fieldName": "hostname", "operator": "UNIQUE"}]);
    pod["scheduling"] = json!({"placement": {"constraints": spread}});
    says(world, &["pod", "add", &File::new(&pod).path(), "--wait"]);
    let before = stable(&wait_for(world, "one on each node", id, |s| {
        stable(s).len() == 3
    }));
    // The first node is the master's, too; so one agent alone, and then both halves.
    for position in [1, 0] {
        world.cluster.kill_node(position).unwrap();
        world.cluster.start_node(position).unwrap();
        let node = format!("n{}", position + 1);
        wait_until(LIMIT, "the node is back", || {
            let nodes = output(world, &["node", "list", "--json"]).unwrap();
            let listed = String::from_utf8_lossy(&nodes.stdout).into_owned();
            let nodes: Value = serde_json::from_str(&listed).unwrap_or_default();
            let back = |n: &Value| n["hostname"] == node.as_str() && n["connected"] == true;
            nodes
                .as_array()
                .into_iter()
                .flatten()
                .any(back)
                .then_some(())
        })
        .unwrap();
        let now = wait_for(world, "the pod is whole", id, |s| stable(s).len() == 3);
        assert_eq!(stable(&now), before, "nothing was started anew");
    }
    assert!(ask(world, "n3", "pod-stays", "hello").is_some());
    says(world, &["pod", "remove", id, "--wait"]);
}

/// The nodes that instances are on.
fn hosts(status: &Value) -> Vec<String> {
    let all = status["instances"].as_array().into_iter().flatten();
    all.map(|i| i["agentHostname"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_pod_with_a_volume_comes_back_to_it() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let id = "/pod-keeps";
    let endpoint = json!({"name": "http", "containerPort": 8000, "hostPort": 0,
        "labels": {"VIP_0": "/pod-keeps:80"}});
    let mut pod = definition(id, &json!([{"mode": "container/bridge"}]), &endpoint);
    pod["volumes"] = json!([{"name": "spool", "persistent": {"size": 16, "type": "root"}}]);
    pod["containers"][1]["exec"]["command"]["shell"] =
        json!("echo began >> out/log; until test -e out/die; do sleep 0.1; done");
    says(world, &["pod", "add", &File::new(&pod).path(), "--wait"]);
    let began = |n: usize| {
        wait_until(LIMIT, "all that was written is there", || {
            let log = ask(world, "n3", "pod-keeps", "log")?;
            (log.lines().count() == n).then_some(())
        })
        .unwrap();
    };
    let first = wait_for(world, "the pod is stable", id, |s| stable(s).len() == 1);
    let volume = &first["instances"][0]["localVolumes"][0];
    assert_eq!(volume["containerPath"], "spool", "{first}");
    began(1);

    // Killed, and changed: the same instance, where it was, with what both containers have.
    let instance = stable(&first).remove(0);
    says(world, &["pod", "kill", id, &instance]);
    began(2);
    pod["containers"][1]["environment"]["GENERATION"] = json!("2");
    says(world, &["pod", "update", &File::new(&pod).path(), "--wait"]);
    began(3);
    let back = wait_for(world, "the pod is stable", id, |s| stable(s).len() == 1);
    assert_eq!(
        (stable(&back), hosts(&back)),
        (stable(&first), hosts(&first))
    );
    let home = shows(world, &["explain", "pod", id])["homes"][0].take();
    assert_eq!(home["instance"], instance.as_str(), "{home}");
    assert_eq!(home["in_use"], true, "{home}");

    // What it has can't change, and goes when that is asked for.
    pod["volumes"][0]["persistent"]["size"] = json!(32);
    let refused = fails(world, &["pod", "update", &File::new(&pod).path()], 2);
    assert!(refused.contains("volumes"), "{refused}");
    says(world, &["pod", "kill", id, &instance, "--wipe"]);
    began(1);
    let anew = wait_for(world, "another instance is stable", id, |s| {
        stable(s).len() == 1 && stable(s) != stable(&first)
    });
    let volumes = || says(world, &["volume", "list"]);
    let instance = stable(&anew).remove(0);
    let uuid = instance.rsplit_once(".instance-").unwrap().1;
    assert!(volumes().contains(uuid), "{}", volumes());
    says(world, &["pod", "remove", id, "--wait"]);
    wait_until(LIMIT, "its volume is given back", || {
        (!volumes().contains("pod-keeps")).then_some(())
    })
    .unwrap();
}

//! A node whose kernel refuses the programs says so, and serves.

use std::os::unix::fs::symlink;

use serde_json::Value;
use waggle_tests_privileged::{LIMIT, can_run, cli, shared};
use waggle_tests_support::cluster::{NodeInfo, port, wait_ready};
use waggle_tests_support::scenario::{World, remove};
use waggle_tests_support::wait_until;

use crate::common::{app, launch};

const NODE: &str = "n3";
const WHY: &str = "requests of tasks are not traced by this node's kernel: ";

/// Another run of the node's agent, before which its pins are changed.
fn anew(world: &mut World, change: impl FnOnce(&NodeInfo)) {
    let nodes = &world.cluster.state.nodes;
    let at = nodes.iter().position(|n| n.name == NODE).unwrap();
    world.cluster.kill_node(at).unwrap();
    change(&world.cluster.state.nodes[at]);
    world.cluster.start_node(at).unwrap();
    wait_ready(&world.cluster, LIMIT).unwrap();
}

fn health(world: &World) -> Value {
    let at = (world.cluster.node(NODE).unwrap().ip, port::AGENT).into();
    let answer = world.cluster.client().get(at, "/health").unwrap();
    answer.ok().unwrap().json().unwrap()
}

#[test]
fn a_node_that_can_t_trace_requests_says_why() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    // There can be no pins: the first thing that loading needs is refused.
    anew(world, |node| {
        let pins = node.bpf_dir.join("requests");
        if pins.is_dir() {
            std::fs::remove_dir_all(&pins).unwrap();
        }
        symlink("nowhere", &pins).unwrap();
    });
    assert_eq!(health(world)["troubles"], serde_json::json!([]));
    launch(world, &app("refused", NODE, "exec sleep 3600", None));
    let why = wait_until(LIMIT, "the node to say why", || {
        let said = health(world);
        let first = said["troubles"][0].as_str()?.to_owned();
        assert_eq!(said["status"], "degraded");
        Some(first)
    })
    .unwrap();
    let reason = why.strip_prefix(WHY).unwrap();
    assert!(reason.contains("requests"), "{why}");
    let said = cli::says(world, &["node", "status", NODE]);
    assert!(said.contains(&why), "{said}");
    let shown = cli::shows(world, &["node", "status", NODE]);
    assert_eq!(shown["health"]["troubles"][0], why);

    anew(world, |node| {
        std::fs::remove_file(node.bpf_dir.join("requests")).unwrap();
    });
    assert_eq!(health(world)["troubles"], serde_json::json!([]));
    remove(&world.cluster, "/refused", LIMIT).unwrap();
}

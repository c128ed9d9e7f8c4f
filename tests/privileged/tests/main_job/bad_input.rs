//! What is refused, how, and that nothing of it is stored.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use waggle_tests_privileged::{LIMIT, can_run, shared, web};
use waggle_tests_support::cluster::port;
use waggle_tests_support::scenario::{World, remove};
use waggle_tests_support::wait_until;

fn ids(world: &World) -> Vec<String> {
    let answer = world
        .cluster
        .client()
        .get(world.cluster.leader(port::MARATHON), "/v2/apps");
    let json = answer.unwrap().ok().unwrap().json().unwrap();
    json["apps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|app| app["id"].to_string())
        .collect()
}

#[test]
fn bad_definitions_are_refused_with_field_and_rule_and_not_stored() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    web(world).unwrap();
    let before = ids(world);
    let base = |changes: Value| {
        let mut app =
            json!({"id": "/bad", "cmd": "sleep 1", "cpus": 0.1, "mem": 16, "instances": 1});
        for (key, value) in changes.as_object().unwrap() {
            app[key] = value.clone();
        }
        app
    };
    let ports = |list: Value| base(json!({ "portDefinitions": list }));
    let mut no_id = base(json!({}));
    no_id.as_object_mut().unwrap().remove("id");
    let vip = |value: &str| json!({"port": 0, "labels": {"VIP_0": value}});
    let cases: Vec<(&str, Value, &str)> = vec![
        (
            "wrong JSON type of a number",
            base(json!({"cpus": "much"})),
            "cpus",
        ),
        ("wrong JSON type of an id", base(json!({"id": 5})), "id"),
        (
            "wrong JSON type of a list",
            base(json!({"portDefinitions": 5})),
            "portDefinitions",
        ),
        ("missing id", no_id, "id"),
        ("negative cpus", base(json!({"cpus": -1})), "cpus"),
        (
            "negative instances",
            base(json!({"instances": -1})),
            "instances",
        ),
        ("port out of range", ports(json!([{"port": 70000}])), "port"),
        (
            "a VIP twice in one app",
            ports(json!([vip("/bad:80"), vip("/bad:80")])),
            "VIP",
        ),
        ("another app's VIP", ports(json!([vip("/web:80")])), "VIP"),
        ("a VIP without port", ports(json!([vip("/bad")])), "VIP"),
        ("an id in capitals", base(json!({"id": "/BAD id"})), "id"),
    ];
    let client = world.cluster.client();
    let marathon = world.cluster.leader(port::MARATHON);
    let mut problems = Vec::new();
    for (what, app, field) in cases {
        let body = app.to_string();
        let answer = client
            .request("POST", marathon, "/v2/apps", Some(body.as_bytes()), &[])
            .unwrap();
        if !(400..500).contains(&answer.status) {
            problems.push(format!("{what}: status {}: {}", answer.status, answer.body));
        } else if !answer.json().is_ok_and(|json| json["message"].is_string()) {
            problems.push(format!("{what}: no message: {}", answer.body));
        } else if !answer.body.contains(field) {
            problems.push(format!("{what}: does not name `{field}`: {}", answer.body));
        }
    }
    for (what, body, statuses) in [
        ("not JSON", "{".to_owned(), [400, 422]),
        (
            "oversized body",
            format!("{{\"id\": \"/bad\", \"cmd\": \"{}\"}}", "x".repeat(2 << 20)),
            [413, 413],
        ),
    ] {
        let answer = client
            .request("POST", marathon, "/v2/apps", Some(body.as_bytes()), &[])
            .unwrap();
        if !statuses.contains(&answer.status) {
            problems.push(format!("{what}: status {}: {}", answer.status, answer.body));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!(ids(world), before, "something was stored");
}

#[test]
fn a_vip_without_backends_refuses_at_once() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let app = json!({"id": "/empty", "cmd": "sleep 1", "cpus": 0.1, "mem": 16, "instances": 0,
        "portDefinitions": [{"port": 0, "labels": {"VIP_0": "/empty:80"}}]});
    let client = world.cluster.client();
    let marathon = world.cluster.leader(port::MARATHON);
    client
        .request(
            "POST",
            marathon,
            "/v2/apps",
            Some(app.to_string().as_bytes()),
            &[],
        )
        .unwrap()
        .ok()
        .unwrap();
    for node in &world.cluster.state.nodes {
        // It resolves for as long as it is defined.
        wait_until(LIMIT, "the name", || {
            let out = world
                .cluster
                .command(&node.name, "dig")
                .unwrap()
                .args(["+short", "empty.marathon.l4lb.thisdcos.directory"])
                .output()
                .unwrap();
            out.stdout.starts_with(b"11.").then_some(())
        })
        .unwrap();
        let start = Instant::now();
        let out = world
            .cluster
            .command(&node.name, "curl")
            .unwrap()
            .args([
                "-sS",
                "--max-time",
                "10",
                "http://empty.marathon.l4lb.thisdcos.directory/",
            ])
            .output()
            .unwrap();
        assert_eq!(
            out.status.code(),
            Some(7),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        assert!(start.elapsed() < Duration::from_secs(2), "it hung");
    }
    remove(&world.cluster, "/empty", LIMIT).unwrap();
}

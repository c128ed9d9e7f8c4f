//! Deploy, resolve, request, scale.

use std::collections::BTreeSet;
use std::time::Duration;

use waggle_tests_privileged::{LIMIT, can_run, healthy, shared, web};
use waggle_tests_support::cluster::{Cluster, port};
use waggle_tests_support::scenario::{VIP_NAME, ask, curl_spread, deploy, remove};
use waggle_tests_support::wait_until;

/// Runs a shell line on a node.
fn sh(cluster: &Cluster, node: &str, line: &str) -> String {
    let out = cluster
        .command(node, "bash")
        .unwrap()
        .args(["-c", line])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{line}: {text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    text
}

#[test]
fn instances_are_real_processes_with_their_limits_and_ports() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let (_, tasks) = web(world).unwrap();
    assert_eq!(tasks.len(), 3);
    for task in &tasks {
        let node = task.node(&world.cluster).unwrap();
        let pids = task.nginx_pids(&world.cluster).unwrap();
        assert!(
            pids.len() >= 2,
            "{}: master and worker, found {pids:?}",
            task.id
        );
        // In the node's namespace, as the kernel has it.
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        assert_eq!(of(&pids[0].to_string()), of(&node.pid.to_string()));
        // The port that the API names is the one that listens.
        let listeners = sh(&world.cluster, &node.name, "ss -Hltn");
        assert!(
            listeners.contains(&format!(":{} ", task.port)),
            "{listeners}"
        );
        // The memory limit, on whichever hierarchy holds the controller.
        let lines = std::fs::read_to_string(format!("/proc/{}/cgroup", pids[0])).unwrap();
        let limit = lines.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
            waggle_tests_support::cgroup::hierarchies()
                .iter()
                .find_map(|h| {
                    let v1 = controllers == "memory" && h.mount.ends_with("memory");
                    let v2 = h.v2 && controllers.is_empty();
                    if !(v1 || v2) {
                        return None;
                    }
                    let file = if h.v2 {
                        "memory.max"
                    } else {
                        "memory.limit_in_bytes"
                    };
                    let text = std::fs::read_to_string(h.mount.join(path).join(file)).ok()?;
                    text.trim().parse::<u64>().ok()
                })
        });
        assert_eq!(limit, Some(64 << 20), "{lines}");
    }
}

#[test]
fn every_resolver_knows_the_vip_the_tasks_and_their_ports() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let (_, tasks) = web(world).unwrap();
    let hosts: BTreeSet<_> = tasks
        .iter()
        .map(|t| t.node(&world.cluster).unwrap().ip)
        .collect();
    let ports: BTreeSet<u16> = tasks.iter().map(|t| t.port).collect();
    let mut vips = BTreeSet::new();
    for node in &world.cluster.state.nodes {
        let mut last = None;
        wait_until(LIMIT, &format!("{}'s resolver", node.name), || {
            let answers = ask(&world.cluster, &node.name);
            let good = answers.as_ref().is_ok_and(|a| {
                a.mesos.iter().copied().collect::<BTreeSet<_>>() == hosts
                    && a.srv.iter().map(|(port, _)| *port).collect::<BTreeSet<_>>() == ports
            });
            last = Some(answers);
            good.then_some(())
        })
        .unwrap_or_else(|error| panic!("{error:#}; it says {last:?}"));
        vips.insert(last.unwrap().unwrap().vip);
        // TCP as well, and a name that is not there.
        let tcp = sh(
            &world.cluster,
            &node.name,
            &format!("dig +tcp +short A {VIP_NAME}"),
        );
        assert!(tcp.starts_with("11."), "{tcp}");
        let none = sh(
            &world.cluster,
            &node.name,
            "dig A none.marathon.l4lb.thisdcos.directory",
        );
        assert!(none.contains("NXDOMAIN"), "{none}");
    }
    assert_eq!(vips.len(), 1, "nodes disagree");
}

#[test]
fn requests_from_every_node_reach_every_backend() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let (_, tasks) = web(world).unwrap();
    let ids: BTreeSet<&str> = tasks.iter().map(|t| t.id.as_str()).collect();
    for spread in curl_spread(&world.cluster, 300).unwrap() {
        assert_eq!(spread.failed, 0, "{}: {}", spread.node, spread.complaint);
        let seen: BTreeSet<&str> = spread
            .by_backend
            .keys()
            .filter_map(|body| body.split(' ').next())
            .collect();
        assert_eq!(seen, ids, "{spread:?}");
        for (backend, count) in &spread.by_backend {
            assert!(
                (50..=160).contains(count),
                "{backend} got {count} of 300 from {}",
                spread.node
            );
        }
    }
}

#[test]
fn the_kernel_connects_to_a_backend_and_shows_the_vip_as_the_peer() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let (_, tasks) = web(world).unwrap();
    let line = format!("exec 3<>/dev/tcp/{VIP_NAME}/80; ss -Htn state established");
    let sockets = sh(&world.cluster, "n2", &line);
    let real = tasks.iter().any(|task| {
        let ip = task.node(&world.cluster).unwrap().ip;
        sockets.contains(&format!("{ip}:{}", task.port))
    });
    assert!(real && !sockets.contains(" 11."), "{sockets}");
    // Pinned: programs and maps outlive the agent.
    for node in &world.cluster.state.nodes {
        let pins = sh(
            &world.cluster,
            &node.name,
            &format!("find {} -type f", node.bpf_dir.display()),
        );
        assert!(
            pins.contains("/maps/") && pins.contains("/links/"),
            "{}: {pins}",
            node.name
        );
    }
}

#[test]
fn scaling_and_removing() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let cluster = &world.cluster;
    let json = r#"{"id": "/sleepers", "cmd": "sleep 1000", "cpus": 0.01, "mem": 16, "instances": 1,
        "portDefinitions": [{"port": 0, "labels": {"VIP_0": "/sleepers:5000"}}],
        "healthChecks": [{"protocol": "COMMAND", "command": {"value": "true"}, "intervalSeconds": 1}]}"#;
    let app = deploy(cluster, json, LIMIT).unwrap();
    let scale = |n: u64| {
        let body = format!(r#"{{"instances": {n}}}"#);
        let answer = cluster.client().request(
            "PUT",
            cluster.leader(port::MARATHON),
            "/v2/apps/sleepers",
            Some(body.as_bytes()),
            &[],
        );
        let json = answer.unwrap().ok().unwrap().json().unwrap();
        assert!(
            json["deploymentId"].is_string() && json["version"].is_string(),
            "{json}"
        );
        healthy(world, &app, n).unwrap();
    };
    scale(4);
    assert_eq!(app.tasks(cluster).unwrap().len(), 4);
    scale(1);
    scale(0);
    remove(cluster, "/sleepers", LIMIT).unwrap();
    let name = "sleepers.marathon.l4lb.thisdcos.directory";
    wait_until(Duration::from_secs(5), "the name to go", || {
        sh(cluster, "n3", &format!("dig A {name}"))
            .contains("NXDOMAIN")
            .then_some(())
    })
    .unwrap();
}

//! Connections that have ended: asked for afterwards, of all nodes, over a restart of an agent.

use serde_json::json;
use waggle_api::native::EndedFlow;
use waggle_tests_privileged::{LIMIT, can_run, shared, waggle, web};
use waggle_tests_support::cluster::{Cluster, port};
use waggle_tests_support::scenario::{VIP_NAME, deploy, remove};
use waggle_tests_support::wait_until;

/// What `waggle flows` prints, line by line.
fn flows(cluster: &Cluster, arguments: &[&str]) -> Vec<EndedFlow> {
    let master = format!("http://{}", cluster.leader(port::MESOS));
    let out = cluster
        .command("n1", waggle().unwrap())
        .unwrap()
        .args(["flows", "--json", "-n", "10000", "--master", &master])
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{arguments:?}: {said}");
    let lines = String::from_utf8_lossy(&out.stdout).into_owned();
    let flow = |l: &str| serde_json::from_str(l).unwrap();
    lines.lines().map(flow).collect()
}

/// Both addresses say it: the kernel gives a port again at once for a connection to another backend.
fn is_other_end(flow: &EndedFlow, own: &EndedFlow) -> bool {
    let mirrored = (Some(&flow.peer), flow.local.as_ref()) == (own.local.as_ref(), Some(&own.peer));
    flow.observer == "destination" && mirrored
}

#[test]
fn who_spoke_with_whom_can_be_asked_afterwards() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    web(world).unwrap();
    let cluster = &world.cluster;
    let empty = json!({
        "id": "/flow-empty", "cmd": "sleep 3600", "cpus": 0.1, "mem": 32, "disk": 0, "instances": 0,
        "portDefinitions": [{"port": 0, "labels": {"VIP_0": "/flow-empty:80"}}],
    });
    deploy(cluster, &empty.to_string(), LIMIT).unwrap();
    let nobody = "flow-empty.marathon.l4lb.thisdcos.directory";
    let client = json!({
        "id": "/flow-client",
        "cmd": format!(
            "for i in 1 2 3 4 5; do curl -sf -m 5 -o /dev/null http://{VIP_NAME}/ || exit 1; done; \
             curl -s -m 5 http://{nobody}/; echo refused with $?; sleep 3600"
        ),
        "cpus": 0.1, "mem": 32, "disk": 0, "instances": 1,
        "constraints": [["hostname", "CLUSTER", "n2"]],
        "healthChecks": [{"protocol": "COMMAND", "command": {"value": "grep -q refused stdout"}, "intervalSeconds": 1}],
        "taskKillGracePeriodSeconds": 1,
    });
    let app = deploy(cluster, &client.to_string(), LIMIT).unwrap();
    let task = app.tasks(cluster).unwrap().remove(0);

    let all = wait_until(LIMIT, "the connections to be told", || {
        let all = flows(cluster, &["--service", "/flow-client"]);
        (all.len() >= 6).then_some(all)
    })
    .unwrap();
    assert_eq!(all.len(), 6, "{all:#?}");
    assert!(all.windows(2).all(|w| w[0].ended_us <= w[1].ended_us));
    for one in &all[..5] {
        assert_eq!(one.verdict, "closed", "{one:?}");
        assert_eq!(one.source, "flow-client.marathon");
        assert_eq!(one.destination, "web.marathon");
        assert_eq!(one.task_id, task.id);
        assert_eq!(one.vip, Some(format!("{VIP_NAME}:80")));
        assert!(one.tx_bytes > 50 && one.rx_bytes > 100, "{one:?}");
        assert!(
            one.duration_us > 0
                && one.connect_us > 0
                && one.duration_us >= u64::from(one.connect_us)
        );
    }
    let refused = &all[5];
    assert_eq!(refused.verdict, "no_backend", "{refused:?}");
    assert_eq!(
        refused.vip.as_deref(),
        Some("flow-empty.marathon.l4lb.thisdcos.directory:80")
    );

    // The other end counted the same, and says from where.
    // Its node may tell it a moment later.
    let others = wait_until(LIMIT, "the other ends to be told", || {
        let ends = flows(cluster, &["--both", "--service", "/web"]);
        let other = |own: &EndedFlow| {
            let same = ends.iter().filter(|f| is_other_end(f, own));
            let near = |f: &&EndedFlow| own.ended_us.abs_diff(f.ended_us) < 5_000_000;
            same.filter(near)
                .min_by_key(|f| own.ended_us.abs_diff(f.ended_us))
                .cloned()
        };
        all[..5].iter().map(other).collect::<Option<Vec<_>>>()
    })
    .unwrap();
    for (own, other) in all[..5].iter().zip(&others) {
        assert_eq!(
            (own.tx_bytes, own.rx_bytes),
            (other.rx_bytes, other.tx_bytes)
        );
        assert_eq!(
            (other.source.as_str(), other.destination.as_str()),
            ("node", "web.marathon")
        );
    }
    let once = flows(cluster, &["--service", "web.marathon"]);
    for own in &all[..5] {
        let is_near = |f: &&EndedFlow| own.ended_us.abs_diff(f.ended_us) < 10_000_000;
        let told = once.iter().filter(is_near);
        let told = told.filter(|f| f == &own || is_other_end(f, own));
        let told: Vec<_> = told.collect();
        assert_eq!(told, [own]);
    }

    let counted = |arguments: &[&str]| flows(cluster, arguments).len();
    assert_eq!(
        counted(&["--service", "/flow-client", "--verdict", "no_backend"]),
        1
    );
    assert_eq!(counted(&["--vip", "flow-empty"]), 1);
    assert_eq!(counted(&["--service", "/flow-client", "--since", "1ms"]), 0);
    assert_eq!(counted(&["--service", "/flow-client", "--since", "1h"]), 6);

    // What is on disk is told by the next agent.
    let at = cluster
        .state
        .nodes
        .iter()
        .position(|n| n.name == "n2")
        .unwrap();
    world.cluster.kill_node(at).unwrap();
    world.cluster.start_node(at).unwrap();
    let cluster = &world.cluster;
    wait_until(LIMIT, "the node to tell of what was", || {
        let all = flows(cluster, &["--service", "/flow-client"]);
        (all.len() == 6).then_some(())
    })
    .unwrap();
    for id in ["/flow-client", "/flow-empty"] {
        remove(cluster, id, LIMIT).unwrap();
    }
}

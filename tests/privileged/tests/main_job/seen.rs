//! What people see of traffic: the map, services now, and what does not get through.

use std::collections::BTreeSet;

use serde_json::json;
use waggle_api::native::{DropsView, EdgeView, MapView, ServiceFiguresView, TopView, TraceView};
use waggle_tests_privileged::{LIMIT, answers, can_run, cli, shared, web};
use waggle_tests_support::scenario::{VIP_NAME, WEB_JSON, World, deploy, remove};
use waggle_tests_support::wait_until;

const CLIENT: &str = "/seen-client";

fn map(world: &World, arguments: &[&str]) -> MapView {
    serde_json::from_value(cli::shows(world, &[&["map"], arguments].concat())).unwrap()
}

fn edge<'a>(map: &'a MapView, destination: &str) -> Option<&'a EdgeView> {
    map.edges
        .iter()
        .find(|e| e.name.source == "seen-client.marathon" && e.name.destination == destination)
}

fn row(world: &World, service: &str) -> ServiceFiguresView {
    let top: TopView = serde_json::from_value(cli::shows(world, &["top"])).unwrap();
    assert!(top.silent.is_empty(), "{:?}", top.silent);
    let mut all = top.services.into_iter();
    all.find(|s| s.service == service).unwrap()
}

fn a_task_has_a_trace(world: &World, task: &str) {
    let shown = |what: &str| -> TraceView {
        serde_json::from_value(cli::shows(world, &["trace", what])).unwrap()
    };
    let whole = wait_until(LIMIT, "the task's trace on all nodes", || {
        let trace = shown(task);
        let applied = trace.spans.iter().filter(|s| s.name == "vip.apply");
        let nodes: BTreeSet<&str> = applied.map(|s| s.node.as_str()).collect();
        let over = trace
            .spans
            .iter()
            .any(|s| s.name.starts_with("deployment "));
        (nodes.len() == 3 && over).then_some(trace)
    })
    .unwrap();
    assert!(whole.silent.is_empty(), "{:?}", whole.silent);
    let names: BTreeSet<&str> = whole.spans.iter().map(|s| s.name.as_str()).collect();
    for name in [
        "offer.allocate",
        "offer.accept",
        "task.launch",
        "task.receive",
        "container.create",
        "cgroup.create",
        "container.start",
        "task.running",
        "healthcheck.first_pass",
        "vip.publish",
    ] {
        assert!(names.contains(name), "{name} is not in {names:?}");
    }
    let root = whole
        .spans
        .iter()
        .find(|s| s.name.starts_with("deployment "));
    let deployment = &root.unwrap().attributes["waggle.deployment.id"];
    let of_deployment = shown(deployment);
    assert_eq!(of_deployment.trace_id, whole.trace_id);
    assert!(of_deployment.spans.len() >= whole.spans.len());
    let tree = cli::says(world, &["trace", deployment]);
    assert!(
        tree.contains("task.launch [master ") && tree.contains(task),
        "{tree}"
    );
    let said = cli::fails(world, &["trace", "no-such-thing"], 1);
    assert!(said.contains("is no task here"), "{said}");
}

/// Once, at the end of what its deployment's trace has of it. Of a server of its own: agents that other tests end remember no spans.
fn first_traffic_is_told(world: &World) {
    let cluster = &world.cluster;
    let id = "/seen-server";
    let mut server: serde_json::Value = serde_json::from_str(WEB_JSON).unwrap();
    server["id"] = id.into();
    server["instances"] = 1.into();
    server["constraints"] = json!([["hostname", "CLUSTER", "n3"]]);
    server["portDefinitions"][0]["labels"] = json!({"VIP_0": "/seen-server:80"});
    let server = deploy(cluster, &server.to_string(), LIMIT).unwrap();
    let task = server.tasks(cluster).unwrap().remove(0).id;
    answers(world, "n2", "seen-server.marathon.l4lb.thisdcos.directory").unwrap();
    its_first_traffic_is_told(world, &task);
    remove(cluster, id, LIMIT).unwrap();
}

fn its_first_traffic_is_told(world: &World, task: &str) {
    let told = wait_until(LIMIT, "a server's first traffic", || {
        let trace: TraceView = serde_json::from_value(cli::shows(world, &["trace", task])).unwrap();
        let told = trace
            .spans
            .into_iter()
            .filter(|s| s.name == "task.first_traffic");
        let told: Vec<_> = told.collect();
        (!told.is_empty()).then_some(told)
    })
    .unwrap();
    let [one] = &told[..] else {
        panic!("{told:#?}")
    };
    assert_eq!(one.attributes["waggle.task.id"], task);
    let within: f64 = one.attributes["waggle.traffic.within"].parse().unwrap();
    let is_of_record = one.attributes["waggle.traffic.source"] == "record";
    assert!(
        within < 60.0 && (within == 0.0 || !is_of_record),
        "{one:#?}"
    );
    assert!(
        one.end_ns > one.start_ns && !one.parent_id.is_empty(),
        "{one:#?}"
    );
}

#[test]
fn services_their_edges_and_what_fails_are_seen() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    web(world).unwrap();
    let cluster = &world.cluster;
    let empty = json!({
        "id": "/seen-empty", "cmd": "sleep 3600", "cpus": 0.1, "mem": 32, "disk": 0, "instances": 0,
        "portDefinitions": [{"port": 0, "labels": {"VIP_0": "/seen-empty:80"}}],
    });
    deploy(cluster, &empty.to_string(), LIMIT).unwrap();
    let nobody = "seen-empty.marathon.l4lb.thisdcos.directory";
    // Five through the VIP, two to nobody, one to a port where nobody listens; then busy for as long as it is looked at.
    let client = json!({
        "id": CLIENT,
        "cmd": format!(
            "for i in 1 2 3 4 5; do curl -sf -m 5 -o /dev/null http://{VIP_NAME}/ || exit 1; done; \
             for i in 1 2; do curl -s -m 5 http://{nobody}/; done; curl -s -m 5 http://127.0.0.1:9/; echo over; \
             while true; do curl -sf -m 5 -o /dev/null http://{VIP_NAME}/; done"
        ),
        "cpus": 0.2, "mem": 64, "disk": 0, "instances": 1,
        "constraints": [["hostname", "CLUSTER", "n2"]],
        "portDefinitions": [{"port": 0, "labels": {"VIP_0": "/seen-client:80"}}],
        "healthChecks": [{"protocol": "COMMAND", "command": {"value": "grep -q over stdout"}, "intervalSeconds": 1}],
        "taskKillGracePeriodSeconds": 1,
    });
    let app = deploy(cluster, &client.to_string(), LIMIT).unwrap();
    let task = app.tasks(cluster).unwrap().remove(0);
    a_task_has_a_trace(world, &task.id);

    first_traffic_is_told(world);

    let seen = wait_until(LIMIT, "the edges to be in the map", || {
        let map = map(world, &["--service", CLIENT, "--since", "10m"]);
        (edge(&map, "web.marathon").is_some_and(|e| e.sums.connections >= 5)
            && edge(&map, "nobody").is_some()
            && edge(&map, "loopback").is_some())
        .then_some(map)
    })
    .unwrap();
    assert!(seen.silent.is_empty(), "{:?}", seen.silent);
    let web = edge(&seen, "web.marathon").unwrap();
    assert_eq!(web.name.vip, Some(format!("{VIP_NAME}:80")));
    assert!(web.sums.errors.is_empty(), "{:?}", web.sums);
    assert!(
        web.sums.tx_bytes > 250 && web.sums.rx_bytes > 500,
        "{:?}",
        web.sums
    );
    assert!(web.sums.per_s > 0.0 && web.sums.connect_us.count() >= 5);
    let refused = edge(&seen, "nobody").unwrap();
    assert_eq!(refused.sums.errors, [("no_backend".to_owned(), 2)].into());
    assert_eq!(refused.name.vip, Some(format!("{nobody}:80")));
    let nothing = edge(&seen, "loopback").unwrap();
    assert_eq!(nothing.sums.errors, [("refused".to_owned(), 1)].into());
    let end = seen
        .services
        .iter()
        .find(|s| s.name == "seen-client.marathon");
    assert_eq!(end.unwrap().path.as_deref(), Some(CLIENT));
    // All edges are in one answer or in the sum of others.
    let one = map(world, &["--service", CLIENT, "--since", "10m", "-n", "1"]);
    assert_eq!(one.edges.len(), 1);
    let other = one.other.unwrap();
    assert_eq!((other.n_errors(), one.folded), (3, 2), "{other:?}");
    // Of the other nodes' ends nothing is there twice.
    let sources = seen.edges.iter().map(|e| e.name.source.as_str());
    assert!(
        sources.clone().all(|s| s == "seen-client.marathon"),
        "{:?}",
        sources.collect::<Vec<_>>()
    );
    let dot = cli::says(
        world,
        &["map", "--dot", "--service", "seen-client.marathon"],
    );
    assert!(
        dot.contains("\"seen-client.marathon\" -> \"web.marathon\""),
        "{dot}"
    );
    assert!(cli::says(world, &["map", "--service", CLIENT]).contains("no_backend"));

    let busy = wait_until(LIMIT, "the client's figures", || {
        let row = row(world, CLIENT);
        (row.connects_per_s > 0.5 && row.cpus > 0.0).then_some(row)
    })
    .unwrap();
    assert_eq!((busy.wanted, busy.running, busy.healthy), (Some(1), 1, 1));
    assert_eq!((busy.state.as_str(), busy.measured), ("running", 1));
    assert!(busy.memory_bytes > 100_000 && busy.memory_held_bytes == 64 << 20);
    assert!(busy.connect_us.quantile(0.5).is_some() && busy.tx_per_s > 0.0);
    wait_until(LIMIT, "the server's figures", || {
        let row = row(world, "/web");
        (row.accepts_per_s > 0.5).then_some(())
    })
    .unwrap();
    let table = cli::says(world, &["top", "--sort", "accepts"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("SERVICE") && lines.len() > 2,
        "{table}"
    );
    assert!(lines[1..3].iter().any(|l| l.starts_with(CLIENT)), "{table}");

    let drops: DropsView = serde_json::from_value(cli::shows(world, &["drops", CLIENT])).unwrap();
    assert_eq!(
        (drops.names.as_slice(), drops.tasks),
        (&["seen-client.marathon".to_owned()][..], 1)
    );
    let mut found: Vec<_> = drops
        .connections
        .iter()
        .map(|c| (c.verdict.as_str(), c.destination.as_str(), c.count))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [("no_backend", "nobody", 2), ("refused", "loopback", 1)]
    );
    let said = cli::says(world, &["drops", CLIENT]);
    assert!(
        said.contains("the VIP had no backend that may take connections"),
        "{said}"
    );

    for (arguments, says) in [
        (
            &["map", "--service", "/no-such-app"][..],
            "App '/no-such-app' does not exist",
        ),
        (&["drops", "nobody.marathon"], "does not exist"),
        (&["drops", "/seen-cliend"], "did you mean"),
    ] {
        let said = cli::fails(world, arguments, 1);
        assert!(said.contains(says), "{said}");
    }
    for id in [CLIENT, "/seen-empty"] {
        remove(cluster, id, LIMIT).unwrap();
    }
}

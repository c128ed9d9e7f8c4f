//! Traced apps, and their spans in the sink.

use serde_json::{Value, json};
use waggle_tests_privileged::LIMIT;
use waggle_tests_support::cluster::port;
use waggle_tests_support::scenario::{World, deploy, remove};
use waggle_tests_support::sink::Span;
use waggle_tests_support::wait_until;

pub const STATUS: &str = "http.response.status_code";
const TASK: &str = "waggle.task.id";

/// The name of an app's VIP.
pub fn name_of(id: &str) -> String {
    format!("{id}.marathon.l4lb.thisdcos.directory")
}

/// An app on one node whose requests are traced; `port` is its VIP's, where it has one.
pub fn app(id: &str, node: &str, command: &str, port: Option<u16>) -> Value {
    let mut out = json!({
        "id": format!("/{id}"), "cmd": command, "instances": 1, "cpus": 0.1, "mem": 96, "disk": 0,
        "labels": {"WAGGLE_TRACE": "requests"},
        "constraints": [["hostname", "CLUSTER", node]],
        "healthChecks": [
            {"protocol": "COMMAND", "command": {"value": "true"}, "intervalSeconds": 1}
        ],
        "taskKillGracePeriodSeconds": 1,
    });
    if let Some(port) = port {
        let vip = format!("/{id}:{port}");
        out["portDefinitions"] = json!([{"port": 0, "name": "main", "labels": {"VIP_0": vip}}]);
        out["healthChecks"] = json!([
            {"protocol": "TCP", "portIndex": 0, "intervalSeconds": 1, "gracePeriodSeconds": 30}
        ]);
    }
    out
}

/// The same of a Python program.
pub fn python(id: &str, node: &str, program: &str, port: Option<u16>) -> Value {
    let mut out = app(id, node, "exec python3 -c \"$PROGRAM\"", port);
    out["env"] = json!({"PROGRAM": program});
    out
}

/// Deploys one, and says its task's id.
pub fn launch(world: &World, definition: &Value) -> String {
    let app = deploy(&world.cluster, &definition.to_string(), LIMIT);
    let app = app.unwrap_or_else(|e| panic!("{e:#}\n{}", world.cluster.last_words()));
    app.tasks(&world.cluster).unwrap().remove(0).id
}

/// Removes apps, all at once.
pub fn remove_all(world: &World, ids: impl IntoIterator<Item = String>) {
    let cluster = &world.cluster;
    std::thread::scope(|scope| {
        for id in ids {
            scope.spawn(move || remove(cluster, &id, LIMIT).unwrap());
        }
    });
}

/// Until a node looks at requests: its programs are loaded when its first task asks for it.
pub fn looks(world: &World, node: &str) {
    let at = (world.cluster.node(node).unwrap().ip, port::METRICS).into();
    let client = world.cluster.client();
    wait_until(LIMIT, &format!("{node} to look at requests"), || {
        let figures = client.get(at, "/metrics").ok()?.ok().ok()?;
        figures
            .body
            .contains("\nwaggle_requests_connections")
            .then_some(())
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", world.cluster.last_words()));
}

/// What a node says became of requests and of spans on their way.
pub fn losses(world: &World, node: &str) -> String {
    let at = (world.cluster.node(node).unwrap().ip, port::METRICS).into();
    let page = world.cluster.client().get(at, "/metrics");
    let page = page.map(|answer| answer.body).unwrap_or_default();
    let tells = ["waggle_requests_", "waggle_telemetry_dropped", "_feature_"];
    let is_told = |line: &&str| {
        let is_figure = !line.starts_with('#') && tells.iter().any(|t| line.contains(t));
        let is_nothing = line.contains("_total{") && line.ends_with(" 0");
        is_figure && !is_nothing
    };
    page.lines().filter(is_told).collect::<Vec<_>>().join("\n")
}

/// An attribute; empty if it is not there.
pub fn of<'a>(span: &'a Span, key: &str) -> &'a str {
    span.attributes.get(key).map_or("", String::as_str)
}

/// The task whose it is.
pub fn task_of(span: &Span) -> &str {
    span.resource.get(TASK).map_or("", String::as_str)
}

/// Spans that have come of a task.
pub fn spans_of(world: &World, task: &str) -> Vec<Span> {
    world.sink.with(|s| {
        let all = s.spans.iter().filter(|span| task_of(span) == task);
        all.cloned().collect()
    })
}

/// The address of a node.
pub fn address(world: &World, node: &str) -> String {
    world.cluster.node(node).unwrap().ip.to_string()
}

//! Requests between tasks that know nothing of traces become spans of both ends, for those who asked for it.

use serde_json::{Value, json};
use waggle_tests_privileged::{LIMIT, can_run, shared};
use waggle_tests_support::scenario::{App, World, deploy, remove};
use waggle_tests_support::sink::Span;
use waggle_tests_support::wait_until;

const TASK: &str = "waggle.task.id";
const NAME: &str = "traced-server.marathon.l4lb.thisdcos.directory";
const NOBODY: &str = "traced-nobody.marathon.l4lb.thisdcos.directory";
const STATUS: &str = "http.response.status_code";

/// Answers with a body whose length is not told before, and 404 below /missing.
const SERVER: &str = r#"
import http.server, os
class Shop(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(404 if self.path.startswith("/missing") else 200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")
http.server.ThreadingHTTPServer(("", int(os.environ["PORT0"])), Shop).serve_forever()
"#;

/// Asks over one connection, again and again.
const CLIENT: &str = r#"
import http.client, os, time
while True:
    try:
        to = http.client.HTTPConnection(os.environ["SHOP"], 80, timeout=5)
        while True:
            for path in ("/cart/17?secret=1", "/missing"):
                to.request("GET", path)
                to.getresponse().read()
            time.sleep(0.1)
    except OSError as error:
        print(error, flush=True)
        time.sleep(0.2)
"#;

fn app(id: &str, node: &str, program: &str, labels: &Value) -> Value {
    json!({
        "id": id,
        "cmd": "exec python3 -c \"$PROGRAM\"",
        "env": {"PROGRAM": program, "SHOP": NAME},
        "cpus": 0.1, "mem": 64, "disk": 0, "instances": 1,
        "labels": labels,
        "constraints": [["hostname", "CLUSTER", node]],
        "healthChecks": [
            {"protocol": "COMMAND", "command": {"value": "true"}, "intervalSeconds": 1}
        ],
        "taskKillGracePeriodSeconds": 1,
    })
}

fn launch(world: &World, definition: &Value) -> (App, String) {
    let app = deploy(&world.cluster, &definition.to_string(), LIMIT).unwrap();
    let task = app.tasks(&world.cluster).unwrap().remove(0);
    (app, task.id)
}

fn of<'a>(span: &'a Span, key: &str) -> &'a str {
    span.attributes.get(key).map_or("", String::as_str)
}

fn is_of(span: &Span, task: &str) -> bool {
    span.resource.get(TASK).is_some_and(|id| id == task)
}

/// Spans of requests of a task, with what came back.
fn requests(world: &World, task: &str) -> Vec<Span> {
    world.sink.with(|s| {
        let all = s.spans.iter().filter(|span| is_of(span, task));
        all.filter(|span| span.attributes.contains_key(STATUS))
            .cloned()
            .collect()
    })
}

/// Answers of a server to a client, with what the client's end says of each.
fn pairs(world: &World, client: &str, server: &str, wanted: &[&str]) -> Vec<(Span, Span)> {
    let found = wait_until(LIMIT, &format!("both ends of requests of {client}"), || {
        let answered = requests(world, server);
        let ends = requests(world, client).into_iter().filter_map(|sent| {
            let other = answered.iter().find(|a| a.trace_id == sent.trace_id)?;
            Some((sent, other.clone()))
        });
        let ends: Vec<(Span, Span)> = ends.collect();
        let has = |status: &&str| ends.iter().any(|(s, _)| of(s, STATUS) == *status);
        wanted.iter().all(has).then_some(ends)
    });
    found.unwrap_or_else(|e| {
        let sent = requests(world, client);
        let answered = requests(world, server);
        panic!(
            "{e:#}\n{sent:#?}\n{answered:#?}\n{}",
            world.cluster.last_words()
        )
    })
}

#[test]
fn requests_of_tasks_that_asked_for_it_become_spans_of_both_ends() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let wish = json!({"WAGGLE_TRACE": "requests"});
    let mut server = app("/traced-server", "n1", SERVER, &wish);
    server["portDefinitions"] = json!([{"port": 0, "labels": {"VIP_0": "/traced-server:80"}}]);
    let (server, server_task) = launch(world, &server);
    let (near, near_task) = launch(world, &app("/traced-near", "n1", CLIENT, &wish));
    let (far, far_task) = launch(world, &app("/traced-far", "n2", CLIENT, &wish));
    let empty = json!({
        "id": "/traced-nobody", "cmd": "sleep 3600", "cpus": 0.1, "mem": 32, "disk": 0, "instances": 0,
        "portDefinitions": [{"port": 0, "labels": {"VIP_0": "/traced-nobody:80"}}],
    });
    deploy(&world.cluster, &empty.to_string(), LIMIT).unwrap();
    let mut lost = app("/traced-lost", "n1", CLIENT, &wish);
    lost["env"]["SHOP"] = NOBODY.into();
    let (lost, lost_task) = launch(world, &lost);
    // The same without the wish.
    let (other, other_task) = launch(world, &app("/untraced", "n2", CLIENT, &json!({})));

    let nodes = world.cluster.state.nodes.iter();
    let backend = nodes.filter(|n| n.name == "n1").map(|n| n.ip.to_string());
    let backend = backend.collect::<Vec<_>>().remove(0);
    for (service, task) in [("traced-near", &near_task), ("traced-far", &far_task)] {
        for (sent, answered) in pairs(world, task, &server_task, &["200", "404"]) {
            let (path, name) = match of(&sent, STATUS) {
                "200" => ("/cart/17", "GET /cart/{id}"),
                _ => ("/missing", "GET /missing"),
            };
            assert_eq!((of(&sent, "url.path"), sent.name.as_str()), (path, name));
            assert_eq!(of(&sent, "http.request.method"), "GET");
            assert_eq!(of(&sent, "waggle.vip.name"), format!("{NAME}:80"));
            assert_eq!(of(&sent, "service.peer.name"), "traced-server.marathon");
            assert_eq!(of(&sent, "server.address"), NAME);
            assert_eq!(of(&sent, "network.peer.address"), backend);
            assert_eq!(sent.resource["service.name"], service);
            assert_eq!(answered.resource["service.name"], "traced-server");
            assert_eq!(answered.name, sent.name);
            assert_eq!(of(&answered, STATUS), of(&sent, STATUS));
            // Both ends make the same ids. What another node traces is not known here, so that it is nobody's parent.
            if task == &near_task {
                assert_eq!(answered.parent_id, sent.span_id);
            } else {
                assert_eq!(answered.parent_id, "");
                assert_eq!(of(&answered, "waggle.request.unlinked"), "other_node");
            }
            let both = format!("{sent:?}{answered:?}");
            assert!(!both.contains("secret"), "queries are not told");
        }
    }
    assert!(requests(world, &other_task).is_empty());

    let failed = wait_until(LIMIT, "a connect that failed", || {
        let name = format!("connect {NOBODY}:80");
        let is_it = |s: &&Span| s.name == name && is_of(s, &lost_task);
        world.sink.with(|s| s.spans.iter().find(is_it).cloned())
    })
    .unwrap();
    assert_eq!(of(&failed, "error.type"), "no_backend");

    remove(&world.cluster, "/traced-nobody", LIMIT).unwrap();
    for app in [&lost, &near, &far, &other, &server] {
        remove(&world.cluster, &app.id, LIMIT).unwrap();
    }
}

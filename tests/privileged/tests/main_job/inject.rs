//! Three services that forward nothing, asked through VIPs, are one trace: the kernel puts the `traceparent` in.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::{Value, json};
use waggle_tests_privileged::{LIMIT, can_run, shared};
use waggle_tests_support::scenario::{App, World, deploy, remove};
use waggle_tests_support::sink::Span;
use waggle_tests_support::wait_until;

const TASK: &str = "waggle.task.id";
/// Requests before the kernel believes that a process works as it looks.
const PROOF: usize = 8;

/// Answers with what the next one says below its own name; what it was asked with it does not hand on.
const SERVICE: &str = r#"
import http.server, os, urllib.request
NEXT = os.environ.get("NEXT")
class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        said = self.headers.get("traceparent", "-") + "\n"
        if NEXT:
            said += urllib.request.urlopen("http://" + NEXT + self.path, timeout=5).read().decode()
        body = said.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("", int(os.environ["PORT0"])), Service).serve_forever()
"#;

fn vip(name: &str) -> String {
    format!("{name}.marathon.l4lb.thisdcos.directory:80")
}

fn service(id: &str, node: &str, next: Option<&str>) -> Value {
    let mut env = json!({"PROGRAM": SERVICE});
    if let Some(next) = next {
        env["NEXT"] = vip(next).into();
    }
    json!({
        "id": format!("/{id}"),
        "cmd": "exec python3 -c \"$PROGRAM\"",
        "env": env,
        "cpus": 0.1, "mem": 64, "disk": 0, "instances": 1,
        "labels": {"WAGGLE_TRACE": "inject"},
        "portDefinitions": [{"port": 0, "labels": {"VIP_0": format!("/{id}:80")}}],
        "constraints": [["hostname", "CLUSTER", node]],
        "healthChecks": [{"protocol": "TCP", "portIndex": 0, "intervalSeconds": 1}],
        "taskKillGracePeriodSeconds": 1,
    })
}

/// Asks once, from the node that the first service is on.
const ASK: &str = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=9).read().decode())";

fn ask(world: &World, at: &str, path: &str) -> anyhow::Result<String> {
    let mut python = world.cluster.command("n1", "python3")?;
    let url = format!("http://{at}{path}");
    let out = python.args(["-c", ASK, &url]).output().context("python3")?;
    let said = String::from_utf8(out.stdout)?;
    let why = String::from_utf8_lossy(&out.stderr);
    anyhow::ensure!(out.status.success(), "{said}{why}");
    Ok(said.trim().to_owned())
}

fn of<'a>(span: &'a Span, key: &str) -> &'a str {
    span.attributes.get(key).map_or("", String::as_str)
}

/// Spans by their path, of these tasks.
fn spans(world: &World, tasks: &[String]) -> BTreeMap<String, Vec<Span>> {
    let mut by_path: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    world.sink.with(|s| {
        for span in &s.spans {
            let is_of = span.resource.get(TASK).is_some_and(|id| tasks.contains(id));
            if is_of && span.attributes.contains_key("http.response.status_code") {
                let path = of(span, "url.path").to_owned();
                by_path.entry(path).or_default().push(span.clone());
            }
        }
    });
    by_path
}

/// Order of the spans of one request from the outermost in, if all five are there and each is the child of the one before it.
fn is_chain(spans: &[Span]) -> bool {
    let names: BTreeMap<&str, &Span> = spans.iter().map(|s| (s.span_id.as_str(), s)).collect();
    let is_one = spans.iter().all(|s| s.trace_id == spans[0].trace_id);
    let depth = |span: &Span| {
        let mut n = 0;
        let mut at = span;
        while let Some(parent) = names.get(at.parent_id.as_str()) {
            at = parent;
            n += 1;
            if n > names.len() {
                break;
            }
        }
        n
    };
    let mut depths: Vec<usize> = spans.iter().map(depth).collect();
    depths.sort_unstable();
    is_one && names.len() == 5 && depths == [0, 1, 2, 3, 4]
}

#[test]
fn a_request_through_three_services_that_forward_nothing_is_one_trace() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let launch = |definition: &Value| -> (App, String) {
        let app = deploy(&world.cluster, &definition.to_string(), LIMIT).unwrap();
        let task = app.tasks(&world.cluster).unwrap().remove(0);
        (app, task.id)
    };
    // Two on one node, and one on another.
    let (third, third_task) = launch(&service("inject-c", "n2", None));
    let (second, second_task) = launch(&service("inject-b", "n1", Some("inject-c")));
    let (first, first_task) = launch(&service("inject-a", "n1", Some("inject-b")));
    let tasks = [first_task, second_task, third_task];
    let task = first.tasks(&world.cluster).unwrap().remove(0);
    let nodes = world.cluster.state.nodes.iter();
    let node = nodes.filter(|n| n.name == "n1").map(|n| n.ip.to_string());
    let at = format!("{}:{}", node.collect::<Vec<_>>().remove(0), task.port);

    // Until the kernel's programs are there, a request may go by as it is.
    wait_until(LIMIT, "headers that nobody has sent", || {
        let said = ask(world, &at, "/early").ok()?;
        (said.lines().filter(|line| line.starts_with("00-")).count() == 2).then_some(())
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", world.cluster.last_words()));
    for n in 0..PROOF {
        ask(world, &at, &format!("/proof/{n}")).unwrap();
    }
    let paths: Vec<String> = ('a'..='t').map(|c| format!("/chain-{c}")).collect();
    for path in &paths {
        let said = ask(world, &at, path).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!((lines.len(), lines[0]), (3, "-"), "{said}");
        // What the programs were asked with is of one trace.
        assert_eq!(
            lines[1].split('-').nth(1),
            lines[2].split('-').nth(1),
            "{said}"
        );
    }
    let all = wait_until(LIMIT, "one trace for each request", || {
        let spans = spans(world, &tasks);
        let is_whole = |path: &String| spans.get(path).is_some_and(|s| is_chain(s));
        paths.iter().all(is_whole).then_some(spans)
    })
    .unwrap_or_else(|e| {
        let found = spans(world, &tasks);
        panic!("{e:#}\n{found:#?}\n{}", world.cluster.last_words())
    });
    let mut traces: Vec<&str> = paths.iter().map(|p| all[p][0].trace_id.as_str()).collect();
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(
        traces.len(),
        paths.len(),
        "each request is a trace by itself"
    );
    for app in [&first, &second, &third] {
        remove(&world.cluster, &app.id, LIMIT).unwrap();
    }
}

//! Tasks that send OTLP and statsd to their node, and that are scraped by it: in every kind of network, under their own name,
//! whatever they say they are.

use std::collections::BTreeMap;

use serde_json::json;
use waggle_telemetry_pipeline::names;
use waggle_tests_privileged::{LIMIT, can_run, shared, tasks::on_node};
use waggle_tests_support::scenario::{deploy, remove};
use waggle_tests_support::sink::Point;
use waggle_tests_support::wait_until;

const TASK: &str = "waggle.task.id";

/// Where it answers a scrape inside of a network of its own.
const PAGE: u16 = 9464;

/// Sends one log record until it is taken, in the name of a bank; then statsd, and answers scrapes.
const SENDER: &str = r##"
import http.server, os, socket, sys, threading, time, urllib.request
def field(n, b): return bytes([n << 3 | 2, len(b)]) + b
def text(s): return field(1, s.encode())
def pair(k, v): return field(1, field(1, k.encode()) + field(2, text(v)))
resource = field(1, pair("service.name", "bank") + pair("waggle.task.id", "bank.1") + pair("app.kind", sys.argv[1]))
record = field(2, field(5, text("own words of " + sys.argv[1])))
body = field(1, resource + field(2, record))
url = os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] + "/v1/logs"
assert "service.instance.id=" in os.environ["OTEL_RESOURCE_ATTRIBUTES"]
while True:
    try:
        request = urllib.request.Request(url, body, {"content-type": "application/x-protobuf"})
        print(urllib.request.urlopen(request, timeout=2).status, flush=True)
        break
    except OSError as e:
        print("failed", e, flush=True)
        time.sleep(0.5)
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page = b"# TYPE page_orders_total counter\npage_orders_total{kind=\"b\"} 7\n"
        self.send_response(200 if self.path == "/own" else 404)
        self.end_headers()
        self.wfile.write(page)
port = int(os.environ.get("PAGE") or os.environ["PORT0"])
server = http.server.HTTPServer(("", port), Page)
threading.Thread(target=server.serve_forever, daemon=True).start()
to = (os.environ["STATSD_UDP_HOST"], int(os.environ["STATSD_UDP_PORT"]))
statsd = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    statsd.sendto(b"sent.depth:3|g|#kind:a", to)
    time.sleep(1)
"##;

#[test]
fn tasks_send_under_their_own_name_from_every_network() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let networks = [
        ("sends-host", json!([{"mode": "host"}])),
        ("sends-bridge", json!([{"mode": "container/bridge"}])),
        (
            "sends-overlay",
            json!([{"mode": "container", "name": "dcos"}]),
        ),
    ];
    let mut apps = BTreeMap::new();
    for (name, networks) in networks {
        let labels = json!({
            "DCOS_METRICS_FORMAT": "prometheus", "DCOS_METRICS_ENDPOINT": "/own"
        });
        let is_host = name == "sends-host";
        let mut definition = json!({
            "id": format!("/{name}"),
            "cmd": "exec python3 -c \"$SENDER\" \"$NAME\"",
            "env": {"SENDER": SENDER, "NAME": name},
            "cpus": 0.1, "mem": 64, "disk": 0, "instances": 1,
            "networks": networks,
            "container": {"type": "MESOS"},
            "healthChecks": [
                {"protocol": "COMMAND", "command": {"value": "true"}, "intervalSeconds": 1}
            ],
            "taskKillGracePeriodSeconds": 1,
        });
        if is_host {
            definition["portDefinitions"] = json!([{"port": 0, "labels": labels}]);
        } else {
            definition["env"]["PAGE"] = PAGE.to_string().into();
            definition["container"]["portMappings"] =
                json!([{"containerPort": PAGE, "hostPort": 0, "labels": labels}]);
        }
        let app = deploy(&world.cluster, &definition.to_string(), LIMIT);
        apps.insert(name, app.unwrap());
    }
    for (name, app) in &apps {
        let task = app.tasks(&world.cluster).unwrap().remove(0);
        let words = format!("own words of {name}");
        let log = wait_until(LIMIT, &words, || {
            world
                .sink
                .with(|s| s.logs.iter().find(|l| l.body == words).cloned())
        })
        .unwrap();
        let of = |key: &str| log.resource.get(key).map(String::as_str);
        assert_eq!(of(TASK), Some(task.id.as_str()), "{name}");
        assert_eq!(of("service.name"), Some(*name));
        assert_eq!(of("app.kind"), Some(*name), "what is its to say is kept");
        assert!(log.attributes.contains_key("log.record.uid"));
        for (metric, kind, value) in [("sent.depth", "a", 3.0), ("page_orders_total", "b", 7.0)] {
            let is_it = |p: &Point| {
                let of = |key: &str| p.resource.get(key).map(String::as_str);
                p.name == metric && of(TASK) == Some(task.id.as_str())
            };
            let what = format!("{metric} of {name}");
            let point = wait_until(LIMIT, &what, || {
                world
                    .sink
                    .with(|s| s.points.values().find(|p| is_it(p)).cloned())
            })
            .unwrap();
            assert_eq!(point.attributes.get("kind").map(String::as_str), Some(kind));
            assert!((point.value - value).abs() < 1e-9, "{what}: {point:?}");
        }
    }
    // Who is no task of the node is not heard.
    let node = &world.cluster.state.nodes[0];
    let url = format!("http://{}:61317/v1/logs", node.ip);
    let arguments = [
        "-s",
        "-m",
        "5",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-d",
        "x",
        &url,
    ];
    assert_eq!(on_node(node, "curl", &arguments).unwrap(), "000");
    let stranger = |p: &Point| {
        let outcome = p.attributes.get(names::OUTCOME);
        p.name == names::TELEMETRY_RECEIVED.name && outcome.is_some_and(|o| o == "stranger")
    };
    wait_until(LIMIT, "the stranger to be counted", || {
        world
            .sink
            .with(|s| s.points.values().any(stranger).then_some(()))
    })
    .unwrap();
    for app in apps.values() {
        remove(&world.cluster, &app.id, LIMIT).unwrap();
    }
}

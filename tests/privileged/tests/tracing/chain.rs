//! nginx, a Python app, another one on another node, Redis and PostgreSQL, each behind a VIP. Whose a span is, each request says by its
//! number. Where programs hand headers on it has a context of its own as well; where they don't, the kernel puts one in.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use waggle_api::native::{MapView, SpansView};
use waggle_tests_privileged::{LIMIT, can_run, cli, shared};
use waggle_tests_support::cluster::port;
use waggle_tests_support::scenario::World;
use waggle_tests_support::sink::Span;
use waggle_tests_support::wait_until;

use crate::common::{
    STATUS, address, app, launch, name_of, of, python, remove_all, spans_of, task_of,
};

const PG: &str = "/usr/lib/postgresql/15/bin";
/// Requests of one run; the last of each ten is of something that is not there.
const N: u64 = 40;
/// The first of those that are asked only to see whether all nodes look.
const EARLY: u64 = 1000;

const NGINX: &str = r#"PATH="$PATH:/usr/sbin"
mkdir -p tmp
cat > nginx.conf <<END
daemon off;
user root;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path tmp/body; proxy_temp_path tmp/proxy; fastcgi_temp_path tmp/fastcgi;
  uwsgi_temp_path tmp/uwsgi; scgi_temp_path tmp/scgi;
  resolver 198.51.100.1 ipv6=off valid=1s;
  server {
    listen $PORT0;
    location / {
      set \$to $APP;
      proxy_pass http://\$to:80;
      proxy_http_version 1.1;
    }
  }
}
END
exec nginx -p "$PWD/" -c "$PWD/nginx.conf""#;

/// Counts in Redis, has PostgreSQL add, and asks what is in stock, each by the protocol itself; hands the header on if it is to.
const APP: &str = r#"
import http.client, http.server, os, socket, struct
def at(name):
    return os.environ["PREFIX"] + name + ".marathon.l4lb.thisdcos.directory"
def redis(*words):
    with socket.create_connection((at("redis"), 6379), 5) as s:
        s.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
        return s.makefile("rb").readline().strip().decode()
def message(kind, body):
    return kind + struct.pack("!I", len(body) + 4) + body
def postgres(sql):
    with socket.create_connection((at("pg"), 5432), 5) as s:
        s.sendall(message(b"", struct.pack("!I", 196608) + b"user\0ann\0database\0postgres\0\0"))
        f, asked, row = s.makefile("rb"), False, None
        while True:
            kind, length = f.read(1), struct.unpack("!I", f.read(4))[0]
            body = f.read(length - 4)
            if kind == b"E":
                raise OSError(body)
            if kind == b"D":
                row = body[6:].decode()
            if kind == b"Z":
                if asked:
                    return row
                asked = True
                s.sendall(message(b"Q", sql.encode() + b"\0"))
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        n = self.path.rsplit("/", 1)[1]
        redis("INCR", "visitors")
        row = postgres("select " + n + " + 1000")
        to = http.client.HTTPConnection(at("stock"), 80, timeout=5)
        handed = {"traceparent": self.headers["traceparent"]} if "HANDS_ON" in os.environ else {}
        to.request("GET", "/stock/" + n, headers=handed)
        answer = to.getresponse()
        said = answer.read().decode()
        to.close()
        body = (row + " " + said).encode()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("", int(os.environ["PORT0"])), App).serve_forever()
"#;

const STOCK: &str = r#"
import http.server, os
class Stock(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        n = self.path.rsplit("/", 1)[1]
        self.send_response(404 if n.endswith("9") else 200)
        self.send_header("Content-Length", str(len(n)))
        self.end_headers()
        self.wfile.write(n.encode())
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("", int(os.environ["PORT0"])), Stock).serve_forever()
"#;

/// Asks for each number, with a context that nobody else has; four at a time.
const ASK: &str = r#"
import concurrent.futures, http.client, sys
def ask(n):
    to = http.client.HTTPConnection("chain-nginx.marathon.l4lb.thisdcos.directory", 80, timeout=20)
    to.request("GET", f"/shop/{n}", headers={"traceparent": f"00-{n + 1:032x}-{n + 1:016x}-01", "x-request-id": str(n)})
    answer = to.getresponse()
    return n, answer.status, answer.read().decode()
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    for n, status, body in pool.map(ask, range(int(sys.argv[1]), int(sys.argv[2]))):
        want = (404 if n % 10 == 9 else 200, f"{n + 1000} {n}")
        if (status, body) != want:
            sys.exit(f"{n}: {status} {body!r}")
"#;

fn postgres() -> String {
    format!(
        "set -e; {PG}/initdb -D db -U ann -A trust -E UTF8 --no-locale >/dev/null; \
         echo 'host all all 0.0.0.0/0 trust' >> db/pg_hba.conf; \
         exec {PG}/postgres -D db -p $PORT0 -c listen_addresses=0.0.0.0 -c unix_socket_directories= -c jit=off"
    )
}

fn has_postgres() -> bool {
    let is_there = std::path::Path::new(PG).is_dir();
    if !is_there {
        eprintln!("SKIP: {PG} is not there");
    }
    is_there
}

/// Asks for one after the other with no context at all, and ends if an answer is wrong.
const SILENT: &str = r#"
import http.client, itertools, sys, time
for n in itertools.count():
    to = http.client.HTTPConnection("silent-nginx.marathon.l4lb.thisdcos.directory", 80, timeout=20)
    to.request("GET", f"/shop/{n}")
    answer = to.getresponse()
    said = (answer.status, answer.read().decode())
    to.close()
    if said != (404 if n % 10 == 9 else 200, f"{n + 1000} {n}"):
        sys.exit(f"{n}: {said}")
    time.sleep(0.02)
"#;

/// Tasks of a chain.
struct Chain {
    prefix: &'static str,
    nginx: String,
    app: String,
    stock: String,
}

/// `word` is what all say of traces.
fn begin(world: &World, prefix: &'static str, word: &str, hands_on: bool) -> Chain {
    let launch = |mut definition: Value| {
        definition["labels"]["WAGGLE_TRACE"] = word.into();
        launch(world, &definition)
    };
    let id = |name: &str| format!("{prefix}{name}");
    let redis = "exec redis-server --port $PORT0 --save '' --protected-mode no";
    launch(app(&id("redis"), "n2", redis, Some(6379)));
    let mut pg = app(&id("pg"), "n3", &postgres(), Some(5432));
    pg["user"] = json!("nobody");
    pg["mem"] = json!(256);
    launch(pg);
    let stock = launch(python(&id("stock"), "n2", STOCK, Some(80)));
    let mut to_all = python(&id("app"), "n1", APP, Some(80));
    to_all["env"]["PREFIX"] = prefix.into();
    if hands_on {
        to_all["env"]["HANDS_ON"] = "yes".into();
    }
    let mut nginx = app(&id("nginx"), "n1", NGINX, Some(80));
    nginx["env"] = json!({"APP": name_of(&id("app"))});
    Chain {
        prefix,
        app: launch(to_all),
        nginx: launch(nginx),
        stock,
    }
}

impl Chain {
    fn end(self, world: &World) {
        remove_all(
            world,
            ["nginx", "app", "stock", "pg", "redis"].map(|id| format!("/{}{id}", self.prefix)),
        );
    }
}

/// Asks for the numbers from `first` to before `end`, on a node where nobody looks.
fn ask(world: &World, first: u64, end: u64) {
    let mut ask = world.cluster.command("n3", "python3").unwrap();
    let ask = ask.args(["-c", ASK, &first.to_string(), &end.to_string()]);
    let out = ask.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}{}", world.cluster.last_words());
}

/// The spans of each request from `first` to before `end`: by the number in its trace's id.
fn traces(world: &World, first: u64, end: u64) -> BTreeMap<u64, Vec<Span>> {
    let mut out: BTreeMap<u64, Vec<Span>> = BTreeMap::new();
    world.sink.with(|s| {
        for span in s
            .spans
            .iter()
            .filter(|span| span.attributes.contains_key(STATUS))
        {
            let id = u128::from_str_radix(&span.trace_id, 16).unwrap();
            let n = u64::try_from(id).ok().and_then(|id| id.checked_sub(1));
            if let Some(n) = n.filter(|n| (first..end).contains(n)) {
                out.entry(n).or_default().push(span.clone());
            }
        }
    });
    out
}

/// One request's spans are one tree: each hop's two ends where both nodes are asked, and no parent but a right one.
fn is_whole(world: &World, chain: &Chain, n: u64, spans: &[Span]) {
    let kind = |task: &str, path: &str, calls: bool| {
        let is_it = |s: &&Span| {
            task_of(s) == task
                && of(s, "url.path") == path
                && s.attributes.contains_key("url.full") == calls
        };
        let found: Vec<&Span> = spans.iter().filter(is_it).collect();
        assert_eq!(found.len(), 1, "{n} {path} {spans:#?}");
        found[0]
    };
    let (shop, stock) = (format!("/shop/{n}"), format!("/stock/{n}"));
    let of_client = format!("{:016x}", n + 1);
    let proxy = kind(&chain.nginx, &shop, false);
    let proxies = kind(&chain.nginx, &shop, true);
    let served = kind(&chain.app, &shop, false);
    let asks = kind(&chain.app, &stock, true);
    let stocked = kind(&chain.stock, &stock, false);
    assert_eq!(spans.len(), 5, "{spans:#?}");
    assert_eq!(proxy.parent_id, of_client);
    assert_eq!(proxies.parent_id, proxy.span_id);
    assert_eq!(served.parent_id, proxies.span_id);
    assert_eq!(asks.parent_id, served.span_id);
    // On another node: of whom the header says, for only the caller's node knows that the caller is traced.
    assert_eq!(stocked.parent_id, of_client);
    let status = if n % 10 == 9 { "404" } else { "200" };
    for span in spans {
        assert_eq!(of(span, STATUS), status, "{span:#?}");
        assert_eq!(of(span, "http.request.method"), "GET");
        assert_eq!(of(span, "waggle.request.unlinked"), "", "{span:#?}");
        assert_eq!(of(span, "waggle.request.unknown_head"), "", "{span:#?}");
    }
    for (span, service, node) in [(proxies, "chain-app", "n1"), (asks, "chain-stock", "n2")] {
        assert_eq!(
            of(span, "waggle.vip.name"),
            format!("{}:80", name_of(service))
        );
        assert_eq!(of(span, "service.peer.name"), format!("{service}.marathon"));
        assert_eq!(of(span, "network.peer.address"), address(world, node));
        assert!(span.start_ns >= proxy.start_ns && span.end_ns <= proxy.end_ns);
    }
    assert_eq!(proxy.name, "GET /shop/{id}");
}

/// Redis and PostgreSQL speak no HTTP: they are edges of the map, and spans only where a connect is slow or fails.
fn databases_are_edges(world: &World, chain: &Chain) {
    let wanted = [("chain-redis", 6379, "n2"), ("chain-pg", 5432, "n3")];
    wait_until(LIMIT, "the databases in the map", || {
        let arguments = ["map", "--service", "/chain-app", "--since", "10m"];
        let map: MapView = serde_json::from_value(cli::shows(world, &arguments)).unwrap();
        let is_there = |(service, port, _): &(&str, u16, &str)| {
            let vip = format!("{}:{port}", name_of(service));
            let to = format!("{service}.marathon");
            let edge = map.edges.iter().find(|e| {
                e.name.source == "chain-app.marathon"
                    && e.name.destination == to
                    && e.name.vip.as_deref() == Some(&vip)
            });
            edge.is_some_and(|e| e.sums.connections >= N && e.sums.errors.is_empty())
        };
        wanted.iter().all(is_there).then_some(())
    })
    .unwrap();
    for span in spans_of(world, &chain.app) {
        let vip = of(&span, "waggle.vip.name");
        let is_database = wanted.iter().any(|(service, ..)| vip.starts_with(service));
        assert!(
            !is_database || span.name.starts_with("connect "),
            "{span:#?}"
        );
    }
}

/// Each node says of a trace what it has seen of it.
fn nodes_remember(world: &World, chain: &Chain) {
    let client = world.cluster.client();
    let path = format!("/waggle/v1/spans?trace={:032x}", 1);
    for (node, n) in [("n1", 4), ("n2", 1), ("n3", 0)] {
        let at = (world.cluster.node(node).unwrap().ip, port::AGENT).into();
        let answer = client.get(at, &path).unwrap().ok().unwrap();
        let view: SpansView = serde_json::from_value(answer.json().unwrap()).unwrap();
        assert_eq!(view.spans.len(), n, "{node} {view:#?}");
    }
    // A task is looked for in deployments first.
    let tree = cli::says(world, &["trace", &chain.app]);
    assert!(tree.contains("task.launch"), "{tree}");
}

#[test]
fn a_request_through_services_that_hand_headers_on_is_one_trace() {
    if !can_run() || !has_postgres() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let chain = begin(world, "chain-", "requests", true);

    // The programs are loaded when a node's first task asks for it; what it is asked before that is not seen.
    let mut n_asked = 0;
    wait_until(LIMIT, "all nodes to look", || {
        ask(world, EARLY + n_asked, EARLY + n_asked + 1);
        n_asked += 1;
        let early = traces(world, EARLY, EARLY + n_asked);
        early.values().any(|spans| spans.len() >= 5).then_some(())
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", world.cluster.last_words()));
    ask(world, 0, N);
    let whole = wait_until(LIMIT, "five spans of each request", || {
        let traces = traces(world, 0, N);
        let n_whole = traces.values().filter(|spans| spans.len() >= 5).count();
        (n_whole as u64 == N).then_some(traces)
    });
    let whole = whole.unwrap_or_else(|e| panic!("{e:#}\n{:#?}", traces(world, 0, N)));
    for (n, spans) in &whole {
        is_whole(world, &chain, *n, spans);
    }
    databases_are_edges(world, &chain);
    nodes_remember(world, &chain);
    chain.end(world);
}

/// Which of the six a span is, from the outermost in, and the number of its request.
fn place(span: &Span, tasks: &[&str; 6]) -> Option<(usize, String)> {
    let is_call = span.attributes.contains_key("url.full");
    // Each but the outermost and the innermost has two.
    let of_task = |at: &usize| tasks[*at] == task_of(span) && at.is_multiple_of(2) == is_call;
    let number = of(span, "url.path").rsplit('/').next()?;
    Some(((0..6).find(of_task)?, number.to_owned()))
}

/// Numbers of requests that are one trace of six spans, each the child of the one before it. A parent that is of another request,
/// or further in, is a failure.
fn whole(world: &World, tasks: &[&str; 6]) -> Vec<String> {
    let spans: Vec<Span> = world.sink.with(|s| {
        let told = s.spans.iter();
        let told = told.filter(|span| span.attributes.contains_key(STATUS));
        told.cloned().collect()
    });
    let spans = spans.iter().filter_map(|s| Some((place(s, tasks)?, s)));
    let by_id: BTreeMap<&str, ((usize, String), &Span)> =
        spans.map(|(at, s)| (s.span_id.as_str(), (at, s))).collect();
    let mut n_linked: BTreeMap<&String, usize> = BTreeMap::new();
    for ((at, number), span) in by_id.values() {
        if let Some(((above, of_above), parent)) = by_id.get(span.parent_id.as_str()) {
            // Before its node begins to look, nginx hands on what it got: the client's.
            let is_right = above < at && of_above == number && parent.trace_id == span.trace_id;
            assert!(is_right, "{span:#?} {parent:#?}");
            if above + 1 == *at {
                *n_linked.entry(number).or_default() += 1;
            }
        }
    }
    let linked = n_linked.into_iter().filter(|(_, n)| *n == 5);
    linked.map(|(number, _)| number.clone()).collect()
}

#[test]
fn where_the_kernel_may_put_the_header_in_programs_that_hand_nothing_on_are_one_trace() {
    if !can_run() || !has_postgres() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let chain = begin(world, "silent-", "inject", false);
    let mut client = python("silent-client", "n3", SILENT, None);
    client["labels"]["WAGGLE_TRACE"] = "inject".into();
    let client = launch(world, &client);
    let tasks = [
        &client,
        &chain.nginx,
        &chain.nginx,
        &chain.app,
        &chain.app,
        &chain.stock,
    ];
    let tasks = tasks.map(String::as_str);
    // Until the programs are there and know that a process works as it looks, some are not.
    let found = wait_until(LIMIT, "requests that are one trace each", || {
        (whole(world, &tasks).len() as u64 >= N).then_some(())
    });
    found.unwrap_or_else(|e| {
        let whole = whole(world, &tasks);
        let told = tasks.map(|task| spans_of(world, task).len());
        let last: Vec<Span> = tasks
            .iter()
            .filter_map(|task| spans_of(world, task).pop())
            .collect();
        panic!(
            "{e:#}\n{whole:?} {told:?} {last:#?}\n{}",
            world.cluster.last_words()
        )
    });
    let marathon = world.cluster.leader(port::MARATHON);
    let shown = world
        .cluster
        .client()
        .get(marathon, "/v2/apps/silent-client/tasks");
    let shown = shown.unwrap().ok().unwrap().json().unwrap();
    assert_eq!(shown["tasks"][0]["id"], client, "no answer was wrong");
    remove_all(world, ["/silent-client".to_owned()]);
    chain.end(world);
}

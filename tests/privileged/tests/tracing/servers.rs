//! Servers of three kinds under ten thousand requests, of which nothing says on the wire whose they are: a call that is put down to a request
//! is put down to the right one.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};

use serde_json::json;
use waggle_tests_privileged::{LIMIT, can_run, shared, traced};
use waggle_tests_support::scenario::World;
use waggle_tests_support::sink::Span;
use waggle_tests_support::wait_until;

use crate::common::{app, launch, looks, losses, name_of, of, python, remove_all, spans_of};

/// Of one event loop.
const LOOP: &str = r#"
import asyncio, os, random
host, port = os.environ["BACK"].split(":")
idle = []
async def read(r):
    head = (await r.readuntil(b"\r\n\r\n")).decode()
    fields = [line.partition(":") for line in head.split("\r\n")[1:]]
    length = sum(int(v) for k, _, v in fields if k.lower() == "content-length")
    return head, (await r.readexactly(length)).decode()
async def ask(path):
    r, w = idle.pop() if idle else await asyncio.open_connection(host, int(port))
    w.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    said = (await read(r))[1]
    idle.append((r, w))
    return said
async def serve(r, w):
    try:
        while True:
            n = (await read(r))[0].split()[1].rsplit("/", 1)[1]
            await asyncio.sleep(random.random() / 120)
            said = await ask("/back/" + n)
            await asyncio.sleep(random.random() / 120)
            w.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(said)}\r\n\r\n{said}".encode())
    except (asyncio.IncompleteReadError, ConnectionError):
        w.close()
async def own():
    n = 0
    while True:
        await asyncio.sleep(0.02)
        n += 1
        await ask(f"/own/{n}")
async def main():
    beside = asyncio.create_task(own())
    server = await asyncio.start_server(serve, "", int(os.environ["PORT0"]))
    await asyncio.gather(beside, server.serve_forever())
asyncio.run(main())
"#;

/// Of a thread for each connection, as servers were before.
const THREADS: &str = r#"
import http.client, http.server, os, threading
host, port = os.environ["BACK"].split(":")
mine = threading.local()
class Front(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if not hasattr(mine, "to"):
            mine.to = http.client.HTTPConnection(host, int(port), timeout=10)
        mine.to.request("GET", "/back/" + self.path.rsplit("/", 1)[1])
        said = mine.to.getresponse().read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("", int(os.environ["PORT0"])), Front).serve_forever()
"#;

/// What is asked of one server.
struct Load {
    service: &'static str,
    task: String,
    /// Requests that are to be judged.
    n: usize,
    asker: Child,
}

fn begin(world: &World, service: &'static str, task: String, n: usize, per_second: u64) -> Load {
    // Not traced: its node's own process.
    let mut asker = world.cluster.command("n1", traced().unwrap()).unwrap();
    let to = format!("{}:80", name_of(service));
    asker.args(["ask", &to, "--connections", "24"]);
    asker.args(["--per-second", &per_second.to_string()]);
    asker.stdin(Stdio::piped()).stdout(Stdio::piped());
    Load {
        service,
        task,
        n,
        asker: asker.spawn().unwrap(),
    }
}

impl Load {
    /// Until so many were seen, whatever was lost on a machine that is busy with other things.
    fn judged(mut self, world: &World) -> Sums {
        let (service, n) = (self.service, self.n);
        let found = wait_until(3 * LIMIT, &format!("the requests of {service}"), || {
            let sums = judge(&spans_of(world, &self.task));
            (sums.served >= n && sums.calls >= n).then_some(sums)
        });
        // It ends with its input.
        drop(self.asker.stdin.take());
        let out = self.asker.wait_with_output().unwrap();
        let sums = found.unwrap_or_else(|e| {
            let sums = judge(&spans_of(world, &self.task));
            panic!("{e:#} {sums:?}\n{}", losses(world, "n1"))
        });
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(said.ends_with(" right, 0 wrong\n"), "{service}: {said}");
        println!("{service}: {said}{sums:?}");
        sums
    }
}

/// What became of calls.
#[derive(Debug, Default)]
struct Sums {
    served: usize,
    calls: usize,
    linked: usize,
    wrong: Vec<String>,
    /// Why others are not, of those that are a request's.
    unlinked: BTreeMap<String, usize>,
}

fn is_call(span: &Span) -> bool {
    span.attributes.contains_key("url.full")
}

/// Each by what its path says.
fn judge(spans: &[Span]) -> Sums {
    let mut sums = Sums::default();
    let served = spans.iter().filter(|s| !is_call(s));
    let number = |span: &Span| {
        let path = of(span, "url.path");
        path.rsplit('/').next().unwrap_or_default().to_owned()
    };
    let served: BTreeMap<&str, &Span> = served.map(|s| (s.span_id.as_str(), s)).collect();
    sums.served = served.len();
    for call in spans.iter().filter(|s| is_call(s)) {
        let is_own = of(call, "url.path").starts_with("/own/");
        sums.calls += usize::from(!is_own);
        if call.parent_id.is_empty() {
            if is_own {
                continue;
            }
            let why = of(call, "waggle.request.unlinked").to_owned();
            *sums.unlinked.entry(why).or_default() += 1;
            continue;
        }
        sums.linked += 1;
        let is_right = served.get(call.parent_id.as_str()).is_some_and(|s| {
            of(call, "url.path").starts_with("/back/")
                && number(s) == number(call)
                && s.trace_id == call.trace_id
        });
        if !is_right {
            sums.wrong.push(format!("{call:?}"));
        }
    }
    sums
}

#[test]
fn no_server_of_any_kind_gets_a_wrong_parent() {
    if !can_run() {
        return;
    }
    let mut shared = shared().unwrap();
    let world = shared.world().unwrap();
    let traced = traced().unwrap().display().to_string();
    let back = app(
        "kinds-back",
        "n1",
        &format!("exec {traced} back $PORT0"),
        Some(80),
    );
    let back = launch(world, &back);
    looks(world, "n1");
    let to = format!("{}:80", name_of("kinds-back"));
    let runtime = format!("exec {traced} relay $PORT0 {to}");
    let runtime = app("kinds-runtime", "n1", &runtime, Some(80));
    let mut one_loop = python("kinds-loop", "n1", LOOP, Some(80));
    one_loop["env"]["BACK"] = json!(to);
    let mut threads = python("kinds-threads", "n1", THREADS, Some(80));
    threads["env"]["BACK"] = json!(to);
    let (runtime, one_loop) = (launch(world, &runtime), launch(world, &one_loop));
    let threads = launch(world, &threads);

    // At a rate that is below the bound of a service's spans. First one whose calls can be put down to requests: otherwise it would say
    // nothing that none is wrong.
    let threads = begin(world, "kinds-threads", threads, 1000, 50);
    wait_until(LIMIT, "calls that are put down to requests", || {
        (judge(&spans_of(world, &threads.task)).linked >= 200).then_some(())
    })
    .unwrap_or_else(|e| {
        let sums = judge(&spans_of(world, &threads.task));
        panic!("{e:#} {sums:?}\n{}", losses(world, "n1"))
    });
    let loads = [
        begin(world, "kinds-runtime", runtime, 4500, 250),
        begin(world, "kinds-loop", one_loop, 4500, 250),
        threads,
    ];
    for load in loads {
        let service = load.service;
        let sums = load.judged(world);
        assert!(sums.wrong.is_empty(), "{service}: {:#?}", sums.wrong);
        let says_why = !sums.unlinked.contains_key("");
        assert!(says_why, "{service}: who has no parent says why: {sums:?}");
    }
    println!("{}", losses(world, "n1"));
    // The other end's are children of just that call.
    let calls = world.sink.with(|s| {
        let calls = s.spans.iter().filter(|s| is_call(s));
        let calls = calls.map(|s| (s.span_id.clone(), of(s, "url.path").to_owned()));
        calls.collect::<BTreeMap<String, String>>()
    });
    let (mut n, answered) = (0, spans_of(world, &back));
    for span in answered.iter().filter(|s| !s.parent_id.is_empty()) {
        if let Some(path) = calls.get(&span.parent_id) {
            assert_eq!(of(span, "url.path"), path);
            n += 1;
        }
    }
    assert!(n > 5000, "{n} of {}", answered.len());
    let ids = ["threads", "loop", "runtime", "back"];
    remove_all(world, ids.map(|id| format!("/kinds-{id}")));
}

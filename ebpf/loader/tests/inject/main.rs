//! The header that is put into requests, on this machine's kernel: where it goes, what it says, and that nothing else of what is sent is
//! changed.
//!
//! Needs root, cgroup2 and the embedded object; skips loudly otherwise. Every test has cgroups and a pin directory of its own,
//! and touches nothing else.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../requests/child.rs"]
mod child;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../requests/ktls.rs"]
mod ktls;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../requests/zero.rs"]
mod zero;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use child::{body, to_hex};
use support::{Node, Task, eventually};
use waggle_ebpf::common::addr_of;
use waggle_ebpf::common::inject::ids::{CLIENT_SPAN, TRACE_HIGH, TRACE_LOW, hash, hop};
use waggle_ebpf::common::inject::{PROOF, head::HEADER};
use waggle_ebpf::common::requests::{direction, kind};
use waggle_ebpf::{
    DataPlane, Finding, Injector, Opened, RequestTracer, Stay, Terms, is_built_with_ebpf,
};

const LIMIT: Duration = Duration::from_secs(20);
const GET: &str = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// What children run; nothing in the parent.
#[test]
fn child() -> anyhow::Result<()> {
    child::serve()
}

/// A node that puts headers in.
struct Rig {
    // Dropped first: the node's pins are removed after it.
    injector: Injector,
    plane: DataPlane,
    node: Node,
    own: Vec<(&'static str, u64)>,
}

impl Rig {
    fn new(name: &str, stay: Option<Stay>) -> anyhow::Result<Option<Self>> {
        let Some(node) = Node::new(name)? else {
            return Ok(None);
        };
        let plane = node.open()?;
        let terms = Terms {
            without_send_zc: true,
        };
        let injector = match Injector::open(&plane, &node.cgroup, terms)? {
            Opened::Works(injector) => *injector,
            Opened::Refused(why, found) => {
                eprintln!("SKIP: this kernel can't: {why}\n{found:#?}");
                return Ok(None);
            }
        };
        if let Some(stay) = stay {
            injector.set_stay(stay)?;
        }
        let own = injector.counts()?;
        Ok(Some(Self {
            injector,
            plane,
            node,
            own,
        }))
    }

    fn task(&mut self, name: &str) -> anyhow::Result<(Task, u64)> {
        let (leaf, id) = self.node.leaf(name)?;
        self.injector.inject(id)?;
        Ok((Task::start(&leaf)?, id))
    }

    /// What was counted, but for the self-test's.
    fn counts(&self) -> anyhow::Result<Vec<(&'static str, u64)>> {
        let now = self.injector.counts()?.into_iter();
        let new = now
            .zip(&self.own)
            .map(|((name, n), (_, own))| (name, n - own));
        Ok(new.filter(|(_, n)| *n > 0).collect())
    }
}

/// A connection from a task to this test.
struct Call {
    id: String,
    server: TcpStream,
    client_at: std::net::SocketAddr,
}

fn call(task: &mut Task) -> anyhow::Result<Call> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let id = task.ask(&format!("connect {}", listener.local_addr()?))?;
    let (server, client_at) = listener.accept()?;
    server.set_read_timeout(Some(LIMIT))?;
    server.set_nodelay(true)?;
    Ok(Call {
        id,
        server,
        client_at,
    })
}

impl Call {
    fn send(&self, task: &mut Task, text: &str) -> anyhow::Result<()> {
        task.ask(&format!("write {} {}", self.id, to_hex(text.as_bytes())))?;
        Ok(())
    }

    fn read(&mut self, n: usize) -> anyhow::Result<String> {
        let mut bytes = vec![0; n];
        self.server.read_exact(&mut bytes)?;
        Ok(String::from_utf8(bytes)?)
    }

    /// Reads a text with a header in it, and answers; what the header says.
    fn read_injected(&mut self, sent: &str) -> anyhow::Result<String> {
        let came = self.read(sent.len() + HEADER)?;
        let value = value_in(&came, sent)?;
        self.server.write_all(ANSWER)?;
        Ok(value)
    }

    /// Reads a text as it was sent, and answers.
    fn read_same(&mut self, sent: &str) -> anyhow::Result<()> {
        assert_eq!(self.read(sent.len())?, sent);
        self.server.write_all(ANSWER)?;
        Ok(())
    }

    fn take_answer(&self, task: &mut Task) -> anyhow::Result<()> {
        task.ask(&format!("read {} {}", self.id, ANSWER.len()))?;
        Ok(())
    }

    /// Nothing more comes once the task has closed it.
    fn ends(mut self, task: &mut Task) -> anyhow::Result<()> {
        task.ask(&format!("close {}", self.id))?;
        let mut rest = Vec::new();
        self.server.read_to_end(&mut rest)?;
        assert_eq!(String::from_utf8_lossy(&rest), "");
        Ok(())
    }
}

/// The value of the header that is in `came` beside what was sent.
fn value_in(came: &str, sent: &str) -> anyhow::Result<String> {
    let line = sent.find("\r\n").context("no line")? + 2;
    let (header, rest) = came[line..].split_at(HEADER);
    assert_eq!((&came[..line], rest), (&sent[..line], &sent[line..]));
    let value = header.strip_prefix("traceparent: ").context("no header")?;
    Ok(value.strip_suffix("\r\n").context("no end")?.to_owned())
}

#[test]
fn the_self_test_says_what_this_kernel_does() -> anyhow::Result<()> {
    let Some(node) = Node::new("inj-test")? else {
        return Ok(());
    };
    let plane = node.open()?;
    let all = Terms {
        without_send_zc: true,
    };
    let (found, works) = match Injector::open(&plane, &node.cgroup, all)? {
        Opened::Works(injector) => {
            assert_eq!(injector.programs().len(), 5);
            (injector.findings().clone(), true)
        }
        Opened::Refused(why, found) => {
            eprintln!("refused: {why}");
            (*found, false)
        }
    };
    eprintln!("{found:#?}");
    assert_eq!(found.verdict(all).is_ok(), works);
    // Who does not put up with it has no programs, and no members.
    let strict = Injector::open(&plane, &node.cgroup, Terms::default())?;
    let is_refused = matches!(strict, Opened::Refused(..));
    assert_eq!(is_refused, matches!(found.send_zc, Finding::Wrong(_)));
    Ok(())
}

#[test]
fn a_request_gets_the_ids_that_the_tracer_makes_of_it() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("inj-ids", None)? else {
        return Ok(());
    };
    let tracer = RequestTracer::open(&rig.plane, &rig.node.cgroup)?;
    let mut records = tracer.take_records().context("taken")?;
    let (mut task, id) = rig.task("client")?;
    tracer.trace(id)?;
    let mut call = call(&mut task)?;
    call.send(&mut task, GET)?;
    let value = call.read_injected(GET)?;
    let mut told = None;
    eventually(|| {
        while let Some((head, bytes)) = records.next(|h, b| (*h, b.to_vec())) {
            if head.kind == kind::PIECE && head.direction == direction::OUT {
                told = Some((head, bytes));
            }
        }
        Ok(told.is_some())
    })?;
    let (head, bytes) = told.context("no record")?;
    // The tracer sees the header, as does everybody after it.
    assert!(String::from_utf8(bytes)?.contains(&value));
    let (client, server) = (call.client_at, call.server.local_addr()?);
    let (client_ip, server_ip) = (addr_of(client.ip()), addr_of(server.ip()));
    let hop = hop(
        (&client_ip, client.port()),
        (&server_ip, server.port()),
        head.sequence,
        0,
    );
    let (high, low) = (hash(&hop, TRACE_HIGH), hash(&hop, TRACE_LOW));
    let span = hash(&hop, CLIENT_SPAN);
    assert_eq!(value, format!("00-{high:016x}{low:016x}-{span:016x}-01"));
    assert_eq!(rig.counts()?, [("fresh", 1)]);
    Ok(())
}

#[test]
fn only_who_asked_gets_one() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("inj-who", None)? else {
        return Ok(());
    };
    let (leaf, _) = rig.node.leaf("other")?;
    let mut other = Task::start(&leaf)?;
    let mut plain = call(&mut other)?;
    plain.send(&mut other, GET)?;
    plain.read_same(GET)?;
    let (mut task, id) = rig.task("client")?;
    assert_eq!(rig.injector.injected()?, [id].into());
    rig.injector.forget(id)?;
    let mut plain = call(&mut task)?;
    plain.send(&mut task, GET)?;
    plain.read_same(GET)?;
    assert_eq!(rig.counts()?, []);
    Ok(())
}

#[test]
fn a_connection_is_no_member_any_more_when_the_answer_is_there() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("inj-first", Some(Stay::First))? else {
        return Ok(());
    };
    let (mut task, _) = rig.task("client")?;
    for _ in 0..20 {
        let mut call = call(&mut task)?;
        call.send(&mut task, GET)?;
        call.read_injected(GET)?;
        let waiting = task.ask(&format!("waiting {}", call.id))?;
        assert_eq!(waiting, ANSWER.len().to_string());
        call.take_answer(&mut task)?;
        // What comes after the first request is not looked at.
        for _ in 0..3 {
            call.send(&mut task, GET)?;
            call.read_same(GET)?;
            call.take_answer(&mut task)?;
        }
        call.ends(&mut task)?;
    }
    assert_eq!(rig.counts()?, [("fresh", 20)]);
    Ok(())
}

#[test]
fn each_request_of_a_connection_that_stays_gets_one() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("inj-stay", Some(Stay::Whole))? else {
        return Ok(());
    };
    let (mut task, _) = rig.task("client")?;
    let mut call = call(&mut task)?;
    let mut values = std::collections::BTreeSet::new();
    for _ in 0..500 {
        call.send(&mut task, GET)?;
        values.insert(call.read_injected(GET)?);
        call.take_answer(&mut task)?;
    }
    assert_eq!(values.len(), 500, "each is another");
    call.ends(&mut task)?;
    assert_eq!(rig.counts()?, [("fresh", 500)]);
    Ok(())
}

/// Sends bodies in all ways, each followed by another request, and compares all that comes.
fn bodies(stay: Stay, name: &str) -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new(name, Some(stay))? else {
        return Ok(());
    };
    let (mut task, _) = rig.task("client")?;
    let mut n_ways = 0;
    for (how, n) in [
        ("write", 50_000_000),
        ("sendfile", 50_000_000),
        ("splice", 5_000_000),
        ("nowait", 20_000_000),
        ("small", 1_000_000),
        ("lines", 300_000),
        ("zerocopy", 5_000_000),
        ("uring", 5_000_000),
        ("write", 1),
    ] {
        if how == "uring" && !zero::has_ring() {
            eprintln!("SKIP: {how}: this kernel has no io_uring for us");
            continue;
        }
        n_ways += 1;
        let mut call = call(&mut task)?;
        let head = format!("POST /{how} HTTP/1.1\r\nHost: a\r\nContent-Length: {n}\r\n\r\n");
        let reader = {
            let (mut server, sent) = (call.server.try_clone()?, head.clone());
            std::thread::spawn(move || -> anyhow::Result<()> {
                let mut came = vec![0; sent.len() + HEADER];
                server.read_exact(&mut came)?;
                value_in(&String::from_utf8(came)?, &sent)?;
                let mut came = vec![0; n];
                server.read_exact(&mut came)?;
                if came != body(n) {
                    bail!("the body is not what was sent");
                }
                server.write_all(ANSWER)?;
                Ok(())
            })
        };
        call.send(&mut task, &head)?;
        task.ask(&format!("send {} {how} {n}", call.id))?;
        reader
            .join()
            .map_err(|_| anyhow::anyhow!("the reader panicked"))?
            .context(how)?;
        call.take_answer(&mut task)?;
        call.send(&mut task, GET)?;
        match stay {
            Stay::Whole => drop(call.read_injected(GET)?),
            Stay::First => call.read_same(GET)?,
        }
        task.ask(&format!("half {}", call.id))?;
        call.take_answer(&mut task)?;
        call.ends(&mut task)?;
    }
    let n = if stay == Stay::Whole { 2 } else { 1 };
    assert_eq!(rig.counts()?, [("fresh", n_ways * n)]);
    Ok(())
}

#[test]
fn bodies_are_not_touched() -> anyhow::Result<()> {
    bodies(Stay::First, "inj-body")
}

#[test]
fn bodies_of_connections_that_stay_are_not_touched() -> anyhow::Result<()> {
    bodies(Stay::Whole, "inj-bodies")
}

#[test]
fn a_head_that_is_sent_without_a_copy_gets_one_and_is_done_with() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("inj-zero", Some(Stay::Whole))? else {
        return Ok(());
    };
    let (mut task, _) = rig.task("client")?;
    let mut call = call(&mut task)?;
    for _ in 0..20 {
        // Answers once the kernel has said that it needs the bytes no more.
        let hex = to_hex(GET.as_bytes());
        task.ask(&format!("copyless {} {hex}", call.id))?;
        call.read_injected(GET)?;
        call.take_answer(&mut task)?;
    }
    call.ends(&mut task)?;
    assert_eq!(rig.counts()?, [("fresh", 20)]);
    Ok(())
}

#[test]
fn what_the_kernel_encrypts_is_left_alone() -> anyhow::Result<()> {
    if !ktls::is_there()? {
        eprintln!("SKIP: this kernel has no TLS");
        return Ok(());
    }
    let Some(mut rig) = Rig::new("inj-ktls", Some(Stay::Whole))? else {
        return Ok(());
    };
    let (mut task, _) = rig.task("client")?;
    let mut call = call(&mut task)?;
    let hello = "\x16\x03\x01\x00\x10\x01\x00\x00\x0c\x03\x03aaaaaaaaaa";
    call.send(&mut task, hello)?;
    call.read_same(hello)?;
    call.take_answer(&mut task)?;
    ktls::decrypt(&call.server)?;
    task.ask(&format!("ktls {}", call.id))?;
    for _ in 0..3 {
        call.send(&mut task, GET)?;
        call.read_same(GET)?;
        call.take_answer(&mut task)?;
    }
    assert_eq!(rig.counts()?, [("not_http", 1)]);
    Ok(())
}

#[test]
fn what_can_not_be_followed_is_left_alone_for_good() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("inj-off", Some(Stay::Whole))? else {
        return Ok(());
    };
    let (mut task, _) = rig.task("client")?;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(3000));
    let two = [GET, GET].concat();
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (sends, gets, why) in [
        (vec!["GET /a HT", "TP/1.1\r\n\r\n"], 0, "split_head"),
        (
            vec!["GET /a HTTP/1.1\r\nHost: a\r\n", "\r\n"],
            0,
            "split_head",
        ),
        (vec!["GE", "T /a HTTP/1.1\r\n\r\n"], 0, "split_head"),
        (vec![&long], 0, "long_head"),
        (
            vec!["\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03aaaaaaaaaa"],
            0,
            "not_http",
        ),
        (vec!["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], 0, "not_http"),
        (vec!["GET /a HTTP/1.0\r\nHost: a\r\n\r\n"], 0, "not_http"),
        (vec!["CONNECT a:1 HTTP/1.1\r\n\r\n"], 0, "upgrade"),
        (
            vec!["GET /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"],
            0,
            "upgrade",
        ),
        (vec![&two], 1, "pipelined"),
        (vec![chunked], 1, "chunked"),
    ] {
        rig.own = rig.injector.counts()?;
        let mut call = call(&mut task)?;
        let all = sends.concat();
        for part in sends {
            call.send(&mut task, part)?;
        }
        if gets == 0 {
            assert_eq!(call.read(all.len())?, all);
        } else {
            let came = call.read(all.len() + HEADER)?;
            value_in(&came, &all)?;
        }
        call.server.write_all(ANSWER)?;
        call.take_answer(&mut task)?;
        // What follows looks like a request, and may be anything.
        call.send(&mut task, GET)?;
        call.read_same(GET)?;
        call.take_answer(&mut task)?;
        call.ends(&mut task)?;
        let mut want = vec![(why, 1)];
        if gets > 0 {
            want.insert(0, ("fresh", 1));
        }
        assert_eq!(rig.counts()?, want, "{all:?}");
    }
    Ok(())
}

#[test]
fn a_context_of_the_tasks_own_stays_the_only_one() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("inj-own", Some(Stay::Whole))? else {
        return Ok(());
    };
    let (mut task, _) = rig.task("client")?;
    let mut call = call(&mut task)?;
    let own = format!("GET /a HTTP/1.1\r\nTraceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n\r\n");
    call.send(&mut task, &own)?;
    call.read_same(&own)?;
    call.take_answer(&mut task)?;
    call.send(&mut task, GET)?;
    call.read_injected(GET)?;
    assert_eq!(rig.counts()?, [("fresh", 1), ("has_context", 1)]);
    Ok(())
}

/// A task that serves, asked by this test.
struct Asked {
    asker: TcpStream,
    id: String,
}

impl Asked {
    fn new(task: &mut Task, at: &str) -> anyhow::Result<Self> {
        let asker = TcpStream::connect(at)?;
        asker.set_nodelay(true)?;
        asker.set_read_timeout(Some(LIMIT))?;
        let id = task.ask("accept")?;
        Ok(Self { asker, id })
    }

    fn ask(&mut self, task: &mut Task, text: &str) -> anyhow::Result<()> {
        self.asker.write_all(text.as_bytes())?;
        task.ask(&format!("read {} {}", self.id, text.len()))?;
        Ok(())
    }

    fn answer(&mut self, task: &mut Task) -> anyhow::Result<()> {
        task.ask(&format!("write {} {}", self.id, to_hex(ANSWER)))?;
        self.asker.read_exact(&mut vec![0; ANSWER.len()])?;
        Ok(())
    }
}

fn traced(n: u32) -> String {
    format!("GET /b HTTP/1.1\r\ntraceparent: 00-{TRACE}-{n:016x}-01\r\n\r\n")
}

/// Calls, and says in which trace.
fn trace_of_call(task: &mut Task) -> anyhow::Result<String> {
    let mut call = call(task)?;
    call.send(task, GET)?;
    let value = call.read_injected(GET)?;
    call.take_answer(task)?;
    call.ends(task)?;
    Ok(value[3..35].to_owned())
}

#[test]
fn a_call_is_put_down_to_the_request_that_its_thread_works_on() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("inj-child", None)? else {
        return Ok(());
    };
    let (mut task, _) = rig.task("server")?;
    let at = task.ask("listen 127.0.0.1:0")?;
    let mut asked = Asked::new(&mut task, &at)?;
    for n in 0..PROOF {
        asked.ask(&mut task, &traced(n + 1))?;
        let unproven = trace_of_call(&mut task)?;
        assert_ne!(unproven, TRACE, "after {n} requests");
        asked.answer(&mut task)?;
    }
    asked.ask(&mut task, &traced(99))?;
    assert_eq!(trace_of_call(&mut task)?, TRACE);
    assert_eq!(trace_of_call(&mut task)?, TRACE, "and so is the next");
    asked.answer(&mut task)?;
    // Without a context the trace is what both ends make of it.
    asked.ask(&mut task, GET)?;
    let own = trace_of_call(&mut task)?;
    assert_ne!(own, TRACE);
    assert_eq!(trace_of_call(&mut task)?, own);
    asked.answer(&mut task)?;
    let counts = rig.counts()?;
    assert_eq!(counts, [("child", 4), ("fresh", u64::from(PROOF))]);
    // The thread has business of its own.
    trace_of_call(&mut task)?;
    asked.ask(&mut task, &traced(100))?;
    assert_ne!(trace_of_call(&mut task)?, TRACE);
    Ok(())
}

#[test]
fn who_works_on_two_things_at_once_gets_a_trace_of_its_own() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("inj-loop", None)? else {
        return Ok(());
    };
    let (mut task, _) = rig.task("server")?;
    let at = task.ask("listen 127.0.0.1:0")?;
    let mut first = Asked::new(&mut task, &at)?;
    for n in 0..PROOF {
        first.ask(&mut task, &traced(n + 1))?;
        first.answer(&mut task)?;
    }
    first.ask(&mut task, &traced(50))?;
    let mut second = Asked::new(&mut task, &at)?;
    second.ask(&mut task, &traced(51))?;
    assert_ne!(trace_of_call(&mut task)?, TRACE);
    second.answer(&mut task)?;
    first.answer(&mut task)?;
    for n in 0..PROOF {
        first.ask(&mut task, &traced(n + 60))?;
        assert_ne!(trace_of_call(&mut task)?, TRACE, "not forgiven");
        first.answer(&mut task)?;
    }
    assert_eq!(rig.counts()?, [("fresh", u64::from(PROOF) + 1)]);
    Ok(())
}

#[test]
fn connections_outlive_who_put_headers_in() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("inj-gone", Some(Stay::Whole))? else {
        return Ok(());
    };
    let (mut task, _) = rig.task("client")?;
    let mut call = call(&mut task)?;
    call.send(&mut task, GET)?;
    call.read_injected(GET)?;
    let Rig {
        injector,
        plane,
        node,
        ..
    } = rig;
    drop(injector);
    // Maps go a moment later.
    eventually(|| {
        task.ask(&format!("write {} {}", call.id, to_hex(GET.as_bytes())))?;
        let mut first = vec![0; GET.len()];
        call.server.read_exact(&mut first)?;
        if first == GET.as_bytes() {
            return Ok(true);
        }
        call.server.read_exact(&mut [0; HEADER])?;
        Ok(false)
    })?;
    assert!(is_built_with_ebpf());
    call.server.write_all(ANSWER)?;
    task.ask(&format!("read {} {}", call.id, 2 * ANSWER.len()))?;
    drop((task, plane, node));
    Ok(())
}

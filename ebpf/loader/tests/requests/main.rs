//! What traces requests, on this machine's kernel: heads of HTTP/1 and frames of HTTP/2 over real sockets, and that nothing of what is
//! sent is changed by being looked at.
//!
//! Needs root, cgroup2 and the embedded object; skips loudly otherwise. Every test has cgroups and a pin directory of its own,
//! and touches nothing else.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside #[test] functions"
)]

mod child;
#[allow(dead_code, reason = "each test program uses a part of it")]
mod ktls;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, reason = "each test program uses a part of it")]
mod zero;

use anyhow::Context;
use child::to_hex;
use support::{Node, Task, eventually};
use waggle_ebpf::common::ip_of;
use waggle_ebpf::common::requests::{Head, direction, kind, protocol, role};
use waggle_ebpf::{DataPlane, RequestRecords, RequestTracer};

/// What children run; nothing in the parent.
#[test]
fn child() -> anyhow::Result<()> {
    child::serve()
}

/// A node with a tracer.
struct Rig {
    // Dropped first: the node's pins are removed after it.
    records: RequestRecords,
    tracer: RequestTracer,
    plane: DataPlane,
    node: Node,
}

impl Rig {
    fn new(name: &str) -> anyhow::Result<Option<Self>> {
        let Some(node) = Node::new(name)? else {
            return Ok(None);
        };
        let plane = node.open()?;
        let tracer = RequestTracer::open(&plane, &node.cgroup)?;
        assert!(tracer.tells_readers(), "{:?}", tracer.trouble());
        let records = tracer.take_records().context("taken")?;
        assert!(tracer.take_records().is_none(), "there is one reader");
        Ok(Some(Self {
            records,
            tracer,
            plane,
            node,
        }))
    }

    /// A process in a cgroup of its own, traced or not.
    fn task(&mut self, name: &str, is_traced: bool) -> anyhow::Result<(Task, u64)> {
        let (leaf, id) = self.node.leaf(name)?;
        if is_traced {
            self.tracer.trace(id)?;
        }
        Ok((Task::start(&leaf)?, id))
    }

    fn told(&mut self) -> Vec<(Head, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some(one) = self.records.next(|head, bytes| (*head, bytes.to_vec())) {
            all.push(one);
        }
        all
    }

    fn count(&self, name: &str) -> anyhow::Result<u64> {
        let counts = self.tracer.counts()?;
        let found = counts.iter().find(|(of, _)| *of == name);
        Ok(found.context("no such count")?.1)
    }
}

/// A client and a server with a connection between them.
struct Pair {
    client: Task,
    server: Task,
    /// Their streams, as they name them.
    ids: (String, String),
}

impl Pair {
    fn connect(mut client: Task, mut server: Task, at: &str) -> anyhow::Result<Self> {
        let at = server.ask(&format!("listen {at}"))?;
        let ids = (client.ask(&format!("connect {at}"))?, server.ask("accept")?);
        Ok(Self {
            client,
            server,
            ids,
        })
    }

    /// Bytes in one packet, read by the other end before this is over.
    fn request(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let Self {
            client,
            server,
            ids,
        } = self;
        pass((client, &ids.0), (server, &ids.1), bytes)
    }

    fn answer(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let Self {
            client,
            server,
            ids,
        } = self;
        pass((server, &ids.1), (client, &ids.0), bytes)
    }
}

fn pass(
    (from, at): (&mut Task, &str),
    (to, there): (&mut Task, &str),
    bytes: &[u8],
) -> anyhow::Result<()> {
    from.ask(&format!("write {at} {}", to_hex(bytes)))?;
    to.ask(&format!("read {there} {}", bytes.len()))?;
    Ok(())
}

/// What was told of one direction, in order: whether the numbers are without a hole is asserted.
fn pieces(told: &[(Head, Vec<u8>)], way: u8) -> Vec<(Head, Vec<u8>)> {
    let is_piece = |head: &Head| head.kind == kind::PIECE && head.direction == way;
    let all: Vec<_> = told.iter().filter(|(h, _)| is_piece(h)).cloned().collect();
    for (n, (head, _)) in all.iter().enumerate() {
        assert_eq!(head.number as usize, n, "{all:?}");
    }
    all
}

fn texts(told: &[(Head, Vec<u8>)], way: u8) -> Vec<String> {
    let all = pieces(told, way).into_iter();
    all.map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned())
        .collect()
}

const GET: &[u8] = b"GET /a?b=c HTTP/1.1\r\nHost: shop\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn both_ends_of_a_connection_that_is_kept_alive_are_told() -> anyhow::Result<()> {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let Some(mut rig) = Rig::new("req-keep")? else {
            return Ok(());
        };
        let (server, server_id) = rig.task("server", true)?;
        let (client, client_id) = rig.task("client", true)?;
        let mut pair = Pair::connect(client, server, at)?;
        let threads = [pair.client.ask("thread")?, pair.server.ask("thread")?];
        for _ in 0..3 {
            pair.request(GET)?;
            pair.answer(OK)?;
        }
        let told = rig.told();
        for (id, in_text, out_text, thread, who) in [
            (client_id, OK, GET, &threads[0], role::CLIENT),
            (server_id, GET, OK, &threads[1], role::SERVER),
        ] {
            let own: Vec<_> = told
                .iter()
                .filter(|(h, _)| h.cgroup_id == id)
                .cloned()
                .collect();
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            assert_eq!(texts(&own, direction::IN), vec![text(in_text); 3]);
            assert_eq!(texts(&own, direction::OUT), vec![text(out_text); 3]);
            let first = own[0].0;
            let thread: u64 = thread.parse()?;
            let mut sequence = Follows::default();
            for (head, bytes) in own.iter().filter(|(h, _)| h.kind == kind::PIECE) {
                assert_eq!(head.role, who);
                assert_eq!(head.protocol, protocol::HTTP1);
                assert_eq!(head.socket, first.socket);
                assert_eq!(head.length as usize, bytes.len());
                assert_eq!(head.vip, [0; 4]);
                assert!(ip_of(head.local).to_canonical().is_loopback());
                assert!(ip_of(head.remote).to_canonical().is_loopback());
                assert_eq!(head.local_port, first.local_port);
                if head.direction == direction::OUT {
                    assert_eq!(head.thread, thread, "who holds the socket sends");
                }
                sequence.follows(head, bytes.len());
            }
            // Who reads is told of requests, for it is they that cause something.
            let reads = own.iter().filter(|(h, _)| h.kind == kind::READ);
            let reads: Vec<u64> = reads.map(|(h, _)| h.thread).collect();
            let wanted = if who == role::SERVER { 3 } else { 0 };
            assert_eq!(reads, vec![thread; wanted]);
        }
        // Each end's own port is the other's remote one.
        let port = |id: u64| {
            let of = told.iter().find(|(h, _)| h.cgroup_id == id);
            of.map(|(h, _)| (h.local_port, h.remote_port))
        };
        let (client, server) = (port(client_id).context("c")?, port(server_id).context("s")?);
        assert_eq!((client.0, client.1), (server.1, server.0));
        assert_eq!(rig.count("ring_full")?, 0);
    }
    Ok(())
}

/// That each direction's bytes go on where the last ones ended.
#[derive(Default)]
struct Follows([Option<u32>; 2]);

impl Follows {
    fn follows(&mut self, head: &Head, n: usize) {
        let next = &mut self.0[usize::from(head.direction)];
        if let Some(next) = *next {
            assert_eq!(head.sequence, next);
        }
        *next = Some(head.sequence.wrapping_add(u32::try_from(n).unwrap()));
    }
}

#[test]
fn nothing_is_told_of_who_did_not_ask_for_it() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("req-none")? else {
        return Ok(());
    };
    let (server, server_id) = rig.task("server", false)?;
    let (client, _) = rig.task("client", false)?;
    let mut pair = Pair::connect(client, server, "127.0.0.1:0")?;
    pair.request(GET)?;
    pair.answer(OK)?;
    assert_eq!(rig.told(), []);
    // One that is older than the wish is told of from then on.
    rig.tracer.trace(server_id)?;
    pair.request(GET)?;
    pair.answer(OK)?;
    let told = rig.told();
    assert_eq!(texts(&told, direction::IN).len(), 1);
    assert_eq!(texts(&told, direction::OUT).len(), 1);
    assert!(told.iter().all(|(h, _)| h.role == role::UNKNOWN), "older");
    rig.tracer.forget(server_id)?;
    rig.tracer.forget(server_id)?;
    pair.request(GET)?;
    assert_eq!(rig.told(), []);
    assert!(rig.tracer.traced()?.is_empty());
    Ok(())
}

#[test]
fn a_head_in_parts_is_told_to_its_end() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("req-split")? else {
        return Ok(());
    };
    let (server, _) = rig.task("server", true)?;
    let (client, _) = rig.task("client", false)?;
    let mut pair = Pair::connect(client, server, "127.0.0.1:0")?;
    let whole = b"GET /split HTTP/1.1\r\nHost: shop\r\ntraceparent: 00-1-2-01\r\n\r\n";
    for part in [&whole[..2], &whole[2..9], &whole[9..40], &whole[40..]] {
        pair.request(part)?;
    }
    pair.answer(OK)?;
    let told = rig.told();
    assert_eq!(texts(&told, direction::IN).concat().as_bytes(), whole);
    // Several at once are one packet, and one record.
    let piped = [GET, GET, GET].concat();
    pair.request(&piped)?;
    let told = rig.told();
    let came: Vec<_> = told.iter().filter(|(h, _)| h.kind == kind::PIECE).collect();
    assert_eq!(came.len(), 1);
    assert_eq!(came[0].1, piped);
    Ok(())
}

#[test]
fn of_a_large_body_only_what_may_be_a_head_is_told() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("req-body")? else {
        return Ok(());
    };
    let (server, _) = rig.task("server", true)?;
    let (client, _) = rig.task("client", false)?;
    let mut pair = Pair::connect(client, server, "127.0.0.1:0")?;
    let body = vec![b'x'; 40_000];
    let head = b"POST /up HTTP/1.1\r\nContent-Length: 80036\r\n\r\n";
    pair.request(&[&head[..], &body].concat())?;
    pair.request(GET)?;
    pair.request(&body)?;
    pair.answer(OK)?;
    let told = rig.told();
    let came = pieces(&told, direction::IN);
    assert!(came.len() <= 4, "{}", came.len());
    let (first, bytes) = &came[0];
    assert_eq!(bytes.len(), 2048);
    assert!(bytes.starts_with(head));
    assert!(first.length as usize >= bytes.len());
    // What looks like a head within has the number of its place.
    let (within, bytes) = &came[came.len() - 1];
    assert_eq!(bytes, GET);
    let place = within.sequence.wrapping_sub(first.sequence);
    assert_eq!(place as usize, head.len() + body.len());
    Ok(())
}

#[test]
fn the_end_of_an_answer_is_told_by_its_number() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("req-long")? else {
        return Ok(());
    };
    let (server, _) = rig.task("server", true)?;
    let (client, _) = rig.task("client", false)?;
    let mut pair = Pair::connect(client, server, "127.0.0.1:0")?;
    pair.request(GET)?;
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 40005\r\n\r\n";
    pair.answer(head)?;
    pair.answer(&vec![b'x'; 40_000])?;
    pair.answer(b"hello")?;
    let told = rig.told();
    let sent = pieces(&told, direction::OUT);
    assert_eq!(sent[0].1, head);
    let first = sent[0].0.sequence;
    let (last, bytes) = sent.last().context("nothing")?;
    assert_eq!((bytes.as_slice(), last.length), (&b"hello"[..], 5));
    let end = last.sequence.wrapping_add(last.length).wrapping_sub(first);
    assert_eq!(end as usize, head.len() + 40_005);
    let n: usize = sent.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(n < head.len() + 1000, "{n}");
    Ok(())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[test]
fn frames_with_heads_are_told_wherever_packets_end() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("req-h2")? else {
        return Ok(());
    };
    let (server, _) = rig.task("server", true)?;
    let (client, _) = rig.task("client", false)?;
    let mut pair = Pair::connect(client, server, "127.0.0.1:0")?;
    let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]);
    let heads = frame(1, 4, 1, b"block one");
    let more = frame(1, 0, 3, b"begins");
    let rest = frame(9, 4, 3, b"goes on");
    let data = frame(0, 0, 1, &vec![b'd'; 30_000]);
    let end = frame(0, 1, 1, b"");
    let reset = frame(3, 0, 3, &[0, 0, 0, 8]);
    let all = [
        PREFACE, &settings, &heads, &data, &more, &rest, &end, &reset, &heads,
    ]
    .concat();
    // In one piece, in two that are cut everywhere that matters, in many.
    let cuts: Vec<Vec<usize>> = vec![
        vec![],
        vec![PREFACE.len() + settings.len() + 3],
        vec![PREFACE.len() + settings.len() + heads.len() + 20],
        vec![
            all.len() - 3 * heads.len(),
            all.len() - heads.len() + 4,
            all.len() - 2,
        ],
        (1..12).map(|n| all.len() - n * 7).rev().collect(),
    ];
    for cuts in cuts {
        let at = pair.server.ask("listen 127.0.0.1:0")?;
        let client = pair.client.ask(&format!("connect {at}"))?;
        pair.ids = (client, pair.server.ask("accept")?);
        rig.told();
        let mut from = 0;
        for cut in cuts.iter().copied().chain([all.len()]) {
            pair.request(&all[from..cut])?;
            from = cut;
        }
        let told = rig.told();
        let came = pieces(&told, direction::IN);
        let first = came[0].0.sequence;
        // By the numbers each byte has its place; nothing is told twice.
        let mut seen: Vec<Option<u8>> = vec![None; all.len()];
        for (head, bytes) in &came {
            assert_eq!(head.protocol, protocol::HTTP2);
            let at = head.sequence.wrapping_sub(first) as usize;
            for (n, byte) in bytes.iter().enumerate() {
                assert_eq!(seen[at + n].replace(*byte), None);
                assert_eq!(*byte, all[at + n], "{cuts:?}");
            }
        }
        assert!(all.starts_with(PREFACE) && seen[..24].iter().all(Option::is_some));
        let told_whole = |part: &[u8], at: usize| {
            let seen: Option<Vec<u8>> = seen[at..at + part.len()].iter().copied().collect();
            assert_eq!(seen.as_deref(), Some(part), "{cuts:?}");
        };
        let mut at = PREFACE.len() + settings.len();
        told_whole(&heads, at);
        at += heads.len() + data.len();
        for part in [&more, &rest, &end, &reset, &heads] {
            told_whole(part, at);
            at += part.len();
        }
        let n_told = seen.iter().filter(|b| b.is_some()).count();
        assert!(n_told < 1000, "{n_told} of {}: data is left out", all.len());
    }
    assert_eq!(rig.count("out_of_step")?, 0);
    Ok(())
}

#[test]
fn a_packet_of_many_frames_is_walked_over_whole() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("req-h2many")? else {
        return Ok(());
    };
    let (server, _) = rig.task("server", true)?;
    let (client, _) = rig.task("client", false)?;
    let mut pair = Pair::connect(client, server, "127.0.0.1:0")?;
    // More bytes to tell, near each other, than a record has room for.
    let streams: Vec<u8> = (0..200_u32)
        .flat_map(|n| {
            let heads = frame(1, 4, 2 * n + 1, &[b'h'; 60]);
            [heads, frame(0, 0, 2 * n + 1, &[b'd'; 20])].concat()
        })
        .collect();
    let long = frame(1, 4, 401, &[b'l'; 6000]);
    let all = [PREFACE, &frame(4, 0, 0, &[]), &streams, &long].concat();
    pair.request(&all)?;
    let told = rig.told();
    let came = pieces(&told, direction::IN);
    let first = came[0].0.sequence;
    let mut seen = vec![None; all.len()];
    for (head, bytes) in &came {
        let at = head.sequence.wrapping_sub(first) as usize;
        for (n, byte) in bytes.iter().enumerate() {
            assert_eq!(seen[at + n].replace(*byte), None);
            assert_eq!(*byte, all[at + n]);
        }
    }
    let begin = all.len() - long.len() - streams.len();
    for (at, bytes) in streams.chunks(69 + 29).enumerate() {
        let heads = &seen[begin + at * bytes.len()..][..69];
        let heads: Option<Vec<u8>> = heads.iter().copied().collect();
        assert_eq!(heads.as_deref(), Some(&bytes[..69]), "frame {at}");
    }
    assert!(seen[all.len() - long.len()..].iter().all(Option::is_some));
    assert_eq!(rig.count("out_of_step")?, 0);
    Ok(())
}

#[test]
fn what_is_not_http_is_looked_at_for_a_while_only() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("req-other")? else {
        return Ok(());
    };
    let (server, _) = rig.task("server", true)?;
    let (client, _) = rig.task("client", false)?;
    let mut pair = Pair::connect(client, server, "127.0.0.1:0")?;
    for _ in 0..20 {
        pair.request(b"*1\r\n$4\r\nPING\r\n")?;
        pair.answer(b"+PONG\r\n")?;
    }
    assert_eq!(texts(&rig.told(), direction::IN), Vec::<String>::new());
    assert_eq!(rig.count("other")?, 1);
    pair.request(GET)?;
    assert_eq!(rig.told(), []);
    Ok(())
}

#[test]
fn the_end_of_a_connection_is_told_once() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("req-end")? else {
        return Ok(());
    };
    let (server, _) = rig.task("server", true)?;
    let (client, _) = rig.task("client", false)?;
    let mut pair = Pair::connect(client, server, "127.0.0.1:0")?;
    pair.request(GET)?;
    pair.answer(OK)?;
    let socket = rig.told()[0].0.socket;
    let (client, server) = pair.ids.clone();
    pair.client.ask(&format!("half {client}"))?;
    assert_eq!(rig.told(), [], "one end is open");
    pair.server.ask(&format!("close {server}"))?;
    let mut told = Vec::new();
    eventually(|| {
        told.extend(rig.told());
        Ok(!told.is_empty())
    })?;
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].0.kind, told[0].0.socket), (kind::CLOSED, socket));
    Ok(())
}

#[test]
fn what_is_sent_arrives_as_it_was_whether_it_is_looked_at_or_not() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("req-same")? else {
        return Ok(());
    };
    let (mut task, id) = rig.task("both", false)?;
    for is_traced in [false, true] {
        if is_traced {
            rig.tracer.trace(id)?;
        }
        for how in WAYS {
            for n in [0, 1, 5000, 1 << 20] {
                let said = task.ask(&format!("transfer {how} {n}"))?;
                if said == "no io_uring" {
                    eprintln!("SKIP: {how}: this kernel has no io_uring for us");
                    break;
                }
                assert_eq!(said, "ok", "{how} {n} {is_traced}");
            }
        }
        for how in ["sendfile", "zerocopy", "uring_zc"] {
            let said = task.ask(&format!("transfer {how} 50000000"))?;
            assert!(
                ["ok", "no io_uring"].contains(&said.as_str()),
                "{how} {said}"
            );
        }
    }
    Ok(())
}

/// Ways to send.
const WAYS: [&str; 7] = [
    "write", "small", "sendfile", "splice", "zerocopy", "uring", "uring_zc",
];

/// Ten thousand, of all ways and lengths, half of them traced.
#[test]
fn ten_thousand_mixed_transfers_arrive_as_they_were() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("req-mixed")? else {
        return Ok(());
    };
    let (mut plain, _) = rig.task("plain", false)?;
    let (mut traced, _) = rig.task("traced", true)?;
    let mut n_ok = 0;
    for n in 0..5000 {
        let how = WAYS[n % WAYS.len()];
        let length = n * 7919 % 40_000;
        for task in [&mut plain, &mut traced] {
            let said = task.ask(&format!("transfer {how} {length}"))?;
            n_ok += u32::from(said == "ok");
            assert!(
                ["ok", "no io_uring"].contains(&said.as_str()),
                "{how} {length} {said}"
            );
        }
        // What is told is read, as by an agent.
        if n % 50 == 0 {
            rig.told();
        }
    }
    assert!(n_ok >= 10_000 * 5 / 7, "{n_ok}");
    println!("{n_ok} of 10000 transfers arrived as they were");
    Ok(())
}

#[test]
fn an_agent_that_comes_back_reads_what_was_told_meanwhile() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::new("req-back")? else {
        return Ok(());
    };
    let (server, id) = rig.task("server", true)?;
    let (client, _) = rig.task("client", false)?;
    let mut pair = Pair::connect(client, server, "127.0.0.1:0")?;
    pair.request(GET)?;
    let Rig {
        records,
        tracer,
        plane,
        node,
    } = rig;
    drop((records, tracer, plane));
    pair.answer(OK)?;
    let plane = node.open()?;
    let tracer = RequestTracer::open(&plane, &node.cgroup)?;
    assert_eq!(tracer.traced()?, [id].into());
    let mut rig = Rig {
        records: tracer.take_records().context("taken")?,
        tracer,
        plane,
        node,
    };
    pair.request(GET)?;
    let told = rig.told();
    assert_eq!(texts(&told, direction::IN).len(), 2, "numbers go on");
    assert_eq!(texts(&told, direction::OUT).len(), 1);
    assert_eq!(rig.tracer.programs().len(), 3);

    // Under load, going away is not noticed.
    let mut loaded = rig.task("loaded", true)?.0;
    let transfer = std::thread::spawn(move || loaded.ask("transfer write 50000000"));
    RequestTracer::detach(&rig.plane)?;
    let Rig {
        records,
        tracer,
        plane,
        node,
    } = rig;
    drop((records, tracer));
    let said = transfer.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    assert_eq!(said, "ok");
    pair.answer(OK)?;
    pair.request(GET)?;
    assert!(!node.pin_dir.join("requests").exists());
    RequestTracer::detach(&plane)?;
    drop(plane);
    // Its processes are in the node's cgroups.
    drop(pair);
    drop(node);
    Ok(())
}

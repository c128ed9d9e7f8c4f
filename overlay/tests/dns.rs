//! The DNS server over real sockets: asked with messages of our own and with `dig`.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};
use waggle_overlay::{
    dns::{DnsServer, DnsServerConfig, MaySend, Names, Told},
    forward::Upstream,
};
use waggle_overlay_plan::{LocalFacts, zone};
use waggle_types::{
    AgentId, AgentNet, Balance, HealthState, NetSnapshot, PortNet, Protocol, TaskId, TaskNet,
    TaskState, VipLease, VipName,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// `n` instances of `web` on as many agents, and its VIP.
fn snapshot(n: u8) -> NetSnapshot {
    let mut s = NetSnapshot {
        leader: Some(Ipv4Addr::new(10, 0, 0, 1)),
        ..NetSnapshot::default()
    };
    for i in 1..=n {
        let agent_id = AgentId::new(format!("a-S{i}")).unwrap();
        let net = AgentNet {
            overlay: waggle_types::AgentOverlay::default(),
            ip6: None,
            hostname: format!("n{i}"),
            ip: Ipv4Addr::new(10, 0, 0, i),
            reachable: true,
            domain: None,
        };
        s.agents.insert(agent_id.clone(), net);
        let task = TaskNet {
            ip: None,
            ip6: None,
            network: None,
            subject: None,
            ready: None,
            agent_id,
            name: "web".into(),
            framework: "marathon".into(),
            state: TaskState::Running,
            has_check: false,
            health: HealthState::Unknown,
            ports: vec![PortNet {
                container_port: None,
                name: None,
                host_port: 31000,
                protocols: vec![Protocol::Tcp],
                vips: vec![],
                balance: Balance::default(),
            }],
        };
        s.tasks
            .insert(TaskId::new(format!("web.{i}")).unwrap(), task.into());
    }
    let name = VipName {
        label: "web".into(),
        framework: "marathon".into(),
    };
    let lease = VipLease {
        ip6: None,
        ip: Ipv4Addr::new(11, 0, 0, 1),
        ports: vec![(Protocol::Tcp, 80)],
    };
    s.vips = BTreeMap::from([(name, lease)]);
    s
}

async fn start(change: impl FnOnce(&mut DnsServerConfig)) -> (DnsServer, SocketAddr) {
    let mut config = DnsServerConfig::new(vec![(Ipv4Addr::LOCALHOST, 0).into()], vec![]);
    change(&mut config);
    let server = DnsServer::start(config).await.unwrap();
    let addr = server.addrs()[0];
    (server, addr)
}

async fn start_with_zone(n: u8) -> (DnsServer, SocketAddr) {
    let (server, addr) = start(|_| {}).await;
    let zone = zone(&snapshot(n), &LocalFacts::new(), 1);
    server.publish(Arc::new(zone));
    (server, addr)
}

fn question(name: &str, rtype: RecordType) -> Message {
    let mut m = Message::new(77, MessageType::Query, OpCode::Query);
    m.metadata.recursion_desired = true;
    m.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
    m
}

async fn raw_udp(addr: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(addr).await.unwrap();
    socket.send(bytes).await.unwrap();
    let mut buf = vec![0; 65535];
    let n = timeout(PATIENCE, socket.recv(&mut buf))
        .await
        .ok()?
        .unwrap();
    buf.truncate(n);
    Some(buf)
}

async fn udp(addr: SocketAddr, m: &Message) -> Message {
    let answer = raw_udp(addr, &m.to_vec().unwrap()).await.unwrap();
    let max = m
        .edns
        .as_ref()
        .map_or(512, |e| usize::from(e.max_payload()));
    assert!(answer.len() <= max, "{} bytes", answer.len());
    Message::from_vec(&answer).unwrap()
}

async fn tcp(addr: SocketAddr, m: &Message) -> Message {
    let bytes = m.to_vec().unwrap();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream
        .write_u16(bytes.len().try_into().unwrap())
        .await
        .unwrap();
    stream.write_all(&bytes).await.unwrap();
    let n = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut buf = vec![0; usize::from(n)];
    stream.read_exact(&mut buf).await.unwrap();
    Message::from_vec(&buf).unwrap()
}

fn addresses(m: &Message) -> Vec<Ipv4Addr> {
    let mut ips: Vec<Ipv4Addr> = m
        .answers
        .iter()
        .filter_map(|r| match &r.data {
            RData::A(a) => Some(a.0),
            _ => None,
        })
        .collect();
    ips.sort_unstable();
    ips
}

#[tokio::test]
async fn a_vip_resolves_over_udp_and_tcp() {
    let (server, addr) = start_with_zone(2).await;
    let asked = question("WEB.marathon.L4LB.thisdcos.directory.", RecordType::A);
    for answer in [udp(addr, &asked).await, tcp(addr, &asked).await] {
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert_eq!(answer.metadata.id, 77);
        assert!(answer.metadata.authoritative);
        assert!(answer.metadata.recursion_desired);
        assert!(!answer.metadata.recursion_available);
        assert_eq!(addresses(&answer), [Ipv4Addr::new(11, 0, 0, 1)]);
        assert_eq!(answer.answers[0].ttl, 5);
        // Letter case comes back as it was asked.
        assert!(answer.answers[0].name.eq_case(asked.queries[0].name()));
    }
    let counters = server.counters();
    assert_eq!((counters.udp_queries, counters.tcp_queries), (1, 1));
    assert_eq!(counters.rcodes, BTreeMap::from([(0, 2)]));
    server.shutdown().await;
}

#[tokio::test]
async fn negative_answers_carry_the_soa() {
    let (server, addr) = start_with_zone(1).await;
    for (name, rtype, code) in [
        (
            "nobody.marathon.mesos.",
            RecordType::A,
            ResponseCode::NXDomain,
        ),
        (
            "web.marathon.mesos.",
            RecordType::AAAA,
            ResponseCode::NoError,
        ),
        (
            "marathon.l4lb.thisdcos.directory.",
            RecordType::A,
            ResponseCode::NoError,
        ),
    ] {
        let answer = udp(addr, &question(name, rtype)).await;
        assert_eq!(answer.metadata.response_code, code, "{name}");
        assert!(answer.answers.is_empty());
        assert_eq!(answer.authorities.len(), 1);
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
    }
    server.shutdown().await;
}

#[tokio::test]
async fn srv_answers_carry_addresses() {
    let (server, addr) = start_with_zone(2).await;
    let answer = udp(
        addr,
        &question("_web._tcp.marathon.mesos.", RecordType::SRV),
    )
    .await;
    assert_eq!(answer.answers.len(), 2);
    assert_eq!(answer.additionals.len(), 2);
    for (srv, a) in answer.answers.iter().zip(0..) {
        let RData::SRV(srv) = &srv.data else {
            panic!("answer {a} is no SRV")
        };
        assert_eq!(srv.port, 31000);
        let has_address = answer.additionals.iter().any(|r| r.name == srv.target);
        assert!(has_address, "no address for {}", srv.target);
    }
    server.shutdown().await;
}

#[tokio::test]
async fn long_answers_are_truncated_over_udp_and_whole_over_tcp() {
    let (server, addr) = start_with_zone(120).await;
    let plain = question("web.marathon.mesos.", RecordType::A);
    let answer = udp(addr, &plain).await;
    assert!(answer.metadata.truncation);
    assert!(answer.answers.len() < 120);
    assert!(answer.edns.is_none());

    let mut with_edns = plain.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    with_edns.set_edns(edns);
    let wide = udp(addr, &with_edns).await;
    assert!(wide.metadata.truncation, "1232 bytes are the bound");
    assert!(wide.answers.len() > answer.answers.len());

    let whole = tcp(addr, &plain).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(addresses(&whole).len(), 120);
    assert_eq!(server.counters().truncated, 2);
    server.shutdown().await;
}

#[tokio::test]
async fn bursts_are_answered_whole() {
    let (server, addr) = start_with_zone(9).await;
    let names = ["web.marathon.mesos.", "nobody.mesos.", "leader.mesos."];
    let mut askers = Vec::new();
    for _ in 0..2 {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(addr).await.unwrap();
        askers.push(socket);
    }
    // Answers of three lengths to two askers, many in one batch.
    for id in 0..200u16 {
        let mut asked = question(names[usize::from(id) % 3], RecordType::A);
        asked.metadata.id = id;
        let asker = &askers[usize::from(id) % 2];
        asker.send(&asked.to_vec().unwrap()).await.unwrap();
    }
    for (i, asker) in askers.iter().enumerate() {
        let mut ids = std::collections::BTreeSet::new();
        let mut buf = [0; 2048];
        while ids.len() < 100 {
            let n = timeout(PATIENCE, asker.recv(&mut buf))
                .await
                .unwrap()
                .unwrap();
            let answer = Message::from_vec(&buf[..n]).unwrap();
            let id = answer.metadata.id;
            assert_eq!(usize::from(id) % 2, i);
            let name = Name::from_ascii(names[usize::from(id) % 3]).unwrap();
            assert_eq!(answer.queries[0].name(), &name);
            let n_answers = [9, 0, 1][usize::from(id) % 3];
            assert_eq!(answer.answers.len(), n_answers);
            assert!(ids.insert(id), "{id} twice");
        }
    }
    assert_eq!(server.counters().send_failures, 0);
    server.shutdown().await;
}

#[tokio::test]
async fn edns_is_answered_with_edns() {
    let (server, addr) = start_with_zone(1).await;
    let mut asked = question("web.marathon.mesos.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(1400).set_dnssec_ok(true);
    asked.set_edns(edns.clone());
    let answer = udp(addr, &asked).await.edns.unwrap();
    assert_eq!(answer.max_payload(), 1232);
    assert!(answer.flags().dnssec_ok);
    edns.set_version(1);
    asked.set_edns(edns);
    let answer = udp(addr, &asked).await;
    // 16 is BADVERS here, and BADSIG in messages with TSIG.
    assert_eq!(u16::from(answer.metadata.response_code), 16);
    server.shutdown().await;
}

#[tokio::test]
async fn what_is_no_question_gets_the_right_code() {
    let (server, addr) = start_with_zone(1).await;
    let mut update = question("web.marathon.mesos.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    let mut two = question("web.marathon.mesos.", RecordType::A);
    two.add_query(two.queries[0].clone());
    let mut none = question("web.marathon.mesos.", RecordType::A);
    none.queries.clear();
    let mut chaos = question("web.marathon.mesos.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let transfer = question("mesos.", RecordType::AXFR);
    for (asked, code) in [
        (update, ResponseCode::NotImp),
        (two, ResponseCode::FormErr),
        (none, ResponseCode::FormErr),
        (chaos, ResponseCode::Refused),
        (transfer, ResponseCode::Refused),
    ] {
        let answer = udp(addr, &asked).await;
        assert_eq!(answer.metadata.response_code, code, "{asked:?}");
    }
    // Bytes that are no message at all: FORMERR if there is a header to answer to; and it lives on.
    let mut bad = question("web.marathon.mesos.", RecordType::A)
        .to_vec()
        .unwrap();
    bad[12] = 0xff;
    let answer = raw_udp(addr, &bad).await.unwrap();
    assert_eq!(answer[3] & 0xf, 1);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(b"x", addr).await.unwrap();
    let fine = udp(addr, &question("web.marathon.mesos.", RecordType::A)).await;
    assert_eq!(fine.answers.len(), 1);
    server.shutdown().await;
}

#[tokio::test]
async fn before_the_first_zone_a_cluster_name_waits_then_fails() {
    let (server, addr) = start(|c| c.first_zone_wait = Duration::from_millis(50)).await;
    let asked = question("web.marathon.l4lb.thisdcos.directory.", RecordType::A);
    let answer = udp(addr, &asked).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(server.counters().no_zone, 1);
    server.shutdown().await;

    let (server, addr) = start(|c| c.first_zone_wait = PATIENCE).await;
    let waiting = tokio::spawn(async move { udp(addr, &asked).await });
    while server.counters().udp_queries == 0 {
        tokio::task::yield_now().await;
    }
    server.publish(Arc::new(zone(&snapshot(1), &LocalFacts::new(), 1)));
    let answer = waiting.await.unwrap();
    assert_eq!(addresses(&answer), [Ipv4Addr::new(11, 0, 0, 1)]);
    server.shutdown().await;
}

#[tokio::test]
async fn without_upstreams_other_names_are_refused_at_once() {
    let (server, addr) = start_with_zone(1).await;
    let answer = udp(addr, &question("example.com.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    server.shutdown().await;
}

/// A port of both protocols. The kernel hands out a free one of one protocol, which the other may have in use.
async fn both() -> (UdpSocket, TcpListener, SocketAddr) {
    for _ in 0..100 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = udp.local_addr().unwrap();
        if let Ok(tcp) = TcpListener::bind(addr).await {
            return (udp, tcp, addr);
        }
    }
    panic!("no port is free in both protocols");
}

/// An upstream that answers every question with one address (over UDP truncated, if told so).
async fn upstream(code: ResponseCode, truncate: bool) -> SocketAddr {
    let (udp, tcp, addr) = both().await;
    let reply = move |bytes: &[u8], truncate: bool| {
        let mut m = Message::from_vec(bytes).unwrap();
        m.metadata.message_type = MessageType::Response;
        m.metadata.response_code = code;
        m.metadata.truncation = truncate;
        if code == ResponseCode::NoError && !truncate {
            let name = m.queries[0].name().clone();
            let a = RData::A(rdata::A(Ipv4Addr::new(192, 0, 2, 7)));
            m.add_answer(Record::from_rdata(name, 300, a));
        }
        m.to_vec().unwrap()
    };
    tokio::spawn(async move {
        let mut buf = vec![0; 4096];
        while let Ok((n, from)) = udp.recv_from(&mut buf).await {
            udp.send_to(b"forged", from).await.unwrap();
            udp.send_to(&reply(&buf[..n], truncate), from)
                .await
                .unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let n = stream.read_u16().await.unwrap();
            let mut buf = vec![0; usize::from(n)];
            stream.read_exact(&mut buf).await.unwrap();
            let bytes = reply(&buf, false);
            stream
                .write_u16(bytes.len().try_into().unwrap())
                .await
                .unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
    addr
}

#[tokio::test]
async fn other_names_are_forwarded_and_the_useful_answer_wins() {
    let broken = upstream(ResponseCode::ServFail, false).await;
    let good = upstream(ResponseCode::NoError, false).await;
    let (server, addr) =
        start(|c| c.forward.upstreams = [broken, good].map(Upstream::plain).into()).await;
    let asked = question("example.com.", RecordType::A);
    for answer in [udp(addr, &asked).await, tcp(addr, &asked).await] {
        assert_eq!(addresses(&answer), [Ipv4Addr::new(192, 0, 2, 7)]);
        assert!(!answer.metadata.authoritative);
        assert!(answer.metadata.recursion_available);
    }
    // Cluster names never leave, even without a zone.
    let (server2, addr2) = start(|c| {
        c.forward.upstreams = vec![Upstream::plain(good)];
        c.first_zone_wait = Duration::ZERO;
    })
    .await;
    let answer = udp(addr2, &question("web.marathon.mesos.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let counters = server.counters();
    let by = |source| counters.answered_by(source);
    assert_eq!((by("upstream"), by("cache")), (1, 1));
    assert_eq!(counters.upstreams.len(), 2);
    server.shutdown().await;
    server2.shutdown().await;
}

/// Keeps what it is told, and lets answers go when the test says so.
struct Book {
    told: Mutex<Vec<Entry>>,
    wants: AtomicBool,
    refuses: AtomicBool,
    go: Semaphore,
}

type Entry = (IpAddr, String, Vec<(IpAddr, u32)>);

impl Names for Book {
    fn wants(&self, _: IpAddr) -> bool {
        self.wants.load(Ordering::Relaxed)
    }

    fn told<'a>(&'a self, asker: IpAddr, name: &'a str, told: &'a [(IpAddr, u32)]) -> MaySend<'a> {
        let entry = (asker, name.to_owned(), told.to_vec());
        self.told.lock().unwrap().push(entry);
        Box::pin(async {
            self.go.acquire().await.unwrap().forget();
            !self.refuses.load(Ordering::Relaxed)
        })
    }
}

#[tokio::test]
async fn who_must_know_is_told_before_the_asker_whoever_has_the_answer() {
    let good = upstream(ResponseCode::NoError, false).await;
    let book = Arc::new(Book {
        told: Mutex::default(),
        wants: false.into(),
        refuses: false.into(),
        go: Semaphore::new(0),
    });
    let told = Told(Arc::<Book>::clone(&book));
    let (server, addr) = start(|c| {
        c.forward.upstreams = vec![Upstream::plain(good)];
        c.told = Some(told);
    })
    .await;
    let asked = question("API.example.com.", RecordType::A);
    let told = || std::mem::take(&mut *book.told.lock().unwrap());
    assert_eq!(addresses(&udp(addr, &asked).await).len(), 1);
    assert_eq!(told(), [], "nobody wants to know");

    book.wants.store(true, Ordering::Relaxed);
    let from: IpAddr = Ipv4Addr::LOCALHOST.into();
    let at: IpAddr = Ipv4Addr::new(192, 0, 2, 7).into();
    let is_it = |all: Vec<Entry>| {
        let [(asker, name, addresses)] = all.as_slice() else {
            panic!("{all:?}");
        };
        assert_eq!((*asker, name.as_str()), (from, "api.example.com"));
        let [(ip, ttl)] = addresses.as_slice() else {
            panic!("{addresses:?}");
        };
        assert_eq!(*ip, at);
        assert!((290..=300).contains(ttl), "{ttl}");
    };
    // Kept answers, and over either transport: none comes before it may.
    let bytes = asked.to_vec().unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(addr).await.unwrap();
    socket.send(&bytes).await.unwrap();
    let mut buf = [0; 512];
    while book.told.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(socket.try_recv(&mut buf).is_err());
    book.go.add_permits(1);
    let n = timeout(PATIENCE, socket.recv(&mut buf)).await;
    let answer = Message::from_vec(&buf[..n.unwrap().unwrap()]).unwrap();
    assert_eq!(addresses(&answer), [Ipv4Addr::new(192, 0, 2, 7)]);
    is_it(told());
    book.go.add_permits(1);
    assert_eq!(addresses(&tcp(addr, &asked).await).len(), 1);
    is_it(told());

    // It can't take it: the asker is not told an address that it can't reach.
    book.refuses.store(true, Ordering::Relaxed);
    book.go.add_permits(1);
    let answer = udp(addr, &asked).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(addresses(&answer), Vec::<Ipv4Addr>::new());
    let counters = server.counters();
    assert_eq!(counters.told_failures, 1);
    assert_eq!(counters.answered_by("cache"), 2);
    server.shutdown().await;
}

#[tokio::test]
async fn an_upstreams_truncated_answer_is_fetched_whole() {
    let long = upstream(ResponseCode::NoError, true).await;
    let (server, addr) = start(|c| c.forward.upstreams = vec![Upstream::plain(long)]).await;
    let asked = question("example.com.", RecordType::A);
    for answer in [udp(addr, &asked).await, tcp(addr, &asked).await] {
        assert!(!answer.metadata.truncation);
        assert_eq!(addresses(&answer).len(), 1);
    }
    server.shutdown().await;
}

#[tokio::test]
async fn silent_upstreams_end_in_servfail_and_the_bound_holds() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let upstream = silent.local_addr().unwrap();
    let (server, addr) = start(|c| {
        c.forward.upstreams = vec![Upstream::plain(upstream)];
        c.forward.max_in_flight = 1;
        c.forward.timeout = Duration::from_millis(500);
    })
    .await;
    let asked = question("example.com.", RecordType::A);
    let held = asked.clone();
    let first = tokio::spawn(async move { udp(addr, &held).await });
    // The first is on its way once the upstream has it.
    let mut buf = [0; 512];
    timeout(PATIENCE, silent.recv_from(&mut buf))
        .await
        .unwrap()
        .unwrap();
    let other = question("example.net.", RecordType::A);
    let second = udp(addr, &other).await;
    assert_eq!(second.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(server.counters().forward_dropped, 1);
    // The same question joins the first.
    let again = asked.clone();
    let third = tokio::spawn(async move { udp(addr, &again).await });
    while server.counters().coalesced == 0 {
        tokio::task::yield_now().await;
    }
    let first = first.await.unwrap();
    assert_eq!(first.metadata.response_code, ResponseCode::ServFail);
    let third = third.await.unwrap();
    assert_eq!(third.metadata.response_code, ResponseCode::ServFail);
    let counters = server.counters();
    assert_eq!((counters.forward_failures, counters.coalesced), (2, 1));
    server.shutdown().await;
}

#[tokio::test]
async fn a_server_takes_over_the_port_of_one_that_ends() {
    let (first, addr) = start_with_zone(1).await;
    let second = tokio::spawn(async move {
        let config = DnsServerConfig::new(vec![addr], vec![]);
        DnsServer::start(config).await
    });
    // Let it find the port taken at least once.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    first.shutdown().await;
    drop(first);
    let second = second.await.unwrap().unwrap();
    second.publish(Arc::new(zone(&snapshot(1), &LocalFacts::new(), 1)));
    let answer = udp(addr, &question("web.marathon.mesos.", RecordType::A)).await;
    assert_eq!(answer.answers.len(), 1);
    second.shutdown().await;
}

#[tokio::test]
async fn dig_agrees() {
    if Command::new("dig").arg("-v").output().is_err() {
        eprintln!("SKIP: dig is not installed");
        return;
    }
    let (server, addr) = start_with_zone(40).await;
    let dig = async |args: &[&str]| -> String {
        let mut command = tokio::process::Command::new("dig");
        command.args(["@127.0.0.1", "-p", &addr.port().to_string()]);
        let out = command.args(args).output().await.unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let short = dig(&["web.marathon.l4lb.thisdcos.directory", "+short"]).await;
    assert_eq!(short, "11.0.0.1\n");
    let srv = dig(&["-t", "SRV", "_web._tcp.marathon.mesos", "+short", "+tcp"]).await;
    assert_eq!(srv.lines().count(), 40, "{srv}");
    // dig retries over TCP by itself when it sees TC.
    let all = dig(&["web.marathon.mesos", "+short", "+noedns"]).await;
    assert_eq!(all.lines().count(), 40, "{all}");
    let nx = dig(&["nobody.marathon.mesos"]).await;
    assert!(nx.contains("status: NXDOMAIN"), "{nx}");
    assert!(nx.contains("SOA"), "{nx}");
    assert!(nx.contains("flags: qr aa rd"), "{nx}");
    server.shutdown().await;
}

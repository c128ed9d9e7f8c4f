//! Names outside of the cluster: whom they are asked of, what is kept and for how long, and who is not believed.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, outside of test functions"
)]

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    time::timeout,
};
use waggle_overlay::{
    dns::{DnsServer, DnsServerConfig},
    forward::{ForwardConfig, Upstream},
};
use waggle_overlay_plan::DnsName;

const PATIENCE: Duration = Duration::from_secs(5);

async fn start(change: impl FnOnce(&mut ForwardConfig)) -> (DnsServer, SocketAddr) {
    let mut config = DnsServerConfig::new(vec![(Ipv4Addr::LOCALHOST, 0).into()], vec![]);
    config.forward.timeout = Duration::from_millis(400);
    change(&mut config.forward);
    let server = DnsServer::start(config).await.unwrap();
    let addr = server.addrs()[0];
    (server, addr)
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn question(text: &str) -> Message {
    let mut m = Message::new(77, MessageType::Query, OpCode::Query);
    m.metadata.recursion_desired = true;
    m.add_query(Query::query(name(text), RecordType::A));
    m
}

async fn ask(addr: SocketAddr, text: &str) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(addr).await.unwrap();
    socket
        .send(&question(text).to_vec().unwrap())
        .await
        .unwrap();
    let mut buf = vec![0; 4096];
    let n = timeout(PATIENCE, socket.recv(&mut buf))
        .await
        .unwrap()
        .unwrap();
    Message::from_vec(&buf[..n]).unwrap()
}

/// The last byte of the one address in an answer, and its TTL.
fn address(m: &Message) -> Option<(u8, u32)> {
    match m.answers.as_slice() {
        [record] => match &record.data {
            RData::A(a) => Some((a.0.octets()[3], record.ttl)),
            _ => None,
        },
        _ => None,
    }
}

/// An upstream whose answers carry its number; counts what it is asked.
struct Server {
    addr: SocketAddr,
    asked: Arc<AtomicUsize>,
    silent: Arc<AtomicBool>,
}

impl Server {
    fn upstream(&self) -> Upstream {
        Upstream::plain(self.addr)
    }

    fn n_asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn start(number: u8, reply: fn(&mut Message)) -> Self {
        Self::raw(move |bytes| {
            let mut m = Message::from_vec(bytes).unwrap();
            m.metadata.message_type = MessageType::Response;
            m.edns = None;
            let owner = m.queries[0].name().clone();
            let ip = rdata::A(Ipv4Addr::new(192, 0, 2, number));
            m.answers.push(Record::from_rdata(owner, 60, RData::A(ip)));
            reply(&mut m);
            vec![m.to_vec().unwrap()]
        })
        .await
    }

    /// Sends whatever `reply` makes of a question, in its order.
    async fn raw(reply: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let server = Self {
            addr: socket.local_addr().unwrap(),
            asked: Arc::default(),
            silent: Arc::default(),
        };
        let (asked, silent) = (Arc::clone(&server.asked), Arc::clone(&server.silent));
        tokio::spawn(async move {
            let mut buf = vec![0; 4096];
            while let Ok((n, from)) = socket.recv_from(&mut buf).await {
                asked.fetch_add(1, Ordering::SeqCst);
                if !silent.load(Ordering::SeqCst) {
                    for bytes in reply(&buf[..n]) {
                        socket.send_to(&bytes, from).await.unwrap();
                    }
                }
            }
        });
        server
    }
}

fn soa(m: &mut Message, minimum: u32) {
    let data = rdata::SOA::new(name("ns."), name("m."), 1, 2, 3, 4, minimum);
    m.answers.clear();
    m.authorities
        .push(Record::from_rdata(name("example."), 900, RData::SOA(data)));
}

#[tokio::test]
async fn the_longest_suffix_decides() {
    let all = Server::start(1, |_| {}).await;
    let corp = Server::start(2, |_| {}).await;
    let deep = Server::start(3, |_| {}).await;
    let suffix = |text: &str| DnsName::parse(text).unwrap();
    let (server, addr) = start(|c| {
        c.upstreams = vec![all.upstream()];
        c.zones = vec![
            (suffix("corp.example"), vec![corp.upstream()]),
            (suffix("deep.corp.example"), vec![deep.upstream()]),
            (suffix("secret.example"), vec![]),
        ];
    })
    .await;
    for (text, want) in [
        ("example.", 1),
        ("xcorp.example.", 1),
        ("corp.example.", 2),
        ("a.CORP.example.", 2),
        ("a.b.deep.corp.example.", 3),
    ] {
        assert_eq!(address(&ask(addr, text).await), Some((want, 60)), "{text}");
    }
    let refused = ask(addr, "a.secret.example.").await;
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
    assert_eq!(server.counters().no_upstream, 1);
    server.shutdown().await;
}

#[tokio::test]
async fn answers_are_kept_whatever_their_letter_case() {
    let upstream = Server::start(1, |_| {}).await;
    let (server, addr) = start(|c| c.upstreams = vec![upstream.upstream()]).await;
    for text in ["www.example.", "WWW.Example.", "www.EXAMPLE."] {
        let answer = ask(addr, text).await;
        assert_eq!(address(&answer), Some((1, 60)));
        // As it was asked, not as it was kept.
        assert!(answer.queries[0].name().eq_case(&name(text)), "{text}");
    }
    assert_eq!(upstream.n_asked(), 1);
    let cache = server.counters().cache;
    assert_eq!((cache.hits, cache.misses, cache.entries), (2, 1, 1));
    let asked = waggle_overlay_plan::Question::new("www.example", waggle_overlay_plan::RType::A);
    let route = server.route(&asked.unwrap()).unwrap();
    assert!(route.kept_for.unwrap() >= 58);
    server.shutdown().await;
}

#[tokio::test]
async fn negative_answers_are_kept_if_they_say_how_long() {
    let with = Server::start(1, |m| {
        m.metadata.response_code = ResponseCode::NXDomain;
        soa(m, 30);
    })
    .await;
    let without = Server::start(2, |m| {
        m.metadata.response_code = ResponseCode::NXDomain;
        m.answers.clear();
    })
    .await;
    for (upstream, want) in [(with, 1), (without, 3)] {
        let (server, addr) = start(|c| c.upstreams = vec![upstream.upstream()]).await;
        for _ in 0..3 {
            let answer = ask(addr, "nobody.example.").await;
            assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        }
        assert_eq!(upstream.n_asked(), want);
        server.shutdown().await;
    }
}

#[tokio::test]
async fn failures_and_answers_of_no_time_are_not_kept() {
    let failing = Server::start(1, |m| m.metadata.response_code = ResponseCode::ServFail).await;
    let brief = Server::start(2, |m| m.answers[0].ttl = 0).await;
    for upstream in [failing, brief] {
        let (server, addr) = start(|c| c.upstreams = vec![upstream.upstream()]).await;
        for _ in 0..2 {
            ask(addr, "a.example.").await;
        }
        assert_eq!(upstream.n_asked(), 2);
        assert_eq!(server.counters().cache.entries, 0);
        server.shutdown().await;
    }
}

#[tokio::test]
async fn the_cache_is_bounded_and_says_what_it_dropped() {
    let upstream = Server::start(1, |_| {}).await;
    let (server, addr) = start(|c| {
        c.upstreams = vec![upstream.upstream()];
        c.cache.max_entries = 16;
    })
    .await;
    for i in 0..64 {
        ask(addr, &format!("n{i}.example.")).await;
    }
    let cache = server.counters().cache;
    assert!(cache.entries <= 16, "{cache:?}");
    assert_eq!(cache.entries + cache.evictions, 64);
    server.shutdown().await;
}

#[tokio::test]
async fn an_old_answer_is_better_than_none_if_allowed() {
    for stale in [None, Some(Duration::from_mins(1))] {
        let upstream = Server::start(1, |m| m.answers[0].ttl = 1).await;
        let (server, addr) = start(|c| {
            c.upstreams = vec![upstream.upstream()];
            c.cache.stale = stale;
        })
        .await;
        assert_eq!(address(&ask(addr, "a.example.").await), Some((1, 1)));
        upstream.silent.store(true, Ordering::SeqCst);
        // Its time is over once it is asked for again.
        let n = upstream.n_asked();
        let old = loop {
            let answer = ask(addr, "a.example.").await;
            if upstream.n_asked() > n {
                break answer;
            }
        };
        if stale.is_some() {
            assert_eq!(address(&old), Some((1, 30)));
            // Now it is known that nobody answers: at once, without asking.
            let n = upstream.n_asked();
            assert_eq!(address(&ask(addr, "a.example.").await), Some((1, 30)));
            assert_eq!(upstream.n_asked(), n);
            assert!(server.counters().answered_by("stale") >= 1);
        } else {
            assert_eq!(old.metadata.response_code, ResponseCode::ServFail);
        }
        server.shutdown().await;
    }
}

#[tokio::test]
async fn of_two_upstreams_the_first_useful_answer_wins_then_the_next_are_asked() {
    let silent = Server::start(1, |_| {}).await;
    silent.silent.store(true, Ordering::SeqCst);
    let failing = Server::start(2, |m| m.metadata.response_code = ResponseCode::Refused).await;
    let good = Server::start(3, |_| {}).await;
    let (server, addr) = start(|c| {
        c.upstreams = [&silent, &good, &failing].map(Server::upstream).into();
    })
    .await;
    let begun = tokio::time::Instant::now();
    assert_eq!(address(&ask(addr, "a.example.").await), Some((3, 60)));
    assert!(
        begun.elapsed() < Duration::from_millis(390),
        "nobody waited for the silent one"
    );
    assert_eq!(failing.n_asked(), 0);
    server.shutdown().await;

    let (server, addr) = start(|c| {
        c.upstreams = [&silent, &failing, &good].map(Server::upstream).into();
    })
    .await;
    assert_eq!(address(&ask(addr, "b.example.").await), Some((3, 60)));
    server.shutdown().await;
}

#[tokio::test]
async fn forged_and_malformed_answers_are_not_passed_on() {
    let upstream = Server::raw(|bytes| {
        let good = {
            let mut m = Message::from_vec(bytes).unwrap();
            m.metadata.message_type = MessageType::Response;
            m.edns = None;
            let ip = rdata::A(Ipv4Addr::new(192, 0, 2, 9));
            let owner = m.queries[0].name().clone();
            m.answers.push(Record::from_rdata(owner, 60, RData::A(ip)));
            m
        };
        let mut other_id = good.clone();
        other_id.metadata.id = good.metadata.id.wrapping_add(1);
        let mut other_name = good.clone();
        other_name.queries[0] = Query::query(name("evil.example."), RecordType::A);
        let mut other_type = good.clone();
        other_type.queries[0].set_query_type(RecordType::AAAA);
        let mut asked = good.clone();
        asked.metadata.message_type = MessageType::Query;
        let mut out: Vec<Vec<u8>> = [other_id, other_name, other_type, asked]
            .iter()
            .map(|m| m.to_vec().unwrap())
            .collect();
        out.push(b"short".to_vec());
        out.push(good.to_vec().unwrap());
        out
    })
    .await;
    let (server, addr) = start(|c| c.upstreams = vec![upstream.upstream()]).await;
    assert_eq!(address(&ask(addr, "a.example.").await), Some((9, 60)));
    assert_eq!(server.counters().upstreams[0].foreign, 5);
    server.shutdown().await;

    // The right question, and a record whose name points to itself.
    let looping = Server::raw(|bytes| {
        let question = &bytes[12..bytes.len() - 11];
        let mut out = [bytes[0], bytes[1], 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0].to_vec();
        out.extend_from_slice(question);
        let here = u16::try_from(out.len()).unwrap();
        out.extend_from_slice(&(0xc000 | here).to_be_bytes());
        out.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 1, 2, 3, 4]);
        vec![out]
    })
    .await;
    let (server, addr) = start(|c| c.upstreams = vec![looping.upstream()]).await;
    let answer = ask(addr, "a.example.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(server.counters().upstreams[0].malformed, 1);
    server.shutdown().await;
}

#[tokio::test]
async fn servers_without_edns_are_asked_without() {
    let old = Server::raw(|bytes| {
        let mut m = Message::from_vec(bytes).unwrap();
        m.metadata.message_type = MessageType::Response;
        if m.edns.take().is_some() {
            m.metadata.response_code = ResponseCode::FormErr;
        } else {
            let ip = rdata::A(Ipv4Addr::new(192, 0, 2, 4));
            let owner = m.queries[0].name().clone();
            m.answers.push(Record::from_rdata(owner, 60, RData::A(ip)));
        }
        vec![m.to_vec().unwrap()]
    })
    .await;
    let (server, addr) = start(|c| c.upstreams = vec![old.upstream()]).await;
    assert_eq!(address(&ask(addr, "a.example.").await), Some((4, 60)));
    server.shutdown().await;
}

#[tokio::test]
async fn a_question_that_comes_back_is_not_sent_again() {
    // Two resolvers that ask each other. On an address of its own: a port of 127.0.0.1 that is given back may be
    // somebody else's before it is taken again.
    let port = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 77), 0))
        .await
        .unwrap();
    let second = port.local_addr().unwrap();
    let (first, first_addr) = start(|c| c.upstreams = vec![Upstream::plain(second)]).await;
    drop(port);
    let mut config = DnsServerConfig::new(vec![second], vec![first_addr]);
    config.forward.timeout = Duration::from_millis(400);
    let other = DnsServer::start(config).await.unwrap();
    let answer = ask(first_addr, "a.example.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    // Each was sent once, and again once in case it was lost.
    for server in [&first, &other] {
        assert!(
            server.counters().udp_queries <= 3,
            "{:?}",
            server.counters()
        );
        server.shutdown().await;
    }
}

/// A DNS over TLS server with a certificate for `dns.test`; answers with `number`.
async fn tls_server(number: u8) -> (SocketAddr, tempfile::NamedTempFile, Arc<AtomicUsize>) {
    let made = rcgen::generate_simple_self_signed(vec!["dns.test".to_owned()]).unwrap();
    let mut roots = tempfile::NamedTempFile::new().unwrap();
    roots.write_all(made.cert.pem().as_bytes()).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                while let Ok(len) = stream.read_u16().await {
                    let mut buf = vec![0; usize::from(len)];
                    stream.read_exact(&mut buf).await.unwrap();
                    let mut m = Message::from_vec(&buf).unwrap();
                    m.metadata.message_type = MessageType::Response;
                    let owner = m.queries[0].name().clone();
                    let ip = rdata::A(Ipv4Addr::new(192, 0, 2, number));
                    m.answers.push(Record::from_rdata(owner, 60, RData::A(ip)));
                    let bytes = m.to_vec().unwrap();
                    let len = u16::try_from(bytes.len()).unwrap();
                    stream.write_u16(len).await.unwrap();
                    stream.write_all(&bytes).await.unwrap();
                    stream.flush().await.unwrap();
                }
            });
        }
    });
    (addr, roots, connections)
}

#[tokio::test]
async fn upstreams_over_tls_are_believed_by_their_certificate() {
    let (tls, roots, connections) = tls_server(5).await;
    let upstream = |name: &str| Upstream {
        addr: tls,
        tls: Some(name.to_owned()),
    };
    let (server, addr) = start(|c| {
        c.upstreams = vec![upstream("dns.test")];
        c.tls_roots = Some(roots.path().to_owned());
    })
    .await;
    for text in ["a.example.", "b.example.", "c.example."] {
        assert_eq!(address(&ask(addr, text).await), Some((5, 60)));
    }
    assert_eq!(
        connections.load(Ordering::SeqCst),
        1,
        "one connection for all"
    );
    let shown = &server.counters().upstreams[0].upstream;
    assert_eq!(*shown, format!("tls://{tls}#dns.test"));
    server.shutdown().await;

    // A certificate for another name, and one that nobody signed for.
    let (_, others, _) = tls_server(6).await;
    for (name, roots) in [("other.test", roots.path()), ("dns.test", others.path())] {
        let (server, addr) = start(|c| {
            c.upstreams = vec![upstream(name)];
            c.tls_roots = Some(roots.to_owned());
        })
        .await;
        let answer = ask(addr, "a.example.").await;
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::ServFail,
            "{name}"
        );
        server.shutdown().await;
    }
    // What can't be used is said at the start.
    let empty = tempfile::NamedTempFile::new().unwrap();
    for path in ["/nonexistent".into(), empty.path().to_owned()] {
        let mut config = DnsServerConfig::new(vec![], vec![]);
        config.forward.upstreams = vec![upstream("dns.test")];
        config.forward.tls_roots = Some(path);
        assert!(DnsServer::start(config).await.is_err());
    }
}

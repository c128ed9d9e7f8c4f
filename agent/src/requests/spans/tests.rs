use std::net::{IpAddr, Ipv4Addr};

use waggle_ebpf_common::addr_of;
use waggle_telemetry_pipeline::TaskLabels;
use waggle_types::TraceContext;

use super::*;
use crate::requests::{Said, TraceInject, TraceRequests};

#[test]
fn a_record_says_all_that_a_piece_does() {
    let v4 = |last| addr_of(IpAddr::V4(Ipv4Addr::new(9, 0, 0, last)));
    let head = Head {
        at_ns: 1,
        socket: 2,
        cgroup_id: 3,
        thread: 4,
        local: v4(1),
        remote: v4(2),
        vip: v4(3),
        sequence: 5,
        length: 6,
        captured: 2,
        number: 7,
        local_port: 80_u16.to_be(),
        remote_port: 81_u16.to_be(),
        vip_port: 82_u16.to_be(),
        kind: kind::PIECE,
        direction: direction::OUT,
        role: role::CLIENT,
        protocol: protocol::HTTP2,
        pad: [0; 6],
    };
    let made = piece(&head, b"ab", 9).unwrap();
    assert_eq!((made.at, made.socket, made.cgroup), (9, 2, 3));
    assert_eq!(made.local, "9.0.0.1:80".parse().unwrap());
    assert_eq!(made.remote, "9.0.0.2:81".parse().unwrap());
    assert_eq!(made.vip, Some("9.0.0.3:82".parse().unwrap()));
    assert_eq!(made.direction, Direction::Out);
    assert_eq!((made.role, made.protocol), (Role::Client, Guess::Http2));
    assert_eq!((made.number, made.sequence, made.length), (7, 5, 6));
    assert_eq!((made.thread, made.bytes), (Some(4), &b"ab"[..]));
    let other = Head {
        protocol: protocol::OTHER,
        ..head
    };
    assert!(piece(&other, b"", 1).is_none());
    let read = Head {
        kind: kind::READ,
        ..head
    };
    assert!(piece(&read, b"", 1).is_none());
    let bare = Head {
        thread: 0,
        vip: [0; 4],
        ..head
    };
    let made = piece(&bare, b"", 1).unwrap();
    assert_eq!((made.thread, made.vip), (None, None));
}

#[test]
fn a_look_may_have_more_spans_than_may_wait() {
    const N: u64 = 3 * 8192;
    let labels = Arc::new(TaskLabels {
        cgroup_id: 1,
        ..crate::fixture::labels("task")
    });
    let node = Ipv4Addr::LOCALHOST;
    let requests = Requests::new(TraceRequests::All, TraceInject::Off, node);
    requests.begin(&labels, &Said::default());
    let told = |n: u64, direction: u8, bytes: &[u8]| Told {
        head: Head {
            // As many a second as a service may have.
            at_ns: n * 2_000_000 + u64::from(direction),
            socket: n + 1,
            cgroup_id: 1,
            local: addr_of(node.into()),
            remote: addr_of(node.into()),
            length: bytes.len().try_into().unwrap(),
            captured: bytes.len().try_into().unwrap(),
            kind: kind::PIECE,
            direction,
            role: role::SERVER,
            protocol: protocol::HTTP1,
            ..Head::default()
        },
        bytes: bytes.to_vec(),
    };
    let came: Vec<Told> = (0..N)
        .flat_map(|n| {
            let closed = Head {
                kind: kind::CLOSED,
                ..told(n, 2, b"").head
            };
            let closed = Told {
                head: closed,
                bytes: Vec::new(),
            };
            let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
            [
                told(n, direction::IN, b"GET / HTTP/1.1\r\n\r\n"),
                told(n, direction::OUT, answer),
                closed,
            ]
        })
        .collect();
    let mut spans = Spans::default();
    let mut n_spans = 0;
    spans.take_all(&came, &requests, 0, |this| {
        n_spans += this.tracer.drain().len() as u64;
    });
    assert_eq!((n_spans, spans.tracer.counts().waiting_full), (N, 0));
}

#[test]
fn a_port_says_more_than_an_address() {
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    let peers = crate::peers::tests::peers([10, 0, 0, 2], &[("far", None, Some(80))]);
    let known = Known {
        here: [(at("10.0.0.2:80"), 1)].into(),
        peers: Arc::new(peers),
        node: Some(Ipv4Addr::new(10, 0, 0, 1)),
    };
    assert_eq!(known.peer(at("10.0.0.2:80"), Role::Server), Peer::Here);
    assert_eq!(known.peer(at("10.0.0.2:81"), Role::Client), Peer::Elsewhere);
    assert_eq!(known.peer(at("10.0.0.2:81"), Role::Server), Peer::Unknown);
    let nowhere = Known {
        node: None,
        ..known
    };
    assert_eq!(nowhere.peer(at("10.0.0.2:81"), Role::Client), Peer::Unknown);
}

#[test]
fn a_vip_has_the_name_that_flows_give_it() {
    let mut span = RequestSpan {
        cgroup: 1,
        context: TraceContext {
            trace_id: 1,
            span_id: 1,
            flags: 1,
        },
        parent: None,
        parent_is_remote: false,
        links: Vec::new(),
        side: names::SpanSide::Client,
        name: "GET".to_owned(),
        start_ns: 0,
        end_ns: 0,
        attrs: vec![
            ("network.peer.address", "10.0.0.1".into()),
            ("network.peer.port", 80_u16.into()),
            ("waggle.vip.address", "11.0.0.1:8080".into()),
        ],
        failed: false,
    };
    let vip = "11.0.0.1:8080".parse().unwrap();
    give_names(
        &mut span,
        &Peers::default(),
        &[(vip, "web.l4lb:8080".to_owned())].into(),
    );
    let told: Vec<_> = span.attrs[3..]
        .iter()
        .map(|(key, value)| (*key, value.to_text()))
        .collect();
    let want = [
        ("service.peer.name", "private".to_owned()),
        ("waggle.vip.name", "web.l4lb:8080".to_owned()),
    ];
    assert_eq!(told, want);
}

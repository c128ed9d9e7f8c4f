//! What is no message, or one that nobody should send, in place of calls, subscriptions and registrations: it ends its
//! own call or connection alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of the set-up is a failed test"
)]

mod world;

use bytes::{Buf, BufMut};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{
    Code, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};
use waggle_api::{
    client::{CallError, connect},
    proto::{
        framework::{self as pb, frameworks_client::FrameworksClient},
        session,
    },
};
use waggle_tests_frameworks::agent;
use waggle_types::{FrameworkInfo, OfferId, RejectReason, RoleSubscription};
use world::{
    PATIENCE,
    scene::{REFUSE, Scene, cpus},
};

/// Bytes in place of messages.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut out = vec![0; bytes.remaining()];
        bytes.copy_to_slice(&mut out);
        Ok(Some(out))
    }
}

/// Sends bytes as a request and reads the first answer, or the status.
async fn send(channel: Channel, path: &'static str, bytes: Vec<u8>) -> Result<Vec<u8>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    let ready = grpc.ready().await;
    ready.map_err(|e| Status::unavailable(e.to_string()))?;
    let request = tonic::Request::new(tokio_stream::iter([bytes]));
    let path = http::uri::PathAndQuery::from_static(path);
    let asked = async {
        let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
        answers.message().await.map(Option::unwrap_or_default)
    };
    timeout(PATIENCE, asked).await.expect("an answer in time")
}

const ACCEPT: &str = "/waggle.framework.v1.Frameworks/Accept";
const CALL: &str = "/waggle.framework.v1.Frameworks/Call";
const SUBSCRIBE: &str = "/waggle.framework.v1.Frameworks/Subscribe";
const CONNECT: &str = "/waggle.session.v1.Session/Connect";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_ends_its_own_call_alone() {
    let mut s = Scene::set().await;
    let channel = s.master.channel().await;
    // Two bytes say one more task; of a million and more nothing is made.
    let bomb = [0x1a, 0].repeat(4 << 20);
    let nested = [
        &[0x32, 0x85, 0x80, 0x80, 0x04, 0x0a, 0x80, 0x80, 0x80, 0x04][..],
        &[0x0a, 0].repeat(4 << 20),
    ]
    .concat();
    let tasks = [
        &[0x0a][..],
        &[0x80, 0x80, 0x80, 0x04],
        &[0x12, 0].repeat(4 << 20),
    ]
    .concat();
    for (what, path, bytes, codes) in [
        (
            "no field",
            ACCEPT,
            vec![0xff; 20],
            &[Code::InvalidArgument][..],
        ),
        (
            "cut off",
            ACCEPT,
            vec![0x0a, 0x7f, 1],
            &[Code::InvalidArgument],
        ),
        (
            "not text",
            ACCEPT,
            vec![0x2a, 1, 0xff],
            &[Code::InvalidArgument],
        ),
        (
            "no field, in a stream of calls",
            CALL,
            vec![0xff; 20],
            &[Code::InvalidArgument],
        ),
        (
            "a million tasks, in a stream of calls",
            CALL,
            [&[0x12, 0x80, 0x80, 0x80, 0x04][..], &bomb].concat(),
            &[Code::ResourceExhausted],
        ),
        (
            "another type",
            ACCEPT,
            vec![0x08, 1],
            &[Code::InvalidArgument],
        ),
        (
            "groups in groups",
            ACCEPT,
            vec![0x7b; 100_000],
            &[Code::InvalidArgument],
        ),
        (
            "tasks without end",
            ACCEPT,
            bomb,
            &[Code::ResourceExhausted],
        ),
        (
            "tasks in an operation",
            ACCEPT,
            nested,
            &[Code::ResourceExhausted],
        ),
        ("too long", ACCEPT, vec![0; 17 << 20], &[Code::OutOfRange]),
        (
            "roles without end",
            SUBSCRIBE,
            [0x2a, 0].repeat(4 << 20),
            &[Code::ResourceExhausted],
        ),
        (
            "no registration",
            CONNECT,
            vec![0x12, 0],
            &[Code::InvalidArgument],
        ),
        (
            "not even that",
            CONNECT,
            vec![0xff; 9],
            &[Code::InvalidArgument],
        ),
        (
            "an agent's tasks",
            CONNECT,
            tasks,
            &[Code::ResourceExhausted],
        ),
    ] {
        let answer = send(channel.clone(), path, bytes).await;
        let status = answer.expect_err(what);
        assert!(codes.contains(&status.code()), "{what}: {status:?}");
        s.still_answers().await;
    }
    // Not gRPC, not HTTP/2, or only the beginning of it.
    for (what, bytes) in [
        ("TLS", &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..]),
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: m\r\n\r\n"),
        (
            "a frame of 16 MiB",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x00",
        ),
        (
            "frames that don't fit",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x09\x05\x00\x00\x00\x07",
        ),
    ] {
        let mut stream = TcpStream::connect(s.master.session).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // Whether it is told so or only cut off is the protocol's.
        let closed = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "{what}: the connection stays open");
        s.still_answers().await;
    }
    s.master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_and_agents_that_make_no_sense_are_refused() {
    let mut s = Scene::set().await;
    let matches = |pattern: String| {
        vec![vec![waggle_types::AttributeConstraint {
            selector: waggle_types::Selector::Hostname,
            predicate: waggle_types::Predicate::TextMatches(pattern),
        }]]
    };
    let constrained = |constraints| FrameworkInfo {
        roles: vec![RoleSubscription {
            constraints,
            ..RoleSubscription::new("eng")
        }],
        ..FrameworkInfo::new("picky", "eng")
    };
    let mut negative = RoleSubscription::new("eng");
    negative.smallest = Some(cpus(-1));
    let many = (0..65).map(|i| RoleSubscription::new(format!("r{i}")));
    for (what, info) in [
        (
            "a pattern that explodes",
            constrained(matches("(a{1000}){1000}".into())),
        ),
        ("no pattern", constrained(matches("(".into()))),
        ("a long pattern", constrained(matches("a".repeat(2000)))),
        ("many groups", constrained(vec![Vec::new(); 1000])),
        (
            "many roles",
            FrameworkInfo {
                roles: many.collect(),
                ..FrameworkInfo::new("many", "x")
            },
        ),
        (
            "less than nothing",
            FrameworkInfo {
                roles: vec![negative],
                ..FrameworkInfo::new("less", "x")
            },
        ),
    ] {
        let called = timeout(PATIENCE, connect(s.master.channel().await, &info)).await;
        let Err(CallError::Rejected(why)) = called.expect("an answer in time") else {
            panic!("{what} is taken")
        };
        assert_eq!(why[0].reason, RejectReason::Invalid, "{what}");
        s.still_answers().await;
    }
    // An agent that reserves more than it has, twice for a role, for everybody.
    for reserved in [
        vec![("eng", 5000)],
        vec![("eng", 1000), ("eng", 1000)],
        vec![("*", 1000)],
    ] {
        let mut info = agent::info(9, 4).unwrap();
        let all = reserved.into_iter().map(|(r, n)| (r.to_owned(), cpus(n)));
        info.reserved = all.collect();
        let register = session::AgentMessage {
            kind: Some(session::agent_message::Kind::Register(session::Register {
                agent: Some((&info).into()),
                ..session::Register::default()
            })),
        };
        let bytes = register.encode_to_vec();
        let status = send(s.master.channel().await, CONNECT, bytes).await;
        assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
        s.still_answers().await;
    }
    // Calls in somebody else's name.
    let mut raw = FrameworksClient::new(s.master.channel().await);
    let demand = pb::DemandRequest {
        caller: Some(pb::Caller {
            framework_id: s.bystander.0.framework_id().to_string(),
            subscription_id: 1,
        }),
        role: "idle".into(),
        smallest: None,
    };
    let r = raw.demand(demand).await.unwrap().into_inner();
    let reason = waggle_api::convert::reject_reason(r.rejections[0].reason);
    assert_eq!(reason, RejectReason::NotSubscribed);
    let called = s.calls.demand("idle", None).await;
    let Err(CallError::Rejected(why)) = called else {
        panic!("a role of others is taken")
    };
    assert_eq!(why[0].reason, RejectReason::NotInRole);
    let none = [OfferId::new("none").unwrap()];
    for called in [
        s.calls.accept_inverse(&none).await,
        s.calls.decline_inverse(&none, REFUSE).await,
    ] {
        let Err(CallError::Rejected(why)) = called else {
            panic!("an answer to nothing is taken")
        };
        assert_eq!(why[0].reason, RejectReason::NoInverseOffer);
    }
    s.still_answers().await;
    s.master.stop().await;
}

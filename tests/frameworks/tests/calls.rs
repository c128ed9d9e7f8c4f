//! Calls over one stream, and one by one: the same answers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of the set-up is a failed test"
)]

mod world;

use tokio::time::timeout;
use tonic::Code;
use waggle_api::{
    client::{CallError, connect},
    convert::reject_reason,
    proto::framework::{
        self as pb, call_request::Kind, event, frameworks_client::FrameworksClient,
    },
};
use waggle_master::store::MemoryStore;
use waggle_types::{FrameworkInfo, OfferId, RejectReason};
use world::{Master, PATIENCE, scene::REFUSE};

fn decline(offer: &str) -> pb::DeclineRequest {
    pb::DeclineRequest {
        caller: None,
        offer_ids: vec![offer.to_owned()],
        refuse_ms: 0,
    }
}

fn request(kind: Kind) -> pb::CallRequest {
    pb::CallRequest { kind: Some(kind) }
}

fn objects(response: &pb::CallResponse) -> Vec<&str> {
    let all = response.rejections.iter();
    all.map(|r| r.object.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_calls_is_answered_in_order() {
    const N: usize = 5000;
    let master = Master::start(MemoryStore::new()).await;
    let mut grpc = FrameworksClient::new(master.channel().await);
    let info = FrameworkInfo::new("many", "many");
    let subscribed = grpc.subscribe(pb::SubscribeRequest::from(&info)).await;
    let mut events = subscribed.unwrap().into_inner();
    let first = events.message().await.unwrap().unwrap().kind;
    let Some(event::Kind::Subscribed(s)) = first else {
        panic!("{first:?} is not subscribed");
    };
    let caller = pb::Caller {
        framework_id: s.framework_id,
        subscription_id: s.subscription_id,
    };
    // What is wrong with one call is its answer, and the stream goes on.
    let mut calls = vec![
        request(Kind::Caller(caller.clone())),
        request(Kind::Caller(caller.clone())),
        pb::CallRequest { kind: None },
        request(Kind::Decline(decline(""))),
        request(Kind::Revive(pb::ReviveRequest::default())),
    ];
    let numbered = |n: usize| request(Kind::Decline(decline(&format!("offer-{n}"))));
    calls.extend((0..N).map(numbered));
    let responses = grpc.call(tokio_stream::iter(calls)).await;
    let mut responses = responses.unwrap().into_inner();
    let answers = timeout(PATIENCE, async {
        let mut all = Vec::new();
        while let Some(r) = responses.message().await.unwrap() {
            all.push(r);
        }
        all
    });
    let answers = answers.await.expect("all calls are answered");
    assert_eq!(answers.len(), 4 + N);
    assert_eq!(objects(&answers[0]), ["caller"]);
    assert_eq!(objects(&answers[1]), ["kind"]);
    for a in &answers[..3] {
        let reason = reject_reason(a.rejections[0].reason);
        assert_eq!(reason, RejectReason::Invalid, "{a:?}");
    }
    assert!(answers[3].rejections.is_empty(), "{:?}", answers[3]);
    for (n, a) in answers[4..].iter().enumerate() {
        assert_eq!(objects(a), [format!("offer-{n}")]);
    }
    // A call of its own is answered alike.
    let alone = pb::DeclineRequest {
        caller: Some(caller),
        ..decline("offer-7")
    };
    let alone = grpc.decline(alone).await.unwrap().into_inner();
    assert_eq!(alone, answers[4 + 7]);
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_a_caller_ends() {
    let master = Master::start(MemoryStore::new()).await;
    let mut grpc = FrameworksClient::new(master.channel().await);
    let nobody = pb::Caller::default();
    for first in [
        request(Kind::Decline(decline("o"))),
        request(Kind::Caller(nobody)),
        pb::CallRequest { kind: None },
    ] {
        let responses = grpc.call(tokio_stream::iter([first])).await;
        let answer = responses.unwrap().into_inner().message().await;
        assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
    }
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_an_answer_hears_that_the_master_stops() {
    let master = Master::start(MemoryStore::new()).await;
    let info = FrameworkInfo::new("waiting", "w");
    let (calls, _events) = connect(master.channel().await, &info).await.unwrap();
    let mut first = calls.clone();
    first.revive().await.unwrap();
    let calling = tokio::spawn(async move {
        let mut calls = calls;
        let none = [OfferId::new("none").unwrap()];
        loop {
            match calls.decline(&none, REFUSE).await {
                Err(CallError::Rejected(_)) => {}
                other => return other,
            }
        }
    });
    master.stop().await;
    let outcome = timeout(PATIENCE, calling).await.expect("it ends").unwrap();
    assert!(
        matches!(outcome, Err(CallError::Transport(_))),
        "{outcome:?}"
    );
    // And from then on at once.
    let later = timeout(PATIENCE, first.revive()).await.expect("it ends");
    assert!(matches!(later, Err(CallError::Transport(_))), "{later:?}");
}

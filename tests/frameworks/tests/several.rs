//! A real master on loopback, emulated agents over the real protocol, and several frameworks at once: the
//! service framework, a batch framework and a hoarder.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of the set-up is a failed test"
)]

mod world;

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::{sync::watch, time::timeout};
use waggle_api::{
    client::{CallError, Calls, Events, connect},
    proto::framework::{self as pb, frameworks_client::FrameworksClient},
};
use waggle_master::store::MemoryStore;
use waggle_tests_frameworks::{
    agent::Books,
    batch::{self, Job, Report},
    hoarder::{self, Seen},
};
use waggle_types::{
    FrameworkInfo, Millis, Offer, OfferId, RejectReason, Resources, RoleSubscription,
    SchedulerEvent, TaskId, TaskSpec, TaskState, TaskStatus,
};
use world::{Master, PATIENCE, http, info};

fn job(commands: Vec<String>, prefix: &str) -> Job {
    Job {
        info: info(prefix, 20_000),
        prefix: prefix.into(),
        commands,
        resources: Resources::from_millis(500, 100_000, 0),
        max_failures: 2,
    }
}

async fn offers(events: &mut Events) -> Vec<Offer> {
    let found = timeout(PATIENCE, async {
        loop {
            if let Some(SchedulerEvent::Offers(o)) = events.next().await.unwrap() {
                return o;
            }
        }
    });
    found.await.expect("an offer in time")
}

async fn update(events: &mut Events, wanted: TaskState) -> TaskStatus {
    let found = timeout(PATIENCE, async {
        loop {
            match events.next().await.unwrap().expect("the stream goes on") {
                SchedulerEvent::Update(s) if s.state == wanted => return s,
                _ => {}
            }
        }
    });
    found.await.expect("an update in time")
}

fn task(id: &str, command: &str) -> TaskSpec {
    TaskSpec {
        container: waggle_types::ContainerSpec::default(),
        task_id: TaskId::new(id).unwrap(),
        framework_id: waggle_types::FrameworkId::new("set-by-the-master").unwrap(),
        framework_name: String::new(),
        role: String::new(),
        name: id.into(),
        command: waggle_types::Command::Shell(command.into()),
        env: [].into(),
        labels: [].into(),
        resources: Resources::from_millis(500, 100_000, 0),
        ports: Vec::new(),
        parts: Vec::new(),
        discovery: waggle_types::DiscoveryInfo { name: id.into() },
        health_checks: Vec::new(),
        kill_grace: Millis(1000),
        user: None,
        service: String::new(),
        service_version: String::new(),
        trace: None,
        executor: None,
    }
}

async fn acknowledge(calls: &mut Calls, s: &TaskStatus) {
    calls
        .acknowledge(&s.task_id, &s.agent_id, s.uuid.unwrap())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_starves_beside_a_hoarder() {
    let master = Master::start(MemoryStore::new()).await;
    let books = Books::default();
    for n in 1..=3 {
        master.agent(n, 4, &books).await;
    }
    master
        .until("/waggle/v1/nodes", |v| v.as_array().unwrap().len() == 3)
        .await;
    let (tx, mut seen) = watch::channel(Seen::default());
    let hoard = hoarder::run(master.channel().await, info("hoarder", 0), tx);
    let hoard = tokio::spawn(hoard);
    let all = timeout(PATIENCE, seen.wait_for(|s| s.offers >= 3));
    all.await.expect("it is offered everything").unwrap();
    let offers = master.get("/waggle/v1/offers").await;
    assert_eq!(offers[0]["framework"], "hoarder", "{offers}");

    let app = r#"{"id": "/web", "cmd": "serve", "cpus": 0.5, "mem": 32, "instances": 4}"#;
    let (status, body) = http(master.marathon, "POST", "/v2/apps", app).await;
    assert_eq!(status, 201, "{body}");
    let mut commands = vec!["run 40".to_owned(); 30];
    commands.extend(vec!["fail 20".to_owned(); 2]);
    let done = batch::run(master.channel().await, job(commands, "batch"));
    let report = timeout(PATIENCE, done).await.expect("in time").unwrap();
    assert_eq!(
        report,
        Report {
            finished: 30,
            failed: 2,
            launched: 30 + 2 * 3,
            subscriptions: 1,
            ..report.clone()
        }
    );
    let running = |v: &Value| v["running"] == 4;
    master.until("/waggle/v1/explain/web", running).await;
    assert!(
        seen.borrow_and_update().rescinded > 0,
        "what it hoards is taken back"
    );
    // Torn down: only the service framework's role and the hoarder's are left.
    let two = |v: &Value| v.as_array().unwrap().len() == 2;
    master.until("/waggle/v1/roles", two).await;
    let state = master.get("/state").await;
    assert_eq!(state["frameworks"].as_array().unwrap().len(), 2);
    let quiet = timeout(PATIENCE, async {
        while books.unacknowledged() > 0 {
            tokio::task::yield_now().await;
        }
    });
    quiet.await.expect("every update is acknowledged");
    assert_eq!((books.running(), books.launched()), (4, 30 + 6 + 4));
    hoard.abort();
    let gone = |v: &Value| v.as_array().unwrap().len() == 1;
    master.until("/waggle/v1/frameworks", gone).await;
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_framework_comes_back_by_its_id_or_is_removed_with_its_tasks() {
    let store = MemoryStore::new();
    let master = Master::start(store.clone()).await;
    let books = Books::default();
    let session = master.agent(1, 4, &books).await;
    let mut who = info("lab", 20_000);
    let (mut calls, mut events) = connect(master.channel().await, &who).await.unwrap();
    let offer = offers(&mut events).await.remove(0);
    let two = [task("lab-1", "serve"), task("lab-2", "serve")];
    let refuse = Millis(0);
    calls
        .accept(&[offer.offer_id], &two, refuse, None)
        .await
        .unwrap();
    let first = update(&mut events, TaskState::Running).await;
    acknowledge(&mut calls, &first).await;
    who.id = Some(calls.framework_id().clone());

    // Another process takes over; the first is told, and can't act any more.
    let (mut newer, mut newer_events) = connect(master.channel().await, &who).await.unwrap();
    let end = timeout(PATIENCE, async {
        loop {
            match events.next().await {
                Ok(Some(_)) => {}
                other => return other,
            }
        }
    });
    let Err(CallError::Closed(why)) = end.await.unwrap() else {
        panic!("the old stream ends with a reason")
    };
    assert_eq!(why.reason, RejectReason::Replaced);
    let Err(CallError::Rejected(why)) = calls.suppress().await else {
        panic!("the old process is refused")
    };
    assert_eq!(why[0].reason, RejectReason::NotSubscribed);
    newer.reconcile(&[]).await.unwrap();
    let s = update(&mut newer_events, TaskState::Running).await;
    assert!(s.task_id.as_str().starts_with("lab-"));

    // The master restarts on the same store: framework and tasks are still there.
    drop((newer, newer_events, calls, events));
    master.stop().await;
    session.await.unwrap();
    let master = Master::start(store).await;
    let _session = master.agent(1, 4, &books).await;
    let (mut calls, mut events) = connect(master.channel().await, &who).await.unwrap();
    let has_two = |v: &Value| {
        let all = v.as_array().unwrap();
        all.iter().any(|f| f["name"] == "lab" && f["tasks"] == 2)
    };
    master.until("/waggle/v1/frameworks", has_two).await;
    let ids = [TaskId::new("lab-1").unwrap(), TaskId::new("lab-9").unwrap()];
    calls.reconcile(&ids).await.unwrap();
    update(&mut events, TaskState::Running).await;
    update(&mut events, TaskState::Unknown).await;
    assert_eq!((books.running(), books.launched()), (2, 2));
    calls.kill(&ids[0]).await.unwrap();
    let killed = update(&mut events, TaskState::Killed).await;
    acknowledge(&mut calls, &killed).await;

    // It comes back with a short time-out, leaves, and is removed with what is left of it.
    drop((calls, events));
    who.failover_timeout = Millis(300);
    let (calls, events) = connect(master.channel().await, &who).await.unwrap();
    drop((calls, events));
    let gone = |v: &Value| v.as_array().unwrap().len() == 1;
    master.until("/waggle/v1/frameworks", gone).await;
    let ended = timeout(PATIENCE, async {
        while books.running() > 0 {
            tokio::task::yield_now().await;
        }
    });
    ended.await.expect("its tasks are killed");
    assert_eq!(books.killed(), 2);
    let Err(CallError::Rejected(why)) = connect(master.channel().await, &who).await else {
        panic!("a removed framework does not come back")
    };
    assert_eq!(why[0].reason, RejectReason::FrameworkRemoved);
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_refused_with_typed_reasons() {
    let master = Master::start(MemoryStore::new()).await;
    let books = Books::default();
    master.agent(1, 4, &books).await;
    for (name, role) in [("Bad Name", "*"), ("marathon", "*"), ("a", "a//b")] {
        let who = FrameworkInfo {
            roles: vec![RoleSubscription::new(role)],
            ..info(name, 0)
        };
        let Err(CallError::Rejected(why)) = connect(master.channel().await, &who).await else {
            panic!("{name} {role} is taken")
        };
        assert_eq!(why[0].reason, RejectReason::Invalid, "{name} {role}");
    }
    let mut raw = FrameworksClient::new(master.channel().await);
    let refused = |r: pb::CallResponse| -> (RejectReason, String) {
        let first = r.rejections.into_iter().next().expect("a rejection");
        let reason = waggle_api::convert::reject_reason(first.reason);
        (reason, first.object)
    };
    let invalid = |field: &str| (RejectReason::Invalid, field.to_owned());
    let r = raw.revive(pb::ReviveRequest::default()).await.unwrap();
    assert_eq!(refused(r.into_inner()), invalid("caller"));
    let caller = |id: &str| {
        Some(pb::Caller {
            framework_id: id.into(),
            subscription_id: 1,
        })
    };
    let request = pb::ReviveRequest {
        caller: caller("nobody"),
        roles: Vec::new(),
    };
    let r = raw.revive(request).await.unwrap().into_inner();
    assert_eq!(refused(r).0, RejectReason::UnknownFramework);
    let request = pb::AcceptRequest {
        caller: caller("nobody"),
        launch: vec![pb::TaskInfo::default()],
        ..pb::AcceptRequest::default()
    };
    let r = raw.accept(request).await.unwrap().into_inner();
    assert_eq!(refused(r), invalid("launch[0].command"));
    let request = pb::AcknowledgeRequest {
        caller: caller("nobody"),
        task_id: "t".into(),
        agent_id: "a".into(),
        uuid: vec![1, 2],
        more: Vec::new(),
    };
    let r = raw.acknowledge(request).await.unwrap().into_inner();
    assert_eq!(refused(r), invalid("uuid"));

    let (mut calls, mut events) = connect(master.channel().await, &info("lab", 0))
        .await
        .unwrap();
    let offer = offers(&mut events).await.remove(0);
    let for_ever = Millis(u64::MAX);
    let mut big = task("big", "serve");
    big.resources = Resources::from_millis(i64::MAX, i64::MAX, i64::MAX);
    let stale = OfferId::new("stale").unwrap();
    for (ids, launch, reason) in [
        (
            vec![offer.offer_id.clone()],
            vec![big],
            RejectReason::Overuse,
        ),
        (
            vec![stale.clone()],
            vec![task("t", "serve")],
            RejectReason::StaleOffer,
        ),
        (vec![], vec![task("t", "serve")], RejectReason::NoOffers),
    ] {
        let called = calls.accept(&ids, &launch, for_ever, None).await;
        let Err(CallError::Rejected(why)) = called else {
            panic!("{reason} is taken")
        };
        // An offer may time out in between: that is a typed reason, too.
        let reasons: Vec<_> = why.iter().map(|r| r.reason).collect();
        assert!(
            reasons.contains(&reason) || reasons.contains(&RejectReason::StaleOffer),
            "{reason}: {reasons:?}"
        );
    }
    let Err(CallError::Rejected(why)) = calls.decline(&[stale], for_ever).await else {
        panic!("a stale decline is taken")
    };
    assert_eq!(why[0].reason, RejectReason::StaleOffer);
    calls.teardown().await.unwrap();
    let Err(CallError::Rejected(why)) = calls.revive().await else {
        panic!("a removed framework acts")
    };
    assert_eq!(why[0].reason, RejectReason::FrameworkRemoved);
    assert_eq!(books.launched(), 0);
    // Views follow events within some milliseconds.
    let deadline = Instant::now() + Duration::from_secs(10);
    while master
        .get("/waggle/v1/frameworks")
        .await
        .as_array()
        .map(Vec::len)
        != Some(1)
    {
        assert!(
            Instant::now() < deadline,
            "the removed framework stays in the view"
        );
        tokio::task::yield_now().await;
    }
    master.stop().await;
}

//! A framework with a reservation and a volume of its own, beside a master, agents and maintenance.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of the set-up is a failed test"
)]

mod world;

use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use waggle_master::store::MemoryStore;
use waggle_tests_frameworks::{
    agent::{self, Books},
    stateful::{self, Seen, Service},
};
use waggle_types::{ContainerSpec, Resources, ScalarKind};
use world::{
    Master, PATIENCE, http,
    talk::{offers, task, update},
};

fn service(command: &str) -> Service {
    Service {
        name: "db".into(),
        role: "eng/db".into(),
        prefix: "db".into(),
        command: command.into(),
        container: ContainerSpec::default(),
        resources: Resources::from_millis(1000, 64_000, 100_000),
        id: None,
        volume: None,
    }
}

async fn seen(rx: &mut watch::Receiver<Seen>, what: &str, f: impl FnMut(&Seen) -> bool) -> Seen {
    let found = timeout(PATIENCE, rx.wait_for(f)).await;
    found.expect(what).unwrap().clone()
}

/// The reservations of the role, as `(agent, disk in volumes)`.
fn reserved(all: &Value) -> Vec<(String, f64)> {
    let all = all.as_array().unwrap().iter();
    let volumes = |r: &Value| {
        let sizes = r["volumes"].as_array().unwrap().iter();
        sizes.map(|v| v["size"].as_f64().unwrap()).sum()
    };
    all.map(|r| (r["agent_id"].as_str().unwrap().to_owned(), volumes(r)))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_comes_back_to_its_volume_and_moves_when_it_is_asked_to() {
    let master = Master::start(MemoryStore::new()).await;
    let books = Books::default();
    master.agent(1, 4, &books).await;
    let (tx, mut rx) = watch::channel(Seen::default());
    // The task ends by itself after a while and is launched again, where its volume is.
    let run = stateful::run(master.channel().await, service("run 60"), tx);
    let run = tokio::spawn(run);
    let first = seen(&mut rx, "it settles", |s| s.n_settled == 1).await;
    let home = first.home.unwrap();
    assert_eq!(home.1.as_str(), "agent-1");
    let later = seen(&mut rx, "it comes back", |s| s.n_returned >= 2).await;
    assert_eq!(later.home.as_ref(), Some(&home), "the same volume");
    assert_eq!(later.n_settled, 1);
    let one = |v: &Value| reserved(v) == [("agent-1".to_owned(), 100.0)];
    master.until("/waggle/v1/reservations", one).await;

    // Another agent joins, the first is to be down in a while: it moves and leaves nothing behind.
    master.agent(2, 4, &books).await;
    master
        .until("/waggle/v1/nodes", |v| v.as_array().unwrap().len() == 2)
        .await;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let start = u64::try_from(now.as_millis()).unwrap() + 3_600_000;
    let window = json!({"agents": ["n1"], "start_ms": start, "duration_ms": 60_000});
    let (status, body) = http(
        master.mesos,
        "PUT",
        "/waggle/v1/maintenance",
        &window.to_string(),
    )
    .await;
    assert_eq!(status, 200, "{body}");
    let moved = seen(&mut rx, "it moves", |s| s.n_settled == 2).await;
    assert_eq!(moved.n_moved, 1);
    assert_eq!(moved.home.unwrap().1.as_str(), "agent-2");
    seen(&mut rx, "it gives back", |s| s.n_given_back == 1).await;
    let other = |v: &Value| reserved(v) == [("agent-2".to_owned(), 100.0)];
    master.until("/waggle/v1/reservations", other).await;
    run.abort();
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_finds_the_volume_over_a_restart_of_the_master() {
    let store = MemoryStore::new();
    let master = Master::start(store.clone()).await;
    let books = Books::default();
    let session = master.agent(1, 4, &books).await;
    let (tx, mut rx) = watch::channel(Seen::default());
    let run = tokio::spawn(stateful::run(master.channel().await, service("run 60"), tx));
    let settled = seen(&mut rx, "it settles", |s| s.n_settled == 1).await;
    let (volume, _) = settled.home.unwrap();
    run.abort();
    master.stop().await;
    session.await.unwrap();

    let master = Master::start(store).await;
    let _session = master.agent(1, 4, &books).await;
    let again = Service {
        id: settled.framework_id,
        prefix: "db-again".into(),
        volume: Some(volume.clone()),
        ..service("serve")
    };
    let (tx, mut rx) = watch::channel(Seen::default());
    let run = tokio::spawn(stateful::run(master.channel().await, again, tx));
    let found = seen(&mut rx, "it comes back", |s| s.n_returned == 1).await;
    assert_eq!(found.home.map(|(v, _)| v), Some(volume));
    assert_eq!((found.n_settled, found.n_given_back), (0, 0));
    run.abort();
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_with_a_reservation_and_custom_kinds_offers_them_to_its_role() {
    let master = Master::start(MemoryStore::new()).await;
    let books = Books::default();
    let mut info = agent::info(1, 4).unwrap();
    let mut mine = Resources::from_millis(1000, 0, 0);
    mine.custom
        .set_scalar("licenses", waggle_types::Milli(2000));
    info.total.try_add(&mine).unwrap();
    info.reserved = vec![("eng".into(), mine.clone())];
    master.agent_with(info, &books).await;
    let (_calls, mut events) =
        waggle_api::client::connect(master.channel().await, &info_of("other", "*"))
            .await
            .unwrap();
    let offer = offers(&mut events).await.remove(0);
    assert_eq!(offer.resources.get(ScalarKind::Cpus).0, 4000);
    assert!(offer.resources.custom.is_empty(), "{}", offer.resources);
    let (mut calls, mut events) =
        waggle_api::client::connect(master.channel().await, &info_of("web", "eng/web"))
            .await
            .unwrap();
    let offer = offers(&mut events).await.remove(0);
    let part = offer.parts.iter().find(|p| !p.reservation.is_empty());
    let part = part.expect("what is reserved for the role above");
    assert_eq!(part.resources, mine);
    let mut spec = task("t1", "serve");
    spec.resources = mine.clone();
    spec.parts = vec![part.clone()];
    let refuse = waggle_types::Millis(0);
    calls
        .accept(&[offer.offer_id], &[spec], refuse, None)
        .await
        .unwrap();
    update(&mut events, waggle_types::TaskState::Running).await;
    let used = |v: &Value| v[0]["used"]["custom"]["licenses"] == 2;
    master.until("/waggle/v1/reservations", used).await;
    master.stop().await;
}

fn info_of(name: &str, role: &str) -> waggle_types::FrameworkInfo {
    waggle_types::FrameworkInfo::new(name, role)
}

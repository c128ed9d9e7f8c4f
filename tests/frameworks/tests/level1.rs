//! Level 1's promises with a real master, emulated agents and several frameworks at once: weighted shares, quota,
//! lending, and the wait beside hoarders.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of the set-up is a failed test"
)]

mod world;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use waggle_master::store::MemoryStore;
use waggle_tests_frameworks::{
    agent::{self, Books},
    batch::{self, Job},
    hoarder::{self, Seen},
};
use waggle_types::{
    Capabilities, FrameworkInfo, Millis, Resources, RoleSubscription, StatusReason,
};
use world::{
    Master, OFFER_TIMEOUT, PATIENCE,
    grabber::{self, Grabbed, Plan},
    info,
};

/// What each task takes: an eighth of the CPUs of an agent.
const CPUS: f64 = 0.5;
const N_AGENTS: u8 = 3;
/// For how long an offer stands where frameworks must not lose their turn because this machine is busy.
const LONG: Millis = Millis::from_secs(20);
/// Tasks that fill the cluster.
const FULL: usize = 24;

fn task() -> Resources {
    Resources::from_millis(500, 100_000, 0)
}

async fn master() -> (Master, Books) {
    master_with(OFFER_TIMEOUT).await
}

async fn master_with(offer_timeout: Millis) -> (Master, Books) {
    let master = Master::start_with(MemoryStore::new(), offer_timeout).await;
    // Before there is an agent, so that nobody is first.
    let up = |v: &Value| v.as_array().is_some_and(|all| !all.is_empty());
    master.until("/waggle/v1/frameworks", up).await;
    (master, Books::default())
}

async fn agents(master: &Master, books: &Books) {
    for n in 1..=N_AGENTS {
        master.agent(n, 4, books).await;
    }
}

/// Tasks for ever, in a role named as it is, that says what it needs. Some take longer than others, or all would
/// end at once and whole agents change hands.
async fn batch(master: &Master, name: &str, ms: usize) -> JoinHandle<()> {
    let hint = RoleSubscription {
        smallest: Some(task()),
        ..RoleSubscription::new(name)
    };
    let job = Job {
        info: FrameworkInfo {
            roles: vec![hint],
            ..info(name, 20_000)
        },
        prefix: name.into(),
        commands: (0..100_000)
            .map(|n| format!("run {}", ms / 2 + n * 7919 % ms))
            .collect(),
        resources: task(),
        max_failures: 1,
    };
    let run = batch::run(master.channel().await, job);
    tokio::spawn(async move {
        // It ends with the test.
        let _ = run.await;
    })
}

async fn grab(
    master: &Master,
    info: FrameworkInfo,
    most: usize,
    command: &'static str,
) -> watch::Receiver<Grabbed> {
    let plan = Plan {
        info,
        most,
        command,
        task: task(),
    };
    let (tx, rx) = watch::channel(Grabbed::default());
    let run = grabber::run(master.channel().await, plan, tx);
    tokio::spawn(async move {
        // It ends with the test.
        let _ = run.await;
    });
    rx
}

async fn until(
    seen: &mut watch::Receiver<Grabbed>,
    what: &str,
    wanted: impl FnMut(&Grabbed) -> bool,
) -> Grabbed {
    if let Ok(found) = timeout(PATIENCE, seen.wait_for(wanted)).await {
        return found.unwrap().clone();
    }
    panic!("{what}: it stays {:?}", seen.borrow())
}

/// A role's CPUs, in tasks.
fn cpus(roles: &Value, role: &str, what: &str) -> f64 {
    let mut all = roles.as_array().unwrap().iter();
    let found = all.find(|r| r["name"] == role);
    let cpus = found.and_then(|r| r[what]["cpus"].as_f64());
    cpus.unwrap_or(0.0) / CPUS
}

fn used(roles: &Value, role: &str) -> f64 {
    cpus(roles, role, "used")
}

/// What shares are about: used or offered.
fn allocated(roles: &Value, role: &str) -> f64 {
    used(roles, role) + cpus(roles, role, "offered")
}

async fn weights(master: &Master) {
    for (role, weight) in [("a", 2), ("b", 1)] {
        let path = format!("/waggle/v1/weights/{role}");
        master.ask("PUT", &path, &json!({"weight": weight})).await;
    }
}

async fn subscribed(master: &Master, n: usize) {
    let all = |v: &Value| v.as_array().unwrap().len() == n;
    master.until("/waggle/v1/frameworks", all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weighted_shares_are_right_to_one_task() {
    let (master, books) = master_with(LONG).await;
    weights(&master).await;
    let a = grab(&master, info("a", 0), usize::MAX, "serve").await;
    let mut b = grab(&master, info("b", 0), usize::MAX, "serve").await;
    subscribed(&master, 3).await;
    agents(&master, &books).await;
    // Whoever launches last.
    let full = |b: &Grabbed| a.borrow().launched + b.launched == FULL;
    let filled = timeout(PATIENCE, async {
        while !full(&b.borrow_and_update()) {
            tokio::task::yield_now().await;
        }
    });
    filled.await.expect("the cluster fills");
    let (a, b) = (a.borrow().launched, b.borrow().launched);
    assert!(
        (15..=17).contains(&a),
        "{a} and {b} of {FULL}, not 16 and 8"
    );
    assert!(books.launched() <= FULL);
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weighted_shares_hold_while_tasks_come_and_go() {
    let (master, books) = master_with(LONG).await;
    weights(&master).await;
    batch(&master, "a", 400).await;
    batch(&master, "b", 400).await;
    subscribed(&master, 3).await;
    agents(&master, &books).await;
    let both = |v: &Value| used(v, "a") > 0.0 && used(v, "b") > 0.0;
    master.until("/waggle/v1/roles", both).await;
    let (mut a, mut b) = (0.0, 0.0);
    // The pace leaves the machine to those who are looked at.
    let mut pace = tokio::time::interval(Duration::from_millis(25));
    let generations = timeout(PATIENCE, async {
        while books.launched() < 12 * FULL {
            pace.tick().await;
            let roles = master.get("/waggle/v1/roles").await;
            a += allocated(&roles, "a");
            b += allocated(&roles, "b");
        }
    });
    generations.await.expect("tasks come and go");
    let ratio = a / b;
    assert!((1.7..2.3).contains(&ratio), "{ratio} to 1, not 2 to 1");
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guarantee_is_met_although_others_hog() {
    let (master, books) = master().await;
    // By its weight alone it would get nothing but the crumbs.
    let heavy = json!({"weight": 1000});
    master.ask("PUT", "/waggle/v1/weights/hog", &heavy).await;
    agents(&master, &books).await;
    batch(&master, "hog", 200).await;
    let hogs = |v: &Value| used(v, "hog") >= 20.0;
    master.until("/waggle/v1/roles", hogs).await;
    let promised = json!({"guarantee": {"cpus": 4, "mem": 800}});
    master.ask("PUT", "/waggle/v1/quotas/prod", &promised).await;
    let started = Instant::now();
    let mut prod = grab(&master, info("prod", 0), 8, "serve").await;
    until(&mut prod, "the guarantee", |s| s.running == 8).await;
    // One generation of the others' tasks has to end, and what was freed to be offered.
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    let roles = master.get("/waggle/v1/roles").await;
    assert!(used(&roles, "prod") > 7.9, "{roles}");
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_not_exceeded_at_any_moment() {
    let (master, books) = master().await;
    let limit = json!({"limit": {"cpus": 2}});
    master.ask("PUT", "/waggle/v1/quotas/capped", &limit).await;
    agents(&master, &books).await;
    let mut capped = grab(&master, info("capped", 0), usize::MAX, "run 300").await;
    let mut most = 0;
    let done = timeout(PATIENCE, async {
        while capped.borrow_and_update().finished < 40 {
            let now = books.running();
            assert!(now <= 4, "{now} tasks of half a CPU run");
            most = most.max(now);
            tokio::task::yield_now().await;
        }
    });
    done.await.expect("forty tasks end in time");
    assert_eq!(most, 4, "it gets what it may have");
    let roles = master.get("/waggle/v1/roles").await;
    assert!(used(&roles, "capped") <= 4.0, "{roles}");
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wait_beside_hoarders_is_bounded() {
    const N_HOARDERS: u32 = 3;
    let (master, books) = master().await;
    let mut hoards = Vec::new();
    for n in 0..N_HOARDERS {
        let (tx, rx) = watch::channel(Seen::default());
        let name = format!("hoarder{n}");
        let run = hoarder::run(master.channel().await, info(&name, 0), tx);
        tokio::spawn(async move {
            // It ends with the test.
            let _ = run.await;
        });
        hoards.push(rx);
    }
    subscribed(&master, 1 + hoards.len()).await;
    agents(&master, &books).await;
    let mut lab = grab(&master, info("lab", 0), 1, "run 1").await;
    let seen = until(&mut lab, "twenty rounds", |s| s.finished >= 20).await;
    let hoarded: usize = hoards.iter().map(|h| h.borrow().offers).sum();
    assert!(
        hoarded >= usize::from(N_AGENTS),
        "{hoarded} offers are sat on"
    );
    // Everybody else lets one offer of each agent time out (two, if it has itself turned one down), and this
    // machine may be busy.
    let bound = Duration::from_millis(OFFER_TIMEOUT.0) * 2 * N_HOARDERS + Duration::from_secs(1);
    assert!(
        seen.worst_wait < bound,
        "it waited for {:?}",
        seen.worst_wait
    );
    master.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lent_comes_back_when_its_owner_wakes_up() {
    let (master, books) = master().await;
    let mut own = agent::info(1, 2).unwrap();
    // All of its CPUs.
    own.reserved = vec![("owner".into(), Resources::from_millis(2000, 1_000_000, 0))];
    master.agent_with(own, &books).await;
    let mut plain = grab(&master, info("plain", 0), 8, "serve").await;
    let spot = FrameworkInfo {
        capabilities: Capabilities {
            revocable: true,
            ..Capabilities::default()
        },
        ..info("spot", 0)
    };
    let mut spot = grab(&master, spot, 8, "serve").await;
    let lent = until(&mut spot, "what is lent", |s| s.running == 4).await;
    assert!(lent.lent > 0, "offers say what is lent: {lent:?}");
    assert_eq!(
        plain.borrow_and_update().launched,
        0,
        "others get none of it"
    );
    let woke = Instant::now();
    let mut owner = grab(&master, info("owner", 0), 4, "serve").await;
    until(&mut owner, "its own", |s| s.running == 4).await;
    let took = woke.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    let gone = until(&mut spot, "evictions", |s| s.killed.len() == 4).await;
    assert_eq!(gone.killed, vec![Some(StatusReason::ContainerPreempted); 4]);
    assert_eq!(books.running(), 4);
    master.stop().await;
}

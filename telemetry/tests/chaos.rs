//! What goes wrong, one after the other and at once: in = exported + held + dropped, and what arrives is what was said.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use common::{Shared, Sink, config, labels, text, until};
use waggle_telemetry::{
    IoStream, Signal, SpoolConfig, Telemetry, TelemetryConfig,
    pipeline::{DropReason, Limits, decode_line},
};

/// Where the process that is killed keeps its spool; set in it only.
const DIR: &str = "WAGGLE_TEST_SPOOL";
const URL: &str = "WAGGLE_TEST_OTLP";

fn spooled(dir: &Path, url: &str) -> TelemetryConfig {
    let mut config = config(Some(url.to_owned()));
    let mut spool = SpoolConfig::new(dir);
    spool.replay_bytes_s = 1 << 30;
    config.spool = Some(spool);
    config.metric_interval = Duration::from_hours(1);
    config
}

fn log(t: &Telemetry, lines: impl Iterator<Item = usize>) {
    let task = labels("web.1");
    for i in lines {
        let line = format!("line {i}");
        t.task_log(&task, decode_line(line.as_bytes(), IoStream::Stdout, 1));
    }
}

fn received(state: &Shared) -> BTreeSet<String> {
    let state = state.lock().unwrap();
    let bodies = state.logs.iter().map(|(_, r)| text(r.body.as_ref()));
    bodies.filter(|b| b.starts_with("line ")).collect()
}

/// An address at which nobody is now, and somebody may be later. Of its own: on 127.0.0.1 a port that is given back may be taken.
fn address(last: u8) -> SocketAddr {
    let own = SocketAddr::from(([127, 0, 0, last], 0));
    Sink::start_at(&Shared::default(), own).addr
}

/// Not a test: what the next one kills.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed() {
    let (Ok(dir), Ok(url)) = (std::env::var(DIR), std::env::var(URL)) else {
        return;
    };
    let (t, _guard) = Telemetry::start(&spooled(Path::new(&dir), &url)).unwrap();
    log(&t, 0..2000);
    // In the books it is held from the start: what is written is in the files.
    let on_disk = || segment_bytes(Path::new(&dir));
    until("the queue to be empty", || t.queued(Signal::Logs) == 0).await;
    let mut before = 0;
    until("nothing more is written", || {
        let now = on_disk();
        let still = now > 0 && now == before;
        before = now;
        still
    })
    .await;
    println!("HELD {}", t.losses().logs.held);
    // And on, until it is killed in the middle of it.
    for i in 0.. {
        log(&t, 1_000_000 + i * 10..1_000_010 + i * 10);
        tokio::task::yield_now().await;
    }
}

fn segment_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |e: std::fs::DirEntry| match e.metadata() {
        Ok(meta) if meta.is_dir() => segment_bytes(&e.path()),
        Ok(meta) if e.path().extension().is_some_and(|x| x == "seg") => meta.len(),
        _ => 0,
    };
    entries.map(of).sum()
}

#[tokio::test]
async fn what_is_on_disk_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let addr = address(87);
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_that_is_killed", "--nocapture"])
        .env(DIR, dir.path())
        .env(URL, format!("http://{addr}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(victim.stdout.take().unwrap());
    let mut said = said.lines().map_while(Result::ok);
    let held = said.find_map(|l| l.split_once("HELD ").map(|(_, n)| n.to_owned()));
    assert_eq!(held.as_deref(), Some("2000"));
    victim.kill().unwrap();
    victim.wait().unwrap();

    let state = Shared::default();
    let sink = Sink::start_at(&state, addr);
    let (t, guard) = Telemetry::start(&spooled(dir.path(), &sink.url())).unwrap();
    let found = t.losses().logs.input;
    assert!(found >= 2000, "{found}");
    until("all of it", || t.losses().logs.held == 0).await;
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert!(losses.balanced(), "{losses:?}");
    assert_eq!(losses.logs.exported, found, "{losses:?}");
    let lines = received(&state);
    assert!((0..2000).all(|i| lines.contains(&format!("line {i}"))));
    assert_eq!(lines.len() as u64, found, "each once");
}

#[tokio::test]
async fn an_hour_without_an_endpoint_in_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let state = Shared::default();
    let addr = address(85);
    let mut config = spooled(dir.path(), &format!("http://{addr}"));
    // A day is two seconds here, the spool as small as it may be.
    let spool = config.spool.as_mut().unwrap();
    spool.max_age = Duration::from_secs(2);
    spool.max_bytes = 2 << 20;
    config.log_queue = Limits {
        max_items: 100_000,
        max_bytes: 64 << 20,
    };
    let (t, guard) = Telemetry::start(&config).unwrap();
    log(&t, 0..3000);
    until("the first are on disk", || t.queued(Signal::Logs) == 0).await;
    // What comes is small and slow until the first are too old.
    let mut n = 3000;
    until("the first are too old", || {
        log(&t, std::iter::once(n));
        n += 1;
        t.losses().logs.dropped(DropReason::TooOld) >= 3000
    })
    .await;
    // A burst that nothing holds all of.
    log(&t, n..n + 60_000);
    let all = n + 60_000;
    assert!(t.losses().balanced());
    let _sink = Sink::start_at(&state, addr);
    let losses = guard.shutdown(Duration::from_secs(30)).await;
    assert!(losses.balanced(), "{losses:?}");
    let counts = losses.logs;
    assert_eq!((counts.input, counts.held), (all as u64, 0), "{counts:?}");
    assert_eq!(counts.exported, received(&state).len() as u64, "{counts:?}");
    let known = [
        DropReason::TooOld,
        DropReason::SpoolFull,
        DropReason::QueueFull,
    ];
    let why: u64 = known.iter().map(|r| counts.dropped(*r)).sum();
    assert_eq!(why, counts.dropped_total(), "{counts:?}");
    let newest = format!("line {}", all - 1);
    assert!(received(&state).contains(&newest), "the newest");
}

/// A small file system, gone with this.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=300k", "tmpfs"]);
        let done = mount.arg(dir.path()).stderr(Stdio::null()).status();
        if done.is_ok_and(|s| s.success()) {
            return Some(Self(dir));
        }
        eprintln!("SKIP: no file system can be mounted here");
        None
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_costs_the_oldest() {
    let Some(small) = Small::new() else { return };
    let state = Shared::default();
    let addr = address(86);
    let mut config = spooled(small.0.path(), &format!("http://{addr}"));
    config.log_queue = Limits {
        max_items: 100_000,
        max_bytes: 64 << 20,
    };
    let (t, guard) = Telemetry::start(&config).unwrap();
    log(&t, 0..20_000);
    until("the disk is full", || t.queued(Signal::Logs) == 0).await;
    let _sink = Sink::start_at(&state, addr);
    let losses = guard.shutdown(Duration::from_secs(30)).await;
    assert!(losses.balanced(), "{losses:?}");
    let counts = losses.logs;
    assert!(
        counts.dropped_total() > 0 && counts.exported > 0,
        "{counts:?}"
    );
    assert_eq!(counts.exported, received(&state).len() as u64, "{counts:?}");
    assert!(received(&state).contains("line 19999"), "the newest");
    drop(t);
}

//! With a spool nothing is lost that its bounds hold: over an endpoint's outage, over the process's end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;

use std::{collections::BTreeSet, path::Path, time::Duration};

use common::{Shared, Sink, attrs, config, labels, until};
use waggle_telemetry::{
    Destination, IoStream, SpanKind, SpoolConfig, Telemetry, TelemetryConfig,
    pipeline::{DropReason, Limits, decode_line},
};

fn spooled(dir: &Path, url: String) -> TelemetryConfig {
    let mut config = config(Some(url));
    config.spool = Some(SpoolConfig::new(dir));
    config
}

/// Says lines, slowly enough for the queue.
async fn log(t: &Telemetry, from: u64, to: u64) {
    let task = labels("web.1");
    for i in from..to {
        let line = format!("line {i}");
        t.task_log(&task, decode_line(line.as_bytes(), IoStream::Stdout, 1));
        if i % 100 == 99 {
            until("the queue to go to disk", || {
                let all = t.losses().logs;
                all.input - all.exported - all.dropped_total() >= i - from - 99
                    && t.prometheus_text().contains("waggle_telemetry_spool_size")
            })
            .await;
        }
    }
}

/// Lines at the endpoint, and how many came more than once.
fn received(state: &Shared) -> (BTreeSet<String>, usize) {
    let state = state.lock().unwrap();
    let bodies = state.logs.iter().filter_map(|(_, r)| {
        use opentelemetry_proto::tonic::common::v1::any_value::Value;
        match r.body.as_ref()?.value.as_ref()? {
            Value::StringValue(s) if s.starts_with("line ") => Some(s.clone()),
            _ => None,
        }
    });
    let all: Vec<String> = bodies.collect();
    let distinct: BTreeSet<String> = all.iter().cloned().collect();
    let n = all.len() - distinct.len();
    (distinct, n)
}

#[tokio::test]
async fn an_outage_and_a_restart_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = Shared::default();
    let own = std::net::SocketAddr::from(([127, 0, 0, 79], 0));
    let sink = Sink::start_at(&state, own);
    let (addr, url) = (sink.addr, sink.url());
    let (t, guard) = Telemetry::start(&spooled(dir.path(), url.clone())).unwrap();
    log(&t, 0, 100).await;
    until("the first hundred", || t.losses().logs.exported == 100).await;
    drop(sink);
    log(&t, 100, 3000).await;
    for _ in 0..20 {
        t.begin_span("allocation", SpanKind::Internal, None, vec![])
            .end();
    }
    let losses = guard.shutdown(Duration::from_secs(2)).await;
    assert!(losses.balanced(), "{losses:?}");
    assert_eq!(losses.logs.dropped_total(), 0, "{losses:?}");
    assert_eq!((losses.logs.held, losses.spans.held), (2900, 20));

    // Another process, which finds the endpoint away as well.
    let (t, guard) = Telemetry::start(&spooled(dir.path(), url.clone())).unwrap();
    assert_eq!((t.losses().logs.input, t.losses().logs.held), (2900, 2900));
    log(&t, 3000, 3100).await;
    let page = t.prometheus_text();
    assert!(page.contains("waggle_telemetry_spool_oldest_age"), "{page}");
    let losses = guard.shutdown(Duration::from_secs(1)).await;
    assert_eq!((losses.logs.held, losses.logs.dropped_total()), (3000, 0));

    let _sink = Sink::start_at(&state, addr);
    let (t, guard) = Telemetry::start(&spooled(dir.path(), url)).unwrap();
    until("all of it", || t.losses().logs.exported == 3000).await;
    until("the spans", || t.losses().spans.exported == 20).await;
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert!(losses.balanced(), "{losses:?}");
    assert_eq!((losses.logs.held, losses.metrics.held), (0, 0));
    let (lines, twice) = received(&state);
    assert_eq!(lines.len(), 3100);
    // A request whose answer was cut off comes again, with the ids that it had.
    let state = state.lock().unwrap();
    let uids: BTreeSet<String> = state
        .logs
        .iter()
        .map(|(_, r)| attrs(&r.attributes)["log.record.uid"].clone())
        .collect();
    assert!(uids.len() >= 3100 && state.logs.len() - uids.len() >= twice);
    let mut of_endpoints = std::fs::read_dir(dir.path()).unwrap();
    let own = of_endpoints.next().unwrap().unwrap().path();
    let left = std::fs::read_dir(own.join("logs")).unwrap();
    let left: Vec<_> = left.map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["cursor"], "the disk has its room back");
}

#[tokio::test]
async fn what_waits_for_an_endpoint_goes_to_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (Shared::default(), Shared::default());
    let own = |n| std::net::SocketAddr::from(([127, 0, 0, n], 0));
    let (a, b) = (
        Sink::start_at(&first, own(83)),
        Sink::start_at(&second, own(84)),
    );
    let (a_addr, a_url, b_url) = (a.addr, a.url(), b.url());
    drop(a);
    let mut config = spooled(dir.path(), a_url.clone());
    config.otlp.push(Destination::new(&b_url));
    let (t, guard) = Telemetry::start(&config).unwrap();
    log(&t, 0, 100).await;
    until("the second has it", || received(&second).0.len() == 100).await;
    let losses = guard.shutdown(Duration::from_secs(1)).await;
    assert_eq!((losses.logs.exported, losses.logs.held), (100, 100));
    // The other way round, and still nobody is there.
    config.otlp.reverse();
    let (t, guard) = Telemetry::start(&config).unwrap();
    log(&t, 100, 110).await;
    until("the second has the new ones", || {
        received(&second).0.len() == 110
    })
    .await;
    drop((t, guard));
    let _a = Sink::start_at(&first, a_addr);
    let (t, guard) = Telemetry::start(&config).unwrap();
    until("the first has all", || received(&first).0.len() == 110).await;
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert!(losses.balanced() && losses.logs.held == 0, "{losses:?}");
    // Nobody said good-bye to the second: what it had taken and that was not noted comes again.
    assert_eq!(received(&second).0, received(&first).0);
    drop(t);
    // One that is not there any more is left alone.
    config.otlp.truncate(1);
    let (_t, _guard) = Telemetry::start(&config).unwrap();
}

#[tokio::test]
async fn what_is_queued_at_the_end_is_on_disk_and_one_that_is_away_costs_others_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = Shared::default();
    let sink = Sink::start(&state);
    // A port at which nobody answers, and nobody refuses either.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = format!("http://{}", silent.local_addr().unwrap());
    let mut config = spooled(dir.path(), away);
    config.otlp.push(Destination::new(sink.url()));
    config.metric_interval = Duration::from_hours(1);
    let (t, guard) = Telemetry::start(&config).unwrap();
    for i in 0..1000 {
        let line = format!("line {i}");
        t.task_log(
            &labels("web.1"),
            decode_line(line.as_bytes(), IoStream::Stdout, 1),
        );
    }
    let begun = tokio::time::Instant::now();
    let losses = guard.shutdown(Duration::from_secs(8)).await;
    assert!(
        begun.elapsed() < Duration::from_secs(12),
        "{:?}",
        begun.elapsed()
    );
    assert!(losses.balanced(), "{losses:?}");
    assert_eq!(losses.logs.dropped_total(), 0, "{losses:?}");
    assert_eq!((losses.logs.exported, losses.logs.held), (1000, 1000));
    let last = "waggle.telemetry.exported";
    let state = state.lock().unwrap();
    assert!(
        state.metrics.iter().any(|(_, m)| m.name == last),
        "the final books"
    );
}

#[tokio::test]
async fn what_does_not_fit_is_the_oldest_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let state = Shared::default();
    let own = std::net::SocketAddr::from(([127, 0, 0, 80], 0));
    let sink = Sink::start_at(&state, own);
    let (addr, url) = (sink.addr, sink.url());
    drop(sink);
    let mut config = spooled(dir.path(), url);
    config.spool.as_mut().unwrap().max_bytes = 512 << 10;
    config.log_queue = Limits {
        max_items: 100_000,
        max_bytes: 64 << 20,
    };
    let (t, guard) = Telemetry::start(&config).unwrap();
    log(&t, 0, 5000).await;
    until("the queue to go to disk", || {
        t.losses().logs.dropped(DropReason::SpoolFull) > 0
    })
    .await;
    let _sink = Sink::start_at(&state, addr);
    let losses = guard.shutdown(Duration::from_secs(20)).await;
    assert!(losses.balanced(), "{losses:?}");
    let (lines, _) = received(&state);
    assert_eq!(losses.logs.held, 0);
    assert_eq!(losses.logs.exported, lines.len() as u64);
    assert_eq!(
        losses.logs.dropped_total(),
        losses.logs.dropped(DropReason::SpoolFull)
    );
    // But for what was under way, the newest are there.
    assert!(lines.contains("line 4999") && !lines.contains("line 1500"));
}

#[tokio::test]
async fn partial_success_small_appetites_and_refusals_are_booked() {
    let dir = tempfile::tempdir().unwrap();
    let state = Shared::default();
    let sink = Sink::start(&state);
    let (t, guard) = Telemetry::start(&spooled(dir.path(), sink.url())).unwrap();
    state.lock().unwrap().max_records = Some(7);
    log(&t, 0, 100).await;
    until("all in small parts", || t.losses().logs.exported == 100).await;
    assert_eq!(received(&state).0.len(), 100);
    {
        let mut state = state.lock().unwrap();
        state.max_records = None;
        state.refuse = Some(tonic::Code::InvalidArgument);
    }
    log(&t, 100, 105).await;
    until("refused", || {
        t.losses().logs.dropped(DropReason::Rejected) == 5
    })
    .await;
    state.lock().unwrap().refuse = None;
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert!(losses.balanced(), "{losses:?}");
    assert_eq!((losses.logs.exported, losses.logs.held), (100, 0));
}

#[tokio::test]
async fn a_directory_that_can_not_be_used_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let config = spooled(&file, "http://127.0.0.1:9".into());
    let error = Telemetry::start(&config).unwrap_err();
    assert!(error.to_string().starts_with("telemetry spool "), "{error}");
}

//! In = exported + held + dropped, while the endpoint goes away, refuses and rejects in part.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::{Shared, Sink, attrs, config, labels, running, until};
use tokio::time::Instant;
use tonic::Code;
use waggle_telemetry::{
    IoStream, SpanKind, Telemetry,
    pipeline::{DropReason, Limits, decode_line},
};

fn log(t: &Telemetry, n: u64) {
    let task = labels("web.1");
    for i in 0..n {
        t.task_log(
            &task,
            decode_line(format!("line {i}").as_bytes(), IoStream::Stdout, 1),
        );
    }
}

/// Distinct records at the endpoint; a batch whose answer was lost may come twice, with the same uids.
fn received(state: &Shared) -> u64 {
    let state = state.lock().unwrap();
    let uids: BTreeSet<String> = state
        .logs
        .iter()
        .map(|(_, r)| attrs(&r.attributes)["log.record.uid"].clone())
        .collect();
    uids.len() as u64
}

#[tokio::test]
async fn the_endpoint_goes_away_and_comes_back() {
    let state = Shared::default();
    // An address of its own: on 127.0.0.1 a port that is given back may be taken before the endpoint is back, by
    // another test or by the client's own connect to it.
    let own = std::net::SocketAddr::from(([127, 0, 0, 78], 0));
    let sink = Sink::start_at(&state, own);
    let addr = sink.addr;
    let mut config = config(Some(sink.url()));
    config.log_queue = Limits {
        max_items: 300,
        max_bytes: 1 << 20,
    };
    config.batch_items = 50;
    let (t, guard) = Telemetry::start(&config).unwrap();

    log(&t, 100);
    until("the first hundred arrive", || {
        t.losses().logs.exported == 100
    })
    .await;
    // Kill it with requests on the way, then overflow the queue.
    log(&t, 200);
    drop(sink);
    log(&t, 1000);
    for _ in 0..20 {
        t.begin_span("allocation", SpanKind::Internal, None, vec![])
            .end();
    }
    let during = t.losses();
    assert!(during.balanced(), "{during:?}");
    assert!(
        during.logs.dropped(DropReason::QueueFull) >= 700,
        "{during:?}"
    );
    assert!(during.logs.held <= 300);

    let _sink = Sink::start_at(&state, addr);
    log(&t, 10);
    let losses = guard.shutdown(Duration::from_secs(10)).await;
    assert!(losses.balanced(), "{losses:?}");
    assert_eq!(losses.logs.input, 1310);
    assert_eq!(losses.logs.held, 0);
    assert_eq!(losses.logs.exported, received(&state));
    assert_eq!(
        losses.logs.dropped_total(),
        losses.logs.dropped(DropReason::QueueFull),
        "{losses:?}"
    );
    assert_eq!((losses.spans.input, losses.spans.exported), (20, 20));
}

#[tokio::test]
async fn partial_success_counts_as_dropped() {
    let state = Shared::default();
    state.lock().unwrap().reject = 3;
    let sink = Sink::start(&state);
    let mut config = config(Some(sink.url()));
    // Only the end sends, so that there is one request.
    config.batch_delay = Duration::from_mins(1);
    let (t, guard) = Telemetry::start(&config).unwrap();
    log(&t, 50);
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert_eq!(state.lock().unwrap().log_requests, 1);
    assert!(losses.balanced());
    assert_eq!(losses.logs.dropped(DropReason::Rejected), 3);
    assert_eq!(losses.logs.exported, 47);
    assert_eq!(losses.logs.exported, received(&state));
}

#[tokio::test]
async fn a_refused_batch_is_dropped_and_does_not_block() {
    let (t, guard, _sink, state) = running();
    state.lock().unwrap().refuse = Some(Code::InvalidArgument);
    log(&t, 5);
    until("refused", || {
        t.losses().logs.dropped(DropReason::Rejected) == 5
    })
    .await;
    state.lock().unwrap().refuse = None;
    log(&t, 5);
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert!(losses.balanced());
    assert_eq!((losses.logs.exported, received(&state)), (5, 5));
}

#[tokio::test]
async fn a_doubtful_failure_is_tried_a_few_times() {
    let (t, guard, _sink, state) = running();
    state.lock().unwrap().refuse = Some(Code::Internal);
    log(&t, 5);
    until("given up", || {
        t.losses().logs.dropped(DropReason::ExportFailed) == 5
    })
    .await;
    state.lock().unwrap().refuse = None;
    assert!(guard.shutdown(Duration::from_secs(5)).await.balanced());
}

#[tokio::test]
async fn an_endpoint_that_takes_little_at_a_time_gets_little() {
    let (t, guard, _sink, state) = running();
    state.lock().unwrap().max_records = Some(7);
    log(&t, 100);
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert!(losses.balanced());
    assert_eq!((losses.logs.exported, received(&state)), (100, 100));
}

#[tokio::test]
async fn a_dead_endpoint_neither_blocks_callers_nor_the_end() {
    // Nobody listens there: the port was free a moment ago.
    let addr = Sink::start(&Shared::default()).addr;
    let (t, guard) = Telemetry::start(&config(Some(format!("http://{addr}")))).unwrap();
    let began = Instant::now();
    log(&t, 20_000);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    let began = Instant::now();
    let losses = guard.shutdown(Duration::from_millis(300)).await;
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert!(losses.balanced());
    assert_eq!((losses.logs.held, losses.logs.exported), (0, 0));
    assert_eq!(losses.logs.input, 20_000);
    assert!(losses.logs.dropped(DropReason::Shutdown) > 0, "{losses:?}");
    assert!(
        losses.metrics.dropped(DropReason::Shutdown) > 0,
        "{losses:?}"
    );
}

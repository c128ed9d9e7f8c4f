//! The process-wide subscriber, in a process of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;

use std::time::Duration;

use common::{Shared, Sink, config, text};
use waggle_telemetry::{Telemetry, TelemetryError};

#[tokio::test]
async fn start_installs_it_once_and_events_arrive() {
    let state = Shared::default();
    let sink = Sink::start(&state);
    let mut config = config(Some(sink.url()));
    config.install_subscriber = true;
    config.json_logs = true;
    config.filter = "info,quiet=error".to_owned();
    let (_t, guard) = Telemetry::start(&config).unwrap();
    let again = Telemetry::start(&config).unwrap_err();
    assert!(
        matches!(again, TelemetryError::SubscriberInstalled(_)),
        "{again}"
    );
    tracing::info!(target: "waggle_agent", "kept");
    tracing::debug!(target: "waggle_agent", "below the level");
    tracing::info!(target: "quiet", "below its level");
    tracing::error!(target: "tonic::transport", "transport");
    let losses = guard.shutdown(Duration::from_secs(5)).await;
    assert!(losses.balanced());
    let state = state.lock().unwrap();
    let bodies: Vec<String> = state
        .logs
        .iter()
        .map(|(_, r)| text(r.body.as_ref()))
        .collect();
    assert_eq!(bodies, ["kept"]);
}

//! How many messages of which kind sessions exchange. Counted where they pass, one addition each; told once a second, since a
//! master has a session with each of its agents.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use waggle_api::{
    convert::{AGENT_KINDS, MASTER_KINDS, agent_kind, master_kind},
    proto::session::{agent_message::Kind as In, master_message::Kind as Out},
};
use waggle_telemetry::{Telemetry, names};

/// Between two tellings.
const PAUSE: Duration = Duration::from_secs(1);
/// Messages since the last telling.
#[derive(Debug, Default)]
pub(super) struct Tally {
    heard: [AtomicU64; AGENT_KINDS.len()],
    said: [AtomicU64; MASTER_KINDS.len()],
}

impl Tally {
    /// An agent said something.
    pub(super) fn heard(&self, kind: &In) {
        self.heard[agent_kind(kind)].fetch_add(1, Ordering::Relaxed);
    }

    /// The master did.
    pub(super) fn said(&self, kind: &Out) {
        self.said[master_kind(kind)].fetch_add(1, Ordering::Relaxed);
    }

    fn tell(&self, t: &Telemetry) {
        let ways = [
            ("receive", &AGENT_KINDS[..], &self.heard[..]),
            ("transmit", &MASTER_KINDS[..], &self.said[..]),
        ];
        for (direction, kinds, counts) in ways {
            for (kind, count) in kinds.iter().zip(counts) {
                let n = count.swap(0, Ordering::Relaxed);
                if n > 0 {
                    let attrs = [
                        (names::DIRECTION, direction.into()),
                        ("waggle.message.type", (*kind).into()),
                    ];
                    t.count(&names::SESSION_MESSAGES, &attrs, n);
                }
            }
        }
    }
}

/// Tells until `stop`, and a last time then.
pub(super) async fn tell(tally: Arc<Tally>, telemetry: Telemetry, stop: CancellationToken) {
    let mut tick = tokio::time::interval(PAUSE);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        tally.tell(&telemetry);
    }
    tally.tell(&telemetry);
}

#[cfg(test)]
mod tests {
    use waggle_api::proto::session as pb;

    use super::*;

    #[test]
    fn kinds_are_told_by_name_and_once() {
        let t = Telemetry::disabled().component("waggle-master");
        let tally = Tally::default();
        for _ in 0..3 {
            tally.heard(&In::Heartbeat(pb::Heartbeat::default()));
        }
        tally.said(&Out::ShutdownExecutor(pb::ShutdownExecutor::default()));
        tally.tell(&t);
        tally.tell(&t);
        let text = t.prometheus_text();
        let lines = text
            .lines()
            .filter(|l| l.starts_with("waggle_session_messages"));
        let lines: Vec<&str> = lines.collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        let has = |parts: [&str; 2], n: &str| {
            lines
                .iter()
                .any(|l| parts.iter().all(|p| l.contains(p)) && l.ends_with(n))
        };
        assert!(has(["receive", "\"heartbeat\""], " 3"), "{lines:?}");
        assert!(
            has(["transmit", "\"shutdown_executor\""], " 1"),
            "{lines:?}"
        );
    }
}

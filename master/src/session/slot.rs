//! The newest desired state for one agent: a later one replaces one that was not yet taken.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use waggle_api::proto::session as pb;
use waggle_types::{Cause, NetSnapshot};

/// Causes carried over from replaced snapshots; more are dropped, they only feed traces.
const MAX_CAUSES: usize = 128;

#[derive(Debug)]
struct Waiting {
    snapshot: Arc<NetSnapshot>,
    causes: Vec<Cause>,
}

/// Holds one snapshot at most, so a slow agent costs one document and skips what it missed.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    waiting: Mutex<Option<Waiting>>,
    filled: Notify,
}

impl Slot {
    /// Puts the newest snapshot; causes of one that it replaces are kept with it.
    pub(crate) fn put(&self, snapshot: Arc<NetSnapshot>, causes: &[Cause]) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = waiting.take().map(|w| w.causes).unwrap_or_default();
        all.extend_from_slice(causes);
        all.truncate(MAX_CAUSES);
        *waiting = Some(Waiting {
            snapshot,
            causes: all,
        });
        drop(waiting);
        self.filled.notify_one();
    }

    /// Waits for the newest snapshot and takes it. Safe to cancel: nothing is taken until it answers.
    pub(crate) async fn take(&self) -> pb::NetSnapshot {
        loop {
            let found = self
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(Waiting { snapshot, causes }) = found {
                let mut wire = pb::NetSnapshot::from(snapshot.as_ref());
                wire.causes = causes.iter().map(pb::Cause::from).collect();
                return wire;
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use waggle_types::{Generation, TaskId, TraceContext};

    use super::*;

    #[tokio::test]
    async fn the_latest_wins_and_keeps_the_causes_of_what_it_replaced() {
        let snapshot = |n| {
            Arc::new(NetSnapshot {
                generation: Generation(n),
                ..NetSnapshot::default()
            })
        };
        let cause = |t: &str| Cause {
            task_id: TaskId::new(t).unwrap(),
            trace: TraceContext {
                trace_id: 1,
                span_id: 2,
                flags: 1,
            },
        };
        let slot = Slot::default();
        slot.put(snapshot(1), &[cause("a")]);
        slot.put(snapshot(2), &[cause("b")]);
        let got = slot.take().await;
        assert_eq!(got.generation, 2);
        let tasks: Vec<_> = got.causes.iter().map(|c| c.task_id.as_str()).collect();
        assert_eq!(tasks, ["a", "b"]);
    }
}

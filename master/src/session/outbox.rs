//! What waits for one agent: messages in order, the newest desired state, a heartbeat when it is time.
//!
//! One lock, one waker and no timer of its own, since a master has one of these for each agent.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use prost::Message as _;
use waggle_api::proto::session::{self as pb, MasterMessage, master_message::Kind as Out};
use waggle_types::{Cause, NetSnapshot};

use super::{
    message,
    shared::{Said, Shared, State},
    unix_ms,
};

/// Messages that may wait for one agent; one that falls further behind is disconnected.
const QUEUE: usize = 1024;
/// Bytes that may wait for one agent, as they are on the wire; the same holds.
const MAX_BYTES: usize = 64 << 20;
/// Causes carried over from replaced snapshots; more are dropped, they only feed traces.
const MAX_CAUSES: usize = 128;

#[derive(Debug)]
struct Desired {
    snapshot: Arc<NetSnapshot>,
    causes: Vec<Cause>,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<MasterMessage>,
    /// What of the queue is on the wire.
    bytes: usize,
    /// One at most: a slow agent costs one document and skips what it missed.
    desired: Option<Box<Desired>>,
    /// What the agent was told last, by the snapshot or a change to it.
    said: Option<Arc<NetSnapshot>>,
    beat: bool,
    /// It has heard a message: whether it is taken. That comes first, however long the disk takes.
    greeted: bool,
    /// Something was said since the last heartbeat was due.
    spoken: bool,
    /// The loop's end is gone: the stream ends after what is queued.
    closed: bool,
    /// The stream is gone.
    dropped: bool,
    writer: Option<Waker>,
    reader: Option<Waker>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    /// Where desired state is put on the wire.
    shared: Arc<Shared>,
    /// Whether the agent takes changes; an older one wants snapshots only.
    changes: bool,
}

impl Outbox {
    /// Of an agent that takes changes, or does not.
    pub(crate) fn new(shared: Arc<Shared>, changes: bool) -> Self {
        Self {
            inner: Mutex::default(),
            shared,
            changes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something and wakes who writes.
    fn change<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let out = f(&mut inner);
        let waker = inner.writer.take();
        drop(inner);
        if let Some(w) = waker {
            w.wake();
        }
        out
    }

    /// Queues a message; false when the agent is too slow or gone.
    pub(crate) fn send(&self, message: MasterMessage) -> bool {
        let bytes = message.encoded_len();
        self.change(|i| {
            // One that is larger than all of it goes out when nothing else waits.
            let fits = i.queue.is_empty() || i.bytes + bytes <= MAX_BYTES;
            let room = i.queue.len() < QUEUE && fits && !i.dropped && !i.closed;
            if room {
                i.bytes += bytes;
                i.queue.push_back(message);
            }
            room
        })
    }

    /// Puts the newest snapshot; causes of one that it replaces are kept with it.
    pub(crate) fn put(&self, snapshot: Arc<NetSnapshot>, causes: &[Cause]) {
        self.change(|i| {
            let mut all = i.desired.take().map(|d| d.causes).unwrap_or_default();
            all.extend_from_slice(causes);
            all.truncate(MAX_CAUSES);
            let causes = all;
            i.desired = Some(Box::new(Desired { snapshot, causes }));
        });
    }

    /// The agent could not use what it was told: it gets all of it.
    pub(super) fn again(&self) {
        self.change(|i| {
            if let (Some(snapshot), None) = (i.said.take(), &i.desired) {
                let causes = Vec::new();
                i.desired = Some(Box::new(Desired { snapshot, causes }));
            }
        });
    }

    /// A heartbeat is due, unless something was said since the last one was.
    pub(crate) fn beat(&self) {
        let mut inner = self.lock();
        if !std::mem::take(&mut inner.spoken) {
            inner.beat = true;
            if let Some(w) = inner.writer.take() {
                drop(inner);
                w.wake();
            }
        }
    }

    /// The loop has let go of the session.
    pub(super) fn close(&self) {
        let reader = self.change(|i| {
            i.closed = true;
            i.reader.take()
        });
        if let Some(w) = reader {
            w.wake();
        }
    }

    /// The stream is gone: nothing is taken any more.
    pub(super) fn gone(&self) {
        let mut inner = self.lock();
        inner.dropped = true;
        inner.queue = VecDeque::new();
        inner.bytes = 0;
        inner.desired = None;
        inner.said = None;
    }

    /// What is said next: messages first, then desired state, then a heartbeat. `None` at the end.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Said>> {
        let mut inner = self.lock();
        if let Some(m) = inner.queue.pop_front() {
            inner.bytes = inner.bytes.saturating_sub(m.encoded_len());
            if inner.queue.is_empty() {
                // Quiet agents hold no memory for what they were once told.
                inner.queue = VecDeque::new();
            }
            inner.spoken = true;
            inner.greeted = true;
            return Poll::Ready(Some(Said::One(m)));
        }
        if inner.closed {
            return Poll::Ready(None);
        }
        if !inner.greeted {
            inner.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if let Some(desired) = inner.desired.take() {
            inner.spoken = true;
            let said = inner.said.replace(Arc::clone(&desired.snapshot));
            drop(inner);
            let state = self.tell(said.as_deref(), &desired);
            return Poll::Ready(Some(Said::State(state)));
        }
        if std::mem::take(&mut inner.beat) {
            let at_ms = unix_ms();
            let beat = message(Out::Heartbeat(pb::Heartbeat { at_ms }));
            return Poll::Ready(Some(Said::One(beat)));
        }
        inner.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Desired state on the wire: a change of what was said, or all of it.
    fn tell(&self, said: Option<&NetSnapshot>, desired: &Desired) -> State {
        let causes = desired.causes.iter().map(pb::Cause::from).collect();
        let said = said.filter(|_| self.changes);
        match said.and_then(|said| self.shared.change(said, &desired.snapshot)) {
            Some(change) => State::change(change, causes),
            None => State::snapshot(self.shared.snapshot(&desired.snapshot), causes),
        }
    }

    /// Ready when the loop has let go of the session.
    pub(super) fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.closed {
            return Poll::Ready(());
        }
        inner.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use waggle_types::{Generation, TaskId, TraceContext};

    use super::*;

    fn next(outbox: &Outbox) -> Poll<Option<Out>> {
        let mut cx = Context::from_waker(Waker::noop());
        outbox.poll_next(&mut cx).map(|m| m.and_then(Said::read))
    }

    fn snapshot(n: u64) -> Arc<NetSnapshot> {
        Arc::new(NetSnapshot {
            generation: Generation(n),
            ..NetSnapshot::default()
        })
    }

    fn kill(n: usize) -> MasterMessage {
        let task_id = n.to_string();
        message(Out::Kill(pb::Kill {
            task_id,
            ..pb::Kill::default()
        }))
    }

    #[test]
    fn the_latest_wins_and_keeps_the_causes_of_what_it_replaced() {
        let cause = |t: &str| Cause {
            task_id: TaskId::new(t).unwrap(),
            trace: TraceContext {
                trace_id: 1,
                span_id: 2,
                flags: 1,
            },
        };
        let outbox = Outbox::default();
        outbox.put(snapshot(1), &[cause("a")]);
        outbox.put(snapshot(2), &[cause("b")]);
        outbox.beat();
        assert!(
            next(&outbox).is_pending(),
            "first it hears whether it is taken"
        );
        outbox.send(kill(0));
        assert!(next(&outbox).is_ready());
        let Poll::Ready(Some(Out::Desired(got))) = next(&outbox) else {
            panic!("a snapshot waits");
        };
        assert_eq!(got.generation, 2);
        let tasks: Vec<_> = got.causes.iter().map(|c| c.task_id.as_str()).collect();
        assert_eq!(tasks, ["a", "b"]);
    }

    #[test]
    fn after_a_snapshot_changes_are_told_and_the_snapshot_again_when_asked() {
        let of = |n: u64, masters: u8| {
            let agents = (1..20).map(|i| {
                let net = waggle_types::AgentNet {
                    overlay: waggle_types::AgentOverlay::default(),
                    ip6: None,
                    hostname: format!("n{i}"),
                    ip: [10, 0, 0, i].into(),
                    reachable: i > masters,
                    domain: None,
                };
                (waggle_types::AgentId::new(format!("a-S{i}")).unwrap(), net)
            });
            Arc::new(NetSnapshot {
                generation: Generation(n),
                agents: agents.collect(),
                ..NetSnapshot::default()
            })
        };
        let outbox = Outbox::new(Arc::default(), true);
        outbox.send(kill(0));
        assert!(next(&outbox).is_ready());
        outbox.put(of(1, 0), &[]);
        assert!(matches!(next(&outbox), Poll::Ready(Some(Out::Desired(_)))));
        // Two that were not told in between are one change.
        outbox.put(of(2, 1), &[]);
        outbox.put(of(3, 2), &[]);
        let Poll::Ready(Some(Out::Change(change))) = next(&outbox) else {
            panic!("a change waits");
        };
        assert_eq!((change.from, change.to, change.agents.len()), (1, 3, 2));
        outbox.again();
        let Poll::Ready(Some(Out::Desired(all))) = next(&outbox) else {
            panic!("the snapshot was asked for");
        };
        assert_eq!((all.generation, all.agents.len()), (3, 19));
        // What changes nearly everything is told as a whole.
        outbox.put(of(4, 19), &[]);
        assert!(matches!(next(&outbox), Poll::Ready(Some(Out::Desired(_)))));
        let old = Outbox::default();
        old.send(kill(0));
        assert!(next(&old).is_ready());
        for n in [1, 2] {
            old.put(of(n, 0), &[]);
            assert!(
                matches!(next(&old), Poll::Ready(Some(Out::Desired(_)))),
                "an older agent"
            );
        }
    }

    #[test]
    fn messages_go_before_state_and_a_slow_agent_is_told_so() {
        let outbox = Outbox::default();
        outbox.put(snapshot(1), &[]);
        for n in 0..QUEUE {
            assert!(outbox.send(kill(n)));
        }
        assert!(!outbox.send(kill(QUEUE)), "the queue is bounded");
        for n in 0..QUEUE {
            let Poll::Ready(Some(Out::Kill(k))) = next(&outbox) else {
                panic!("message {n} is missing");
            };
            assert_eq!(k.task_id, n.to_string());
        }
        let desired = next(&outbox);
        assert!(matches!(desired, Poll::Ready(Some(Out::Desired(_)))));
        outbox.gone();
        assert!(!outbox.send(kill(0)), "nobody takes it");
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_too() {
        let outbox = Outbox::default();
        let long = || {
            message(Out::Kill(pb::Kill {
                task_id: "x".repeat(1 << 20),
                ..pb::Kill::default()
            }))
        };
        for _ in 0..MAX_BYTES / (1 << 20) - 1 {
            assert!(outbox.send(long()));
        }
        assert!(!outbox.send(long()), "the bytes are bounded");
        assert!(next(&outbox).is_ready());
        assert!(outbox.send(long()), "what is read makes room");
        while next(&outbox).is_ready() {}
        assert_eq!(outbox.lock().bytes, 0);
    }

    #[test]
    fn a_heartbeat_is_said_only_into_silence() {
        let outbox = Outbox::default();
        outbox.send(kill(1));
        assert!(next(&outbox).is_ready());
        outbox.beat();
        assert!(next(&outbox).is_pending(), "it was spoken to meanwhile");
        outbox.beat();
        assert!(matches!(
            next(&outbox),
            Poll::Ready(Some(Out::Heartbeat(_)))
        ));
    }

    #[test]
    fn the_end_comes_after_what_was_queued() {
        let outbox = Outbox::default();
        outbox.send(kill(1));
        outbox.close();
        assert!(matches!(next(&outbox), Poll::Ready(Some(Out::Kill(_)))));
        assert_eq!(next(&outbox), Poll::Ready(None));
    }
}

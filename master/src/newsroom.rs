//! Who listens to events of services, and what waits for each.
//!
//! The event loop and the HTTP handlers say what happened; it is queued for everybody who wants its kind, once in memory
//! for all, and written by whoever reads it first. Nobody is waited for: who does not read is cut off and counted, reads
//! the state anew and listens again.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use serde_json::Value;
use waggle_telemetry::{Telemetry, names};
use waggle_types::UnixMillis;

use crate::{
    core::{DeploymentPhase, News},
    queue::{Queue, Weighed},
};

/// Most listeners; more are refused.
pub(crate) const MAX_LISTENERS: usize = 1000;
/// What an event takes, in bytes, and what each definition adds to one of a deployment: estimates, since events are
/// written when they are read.
const EVENT_BYTES: usize = 1024;
const DEFINITION_BYTES: usize = 2048;

/// What is said.
#[derive(Debug)]
pub(crate) enum What {
    /// By the core.
    Core(News),
    /// By a door: what a client did. The kind is Marathon's name; the body lacks kind and time.
    Client(&'static str, Value),
}

impl What {
    /// Marathon's name of the event.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Client(kind, _) => kind,
            Self::Core(news) => match news {
                News::Status { .. } => "status_update_event",
                News::Instance { .. } => "instance_changed_event",
                News::TaskHealth { .. } => "health_status_changed_event",
                News::InstanceHealth { .. } => "instance_health_changed_event",
                News::CheckFailed { .. } => "failed_health_check_event",
                News::UnhealthyTaskKilled { .. } => "unhealthy_task_kill_event",
                News::UnhealthyInstanceKilled { .. } => "unhealthy_instance_kill_event",
                News::UnknownEnded { .. } => "unknown_instance_terminated_event",
                News::CheckAdded { .. } => "add_health_check_event",
                News::CheckRemoved { .. } => "remove_health_check_event",
                News::GroupChanged { .. } => "group_change_success",
                News::GroupRefused { .. } => "group_change_failed",
                News::ServiceGone(_) => "app_terminated_event",
                News::Deployment { phase, .. } => match phase {
                    DeploymentPhase::StepBegins => "deployment_info",
                    DeploymentPhase::StepDone => "deployment_step_success",
                    DeploymentPhase::StepFailed => "deployment_step_failure",
                    DeploymentPhase::Done => "deployment_success",
                    DeploymentPhase::Failed => "deployment_failed",
                },
            },
        }
    }

    fn definitions(&self) -> usize {
        match self {
            Self::Core(News::Deployment { plan, .. }) => plan.original.len() + plan.target.len(),
            Self::Core(_) => 0,
            Self::Client(..) => 1,
        }
    }
}

/// Something that was said, for all who listen.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) what: What,
    pub(crate) at: UnixMillis,
    /// As written, whole and light.
    written: [OnceLock<Bytes>; 2],
}

impl Heard {
    /// As written; the first who asks writes it.
    pub(crate) fn written(&self, light: bool, write: impl FnOnce(&Self) -> Bytes) -> Bytes {
        let place = &self.written[usize::from(light)];
        place.get_or_init(|| write(self)).clone()
    }
}

impl Weighed for Arc<Heard> {
    fn weight(&self) -> usize {
        1
    }

    fn bytes(&self) -> usize {
        EVENT_BYTES + DEFINITION_BYTES * self.what.definitions()
    }
}

/// What waits for one listener.
pub(crate) type Waiting = Queue<Arc<Heard>>;

#[derive(Debug)]
struct Listener {
    /// Kinds; none: all.
    wants: BTreeSet<String>,
    queue: Arc<Waiting>,
}

impl Listener {
    fn wants(&self, kind: &str) -> bool {
        self.wants.is_empty() || self.wants.contains(kind)
    }
}

#[derive(Debug, Default)]
struct Room {
    listeners: Mutex<Vec<Listener>>,
    n: AtomicUsize,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Newsroom(Arc<Room>);

impl Newsroom {
    fn listeners(&self) -> MutexGuard<'_, Vec<Listener>> {
        let listeners = self.0.listeners.lock();
        listeners.unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something to all who want it.
    pub(crate) fn say(&self, what: What, at: UnixMillis, telemetry: &Telemetry) {
        if self.0.n.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut listeners = self.listeners();
        let n_cut = self.give(&mut listeners, what, at);
        drop(listeners);
        if n_cut > 0 {
            let attrs = [(names::DROP_REASON, "slow_subscriber".into())];
            telemetry.count(&names::SCHED_HTTP_CLOSED, &attrs, n_cut);
        }
    }

    /// Queues something for all who want it; answers how many were cut off for not reading.
    fn give(&self, listeners: &mut Vec<Listener>, what: What, at: UnixMillis) -> u64 {
        let heard = Arc::new(Heard {
            what,
            at,
            written: <[OnceLock<Bytes>; 2]>::default(),
        });
        let mut n_cut = 0;
        listeners.retain(|l| {
            if l.queue.has_ended() {
                return false;
            }
            let there = !l.wants(heard.what.kind()) || l.queue.push(Arc::clone(&heard));
            n_cut += u64::from(!there);
            there
        });
        self.0.n.store(listeners.len(), Ordering::Release);
        n_cut
    }

    /// Takes a listener. That it came is the first that it hears, if it wants to, and others hear it too; false when
    /// there are too many.
    pub(crate) fn join(
        &self,
        wants: BTreeSet<String>,
        queue: Arc<Waiting>,
        came: What,
        at: UnixMillis,
    ) -> bool {
        let mut listeners = self.listeners();
        listeners.retain(|l| !l.queue.has_ended());
        if listeners.len() >= MAX_LISTENERS {
            return false;
        }
        listeners.push(Listener { wants, queue });
        self.give(&mut listeners, came, at);
        true
    }

    /// Forgets a listener; the others hear of it.
    pub(crate) fn leave(&self, queue: &Arc<Waiting>, left: What, at: UnixMillis) {
        queue.end(None);
        let mut listeners = self.listeners();
        self.give(&mut listeners, left, at);
    }

    /// Ends all streams: the master stops.
    pub(crate) fn close(&self) {
        for listener in self.listeners().drain(..) {
            listener.queue.end(None);
        }
        self.0.n.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::queue::{Next, QUEUE};

    const AT: UnixMillis = UnixMillis(1);

    fn said(kind: &'static str) -> What {
        What::Client(kind, json!({}))
    }

    fn listen(room: &Newsroom, wants: &[&str], cut: CancellationToken) -> Arc<Waiting> {
        let queue = Arc::new(Waiting::new(cut));
        let wants = wants.iter().map(|w| (*w).to_owned()).collect();
        assert!(room.join(wants, Arc::clone(&queue), said("came"), AT));
        queue
    }

    async fn kinds(queue: &Waiting) -> Vec<&'static str> {
        queue.end(None);
        let mut out = Vec::new();
        while let Next::Event(heard) = queue.next().await {
            out.push(heard.what.kind());
        }
        out
    }

    #[tokio::test]
    async fn everybody_hears_what_it_wants_from_when_it_came() {
        let (room, t) = (Newsroom::default(), Telemetry::disabled());
        room.say(said("before"), AT, &t);
        let all = listen(&room, &[], CancellationToken::new());
        let some = listen(&room, &["x"], CancellationToken::new());
        room.say(said("x"), AT, &t);
        room.say(said("y"), AT, &t);
        room.leave(&some, said("left"), AT);
        room.say(said("x"), AT, &t);
        assert_eq!(kinds(&some).await, ["x"]);
        let heard = kinds(&all).await;
        assert_eq!(heard, ["came", "came", "x", "y", "left", "x"]);
    }

    #[tokio::test]
    async fn who_does_not_read_is_cut_off_and_others_are_not() {
        let (room, t) = (Newsroom::default(), Telemetry::disabled());
        let cut = CancellationToken::new();
        let slow = listen(&room, &[], cut.clone());
        let picky = listen(&room, &["y"], CancellationToken::new());
        for _ in 0..QUEUE {
            room.say(said("x"), AT, &t);
        }
        assert!(cut.is_cancelled() && slow.has_ended());
        room.say(said("y"), AT, &t);
        assert_eq!(kinds(&slow).await, [] as [&str; 0]);
        assert_eq!(kinds(&picky).await, ["y"]);
    }

    #[test]
    fn listeners_are_bounded_and_end_with_the_master() {
        let room = Newsroom::default();
        let all: Vec<_> = (0..MAX_LISTENERS)
            .map(|_| listen(&room, &["none"], CancellationToken::new()))
            .collect();
        let one_more = Arc::new(Waiting::new(CancellationToken::new()));
        let join = |q: &Arc<Waiting>| room.join(BTreeSet::new(), Arc::clone(q), said("came"), AT);
        assert!(!join(&one_more));
        all[0].end(None);
        assert!(join(&one_more), "who has gone makes room");
        room.close();
        assert!(one_more.has_ended() && all.iter().all(|q| q.has_ended()));
    }
}

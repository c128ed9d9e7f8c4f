//! Subscriptions through Mesos's HTTP API: what waits for each framework, and which stream is whose.
//!
//! A stream's events wait in a bounded queue. A framework that does not read them is cut off: what waited is
//! forgotten at once and its connection closed, since who does not read does not read an end either. It
//! subscribes again and reconciles, so nothing is lost by it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use waggle_api::{mesos::framework::Dialect, proto::mesos as pb};
use waggle_telemetry::Telemetry;
use waggle_types::{AgentId, CallRejection, FrameworkId, Offer, RejectReason, SchedulerEvent};

use super::{Called, FrameworkEvent, outcomes::Outcomes};
use crate::{
    core::{FrameworkCall, SubscriptionId},
    queue::{Queue, Weighed},
};

/// What an offer takes without its texts.
const OFFER_BYTES: usize = 1024;
/// How often a framework hears that the master lives.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);

/// What waits for a framework.
#[derive(Debug)]
pub(crate) enum Queued {
    /// Said by the core.
    Event(SchedulerEvent),
    /// Said by the door itself.
    Ready(Box<pb::Event>),
    /// Written already: the same for all who listen.
    Record(Bytes),
}

impl Weighed for Queued {
    fn weight(&self) -> usize {
        match self {
            Self::Event(SchedulerEvent::Offers(offers)) => offers.len().max(1),
            _ => 1,
        }
    }

    fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Event(SchedulerEvent::Offers(offers)) => offers.iter().map(of_offer).sum(),
                Self::Event(SchedulerEvent::Message { data, .. }) => data.len(),
                Self::Event(SchedulerEvent::Update(s)) => {
                    s.message.len() + s.executor.as_ref().map_or(0, |e| e.info.len())
                }
                Self::Event(_) => 0,
                Self::Ready(event) => event.encoded_len(),
                Self::Record(record) => record.len(),
            }
    }
}

fn of_offer(o: &Offer) -> usize {
    let texts = o.attributes.iter().map(|(k, v)| k.len() + v.len());
    OFFER_BYTES * (1 + o.parts.len()) + texts.sum::<usize>()
}

/// What a framework says of itself, and how it is spoken to for that.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) dialect: Dialect,
    pub(crate) info: pb::FrameworkInfo,
}

impl Said {
    fn new(info: pb::FrameworkInfo) -> Arc<Self> {
        let dialect = Dialect::of(&info);
        Arc::new(Self { dialect, info })
    }
}

/// One subscription.
#[derive(Debug)]
pub(crate) struct Subscriber {
    /// `Mesos-Subscriber-Id`.
    pub(crate) id: String,
    pub(crate) subscription: SubscriptionId,
    /// What the framework said of itself last.
    said: Mutex<Arc<Said>>,
    pub(crate) queue: Queue<Queued>,
    /// Known once the core has taken it.
    framework_id: OnceLock<FrameworkId>,
}

impl Subscriber {
    pub(crate) fn new(
        subscription: SubscriptionId,
        info: pb::FrameworkInfo,
        cut: CancellationToken,
    ) -> Self {
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            subscription,
            said: Mutex::new(Said::new(info)),
            queue: Queue::new(cut),
            framework_id: OnceLock::new(),
        }
    }

    pub(crate) fn said(&self) -> Arc<Said> {
        Arc::clone(&self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The framework has changed what it says of itself.
    pub(crate) fn says_now(&self, info: pb::FrameworkInfo) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Said::new(info);
    }

    pub(crate) fn framework_id(&self) -> Option<&FrameworkId> {
        self.framework_id.get()
    }
}

type Streams = Mutex<BTreeMap<FrameworkId, Arc<Subscriber>>>;

fn locked(streams: &Streams) -> MutexGuard<'_, BTreeMap<FrameworkId, Arc<Subscriber>>> {
    streams.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The loop's end of a stream.
#[derive(Debug)]
pub(crate) struct MesosLink {
    stream: Arc<Subscriber>,
    streams: Arc<Streams>,
}

impl MesosLink {
    pub(super) fn send(&self, event: &SchedulerEvent) -> bool {
        if let SchedulerEvent::Subscribed { framework_id } = event {
            // Said once.
            let _ = self.stream.framework_id.set(framework_id.clone());
            locked(&self.streams).insert(framework_id.clone(), Arc::clone(&self.stream));
        }
        self.stream.queue.push(Queued::Event(event.clone()))
    }

    pub(super) fn close(&self, why: &CallRejection) {
        let message = match why.reason {
            RejectReason::Replaced => "Framework failed over".to_owned(),
            RejectReason::FrameworkRemoved => "Framework has been removed".to_owned(),
            _ => why.to_string(),
        };
        self.stream.queue.end(Some(message));
    }
}

impl Drop for MesosLink {
    fn drop(&mut self) {
        self.stream.queue.end(None);
        let Some(id) = self.stream.framework_id() else {
            return;
        };
        let mut streams = locked(&self.streams);
        let mine = |s: &Arc<Subscriber>| s.subscription == self.stream.subscription;
        if streams.get(id).is_some_and(mine) {
            streams.remove(id);
        }
    }
}

/// The way of Mesos's HTTP API into the event loop. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SchedulerDoor {
    inbox: mpsc::Sender<FrameworkEvent>,
    next: Arc<AtomicU64>,
    pub(crate) open: Arc<AtomicUsize>,
    pub(crate) max_open: usize,
    streams: Arc<Streams>,
    /// How operations with an id ended, as far as their frameworks have not said that they know.
    pub(crate) outcomes: Arc<Outcomes>,
    pub(crate) telemetry: Telemetry,
    pub(crate) stop: CancellationToken,
}

/// The loop is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stopping;

impl SchedulerDoor {
    /// A door to `inbox`; streams over `max_open` are refused. `next` numbers the subscriptions of all doors.
    pub(crate) fn new(
        inbox: mpsc::Sender<FrameworkEvent>,
        next: Arc<AtomicU64>,
        max_open: usize,
        telemetry: Telemetry,
        stop: CancellationToken,
    ) -> Self {
        Self {
            inbox,
            next,
            open: Arc::new(AtomicUsize::new(0)),
            max_open,
            streams: Arc::default(),
            outcomes: Arc::default(),
            telemetry,
            stop,
        }
    }

    pub(crate) fn subscription(&self) -> SubscriptionId {
        SubscriptionId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Tells the loop, once `ended` is cancelled, that a stream has ended.
    pub(crate) fn watch_end(&self, ended: CancellationToken, subscription: SubscriptionId) {
        tokio::spawn(super::tell_end(ended, subscription, self.inbox.clone()));
    }

    /// The loop's end of a stream.
    pub(crate) fn link(&self, stream: &Arc<Subscriber>) -> super::FrameworkLink {
        super::FrameworkLink::Mesos(MesosLink {
            stream: Arc::clone(stream),
            streams: Arc::clone(&self.streams),
        })
    }

    /// The open stream of a framework.
    pub(crate) fn stream(&self, id: &FrameworkId) -> Option<Arc<Subscriber>> {
        locked(&self.streams).get(id).cloned()
    }

    /// Has the loop do something.
    pub(crate) async fn ask(
        &self,
        event: impl FnOnce(super::CallReply) -> FrameworkEvent,
    ) -> Result<Called, Stopping> {
        let (tx, rx) = oneshot::channel();
        self.inbox.send(event(tx)).await.map_err(|_| Stopping)?;
        rx.await.map_err(|_| Stopping)
    }

    /// Offers used: on which agent, unless they are gone, and what of it was refused.
    pub(crate) async fn accept(
        &self,
        framework_id: &FrameworkId,
        subscription: SubscriptionId,
        call: FrameworkCall,
    ) -> Result<(Option<AgentId>, Called), Stopping> {
        let (reply, rx) = oneshot::channel();
        let event = FrameworkEvent::Accept {
            framework_id: framework_id.clone(),
            subscription,
            call: Box::new(call),
            reply,
        };
        self.inbox.send(event).await.map_err(|_| Stopping)?;
        rx.await.map_err(|_| Stopping)
    }

    /// A call of a framework.
    pub(crate) async fn call(
        &self,
        framework_id: &FrameworkId,
        subscription: SubscriptionId,
        call: FrameworkCall,
    ) -> Result<Called, Stopping> {
        self.ask(|reply| FrameworkEvent::Call {
            framework_id: framework_id.clone(),
            subscription,
            call: Box::new(call),
            reply,
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use waggle_types::OfferId;

    use super::*;
    use crate::queue::{MAX_BYTES, Next, QUEUE};

    fn rescind(n: usize) -> Queued {
        let id = OfferId::new(format!("o{n}")).unwrap();
        Queued::Event(SchedulerEvent::Rescind(id))
    }

    #[tokio::test]
    async fn who_does_not_read_is_cut_off_and_nothing_is_kept_for_it() {
        let cut = CancellationToken::new();
        let queue = Queue::new(cut.clone());
        for n in 0..QUEUE {
            assert!(queue.push(rescind(n)));
        }
        assert!(!cut.is_cancelled());
        assert!(!queue.push(rescind(0)), "the queue is bounded");
        assert!(cut.is_cancelled());
        assert!(matches!(queue.next().await, Next::End(None)));
        assert!(!queue.push(rescind(0)), "nothing comes after the end");
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_too() {
        let message = |n: usize| {
            Queued::Event(SchedulerEvent::Message {
                agent_id: AgentId::new("a").unwrap(),
                executor_id: waggle_types::ExecutorId::new("e").unwrap(),
                data: vec![0; n],
            })
        };
        let cut = CancellationToken::new();
        let queue = Queue::new(cut.clone());
        let n = MAX_BYTES / (1 << 20) - 1;
        for _ in 0..n {
            assert!(queue.push(message(1 << 20)));
        }
        // What is read makes room.
        assert!(matches!(queue.next().await, Next::Event(_)));
        assert!(queue.push(message(1 << 20)));
        assert!(!queue.push(message(2 << 20)), "the bytes are bounded");
        assert!(cut.is_cancelled());
        let queue = Queue::new(CancellationToken::new());
        assert!(queue.push(message(MAX_BYTES + 1)), "alone it passes");
        assert!(!queue.push(rescind(1)));
    }

    #[tokio::test]
    async fn what_is_queued_comes_before_the_end() {
        let queue = Queue::new(CancellationToken::new());
        assert!(queue.push(rescind(1)));
        queue.end(Some("first".into()));
        queue.end(Some("second".into()));
        assert!(matches!(queue.next().await, Next::Event(_)));
        let Next::End(why) = queue.next().await else {
            panic!("it has ended");
        };
        assert_eq!(why.as_deref(), Some("first"), "the first reason counts");
    }
}

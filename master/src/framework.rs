//! The native framework API: the gRPC side of frameworks other than the built-in one.
//!
//! A subscription is a stream of events beside which calls come one by one. Events wait in a bounded
//! queue; a framework that does not read them is disconnected and told why: it subscribes again and
//! reconciles, so nothing is lost by it. Calls come as requests of their own, or one after the other on a
//! stream. Every call is answered by the core, with typed reasons when it is
//! refused.

mod calls;
mod mesos;
mod outcomes;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream::BoxStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use waggle_api::{
    convert,
    proto::framework::{self as pb, call_request::Kind as Call, event::Kind, frameworks_server},
};
use waggle_types::{
    AgentId, CallRejection, FrameworkId, FrameworkInfo, RejectReason, SchedulerEvent,
};

use crate::{
    core::{FrameworkCall, SubscriptionId},
    session::unix_ms,
};
pub(crate) use mesos::{HEARTBEAT, MesosLink, Queued, SchedulerDoor, Stopping, Subscriber};
pub(crate) use outcomes::Outcome;

/// Events that may wait for one framework; one that falls further behind is disconnected.
const QUEUE: usize = 16_384;
/// Bytes that may wait for one framework, as they are on the wire; the same holds.
const MAX_QUEUED_BYTES: usize = 32 << 20;
/// Longest call: some thousands of tasks.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

pub(crate) type Called = Result<(), Vec<CallRejection>>;
pub(crate) type CallReply = oneshot::Sender<Called>;
/// Also says on which agent the offers were that the call uses.
pub(crate) type AcceptReply = oneshot::Sender<(Option<AgentId>, Called)>;

/// What frameworks tell the event loop.
#[derive(Debug)]
pub(crate) enum FrameworkEvent {
    /// A stream said who it is.
    Subscribe {
        subscription: SubscriptionId,
        info: Box<FrameworkInfo>,
        link: FrameworkLink,
        reply: CallReply,
    },
    /// A stream ended.
    Gone { subscription: SubscriptionId },
    /// A call.
    Call {
        framework_id: FrameworkId,
        subscription: SubscriptionId,
        call: Box<FrameworkCall>,
        reply: CallReply,
    },
    /// A call that uses offers, of someone who wants to know where they were.
    Accept {
        framework_id: FrameworkId,
        subscription: SubscriptionId,
        call: Box<FrameworkCall>,
        reply: AcceptReply,
    },
}

/// The loop's end of a subscription. Dropping it ends the stream after what is queued.
#[derive(Debug)]
pub(crate) enum FrameworkLink {
    /// Of the native API.
    Native(NativeLink),
    /// Of Mesos's HTTP API.
    Mesos(MesosLink),
}

impl FrameworkLink {
    /// Queues an event; false when the framework is too slow or gone.
    pub(crate) fn send(&self, event: &SchedulerEvent) -> bool {
        match self {
            Self::Native(link) => link.send(event),
            Self::Mesos(link) => link.send(event),
        }
    }

    /// Says why the stream ends; the first reason counts.
    pub(crate) fn close(&self, why: &CallRejection) {
        match self {
            Self::Native(link) => link.close(why),
            Self::Mesos(link) => link.close(why),
        }
    }
}

/// See [`FrameworkLink`].
#[derive(Debug)]
pub(crate) struct NativeLink {
    subscription: SubscriptionId,
    heartbeat: Duration,
    queue: mpsc::Sender<Kind>,
    /// Bytes that wait in the queue.
    held: Arc<AtomicUsize>,
    why: Arc<OnceLock<pb::Rejection>>,
}

impl NativeLink {
    fn send(&self, event: &SchedulerEvent) -> bool {
        let kind = match event {
            SchedulerEvent::Subscribed { framework_id } => Kind::Subscribed(pb::Subscribed {
                framework_id: framework_id.to_string(),
                subscription_id: self.subscription.0,
                heartbeat_interval_ms: u64::try_from(self.heartbeat.as_millis())
                    .unwrap_or(u64::MAX),
            }),
            other => match convert::event(other) {
                Some(kind) => kind,
                None => return true,
            },
        };
        let bytes = kind.encoded_len();
        let held = self.held.fetch_add(bytes, Ordering::Relaxed);
        // One that is larger than all of it goes out when nothing else waits.
        let room = held == 0 || held + bytes <= MAX_QUEUED_BYTES;
        let sent = room && self.queue.try_send(kind).is_ok();
        if !sent {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            let message = format!("{held} bytes of events wait unread");
            let why = CallRejection::new(RejectReason::TooSlow, "subscription", message);
            self.close(&why);
        }
        sent
    }

    fn close(&self, why: &CallRejection) {
        // A second reason is an echo of the first.
        let _ = self.why.set(why.into());
    }
}

/// The gRPC service.
#[derive(Debug, Clone)]
pub(crate) struct Frameworks {
    inbox: mpsc::Sender<FrameworkEvent>,
    next: Arc<AtomicU64>,
    open: Arc<AtomicUsize>,
    open_calls: Arc<AtomicUsize>,
    max_open: usize,
    heartbeat: Duration,
    stop: CancellationToken,
}

/// Counts an open stream of calls for as long as it lives.
struct OpenCalls(Arc<AtomicUsize>);

impl Drop for OpenCalls {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts an open stream for as long as it lives, and tells its end.
pub(crate) struct OpenGuard {
    pub(crate) open: Arc<AtomicUsize>,
    pub(crate) ended: CancellationToken,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.ended.cancel();
    }
}

type Answer = Result<Response<pb::CallResponse>, Status>;

impl Frameworks {
    /// A service that reports to `inbox`; streams over `max_open` are refused. `next` numbers the
    /// subscriptions of all doors, from a random number, so that those of a master before this one are not taken
    /// for its own.
    pub(crate) fn new(
        inbox: mpsc::Sender<FrameworkEvent>,
        next: Arc<AtomicU64>,
        max_open: usize,
        heartbeat: Duration,
        stop: CancellationToken,
    ) -> Self {
        Self {
            inbox,
            next,
            open: Arc::new(AtomicUsize::new(0)),
            open_calls: Arc::new(AtomicUsize::new(0)),
            max_open,
            heartbeat: heartbeat.max(Duration::from_millis(10)),
            stop,
        }
    }

    /// The service with its limits, for tonic's router.
    pub(crate) fn into_service(self) -> frameworks_server::FrameworksServer<Self> {
        frameworks_server::FrameworksServer::new(self).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn ask(&self, event: impl FnOnce(CallReply) -> FrameworkEvent) -> Result<Called, Status> {
        let stopping = || Status::unavailable("the master is stopping");
        let (tx, rx) = oneshot::channel();
        let sent = self.inbox.send(event(tx)).await;
        sent.map_err(|_| stopping())?;
        rx.await.map_err(|_| stopping())
    }

    /// One call of a framework.
    async fn call(&self, caller: Option<pb::Caller>, kind: Call) -> Answer {
        let parsed = calls::caller(caller).and_then(|who| {
            let call = calls::read(&who.framework_id, kind)?;
            Ok((who, call))
        });
        let called = match parsed {
            Err(e) => Err(vec![CallRejection::from(e)]),
            Ok((who, call)) => self.ask(|reply| who.calls(call, reply)).await?,
        };
        Ok(Response::new(calls::response(called)))
    }
}

/// A stream that says why it is none.
fn refused(why: &CallRejection) -> Response<BoxStream<'static, Result<pb::Event, Status>>> {
    let closed = event(Kind::Closed(why.into()));
    Response::new(Box::pin(futures::stream::iter([Ok(closed)])))
}

fn event(kind: Kind) -> pb::Event {
    pb::Event { kind: Some(kind) }
}

#[tonic::async_trait]
impl frameworks_server::Frameworks for Frameworks {
    type SubscribeStream = BoxStream<'static, Result<pb::Event, Status>>;

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let ended = self.stop.child_token();
        let guard = OpenGuard {
            open: Arc::clone(&self.open),
            ended: ended.clone(),
        };
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max_open {
            let message = format!("the limit of {} subscriptions is reached", self.max_open);
            let why = CallRejection::new(RejectReason::TooMany, "subscription", message);
            return Ok(refused(&why));
        }
        let info = match FrameworkInfo::try_from(request.into_inner()) {
            Ok(info) => Box::new(info),
            Err(e) => return Ok(refused(&e.into())),
        };
        let subscription = SubscriptionId(self.next.fetch_add(1, Ordering::Relaxed));
        let (queue, events) = mpsc::channel(QUEUE);
        let (why, held) = (Arc::new(OnceLock::new()), Arc::new(AtomicUsize::new(0)));
        let events = Waiting {
            events,
            held: Arc::clone(&held),
        };
        let link = FrameworkLink::Native(NativeLink {
            subscription,
            heartbeat: self.heartbeat,
            queue,
            held,
            why: Arc::clone(&why),
        });
        // Before the loop hears of it, so that an end at any moment is told.
        tokio::spawn(tell_end(ended, subscription, self.inbox.clone()));
        let called = self
            .ask(|reply| FrameworkEvent::Subscribe {
                subscription,
                info,
                link,
                reply,
            })
            .await?;
        if let Err(all) = called {
            let unknown = CallRejection::new(RejectReason::Refused, "subscription", "refused");
            return Ok(refused(all.first().unwrap_or(&unknown)));
        }
        let out = write(events, why, self.heartbeat, self.stop.clone(), guard);
        Ok(Response::new(Box::pin(out)))
    }

    async fn accept(&self, request: Request<pb::AcceptRequest>) -> Answer {
        let r = request.into_inner();
        self.call(r.caller.clone(), Call::Accept(r)).await
    }

    async fn decline(&self, request: Request<pb::DeclineRequest>) -> Answer {
        let r = request.into_inner();
        self.call(r.caller.clone(), Call::Decline(r)).await
    }

    async fn accept_inverse(&self, request: Request<pb::AcceptInverseRequest>) -> Answer {
        let r = request.into_inner();
        self.call(r.caller.clone(), Call::AcceptInverse(r)).await
    }

    async fn decline_inverse(&self, request: Request<pb::DeclineInverseRequest>) -> Answer {
        let r = request.into_inner();
        self.call(r.caller.clone(), Call::DeclineInverse(r)).await
    }

    async fn demand(&self, request: Request<pb::DemandRequest>) -> Answer {
        let r = request.into_inner();
        self.call(r.caller.clone(), Call::Demand(r)).await
    }

    async fn suppress(&self, request: Request<pb::SuppressRequest>) -> Answer {
        let r = request.into_inner();
        self.call(r.caller.clone(), Call::Suppress(r)).await
    }

    async fn revive(&self, request: Request<pb::ReviveRequest>) -> Answer {
        let r = request.into_inner();
        self.call(r.caller.clone(), Call::Revive(r)).await
    }

    async fn kill(&self, request: Request<pb::KillRequest>) -> Answer {
        let r = request.into_inner();
        self.call(r.caller.clone(), Call::Kill(r)).await
    }

    async fn acknowledge(&self, request: Request<pb::AcknowledgeRequest>) -> Answer {
        let r = request.into_inner();
        self.call(r.caller.clone(), Call::Acknowledge(r)).await
    }

    async fn reconcile(&self, request: Request<pb::ReconcileRequest>) -> Answer {
        let r = request.into_inner();
        self.call(r.caller.clone(), Call::Reconcile(r)).await
    }

    async fn teardown(&self, request: Request<pb::TeardownRequest>) -> Answer {
        let r = request.into_inner();
        self.call(r.caller.clone(), Call::Teardown(r)).await
    }

    async fn message(&self, request: Request<pb::MessageRequest>) -> Answer {
        let r = request.into_inner();
        self.call(r.caller.clone(), Call::Message(r)).await
    }

    async fn shutdown(&self, request: Request<pb::ShutdownRequest>) -> Answer {
        let r = request.into_inner();
        self.call(r.caller.clone(), Call::Shutdown(r)).await
    }

    type CallStream = BoxStream<'static, Result<pb::CallResponse, Status>>;

    async fn call(
        &self,
        request: Request<Streaming<pb::CallRequest>>,
    ) -> Result<Response<Self::CallStream>, Status> {
        let open = OpenCalls(Arc::clone(&self.open_calls));
        if self.open_calls.fetch_add(1, Ordering::Relaxed) >= self.max_open {
            return Err(Status::resource_exhausted("too many streams of calls"));
        }
        let (inbox, stop) = (self.inbox.clone(), self.stop.clone());
        let answers = calls::serve(request.into_inner(), inbox, stop);
        Ok(Response::new(Box::pin(answers.inspect(move |_| {
            let _ = &open;
        }))))
    }
}

/// Tells the loop that a stream has ended, however it did.
pub(crate) async fn tell_end(
    ended: CancellationToken,
    subscription: SubscriptionId,
    inbox: mpsc::Sender<FrameworkEvent>,
) {
    ended.cancelled().await;
    // A loop that is gone needs no word of it.
    let _ = inbox.send(FrameworkEvent::Gone { subscription }).await;
}

/// The stream's end of what waits for a framework.
struct Waiting {
    events: mpsc::Receiver<Kind>,
    held: Arc<AtomicUsize>,
}

impl Waiting {
    async fn next(&mut self) -> Option<Kind> {
        let kind = self.events.recv().await?;
        self.held.fetch_sub(kind.encoded_len(), Ordering::Relaxed);
        Some(kind)
    }
}

/// What goes to the framework: queued events, heartbeats in between, and at last why it ends.
fn write(
    mut events: Waiting,
    why: Arc<OnceLock<pb::Rejection>>,
    heartbeat: Duration,
    stop: CancellationToken,
    guard: OpenGuard,
) -> impl Stream<Item = Result<pb::Event, Status>> {
    async_stream::stream! {
        let _open = guard;
        let mut beat = tokio::time::interval(heartbeat);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        beat.tick().await;
        loop {
            let kind = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                k = events.next() => match k {
                    Some(k) => k,
                    None => break,
                },
                _ = beat.tick() => Kind::Heartbeat(pb::Heartbeat { at_ms: unix_ms() }),
            };
            yield Ok(event(kind));
        }
        if let Some(why) = why.get() {
            yield Ok(event(Kind::Closed(why.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link, and what waits at its other end.
    fn link(why: &Arc<OnceLock<pb::Rejection>>) -> (FrameworkLink, Waiting) {
        let (queue, events) = mpsc::channel(QUEUE);
        let held = Arc::new(AtomicUsize::new(0));
        let link = FrameworkLink::Native(NativeLink {
            subscription: SubscriptionId(1),
            heartbeat: Duration::from_secs(1),
            queue,
            held: Arc::clone(&held),
            why: Arc::clone(why),
        });
        (link, Waiting { events, held })
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_too() {
        let message = || SchedulerEvent::Message {
            agent_id: AgentId::new("a").unwrap(),
            executor_id: waggle_types::ExecutorId::new("e").unwrap(),
            data: vec![0; 1 << 20],
        };
        let why = Arc::new(OnceLock::new());
        let (link, mut waiting) = link(&why);
        let fits = MAX_QUEUED_BYTES / (1 << 20) - 1;
        for _ in 0..fits {
            assert!(link.send(&message()));
        }
        assert!(waiting.next().await.is_some());
        assert!(link.send(&message()), "what is read makes room");
        assert!(!link.send(&message()), "the bytes are bounded");
        let reason = why.get().map(|w| convert::reject_reason(w.reason));
        assert_eq!(reason, Some(RejectReason::TooSlow));
        drop(link);
        while waiting.next().await.is_some() {}
        assert_eq!(waiting.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_does_not_read_is_told_why_its_stream_ends() {
        let why = Arc::new(OnceLock::new());
        let (link, mut waiting) = link(&why);
        let offer = SchedulerEvent::Offers(Vec::new());
        for _ in 0..QUEUE {
            assert!(link.send(&offer));
        }
        assert!(!link.send(&offer), "the queue is bounded");
        let replaced = CallRejection::new(RejectReason::Replaced, "x", "y");
        link.close(&replaced);
        let reason = why.get().map(|w| convert::reject_reason(w.reason));
        assert_eq!(
            reason,
            Some(RejectReason::TooSlow),
            "the first reason counts"
        );
        drop(link);
        let mut n = 0;
        while waiting.events.try_recv().is_ok() {
            n += 1;
        }
        assert_eq!(n, QUEUE, "what was queued is still delivered");
    }
}

//! The one task that owns the core: takes events in small batches and runs their effects.
//!
//! A batch's store writes are one transaction, made durable before anything else of the batch is
//! done. When the store fails, the batch waits and is tried again: nothing was told to anybody, the
//! queues fill up and refuse, and what runs goes on running.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use waggle_telemetry::{SpanKind, Telemetry, names};
use waggle_types::{
    Cause, DeploymentId, FrameworkId, Millis, NetSnapshot, SchedulerEvent, TraceContext, UnixMillis,
};

use crate::{
    clock::Clock,
    core::{
        Answer, Effect, Event, MasterCore, MasterMsg, NetCause, RequestId, SessionId, SpanKey,
        SubscriptionId,
    },
    error::{MasterError, OperateError},
    explain::Explained,
    framework::{CallReply, FrameworkEvent, FrameworkLink},
    handle::{Deployment, Request},
    measure,
    session::{Link, SessionEvent},
    spans::Spans,
    store::{MAX_OPS, Store, StoreOp, Txn},
    view::ClusterView,
};

/// Most events in one batch.
const BATCH: usize = 256;
/// Views that nobody waits for are made at most this often, and take at most a tenth of the time.
const VIEW_PAUSE: Millis = Millis(20);
/// The loop wakes at least this often, for gauges and to notice that it was held up.
const WAKE: Millis = Millis(1000);
/// A longer gap means that the process was held up, and that nobody could be heard.
const STALL: Millis = Millis(5000);
/// Waits between tries of a failed transaction, the last one again and again.
const STORE_RETRY: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

type DeploymentReply = oneshot::Sender<Result<Deployment, MasterError>>;
type MaybeReply = oneshot::Sender<Result<Option<Deployment>, MasterError>>;

/// Who waits for an answer, with the deployment whose root span was begun for it.
enum Waiting {
    Deployment(DeploymentReply, DeploymentId),
    Maybe(MaybeReply, Option<DeploymentId>),
    Called(CallReply),
    Done(oneshot::Sender<Result<(), MasterError>>),
    Operated(oneshot::Sender<Result<(), OperateError>>),
    Explained(oneshot::Sender<Result<Explained, MasterError>>),
}

/// The queues that the loop takes from.
pub(crate) struct Inboxes {
    pub(crate) requests: mpsc::Receiver<Request>,
    pub(crate) sessions: mpsc::Receiver<SessionEvent>,
    pub(crate) frameworks: mpsc::Receiver<FrameworkEvent>,
}

/// The loop's state around the core.
pub(crate) struct EventLoop {
    core: MasterCore,
    store: Arc<dyn Store>,
    clock: Clock,
    telemetry: Telemetry,
    spans: Spans,
    links: BTreeMap<SessionId, Link>,
    subscriptions: BTreeMap<SubscriptionId, FrameworkLink>,
    waiting: BTreeMap<RequestId, Waiting>,
    next_request: u64,
    /// Newest published snapshot, for sessions that open later.
    net: Option<Arc<NetSnapshot>>,
    view: watch::Sender<Arc<ClusterView>>,
    view_due: Option<UnixMillis>,
    last_view: UnixMillis,
    view_pause: Millis,
    /// Something happened that a view shows (heartbeats alone are shown with the next one).
    touched: bool,
    last_batch: UnixMillis,
    last_gauges: UnixMillis,
    /// Sessions that turned out to be gone while messages were sent.
    gone: Vec<SessionId>,
    /// Subscriptions that turned out to be gone while events were sent.
    gone_frameworks: Vec<SubscriptionId>,
}

impl EventLoop {
    pub(crate) fn new(
        core: MasterCore,
        store: Arc<dyn Store>,
        clock: Clock,
        telemetry: &Telemetry,
        view: watch::Sender<Arc<ClusterView>>,
    ) -> Self {
        let now = clock.now();
        Self {
            core,
            store,
            clock,
            telemetry: telemetry.clone(),
            spans: Spans::new(telemetry.clone()),
            links: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_request: 0,
            net: None,
            view,
            view_due: Some(now),
            last_view: now,
            view_pause: VIEW_PAUSE,
            touched: false,
            last_batch: now,
            last_gauges: UnixMillis(0),
            gone: Vec::new(),
            gone_frameworks: Vec::new(),
        }
    }

    /// Runs until told to stop. `first` are the effects of making the core.
    pub(crate) async fn run(
        mut self,
        first: Vec<Effect>,
        mut inboxes: Inboxes,
        stop: CancellationToken,
    ) {
        let mut effects = first;
        effects.extend(self.core.finish(self.clock.now()));
        loop {
            if !self.execute(std::mem::take(&mut effects), &stop).await {
                return;
            }
            let wake = self.wake();
            tokio::select! {
                () = stop.cancelled() => return,
                Some(r) = inboxes.requests.recv() => effects.extend(self.request(r)),
                Some(s) = inboxes.sessions.recv() => effects.extend(self.session(s)),
                Some(f) = inboxes.frameworks.recv() => effects.extend(self.framework(f)),
                () = tokio::time::sleep_until(wake) => {}
            }
            effects = self.batch(effects, &mut inboxes);
        }
    }

    /// When to wake without being asked.
    fn wake(&self) -> tokio::time::Instant {
        let now = self.clock.now();
        let due = [self.core.next_deadline(), self.view_due]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(now + WAKE);
        // A deadline that stays in the past (it should not) must not spin.
        let soonest = now + Millis(1);
        self.clock.instant(due.clamp(soonest, now + WAKE))
    }

    /// Takes what else waits, then time itself.
    fn batch(&mut self, mut effects: Vec<Effect>, inboxes: &mut Inboxes) -> Vec<Effect> {
        let now = self.clock.now();
        if now.since(self.last_batch) > STALL {
            tracing::warn!(
                gap_ms = now.since(self.last_batch).0,
                "the master was held up"
            );
            effects.extend(self.core.handle(Event::Stalled, now));
        }
        for _ in 0..BATCH {
            // One of each in turn: no side can starve the others.
            let request = inboxes.requests.try_recv().ok();
            let session = inboxes.sessions.try_recv().ok();
            let framework = inboxes.frameworks.try_recv().ok();
            if request.is_none() && session.is_none() && framework.is_none() {
                break;
            }
            effects.extend(framework.into_iter().flat_map(|f| self.framework(f)));
            effects.extend(request.into_iter().flat_map(|r| self.request(r)));
            effects.extend(session.into_iter().flat_map(|s| self.session(s)));
        }
        for session in std::mem::take(&mut self.gone) {
            effects.extend(self.core.handle(Event::Disconnected { session }, now));
        }
        for subscription in std::mem::take(&mut self.gone_frameworks) {
            let event = Event::Unsubscribed { subscription };
            effects.extend(self.core.handle(event, now));
        }
        // Silence is judged only when nothing that was said is left unheard.
        let quiet = inboxes.sessions.is_empty();
        if quiet && self.core.next_deadline().is_some_and(|at| at <= now) {
            effects.extend(self.core.handle(Event::Tick, now));
        }
        effects.extend(self.core.finish(now));
        self.last_batch = self.clock.now();
        let queued = inboxes.sessions.len() + inboxes.requests.len() + inboxes.frameworks.len();
        self.gauges(queued);
        effects
    }

    fn gauges(&mut self, queued: usize) {
        let now = self.last_batch;
        if now.since(self.last_gauges) >= WAKE {
            self.last_gauges = now;
            let view = Arc::clone(&self.view.borrow());
            measure::gauges(&self.telemetry, &view, queued);
        }
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        let started = Instant::now();
        self.touched |= !matches!(event, Event::Heartbeat { .. });
        let effects = self.core.handle(event, self.clock.now());
        let took = started.elapsed().as_secs_f64();
        self.telemetry
            .record(&names::SCHED_EVENT_DURATION, &[], took);
        effects
    }

    fn session(&mut self, event: SessionEvent) -> Vec<Effect> {
        match event {
            SessionEvent::Register {
                session,
                registration,
                link,
            } => {
                self.links.insert(session, link);
                self.connects("registered");
                self.handle(Event::Register {
                    session,
                    registration,
                })
            }
            SessionEvent::Event(event) => {
                if let Event::Disconnected { session } = &event {
                    self.links.remove(session);
                }
                self.handle(event)
            }
            SessionEvent::Broken(reason) => {
                self.core.note(reason);
                self.connects("refused");
                Vec::new()
            }
        }
    }

    fn framework(&mut self, event: FrameworkEvent) -> Vec<Effect> {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        match event {
            FrameworkEvent::Subscribe {
                subscription,
                info,
                link,
                reply,
            } => {
                let Ok(fresh_id) = FrameworkId::new(uuid::Uuid::new_v4().to_string()) else {
                    return Vec::new();
                };
                self.subscriptions.insert(subscription, link);
                self.waiting.insert(request, Waiting::Called(reply));
                self.handle(Event::Subscribe {
                    request,
                    subscription,
                    info,
                    fresh_id,
                })
            }
            FrameworkEvent::Gone { subscription } => {
                self.subscriptions.remove(&subscription);
                self.handle(Event::Unsubscribed { subscription })
            }
            FrameworkEvent::Call {
                framework_id,
                subscription,
                call,
                reply,
            } => {
                self.waiting.insert(request, Waiting::Called(reply));
                self.handle(Event::Call {
                    request,
                    framework_id,
                    subscription,
                    call,
                })
            }
        }
    }

    fn tell_framework(&mut self, subscription: SubscriptionId, event: &SchedulerEvent) {
        let link = self.subscriptions.get(&subscription);
        if link.is_some_and(|l| !l.send(event)) {
            tracing::warn!(
                subscription = subscription.0,
                "dropping a framework that does not take its events"
            );
            self.subscriptions.remove(&subscription);
            self.core.note("slow_framework_dropped");
            self.gone_frameworks.push(subscription);
        }
    }

    fn connects(&self, outcome: &'static str) {
        let attrs = [(names::OUTCOME, outcome.to_owned().into())];
        self.telemetry.count(&names::SESSION_CONNECTS, &attrs, 1);
    }

    fn request(&mut self, request: Request) -> Vec<Effect> {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        let deployment = new_deployment_id();
        let Ok(deployment) = deployment else {
            return Vec::new();
        };
        match request {
            Request::Put {
                spec,
                mode,
                force,
                trace,
                reply,
            } => {
                let trace = self.root_span(&deployment, spec.id.as_str(), trace);
                let waiting = Waiting::Deployment(reply, deployment.clone());
                self.waiting.insert(id, waiting);
                self.handle(Event::Put {
                    request: id,
                    spec,
                    mode,
                    force,
                    deployment_id: deployment,
                    trace: Some(trace),
                })
            }
            Request::Remove {
                id: service,
                force,
                trace,
                reply,
            } => {
                let trace = self.root_span(&deployment, service.as_str(), trace);
                let waiting = Waiting::Deployment(reply, deployment.clone());
                self.waiting.insert(id, waiting);
                self.handle(Event::Remove {
                    request: id,
                    id: service,
                    force,
                    deployment_id: deployment,
                    trace: Some(trace),
                })
            }
            Request::Restart {
                id: service,
                force,
                trace,
                reply,
            } => {
                let trace = self.root_span(&deployment, service.as_str(), trace);
                let waiting = Waiting::Deployment(reply, deployment.clone());
                self.waiting.insert(id, waiting);
                self.handle(Event::Restart {
                    request: id,
                    id: service,
                    force,
                    deployment_id: deployment,
                    trace: Some(trace),
                })
            }
            Request::Cancel {
                id: cancelled,
                rollback,
                trace,
                reply,
            } => {
                let trace = rollback.then(|| self.root_span(&deployment, "", trace));
                let rooted = rollback.then(|| deployment.clone());
                self.waiting.insert(id, Waiting::Maybe(reply, rooted));
                self.handle(Event::Cancel {
                    request: id,
                    id: cancelled,
                    rollback,
                    deployment_id: deployment,
                    trace,
                })
            }
            Request::ResetDelay { id: service, reply } => {
                self.waiting.insert(id, Waiting::Done(reply));
                self.handle(Event::ResetDelay {
                    request: id,
                    id: service,
                })
            }
            Request::Operate { call, reply } => {
                self.waiting.insert(id, Waiting::Operated(reply));
                self.handle(Event::Operate { request: id, call })
            }
            Request::Explain { query, reply } => {
                self.waiting.insert(id, Waiting::Explained(reply));
                self.handle(Event::Explain { request: id, query })
            }
            Request::Kill {
                ids,
                scale,
                force,
                trace,
                reply,
            } => {
                let trace = scale.then(|| self.root_span(&deployment, "", trace));
                let rooted = scale.then(|| deployment.clone());
                self.waiting.insert(id, Waiting::Maybe(reply, rooted));
                self.handle(Event::Kill {
                    request: id,
                    ids,
                    scale,
                    force,
                    deployment_id: deployment,
                    trace,
                })
            }
        }
    }

    /// Begins the trace of a deployment; it ends when the deployment does, or with a refusal.
    fn root_span(
        &mut self,
        id: &DeploymentId,
        service: &str,
        caller: Option<TraceContext>,
    ) -> TraceContext {
        self.spans.begin(
            SpanKey::Deployment(id.clone()),
            format!("deployment {id}"),
            SpanKind::Server,
            caller,
            vec![
                ("waggle.deployment.id", id.to_string()),
                ("service.name", service.to_owned()),
            ],
        )
    }

    /// Runs a batch's effects; false when told to stop before they were durable.
    async fn execute(&mut self, effects: Vec<Effect>, stop: &CancellationToken) -> bool {
        let mut writes: Vec<Vec<StoreOp>> = Vec::new();
        let mut rest = Vec::with_capacity(effects.len());
        for effect in effects {
            match effect {
                // One event's writes stay in one transaction; several events share one fsync.
                Effect::Persist(more) => match writes.last_mut() {
                    Some(last) if last.len() + more.len() <= MAX_OPS => last.extend(more),
                    _ => writes.push(more),
                },
                other => rest.push(other),
            }
        }
        let busy = !rest.is_empty() || !writes.is_empty();
        for ops in writes {
            if !self.persist(ops, stop).await {
                return false;
            }
        }
        let mut replies = Vec::new();
        for effect in rest {
            match effect {
                Effect::Persist(_) => {}
                Effect::Opened { session, .. } => self.opened(session),
                Effect::SendAgent { session, msg } => self.send(session, msg),
                Effect::Close { session } => {
                    self.links.remove(&session);
                }
                Effect::SendFramework {
                    subscription,
                    event,
                } => self.tell_framework(subscription, &event),
                Effect::CloseFramework { subscription, why } => {
                    if let Some(link) = self.subscriptions.remove(&subscription) {
                        link.close(&why);
                    }
                }
                Effect::PublishNet { snapshot, causes } => self.publish_net(snapshot, &causes),
                Effect::Reply { request, answer } => replies.push((request, answer)),
                Effect::Trace(op) => self.spans.run(op),
                Effect::Measure(m) => measure::take(&self.telemetry, &m),
            }
        }
        // Who asked sees the outcome in the view as soon as the answer is there.
        let changes = |(id, answer): &(RequestId, Answer)| match answer {
            Answer::Called(_) => matches!(self.waiting.get(id), Some(Waiting::Operated(_))),
            Answer::Explained(_) => false,
            _ => true,
        };
        let asked = replies.iter().any(changes);
        self.publish_view(busy, asked);
        for (request, answer) in replies {
            self.reply(request, answer);
        }
        true
    }

    async fn persist(&mut self, ops: Vec<StoreOp>, stop: &CancellationToken) -> bool {
        for n_try in 0_usize.. {
            let started = Instant::now();
            let outcome = self.store.txn(Vec::new(), ops.clone()).await;
            let took = started.elapsed().as_secs_f64();
            let error = match outcome {
                Ok(Txn::Committed { .. }) => {
                    self.telemetry
                        .record(&names::SCHED_STORE_DURATION, &[], took);
                    return true;
                }
                Ok(Txn::Conflict { key, .. }) => format!("conflict on {key}"),
                Err(e) => chain(&e),
            };
            let attrs = [(names::ERROR_TYPE, "store".to_owned().into())];
            self.telemetry
                .record(&names::SCHED_STORE_DURATION, &attrs, took);
            tracing::error!(n_try, error, "failed to store, trying again");
            let pause = STORE_RETRY[n_try.min(STORE_RETRY.len() - 1)];
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
        }
        false
    }

    fn opened(&mut self, session: SessionId) {
        if let (Some(link), Some(net)) = (self.links.get(&session), &self.net) {
            link.slot.put(Arc::clone(net), &[]);
        }
    }

    fn send(&mut self, session: SessionId, msg: MasterMsg) {
        let trace = match &msg {
            MasterMsg::Launch(spec) => self.spans.context(&SpanKey::Launch(spec.task_id.clone())),
            _ => None,
        };
        let sent = self.links.get(&session).is_some_and(|l| l.send(msg, trace));
        if !sent && self.links.remove(&session).is_some() {
            tracing::warn!(
                session = session.0,
                "dropping an agent that does not take its messages"
            );
            self.core.note("slow_agent_dropped");
            self.gone.push(session);
        }
    }

    fn publish_net(&mut self, snapshot: Arc<NetSnapshot>, causes: &[NetCause]) {
        let generation = snapshot.generation.to_string();
        let causes: Vec<Cause> = causes
            .iter()
            .map(|c| Cause {
                task_id: c.task_id.clone(),
                trace: self.spans.point(
                    "vip.publish",
                    &c.parent,
                    vec![
                        ("waggle.task.id", c.task_id.to_string()),
                        ("waggle.vip.names", c.vips.clone()),
                        ("waggle.generation", generation.clone()),
                    ],
                ),
            })
            .collect();
        for link in self.links.values() {
            link.slot.put(Arc::clone(&snapshot), &causes);
        }
        self.net = Some(snapshot);
    }

    fn publish_view(&mut self, busy: bool, now_please: bool) {
        let now = self.clock.now();
        let busy = std::mem::take(&mut self.touched) || busy;
        let old = now.since(self.last_view) >= WAKE;
        if (busy || old) && self.view_due.is_none() {
            self.view_due = Some((self.last_view + self.view_pause).max(now));
        }
        if now_please || self.view_due.is_some_and(|at| at <= now) {
            let started = Instant::now();
            self.view_due = None;
            self.last_view = now;
            // Without a reader the newest view is kept all the same.
            self.view.send_replace(Arc::new(self.core.view(now)));
            let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.view_pause = VIEW_PAUSE.max(Millis(took.saturating_mul(10)));
        }
    }

    /// Answers a request. Whoever asked may have gone; what was done stays done.
    fn reply(&mut self, request: RequestId, answer: Answer) {
        let (failed, deployment) = match (self.waiting.remove(&request), answer) {
            (Some(Waiting::Deployment(tx, id)), Answer::Deployment(result)) => {
                let failed = result.as_ref().err().map(ToString::to_string);
                let _ = tx.send(result);
                (failed, Some(id))
            }
            (Some(Waiting::Maybe(tx, id)), Answer::Maybe(result)) => {
                let failed = result.as_ref().err().map(ToString::to_string);
                let _ = tx.send(result);
                (failed, id)
            }
            (Some(Waiting::Called(tx)), Answer::Called(result)) => {
                let _ = tx.send(result);
                (None, None)
            }
            (Some(Waiting::Operated(tx)), Answer::Called(result)) => {
                let _ = tx.send(result.map_err(OperateError::Refused));
                (None, None)
            }
            (Some(Waiting::Explained(tx)), Answer::Explained(result)) => {
                let _ = tx.send(result);
                (None, None)
            }
            (Some(Waiting::Done(tx)), Answer::Done(result)) => {
                let _ = tx.send(result);
                (None, None)
            }
            _ => (None, None),
        };
        if let (Some(why), Some(id)) = (failed, deployment) {
            let key = SpanKey::Deployment(id);
            self.spans.end(&key, Some(("refused", &why)));
        }
    }
}

fn new_deployment_id() -> Result<DeploymentId, waggle_types::IdError> {
    DeploymentId::new(uuid::Uuid::new_v4().to_string())
}

/// An error with its causes, for the log.
pub(crate) fn chain(e: &dyn std::error::Error) -> String {
    let mut out = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        out.push_str(": ");
        out.push_str(&s.to_string());
        source = s.source();
    }
    out
}

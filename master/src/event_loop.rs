//! The one task that owns the core: takes events in small batches and runs their effects.
//!
//! What a batch writes is made durable before anything that rests on it is done, while the next batches are
//! taken already (see `crate::pipeline`). When the store fails for long, nothing is taken any more: nothing
//! was told to anybody, the queues fill up and refuse, and what runs goes on running.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use waggle_services::{DeploymentPlan, jobs::JobAnswer};
use waggle_telemetry::{SpanKind, Telemetry, names};
use waggle_types::{
    AgentId, Cause, DeploymentId, FrameworkId, Millis, NetSnapshot, SchedulerEvent, TraceContext,
    UnixMillis,
};

use crate::{
    clock::Clock,
    core::{
        Answer, Effect, Event, GroupAnswer, MasterCore, MasterMsg, Measure, NetCause, RequestId,
        SessionId, SpanKey, SubscriptionId,
    },
    error::{MasterError, OperateError},
    explain::Explained,
    framework::{AcceptReply, CallReply, FrameworkEvent, FrameworkLink},
    handle::{Deployment, Request},
    measure::{self, Gauges},
    newsroom::{Newsroom, What},
    pipeline::{Pipeline, Step},
    session::{Link, SessionEvent},
    spans::Spans,
    store::Store,
    view::ClusterView,
    views::Views,
};

/// Between the beginnings of two batches: what comes meanwhile is taken together, and one round of offers,
/// writes and wake-ups does for all of it. After a quiet time nothing waits.
const PACE: Duration = Duration::from_millis(1);
/// Most events in one batch.
const BATCH: usize = 256;
/// The loop wakes at least this often, for gauges and to notice that it was held up.
const WAKE: Millis = Millis(1000);
/// A longer gap means that the process was held up, and that nobody could be heard.
const STALL: Millis = Millis(5000);

type DeploymentReply = oneshot::Sender<Result<Deployment, MasterError>>;
type MaybeReply = oneshot::Sender<Result<Option<Deployment>, MasterError>>;

/// Who waits for an answer, with the deployment whose root span was begun for it.
enum Waiting {
    Deployment(DeploymentReply, DeploymentId),
    Maybe(MaybeReply, Option<DeploymentId>),
    Called(CallReply),
    Accepted(AcceptReply, Option<AgentId>),
    Done(oneshot::Sender<Result<(), MasterError>>),
    Operated(oneshot::Sender<Result<(), OperateError>>),
    Explained(oneshot::Sender<Result<Explained, MasterError>>),
    Plan(oneshot::Sender<Result<DeploymentPlan, MasterError>>),
    Group(oneshot::Sender<Result<GroupAnswer, MasterError>>),
    Job(oneshot::Sender<Result<JobAnswer, MasterError>>),
}

/// What a batch begins with.
enum First {
    Request(Request),
    Session(SessionEvent),
    Framework(FrameworkEvent),
    Time,
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
    pipeline: Pipeline,
    clock: Clock,
    telemetry: Telemetry,
    spans: Spans,
    links: BTreeMap<SessionId, Link>,
    subscriptions: BTreeMap<SubscriptionId, FrameworkLink>,
    waiting: BTreeMap<RequestId, Waiting>,
    next_request: u64,
    /// Newest published snapshot, for sessions that open later.
    net: Option<Arc<NetSnapshot>>,
    newsroom: Newsroom,
    views: Views,
    last_batch: UnixMillis,
    last_gauges: UnixMillis,
    gauges: Gauges,
    /// When the batch began that is at work.
    batch_at: Instant,
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
        newsroom: Newsroom,
        view: watch::Sender<Arc<ClusterView>>,
        stop: CancellationToken,
    ) -> Self {
        let now = clock.now();
        Self {
            core,
            pipeline: Pipeline::new(store, telemetry.clone(), stop),
            clock,
            telemetry: telemetry.clone(),
            spans: Spans::new(telemetry.clone()),
            links: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_request: 0,
            net: None,
            newsroom,
            views: Views::new(view, now),
            last_batch: now,
            last_gauges: UnixMillis(0),
            gauges: Gauges::default(),
            batch_at: Instant::now(),
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
            self.execute(std::mem::take(&mut effects));
            self.pipeline.start();
            let wake = self.wake();
            let open = !self.pipeline.is_full();
            let first = tokio::select! {
                () = stop.cancelled() => return,
                done = self.pipeline.done() => {
                    if !done {
                        return;
                    }
                    self.release();
                    continue;
                }
                Some(r) = inboxes.requests.recv(), if open => First::Request(r),
                Some(s) = inboxes.sessions.recv(), if open => First::Session(s),
                Some(f) = inboxes.frameworks.recv(), if open => First::Framework(f),
                () = tokio::time::sleep_until(wake), if open => First::Time,
            };
            self.pace();
            self.batch_at = Instant::now();
            effects.extend(match first {
                First::Request(r) => self.request(r),
                First::Session(s) => self.session(s),
                First::Framework(f) => self.framework(f),
                First::Time => Vec::new(),
            });
            effects = self.batch(effects, &mut inboxes);
        }
    }

    /// Waits for the rest of the pace.
    #[allow(
        clippy::disallowed_methods,
        reason = "the loop has its thread for itself, and the runtime's timers are too coarse"
    )]
    fn pace(&self) {
        if let Some(rest) = PACE.checked_sub(self.batch_at.elapsed()) {
            std::thread::sleep(rest);
        }
    }

    /// When to wake without being asked.
    fn wake(&self) -> tokio::time::Instant {
        let now = self.clock.now();
        let due = [self.core.next_deadline(), self.views.due()]
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
        // So many of each: no side can starve the others. Sessions first, so that what becomes free is
        // known, and offered together, before anybody acts.
        for _ in 0..BATCH {
            let Ok(session) = inboxes.sessions.try_recv() else {
                break;
            };
            effects.extend(self.session(session));
        }
        for _ in 0..BATCH {
            let Ok(framework) = inboxes.frameworks.try_recv() else {
                break;
            };
            effects.extend(self.framework(framework));
        }
        for _ in 0..BATCH {
            let Ok(request) = inboxes.requests.try_recv() else {
                break;
            };
            effects.extend(self.request(request));
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
        self.set_gauges(queued);
        effects
    }

    fn set_gauges(&mut self, queued: usize) {
        let now = self.last_batch;
        if now.since(self.last_gauges) >= WAKE {
            self.last_gauges = now;
            self.pipeline.shrink();
            let sums = self.core.sums();
            self.gauges.set(&self.telemetry, &sums, queued);
        }
    }

    fn handle(&mut self, event: Event) -> Vec<Effect> {
        let started = Instant::now();
        // Heartbeats alone are shown with the next one.
        if !matches!(event, Event::Heartbeat { .. }) {
            self.views.touch();
        }
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
            FrameworkEvent::Accept {
                framework_id,
                subscription,
                call,
                reply,
            } => {
                // Before the call: it uses them up.
                let agent = self.core.agent_of(&call).cloned();
                let waiting = Waiting::Accepted(reply, agent);
                self.waiting.insert(request, waiting);
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
            Request::View { reply } => {
                self.views.ask(reply, self.clock.now());
                Vec::new()
            }
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
            Request::ChangeTree {
                tree,
                force,
                trace,
                reply,
            } => {
                let trace = self.root_span(&deployment, "", trace);
                let waiting = Waiting::Deployment(reply, deployment.clone());
                self.waiting.insert(id, waiting);
                self.handle(Event::ChangeTree {
                    request: id,
                    tree,
                    force,
                    deployment_id: deployment,
                    trace: Some(trace),
                })
            }
            Request::PlanTree { tree, force, reply } => {
                self.waiting.insert(id, Waiting::Plan(reply));
                self.handle(Event::PlanTree {
                    request: id,
                    tree,
                    force,
                })
            }
            Request::AskGroup { query, reply } => {
                self.waiting.insert(id, Waiting::Group(reply));
                self.handle(Event::AskGroup { request: id, query })
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
            Request::Job { call, reply } => {
                self.waiting.insert(id, Waiting::Job(reply));
                self.handle(Event::Job { request: id, call })
            }
            Request::Explain { query, reply } => {
                self.waiting.insert(id, Waiting::Explained(reply));
                self.handle(Event::Explain { request: id, query })
            }
            Request::Kill {
                ids,
                scale,
                wipe,
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
                    wipe,
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

    /// Runs a batch's effects, but for those that rest on a write that is not durable yet.
    fn execute(&mut self, effects: Vec<Effect>) {
        if !effects.is_empty() {
            self.views.touch();
        }
        let mut offers = 0;
        for effect in effects {
            if let Effect::Measure(Measure::Allocation { offers: n, .. }) = &effect {
                offers += n;
            }
            match effect {
                Effect::Reply { request, answer } if self.shows(request, &answer) => {
                    self.views.hold(Effect::Reply { request, answer });
                }
                effect => {
                    if let Some(now) = self.pipeline.take(effect) {
                        self.run_effect(now);
                    }
                }
            }
        }
        if offers > 0 {
            let took = self.batch_at.elapsed().as_secs_f64();
            let def = &names::SCHED_ALLOCATION_LATENCY;
            self.telemetry.record(def, &[], took);
        }
        self.publish_view();
    }

    /// Whether an answer is about something that views show.
    fn shows(&self, request: RequestId, answer: &Answer) -> bool {
        let operated = matches!(self.waiting.get(&request), Some(Waiting::Operated(_)));
        operated
            || !matches!(
                answer,
                Answer::Called(_) | Answer::Explained(_) | Answer::Plan(_) | Answer::Group(_)
            )
    }

    /// Does what was waiting for the disk.
    fn release(&mut self) {
        while let Some(step) = self.pipeline.next() {
            match step {
                Step::Effect(effect) => self.run_effect(effect),
                Step::View(view) => self.views.show(view),
            }
        }
    }

    fn run_effect(&mut self, effect: Effect) {
        match effect {
            // The pipeline's.
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
            Effect::Reply { request, answer } => self.reply(request, answer),
            Effect::Say { news, at } => self.newsroom.say(What::Core(news), at, &self.telemetry),
            Effect::Trace(op) => self.spans.run(op),
            Effect::Measure(m) => measure::take(&self.telemetry, &m),
        }
    }

    fn opened(&mut self, session: SessionId) {
        if let (Some(link), Some(net)) = (self.links.get(&session), &self.net) {
            link.put(Arc::clone(net), &[]);
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
            link.put(Arc::clone(&snapshot), &causes);
        }
        self.net = Some(snapshot);
    }

    /// Makes a view when one is due. Who asked for what it shows is answered after it.
    fn publish_view(&mut self) {
        let now = self.clock.now();
        if !self.views.is_due(now) {
            return;
        }
        let started = Instant::now();
        let view = Arc::new(self.core.view(now));
        let answers = self.views.made(view.sequence, now, started.elapsed());
        if let Some(view) = self.pipeline.take_view(view) {
            self.views.show(view);
        }
        for answer in answers {
            if let Some(answer) = self.pipeline.take(answer) {
                self.run_effect(answer);
            }
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
            (Some(Waiting::Accepted(tx, agent)), Answer::Called(result)) => {
                let _ = tx.send((agent, result));
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
            (Some(Waiting::Job(tx)), Answer::Job(result)) => {
                let _ = tx.send(result);
                (None, None)
            }
            (Some(Waiting::Plan(tx)), Answer::Plan(result)) => {
                let _ = tx.send(result);
                (None, None)
            }
            (Some(Waiting::Group(tx)), Answer::Group(result)) => {
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

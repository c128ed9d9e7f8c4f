//! Between the levels: offers and statuses up to the framework, its calls down to level 1 and agents.
//!
//! The built-in framework is spoken to in [`SchedulerEvent`]s and answers in [`SchedulerCall`]s, as
//! any framework would.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waggle_allocator::{
    Allocator, Effect as Level1Effect, Event as Level1, FrameworkSpec, Notice, Rejection,
    RescindReason,
};
use waggle_services::{Action, DeploymentOutcome, Input, Place};
use waggle_types::{
    AgentId, Capabilities, FrameworkId, HealthState, Millis, Offer, OfferId, ResourcePart,
    RoleSubscription, SchedulerCall, SchedulerEvent, ServiceId, StatusReason, StatusSource, TaskId,
    TaskSpec, TaskState, TaskStatus, TraceContext, UnixMillis,
};

use crate::task::TaskShape;

use super::{
    Effect, MasterCore, MasterMsg, Measure, News, SERVICE_FRAMEWORK, SpanKey, SpanParent,
    TraceKind, TraceOp,
    intents::is_builtin,
    tasks::{Task, is_networked},
    vips::Services,
};

/// Steps of one event. The levels come to rest by themselves (declines leave filters); this bound
/// only keeps a mistake there from stopping the master. What is left is done at the next event.
const MAX_STEPS: usize = 200_000;

/// Rules that a span names of those that turned offers away.
const MAX_RULES: usize = 4;

/// Something that one level said and the other has not heard.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Level1(Level1Effect),
    Level2(Action),
    /// To the framework of jobs.
    Jobs(SchedulerEvent),
    Notice(Notice),
}

/// What the built-in framework subscribes with. Services may ask for GPUs and be bound to a region; none
/// is made for what is lent.
pub(super) fn service_framework(roles: Vec<RoleSubscription>) -> FrameworkSpec {
    FrameworkSpec {
        roles,
        capabilities: Capabilities {
            gpus: true,
            region_aware: true,
            revocable: false,
        },
    }
}

/// The service that a task belongs to, if it is defined.
pub(super) fn service_of(services: &Services, spec: &TaskShape) -> Option<ServiceId> {
    if !is_builtin(&spec.framework_name) {
        return None;
    }
    let id = ServiceId::new(&spec.service).ok()?;
    services.contains_key(&id).then_some(id)
}

impl MasterCore {
    /// Tells level 1 something; what follows is done by [`MasterCore::pump`].
    pub(super) fn allocate(&mut self, event: Level1, now: UnixMillis) {
        self.allocate_all([event], now);
    }

    /// The same for several things at once: nothing is offered in between.
    pub(super) fn allocate_all(
        &mut self,
        events: impl IntoIterator<Item = Level1>,
        now: UnixMillis,
    ) {
        let freed = std::mem::take(&mut self.freed);
        let events = freed.into_iter().chain(events);
        let effects = self.measured(|allocator| allocator.apply_all(events, now));
        self.work.extend(effects.into_iter().map(Work::Level1));
        self.take_notices();
    }

    /// Tells level 1 of what became free since it was last told anything: at the end of a batch, so that
    /// tasks of an agent that end together make one offer.
    pub(super) fn offer_freed(&mut self, now: UnixMillis) {
        if !self.freed.is_empty() {
            self.allocate_all([], now);
        }
    }

    /// Tells level 1 something that it may refuse; then nothing of it is done. (What falls due at the same
    /// moment is, and is not lost with it.) Answers what an accept's launches were given.
    pub(super) fn try_allocate(
        &mut self,
        event: Level1,
        now: UnixMillis,
    ) -> Result<Vec<Vec<ResourcePart>>, Rejection> {
        self.offer_freed(now);
        let (mut refused, mut given) = (None, Vec::new());
        for effect in self.measured(|allocator| allocator.apply(event, now)) {
            match effect {
                Level1Effect::Rejected { reason, .. } => refused = Some(reason),
                Level1Effect::Launched { parts } => given = parts,
                other => self.work.push_back(Work::Level1(other)),
            }
        }
        self.take_notices();
        match refused {
            Some(reason) => Err(reason),
            None => Ok(given),
        }
    }

    /// Tells level 1 several things at once, of which it takes all or none. The error says which it refused first.
    pub(super) fn try_allocate_all(
        &mut self,
        mut events: Vec<Level1>,
        now: UnixMillis,
    ) -> Result<(), (usize, Rejection)> {
        if events.len() <= 1 {
            return match events.pop() {
                None => Ok(()),
                Some(event) => self
                    .try_allocate(event, now)
                    .map(|_| ())
                    .map_err(|r| (0, r)),
            };
        }
        self.offer_freed(now);
        if let Some(refused) = self.allocator.would_refuse(events.clone(), now) {
            return Err(refused);
        }
        for effect in self.measured(|allocator| allocator.apply_all(events, now)) {
            if let Level1Effect::Rejected { what, reason } = &effect {
                debug_assert!(false, "it was tried: {what}: {reason}");
                tracing::error!(what, %reason, "a part of a call is refused that had been tried");
                self.reject("tried_part_refused");
                continue;
            }
            self.work.push_back(Work::Level1(effect));
        }
        self.take_notices();
        Ok(())
    }

    /// Has level 1 do something, and says how long that took.
    fn measured(
        &mut self,
        run: impl FnOnce(&mut Allocator) -> Vec<Level1Effect>,
    ) -> Vec<Level1Effect> {
        let (before, started) = (self.allocator.stats(), (self.config.stopwatch)());
        let effects = run(&mut self.allocator);
        let ns = (self.config.stopwatch)().saturating_sub(started);
        let after = self.allocator.stats();
        self.measure(Measure::Allocation {
            ns,
            offers: after.n_offers - before.n_offers,
            looked_at: after.n_looked_at - before.n_looked_at,
        });
        effects
    }

    fn take_notices(&mut self) {
        let notices = self.allocator.notices().iter().cloned();
        self.work.extend(notices.map(Work::Notice));
    }

    /// Tells the framework something; what follows is done by [`MasterCore::pump`].
    pub(super) fn schedule(&mut self, input: Input, now: UnixMillis) {
        let actions = self.scheduler.handle(input, now);
        self.subscribe_roles(now);
        self.work.extend(actions.into_iter().map(Work::Level2));
    }

    /// Subscribes the built-in framework for the roles that its services run for, when there are others than before.
    fn subscribe_roles(&mut self, now: UnixMillis) {
        if self.recovering || self.subscribed == *self.scheduler.roles() {
            return;
        }
        self.subscribed.clone_from(self.scheduler.roles());
        let subscribed = Level1::Subscribed {
            framework_id: self.framework_id.clone(),
            spec: service_framework(self.own_roles()),
        };
        self.allocate(subscribed, now);
    }

    /// The roles of the built-in framework, as level 2 knows them.
    pub(super) fn own_roles(&self) -> Vec<RoleSubscription> {
        let quiet = self.scheduler.suppressed_roles();
        let one = |role: &String| RoleSubscription {
            suppressed: quiet.contains(role),
            ..RoleSubscription::new(role)
        };
        self.scheduler.roles().iter().map(one).collect()
    }

    /// Lets the levels talk until both are at rest.
    pub(super) fn pump(&mut self, now: UnixMillis) {
        let mut offers = Vec::new();
        // Of other frameworks than the built-in one.
        let mut others: BTreeMap<FrameworkId, Vec<Offer>> = BTreeMap::new();
        for _ in 0..MAX_STEPS {
            match self.work.pop_front() {
                Some(Work::Level1(Level1Effect::Offer(offer))) => {
                    self.out_offers.insert(Arc::new(offer.clone()));
                    if offer.framework_id == self.framework_id {
                        offers.push(offer);
                    } else {
                        let of = others.entry(offer.framework_id.clone()).or_default();
                        of.push(offer);
                    }
                }
                Some(Work::Level1(Level1Effect::Rescind {
                    offer_id,
                    framework_id,
                    reason,
                    ..
                })) => {
                    offers.retain(|o| o.offer_id != offer_id);
                    if let Some(of) = others.get_mut(&framework_id) {
                        of.retain(|o| o.offer_id != offer_id);
                    }
                    self.rescind(offer_id, &framework_id, reason, now);
                }
                Some(Work::Level1(Level1Effect::Rejected { what, reason })) => {
                    tracing::debug!(what, %reason, "level 1 refused");
                    self.reject("level_1_refused");
                }
                // Read by whoever applied it.
                Some(Work::Level1(Level1Effect::Launched { .. })) => {}
                Some(Work::Level2(action)) => self.act(action, now),
                Some(Work::Jobs(event)) => self.tell_jobs(event, now),
                Some(Work::Notice(notice)) => self.notice(notice, now),
                // Everything else is said: now one batch of offers, so that the framework sees the
                // whole picture at once.
                None if !others.is_empty() => {
                    for (id, batch) in std::mem::take(&mut others) {
                        if !batch.is_empty() {
                            self.send_framework(&id, SchedulerEvent::Offers(batch));
                        }
                    }
                }
                None if !offers.is_empty() => {
                    let batch = SchedulerEvent::Offers(std::mem::take(&mut offers));
                    self.schedule(Input::Scheduler(batch), now);
                }
                None => return,
            }
        }
        self.reject("too_many_steps");
        let unsaid = offers
            .into_iter()
            .chain(others.into_values().flatten())
            .map(|o| Work::Level1(Level1Effect::Offer(o)));
        self.work.extend(unsaid);
    }

    fn rescind(
        &mut self,
        offer_id: OfferId,
        framework_id: &FrameworkId,
        reason: RescindReason,
        now: UnixMillis,
    ) {
        if let Some(offer) = self.out_offers.remove(&offer_id) {
            let outcome = match reason {
                RescindReason::Timeout => "expired",
                _ => "rescinded",
            };
            self.measure_end(&offer, outcome, now);
        }
        let event = SchedulerEvent::Rescind(offer_id);
        if *framework_id == self.framework_id {
            self.schedule(Input::Scheduler(event), now);
        } else {
            self.send_framework(framework_id, event);
        }
    }

    fn act(&mut self, action: Action, now: UnixMillis) {
        match action {
            Action::Call(call) => self.call(call, now),
            Action::DeploymentDone {
                deployment_id,
                service,
                outcome: DeploymentOutcome::Finished,
            } => self.action_done(&deployment_id, &service, now),
            Action::Declined { reason, .. } => self.measure(Measure::Declined {
                reason: reason.name(),
            }),
            Action::InstanceChanged { instance, change } => {
                self.say_instance(&instance, change, now);
            }
            Action::ServiceGone { service } => {
                self.restarts.forget(service.as_str());
                self.publish_news(News::ServiceGone(service), now);
            }
            // Shown by the framework's own accessors.
            Action::DeploymentStep { .. } | Action::DeploymentDone { .. } => {}
        }
    }

    fn call(&mut self, call: SchedulerCall, now: UnixMillis) {
        let framework_id = self.framework_id.clone();
        match call {
            // Level 1 does not know the framework yet; its subscription starts out revived.
            SchedulerCall::Suppress { .. } | SchedulerCall::Revive { .. } if self.recovering => {}
            SchedulerCall::Accept {
                offer_ids,
                operations,
                refuse,
            } => {
                self.accept(offer_ids, operations, refuse, now);
            }
            SchedulerCall::Decline { offer_ids, refuse } => {
                self.decline(framework_id, offer_ids, refuse, now);
            }
            SchedulerCall::Kill { task_id } => self.kill_call(task_id, now),
            SchedulerCall::Acknowledge {
                task_id,
                agent_id,
                uuid,
            } => self.send(&agent_id, MasterMsg::Ack { task_id, uuid }),
            SchedulerCall::Reconcile { task_ids } => self.reconcile(&task_ids, now),
            SchedulerCall::Suppress { roles } => {
                let suppress = Level1::SuppressRoles {
                    framework_id,
                    roles,
                };
                self.allocate(suppress, now);
            }
            SchedulerCall::Revive { roles } => {
                let revive = Level1::ReviveRoles {
                    framework_id,
                    roles,
                };
                self.allocate(revive, now);
            }
            // The built-in framework has no use for these.
            SchedulerCall::AcceptInverse { .. }
            | SchedulerCall::DeclineInverse { .. }
            | SchedulerCall::Demand { .. }
            | SchedulerCall::Message { .. }
            | SchedulerCall::Shutdown { .. } => self.reject("call_not_known"),
        }
    }

    /// Offers come back unused.
    pub(super) fn decline(
        &mut self,
        framework_id: FrameworkId,
        offer_ids: Vec<OfferId>,
        refuse: Millis,
        now: UnixMillis,
    ) {
        self.close_offers(&offer_ids, "declined", now);
        let declined = Level1::Declined {
            framework_id,
            offer_ids,
            refuse,
        };
        self.allocate(declined, now);
    }

    pub(super) fn close_offers(&mut self, ids: &[OfferId], outcome: &'static str, now: UnixMillis) {
        for id in ids {
            if let Some(offer) = self.out_offers.remove(id) {
                self.measure_end(&offer, outcome, now);
            }
        }
    }

    fn measure_end(&mut self, offer: &Offer, outcome: &'static str, now: UnixMillis) {
        let framework = self.framework_name(&offer.framework_id);
        self.measure(Measure::OfferLifetime {
            outcome,
            framework: framework.clone(),
            ms: now.since(offer.at).0,
        });
        self.measure(Measure::Offers {
            outcome,
            framework,
            role: offer.role.clone(),
            n: 1,
        });
    }

    /// A framework's name; empty for one that is not registered.
    pub(super) fn framework_name(&self, id: &FrameworkId) -> String {
        if *id == self.framework_id {
            return SERVICE_FRAMEWORK.to_owned();
        }
        let known = self.frameworks.all.get(id);
        known.map(|f| f.info.name.clone()).unwrap_or_default()
    }

    /// Sends a task to its agent. One `offer.allocate` and one `offer.accept` span per trace and
    /// accept, one `task.launch` per task.
    pub(super) fn launch(
        &mut self,
        spec: TaskSpec,
        agent: &AgentId,
        offered_at: UnixMillis,
        traced: &mut BTreeSet<(Option<TraceContext>, TaskId)>,
        now: UnixMillis,
    ) {
        let launch_open = self.is_traced(&spec, now);
        if launch_open {
            self.launch_spans(&spec, agent, offered_at, traced, now);
        }
        let spec = Arc::new(spec);
        let info = self.agents.all.get(agent).map(|a| a.info.as_ref());
        let mut task = self.tasks.new_task(spec.as_ref().clone(), agent, info, now);
        task.launch_open = launch_open;
        self.task_changed(is_networked(&task));
        self.tasks.insert(task);
        let ms = now.since(offered_at).0;
        let framework = spec.framework_name.clone();
        let trace = spec.trace;
        self.measure(Measure::OfferToLaunch {
            framework,
            ms,
            trace,
        });
        if spec.framework_id == self.framework_id && self.restarts.launched(&spec) {
            self.measure(Measure::Restarted);
        }
        self.send(agent, MasterMsg::Launch(spec));
    }

    /// Whether a launch gets spans. One that belongs to somebody's trace always does; others start traces
    /// of their own, so many a second, and the rest is counted.
    fn is_traced(&mut self, spec: &TaskSpec, now: UnixMillis) -> bool {
        if spec.trace.is_some() {
            return true;
        }
        if self.config.max_own_traces == 0 {
            return false;
        }
        if now.since(self.own_traces.0) >= Millis(1000) {
            self.own_traces = (now, 0);
        }
        let traced = self.own_traces.1 < self.config.max_own_traces;
        if traced {
            self.own_traces.1 += 1;
        } else {
            *self.rejections.entry("launch_not_traced").or_default() += 1;
        }
        traced
    }

    fn launch_spans(
        &mut self,
        spec: &TaskSpec,
        agent: &AgentId,
        offered_at: UnixMillis,
        traced: &mut BTreeSet<(Option<TraceContext>, TaskId)>,
        now: UnixMillis,
    ) {
        let id = spec.task_id.clone();
        let root = spec.trace;
        let first = traced.iter().find(|(t, _)| *t == root && root.is_some());
        let accept = if let Some((_, first)) = first {
            SpanKey::Accept(first.clone())
        } else {
            traced.insert((root, id.clone()));
            self.offer_spans(spec, offered_at, now)
        };
        self.out.push(Effect::Trace(TraceOp::Begin {
            key: SpanKey::Launch(id.clone()),
            name: "task.launch".to_owned(),
            kind: TraceKind::Producer,
            parent: SpanParent::Span(accept, root),
            attrs: vec![
                ("waggle.task.id", id.to_string()),
                ("waggle.agent.id", agent.to_string()),
                ("service.name", spec.service.clone()),
            ],
        }));
    }

    /// Records the offer's part of a task's trace; answers the span that launches hang under.
    fn offer_spans(&mut self, spec: &TaskSpec, offered_at: UnixMillis, now: UnixMillis) -> SpanKey {
        let id = &spec.task_id;
        let allocate = SpanKey::Allocate(id.clone());
        let accept = SpanKey::Accept(id.clone());
        let flight = self
            .flights
            .iter()
            .find(|(_, f)| f.trace.is_some() && f.trace == spec.trace);
        let waited_since = flight.map_or(offered_at, |(_, f)| f.since.min(offered_at));
        let attrs = vec![
            ("service.name", spec.service.clone()),
            ("waggle.role", spec.role.clone()),
        ];
        let mut waited = attrs.clone();
        if let Some(d) = self.scheduler.newest_decision(id) {
            let n = d.n_before + u64::from(d.n_offers);
            waited.push(("waggle.offers.looked_at", n.to_string()));
            let why = d.refused.iter().map(|w| w.message.as_str());
            let why: Vec<&str> = why.take(MAX_RULES).collect();
            if !why.is_empty() {
                waited.push(("waggle.offers.refused", why.join("; ")));
            }
        }
        // By key, since a deployment that outlived a master has a second span (see `restore_services`).
        let parent = match (flight, spec.trace) {
            (Some((id, _)), root) => SpanParent::Span(SpanKey::Deployment(id.clone()), root),
            (None, Some(root)) => SpanParent::Context(root),
            (None, None) => SpanParent::Root,
        };
        self.out.push(Effect::Trace(TraceOp::Record {
            key: allocate.clone(),
            name: "offer.allocate".to_owned(),
            kind: TraceKind::Internal,
            parent,
            start: waited_since,
            end: offered_at,
            attrs: waited,
        }));
        self.out.push(Effect::Trace(TraceOp::Record {
            key: accept.clone(),
            name: "offer.accept".to_owned(),
            kind: TraceKind::Internal,
            parent: SpanParent::Span(allocate, spec.trace),
            start: offered_at,
            end: now,
            attrs,
        }));
        accept
    }

    /// Tells the framework that tasks did not start; they were never registered.
    pub(super) fn turn_down(
        &mut self,
        tasks: Vec<TaskSpec>,
        agent: Option<&AgentId>,
        state: TaskState,
        reason: StatusReason,
        now: UnixMillis,
    ) {
        self.reject("accept_refused");
        let Some(agent) = agent.or(self.nobody.as_ref()) else {
            return;
        };
        let agent = agent.clone();
        for t in tasks {
            let message = "the offers of this launch can't be used".to_owned();
            let status = own_status(t.task_id, agent.clone(), state, Some(reason), message, now);
            self.tell_status(status, now);
        }
    }

    pub(super) fn kill_call(&mut self, task_id: TaskId, now: UnixMillis) {
        let wanted = |t: &mut Task| {
            t.kill_wanted = true;
            t.agent_id().clone()
        };
        let Some(agent) = self.tasks.change(&task_id, wanted) else {
            self.reject("kill_of_unknown_task");
            self.tell_unknown(task_id, now);
            return;
        };
        self.end(&agent, &task_id, now);
    }

    /// As [`MasterCore::kill_call`], with less time than the task's own if `grace` is less.
    pub(super) fn kill_within(&mut self, task_id: TaskId, grace: Option<Millis>, now: UnixMillis) {
        let own = self.tasks.get(&task_id).map(|t| t.spec.kill_grace);
        let Some(grace) = grace.filter(|g| own.is_some_and(|own| *g < own)) else {
            return self.kill_call(task_id, now);
        };
        let wanted = |t: &mut Task| {
            t.kill_wanted = true;
            t.agent_id().clone()
        };
        if let Some(agent) = self.tasks.change(&task_id, wanted) {
            let (grace, why) = (Some(grace), None);
            let msg = MasterMsg::Kill {
                task_id,
                grace,
                why,
            };
            self.send(&agent, msg);
        }
    }

    fn reconcile(&mut self, ids: &[TaskId], now: UnixMillis) {
        let asked: Vec<TaskId> = if ids.is_empty() {
            self.tasks.ids().cloned().collect()
        } else {
            ids.to_vec()
        };
        for id in asked {
            let Some(t) = self.tasks.get(&id) else {
                self.tell_unknown(id, now);
                continue;
            };
            let reason = Some(StatusReason::Reconciliation);
            let agent = t.agent_id().clone();
            let status = TaskStatus {
                health: t.health,
                ready: t.ready,
                check: t.check(),
                responses: t.responses().to_vec(),
                ..own_status(id, agent, t.state(), reason, String::new(), now)
            };
            self.tell_status(status, now);
        }
    }

    /// Tells the framework that nobody knows a task.
    fn tell_unknown(&mut self, task_id: TaskId, now: UnixMillis) {
        if let Some(agent) = self.nobody.clone() {
            let message = "the master does not know the task".to_owned();
            let reason = Some(StatusReason::Reconciliation);
            let status = own_status(task_id, agent, TaskState::Lost, reason, message, now);
            self.tell_status(status, now);
        }
    }

    pub(super) fn tell_status(&mut self, status: TaskStatus, now: UnixMillis) {
        self.schedule(Input::Scheduler(SchedulerEvent::Update(status)), now);
    }

    pub(super) fn tell_unreachable(&mut self, id: &AgentId, now: UnixMillis) {
        let agent_id = id.clone();
        self.schedule(Input::AgentUnreachable { agent_id }, now);
        self.tell_frameworks(&SchedulerEvent::AgentUnreachable(id.clone()));
        self.tell_owners_unreachable(id, now);
    }

    pub(super) fn tell_back(&mut self, id: &AgentId, now: UnixMillis) {
        let told = self
            .agents
            .all
            .get_mut(id)
            .is_some_and(|a| std::mem::take(&mut a.told_lost));
        if told {
            let agent_id = id.clone();
            self.schedule(Input::AgentBack { agent_id }, now);
        }
    }

    pub(super) fn tell_removed(&mut self, id: &AgentId, now: UnixMillis) {
        let event = SchedulerEvent::AgentLost(id.clone());
        self.tell_frameworks(&event);
        self.schedule(Input::Scheduler(event), now);
    }

    /// Subscribes the framework: from here on it launches.
    pub(super) fn subscribe_framework(&mut self, now: UnixMillis) {
        let framework_id = self.framework_id.clone();
        self.subscribed.clone_from(self.scheduler.roles());
        let event = SchedulerEvent::Subscribed { framework_id };
        self.schedule(Input::Scheduler(event), now);
        self.schedule(Input::Resume, now);
    }

    pub(super) fn tick_scheduler(&mut self, now: UnixMillis) {
        if self.scheduler.next_deadline().is_some_and(|at| at <= now) {
            self.schedule(Input::Tick, now);
        }
    }

    /// Hands running tasks to the frameworks that own them; those of one pod's instance together.
    pub(super) fn adopt_all(&mut self, ids: Vec<TaskId>, now: UnixMillis) {
        let mut instances: BTreeMap<String, Vec<TaskId>> = BTreeMap::new();
        for id in ids {
            let Some(task) = self.tasks.get(&id) else {
                continue;
            };
            if task.spec.framework_id == self.framework_id {
                let whole = match task.spec.executor {
                    Some(_) => id.instance(),
                    None => id.as_str(),
                };
                instances.entry(whole.to_owned()).or_default().push(id);
            } else if !self.frameworks.all.contains_key(&task.spec.framework_id) {
                self.reject("orphan_task");
            }
            // A registered framework hears of it by its statuses and by reconciling.
        }
        for ids in instances.into_values() {
            let mut all = ids.iter().filter_map(|id| self.adopted(id)).peekable();
            let Some((_, place, _)) = all.peek() else {
                continue;
            };
            let place = place.clone();
            let tasks = all.map(|(task, _, status)| (task, status)).collect();
            self.schedule(Input::Adopt { tasks, place }, now);
        }
    }

    /// A task as its framework takes it on.
    fn adopted(&self, id: &TaskId) -> Option<(TaskSpec, Place, TaskStatus)> {
        let task = self.tasks.get(id)?;
        let agent = self.agents.all.get(task.agent_id())?;
        let status = task.status()?;
        let place = Place {
            agent_id: task.agent_id().clone(),
            hostname: agent.info.hostname.clone(),
            ip: agent.info.ip,
            attributes: agent.info.attributes.clone(),
            domain: agent.info.domain.clone(),
        };
        Some((task.full_spec(), place, status))
    }
}

/// A status on the master's own account: not retried, not acknowledged.
pub(super) fn own_status(
    task_id: TaskId,
    agent_id: AgentId,
    state: TaskState,
    reason: Option<StatusReason>,
    message: String,
    now: UnixMillis,
) -> TaskStatus {
    TaskStatus {
        ip: None,
        ip6: None,
        ready: None,
        check: None,
        responses: Vec::new(),
        task_id,
        agent_id,
        state,
        health: HealthState::Unknown,
        reason,
        message,
        source: StatusSource::Master,
        at: now,
        uuid: None,
        executor: None,
    }
}

//! Around the heart: inputs change the picture, plans become calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waggle_types::{
    AgentId, DeploymentId, FrameworkId, Millis, OfferId, ResourcePart, Resources, SchedulerCall,
    SchedulerEvent, ServiceId, ServiceSpec, ServiceVersion, TaskId, TaskSpec, TaskState,
    TraceContext, UnixMillis,
};

use crate::{
    Action, Change, Context, Decision, DeclineReason, Deployment, DeploymentKind,
    DeploymentOutcome, Goal, HomeUse, Input, Instance, KillReason, Limits, OpenOffer, Place,
    Progress, QueueItem, Service,
    backoff::Delay,
    decisions::Waited,
    homes::Use,
    ids::{IdGen, task_of},
    matching::on_agent,
    pace::Pace,
    plan::Plan,
    pods::{self, Member, is_current_instance},
    queue::OfferSummary,
    reconcile::reconcile,
    residency::{self, Litter},
    task::{self, Identity},
    touched::{TouchedMap, Touches},
};

/// The service framework; see the crate's documentation.
#[derive(Debug, Clone)]
pub struct ServiceScheduler {
    pub(crate) of: Identity,
    pub(crate) limits: Limits,
    pub(crate) ids: IdGen,
    pub(crate) services: TouchedMap<ServiceId, Service>,
    /// Which service a task belongs to.
    pub(crate) tasks: BTreeMap<TaskId, ServiceId>,
    /// Tasks that no service claims, and when they were last told to end.
    pub(crate) strays: BTreeMap<TaskId, UnixMillis>,
    /// Homes of resident instances that have no use, by instance.
    pub(crate) litter: BTreeMap<String, Litter>,
    /// Services that say that others must not be where they are.
    pub(crate) apart: BTreeSet<ServiceId>,
    /// Roles that services of this life have run for.
    pub(crate) roles: BTreeSet<String>,
    timers: BTreeSet<(UnixMillis, ServiceId)>,
    hold: bool,
    /// What level 1 was last told: no offers wanted for these roles.
    suppressed: BTreeSet<String>,
    pub(crate) pace: Pace,
}

/// One `handle`: what it touched and what it answers.
#[derive(Default)]
pub(crate) struct Run {
    pub dirty: BTreeSet<ServiceId>,
    /// Something may fit now that did not before.
    pub revive: bool,
    pub actions: Vec<Action>,
}

impl ServiceScheduler {
    /// A scheduler without services. `seed` must differ between lives of the master: task ids come from it.
    pub fn new(framework_id: FrameworkId, framework_name: &str, seed: u64) -> Self {
        Self::with_limits(framework_id, framework_name, seed, Limits::default())
    }

    /// As [`Self::new`], with other limits than Marathon's.
    pub fn with_limits(
        framework_id: FrameworkId,
        framework_name: &str,
        seed: u64,
        limits: Limits,
    ) -> Self {
        Self {
            of: Identity {
                framework_id,
                framework_name: framework_name.to_owned(),
            },
            limits,
            ids: IdGen::new(seed),
            services: TouchedMap::new(),
            tasks: BTreeMap::new(),
            strays: BTreeMap::new(),
            litter: BTreeMap::new(),
            apart: BTreeSet::new(),
            roles: BTreeSet::from(["*".to_owned()]),
            timers: BTreeSet::new(),
            hold: false,
            suppressed: BTreeSet::new(),
            pace: Pace::default(),
        }
    }

    /// Takes an input, and everything that is due at `now`, and says what has to be done.
    pub fn handle(&mut self, input: Input, now: UnixMillis) -> Vec<Action> {
        let mut run = Run::default();
        let mut offers = Vec::new();
        while let Some((at, service)) = self.timers.first() {
            if *at > now {
                break;
            }
            run.dirty.insert(service.clone());
            self.timers.pop_first();
        }
        self.repeat_stray_kills(now, &mut run);
        self.take(input, now, &mut run, &mut offers);
        self.step(now, &mut run, &mut offers);
        self.ask_for_offers(now, &mut run);
        run.actions
    }

    /// When `Tick` is needed next.
    pub fn next_deadline(&self) -> Option<UnixMillis> {
        let stray = self
            .strays
            .values()
            .min()
            .map(|t| *t + self.limits.kill_retry);
        let timer = self.timers.first().map(|(at, _)| *at);
        let paced = self.pace.next(&self.limits);
        stray.into_iter().chain(timer).chain(paced).min()
    }

    /// Defined services, by id.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// One service.
    pub fn service(&self, id: &ServiceId) -> Option<&Service> {
        self.services.get(id)
    }

    /// All instances that are not known to have ended.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.services.values().flat_map(Service::instances)
    }

    /// One instance.
    pub fn instance(&self, task_id: &TaskId) -> Option<&Instance> {
        let service = self.services.get(self.tasks.get(task_id)?)?;
        service.instances.get(service.of_task(task_id)?)
    }

    /// The newest decision about the service that a task is of. What was waited for is the same for all that were
    /// launched together.
    pub fn newest_decision(&self, task_id: &TaskId) -> Option<&Decision> {
        let service = self.services.get(self.tasks.get(task_id)?)?;
        service.decisions().next_back().map(Arc::as_ref)
    }

    /// Deployments in flight, by service.
    pub fn deployments(&self) -> impl Iterator<Item = &Deployment> {
        self.services.values().filter_map(Service::deployment)
    }

    /// Services that may have changed since this was last asked, also those that are gone.
    pub fn take_touched(&mut self) -> Touches<ServiceId> {
        self.services.take_touches()
    }

    /// The launch queue, by service.
    pub fn queue(&self) -> impl Iterator<Item = QueueItem> {
        self.services.values().filter_map(Service::queue_item)
    }

    /// Roles that it wants offers for, or has wanted; `*` is one.
    pub fn roles(&self) -> &BTreeSet<String> {
        &self.roles
    }

    /// Of these roles, those that it has no use for now.
    pub fn suppressed_roles(&self) -> &BTreeSet<String> {
        &self.suppressed
    }

    /// Whether launches are held back.
    pub fn is_holding(&self) -> bool {
        self.hold
    }

    fn take(&mut self, input: Input, now: UnixMillis, run: &mut Run, offers: &mut Vec<OpenOffer>) {
        match input {
            Input::Scheduler(event) => match event {
                SchedulerEvent::Subscribed { .. } => {
                    // A new subscription starts out revived.
                    self.suppressed.clear();
                }
                SchedulerEvent::Offers(new) => {
                    offers.extend(new.into_iter().map(OpenOffer::from));
                    self.see_homes(offers, now, run);
                    let waiting = self.services.iter().filter(|(_, s)| s.n_waiting > 0);
                    run.dirty.extend(waiting.map(|(id, _)| id.clone()));
                }
                // Offers are never held, so there is nothing to give up. Who must leave an agent is killed when
                // its window begins, and replaced elsewhere like any that is killed. It has no executors.
                SchedulerEvent::Rescind(_)
                | SchedulerEvent::InverseOffer(_)
                | SchedulerEvent::RescindInverse(_)
                // Told by an input of its own.
                | SchedulerEvent::AgentUnreachable(_)
                | SchedulerEvent::ExecutorLost { .. }
                | SchedulerEvent::Message { .. } => {}
                SchedulerEvent::Update(status) => self.update(&status, now, run),
                SchedulerEvent::AgentLost(agent_id) => self.agent_lost(&agent_id, now, run),
            },
            Input::Put {
                spec,
                deployment_id,
                restart_before,
                trace,
            } => self.put(*spec, deployment_id, restart_before, trace, now, run),
            Input::Remove {
                id,
                deployment_id,
                trace,
            } => self.remove(&id, deployment_id, trace, now, run),
            Input::KillTasks { task_ids, wipe } => {
                for task_id in task_ids {
                    if let Some(id) = self.tasks.get(&task_id).cloned() {
                        if wipe && let Some(service) = self.services.get_mut(&id) {
                            let of = task_id.instance();
                            let home = service.homes.iter_mut().find(|h| h.id == of);
                            if let Some(h) = home {
                                h.doomed = true;
                            }
                        }
                        self.kill(&id, &task_id, KillReason::Requested, now, run);
                        run.dirty.insert(id);
                    }
                }
            }
            Input::AgentUnreachable { agent_id } => {
                self.on_agent(&agent_id, run, |i| {
                    let change = i.unreachable_since.is_none();
                    i.unreachable_since.get_or_insert(now);
                    change
                });
            }
            Input::AgentBack { agent_id } => {
                self.on_agent(&agent_id, run, |i| i.unreachable_since.take().is_some());
            }
            Input::Adopt { tasks, place } => self.adopt(tasks, place, now, run),
            Input::FoundHome {
                id,
                service,
                role,
                place,
                reserved,
                given_up,
            } => {
                if given_up || !self.is_whole(&id, &service, &reserved) {
                    self.give_up(id, role, place);
                } else {
                    self.found_home(id, &service, role, place, now, run);
                }
            }
            Input::HomeGone {
                id,
                service,
                agent_id,
            } => self.home_gone(&id, &service, &agent_id, run),
            Input::Hold => self.hold = true,
            Input::Resume => {
                self.hold = false;
                run.dirty.extend(self.services.keys().cloned());
            }
            Input::ResetDelay { id } => {
                if let Some(service) = self.services.get_mut(&id) {
                    service.delay = Delay::default();
                    run.dirty.insert(id);
                }
            }
            Input::Tick => {}
        }
    }

    fn put(
        &mut self,
        spec: ServiceSpec,
        deployment_id: Option<DeploymentId>,
        restart_before: Option<ServiceVersion>,
        trace: Option<TraceContext>,
        now: UnixMillis,
        run: &mut Run,
    ) {
        let id = spec.id.clone();
        let known = self.services.contains_key(&id);
        let service = self
            .services
            .get_or_insert_with(&id, || Service::new(spec.clone()));
        let same = service.instances.iter().all(|i| {
            let old = restart_before.is_some_and(|v| i.version < v);
            i.goal == Goal::Stop || (is_current_instance(&spec, i) && !old)
        });
        let kind = match (known, same) {
            (false, _) => DeploymentKind::Start,
            (true, true) => DeploymentKind::Scale,
            (true, false) => DeploymentKind::Restart,
        };
        self.roles.insert(spec.role().to_owned());
        if spec.placement.apart.is_empty() {
            self.apart.remove(&id);
        } else {
            self.apart.insert(id.clone());
        }
        service.spec = Arc::new(spec);
        service.removing = false;
        service.restart_before = restart_before;
        service.delay = Delay::default();
        service.offers = OfferSummary::default();
        service.trace = trace;
        self.deploy(&id, deployment_id, kind, now, run);
        // A changed demand may fit what was declined before, even when as many are missing as before.
        run.revive = true;
        run.dirty.insert(id);
    }

    fn remove(
        &mut self,
        id: &ServiceId,
        deployment_id: Option<DeploymentId>,
        trace: Option<TraceContext>,
        now: UnixMillis,
        run: &mut Run,
    ) {
        let Some(service) = self.services.get_mut(id) else {
            return;
        };
        service.removing = true;
        service.trace = trace;
        self.deploy(id, deployment_id, DeploymentKind::Stop, now, run);
        run.dirty.insert(id.clone());
    }

    fn deploy(
        &mut self,
        id: &ServiceId,
        deployment_id: Option<DeploymentId>,
        kind: DeploymentKind,
        now: UnixMillis,
        run: &mut Run,
    ) {
        let Some(service) = self.services.get_mut(id) else {
            return;
        };
        let new = deployment_id.map(|new_id| Deployment {
            id: new_id,
            service: id.clone(),
            version: service.spec.version,
            kind,
            since: now,
            progress: Progress::default(),
            trace: service.trace,
        });
        if let Some(old) = std::mem::replace(&mut service.deployment, new) {
            run.actions.push(Action::DeploymentDone {
                deployment_id: old.id,
                service: id.clone(),
                outcome: DeploymentOutcome::Superseded,
            });
        }
    }

    /// Looks at every service that was touched, the longest waiting first, and then answers all offers.
    fn step(&mut self, now: UnixMillis, run: &mut Run, offers: &mut [OpenOffer]) {
        let mut order: Vec<(Option<UnixMillis>, ServiceId)> = std::mem::take(&mut run.dirty)
            .into_iter()
            .map(|id| {
                let since = self.services.get(&id).and_then(|s| s.waiting_since);
                (Some(since.unwrap_or(UnixMillis(u64::MAX))), id)
            })
            .collect();
        order.sort();
        let mut accepts: BTreeMap<usize, Use> = BTreeMap::new();
        let mut tokens = self.tokens(now);
        run.revive |= self.pace.has_tokens_again(tokens);
        for (_, id) in order {
            self.step_service(&id, now, run, offers, (&mut accepts, &mut tokens));
        }
        self.pace.wait_for_tokens(tokens, self.first_launch(now));
        // Who has to be with what was launched may fit now.
        let joins = |s: &Service| s.n_waiting > 0 && !s.spec.placement.with.is_empty();
        run.revive |= !accepts.is_empty() && self.services.values().any(joins);
        self.answer(offers, accepts, run);
    }

    fn step_service(
        &mut self,
        id: &ServiceId,
        now: UnixMillis,
        run: &mut Run,
        offers: &mut [OpenOffer],
        (accepts, tokens): (&mut BTreeMap<usize, Use>, &mut Option<usize>),
    ) {
        let around = self.around(id);
        let Some(service) = self.services.get_mut(id) else {
            return;
        };
        let mut context = Context {
            around,
            homes: service.homes.clone(),
            removing: service.removing,
            hold: self.hold,
            not_before: service.delay.until,
            restart_before: service.restart_before,
            seed: self.ids.next(),
            limits: self.limits,
            tokens: *tokens,
        };
        let spec = Arc::clone(&service.spec);
        let plan = reconcile(&spec, &service.instances, offers, &context, now);
        if let Some(left) = tokens {
            *left = left.saturating_sub(plan.launches.len());
        }
        self.pace.short |= plan.short_of_tokens;
        let trace = service.trace;
        let waited = Waited::of(service, offers, &plan);
        for l in &plan.launches {
            let offer = &offers[l.offer_idx].offer;
            let (instance, launch) = match &l.home {
                Some(HomeUse::Back(home)) => (home.clone(), self.ids.next_launch()),
                Some(HomeUse::New) | None => (self.ids.instance(&spec), 1),
            };
            let mut parts = l.parts.clone();
            let mut operations = Vec::new();
            if l.home == Some(HomeUse::New) {
                let made = residency::make(&spec, &self.of.framework_name, &instance);
                let Some((made, part)) = made else {
                    continue;
                };
                operations = made;
                let ports = Resources::default().with_ports(on_agent(&l.host_ports));
                parts = vec![part];
                if !ports.is_empty() {
                    parts.push(ResourcePart::plain(ports));
                }
            }
            let how = (l.host_ports.as_slice(), parts);
            let tasks = if spec.pod.is_some() {
                let which = (instance.as_str(), launch);
                pods::build(&spec, &self.of, which, offer, how, trace)
            } else {
                let id = task_of(&instance, "_app", launch);
                id.map(|id| vec![task::build(&spec, &self.of, id, offer, how, trace)])
            };
            let Some(tasks) = tasks else {
                continue;
            };
            if l.home == Some(HomeUse::New) {
                self.home_made(id, instance.clone(), Place::from(offer), now);
            }
            if let Some(service) = self.services.get_mut(id) {
                let on = (instance, offer.hostname.clone());
                service.decisions.note(waited.decision(on, l.choice, now));
            }
            self.launched(id, &tasks, offer, now, run);
            let to = accepts.entry(l.offer_idx).or_default();
            to.operations.extend(operations);
            to.tasks.extend(tasks);
        }
        if !plan.abandon.is_empty() {
            self.leave_homes(id, |h| plan.abandon.contains(&h.id));
        }
        for k in &plan.kills {
            self.kill(id, &k.task_id, k.reason, now, run);
        }
        for t in &plan.expunge {
            self.forget(id, t, Change::Expunged, run);
            run.revive = true;
        }
        // A second look, with what was just decided done and no offers left: what to wait for, and until
        // when. It decides nothing new.
        let Some(service) = self.services.get(id) else {
            return;
        };
        context.homes.clone_from(&service.homes);
        let after = reconcile(&spec, &service.instances, &mut [], &context, now);
        debug_assert!(after.is_empty(), "not a fixpoint: {after}");
        self.bookkeeping(id, &plan, &after, offers, now, run);
        self.progress(id, after.done, run);
    }

    fn launched(
        &mut self,
        id: &ServiceId,
        tasks: &[TaskSpec],
        offer: &waggle_types::Offer,
        now: UnixMillis,
        run: &mut Run,
    ) {
        let Some(service) = self.services.get(id) else {
            return;
        };
        let whole = match tasks {
            [one] if one.executor.is_none() => Some(one.clone()),
            all => pods::whole(&all.iter().collect::<Vec<_>>()),
        };
        let Some(task) = whole else {
            return;
        };
        let members = tasks.iter().filter(|t| t.executor.is_some());
        let instance = Instance {
            members: members.cloned().map(Member::new).collect(),
            task: Arc::new(task),
            version: service.spec.version,
            place: Place::from(offer),
            state: TaskState::Staging,
            health: waggle_types::HealthState::Unknown,
            ready: None,
            goal: Goal::Run,
            staged_at: now,
            started_at: None,
            unreachable_since: None,
            kill_sent_at: None,
        };
        run.actions.push(Action::InstanceChanged {
            instance: Box::new(instance.clone()),
            change: Change::Launched,
        });
        self.enter(id, instance);
    }

    /// Waiting counts, queue and timer: `plan` is what was decided, `after` what is left.
    fn bookkeeping(
        &mut self,
        id: &ServiceId,
        plan: &Plan,
        after: &Plan,
        offers: &[OpenOffer],
        now: UnixMillis,
        run: &mut Run,
    ) {
        let Some(service) = self.services.get_mut(id) else {
            return;
        };
        if after.n_waiting > service.n_waiting {
            run.revive = true;
        }
        service.n_waiting = after.n_waiting;
        service.n_delayed = after.n_delayed;
        if offers.iter().any(|o| o.offer.role == service.spec.role()) {
            let used: BTreeSet<usize> = plan.launches.iter().map(|l| l.offer_idx).collect();
            let n_used = used.len() as u64;
            service.offers.saw(n_used, &plan.refusals, offers, now);
            run.actions
                .extend(plan.refusals.iter().map(|r| Action::Declined {
                    offer_id: r.offer_id.clone(),
                    service: Some(id.clone()),
                    reason: r.reason,
                }));
        }
        if after.n_waiting + after.n_delayed == 0 {
            service.waiting_since = None;
            service.offers = OfferSummary::default();
        } else {
            service.waiting_since.get_or_insert(now);
        }
        if let Some(old) = service.due.take() {
            self.timers.remove(&(old, id.clone()));
        }
        service.due = after.look_again;
        if let Some(at) = service.due {
            self.timers.insert((at, id.clone()));
        }
    }

    fn progress(&mut self, id: &ServiceId, done: bool, run: &mut Run) {
        let Some(service) = self.services.get_mut(id) else {
            return;
        };
        let progress = service.progress();
        if let Some(d) = &mut service.deployment
            && d.progress != progress
        {
            d.progress = progress;
            run.actions.push(Action::DeploymentStep {
                deployment_id: d.id.clone(),
                service: id.clone(),
                kind: d.kind,
                progress,
            });
        }
        if !done {
            return;
        }
        if let Some(d) = service.deployment.take() {
            run.actions.push(Action::DeploymentDone {
                deployment_id: d.id,
                service: id.clone(),
                outcome: DeploymentOutcome::Finished,
            });
        }
        if service.removing {
            if let Some(at) = service.due {
                self.timers.remove(&(at, id.clone()));
            }
            self.leave_homes(id, |_| true);
            self.apart.remove(id);
            self.services.remove(id);
            run.actions.push(Action::ServiceGone {
                service: id.clone(),
            });
        }
    }

    /// Each offer is accepted or declined, now.
    fn answer(&mut self, offers: &[OpenOffer], mut accepts: BTreeMap<usize, Use>, run: &mut Run) {
        let any_waits = self.services.values().any(|s| s.n_waiting > 0);
        let refuse = self.limits.decline_duration;
        let mut unused: Vec<OfferId> = Vec::new();
        for (i, o) in offers.iter().enumerate() {
            let offer_id = o.offer.offer_id.clone();
            let used = accepts.remove(&i).filter(|u| !u.tasks.is_empty());
            let mut operations = self.clean(o);
            if let Some(used) = used {
                // More may fit on the rest when only the limit per offer stopped us.
                let full = o.n_launched >= self.limits.max_instances_per_offer;
                let refuse = if full && any_waits { Millis(0) } else { refuse };
                operations.extend(used.operations());
                run.actions.push(Action::Call(SchedulerCall::Accept {
                    offer_ids: vec![offer_id],
                    operations,
                    refuse,
                }));
                continue;
            }
            if operations.is_empty() {
                if !any_waits {
                    run.actions.push(Action::Declined {
                        offer_id: offer_id.clone(),
                        service: None,
                        reason: DeclineReason::NoWaitingInstance,
                    });
                }
                unused.push(offer_id);
            } else {
                // What is given back may be of use to a service that waits.
                run.actions.push(Action::Call(SchedulerCall::Accept {
                    offer_ids: vec![offer_id],
                    operations,
                    refuse: Millis(0),
                }));
            }
        }
        if !unused.is_empty() {
            run.actions.push(Action::Call(SchedulerCall::Decline {
                offer_ids: unused,
                refuse,
            }));
        }
    }

    /// Roles for which something waits for offers.
    fn waiting_roles(&self) -> BTreeSet<String> {
        let waiting = self.services.values().filter(|s| s.n_waiting > 0);
        let waiting = waiting.map(|s| s.spec.role().to_owned());
        let litter = self.litter.values().map(|l| l.role.clone());
        waiting.chain(litter).collect()
    }

    fn ask_for_offers(&mut self, now: UnixMillis, run: &mut Run) {
        let waiting = self.waiting_roles();
        let quiet = self.roles.difference(&waiting);
        let quiet: Vec<String> = quiet
            .filter(|r| !self.suppressed.contains(*r))
            .cloned()
            .collect();
        let revive = run.revive || self.pace.revive;
        let loud = waiting.iter();
        let mut loud: Vec<String> = loud
            .filter(|r| revive || self.suppressed.contains(*r))
            .cloned()
            .collect();
        self.pace.revive = !loud.is_empty() && self.pace.is_early(&self.limits, now);
        if self.pace.revive {
            loud.clear();
        }
        if !quiet.is_empty() {
            self.suppressed.extend(quiet.iter().cloned());
            let call = SchedulerCall::Suppress { roles: quiet };
            run.actions.push(Action::Call(call));
        }
        if !loud.is_empty() {
            self.suppressed.retain(|r| !loud.contains(r));
            self.pace.revived_at = Some(now);
            let call = SchedulerCall::Revive { roles: loud };
            run.actions.push(Action::Call(call));
        }
    }

    fn agent_lost(&mut self, agent_id: &AgentId, now: UnixMillis, run: &mut Run) {
        let gone: Vec<TaskId> = self
            .instances()
            .filter(|i| i.place.agent_id == *agent_id)
            .map(|i| i.task_id().clone())
            .collect();
        for task_id in gone {
            self.ended_with_agent(&task_id, now, run);
        }
        self.forget_homes(agent_id, run);
    }
}

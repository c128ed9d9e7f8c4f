//! Frameworks other than the built-in one: who is registered, what each is told, what each may do.
//!
//! A framework is registered once and stored; subscriptions come and go. Without one it gets no offers;
//! what its tasks say waits, unacknowledged, with the agents. After its failover time-out it is removed and
//! its tasks are killed, also those that turn up later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use waggle_allocator::{Effect as Level1Effect, Event as Level1, Rejection};
use waggle_types::{
    AgentId, CallRejection, FrameworkId, FrameworkInfo, Millis, OfferId, RejectReason,
    SchedulerCall, SchedulerEvent, StatusReason, StatusUuid, TaskId, TaskSpec, TaskState,
    TaskStatus, UnixMillis,
};

use super::{
    Effect, MasterCore, SERVICE_FRAMEWORK,
    event::{FrameworkCall, SubscriptionId},
    intents::sum,
    levels::own_status,
    stored,
};

/// Removed frameworks that are remembered, so that they do not come back; the oldest are forgotten.
const MAX_REMOVED: usize = 1000;
/// Ended tasks whose end is not acknowledged by their framework. Beyond it the master acknowledges in
/// the framework's place, and counts: reconciliation tells the rest.
const MAX_UNACKED: usize = 100_000;
/// Frameworks that were registered with the master before have at least this long to find the new one.
const FIND_MASTER: Millis = Millis::from_secs(60);

/// A registered framework.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framework {
    /// DNS name.
    pub name: String,
    /// Role that it gets offers for.
    pub role: String,
    /// How long it may stay away.
    pub failover_timeout: Millis,
    /// Its first subscription.
    pub registered_at: UnixMillis,
    /// Its newest subscription.
    pub(super) reregistered_at: UnixMillis,
    /// The open subscription.
    pub(super) subscription: Option<SubscriptionId>,
    /// While it is away: when it is removed.
    pub(super) gone_at: Option<UnixMillis>,
    pub(super) suppressed: bool,
}

impl Framework {
    /// As stored: away.
    pub(super) fn stored(
        name: String,
        role: String,
        failover_timeout: Millis,
        registered_at: UnixMillis,
    ) -> Self {
        Self {
            name,
            role,
            failover_timeout,
            registered_at,
            reregistered_at: registered_at,
            subscription: None,
            gone_at: None,
            suppressed: false,
        }
    }
}

/// The end of a task that its framework has not acknowledged.
#[derive(Debug, Clone)]
struct Unacked {
    framework_id: FrameworkId,
    agent_id: AgentId,
    /// `None` until the agent has said it to this master.
    status: Option<TaskStatus>,
}

/// The registry.
#[derive(Debug, Clone, Default)]
pub(super) struct Frameworks {
    pub(super) all: BTreeMap<FrameworkId, Framework>,
    by_subscription: BTreeMap<SubscriptionId, FrameworkId>,
    /// Oldest first.
    removed: VecDeque<FrameworkId>,
    unacked: BTreeMap<TaskId, Unacked>,
}

impl Frameworks {
    /// The registry as stored; every framework has to find this master.
    pub(super) fn restored(
        mut all: BTreeMap<FrameworkId, Framework>,
        removed: Vec<FrameworkId>,
        now: UnixMillis,
    ) -> Self {
        for f in all.values_mut() {
            f.gone_at = Some(now + f.failover_timeout.max(FIND_MASTER));
        }
        Self {
            all,
            removed: removed.into(),
            ..Self::default()
        }
    }

    pub(super) fn is_removed(&self, id: &FrameworkId) -> bool {
        self.removed.contains(id)
    }

    /// The next moment at which one is removed.
    pub(super) fn next_timeout(&self) -> Option<UnixMillis> {
        self.all.values().filter_map(|f| f.gone_at).min()
    }
}

type Called = Result<(), Vec<CallRejection>>;

fn no(
    reason: RejectReason,
    object: &(impl ToString + ?Sized),
    message: impl Into<String>,
) -> CallRejection {
    CallRejection::new(reason, object.to_string(), message)
}

impl MasterCore {
    /// Registers a framework, or takes it up again, and opens its subscription.
    pub(super) fn subscribe(
        &mut self,
        subscription: SubscriptionId,
        info: FrameworkInfo,
        fresh_id: FrameworkId,
        now: UnixMillis,
    ) -> Called {
        let id = self.admit_framework(&info, fresh_id).map_err(|r| {
            self.reject(r.reason.name());
            vec![r]
        })?;
        let known = self.frameworks.all.get(&id);
        let unchanged = known.is_some_and(|f| {
            f.name == info.name
                && f.role == info.role
                && f.failover_timeout == info.failover_timeout
        });
        if let Some(old) = known.and_then(|f| f.subscription) {
            self.frameworks.by_subscription.remove(&old);
            let message = "another process subscribed with this framework's id";
            let why = no(RejectReason::Replaced, &id, message);
            self.out.push(Effect::CloseFramework {
                subscription: old,
                why,
            });
        }
        let registered_at = known.map_or(now, |f| f.registered_at);
        let framework = Framework {
            reregistered_at: now,
            subscription: Some(subscription),
            ..Framework::stored(
                info.name,
                info.role.clone(),
                info.failover_timeout,
                registered_at,
            )
        };
        if !unchanged {
            self.persist(vec![stored::put_framework(&id, &framework)]);
        }
        self.frameworks.all.insert(id.clone(), framework);
        self.frameworks
            .by_subscription
            .insert(subscription, id.clone());
        let event = SchedulerEvent::Subscribed {
            framework_id: id.clone(),
        };
        self.send_framework(&id, event);
        // What it has not acknowledged it hears again at once, not when the agents try again.
        let missed: Vec<TaskStatus> = self
            .frameworks
            .unacked
            .values()
            .filter(|u| u.framework_id == id)
            .filter_map(|u| u.status.clone())
            .collect();
        for status in missed {
            self.send_framework(&id, SchedulerEvent::Update(status));
        }
        self.allocate(
            Level1::FrameworkAdded {
                framework_id: id,
                role: info.role,
                weight_milli: 1000,
            },
            now,
        );
        Ok(())
    }

    fn admit_framework(
        &self,
        info: &FrameworkInfo,
        fresh_id: FrameworkId,
    ) -> Result<FrameworkId, CallRejection> {
        info.check()?;
        if info.name == SERVICE_FRAMEWORK {
            let rule = "is the name of the master's own framework";
            return Err(no(RejectReason::Invalid, "name", rule));
        }
        let id = info.id.clone().unwrap_or(fresh_id);
        if id == self.framework_id {
            let message = "the id is the master's own framework's";
            return Err(no(RejectReason::ReservedFramework, &id, message));
        }
        if self.frameworks.is_removed(&id) {
            let message = "the framework was removed; subscribe without an id";
            return Err(no(RejectReason::FrameworkRemoved, &id, message));
        }
        let max = self.config.max_frameworks;
        if !self.frameworks.all.contains_key(&id) && self.frameworks.all.len() >= max {
            let message = format!("the limit of {max} frameworks is reached");
            return Err(no(RejectReason::TooMany, &id, message));
        }
        Ok(id)
    }

    /// A subscription ended: no offers from here on, and the clock of the failover time-out runs.
    pub(super) fn unsubscribed(&mut self, subscription: SubscriptionId, now: UnixMillis) {
        let Some(id) = self.frameworks.by_subscription.remove(&subscription) else {
            return;
        };
        if let Some(f) = self.frameworks.all.get_mut(&id) {
            f.subscription = None;
            f.gone_at = Some(now + f.failover_timeout);
        }
        self.allocate(Level1::FrameworkRemoved { framework_id: id }, now);
    }

    /// Removes frameworks that stayed away for too long.
    pub(super) fn remove_gone_frameworks(&mut self, now: UnixMillis) {
        let due: Vec<FrameworkId> = self
            .frameworks
            .all
            .iter()
            .filter(|(_, f)| f.gone_at.is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.reject("framework_stayed_away");
            self.remove_framework(&id, now);
        }
    }

    /// Forgets a framework, kills its tasks and never takes its id again.
    fn remove_framework(&mut self, id: &FrameworkId, now: UnixMillis) {
        let Some(f) = self.frameworks.all.remove(id) else {
            return;
        };
        let mut ops = vec![stored::delete_framework(id), stored::put_removed(id)];
        self.frameworks.removed.push_back(id.clone());
        while self.frameworks.removed.len() > MAX_REMOVED {
            if let Some(old) = self.frameworks.removed.pop_front() {
                ops.push(stored::delete_removed(&old));
            }
        }
        self.persist(ops);
        if let Some(subscription) = f.subscription {
            self.frameworks.by_subscription.remove(&subscription);
            let message = "the framework was removed";
            let why = no(RejectReason::FrameworkRemoved, id, message);
            self.out.push(Effect::CloseFramework { subscription, why });
        }
        let framework_id = id.clone();
        self.allocate(Level1::FrameworkRemoved { framework_id }, now);
        // Nobody is left to acknowledge.
        let (gone, kept) = std::mem::take(&mut self.frameworks.unacked)
            .into_iter()
            .partition(|(_, u)| u.framework_id == *id);
        self.frameworks.unacked = kept;
        let gone: BTreeMap<TaskId, Unacked> = gone;
        for status in gone.into_values().filter_map(|u| u.status) {
            self.acknowledge(&status);
        }
        let tasks = self.tasks.live.iter();
        let tasks: Vec<TaskId> = tasks
            .filter(|(_, t)| t.spec.framework_id == *id)
            .map(|(task, _)| task.clone())
            .collect();
        for task in tasks {
            self.kill_call(task, now);
        }
    }

    /// One call of a framework.
    pub(super) fn framework_call(
        &mut self,
        id: &FrameworkId,
        subscription: SubscriptionId,
        call: FrameworkCall,
        now: UnixMillis,
    ) -> Called {
        let called = self
            .check_caller(id, subscription)
            .map_err(|r| vec![r])
            .and_then(|()| self.do_call(id, call, now));
        if let Err(all) = &called {
            for r in all {
                self.reject(r.reason.name());
            }
        }
        called
    }

    fn check_caller(
        &self,
        id: &FrameworkId,
        subscription: SubscriptionId,
    ) -> Result<(), CallRejection> {
        let Some(f) = self.frameworks.all.get(id) else {
            let (reason, message) = if self.frameworks.is_removed(id) {
                let message = "the framework was removed; subscribe without an id";
                (RejectReason::FrameworkRemoved, message)
            } else {
                let message = "no such framework; subscribe first";
                (RejectReason::UnknownFramework, message)
            };
            return Err(no(reason, id, message));
        };
        if f.subscription != Some(subscription) {
            let message = "the subscription is not the open one; subscribe again";
            return Err(no(RejectReason::NotSubscribed, id, message));
        }
        Ok(())
    }

    fn do_call(&mut self, id: &FrameworkId, call: FrameworkCall, now: UnixMillis) -> Called {
        let framework_id = id.clone();
        match call {
            FrameworkCall::Teardown => self.remove_framework(id, now),
            FrameworkCall::Scheduler(call) => match call {
                SchedulerCall::Accept {
                    offer_ids,
                    tasks,
                    refuse,
                } => return self.framework_accept(id, &offer_ids, tasks, refuse, now),
                SchedulerCall::Decline { offer_ids, refuse } => {
                    return self.framework_decline(id, offer_ids, refuse, now);
                }
                SchedulerCall::Kill { task_id } => {
                    self.check_task(id, &task_id).map_err(|r| vec![r])?;
                    self.kill_call(task_id, now);
                }
                SchedulerCall::Acknowledge {
                    task_id,
                    agent_id,
                    uuid,
                } => self
                    .framework_ack(id, &task_id, &agent_id, uuid)
                    .map_err(|r| vec![r])?,
                SchedulerCall::Reconcile { task_ids } => {
                    self.framework_reconcile(id, &task_ids, now);
                }
                SchedulerCall::Suppress => {
                    self.set_suppressed(id, true);
                    self.allocate(Level1::Suppress { framework_id }, now);
                }
                SchedulerCall::Revive => {
                    self.set_suppressed(id, false);
                    self.allocate(Level1::Revive { framework_id }, now);
                }
            },
        }
        Ok(())
    }

    fn set_suppressed(&mut self, id: &FrameworkId, suppressed: bool) {
        if let Some(f) = self.frameworks.all.get_mut(id) {
            f.suppressed = suppressed;
        }
    }

    fn check_task(&self, id: &FrameworkId, task: &TaskId) -> Result<(), CallRejection> {
        match self.tasks.live.get(task) {
            None => Err(no(RejectReason::UnknownTask, task, "nobody has this task")),
            Some(t) if t.spec.framework_id != *id => Err(no(
                RejectReason::ForeignTask,
                task,
                "the task is another framework's",
            )),
            Some(_) => Ok(()),
        }
    }

    /// Whether each offer is out to this framework; each problem once.
    fn check_offers(&self, id: &FrameworkId, offer_ids: &[OfferId]) -> Vec<CallRejection> {
        let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
        for offer_id in offer_ids {
            if !seen.insert(offer_id) {
                let message = "the offer is named twice";
                wrong.push(no(RejectReason::DuplicateOffer, offer_id, message));
                continue;
            }
            match self.out_offers.get(offer_id) {
                None => {
                    let message = "the offer is no longer valid";
                    wrong.push(no(RejectReason::StaleOffer, offer_id, message));
                }
                Some(o) if o.framework_id != *id => {
                    let message = "the offer was made to another framework";
                    wrong.push(no(RejectReason::ForeignOffer, offer_id, message));
                }
                Some(_) => {}
            }
        }
        wrong
    }

    fn framework_accept(
        &mut self,
        id: &FrameworkId,
        offer_ids: &[OfferId],
        tasks: Vec<TaskSpec>,
        refuse: Millis,
        now: UnixMillis,
    ) -> Called {
        let mut wrong = self.check_offers(id, offer_ids);
        if offer_ids.is_empty() {
            let message = "an accept must name an offer";
            wrong.push(no(RejectReason::NoOffers, "offer_ids", message));
        }
        let offers: Vec<_> = offer_ids
            .iter()
            .filter_map(|o| self.out_offers.get(o))
            .collect();
        let offered_at = offers.iter().map(|o| o.at).min().unwrap_or(now);
        let agents: BTreeSet<&AgentId> = offers.iter().map(|o| &o.agent_id).collect();
        if let (Some(first), Some(last), true) = (agents.first(), agents.last(), agents.len() > 1) {
            let message = format!("offers of {first} and {last} can't pay for one launch");
            wrong.push(no(RejectReason::MixedAgents, "offer_ids", message));
        }
        let agent = agents.first().map(|a| (*a).clone());
        let role = offers.first().map(|o| o.role.clone());
        wrong.extend(self.check_launches(&tasks));
        if let Some(a) = agent.as_ref().filter(|a| self.agents.session(a).is_none()) {
            let message = "the agent is not connected now";
            wrong.push(no(RejectReason::AgentDisconnected, a, message));
        }
        let used = sum(tasks.iter().map(|t| &t.resources));
        if used.is_none() {
            let message = "two tasks want the same port";
            wrong.push(no(RejectReason::Invalid, "launch", message));
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let (Some(agent), Some(role), Some(used)) = (agent, role, used) else {
            return Ok(());
        };
        let effects = self.allocator.apply(
            Level1::Accepted {
                framework_id: id.clone(),
                offer_ids: offer_ids.to_vec(),
                used,
                refuse,
            },
            now,
        );
        let refused = effects.iter().find_map(|e| match e {
            Level1Effect::Rejected {
                what: "accept",
                reason,
            } => Some(level_1_says(reason)),
            _ => None,
        });
        if let Some(r) = refused {
            return Err(vec![r]);
        }
        self.take_level_1(effects);
        let outcome = if tasks.is_empty() {
            "declined"
        } else {
            "accepted"
        };
        self.close_offers(offer_ids, outcome, now);
        let name = self.frameworks.all.get(id).map(|f| f.name.clone());
        let mut traced = BTreeSet::new();
        for spec in tasks {
            let spec = TaskSpec {
                framework_id: id.clone(),
                framework_name: name.clone().unwrap_or_default(),
                role: role.clone(),
                ..spec
            };
            self.launch(spec, &agent, offered_at, &mut traced, now);
        }
        Ok(())
    }

    fn check_launches(&self, tasks: &[TaskSpec]) -> Vec<CallRejection> {
        let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
        for t in tasks {
            let id = &t.task_id;
            let known =
                self.tasks.live.contains_key(id) || self.frameworks.unacked.contains_key(id);
            if !seen.insert(id) || known {
                let message = "a task with this id exists, or its end is not acknowledged yet";
                wrong.push(no(RejectReason::DuplicateTask, id, message));
            }
            // Else there would be no end of tasks on one offer.
            if t.resources.scalars.iter().all(|s| s.0 == 0) {
                let message = "the task must take some cpus, mem, disk or gpus";
                wrong.push(no(RejectReason::Invalid, id, message));
            }
        }
        wrong
    }

    /// Offers that are no longer out race with their rescind: they are named, the others declined.
    fn framework_decline(
        &mut self,
        id: &FrameworkId,
        offer_ids: Vec<OfferId>,
        refuse: Millis,
        now: UnixMillis,
    ) -> Called {
        let wrong = self.check_offers(id, &offer_ids);
        let mine: BTreeSet<OfferId> = offer_ids
            .into_iter()
            .filter(|o| {
                let offer = self.out_offers.get(o);
                offer.is_some_and(|o| o.framework_id == *id)
            })
            .collect();
        let offer_ids: Vec<OfferId> = mine.into_iter().collect();
        if !offer_ids.is_empty() {
            self.close_offers(&offer_ids, "declined", now);
            self.allocate(
                Level1::Declined {
                    framework_id: id.clone(),
                    offer_ids,
                    refuse,
                },
                now,
            );
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    fn framework_ack(
        &mut self,
        id: &FrameworkId,
        task_id: &TaskId,
        agent_id: &AgentId,
        uuid: StatusUuid,
    ) -> Result<(), CallRejection> {
        if let Some(u) = self.frameworks.unacked.get(task_id) {
            if u.framework_id != *id {
                let message = "the task is another framework's";
                return Err(no(RejectReason::ForeignTask, task_id, message));
            }
            let newest = u.status.as_ref().and_then(|s| s.uuid);
            if newest == Some(uuid) {
                self.frameworks.unacked.remove(task_id);
            }
        } else if self.tasks.live.contains_key(task_id) {
            self.check_task(id, task_id)?;
        } else {
            // Acknowledged before, or given up: a late word is no mistake.
            return Ok(());
        }
        if self.agents.session(agent_id).is_some() {
            let task_id = task_id.clone();
            self.send(agent_id, super::MasterMsg::Ack { task_id, uuid });
        }
        Ok(())
    }

    fn framework_reconcile(&mut self, id: &FrameworkId, task_ids: &[TaskId], now: UnixMillis) {
        let mine = |t: &TaskId| self.check_task(id, t).is_ok();
        let asked: Vec<(TaskId, bool)> = if task_ids.is_empty() {
            let live = self.tasks.live.keys();
            live.filter(|t| mine(t))
                .map(|t| (t.clone(), true))
                .collect()
        } else {
            task_ids.iter().map(|t| (t.clone(), mine(t))).collect()
        };
        for (task_id, known) in asked {
            let reason = Some(StatusReason::Reconciliation);
            let status = if let Some(t) = self.tasks.live.get(&task_id).filter(|_| known) {
                let agent = t.agent_id.clone();
                TaskStatus {
                    health: t.health,
                    ..own_status(task_id, agent, t.state(), reason, String::new(), now)
                }
            } else if self.recovering {
                // It may be on an agent that is not back yet.
                continue;
            } else {
                let Some(agent) = self.nobody.clone() else {
                    continue;
                };
                let message = "the master does not know the task".to_owned();
                own_status(task_id, agent, TaskState::Unknown, reason, message, now)
            };
            self.send_framework(id, SchedulerEvent::Update(status));
        }
    }

    /// Says something to a framework, if it is there to hear.
    pub(super) fn send_framework(&mut self, id: &FrameworkId, event: SchedulerEvent) {
        let framework = self.frameworks.all.get(id);
        if let Some(subscription) = framework.and_then(|f| f.subscription) {
            self.out.push(Effect::SendFramework {
                subscription,
                event,
            });
        }
    }

    /// Routes a status to the framework that owns the task, which acknowledges it; without one the
    /// master does.
    pub(super) fn tell_owner(&mut self, owner: &FrameworkId, status: TaskStatus) {
        if !self.frameworks.all.contains_key(owner) {
            self.acknowledge(&status);
            return;
        }
        if status.state.is_terminal() && status.uuid.is_some() {
            self.keep_unacked(owner, &status.task_id, &status.agent_id, Some(&status));
        }
        self.send_framework(owner, SchedulerEvent::Update(status));
    }

    /// Remembers that the end of a task is still to be acknowledged by its framework.
    pub(super) fn keep_unacked(
        &mut self,
        owner: &FrameworkId,
        task_id: &TaskId,
        agent_id: &AgentId,
        status: Option<&TaskStatus>,
    ) {
        if !self.frameworks.all.contains_key(owner) {
            return;
        }
        let full = self.frameworks.unacked.len() >= MAX_UNACKED;
        if full && !self.frameworks.unacked.contains_key(task_id) {
            self.reject("too_many_unacknowledged");
            if let Some(status) = status {
                self.acknowledge(status);
            }
            return;
        }
        let unacked = Unacked {
            framework_id: owner.clone(),
            agent_id: agent_id.clone(),
            status: status.cloned(),
        };
        self.frameworks.unacked.insert(task_id.clone(), unacked);
    }

    /// A status of a task that has ended for the registry: told again if its framework has not
    /// acknowledged the end. Answers whether somebody will acknowledge it.
    pub(super) fn repeat_end(&mut self, status: &TaskStatus) -> bool {
        let Some(u) = self.frameworks.unacked.get_mut(&status.task_id) else {
            return false;
        };
        if u.agent_id != status.agent_id || !status.state.is_terminal() {
            return false;
        }
        u.status = Some(status.clone());
        let owner = u.framework_id.clone();
        self.send_framework(&owner, SchedulerEvent::Update(status.clone()));
        true
    }

    /// Tells the owners of an agent's tasks that these are out of reach.
    pub(super) fn tell_owners_unreachable(&mut self, agent: &AgentId, now: UnixMillis) {
        for task_id in self.tasks.on_agent(agent) {
            let Some(t) = self.tasks.live.get(&task_id) else {
                continue;
            };
            let owner = t.spec.framework_id.clone();
            let message = "the agent does not answer".to_owned();
            let reason = Some(StatusReason::SlaveDisconnected);
            let state = TaskState::Unreachable;
            let status = own_status(task_id, agent.clone(), state, reason, message, now);
            self.send_framework(&owner, SchedulerEvent::Update(status));
        }
    }

    /// Tells every framework something.
    pub(super) fn tell_frameworks(&mut self, event: &SchedulerEvent) {
        let ids: Vec<FrameworkId> = self.frameworks.all.keys().cloned().collect();
        for id in ids {
            self.send_framework(&id, event.clone());
        }
    }
}

/// Level 1's reason in the words of the API.
fn level_1_says(reason: &Rejection) -> CallRejection {
    let code = match reason {
        Rejection::StaleOffer(_) => RejectReason::StaleOffer,
        Rejection::ForeignOffer { .. } => RejectReason::ForeignOffer,
        Rejection::DuplicateOffer(_) => RejectReason::DuplicateOffer,
        Rejection::NoOffers => RejectReason::NoOffers,
        Rejection::MixedAgents { .. } => RejectReason::MixedAgents,
        Rejection::Overuse { .. } => RejectReason::Overuse,
        Rejection::Negative(_) => RejectReason::Invalid,
        _ => RejectReason::Refused,
    };
    no(code, "launch", reason.to_string())
}

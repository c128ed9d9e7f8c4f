//! Frameworks other than the built-in one: who is registered, what each is told; what each asks for is in `calls`.
//!
//! A framework is registered once and stored; subscriptions come and go. Without one it gets no offers;
//! what its tasks say waits, unacknowledged, with the agents. After its failover time-out it is removed and
//! its tasks are killed, also those that turn up later.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use waggle_allocator::{Event as Level1, FrameworkSpec};
use waggle_types::{
    AgentId, CallRejection, FieldError, FrameworkId, FrameworkInfo, Millis, RejectReason,
    RoleSubscription, SchedulerEvent, StatusReason, TaskId, TaskState, TaskStatus, UnixMillis,
};

use super::{
    Effect, JOB_FRAMEWORK, MasterCore, SERVICE_FRAMEWORK,
    event::SubscriptionId,
    levels::{Work, own_status},
    refusals::level_1_says,
    show::show_framework,
    stored,
};
use crate::{store::MAX_VALUE_BYTES, view::FrameworkView};

/// Removed frameworks that are remembered, so that they do not come back; the oldest are forgotten.
const MAX_REMOVED: usize = 1000;
/// Of these, so many are shown with what they said of themselves (Mesos's `--max_completed_frameworks`).
const MAX_COMPLETED: usize = 50;
/// Ended tasks whose end is not acknowledged by their framework. Beyond it the master acknowledges in
/// the framework's place, and counts: reconciliation tells the rest.
const MAX_UNACKED: usize = 100_000;
/// Frameworks that were registered with the master before have at least this long to find the new one.
const FIND_MASTER: Millis = Millis::from_secs(60);
/// Offer constraints of one framework, over all its roles: each is checked against every agent.
const MAX_CONSTRAINTS: usize = 1024;

/// A registered framework.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Framework {
    /// As subscribed, and stored.
    pub info: FrameworkInfo,
    /// Its first subscription.
    pub registered_at: UnixMillis,
    /// Its roles as they are now: suppressed or revived, and of which smallest bundle, since it subscribed.
    pub(super) roles: Vec<RoleSubscription>,
    /// Its newest subscription.
    pub(super) reregistered_at: UnixMillis,
    /// The open subscription.
    pub(super) subscription: Option<SubscriptionId>,
    /// While it is away: when it is removed.
    pub(super) gone_at: Option<UnixMillis>,
}

impl Framework {
    /// One that is away.
    pub(super) fn new(info: FrameworkInfo, registered_at: UnixMillis) -> Self {
        Self {
            roles: info.roles.clone(),
            info,
            registered_at,
            reregistered_at: registered_at,
            subscription: None,
            gone_at: None,
        }
    }

    /// Whether it wants no offers to any of its roles.
    pub(super) fn is_suppressed(&self) -> bool {
        self.roles.iter().all(|r| r.suppressed)
    }

    /// Those of its roles that are named, or all when none is.
    pub(super) fn roles_mut(
        &mut self,
        named: &[String],
    ) -> impl Iterator<Item = &mut RoleSubscription> {
        let roles = self.roles.iter_mut();
        roles.filter(move |r| named.is_empty() || named.contains(&r.role))
    }
}

/// The end of a task that its framework has not acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Unacked {
    pub(super) framework_id: FrameworkId,
    agent_id: AgentId,
    /// `None` until the agent has said it to this master.
    pub(super) status: Option<TaskStatus>,
}

/// The registry.
#[derive(Debug, Clone, Default)]
pub(super) struct Frameworks {
    pub(super) all: BTreeMap<FrameworkId, Framework>,
    by_subscription: BTreeMap<SubscriptionId, FrameworkId>,
    /// Oldest first.
    removed: VecDeque<FrameworkId>,
    /// What was removed since this master started, newest last.
    pub(super) completed: VecDeque<Arc<FrameworkView>>,
    pub(super) unacked: BTreeMap<TaskId, Unacked>,
}

impl Frameworks {
    /// The registry as stored; every framework has to find this master.
    pub(super) fn restored(
        mut all: BTreeMap<FrameworkId, Framework>,
        removed: Vec<FrameworkId>,
        now: UnixMillis,
    ) -> Self {
        for f in all.values_mut() {
            f.gone_at = Some(now + f.info.failover_timeout.max(FIND_MASTER));
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

pub(super) type Called = Result<(), Vec<CallRejection>>;

pub(super) fn no(
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
        let refused = |core: &mut Self, r: CallRejection| {
            core.reject(r.reason.name());
            vec![r]
        };
        let id = self
            .admit_framework(&info, fresh_id)
            .map_err(|r| refused(self, r))?;
        let info = FrameworkInfo {
            id: Some(id.clone()),
            ..info
        };
        let known = self.frameworks.all.get(&id);
        let registered_at = known.map_or(now, |f| f.registered_at);
        let value = stored::framework_value(&info, registered_at);
        if value.len() > MAX_VALUE_BYTES {
            let message = format!("takes {} bytes, at most {MAX_VALUE_BYTES}", value.len());
            let r = no(RejectReason::TooMany, "offer_constraints", message);
            return Err(refused(self, r));
        }
        let unchanged = known.is_some_and(|f| f.info == info);
        let old = known.and_then(|f| f.subscription);
        // First, since it checks what nobody else can; what follows from it is done after all of this.
        self.try_allocate(
            Level1::Subscribed {
                framework_id: id.clone(),
                spec: FrameworkSpec {
                    roles: info.roles.clone(),
                    capabilities: info.capabilities,
                },
            },
            now,
        )
        .map_err(|reason| {
            let r = level_1_says(&id, &reason);
            refused(self, r)
        })?;
        if let Some(old) = old {
            self.frameworks.by_subscription.remove(&old);
            let message = "another process subscribed with this framework's id";
            let why = no(RejectReason::Replaced, &id, message);
            self.out.push(Effect::CloseFramework {
                subscription: old,
                why,
            });
        }
        if !unchanged {
            self.persist(vec![stored::put_framework(&id, value)]);
        }
        let framework = Framework {
            reregistered_at: now,
            subscription: Some(subscription),
            ..Framework::new(info, registered_at)
        };
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
        self.tell_dropped(&id);
        self.repeat_inverse(&id);
        Ok(())
    }

    /// Takes what a subscribed framework says of itself now; its subscription stays.
    pub(super) fn update_framework(
        &mut self,
        id: &FrameworkId,
        info: FrameworkInfo,
        now: UnixMillis,
    ) -> Called {
        let info = FrameworkInfo {
            id: Some(id.clone()),
            ..info
        };
        self.admit_framework(&info, id.clone())
            .map_err(|r| vec![r])?;
        let Some(old) = self.frameworks.all.get(id).cloned() else {
            return Ok(());
        };
        if (&old.info.name, &old.info.about.user) != (&info.name, &info.about.user) {
            let message = "name and user can't be changed while it is subscribed";
            return Err(vec![no(RejectReason::Invalid, "framework_info", message)]);
        }
        let value = stored::framework_value(&info, old.registered_at);
        if value.len() > MAX_VALUE_BYTES {
            let message = format!("takes {} bytes, at most {MAX_VALUE_BYTES}", value.len());
            return Err(vec![no(RejectReason::TooMany, "framework_info", message)]);
        }
        let subscribed = Level1::Subscribed {
            framework_id: id.clone(),
            spec: FrameworkSpec {
                roles: info.roles.clone(),
                capabilities: info.capabilities,
            },
        };
        self.try_allocate(subscribed, now)
            .map_err(|reason| vec![level_1_says(id, &reason)])?;
        self.persist(vec![stored::put_framework(id, value)]);
        let framework = Framework {
            roles: info.roles.clone(),
            info,
            ..old
        };
        self.frameworks.all.insert(id.clone(), framework);
        Ok(())
    }

    fn admit_framework(
        &self,
        info: &FrameworkInfo,
        fresh_id: FrameworkId,
    ) -> Result<FrameworkId, CallRejection> {
        info.check()?;
        let constraints = info
            .roles
            .iter()
            .flat_map(|r| r.constraints.iter().flatten());
        let n = constraints.count();
        if n > MAX_CONSTRAINTS {
            let rule = format!("must be at most {MAX_CONSTRAINTS} over all roles, are {n}");
            return Err(FieldError::new("offer_constraints", rule).into());
        }
        if info.name == SERVICE_FRAMEWORK || info.name == JOB_FRAMEWORK {
            let rule = "is the name of the master's own framework";
            return Err(no(RejectReason::Invalid, "name", rule));
        }
        let id = info.id.clone().unwrap_or(fresh_id);
        if id == self.framework_id || id == self.jobs.framework_id {
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
            f.gone_at = Some(now + f.info.failover_timeout);
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
    pub(super) fn remove_framework(&mut self, id: &FrameworkId, now: UnixMillis) {
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
        self.frameworks.completed.push_back(Arc::new(FrameworkView {
            active: false,
            connected: false,
            unregistered_at: Some(now),
            ..show_framework(id, &f)
        }));
        if self.frameworks.completed.len() > MAX_COMPLETED {
            self.frameworks.completed.pop_front();
        }
        if let Some(subscription) = f.subscription {
            self.frameworks.by_subscription.remove(&subscription);
            let message = "the framework was removed";
            let why = no(RejectReason::FrameworkRemoved, id, message);
            self.out.push(Effect::CloseFramework { subscription, why });
        }
        if f.subscription.is_some() {
            let framework_id = id.clone();
            self.allocate(Level1::FrameworkRemoved { framework_id }, now);
        }
        // Nobody is left to acknowledge.
        let (gone, kept) = std::mem::take(&mut self.frameworks.unacked)
            .into_iter()
            .partition(|(_, u)| u.framework_id == *id);
        self.frameworks.unacked = kept;
        let gone: BTreeMap<TaskId, Unacked> = gone;
        for status in gone.into_values().filter_map(|u| u.status) {
            self.acknowledge(&status);
        }
        self.forget_inverse_of(id);
        self.forget_launches_of(id);
        for task in self.tasks.of_framework(id) {
            self.kill_call(task, now);
        }
        self.end_executors_of(id);
    }

    /// Says something to a framework, if it is there to hear.
    pub(super) fn send_framework(&mut self, id: &FrameworkId, event: SchedulerEvent) {
        if *id == self.jobs.framework_id {
            self.work.push_back(Work::Jobs(event));
            return;
        }
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
            let Some(t) = self.tasks.get(&task_id) else {
                continue;
            };
            let owner = t.spec.framework_id.clone();
            let message = "the agent does not answer".to_owned();
            // As Mesos says it, for both kinds of frameworks.
            let reason = Some(StatusReason::SlaveRemoved);
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

//! A service and its instances, as the scheduler keeps them.

use std::sync::Arc;

use waggle_types::{
    ServiceSpec, ServiceVersion, StatusReason, TaskId, TaskState, TaskStatus, TraceContext,
    UnixMillis,
};

use crate::{
    Decision, Deployment, Goal, Home, Instance, LastFailure, Progress, QueueItem, backoff::Delay,
    decisions::Decisions, pods::is_current_instance, queue::OfferSummary,
};

/// A defined service.
#[derive(Debug, Clone)]
pub struct Service {
    pub(crate) spec: Arc<ServiceSpec>,
    pub(crate) removing: bool,
    pub(crate) restart_before: Option<ServiceVersion>,
    /// Sorted by task id.
    pub(crate) instances: Vec<Instance>,
    pub(crate) deployment: Option<Deployment>,
    pub(crate) delay: Delay,
    pub(crate) last_failure: Option<LastFailure>,
    pub(crate) trace: Option<TraceContext>,
    pub(crate) n_waiting: u32,
    pub(crate) n_delayed: u32,
    pub(crate) waiting_since: Option<UnixMillis>,
    pub(crate) offers: OfferSummary,
    /// Where its instances are at home, by id.
    pub(crate) homes: Vec<Home>,
    pub(crate) decisions: Decisions,
    /// The timer that is set for it.
    pub(crate) due: Option<UnixMillis>,
}

impl Service {
    pub(crate) fn new(spec: ServiceSpec) -> Self {
        Self {
            spec: Arc::new(spec),
            removing: false,
            restart_before: None,
            instances: Vec::new(),
            deployment: None,
            delay: Delay::default(),
            last_failure: None,
            trace: None,
            n_waiting: 0,
            n_delayed: 0,
            waiting_since: None,
            offers: OfferSummary::default(),
            homes: Vec::new(),
            decisions: Decisions::default(),
            due: None,
        }
    }

    /// The newest definition.
    pub fn spec(&self) -> &Arc<ServiceSpec> {
        &self.spec
    }

    /// Whether it goes as soon as its instances have ended.
    pub fn is_removing(&self) -> bool {
        self.removing
    }

    /// Instances that are not known to have ended, by task id.
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// Where its instances are at home, by id; only resident ones are.
    pub fn homes(&self) -> &[Home] {
        &self.homes
    }

    /// Why its instances are where they are: the newest decisions, oldest first.
    pub fn decisions(&self) -> impl DoubleEndedIterator<Item = &Arc<Decision>> {
        self.decisions.kept()
    }

    /// The deployment in flight.
    pub fn deployment(&self) -> Option<&Deployment> {
        self.deployment.as_ref()
    }

    /// How the newest failed instance ended.
    pub fn last_failure(&self) -> Option<&LastFailure> {
        self.last_failure.as_ref()
    }

    /// Its place in the launch queue, if it waits.
    pub fn queue_item(&self) -> Option<QueueItem> {
        let since = self.waiting_since?;
        Some(QueueItem {
            service: self.spec.id.clone(),
            count: self.n_waiting + self.n_delayed,
            since,
            delayed_until: (self.n_delayed > 0).then_some(self.delay.until).flatten(),
            n_processed_offers: self.offers.n_processed,
            n_unused_offers: self.offers.n_unused,
            last_unused_at: self.offers.last_unused_at,
            last_used_at: self.offers.last_used_at,
            launch_attempt: self.offers.attempt.clone(),
            last_offers: self.offers.last.clone(),
            rules: self.offers.rules.clone(),
            unused: self.offers.unused.clone(),
        })
    }

    /// How far it is from what is asked for.
    pub fn progress(&self) -> Progress {
        let n_wanted = if self.removing {
            0
        } else {
            self.spec.instances
        };
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let is_of_now = |i: &&Instance| {
            !self.removing
                && i.goal == Goal::Run
                && self.restart_before.is_none_or(|v| i.version >= v)
                && is_current_instance(&self.spec, i)
        };
        let n_current = count(self.instances.iter().filter(is_of_now).count());
        let ready = self
            .instances
            .iter()
            .filter(is_of_now)
            .filter(|i| i.is_ready());
        Progress {
            n_wanted,
            n_ready: count(ready.count()).min(n_wanted),
            n_current: n_current.min(n_wanted),
            n_to_end: count(self.instances.len()) - n_current.min(n_wanted),
        }
    }

    pub(crate) fn find(&self, task_id: &TaskId) -> Result<usize, usize> {
        self.instances
            .binary_search_by(|i| i.task_id().cmp(task_id))
    }

    pub(crate) fn insert(&mut self, instance: Instance) {
        match self.find(instance.task_id()) {
            Ok(at) => self.instances[at] = instance,
            Err(at) => self.instances.insert(at, instance),
        }
    }

    /// The instance that a task is of: a container's, where it is a pod.
    pub(crate) fn of_task(&self, task_id: &TaskId) -> Option<usize> {
        let whole = || {
            let whole = task_id.container().map(|_| task_id.instance())?;
            let by_id = |i: &Instance| i.task_id().as_str().cmp(whole);
            self.instances.binary_search_by(by_id).ok()
        };
        self.find(task_id).ok().or_else(whole)
    }

    pub(crate) fn get_mut(&mut self, task_id: &TaskId) -> Option<&mut Instance> {
        let at = self.of_task(task_id)?;
        self.instances.get_mut(at)
    }

    /// An instance that should run has ended, or is broken: what is remembered of that.
    pub(crate) fn failed(&mut self, at: usize, status: &TaskStatus, now: UnixMillis) {
        let i = &self.instances[at];
        let state = if status.state == TaskState::Unknown {
            TaskState::Lost
        } else {
            status.state
        };
        let with_agent = matches!(state, TaskState::Gone | TaskState::GoneByOperator)
            || matches!(
                status.reason,
                Some(StatusReason::SlaveDraining | StatusReason::ContainerPreempted)
            );
        // The end of a machine or of what it lent, or of an outdated instance, says nothing about the next
        // launch.
        if !with_agent && is_current_instance(&self.spec, i) {
            let ran = i.started_at.map(|t| now.since(t)).unwrap_or_default();
            self.delay.failed(&self.spec.backoff, ran, now);
        }
        self.last_failure = Some(LastFailure {
            task_id: status.task_id.clone(),
            place: i.place.clone(),
            state,
            reason: status.reason,
            message: status.message.clone(),
            version: i.version,
            at: now,
        });
    }
}

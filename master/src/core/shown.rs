//! Services and the launch queue as views show them: kept from view to view, made anew only where something changed.
//!
//! A view shares all that did not change with the one before it, so that making one costs what happened in between and
//! not what there is. Tests make each view once more from nothing and compare (`World::view`).

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use waggle_services::{Goal, Instance, QueueItem, Service, Touches};
use waggle_types::{
    CheckPurpose, HealthCheck, HealthRecord, HealthState, ServiceId, ServiceSpec, TaskState,
};

use super::{MasterCore, tasks::Tasks};
use crate::{
    cow::CowMap,
    task::TaskView,
    view::{InstanceView, LastFailure, QueueView, ServiceView},
};

/// What was shown last.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) services: CowMap<ServiceView>,
    pub(super) queue: CowMap<QueueView>,
    /// What changed since, beside what the scheduler knows of.
    touches: Touches<ServiceId>,
    /// Services that were made anew so far, over all views.
    pub(super) n_made: u64,
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            services: CowMap::default(),
            queue: CowMap::default(),
            touches: Touches::All,
            n_made: 0,
        }
    }
}

impl Shown {
    /// A service may have changed: its definition, its kept versions, its deployments or the addresses of its tasks.
    pub(super) fn touch(&mut self, id: &ServiceId) {
        self.touches.add(id.clone());
    }
}

impl MasterCore {
    /// Brings what is shown up to date.
    pub(super) fn refresh_shown(&mut self) {
        let mut shown = std::mem::take(&mut self.shown);
        let changed = (self.scheduler.take_touched(), shown.touches.take());
        if let (Touches::Some(a), Touches::Some(b)) = changed {
            for id in a.union(&b) {
                self.refresh_service(&mut shown, id);
            }
        } else {
            let there = self.services.keys().chain(shown.services.keys());
            let waiting = shown.queue.keys();
            let known = self.scheduler.services().map(|s| &s.spec().id);
            let all = there.chain(waiting).chain(known);
            let all: BTreeSet<ServiceId> = all.cloned().collect();
            for id in &all {
                self.refresh_service(&mut shown, id);
            }
        }
        shown.touches = Touches::Some(BTreeSet::new());
        self.shown = shown;
    }

    fn refresh_service(&self, shown: &mut Shown, id: &ServiceId) {
        let known = self.scheduler.service(id);
        match self.services.get(id) {
            Some(spec) => {
                shown.n_made += 1;
                let old = shown.services.get(id).map(AsRef::as_ref);
                let new = self.show_service(spec, known, old);
                shown.services.insert(Arc::new(new));
            }
            None => {
                shown.services.remove(id);
            }
        }
        match known.and_then(|s| Some(show_queue(s, s.queue_item()?))) {
            Some(waits) => {
                shown.queue.insert(Arc::new(waits));
            }
            None => {
                shown.queue.remove(id);
            }
        }
    }

    fn show_service(
        &self,
        spec: &Arc<ServiceSpec>,
        known: Option<&Service>,
        old: Option<&ServiceView>,
    ) -> ServiceView {
        let instances: Vec<InstanceView> = known
            .map(|s| {
                let show = |i| show_instance(i, &self.tasks);
                s.instances().iter().map(show).collect()
            })
            .unwrap_or_default();
        let count = |f: &dyn Fn(&InstanceView) -> bool| {
            u32::try_from(instances.iter().filter(|i| f(i)).count()).unwrap_or(u32::MAX)
        };
        let runs = |i: &InstanceView| matches!(i.state, TaskState::Running | TaskState::Killing);
        let checked = HealthCheck::any(&spec.health_checks, CheckPurpose::Health);
        let versions = self.show_versions(&spec.id);
        let as_before = old.filter(|old| Arc::ptr_eq(&old.spec, spec) && old.versions == versions);
        let configured_at = as_before.map(|old| old.configured_at);
        ServiceView {
            staged: count(&|i| matches!(i.state, TaskState::Staging | TaskState::Starting)),
            running: count(&runs),
            healthy: count(&|i| checked && runs(i) && i.health == HealthState::Healthy),
            unhealthy: count(&|i| checked && runs(i) && i.health == HealthState::Unhealthy),
            deployments: self
                .flights
                .iter()
                .filter(|(_, f)| f.changes.contains_key(&spec.id))
                .map(|(id, _)| id.clone())
                .collect(),
            last_failure: known.and_then(Service::last_failure).map(show_failure),
            configured_at: configured_at
                .unwrap_or_else(|| ServiceView::configured_since(spec, &versions)),
            spec: Arc::clone(spec),
            versions,
            homes: known.map(|s| s.homes().to_vec()).unwrap_or_default(),
            decisions: known
                .map(|s| s.decisions().cloned().collect())
                .unwrap_or_default(),
            instances,
        }
    }
}

fn show_instance(i: &Instance, tasks: &Tasks) -> InstanceView {
    InstanceView {
        task_id: i.task_id().clone(),
        version: i.version,
        agent_id: i.place.agent_id.clone(),
        hostname: i.place.hostname.clone(),
        ips: {
            let first = i.members.first().map_or(i.task_id(), |m| &m.task.task_id);
            let task = tasks.get(first);
            let v4 = task.and_then(TaskView::own_ip).map(IpAddr::from);
            let v6 = task.and_then(TaskView::own_ip6).map(IpAddr::from);
            let own: Vec<IpAddr> = v4.into_iter().chain(v6).collect();
            if own.is_empty() {
                vec![i.place.ip.into()]
            } else {
                own
            }
        },
        ports: i.host_ports(),
        state: i.shown_state(),
        health: i.health,
        ready: i.ready,
        responses: tasks
            .get(i.task_id())
            .map(|t| t.responses().to_vec())
            .unwrap_or_default(),
        health_record: tasks
            .get(i.task_id())
            .and_then(TaskView::health_record)
            .filter(|r| **r != HealthRecord::default())
            .cloned(),
        staged_at: i.staged_at,
        started_at: i.started_at,
        stopping: i.goal == Goal::Stop,
        containers: i.members.iter().map(|m| m.task.task_id.clone()).collect(),
    }
}

fn show_failure(f: &waggle_services::LastFailure) -> LastFailure {
    LastFailure {
        task_id: f.task_id.clone(),
        state: f.state,
        reason: f.reason,
        message: f.message.clone(),
        hostname: f.place.hostname.clone(),
        agent_id: f.place.agent_id.clone(),
        version: f.version,
        at: f.at,
    }
}

fn show_queue(s: &Service, q: QueueItem) -> QueueView {
    QueueView {
        service: q.service,
        spec: Arc::clone(s.spec()),
        count: q.count,
        since: q.since,
        delayed_until: q.delayed_until,
        n_offers: q.n_processed_offers,
        n_unused: q.n_unused_offers,
        last_unused_at: q.last_unused_at,
        last_used_at: q.last_used_at,
        launch_attempt: q.launch_attempt,
        last_offers: q.last_offers,
        rules: q.rules,
        unused: q.unused,
    }
}

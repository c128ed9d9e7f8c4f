//! The cluster as API readers see it.

use std::sync::Arc;

use waggle_services::{Instance, Service};
use waggle_types::{AgentId, HealthState, Resources, TaskState, UnixMillis};

use super::{MasterCore, SERVICE_FRAMEWORK, SERVICE_ROLE, agents::Agent, intents::sum};
use crate::view::{
    AgentView, ClusterView, DeploymentView, FrameworkView, InstanceView, LastFailure, QueueView,
    ServiceView,
};

impl MasterCore {
    /// The whole picture at `now`; the shell publishes it after each batch.
    pub fn view(&mut self, now: UnixMillis) -> ClusterView {
        self.sequence += 1;
        ClusterView {
            cluster: self.config.cluster.clone(),
            sequence: self.sequence,
            at: now,
            started_at: self.started_at,
            recovering: self.recovering,
            leader: Some(self.config.master.clone()),
            masters: self.config.masters.clone(),
            services: self
                .services
                .iter()
                .map(|(id, spec)| {
                    let known = self.scheduler.service(id);
                    (id.clone(), Arc::new(self.show_service(spec, known)))
                })
                .collect(),
            deployments: self
                .flights
                .iter()
                .map(|(id, f)| {
                    let service = self.scheduler.service(&f.service);
                    let waiting_for = service
                        .and_then(Service::deployment)
                        .map(waggle_services::Deployment::waiting_for)
                        .unwrap_or_default();
                    let view = DeploymentView {
                        id: id.clone(),
                        service: f.service.clone(),
                        version: f.version,
                        kind: f.kind,
                        waiting_for,
                        since: f.since,
                    };
                    (id.clone(), view)
                })
                .collect(),
            queue: self.scheduler.queue().map(|q| show_queue(q, now)).collect(),
            agents: self
                .agents
                .all
                .iter()
                .map(|(id, a)| (id.clone(), Arc::new(self.show_agent(id, a))))
                .collect(),
            tasks: self
                .tasks
                .live
                .iter()
                .map(|(id, t)| {
                    let agent = self.agents.all.get(&t.agent_id);
                    let view = t.view(agent.map(|a| a.info.as_ref()));
                    (id.clone(), Arc::new(view))
                })
                .collect(),
            completed: self.tasks.ended.iter().cloned().collect(),
            frameworks: [(self.framework_id.clone(), self.show_framework())].into(),
            offers: self.out_offers.values().cloned().collect(),
            vips: self.net.vips.clone(),
            literal_vips: self.net.literal_vips.clone(),
            net: Arc::clone(&self.net),
            rejections: self.rejections.clone(),
        }
    }

    fn show_service(
        &self,
        spec: &Arc<waggle_types::ServiceSpec>,
        known: Option<&Service>,
    ) -> ServiceView {
        let instances: Vec<InstanceView> = known
            .map(|s| s.instances().iter().map(show_instance).collect())
            .unwrap_or_default();
        let count = |f: &dyn Fn(&InstanceView) -> bool| {
            u32::try_from(instances.iter().filter(|i| f(i)).count()).unwrap_or(u32::MAX)
        };
        let runs = |i: &InstanceView| matches!(i.state, TaskState::Running | TaskState::Killing);
        let checked = !spec.health_checks.is_empty();
        ServiceView {
            staged: count(&|i| matches!(i.state, TaskState::Staging | TaskState::Starting)),
            running: count(&runs),
            healthy: count(&|i| checked && runs(i) && i.health == HealthState::Healthy),
            unhealthy: count(&|i| checked && runs(i) && i.health == HealthState::Unhealthy),
            deployments: self
                .flights
                .iter()
                .filter(|(_, f)| f.service == spec.id)
                .map(|(id, _)| id.clone())
                .collect(),
            last_failure: known.and_then(Service::last_failure).map(show_failure),
            spec: Arc::clone(spec),
            versions: self.show_versions(&spec.id),
            instances,
        }
    }

    fn show_agent(&self, id: &AgentId, a: &Agent) -> AgentView {
        AgentView {
            info: Arc::clone(&a.info),
            version: a.version.clone(),
            reachable: a.reachable,
            connected: a.session.is_some(),
            used: self.allocator.used(id).cloned().unwrap_or_default(),
            offered: self.allocator.offered(id).cloned().unwrap_or_default(),
            registered_at: a.registered_at,
            reregistered_at: a.reregistered_at,
            last_heard: a.last_heard,
            applied: a.applied,
            applied_us: a.applied_us,
            applied_after: a.applied_after,
            apply_failures: a.apply_failures.clone(),
        }
    }

    fn show_framework(&self) -> FrameworkView {
        let ours = self
            .tasks
            .live
            .values()
            .filter(|t| t.spec.framework_id == self.framework_id);
        // Ports of several agents overlap: sum the scalars only.
        let scalars = |r: &Resources| Resources {
            ports: waggle_types::PortSet::new(),
            ..r.clone()
        };
        let used: Vec<Resources> = ours.map(|t| scalars(&t.spec.resources)).collect();
        let offers = self.out_offers.values();
        let offered: Vec<Resources> = offers.map(|o| scalars(&o.resources)).collect();
        FrameworkView {
            id: self.framework_id.clone(),
            name: SERVICE_FRAMEWORK.to_owned(),
            role: SERVICE_ROLE.to_owned(),
            active: !self.recovering,
            used: sum(&used).unwrap_or_default(),
            offered: sum(&offered).unwrap_or_default(),
            registered_at: self.started_at,
            reasons: self
                .allocator
                .explain(&self.framework_id)
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }
}

fn show_instance(i: &Instance) -> InstanceView {
    InstanceView {
        task_id: i.task_id().clone(),
        version: i.version,
        agent_id: i.place.agent_id.clone(),
        hostname: i.place.hostname.clone(),
        ip: i.place.ip,
        ports: i.host_ports(),
        state: i.shown_state(),
        health: i.health,
        staged_at: i.staged_at,
        started_at: i.started_at,
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

fn show_queue(q: waggle_services::QueueItem, now: UnixMillis) -> QueueView {
    let counts = |m: std::collections::BTreeMap<
        waggle_services::DeclineReason,
        waggle_services::ReasonCount,
    >| {
        m.into_iter()
            .map(|(r, c)| (r.name(), (c.declined, c.processed)))
            .collect()
    };
    QueueView {
        service: q.service,
        count: q.count,
        since: q.since,
        delay: q
            .delayed_until
            .map_or(waggle_types::Millis(0), |at| at.since(now)),
        refused: q
            .launch_attempt
            .iter()
            .filter(|(_, c)| c.declined > 0)
            .map(|(r, c)| (r.name().to_owned(), c.declined))
            .collect(),
        n_offers: q.n_processed_offers,
        n_unused: q.n_unused_offers,
        last_unused_at: q.last_unused_at,
        last_used_at: q.last_used_at,
        launch_attempt: counts(q.launch_attempt),
        last_offers: counts(q.last_offers),
    }
}

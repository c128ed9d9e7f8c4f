//! The cluster as API readers see it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use waggle_services::{Goal, Instance, Service, Why, tell};
use waggle_types::{
    AgentId, CheckPurpose, DeploymentId, FrameworkId, HealthCheck, HealthState, ResourcePart,
    Resources, TaskState, UnixMillis,
};

use super::{
    Flight, FlightChange, MasterCore, SERVICE_FRAMEWORK, SERVICE_ROLE, agents::Agent,
    frameworks::Framework, levels::service_framework, tasks::Tasks,
};
use crate::task::TaskView;
use crate::view::{
    AgentView, ClusterView, DeploymentView, FrameworkView, InstanceView, LastFailure, QueueView,
    RoleView, ServiceView,
};

/// Agents times frameworks up to which a view lists reasons.
const MAX_REASONS: usize = 10_000;

/// Services of a deployment of which a view says what they wait for.
const MAX_WAITS: usize = 20;

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
            jobs: self.jobs.scheduler.jobs().clone(),
            deployments: self
                .flights
                .iter()
                .map(|(id, f)| (id.clone(), self.show_deployment(id, f)))
                .collect(),
            ended_deployments: self.ends.show(),
            groups: self.groups.clone(),
            tree_version: self.history.newest(),
            queue: self
                .scheduler
                .queue()
                .map(|q| {
                    let spec = self.scheduler.service(&q.service);
                    let spec = spec.map(|s| s.spec().as_ref());
                    let why = spec.map(|s| tell(s, &q.rules, "offer")).unwrap_or_default();
                    show_queue(q, why, now)
                })
                .collect(),
            agents: self
                .agents
                .all
                .iter()
                .map(|(id, a)| (id.clone(), Arc::new(self.show_agent(id, a))))
                .collect(),
            tasks: self.tasks.snapshot(),
            completed: self.tasks.ended.iter().cloned().collect(),
            n_ended: self.tasks.n_ended,
            executors: self.executors.shown(),
            roles: self.show_roles(),
            frameworks: self.show_frameworks(),
            completed_frameworks: self.frameworks.completed.iter().cloned().collect(),
            offers: self.out_offers.values().cloned().collect(),
            mounts: self.mounts.show(),
            inverse_offers: self.inverse.out().cloned().collect(),
            gone: Arc::clone(&self.upkeep.gone),
            maintenance: self.upkeep.windows.clone(),
            networks: self.networks.view(),
            policies: self.policies.all().clone(),
            vips: self.net.vips.clone(),
            literal_vips: self.net.literal_vips.clone(),
            net: Arc::clone(&self.net),
            rejections: self.rejections.clone(),
        }
    }

    fn show_deployment(&self, id: &DeploymentId, f: &Flight) -> DeploymentView {
        let waits = f.rollout.open().filter_map(|a| {
            let deployment = self.scheduler.service(&a.service)?.deployment()?;
            Some((a.service.clone(), deployment.waiting_for()))
        });
        let before = |c: &FlightChange| c.before.as_ref().map(|s| s.version);
        let changes = f.changes.iter();
        DeploymentView {
            id: id.clone(),
            version: f.version,
            services: changes.map(|(id, c)| (id.clone(), before(c))).collect(),
            plan: f.rollout.plan().clone(),
            step_idx: f.rollout.step_idx(),
            waiting_for: waits.take(MAX_WAITS).collect(),
            since: f.since,
            step_since: f.step_since,
            goes_back_at: f.goes_back_at,
        }
    }

    fn show_service(
        &self,
        spec: &Arc<waggle_types::ServiceSpec>,
        known: Option<&Service>,
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
            spec: Arc::clone(spec),
            versions: self.show_versions(&spec.id),
            homes: known.map(|s| s.homes().to_vec()).unwrap_or_default(),
            decisions: known
                .map(|s| s.decisions().cloned().collect())
                .unwrap_or_default(),
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
            reserved: self.show_reserved(id),
            mode: self.upkeep.mode(id),
            maintenance: self.upkeep.windows.get(id).copied(),
            asked: self.inverse.asked(id),
        }
    }

    pub(super) fn show_reserved(&self, id: &AgentId) -> Vec<ResourcePart> {
        let all = self.allocator.reserved(id).into_iter();
        all.map(|(reservation, resources)| ResourcePart {
            reservation,
            revocable: false,
            resources,
        })
        .collect()
    }

    /// Every framework, the built-in one first in code and by id in the map.
    fn show_frameworks(&self) -> BTreeMap<FrameworkId, FrameworkView> {
        let mut out = BTreeMap::new();
        let roles = self.own_roles();
        let own = FrameworkView {
            id: self.framework_id.clone(),
            name: SERVICE_FRAMEWORK.to_owned(),
            capabilities: service_framework(Vec::new()).capabilities,
            about: Arc::default(),
            active: !self.recovering,
            used: Resources::default(),
            offered: Resources::default(),
            registered_at: self.started_at,
            reregistered_at: self.started_at,
            unregistered_at: None,
            connected: true,
            failover_timeout: None,
            suppressed: roles.iter().all(|r| r.suppressed),
            roles,
            tasks: 0,
            reasons: self.show_reasons(&self.framework_id),
        };
        out.insert(self.framework_id.clone(), own);
        for (id, f) in &self.frameworks.all {
            let view = FrameworkView {
                reasons: self.show_reasons(id),
                ..show_framework(id, f)
            };
            out.insert(id.clone(), view);
        }
        for (id, tally) in self.tasks.tallies() {
            if let Some(f) = out.get_mut(id) {
                f.tasks = tally.tasks();
                f.used.scalars = tally.used;
            }
        }
        for (id, sum) in self.out_offers.by_framework() {
            if let Some(f) = out.get_mut(id) {
                f.offered.scalars = *sum;
            }
        }
        out
    }

    /// Why a framework gets nothing (more), where that is quickly said; else it is said when asked.
    fn show_reasons(&self, id: &FrameworkId) -> Vec<String> {
        let pairs = self.agents.all.len() * (self.frameworks.all.len() + 1);
        if pairs > MAX_REASONS {
            return vec!["the cluster is too large to list it here; ask with explain".to_owned()];
        }
        let reasons = self.allocator.explain(id);
        reasons.iter().map(ToString::to_string).collect()
    }

    /// Roles that somebody subscribes with, that are configured, or for which something is reserved.
    fn show_roles(&self) -> BTreeMap<String, RoleView> {
        let blank = |role: &str| RoleView {
            frameworks: Vec::new(),
            weight_milli: self.settings.weight(role),
            quota: self.settings.quota.get(role).cloned().unwrap_or_default(),
            charged: BTreeMap::new(),
            owed: BTreeMap::new(),
            share: self.allocator.dominant_share(role).as_f64(),
            used: Resources::default(),
            offered: Resources::default(),
        };
        let mut out: BTreeMap<String, RoleView> = BTreeMap::new();
        let known = self.allocator.roles().chain([SERVICE_ROLE]);
        let set = self
            .settings
            .weights
            .keys()
            .chain(self.settings.quota.keys());
        for role in known.chain(set.map(String::as_str)) {
            out.entry(role.to_owned()).or_insert_with(|| blank(role));
        }
        let mut join = |id: &FrameworkId, role: &str| {
            let view = out.entry(role.to_owned()).or_insert_with(|| blank(role));
            view.frameworks.push(id.clone());
        };
        join(&self.framework_id, SERVICE_ROLE);
        for (id, f) in &self.frameworks.all {
            for r in &f.roles {
                join(id, &r.role);
            }
        }
        for (role, sum) in self.tasks.by_role() {
            if let Some(view) = out.get_mut(role) {
                view.used.scalars = *sum;
            }
        }
        for (role, sum) in self.out_offers.by_role() {
            if let Some(view) = out.get_mut(role) {
                view.offered.scalars = *sum;
            }
        }
        for role in self.settings.quota.keys() {
            if let (Some(view), Some(books)) =
                (out.get_mut(role), self.allocator.explain_role(role))
            {
                view.charged = books.charged;
                view.owed = books.owed;
            }
        }
        out
    }
}

/// A framework, without what it holds.
pub(super) fn show_framework(id: &FrameworkId, f: &Framework) -> FrameworkView {
    let connected = f.subscription.is_some();
    FrameworkView {
        id: id.clone(),
        name: f.info.name.clone(),
        roles: f.roles.clone(),
        capabilities: f.info.capabilities,
        about: Arc::clone(&f.info.about),
        active: connected,
        used: Resources::default(),
        offered: Resources::default(),
        registered_at: f.registered_at,
        reregistered_at: f.reregistered_at,
        unregistered_at: None,
        connected,
        failover_timeout: Some(f.info.failover_timeout),
        suppressed: f.is_suppressed(),
        tasks: 0,
        reasons: Vec::new(),
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

fn show_queue(q: waggle_services::QueueItem, why: Vec<Why>, now: UnixMillis) -> QueueView {
    let counts = |m: BTreeMap<waggle_services::DeclineReason, waggle_services::ReasonCount>| {
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
        why,
        unused: q.unused,
    }
}

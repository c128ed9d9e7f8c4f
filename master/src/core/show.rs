//! The cluster as API readers see it.

use std::{collections::BTreeMap, sync::Arc};

use waggle_types::{AgentId, DeploymentId, FrameworkId, ResourcePart, Resources, UnixMillis};

use super::{
    Flight, FlightChange, MasterCore, SERVICE_FRAMEWORK, SERVICE_ROLE, agents::Agent,
    frameworks::Framework, levels::service_framework,
};
use crate::view::{AgentView, ClusterView, DeploymentView, FrameworkView, RoleView};

/// Agents times frameworks up to which a view lists reasons.
const MAX_REASONS: usize = 10_000;

/// Services of a deployment of which a view says what they wait for.
const MAX_WAITS: usize = 20;

impl MasterCore {
    /// The whole picture at `now`; the shell publishes it after each batch.
    pub fn view(&mut self, now: UnixMillis) -> ClusterView {
        self.sequence += 1;
        self.refresh_shown();
        ClusterView {
            cluster: self.config.cluster.clone(),
            sequence: self.sequence,
            at: now,
            started_at: self.started_at,
            recovering: self.recovering,
            leader: Some(self.config.master.clone()),
            masters: self.config.masters.clone(),
            launches: self.config.launches,
            services: self.shown.services.clone(),
            jobs: self.jobs.scheduler.jobs().clone(),
            deployments: self
                .flights
                .iter()
                .map(|(id, f)| (id.clone(), self.show_deployment(id, f)))
                .collect(),
            ended_deployments: self.ends.show(),
            groups: self.groups.clone(),
            tree_version: self.history.newest(),
            queue: self.shown.queue.clone(),
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

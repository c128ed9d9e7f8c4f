//! Lists of what the view holds.

use std::collections::BTreeMap;

use waggle_api::native::{
    BackendView, DeploymentStateView, DeploymentView, FrameworkView, NodeView, OfferView, TaskView,
    VipView, capabilities,
};
use waggle_overlay_plan::{Verdict, explain};
use waggle_types::{AgentId, HealthState, ServiceId};

use super::find;
use crate::{
    http::respond::Fail,
    view::{self, ClusterView, DeploymentKind},
};

pub(super) fn nodes(view: &ClusterView) -> Vec<NodeView> {
    let mut tasks: BTreeMap<&AgentId, u32> = BTreeMap::new();
    for t in view.tasks.values() {
        *tasks.entry(t.agent_id()).or_default() += 1;
    }
    let n = |a: &view::AgentView| tasks.get(&a.info.agent_id).copied().unwrap_or(0);
    let all = view.agents.values();
    all.map(|a| shown_node(view, a, n(a))).collect()
}

/// One node, by id or name.
pub(super) fn node(view: &ClusterView, text: &str) -> Result<NodeView, Fail> {
    let id = find::agent(view, text)?;
    let found = view.agents.get(&id);
    let a = found.ok_or_else(|| find::no_agent(view, text))?;
    let tasks = view.tasks.values().filter(|t| *t.agent_id() == id).count();
    Ok(shown_node(
        view,
        a,
        u32::try_from(tasks).unwrap_or(u32::MAX),
    ))
}

fn shown_node(view: &ClusterView, a: &view::AgentView, tasks: u32) -> NodeView {
    let id = &a.info.agent_id;
    NodeView {
        id: id.to_string(),
        hostname: a.info.hostname.clone(),
        ip: a.info.ip.to_string(),
        http_port: a.info.http_port,
        version: a.version.clone(),
        reachable: a.reachable,
        connected: a.connected,
        mode: a.mode.name().to_owned(),
        domain: a.info.domain.as_ref().map(Into::into),
        maintenance: a.maintenance.map(Into::into),
        reserved: a.reserved.iter().map(Into::into).collect(),
        total: (&a.info.total).into(),
        used: (&a.used).into(),
        offered: (&a.offered).into(),
        attributes: a.info.attributes.clone(),
        tasks,
        last_heard_ms: a.last_heard.0,
        applied_generation: a.applied.0,
        published_generation: view.net.generation.0,
        applied_us: a.applied_us,
        applied_after_ms: a.applied_after.map(|m| m.0),
        apply_failures: a.apply_failures.clone(),
    }
}

pub(super) fn frameworks(view: &ClusterView) -> Vec<FrameworkView> {
    view.frameworks.values().map(shown_framework).collect()
}

/// One framework, by id or name.
pub(super) fn framework(view: &ClusterView, text: &str) -> Result<FrameworkView, Fail> {
    let id = find::framework(view, text)?;
    let found = view.frameworks.get(&id);
    let f = found.ok_or_else(|| find::no_framework(view, text))?;
    Ok(shown_framework(f))
}

fn shown_framework(f: &view::FrameworkView) -> FrameworkView {
    FrameworkView {
        id: f.id.to_string(),
        name: f.name.clone(),
        roles: f.roles.iter().map(Into::into).collect(),
        capabilities: capabilities(f.capabilities),
        active: f.active,
        connected: f.connected,
        suppressed: f.suppressed,
        used: (&f.used).into(),
        offered: (&f.offered).into(),
        tasks: f.tasks,
        registered_ms: f.registered_at.0,
        reregistered_ms: f.reregistered_at.0,
        failover_timeout_ms: f.failover_timeout.map(|t| t.0),
        reasons: f.reasons.clone(),
    }
}

pub(super) fn offers(view: &ClusterView) -> Vec<OfferView> {
    let one = |o: &waggle_types::Offer| OfferView {
        id: o.offer_id.to_string(),
        framework_id: o.framework_id.to_string(),
        framework: view
            .frameworks
            .get(&o.framework_id)
            .map(|f| f.name.clone())
            .unwrap_or_default(),
        role: o.role.clone(),
        agent_id: o.agent_id.to_string(),
        hostname: o.hostname.clone(),
        resources: (&o.resources).into(),
        parts: o.parts.iter().map(Into::into).collect(),
        maintenance: o.unavailability.map(Into::into),
        since_ms: o.at.0,
    };
    view.offers.iter().map(|o| one(o)).collect()
}

/// The master's picture: nodes know the health of their own tasks a little earlier.
pub(super) fn vips(view: &ClusterView) -> Vec<VipView> {
    let table = explain(&view.net, &BTreeMap::new());
    let one = |(key, (name, candidates)): (waggle_types::VipKey, (Option<_>, Vec<_>))| {
        let name: Option<waggle_types::VipName> = name;
        let candidates: Vec<waggle_overlay_plan::Candidate> = candidates;
        let how = candidates.first().map(|c| c.balance).unwrap_or_default();
        let backends = candidates.iter().map(|c| BackendView {
            task_id: c.task_id.to_string(),
            ip: c.addr.map(|a| a.ip().to_string()).unwrap_or_default(),
            port: c.addr.map_or(0, |a| a.port()),
            eligible: c.verdict.is_in() && c.balance.weight > 0,
            weight: c.balance.weight,
            reason: match c.verdict {
                _ if c.verdict.is_in() && c.balance.weight == 0 => {
                    "its weight is 0: it keeps its connections".into()
                }
                Verdict::Eligible => "takes connections".into(),
                Verdict::LastResort => "its agent is unreachable, but no other is left".into(),
                Verdict::Excluded(r) => r.to_string(),
            },
        });
        VipView {
            name: name.map(|n| n.to_string()),
            ip: key.ip.to_string(),
            port: key.port,
            protocol: key.protocol.name().into(),
            policy: how.policy.to_string(),
            affinity_s: how.affinity_s,
            locality: how.locality.to_string(),
            sources: sources(view, &key),
            backends: backends.collect(),
        }
    };
    table.into_iter().map(one).collect()
}

fn sources(view: &ClusterView, key: &waggle_types::VipKey) -> Vec<String> {
    let of = view.net.sources.get(key);
    of.into_iter().flatten().map(ToString::to_string).collect()
}

pub(super) fn tasks(view: &ClusterView, service: Option<&str>, all: bool) -> Vec<TaskView> {
    let service =
        service.map(|s| ServiceId::new(s).map_or_else(|_| s.to_owned(), |s| s.to_string()));
    let ended = view.completed.iter().filter(|_| all);
    let wanted =
        |t: &&std::sync::Arc<view::TaskView>| service.as_ref().is_none_or(|s| *s == t.spec.service);
    let one = |t: &std::sync::Arc<view::TaskView>| TaskView {
        id: t.id.to_string(),
        service: t.spec.service.clone(),
        framework: t.spec.framework_name.clone(),
        role: t.spec.role.clone(),
        parts: t.spec.parts.iter().map(Into::into).collect(),
        version: t.spec.service_version.clone(),
        state: t.state().mesos_name().into(),
        health: health(t.health).into(),
        agent_id: t.agent_id().to_string(),
        hostname: t.hostname().to_owned(),
        ip: t.ip().to_string(),
        agent_http_port: view.agents.get(t.agent_id()).map(|a| a.info.http_port),
        ports: t.ports().iter().map(|p| p.host_port).collect(),
        staged_at_ms: t.staged_at.0,
        started_at_ms: t.started_at().map(|at| at.0),
        message: t.message().to_owned(),
    };
    view.tasks
        .values()
        .chain(ended)
        .filter(wanted)
        .map(one)
        .collect()
}

fn health(h: HealthState) -> &'static str {
    match h {
        HealthState::Unknown => "unknown",
        HealthState::Healthy => "healthy",
        HealthState::Unhealthy => "unhealthy",
    }
}

/// Deployments in flight, all or those of a service.
pub(super) fn deployments(view: &ClusterView, service: Option<&ServiceId>) -> Vec<DeploymentView> {
    let all = view.deployments.values();
    all.filter(|d| service.is_none_or(|s| d.services.contains_key(s)))
        .map(|d| deployment(d, service))
        .collect()
}

/// A deployment in flight, or one that has ended lately.
pub(super) fn deployment_state(view: &ClusterView, id: &str) -> Result<DeploymentStateView, Fail> {
    let mut running = view.deployments.values();
    if let Some(d) = running.find(|d| d.id.as_str() == id) {
        return Ok(DeploymentStateView {
            id: id.to_owned(),
            state: "running".to_owned(),
            deployment: Some(deployment(d, None)),
            ended_at_ms: None,
        });
    }
    let mut ended = view.ended_deployments.iter().rev();
    let end = ended.find(|e| e.id.as_str() == id).ok_or_else(|| {
        Fail::not_found(format!(
            "deployment {id} does not exist, or was over before this master started"
        ))
    })?;
    Ok(DeploymentStateView {
        id: id.to_owned(),
        state: end.outcome.to_owned(),
        deployment: None,
        ended_at_ms: Some(end.at.0),
    })
}

fn deployment(d: &view::DeploymentView, service: Option<&ServiceId>) -> DeploymentView {
    let named = service.or_else(|| d.services.keys().next());
    let is_named = |a: &&view::StepAction| Some(&a.service) == named;
    let mut steps = d.plan.steps.iter().enumerate().rev();
    let action = steps.find_map(|(i, s)| Some((i, s.actions.iter().find(is_named)?)));
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let all = d.waiting_for.iter();
    let all: Vec<String> = all.map(|(s, w)| format!("{s}: {w}")).collect();
    let all = all.join("; ");
    let turn = action.filter(|(i, _)| service.is_some() && *i > d.step_idx);
    let alone = named.filter(|_| service.is_some() || d.services.len() == 1);
    DeploymentView {
        id: d.id.to_string(),
        service: named.map(ToString::to_string).unwrap_or_default(),
        services: d.services.keys().map(ToString::to_string).collect(),
        version: d.version.to_string(),
        kind: match action.map_or(DeploymentKind::Scale, |(_, a)| a.kind) {
            DeploymentKind::Start => "start",
            DeploymentKind::Scale => "scale",
            DeploymentKind::Restart => "restart",
            DeploymentKind::Stop => "stop",
        }
        .into(),
        waiting_for: if let Some((i, _)) = turn {
            let (turn, now) = (i + 1, d.step_idx + 1);
            format!("its turn in step {turn}; step {now} waits for {all}")
        } else {
            let own = alone.and_then(|s| d.waiting_for.get(s));
            own.cloned().unwrap_or(all)
        },
        step: number(d.step_idx + 1),
        total_steps: number(d.plan.steps.len()),
        since_ms: d.since.0,
        step_since_ms: d.step_since.0,
        goes_back_at_ms: d.goes_back_at.map(|at| at.0),
    }
}

//! Waggle's own JSON under `/waggle/v1`, for the CLI.

use axum::{http::Method, response::Response};
use waggle_api::native::{
    BackendView, DeploymentView, ExplainView, FrameworkView, NodeView, OfferView, RoleView,
    TaskView, VipView,
};
use waggle_overlay_plan::{Verdict, explain};
use waggle_types::{HealthState, ServiceId, TaskState};

use super::{
    Api,
    request::Call,
    respond::{Fail, ok},
};
use crate::view::{self, ClusterView, DeploymentKind};

/// Finds the handler; every path here is read-only.
pub(super) fn route(api: &Api, call: &Call, path: &[&str]) -> Result<Response, Fail> {
    let ["waggle", "v1", path @ ..] = path else {
        return Err(Fail::no_such_path(call));
    };
    if !matches!(
        path,
        ["nodes" | "vips" | "tasks" | "deployments" | "frameworks" | "offers" | "roles"]
            | ["explain", _, ..]
    ) {
        return Err(Fail::no_such_path(call));
    }
    if call.method != Method::GET {
        return Err(Fail::method(call, "GET"));
    }
    let view = api.view();
    Ok(match path {
        ["nodes"] => ok(&nodes(&view)),
        ["vips"] => ok(&vips(&view)),
        ["deployments"] => ok(&deployments(&view, None)),
        ["frameworks"] => ok(&frameworks(&view)),
        ["offers"] => ok(&offers(&view)),
        ["roles"] => ok(&roles(&view)),
        ["tasks"] => {
            let service = call.query.first("service");
            let all = call.query.flag("all", false)?;
            ok(&tasks(&view, service, all))
        }
        [_, id @ ..] => {
            let id = id.join("/");
            let found = ServiceId::new(&id).ok().and_then(|id| service(&view, &id));
            let found =
                found.ok_or_else(|| Fail::not_found(format!("App '/{id}' does not exist")))?;
            ok(&found)
        }
        [] => return Err(Fail::no_such_path(call)),
    })
}

fn nodes(view: &ClusterView) -> Vec<NodeView> {
    let one = |a: &view::AgentView| {
        let id = &a.info.agent_id;
        let tasks = view.tasks.values().filter(|t| t.agent_id() == id).count();
        NodeView {
            id: id.to_string(),
            hostname: a.info.hostname.clone(),
            ip: a.info.ip.to_string(),
            http_port: a.info.http_port,
            version: a.version.clone(),
            reachable: a.reachable,
            connected: a.connected,
            total: (&a.info.total).into(),
            used: (&a.used).into(),
            offered: (&a.offered).into(),
            attributes: a.info.attributes.clone(),
            tasks: u32::try_from(tasks).unwrap_or(u32::MAX),
            last_heard_ms: a.last_heard.0,
            applied_generation: a.applied.0,
            published_generation: view.net.generation.0,
            applied_us: a.applied_us,
            applied_after_ms: a.applied_after.map(|m| m.0),
            apply_failures: a.apply_failures.clone(),
        }
    };
    view.agents.values().map(|a| one(a)).collect()
}

fn frameworks(view: &ClusterView) -> Vec<FrameworkView> {
    let one = |f: &view::FrameworkView| FrameworkView {
        id: f.id.to_string(),
        name: f.name.clone(),
        role: f.role().to_owned(),
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
    };
    view.frameworks.values().map(one).collect()
}

fn offers(view: &ClusterView) -> Vec<OfferView> {
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
        since_ms: o.at.0,
    };
    view.offers.iter().map(one).collect()
}

fn roles(view: &ClusterView) -> Vec<RoleView> {
    let one = |(name, r): (&String, &view::RoleView)| RoleView {
        name: name.clone(),
        frameworks: r.frameworks.iter().map(ToString::to_string).collect(),
        share: r.share,
        used: (&r.used).into(),
        offered: (&r.offered).into(),
    };
    view.roles.iter().map(one).collect()
}

/// The master's picture: nodes know the health of their own tasks a little earlier.
fn vips(view: &ClusterView) -> Vec<VipView> {
    let table = explain(&view.net, &std::collections::BTreeMap::new());
    let one = |(key, (name, candidates)): (waggle_types::VipKey, (Option<_>, Vec<_>))| {
        let name: Option<waggle_types::VipName> = name;
        let candidates: Vec<waggle_overlay_plan::Candidate> = candidates;
        let backends = candidates.iter().map(|c| BackendView {
            task_id: c.task_id.to_string(),
            ip: c.addr.map(|a| a.ip().to_string()).unwrap_or_default(),
            port: c.addr.map_or(0, |a| a.port()),
            eligible: c.verdict.is_in(),
            reason: match c.verdict {
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
            backends: backends.collect(),
        }
    };
    table.into_iter().map(one).collect()
}

fn tasks(view: &ClusterView, service: Option<&str>, all: bool) -> Vec<TaskView> {
    let service =
        service.map(|s| ServiceId::new(s).map_or_else(|_| s.to_owned(), |s| s.to_string()));
    let ended = view.completed.iter().filter(|_| all);
    let wanted =
        |t: &&std::sync::Arc<view::TaskView>| service.as_ref().is_none_or(|s| *s == t.spec.service);
    let one = |t: &std::sync::Arc<view::TaskView>| TaskView {
        id: t.id.to_string(),
        service: t.spec.service.clone(),
        framework: t.spec.framework_name.clone(),
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

fn deployments(view: &ClusterView, service: Option<&ServiceId>) -> Vec<DeploymentView> {
    let all = view.deployments.values();
    all.filter(|d| service.is_none_or(|s| *s == d.service))
        .map(|d| DeploymentView {
            id: d.id.to_string(),
            service: d.service.to_string(),
            version: d.version.to_string(),
            kind: match d.kind {
                DeploymentKind::Start => "start",
                DeploymentKind::Scale => "scale",
                DeploymentKind::Restart => "restart",
                DeploymentKind::Stop => "stop",
            }
            .into(),
            waiting_for: d.waiting_for.clone(),
            since_ms: d.since.0,
        })
        .collect()
}

fn service(view: &ClusterView, id: &ServiceId) -> Option<ExplainView> {
    let s = view.services.get(id)?;
    let queued = view.queue.iter().find(|q| q.service == *id);
    let failure = s.last_failure.as_ref().map(|f| {
        let state: TaskState = f.state;
        format!(
            "{} on {} ended as {}: {}",
            f.task_id,
            f.hostname,
            state.mesos_name(),
            f.message
        )
    });
    let marathon = view.frameworks.values().find(|f| f.name == "marathon");
    Some(ExplainView {
        service: id.to_string(),
        instances: s.spec.instances,
        running: s.running,
        healthy: s.healthy,
        waiting: queued.map_or(0, |q| q.count),
        delay_ms: queued.map_or(0, |q| q.delay.0),
        offers: queued.map_or(0, |q| q.n_offers),
        refused: queued.map(|q| q.refused.clone()).unwrap_or_default(),
        deployments: deployments(view, Some(id)),
        last_failure: failure,
        allocator: marathon.map(|f| f.reasons.clone()).unwrap_or_default(),
    })
}

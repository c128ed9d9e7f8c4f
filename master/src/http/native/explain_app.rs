//! Why an app is not as it is asked for: what it waits for, which rules turned offers away, and what could never run.

use waggle_api::native::{ExplainView, HomeView, NeverView, PlacementView, WhyView};
use waggle_services::{Decision, Feasible, Why, feasible, home_of, tell};
use waggle_types::{
    Offer, OfferId, ResourcePart, Resources, ServiceId, ServiceSpec, TaskState, UnixMillis,
};

use super::reads::deployments;
use crate::view::{AgentMode, AgentView, ClusterView, ServiceView};

pub(super) fn service(view: &ClusterView, id: &ServiceId) -> Option<ExplainView> {
    let s = view.services.get(id)?;
    let queued = view.queue.get(id);
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
        delay_ms: queued.map_or(0, |q| q.delay(view.at).0),
        offers: queued.map_or(0, |q| q.n_offers),
        refused: queued.map(|q| q.refused()).unwrap_or_default(),
        deployments: deployments(view, Some(id)),
        last_failure: failure,
        allocator: marathon.map(|f| f.reasons.clone()).unwrap_or_default(),
        why: queued.map(|q| whys(&q.why())).unwrap_or_default(),
        never: never(view, &s.spec),
        homes: s.homes.iter().map(|h| home(view, s, h)).collect(),
        placements: s.decisions.iter().map(|d| placement(d)).collect(),
    })
}

fn whys(all: &[Why]) -> Vec<WhyView> {
    let one = |w: &Why| WhyView {
        reason: w.reason.name().to_owned(),
        message: w.message.clone(),
        fix: w.fix.clone(),
        offers: w.n_offers,
    };
    all.iter().map(one).collect()
}

fn home(view: &ClusterView, s: &ServiceView, h: &waggle_services::Home) -> HomeView {
    let agent = view.agents.get(&h.place.agent_id);
    HomeView {
        instance: h.id.clone(),
        agent_id: h.place.agent_id.to_string(),
        hostname: agent.map_or_else(String::new, |a| a.info.hostname.clone()),
        in_use: s.instances.iter().any(|i| i.task_id.instance() == h.id),
    }
}

fn placement(d: &Decision) -> PlacementView {
    PlacementView {
        instance: d.instance.clone(),
        hostname: d.hostname.clone(),
        at: d.at.0,
        offers: d.n_offers,
        fit: d.choice.n_fit,
        because: d.choice.because.to_string(),
        before: d.n_before,
        refused: whys(&d.refused),
    }
}

/// What the nodes could never hold, if that is less than what is asked for.
fn never(view: &ClusterView, spec: &ServiceSpec) -> Option<NeverView> {
    let there = view.agents.values().filter(|a| a.mode != AgentMode::Gone);
    let nodes: Vec<Offer> = there.filter_map(|a| whole(a, spec)).collect();
    let n_nodes = nodes.len() as u64;
    let Feasible {
        n_tried,
        n_fit,
        rules,
    } = feasible(spec, nodes);
    (n_fit < n_tried).then(|| NeverView {
        fit: n_fit,
        nodes: n_nodes,
        why: whys(&tell(spec, &rules, "node")),
    })
}

/// All that a node has, as an offer: without what is reserved for other roles; what resident instances hold is as good
/// as free.
fn whole(a: &AgentView, spec: &ServiceSpec) -> Option<Offer> {
    let mut free = a.info.total.clone();
    let mut parts = Vec::new();
    for part in &a.reserved {
        let flat = part.resources.flat()?;
        if home_of(&part.reservation).is_some() {
            continue;
        }
        // What does not fit into the node gave way.
        if free.try_sub(&flat).is_none() {
            continue;
        }
        let role = part.reservation.last().map(|r| r.role.as_str());
        if role == Some(spec.role()) {
            parts.push(ResourcePart {
                resources: flat,
                ..part.clone()
            });
        }
    }
    let mut resources: Resources = free.clone();
    for p in &parts {
        resources.try_add(&p.resources)?;
    }
    if !parts.is_empty() {
        parts.push(ResourcePart::plain(free));
    }
    Some(Offer {
        offer_id: OfferId::new("whole").ok()?,
        framework_id: waggle_types::FrameworkId::new("whole").ok()?,
        role: spec.role().to_owned(),
        agent_id: a.info.agent_id.clone(),
        hostname: a.info.hostname.clone(),
        ip: a.info.ip,
        resources,
        parts,
        attributes: a.info.attributes.clone(),
        domain: a.info.domain.clone(),
        unavailability: None,
        at: UnixMillis(0),
    })
}

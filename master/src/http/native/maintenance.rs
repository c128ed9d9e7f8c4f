//! Planned maintenance, who was asked to leave and what they said.

use std::collections::{BTreeMap, BTreeSet};

use waggle_api::native::{AskedView, MaintenanceView};
use waggle_types::{AgentId, FrameworkId, Unavailability};

use crate::view::{Asked, ClusterView, LeaveAnswer};

/// How many tasks a framework has on an agent.
type Tasks<'a> = BTreeMap<(&'a AgentId, &'a FrameworkId), u32>;

/// Every window, or those of some agents.
pub(super) fn list(view: &ClusterView, only: Option<&BTreeSet<AgentId>>) -> Vec<MaintenanceView> {
    let all = view.maintenance.iter();
    let wanted: Vec<_> = all
        .filter(|(id, _)| only.is_none_or(|o| o.contains(*id)))
        .collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let mut tasks = Tasks::new();
    for t in view.tasks.values() {
        if view.maintenance.contains_key(t.agent_id()) {
            let key = (t.agent_id(), &t.spec.framework_id);
            *tasks.entry(key).or_default() += 1;
        }
    }
    let wanted = wanted.into_iter();
    wanted.map(|(id, w)| one(view, &tasks, id, *w)).collect()
}

fn one(
    view: &ClusterView,
    tasks: &Tasks<'_>,
    id: &AgentId,
    window: Unavailability,
) -> MaintenanceView {
    let agent = view.agents.get(id);
    let asked = agent.map(|a| a.asked.as_slice()).unwrap_or_default();
    MaintenanceView {
        agent_id: id.to_string(),
        hostname: agent.map(|a| a.info.hostname.clone()).unwrap_or_default(),
        mode: agent.map(|a| a.mode.name().to_owned()),
        window: window.into(),
        asked: asked.iter().map(|a| ask(view, tasks, id, a)).collect(),
    }
}

fn ask(view: &ClusterView, tasks: &Tasks<'_>, agent_id: &AgentId, asked: &Asked) -> AskedView {
    let id: &FrameworkId = &asked.framework_id;
    let (answer, again) = match asked.answer {
        LeaveAnswer::Open => ("asked", None),
        LeaveAnswer::Accepted => ("accepted", None),
        LeaveAnswer::Declined { again } => ("declined", Some(again.0)),
    };
    let there = tasks.get(&(agent_id, id)).copied();
    AskedView {
        framework_id: id.to_string(),
        framework: super::roles::framework(view, id).name,
        answer: answer.to_owned(),
        again_ms: again,
        tasks: there.unwrap_or(0),
    }
}

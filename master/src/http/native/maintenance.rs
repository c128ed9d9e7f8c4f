//! Planned maintenance, who was asked to leave and what they said.

use waggle_api::native::{AskedView, MaintenanceView};
use waggle_types::{AgentId, FrameworkId, Unavailability};

use crate::view::{Asked, ClusterView, LeaveAnswer};

/// Every window, or those of some agents.
pub(super) fn list(view: &ClusterView, only: Option<&[AgentId]>) -> Vec<MaintenanceView> {
    let all = view.maintenance.iter();
    let wanted = all.filter(|(id, _)| only.is_none_or(|o| o.contains(id)));
    wanted.map(|(id, window)| one(view, id, *window)).collect()
}

fn one(view: &ClusterView, id: &AgentId, window: Unavailability) -> MaintenanceView {
    let agent = view.agents.get(id);
    let asked = agent.map(|a| a.asked.as_slice()).unwrap_or_default();
    MaintenanceView {
        agent_id: id.to_string(),
        hostname: agent.map(|a| a.info.hostname.clone()).unwrap_or_default(),
        mode: agent.map(|a| a.mode.name().to_owned()),
        window: window.into(),
        asked: asked.iter().map(|a| ask(view, id, a)).collect(),
    }
}

fn ask(view: &ClusterView, agent_id: &AgentId, asked: &Asked) -> AskedView {
    let id: &FrameworkId = &asked.framework_id;
    let (answer, again) = match asked.answer {
        LeaveAnswer::Open => ("asked", None),
        LeaveAnswer::Accepted => ("accepted", None),
        LeaveAnswer::Declined { again } => ("declined", Some(again.0)),
    };
    let there = view
        .tasks
        .values()
        .filter(|t| t.agent_id() == agent_id && t.spec.framework_id == *id);
    AskedView {
        framework_id: id.to_string(),
        framework: super::roles::framework(view, id).name,
        answer: answer.to_owned(),
        again_ms: again,
        tasks: u32::try_from(there.count()).unwrap_or(u32::MAX),
    }
}

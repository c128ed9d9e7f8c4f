//! Agents and frameworks by id or by name, and what was probably meant.

use std::collections::BTreeMap;

use waggle_api::{
    error::{ApiError, ErrorCode},
    native::Refusal,
};
use waggle_types::{AgentId, CallRejection, FrameworkId, RejectReason, ServiceId};

use crate::{
    http::respond::Fail,
    view::{ClusterView, RoleView},
};

/// Longest name that a suggestion is made for, in bytes.
const MAX_NAME: usize = 64;
/// Most names that are compared: a refusal stays cheap in a large cluster.
const MAX_COMPARED: usize = 2000;
/// One slip is forgiven in any name, more of them for each so many characters.
const ALIKE: usize = 3;
/// Ids that an ambiguous name is told with.
const MAX_TOLD: usize = 5;

/// The agent with this id or node name. An id that the view does not show may still be known to the core,
/// which says so.
pub(super) fn agent(view: &ClusterView, text: &str) -> Result<AgentId, Fail> {
    let named = view.agents.values().filter(|a| a.info.hostname == text);
    let ids: Vec<&AgentId> = named.map(|a| &a.info.agent_id).collect();
    chosen(view, text, &ids)
}

/// Agents by node name, for requests that name many.
pub(super) struct Hostnames<'a> {
    view: &'a ClusterView,
    ids: BTreeMap<&'a str, Vec<&'a AgentId>>,
}

impl<'a> Hostnames<'a> {
    pub(super) fn of(view: &'a ClusterView) -> Self {
        let mut ids: BTreeMap<&str, Vec<&AgentId>> = BTreeMap::new();
        for a in view.agents.values() {
            let same = ids.entry(a.info.hostname.as_str()).or_default();
            same.push(&a.info.agent_id);
        }
        Self { view, ids }
    }

    /// As [`agent`].
    pub(super) fn agent(&self, text: &str) -> Result<AgentId, Fail> {
        let ids = self.ids.get(text).map_or(&[][..], Vec::as_slice);
        chosen(self.view, text, ids)
    }
}

fn chosen(view: &ClusterView, text: &str, named: &[&AgentId]) -> Result<AgentId, Fail> {
    let id = AgentId::new(text).ok();
    if let Some(id) = id.as_ref().filter(|id| view.agents.contains_key(*id)) {
        return Ok(id.clone());
    }
    match (named, id) {
        ([one], _) => Ok((*one).clone()),
        ([], Some(id)) => Ok(id),
        ([], None) => Err(no_agent(view, text)),
        (many, _) => Err(several("agents", text, many)),
    }
}

/// The framework with this id or name.
pub(super) fn framework(view: &ClusterView, text: &str) -> Result<FrameworkId, Fail> {
    let id = FrameworkId::new(text).ok();
    if let Some(id) = id.as_ref().filter(|id| view.frameworks.contains_key(*id)) {
        return Ok(id.clone());
    }
    let named = view.frameworks.values().filter(|f| f.name == text);
    let ids: Vec<&FrameworkId> = named.map(|f| &f.id).collect();
    match (ids.as_slice(), id) {
        ([one], _) => Ok((*one).clone()),
        ([], Some(id)) => Ok(id),
        ([], None) => Err(no_framework(view, text)),
        (many, _) => Err(several("frameworks", text, many)),
    }
}

/// Typed reasons, with what was probably meant where something is not known.
pub(super) fn refused(view: &ClusterView, mut reasons: Vec<CallRejection>) -> Fail {
    for r in &mut reasons {
        let hint = match r.reason {
            RejectReason::UnknownAgent => like(&r.object, agent_names(view)),
            RejectReason::UnknownFramework => like(&r.object, framework_names(view)),
            RejectReason::UnknownNetwork => {
                like(&r.object, view.networks.keys().map(String::as_str))
            }
            _ => None,
        };
        if let Some(hint) = hint {
            r.message.push_str(&did_you_mean(&hint));
        }
    }
    Fail::refused(Refusal::of(&reasons))
}

/// 404 for an agent.
pub(super) fn no_agent(view: &ClusterView, text: &str) -> Fail {
    let said = "no agent has this id or name";
    absent(RejectReason::UnknownAgent, text, said, agent_names(view))
}

/// 404 for a framework.
pub(super) fn no_framework(view: &ClusterView, text: &str) -> Fail {
    let said = "no framework has this id or name";
    let names = framework_names(view);
    absent(RejectReason::UnknownFramework, text, said, names)
}

/// 404 for a service.
pub(super) fn no_app(view: &ClusterView, id: &str) -> Fail {
    let names = view.services.keys().map(ServiceId::as_str);
    let hint = like(&format!("/{id}"), names);
    let hint = hint.map(|h| did_you_mean(&h)).unwrap_or_default();
    Fail::not_found(format!("App '/{id}' does not exist{hint}"))
}

/// 404 for a role; `said` is what it lacks, `has` tells the roles that don't lack it.
pub(super) fn no_role(
    view: &ClusterView,
    role: &str,
    said: &str,
    has: impl Fn(&RoleView) -> bool,
) -> Fail {
    let others = view.roles.iter().filter(|(_, r)| has(r));
    let hint = like(role, others.map(|(name, _)| name.as_str()));
    let hint = hint.map(|h| did_you_mean(&h)).unwrap_or_default();
    Fail::not_found(format!("role {role:.100?} {said}{hint}"))
}

fn absent<'a>(
    reason: RejectReason,
    text: &str,
    said: &str,
    names: impl Iterator<Item = &'a str>,
) -> Fail {
    let hint = like(text, names)
        .map(|h| did_you_mean(&h))
        .unwrap_or_default();
    let text: String = text.chars().take(100).collect();
    let one = CallRejection::new(reason, text, format!("{said}{hint}"));
    Fail::refused(Refusal::of(&[one]))
}

fn several(what: &str, name: &str, ids: &[impl ToString]) -> Fail {
    let mut told: Vec<String> = ids.iter().take(MAX_TOLD).map(ToString::to_string).collect();
    if ids.len() > MAX_TOLD {
        told.push("...".to_owned());
    }
    let message = format!(
        "{} {what} have the name {name:?}, use an id: {}",
        ids.len(),
        told.join(", ")
    );
    ApiError::new(ErrorCode::Conflict, message).into()
}

fn agent_names(view: &ClusterView) -> impl Iterator<Item = &str> {
    let names = view.agents.values().map(|a| a.info.hostname.as_str());
    names.chain(view.agents.keys().map(AgentId::as_str))
}

fn framework_names(view: &ClusterView) -> impl Iterator<Item = &str> {
    let names = view.frameworks.values().map(|f| f.name.as_str());
    names.chain(view.frameworks.keys().map(FrameworkId::as_str))
}

fn did_you_mean(name: &str) -> String {
    format!("; did you mean {name:?}?")
}

/// The name that is most alike, if one is.
fn like<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    if text.len() > MAX_NAME {
        return None;
    }
    let short = names.filter(|n| n.len() <= MAX_NAME).take(MAX_COMPARED);
    let scored = short.map(|n| (strsim::damerau_levenshtein(text, n), n));
    let (slips, best) = scored.min_by_key(|(slips, _)| *slips)?;
    let longest = text.chars().count().max(best.chars().count());
    (slips <= 1 || slips * ALIKE <= longest).then(|| best.to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_slip_is_recognised_and_strangers_are_not() {
        let names = ["node-1", "node-2", "eng/batch"];
        let like = |t: &str| super::like(t, names.into_iter());
        assert_eq!(like("nod-2").as_deref(), Some("node-2"));
        assert_eq!(like("eng/batsh").as_deref(), Some("eng/batch"));
        assert_eq!(like("node-3").as_deref(), Some("node-1"), "the first");
        assert_eq!(like("something"), None);
        assert_eq!(like(&"x".repeat(1000)), None);
    }
}

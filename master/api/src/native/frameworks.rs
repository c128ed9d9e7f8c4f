//! Frameworks and their offers.

use serde::{Deserialize, Serialize};
use waggle_types::Capabilities;

use super::{PartView, ResourcesView, WindowView};

/// A framework by id and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameworkRef {
    /// Framework id.
    pub id: String,
    /// DNS name; empty when it is not known any more.
    pub name: String,
}

/// A framework.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameworkView {
    /// Framework id.
    pub id: String,
    /// DNS name.
    pub name: String,
    /// Roles that it gets offers for, at least one.
    pub roles: Vec<FrameworkRoleView>,
    /// What it can handle: `gpus`, `region_aware`, `revocable`.
    pub capabilities: Vec<String>,
    /// Whether it gets offers now.
    pub active: bool,
    /// Whether its subscription is open.
    pub connected: bool,
    /// Whether it wants no offers to any of its roles now.
    pub suppressed: bool,
    /// Held by its tasks, ports left out.
    pub used: ResourcesView,
    /// Out in offers to it, ports left out.
    pub offered: ResourcesView,
    /// Tasks that have not ended.
    pub tasks: u32,
    /// First subscription.
    pub registered_ms: u64,
    /// Newest subscription.
    pub reregistered_ms: u64,
    /// How long it may stay away; `null` for the built-in one.
    pub failover_timeout_ms: Option<u64>,
    /// Why it is offered nothing, newest.
    pub reasons: Vec<String>,
}

/// One role of a framework.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameworkRoleView {
    /// Its path.
    pub role: String,
    /// Whether it wants no offers to this role now.
    pub suppressed: bool,
    /// The smallest bundle that is of use to it.
    pub smallest: Option<ResourcesView>,
    /// How many groups of offer constraints it has; agents that fit none are never offered.
    pub constraint_groups: u32,
}

impl From<&waggle_types::RoleSubscription> for FrameworkRoleView {
    fn from(r: &waggle_types::RoleSubscription) -> Self {
        Self {
            role: r.role.clone(),
            suppressed: r.suppressed,
            smallest: r.smallest.as_ref().map(Into::into),
            constraint_groups: u32::try_from(r.constraints.len()).unwrap_or(u32::MAX),
        }
    }
}

/// Names of what a framework can handle.
pub fn capabilities(c: Capabilities) -> Vec<String> {
    let all = [
        (c.gpus, "gpus"),
        (c.region_aware, "region_aware"),
        (c.revocable, "revocable"),
    ];
    let has = all.iter().filter(|(has, _)| *has);
    has.map(|(_, name)| (*name).to_owned()).collect()
}

/// An offer that is out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfferView {
    /// Offer id.
    pub id: String,
    /// To whom.
    pub framework_id: String,
    /// Its DNS name.
    pub framework: String,
    /// Allocated to this role.
    pub role: String,
    /// Whose resources.
    pub agent_id: String,
    /// The agent's node name.
    pub hostname: String,
    /// What is offered, all together.
    pub resources: ResourcesView,
    /// The same by reservation; empty when nothing of it is reserved or lent.
    pub parts: Vec<PartView>,
    /// The agent's planned maintenance.
    pub maintenance: Option<WindowView>,
    /// When it was made.
    pub since_ms: u64,
}

//! Why things are as they are: what `explain` answers, bounded in size whatever the cluster's.

use std::collections::BTreeMap;

use waggle_types::{
    AgentId, Capabilities, FrameworkId, Milli, Quota, ResourcePart, Resources, RoleSubscription,
    Unavailability, UnixMillis,
};

use crate::view::AgentMode;

/// Agents (or frameworks, or roles) that an answer tells of one by one; the rest is counted by reason.
pub const MAX_TOLD: usize = 100;

/// What to explain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExplainQuery {
    /// Why a framework gets the offers that it gets, and no others.
    Framework(FrameworkId),
    /// What a role may have, and has.
    Role(String),
    /// Who is offered an agent, and who is passed over.
    Agent(AgentId),
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Explained {
    /// To [`ExplainQuery::Framework`].
    Framework(Box<FrameworkExplained>),
    /// To [`ExplainQuery::Role`].
    Role(Box<RoleExplained>),
    /// To [`ExplainQuery::Agent`].
    Agent(Box<AgentExplained>),
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Because {
    /// Stable name: `filtered`.
    pub code: &'static str,
    /// For people; names what it is about.
    pub message: String,
}

/// Why a framework gets what it gets.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameworkExplained {
    /// Which.
    pub id: FrameworkId,
    /// Its name.
    pub name: String,
    /// Whether its subscription is open.
    pub connected: bool,
    /// What it can handle.
    pub capabilities: Capabilities,
    /// Reasons that are not an agent's: it is not subscribed, the master recovers, there is no agent.
    pub general: Vec<Because>,
    /// Each of its roles.
    pub roles: Vec<FrameworkRoleExplained>,
}

/// One role of a framework.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameworkRoleExplained {
    /// As subscribed, and suppressed or revived since.
    pub subscription: RoleSubscription,
    /// The role's weighted dominant share; 1 is the cluster.
    pub share: f64,
    /// How much unreserved it could be offered now under quota, by kind; `None` when no quota is set.
    pub headroom: Option<BTreeMap<String, Milli>>,
    /// Offers that it holds.
    pub n_offers: usize,
    /// Why it holds nothing (more) of the first [`MAX_TOLD`] agents.
    pub agents: Vec<AgentBecause>,
    /// Agents beyond these, by reason.
    pub rest: BTreeMap<&'static str, usize>,
}

/// A reason on an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentBecause {
    /// Which.
    pub agent_id: AgentId,
    /// Its node name.
    pub hostname: String,
    /// Why.
    pub because: Because,
}

/// What a role may have, and has. Quantities are by kind: `cpus`, `mem` in MiB, a custom scalar.
#[derive(Debug, Clone, PartialEq)]
pub struct RoleExplained {
    /// Which.
    pub role: String,
    /// In thousandths.
    pub weight_milli: u32,
    /// Weighted dominant share with all below it; 1 is the cluster.
    pub share: f64,
    /// As set.
    pub quota: Quota,
    /// Used and offered, with all below.
    pub allocated: BTreeMap<String, Milli>,
    /// What counts against its quota: unreserved allocations, and all reservations, used or not.
    pub charged: BTreeMap<String, Milli>,
    /// What it is still owed, and is held back for it.
    pub owed: BTreeMap<String, Milli>,
    /// How much unreserved it could be offered now; `None` when no quota is set anywhere.
    pub headroom: Option<BTreeMap<String, Milli>>,
    /// The first [`MAX_TOLD`] of those that are subscribed with it.
    pub frameworks: Vec<FrameworkId>,
    /// How many there are.
    pub n_frameworks: usize,
    /// The first [`MAX_TOLD`] roles directly below it.
    pub subroles: Vec<String>,
    /// How many there are.
    pub n_subroles: usize,
}

/// Who is offered an agent, and who is passed over.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentExplained {
    /// Which.
    pub id: AgentId,
    /// Its node name; empty when it has not come back since the master started, or is gone.
    pub hostname: String,
    /// Whether the master hears from it.
    pub reachable: bool,
    /// Whether operators let it take tasks.
    pub mode: AgentMode,
    /// Its planned maintenance.
    pub maintenance: Option<Unavailability>,
    /// Held by tasks.
    pub used: Resources,
    /// Out in offers.
    pub offered: Resources,
    /// Neither.
    pub free: Resources,
    /// What of it is reserved.
    pub reserved: Vec<ResourcePart>,
    /// Stored reservations, volumes or tasks that its resources have no room for any more, in words.
    pub given_way: Vec<String>,
    /// Who was chosen for its free resources the last time.
    pub last_choice: Option<LastChoice>,
    /// Why the first [`MAX_TOLD`] subscribed frameworks, by role, hold nothing (more) of it.
    pub passed_over: Vec<PassedOver>,
    /// Frameworks and roles beyond these, by reason.
    pub rest: BTreeMap<&'static str, usize>,
}

/// Who was chosen for an agent, and against how many.
#[derive(Debug, Clone, PartialEq)]
pub struct LastChoice {
    /// Who.
    pub framework_id: FrameworkId,
    /// For which of its roles.
    pub role: String,
    /// The role's weighted dominant share just before.
    pub share: f64,
    /// How many frameworks could have been chosen.
    pub n_candidates: usize,
    /// When.
    pub at: UnixMillis,
}

/// A framework that holds nothing (more) of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// Who.
    pub framework_id: FrameworkId,
    /// For which of its roles.
    pub role: String,
    /// Why; empty when it holds all that there is for it.
    pub because: Vec<Because>,
}

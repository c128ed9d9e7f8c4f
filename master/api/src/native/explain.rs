//! Why level 1 does what it does: the answers under `/waggle/v1/explain`, bounded whatever the cluster's size.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{FrameworkRef, PartView, QuotaView, ResourcesView, WindowView};
use crate::marathon::Number;

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BecauseView {
    /// Stable name: `filtered`.
    pub code: String,
    /// For people; names what it is about.
    pub message: String,
}

/// Why a framework gets the offers that it gets, and no others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameworkExplainView {
    /// Framework id.
    pub id: String,
    /// DNS name.
    pub name: String,
    /// Whether its subscription is open.
    pub connected: bool,
    /// What it can handle: `gpus`, `region_aware`, `revocable`.
    pub capabilities: Vec<String>,
    /// Reasons that are not an agent's.
    pub general: Vec<BecauseView>,
    /// Each of its roles.
    pub roles: Vec<FrameworkRoleExplainView>,
}

/// One role of a framework.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameworkRoleExplainView {
    /// Its path.
    pub role: String,
    /// Whether it wants no offers to this role now.
    pub suppressed: bool,
    /// The role's weighted dominant share; 1 is the cluster.
    pub share: f64,
    /// The smallest bundle that is of use to it.
    pub smallest: Option<ResourcesView>,
    /// How much unreserved it could be offered now under quota, by kind; `null` when no quota is set.
    pub headroom: Option<BTreeMap<String, Number>>,
    /// Offers that it holds.
    pub offers: u64,
    /// Why it holds nothing (more) of the first agents.
    pub agents: Vec<AgentBecauseView>,
    /// Agents beyond these, by reason.
    pub rest: BTreeMap<String, u64>,
}

/// A reason on an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentBecauseView {
    /// Which.
    pub agent_id: String,
    /// Its node name.
    pub hostname: String,
    /// Stable name of the reason.
    pub code: String,
    /// For people.
    pub message: String,
}

/// What a role may have, and has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoleExplainView {
    /// Its path.
    pub role: String,
    /// Among its siblings; 1 unless it is set.
    pub weight: Number,
    /// Weighted dominant share with all below it; 1 is the cluster.
    pub share: f64,
    /// Used and offered, with all below, by kind.
    pub allocated: BTreeMap<String, Number>,
    /// Its quota and how far it is used; `null` when it has none.
    pub quota: Option<QuotaView>,
    /// How much unreserved it could be offered now, by kind: what its limit, the limits above it and what is
    /// owed to others leave; `null` when no quota is set anywhere.
    pub may_get: Option<BTreeMap<String, Number>>,
    /// The first of those that are subscribed with it.
    pub frameworks: Vec<FrameworkRef>,
    /// How many there are.
    pub n_frameworks: u64,
    /// The first roles directly below it.
    pub subroles: Vec<String>,
    /// How many there are.
    pub n_subroles: u64,
}

/// Who is offered an agent, and who is passed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentExplainView {
    /// Agent id.
    pub id: String,
    /// Node name; empty when it has not come back since the master started, or is gone.
    pub hostname: String,
    /// Whether the master hears from it.
    pub reachable: bool,
    /// `active`, `deactivated`, `draining`, `drained` or `gone`.
    pub mode: String,
    /// Its planned maintenance.
    pub maintenance: Option<WindowView>,
    /// Held by tasks.
    pub used: ResourcesView,
    /// Out in offers.
    pub offered: ResourcesView,
    /// Neither.
    pub free: ResourcesView,
    /// What of it is reserved.
    pub reserved: Vec<PartView>,
    /// Stored reservations, volumes or tasks that its resources have no room for any more, in words.
    pub given_way: Vec<String>,
    /// Who was chosen for its free resources the last time.
    pub last_choice: Option<LastChoiceView>,
    /// Why the first subscribed frameworks, by role, hold nothing (more) of it.
    pub passed_over: Vec<PassedOverView>,
    /// Frameworks and roles beyond these, by reason.
    pub rest: BTreeMap<String, u64>,
}

/// Who was chosen for an agent, and against how many.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastChoiceView {
    /// Who.
    pub framework: FrameworkRef,
    /// For which of its roles.
    pub role: String,
    /// The role's weighted dominant share just before.
    pub share: f64,
    /// How many frameworks could have been chosen.
    pub candidates: u64,
    /// When.
    pub at_ms: u64,
}

/// A framework that holds nothing (more) of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOverView {
    /// Who.
    pub framework: FrameworkRef,
    /// For which of its roles.
    pub role: String,
    /// Why; empty when it holds all that there is for it.
    pub because: Vec<BecauseView>,
}

/// Why a job is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobExplainView {
    /// Its id.
    pub job: String,
    /// Each active run.
    pub runs: Vec<RunExplainView>,
    /// Each schedule: when it runs next, and which times it left out, in words.
    pub schedules: Vec<String>,
    /// Each job that it depends on: what it still lacks, in words.
    pub dependencies: Vec<String>,
    /// How its newest failed run ended.
    pub last_failure: Option<String>,
    /// While a run waits: why its framework is offered nothing (more), newest reasons.
    pub allocator: Vec<String>,
}

/// An active run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunExplainView {
    /// Its id.
    pub id: String,
    /// What it does or waits for, in words.
    pub state: String,
    /// Offers that it has looked at since it waits.
    pub offers: u64,
    /// Which rule refused how many, in words, and what would help: `needs 4 cpus: 12 offers had less, the most was 2; ..`.
    pub refused: Vec<String>,
}

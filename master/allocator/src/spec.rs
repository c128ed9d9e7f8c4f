//! What frameworks and agents say of themselves.

use waggle_types::{AgentInfo, FrameworkId, Resources};

use crate::{Capabilities, Domain, OfferConstraints, Reservation};

/// What a framework subscribes with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FrameworkSpec {
    /// Its roles: at least one, each once.
    pub roles: Vec<RoleSubscription>,
    /// What it can handle.
    pub capabilities: Capabilities,
}

/// One role of a framework.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoleSubscription {
    /// `*` or a path: `a/b`.
    pub role: String,
    /// Send nothing until it revives.
    pub suppressed: bool,
    /// Agents that it is not interested in.
    pub constraints: OfferConstraints,
    /// The smallest bundle that is of use; nothing smaller is offered.
    pub smallest: Option<Resources>,
}

/// An agent as it joins, with what a flat [`AgentInfo`] cannot say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSpec {
    /// Who it is and what it has, reservations included.
    pub info: AgentInfo,
    /// Where it stands.
    pub domain: Option<Domain>,
    /// What of it is reserved, each by its whole stack.
    pub reserved: Vec<(Vec<Reservation>, Resources)>,
}

/// What runs on an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Whose.
    pub framework_id: FrameworkId,
    /// For which of its roles; empty when it is not known.
    pub role: String,
    /// Of which reservation; empty for unreserved resources.
    pub reservation: Vec<Reservation>,
    /// Lent from this reservation of another role.
    pub revocable: bool,
    /// How much.
    pub resources: Resources,
}

//! What frameworks and agents say of themselves.

use std::sync::Arc;

use waggle_types::{
    AgentInfo, Capabilities, FrameworkId, Reservation, Resources, RoleSubscription,
};

/// What a framework subscribes with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FrameworkSpec {
    /// Its roles: at least one, each once.
    pub roles: Vec<RoleSubscription>,
    /// What it can handle.
    pub capabilities: Capabilities,
}

/// An agent as it joins, with what is reserved of it by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSpec {
    /// Who it is and what it has, reservations included. Shared: whoever keeps it too pays for one.
    pub info: Arc<AgentInfo>,
    /// All that is reserved of it, static and dynamic, each by its whole stack, volumes inside the resources
    /// of their stack. Nothing is read of `info.reserved`: the caller puts it in here.
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

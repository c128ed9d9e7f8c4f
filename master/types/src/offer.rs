//! Agents and the offers made of them.

use std::{collections::BTreeMap, net::Ipv4Addr};

use crate::{AgentId, FrameworkId, OfferId, Resources, UnixMillis};

/// An agent as it registers: who it is and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentInfo {
    /// Stable id.
    pub agent_id: AgentId,
    /// Name of the node.
    pub hostname: String,
    /// The node's address on the underlay: agent IP in DNS and VIP backends.
    pub ip: Ipv4Addr,
    /// Port of the agent's HTTP API.
    pub http_port: u16,
    /// All that it offers, ports included.
    pub total: Resources,
    /// `rack:a1`, for constraints.
    pub attributes: BTreeMap<String, String>,
}

/// Resources of one agent, offered to one framework.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The offer.
    pub offer_id: OfferId,
    /// To whom.
    pub framework_id: FrameworkId,
    /// Allocated to this role.
    pub role: String,
    /// Whose resources.
    pub agent_id: AgentId,
    /// The agent's node name.
    pub hostname: String,
    /// The agent's address.
    pub ip: Ipv4Addr,
    /// What is offered.
    pub resources: Resources,
    /// The agent's attributes.
    pub attributes: BTreeMap<String, String>,
    /// When it was made.
    pub at: UnixMillis,
}

//! Agents and the offers made of them.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::{AgentId, Domain, FrameworkId, Millis, OfferId, ResourcePart, Resources, UnixMillis};

/// An agent as it registers: who it is and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentInfo {
    /// Stable id.
    pub agent_id: AgentId,
    /// Name of the node.
    pub hostname: String,
    /// The node's address on the underlay: agent IP in DNS and VIP backends.
    pub ip: Ipv4Addr,
    /// The same over IPv6, where it has one: for VIPs over IPv6.
    pub ip6: Option<Ipv6Addr>,
    /// Port of the agent's HTTP API.
    pub http_port: u16,
    /// All that it offers, ports included.
    pub total: Resources,
    /// Of this, what is reserved statically: by the agent's own configuration, for a role each.
    pub reserved: Vec<(String, Resources)>,
    /// `rack:a1`, for constraints.
    pub attributes: BTreeMap<String, String>,
    /// Where it stands.
    pub domain: Option<Domain>,
}

/// When an agent will be down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unavailability {
    /// From then on.
    pub start: UnixMillis,
    /// For so long; `None`: nobody knows.
    pub duration: Option<Millis>,
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
    /// What is offered, all together.
    pub resources: Resources,
    /// The same by reservation; empty when nothing of it is reserved or lent.
    pub parts: Vec<ResourcePart>,
    /// The agent's attributes.
    pub attributes: BTreeMap<String, String>,
    /// Where the agent stands.
    pub domain: Option<Domain>,
    /// The agent's planned maintenance.
    pub unavailability: Option<Unavailability>,
    /// When it was made.
    pub at: UnixMillis,
}

/// A framework is asked to leave an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InverseOffer {
    /// The inverse offer.
    pub offer_id: OfferId,
    /// Who is asked.
    pub framework_id: FrameworkId,
    /// Which agent.
    pub agent_id: AgentId,
    /// When it will be down.
    pub unavailability: Unavailability,
    /// What the framework uses there.
    pub resources: Resources,
}

//! Nodes: agents as the master knows them, and their maintenance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use waggle_types::{Domain, Unavailability};

use super::{PartView, ResourcesView};

/// A node: its agent as the master knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    /// Agent id.
    pub id: String,
    /// Node name.
    pub hostname: String,
    /// Underlay address.
    pub ip: String,
    /// Port of the agent's HTTP API.
    pub http_port: u16,
    /// Version of its binary.
    pub version: String,
    /// Whether the master hears from it.
    pub reachable: bool,
    /// Whether its session is open now.
    pub connected: bool,
    /// `active`, `deactivated`, `draining`, `drained` or `gone`.
    pub mode: String,
    /// Where it stands; `null` when it does not say.
    pub domain: Option<DomainView>,
    /// Its planned maintenance.
    pub maintenance: Option<WindowView>,
    /// All that it has.
    pub total: ResourcesView,
    /// Held by tasks.
    pub used: ResourcesView,
    /// Out in offers.
    pub offered: ResourcesView,
    /// What of it is reserved, by stack.
    pub reserved: Vec<PartView>,
    /// For constraints.
    pub attributes: BTreeMap<String, String>,
    /// Tasks on it that are not terminal.
    pub tasks: u32,
    /// When the master last heard from it.
    pub last_heard_ms: u64,
    /// Generation that its kernel and DNS hold.
    pub applied_generation: u64,
    /// Generation that the master published last.
    pub published_generation: u64,
    /// How long the node took to apply it.
    pub applied_us: u64,
    /// From publishing to hearing that it is applied; `null` until heard.
    pub applied_after_ms: Option<u64>,
    /// Parts that it could not apply.
    pub apply_failures: Vec<String>,
}

/// Where a node stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainView {
    /// What is far apart.
    pub region: String,
    /// What fails together.
    pub zone: String,
}

impl From<&Domain> for DomainView {
    fn from(d: &Domain) -> Self {
        Self {
            region: d.region.clone(),
            zone: d.zone.clone(),
        }
    }
}

/// When a node will be down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowView {
    /// From then on.
    pub start_ms: u64,
    /// For so long; `null`: nobody knows.
    pub duration_ms: Option<u64>,
}

impl From<Unavailability> for WindowView {
    fn from(u: Unavailability) -> Self {
        Self {
            start_ms: u.start.0,
            duration_ms: u.duration.map(|d| d.0),
        }
    }
}

/// Planned maintenance of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaintenanceView {
    /// Which.
    pub agent_id: String,
    /// Its node name; empty when it has not come back since the master started.
    pub hostname: String,
    /// As of the node; `null` when it has not come back since the master started.
    pub mode: Option<String>,
    /// When.
    pub window: WindowView,
    /// Frameworks that use it, and what they answered.
    pub asked: Vec<AskedView>,
}

/// A framework that is asked to leave a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AskedView {
    /// Which.
    pub framework_id: String,
    /// Its DNS name.
    pub framework: String,
    /// `asked` (no answer yet), `accepted` or `declined`.
    pub answer: String,
    /// When it is asked again, if it declined.
    pub again_ms: Option<u64>,
    /// Its tasks there that have not ended.
    pub tasks: u32,
}

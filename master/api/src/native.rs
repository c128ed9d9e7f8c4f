//! Waggle's own JSON under `/waggle/v1`: what the CLI reads.
//!
//! Snake case, milliseconds and counts as integers, times as Unix milliseconds, absent values as `null`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mesos::ResourcesJson;

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
    /// All that it has.
    pub total: ResourcesJson,
    /// Held by tasks.
    pub used: ResourcesJson,
    /// Out in offers.
    pub offered: ResourcesJson,
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

/// A VIP: one address, port and protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipView {
    /// DNS name of a named VIP; `null` for a literal one.
    pub name: Option<String>,
    /// Address.
    pub ip: String,
    /// Port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Tasks behind it, eligible or not, by task id.
    pub backends: Vec<BackendView>,
}

/// A task behind a VIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendView {
    /// The task.
    pub task_id: String,
    /// Address of its agent.
    pub ip: String,
    /// Host port.
    pub port: u16,
    /// Whether new connections go to it.
    pub eligible: bool,
    /// Why it is, or is not.
    pub reason: String,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// Task id.
    pub id: String,
    /// Service path, empty for tasks of other frameworks.
    pub service: String,
    /// Framework name.
    pub framework: String,
    /// Definition that it runs.
    pub version: String,
    /// Mesos's name of its state.
    pub state: String,
    /// `healthy`, `unhealthy` or `unknown`.
    pub health: String,
    /// Agent id.
    pub agent_id: String,
    /// Node name.
    pub hostname: String,
    /// Address of its agent.
    pub ip: String,
    /// Port of its agent's HTTP API, for logs; `null` when the agent is not known.
    pub agent_http_port: Option<u16>,
    /// Host ports in definition order.
    pub ports: Vec<u16>,
    /// Sent to the agent.
    pub staged_at_ms: u64,
    /// First reported running.
    pub started_at_ms: Option<u64>,
    /// The newest status's message.
    pub message: String,
}

/// A deployment in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentView {
    /// Deployment id.
    pub id: String,
    /// The service that it changes.
    pub service: String,
    /// The definition that it brings.
    pub version: String,
    /// `start`, `scale`, `restart` or `stop`.
    pub kind: String,
    /// What it waits for, in words.
    pub waiting_for: String,
    /// When it was accepted.
    pub since_ms: u64,
}

/// A framework.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameworkView {
    /// Framework id.
    pub id: String,
    /// DNS name.
    pub name: String,
    /// Role that it gets offers for.
    pub role: String,
    /// Whether it gets offers now.
    pub active: bool,
    /// Whether its subscription is open.
    pub connected: bool,
    /// Whether it wants no offers now.
    pub suppressed: bool,
    /// Held by its tasks, ports left out.
    pub used: ResourcesJson,
    /// Out in offers to it, ports left out.
    pub offered: ResourcesJson,
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
    /// What is offered.
    pub resources: ResourcesJson,
    /// When it was made.
    pub since_ms: u64,
}

/// A role that has frameworks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoleView {
    /// Its name.
    pub name: String,
    /// Ids of its frameworks.
    pub frameworks: Vec<String>,
    /// The largest part of any resource kind that is allocated to it (used or offered), by its weight.
    pub share: f64,
    /// Held by tasks, ports left out.
    pub used: ResourcesJson,
    /// Out in offers, ports left out.
    pub offered: ResourcesJson,
}

/// Why a service is not where it should be: the answer of `/waggle/v1/explain/<service>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainView {
    /// The service.
    pub service: String,
    /// Instances asked for.
    pub instances: u32,
    /// Instances that run.
    pub running: u32,
    /// Instances that are healthy.
    pub healthy: u32,
    /// Instances that wait for offers.
    pub waiting: u32,
    /// Backoff that is left.
    pub delay_ms: u64,
    /// Offers looked at.
    pub offers: u64,
    /// Offers not taken, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Deployments in flight, with what they wait for.
    pub deployments: Vec<DeploymentView>,
    /// How the newest failed instance ended, in words.
    pub last_failure: Option<String>,
    /// The allocator's reasons for offering nothing, newest.
    pub allocator: Vec<String>,
}

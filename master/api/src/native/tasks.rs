//! Tasks, deployments, and why a service waits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::PartView;

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// Task id.
    pub id: String,
    /// Service path, empty for tasks of other frameworks.
    pub service: String,
    /// Framework name.
    pub framework: String,
    /// Role that its resources are allocated to.
    pub role: String,
    /// What it holds by reservation; empty when nothing of it is reserved or lent.
    pub parts: Vec<PartView>,
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

/// Why a service is not where it should be: the answer of `/waggle/v1/explain/app/<service>`.
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

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
    /// The service that was asked for, or the first that it changes.
    pub service: String,
    /// All services that it changes.
    #[serde(default)]
    pub services: Vec<String>,
    /// The version of what it brings.
    pub version: String,
    /// What it does to `service`: `start`, `scale`, `restart` or `stop`.
    pub kind: String,
    /// What it waits for, in words.
    pub waiting_for: String,
    /// The step under way, from 1.
    #[serde(default)]
    pub step: u32,
    /// How many there are.
    #[serde(default)]
    pub total_steps: u32,
    /// When it was accepted.
    pub since_ms: u64,
    /// When the step under way began, or the master did.
    #[serde(default)]
    pub step_since_ms: u64,
    /// When it goes back by itself, if the step is not over by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_back_at_ms: Option<u64>,
}

/// One deployment: the answer of `/waggle/v1/deployments/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentStateView {
    /// Deployment id.
    pub id: String,
    /// `running`, `finished`, `superseded` by a newer one, `cancelled`, `rolled_back`, or `late`: it took too long and
    /// went back by itself.
    pub state: String,
    /// How far it is, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentView>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
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
    /// Rules that turned offers away, those first that turned most away.
    #[serde(default)]
    pub why: Vec<WhyView>,
    /// What is in the way of more instances than could ever run on the nodes that there are; `null` when all of
    /// them could.
    #[serde(default)]
    pub never: Option<NeverView>,
    /// Where its instances are at home, if it is resident.
    #[serde(default)]
    pub homes: Vec<HomeView>,
    /// Why its instances are where they are: the newest placements of the master that leads, oldest first.
    #[serde(default)]
    pub placements: Vec<PlacementView>,
}

/// A decision: an instance was placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementView {
    /// The instance.
    pub instance: String,
    /// The node.
    pub hostname: String,
    /// When, in Unix milliseconds.
    pub at: u64,
    /// Offers that were looked at together.
    pub offers: u32,
    /// Of these, how many fitted.
    pub fit: u32,
    /// Why this one.
    pub because: String,
    /// Offers that the service had looked at before, since it began to wait.
    pub before: u64,
    /// Rules that had turned those away.
    pub refused: Vec<WhyView>,
}

/// A rule that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyView {
    /// Marathon's reason.
    pub reason: String,
    /// For people: `needs 4 cpus: 12 offers had less, the most was 2`.
    pub message: String,
    /// What would help.
    pub fix: String,
    /// Offers that it turned away.
    pub offers: u64,
}

/// More instances than the nodes could ever hold, even if nothing else ran there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeverView {
    /// Instances that could run.
    pub fit: u32,
    /// Nodes that were looked at.
    pub nodes: u64,
    /// Why no more; offers stand for nodes.
    pub why: Vec<WhyView>,
}

/// Where a resident instance is at home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HomeView {
    /// The instance.
    pub instance: String,
    /// The agent that holds its reservation and volumes.
    pub agent_id: String,
    /// Its node name; empty when it has not been seen since the master started.
    pub hostname: String,
    /// Whether a task of it is there now.
    pub in_use: bool,
}

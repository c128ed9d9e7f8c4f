//! The status of a pod: its instances and their containers, and those that ended last.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use waggle_types::{Resources, ScalarKind};

use super::super::{definition::Number, types::LocalVolume};

/// How a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PodState {
    /// Fewer instances are stable than are asked for.
    Degraded,
    /// As many as are asked for.
    Stable,
    /// It is being removed.
    Terminal,
}

/// How an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PodInstanceState {
    /// It waits for an offer.
    Pending,
    /// It was launched, and not all of it runs.
    Staging,
    /// It runs, and is healthy and ready where checks say so.
    Stable,
    /// It runs and is not.
    Degraded,
    /// It ends.
    Terminal,
}

/// The answer to `GET /v2/pods/{id}::status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's PodStatus")]
pub struct PodStatus {
    pub id: String,
    pub spec: Value,
    pub status: PodState,
    pub status_since: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    pub instances: Vec<PodInstanceStatus>,
    pub termination_history: Vec<EndedInstance>,
    pub last_updated: String,
    pub last_changed: String,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's PodInstanceStatus")]
pub struct PodInstanceStatus {
    pub id: String,
    pub status: PodInstanceState,
    pub status_since: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    pub conditions: Vec<Condition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_hostname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_zone: Option<String>,
    pub resources: ResourcesJson,
    pub networks: Vec<NetworkStatus>,
    pub containers: Vec<ContainerStatus>,
    pub spec_reference: String,
    pub local_volumes: Vec<LocalVolume>,
    pub last_updated: String,
    pub last_changed: String,
    pub role: String,
}

/// Something that holds of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's StatusCondition")]
pub struct Condition {
    pub name: String,
    pub value: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub last_changed: String,
    pub last_updated: String,
}

/// A network of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of Marathon's NetworkStatus")]
pub struct NetworkStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub addresses: Vec<String>,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's ContainerStatus")]
pub struct ContainerStatus {
    pub name: String,
    /// `TASK_RUNNING`.
    pub status: String,
    pub status_since: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    pub conditions: Vec<Condition>,
    /// The task's id.
    pub container_id: String,
    pub endpoints: Vec<ContainerEndpoint>,
    pub resources: ResourcesJson,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination: Option<ContainerEnd>,
    pub last_updated: String,
    pub last_changed: String,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's ContainerEndpointStatus")]
pub struct ContainerEndpoint {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated_host_port: Option<u16>,
    /// Only of an endpoint that a health check asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's ContainerTerminationState")]
pub struct ContainerEnd {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// An instance that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's TerminationHistory")]
pub struct EndedInstance {
    #[serde(rename = "instanceID")]
    pub instance_id: String,
    pub started_at: String,
    pub terminated_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    pub containers: Vec<EndedContainer>,
}

/// A container that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(
    missing_docs,
    reason = "keys of Marathon's ContainerTerminationHistory"
)]
pub struct EndedContainer {
    pub container_id: String,
    pub last_known_state: String,
    pub termination: ContainerEnd,
}

/// What something takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of Marathon's Resources")]
pub struct ResourcesJson {
    pub cpus: Number,
    pub mem: Number,
    pub disk: Number,
    pub gpus: Number,
}

impl From<&Resources> for ResourcesJson {
    fn from(r: &Resources) -> Self {
        let of = |kind| Number(r.get(kind).to_f64());
        Self {
            cpus: of(ScalarKind::Cpus),
            mem: of(ScalarKind::Mem),
            disk: of(ScalarKind::Disk),
            gpus: of(ScalarKind::Gpus),
        }
    }
}

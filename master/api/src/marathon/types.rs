//! Answers of the Marathon API; keys and nothing else from CONTRACTS.md section 2.

use serde::{Deserialize, Serialize};

use super::{
    definition::{AppDefinition, Number},
    stats::TaskStats,
};
pub use crate::error::DeploymentRef as DeploymentStub;

/// An app: definition and state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's app")]
pub struct App {
    #[serde(flatten)]
    pub definition: AppDefinition,
    /// Service ports, as older clients read them.
    #[serde(default)]
    pub ports: Vec<u16>,
    pub version_info: VersionInfo,
    pub tasks_staged: u32,
    pub tasks_running: u32,
    pub tasks_healthy: u32,
    pub tasks_unhealthy: u32,
    pub deployments: Vec<DeploymentStub>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<Task>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_task_failure: Option<TaskFailure>,
    /// Of apps with readiness checks, when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_check_results: Option<Vec<ReadinessCheckResult>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_stats: Option<TaskStats>,
}

/// Whether a task is ready by one of its checks. Agents tell whether it is by all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's result")]
pub struct ReadinessCheckResult {
    pub name: String,
    pub task_id: String,
    pub ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_response: Option<ReadinessResponse>,
}

/// What a readiness check was answered last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's response")]
pub struct ReadinessResponse {
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

/// When a definition last changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's version info")]
pub struct VersionInfo {
    pub last_scaling_at: String,
    pub last_config_change_at: String,
}

/// `{"app": ..}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WrappedApp {
    /// The app.
    pub app: App,
}

/// `{"apps": [..]}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppList {
    /// The apps, by id.
    pub apps: Vec<App>,
}

/// `{"versions": [..]}`, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppVersions {
    /// Timestamps.
    pub versions: Vec<String>,
}

/// A task of an app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's task")]
pub struct Task {
    pub id: String,
    pub app_id: String,
    pub slave_id: String,
    pub host: String,
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    pub version: String,
    pub ports: Vec<u16>,
    /// As long as `ports`: clients index one by the other.
    pub service_ports: Vec<u16>,
    pub ip_addresses: Vec<IpAddress>,
    pub health_check_results: Vec<HealthCheckResult>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_volumes: Vec<LocalVolume>,
}

/// A persistent volume of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's LocalVolumeId")]
pub struct LocalVolume {
    pub run_spec_id: String,
    /// Where it is mounted; of a pod's its name.
    pub container_path: String,
    pub uuid: String,
    pub persistence_id: String,
}

/// An address of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's address")]
pub struct IpAddress {
    pub ip_address: String,
    pub protocol: String,
}

/// What the health checks of a task said. As in Marathon with checks that Mesos carries out, times are those of what was
/// told: each failure, and the first success after one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's result")]
pub struct HealthCheckResult {
    pub alive: bool,
    pub task_id: String,
    pub instance_id: String,
    pub consecutive_failures: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_success: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure_cause: Option<String>,
}

/// `{"tasks": [..]}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskList {
    /// The tasks, by id.
    pub tasks: Vec<Task>,
}

/// `{"task": ..}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WrappedTask {
    /// The task.
    pub task: Task,
}

/// `{"ids": [..]}`: the body of `POST /v2/tasks/delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TasksToDelete {
    /// Task ids.
    pub ids: Vec<String>,
}

/// How the newest failed task of an app ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's task failure")]
pub struct TaskFailure {
    pub app_id: String,
    pub host: String,
    pub message: String,
    pub task_id: String,
    pub instance_id: String,
    pub slave_id: String,
    pub state: String,
    pub timestamp: String,
    pub version: String,
}

/// The answer to a change: `{"version", "deploymentId"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's deployment result")]
pub struct DeploymentResult {
    pub version: String,
    pub deployment_id: String,
}

/// A deployment in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's deployment")]
pub struct Deployment {
    pub id: String,
    pub version: String,
    pub affected_apps: Vec<String>,
    pub affected_pods: Vec<String>,
    pub steps: Vec<DeploymentStep>,
    pub current_actions: Vec<DeploymentAction>,
    pub current_step: u32,
    pub total_steps: u32,
}

/// Actions that run side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentStep {
    /// The actions.
    pub actions: Vec<DeploymentAction>,
}

/// One action on one app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentAction {
    /// `StartApplication`, `ScaleApplication`, `RestartApplication` or `StopApplication`; of pods `StartPod` and so on.
    pub action: String,
    /// The app's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The pod's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Of the app's instances, where it has readiness checks.
    #[serde(
        rename = "readinessCheckResults",
        default,
        skip_serializing_if = "Vec::is_empty"
    )]
    pub readiness_check_results: Vec<ReadinessCheckResult>,
}

/// `{"queue": [..]}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// Apps that wait for offers.
    pub queue: Vec<QueueItem>,
}

/// An app that waits for offers, or a pod where those were asked for. No `role`: marathon-python refuses it, and an
/// entry without an app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's queue item")]
pub struct QueueItem {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<App>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<serde_json::Value>,
    pub count: u32,
    pub delay: Delay,
    pub since: String,
    pub processed_offers_summary: ProcessedOffers,
    /// Only when asked for by `embed=lastUnusedOffers`: Marathon's `UnusedOffer`, a few of the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_unused_offers: Option<Vec<serde_json::Value>>,
}

/// The backoff that is left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's delay")]
pub struct Delay {
    pub time_left_seconds: Number,
    pub overdue: bool,
}

/// Why offers were not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Marathon's processed offers")]
pub struct ProcessedOffers {
    pub processed_offers_count: u64,
    pub unused_offers_count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_unused_offer_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_offer_at: Option<String>,
    pub reject_summary_last_offers: Vec<Rejection>,
    pub reject_summary_launch_attempt: Vec<Rejection>,
}

/// One reason: how many offers reached the test, how many failed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of Marathon's rejection")]
pub struct Rejection {
    pub reason: String,
    pub declined: u64,
    pub processed: u64,
}

/// `{"leader": "host:port"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Host and port of the Marathon API.
    pub leader: String,
}

/// `/v2/info`; its clients insist on the three config objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of Marathon's info")]
pub struct Info {
    pub name: String,
    pub version: String,
    pub buildref: String,
    pub elected: bool,
    pub leader: Option<String>,
    #[serde(rename = "frameworkId")]
    pub framework_id: Option<String>,
    pub marathon_config: MarathonConfig,
    pub zookeeper_config: ZooKeeperConfig,
    pub http_config: HttpConfig,
}

/// Settings, as far as they mean something here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of Marathon's config")]
pub struct MarathonConfig {
    pub framework_name: String,
    pub ha: bool,
    pub checkpoint: bool,
    pub hostname: Option<String>,
    pub master: Option<String>,
    pub mesos_role: String,
    pub mesos_leader_ui_url: Option<String>,
    pub executor: String,
    pub features: Vec<String>,
    pub default_network_name: String,
    pub max_instances_per_offer: u32,
    /// Milliseconds, as the other durations.
    pub task_launch_timeout: u64,
    pub decline_offer_duration: u64,
    /// Left out where launches under way are not bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_token: Option<u32>,
    pub launch_token_refresh_interval: u64,
    pub min_revive_offers_interval: u64,
}

/// There is no ZooKeeper: an empty object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZooKeeperConfig {}

/// The listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpConfig {
    /// Port of the Marathon API.
    pub http_port: Option<u16>,
}

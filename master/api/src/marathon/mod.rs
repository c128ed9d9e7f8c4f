//! Marathon's REST JSON: definitions to [`ServiceSpec`](waggle_types::ServiceSpec) and back, and the answers.
//!
//! Only keys that marathon-python 0.13 knows are emitted of apps, since its models refuse any other. Definitions
//! are read strictly by type and leniently by key: unknown and read-only keys are ignored, wrong types and
//! values are errors that name field and rule, and what this release cannot run is refused by name.
//!
//! The stored form of a spec is the definition JSON itself ([`spec_to_json`], [`spec_from_json`]), lossless.

mod app;
mod asked;
mod asked_json;
pub(crate) mod container;
mod container_json;
mod definition;
mod fetch;
mod group;
mod health;
mod health_json;
mod keys;
mod network;
mod parameters;
mod parse;
mod pod;
mod ports;
mod schema;
mod secrets;
mod stats;
mod types;
mod version;
pub(crate) mod volumes;

#[cfg(test)]
mod tests;

pub use app::{Counts, Instance, app_json, local_volumes, readiness_results, task_json};
pub use asked_json::{EnvJson, ResidencyJson, SecretJson};
pub use container_json::{
    ContainerJson, DockerJson, ExternalJson, FetchJson, IpcInfoJson, LimitJson, LinuxInfoJson,
    NetworkJson, ParameterJson, PersistentJson, PortMappingJson, PullConfigJson,
    ResourceLimitsJson, SeccompJson, VolumeJson,
};
pub use definition::{
    AppDefinition, Number, PortDefinitionJson, UnreachableStrategyJson, UpgradeStrategyJson,
    spec_from_json, spec_to_json,
};
pub use group::{Group, GroupBody, GroupMode, PlanOnly, group_from_value};
pub use health_json::{
    CheckJson, CommandValue, ExecJson, HealthCheckJson, HttpCheckJson, ReadinessCheckJson,
    ShellJson, TcpCheckJson,
};
pub use parse::{MAX_INSTANCES, MAX_PORTS, ParseMode, app_from_value, parse_app, parse_json};
pub use pod::{
    Condition, ContainerEnd, ContainerEndpoint, ContainerStatus, EndedContainer, EndedInstance,
    MAX_CONTAINERS, NetworkStatus, PodInstanceState, PodInstanceStatus, PodState, PodStatus,
    ResourcesJson, pod_from_value, pod_json, pod_schema,
};
pub use schema::app_schema;
pub use stats::{LifeTime, StateCounts, Stats, StatsOf, TaskStats, task_stats};
pub use types::{
    App, AppList, AppVersions, Delay, Deployment, DeploymentAction, DeploymentResult,
    DeploymentStep, DeploymentStub, HealthCheckResult, HttpConfig, Info, IpAddress, Leader,
    LocalVolume, MarathonConfig, ProcessedOffers, Queue, QueueItem, ReadinessCheckResult,
    ReadinessResponse, Rejection, Task, TaskFailure, TaskList, TasksToDelete, VersionInfo,
    WrappedApp, WrappedTask, ZooKeeperConfig,
};
pub use version::parse_version;

//! A spec and observed state to Marathon's answers.

use std::net::IpAddr;

use waggle_types::{
    AgentId, CheckPurpose, CheckResponse, HealthRecord, HealthState, PersistentVolume, ServiceId,
    ServiceSpec, ServiceVersion, TaskId, TaskState, UnixMillis,
};

use super::types::{
    App, DeploymentStub, HealthCheckResult, IpAddress, LocalVolume, ReadinessCheckResult,
    ReadinessResponse, Task, VersionInfo,
};

/// What runs of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Sent, not yet running.
    pub staged: u32,
    /// Running.
    pub running: u32,
    /// Running and the last check passed.
    pub healthy: u32,
    /// Running and the last check failed.
    pub unhealthy: u32,
}

/// An app as `GET` shows it; `tasks` and `last_task_failure` are left for the caller.
pub fn app_json(spec: &ServiceSpec, counts: Counts, deployments: Vec<String>) -> App {
    let version = spec.version.to_string();
    App {
        definition: spec.into(),
        ports: spec.ports.iter().map(|p| p.port).collect(),
        version_info: VersionInfo {
            last_scaling_at: version.clone(),
            last_config_change_at: version,
        },
        tasks_staged: counts.staged,
        tasks_running: counts.running,
        tasks_healthy: counts.healthy,
        tasks_unhealthy: counts.unhealthy,
        deployments: deployments
            .into_iter()
            .map(|id| DeploymentStub { id })
            .collect(),
        tasks: None,
        last_task_failure: None,
        readiness_check_results: None,
        task_stats: None,
    }
}

/// An instance, as [`task_json`] needs it.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the words of waggle-types")]
pub struct Instance<'a> {
    pub task_id: &'a TaskId,
    pub agent_id: &'a AgentId,
    pub hostname: &'a str,
    pub ips: &'a [IpAddr],
    pub state: TaskState,
    pub health: HealthState,
    pub record: Option<&'a HealthRecord>,
    pub version: ServiceVersion,
    pub staged_at: UnixMillis,
    pub started_at: Option<UnixMillis>,
    pub ports: &'a [u16],
}

/// A task as Marathon shows it. `service_ports` are those of the definition; they are cut or filled with
/// 0 to the length of `ports`, since clients index one by the other. A port of 0, which is reached inside only, is left out.
pub fn task_json(app: &ServiceId, service_ports: &[u16], i: &Instance<'_>) -> Task {
    let id = i.task_id.to_string();
    let alive = match i.health {
        HealthState::Unknown => None,
        HealthState::Healthy => Some(true),
        HealthState::Unhealthy => Some(false),
    };
    let time = |at: Option<UnixMillis>| at.map(|at| ServiceVersion(at).to_string());
    let none = HealthRecord::default();
    let heard = i.record.unwrap_or(&none);
    let service_ports = service_ports.iter().copied().chain(std::iter::repeat(0));
    let shown = i.ports.iter().copied().zip(service_ports);
    let (ports, service_ports) = shown.filter(|(port, _)| *port != 0).unzip();
    Task {
        app_id: app.to_string(),
        slave_id: i.agent_id.to_string(),
        host: i.hostname.to_owned(),
        state: i.state.mesos_name().to_owned(),
        staged_at: Some(ServiceVersion(i.staged_at).to_string()),
        started_at: i.started_at.map(|at| ServiceVersion(at).to_string()),
        version: i.version.to_string(),
        ports,
        service_ports,
        ip_addresses: i
            .ips
            .iter()
            .map(|ip| IpAddress {
                ip_address: ip.to_string(),
                protocol: if ip.is_ipv4() { "IPv4" } else { "IPv6" }.into(),
            })
            .collect(),
        health_check_results: alive
            .map(|alive| HealthCheckResult {
                alive,
                task_id: id.clone(),
                instance_id: i.task_id.instance().to_owned(),
                consecutive_failures: heard.n_failures,
                first_success: time(heard.first_success),
                last_success: time(heard.last_success),
                last_failure: time(heard.last_failure),
                last_failure_cause: Some(&heard.last_failure_cause)
                    .filter(|_| heard.last_failure.is_some())
                    .cloned(),
            })
            .into_iter()
            .collect(),
        local_volumes: Vec::new(),
        id,
    }
}

/// The persistent volumes of an instance, as they are called where it is.
pub fn local_volumes(spec: &ServiceSpec, task_id: &TaskId) -> Vec<LocalVolume> {
    let uuid = PersistentVolume::uuid(task_id.instance());
    let one = |v: &PersistentVolume| {
        Some(LocalVolume {
            run_spec_id: spec.id.to_string(),
            container_path: v.target.clone(),
            uuid: uuid.to_owned(),
            persistence_id: v.id(&spec.id, uuid)?.to_string(),
        })
    };
    spec.volumes.iter().filter_map(one).collect()
}

/// What a task's readiness checks say, by name; nothing where the definition has none.
pub fn readiness_results(
    spec: &ServiceSpec,
    task_id: &TaskId,
    ready: Option<bool>,
    responses: &[CheckResponse],
) -> Vec<ReadinessCheckResult> {
    let checks = spec.health_checks.iter().enumerate();
    let mine = checks.filter(|(_, c)| c.purpose == CheckPurpose::Readiness);
    mine.filter_map(|(idx, c)| {
        let response = responses.iter().find(|r| r.idx == idx && c.keep_response);
        Some(ReadinessCheckResult {
            name: c.name.clone()?,
            task_id: task_id.to_string(),
            ready: ready == Some(true),
            last_response: response.map(|r| ReadinessResponse {
                status: r.status,
                content_type: r.content_type.clone(),
                body: r.body.clone(),
            }),
        })
    })
    .collect()
}

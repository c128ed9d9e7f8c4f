//! Tasks, their states, statuses and health checks.

use waggle_types::{
    AgentId, CheckPurpose, CheckResponse, CheckStatus, Command, ContainerSpec, DiscoveryInfo,
    Evicted, ExecutorKind, ExecutorStatus, FrameworkId, HealthCheck, HealthProbe, HealthState,
    MAX_RESPONSE_BODY, Millis, OnExecutor, Resources, StatusReason, StatusSource, StatusUuid,
    TaskId, TaskPort, TaskSpec, TaskState, TaskStatus, UnixMillis,
};

use super::reservation::parts;
use super::size::cut;
use super::{ConvertError, at_most, each, id, ip_if_any, ip6, port, required, status_uuid, trace};
use crate::proto::session as pb;

/// Longest message of a status, in bytes; it is for people, more is cut off.
const MAX_MESSAGE: usize = 4096;
/// Most responses of checks in a status.
const MAX_RESPONSES: usize = 32;
/// Longest type of a response's content, in bytes; more is cut off.
const MAX_CONTENT_TYPE: usize = 256;

/// Enums that have the same values on both sides, but for the wire's "unspecified".
macro_rules! same_enum {
    ($wire:ident, $domain:ident: $($w:ident = $d:ident),+ $(,)?) => {
        impl From<$domain> for pb::$wire {
            fn from(v: $domain) -> Self {
                match v {
                    $($domain::$d => Self::$w,)+
                }
            }
        }
    };
}

same_enum!(TaskState, TaskState:
    TaskStaging = Staging, TaskStarting = Starting, TaskRunning = Running, TaskKilling = Killing,
    TaskFinished = Finished, TaskFailed = Failed, TaskKilled = Killed, TaskError = Error,
    TaskLost = Lost, TaskDropped = Dropped, TaskUnreachable = Unreachable, TaskGone = Gone,
    TaskGoneByOperator = GoneByOperator, TaskUnknown = Unknown,
);
same_enum!(HealthState, HealthState:
    HealthUnknown = Unknown, HealthHealthy = Healthy, HealthUnhealthy = Unhealthy,
);
same_enum!(StatusSource, StatusSource:
    SourceMaster = Master, SourceAgent = Agent, SourceExecutor = Executor,
);
same_enum!(StatusReason, StatusReason:
    ReasonContainerLaunchFailed = ContainerLaunchFailed,
    ReasonCommandExecutorFailed = CommandExecutorFailed,
    ReasonContainerLimitationMemory = ContainerLimitationMemory,
    ReasonTaskHealthCheckStatusUpdated = TaskHealthCheckStatusUpdated,
    ReasonTaskInvalid = TaskInvalid,
    ReasonInvalidOffers = InvalidOffers,
    ReasonSlaveDisconnected = SlaveDisconnected,
    ReasonSlaveRemoved = SlaveRemoved,
    ReasonSlaveRestarted = SlaveRestarted,
    ReasonReconciliation = Reconciliation,
    ReasonExecutorTerminated = ExecutorTerminated,
    ReasonTaskKilled = TaskKilled,
    ReasonContainerPreempted = ContainerPreempted,
    ReasonSlaveDraining = SlaveDraining,
    ReasonContainerLimitationDisk = ContainerLimitationDisk,
    ReasonTaskCheckStatusUpdated = TaskCheckStatusUpdated,
    ReasonExecutorRegistrationTimeout = ExecutorRegistrationTimeout,
    ReasonExecutorReregistrationTimeout = ExecutorReregistrationTimeout,
    ReasonTaskKilledDuringLaunch = TaskKilledDuringLaunch,
    ReasonMaxCompletionTimeReached = MaxCompletionTimeReached,
    ReasonTaskGroupInvalid = TaskGroupInvalid,
    ReasonSlaveRemovedByOperator = SlaveRemovedByOperator,
    ReasonSlaveReregistered = SlaveReregistered,
    ReasonFrameworkRemoved = FrameworkRemoved,
);

/// A task state from its wire number; `field` names it in the error.
pub fn task_state(field: &str, value: i32) -> Result<TaskState, ConvertError> {
    TaskState::ALL
        .into_iter()
        .find(|s| i32::from(pb::TaskState::from(*s)) == value)
        .ok_or_else(|| ConvertError::new(field, format!("must be a task state, is {value}")))
}

/// A health state from its wire number; `field` names it in the error.
pub fn health_state(field: &str, value: i32) -> Result<HealthState, ConvertError> {
    match pb::HealthState::try_from(value) {
        Ok(pb::HealthState::HealthUnknown) => Ok(HealthState::Unknown),
        Ok(pb::HealthState::HealthHealthy) => Ok(HealthState::Healthy),
        Ok(pb::HealthState::HealthUnhealthy) => Ok(HealthState::Unhealthy),
        Err(_) => Err(ConvertError::new(
            field,
            format!("must be a health state, is {value}"),
        )),
    }
}

fn status_source(value: i32) -> Result<StatusSource, ConvertError> {
    match pb::StatusSource::try_from(value) {
        Ok(pb::StatusSource::SourceMaster) => Ok(StatusSource::Master),
        Ok(pb::StatusSource::SourceAgent) => Ok(StatusSource::Agent),
        Ok(pb::StatusSource::SourceExecutor) => Ok(StatusSource::Executor),
        Ok(pb::StatusSource::SourceUnspecified) | Err(_) => Err(ConvertError::new(
            "source",
            format!("must be a status source, is {value}"),
        )),
    }
}

/// Unknown numbers read as no reason: it is for people, and a newer peer may know more.
fn status_reason(value: i32) -> Option<StatusReason> {
    use StatusReason as R;
    use pb::StatusReason as W;
    match W::try_from(value) {
        Ok(W::ReasonNone) | Err(_) => None,
        Ok(W::ReasonContainerLaunchFailed) => Some(R::ContainerLaunchFailed),
        Ok(W::ReasonCommandExecutorFailed) => Some(R::CommandExecutorFailed),
        Ok(W::ReasonContainerLimitationMemory) => Some(R::ContainerLimitationMemory),
        Ok(W::ReasonTaskHealthCheckStatusUpdated) => Some(R::TaskHealthCheckStatusUpdated),
        Ok(W::ReasonTaskInvalid) => Some(R::TaskInvalid),
        Ok(W::ReasonInvalidOffers) => Some(R::InvalidOffers),
        Ok(W::ReasonSlaveDisconnected) => Some(R::SlaveDisconnected),
        Ok(W::ReasonSlaveRemoved) => Some(R::SlaveRemoved),
        Ok(W::ReasonSlaveRestarted) => Some(R::SlaveRestarted),
        Ok(W::ReasonReconciliation) => Some(R::Reconciliation),
        Ok(W::ReasonExecutorTerminated) => Some(R::ExecutorTerminated),
        Ok(W::ReasonTaskKilled) => Some(R::TaskKilled),
        Ok(W::ReasonContainerPreempted) => Some(R::ContainerPreempted),
        Ok(W::ReasonSlaveDraining) => Some(R::SlaveDraining),
        Ok(W::ReasonContainerLimitationDisk) => Some(R::ContainerLimitationDisk),
        Ok(W::ReasonTaskCheckStatusUpdated) => Some(R::TaskCheckStatusUpdated),
        Ok(W::ReasonExecutorRegistrationTimeout) => Some(R::ExecutorRegistrationTimeout),
        Ok(W::ReasonExecutorReregistrationTimeout) => Some(R::ExecutorReregistrationTimeout),
        Ok(W::ReasonTaskKilledDuringLaunch) => Some(R::TaskKilledDuringLaunch),
        Ok(W::ReasonMaxCompletionTimeReached) => Some(R::MaxCompletionTimeReached),
        Ok(W::ReasonTaskGroupInvalid) => Some(R::TaskGroupInvalid),
        Ok(W::ReasonSlaveRemovedByOperator) => Some(R::SlaveRemovedByOperator),
        Ok(W::ReasonSlaveReregistered) => Some(R::SlaveReregistered),
        Ok(W::ReasonFrameworkRemoved) => Some(R::FrameworkRemoved),
    }
}

/// Why a kill came, when its framework did not ask for it; a reason that is no such reads as none.
pub fn evicted(reason: i32, message: String) -> Option<Evicted> {
    let reason = status_reason(reason)?;
    let known = [
        StatusReason::ContainerPreempted,
        StatusReason::SlaveDraining,
    ];
    known.contains(&reason).then(|| Evicted {
        reason,
        message: cut(message, MAX_MESSAGE),
    })
}

impl TryFrom<pb::TaskStatus> for TaskStatus {
    type Error = ConvertError;

    fn try_from(s: pb::TaskStatus) -> Result<Self, ConvertError> {
        let uuid = if s.uuid.is_empty() {
            None
        } else {
            Some(status_uuid("uuid", &s.uuid)?)
        };
        Ok(Self {
            task_id: id("task_id", s.task_id, TaskId::new)?,
            agent_id: id("agent_id", s.agent_id, AgentId::new)?,
            state: task_state("state", s.state)?,
            health: health_state("health", s.health)?,
            reason: status_reason(s.reason),
            message: cut(s.message, MAX_MESSAGE),
            source: status_source(s.source)?,
            at: UnixMillis(s.at_ms),
            uuid,
            executor: match s.executor {
                None => None,
                Some(e) => Some(Box::new(
                    ExecutorStatus::try_from(e).map_err(|e| e.within("executor"))?,
                )),
            },
            ready: s.ready,
            check: s.check.map(CheckStatus::try_from).transpose()?,
            responses: responses(s.responses)?,
            ip: ip_if_any("ip", &s.ip)?,
            ip6: ip6("ip6", &s.ip6)?,
        })
    }
}

impl From<&TaskStatus> for pb::TaskStatus {
    fn from(s: &TaskStatus) -> Self {
        Self {
            task_id: s.task_id.to_string(),
            agent_id: s.agent_id.to_string(),
            state: pb::TaskState::from(s.state).into(),
            health: pb::HealthState::from(s.health).into(),
            reason: s
                .reason
                .map_or(pb::StatusReason::ReasonNone, Into::into)
                .into(),
            message: s.message.clone(),
            source: pb::StatusSource::from(s.source).into(),
            at_ms: s.at.0,
            uuid: s.uuid.map(|StatusUuid(b)| b.to_vec()).unwrap_or_default(),
            executor: s.executor.as_deref().map(Into::into),
            ready: s.ready,
            check: s.check.map(Into::into),
            responses: s.responses.iter().map(Into::into).collect(),
            ip: s.ip.map(|ip| ip.to_string()).unwrap_or_default(),
            ip6: s.ip6.map(|ip| ip.to_string()).unwrap_or_default(),
        }
    }
}

impl TryFrom<pb::CheckStatus> for CheckStatus {
    type Error = ConvertError;

    fn try_from(s: pb::CheckStatus) -> Result<Self, ConvertError> {
        use pb::check_status::Said;
        Ok(match required("check.said", s.said)? {
            Said::Command(c) => Self::Command {
                exit_code: c.exit_code,
            },
            Said::Http(h) => {
                Self::Http {
                    status: h.status.map(u16::try_from).transpose().map_err(|_| {
                        ConvertError::new("check.http.status", "must be below 65536")
                    })?,
                }
            }
            Said::Tcp(t) => Self::Tcp {
                connected: t.connected,
            },
        })
    }
}

impl From<CheckStatus> for pb::CheckStatus {
    fn from(s: CheckStatus) -> Self {
        use pb::check_status::Said;
        let said = match s {
            CheckStatus::Command { exit_code } => Said::Command(pb::CommandSaid { exit_code }),
            CheckStatus::Http { status } => Said::Http(pb::HttpSaid {
                status: status.map(u32::from),
            }),
            CheckStatus::Tcp { connected } => Said::Tcp(pb::TcpSaid { connected }),
        };
        Self { said: Some(said) }
    }
}

fn responses(given: Vec<pb::CheckResponse>) -> Result<Vec<CheckResponse>, ConvertError> {
    at_most("responses", given.len(), MAX_RESPONSES)?;
    let one = |r: pb::CheckResponse| {
        let status = u16::try_from(r.status).ok().filter(|s| *s < 1000);
        Ok(CheckResponse {
            idx: index("responses.idx", r.idx)?,
            status: status.ok_or_else(|| {
                ConvertError::new("responses.status", format!("is too large, is {}", r.status))
            })?,
            content_type: cut(r.content_type, MAX_CONTENT_TYPE),
            body: cut(r.body, MAX_RESPONSE_BODY),
        })
    };
    given.into_iter().map(one).collect()
}

impl From<&CheckResponse> for pb::CheckResponse {
    fn from(r: &CheckResponse) -> Self {
        Self {
            idx: index_number(r.idx),
            status: r.status.into(),
            content_type: r.content_type.clone(),
            body: r.body.clone(),
        }
    }
}

/// A position in a list of ports.
fn index(field: &str, value: u32) -> Result<usize, ConvertError> {
    usize::try_from(value)
        .map_err(|_| ConvertError::new(field, format!("is too large, is {value}")))
}

/// Positions are bounded by the number of ports, so this never saturates for a valid spec.
fn index_number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn statuses(given: &[u32]) -> Result<Vec<u16>, ConvertError> {
    at_most("http.statuses", given.len(), 500)?;
    let one = |s: &u32| u16::try_from(*s).ok().filter(|s| (100..600).contains(s));
    let all: Option<Vec<u16>> = given.iter().map(one).collect();
    all.ok_or_else(|| ConvertError::new("http.statuses", "must be between 100 and 599"))
}

impl TryFrom<pb::HealthCheck> for HealthCheck {
    type Error = ConvertError;

    fn try_from(h: pb::HealthCheck) -> Result<Self, ConvertError> {
        let fixed = |field: &str, p: Option<u32>| p.map(|p| port(field, p)).transpose();
        let probe = match required("probe", h.probe)? {
            pb::health_check::Probe::Http(p) => HealthProbe::Http {
                tls: p.tls,
                statuses: statuses(&p.statuses)?,
                path: p.path,
                port_index: index("http.port_index", p.port_index)?,
                port: fixed("http.port", p.port)?,
            },
            pb::health_check::Probe::Tcp(p) => HealthProbe::Tcp {
                port_index: index("tcp.port_index", p.port_index)?,
                port: fixed("tcp.port", p.port)?,
            },
            pb::health_check::Probe::Command(shell) => HealthProbe::Command { shell },
        };
        let purpose = match pb::CheckPurpose::try_from(h.purpose) {
            Ok(pb::CheckPurpose::PurposeHealth) => CheckPurpose::Health,
            Ok(pb::CheckPurpose::PurposeReadiness) => CheckPurpose::Readiness,
            Ok(pb::CheckPurpose::PurposeStartup) => CheckPurpose::Startup,
            Ok(pb::CheckPurpose::PurposeReport) => CheckPurpose::Report,
            Err(_) => {
                let rule = format!("must be a check's purpose, is {}", h.purpose);
                return Err(ConvertError::new("purpose", rule));
            }
        };
        Ok(Self {
            name: h.name,
            purpose,
            delay: Millis(h.delay_ms),
            probe,
            grace_period: Millis(h.grace_period_ms),
            interval: Millis(h.interval_ms),
            timeout: Millis(h.timeout_ms),
            max_consecutive_failures: h.max_consecutive_failures,
            keep_response: h.keep_response,
        })
    }
}

impl From<&HealthCheck> for pb::HealthCheck {
    fn from(h: &HealthCheck) -> Self {
        let probe = match &h.probe {
            HealthProbe::Http {
                tls,
                statuses,
                path,
                port_index,
                port,
            } => pb::health_check::Probe::Http(pb::HttpProbe {
                tls: *tls,
                statuses: statuses.iter().map(|s| u32::from(*s)).collect(),
                path: path.clone(),
                port_index: index_number(*port_index),
                port: port.map(Into::into),
            }),
            HealthProbe::Tcp { port_index, port } => pb::health_check::Probe::Tcp(pb::TcpProbe {
                port_index: index_number(*port_index),
                port: port.map(Into::into),
            }),
            HealthProbe::Command { shell } => pb::health_check::Probe::Command(shell.clone()),
        };
        let purpose = match h.purpose {
            CheckPurpose::Health => pb::CheckPurpose::PurposeHealth,
            CheckPurpose::Readiness => pb::CheckPurpose::PurposeReadiness,
            CheckPurpose::Startup => pb::CheckPurpose::PurposeStartup,
            CheckPurpose::Report => pb::CheckPurpose::PurposeReport,
        };
        Self {
            name: h.name.clone(),
            purpose: purpose.into(),
            delay_ms: h.delay.0,
            probe: Some(probe),
            grace_period_ms: h.grace_period.0,
            interval_ms: h.interval.0,
            timeout_ms: h.timeout.0,
            max_consecutive_failures: h.max_consecutive_failures,
            keep_response: h.keep_response,
        }
    }
}

impl TryFrom<pb::TaskSpec> for TaskSpec {
    type Error = ConvertError;

    fn try_from(t: pb::TaskSpec) -> Result<Self, ConvertError> {
        let executor = t.executor.map(OnExecutor::try_from).transpose();
        let executor = executor.map_err(|e| e.within("executor"))?;
        let custom = executor
            .as_ref()
            .is_some_and(|on| on.spec.kind == ExecutorKind::Custom);
        let command = match t.command {
            None if custom => Command::Executor,
            None => return Err(ConvertError::new("command", "is missing")),
            Some(pb::task_spec::Command::Shell(s)) => Command::Shell(s),
            Some(pb::task_spec::Command::Argv(a)) if a.args.is_empty() => {
                return Err(ConvertError::new("argv.args", "must hold a program"));
            }
            Some(pb::task_spec::Command::Argv(a)) => Command::Argv(a.args),
            Some(pb::task_spec::Command::Image(a)) => Command::Image(a.args),
        };
        let resources: Resources = required("resources", t.resources)?
            .try_into()
            .map_err(|e: ConvertError| e.within("resources"))?;
        Ok(Self {
            task_id: id("task_id", t.task_id, TaskId::new)?,
            framework_id: id("framework_id", t.framework_id, FrameworkId::new)?,
            framework_name: t.framework_name,
            role: t.role,
            name: t.name,
            command,
            env: t.env,
            labels: t.labels,
            parts: parts(t.parts, &resources)?,
            resources,
            ports: each("ports", t.ports, TaskPort::try_from)?,
            discovery: DiscoveryInfo {
                name: t.discovery_name,
            },
            health_checks: each("health_checks", t.health_checks, HealthCheck::try_from)?,
            container: match t.container {
                None => ContainerSpec::default(),
                Some(c) => ContainerSpec::try_from(c).map_err(|e| e.within("container"))?,
            },
            kill_grace: Millis(t.kill_grace_ms),
            user: t.user,
            service: t.service,
            service_version: t.service_version,
            trace: match t.traceparent.as_str() {
                "" => None,
                text => Some(trace("traceparent", text)?),
            },
            executor,
        })
    }
}

impl From<&TaskSpec> for pb::TaskSpec {
    fn from(t: &TaskSpec) -> Self {
        Self {
            task_id: t.task_id.to_string(),
            framework_id: t.framework_id.to_string(),
            framework_name: t.framework_name.clone(),
            role: t.role.clone(),
            name: t.name.clone(),
            command: match &t.command {
                Command::Shell(s) => Some(pb::task_spec::Command::Shell(s.clone())),
                Command::Argv(args) => Some(pb::task_spec::Command::Argv(pb::Argv {
                    args: args.clone(),
                })),
                Command::Image(args) => Some(pb::task_spec::Command::Image(pb::Argv {
                    args: args.clone(),
                })),
                Command::Executor => None,
            },
            env: t.env.clone(),
            labels: t.labels.clone(),
            resources: Some((&t.resources).into()),
            ports: t.ports.iter().map(Into::into).collect(),
            discovery_name: t.discovery.name.clone(),
            health_checks: t.health_checks.iter().map(Into::into).collect(),
            kill_grace_ms: t.kill_grace.0,
            user: t.user.clone(),
            service: t.service.clone(),
            service_version: t.service_version.clone(),
            traceparent: t.trace.map(|c| c.to_string()).unwrap_or_default(),
            parts: t.parts.iter().map(Into::into).collect(),
            container: super::container::to_wire(&t.container),
            executor: t.executor.as_ref().map(Into::into),
        }
    }
}

/// A task as an agent registers it: its spec and the latest status, which name the same task.
pub fn registered_task(task: pb::RegisteredTask) -> Result<(TaskSpec, TaskStatus), ConvertError> {
    let spec = TaskSpec::try_from(required("spec", task.spec)?).map_err(|e| e.within("spec"))?;
    let latest =
        TaskStatus::try_from(required("latest", task.latest)?).map_err(|e| e.within("latest"))?;
    if spec.task_id != latest.task_id {
        let rule = format!(
            "must be the spec's task {}, is {}",
            spec.task_id, latest.task_id
        );
        return Err(ConvertError::new("latest.task_id", rule));
    }
    Ok((spec, latest))
}

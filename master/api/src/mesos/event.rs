//! What the master tells frameworks, in Mesos's words.

use std::net::Ipv4Addr;

use prost::Message as _;
use waggle_types::{
    AgentId, CheckStatus, ExecutorId, FrameworkId, HealthState, InverseOffer, Millis, Offer,
    SchedulerEvent, StatusReason, StatusSource, TaskState, TaskStatus, Unavailability, UnixMillis,
};

use super::{
    framework::Dialect,
    resources::{Paths, Writer},
};
use crate::proto::mesos::{self as pb, event::Type, network_info::Protocol, task_status, value};

/// A master, as frameworks are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Master {
    /// Its id.
    pub id: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// Its node's name.
    pub hostname: String,
}

impl Master {
    /// As Mesos writes it.
    pub fn info(&self) -> pb::MasterInfo {
        pb::MasterInfo {
            id: self.id.clone(),
            // In network order, whatever the machine's is.
            ip: u32::from_ne_bytes(self.ip.octets()),
            port: self.port.into(),
            pid: Some(format!("master@{}:{}", self.ip, self.port)),
            hostname: Some(self.hostname.clone()),
            version: Some(super::MESOS_VERSION.to_owned()),
            address: Some(address(&self.hostname, self.ip, self.port)),
            domain: None,
        }
    }
}

fn address(hostname: &str, ip: Ipv4Addr, port: u16) -> pb::Address {
    pb::Address {
        hostname: Some(hostname.to_owned()),
        ip: Some(ip.to_string()),
        port: port.into(),
    }
}

/// Where an agent's API is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentAt {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its API's port.
    pub port: u16,
}

/// What writing an event takes.
pub struct Scribe<'a> {
    /// How the framework is spoken to.
    pub dialect: Dialect,
    /// The framework.
    pub framework_id: &'a FrameworkId,
    /// The master that speaks.
    pub master: &'a Master,
    /// How often it says that it lives.
    pub heartbeat: Millis,
    /// Where agents are.
    pub agent: &'a dyn Fn(&AgentId) -> Option<AgentAt>,
    /// Where volumes of an agent are mounted.
    pub paths: &'a dyn Fn(&AgentId) -> Option<Paths>,
}

/// An event without what its type says.
fn blank(t: Type) -> pb::Event {
    pb::Event {
        r#type: Some(t.into()),
        ..pb::Event::default()
    }
}

/// That the master lives.
pub fn heartbeat() -> pb::Event {
    blank(Type::Heartbeat)
}

/// What can't be mended: the last event of a stream.
pub fn error(message: impl Into<String>) -> pb::Event {
    pb::Event {
        error: Some(pb::Error {
            message: message.into(),
        }),
        ..blank(Type::Error)
    }
}

/// How an operation with an id went.
pub fn operation_status(status: pb::OperationStatus) -> pb::Event {
    pb::Event {
        update_operation_status: Some(pb::UpdateOperationStatus {
            status: Some(status),
        }),
        ..blank(Type::UpdateOperationStatus)
    }
}

impl Scribe<'_> {
    /// Writes an event.
    pub fn event(&self, e: &SchedulerEvent) -> pb::Event {
        let offer_id = |id: &waggle_types::OfferId| {
            Some(pb::OfferId {
                value: id.to_string(),
            })
        };
        match e {
            SchedulerEvent::Subscribed { framework_id } => pb::Event {
                subscribed: Some(pb::Subscribed {
                    framework_id: Some(framework(framework_id)),
                    heartbeat_interval_seconds: Some(self.heartbeat.0 as f64 / 1000.0),
                    master_info: Some(self.master.info()),
                }),
                ..blank(Type::Subscribed)
            },
            SchedulerEvent::Offers(offers) => pb::Event {
                offers: Some(pb::Offers {
                    offers: offers.iter().map(|o| self.offer(o)).collect(),
                }),
                ..blank(Type::Offers)
            },
            SchedulerEvent::Rescind(id) => pb::Event {
                rescind: Some(pb::Rescind {
                    offer_id: offer_id(id),
                }),
                ..blank(Type::Rescind)
            },
            SchedulerEvent::InverseOffer(o) => pb::Event {
                inverse_offers: Some(pb::InverseOffers {
                    inverse_offers: vec![self.inverse_offer(o)],
                }),
                ..blank(Type::InverseOffers)
            },
            SchedulerEvent::RescindInverse(id) => pb::Event {
                rescind_inverse_offer: Some(pb::RescindInverseOffer {
                    inverse_offer_id: offer_id(id),
                }),
                ..blank(Type::RescindInverseOffer)
            },
            SchedulerEvent::Update(status) => pb::Event {
                update: Some(pb::Update {
                    status: Some(self.status(status)),
                }),
                ..blank(Type::Update)
            },
            SchedulerEvent::ExecutorLost {
                agent_id,
                executor_id,
                status,
            } => pb::Event {
                failure: Some(pb::Failure {
                    agent_id: Some(agent(agent_id)),
                    executor_id: Some(executor(executor_id)),
                    status: Some(*status),
                }),
                ..blank(Type::Failure)
            },
            SchedulerEvent::Message {
                agent_id,
                executor_id,
                data,
            } => pb::Event {
                message: Some(pb::ExecutorMessage {
                    agent_id: Some(agent(agent_id)),
                    executor_id: Some(executor(executor_id)),
                    data: Some(data.clone()),
                }),
                ..blank(Type::Message)
            },
            // Mesos tells both by the same word.
            SchedulerEvent::AgentLost(id) | SchedulerEvent::AgentUnreachable(id) => pb::Event {
                failure: Some(pb::Failure {
                    agent_id: Some(agent(id)),
                    ..pb::Failure::default()
                }),
                ..blank(Type::Failure)
            },
        }
    }

    fn url(&self, id: &AgentId, hostname: &str) -> Option<pb::Url> {
        let at = (self.agent)(id)?;
        Some(pb::Url {
            scheme: "http".into(),
            address: Some(address(hostname, at.ip, at.port)),
            path: Some("/slave(1)".into()),
            ..pb::Url::default()
        })
    }

    /// Writes an offer.
    pub fn offer(&self, o: &Offer) -> pb::Offer {
        let paths = (self.paths)(&o.agent_id);
        let writer = Writer {
            format: self.dialect.format,
            role: Some(&o.role),
            paths: paths.as_ref(),
        };
        let attribute = |(name, text): (&String, &String)| pb::Attribute {
            name: name.clone(),
            r#type: Some(value::Type::Text.into()),
            text: Some(pb::ValueText {
                value: text.clone(),
            }),
            ..pb::Attribute::default()
        };
        pb::Offer {
            id: Some(pb::OfferId {
                value: o.offer_id.to_string(),
            }),
            framework_id: Some(framework(self.framework_id)),
            agent_id: Some(agent(&o.agent_id)),
            hostname: o.hostname.clone(),
            resources: writer.write(&o.resources, &o.parts),
            executor_ids: Vec::new(),
            attributes: o.attributes.iter().map(attribute).collect(),
            url: self.url(&o.agent_id, &o.hostname),
            unavailability: o.unavailability.as_ref().map(unavailability),
            allocation_info: Some(pb::AllocationInfo {
                role: Some(o.role.clone()),
            }),
            domain: o.domain.as_ref().map(domain),
        }
    }

    fn inverse_offer(&self, o: &InverseOffer) -> pb::InverseOffer {
        pb::InverseOffer {
            id: Some(pb::OfferId {
                value: o.offer_id.to_string(),
            }),
            url: None,
            framework_id: Some(framework(self.framework_id)),
            agent_id: Some(agent(&o.agent_id)),
            unavailability: Some(unavailability(&o.unavailability)),
            // Maintenance asks for all of them back, which Mesos says by naming none.
            resources: Vec::new(),
        }
    }

    /// Writes a status.
    pub fn status(&self, s: &TaskStatus) -> pb::TaskStatus {
        let at = (self.agent)(&s.agent_id);
        let ip = s.ip.or(at.map(|a| a.ip));
        status(s, self.dialect, ip)
    }
}

fn framework(id: &FrameworkId) -> pb::FrameworkId {
    pb::FrameworkId {
        value: id.to_string(),
    }
}

fn executor(id: &ExecutorId) -> pb::ExecutorId {
    pb::ExecutorId {
        value: id.to_string(),
    }
}

fn agent(id: &AgentId) -> pb::AgentId {
    pb::AgentId {
        value: id.to_string(),
    }
}

/// Milliseconds as Mesos's nanoseconds.
pub fn nanos(ms: u64) -> i64 {
    i64::try_from(ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX)
}

/// A moment.
pub fn time(at: UnixMillis) -> pb::TimeInfo {
    pb::TimeInfo {
        nanoseconds: nanos(at.0),
    }
}

/// When an agent will be down.
pub fn unavailability(u: &Unavailability) -> pb::Unavailability {
    pb::Unavailability {
        start: Some(time(u.start)),
        duration: u.duration.map(|d| pb::DurationInfo {
            nanoseconds: nanos(d.0),
        }),
    }
}

/// Where an agent stands.
pub fn domain(d: &waggle_types::Domain) -> pb::DomainInfo {
    pb::DomainInfo {
        fault_domain: Some(pb::FaultDomain {
            region: Some(pb::RegionInfo {
                name: d.region.clone(),
            }),
            zone: Some(pb::ZoneInfo {
                name: d.zone.clone(),
            }),
        }),
    }
}

/// A state as a framework knows it.
pub fn state(s: TaskState, dialect: Dialect) -> pb::TaskState {
    use pb::TaskState as P;
    let aware = |p| {
        if dialect.partition_aware {
            p
        } else {
            P::TaskLost
        }
    };
    match s {
        TaskState::Staging => P::TaskStaging,
        TaskState::Starting => P::TaskStarting,
        TaskState::Killing if dialect.task_killing => P::TaskKilling,
        // As before there was a state for it: what is being killed runs until it does not.
        TaskState::Running | TaskState::Killing => P::TaskRunning,
        TaskState::Finished => P::TaskFinished,
        TaskState::Failed => P::TaskFailed,
        TaskState::Killed => P::TaskKilled,
        TaskState::Error => P::TaskError,
        TaskState::Lost => P::TaskLost,
        TaskState::Dropped => aware(P::TaskDropped),
        TaskState::Unreachable => aware(P::TaskUnreachable),
        TaskState::Gone => aware(P::TaskGone),
        TaskState::GoneByOperator => aware(P::TaskGoneByOperator),
        TaskState::Unknown => aware(P::TaskUnknown),
    }
}

/// Mesos's reason as a framework knows it: who is not told that tasks may come back, is not told who removed an agent either
/// (Mesos's `Master::__removeSlave`).
fn reason_to(r: StatusReason, dialect: Dialect) -> Option<task_status::Reason> {
    match r {
        StatusReason::SlaveRemovedByOperator if !dialect.partition_aware => {
            reason(StatusReason::SlaveRemoved)
        }
        _ => reason(r),
    }
}

/// Mesos's reason, where it has one.
pub fn reason(r: StatusReason) -> Option<task_status::Reason> {
    use task_status::Reason as P;
    Some(match r {
        StatusReason::ContainerLaunchFailed => P::ContainerLaunchFailed,
        StatusReason::CommandExecutorFailed => P::CommandExecutorFailed,
        StatusReason::ContainerLimitationMemory => P::ContainerLimitationMemory,
        StatusReason::ContainerLimitationDisk => P::ContainerLimitationDisk,
        StatusReason::MaxCompletionTimeReached => P::MaxCompletionTimeReached,
        StatusReason::TaskCheckStatusUpdated => P::TaskCheckStatusUpdated,
        StatusReason::TaskHealthCheckStatusUpdated => P::TaskHealthCheckStatusUpdated,
        StatusReason::TaskInvalid => P::TaskInvalid,
        StatusReason::TaskGroupInvalid => P::TaskGroupInvalid,
        StatusReason::InvalidOffers => P::InvalidOffers,
        StatusReason::SlaveDisconnected => P::AgentDisconnected,
        StatusReason::SlaveRemoved => P::AgentRemoved,
        StatusReason::SlaveRemovedByOperator => P::AgentRemovedByOperator,
        StatusReason::SlaveReregistered => P::AgentReregistered,
        StatusReason::FrameworkRemoved => P::FrameworkRemoved,
        StatusReason::SlaveRestarted => P::AgentRestarted,
        StatusReason::Reconciliation => P::Reconciliation,
        StatusReason::ExecutorTerminated => P::ExecutorTerminated,
        StatusReason::ExecutorRegistrationTimeout => P::ExecutorRegistrationTimeout,
        StatusReason::ExecutorReregistrationTimeout => P::ExecutorReregistrationTimeout,
        StatusReason::TaskKilledDuringLaunch => P::TaskKilledDuringLaunch,
        StatusReason::TaskKilled => return None,
        StatusReason::ContainerPreempted => P::ContainerPreempted,
        StatusReason::SlaveDraining => P::AgentDraining,
    })
}

/// A status; `ip` is the task's address.
pub fn status(s: &TaskStatus, dialect: Dialect, ip: Option<Ipv4Addr>) -> pb::TaskStatus {
    let id = s.task_id.to_string();
    let source = match s.source {
        StatusSource::Master => task_status::Source::Master,
        StatusSource::Agent => task_status::Source::Agent,
        StatusSource::Executor => task_status::Source::Executor,
    };
    // The built-in executor is called as its task; it has no address before it runs.
    let contained = s.source == StatusSource::Executor;
    // What an executor of the framework's own wrote, which only it understands.
    let written = s.executor.as_ref().map(|e| e.info.as_slice());
    let written = written.and_then(|info| pb::TaskStatus::decode(info).ok());
    let written = written.unwrap_or_default();
    let named = s.executor.as_ref().map(|e| executor(&e.executor_id));
    pb::TaskStatus {
        task_id: Some(pb::TaskId { value: id.clone() }),
        state: Some(state(s.state, dialect).into()),
        data: written.data,
        message: (!s.message.is_empty()).then(|| sentence(&s.message)),
        agent_id: Some(agent(&s.agent_id)),
        timestamp: Some(s.at.0 as f64 / 1000.0),
        executor_id: named.or_else(|| contained.then(|| pb::ExecutorId { value: id.clone() })),
        healthy: match s.health {
            HealthState::Unknown => written.healthy,
            HealthState::Healthy => Some(true),
            HealthState::Unhealthy => Some(false),
        },
        source: Some(source.into()),
        reason: s
            .reason
            .and_then(|r| reason_to(r, dialect))
            .map(Into::into)
            .or(written.reason),
        uuid: s.uuid.map(|u| u.0.to_vec()),
        labels: written.labels,
        container_status: ip.filter(|_| contained).map(|ip| container_status(id, ip)),
        unreachable_time: (s.state == TaskState::Unreachable).then(|| time(s.at)),
        check_status: s.check.map(check_status).or(written.check_status),
    }
}

/// What a task's check said last; without an answer the message for its kind is empty.
fn check_status(s: CheckStatus) -> pb::CheckStatusInfo {
    use pb::check_info::Type;
    let blank = |t: Type| pb::CheckStatusInfo {
        r#type: Some(t.into()),
        ..pb::CheckStatusInfo::default()
    };
    match s {
        CheckStatus::Command { exit_code } => pb::CheckStatusInfo {
            command: Some(pb::CheckStatusCommand { exit_code }),
            ..blank(Type::Command)
        },
        CheckStatus::Http { status } => pb::CheckStatusInfo {
            http: Some(pb::CheckStatusHttp {
                status_code: status.map(u32::from),
            }),
            ..blank(Type::Http)
        },
        CheckStatus::Tcp { connected } => pb::CheckStatusInfo {
            tcp: Some(pb::CheckStatusTcp {
                succeeded: connected,
            }),
            ..blank(Type::Tcp)
        },
    }
}

/// Where a task is found.
pub fn container_status(id: String, ip: Ipv4Addr) -> pb::ContainerStatus {
    pb::ContainerStatus {
        network_infos: vec![pb::NetworkInfo {
            ip_addresses: vec![pb::NetworkIpAddress {
                protocol: Some(Protocol::IPv4.into()),
                ip_address: Some(ip.to_string()),
            }],
            ..pb::NetworkInfo::default()
        }],
        executor_pid: None,
        container_id: Some(container_id(id)),
    }
}

/// The name of a container.
pub const fn container_id(id: String) -> pb::ContainerId {
    pb::ContainerId {
        value: id,
        parent: None,
    }
}

/// Mesos begins with a capital letter: `Command exited with status 3`.
fn sentence(message: &str) -> String {
    let mut chars = message.chars();
    let first = chars.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(chars).collect()
}

#[cfg(test)]
mod tests;

//! What the master refuses, typed: `crate::http` maps each to a status in one place.

use waggle_services::jobs::JobError;
use waggle_types::{
    AgentId, CallRejection, DeploymentId, FieldError, FrameworkId, GroupId, ServiceId,
    ServiceVersion, TaskId,
};

/// A request that was not done; nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MasterError {
    /// A field breaks a rule (422).
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// Several fields break rules (422); at least two.
    #[error("{}", fields(.0))]
    AllInvalid(Vec<FieldError>),
    /// A call about jobs was refused.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The service exists already (409).
    #[error("service {0} already exists")]
    AlreadyExists(ServiceId),
    /// There is no such service (404).
    #[error("service {0} does not exist")]
    NoSuchService(ServiceId),
    /// There is no such deployment in flight (404).
    #[error("deployment {0} does not exist")]
    NoSuchDeployment(DeploymentId),
    /// Nothing of the service waits to be launched (404).
    #[error("service {0} is not in the launch queue")]
    NotQueued(ServiceId),
    /// There are no such tasks (404).
    #[error("task {0} does not exist")]
    NoSuchTask(TaskId),
    /// There is no such framework (404).
    #[error("framework {0} does not exist")]
    NoSuchFramework(FrameworkId),
    /// There is no such role: nobody subscribes with it, and nothing is set or reserved for it (404).
    #[error("role {0:?} does not exist")]
    NoSuchRole(String),
    /// There is no such agent (404).
    #[error("agent {0} does not exist")]
    NoSuchAgent(AgentId),
    /// Another deployment changes the service; `force` overrides (409).
    #[error("service {service} is locked by deployment {deployment}; force overrides")]
    Locked {
        /// The service.
        service: ServiceId,
        /// The deployment that holds it.
        deployment: DeploymentId,
    },
    /// As many deployments run as may (403).
    #[error("{0} deployments are running, which is the most at once")]
    TooManyDeployments(usize),
    /// There is no such group (404).
    #[error("group {0} does not exist")]
    NoSuchGroup(GroupId),
    /// The group exists already (409).
    #[error("group {0} already exists")]
    GroupExists(GroupId),
    /// The group had no such version, or not all of it is kept (404).
    #[error("group {group} does not have version {version}")]
    NoSuchGroupVersion {
        /// The group.
        group: GroupId,
        /// What was asked for.
        version: ServiceVersion,
    },
    /// The address pool of named VIPs is used up (507).
    #[error("no address is left in the VIP pool")]
    VipPoolExhausted,
    /// A limit of the master is reached (429 or 503); the text names it.
    #[error("limit reached: {0}")]
    Limit(&'static str),
    /// The queue of the event loop is full (503).
    #[error("the master is busy, its queue of {0} requests is full")]
    Busy(usize),
    /// The store failed; the text is its chain of causes (500).
    #[error("the store failed: {0}")]
    Store(String),
    /// The master is stopping (503).
    #[error("the master is stopping")]
    Stopping,
    /// A listener or server failed; the text names it and its causes.
    #[error("{0}")]
    Server(String),
}

impl MasterError {
    /// Refuses where anything is wrong.
    pub(crate) fn if_any(mut wrong: Vec<FieldError>) -> Result<(), Self> {
        match (wrong.len(), wrong.pop()) {
            (_, None) => Ok(()),
            (1, Some(e)) => Err(Self::Invalid(e)),
            (_, Some(e)) => {
                wrong.push(e);
                Err(Self::AllInvalid(wrong))
            }
        }
    }
}

fn fields(all: &[FieldError]) -> String {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    all.join("; ")
}

/// A wish of an operator that was not done; nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperateError {
    /// It is refused; at least one reason.
    #[error("{}", words(.0))]
    Refused(Vec<CallRejection>),
    /// The master could not take it.
    #[error(transparent)]
    Master(#[from] MasterError),
}

fn words(all: &[CallRejection]) -> String {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    all.join("; ")
}

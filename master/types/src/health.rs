//! Health checks as asked for, and health as observed.

use crate::{Millis, Protocol, StatusReason, TaskStatus, UnixMillis};

/// What to ask a task, run by its agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HealthProbe {
    /// GET; healthy on status 200-399, or on one of `statuses`.
    Http {
        /// Over TLS; the server's name and signature are not checked (as in Mesos).
        tls: bool,
        /// The only statuses that pass; empty: 200-399.
        statuses: Vec<u16>,
        /// Absolute path with optional query.
        path: String,
        /// Position in the task's ports, unless `port` is set.
        port_index: usize,
        /// Fixed port instead of a position.
        port: Option<u16>,
    },
    /// A TCP connect that succeeds.
    Tcp {
        /// Position in the task's ports, unless `port` is set.
        port_index: usize,
        /// Fixed port instead of a position.
        port: Option<u16>,
    },
    /// A shell command in the task's namespaces, sandbox and cgroup that exits 0.
    Command {
        /// Run by `/bin/sh -c`.
        shell: String,
    },
}

impl HealthProbe {
    /// What is said of it before it has answered.
    pub const fn unanswered(&self) -> CheckStatus {
        match self {
            Self::Http { .. } => CheckStatus::Http { status: None },
            Self::Tcp { .. } => CheckStatus::Tcp { connected: None },
            Self::Command { .. } => CheckStatus::Command { exit_code: None },
        }
    }

    /// Wire protocol probed, where there is one.
    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::Http { .. } | Self::Tcp { .. } => Some(Protocol::Tcp),
            Self::Command { .. } => None,
        }
    }
}

/// What a check is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum CheckPurpose {
    /// Whether the task is well: one that fails too often is killed.
    #[default]
    Health,
    /// Whether it may get work now: one that fails gets no new connections and is left alone.
    Readiness,
    /// Whether it has started: until it passes once, no other check runs; one that fails too often is killed.
    Startup,
    /// What it says is told to the framework and judged by nobody (Mesos's `CheckInfo`); at most one of a task.
    Report,
}

/// What a check of purpose [`CheckPurpose::Report`] said last; `None` where there is no answer: it was not asked yet, or
/// the attempt took too long or could not be made (mesos.proto `CheckStatusInfo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckStatus {
    /// A command ended.
    Command {
        /// With this code.
        exit_code: Option<i32>,
    },
    /// A server answered.
    Http {
        /// With this status.
        status: Option<u16>,
    },
    /// A connection was tried.
    Tcp {
        /// Whether it was made.
        connected: Option<bool>,
    },
}

/// Most bytes of an answer's body that are kept.
pub const MAX_RESPONSE_BODY: usize = 1024;

/// What a readiness check over HTTP was answered last, where its definition keeps that.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckResponse {
    /// Position among the task's checks.
    pub idx: usize,
    /// Status of the answer.
    pub status: u16,
    /// Its `Content-Type`; empty where it has none.
    pub content_type: String,
    /// Its body as text, cut after [`MAX_RESPONSE_BODY`] bytes.
    pub body: String,
}

/// What was heard of a task's health checks, as far as it was heard: agents tell the first pass and each failure.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HealthRecord {
    /// When they first passed.
    pub first_success: Option<UnixMillis>,
    /// When they passed last, after a failure or for the first time.
    pub last_success: Option<UnixMillis>,
    /// When one failed last.
    pub last_failure: Option<UnixMillis>,
    /// What was wrong then.
    pub last_failure_cause: String,
    /// Failures since they passed last.
    pub n_failures: u32,
}

impl HealthRecord {
    /// Takes a status that is later than those before; `was` is the health until then.
    pub fn take(&mut self, was: HealthState, status: &TaskStatus) {
        let is_news = status.reason == Some(StatusReason::TaskHealthCheckStatusUpdated);
        if status.state.is_terminal() || !(is_news || was != status.health) {
            return;
        }
        match status.health {
            HealthState::Unknown => {}
            HealthState::Healthy => {
                self.first_success.get_or_insert(status.at);
                self.last_success = Some(status.at);
                self.n_failures = 0;
            }
            // The same is heard again where it was not acknowledged.
            HealthState::Unhealthy if self.last_failure == Some(status.at) => {}
            HealthState::Unhealthy => {
                self.last_failure = Some(status.at);
                self.last_failure_cause.clone_from(&status.message);
                self.n_failures = self.n_failures.saturating_add(1);
            }
        }
    }
}

/// One check of a task; defaults are Marathon's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HealthCheck {
    /// For people; readiness checks have one in Marathon.
    pub name: Option<String>,
    /// What it is for.
    pub purpose: CheckPurpose,
    /// What is asked.
    pub probe: HealthProbe,
    /// The first check starts so long after the task.
    pub delay: Millis,
    /// Failures are ignored for this long after start, until the first success.
    pub grace_period: Millis,
    /// Time between the starts of two checks.
    pub interval: Millis,
    /// A check that takes longer has failed.
    pub timeout: Millis,
    /// Consecutive failures until the task is killed; 0 means never.
    pub max_consecutive_failures: u32,
    /// What it is answered is told, too (Marathon's `preserveLastResponse`); only for readiness over HTTP.
    pub keep_response: bool,
}

impl HealthCheck {
    /// Whether any of `checks` is for this.
    pub fn any(checks: &[Self], purpose: CheckPurpose) -> bool {
        checks.iter().any(|c| c.purpose == purpose)
    }

    /// The check whose answers are told as they are, with its position.
    pub fn reported(checks: &[Self]) -> Option<(usize, &Self)> {
        let mut all = checks.iter().enumerate();
        all.find(|(_, c)| c.purpose == CheckPurpose::Report)
    }

    /// Whether what is reported of a task by its `checks` lets it do its work: it is healthy, and ready, where anything
    /// says so. An agent that is older than readiness says nothing of it and takes every check for one of health.
    pub fn all_pass(checks: &[Self], health: HealthState, ready: Option<bool>) -> bool {
        let healthy = health == HealthState::Healthy;
        (!Self::any(checks, CheckPurpose::Health) || healthy)
            && (!Self::says_ready(checks) || ready.unwrap_or(healthy))
    }

    /// Whether any says if a task is ready.
    pub fn says_ready(checks: &[Self]) -> bool {
        Self::any(checks, CheckPurpose::Readiness) || Self::any(checks, CheckPurpose::Startup)
    }
}

/// Health as last observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum HealthState {
    /// No check is defined, or none has answered yet.
    #[default]
    Unknown,
    /// The last check passed.
    Healthy,
    /// The last check failed, outside of the grace period.
    Unhealthy,
}

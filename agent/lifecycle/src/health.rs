//! The state of a task's checks: health, readiness, start. Those that are only told are run as health checks are and
//! change nothing here.

use waggle_types::{CheckPurpose, HealthCheck, HealthProbe, HealthState, StatusReason, UnixMillis};

/// Failures in a row that are told one by one: a check that never kills may fail for ever.
const MAX_TOLD: u32 = 100;

/// What one result of a check led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The task's health and readiness are as before.
    Same,
    /// They are others now, or a health check has failed once more: Mesos tells each failure.
    Changed {
        /// Which of them: [`StatusReason::TaskHealthCheckStatusUpdated`], or [`StatusReason::TaskCheckStatusUpdated`]
        /// for readiness alone.
        reason: StatusReason,
        /// Which check made it so, and what it said.
        why: String,
    },
    /// Too many failures in a row: the task is to be killed.
    Kill {
        /// How many.
        failures: u32,
        /// Which check, and what the last failure said.
        why: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct CheckState {
    health: HealthState,
    failures: u32,
    ever_passed: bool,
}

/// Health and readiness of one task over all of its checks.
///
/// Until every start check has passed once, no other check counts, and none is to be run; a start check that has
/// passed is over. The grace period of a start check begins with the task, that of the others when the task has started.
/// A failure within the grace period of a check that never passed is not counted.
///
/// The task is healthy when every health check is, unhealthy when any is, else unknown. It is ready when every start
/// check has passed and every readiness check passes now; without such checks that is nothing to be said. A readiness
/// check never kills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthMachine {
    checks: Vec<(HealthCheck, CheckState)>,
    launched_at: UnixMillis,
    // When the last start check passed.
    started_at: Option<UnixMillis>,
}

impl HealthMachine {
    /// For a task that runs since `launched_at`. `known` is what was last reported of it before the agent restarted: it
    /// holds until checks say otherwise, so a restart ejects nothing.
    pub fn new(
        checks: &[HealthCheck],
        launched_at: UnixMillis,
        known: HealthState,
        ready: Option<bool>,
    ) -> Self {
        // Other checks have results only after the start.
        let started = known != HealthState::Unknown || ready == Some(true);
        // An agent that is older than readiness took every check for one of health.
        let ready = ready.or((known == HealthState::Healthy).then_some(true));
        let passed = CheckState {
            health: HealthState::Healthy,
            failures: 0,
            ever_passed: true,
        };
        let state = |c: &HealthCheck| match c.purpose {
            CheckPurpose::Health => CheckState {
                health: known,
                failures: 0,
                ever_passed: known != HealthState::Unknown,
            },
            CheckPurpose::Readiness if ready == Some(true) => passed,
            CheckPurpose::Startup if started => passed,
            CheckPurpose::Readiness | CheckPurpose::Startup | CheckPurpose::Report => {
                CheckState::default()
            }
        };
        let mut out = Self {
            checks: checks.iter().map(|c| (c.clone(), state(c))).collect(),
            launched_at,
            started_at: None,
        };
        if out.starts_done() {
            out.started_at = Some(launched_at);
        }
        out
    }

    fn of(&self, purpose: CheckPurpose) -> impl Iterator<Item = &CheckState> {
        let mine = self.checks.iter();
        mine.filter(move |(c, _)| c.purpose == purpose)
            .map(|(_, s)| s)
    }

    fn starts_done(&self) -> bool {
        self.of(CheckPurpose::Startup).all(|s| s.ever_passed)
    }

    /// Health of the task.
    pub fn health(&self) -> HealthState {
        let any = |h| self.of(CheckPurpose::Health).any(|s| s.health == h);
        if any(HealthState::Unhealthy) {
            HealthState::Unhealthy
        } else if any(HealthState::Unknown) || self.of(CheckPurpose::Health).next().is_none() {
            HealthState::Unknown
        } else {
            HealthState::Healthy
        }
    }

    /// Whether the task may get work; `None` when no check says so.
    pub fn ready(&self) -> Option<bool> {
        let mut readiness = self.of(CheckPurpose::Readiness).peekable();
        if readiness.peek().is_none() && self.of(CheckPurpose::Startup).next().is_none() {
            return None;
        }
        Some(self.started_at.is_some() && readiness.all(|s| s.health == HealthState::Healthy))
    }

    /// Whether check `idx` is to be run now: start checks until they pass, the others after that.
    pub fn runs(&self, idx: usize) -> bool {
        self.checks
            .get(idx)
            .is_some_and(|(check, state)| match check.purpose {
                CheckPurpose::Startup => !state.ever_passed,
                CheckPurpose::Health | CheckPurpose::Readiness | CheckPurpose::Report => {
                    self.started_at.is_some()
                }
            })
    }

    /// When the checks that run now began to count: the task's launch, or the end of its start.
    pub fn since(&self) -> UnixMillis {
        self.started_at.unwrap_or(self.launched_at)
    }

    /// Whether check `idx` is in its grace period and has not passed yet: its failures do not count,
    /// so the shell may probe more often to notice the first pass early.
    pub fn in_grace(&self, idx: usize, now: UnixMillis) -> bool {
        self.checks.get(idx).is_some_and(|(check, state)| {
            let since = match check.purpose {
                CheckPurpose::Startup => self.launched_at,
                CheckPurpose::Health | CheckPurpose::Readiness | CheckPurpose::Report => {
                    self.since()
                }
            };
            !state.ever_passed && now.since(since) < check.grace_period
        })
    }

    /// Takes one result: `Ok` or what was wrong.
    pub fn result(
        &mut self,
        idx: usize,
        result: Result<(), String>,
        now: UnixMillis,
    ) -> CheckOutcome {
        // Late results of checks that are over, or not yet to be run, say nothing.
        let judged = |(c, _): &(HealthCheck, CheckState)| c.purpose != CheckPurpose::Report;
        if !self.runs(idx) || !self.checks.get(idx).is_some_and(judged) {
            return CheckOutcome::Same;
        }
        let before = (self.health(), self.ready());
        let in_grace = self.in_grace(idx, now);
        let Some((check, state)) = self.checks.get_mut(idx) else {
            return CheckOutcome::Same;
        };
        let name = check_name(idx, check);
        let mut once_more = false;
        let why = match result {
            Ok(()) => {
                *state = CheckState {
                    health: HealthState::Healthy,
                    failures: 0,
                    ever_passed: true,
                };
                format!("{name} passed")
            }
            Err(_) if in_grace => return CheckOutcome::Same,
            Err(why) => {
                let why = format!("{name}: {why}");
                state.health = HealthState::Unhealthy;
                state.failures = state.failures.saturating_add(1);
                let max = check.max_consecutive_failures;
                let kills = check.purpose != CheckPurpose::Readiness;
                if kills && max > 0 && state.failures >= max {
                    return CheckOutcome::Kill {
                        failures: state.failures,
                        why,
                    };
                }
                once_more = check.purpose == CheckPurpose::Health && state.failures <= MAX_TOLD;
                why
            }
        };
        if self.started_at.is_none() && self.starts_done() {
            self.started_at = Some(now);
        }
        let reason = if self.health() != before.0 || once_more {
            StatusReason::TaskHealthCheckStatusUpdated
        } else if self.ready() != before.1 {
            StatusReason::TaskCheckStatusUpdated
        } else {
            return CheckOutcome::Same;
        };
        CheckOutcome::Changed { reason, why }
    }
}

/// A check in words, with its position among the task's checks, or its name: `health check 0 (http /health)`.
pub fn check_name(idx: usize, check: &HealthCheck) -> String {
    let what = match &check.probe {
        HealthProbe::Http { path, tls, .. } => {
            let scheme = if *tls { "https" } else { "http" };
            format!("{scheme} {path}")
        }
        HealthProbe::Tcp { .. } => "tcp".to_owned(),
        HealthProbe::Command { .. } => "command".to_owned(),
    };
    let purpose = match check.purpose {
        CheckPurpose::Health => "health",
        CheckPurpose::Readiness => "readiness",
        CheckPurpose::Startup => "start",
        // As Mesos says it.
        CheckPurpose::Report => "general",
    };
    match &check.name {
        Some(name) => format!("{purpose} check {name} ({what})"),
        None => format!("{purpose} check {idx} ({what})"),
    }
}

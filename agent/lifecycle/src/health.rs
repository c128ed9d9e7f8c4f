//! The state of a task's health checks.

use waggle_types::{HealthCheck, HealthProbe, HealthState, UnixMillis};

/// What one result of a check led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The task's health is as before.
    Same,
    /// The task's health is another one now.
    Changed {
        /// Which.
        health: HealthState,
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

/// Health of one task over all of its checks.
///
/// A failure within the grace period of a check that never passed is not counted. The task is
/// healthy when every check is, unhealthy when any is, else unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthMachine {
    checks: Vec<(HealthCheck, CheckState)>,
    started_at: UnixMillis,
}

impl HealthMachine {
    /// For a task that started at `started_at`. `known` is what was last reported of it before the
    /// agent restarted: it holds until checks say otherwise, so a restart ejects nothing.
    pub fn new(checks: &[HealthCheck], started_at: UnixMillis, known: HealthState) -> Self {
        let state = CheckState {
            health: known,
            failures: 0,
            ever_passed: known != HealthState::Unknown,
        };
        Self {
            checks: checks.iter().map(|c| (c.clone(), state)).collect(),
            started_at,
        }
    }

    /// Health of the task.
    pub fn health(&self) -> HealthState {
        if self.checks.is_empty() {
            return HealthState::Unknown;
        }
        let any = |h| self.checks.iter().any(|(_, s)| s.health == h);
        if any(HealthState::Unhealthy) {
            HealthState::Unhealthy
        } else if any(HealthState::Unknown) {
            HealthState::Unknown
        } else {
            HealthState::Healthy
        }
    }

    /// Whether check `idx` is in its grace period and has not passed yet: its failures do not count,
    /// so the shell may probe more often to notice the first pass early.
    pub fn in_grace(&self, idx: usize, now: UnixMillis) -> bool {
        self.checks.get(idx).is_some_and(|(check, state)| {
            !state.ever_passed && now.since(self.started_at) < check.grace_period
        })
    }

    /// Takes one result: `Ok` or what was wrong.
    pub fn result(
        &mut self,
        idx: usize,
        result: Result<(), String>,
        now: UnixMillis,
    ) -> CheckOutcome {
        let before = self.health();
        let in_grace = self.in_grace(idx, now);
        let Some((check, state)) = self.checks.get_mut(idx) else {
            return CheckOutcome::Same;
        };
        let name = check_name(idx, check);
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
                if max > 0 && state.failures >= max {
                    return CheckOutcome::Kill {
                        failures: state.failures,
                        why,
                    };
                }
                why
            }
        };
        let health = self.health();
        if health == before {
            CheckOutcome::Same
        } else {
            CheckOutcome::Changed { health, why }
        }
    }
}

/// A check in words, with its position as in the definition: `health check 0 (http /health)`.
pub fn check_name(idx: usize, check: &HealthCheck) -> String {
    let what = match &check.probe {
        HealthProbe::Http { path, .. } => format!("http {path}"),
        HealthProbe::Tcp { .. } => "tcp".to_owned(),
        HealthProbe::Command { .. } => "command".to_owned(),
    };
    format!("health check {idx} ({what})")
}

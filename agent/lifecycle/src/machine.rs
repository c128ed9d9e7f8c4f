//! The life of one task.

use waggle_types::{
    AgentId, CheckResponse, CheckStatus, Evicted, HealthCheck, HealthState, StatusReason,
    StatusSource, TaskSpec, TaskState, TaskStatus, UnixMillis,
};

use crate::{CheckOutcome, Exit, HealthMachine, check_name};

/// Who wants a task to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KillCause {
    /// The master asked for its framework, or for nobody.
    Asked,
    /// The master asked on its own account.
    Evicted(Evicted),
    /// Its health checks failed too often in a row.
    Unhealthy {
        /// How many failures; 0 when an agent before this one counted them.
        failures: u32,
        /// Which check, and what the last failure said.
        why: String,
    },
    /// It holds more disk than it asked for.
    OverDisk {
        /// What is too large, how large it is and its limit, for people.
        why: String,
    },
    /// It ran for as long as it may.
    OverTime,
}

/// Where a task is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Its spec is durable, its process is being started.
    Starting,
    /// Its executor says that it is setting it up.
    SettingUp,
    /// Its process runs.
    Running,
    /// Told to end.
    Killing(KillCause),
    /// Over.
    Terminal(TaskState),
}

/// What a machine wants after an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// Nothing changed.
    None,
    /// Report this, without a uuid yet.
    Report(TaskStatus),
    /// Tell the process to end, and report this where there is something to report.
    Kill(Option<TaskStatus>),
}

/// The state machine of one task.
#[derive(Debug, Clone)]
pub struct TaskMachine {
    spec: TaskSpec,
    agent_id: AgentId,
    phase: Phase,
    health: HealthMachine,
    pid: Option<u32>,
    started_at: Option<UnixMillis>,
    // What the check that is only told said last.
    check: Option<CheckStatus>,
    // What checks were answered last that keep it, by position; at most one each.
    responses: Vec<CheckResponse>,
    // By its executor.
    said_health: Option<(HealthState, Option<bool>)>,
}

impl TaskMachine {
    /// A task whose spec was just accepted.
    pub fn new(spec: TaskSpec, agent_id: AgentId, now: UnixMillis) -> Self {
        let health = HealthMachine::new(&spec.health_checks, now, HealthState::Unknown, None);
        let check = HealthCheck::reported(&spec.health_checks);
        Self {
            check: check.map(|(_, c)| c.probe.unanswered()),
            responses: Vec::new(),
            spec,
            agent_id,
            phase: Phase::Starting,
            health,
            pid: None,
            started_at: None,
            said_health: None,
        }
    }

    /// A task found after a restart, `latest` being the last status made durable, `since` when its process began.
    pub fn recovered(
        spec: TaskSpec,
        agent_id: AgentId,
        latest: Option<&TaskStatus>,
        since: Option<UnixMillis>,
        now: UnixMillis,
    ) -> Self {
        let mut machine = Self::new(spec, agent_id, now);
        if let Some(latest) = latest {
            let known = latest.health;
            machine.health =
                HealthMachine::new(&machine.spec.health_checks, latest.at, known, latest.ready);
            machine.phase = match latest.state {
                TaskState::Killing
                    if latest.reason == Some(StatusReason::TaskHealthCheckStatusUpdated) =>
                {
                    Phase::Killing(KillCause::Unhealthy {
                        failures: 0,
                        why: latest.message.clone(),
                    })
                }
                TaskState::Killing
                    if latest.reason == Some(StatusReason::ContainerLimitationDisk) =>
                {
                    Phase::Killing(KillCause::OverDisk {
                        why: latest.message.clone(),
                    })
                }
                TaskState::Killing
                    if latest.reason == Some(StatusReason::MaxCompletionTimeReached) =>
                {
                    Phase::Killing(KillCause::OverTime)
                }
                TaskState::Killing => Phase::Killing(asked_for(latest)),
                state if state.is_terminal() => Phase::Terminal(state),
                TaskState::Running => Phase::Running,
                TaskState::Starting => Phase::SettingUp,
                _ => Phase::Starting,
            };
            machine.started_at = since.or(Some(latest.at));
            machine.check = machine.check.map(|none| latest.check.unwrap_or(none));
            machine.responses.clone_from(&latest.responses);
        }
        machine
    }

    /// The spec.
    pub fn spec(&self) -> &TaskSpec {
        &self.spec
    }

    /// Where it is.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Its process id, once it runs.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// When it started running.
    pub fn started_at(&self) -> Option<UnixMillis> {
        self.started_at
    }

    /// Health over all checks.
    pub fn health(&self) -> HealthState {
        if let Some((health, _)) = self.said_health {
            return health;
        }
        match &self.phase {
            Phase::Killing(KillCause::Unhealthy { .. }) => HealthState::Unhealthy,
            _ => self.health.health(),
        }
    }

    /// Whether it may get work; `None` when no check says so.
    pub fn ready(&self) -> Option<bool> {
        let over = matches!(self.phase, Phase::Terminal(_));
        self.health.ready().map(|ready| ready && !over)
    }

    /// Its checks that are to be run now, by position.
    pub fn running_checks(&self) -> Vec<usize> {
        let all = 0..self.spec.health_checks.len();
        all.filter(|idx| self.health.runs(*idx)).collect()
    }

    /// When these began to count.
    pub fn checks_since(&self) -> UnixMillis {
        self.health.since()
    }

    /// When it has run for as long as it may.
    pub fn over_time_at(&self) -> Option<UnixMillis> {
        let longest = self.spec.container.limits.run_time?;
        (self.phase == Phase::Running).then_some(self.started_at? + longest)
    }

    /// Whether check `idx` may fail without being counted.
    pub fn in_grace(&self, idx: usize, now: UnixMillis) -> bool {
        self.health.in_grace(idx, now)
    }

    /// The state as Mesos names it.
    pub fn state(&self) -> TaskState {
        match &self.phase {
            Phase::Starting => TaskState::Staging,
            Phase::SettingUp => TaskState::Starting,
            Phase::Running => TaskState::Running,
            Phase::Killing(_) => TaskState::Killing,
            Phase::Terminal(state) => *state,
        }
    }

    /// Its process runs.
    pub fn started(&mut self, pid: u32, now: UnixMillis) -> Transition {
        if matches!(self.phase, Phase::Terminal(_)) {
            return Transition::None;
        }
        self.pid = Some(pid);
        match self.phase {
            Phase::Starting | Phase::SettingUp => {
                self.phase = Phase::Running;
                self.started_at = Some(now);
                self.health =
                    HealthMachine::new(&self.spec.health_checks, now, HealthState::Unknown, None);
                Transition::Report(self.status(None, String::new(), now))
            }
            // A kill came first: it can be carried out now.
            Phase::Killing(_) => Transition::Kill(None),
            Phase::Running | Phase::Terminal(_) => Transition::None,
        }
    }

    /// It is to end.
    pub fn kill(&mut self, cause: KillCause, now: UnixMillis) -> Transition {
        match self.phase {
            Phase::Starting | Phase::SettingUp | Phase::Running => {
                let (reason, message) = match &cause {
                    KillCause::Asked => (StatusReason::TaskKilled, String::new()),
                    KillCause::Evicted(why) => (why.reason, why.message.clone()),
                    KillCause::Unhealthy { why, .. } => {
                        (StatusReason::TaskHealthCheckStatusUpdated, why.clone())
                    }
                    KillCause::OverDisk { why } => {
                        (StatusReason::ContainerLimitationDisk, why.clone())
                    }
                    KillCause::OverTime => {
                        (StatusReason::MaxCompletionTimeReached, OVER_TIME.to_owned())
                    }
                };
                self.phase = Phase::Killing(cause);
                Transition::Kill(Some(self.status(Some(reason), message, now)))
            }
            Phase::Killing(_) | Phase::Terminal(_) => Transition::None,
        }
    }

    /// Its process is over.
    pub fn exited(&mut self, exit: &Exit, now: UnixMillis) -> Transition {
        let kill = match &self.phase {
            Phase::Terminal(_) => return Transition::None,
            Phase::Killing(cause) => Some(cause.clone()),
            Phase::Starting | Phase::SettingUp | Phase::Running => None,
        };
        let (state, reason, message) = exit.report(kill.as_ref());
        let health = Exit::health(kill.as_ref(), self.health.health());
        self.phase = Phase::Terminal(state);
        let mut status = self.status(reason, message, now);
        status.health = health;
        Transition::Report(status)
    }

    /// One result of check `idx`.
    pub fn checked(
        &mut self,
        idx: usize,
        result: Result<(), String>,
        response: Option<CheckResponse>,
        now: UnixMillis,
    ) -> Transition {
        if self.phase != Phase::Running {
            return Transition::None;
        }
        let runs = self.health.runs(idx);
        let answered = response.filter(|_| runs).and_then(|r| self.answered(r));
        match self.health.result(idx, result, now) {
            // Who is ready is not asked for what it answers any more: it would be told for as long as it lives.
            CheckOutcome::Same if self.ready() == Some(false) => {
                answered.map_or(Transition::None, |why| {
                    let reason = Some(StatusReason::TaskCheckStatusUpdated);
                    Transition::Report(self.status(reason, why, now))
                })
            }
            CheckOutcome::Same => Transition::None,
            CheckOutcome::Changed { reason, why } => {
                Transition::Report(self.status(Some(reason), why, now))
            }
            CheckOutcome::Kill { failures, why } => {
                self.kill(KillCause::Unhealthy { failures, why }, now)
            }
        }
    }

    /// Keeps what a check was answered; says so where it is another answer.
    fn answered(&mut self, response: CheckResponse) -> Option<String> {
        let check = self.spec.health_checks.get(response.idx)?;
        if !check.keep_response {
            return None;
        }
        let name = check_name(response.idx, check);
        let why = format!("{name} was answered with status {}", response.status);
        let at = self
            .responses
            .binary_search_by_key(&response.idx, |r| r.idx);
        match at {
            Ok(at) if self.responses[at] == response => return None,
            Ok(at) => self.responses[at] = response,
            Err(at) => self.responses.insert(at, response),
        }
        Some(why)
    }

    /// The check that is only told, `idx`, says this; `why` is for people.
    pub fn check_said(
        &mut self,
        idx: usize,
        said: CheckStatus,
        why: &str,
        now: UnixMillis,
    ) -> Transition {
        let Some((at, check)) = HealthCheck::reported(&self.spec.health_checks) else {
            return Transition::None;
        };
        let runs = self.phase == Phase::Running && self.health.runs(idx);
        if at != idx || !runs || self.check == Some(said) {
            return Transition::None;
        }
        self.check = Some(said);
        let why = format!("{}: {why}", check_name(idx, check));
        Transition::Report(self.status(Some(StatusReason::TaskCheckStatusUpdated), why, now))
    }

    /// What its executor says of it, which is what it is; nothing follows an end.
    pub fn said(&mut self, status: &TaskStatus, now: UnixMillis) {
        if matches!(self.phase, Phase::Terminal(_)) {
            return;
        }
        self.phase = match status.state {
            state if state.is_terminal() => Phase::Terminal(state),
            TaskState::Running => {
                self.started_at.get_or_insert(now);
                Phase::Running
            }
            TaskState::Killing => Phase::Killing(KillCause::Asked),
            _ => Phase::SettingUp,
        };
        self.said_health = Some((status.health, status.ready));
    }

    /// It holds more disk than it asked for; one that already ends is left to that.
    pub fn over_disk(&mut self, why: String, now: UnixMillis) -> Transition {
        self.kill(KillCause::OverDisk { why }, now)
    }

    fn status(&self, reason: Option<StatusReason>, message: String, now: UnixMillis) -> TaskStatus {
        TaskStatus {
            ip: None,
            ip6: None,
            ready: self.ready(),
            check: self.check,
            responses: self.responses.clone(),
            task_id: self.spec.task_id.clone(),
            agent_id: self.agent_id.clone(),
            state: self.state(),
            health: self.health(),
            reason,
            message,
            source: StatusSource::Executor,
            at: now,
            uuid: None,
            executor: None,
        }
    }
}

/// What is said of a task that ran for too long.
pub(crate) const OVER_TIME: &str = "it ran for as long as it may";

/// Who asked for an end that was told before a restart, by that word.
fn asked_for(told: &TaskStatus) -> KillCause {
    match told.reason {
        Some(reason @ (StatusReason::ContainerPreempted | StatusReason::SlaveDraining)) => {
            KillCause::Evicted(Evicted {
                reason,
                message: told.message.clone(),
            })
        }
        _ => KillCause::Asked,
    }
}

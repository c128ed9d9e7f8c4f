//! A job as the scheduler keeps it: definition, active runs, schedules' progress, history.

use std::{collections::BTreeMap, sync::Arc};

use waggle_types::{
    AgentId, JobSpec, Millis, RestartPolicy, RunId, ScheduleSpec, TaskId, TaskState, TraceContext,
    UnixMillis,
};

use super::clockwork::Clockwork;
use crate::{DeclineReason, ReasonCount, Why, backoff::Delay, queue::OfferSummary, tell};

/// Ended runs that are kept of each job and outcome; older ones are only counted (Metronome's default).
pub const KEEP_ENDED: usize = 10;
/// Tasks of a run that are kept; older ones are only counted.
pub const KEEP_TASKS: usize = 20;

/// Why a run began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Somebody asked for it.
    Asked,
    /// A schedule.
    Scheduled {
        /// Which.
        schedule: String,
        /// Its time.
        at: UnixMillis,
    },
    /// What the job depends on has succeeded.
    Dependencies,
}

/// How far a run is, in Metronome's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunStatus {
    /// It waits for its first task's launch.
    Initial,
    /// A task was launched, none has run yet.
    Starting,
    /// A task runs, or has run and is to run again.
    Active,
}

impl RunStatus {
    /// Metronome's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Initial => "INITIAL",
            Self::Starting => "STARTING",
            Self::Active => "ACTIVE",
        }
    }
}

/// A task of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunTask {
    /// Its id.
    pub task_id: TaskId,
    /// Where.
    pub agent_id: AgentId,
    /// Its node name.
    pub hostname: String,
    /// State as last heard.
    pub state: TaskState,
    /// When it was launched.
    pub launched_at: UnixMillis,
    /// When it was first heard to run.
    pub started_at: Option<UnixMillis>,
    /// When it was heard to have ended.
    pub ended_at: Option<UnixMillis>,
    /// The last word on it, for people.
    pub message: String,
    /// Since when its agent is out of reach.
    pub unreachable_since: Option<UnixMillis>,
    /// When it was last told to end.
    pub kill_sent_at: Option<UnixMillis>,
    /// Something was heard of it by this master.
    pub heard: bool,
}

/// A run that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// The definition when it began, with what was asked for this run alone.
    pub spec: Arc<JobSpec>,
    /// Why it began.
    pub cause: Cause,
    /// When.
    pub created_at: UnixMillis,
    /// Its newest tasks, the last one last.
    pub tasks: Vec<RunTask>,
    /// All tasks that failed.
    pub n_failures: u32,
    /// It is being stopped.
    pub stopping: bool,
    /// When a task has to run; it fails then.
    pub launch_by: UnixMillis,
    /// Parent of its tasks' spans.
    pub trace: Option<TraceContext>,
    pub(crate) delay: Delay,
    pub(crate) offers: OfferSummary,
}

impl Run {
    /// A run that waits for its first task.
    pub(crate) fn new(
        id: RunId,
        spec: Arc<JobSpec>,
        cause: Cause,
        launch_by: UnixMillis,
        now: UnixMillis,
    ) -> Self {
        Self {
            id,
            spec,
            cause,
            created_at: now,
            tasks: Vec::new(),
            n_failures: 0,
            stopping: false,
            launch_by,
            trace: None,
            delay: Delay::default(),
            offers: OfferSummary::default(),
        }
    }

    /// How far it is.
    pub fn status(&self) -> RunStatus {
        if self.tasks.iter().any(|t| t.started_at.is_some()) || self.n_failures > 0 {
            RunStatus::Active
        } else if self.tasks.is_empty() {
            RunStatus::Initial
        } else {
            RunStatus::Starting
        }
    }

    /// The task that has not ended.
    pub fn live_task(&self) -> Option<&RunTask> {
        self.tasks.last().filter(|t| t.ended_at.is_none())
    }

    pub(crate) fn live_task_mut(&mut self) -> Option<&mut RunTask> {
        self.tasks.last_mut().filter(|t| t.ended_at.is_none())
    }

    /// Whether a task of it is to be launched.
    pub fn is_waiting(&self) -> bool {
        self.live_task().is_none() && !self.stopping
    }

    /// No launch before this.
    pub fn delayed_until(&self) -> Option<UnixMillis> {
        self.delay.until.filter(|_| self.is_waiting())
    }

    /// Offers looked at since the last launch, by reason in the order of checking.
    pub fn refusals(&self) -> &BTreeMap<DeclineReason, ReasonCount> {
        &self.offers.attempt
    }

    /// Rules that turned offers away since the last launch, in words, those first that turned most away.
    pub fn why(&self) -> Vec<Why> {
        tell(&self.spec.run, &self.offers.rules, "offer")
    }

    /// Offers looked at since the last launch.
    pub fn n_offers(&self) -> u64 {
        self.offers.n_processed
    }

    /// When it is given up however often its task is started again.
    pub fn active_deadline(&self) -> Option<UnixMillis> {
        match self.spec.restart {
            RestartPolicy::OnFailure {
                active_deadline: Some(after),
            } => Some(self.created_at + after),
            _ => None,
        }
    }

    pub(crate) fn push_task(&mut self, task: RunTask) {
        if self.tasks.len() >= KEEP_TASKS {
            self.tasks.remove(0);
        }
        self.tasks.push(task);
    }
}

/// A run that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its id.
    pub id: RunId,
    /// When it began.
    pub created_at: UnixMillis,
    /// When it ended.
    pub finished_at: UnixMillis,
    /// Its newest tasks.
    pub tasks: Vec<TaskId>,
    /// Why it failed; empty when it succeeded.
    pub message: String,
}

/// Runs that have ended: all counted, some kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// Runs that succeeded.
    pub n_success: u64,
    /// Runs that failed, or were stopped.
    pub n_failure: u64,
    /// When one last succeeded.
    pub last_success_at: Option<UnixMillis>,
    /// When one last failed.
    pub last_failure_at: Option<UnixMillis>,
    /// The last [`KEEP_ENDED`] that succeeded, newest first.
    pub successes: Vec<Ended>,
    /// The last [`KEEP_ENDED`] that failed, newest first.
    pub failures: Vec<Ended>,
}

impl History {
    /// Tasks of the runs that are kept.
    pub fn tasks(&self) -> impl Iterator<Item = &TaskId> {
        let kept = self.successes.iter().chain(&self.failures);
        kept.flat_map(|ended| &ended.tasks)
    }

    pub(crate) fn push(&mut self, ended: Ended, success: bool) {
        let at = Some(ended.finished_at);
        let kept = if success {
            self.n_success += 1;
            self.last_success_at = at.max(self.last_success_at);
            &mut self.successes
        } else {
            self.n_failure += 1;
            self.last_failure_at = at.max(self.last_failure_at);
            &mut self.failures
        };
        kept.insert(0, ended);
        kept.truncate(KEEP_ENDED);
    }

    /// A kept run by its id, and whether it succeeded.
    pub fn find(&self, id: &RunId) -> Option<(&Ended, bool)> {
        let of = |kept: &'_ [Ended]| kept.iter().position(|e| e.id == *id);
        match (of(&self.successes), of(&self.failures)) {
            (Some(at), _) => self.successes.get(at).map(|e| (e, true)),
            (None, Some(at)) => self.failures.get(at).map(|e| (e, false)),
            (None, None) => None,
        }
    }
}

/// Why a schedule's time had no run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// Another run was active, and the schedule forbids two.
    Active,
    /// It was noticed later than the starting deadline allows.
    TooLate,
    /// A later time of the same schedule had passed as well.
    Overtaken,
    /// The job has as many active runs as one may have.
    TooMany,
}

impl Skip {
    /// For metrics and `explain`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active_run",
            Self::TooLate => "too_late",
            Self::Overtaken => "overtaken",
            Self::TooMany => "too_many_runs",
        }
    }
}

/// What has become of a schedule so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// All its times up to this one are decided.
    pub decided: UnixMillis,
    /// Times that had no run.
    pub n_skipped: u64,
    /// The last of them, and why.
    pub last_skip: Option<(UnixMillis, Skip)>,
    pub(crate) clockwork: Clockwork,
    pub(crate) next: Option<UnixMillis>,
}

impl Progress {
    pub(crate) fn skip(&mut self, at: UnixMillis, why: Skip) {
        self.n_skipped += 1;
        self.last_skip = Some((at, why));
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The newest definition.
    pub spec: Arc<JobSpec>,
    /// When it was first defined.
    pub defined_at: UnixMillis,
    /// When its newest run began.
    pub last_run_at: Option<UnixMillis>,
    /// Active runs.
    pub runs: BTreeMap<RunId, Arc<Run>>,
    /// Runs that have ended.
    pub history: History,
    pub(crate) schedules: BTreeMap<String, Progress>,
    /// The timer that is set for it.
    pub(crate) due: Option<UnixMillis>,
}

impl Job {
    /// What has become of a schedule so far.
    pub fn progress(&self, schedule: &str) -> Option<&Progress> {
        self.schedules.get(schedule)
    }

    /// When a schedule starts the next run, if it is enabled.
    pub fn next_run_at(&self, schedule: &ScheduleSpec) -> Option<UnixMillis> {
        self.schedules
            .get(&schedule.id)
            .and_then(|p| p.next)
            .filter(|_| schedule.enabled)
    }
}

/// What a job's store record holds, beside its definition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// When it was first defined.
    pub defined_at: UnixMillis,
    /// When its newest run began.
    pub last_run_at: Option<UnixMillis>,
    /// Runs that have ended.
    pub history: History,
    /// By schedule: decided up to, skipped times.
    pub schedules: BTreeMap<String, (UnixMillis, u64)>,
}

impl From<&Job> for Kept {
    fn from(job: &Job) -> Self {
        let schedules = job.schedules.iter();
        Self {
            defined_at: job.defined_at,
            last_run_at: job.last_run_at,
            history: job.history.clone(),
            schedules: schedules
                .map(|(id, p)| (id.clone(), (p.decided, p.n_skipped)))
                .collect(),
        }
    }
}

/// What an active run's store record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields of [`Run`]")]
pub struct KeptRun {
    pub id: RunId,
    pub spec: Arc<JobSpec>,
    pub cause: Cause,
    pub created_at: UnixMillis,
    pub tasks: Vec<RunTask>,
    pub n_failures: u32,
    pub stopping: bool,
    pub launch_by: UnixMillis,
}

impl From<&Run> for KeptRun {
    fn from(run: &Run) -> Self {
        Self {
            id: run.id.clone(),
            spec: Arc::clone(&run.spec),
            cause: run.cause.clone(),
            created_at: run.created_at,
            tasks: run.tasks.clone(),
            n_failures: run.n_failures,
            stopping: run.stopping,
            launch_by: run.launch_by,
        }
    }
}

impl KeptRun {
    /// As a new master has it: nothing was heard of its task yet, and whom it told to end is told again.
    pub(crate) fn into_run(self) -> Run {
        let mut run = Run::new(
            self.id,
            self.spec,
            self.cause,
            self.launch_by,
            self.created_at,
        );
        run.tasks = self.tasks;
        run.n_failures = self.n_failures;
        run.stopping = self.stopping;
        if let Some(t) = run.live_task_mut() {
            t.heard = false;
            t.kill_sent_at = None;
            t.unreachable_since = None;
        }
        run
    }
}

/// Limits that are the same for all jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobLimits {
    /// Most jobs; more are refused.
    pub max_jobs: usize,
    /// Most active runs of one job; more are refused, or their times left out.
    pub max_runs: usize,
    /// Most schedules of one job; more are refused.
    pub max_schedules: usize,
    /// Most jobs that one depends on; more are refused.
    pub max_dependencies: usize,
    /// Launches on one offer.
    pub max_tasks_per_offer: u32,
    /// A task that does not run after this long is killed.
    pub launch_timeout: Millis,
    /// A kill is repeated after this long without an end.
    pub kill_retry: Millis,
    /// A task whose agent is out of reach for this long has failed; it is killed should it come back.
    pub unreachable_after: Millis,
    /// How long after its start a master waits to hear of a task before it decides for a schedule that forbids two runs.
    pub unheard_after: Millis,
    /// Filter on offers that are of no use.
    pub decline_duration: Millis,
}

impl Default for JobLimits {
    fn default() -> Self {
        Self {
            max_jobs: 10_000,
            max_runs: 100,
            max_schedules: 10,
            max_dependencies: 100,
            max_tasks_per_offer: 20,
            launch_timeout: Millis::from_secs(300),
            kill_retry: Millis::from_secs(10),
            unreachable_after: Millis::from_secs(600),
            unheard_after: Millis::from_secs(60),
            decline_duration: Millis::from_secs(120),
        }
    }
}

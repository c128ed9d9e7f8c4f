//! Around the rules: calls and events change the picture, what changed is written, then said to level 1.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waggle_types::{
    AgentId, FrameworkId, JobId, JobSpec, RunId, ScheduleSpec, SchedulerCall, SchedulerEvent,
    TaskId, TraceContext, UnixMillis,
};

use super::{
    clockwork::Clockwork,
    job::{Cause, History, Job, JobLimits, Kept, KeptRun, Progress, Run, Skip},
    validate::{self, JobError},
};
use crate::{OpenOffer, ids::IdGen, task::Identity};

/// What people ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobCall {
    /// A new job.
    Create(Box<JobSpec>),
    /// Another definition of a job; its active runs go on as they began.
    Update {
        /// The definition.
        spec: Box<JobSpec>,
        /// Its schedules replace those of the job, else these stay.
        schedules: bool,
    },
    /// The job goes, with its history.
    Remove {
        /// Which.
        id: JobId,
        /// Its active runs are ended; else they are a reason to refuse.
        stop_runs: bool,
    },
    /// A new schedule.
    AddSchedule {
        /// Of which job.
        id: JobId,
        /// The schedule.
        schedule: ScheduleSpec,
    },
    /// Another definition of a schedule.
    PutSchedule {
        /// Of which job.
        id: JobId,
        /// The schedule.
        schedule: ScheduleSpec,
    },
    /// A schedule goes.
    RemoveSchedule {
        /// Of which job.
        id: JobId,
        /// Its id.
        schedule: String,
    },
    /// A run now, whatever else is active.
    Run {
        /// Of which job.
        id: JobId,
        /// Environment for this run alone, on top of the job's.
        env: BTreeMap<String, String>,
        /// Constraints for this run alone, instead of the job's.
        constraints: Option<Vec<Vec<String>>>,
        /// Parent of its tasks' spans.
        trace: Option<TraceContext>,
    },
    /// A run is to end; it has failed then.
    Stop {
        /// Of which job.
        id: JobId,
        /// Which.
        run: RunId,
    },
}

/// What a call has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobAnswer {
    /// The job after it, or as it was before it went.
    pub job: Arc<Job>,
    /// The run that it is about.
    pub run: Option<Arc<Run>>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobInput {
    /// The two-level protocol. Tasks of an accept that was refused must come back as updates: `Dropped`.
    Scheduler(SchedulerEvent),
    /// Launch nothing and decide no schedule until `Resume`: after a restart the picture is incomplete.
    Hold,
    /// Go on.
    Resume,
    /// Time has passed.
    Tick,
}

/// A change of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobWrite {
    /// A job's definition, progress and history.
    Job(Arc<Job>),
    /// A job is gone.
    DropJob(JobId),
    /// An active run.
    Run(JobId, Arc<Run>),
    /// A run is not active any more.
    DropRun(JobId, RunId),
}

/// What has to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobAction {
    /// Write this, at once what belongs to one job; that stands together.
    Write(Vec<JobWrite>),
    /// Say this to level 1, as any framework would.
    Call(SchedulerCall),
    /// A run has ended.
    Ended {
        /// Of which job.
        job: JobId,
        /// Which.
        run: RunId,
        /// Why it failed; `None`: it succeeded.
        failed: Option<String>,
        /// How long it took.
        ms: u64,
    },
    /// A schedule's time has no run.
    Skipped {
        /// Of which job.
        job: JobId,
        /// Why.
        why: Skip,
    },
}

/// The framework of jobs; see the module's documentation.
#[derive(Debug, Clone)]
pub struct JobScheduler {
    pub(super) of: Identity,
    pub(super) limits: JobLimits,
    pub(super) ids: IdGen,
    pub(super) jobs: BTreeMap<JobId, Arc<Job>>,
    /// Which run a task belongs to.
    pub(super) tasks: BTreeMap<TaskId, (JobId, RunId)>,
    /// Tasks that no run claims: where, and when they were last told to end.
    pub(super) strays: BTreeMap<TaskId, (AgentId, UnixMillis)>,
    /// Who depends on a job.
    pub(super) dependents: BTreeMap<JobId, BTreeSet<JobId>>,
    pub(super) timers: BTreeSet<(UnixMillis, JobId)>,
    /// Runs that could be launched if there were offers, and since when they wait.
    pub(super) waiting: BTreeMap<JobId, BTreeMap<RunId, UnixMillis>>,
    pub(super) hold: bool,
    pub(super) resumed_at: UnixMillis,
    suppressed: bool,
}

/// One step: what it touched and what it answers.
#[derive(Default)]
pub(super) struct Turn {
    /// Jobs to look at.
    pub dirty: BTreeSet<JobId>,
    /// Jobs to write.
    pub jobs: BTreeSet<JobId>,
    /// Runs to write.
    pub runs: BTreeSet<(JobId, RunId)>,
    /// Something may fit now that did not before.
    pub revive: bool,
    pub actions: Vec<JobAction>,
}

impl JobWrite {
    /// The job that it is about.
    pub fn job(&self) -> &JobId {
        match self {
            Self::Job(job) => &job.spec.id,
            Self::DropJob(id) | Self::Run(id, _) | Self::DropRun(id, _) => id,
        }
    }
}

impl JobScheduler {
    /// A scheduler without jobs. `seed` must differ between lives of the master: ids of runs and tasks come from it.
    pub fn new(
        framework_id: FrameworkId,
        framework_name: &str,
        seed: u64,
        limits: JobLimits,
    ) -> Self {
        Self {
            of: Identity {
                framework_id,
                framework_name: framework_name.to_owned(),
            },
            limits,
            ids: IdGen::new(seed),
            jobs: BTreeMap::new(),
            tasks: BTreeMap::new(),
            strays: BTreeMap::new(),
            dependents: BTreeMap::new(),
            timers: BTreeSet::new(),
            waiting: BTreeMap::new(),
            hold: false,
            resumed_at: UnixMillis(0),
            suppressed: false,
        }
    }

    /// Takes over a job of the master before this one, with the runs that were active; before anything else.
    pub fn restore(&mut self, spec: JobSpec, kept: Kept, runs: Vec<KeptRun>, now: UnixMillis) {
        let id = spec.id.clone();
        let mut job = Job {
            spec: Arc::new(spec),
            defined_at: kept.defined_at,
            last_run_at: kept.last_run_at,
            runs: BTreeMap::new(),
            history: kept.history,
            schedules: BTreeMap::new(),
            due: None,
        };
        for s in &job.spec.schedules {
            let (decided, n_skipped) = kept.schedules.get(&s.id).copied().unwrap_or((now, 0));
            // What was stored was valid; a zone that this version does not know is not in force.
            if let Some(p) = progress(s, decided, n_skipped) {
                job.schedules.insert(s.id.clone(), p);
            }
        }
        for run in runs.into_iter().map(KeptRun::into_run) {
            if let Some(t) = run.live_task() {
                let of = (id.clone(), run.id.clone());
                self.tasks.insert(t.task_id.clone(), of);
            }
            job.runs.insert(run.id.clone(), Arc::new(run));
        }
        self.depend(&id, &job.spec, true);
        self.jobs.insert(id.clone(), Arc::new(job));
        // Looked at as soon as time passes.
        self.set_timer(&id, Some(now));
    }

    /// Takes an input, and everything that is due at `now`, and says what has to be done.
    pub fn handle(&mut self, input: JobInput, now: UnixMillis) -> Vec<JobAction> {
        let mut turn = Turn::default();
        let mut offers = Vec::new();
        match input {
            JobInput::Scheduler(event) => self.event(event, now, &mut turn, &mut offers),
            JobInput::Hold => self.hold = true,
            JobInput::Resume => {
                self.hold = false;
                self.resumed_at = now;
                turn.dirty.extend(self.jobs.keys().cloned());
            }
            JobInput::Tick => {}
        }
        self.finish(offers, now, turn)
    }

    /// Does what people ask for, or refuses it wholly.
    pub fn call(
        &mut self,
        call: JobCall,
        now: UnixMillis,
    ) -> Result<(JobAnswer, Vec<JobAction>), JobError> {
        let mut turn = Turn::default();
        let (id, run) = match call {
            JobCall::Create(spec) => (self.create(*spec, now, &mut turn)?, None),
            JobCall::Update { spec, schedules } => {
                (self.update_spec(*spec, schedules, now, &mut turn)?, None)
            }
            JobCall::Remove { id, stop_runs } => {
                let job = self.remove(&id, stop_runs, now, &mut turn)?;
                let actions = self.finish(Vec::new(), now, turn);
                return Ok((JobAnswer { job, run: None }, actions));
            }
            JobCall::AddSchedule { id, schedule } => {
                if self.known(&id)?.spec.schedule(&schedule.id).is_some() {
                    let schedule = schedule.id;
                    return Err(JobError::ScheduleExists { job: id, schedule });
                }
                self.set_schedule(&id, schedule, now, &mut turn)?;
                (id, None)
            }
            JobCall::PutSchedule { id, schedule } => {
                if self.known(&id)?.spec.schedule(&schedule.id).is_none() {
                    let schedule = schedule.id;
                    return Err(JobError::NoSuchSchedule { job: id, schedule });
                }
                self.set_schedule(&id, schedule, now, &mut turn)?;
                (id, None)
            }
            JobCall::RemoveSchedule { id, schedule } => {
                let spec = &self.known(&id)?.spec;
                if spec.schedule(&schedule).is_none() {
                    return Err(JobError::NoSuchSchedule { job: id, schedule });
                }
                let mut spec = spec.as_ref().clone();
                spec.schedules.retain(|s| s.id != schedule);
                self.redefine(spec, now, &mut turn);
                (id, None)
            }
            JobCall::Run {
                id,
                env,
                constraints,
                trace,
            } => {
                let run = self.run_now(&id, env, constraints, trace, now, &mut turn)?;
                (id, Some(run))
            }
            JobCall::Stop { id, run } => {
                let job = self.known(&id)?;
                let Some(stopped) = job.runs.get(&run).cloned() else {
                    return Err(JobError::NoSuchRun { job: id, run });
                };
                self.stop(&id, &run, now, &mut turn);
                let actions = self.finish(Vec::new(), now, turn);
                let job = Arc::clone(self.known(&id)?);
                let run = job.runs.get(&run).cloned().or(Some(stopped));
                return Ok((JobAnswer { job, run }, actions));
            }
        };
        let actions = self.finish(Vec::new(), now, turn);
        let job = Arc::clone(self.known(&id)?);
        let run = run.and_then(|run| job.runs.get(&run).cloned());
        Ok((JobAnswer { job, run }, actions))
    }

    /// Jobs by id.
    pub fn jobs(&self) -> &BTreeMap<JobId, Arc<Job>> {
        &self.jobs
    }

    /// Tasks of active runs, and those that are to end and belong to none, with their agents.
    pub fn tasks(&self) -> impl Iterator<Item = (&TaskId, &AgentId)> {
        let of = |(id, (job, run)): (_, &(JobId, RunId))| {
            let task = self.jobs.get(job)?.runs.get(run)?.live_task()?;
            Some((id, &task.agent_id))
        };
        let strays = self.strays.iter().map(|(id, (agent, _))| (id, agent));
        self.tasks.iter().filter_map(of).chain(strays)
    }

    /// The agent of one of these.
    pub fn agent_of(&self, task: &TaskId) -> Option<&AgentId> {
        if let Some((agent, _)) = self.strays.get(task) {
            return Some(agent);
        }
        let (job, run) = self.tasks.get(task)?;
        let task = self.jobs.get(job)?.runs.get(run)?.live_task()?;
        Some(&task.agent_id)
    }

    /// When `Tick` is needed next.
    pub fn next_deadline(&self) -> Option<UnixMillis> {
        let retry = self.limits.kill_retry;
        let stray = self.strays.values().map(|(_, sent)| *sent + retry).min();
        let timer = self.timers.first().map(|(at, _)| *at);
        stray.into_iter().chain(timer).min()
    }

    pub(super) fn known(&self, id: &JobId) -> Result<&Arc<Job>, JobError> {
        self.jobs
            .get(id)
            .ok_or_else(|| JobError::NoSuchJob(id.clone()))
    }

    pub(super) fn job_mut(&mut self, id: &JobId) -> Option<&mut Job> {
        self.jobs.get_mut(id).map(Arc::make_mut)
    }

    pub(super) fn run_mut(&mut self, id: &JobId, run: &RunId) -> Option<&mut Run> {
        self.job_mut(id)?.runs.get_mut(run).map(Arc::make_mut)
    }

    fn create(
        &mut self,
        spec: JobSpec,
        now: UnixMillis,
        turn: &mut Turn,
    ) -> Result<JobId, JobError> {
        let id = spec.id.clone();
        if self.jobs.contains_key(&id) {
            return Err(JobError::Exists(id));
        }
        let max = self.limits.max_jobs;
        if self.jobs.len() >= max {
            return Err(JobError::TooMany { what: "jobs", max });
        }
        validate::check(&spec, &self.needs(), &self.limits)?;
        let job = Job {
            spec: Arc::new(spec.clone()),
            defined_at: now,
            last_run_at: None,
            runs: BTreeMap::new(),
            history: History::default(),
            schedules: BTreeMap::new(),
            due: None,
        };
        self.jobs.insert(id.clone(), Arc::new(job));
        self.redefine(spec, now, turn);
        Ok(id)
    }

    fn update_spec(
        &mut self,
        spec: JobSpec,
        schedules: bool,
        now: UnixMillis,
        turn: &mut Turn,
    ) -> Result<JobId, JobError> {
        let mut spec = spec;
        let old = &self.known(&spec.id)?.spec;
        if !schedules {
            spec.schedules.clone_from(&old.schedules);
        }
        validate::check(&spec, &self.needs(), &self.limits)?;
        let id = spec.id.clone();
        self.redefine(spec, now, turn);
        Ok(id)
    }

    fn set_schedule(
        &mut self,
        id: &JobId,
        schedule: ScheduleSpec,
        now: UnixMillis,
        turn: &mut Turn,
    ) -> Result<(), JobError> {
        validate::validate_schedule(&schedule)?;
        let mut spec = self.known(id)?.spec.as_ref().clone();
        match spec.schedules.iter_mut().find(|s| s.id == schedule.id) {
            Some(s) => *s = schedule,
            None => spec.schedules.push(schedule),
        }
        let max = self.limits.max_schedules;
        if spec.schedules.len() > max {
            let what = "schedules of a job";
            return Err(JobError::TooMany { what, max });
        }
        self.redefine(spec, now, turn);
        Ok(())
    }

    /// Puts a checked definition in force. Schedules that are new, changed or enabled begin now.
    fn redefine(&mut self, spec: JobSpec, now: UnixMillis, turn: &mut Turn) {
        let id = spec.id.clone();
        let Some(old) = self.jobs.get(&id).map(|j| Arc::clone(&j.spec)) else {
            return;
        };
        self.depend(&id, &old, false);
        self.depend(&id, &spec, true);
        let Some(job) = self.job_mut(&id) else {
            return;
        };
        let mut kept = std::mem::take(&mut job.schedules);
        for s in &spec.schedules {
            let same = |o: &&ScheduleSpec| {
                (&o.cron, &o.time_zone, o.enabled) == (&s.cron, &s.time_zone, s.enabled)
            };
            let as_was = old.schedule(&s.id).filter(same);
            let new = match as_was.and_then(|_| kept.remove(&s.id)) {
                Some(p) => Some(p),
                None => progress(s, now, 0),
            };
            if let Some(new) = new {
                job.schedules.insert(s.id.clone(), new);
            }
        }
        job.spec = Arc::new(spec);
        turn.jobs.insert(id.clone());
        turn.dirty.insert(id);
    }

    fn remove(
        &mut self,
        id: &JobId,
        stop_runs: bool,
        now: UnixMillis,
        turn: &mut Turn,
    ) -> Result<Arc<Job>, JobError> {
        let job = Arc::clone(self.known(id)?);
        if let Some(by) = self.dependents.get(id).and_then(BTreeSet::first) {
            let (job, by) = (id.clone(), by.clone());
            return Err(JobError::Needed { job, by });
        }
        if !job.runs.is_empty() && !stop_runs {
            return Err(JobError::Active {
                job: id.clone(),
                n: job.runs.len(),
            });
        }
        let mut writes: Vec<JobWrite> = Vec::new();
        for (run_id, run) in &job.runs {
            if let Some(t) = run.live_task() {
                self.forsake(&t.task_id, &t.agent_id, now, turn);
            }
            writes.push(JobWrite::DropRun(id.clone(), run_id.clone()));
        }
        writes.push(JobWrite::DropJob(id.clone()));
        turn.actions.insert(0, JobAction::Write(writes));
        self.set_timer(id, None);
        self.depend(id, &job.spec, false);
        self.waiting.remove(id);
        self.jobs.remove(id);
        Ok(job)
    }

    /// A task that belongs to no run any more is told to end until it has.
    pub(super) fn forsake(
        &mut self,
        task: &TaskId,
        agent: &AgentId,
        now: UnixMillis,
        turn: &mut Turn,
    ) {
        self.tasks.remove(task);
        self.strays.insert(task.clone(), (agent.clone(), now));
        let task_id = task.clone();
        let kill = SchedulerCall::Kill { task_id };
        turn.actions.push(JobAction::Call(kill));
    }

    fn run_now(
        &mut self,
        id: &JobId,
        env: BTreeMap<String, String>,
        constraints: Option<Vec<Vec<String>>>,
        trace: Option<TraceContext>,
        now: UnixMillis,
        turn: &mut Turn,
    ) -> Result<RunId, JobError> {
        let job = self.known(id)?;
        let max = self.limits.max_runs;
        if job.runs.len() >= max {
            let what = "active runs of a job";
            return Err(JobError::TooMany { what, max });
        }
        let mut spec = Arc::clone(&job.spec);
        if !env.is_empty() || constraints.is_some() {
            let own = Arc::make_mut(&mut spec);
            own.run.env.extend(env);
            if let Some(all) = constraints {
                crate::validate_constraints(&all)?;
                own.run.constraints = all;
            }
        }
        let launch_by = now + spec.max_launch_delay;
        let run = self
            .begin(id, spec, Cause::Asked, launch_by, now, turn)
            .ok_or_else(|| JobError::NoSuchJob(id.clone()))?;
        if let Some(r) = self.run_mut(id, &run) {
            r.trace = trace;
        }
        Ok(run)
    }

    fn needs(&self) -> BTreeMap<JobId, BTreeSet<JobId>> {
        let of = |(id, j): (&JobId, &Arc<Job>)| (id.clone(), j.spec.dependencies.clone());
        self.jobs.iter().map(of).collect()
    }

    fn depend(&mut self, id: &JobId, spec: &JobSpec, more: bool) {
        for on in &spec.dependencies {
            let of = self.dependents.entry(on.clone()).or_default();
            if more {
                of.insert(id.clone());
            } else {
                of.remove(id);
            }
            if of.is_empty() {
                self.dependents.remove(on);
            }
        }
    }

    pub(super) fn set_timer(&mut self, id: &JobId, at: Option<UnixMillis>) {
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        if job.due == at {
            return;
        }
        let old = std::mem::replace(&mut Arc::make_mut(job).due, at);
        if let Some(old) = old {
            self.timers.remove(&(old, id.clone()));
        }
        if let Some(at) = at {
            self.timers.insert((at, id.clone()));
        }
    }

    /// Looks at what is due or touched, launches what can be, writes, then speaks.
    fn finish(
        &mut self,
        offers: Vec<OpenOffer>,
        now: UnixMillis,
        mut turn: Turn,
    ) -> Vec<JobAction> {
        let due = self.timers.iter().take_while(|(at, _)| *at <= now);
        turn.dirty.extend(due.map(|(_, id)| id.clone()));
        self.repeat_stray_kills(now, &mut turn);
        // What a job does may be the turn of those that depend on it.
        while let Some(id) = turn.dirty.pop_first() {
            self.look_at(&id, now, &mut turn);
        }
        self.place(offers, now, &mut turn);
        self.ask_for_offers(&mut turn);
        self.with_writes(turn)
    }

    fn ask_for_offers(&mut self, turn: &mut Turn) {
        if self.hold {
            return;
        }
        let any_waits = !self.waiting.is_empty();
        let roles = Vec::new();
        if any_waits && (self.suppressed || turn.revive) {
            self.suppressed = false;
            let revive = SchedulerCall::Revive { roles };
            turn.actions.push(JobAction::Call(revive));
        } else if !any_waits && !self.suppressed {
            self.suppressed = true;
            let suppress = SchedulerCall::Suppress { roles };
            turn.actions.push(JobAction::Call(suppress));
        }
    }

    pub(super) fn subscribed(&mut self) {
        // A new subscription starts out revived.
        self.suppressed = false;
    }

    /// One write for all that changed, before anything that rests on it. What belongs to one job stands together.
    fn with_writes(&self, turn: Turn) -> Vec<JobAction> {
        let mut runs: BTreeMap<JobId, Vec<RunId>> = BTreeMap::new();
        for (id, run) in turn.runs {
            runs.entry(id).or_default().push(run);
        }
        let ids: BTreeSet<&JobId> = turn.jobs.iter().chain(runs.keys()).collect();
        let mut writes = Vec::new();
        for id in ids {
            let Some(job) = self.jobs.get(id) else {
                continue;
            };
            if turn.jobs.contains(id) {
                writes.push(JobWrite::Job(Arc::clone(job)));
            }
            let of_it = runs.get(id).into_iter().flatten();
            writes.extend(of_it.map(|run| match job.runs.get(run) {
                Some(r) => JobWrite::Run(id.clone(), Arc::clone(r)),
                None => JobWrite::DropRun(id.clone(), run.clone()),
            }));
        }
        let mut actions = turn.actions;
        if !writes.is_empty() {
            actions.insert(0, JobAction::Write(writes));
        }
        actions
    }
}

/// A schedule whose times up to `decided` are decided.
fn progress(spec: &ScheduleSpec, decided: UnixMillis, n_skipped: u64) -> Option<Progress> {
    let clockwork = Clockwork::new(spec).ok()?;
    Some(Progress {
        decided,
        n_skipped,
        last_skip: None,
        next: clockwork.next_after(decided),
        clockwork,
    })
}

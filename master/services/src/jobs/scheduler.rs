//! Around the rules: calls and events change the picture, what changed is written, then said to level 1.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waggle_types::{
    AgentId, FrameworkId, JobId, JobSpec, RunId, SchedulerCall, TaskId, UnixMillis,
};

use super::{
    calls::progress,
    input::{JobAction, JobInput, JobWrite},
    job::{Job, JobLimits, Kept, KeptRun, Run},
    validate::JobError,
};
use crate::{OpenOffer, ids::IdGen, task::Identity};

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
    pub(super) fn finish(
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

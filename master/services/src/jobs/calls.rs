//! What people ask of jobs: done wholly, or refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waggle_types::{JobId, JobSpec, RunId, ScheduleSpec, TraceContext, UnixMillis};

use super::{
    clockwork::Clockwork,
    input::{JobAction, JobAnswer, JobCall, JobWrite},
    job::{Cause, History, Job, Progress},
    scheduler::{JobScheduler, Turn},
    validate::{self, JobError},
};

impl JobScheduler {
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
            // What is said as text is no secret any more.
            own.run.secrets.env.retain(|key, _| !env.contains_key(key));
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

    pub(super) fn depend(&mut self, id: &JobId, spec: &JobSpec, more: bool) {
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
}

/// A schedule whose times up to `decided` are decided.
pub(super) fn progress(
    spec: &ScheduleSpec,
    decided: UnixMillis,
    n_skipped: u64,
) -> Option<Progress> {
    let clockwork = Clockwork::new(spec).ok()?;
    Some(Progress {
        decided,
        n_skipped,
        last_skip: None,
        next: clockwork.next_after(decided),
        clockwork,
    })
}

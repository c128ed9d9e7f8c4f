//! Jobs: what people ask of them at random, and what must hold of their runs.
//!
//! All the time: a time of a schedule has one run at most, whichever master decided it; a schedule that forbids two runs has
//! one active run at most. After healing: no run is active, and every run that ever was has ended exactly once.

use std::collections::{BTreeMap, BTreeSet};

use waggle_master::core::{Answer, Event, RequestId};
use waggle_services::jobs::{Cause, Job, JobCall};
use waggle_types::{
    Command, Concurrency, JobId, JobSpec, Millis, Resources, RestartPolicy, RunId, ScheduleSpec,
    ServiceSpec, UnixMillis,
};

use crate::{Sim, Violation};

/// Run by its schedule, by hand, and after the first.
const JOBS: [&str; 3] = ["each-minute", "by-hand", "after"];
/// Runs of one job at once that people ask for; more would not fit beside the rest.
const MAX_ACTIVE: usize = 3;

/// What is remembered of runs, whatever masters do.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobBooks {
    /// Calls on their way.
    asked: BTreeMap<u64, JobId>,
    /// Runs that somebody was told of.
    told: BTreeSet<(JobId, RunId)>,
    /// Runs that were stored, by job.
    seen: BTreeMap<JobId, BTreeSet<RunId>>,
    /// The run of each time of a schedule.
    times: BTreeMap<(JobId, UnixMillis), RunId>,
    /// Something of them was stored since it was looked at last.
    stored: bool,
}

impl JobBooks {
    /// How many runs there were.
    pub fn n_runs(&self) -> usize {
        self.seen.values().map(BTreeSet::len).sum()
    }

    /// This key of the store was written or deleted.
    pub fn note(&mut self, key: &str) {
        self.stored |= key.starts_with("jobs/") || key.starts_with("job_runs/");
    }

    /// Nobody will answer any more.
    pub fn master_died(&mut self) {
        self.asked.clear();
    }
}

impl Sim {
    fn job_spec(&mut self, name: &str, scheduled: bool) -> Option<JobSpec> {
        let id = JobId::new(name).ok()?;
        let ms = self.rng.between(1, 40_000);
        let verb = if self.rng.chance(700) { "run" } else { "fail" };
        let command = Command::Shell(format!("{verb} {ms}"));
        let schedule = ScheduleSpec {
            id: "s".to_owned(),
            cron: "* * * * *".to_owned(),
            time_zone: "UTC".to_owned(),
            starting_deadline: Millis::from_secs(900),
            concurrency: Concurrency::Forbid,
            enabled: true,
        };
        let dependencies = match name {
            "after" => BTreeSet::from([JobId::new(JOBS[0]).ok()?]),
            _ => BTreeSet::new(),
        };
        Some(JobSpec {
            run: ServiceSpec {
                instances: 1,
                resources: Resources::from_millis(200, 64_000, 0),
                kill_grace: Millis(2000),
                ..ServiceSpec::new(id.path().ok()?, command)
            },
            id,
            description: None,
            dependencies,
            max_launch_delay: Millis::from_secs(3600),
            restart: if self.rng.chance(500) {
                RestartPolicy::OnFailure {
                    active_deadline: Some(Millis::from_secs(120)),
                }
            } else {
                RestartPolicy::Never
            },
            schedules: if scheduled && name == JOBS[0] {
                vec![schedule]
            } else {
                Vec::new()
            },
        })
    }

    fn jobs_now(&mut self) -> BTreeMap<JobId, std::sync::Arc<Job>> {
        let now = self.now;
        let view = self.master.as_mut().map(|m| m.view(now));
        view.map(|v| v.jobs).unwrap_or_default()
    }

    /// Somebody asks something of a job.
    pub(crate) fn job_call(&mut self) -> Result<(), Violation> {
        let name = JOBS[self.rng.index(JOBS.len())];
        let jobs = self.jobs_now();
        let Some(job) = jobs.get(name) else {
            let missing = JOBS.iter().find(|n| !jobs.contains_key(**n));
            let spec = missing.and_then(|n| self.job_spec(n, true));
            let call = spec.map(|s| JobCall::Create(Box::new(s)));
            return call.map_or(Ok(()), |call| self.ask_job(call));
        };
        let id = job.spec.id.clone();
        let active: Vec<RunId> = job.runs.keys().cloned().collect();
        let call = match self.rng.between(0, 10) {
            0..6 if active.len() < MAX_ACTIVE && name != JOBS[0] => JobCall::Run {
                id,
                env: BTreeMap::new(),
                constraints: None,
                trace: None,
            },
            6..8 => {
                let Some(run) = active.get(self.rng.index(active.len())) else {
                    return Ok(());
                };
                let run = run.clone();
                JobCall::Stop { id, run }
            }
            8.. => match self.job_spec(name, true) {
                Some(spec) => JobCall::Update {
                    spec: Box::new(spec),
                    schedules: true,
                },
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        self.ask_job(call)
    }

    fn ask_job(&mut self, call: JobCall) -> Result<(), Violation> {
        if self.master.is_none() {
            return Ok(());
        }
        let id = match &call {
            JobCall::Create(spec) | JobCall::Update { spec, .. } => spec.id.clone(),
            JobCall::Remove { id, .. }
            | JobCall::AddSchedule { id, .. }
            | JobCall::PutSchedule { id, .. }
            | JobCall::RemoveSchedule { id, .. }
            | JobCall::Run { id, .. }
            | JobCall::Stop { id, .. } => id.clone(),
        };
        self.log(format_args!("job {id}: {call:.60?}"));
        self.n_requests += 1;
        let request = RequestId(self.n_requests);
        self.jobs.asked.insert(request.0, id);
        let call = Box::new(call);
        self.tell_master(Event::Job { request, call })
    }

    /// An answer about a job; `false`: it is about something else.
    pub(crate) fn job_answered(&mut self, request: u64, answer: &Answer) -> bool {
        let Answer::Job(answer) = answer else {
            return false;
        };
        if let (Some(id), Ok(done)) = (self.jobs.asked.remove(&request), answer)
            && let Some(run) = &done.run
        {
            self.jobs.told.insert((id, run.id.clone()));
        }
        true
    }

    /// Checks for every event of the master that stored something of jobs, and all of it by now.
    pub(crate) fn check_jobs(&mut self) -> Result<(), Violation> {
        if self.master.is_none() || !std::mem::take(&mut self.jobs.stored) {
            return Ok(());
        }
        for (id, job) in self.jobs_now() {
            let mut n_scheduled = 0;
            for run in job.runs.values() {
                let seen = self.jobs.seen.entry(id.clone()).or_default();
                seen.insert(run.id.clone());
                let Cause::Scheduled { at, .. } = run.cause else {
                    continue;
                };
                n_scheduled += 1;
                let first = self.jobs.times.entry((id.clone(), at));
                let first = first.or_insert_with(|| run.id.clone());
                if *first != run.id {
                    let text = format!("{id} at {}: {first:?} and {:?}", at.0, run.id);
                    return Err(Violation::Job(text));
                }
            }
            if n_scheduled > 1 {
                let text = format!("{id}: {n_scheduled} runs of a schedule that forbids two");
                return Err(Violation::Job(text));
            }
        }
        Ok(())
    }

    /// Nothing is run any more but what was begun.
    pub(crate) fn heal_jobs(&mut self) -> Result<(), Violation> {
        self.plan.jobs = self.plan.jobs.min(1);
        for name in self.jobs_now().into_keys() {
            if let Some(spec) = self.job_spec(name.as_str(), false) {
                let spec = Box::new(spec);
                self.ask_job(JobCall::Update {
                    spec,
                    schedules: true,
                })?;
            }
        }
        Ok(())
    }

    /// What is not over, or was lost.
    pub(crate) fn job_differences(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        let jobs = self.jobs_now();
        for (id, run) in &self.jobs.told {
            let seen = self.jobs.seen.get(id);
            if !seen.is_some_and(|s| s.contains(run)) {
                out.push(format!("{id}: run {run:?} was told and never seen"));
            }
        }
        for (id, seen) in &self.jobs.seen {
            let Some(job) = jobs.get(id) else {
                out.push(format!("{id} is gone"));
                continue;
            };
            if !job.runs.is_empty() {
                out.push(format!("{id}: active {:?}", job.runs.keys()));
            }
            let n_ended = job.history.n_success + job.history.n_failure;
            let n_over = seen.iter().filter(|r| !job.runs.contains_key(*r)).count();
            if n_ended != n_over as u64 {
                out.push(format!(
                    "{id}: {n_over} runs are over, the history has {n_ended}"
                ));
            }
        }
        out
    }
}

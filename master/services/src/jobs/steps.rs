//! What time and offers bring: schedules that are due, runs that begin, tasks that are launched, deadlines.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use waggle_types::{
    Concurrency, JobId, JobSpec, Millis, Offer, OfferId, RunId, SchedulerCall, TaskId, TaskSpec,
    TaskState, UnixMillis,
};

use super::{
    input::JobAction,
    job::{Cause, Ended, Job, Run, RunTask, Skip},
    scheduler::{JobScheduler, Turn},
    updates::last_words,
};
use crate::{
    Around, OpenOffer, Refusal, Rule, choose::Chooser, constraints::validate_constraints,
    ids::run_stamp, matching::on_agent, task,
};

/// Times of a schedule that passed while no master was there are counted up to this many.
const MAX_COUNTED: u32 = 1000;

impl JobScheduler {
    /// Everything about one job that is due, and when to look again.
    pub(super) fn look_at(&mut self, id: &JobId, now: UnixMillis, turn: &mut Turn) {
        if !self.hold {
            self.decide_schedules(id, now, turn);
            self.follow_dependencies(id, now, turn);
        }
        let runs: Vec<RunId> = match self.jobs.get(id) {
            Some(job) => job.runs.keys().cloned().collect(),
            None => return,
        };
        for run in &runs {
            self.look_at_run(id, run, now, turn);
        }
        let at = self.jobs.get(id).and_then(|job| self.due(job, now));
        self.set_timer(id, at);
        self.note_waiting(id, now, turn);
    }

    /// Decides for each schedule's times up to now.
    fn decide_schedules(&mut self, id: &JobId, now: UnixMillis, turn: &mut Turn) {
        let Some(job) = self.jobs.get(id) else {
            return;
        };
        let due =
            |s: &&waggle_types::ScheduleSpec| job.next_run_at(s).is_some_and(|next| next <= now);
        let due: Vec<_> = job.spec.schedules.iter().filter(due).cloned().collect();
        for s in due {
            let Some(job) = self.jobs.get(id) else {
                return;
            };
            let forbids = s.concurrency == Concurrency::Forbid;
            if forbids && self.is_unsure(job, now) {
                continue;
            }
            let (busy, full) = (!job.runs.is_empty(), job.runs.len() >= self.limits.max_runs);
            let Some(progress) = self.job_mut(id).and_then(|j| j.schedules.get_mut(&s.id)) else {
                continue;
            };
            let Some(first) = progress.next else {
                continue;
            };
            let (mut at, mut next, mut n) = (first, progress.clockwork.next_after(first), 0);
            while let Some(later) = next.filter(|t| *t <= now) {
                progress.skip(at, Skip::Overtaken);
                n += 1;
                at = if n < MAX_COUNTED {
                    later
                } else {
                    progress.clockwork.newest(at, now).unwrap_or(later)
                };
                next = progress.clockwork.next_after(at);
            }
            progress.decided = at;
            progress.next = next;
            let skip = if now.since(at) > s.starting_deadline {
                Some(Skip::TooLate)
            } else if forbids && busy {
                Some(Skip::Active)
            } else if full {
                Some(Skip::TooMany)
            } else {
                None
            };
            if let Some(why) = skip {
                progress.skip(at, why);
                let job = id.clone();
                turn.actions.push(JobAction::Skipped { job, why });
            }
            turn.jobs.insert(id.clone());
            if skip.is_some() {
                continue;
            }
            let Some(spec) = self.jobs.get(id).map(|j| Arc::clone(&j.spec)) else {
                return;
            };
            let launch_by = (at + s.starting_deadline).min(now + spec.max_launch_delay);
            let schedule = s.id.clone();
            let cause = Cause::Scheduled { schedule, at };
            self.begin(id, spec, cause, launch_by, now, turn);
        }
    }

    /// Whether this master has not yet heard of a task that may have ended before it began.
    fn is_unsure(&self, job: &Job, now: UnixMillis) -> bool {
        now.since(self.resumed_at) < self.limits.unheard_after
            && job
                .runs
                .values()
                .any(|r| r.live_task().is_some_and(|t| !t.heard))
    }

    /// Begins a run when all that the job depends on has succeeded since the last one, and none is active.
    fn follow_dependencies(&mut self, id: &JobId, now: UnixMillis, turn: &mut Turn) {
        let Some(job) = self.jobs.get(id) else {
            return;
        };
        if job.spec.dependencies.is_empty() || !job.runs.is_empty() {
            return;
        }
        let since = job.last_run_at.unwrap_or(job.defined_at);
        let succeeded = |on: &JobId| {
            let last = self.jobs.get(on).and_then(|j| j.history.last_success_at);
            last.is_some_and(|at| at > since)
        };
        if !job.spec.dependencies.iter().all(succeeded) {
            return;
        }
        let spec = Arc::clone(&job.spec);
        let launch_by = now + spec.max_launch_delay;
        self.begin(id, spec, Cause::Dependencies, launch_by, now, turn);
    }

    /// A new run.
    pub(super) fn begin(
        &mut self,
        id: &JobId,
        spec: Arc<JobSpec>,
        cause: Cause,
        launch_by: UnixMillis,
        now: UnixMillis,
        turn: &mut Turn,
    ) -> Option<RunId> {
        let run_id = loop {
            let new = RunId::new(run_stamp(now, self.ids.next())).ok()?;
            if !self.jobs.get(id)?.runs.contains_key(&new) {
                break new;
            }
        };
        let job = self.job_mut(id)?;
        let run = Run::new(run_id.clone(), spec, cause, launch_by, now);
        job.runs.insert(run_id.clone(), Arc::new(run));
        job.last_run_at = Some(now);
        turn.jobs.insert(id.clone());
        turn.runs.insert((id.clone(), run_id.clone()));
        turn.dirty.insert(id.clone());
        turn.revive = true;
        Some(run_id)
    }

    /// Deadlines of one run.
    fn look_at_run(&mut self, id: &JobId, run_id: &RunId, now: UnixMillis, turn: &mut Turn) {
        let Some(run) = self.jobs.get(id).and_then(|j| j.runs.get(run_id)) else {
            return;
        };
        let limits = self.limits;
        let Some(task) = run.live_task().cloned() else {
            if run.stopping {
                self.end_run(id, run_id, Some("it was stopped".to_owned()), now, turn);
            } else if self.hold {
                // Nothing can be launched: no deadline is missed by it.
            } else if run.active_deadline().is_some_and(|at| at <= now) && run.n_failures > 0 {
                let why = format!("{}; its deadline is over", last_words(run));
                self.end_run(id, run_id, Some(why), now, turn);
            } else if run.launch_by <= now {
                let why = "it could not be launched in time".to_owned();
                self.end_run(id, run_id, Some(why), now, turn);
            }
            return;
        };
        if task.unreachable_since.is_some() && run.stopping
            || task
                .unreachable_since
                .is_some_and(|t| t + limits.unreachable_after <= now)
        {
            // Nobody can say how it ends; should it come back it is killed.
            self.forsake(&task.task_id, &task.agent_id, now, turn);
            let message = "its agent is out of reach";
            self.task_ended(id, run_id, TaskState::Lost, message, now, turn);
            return;
        }
        let stuck = matches!(task.state, TaskState::Staging | TaskState::Starting)
            && task.unreachable_since.is_none()
            && task.launched_at + limits.launch_timeout <= now;
        let due = match task.kill_sent_at {
            Some(sent) => sent + limits.kill_retry <= now,
            None => run.stopping || (stuck && !self.hold),
        };
        if due {
            self.kill_task(id, run_id, now, turn);
        }
    }

    pub(super) fn kill_task(
        &mut self,
        id: &JobId,
        run_id: &RunId,
        now: UnixMillis,
        turn: &mut Turn,
    ) {
        let run = self.run_mut(id, run_id);
        let Some(task) = run.and_then(Run::live_task_mut) else {
            return;
        };
        task.kill_sent_at = Some(now);
        let task_id = task.task_id.clone();
        let kill = SchedulerCall::Kill { task_id };
        turn.actions.push(JobAction::Call(kill));
    }

    /// A run is to end.
    pub(super) fn stop(&mut self, id: &JobId, run_id: &RunId, now: UnixMillis, turn: &mut Turn) {
        let Some(run) = self.run_mut(id, run_id) else {
            return;
        };
        if !std::mem::replace(&mut run.stopping, true) {
            turn.runs.insert((id.clone(), run_id.clone()));
        }
        self.look_at_run(id, run_id, now, turn);
        turn.dirty.insert(id.clone());
    }

    /// A run has ended.
    pub(super) fn end_run(
        &mut self,
        id: &JobId,
        run_id: &RunId,
        failed: Option<String>,
        now: UnixMillis,
        turn: &mut Turn,
    ) {
        let Some(job) = self.job_mut(id) else {
            return;
        };
        let Some(run) = job.runs.remove(run_id) else {
            return;
        };
        let ended = Ended {
            id: run_id.clone(),
            created_at: run.created_at,
            finished_at: now,
            tasks: run.tasks.iter().map(|t| t.task_id.clone()).collect(),
            message: failed.clone().unwrap_or_default(),
        };
        job.history.push(ended, failed.is_none());
        turn.jobs.insert(id.clone());
        turn.runs.insert((id.clone(), run_id.clone()));
        turn.dirty.insert(id.clone());
        if failed.is_none() {
            let after = self.dependents.get(id);
            turn.dirty.extend(after.into_iter().flatten().cloned());
        }
        turn.actions.push(JobAction::Ended {
            job: id.clone(),
            run: run_id.clone(),
            failed,
            ms: now.since(run.created_at).0,
        });
    }

    /// When something about a job is due.
    fn due(&self, job: &Job, now: UnixMillis) -> Option<UnixMillis> {
        let limits = &self.limits;
        let mut all: Vec<UnixMillis> = Vec::new();
        if !self.hold {
            let next = job.spec.schedules.iter();
            // One that waits for a word looks again soon.
            let soon = now + Millis(1000);
            all.extend(
                next.filter_map(|s| job.next_run_at(s))
                    .map(|at| if at <= now { soon } else { at }),
            );
        }
        for run in job.runs.values() {
            let Some(t) = run.live_task() else {
                if !self.hold {
                    all.push(run.launch_by);
                    all.extend(run.active_deadline().filter(|_| run.n_failures > 0));
                    all.extend(run.delayed_until().filter(|at| *at > now));
                }
                continue;
            };
            all.extend(t.unreachable_since.map(|at| at + limits.unreachable_after));
            all.extend(t.kill_sent_at.map(|at| at + limits.kill_retry));
            let staged = matches!(t.state, TaskState::Staging | TaskState::Starting);
            if staged && t.kill_sent_at.is_none() && t.unreachable_since.is_none() && !self.hold {
                all.push(t.launched_at + limits.launch_timeout);
            }
        }
        all.into_iter().min()
    }

    /// Which runs of a job could be launched now.
    fn note_waiting(&mut self, id: &JobId, now: UnixMillis, turn: &mut Turn) {
        let ready = |r: &&Arc<Run>| {
            r.is_waiting() && !self.hold && r.delayed_until().is_none_or(|at| at <= now)
        };
        let runs = self.jobs.get(id).map(|job| job.runs.values());
        let after: BTreeMap<RunId, UnixMillis> = runs
            .into_iter()
            .flatten()
            .filter(ready)
            .map(|r| (r.id.clone(), r.created_at))
            .collect();
        let before = if after.is_empty() {
            self.waiting.remove(id);
            return;
        } else {
            self.waiting.insert(id.clone(), after.clone())
        };
        let known = |run: &RunId| before.as_ref().is_some_and(|b| b.contains_key(run));
        turn.revive |= after.keys().any(|run| !known(run));
    }

    /// Launches waiting runs on offers, the oldest first; every offer is answered.
    pub(super) fn place(&mut self, mut offers: Vec<OpenOffer>, now: UnixMillis, turn: &mut Turn) {
        if offers.is_empty() {
            return;
        }
        let mut accepts: BTreeMap<usize, Vec<TaskSpec>> = BTreeMap::new();
        let of = |(id, runs): (&JobId, &BTreeMap<RunId, UnixMillis>)| {
            let each = runs.iter().map(|(run, at)| (*at, id.clone(), run.clone()));
            each.collect::<Vec<_>>()
        };
        let mut waiting: Vec<_> = self.waiting.iter().flat_map(of).collect();
        waiting.sort();
        for (_, id, run_id) in waiting {
            if self.hold {
                break;
            }
            self.place_run(&id, &run_id, &mut offers, &mut accepts, now, turn);
        }
        self.answer(&offers, accepts, turn);
    }

    fn place_run(
        &mut self,
        id: &JobId,
        run_id: &RunId,
        offers: &mut [OpenOffer],
        accepts: &mut BTreeMap<usize, Vec<TaskSpec>>,
        now: UnixMillis,
        turn: &mut Turn,
    ) {
        let Some(run) = self.jobs.get(id).and_then(|j| j.runs.get(run_id)).cloned() else {
            return;
        };
        let spec = &run.spec.run;
        let constraints = validate_constraints(&spec.constraints).ok();
        let (around, most) = (Around::default(), self.limits.max_tasks_per_offer);
        let chooser = Chooser::new(spec, constraints.as_deref(), &[], offers, &around, most);
        let seed = self.ids.next();
        let mut refusals: Vec<Refusal> = Vec::new();
        // Nobody gives their values yet, and without them it is not what was asked for.
        let lacks_secrets = !spec.used_secrets().is_empty();
        // Those that were used least come first, so that runs spread.
        let mut order: Vec<usize> = (0..offers.len()).collect();
        order.sort_by_key(|i| offers[*i].n_launched);
        let mut found = None;
        for i in order {
            let open = &offers[i];
            if open.n_launched >= self.limits.max_tasks_per_offer {
                continue;
            }
            let fits = if lacks_secrets {
                Err(Rule::Secrets.into())
            } else {
                chooser.check(i, open, seed)
            };
            match fits {
                Ok(ports) => {
                    found = Some((i, ports));
                    break;
                }
                Err(unmet) => refusals.push(Refusal {
                    offer_id: open.offer.offer_id.clone(),
                    offer_idx: i,
                    reason: unmet.rule.reason(),
                    rule: unmet.rule,
                    had: unmet.had,
                }),
            }
        }
        let used = u64::from(found.is_some());
        if let Some(r) = self.run_mut(id, run_id) {
            r.offers.saw(used, &refusals, offers, now);
        }
        let Some((i, ports)) = found else {
            return;
        };
        let uuid = self.ids.uuid();
        let Some(task_id) = run_task_id(id, run_id, &uuid) else {
            return;
        };
        let offer = offers[i].offer.clone();
        let how = (ports.as_slice(), Vec::new());
        let mut task = task::build(spec, &self.of, task_id.clone(), &offer, how, run.trace);
        // Its own names: it is no instance of a service.
        task.service = String::new();
        task.service_version = String::new();
        task.env.extend(job_env(id, &run, spec));
        let used = spec.resources.clone().with_ports(on_agent(&ports));
        if offers[i].offer.resources.try_sub(&used).is_none() {
            return;
        }
        offers[i].n_launched += 1;
        accepts.entry(i).or_default().push(task);
        self.launched(id, run_id, task_id, &offer, now);
        turn.runs.insert((id.clone(), run_id.clone()));
        let at = self.jobs.get(id).and_then(|job| self.due(job, now));
        self.set_timer(id, at);
        self.note_waiting(id, now, turn);
    }

    fn launched(
        &mut self,
        id: &JobId,
        run_id: &RunId,
        task_id: TaskId,
        offer: &Offer,
        now: UnixMillis,
    ) {
        let of = (id.clone(), run_id.clone());
        self.tasks.insert(task_id.clone(), of);
        if let Some(r) = self.run_mut(id, run_id) {
            r.offers = crate::queue::OfferSummary::default();
            r.push_task(RunTask {
                task_id,
                agent_id: offer.agent_id.clone(),
                hostname: offer.hostname.clone(),
                state: TaskState::Staging,
                launched_at: now,
                started_at: None,
                ended_at: None,
                message: String::new(),
                unreachable_since: None,
                kill_sent_at: None,
                heard: true,
            });
        }
    }

    fn answer(
        &self,
        offers: &[OpenOffer],
        mut accepts: BTreeMap<usize, Vec<TaskSpec>>,
        turn: &mut Turn,
    ) {
        let any_waits = !self.waiting.is_empty();
        let refuse = self.limits.decline_duration;
        let mut unused: Vec<OfferId> = Vec::new();
        for (i, o) in offers.iter().enumerate() {
            let offer_id = o.offer.offer_id.clone();
            match accepts.remove(&i) {
                Some(tasks) => {
                    // More may fit on the rest when only the limit per offer stopped us.
                    let full = o.n_launched >= self.limits.max_tasks_per_offer;
                    let refuse = if full && any_waits { Millis(0) } else { refuse };
                    let call = SchedulerCall::launch(vec![offer_id], tasks, refuse);
                    turn.actions.push(JobAction::Call(call));
                }
                None => unused.push(offer_id),
            }
        }
        if !unused.is_empty() {
            turn.actions.push(JobAction::Call(SchedulerCall::Decline {
                offer_ids: unused,
                refuse,
            }));
        }
    }
}

/// Metronome's form: `prod_backup_20160715130259A34HX.<uuid>`. A job's name that would make it too long is cut.
fn run_task_id(id: &JobId, run: &RunId, uuid: &str) -> Option<TaskId> {
    let name: String = id.as_str().replace('.', "_").chars().take(100).collect();
    TaskId::new(format!("{name}_{run}.{uuid}")).ok()
}

/// What a task finds out about its run; the definition's own word wins.
fn job_env(
    id: &JobId,
    run: &Run,
    spec: &waggle_types::ServiceSpec,
) -> impl Iterator<Item = (String, String)> {
    let scheduled = match &run.cause {
        Cause::Scheduled { at, .. } => Some(at.rfc3339().to_string()),
        _ => None,
    };
    let all = [
        ("WAGGLE_JOB_ID", Some(id.to_string())),
        ("WAGGLE_JOB_RUN_ID", Some(run.id.to_string())),
        ("WAGGLE_JOB_SCHEDULED_AT", scheduled),
    ];
    let own: BTreeSet<String> = spec.env.keys().cloned().collect();
    all.into_iter()
        .filter_map(|(k, v)| Some((k.to_owned(), v?)))
        .filter(move |(k, _)| !own.contains(k))
}

//! The framework of jobs: registered like any other, with the first job, and spoken to like any other. Its subscription is
//! the master itself, so it hears at once and is never away; its launches are logged and the ends of its tasks wait for its
//! acknowledgement, which it gives after what it makes of them is stored.

use std::{collections::BTreeMap, sync::Arc};

use waggle_allocator::{Event as Level1, FrameworkSpec};
use waggle_services::{
    jobs::{
        JobAction, JobAnswer, JobCall, JobError, JobInput, JobLimits, JobScheduler, JobWrite, Kept,
        KeptRun,
    },
    validate_constraints, wrong_constraints,
};
use waggle_types::{
    About, Capabilities, FieldError, FrameworkId, FrameworkInfo, JobId, JobSpec, Millis, Operation,
    RoleSubscription, SchedulerCall, SchedulerEvent, StatusReason, TaskId, TaskState, UnixMillis,
};

use super::{
    Framework, FrameworkCall, MasterCore, Measure, SERVICE_ROLE, SubscriptionId, TraceAttrs,
    homes::not_yet, intents::wrong_gpus, levels::own_status, stored,
};
use crate::{
    error::MasterError,
    store::{MAX_VALUE_BYTES, StoreOp},
};

/// DNS name of the framework of jobs.
pub const JOB_FRAMEWORK: &str = "metronome";
/// Its subscription; the shell's own numbers never get here.
const SUBSCRIPTION: SubscriptionId = SubscriptionId(u64::MAX);
/// Longest failover time-out there is: it is away only while no master leads.
const FAILOVER: Millis = Millis::from_secs(30 * 86_400);
/// Writes of one transaction, unless one job needs more.
const MAX_WRITES: usize = 1000;

/// The framework of jobs, as the core keeps it.
#[derive(Debug)]
pub(super) struct Jobs {
    pub(super) framework_id: FrameworkId,
    pub(super) scheduler: JobScheduler,
}

impl Jobs {
    pub(super) fn new(builtin: &FrameworkId, seed: u64) -> Self {
        // Of the built-in one's id, so that it is as stable as that.
        let text: String = builtin.as_str().chars().take(180).collect();
        let framework_id = FrameworkId::new(format!("{text}-jobs"));
        let framework_id = framework_id.unwrap_or_else(|_| builtin.clone());
        let limits = JobLimits::default();
        let scheduler = JobScheduler::new(
            framework_id.clone(),
            JOB_FRAMEWORK,
            // Its ids are drawn from another sequence than those of services.
            seed.rotate_left(32) ^ 0x6a6f_6273,
            limits,
        );
        Self {
            framework_id,
            scheduler,
        }
    }
}

fn info(id: &FrameworkId) -> FrameworkInfo {
    let capabilities = Capabilities {
        gpus: true,
        region_aware: true,
        revocable: false,
    };
    FrameworkInfo {
        id: Some(id.clone()),
        name: JOB_FRAMEWORK.to_owned(),
        roles: vec![RoleSubscription::new(SERVICE_ROLE)],
        capabilities,
        failover_timeout: FAILOVER,
        about: Arc::new(About {
            checkpoint: true,
            ..About::default()
        }),
    }
}

impl MasterCore {
    /// Hands stored jobs to their framework, which waits until the agents are back.
    pub(super) fn restore_jobs(
        &mut self,
        jobs: BTreeMap<JobId, (JobSpec, Kept, Vec<KeptRun>)>,
        now: UnixMillis,
    ) {
        for (spec, kept, runs) in jobs.into_values() {
            self.jobs.scheduler.restore(spec, kept, runs, now);
        }
        self.do_jobs(JobInput::Hold, now);
    }

    /// The agents are back, or were waited for: tells of each task what is known, then lets it go on.
    pub(super) fn resume_jobs(&mut self, now: UnixMillis) {
        let registered = self.frameworks.all.contains_key(&self.jobs.framework_id);
        if registered || !self.jobs.scheduler.jobs().is_empty() {
            self.subscribe_jobs(now);
        }
        let known = self.jobs.scheduler.tasks();
        let known: Vec<TaskId> = known.map(|(id, _)| id.clone()).collect();
        for id in known {
            let status = self.tasks.get(&id).and_then(|t| {
                let state = t.state();
                t.status().map(|s| waggle_types::TaskStatus { state, ..s })
            });
            match status {
                Some(status) => {
                    let heard = SchedulerEvent::Update(status);
                    self.do_jobs(JobInput::Scheduler(heard), now);
                }
                None => self.missing_task(&id, now),
            }
        }
        self.do_jobs(JobInput::Resume, now);
    }

    /// Subscribes the framework of jobs, and registers it the first time.
    fn subscribe_jobs(&mut self, now: UnixMillis) {
        let id = self.jobs.framework_id.clone();
        let info = info(&id);
        let known = self.frameworks.all.get(&id);
        let registered_at = known.map_or(now, |f| f.registered_at);
        if known.is_none_or(|f| f.info != info) {
            let value = stored::framework_value(&info, registered_at);
            self.persist(vec![stored::put_framework(&id, value)]);
        }
        let spec = FrameworkSpec {
            roles: info.roles.clone(),
            capabilities: info.capabilities,
        };
        let framework = Framework {
            reregistered_at: now,
            subscription: Some(SUBSCRIPTION),
            ..Framework::new(info, registered_at)
        };
        self.frameworks.all.insert(id.clone(), framework);
        let framework_id = id.clone();
        self.allocate(Level1::Subscribed { framework_id, spec }, now);
        let framework_id = id.clone();
        let subscribed = SchedulerEvent::Subscribed { framework_id };
        self.do_jobs(JobInput::Scheduler(subscribed), now);
        self.tell_dropped(&id);
    }

    fn is_jobs_subscribed(&self) -> bool {
        let known = self.frameworks.all.get(&self.jobs.framework_id);
        known.is_some_and(|f| f.subscription.is_some())
    }

    /// What people ask of jobs.
    pub(super) fn job_call(
        &mut self,
        call: JobCall,
        now: UnixMillis,
    ) -> Result<JobAnswer, MasterError> {
        match &call {
            JobCall::Create(spec) | JobCall::Update { spec, .. } => self.check_job(spec)?,
            JobCall::Run {
                constraints: Some(all),
                ..
            } => {
                validate_constraints(all).map_err(placement)?;
            }
            _ => {}
        }
        let (answer, actions) = self.jobs.scheduler.call(call, now)?;
        if !self.recovering && !self.is_jobs_subscribed() {
            self.subscribe_jobs(now);
        }
        self.act_for_jobs(actions, now);
        Ok(answer)
    }

    /// Everything about what a job runs that is not the job's own affair.
    fn check_job(&self, spec: &JobSpec) -> Result<(), MasterError> {
        let of_run = |e: FieldError| FieldError::new(format!("run.{}", e.field), e.rule);
        let mut wrong: Vec<FieldError> = wrong_constraints(&spec.run.constraints)
            .into_iter()
            .map(in_placement)
            .collect();
        wrong.extend(not_yet(&spec.run).into_iter().map(of_run));
        wrong.extend(wrong_gpus(&spec.run).into_iter().map(of_run));
        wrong.extend(self.check_network_of(&spec.run).err().map(of_run));
        MasterError::if_any(wrong)?;
        // A run holds the definition once more, and the history grows beside it.
        if stored::job_bytes(spec) > MAX_VALUE_BYTES / 4 {
            return Err(MasterError::Limit("size of the definition"));
        }
        Ok(())
    }

    pub(super) fn tick_jobs(&mut self, now: UnixMillis) {
        let due = self.jobs.scheduler.next_deadline();
        if due.is_some_and(|at| at <= now) {
            self.do_jobs(JobInput::Tick, now);
        }
    }

    /// Something that level 1 says to the framework of jobs.
    pub(super) fn tell_jobs(&mut self, event: SchedulerEvent, now: UnixMillis) {
        self.do_jobs(JobInput::Scheduler(event), now);
    }

    fn do_jobs(&mut self, input: JobInput, now: UnixMillis) {
        let actions = self.jobs.scheduler.handle(input, now);
        self.act_for_jobs(actions, now);
    }

    fn act_for_jobs(&mut self, actions: Vec<JobAction>, now: UnixMillis) {
        for action in actions {
            match action {
                JobAction::Write(writes) => self.write_jobs(&writes),
                JobAction::Call(call) => self.call_of_jobs(call, now),
                JobAction::Ended {
                    job,
                    run,
                    failed,
                    ms,
                } => {
                    let outcome = if failed.is_none() {
                        "success"
                    } else {
                        "failed"
                    };
                    self.measure(Measure::JobRun { outcome, ms });
                    let attrs: TraceAttrs = vec![
                        ("waggle.job.id", job.to_string()),
                        ("waggle.job.run.id", run.to_string()),
                        ("waggle.outcome", outcome.to_owned()),
                        ("waggle.message", failed.unwrap_or_default()),
                    ];
                    self.measure(Measure::Event {
                        name: "waggle.job.run_ended",
                        attrs,
                        trace: None,
                    });
                }
                JobAction::Skipped { why, .. } => {
                    let reason = why.name();
                    self.measure(Measure::JobSkipped { reason });
                }
            }
        }
    }

    /// What belongs to one job is written in one transaction.
    fn write_jobs(&mut self, writes: &[JobWrite]) {
        let mut ops: Vec<StoreOp> = Vec::new();
        let mut last: Option<&JobId> = None;
        for w in writes {
            if ops.len() >= MAX_WRITES && last != Some(w.job()) {
                self.persist(std::mem::take(&mut ops));
            }
            last = Some(w.job());
            ops.push(match w {
                JobWrite::Job(job) => stored::put_job(job),
                JobWrite::DropJob(id) => stored::delete_job(id),
                JobWrite::Run(id, run) => stored::put_job_run(id, run),
                JobWrite::DropRun(id, run) => stored::delete_job_run(id, run),
            });
        }
        self.persist(ops);
    }

    fn call_of_jobs(&mut self, call: SchedulerCall, now: UnixMillis) {
        let id = self.jobs.framework_id.clone();
        match call {
            SchedulerCall::Kill { task_id } => {
                let known = self.tasks.get(&task_id);
                if known.is_some_and(|t| t.spec.framework_id == id) {
                    self.kill_call(task_id, now);
                } else {
                    self.missing_task(&task_id, now);
                }
            }
            SchedulerCall::Accept {
                offer_ids,
                operations,
                refuse,
            } => {
                let tasks: Vec<TaskId> = operations
                    .iter()
                    .flat_map(Operation::tasks)
                    .map(|t| t.task_id.clone())
                    .collect();
                let accept = SchedulerCall::Accept {
                    offer_ids: offer_ids.clone(),
                    operations,
                    refuse,
                };
                let Err(why) = self.do_call(&id, FrameworkCall::Scheduler(accept), now) else {
                    return;
                };
                self.reject("accept_refused");
                // What is still out of them is of use to others.
                let _ = self.framework_decline(&id, offer_ids, refuse, now);
                let Some(nobody) = self.nobody.clone() else {
                    return;
                };
                let why = why.first().map(ToString::to_string).unwrap_or_default();
                for task in tasks {
                    let (state, reason) = (TaskState::Dropped, StatusReason::InvalidOffers);
                    let agent = nobody.clone();
                    let status = own_status(task, agent, state, Some(reason), why.clone(), now);
                    self.send_framework(&id, SchedulerEvent::Update(status));
                }
            }
            // Level 1 does not know it yet; its subscription starts out revived.
            SchedulerCall::Suppress { .. } | SchedulerCall::Revive { .. }
                if !self.is_jobs_subscribed() => {}
            other => {
                if let Err(all) = self.do_call(&id, FrameworkCall::Scheduler(other), now) {
                    for r in all {
                        self.reject(r.reason.name());
                    }
                }
            }
        }
    }

    /// A task of a job that no agent has spoken of to this master: says what can be said by now.
    fn missing_task(&mut self, id: &TaskId, now: UnixMillis) {
        let ends_later = self.frameworks.unacked.contains_key(id) || self.launches.is_open(id);
        let agent = self.jobs.scheduler.agent_of(id).cloned();
        let Some(agent) = agent.filter(|_| !ends_later) else {
            return;
        };
        let (state, message) = if self.expected.contains_key(&agent) {
            if self.recovering {
                return;
            }
            (TaskState::Unreachable, "its agent has not come back")
        } else {
            (TaskState::Unknown, "no agent has the task")
        };
        let reason = Some(StatusReason::Reconciliation);
        let status = own_status(id.clone(), agent, state, reason, message.to_owned(), now);
        let framework = self.jobs.framework_id.clone();
        self.send_framework(&framework, SchedulerEvent::Update(status));
    }

    /// An agent has said all that it has: what is not among it is nowhere.
    pub(super) fn jobs_after_return(&mut self, agent: &waggle_types::AgentId, now: UnixMillis) {
        let known = self.jobs.scheduler.tasks();
        let its: Vec<TaskId> = known
            .filter(|(id, on)| *on == agent && !self.tasks.contains(id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in its {
            self.missing_task(&id, now);
        }
    }
}

fn placement(e: FieldError) -> JobError {
    in_placement(e).into()
}

fn in_placement(e: FieldError) -> FieldError {
    FieldError::new(format!("run.placement.{}", e.field), e.rule)
}

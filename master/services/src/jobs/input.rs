//! What the scheduler of jobs is told and what it wants done.

use std::{collections::BTreeMap, sync::Arc};

use waggle_types::{
    JobId, JobSpec, RunId, ScheduleSpec, SchedulerCall, SchedulerEvent, TraceContext,
};

use super::job::{Job, Run, Skip};

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

impl JobWrite {
    /// The job that it is about.
    pub fn job(&self) -> &JobId {
        match self {
            Self::Job(job) => &job.spec.id,
            Self::DropJob(id) | Self::Run(id, _) | Self::DropRun(id, _) => id,
        }
    }
}

//! Jobs and their active runs as stored: `jobs/<id>`, `job_runs/<id>/<run>`. Definitions are the JSON that the API shows.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use waggle_api::metronome::{JobJson, JobParse, job_from_value, job_json, schedule_json};
use waggle_services::jobs::{Cause, Ended, History, Job, Kept, KeptRun, Run, RunTask};
use waggle_types::{AgentId, JobId, JobSpec, RunId, TaskId, TaskState, UnixMillis};

use super::{StoreOp, json, put};

#[derive(Serialize, Deserialize)]
struct StoredSpec {
    job: Value,
    version_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredJob {
    #[serde(flatten)]
    spec: StoredSpec,
    defined_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_run_ms: Option<u64>,
    #[serde(default)]
    schedules: BTreeMap<String, StoredProgress>,
    n_success: u64,
    n_failure: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_success_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_failure_ms: Option<u64>,
    successes: Vec<StoredEnded>,
    failures: Vec<StoredEnded>,
}

/// All times of a schedule up to `decided_ms` are decided.
#[derive(Serialize, Deserialize)]
struct StoredProgress {
    decided_ms: u64,
    skipped: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredEnded {
    id: String,
    created_ms: u64,
    finished_ms: u64,
    tasks: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
}

#[derive(Serialize, Deserialize)]
struct StoredRun {
    #[serde(flatten)]
    spec: StoredSpec,
    cause: StoredCause,
    created_ms: u64,
    launch_by_ms: u64,
    failures: u32,
    stopping: bool,
    tasks: Vec<StoredTask>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredCause {
    Asked,
    Scheduled { schedule: String, at_ms: u64 },
    Dependencies,
}

#[derive(Serialize, Deserialize)]
struct StoredTask {
    id: String,
    agent: String,
    hostname: String,
    state: String,
    launched_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
}

fn spec_json(spec: &JobSpec) -> JobJson {
    let schedules = spec.schedules.iter().map(|s| schedule_json(s, None));
    JobJson {
        schedules: Some(schedules.collect()),
        ..job_json(spec)
    }
}

fn stored_spec(spec: &JobSpec) -> StoredSpec {
    StoredSpec {
        // Its keys are strings, so it can't fail.
        job: serde_json::to_value(spec_json(spec)).unwrap_or(Value::Null),
        version_ms: spec.run.version.0.0,
    }
}

fn read_spec(s: &StoredSpec) -> Result<JobSpec, String> {
    let parse = JobParse {
        id: None,
        schedules: true,
    };
    job_from_value(&s.job, parse, UnixMillis(s.version_ms)).map_err(|e| e.to_string())
}

/// Bytes that a definition takes in the store.
pub(in crate::core) fn job_bytes(spec: &JobSpec) -> usize {
    json(&stored_spec(spec)).len()
}

fn ms(at: Option<UnixMillis>) -> Option<u64> {
    at.map(|t| t.0)
}

fn ended(all: &[Ended]) -> Vec<StoredEnded> {
    let one = |e: &Ended| StoredEnded {
        id: e.id.to_string(),
        created_ms: e.created_at.0,
        finished_ms: e.finished_at.0,
        tasks: e.tasks.iter().map(ToString::to_string).collect(),
        message: e.message.clone(),
    };
    all.iter().map(one).collect()
}

fn read_ended(all: Vec<StoredEnded>) -> Result<Vec<Ended>, String> {
    let one = |e: StoredEnded| {
        Ok(Ended {
            id: RunId::new(e.id).map_err(|x| x.to_string())?,
            created_at: UnixMillis(e.created_ms),
            finished_at: UnixMillis(e.finished_ms),
            tasks: task_ids(e.tasks)?,
            message: e.message,
        })
    };
    all.into_iter().map(one).collect()
}

fn task_ids(all: Vec<String>) -> Result<Vec<TaskId>, String> {
    let one = |t| TaskId::new(t).map_err(|x| x.to_string());
    all.into_iter().map(one).collect()
}

pub(in crate::core) fn put_job(job: &Job) -> StoreOp {
    let kept = Kept::from(job);
    let h = &kept.history;
    let schedules = kept.schedules.iter().map(|(id, (decided, skipped))| {
        let stored = StoredProgress {
            decided_ms: decided.0,
            skipped: *skipped,
        };
        (id.clone(), stored)
    });
    let stored = StoredJob {
        spec: stored_spec(&job.spec),
        defined_ms: kept.defined_at.0,
        last_run_ms: ms(kept.last_run_at),
        schedules: schedules.collect(),
        n_success: h.n_success,
        n_failure: h.n_failure,
        last_success_ms: ms(h.last_success_at),
        last_failure_ms: ms(h.last_failure_at),
        successes: ended(&h.successes),
        failures: ended(&h.failures),
    };
    put(format!("jobs/{}", job.spec.id), json(&stored))
}

pub(super) fn read_job(text: &str) -> Result<(JobSpec, Kept), String> {
    let s: StoredJob = serde_json::from_str(text).map_err(|x| x.to_string())?;
    let schedules = s.schedules.into_iter();
    let schedules = schedules.map(|(id, p)| (id, (UnixMillis(p.decided_ms), p.skipped)));
    let kept = Kept {
        defined_at: UnixMillis(s.defined_ms),
        last_run_at: s.last_run_ms.map(UnixMillis),
        history: History {
            n_success: s.n_success,
            n_failure: s.n_failure,
            last_success_at: s.last_success_ms.map(UnixMillis),
            last_failure_at: s.last_failure_ms.map(UnixMillis),
            successes: read_ended(s.successes)?,
            failures: read_ended(s.failures)?,
        },
        schedules: schedules.collect(),
    };
    Ok((read_spec(&s.spec)?, kept))
}

pub(in crate::core) fn delete_job(id: &JobId) -> StoreOp {
    StoreOp::Delete {
        key: format!("jobs/{id}"),
    }
}

pub(in crate::core) fn put_job_run(id: &JobId, run: &Run) -> StoreOp {
    let task = |t: &RunTask| StoredTask {
        id: t.task_id.to_string(),
        agent: t.agent_id.to_string(),
        hostname: t.hostname.clone(),
        state: t.state.mesos_name().to_owned(),
        launched_ms: t.launched_at.0,
        started_ms: ms(t.started_at),
        ended_ms: ms(t.ended_at),
        message: t.message.clone(),
    };
    let stored = StoredRun {
        spec: stored_spec(&run.spec),
        cause: match &run.cause {
            Cause::Asked => StoredCause::Asked,
            Cause::Scheduled { schedule, at } => StoredCause::Scheduled {
                schedule: schedule.clone(),
                at_ms: at.0,
            },
            Cause::Dependencies => StoredCause::Dependencies,
        },
        created_ms: run.created_at.0,
        launch_by_ms: run.launch_by.0,
        failures: run.n_failures,
        stopping: run.stopping,
        tasks: run.tasks.iter().map(task).collect(),
    };
    put(format!("job_runs/{id}/{}", run.id), json(&stored))
}

/// `rest` is `<job>/<run>`.
pub(super) fn read_job_run(rest: &str, text: &str) -> Result<(JobId, KeptRun), String> {
    let (job, run) = rest.split_once('/').ok_or("must be job/run")?;
    let s: StoredRun = serde_json::from_str(text).map_err(|x| x.to_string())?;
    let task = |t: StoredTask| {
        let state = TaskState::ALL.iter().find(|s| s.mesos_name() == t.state);
        Ok(RunTask {
            task_id: TaskId::new(t.id).map_err(|x| x.to_string())?,
            agent_id: AgentId::new(t.agent).map_err(|x| x.to_string())?,
            hostname: t.hostname,
            state: *state.ok_or_else(|| format!("unknown state {:?}", t.state))?,
            launched_at: UnixMillis(t.launched_ms),
            started_at: t.started_ms.map(UnixMillis),
            ended_at: t.ended_ms.map(UnixMillis),
            message: t.message,
            unreachable_since: None,
            kill_sent_at: None,
            heard: false,
        })
    };
    let tasks: Result<Vec<RunTask>, String> = s.tasks.into_iter().map(task).collect();
    let kept = KeptRun {
        id: RunId::new(run).map_err(|x| x.to_string())?,
        spec: Arc::new(read_spec(&s.spec)?),
        cause: match s.cause {
            StoredCause::Asked => Cause::Asked,
            StoredCause::Scheduled { schedule, at_ms } => Cause::Scheduled {
                schedule,
                at: UnixMillis(at_ms),
            },
            StoredCause::Dependencies => Cause::Dependencies,
        },
        created_at: UnixMillis(s.created_ms),
        tasks: tasks?,
        n_failures: s.failures,
        stopping: s.stopping,
        launch_by: UnixMillis(s.launch_by_ms),
    };
    Ok((JobId::new(job).map_err(|x| x.to_string())?, kept))
}

pub(in crate::core) fn delete_job_run(id: &JobId, run: &RunId) -> StoreOp {
    StoreOp::Delete {
        key: format!("job_runs/{id}/{run}"),
    }
}

//! Metronome's REST API: `/v1/jobs`, `/v1/queue`, `/v0/scheduled-jobs`, and the same below `/service/metronome`, where
//! `/info` and `/v1/metrics` are its own, too.

use axum::{
    body::Body,
    http::{HeaderValue, Method, StatusCode, header},
    response::Response,
};
use serde_json::Value;
use waggle_api::{
    error::{ApiError, ErrorCode},
    metronome::{
        EndedJson, HistoryJson, HistorySummaryJson, InfoJson, JobJson, JobParse, QueueJson,
        QueuedRunJson, RunJson, RunTaskJson, ScheduleJson, job_from_value, job_json,
        metronome_time, overrides_from_value, schedule_from_value, schedule_json,
    },
};
use waggle_services::jobs::{Ended, History, Job, JobCall, Run};
use waggle_types::{JobId, RunId, UnixMillis};

use super::{
    Api,
    marathon::{MARATHON_VERSION, dropwizard},
    now,
    request::Call,
    respond::{Fail, json, ok},
};
use crate::{error::MasterError, view::ClusterView};

/// The Metronome release whose API this follows; numeric, as clients compare it.
const METRONOME_VERSION: &str = "0.6.44";

/// The path below Metronome's root, if it is one of its paths.
pub(super) fn is_mine(call: &Call) -> Option<Vec<&str>> {
    let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        ["service", "metronome", rest @ ..] => Some(rest.to_vec()),
        ["v1", "jobs" | "queue", ..] | ["v0", "scheduled-jobs", ..] => Some(segments),
        _ => None,
    }
}

/// Answers one request; `path` is what [`is_mine`] gave.
pub(super) async fn route(
    api: &Api,
    call: &Call,
    path: &[&str],
    body: Body,
) -> Result<Response, Fail> {
    match (path, &call.method) {
        (["ping"], &Method::GET) => Ok(Response::new(Body::from("pong"))),
        (["info"], &Method::GET) => Ok(ok(&InfoJson {
            version: METRONOME_VERSION.to_owned(),
            lib_version: MARATHON_VERSION.to_owned(),
        })),
        (["v1", "metrics"], &Method::GET) => Ok(ok(&metrics(&api.view()))),
        (["v1", "jobs"], &Method::GET) => Ok(list(&api.view(), Embed::of(call)?)),
        (["v1", "jobs"], &Method::POST) => create(api, call, body, false).await,
        (["v0", "scheduled-jobs"], &Method::GET) => Ok(list(&api.view(), Embed::ALL)),
        (["v0", "scheduled-jobs"], &Method::POST) => create(api, call, body, true).await,
        (["v0", "scheduled-jobs", id], &Method::PUT) => update(api, call, body, id, true).await,
        (["v1", "queue"], &Method::GET) => Ok(ok(&queue(&api.view()))),
        (["v1", "jobs"] | ["v0", "scheduled-jobs"], _) => Err(Fail::method(call, "GET, POST")),
        (["v0", "scheduled-jobs", _], _) => Err(Fail::method(call, "PUT")),
        (["ping" | "info"] | ["v1", "queue" | "metrics"], _) => Err(Fail::method(call, "GET")),
        (["v1", "jobs", id, rest @ ..], _) => of_job(api, call, body, id, rest).await,
        _ => Err(Fail::no_such_path(call)),
    }
}

async fn of_job(
    api: &Api,
    call: &Call,
    body: Body,
    id: &str,
    rest: &[&str],
) -> Result<Response, Fail> {
    let method = &call.method;
    match (rest, method) {
        ([], &Method::GET) => {
            let view = api.view();
            Ok(ok(&shown(job(&view, id)?, Embed::of(call)?)))
        }
        ([], &Method::PUT) => update(api, call, body, id, false).await,
        ([], &Method::DELETE) => {
            let stop_runs = call.query.flag("stopCurrentJobRuns", false)?;
            let id = job_id(id)?;
            let done = api.handle.job(JobCall::Remove { id, stop_runs }).await?;
            Ok(ok(&shown(&done.job, Embed::default())))
        }
        (["schedules"], &Method::GET) => Ok(ok(&schedules(job(&api.view(), id)?))),
        (["schedules"], &Method::POST) => {
            let schedule = schedule_from_value(&call.json(body).await?, None)?;
            let (id, name) = (job_id(id)?, schedule.id.clone());
            let done = api.handle.job(JobCall::AddSchedule { id, schedule });
            let done = done.await?;
            Ok(json(StatusCode::CREATED, &schedule_of(&done.job, &name)?))
        }
        (["schedules", name], &Method::GET) => Ok(ok(&schedule_of(job(&api.view(), id)?, name)?)),
        (["schedules", name], &Method::PUT) => {
            let schedule = schedule_from_value(&call.json(body).await?, Some(name))?;
            let id = job_id(id)?;
            let done = api.handle.job(JobCall::PutSchedule { id, schedule });
            let done = done.await?;
            Ok(ok(&schedule_of(&done.job, name)?))
        }
        (["schedules", name], &Method::DELETE) => {
            let (id, schedule) = (job_id(id)?, (*name).to_owned());
            let done = api.handle.job(JobCall::RemoveSchedule { id, schedule });
            Ok(ok(&shown(&done.await?.job, Embed::default())))
        }
        (["runs"], &Method::GET) => Ok(ok(&active(job(&api.view(), id)?))),
        (["runs"], &Method::POST) => {
            let (env, constraints) = overrides_from_value(&call.json_or_null(body).await?)?;
            let id = job_id(id)?;
            let trace = call.trace();
            let done = api.handle.job(JobCall::Run {
                id: id.clone(),
                env,
                constraints,
                trace,
            });
            match &done.await?.run {
                Some(run) => Ok(json(StatusCode::CREATED, &run_json(&id, run))),
                None => Err(MasterError::Server("the run is not there".to_owned()).into()),
            }
        }
        (["runs", run], &Method::GET) => {
            let view = api.view();
            let job = job(&view, id)?;
            let found = RunId::new(*run).ok().and_then(|run| any_run(job, &run));
            let none = || Fail::not_found(format!("Job '{id}' does not have run '{run}'"));
            Ok(ok(&found.ok_or_else(none)?))
        }
        (["runs", run, "actions", "stop"], &Method::POST) => {
            let id = job_id(id)?;
            let run = RunId::new(*run).map_err(|e| ApiError::invalid("run", e.to_string()))?;
            let done = api.handle.job(JobCall::Stop {
                id: id.clone(),
                run,
            });
            let done = done.await?.run;
            Ok(ok(&done.map(|run| run_json(&id, &run))))
        }
        ([] | ["schedules", _], _) => Err(Fail::method(call, "GET, PUT, DELETE")),
        (["schedules" | "runs"], _) => Err(Fail::method(call, "GET, POST")),
        (["runs", _], _) => Err(Fail::method(call, "GET")),
        (["runs", _, "actions", "stop"], _) => Err(Fail::method(call, "POST")),
        _ => Err(Fail::no_such_path(call)),
    }
}

/// What to embed into a job.
#[derive(Debug, Clone, Copy, Default)]
struct Embed {
    active_runs: bool,
    schedules: bool,
    history: bool,
    history_summary: bool,
}

impl Embed {
    const ALL: Self = Self {
        active_runs: true,
        schedules: true,
        history: false,
        history_summary: true,
    };

    fn of(call: &Call) -> Result<Self, ApiError> {
        let mut out = Self::default();
        for name in call.query.all("embed") {
            match name {
                "activeRuns" => out.active_runs = true,
                "schedules" => out.schedules = true,
                "history" => out.history = true,
                "historySummary" => out.history_summary = true,
                other => {
                    let message = format!(
                        "embed: must be activeRuns, schedules, history or historySummary, is {other:?}"
                    );
                    return Err(ApiError::new(ErrorCode::BadRequest, message));
                }
            }
        }
        Ok(out)
    }
}

fn job_id(text: &str) -> Result<JobId, Fail> {
    // One that can't be the name of a job is no job's.
    JobId::new(text).map_err(|_| no_job(text))
}

fn no_job(id: &str) -> Fail {
    Fail::not_found(format!("Job '{id}' does not exist"))
}

fn job<'a>(view: &'a ClusterView, id: &str) -> Result<&'a Job, Fail> {
    let found = JobId::new(id).ok().and_then(|id| view.jobs.get(&id));
    found.map(AsRef::as_ref).ok_or_else(|| no_job(id))
}

fn list(view: &ClusterView, embed: Embed) -> Response {
    let all: Vec<JobJson> = view.jobs.values().map(|j| shown(j, embed)).collect();
    ok(&all)
}

async fn create(
    api: &Api,
    call: &Call,
    body: Body,
    with_schedules: bool,
) -> Result<Response, Fail> {
    let parse = JobParse {
        id: None,
        schedules: with_schedules,
    };
    let spec = job_from_value(&call.json(body).await?, parse, now())?;
    let at = format!("/v1/jobs/{}", spec.id);
    let done = api.handle.job(JobCall::Create(Box::new(spec))).await?;
    let embed = Embed {
        schedules: with_schedules,
        ..Embed::default()
    };
    let mut response = json(StatusCode::CREATED, &shown(&done.job, embed));
    if let Ok(at) = HeaderValue::from_str(&at) {
        response.headers_mut().insert(header::LOCATION, at);
    }
    Ok(response)
}

async fn update(
    api: &Api,
    call: &Call,
    body: Body,
    id: &str,
    with_schedules: bool,
) -> Result<Response, Fail> {
    let id = job_id(id)?;
    let parse = JobParse {
        id: Some(&id),
        schedules: with_schedules,
    };
    let spec = job_from_value(&call.json(body).await?, parse, now())?;
    let call = JobCall::Update {
        spec: Box::new(spec),
        schedules: with_schedules,
    };
    let done = api.handle.job(call).await?;
    let embed = Embed {
        schedules: with_schedules,
        ..Embed::default()
    };
    Ok(ok(&shown(&done.job, embed)))
}

fn shown(job: &Job, embed: Embed) -> JobJson {
    let h = &job.history;
    JobJson {
        active_runs: embed.active_runs.then(|| active(job)),
        schedules: embed.schedules.then(|| schedules(job)),
        history: embed.history.then(|| history(h)),
        history_summary: embed.history_summary.then(|| HistorySummaryJson {
            success_count: h.n_success,
            failure_count: h.n_failure,
            last_success_at: h.last_success_at.map(metronome_time),
            last_failure_at: h.last_failure_at.map(metronome_time),
        }),
        ..job_json(&job.spec)
    }
}

fn schedules(job: &Job) -> Vec<ScheduleJson> {
    let each = job.spec.schedules.iter();
    each.map(|s| schedule_json(s, job.next_run_at(s))).collect()
}

fn schedule_of(job: &Job, name: &str) -> Result<ScheduleJson, Fail> {
    let found = job.spec.schedule(name);
    let id = &job.spec.id;
    let none = || Fail::not_found(format!("Job '{id}' does not have schedule '{name}'"));
    let s = found.ok_or_else(none)?;
    Ok(schedule_json(s, job.next_run_at(s)))
}

fn active(job: &Job) -> Vec<RunJson> {
    let id = &job.spec.id;
    job.runs.values().map(|run| run_json(id, run)).collect()
}

fn run_json(id: &JobId, run: &Run) -> RunJson {
    let task = |t: &waggle_services::jobs::RunTask| RunTaskJson {
        id: t.task_id.to_string(),
        started_at: t.started_at.map(metronome_time),
        completed_at: t.ended_at.map(metronome_time),
        status: match t.unreachable_since {
            Some(_) => waggle_types::TaskState::Unreachable.mesos_name().to_owned(),
            None => t.state.mesos_name().to_owned(),
        },
    };
    RunJson {
        id: run.id.to_string(),
        job_id: id.to_string(),
        status: run.status().name().to_owned(),
        created_at: metronome_time(run.created_at),
        completed_at: None,
        tasks: run.tasks.iter().map(task).collect(),
    }
}

/// An active run, or one of the history.
fn any_run(job: &Job, run: &RunId) -> Option<RunJson> {
    let id = &job.spec.id;
    if let Some(run) = job.runs.get(run) {
        return Some(run_json(id, run));
    }
    let (ended, success) = job.history.find(run)?;
    Some(RunJson {
        id: run.to_string(),
        job_id: id.to_string(),
        status: if success { "SUCCESS" } else { "FAILED" }.to_owned(),
        created_at: metronome_time(ended.created_at),
        completed_at: Some(metronome_time(ended.finished_at)),
        tasks: Vec::new(),
    })
}

fn history(h: &History) -> HistoryJson {
    let time = |at: UnixMillis| metronome_time(at);
    let one = |e: &Ended| EndedJson {
        id: e.id.to_string(),
        created_at: time(e.created_at),
        finished_at: time(e.finished_at),
        tasks: e.tasks.iter().map(ToString::to_string).collect(),
    };
    HistoryJson {
        success_count: h.n_success,
        failure_count: h.n_failure,
        last_success_at: h.last_success_at.map(metronome_time),
        last_failure_at: h.last_failure_at.map(metronome_time),
        successful_finished_runs: h.successes.iter().map(one).collect(),
        failed_finished_runs: h.failures.iter().map(one).collect(),
    }
}

/// Metronome's shape (dropwizard); the master's own metrics are at its Prometheus listener.
fn metrics(view: &ClusterView) -> Value {
    let runs = view.jobs.values().flat_map(|j| j.runs.values());
    let waiting = runs.clone().filter(|r| r.is_waiting()).count();
    let gauges = [
        ("metronome.jobs.defined.gauge", view.jobs.len()),
        ("metronome.job-runs.active.gauge", runs.count()),
        ("metronome.job-runs.waiting.gauge", waiting),
    ];
    dropwizard(gauges.map(|(name, n)| (name, n as u64)))
}

/// Runs that wait for their first task.
fn queue(view: &ClusterView) -> Vec<QueueJson> {
    let of = |job: &Job| {
        let runs = job.runs.values().filter(|r| r.is_waiting());
        let runs: Vec<QueuedRunJson> = runs
            .map(|r| QueuedRunJson {
                run_id: r.id.to_string(),
            })
            .collect();
        (!runs.is_empty()).then(|| QueueJson {
            job_id: job.spec.id.to_string(),
            runs,
        })
    };
    view.jobs.values().filter_map(|j| of(j)).collect()
}

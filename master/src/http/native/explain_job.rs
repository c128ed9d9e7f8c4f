//! Why a job is where it is, from the view.

use axum::response::Response;
use waggle_api::native::{JobExplainView, RunExplainView};
use waggle_services::jobs::{Cause, Job, Run};
use waggle_types::{JobId, ScheduleSpec, UnixMillis};

use crate::{
    core::JOB_FRAMEWORK,
    http::{
        Api,
        respond::{Fail, ok},
    },
    view::ClusterView,
};

pub(super) fn job(api: &Api, id: &str) -> Result<Response, Fail> {
    let view = api.view();
    let found = JobId::new(id).ok();
    let found = found.and_then(|id| view.jobs.get(&id));
    let none = || Fail::not_found(format!("Job '{id}' does not exist"));
    Ok(ok(&explained(&view, found.ok_or_else(none)?)))
}

fn explained(view: &ClusterView, job: &Job) -> JobExplainView {
    let now = view.at;
    let waits = job.runs.values().any(|r| r.is_waiting());
    let framework = view.frameworks.values().find(|f| f.name == JOB_FRAMEWORK);
    let mut allocator = framework.map(|f| f.reasons.clone()).unwrap_or_default();
    if !waits {
        allocator.clear();
    }
    let newest = job.history.failures.first();
    JobExplainView {
        job: job.spec.id.to_string(),
        runs: job
            .runs
            .values()
            .map(|r| run(r, view.recovering, now))
            .collect(),
        schedules: job
            .spec
            .schedules
            .iter()
            .map(|s| schedule(job, s))
            .collect(),
        dependencies: dependencies(view, job),
        last_failure: newest
            .map(|e| format!("{} at {}: {}", e.id, e.finished_at.rfc3339(), e.message)),
        allocator,
    }
}

fn run(r: &Run, recovering: bool, now: UnixMillis) -> RunExplainView {
    let cause = match &r.cause {
        Cause::Asked => "asked for".to_owned(),
        Cause::Scheduled { schedule, at } => format!("by {schedule} for {}", at.rfc3339()),
        Cause::Dependencies => "after what it depends on".to_owned(),
    };
    let task = r.live_task().map(|t| {
        let name = t.state.mesos_name();
        match t.unreachable_since {
            Some(since) => format!(
                "{} on {} is out of reach since {}",
                t.task_id,
                t.hostname,
                since.rfc3339()
            ),
            None => format!("{} on {} is {name}", t.task_id, t.hostname),
        }
    });
    let waits = match r.delayed_until().filter(|at| *at > now) {
        _ if r.stopping => "it is being stopped".to_owned(),
        _ if recovering => "waits until the master has heard of the agents it knows".to_owned(),
        Some(at) => format!(
            "failed {} times, is tried again at {}",
            r.n_failures,
            at.rfc3339()
        ),
        None => format!(
            "waits for an offer that fits, until {}",
            r.launch_by.rfc3339()
        ),
    };
    RunExplainView {
        id: r.id.to_string(),
        state: format!("{cause}: {}", task.unwrap_or(waits)),
        offers: r.n_offers(),
        refused: refused(r),
    }
}

/// Which rule refused how many offers, and what would help.
fn refused(r: &Run) -> Vec<String> {
    let all = r.why();
    let words = all.iter().map(|w| format!("{}; {}", w.message, w.fix));
    words.collect()
}

fn schedule(job: &Job, s: &ScheduleSpec) -> String {
    let next = match job.next_run_at(s) {
        _ if !s.enabled => "is disabled".to_owned(),
        Some(at) => format!("runs next at {}", at.rfc3339()),
        None => "never runs".to_owned(),
    };
    let progress = job.progress(&s.id).filter(|p| p.n_skipped > 0);
    let skipped = progress.map_or_else(String::new, |p| {
        let last = p.last_skip.map_or_else(String::new, |(at, why)| {
            format!(", the last at {} ({})", at.rfc3339(), why.name())
        });
        format!("; {} times had no run{last}", p.n_skipped)
    });
    format!("{} {next}{skipped}", s.id)
}

fn dependencies(view: &ClusterView, job: &Job) -> Vec<String> {
    let since = job.last_run_at.unwrap_or(job.defined_at);
    let each = job.spec.dependencies.iter().map(|on| {
        let last = view.jobs.get(on).and_then(|j| j.history.last_success_at);
        match last {
            Some(at) if at > since => format!("{on} has succeeded at {}", at.rfc3339()),
            _ => format!("{on} has not succeeded since {}", since.rfc3339()),
        }
    });
    each.collect()
}

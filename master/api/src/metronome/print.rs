//! Jobs and runs as Metronome prints them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use waggle_types::{Concurrency, JobSpec, RestartPolicy, ScheduleSpec, UnixMillis};

use super::run::run_of;
use crate::error::DeploymentRef;

/// A job, with what was asked to be embedded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Metronome's job")]
pub struct JobJson {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub run: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<DeploymentRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_runs: Option<Vec<RunJson>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedules: Option<Vec<ScheduleJson>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_summary: Option<HistorySummaryJson>,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Metronome's schedule")]
pub struct ScheduleJson {
    pub id: String,
    pub cron: String,
    pub timezone: String,
    pub starting_deadline_seconds: u64,
    pub concurrency_policy: String,
    pub enabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run_at: Option<String>,
}

/// An active run, or one that has just ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Metronome's job run")]
pub struct RunJson {
    pub id: String,
    pub job_id: String,
    pub status: String,
    pub created_at: String,
    pub completed_at: Option<String>,
    pub tasks: Vec<RunTaskJson>,
}

/// A task of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Metronome's task")]
pub struct RunTaskJson {
    pub id: String,
    pub started_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
    pub status: String,
}

/// Runs that have ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Metronome's history")]
pub struct HistoryJson {
    pub success_count: u64,
    pub failure_count: u64,
    pub last_success_at: Option<String>,
    pub last_failure_at: Option<String>,
    pub successful_finished_runs: Vec<EndedJson>,
    pub failed_finished_runs: Vec<EndedJson>,
}

/// Runs that have ended, counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Metronome's history summary")]
pub struct HistorySummaryJson {
    pub success_count: u64,
    pub failure_count: u64,
    pub last_success_at: Option<String>,
    pub last_failure_at: Option<String>,
}

/// A run of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Metronome's finished run")]
pub struct EndedJson {
    pub id: String,
    pub created_at: String,
    pub finished_at: String,
    pub tasks: Vec<String>,
}

/// The answer to `GET /info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Metronome's info")]
pub struct InfoJson {
    pub version: String,
    /// Of Marathon, whose parts it is made of.
    pub lib_version: String,
}

/// Runs of a job that wait to be launched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Metronome's queue")]
pub struct QueueJson {
    pub job_id: String,
    pub runs: Vec<QueuedRunJson>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of Metronome's queue")]
pub struct QueuedRunJson {
    pub run_id: String,
}

/// Metronome's form of a time: `2016-07-15T13:02:59.735+0000`.
pub fn metronome_time(at: UnixMillis) -> String {
    let text = at.rfc3339().to_string();
    format!("{}+0000", text.trim_end_matches('Z'))
}

/// A definition without anything embedded.
pub fn job_json(spec: &JobSpec) -> JobJson {
    let mut run = run_of(&spec.run);
    let launch_delay = spec.max_launch_delay.0 / 1000;
    run.insert("maxLaunchDelay".to_owned(), json!(launch_delay));
    let restart = match spec.restart {
        RestartPolicy::Never => json!({"policy": "NEVER"}),
        RestartPolicy::OnFailure {
            active_deadline: None,
        } => json!({"policy": "ON_FAILURE"}),
        RestartPolicy::OnFailure {
            active_deadline: Some(d),
        } => json!({"policy": "ON_FAILURE", "activeDeadlineSeconds": d.0 / 1000}),
    };
    run.insert("restart".to_owned(), restart);
    let dependencies = spec.dependencies.iter();
    JobJson {
        id: spec.id.to_string(),
        description: spec.description.clone(),
        labels: spec.run.labels.clone(),
        run,
        dependencies: dependencies
            .map(|id| DeploymentRef { id: id.to_string() })
            .collect(),
        active_runs: None,
        schedules: None,
        history: None,
        history_summary: None,
    }
}

/// A schedule; `next` is when it starts a run next.
pub fn schedule_json(s: &ScheduleSpec, next: Option<UnixMillis>) -> ScheduleJson {
    let policy = match s.concurrency {
        Concurrency::Allow => "ALLOW",
        Concurrency::Forbid => "FORBID",
    };
    ScheduleJson {
        id: s.id.clone(),
        cron: s.cron.clone(),
        timezone: s.time_zone.clone(),
        starting_deadline_seconds: s.starting_deadline.0 / 1000,
        concurrency_policy: policy.to_owned(),
        enabled: s.enabled,
        next_run_at: next.map(metronome_time),
    }
}

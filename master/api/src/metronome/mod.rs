//! Metronome's REST JSON: job definitions to [`JobSpec`](waggle_types::JobSpec) and back, and the answers.
//!
//! What a job runs is said in other words than an app's, and means the same: it is translated ([`run`](self)) and read by the
//! reader of apps, so containers, volumes, artifacts and secrets are understood alike. Errors name the job's own fields.
//! Unlike an app's, keys that are not known are refused, as Metronome does; what a server writes may be sent back.

mod parse;
mod print;
mod run;

#[cfg(test)]
mod tests;

pub use parse::{JobParse, job_from_value, overrides_from_value, schedule_from_value};
pub use print::{
    EndedJson, HistoryJson, HistorySummaryJson, InfoJson, JobJson, QueueJson, QueuedRunJson,
    RunJson, RunTaskJson, ScheduleJson, job_json, metronome_time, schedule_json,
};

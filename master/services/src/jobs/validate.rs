//! What can be said against a job before it is taken.

use std::collections::{BTreeMap, BTreeSet};

use waggle_types::{FieldError, JobId, JobSpec, RunId, ScheduleSpec};

use super::{clockwork::Clockwork, job::JobLimits};
use crate::validate_constraints;

/// Longest expression of a schedule, in bytes.
const MAX_CRON: usize = 1000;

/// A call about jobs that was not done; nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// A field breaks a rule.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// The job exists already.
    #[error("job {0} already exists")]
    Exists(JobId),
    /// There is no such job.
    #[error("job {0} does not exist")]
    NoSuchJob(JobId),
    /// There is no such run, or it has ended.
    #[error("job {job} has no active run {run}")]
    NoSuchRun {
        /// The job.
        job: JobId,
        /// The run.
        run: RunId,
    },
    /// There is no such schedule.
    #[error("job {job} has no schedule {schedule:?}")]
    NoSuchSchedule {
        /// The job.
        job: JobId,
        /// The schedule.
        schedule: String,
    },
    /// The schedule exists already.
    #[error("job {job} already has a schedule {schedule:?}")]
    ScheduleExists {
        /// The job.
        job: JobId,
        /// The schedule.
        schedule: String,
    },
    /// It has active runs.
    #[error("job {job} has {n} active runs; stopCurrentJobRuns=true ends them")]
    Active {
        /// The job.
        job: JobId,
        /// How many.
        n: usize,
    },
    /// Other jobs depend on it.
    #[error("job {job} is a dependency of {by}")]
    Needed {
        /// The job.
        job: JobId,
        /// One that depends on it.
        by: JobId,
    },
    /// A limit is reached.
    #[error("the limit of {max} {what} is reached")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
}

/// Checks a schedule by itself; errors name its field.
pub fn validate_schedule(schedule: &ScheduleSpec) -> Result<(), FieldError> {
    let of = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let id = &schedule.id;
    let named = id.starts_with(of) && id.ends_with(of) && id.chars().all(|c| of(c) || c == '-');
    if !named || id.len() > 100 {
        let id: String = id.chars().take(80).collect();
        let rule = format!("must be at most 100 of [a-z0-9] with inner -, is {id:?}");
        return Err(FieldError::new("id", rule));
    }
    if schedule.cron.len() > MAX_CRON {
        let rule = format!(
            "must be at most {MAX_CRON} bytes, is {}",
            schedule.cron.len()
        );
        return Err(FieldError::new("cron", rule));
    }
    let clockwork = Clockwork::new(schedule)?;
    // From any year on: nine years hold every date that there is.
    if clockwork.next_after(waggle_types::UnixMillis(0)).is_none() {
        let rule = format!("there is no such day, is {:?}", schedule.cron);
        return Err(FieldError::new("cron", rule));
    }
    Ok(())
}

/// Checks a definition beside the others.
pub(crate) fn check(
    spec: &JobSpec,
    others: &BTreeMap<JobId, BTreeSet<JobId>>,
    limits: &JobLimits,
) -> Result<(), JobError> {
    if spec.schedules.len() > limits.max_schedules {
        return Err(JobError::TooMany {
            what: "schedules of a job",
            max: limits.max_schedules,
        });
    }
    let mut seen = BTreeSet::new();
    for (i, s) in spec.schedules.iter().enumerate() {
        validate_schedule(s)
            .map_err(|e| FieldError::new(format!("schedules[{i}].{}", e.field), e.rule))?;
        if !seen.insert(&s.id) {
            let rule = format!("must be there once, is {:?}", s.id);
            return Err(FieldError::new(format!("schedules[{i}].id"), rule).into());
        }
    }
    validate_constraints(&spec.run.constraints)
        .map_err(|e| FieldError::new(format!("run.placement.{}", e.field), e.rule))?;
    if spec.dependencies.len() > limits.max_dependencies {
        return Err(JobError::TooMany {
            what: "dependencies of a job",
            max: limits.max_dependencies,
        });
    }
    for (i, id) in spec.dependencies.iter().enumerate() {
        let rule = if *id == spec.id {
            "must not be the job itself".to_owned()
        } else if !others.contains_key(id) {
            format!("there is no job {id}")
        } else if let Some(way) = reaches(others, id, &spec.id) {
            format!("{way} depends on {} already: a cycle", spec.id)
        } else {
            continue;
        };
        return Err(FieldError::new(format!("dependencies[{i}].id"), rule).into());
    }
    Ok(())
}

/// Whether `from` depends on `to`, perhaps by others; answers the one that does directly.
fn reaches(others: &BTreeMap<JobId, BTreeSet<JobId>>, from: &JobId, to: &JobId) -> Option<JobId> {
    let (mut open, mut seen) = (vec![from], BTreeSet::from([from]));
    while let Some(id) = open.pop() {
        for next in others.get(id).into_iter().flatten() {
            if next == to {
                return Some(id.clone());
            }
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    None
}

//! Jobs as requested: what a Metronome job definition becomes. A job runs to its end, now or by schedules.

use std::{borrow::Borrow, collections::BTreeSet, fmt, sync::Arc};

use crate::{IdError, Millis, ServiceId, ServiceSpec};

/// A job's id: lower-case labels joined by dots, such as `prod.backup`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(Arc<str>);

impl JobId {
    /// Takes labels of `[a-z0-9]` with inner `-`, joined by dots.
    pub fn new(s: &str) -> Result<Self, IdError> {
        let of = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let label =
            |l: &str| l.starts_with(of) && l.ends_with(of) && l.chars().all(|c| of(c) || c == '-');
        if !s.is_empty() && !s.split('.').all(label) {
            return Err(IdError::BadJob {
                found: s.to_owned(),
            });
        }
        // Bounds the length, too.
        ServiceId::new(&s.replace('.', "/"))?;
        Ok(Self(s.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path that its tasks are named by: `prod.backup` is `/prod/backup`, so its name in DNS is `backup.prod`.
    pub fn path(&self) -> Result<ServiceId, IdError> {
        ServiceId::new(&self.0.replace('.', "/"))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({})", self.0)
    }
}

impl Borrow<str> for JobId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Whether a schedule starts a run while another run of the job is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Concurrency {
    /// It does.
    #[default]
    Allow,
    /// It does not: that time is left out.
    Forbid,
}

/// When a job is run by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScheduleSpec {
    /// Unique in its job.
    pub id: String,
    /// Five fields of cron, as given.
    pub cron: String,
    /// IANA's name of the time zone that it is read in.
    pub time_zone: String,
    /// How late a run may begin; one that is later is left out, or ends.
    pub starting_deadline: Millis,
    /// Beside active runs.
    pub concurrency: Concurrency,
    /// Whether it is in force.
    pub enabled: bool,
}

/// What happens when a run's task fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum RestartPolicy {
    /// The run has failed.
    #[default]
    Never,
    /// Another task is launched, until the run is this old.
    OnFailure {
        /// `None`: however old it is.
        active_deadline: Option<Millis>,
    },
}

/// A job as requested and validated.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobSpec {
    /// Its id.
    pub id: JobId,
    /// For people.
    pub description: Option<String>,
    /// Jobs that must have succeeded since the last run before this one is run by itself.
    pub dependencies: BTreeSet<JobId>,
    /// What one run is, in the words of a service of one instance: its id is [`JobId::path`], its labels are the job's.
    pub run: ServiceSpec,
    /// Longest time that a run waits for its task to run.
    pub max_launch_delay: Millis,
    /// When its task fails.
    pub restart: RestartPolicy,
    /// When it is run by itself, each with its own id.
    pub schedules: Vec<ScheduleSpec>,
}

impl JobSpec {
    /// A schedule by its id.
    pub fn schedule(&self, id: &str) -> Option<&ScheduleSpec> {
        self.schedules.iter().find(|s| s.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_labels_joined_by_dots() {
        for good in ["backup", "prod.backup", "a-1.b2"] {
            assert_eq!(JobId::new(good).unwrap().as_str(), good);
        }
        let path = JobId::new("prod.backup").unwrap().path().unwrap();
        assert_eq!(path.as_str(), "/prod/backup");
        assert_eq!(path.discovery_name(), "backup.prod");
        let long = "a".repeat(300);
        for bad in ["", ".", "a.", "A", "a/b", "-a", "a-", "a_b", long.as_str()] {
            assert!(JobId::new(bad).is_err(), "{bad}");
        }
    }
}

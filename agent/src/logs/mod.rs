//! A task's output on disk: who writes it, who reads it, and how the two agree.
//!
//! The task's shim writes each stream into segments, `stdout`, `stdout.1` (the one before), and so on: Mesos's names,
//! in the sandbox, where people look for them. Beside the sandbox, where the task can't reach it, is what makes a stream
//! of these files: an index that says at which byte of the stream each segment begins ([`segments`]), and when its
//! bytes came ([`times`]).
//!
//! # Invariants
//! - A place in a stream is a number of bytes since its beginning. It means the same after a rotation, and to a later
//!   agent.
//! - A segment that is not the newest never changes but for being emptied; so who has read it to its end has read all.
//! - What was removed before it was read is a gap of so many bytes, never a silent jump.
//! - Files are opened without following links, and are the segment only if the index says so: the sandbox is the task's.

mod api;
mod dcos;
mod files;
mod follow;
mod journal;
mod quota;
mod reader;
mod segments;
mod tail;
mod times;
mod writer;

use waggle_telemetry_pipeline::{LogDefaults, LogPolicy, LogRules};
use waggle_types::TaskSpec;

pub use api::Logs;
pub use files::{FileEntry, FollowedFiles};
pub use journal::{JournalSettings, follow as follow_journal};
pub use quota::NodeQuota;
pub use reader::{Reader, Step};
pub use segments::{OutputDir, fresh};
pub use tail::{Came, MAX_PER_POLL, Shipped, Tail};
pub use writer::{LOOK, Limits, Output, Stalled};

/// What a node does with output.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Of tasks that say nothing else.
    pub defaults: LogDefaults,
    /// Bytes that running tasks' output may take together; beyond that the oldest goes.
    pub node_quota_bytes: u64,
    /// What of the node's journal is logged.
    pub journal: Option<JournalSettings>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            defaults: LogDefaults::default(),
            node_quota_bytes: 16 << 30,
            journal: None,
        }
    }
}

/// What becomes of a task's output, by its labels, or else by its environment.
pub fn rules(defaults: LogDefaults, spec: &TaskSpec) -> LogRules {
    let said = |name: &str| spec.labels.get(name).or_else(|| spec.env.get(name));
    LogRules::read(defaults, |name| said(name).map(String::as_str))
}

/// What its shim is to keep.
pub fn limits(rules: &LogRules) -> Limits {
    Limits {
        segment_bytes: rules.segment_bytes(),
        quota_bytes: rules.quota_bytes,
        max_age_s: rules.max_age_s,
        block: rules.policy == LogPolicy::Block,
    }
}

//! Tasks that have ended and whose files are kept, as their directories say.

use std::{cmp::Reverse, fs, path::Path};

use waggle_lifecycle::TaskSummary;
use waggle_types::{HealthState, TaskId};

use crate::{checkpoint::TaskDir, http::TaskView, networks::Own};

/// Most that are told of, the newest ones (Mesos's `--max_completed_executors_per_framework`).
const MAX_ENDED: usize = 150;

/// The newest ended tasks whose sandboxes are still there, the newest first. Those of executors of frameworks' own
/// have none of their own. Blocking.
pub fn ended(work_dir: &Path) -> Vec<TaskView> {
    let entries = fs::read_dir(work_dir.join("tasks"));
    let names = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name());
    let dirs = names.filter_map(|n| {
        let id = TaskId::new(n.to_str()?).ok()?;
        let dir = TaskDir::new(work_dir, &id);
        Some((Reverse(dir.done_at()?), dir))
    });
    let mut dirs: Vec<(_, TaskDir)> = dirs.collect();
    dirs.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.task_id().cmp(y.task_id())));
    dirs.truncate(MAX_ENDED);
    dirs.iter().filter_map(|(_, dir)| view(dir)).collect()
}

fn view(dir: &TaskDir) -> Option<TaskView> {
    let kept = dir.read();
    let (spec, latest) = (kept.spec?, kept.latest?);
    // What ends without a word is not known to have ended.
    if spec.executor.is_some() || !latest.state.is_terminal() {
        return None;
    }
    let summary = TaskSummary {
        state: latest.state,
        health: HealthState::Unknown,
        ready: None,
        pid: None,
        started_at: None,
        latest: Some(latest),
        spec,
    };
    Some(TaskView::of(
        summary,
        dir.sandbox().display().to_string(),
        Own::default(),
    ))
}

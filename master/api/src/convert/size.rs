//! How much there may be in one message: what takes one byte to say can take many to do.

use prost::Message;

use super::ConvertError;
use crate::proto::{framework as pb, session};

/// Most ranges, items, volumes and kinds in all bundles of one message together.
pub const MAX_PIECES: usize = 32_768;
/// Most of them in the smallest bundle that is of use: it is compared with what every agent has.
pub const MAX_SMALLEST: usize = 64;
/// Longest task, encoded, in bytes.
pub const MAX_TASK: usize = 256 << 10;

/// Pieces of a bundle.
pub(super) fn pieces(r: Option<&session::Resources>) -> usize {
    r.map_or(0, |r| {
        let ranges: usize = r.ranges.values().map(|r| 1 + r.ranges.len()).sum();
        let items: usize = r.sets.values().map(|s| 1 + s.items.len()).sum();
        r.ports.len() + r.scalars_milli.len() + ranges + items + r.volumes.len()
    })
}

fn pieces_of_parts(parts: &[session::ResourcePart]) -> usize {
    let one = |p: &session::ResourcePart| 1 + p.reservation.len() + pieces(p.resources.as_ref());
    parts.iter().map(one).sum()
}

fn pieces_of_executor(e: &session::Executor) -> usize {
    pieces(e.resources.as_ref()) + pieces_of_parts(&e.parts)
}

/// Pieces of tasks, together.
pub(super) fn pieces_of_tasks(tasks: &[pb::TaskInfo]) -> usize {
    let one = |t: &pb::TaskInfo| {
        pieces(t.resources.as_ref())
            + pieces_of_parts(&t.parts)
            + t.executor.as_ref().map_or(0, pieces_of_executor)
    };
    tasks.iter().map(one).sum()
}

/// Pieces of an operation.
pub(super) fn pieces_of_operation(o: &pb::Operation) -> usize {
    use pb::operation::Kind;
    match &o.kind {
        Some(Kind::Launch(l)) => pieces_of_tasks(&l.tasks),
        Some(Kind::LaunchGroup(l)) => pieces_of_tasks(&l.tasks),
        Some(Kind::Reserve(r)) => pieces(r.resources.as_ref()),
        Some(Kind::Unreserve(r)) => pieces(r.resources.as_ref()),
        Some(Kind::CreateVolume(_) | Kind::ResizeVolume(_) | Kind::DestroyVolume(_)) | None => 1,
    }
}

/// Refuses an agent that says too much at once.
pub fn check_register(r: &session::Register) -> Result<(), ConvertError> {
    let one = |t: &session::RegisteredTask| {
        t.spec.as_ref().map_or(0, |s| {
            let on = s.executor.as_ref().and_then(|on| on.spec.as_ref());
            pieces(s.resources.as_ref())
                + pieces_of_parts(&s.parts)
                + on.map_or(0, pieces_of_executor)
        })
    };
    let executors = r.executors.iter().filter_map(|e| e.spec.as_ref());
    let of_executors: usize = executors.map(pieces_of_executor).sum();
    let of_tasks: usize = r.tasks.iter().map(one).sum();
    check_pieces("tasks", of_tasks + of_executors)
}

/// Refuses what has too many pieces.
pub(super) fn check_pieces(field: &str, n: usize) -> Result<(), ConvertError> {
    if n > MAX_PIECES {
        let rule = format!(
            "must have at most {MAX_PIECES} ranges, items and kinds of resources together, has {n}"
        );
        return Err(ConvertError::new(field, rule));
    }
    Ok(())
}

/// Refuses a task that is too long.
pub(super) fn check_task(t: &pb::TaskInfo) -> Result<(), ConvertError> {
    let len = t.encoded_len();
    if len > MAX_TASK {
        let rule = format!("must be a task of at most {MAX_TASK} bytes, is {len}");
        return Err(ConvertError::new("task_id", rule));
    }
    Ok(())
}

/// Cuts text that is only for people.
pub(super) fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max).rfind(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

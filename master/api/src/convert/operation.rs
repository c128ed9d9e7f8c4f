//! What frameworks do with what offers hold.

use waggle_types::{
    FrameworkId, Milli, Operation, Reservation, Resources, TaskSpec, Volume, VolumeId,
};

use super::reservation::{stack, stack_message};
use super::size::{check_pieces, pieces_of_operation, pieces_of_tasks};
use super::{ConvertError, MAX_ITEMS, at_most, each, group, id, launches, required, resources};
use crate::proto::{framework as pb, session};

/// Most operations of one accept.
pub const MAX_OPERATIONS: usize = 256;

/// The operations of an accept. `launch` is the short form of one operation and stands alone.
pub fn operations(
    launch: Vec<pb::TaskInfo>,
    operations: Vec<pb::Operation>,
    framework_id: &FrameworkId,
    traceparent: &str,
) -> Result<Vec<Operation>, ConvertError> {
    if operations.is_empty() {
        check_pieces("launch", pieces_of_tasks(&launch))?;
        let tasks = launches("launch", launch, framework_id, traceparent)?;
        return Ok(if tasks.is_empty() {
            Vec::new()
        } else {
            vec![Operation::Launch(tasks)]
        });
    }
    if !launch.is_empty() {
        let rule = "must be empty beside operations: put a launch among them, their order counts";
        return Err(ConvertError::new("launch", rule));
    }
    at_most("operations", operations.len(), MAX_OPERATIONS)?;
    let n_tasks = operations.iter().map(n_tasks).sum();
    at_most("operations", n_tasks, MAX_ITEMS)
        .map_err(|e| ConvertError::new(e.field, format!("tasks {}", e.rule)))?;
    let n_pieces = operations.iter().map(pieces_of_operation).sum();
    check_pieces("operations", n_pieces)?;
    each("operations", operations, |o| {
        operation(o, framework_id, traceparent)
    })
}

fn is_group(tasks: &[TaskSpec]) -> bool {
    let of = |t: &TaskSpec| t.executor.as_ref().is_some_and(|on| on.group.is_some());
    !tasks.is_empty() && tasks.iter().all(of)
}

fn n_tasks(o: &pb::Operation) -> usize {
    match &o.kind {
        Some(pb::operation::Kind::Launch(l)) => l.tasks.len(),
        Some(pb::operation::Kind::LaunchGroup(l)) => l.tasks.len(),
        _ => 0,
    }
}

fn operation(
    o: pb::Operation,
    framework_id: &FrameworkId,
    traceparent: &str,
) -> Result<Operation, ConvertError> {
    use pb::operation::Kind;
    Ok(match required("kind", o.kind)? {
        Kind::Launch(l) => {
            if l.tasks.is_empty() {
                return Err(ConvertError::new("launch.tasks", "must not be empty"));
            }
            let tasks = launches("launch.tasks", l.tasks, framework_id, traceparent)?;
            Operation::Launch(tasks)
        }
        Kind::LaunchGroup(l) => {
            let tasks = group("launch_group.tasks", l.tasks, framework_id, traceparent)?;
            Operation::Launch(tasks)
        }
        Kind::Reserve(r) => {
            let (stack, resources) = reserved("reserve", r.stack, r.resources)?;
            Operation::Reserve { stack, resources }
        }
        Kind::Unreserve(r) => {
            let (stack, resources) = reserved("unreserve", r.stack, r.resources)?;
            Operation::Unreserve { stack, resources }
        }
        Kind::CreateVolume(c) => Operation::CreateVolume {
            stack: stack("create_volume.stack", c.stack)?,
            volume_id: id("create_volume.volume_id", c.volume_id, VolumeId::new)?,
            volume: Volume::try_from(required("create_volume.volume", c.volume)?)
                .map_err(|e| e.within("create_volume.volume"))?,
        },
        Kind::ResizeVolume(r) if r.size_milli <= 0 => {
            let rule = format!("must be over 0, is {}", r.size_milli);
            return Err(ConvertError::new("resize_volume.size_milli", rule));
        }
        Kind::ResizeVolume(r) => Operation::ResizeVolume {
            stack: stack("resize_volume.stack", r.stack)?,
            volume_id: id("resize_volume.volume_id", r.volume_id, VolumeId::new)?,
            size: Milli(r.size_milli),
        },
        Kind::DestroyVolume(d) => Operation::DestroyVolume {
            stack: stack("destroy_volume.stack", d.stack)?,
            volume_id: id("destroy_volume.volume_id", d.volume_id, VolumeId::new)?,
        },
    })
}

fn reserved(
    field: &str,
    reservations: Vec<session::Reservation>,
    r: Option<session::Resources>,
) -> Result<(Vec<Reservation>, Resources), ConvertError> {
    let stack = stack(&format!("{field}.stack"), reservations)?;
    let field = format!("{field}.resources");
    let resources = resources(&field, r)?;
    if resources.is_empty() {
        return Err(ConvertError::new(field, "must not be empty"));
    }
    Ok((stack, resources))
}

/// An operation as a framework sends it: of tasks, what the master sets is left out.
impl From<&Operation> for pb::Operation {
    fn from(o: &Operation) -> Self {
        use pb::operation::Kind;
        let kind = match o {
            Operation::Launch(tasks) if is_group(tasks) => Kind::LaunchGroup(pb::LaunchGroup {
                tasks: tasks.iter().map(Into::into).collect(),
            }),
            Operation::Launch(tasks) => Kind::Launch(pb::Launch {
                tasks: tasks.iter().map(Into::into).collect(),
            }),
            Operation::Reserve { stack, resources } => Kind::Reserve(pb::Reserve {
                stack: stack_message(stack),
                resources: Some(resources.into()),
            }),
            Operation::Unreserve { stack, resources } => Kind::Unreserve(pb::Unreserve {
                stack: stack_message(stack),
                resources: Some(resources.into()),
            }),
            Operation::CreateVolume {
                stack,
                volume_id,
                volume,
            } => Kind::CreateVolume(pb::CreateVolume {
                stack: stack_message(stack),
                volume_id: volume_id.to_string(),
                volume: Some(volume.into()),
            }),
            Operation::ResizeVolume {
                stack,
                volume_id,
                size,
            } => Kind::ResizeVolume(pb::ResizeVolume {
                stack: stack_message(stack),
                volume_id: volume_id.to_string(),
                size_milli: size.0,
            }),
            Operation::DestroyVolume { stack, volume_id } => {
                Kind::DestroyVolume(pb::DestroyVolume {
                    stack: stack_message(stack),
                    volume_id: volume_id.to_string(),
                })
            }
        };
        Self { kind: Some(kind) }
    }
}

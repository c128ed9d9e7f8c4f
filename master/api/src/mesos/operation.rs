//! What Mesos's frameworks do with offers.
//!
//! In Mesos each operation of an accept is done or dropped by itself, and each task of a launch; a task group is
//! launched wholly or not at all. So what can't be read is set aside here with its reason, and the rest is done.

use waggle_types::{
    ExecutorKind, Operation, Reservation, ResourcePart, Resources, TaskId, TaskSpec, VolumeId,
};

use super::{
    executor::executor,
    resources::{self, Paths, Read},
    task::{self, Launcher, task_in},
};
use crate::{
    convert::{ConvertError, MAX_OPERATIONS},
    proto::mesos::{self as pb, offer_operation::Type},
};

/// Most tasks of one accept.
const MAX_TASKS: usize = 2000;

/// An operation that can be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its position in the accept.
    pub index: usize,
    /// What to do.
    pub operation: Operation,
    /// A group: all of its tasks or none.
    pub whole: bool,
}

/// Something that can't even be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its position in the accept.
    pub index: usize,
    /// The task, when it is one.
    pub task: Option<TaskId>,
    /// Why.
    pub why: ConvertError,
}

/// The operations of an accept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Operations {
    /// In order.
    pub asked: Vec<Asked>,
    /// What is wrong by itself.
    pub refused: Vec<Refused>,
    /// Where volumes that are made here will be mounted.
    pub paths: Paths,
}

fn wrong(field: &str, rule: impl Into<String>) -> ConvertError {
    ConvertError::new(field, rule)
}

/// Reads the operations of an accept. An error is about the call as a whole.
pub fn operations(
    all: &[pb::OfferOperation],
    by: Launcher<'_>,
) -> Result<Operations, ConvertError> {
    if all.len() > MAX_OPERATIONS {
        let rule = format!("must be at most {MAX_OPERATIONS}, is {}", all.len());
        return Err(wrong("accept.operations", rule));
    }
    let n = all.iter().map(|o| infos(o).len()).sum::<usize>();
    if n > MAX_TASKS {
        let rule = format!("must launch at most {MAX_TASKS} tasks, is {n}");
        return Err(wrong("accept.operations", rule));
    }
    let mut out = Operations::default();
    for (index, o) in all.iter().enumerate() {
        let field = format!("accept.operations[{index}]");
        match o.r#type() {
            Type::Unknown => {
                return Err(wrong(&format!("{field}.type"), "is missing or not known"));
            }
            Type::Launch if o.launch.is_none() => {
                return Err(wrong(&format!("{field}.launch"), "is missing"));
            }
            Type::LaunchGroup if o.launch_group.is_none() => {
                return Err(wrong(&format!("{field}.launch_group"), "is missing"));
            }
            Type::Launch => launch(index, infos(o), by, &mut out),
            Type::LaunchGroup => group(index, o, by, &mut out),
            _ => match other(o, &mut out.paths) {
                Ok(each) => out.asked.extend(each.into_iter().map(|operation| Asked {
                    index,
                    operation,
                    whole: false,
                })),
                Err(why) => out.refused.push(Refused {
                    index,
                    task: None,
                    why: why.within(&field),
                }),
            },
        }
    }
    Ok(out)
}

/// The tasks that an operation launches.
pub fn infos(o: &pb::OfferOperation) -> &[pb::TaskInfo] {
    match o.r#type() {
        Type::Launch => o.launch.as_ref().map_or(&[], |l| &l.task_infos),
        Type::LaunchGroup => {
            let group = o.launch_group.as_ref();
            let group = group.and_then(|g| g.task_group.as_ref());
            group.map_or(&[], |g| &g.tasks)
        }
        _ => &[],
    }
}

fn launch(index: usize, all: &[pb::TaskInfo], by: Launcher<'_>, out: &mut Operations) {
    let mut tasks = Vec::new();
    for t in all {
        match task::task(t, by) {
            Ok(spec) => tasks.push(spec),
            Err(why) => out.refused.push(Refused {
                index,
                task: task::id(t).ok(),
                why,
            }),
        }
    }
    if !tasks.is_empty() {
        out.asked.push(Asked {
            index,
            operation: Operation::Launch(tasks),
            whole: false,
        });
    }
}

/// Tasks of a group share the executor's network and host name: a pod, if the agents' own executor runs them.
fn group(index: usize, o: &pb::OfferOperation, by: Launcher<'_>, out: &mut Operations) {
    let all = infos(o);
    match group_tasks(o, all, by) {
        Ok(tasks) => out.asked.push(Asked {
            index,
            operation: Operation::Launch(tasks),
            whole: true,
        }),
        Err(why) => out.refused.extend(all.iter().map(|t| Refused {
            index,
            task: task::id(t).ok(),
            why: why.clone(),
        })),
    }
}

fn group_tasks(
    o: &pb::OfferOperation,
    all: &[pb::TaskInfo],
    by: Launcher<'_>,
) -> Result<Vec<TaskSpec>, ConvertError> {
    let group = o.launch_group.as_ref();
    let info = group
        .and_then(|g| g.executor.as_ref())
        .ok_or_else(|| wrong("launch_group.executor", "is missing"))?;
    if info.r#type() == pb::executor_info::Type::Unknown {
        let rule = "must be DEFAULT or CUSTOM";
        return Err(wrong("launch_group.executor.type", rule));
    }
    let spec = executor(info, by).map_err(|e| e.within("launch_group.executor"))?;
    let first = all
        .first()
        .ok_or_else(|| wrong("launch_group.task_group.tasks", "must not be empty"))?;
    let name = task::id(first)?;
    let pod = format!("{}.{}", by.framework_id, spec.executor_id);
    let mut tasks = Vec::new();
    for t in all {
        let mut t = t.clone();
        // It may repeat the group's.
        t.executor = None;
        if spec.kind == ExecutorKind::Default {
            let own = t.container.take();
            t.container = merged(own, info.container.clone())?;
        }
        let mut task = task_in(&t, Some((&spec, &name)), by)?;
        if spec.kind == ExecutorKind::Default {
            task.container.pod = Some(pod.clone());
        }
        if let Some(on) = &mut task.executor {
            on.n_group = u32::try_from(all.len()).unwrap_or(0);
        }
        tasks.push(task);
    }
    Ok(tasks)
}

/// A task's container with the network of its group's.
fn merged(
    task: Option<pb::ContainerInfo>,
    group: Option<pb::ContainerInfo>,
) -> Result<Option<pb::ContainerInfo>, ConvertError> {
    let networks = group.map(|g| g.network_infos).unwrap_or_default();
    let mut task = match task {
        None if networks.is_empty() => return Ok(None),
        None => pb::ContainerInfo {
            r#type: Some(pb::container_info::Type::Mesos.into()),
            ..pb::ContainerInfo::default()
        },
        Some(task) => task,
    };
    if !task.network_infos.is_empty() {
        let rule = "must be empty for a task of a group";
        return Err(wrong("container.network_infos", rule));
    }
    task.network_infos = networks;
    Ok(Some(task))
}

fn other(o: &pb::OfferOperation, paths: &mut Paths) -> Result<Vec<Operation>, ConvertError> {
    let missing = |field: &str| wrong(field, "is missing");
    match o.r#type() {
        Type::Reserve => {
            let r = o.reserve.as_ref().ok_or_else(|| missing("reserve"))?;
            let read = resources::read("reserve.resources", &r.resources)?;
            reserved("reserve.resources", read, |stack, resources| {
                Operation::Reserve { stack, resources }
            })
        }
        Type::Unreserve => {
            let r = o.unreserve.as_ref().ok_or_else(|| missing("unreserve"))?;
            let read = resources::read("unreserve.resources", &r.resources)?;
            reserved("unreserve.resources", read, |stack, resources| {
                Operation::Unreserve { stack, resources }
            })
        }
        Type::Create => {
            let c = o.create.as_ref().ok_or_else(|| missing("create"))?;
            create("create.volumes", &c.volumes, paths)
        }
        Type::Destroy => {
            let d = o.destroy.as_ref().ok_or_else(|| missing("destroy"))?;
            destroy("destroy.volumes", &d.volumes)
        }
        Type::GrowVolume => {
            let g = o.grow_volume.as_ref();
            let g = g.ok_or_else(|| missing("grow_volume"))?;
            let volume = g
                .volume
                .as_ref()
                .ok_or_else(|| missing("grow_volume.volume"))?;
            let addition = g.addition.as_ref().and_then(|a| a.scalar.as_ref());
            let by = addition.ok_or_else(|| missing("grow_volume.addition.scalar"))?;
            resize("grow_volume", volume, by.value)
        }
        Type::ShrinkVolume => {
            let s = o.shrink_volume.as_ref();
            let s = s.ok_or_else(|| missing("shrink_volume"))?;
            let volume = s.volume.as_ref();
            let volume = volume.ok_or_else(|| missing("shrink_volume.volume"))?;
            let by = s.subtract.as_ref();
            let by = by.ok_or_else(|| missing("shrink_volume.subtract"))?;
            resize("shrink_volume", volume, -by.value)
        }
        other => {
            let rule = format!("{} is not supported yet", other.as_str_name());
            Err(wrong("type", rule))
        }
    }
}

/// One operation for each stack.
pub fn reserved(
    field: &str,
    read: Read,
    operation: impl Fn(Vec<Reservation>, Resources) -> Operation,
) -> Result<Vec<Operation>, ConvertError> {
    if read.parts.is_empty() {
        return Err(wrong(field, "must not be empty"));
    }
    let each = read.parts.into_iter();
    each.map(|p: ResourcePart| {
        if p.reservation.last().is_none_or(|r| !r.dynamic) {
            return Err(wrong(field, "must have a dynamic reservation"));
        }
        Ok(operation(p.reservation, p.resources))
    })
    .collect()
}

/// Volumes to make; where they are mounted is put into `paths`.
pub fn create(
    field: &str,
    volumes: &[pb::Resource],
    paths: &mut Paths,
) -> Result<Vec<Operation>, ConvertError> {
    let mut out = Vec::new();
    for (i, (stack, id, volume)) in each_volume(field, volumes)?.into_iter().enumerate() {
        let disk = volumes.get(i).and_then(|v| v.disk.as_ref());
        let Some(path) = disk.and_then(|d| d.volume.as_ref()) else {
            let field = format!("{field}[{i}].disk.volume");
            return Err(wrong(&field, "is missing"));
        };
        paths.insert(id.clone(), path.container_path.clone());
        out.push(Operation::CreateVolume {
            stack,
            volume_id: id,
            volume,
        });
    }
    Ok(out)
}

/// Volumes to destroy.
pub fn destroy(field: &str, volumes: &[pb::Resource]) -> Result<Vec<Operation>, ConvertError> {
    let each = each_volume(field, volumes)?.into_iter();
    Ok(each
        .map(|(stack, volume_id, _)| Operation::DestroyVolume { stack, volume_id })
        .collect())
}

/// A volume of another size.
pub fn resize(field: &str, volume: &pb::Resource, by: f64) -> Result<Vec<Operation>, ConvertError> {
    let at = format!("{field}.volume");
    let mut all = each_volume(&at, std::slice::from_ref(volume))?;
    let Some((stack, volume_id, now)) = all.pop() else {
        return Err(wrong(&at, "is missing"));
    };
    let size = resources::quantity(field, now.size.to_f64() + by)?;
    Ok(vec![Operation::ResizeVolume {
        stack,
        volume_id,
        size,
    }])
}

type Made = (Vec<Reservation>, VolumeId, waggle_types::Volume);

fn each_volume(field: &str, volumes: &[pb::Resource]) -> Result<Vec<Made>, ConvertError> {
    if volumes.is_empty() {
        return Err(wrong(field, "must not be empty"));
    }
    let mut out = Vec::new();
    for (i, v) in volumes.iter().enumerate() {
        let read = resources::read(field, std::slice::from_ref(v))?;
        let part = read.parts.into_iter().next();
        let found = part.and_then(|p| {
            let (id, volume) = p.resources.custom.volumes().next()?;
            Some((p.reservation.clone(), id.clone(), volume))
        });
        let at = format!("{field}[{i}].disk.persistence");
        out.push(found.ok_or_else(|| wrong(&at, "is missing"))?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;

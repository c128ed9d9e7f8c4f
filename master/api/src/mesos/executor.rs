//! Executors that Mesos's frameworks bring along, and the agents' own that runs groups.

use std::{collections::BTreeMap, sync::Arc};

use prost::Message as _;
use waggle_types::{
    Command, ContainerSpec, ExecutorId, ExecutorKind, ExecutorSpec, Millis, OnExecutor,
    ResourcePart, TaskId,
};

use super::{
    container::{Contained, contained},
    framework::with_id,
    resources,
    task::{Launcher, command, environment},
};
use crate::{
    convert::ConvertError,
    proto::mesos::{self as pb, executor_info},
};

/// Grace of executors that name none (Mesos's `--executor_shutdown_grace_period`).
const GRACE: Millis = Millis::from_secs(5);
/// Longest grace; a longer one becomes this.
const MAX_GRACE: Millis = Millis::from_secs(86_400);
/// Longest `ExecutorInfo`, and `FrameworkInfo`, in bytes.
const MAX_INFO: usize = 256 << 10;

fn wrong(field: &str, rule: impl Into<String>) -> ConvertError {
    ConvertError::new(field, rule)
}

/// Reads an executor.
pub(super) fn executor(
    e: &pb::ExecutorInfo,
    by: Launcher<'_>,
) -> Result<Arc<ExecutorSpec>, ConvertError> {
    let id = e.executor_id.as_ref().map(|id| id.value.clone());
    let executor_id =
        ExecutorId::new(id.unwrap_or_default()).map_err(|x| wrong("executor_id", x.to_string()))?;
    // Before there was a type, a command said it.
    let kind = match (e.r#type(), &e.command) {
        (executor_info::Type::Default | executor_info::Type::Unknown, None) => {
            ExecutorKind::Default
        }
        (executor_info::Type::Default, Some(_)) => {
            return Err(wrong("command", "must not be set for type DEFAULT"));
        }
        (executor_info::Type::Custom, None) => {
            return Err(wrong("command", "must be set for type CUSTOM"));
        }
        (executor_info::Type::Custom | executor_info::Type::Unknown, Some(_)) => {
            ExecutorKind::Custom
        }
    };
    let read = resources::read("resources", &e.resources)?;
    let all = read
        .sum()
        .ok_or_else(|| wrong("resources", "name a port twice"))?;
    let limits = BTreeMap::new();
    let Contained {
        spec,
        mut env,
        user,
    } = contained(e.container.as_ref(), e.command.as_ref(), &limits, &all)?;
    if let Some(c) = &e.command {
        env.extend(environment(c)?);
    }
    let command = match &e.command {
        Some(c) => command(c, e.container.as_ref(), spec.image.is_some())?,
        None => Command::Executor,
    };
    let own_user = e.command.as_ref().and_then(|c| c.user.clone());
    let ns = e.shutdown_grace_period.map(|g| g.nanoseconds / 1_000_000);
    let grace = ns.map(|ms| Millis(u64::try_from(ms).unwrap_or(0)));
    let plain = read.parts.iter().all(ResourcePart::is_plain);
    let info = pb::ExecutorInfo {
        framework_id: Some(pb::FrameworkId {
            value: by.framework_id.to_string(),
        }),
        ..e.clone()
    };
    let info = info.encode_to_vec();
    let framework_info = with_id(by.info, by.framework_id).encode_to_vec();
    if info.len().max(framework_info.len()) > MAX_INFO {
        return Err(wrong(
            "data",
            format!("must be at most {MAX_INFO} bytes with the rest"),
        ));
    }
    Ok(Arc::new(ExecutorSpec {
        name: e.name.clone().unwrap_or_else(|| executor_id.to_string()),
        executor_id,
        kind,
        command,
        env,
        labels: resources::labels(e.labels.as_ref()),
        parts: if plain { Vec::new() } else { read.parts },
        resources: all,
        container: spec,
        shutdown_grace: grace.unwrap_or(GRACE).min(MAX_GRACE),
        user: [own_user, user, by.info.user.clone()]
            .into_iter()
            .flatten()
            .find(|u| !u.is_empty()),
        checkpoint: by.info.checkpoint(),
        info,
        framework_info,
    }))
}

/// What runs a task: an executor of its own, the group's, or nothing but itself.
pub(super) fn on_executor(
    t: &pb::TaskInfo,
    group: Option<(&Arc<ExecutorSpec>, &TaskId)>,
    by: Launcher<'_>,
) -> Result<Option<OnExecutor>, ConvertError> {
    let (spec, group) = match (group, &t.executor) {
        (Some((spec, group)), _) => (Arc::clone(spec), Some(group.clone())),
        (None, Some(e)) => (executor(e, by).map_err(|e| e.within("executor"))?, None),
        (None, None) => return Ok(None),
    };
    let info = t.encode_to_vec();
    Ok(Some(OnExecutor {
        spec,
        starts: false,
        group,
        // Known with the whole group.
        n_group: 0,
        info,
    }))
}

/// How a task on an executor of its framework's is contained: as that is.
pub(super) fn inside() -> Contained {
    Contained {
        spec: ContainerSpec::default(),
        ..Contained::default()
    }
}

//! Executors that frameworks bring along.

use std::sync::Arc;

use waggle_types::{
    AgentId, Command, ContainerSpec, ExecutorEnd, ExecutorId, ExecutorKey, ExecutorKind,
    ExecutorRecord, ExecutorSpec, ExecutorStatus, FrameworkId, MAX_MESSAGE, Millis, OnExecutor,
    Resources, TaskId,
};

use super::reservation::parts;
use super::size::cut;
use super::{ConvertError, container, id, required};
use crate::proto::{framework, session as pb};

/// Longest of what is passed on and not interpreted, in bytes.
const MAX_INFO: usize = 256 << 10;
/// Longest message about an executor's end, in bytes; more is cut off.
const MAX_WORDS: usize = 4096;

fn info(field: &str, bytes: Vec<u8>) -> Result<Vec<u8>, ConvertError> {
    if bytes.len() > MAX_INFO {
        let rule = format!("must be at most {MAX_INFO} bytes, is {}", bytes.len());
        return Err(ConvertError::new(field, rule));
    }
    Ok(bytes)
}

/// The bytes of a message between a framework and an executor.
pub fn message_data(bytes: Vec<u8>) -> Result<Vec<u8>, ConvertError> {
    if bytes.len() > MAX_MESSAGE {
        let rule = format!("must be at most {MAX_MESSAGE} bytes, is {}", bytes.len());
        return Err(ConvertError::new("data", rule));
    }
    Ok(bytes)
}

/// An executor's id from the wire.
pub fn executor_id(field: &str, value: String) -> Result<ExecutorId, ConvertError> {
    id(field, value, ExecutorId::new)
}

/// An executor's name from the wire.
pub fn executor_key(framework: String, executor: String) -> Result<ExecutorKey, ConvertError> {
    Ok(ExecutorKey {
        framework_id: id("framework_id", framework, FrameworkId::new)?,
        executor_id: executor_id("executor_id", executor)?,
    })
}

impl TryFrom<pb::Executor> for ExecutorSpec {
    type Error = ConvertError;

    fn try_from(e: pb::Executor) -> Result<Self, ConvertError> {
        let kind = match pb::ExecutorKind::try_from(e.kind) {
            Ok(pb::ExecutorKind::ExecutorCustom) => ExecutorKind::Custom,
            Ok(pb::ExecutorKind::ExecutorDefault) => ExecutorKind::Default,
            Err(_) => {
                let rule = format!("must be an executor's kind, is {}", e.kind);
                return Err(ConvertError::new("kind", rule));
            }
        };
        let command = match (kind, e.command) {
            (ExecutorKind::Default, None) => Command::Executor,
            (ExecutorKind::Default, Some(_)) => {
                let rule = "must not be there: the agent is the executor";
                return Err(ConvertError::new("command", rule));
            }
            (ExecutorKind::Custom, None) => {
                return Err(ConvertError::new("command", "is missing"));
            }
            (ExecutorKind::Custom, Some(pb::executor::Command::Argv(a))) if a.args.is_empty() => {
                return Err(ConvertError::new("argv.args", "must hold a program"));
            }
            (ExecutorKind::Custom, Some(c)) => match c {
                pb::executor::Command::Shell(s) => Command::Shell(s),
                pb::executor::Command::Argv(a) => Command::Argv(a.args),
                pb::executor::Command::Image(a) => Command::Image(a.args),
            },
        };
        let resources = e.resources.unwrap_or_default();
        let resources = Resources::try_from(resources).map_err(|e| e.within("resources"))?;
        Ok(Self {
            executor_id: executor_id("executor_id", e.executor_id)?,
            name: e.name,
            kind,
            command,
            env: e.env,
            labels: e.labels,
            parts: parts(e.parts, &resources)?,
            resources,
            container: match e.container {
                None => ContainerSpec::default(),
                Some(c) => ContainerSpec::try_from(c).map_err(|e| e.within("container"))?,
            },
            shutdown_grace: Millis(e.shutdown_grace_ms),
            user: e.user,
            checkpoint: e.checkpoint,
            info: info("info", e.info)?,
            framework_info: info("framework_info", e.framework_info)?,
        })
    }
}

impl From<&ExecutorSpec> for pb::Executor {
    fn from(e: &ExecutorSpec) -> Self {
        let words = |args: &Vec<String>| pb::Argv { args: args.clone() };
        Self {
            executor_id: e.executor_id.to_string(),
            name: e.name.clone(),
            kind: match e.kind {
                ExecutorKind::Custom => pb::ExecutorKind::ExecutorCustom,
                ExecutorKind::Default => pb::ExecutorKind::ExecutorDefault,
            }
            .into(),
            command: match &e.command {
                Command::Shell(s) => Some(pb::executor::Command::Shell(s.clone())),
                Command::Argv(a) => Some(pb::executor::Command::Argv(words(a))),
                Command::Image(a) => Some(pb::executor::Command::Image(words(a))),
                Command::Executor => None,
            },
            env: e.env.clone(),
            labels: e.labels.clone(),
            resources: Some((&e.resources).into()),
            parts: e.parts.iter().map(Into::into).collect(),
            container: container::to_wire(&e.container),
            shutdown_grace_ms: e.shutdown_grace.0,
            user: e.user.clone(),
            checkpoint: e.checkpoint,
            info: e.info.clone(),
            framework_info: e.framework_info.clone(),
        }
    }
}

impl TryFrom<pb::OnExecutor> for OnExecutor {
    type Error = ConvertError;

    fn try_from(on: pb::OnExecutor) -> Result<Self, ConvertError> {
        let spec = required("spec", on.spec)?;
        Ok(Self {
            spec: Arc::new(ExecutorSpec::try_from(spec).map_err(|e| e.within("spec"))?),
            starts: on.starts,
            group: match on.group.as_str() {
                "" => None,
                _ => Some(id("group", on.group, TaskId::new)?),
            },
            n_group: on.n_group,
            info: info("info", on.info)?,
        })
    }
}

impl From<&OnExecutor> for pb::OnExecutor {
    fn from(on: &OnExecutor) -> Self {
        Self {
            spec: Some(on.spec.as_ref().into()),
            starts: on.starts,
            group: on
                .group
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            n_group: on.n_group,
            info: on.info.clone(),
        }
    }
}

impl TryFrom<pb::ExecutorStatus> for ExecutorStatus {
    type Error = ConvertError;

    fn try_from(s: pb::ExecutorStatus) -> Result<Self, ConvertError> {
        Ok(Self {
            executor_id: executor_id("executor_id", s.executor_id)?,
            info: info("info", s.info)?,
        })
    }
}

impl From<&ExecutorStatus> for pb::ExecutorStatus {
    fn from(s: &ExecutorStatus) -> Self {
        Self {
            executor_id: s.executor_id.to_string(),
            info: s.info.clone(),
        }
    }
}

impl TryFrom<pb::RegisteredExecutor> for ExecutorRecord {
    type Error = ConvertError;

    fn try_from(e: pb::RegisteredExecutor) -> Result<Self, ConvertError> {
        let spec = required("spec", e.spec)?;
        Ok(Self {
            framework_id: id("framework_id", e.framework_id, FrameworkId::new)?,
            framework_name: e.framework_name,
            role: e.role,
            spec: Arc::new(ExecutorSpec::try_from(spec).map_err(|e| e.within("spec"))?),
        })
    }
}

impl From<&ExecutorRecord> for pb::RegisteredExecutor {
    fn from(e: &ExecutorRecord) -> Self {
        Self {
            framework_id: e.framework_id.to_string(),
            framework_name: e.framework_name.clone(),
            role: e.role.clone(),
            spec: Some(e.spec.as_ref().into()),
        }
    }
}

impl TryFrom<pb::ExecutorEnded> for ExecutorEnd {
    type Error = ConvertError;

    fn try_from(e: pb::ExecutorEnded) -> Result<Self, ConvertError> {
        Ok(Self {
            key: executor_key(e.framework_id, e.executor_id)?,
            status: e.status,
            message: cut(e.message, MAX_WORDS),
        })
    }
}

impl From<&ExecutorEnd> for pb::ExecutorEnded {
    fn from(e: &ExecutorEnd) -> Self {
        Self {
            framework_id: e.key.framework_id.to_string(),
            executor_id: e.key.executor_id.to_string(),
            status: e.status,
            message: e.message.clone(),
        }
    }
}

/// A message between a framework and an executor, in a session: whose, and what.
pub fn executor_message(m: pb::ExecutorMessage) -> Result<(ExecutorKey, Vec<u8>), ConvertError> {
    Ok((
        executor_key(m.framework_id, m.executor_id)?,
        message_data(m.data)?,
    ))
}

/// The same to the wire.
pub fn executor_message_to_wire(key: &ExecutorKey, data: Vec<u8>) -> pb::ExecutorMessage {
    pb::ExecutorMessage {
        framework_id: key.framework_id.to_string(),
        executor_id: key.executor_id.to_string(),
        data,
    }
}

/// Where an executor is, from a framework's call or for its event.
pub fn executor_at(agent: String, executor: String) -> Result<(AgentId, ExecutorId), ConvertError> {
    Ok((
        id("agent_id", agent, AgentId::new)?,
        executor_id("executor_id", executor)?,
    ))
}

/// The executor of a task as a framework asks for it: the master decides whether it is started.
pub(super) fn asked(
    spec: Option<pb::Executor>,
    group: Option<&TaskId>,
    given: Vec<u8>,
) -> Result<Option<OnExecutor>, ConvertError> {
    let Some(spec) = spec else {
        return match group {
            Some(_) => Err(ConvertError::new("executor", "is missing")),
            None => Ok(None),
        };
    };
    Ok(Some(OnExecutor {
        spec: Arc::new(ExecutorSpec::try_from(spec).map_err(|e| e.within("executor"))?),
        starts: false,
        group: group.cloned(),
        // Known with the whole group.
        n_group: 0,
        info: info("info", given)?,
    }))
}

/// An event about an executor, for frameworks of the native API.
pub(super) fn lost(
    agent_id: &AgentId,
    executor: &ExecutorId,
    status: i32,
) -> framework::ExecutorLost {
    framework::ExecutorLost {
        agent_id: agent_id.to_string(),
        executor_id: executor.to_string(),
        status,
    }
}

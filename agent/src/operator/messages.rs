//! What the agent knows, as messages of Mesos's operator API. Pure.

use std::collections::BTreeMap;

use waggle_api::{
    mesos::{
        discovery::discovery,
        event,
        framework::Dialect,
        resources::{Format, Writer, to_labels},
    },
    proto::mesos as pb,
};
use waggle_types::{Resources, TaskSpec, TaskState};

use super::containers::{Measured, command_executor};
use crate::{
    executors,
    http::{AgentView, TaskView},
    nested::Listed,
};

/// Tasks, by how far they are.
pub fn tasks(view: &AgentView) -> pb::AgentTasks {
    let mut out = pb::AgentTasks::default();
    for t in &view.tasks {
        let state = t.summary.state;
        let list = if state.is_terminal() {
            &mut out.terminated_tasks
        } else if state == TaskState::Staging && !t.executor_id.is_empty() {
            &mut out.queued_tasks
        } else {
            &mut out.launched_tasks
        };
        list.push(task(view, t));
    }
    out
}

fn task(view: &AgentView, t: &TaskView) -> pb::Task {
    let spec = &t.summary.spec;
    let latest = t.summary.latest.as_ref();
    let state = |s| Some(event::state(s, Dialect::OPERATOR).into());
    pb::Task {
        name: Some(spec.name.clone()),
        task_id: Some(pb::TaskId {
            value: t.id.clone(),
        }),
        framework_id: Some(framework_id(&t.framework_id)),
        executor_id: Some(executor_id(&t.executor_id)).filter(|id| !id.value.is_empty()),
        agent_id: Some(pb::AgentId {
            value: view.agent.agent_id.to_string(),
        }),
        state: state(t.summary.state),
        resources: resources(spec),
        statuses: status(view, t).into_iter().collect(),
        status_update_state: latest.and_then(|s| state(s.state)),
        status_update_uuid: latest.and_then(|s| s.uuid).map(|u| u.0.to_vec()),
        labels: to_labels(&spec.labels),
        discovery: Some(discovery(&spec.discovery.name, &spec.ports)),
        container: None,
        user: spec.user.clone(),
    }
}

/// The newest status of a task.
pub fn status(view: &AgentView, t: &TaskView) -> Option<pb::TaskStatus> {
    let latest = t.summary.latest.as_ref()?;
    let ip = t.ip.unwrap_or(view.agent.ip);
    Some(event::status(latest, Dialect::OPERATOR, Some(ip)))
}

fn resources(spec: &TaskSpec) -> Vec<pb::Resource> {
    write(&spec.role, &spec.resources, &spec.parts)
}

fn write(role: &str, r: &Resources, parts: &[waggle_types::ResourcePart]) -> Vec<pb::Resource> {
    let writer = Writer {
        format: Format::Role,
        role: Some(role),
        paths: None,
    };
    writer.write(r, parts)
}

/// Executors of frameworks' own, and those that Mesos has for commands.
pub fn executors(view: &AgentView) -> pb::AgentExecutors {
    let own = view.executors.iter();
    let own = own.map(|e| executors::executor_info(&e.record));
    let alone = view.tasks.iter().filter(|t| t.executor_id.is_empty());
    let alone = alone.filter(|t| !t.summary.state.is_terminal());
    let alone = alone.map(|t| pb::ExecutorInfo {
        executor_id: Some(executor_id(&t.id)),
        framework_id: Some(framework_id(&t.framework_id)),
        name: Some(command_executor(&t.summary.spec)),
        source: Some(t.id.clone()),
        ..pb::ExecutorInfo::default()
    });
    let shown = own.chain(alone).map(|info| pb::AgentExecutor {
        executor_info: Some(info),
    });
    pb::AgentExecutors {
        executors: shown.collect(),
        completed_executors: Vec::new(),
    }
}

/// Frameworks with something here, as far as the agent knows them.
pub fn frameworks(view: &AgentView) -> pb::AgentFrameworks {
    let mut all: BTreeMap<&str, pb::FrameworkInfo> = BTreeMap::new();
    for t in &view.tasks {
        all.entry(&t.framework_id)
            .or_insert_with(|| pb::FrameworkInfo {
                // Protobuf's readers want one; whose it is is the master's to know.
                user: Some(String::new()),
                name: Some(t.framework.clone()),
                id: Some(framework_id(&t.framework_id)),
                ..pb::FrameworkInfo::default()
            });
    }
    for e in &view.executors {
        let mut info = executors::framework_info(&e.record);
        info.user.get_or_insert_default();
        all.insert(&e.framework_id, info);
    }
    let shown = all.into_values().map(|info| pb::AgentFramework {
        framework_info: Some(info),
    });
    pb::AgentFrameworks {
        frameworks: shown.collect(),
        completed_frameworks: Vec::new(),
    }
}

/// Containers with their figures, and those in them, which share their parents'.
pub fn containers(all: &[Measured], more: &[Listed]) -> pb::AgentContainers {
    let one = |m: &Measured| pb::AgentContainer {
        framework_id: Some(framework_id(&m.container.framework_id)),
        executor_id: Some(executor_id(&m.container.executor_id)),
        executor_name: Some(m.container.executor_name.clone()),
        container_id: Some(event::container_id(m.container.id.to_string())),
        container_status: Some(m.status()),
        resource_statistics: Some(m.statistics.clone()),
    };
    let other = |l: &Listed| pb::AgentContainer {
        container_id: Some(l.id.message()),
        container_status: Some(pb::ContainerStatus {
            executor_pid: Some(l.pid),
            container_id: Some(l.id.message()),
            ..pb::ContainerStatus::default()
        }),
        ..pb::AgentContainer::default()
    };
    pb::AgentContainers {
        containers: all.iter().map(one).chain(more.iter().map(other)).collect(),
    }
}

fn framework_id(id: &str) -> pb::FrameworkId {
    pb::FrameworkId {
        value: id.to_owned(),
    }
}

fn executor_id(id: &str) -> pb::ExecutorId {
    pb::ExecutorId {
        value: id.to_owned(),
    }
}

//! Tasks of apps: list and kill.

use axum::{body::Body, http::StatusCode, response::Response};
use serde_json::Value;
use waggle_api::{
    error::ApiError,
    marathon::{Instance, Task, TaskList, WrappedTask, local_volumes, task_json},
};
use waggle_types::{ServiceId, TaskId, TaskState};

use super::{
    super::{
        Api,
        request::Call,
        respond::{Fail, ok},
    },
    deployed, no_such_app,
};
use crate::view::{InstanceView, ServiceView};

/// The tasks of a service, by id.
pub(super) fn of(service: &ServiceView) -> Vec<Task> {
    service.instances.iter().map(|i| task(service, i)).collect()
}

pub(super) fn instance(i: &InstanceView) -> Instance<'_> {
    Instance {
        task_id: &i.task_id,
        agent_id: &i.agent_id,
        hostname: &i.hostname,
        ips: &i.ips,
        state: i.state,
        health: i.health,
        record: i.health_record.as_ref(),
        version: i.version,
        staged_at: i.staged_at,
        started_at: i.started_at,
        ports: &i.ports,
    }
}

fn task(service: &ServiceView, i: &InstanceView) -> Task {
    let service_ports: Vec<u16> = service.spec.ports.iter().map(|p| p.port).collect();
    Task {
        local_volumes: local_volumes(&service.spec, &i.task_id),
        ..task_json(&service.spec.id, &service_ports, &instance(i))
    }
}

pub(super) fn list(api: &Api, call: &Call) -> Result<Response, Fail> {
    let mut wanted = Vec::new();
    for status in call.query.all("status").chain(call.query.all("status[]")) {
        match status {
            "running" => wanted.push(true),
            "staging" => wanted.push(false),
            s => {
                let rule = format!("must be running or staging, is {s:?}");
                return Err(ApiError::invalid("status", rule).into());
            }
        }
    }
    let shown = |i: &InstanceView| {
        let starting = matches!(i.state, TaskState::Staging | TaskState::Starting);
        wanted.is_empty() || wanted.contains(&!starting)
    };
    let view = api.view();
    let tasks = view.apps().flat_map(|s| {
        let instances = s.instances.iter().filter(|i| shown(i));
        instances.map(|i| task(s, i)).collect::<Vec<_>>()
    });
    Ok(ok(&TaskList {
        tasks: tasks.collect(),
    }))
}

pub(super) fn of_app(api: &Api, id: &ServiceId) -> Result<Response, Fail> {
    let view = api.view();
    let service = view.app(id).ok_or_else(|| no_such_app(id))?;
    Ok(ok(&TaskList { tasks: of(service) }))
}

/// `scale` and `wipe`: both at once contradict each other.
fn scale(call: &Call) -> Result<(bool, bool), ApiError> {
    let (scale, wipe) = (
        call.query.flag("scale", false)?,
        call.query.flag("wipe", false)?,
    );
    if scale && wipe {
        return Err(ApiError::invalid(
            "wipe",
            "must not be set together with scale",
        ));
    }
    Ok((scale, wipe))
}

/// Kills tasks and answers with the deployment that scaling made, else with `body`.
async fn kill(
    api: &Api,
    call: &Call,
    tasks: &[Task],
    (scale, wipe): (bool, bool),
    body: &impl serde::Serialize,
) -> Result<Response, Fail> {
    let ids = tasks.iter().map(|t| TaskId::new(t.id.clone()));
    let ids: Vec<TaskId> = ids.filter_map(Result::ok).collect();
    if ids.is_empty() && !scale {
        return Ok(ok(body));
    }
    let force = call.query.flag("force", false)?;
    let done = api
        .handle
        .kill_tasks(ids, (scale, wipe), force, call.trace())
        .await?;
    match done {
        Some(d) => Ok(deployed(StatusCode::OK, &d)),
        None => Ok(ok(body)),
    }
}

pub(super) async fn kill_of_app(api: &Api, call: &Call, id: &ServiceId) -> Result<Response, Fail> {
    let scale = scale(call)?;
    let host = call
        .query
        .first("host")
        .filter(|h| !h.is_empty() && *h != "*");
    let view = api.view();
    let service = view.app(id).ok_or_else(|| no_such_app(id))?;
    let mut tasks = of(service);
    tasks.retain(|t| host.is_none_or(|h| t.host == h));
    let body = TaskList { tasks };
    kill(api, call, &body.tasks, scale, &body).await
}

pub(super) async fn kill_one(
    api: &Api,
    call: &Call,
    id: &ServiceId,
    task: &str,
) -> Result<Response, Fail> {
    let scale = scale(call)?;
    let view = api.view();
    let service = view.app(id).ok_or_else(|| no_such_app(id))?;
    let found = of(service).into_iter().find(|t| t.id == task);
    let task = found.ok_or_else(|| Fail::not_found(format!("Task '{task}' does not exist")))?;
    let body = WrappedTask { task: task.clone() };
    kill(api, call, &[task], scale, &body).await
}

/// `{"ids": [..]}`; ids of tasks that are gone already are skipped, as Marathon does.
pub(super) async fn delete_given(api: &Api, call: &Call, body: Body) -> Result<Response, Fail> {
    let scale = scale(call)?;
    let body = call.json(body).await?;
    let ids = body
        .get("ids")
        .ok_or_else(|| ApiError::invalid("ids", "must be set"))?;
    let Value::Array(ids) = ids else {
        return Err(ApiError::invalid("ids", "must be a list of strings").into());
    };
    let mut wanted = std::collections::BTreeSet::new();
    for (i, id) in ids.iter().enumerate() {
        let text = id
            .as_str()
            .ok_or_else(|| ApiError::invalid(format!("ids[{i}]"), "must be a string"))?;
        let id = TaskId::new(text);
        let id = id.map_err(|e| ApiError::invalid(format!("ids[{i}]"), e.to_string()))?;
        wanted.insert(id);
    }
    let view = api.view();
    let tasks = view.apps().flat_map(|s| {
        let instances = s.instances.iter().filter(|i| wanted.contains(&i.task_id));
        instances.map(|i| task(s, i)).collect::<Vec<_>>()
    });
    let body = TaskList {
        tasks: tasks.collect(),
    };
    if body.tasks.is_empty() {
        return Ok(ok(&body));
    }
    kill(api, call, &body.tasks, scale, &body).await
}

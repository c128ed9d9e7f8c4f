//! `/state`: the whole agent in the older JSON. Pure.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};
use waggle_api::mesos::{ResourcesJson, resources::to_labels};

use super::{containers::command_executor, messages, metrics, shown};
use crate::{
    AgentConfig,
    http::{AgentView, ExecutorView, TaskView},
};

/// All that tools read of it; `ended` are tasks whose files are kept.
pub fn state(view: &AgentView, ended: &[TaskView], config: &AgentConfig) -> Value {
    let completed = |framework: &str| -> Vec<Value> {
        let mine = ended.iter().filter(|t| t.framework_id == framework);
        mine.map(|t| alone(view, t, true)).collect()
    };
    let mut frameworks: Vec<Value> = Vec::new();
    for f in messages::frameworks(view).frameworks {
        let info = f.framework_info.unwrap_or_default();
        let id = info.id.map(|id| id.value).unwrap_or_default();
        frameworks.push(json!({
            "id": id,
            "name": info.name,
            "user": info.user,
            "executors": executors(view, &id),
            "completed_executors": completed(&id),
        }));
    }
    let live = |id: &str| frameworks.iter().any(|f| f["id"] == id);
    let gone: BTreeMap<&str, &TaskView> = ended
        .iter()
        .map(|t| (t.framework_id.as_str(), t))
        .filter(|(id, _)| !live(id))
        .collect();
    let gone = gone.into_iter().map(|(id, t)| {
        json!({
            "id": id,
            "name": t.framework,
            "user": t.summary.spec.user.clone().unwrap_or_default(),
            "executors": [],
            "completed_executors": completed(id),
        })
    });
    let gone: Vec<Value> = gone.collect();
    let mut out = view.info.clone();
    out["flags"] = json!(super::flags::flags(config, &view.agent));
    out["frameworks"] = frameworks.into();
    out["completed_frameworks"] = gone.into();
    out["used_resources"] = json!(ResourcesJson::from(&metrics::used(view)));
    out["master_hostname"] = json!(view.master);
    out["waggle_degraded"] = json!(view.troubles);
    out["waggle_generation"] = json!(view.generation);
    out
}

fn executors(view: &AgentView, framework: &str) -> Vec<Value> {
    let of = || view.tasks.iter().filter(|t| t.framework_id == framework);
    let own = view
        .executors
        .iter()
        .filter(|e| e.framework_id == framework);
    let own = own.map(|e: &ExecutorView| {
        let (queued, launched) = of()
            .filter(|t| t.executor_id == e.id)
            .partition::<Vec<_>, _>(|t| t.state == "TASK_STAGING");
        let all = |tasks: Vec<&TaskView>| -> Vec<Value> {
            tasks.into_iter().map(|t| task(view, t)).collect()
        };
        json!({
            "id": e.id,
            "name": e.name,
            "source": e.id,
            "container": e.container,
            "directory": Path::new(&e.directory),
            "resources": ResourcesJson::from(&e.resources),
            "tasks": all(launched),
            "queued_tasks": all(queued),
            "completed_tasks": [],
        })
    });
    let commands = of().filter(|t| t.executor_id.is_empty());
    own.chain(commands.map(|t| alone(view, t, false))).collect()
}

/// Mesos has an executor for each command; so have its readers.
fn alone(view: &AgentView, t: &TaskView, ended: bool) -> Value {
    let (live, completed) = if ended {
        (Vec::new(), vec![task(view, t)])
    } else {
        (vec![task(view, t)], Vec::new())
    };
    json!({
        "id": t.id,
        "name": command_executor(&t.summary.spec),
        "source": t.id,
        "container": t.id,
        "directory": Path::new(&t.directory),
        "resources": ResourcesJson::from(&t.summary.spec.resources),
        "tasks": live,
        "queued_tasks": [],
        "completed_tasks": completed,
    })
}

fn task(view: &AgentView, t: &TaskView) -> Value {
    let spec = &t.summary.spec;
    let labels = to_labels(&spec.labels).map(|l| l.labels);
    json!({
        "id": t.id,
        "name": t.name,
        "framework_id": t.framework_id,
        "executor_id": t.executor_id,
        "slave_id": view.agent.agent_id.as_str(),
        "state": t.state,
        "role": spec.role,
        "resources": ResourcesJson::from(&spec.resources),
        "statuses": messages::status(view, t).iter().map(shown).collect::<Vec<_>>(),
        "labels": shown(&labels.unwrap_or_default()),
        "discovery": shown(&waggle_api::mesos::discovery::discovery(&spec.discovery.name, &spec.ports)),
    })
}

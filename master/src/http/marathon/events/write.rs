//! Events as Marathon writes them.

use std::collections::BTreeMap;

use axum::body::Bytes;
use serde_json::{Value, json};
use waggle_api::marathon::{Counts, HealthCheckJson, app_json, pod_json};
use waggle_types::{HealthCheck, ServiceSpec, ServiceVersion, TaskState};

use crate::{
    core::{InstanceRef, News, PlanNews},
    newsroom::{Heard, What},
    view::StepAction,
};

/// One event: its name, its JSON on one line, and an empty line.
pub(super) fn event(heard: &Heard, light: bool) -> Bytes {
    let kind = heard.what.kind();
    let mut body = match &heard.what {
        What::Client(_, body) => body.clone(),
        What::Core(news) => of_core(news, light),
    };
    body["eventType"] = kind.into();
    body["timestamp"] = ServiceVersion(heard.at).to_string().into();
    format!("event: {kind}\ndata: {body}\n\n").into()
}

fn of_core(news: &News, light: bool) -> Value {
    match news {
        News::Status {
            of,
            state,
            message,
            ports,
            ips,
        } => {
            let address = |ip: &std::net::IpAddr| {
                let protocol = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                json!({ "ipAddress": ip.to_string(), "protocol": protocol })
            };
            json!({
                "slaveId": of.agent_id.as_str(),
                "taskId": of.task_id.as_str(),
                "taskStatus": state.mesos_name(),
                "message": message,
                "appId": of.service.as_str(),
                "host": of.hostname,
                "ipAddresses": ips.iter().map(address).collect::<Vec<_>>(),
                "ports": ports,
                "version": of.version.to_string(),
            })
        }
        News::Instance {
            of,
            state,
            inactive,
        } => json!({
            "instanceId": of.task_id.instance(),
            "condition": if *inactive { "UnreachableInactive" } else { condition(*state) },
            "runSpecId": of.service.as_str(),
            "agentId": of.agent_id.as_str(),
            // As marathon-python calls it.
            "slaveId": of.agent_id.as_str(),
            "host": of.hostname,
            "runSpecVersion": of.version.to_string(),
        }),
        News::TaskHealth { of, alive } => {
            let mut out = of_task(of);
            out["version"] = of.version.to_string().into();
            out["alive"] = (*alive).into();
            out
        }
        News::InstanceHealth { of, healthy } => json!({
            "instanceId": of.task_id.instance(),
            "runSpecId": of.service.as_str(),
            "runSpecVersion": of.version.to_string(),
            "healthy": healthy,
        }),
        News::CheckFailed { of, check } => {
            let mut out = of_task(of);
            out["healthCheck"] = check_json(check);
            out
        }
        News::UnhealthyTaskKilled { of, reason } | News::UnhealthyInstanceKilled { of, reason } => {
            let mut out = of_task(of);
            out["version"] = of.version.to_string().into();
            out["reason"] = reason.as_str().into();
            out["host"] = of.hostname.as_str().into();
            out["slaveId"] = of.agent_id.as_str().into();
            out
        }
        News::UnknownEnded {
            task_id,
            service,
            state,
        } => json!({
            "instanceId": task_id.instance(),
            "runSpecId": service,
            "condition": condition(*state),
        }),
        News::CheckAdded {
            service,
            version,
            check,
        } => json!({
            "appId": service.as_str(),
            "version": version.to_string(),
            "healthCheck": check_json(check),
        }),
        News::CheckRemoved { service, check } => json!({
            "appId": service.as_str(),
            "healthCheck": check_json(check),
        }),
        News::Deployment { phase, plan, step } => deployment(*phase, plan, *step, light),
        News::GroupChanged { group, version } => json!({
            "groupId": group,
            "version": version.to_string(),
        }),
        News::GroupRefused {
            group,
            version,
            reason,
        } => json!({
            "groupId": group,
            "version": version.to_string(),
            "reason": reason,
        }),
        News::ServiceGone(service) => json!({ "appId": service.as_str() }),
    }
}

fn of_task(of: &InstanceRef) -> Value {
    json!({
        "appId": of.service.as_str(),
        "taskId": of.task_id.as_str(),
        "instanceId": of.task_id.instance(),
    })
}

fn check_json(check: &HealthCheck) -> Value {
    serde_json::to_value(HealthCheckJson::from(check)).unwrap_or(Value::Null)
}

/// Marathon's word for the state of an instance.
fn condition(state: TaskState) -> &'static str {
    match state {
        TaskState::Staging => "Staging",
        TaskState::Starting => "Starting",
        TaskState::Running => "Running",
        TaskState::Killing => "Killing",
        TaskState::Finished => "Finished",
        TaskState::Failed => "Failed",
        TaskState::Killed => "Killed",
        TaskState::Error => "Error",
        TaskState::Dropped => "Dropped",
        TaskState::Unreachable => "Unreachable",
        TaskState::Gone | TaskState::GoneByOperator => "Gone",
        TaskState::Lost | TaskState::Unknown => "Unknown",
    }
}

fn deployment(
    phase: crate::core::DeploymentPhase,
    plan: &PlanNews,
    step: usize,
    light: bool,
) -> Value {
    use crate::core::DeploymentPhase::{Done, Failed};
    let step_json = |actions: &Vec<StepAction>| {
        let action = |a: &StepAction| {
            let what = if a.pod { "pod" } else { "app" };
            json!({ "action": a.marathon_action(), what: a.service.as_str() })
        };
        json!({ "actions": actions.iter().map(action).collect::<Vec<_>>() })
    };
    let steps: Vec<Value> = plan.steps.iter().map(step_json).collect();
    let mut told = json!({
        "id": plan.id.as_str(),
        "version": plan.version.to_string(),
        "steps": steps,
    });
    if !light {
        told["original"] = root(&plan.original, plan.version);
        told["target"] = root(&plan.target, plan.version);
    }
    let mut out = json!({ "plan": told });
    match phase {
        Done | Failed => out["id"] = plan.id.as_str().into(),
        _ => {
            let current = plan.steps.get(step);
            out["currentStep"] = current.map_or(json!({ "actions": [] }), step_json);
        }
    }
    out
}

/// The tree of groups of some apps: of those that a deployment changes, since all of them in every event is more than
/// anybody reads.
fn root(specs: &[std::sync::Arc<ServiceSpec>], version: ServiceVersion) -> Value {
    let all: Vec<(Vec<&str>, &ServiceSpec)> = specs
        .iter()
        .map(|s| (s.id.as_str().split('/').skip(1).collect(), s.as_ref()))
        .collect();
    group("", &all, 0, &version.to_string())
}

/// The group of this path, of apps below it whose labels from `depth` on are still to be placed.
fn group(path: &str, all: &[(Vec<&str>, &ServiceSpec)], depth: usize, version: &str) -> Value {
    let (mut apps, mut pods) = (Vec::new(), Vec::new());
    let mut below = BTreeMap::<&str, Vec<_>>::new();
    for (labels, spec) in all {
        match labels.get(depth..) {
            Some([label, _, ..]) => below
                .entry(label)
                .or_default()
                .push((labels.clone(), *spec)),
            _ => match pod_json(spec) {
                Some(pod) => pods.push(pod),
                None => apps.push(app_json(spec, Counts::default(), Vec::new())),
            },
        }
    }
    let groups: Vec<Value> = below
        .iter()
        .map(|(label, inner)| group(&format!("{path}/{label}"), inner, depth + 1, version))
        .collect();
    json!({
        "id": if path.is_empty() { "/" } else { path },
        "apps": serde_json::to_value(apps).unwrap_or(Value::Null),
        "groups": groups,
        "pods": pods,
        "dependencies": [],
        "version": version,
    })
}

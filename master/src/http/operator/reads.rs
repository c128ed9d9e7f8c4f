//! What operators ask for, out of a view.

use std::{collections::BTreeMap, sync::Arc};

use axum::http::StatusCode;
use prost::Message as _;
use serde::Serialize;
use serde_json::{Value, json};
use waggle_api::{
    mesos::{
        AGENT_CAPABILITIES, MESOS_VERSION,
        discovery::discovery,
        event::{self, container_status, nanos, unavailability},
        framework::{Dialect, framework_info},
        resources::{Format, Writer, to_labels},
    },
    proto::mesos as pb,
};
use waggle_types::{
    AgentId, ExecutorRecord, FrameworkId, FrameworkInfo, Millis, ResourcePart, Resources,
    TaskState, Unavailability, UnixMillis, sum_parts,
};

use super::{
    super::gauges,
    super::scheduler::{No, master},
    id,
};
use crate::framework::Outcome;
use crate::view::{AgentMode, AgentView, ClusterView, FrameworkView, RoleView, TaskView};

/// How operators are spoken to.
pub(super) const DIALECT: Dialect = Dialect::OPERATOR;

/// Answers a call that changes nothing; none when it is no such call.
pub(super) fn read(kind: &str, said: &Value, view: &ClusterView) -> Option<Result<Value, No>> {
    Some(Ok(match kind {
        "GET_HEALTH" => json!({ "healthy": true }),
        "GET_FLAGS" => {
            json!({ "flags": flags(view).iter().map(|(name, value)| json!({ "name": name, "value": value })).collect::<Vec<_>>() })
        }
        "GET_VERSION" => json!({ "version_info": { "version": MESOS_VERSION } }),
        "GET_METRICS" => {
            let all = gauges::all(view).into_iter();
            let one = |(name, value): (String, f64)| json!({ "name": name, "value": value });
            json!({ "metrics": all.map(one).collect::<Vec<_>>() })
        }
        "LIST_FILES" | "READ_FILE" => return Some(Err(no_file(kind, said))),
        "GET_STATE" => state(view),
        "GET_AGENTS" => agents(view),
        "GET_FRAMEWORKS" => frameworks(view),
        "GET_EXECUTORS" => executors(view),
        "GET_TASKS" => tasks(view),
        "GET_ROLES" => json!({ "roles": roles(view) }),
        "GET_WEIGHTS" => json!({ "weight_infos": weights(view) }),
        "GET_MASTER" => json!({
            "master_info": shown(&master(view).info()),
            "start_time": seconds(view.started_at),
            "elected_time": seconds(view.started_at),
        }),
        "GET_MAINTENANCE_STATUS" => json!({ "status": maintenance_status(view) }),
        "GET_MAINTENANCE_SCHEDULE" => json!({ "schedule": schedule(view) }),
        "GET_QUOTA" => json!({ "status": quota(view) }),
        _ => return None,
    }))
}

fn no_file(kind: &str, said: &Value) -> No {
    let path = &said[kind.to_ascii_lowercase()]["path"];
    let path = path.as_str().unwrap_or_default();
    let message = format!("Path {path:.200?} not found: the master has no files, agents have");
    No(StatusCode::NOT_FOUND, message)
}

/// A message as JSON.
fn shown(message: &impl Serialize) -> Value {
    // Messages have string keys only, so this can't fail.
    serde_json::to_value(message).unwrap_or_default()
}

fn seconds(at: UnixMillis) -> f64 {
    at.0 as f64 / 1000.0
}

fn time(at: UnixMillis) -> Value {
    json!({ "nanoseconds": nanos(at.0) })
}

fn resources(r: &Resources, parts: &[ResourcePart], role: Option<&str>) -> Value {
    let writer = Writer {
        format: Format::Role,
        role,
        paths: None,
    };
    shown(&writer.write(r, parts))
}

/// What the master runs with, by flag.
pub(in crate::http) fn flags(view: &ClusterView) -> BTreeMap<String, String> {
    let mut out = BTreeMap::from([("cluster".to_owned(), view.cluster.clone())]);
    if let Some(m) = &view.leader {
        out.insert("hostname".into(), m.hostname.clone());
        out.insert("ip".into(), m.ip.to_string());
        out.insert("port".into(), m.mesos_port.to_string());
    }
    // Mesos's words for what is always so here.
    for (name, value) in [
        ("authenticate_agents", "false"),
        ("authenticate_frameworks", "false"),
        ("authenticate_http_readonly", "false"),
        ("authenticate_http_readwrite", "false"),
        ("filter_gpu_resources", "true"),
    ] {
        out.insert(name.into(), value.into());
    }
    out
}

/// All of the cluster.
pub(super) fn state(view: &ClusterView) -> Value {
    json!({
        "get_tasks": tasks(view),
        "get_executors": executors(view),
        "get_frameworks": frameworks(view),
        "get_agents": agents(view),
    })
}

fn agents(view: &ClusterView) -> Value {
    let all: Vec<Value> = view.agents.values().map(|a| agent(a)).collect();
    json!({ "agents": all, "recovered_agents": [] })
}

/// All that an agent has, by reservation.
fn parts(a: &AgentView) -> Vec<ResourcePart> {
    let mut out = Vec::new();
    let held = sum_parts(&a.reserved).and_then(|r| r.flat());
    let free = held.and_then(|held| a.info.total.checked_sub(&held));
    out.push(ResourcePart::plain(
        free.unwrap_or_else(|| a.info.total.clone()),
    ));
    out.extend(a.reserved.iter().cloned());
    out.retain(|p| !p.resources.is_empty());
    out
}

/// What of an agent is reserved for whom, and what is not: as `/state` shows it.
pub(in crate::http) fn reserved_by_role(a: &AgentView) -> (Resources, BTreeMap<String, Resources>) {
    let (mut free, mut by_role) = (Resources::default(), BTreeMap::<String, Resources>::new());
    for p in parts(a) {
        match p.reservation.last() {
            None => free = p.resources,
            Some(r) => {
                let of = by_role.entry(r.role.clone()).or_default();
                if let Some(sum) = of.checked_add(&p.resources) {
                    *of = sum;
                }
            }
        }
    }
    (free, by_role)
}

/// Executors that frameworks brought along.
fn executors(view: &ClusterView) -> Value {
    let one = |(agent, e): &(AgentId, ExecutorRecord)| {
        let said = pb::ExecutorInfo::decode(e.spec.info.as_slice()).unwrap_or_default();
        let info = pb::ExecutorInfo {
            executor_id: Some(pb::ExecutorId {
                value: e.spec.executor_id.to_string(),
            }),
            framework_id: Some(pb::FrameworkId {
                value: e.framework_id.to_string(),
            }),
            ..said
        };
        json!({ "executor_info": shown(&info), "agent_id": id(agent) })
    };
    json!({ "executors": view.executors.iter().map(one).collect::<Vec<_>>() })
}

/// An agent.
pub(super) fn agent(a: &AgentView) -> Value {
    let i = &a.info;
    let attribute = |(name, text): (&String, &String)| json!({ "name": name, "type": "TEXT", "text": { "value": text } });
    let mut info = json!({
        "id": id(&i.agent_id),
        "hostname": i.hostname,
        "port": i.http_port,
        "resources": resources(&i.total, &[], None),
        "attributes": i.attributes.iter().map(attribute).collect::<Vec<_>>(),
    });
    if let Some(d) = &i.domain {
        info["domain"] = shown(&event::domain(d));
    }
    let capability = |name: &&str| json!({ "type": name });
    let capabilities: Vec<Value> = AGENT_CAPABILITIES.iter().map(capability).collect();
    let mut out = json!({
        "agent_info": info,
        "active": a.reachable,
        "deactivated": a.mode != AgentMode::Active,
        "version": MESOS_VERSION,
        "pid": format!("slave(1)@{}:{}", i.ip, i.http_port),
        "registered_time": time(a.registered_at),
        "reregistered_time": time(a.reregistered_at),
        "total_resources": resources(&Resources::default(), &parts(a), None),
        "allocated_resources": resources(&a.used, &[], None),
        "offered_resources": resources(&a.offered, &[], None),
        "capabilities": capabilities,
    });
    let draining = match a.mode {
        AgentMode::Draining { .. } => Some("DRAINING"),
        AgentMode::Drained => Some("DRAINED"),
        _ => None,
    };
    if let Some(state) = draining {
        let config = match a.mode {
            AgentMode::Draining {
                max_grace,
                mark_gone,
            } => json!({
                "max_grace_period": max_grace.map(|g| json!({ "nanoseconds": nanos(g.0) })),
                "mark_gone": mark_gone,
            }),
            _ => json!({}),
        };
        out["drain_info"] = json!({ "state": state, "config": config });
    }
    out
}

/// What a framework said when it subscribed.
pub(super) fn info(f: &FrameworkView) -> pb::FrameworkInfo {
    let info = FrameworkInfo {
        id: Some(f.id.clone()),
        name: f.name.clone(),
        roles: f.roles.clone(),
        capabilities: f.capabilities,
        failover_timeout: f.failover_timeout.unwrap_or(Millis(0)),
        about: Arc::clone(&f.about),
    };
    framework_info(&f.id, &info)
}

/// A framework.
pub(super) fn framework(f: &FrameworkView) -> Value {
    let mut out = json!({
        "framework_info": shown(&info(f)),
        "active": f.active,
        "connected": f.connected,
        "recovered": false,
        "registered_time": time(f.registered_at),
        "reregistered_time": time(f.reregistered_at),
        "offers": [],
        "inverse_offers": [],
        "allocated_resources": resources(&f.used, &[], None),
        "offered_resources": resources(&f.offered, &[], None),
    });
    if let Some(at) = f.unregistered_at {
        out["unregistered_time"] = time(at);
    }
    out
}

fn frameworks(view: &ClusterView) -> Value {
    let all: Vec<Value> = view.frameworks.values().map(framework).collect();
    let completed = view.completed_frameworks.iter().rev();
    let completed: Vec<Value> = completed.map(|f| framework(f)).collect();
    json!({ "frameworks": all, "completed_frameworks": completed, "recovered_frameworks": [] })
}

/// A task.
pub(super) fn task(t: &TaskView) -> Value {
    let spec = &t.spec;
    let mut out = json!({
        "name": t.name(),
        "task_id": id(&t.id),
        "framework_id": id(&spec.framework_id),
        "agent_id": id(t.agent_id()),
        "state": event::state(t.state(), DIALECT).as_str_name(),
        "resources": resources(&t.resources(), &spec.parts, Some(&spec.role)),
        "statuses": status(t).iter().map(shown).collect::<Vec<_>>(),
        "discovery": shown(&discovery(t.discovery_name(), t.ports())),
    });
    if let Some(labels) = to_labels(&spec.labels) {
        out["labels"] = shown(&labels);
    }
    if let Some(user) = &spec.user {
        out["user"] = json!(user);
    }
    if let Some((on, _)) = &spec.executor {
        out["executor_id"] = id(&on.executor_id);
    }
    out
}

/// The newest status of a task.
pub(super) fn status(t: &TaskView) -> Option<pb::TaskStatus> {
    let status = t.status()?;
    let ip = t.own_ip().unwrap_or_else(|| t.ip());
    let mut out = event::status(&status, DIALECT, Some(ip));
    if t.state() == TaskState::Unreachable {
        out.state = Some(pb::TaskState::TaskUnreachable.into());
    }
    // DNS servers look here whoever said it.
    out.container_status
        .get_or_insert_with(|| container_status(t.id.to_string(), ip));
    Some(out)
}

fn tasks(view: &ClusterView) -> Value {
    let live = view.tasks.values();
    let (unreachable, tasks): (Vec<_>, Vec<_>) =
        live.partition(|t| t.state() == TaskState::Unreachable);
    let all =
        |list: Vec<&Arc<TaskView>>| -> Vec<Value> { list.into_iter().map(|t| task(t)).collect() };
    json!({
        "pending_tasks": [],
        "tasks": all(tasks),
        "unreachable_tasks": all(unreachable),
        "completed_tasks": all(view.completed.iter().collect()),
        "orphan_tasks": [],
    })
}

/// Operations whose frameworks have not said yet that they know how they ended. None is ever pending: an operation is
/// done when it is answered.
pub(super) fn operations(view: &ClusterView, all: &[(FrameworkId, Arc<Outcome>)]) -> Value {
    let agent = |o: &Outcome| AgentId::new(o.status.agent_id.as_ref()?.value.clone()).ok();
    let there = |(framework, o): &&(FrameworkId, Arc<Outcome>)| {
        let on = agent(o).is_some_and(|id| view.agents.contains_key(&id));
        on && view.frameworks.contains_key(framework)
    };
    let one = |(framework, o): &(FrameworkId, Arc<Outcome>)| {
        json!({
            "framework_id": id(framework),
            "agent_id": o.status.agent_id.as_ref().map(shown),
            "info": shown(&o.info()),
            "latest_status": shown(&o.status),
            "statuses": [shown(&o.status)],
            "uuid": shown(&pb::Uuid { value: o.uuid.to_vec() }),
        })
    };
    let shown: Vec<Value> = all.iter().filter(there).map(one).collect();
    json!({ "operations": shown })
}

fn weight(r: &RoleView) -> f64 {
    f64::from(r.weight_milli) / 1000.0
}

/// Roles.
pub(super) fn roles(view: &ClusterView) -> Vec<Value> {
    let one = |(name, r): (&String, &RoleView)| {
        json!({
            "name": name,
            "weight": weight(r),
            "frameworks": r.frameworks.iter().map(id).collect::<Vec<_>>(),
            "resources": resources(&r.used, &[], None),
        })
    };
    view.roles.iter().map(one).collect()
}

/// Weights that are not the default.
pub(super) fn weights(view: &ClusterView) -> Vec<Value> {
    let own = view.roles.iter().filter(|(_, r)| r.weight_milli != 1000);
    own.map(|(role, r)| json!({ "role": role, "weight": weight(r) }))
        .collect()
}

fn quantities(all: &BTreeMap<String, waggle_types::Milli>) -> Value {
    let one =
        |(name, q): (&String, &waggle_types::Milli)| (name.clone(), json!({ "value": q.to_f64() }));
    Value::Object(all.iter().map(one).collect())
}

/// Quota, in the newer words and the older.
pub(super) fn quota(view: &ClusterView) -> Value {
    let set: Vec<(&String, &RoleView)> = view
        .roles
        .iter()
        .filter(|(_, r)| !r.quota.is_empty())
        .collect();
    let scalar = |(name, q): (&String, &waggle_types::Milli)| json!({ "name": name, "type": "SCALAR", "scalar": { "value": q.to_f64() }, "role": "*" });
    let infos = set.iter().map(|(role, r)| {
        let guarantee: Vec<Value> = r.quota.guarantee.iter().map(scalar).collect();
        json!({ "role": role, "guarantee": guarantee })
    });
    let configs = set.iter().map(|(role, r)| {
        json!({
            "role": role,
            "guarantees": quantities(&r.quota.guarantee),
            "limits": quantities(&r.quota.limit),
        })
    });
    json!({ "infos": infos.collect::<Vec<_>>(), "configs": configs.collect::<Vec<_>>() })
}

fn machine(a: &AgentView) -> Value {
    json!({ "hostname": a.info.hostname, "ip": a.info.ip.to_string() })
}

/// Machines with the same window together.
pub(super) fn schedule(view: &ClusterView) -> Value {
    let mut windows: BTreeMap<Unavailability, Vec<Value>> = BTreeMap::new();
    for (agent, window) in &view.maintenance {
        if let Some(a) = view.agents.get(agent) {
            windows.entry(*window).or_default().push(machine(a));
        }
    }
    let one = |(window, machines): (Unavailability, Vec<Value>)| json!({ "machine_ids": machines, "unavailability": shown(&unavailability(&window)) });
    json!({ "windows": windows.into_iter().map(one).collect::<Vec<_>>() })
}

/// Machines whose maintenance is ahead, and those whose has begun.
pub(super) fn maintenance_status(view: &ClusterView) -> Value {
    let (mut draining, mut down) = (Vec::new(), Vec::new());
    for (agent, window) in &view.maintenance {
        let Some(a) = view.agents.get(agent) else {
            continue;
        };
        if window.start > view.at {
            draining.push(json!({ "id": machine(a), "statuses": [] }));
        } else {
            down.push(machine(a));
        }
    }
    json!({ "draining_machines": draining, "down_machines": down })
}

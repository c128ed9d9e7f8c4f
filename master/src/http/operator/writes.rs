//! What operators change.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::Value;
use waggle_api::{
    mesos::{
        json,
        operation::{create, destroy, reserved, resize},
        resources::{self, Paths},
    },
    proto::mesos as pb,
};
use waggle_telemetry::MAX_VERBOSITY;
use waggle_types::{
    AgentId, CallRejection, FrameworkId, Milli, Millis, Operation, OperatorCall, Quota,
    RejectReason, Unavailability, UnixMillis, check_role,
};

use super::super::{Api, now, scheduler::No};
use crate::{error::OperateError, view::ClusterView};

/// Most machines of one window, and windows of one call.
const MAX_MACHINES: usize = 10_000;
/// Longest time for another logging level.
const MAX_LOGGING: Millis = Millis(30 * 86_400_000);
/// Most roles of one call.
const MAX_ROLES: usize = 1000;

pub(super) fn is_known(kind: &str) -> bool {
    [
        "UPDATE_WEIGHTS",
        "RESERVE_RESOURCES",
        "UNRESERVE_RESOURCES",
        "CREATE_VOLUMES",
        "DESTROY_VOLUMES",
        "GROW_VOLUME",
        "SHRINK_VOLUME",
        "UPDATE_MAINTENANCE_SCHEDULE",
        "START_MAINTENANCE",
        "STOP_MAINTENANCE",
        "SET_QUOTA",
        "UPDATE_QUOTA",
        "REMOVE_QUOTA",
        "TEARDOWN",
        "MARK_AGENT_GONE",
        "DRAIN_AGENT",
        "DEACTIVATE_AGENT",
        "REACTIVATE_AGENT",
        "SET_LOGGING_LEVEL",
    ]
    .contains(&kind)
}

/// Does it; answers when it is stored.
pub(super) async fn write(api: &Api, kind: &str, said: &Value) -> Result<(), No> {
    let calls = match kind {
        "UPDATE_WEIGHTS" => weights(&said["weight_infos"])?,
        "RESERVE_RESOURCES" | "UNRESERVE_RESOURCES" => {
            let reserve = kind == "RESERVE_RESOURCES";
            reservations(&agent(said)?, &said["resources"], reserve)?
        }
        "CREATE_VOLUMES" | "DESTROY_VOLUMES" => {
            volumes(&agent(said)?, &said["volumes"], kind == "CREATE_VOLUMES")?
        }
        "GROW_VOLUME" => {
            let by = message::<pb::Resource>("addition", &said["addition"])?;
            let by = by.scalar.map_or(0.0, |s| s.value);
            resized(&agent(said)?, &said["volume"], by)?
        }
        "SHRINK_VOLUME" => {
            let by = message::<pb::ValueScalar>("subtract", &said["subtract"])?;
            resized(&agent(said)?, &said["volume"], -by.value)?
        }
        "UPDATE_MAINTENANCE_SCHEDULE" => schedule(&api.view(), &said["schedule"])?,
        "START_MAINTENANCE" => machines_down(&api.view(), &said["machines"])?,
        "STOP_MAINTENANCE" => machines_up(&api.view(), &said["machines"])?,
        "SET_QUOTA" => vec![old_quota(&said["quota_request"])?],
        "UPDATE_QUOTA" => quota(said)?,
        "REMOVE_QUOTA" => vec![remove_quota(&text("role", &said["role"])?)?],
        "TEARDOWN" => vec![teardown(&text(
            "framework_id.value",
            &said["framework_id"]["value"],
        )?)?],
        "MARK_AGENT_GONE" => vec![OperatorCall::MarkGone {
            agent_id: agent(said)?,
        }],
        "DRAIN_AGENT" => {
            // Mesos has both in the call itself.
            let inner = said.get("drain_config");
            let config = inner.filter(|c| c.is_object()).unwrap_or(said);
            vec![OperatorCall::Drain {
                agent_id: agent(said)?,
                max_grace: duration(&config["max_grace_period"])?,
                mark_gone: config["mark_gone"].as_bool().unwrap_or(false),
            }]
        }
        "DEACTIVATE_AGENT" => vec![OperatorCall::Deactivate {
            agent_id: agent(said)?,
        }],
        "REACTIVATE_AGENT" => vec![OperatorCall::Activate {
            agent_id: agent(said)?,
        }],
        _ => Vec::new(),
    };
    run(api, calls).await
}

/// All of them or none.
pub(super) async fn run(api: &Api, mut calls: Vec<OperatorCall>) -> Result<(), No> {
    let call = match calls.len() {
        0 => return Ok(()),
        1 => calls.remove(0),
        _ => OperatorCall::All(calls),
    };
    match api.handle.operate(call).await {
        Ok(()) => Ok(()),
        Err(OperateError::Refused(all)) => Err(refused(&all)),
        Err(OperateError::Master(e)) => Err(No(StatusCode::SERVICE_UNAVAILABLE, e.to_string())),
    }
}

fn refused(all: &[CallRejection]) -> No {
    let conflict = |r: &CallRejection| {
        !matches!(
            r.reason,
            RejectReason::Invalid | RejectReason::UnknownAgent | RejectReason::UnknownFramework
        )
    };
    let status = if all.iter().any(conflict) {
        StatusCode::CONFLICT
    } else {
        StatusCode::BAD_REQUEST
    };
    let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
    No(status, texts.join("; "))
}

fn text(field: &str, value: &Value) -> Result<String, No> {
    let text = value.as_str().filter(|t| !t.is_empty());
    text.map(ToOwned::to_owned)
        .ok_or_else(|| No::bad(format!("{field}: must be a string")))
}

fn list<'a>(field: &str, value: &'a Value, max: usize) -> Result<&'a Vec<Value>, No> {
    let list = value.as_array();
    let list = list.ok_or_else(|| No::bad(format!("{field}: must be a list")))?;
    if list.len() > max {
        let message = format!("{field}: must be at most {max}, is {}", list.len());
        return Err(No::bad(message));
    }
    Ok(list)
}

fn message<M: DeserializeOwned>(field: &str, value: &Value) -> Result<M, No> {
    json::read(value.to_string().as_bytes()).map_err(|e| No::bad(format!("{field}: {e}")))
}

fn agent(said: &Value) -> Result<AgentId, No> {
    let id = text("agent_id.value", &said["agent_id"]["value"])?;
    agent_id(&id)
}

pub(super) fn agent_id(id: &str) -> Result<AgentId, No> {
    AgentId::new(id).map_err(|e| No::bad(format!("agent_id: {e}")))
}

fn role(value: &Value) -> Result<String, No> {
    let role = text("role", value)?;
    check_role(&role).map_err(|e| No::bad(e.to_string()))?;
    Ok(role)
}

pub(super) fn weights(all: &Value) -> Result<Vec<OperatorCall>, No> {
    let mut out = Vec::new();
    for w in list("weight_infos", all, MAX_ROLES)? {
        let weight = w["weight"].as_f64().filter(|w| *w > 0.0 && *w <= 1e6);
        let weight = weight.ok_or_else(|| No::bad("weight: must be between 0 and 1000000"))?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and 10^9 by the check just above"
        )]
        out.push(OperatorCall::SetWeight {
            role: role(&w["role"])?,
            weight_milli: ((weight * 1000.0).round() as u32).max(1),
        });
    }
    Ok(out)
}

fn resource_list(field: &str, value: &Value) -> Result<Vec<pb::Resource>, No> {
    let all = list(field, value, resources::MAX_RESOURCES)?;
    all.iter().map(|r| message(field, r)).collect()
}

pub(super) fn reservations(
    agent_id: &AgentId,
    all: &Value,
    reserve: bool,
) -> Result<Vec<OperatorCall>, No> {
    let read = resources::read("resources", &resource_list("resources", all)?)?;
    let each = reserved("resources", read, |stack, resources| Operation::Reserve {
        stack,
        resources,
    })?;
    Ok(each
        .into_iter()
        .filter_map(|o| match o {
            Operation::Reserve { stack, resources } if reserve => Some(OperatorCall::Reserve {
                agent_id: agent_id.clone(),
                stack,
                resources,
            }),
            Operation::Reserve { stack, resources } => Some(OperatorCall::Unreserve {
                agent_id: agent_id.clone(),
                stack,
                resources,
            }),
            _ => None,
        })
        .collect())
}

pub(super) fn volumes(
    agent_id: &AgentId,
    all: &Value,
    make: bool,
) -> Result<Vec<OperatorCall>, No> {
    let list = resource_list("volumes", all)?;
    let mut paths = Paths::new();
    let each = if make {
        create("volumes", &list, &mut paths)?
    } else {
        destroy("volumes", &list)?
    };
    Ok(operator_calls(agent_id, each, &paths))
}

fn resized(agent_id: &AgentId, volume: &Value, by: f64) -> Result<Vec<OperatorCall>, No> {
    let volume = message::<pb::Resource>("volume", volume)?;
    let each = resize("volume", &volume, by)?;
    Ok(operator_calls(agent_id, each, &Paths::new()))
}

fn operator_calls(agent_id: &AgentId, each: Vec<Operation>, paths: &Paths) -> Vec<OperatorCall> {
    let agent_id = || agent_id.clone();
    each.into_iter()
        .filter_map(|o| match o {
            Operation::CreateVolume {
                stack,
                volume_id,
                volume,
            } => Some(OperatorCall::CreateVolume {
                agent_id: agent_id(),
                stack,
                mount_path: paths.get(&volume_id).cloned(),
                volume_id,
                volume,
            }),
            Operation::ResizeVolume {
                stack,
                volume_id,
                size,
            } => Some(OperatorCall::ResizeVolume {
                agent_id: agent_id(),
                stack,
                volume_id,
                size,
            }),
            Operation::DestroyVolume { stack, volume_id } => Some(OperatorCall::DestroyVolume {
                agent_id: agent_id(),
                stack,
                volume_id,
            }),
            _ => None,
        })
        .collect()
}

pub(super) fn teardown(id: &str) -> Result<OperatorCall, No> {
    let framework_id = FrameworkId::new(id).map_err(|e| No::bad(format!("framework_id: {e}")))?;
    Ok(OperatorCall::Teardown { framework_id })
}

/// How much the node logs, for how long.
pub(super) fn logging_level(api: &Api, said: &Value) -> Result<(), No> {
    let level = said["level"].as_u64().and_then(|l| u32::try_from(l).ok());
    let level = level.filter(|l| *l <= MAX_VERBOSITY);
    let level =
        level.ok_or_else(|| No::bad(format!("level: must be between 0 and {MAX_VERBOSITY}")))?;
    let lasting = duration(&said["duration"])?;
    let lasting = lasting.filter(|d| (1..=MAX_LOGGING.0).contains(&d.0));
    let lasting = lasting.ok_or_else(|| No::bad("duration: must be over 0 and at most 30days"))?;
    api.telemetry.verbosity().set(level, lasting.as_duration());
    Ok(())
}

/// Nanoseconds, seconds, or text such as `30s`, `5mins`; none when it is not there.
fn duration(value: &Value) -> Result<Option<Millis>, No> {
    let whole = |v: &Value| v.as_u64();
    let ms = match value {
        Value::Null => return Ok(None),
        Value::String(s) => waggle_api::mesos::duration::parse(s).map(|ms| ms.0),
        v => whole(&v["nanoseconds"])
            .map(|ns| ns / 1_000_000)
            .or_else(|| whole(&v["seconds"]).map(|s| s.saturating_mul(1000))),
    };
    let ms = ms.ok_or_else(|| {
        No::bad("duration: must be nanoseconds, seconds or text such as 30s or 5mins")
    })?;
    Ok(Some(Millis(ms)))
}

fn quantities(field: &str, value: &Value) -> Result<BTreeMap<String, Milli>, No> {
    let all = value.as_object().into_iter().flatten();
    all.map(|(name, v)| {
        let q = v["value"].as_f64().unwrap_or(f64::NAN);
        let q = resources::quantity(&format!("{field}.{name}"), q)?;
        Ok((name.clone(), q))
    })
    .collect()
}

pub(super) fn quota(said: &Value) -> Result<Vec<OperatorCall>, No> {
    let force = said["force"].as_bool().unwrap_or(false);
    let mut out = Vec::new();
    for c in list("quota_configs", &said["quota_configs"], MAX_ROLES)? {
        out.push(OperatorCall::SetQuota {
            role: role(&c["role"])?,
            quota: Quota {
                guarantee: quantities("guarantees", &c["guarantees"])?,
                limit: quantities("limits", &c["limits"])?,
            },
            force,
        });
    }
    Ok(out)
}

/// Before Mesos 1.9 a guarantee was a limit, too.
pub(super) fn old_quota(said: &Value) -> Result<OperatorCall, No> {
    let mut guarantee = BTreeMap::new();
    for r in resource_list("guarantee", &said["guarantee"])? {
        let value = r.scalar.map_or(f64::NAN, |s| s.value);
        let q = resources::quantity(&format!("guarantee.{}", r.name), value)?;
        guarantee.insert(r.name, q);
    }
    Ok(OperatorCall::SetQuota {
        role: role(&said["role"])?,
        quota: Quota {
            limit: guarantee.clone(),
            guarantee,
        },
        force: said["force"].as_bool().unwrap_or(false),
    })
}

pub(super) fn remove_quota(role: &str) -> Result<OperatorCall, No> {
    check_role(role).map_err(|e| No::bad(e.to_string()))?;
    Ok(OperatorCall::SetQuota {
        role: role.to_owned(),
        quota: Quota::default(),
        force: true,
    })
}

/// Which agents are on which machines.
struct Machines<'a> {
    by_host: BTreeMap<String, BTreeSet<&'a AgentId>>,
    by_ip: BTreeMap<String, BTreeSet<&'a AgentId>>,
}

impl<'a> Machines<'a> {
    fn of(view: &'a ClusterView) -> Self {
        let (mut by_host, mut by_ip) = (BTreeMap::new(), BTreeMap::new());
        let put = |to: &mut BTreeMap<String, BTreeSet<&'a AgentId>>, key, id| {
            to.entry(key).or_default().insert(id);
        };
        for info in view.agents.values().map(|a| &a.info) {
            let host = info.hostname.to_ascii_lowercase();
            put(&mut by_host, host, &info.agent_id);
            put(&mut by_ip, info.ip.to_string(), &info.agent_id);
        }
        Self { by_host, by_ip }
    }

    /// The agents on machines that a call names: by host name in any case, by address, or by both.
    fn named(&self, field: &str, all: &Value) -> Result<Vec<AgentId>, No> {
        let none = BTreeSet::new();
        let mut out = BTreeSet::new();
        for m in list(field, all, MAX_MACHINES)? {
            let (host, ip) = (m["hostname"].as_str(), m["ip"].as_str());
            let (host, ip) = (host.filter(|h| !h.is_empty()), ip.filter(|i| !i.is_empty()));
            let on_host = host.map(|h| self.by_host.get(&h.to_ascii_lowercase()).unwrap_or(&none));
            let on_ip = ip.map(|i| self.by_ip.get(i).unwrap_or(&none));
            let found: BTreeSet<&AgentId> = match (on_host, on_ip) {
                (Some(a), Some(b)) => a & b,
                (Some(one), None) | (None, Some(one)) => one.clone(),
                (None, None) => {
                    let message = format!("{field}: both 'hostname' and 'ip' are empty");
                    return Err(No::bad(message));
                }
            };
            if found.is_empty() {
                let named = host.or(ip).unwrap_or_default();
                return Err(No::bad(format!(
                    "{field}: no agent is on machine {named:.80?}"
                )));
            }
            out.extend(found);
        }
        Ok(out.into_iter().cloned().collect())
    }
}

/// The whole schedule: machines that are not in it have none any more.
pub(super) fn schedule(view: &ClusterView, said: &Value) -> Result<Vec<OperatorCall>, No> {
    let empty = Value::Array(Vec::new());
    let windows = said.get("windows").unwrap_or(&empty);
    let machines = Machines::of(view);
    let (mut out, mut named) = (Vec::new(), BTreeSet::new());
    for w in list("schedule.windows", windows, MAX_MACHINES)? {
        let agent_ids = machines.named("machine_ids", &w["machine_ids"])?;
        for id in &agent_ids {
            if !named.insert(id.clone()) {
                return Err(No::bad(format!("schedule: agent {id} is in two windows")));
            }
        }
        let u = &w["unavailability"];
        let start = u["start"]["nanoseconds"].as_u64();
        let start = start.ok_or_else(|| No::bad("unavailability.start.nanoseconds: is missing"))?;
        out.push(OperatorCall::SetMaintenance {
            agent_ids,
            window: Some(Unavailability {
                start: UnixMillis(start / 1_000_000),
                duration: duration(&u["duration"])?,
            }),
        });
    }
    let over: Vec<AgentId> = view
        .maintenance
        .keys()
        .filter(|id| !named.contains(*id))
        .cloned()
        .collect();
    if !over.is_empty() {
        out.push(OperatorCall::SetMaintenance {
            agent_ids: over,
            window: None,
        });
    }
    Ok(out)
}

/// Their maintenance begins now; it must have been planned.
pub(super) fn machines_down(view: &ClusterView, all: &Value) -> Result<Vec<OperatorCall>, No> {
    let mut out = Vec::new();
    for id in Machines::of(view).named("machines", all)? {
        let Some(window) = view.maintenance.get(&id) else {
            let message = format!("machines: agent {id} is not in the maintenance schedule");
            return Err(No::bad(message));
        };
        let start = window.start.min(now());
        out.push(OperatorCall::SetMaintenance {
            agent_ids: vec![id],
            window: Some(Unavailability { start, ..*window }),
        });
    }
    Ok(out)
}

/// Their maintenance is over.
pub(super) fn machines_up(view: &ClusterView, all: &Value) -> Result<Vec<OperatorCall>, No> {
    let agent_ids = Machines::of(view).named("machines", all)?;
    if agent_ids.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![OperatorCall::SetMaintenance {
        agent_ids,
        window: None,
    }])
}

//! What operators ask: read strictly, done by the core, answered with how things are then.

use std::collections::BTreeSet;

use axum::{body::Body, response::Response};
use serde::Serialize;
use serde_json::Value;
use waggle_api::native::{
    Refusal, WeightView,
    request::{self, Invalid},
};
use waggle_types::{AgentId, FieldError, OperatorCall, Quota, check_role};

use super::{find, maintenance, reservations, roles};
use crate::{
    error::OperateError,
    http::{
        Api,
        request::Call,
        respond::{Fail, ok},
    },
    view::RoleView,
};

/// Of a role whose weight is not set.
const DEFAULT_WEIGHT: u32 = 1000;

pub(super) async fn set_weight(
    api: &Api,
    call: &Call,
    body: Body,
    role: &str,
) -> Result<Response, Fail> {
    let role = checked(role)?;
    let weight_milli = read(call, body, request::weight).await?;
    weigh(api, role, weight_milli).await
}

pub(super) async fn remove_weight(api: &Api, role: &str) -> Result<Response, Fail> {
    let role = checked(role)?;
    let view = api.view();
    let has = |r: &RoleView| r.weight_milli != DEFAULT_WEIGHT;
    if !view.roles.get(&role).is_some_and(has) {
        let said = "has no weight of its own";
        return Err(find::no_role(&view, &role, said, has));
    }
    weigh(api, role, DEFAULT_WEIGHT).await
}

async fn weigh(api: &Api, role: String, weight_milli: u32) -> Result<Response, Fail> {
    let answer = WeightView::new(&role, weight_milli);
    run(api, OperatorCall::SetWeight { role, weight_milli }).await?;
    Ok(ok(&answer))
}

pub(super) async fn set_quota(
    api: &Api,
    call: &Call,
    body: Body,
    role: &str,
) -> Result<Response, Fail> {
    let role = checked(role)?;
    let force = call.query.flag("force", false)?;
    let quota = read(call, body, request::quota).await?;
    let set = OperatorCall::SetQuota {
        role: role.clone(),
        quota,
        force,
    };
    run(api, set).await?;
    Ok(ok(&roles::quota(&api.view(), &role)))
}

pub(super) async fn remove_quota(api: &Api, call: &Call, role: &str) -> Result<Response, Fail> {
    let role = checked(role)?;
    let force = call.query.flag("force", false)?;
    let view = api.view();
    let has = |r: &RoleView| !r.quota.is_empty();
    if !view.roles.get(&role).is_some_and(has) {
        return Err(find::no_role(&view, &role, "has no quota", has));
    }
    let quota = Quota::default();
    let remove = OperatorCall::SetQuota {
        role: role.clone(),
        quota,
        force,
    };
    run(api, remove).await?;
    Ok(ok(&roles::quota(&api.view(), &role)))
}

/// Reserves, or unreserves.
pub(super) async fn reserve(
    api: &Api,
    call: &Call,
    body: Body,
    reserve: bool,
) -> Result<Response, Fail> {
    let asked = read(call, body, request::reservation).await?;
    let agent_id = find::agent(&api.view(), &asked.agent)?;
    let (stack, resources) = (asked.stack, asked.resources);
    let of = agent_id.clone();
    let operation = if reserve {
        OperatorCall::Reserve {
            agent_id,
            stack,
            resources,
        }
    } else {
        OperatorCall::Unreserve {
            agent_id,
            stack,
            resources,
        }
    };
    run(api, operation).await?;
    Ok(ok(&reservations::list(&api.view(), Some(&of))))
}

pub(super) async fn create_volume(api: &Api, call: &Call, body: Body) -> Result<Response, Fail> {
    let asked = read(call, body, request::create_volume).await?;
    let agent_id = find::agent(&api.view(), &asked.agent)?;
    let create = OperatorCall::CreateVolume {
        agent_id: agent_id.clone(),
        stack: asked.stack,
        volume_id: asked.volume_id,
        volume: asked.volume,
        mount_path: None,
    };
    run(api, create).await?;
    Ok(ok(&reservations::list(&api.view(), Some(&agent_id))))
}

pub(super) async fn resize_volume(api: &Api, call: &Call, body: Body) -> Result<Response, Fail> {
    let asked = read(call, body, request::resize_volume).await?;
    let agent_id = find::agent(&api.view(), &asked.agent)?;
    let resize = OperatorCall::ResizeVolume {
        agent_id: agent_id.clone(),
        stack: asked.stack,
        volume_id: asked.volume_id,
        size: asked.size,
    };
    run(api, resize).await?;
    Ok(ok(&reservations::list(&api.view(), Some(&agent_id))))
}

pub(super) async fn destroy_volume(api: &Api, call: &Call, body: Body) -> Result<Response, Fail> {
    let asked = read(call, body, request::destroy_volume).await?;
    let agent_id = find::agent(&api.view(), &asked.agent)?;
    let destroy = OperatorCall::DestroyVolume {
        agent_id: agent_id.clone(),
        stack: asked.stack,
        volume_id: asked.volume_id,
    };
    run(api, destroy).await?;
    Ok(ok(&reservations::list(&api.view(), Some(&agent_id))))
}

pub(super) async fn schedule(api: &Api, call: &Call, body: Body) -> Result<Response, Fail> {
    let asked = read(call, body, request::maintenance).await?;
    maintain(api, &asked.agents, Some(asked.window)).await
}

pub(super) async fn cancel(api: &Api, call: &Call, body: Body) -> Result<Response, Fail> {
    let agents = read(call, body, request::cancel_maintenance).await?;
    maintain(api, &agents, None).await
}

async fn maintain(
    api: &Api,
    agents: &[String],
    window: Option<waggle_types::Unavailability>,
) -> Result<Response, Fail> {
    let view = api.view();
    let mut agent_ids: Vec<AgentId> = Vec::with_capacity(agents.len());
    let mut seen = BTreeSet::new();
    let names = find::Hostnames::of(&view);
    for (i, name) in agents.iter().enumerate() {
        let id = names.agent(name)?;
        if !seen.insert(id.clone()) {
            let rule = format!("must be named once, is {name:?}");
            let twice = FieldError::new(format!("agents[{i}]"), rule);
            return Err(Fail::refused(Refusal::invalid(&[twice])));
        }
        agent_ids.push(id);
    }
    let set = OperatorCall::SetMaintenance { agent_ids, window };
    run(api, set).await?;
    Ok(ok(&maintenance::list(&api.view(), Some(&seen))))
}

/// What became of a node.
#[derive(Debug, Serialize)]
struct NodeMode {
    id: String,
    hostname: String,
    mode: &'static str,
    tasks: usize,
}

pub(super) async fn node(
    api: &Api,
    call: &Call,
    body: Body,
    id: &str,
    verb: &str,
) -> Result<Response, Fail> {
    let before = api.view();
    let agent_id = find::agent(&before, id)?;
    let of = agent_id.clone();
    let operation = if verb == "drain" {
        let how = read(call, body, request::drain).await?;
        OperatorCall::Drain {
            agent_id,
            max_grace: how.max_grace,
            mark_gone: how.mark_gone,
        }
    } else {
        read(call, body, request::nothing).await?;
        match verb {
            "deactivate" => OperatorCall::Deactivate { agent_id },
            "activate" => OperatorCall::Activate { agent_id },
            _ => OperatorCall::MarkGone { agent_id },
        }
    };
    run(api, operation).await?;
    let after = api.view();
    let (now, then) = (after.agents.get(&of), before.agents.get(&of));
    let known = now.or(then);
    let tasks = after.tasks.values().filter(|t| *t.agent_id() == of);
    Ok(ok(&NodeMode {
        id: of.to_string(),
        hostname: known.map(|a| a.info.hostname.clone()).unwrap_or_default(),
        mode: now.map_or("gone", |a| a.mode.name()),
        tasks: tasks.count(),
    }))
}

pub(super) async fn teardown(api: &Api, id: &str) -> Result<Response, Fail> {
    let view = api.view();
    let framework_id = find::framework(&view, id)?;
    let gone = roles::framework(&view, &framework_id);
    run(api, OperatorCall::Teardown { framework_id }).await?;
    Ok(ok(&gone))
}

/// Does it; answers when it is on disk and in the view.
pub(super) async fn run(api: &Api, call: OperatorCall) -> Result<(), Fail> {
    match api.handle.operate(call).await {
        Ok(()) => Ok(()),
        Err(OperateError::Refused(reasons)) => Err(find::refused(&api.view(), reasons)),
        Err(OperateError::Master(e)) => Err(e.into()),
    }
}

pub(super) async fn read<T>(
    call: &Call,
    body: Body,
    with: fn(&Value) -> Result<T, Invalid>,
) -> Result<T, Fail> {
    let body = call.json_or_null(body).await?;
    with(&body).map_err(|errors| Fail::refused(Refusal::invalid(&errors)))
}

fn checked(role: &str) -> Result<String, Fail> {
    match check_role(role) {
        Ok(()) => Ok(role.to_owned()),
        Err(e) => Err(Fail::refused(Refusal::invalid(&[e]))),
    }
}

//! Pods: list, show, create, change, remove, and end single instances.

mod status;

use std::collections::BTreeSet;

use axum::{
    body::Body,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use waggle_api::{
    error::ApiError,
    marathon::{pod_from_value, pod_json},
};
use waggle_types::{ServiceId, ServiceSpec, TaskId};

use super::{
    super::{
        Api, now,
        request::Call,
        respond::{Fail, json as answer, ok},
    },
    apps::kept,
    events::{self, Origin},
    service_id, with_deployment,
};
use crate::{handle::PutMode, view::ClusterView};

/// What follows an id: `/v2/pods/shop/cart::status`.
const MARK: &str = "::";

/// Below `/v2/pods`.
pub(super) async fn route(
    api: &Api,
    call: &Call,
    body: Body,
    rest: &[&str],
) -> Result<Response, Fail> {
    let path = rest.join("/");
    let Some((id, what)) = path.split_once(MARK) else {
        return pods(api, call, body, rest).await;
    };
    let segments: Vec<&str> = id.split('/').filter(|s| !s.is_empty()).collect();
    let (what, of) = match what.split_once('/') {
        Some((what, of)) => (what, Some(of)),
        None => (what, None),
    };
    match (segments.is_empty(), what, of) {
        (true, "status", None) => match call.method {
            Method::GET => Ok(ok(&status::all(&api.view()))),
            _ => Err(Fail::method(call, "GET")),
        },
        (false, "status", None) => match call.method {
            Method::GET => {
                let id = service_id(&segments)?;
                let view = api.view();
                let pod = view.pod(&id).ok_or_else(|| no_such_pod(&id))?;
                Ok(ok(&status::one(&view, pod)))
            }
            _ => Err(Fail::method(call, "GET")),
        },
        (false, "versions", version) => match call.method {
            Method::GET => versions(api, &service_id(&segments)?, version),
            _ => Err(Fail::method(call, "GET")),
        },
        (false, "instances", instance) => match call.method {
            Method::DELETE => kill(api, call, body, &service_id(&segments)?, instance).await,
            _ => Err(Fail::method(call, "DELETE")),
        },
        _ => Err(Fail::no_such_path(call)),
    }
}

async fn pods(api: &Api, call: &Call, body: Body, rest: &[&str]) -> Result<Response, Fail> {
    if rest.is_empty() {
        return match call.method {
            // Says that there are pods here.
            Method::HEAD => Ok(StatusCode::OK.into_response()),
            Method::GET => {
                let view = api.view();
                let all: Vec<Value> = view.pods().filter_map(|s| pod_json(&s.spec)).collect();
                Ok(ok(&all))
            }
            Method::POST => create(api, call, body).await,
            _ => Err(Fail::method(call, "GET, HEAD, POST")),
        };
    }
    let id = service_id(rest)?;
    match call.method {
        Method::GET => {
            let view = api.view();
            let pod = view.pod(&id).ok_or_else(|| no_such_pod(&id))?;
            Ok(ok(&pod_json(&pod.spec)))
        }
        Method::PUT => update(api, call, body, &id).await,
        Method::DELETE => remove(api, call, &id).await,
        _ => Err(Fail::method(call, "GET, PUT, DELETE")),
    }
}

fn no_such_pod(id: &ServiceId) -> Fail {
    Fail::not_found(format!("Pod '{id}' does not exist"))
}

async fn create(api: &Api, call: &Call, body: Body) -> Result<Response, Fail> {
    let spec = pod_from_value(&call.json(body).await?, None, now())?;
    let id = spec.id.clone();
    let _one_at_a_time = api.exclusive().await;
    let mut response = put(api, call, spec, PutMode::Create, StatusCode::CREATED).await?;
    if let Ok(at) = HeaderValue::from_str(&format!("/v2/pods{id}")) {
        response.headers_mut().insert(header::LOCATION, at);
    }
    Ok(response)
}

/// All of the definition: what is not in it has its default.
async fn update(api: &Api, call: &Call, body: Body, id: &ServiceId) -> Result<Response, Fail> {
    let spec = pod_from_value(&call.json(body).await?, Some(id), now())?;
    let _one_at_a_time = api.exclusive().await;
    if api.view().pod(id).is_none() {
        return Err(no_such_pod(id));
    }
    put(api, call, spec, PutMode::Update, StatusCode::OK).await
}

/// Stores a definition, waits until reads show it, and answers with it.
async fn put(
    api: &Api,
    call: &Call,
    spec: ServiceSpec,
    mode: PutMode,
    status: StatusCode,
) -> Result<Response, Fail> {
    let force = call.query.flag("force", false)?;
    let id = spec.id.clone();
    let done = api
        .handle
        .put_service(spec.clone(), mode, force, call.trace())
        .await?;
    let spec = ServiceSpec {
        version: done.version,
        ..spec
    };
    let kind = match mode {
        PutMode::Create => "pod_created_event",
        PutMode::Update | PutMode::Upsert => "pod_updated_event",
    };
    events::pod(api, &Origin::of(call), kind);
    let shows = |v: &ClusterView| v.pod(&id).is_some_and(|s| s.spec.version >= done.version);
    api.settled(shows).await;
    // The definition as stored, not what may already have become of it.
    Ok(with_deployment(answer(status, &pod_json(&spec)), &done))
}

async fn remove(api: &Api, call: &Call, id: &ServiceId) -> Result<Response, Fail> {
    let force = call.query.flag("force", false)?;
    let _one_at_a_time = api.exclusive().await;
    if api.view().pod(id).is_none() {
        return Err(no_such_pod(id));
    }
    let done = api
        .handle
        .remove_service(id.clone(), force, call.trace())
        .await?;
    events::pod(api, &Origin::of(call), "pod_deleted_event");
    api.settled(|v| v.pod(id).is_none()).await;
    let accepted = StatusCode::ACCEPTED.into_response();
    Ok(with_deployment(accepted, &done))
}

/// Kept versions, newest first, or the definition of one.
fn versions(api: &Api, id: &ServiceId, version: Option<&str>) -> Result<Response, Fail> {
    let view = api.view();
    let pod = view.pod(id).ok_or_else(|| no_such_pod(id))?;
    match version {
        None => {
            let newest_first = pod.versions.iter().rev();
            let all: Vec<String> = newest_first.map(|s| s.version.to_string()).collect();
            Ok(ok(&all))
        }
        Some(version) => Ok(ok(&pod_json(kept(pod, version)?))),
    }
}

/// Ends instances, which are replaced: the one of the path, or those of the body. Answers with what they were. Of those of
/// a body that are not there the others know nothing, as in Marathon, unless the request is `strict`: then all end, or none.
async fn kill(
    api: &Api,
    call: &Call,
    body: Body,
    id: &ServiceId,
    instance: Option<&str>,
) -> Result<Response, Fail> {
    let wipe = call.query.flag("wipe", false)?;
    let wanted: BTreeSet<String> = match instance {
        Some(one) => BTreeSet::from([one.to_owned()]),
        None => instances(&call.json(body).await?)?,
    };
    let view = api.view();
    let pod = view.pod(id).ok_or_else(|| no_such_pod(id))?;
    let found = pod.instances.iter();
    let found: Vec<_> = found
        .filter(|i| wanted.contains(i.task_id.as_str()))
        .collect();
    let ids: Vec<TaskId> = found.iter().map(|i| i.task_id.clone()).collect();
    let strict = instance.is_some() || call.query.flag("strict", false)?;
    let missing = |one: &&String| !ids.iter().any(|i| i.as_str() == one.as_str());
    if let Some(one) = wanted.iter().find(missing).filter(|_| strict) {
        let message = format!("Pod '{id}' has no instance '{one}'");
        return Err(Fail::not_found(message));
    }
    let told: Vec<Value> = found
        .iter()
        .map(|i| {
            json!({
                "instanceId": { "idString": i.task_id.as_str() },
                "agentInfo": { "host": i.hostname, "agentId": i.agent_id.as_str() },
                "runSpecVersion": i.version.to_string(),
                "tasks": i.containers.iter().map(TaskId::as_str).collect::<Vec<_>>(),
            })
        })
        .collect();
    if !ids.is_empty() {
        api.handle
            .kill_tasks(ids, (false, wipe), false, call.trace())
            .await?;
    }
    Ok(match (instance, told.first()) {
        (Some(_), Some(one)) => ok(one),
        _ => ok(&told),
    })
}

fn instances(body: &Value) -> Result<BTreeSet<String>, ApiError> {
    let Value::Array(ids) = body else {
        return Err(ApiError::invalid("instances", "must be a list of strings"));
    };
    let each = ids.iter().enumerate().map(|(i, id)| {
        let text = id.as_str().map(ToOwned::to_owned);
        text.ok_or_else(|| ApiError::invalid(format!("instances[{i}]"), "must be a string"))
    });
    each.collect()
}

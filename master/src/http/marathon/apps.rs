//! Apps: list, show, create, change, remove.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderValue, Method, StatusCode, header},
    response::Response,
};
use serde_json::Value;
use waggle_api::{
    error::ApiError,
    marathon::{
        App, AppList, AppVersions, Counts, ParseMode, ReadinessCheckResult, TaskFailure,
        WrappedApp, app_from_value, app_json, parse_version, readiness_results, task_stats,
    },
};
use waggle_types::{ServiceId, ServiceSpec, ServiceVersion, TraceContext, UnixMillis};

use super::{
    super::{
        Api, now,
        request::Call,
        respond::{Fail, json, ok},
    },
    deployed,
    events::{self, Origin},
    labels::Selector,
    no_such_app, tasks, with_deployment,
};
use crate::{
    core::TreeRequest,
    handle::{Deployment, PutMode},
    view::{ClusterView, LastFailure, ServiceView},
};

/// What to embed into an app; counts and deployments always are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Embed {
    pub tasks: bool,
    pub last_failure: bool,
    pub readiness: bool,
    /// Of this moment.
    pub stats: Option<UnixMillis>,
}

pub(super) fn app(service: &ServiceView, embed: Embed) -> App {
    let counts = Counts {
        staged: service.staged,
        running: service.running,
        healthy: service.healthy,
        unhealthy: service.unhealthy,
    };
    let deployments = service.deployments.iter().map(ToString::to_string);
    let mut app = app_json(&service.spec, counts, deployments.collect());
    app.version_info.last_config_change_at = service.configured_at.to_string();
    app.tasks = embed.tasks.then(|| tasks::of(service));
    app.readiness_check_results =
        Some(readiness(service, None)).filter(|r| embed.readiness && !r.is_empty());
    app.task_stats = embed.stats.map(|now| {
        let instances: Vec<_> = service.instances.iter().map(tasks::instance).collect();
        let versions = (service.spec.version, service.configured_at);
        task_stats(&instances, versions, now)
    });
    app.last_task_failure = service
        .last_failure
        .as_ref()
        .filter(|_| embed.last_failure)
        .map(|f| failure(&service.spec.id, f));
    app
}

/// What the readiness checks of a service's instances say, of all or of those of one version.
pub(super) fn readiness(
    service: &ServiceView,
    version: Option<ServiceVersion>,
) -> Vec<ReadinessCheckResult> {
    let each = service.instances.iter();
    let each = each.filter(|i| version.is_none_or(|v| i.version == v));
    each.flat_map(|i| readiness_results(&service.spec, &i.task_id, i.ready, &i.responses))
        .collect()
}

fn failure(id: &ServiceId, f: &LastFailure) -> TaskFailure {
    TaskFailure {
        app_id: id.to_string(),
        host: f.hostname.clone(),
        message: f.message.clone(),
        instance_id: f.task_id.instance().to_owned(),
        task_id: f.task_id.to_string(),
        slave_id: f.agent_id.to_string(),
        state: f.state.mesos_name().to_owned(),
        timestamp: ServiceVersion(f.at).to_string(),
        version: f.version.to_string(),
    }
}

pub(super) fn list(api: &Api, call: &Call) -> Result<Response, Fail> {
    let selectors = call
        .query
        .all("label")
        .map(Selector::parse)
        .collect::<Result<Vec<_>, ApiError>>()?;
    let wants = |names: &[&str]| call.query.all("embed").any(|e| names.contains(&e));
    let embed = Embed {
        tasks: wants(&["apps.tasks", "app.tasks"]),
        last_failure: wants(&[
            "apps.lastTaskFailure",
            "apps.failures",
            "app.lastTaskFailure",
        ]),
        readiness: wants(&["apps.readiness", "app.readiness"]),
        stats: wants(&["apps.taskStats", "app.taskStats"]).then(now),
    };
    let view = api.view();
    let cmd = |s: &ServiceSpec| match &s.command {
        waggle_types::Command::Shell(text) => text.clone(),
        waggle_types::Command::Argv(args) | waggle_types::Command::Image(args) => args.join(" "),
        waggle_types::Command::Executor => String::new(),
    };
    let apps = view
        .apps()
        .filter(|s| {
            call.query
                .all("id")
                .all(|id| s.spec.id.as_str().contains(id))
        })
        .filter(|s| call.query.all("cmd").all(|c| cmd(&s.spec).contains(c)))
        .filter(|s| selectors.iter().all(|sel| sel.matches(&s.spec.labels)))
        .map(|s| app(s, embed));
    Ok(ok(&AppList {
        apps: apps.collect(),
    }))
}

pub(super) fn show(api: &Api, call: &Call, id: &ServiceId) -> Result<Response, Fail> {
    let view = api.view();
    let service = view.app(id).ok_or_else(|| no_such_app(id))?;
    let mut asked = call.query.all("embed");
    let stats = asked.any(|e| e == "app.taskStats");
    let embed = Embed {
        tasks: true,
        last_failure: true,
        readiness: true,
        stats: stats.then(now),
    };
    Ok(ok(&WrappedApp {
        app: app(service, embed),
    }))
}

/// Stores a definition, then waits until reads show it.
async fn put(
    api: &Api,
    spec: ServiceSpec,
    mode: PutMode,
    flags: Flags,
) -> Result<Deployment, Fail> {
    let id = spec.id.clone();
    let mut said = spec.clone();
    let (force, trace) = (flags.force, flags.trace);
    let done = api.handle.put_service(spec, mode, force, trace).await?;
    said.version = done.version;
    events::posted(api, &flags.origin, &said);
    api.settled(|v| shows(v, &id, &done)).await;
    Ok(done)
}

fn shows(view: &ClusterView, id: &ServiceId, done: &Deployment) -> bool {
    let service = view.services.get(id);
    service.is_some_and(|s| s.spec.version >= done.version)
}

pub(super) async fn create(api: &Api, call: &Call, body: Body) -> Result<Response, Fail> {
    let flags = Flags::of(call)?;
    let spec = app_from_value(&call.json(body).await?, ParseMode::Create, now())?;
    let done = put(api, spec.clone(), PutMode::Create, flags).await?;
    // The definition as stored, not what may already have become of it.
    let stored = stored(&api.view(), &spec.id, done.version);
    let spec = stored.unwrap_or_else(|| {
        Arc::new(ServiceSpec {
            version: done.version,
            ..spec
        })
    });
    let mut app = app_json(&spec, Counts::default(), vec![done.id.to_string()]);
    app.tasks = Some(Vec::new());
    let mut response = with_deployment(json(StatusCode::CREATED, &app), &done);
    if let Ok(at) = HeaderValue::from_str(&format!("/v2/apps{}", spec.id)) {
        response.headers_mut().insert(header::LOCATION, at);
    }
    Ok(response)
}

/// A definition that is kept: as it was given, and with what the master added.
fn stored(view: &ClusterView, id: &ServiceId, version: ServiceVersion) -> Option<Arc<ServiceSpec>> {
    let kept = view.services.get(id)?.versions.iter();
    kept.rev().find(|s| s.version == version).cloned()
}

pub(super) async fn put_one(
    api: &Api,
    call: &Call,
    body: Body,
    id: &ServiceId,
) -> Result<Response, Fail> {
    let (method, flags) = (call.method.clone(), Flags::of(call)?);
    let body = call.json(body).await?;
    change(api, &method, &body, id, flags).await
}

/// A list of apps, each as a PUT of its own would have it: all of it or nothing.
pub(super) async fn put_many(api: &Api, call: &Call, body: Body) -> Result<Response, Fail> {
    let (method, flags) = (call.method.clone(), Flags::of(call)?);
    let body = call.json(body).await?;
    let Value::Array(apps) = &body else {
        return Err(ApiError::invalid("apps", "must be a list").into());
    };
    let _one_at_a_time = api.exclusive().await;
    let view = api.view();
    let mut specs: BTreeMap<ServiceId, ServiceSpec> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (i, app) in apps.iter().enumerate() {
        let place = format!("apps[{i}].");
        match one_of_many(&view, &method, app, &flags) {
            Ok(spec) if specs.contains_key(&spec.id) => {
                let twice = ApiError::invalid("id", format!("{} is there twice", spec.id));
                wrong.extend(twice.within(&place).details);
            }
            Ok(spec) => {
                specs.insert(spec.id.clone(), spec);
            }
            // All that is wrong in all of them is said at once.
            Err(f) => wrong.extend(f.within(&place).into_details()?),
        }
    }
    if !wrong.is_empty() {
        return Err(ApiError::all_of(wrong).into());
    }
    let said = specs.clone();
    let request = TreeRequest::Services(specs.into_values().collect());
    let done = api
        .handle
        .change_tree(request, flags.force, flags.trace)
        .await?;
    for spec in said.into_values() {
        let version = done.version;
        events::posted(api, &flags.origin, &ServiceSpec { version, ..spec });
    }
    api.settled(|v| v.at >= done.version.0).await;
    Ok(deployed(StatusCode::OK, &done))
}

/// What one of several apps is to be.
fn one_of_many(
    view: &ClusterView,
    method: &Method,
    app: &Value,
    flags: &Flags,
) -> Result<ServiceSpec, Fail> {
    let id = app.get("id").and_then(Value::as_str);
    let id = id.ok_or_else(|| ApiError::invalid("id", "must be set"))?;
    let id = ServiceId::new(id).map_err(|e| ApiError::invalid("id", e.to_string()))?;
    wanted(view, method, app, &id, flags)
}

/// Query and headers of a change.
#[derive(Debug, Clone)]
struct Flags {
    force: bool,
    partial: bool,
    trace: Option<TraceContext>,
    origin: Origin,
}

impl Flags {
    fn of(call: &Call) -> Result<Self, ApiError> {
        Ok(Self {
            force: call.query.flag("force", false)?,
            partial: call.query.flag("partialUpdate", true)?,
            trace: call.trace(),
            origin: Origin::of(call),
        })
    }
}

/// PUT creates what is not there (201), PATCH does not.
async fn change(
    api: &Api,
    method: &Method,
    body: &Value,
    id: &ServiceId,
    flags: Flags,
) -> Result<Response, Fail> {
    let _one_at_a_time = api.exclusive().await;
    let view = api.view();
    let spec = wanted(&view, method, body, id, &flags)?;
    let (mode, status) = match (method, view.services.contains_key(id)) {
        (&Method::PATCH, _) => (PutMode::Update, StatusCode::OK),
        (_, true) => (PutMode::Upsert, StatusCode::OK),
        (_, false) => (PutMode::Upsert, StatusCode::CREATED),
    };
    let done = put(api, spec, mode, flags).await?;
    Ok(deployed(status, &done))
}

/// What a PUT or PATCH makes of what is there.
fn wanted(
    view: &ClusterView,
    method: &Method,
    body: &Value,
    id: &ServiceId,
    flags: &Flags,
) -> Result<ServiceSpec, Fail> {
    let service = view.app(id);
    let patch = *method == Method::PATCH;
    if service.is_none() && patch {
        return Err(no_such_app(id));
    }
    if let (Some(service), Some(version)) = (service, rollback(body)) {
        return Ok(kept(service, version)?.as_ref().clone());
    }
    let parse = ParseMode::Put {
        id,
        existing: service.map(|s| s.spec.as_ref()),
        partial: patch || flags.partial,
    };
    Ok(app_from_value(body, parse, now())?)
}

/// `{"version": v}`, with nothing but the id besides, asks for an older definition.
fn rollback(body: &Value) -> Option<&str> {
    let given = body.as_object()?;
    let alone = given
        .iter()
        .all(|(k, v)| v.is_null() || k == "id" || k == "version");
    given.get("version").filter(|_| alone)?.as_str()
}

/// A kept definition, by its version as text.
pub(super) fn kept<'a>(
    service: &'a ServiceView,
    version: &str,
) -> Result<&'a Arc<ServiceSpec>, Fail> {
    let newest = &service.spec;
    let Some(wanted) = parse_version(version) else {
        let rule = format!(
            "must be a timestamp such as {}, is {version:?}",
            newest.version
        );
        return Err(ApiError::invalid("version", rule).into());
    };
    let all = service.versions.iter().chain([newest]);
    all.into_iter()
        .find(|s| s.version == wanted)
        .ok_or_else(|| {
            let id = &newest.id;
            let what = if newest.pod.is_some() { "Pod" } else { "App" };
            let oldest = service.versions.first().unwrap_or(newest).version;
            Fail::not_found(format!(
                "{what} '{id}' does not have version {version}; the oldest that is kept is {oldest}"
            ))
        })
}

/// Replaces all instances by fresh ones of the same definition.
pub(super) async fn restart(api: &Api, call: &Call, id: &ServiceId) -> Result<Response, Fail> {
    let force = call.query.flag("force", false)?;
    let _one_at_a_time = api.exclusive().await;
    if api.view().pod(id).is_some() {
        return Err(no_such_app(id));
    }
    let done = api
        .handle
        .restart_service(id.clone(), force, call.trace())
        .await?;
    api.settled(|v| shows(v, id, &done)).await;
    Ok(deployed(StatusCode::OK, &done))
}

pub(super) async fn remove(api: &Api, call: &Call, id: &ServiceId) -> Result<Response, Fail> {
    let force = call.query.flag("force", false)?;
    let view = api.view();
    if view.pod(id).is_some() {
        return Err(no_such_app(id));
    }
    let done = api
        .handle
        .remove_service(id.clone(), force, call.trace())
        .await?;
    if let Some(service) = view.services.get(id) {
        events::posted(api, &Origin::of(call), &service.spec);
    }
    api.settled(|v| !v.services.contains_key(id) || v.deployments.contains_key(&done.id))
        .await;
    Ok(deployed(StatusCode::OK, &done))
}

/// Kept versions, newest first.
pub(super) fn versions(api: &Api, id: &ServiceId) -> Result<Response, Fail> {
    let view = api.view();
    let service = view.app(id).ok_or_else(|| no_such_app(id))?;
    let kept = service.versions.iter().rev();
    Ok(ok(&AppVersions {
        versions: kept.map(|s| s.version.to_string()).collect(),
    }))
}

/// A kept definition: the app as it was, without what runs.
pub(super) fn version(api: &Api, id: &ServiceId, version: &str) -> Result<Response, Fail> {
    let view = api.view();
    let service = view.app(id).ok_or_else(|| no_such_app(id))?;
    let spec = kept(service, version)?;
    Ok(ok(&app_json(spec, Counts::default(), Vec::new())))
}

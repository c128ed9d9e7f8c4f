//! Mesos's API for operators and monitors of an agent: `POST /api/v1` (and `/api/v1/operator`, which is where pymesos's
//! driver posts to), in JSON and protobuf, and the older endpoints of one path each.
//!
//! Everything is answered from the newest view, and from readings of cgroups' files that are made when somebody asks,
//! one at a time ([`Meter`]). What runs is changed by calls about containers alone ([`nested`]).

mod containers;
mod ended;
mod flags;
mod jsonp;
mod messages;
mod metrics;
mod nested;
mod state;
mod statistics;

use std::{io, os::unix::fs::MetadataExt, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use waggle_api::{
    mesos::{
        MESOS_VERSION, MediaError, duration, event,
        streaming::{Form, StreamError},
    },
    proto::mesos::{self as pb, agent_call::Type, agent_response},
};
use waggle_telemetry::{MAX_VERBOSITY, Verbosity};
use waggle_types::Millis;

use crate::{
    AgentConfig,
    exec::{self, Sessions},
    executors,
    files::{Files, Listed, group, status_of, user},
    http::{AgentView, SPELLINGS, View},
    nested::Containers,
    serve::Peer,
};
use containers::Measured;
pub use containers::Meter;
pub use jsonp::jsonp;

/// Largest call, in bytes; those that are taken hold a path.
const MAX_CALL: usize = 64 << 10;
/// Longest time for which more is logged.
const MAX_LOGGING: Duration = Duration::from_hours(30 * 24);
/// How long a call may take to arrive.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// What handlers have.
#[derive(Clone)]
pub struct Operator(Arc<Sources>);

/// What the API answers from, and what it acts on.
pub struct Sources {
    /// The newest view.
    pub view: View,
    /// Settings.
    pub config: Arc<AgentConfig>,
    /// Files of sandboxes.
    pub files: Files,
    /// Figures of containers.
    pub meter: Meter,
    /// How much is logged.
    pub verbosity: Verbosity,
    /// Containers that are launched here.
    pub containers: Containers,
    /// Sessions of all kinds.
    pub sessions: Sessions,
}

/// A refusal as Mesos writes it: plain text.
struct No(StatusCode, String);

impl No {
    fn bad(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }
}

impl From<MediaError> for No {
    fn from(e: MediaError) -> Self {
        Self(e.status(), e.to_string())
    }
}

impl From<StreamError> for No {
    fn from(e: StreamError) -> Self {
        Self(e.status(), e.to_string())
    }
}

impl From<tokio::task::JoinError> for No {
    fn from(e: tokio::task::JoinError) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let mut response = (self.0, self.1).into_response();
        if self.0 == StatusCode::METHOD_NOT_ALLOWED {
            let post = HeaderValue::from_static("POST");
            response.headers_mut().insert(header::ALLOW, post);
        }
        response
    }
}

impl Operator {
    /// Of what it answers from.
    pub fn new(sources: Sources) -> Self {
        Self(Arc::new(sources))
    }

    /// The routes.
    pub fn router(self) -> Router {
        let mut router = Router::new();
        for (prefix, suffix) in SPELLINGS {
            let path = |name: &str| format!("{prefix}/{name}{suffix}");
            router = router
                .route(&path("state"), get(state_json))
                .route(&path("flags"), get(flags_json))
                .route(&path("logging/toggle"), any(toggle))
                .route(&path("metrics/snapshot"), get(metrics_json))
                .route(&path("monitor/statistics"), get(statistics_json))
                .route(&path("containers"), get(containers_json));
        }
        for prefix in ["", "/slave(1)"] {
            router = router
                .route(&format!("{prefix}/api/v1"), any(ask))
                .route(&format!("{prefix}/api/v1/operator"), any(ask));
        }
        router.with_state(self)
    }

    /// A place among sessions.
    fn slot(&self) -> Result<OwnedSemaphorePermit, No> {
        let full = || format!("this agent has {} sessions, its limit", exec::MAX_SESSIONS);
        let slot = self.0.sessions.slot();
        slot.map_err(|_| No(StatusCode::SERVICE_UNAVAILABLE, full()))
    }

    fn view(&self) -> Arc<AgentView> {
        Arc::clone(&self.0.view.borrow())
    }

    async fn measured(&self) -> Result<Arc<Vec<Measured>>, No> {
        Ok(self.0.meter.read(&self.view()).await?)
    }

    async fn metrics(&self) -> Result<metrics::Metrics, No> {
        let view = self.view();
        Ok(tokio::task::spawn_blocking(move || metrics::metrics(&view)).await?)
    }

    /// How much the node logs, for how long.
    fn log(&self, level: Option<u32>, lasting: Option<Duration>) -> Result<(), No> {
        let level = level.filter(|l| *l <= MAX_VERBOSITY);
        let level = level
            .ok_or_else(|| No::bad(format!("level: must be between 0 and {MAX_VERBOSITY}")))?;
        let lasting = lasting.filter(|d| !d.is_zero() && *d <= MAX_LOGGING);
        let lasting =
            lasting.ok_or_else(|| No::bad("duration: must be over 0 and at most 30days"))?;
        self.0.verbosity.set(level, lasting);
        Ok(())
    }

    fn flags(&self) -> std::collections::BTreeMap<String, String> {
        flags::flags(&self.0.config, &self.view().agent)
    }
}

/// A message as JSON.
fn shown(message: &impl Serialize) -> Value {
    // Messages have string keys only, so this can't fail.
    serde_json::to_value(message).unwrap_or_default()
}

async fn state_json(State(operator): State<Operator>) -> Result<Json<Value>, No> {
    let work_dir = operator.0.config.work_dir.clone();
    let ended = tokio::task::spawn_blocking(move || ended::ended(&work_dir)).await?;
    let (view, config) = (operator.view(), &operator.0.config);
    Ok(Json(state::state(&view, &ended, config)))
}

async fn flags_json(State(operator): State<Operator>) -> Json<Value> {
    Json(json!({ "flags": operator.flags() }))
}

/// What `/logging/toggle` is asked.
#[derive(Deserialize)]
struct Toggle {
    level: Option<u32>,
    duration: Option<String>,
}

/// Without a level: which it is. With one, and how long: sets it.
async fn toggle(
    State(operator): State<Operator>,
    Query(toggle): Query<Toggle>,
) -> Result<Response, No> {
    match (toggle.level, toggle.duration) {
        (None, None) => {
            let level = operator.0.verbosity.level();
            Ok(format!("{level}\n").into_response())
        }
        (Some(level), Some(lasting)) => {
            let lasting = duration::parse(&lasting).map(Millis::as_duration);
            operator.log(Some(level), lasting)?;
            Ok(StatusCode::OK.into_response())
        }
        _ => Err(No::bad(
            "Expecting 'level' and 'duration' in query, or neither",
        )),
    }
}

async fn metrics_json(State(operator): State<Operator>) -> Result<Json<metrics::Metrics>, No> {
    Ok(Json(operator.metrics().await?))
}

async fn statistics_json(State(operator): State<Operator>) -> Result<Json<Value>, No> {
    let all = operator.measured().await?;
    Ok(Json(all.iter().map(one).collect()))
}

async fn containers_json(State(operator): State<Operator>) -> Result<Json<Value>, No> {
    let all = operator.measured().await?;
    let with_status = |m: &Measured| {
        let mut out = one(m);
        out["container_id"] = json!(m.container.id.as_str());
        out["status"] = shown(&m.status());
        out
    };
    Ok(Json(all.iter().map(with_status).collect()))
}

/// A container in the older JSON.
fn one(m: &Measured) -> Value {
    json!({
        "framework_id": m.container.framework_id,
        "executor_id": m.container.executor_id,
        "executor_name": m.container.executor_name,
        "source": m.container.executor_id,
        "statistics": shown(&m.statistics),
    })
}

async fn ask(
    State(operator): State<Operator>,
    peer: Option<Extension<Peer>>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let who = exec::client(peer.map(|Extension(Peer(at))| at), &headers);
    match answer(&operator, &method, &headers, body, who).await {
        Ok(response) => response,
        Err(no) => no.into_response(),
    }
}

/// The order of the checks is Mesos's (`slave/http.cpp`).
async fn answer(
    operator: &Operator,
    method: &Method,
    headers: &HeaderMap,
    body: Body,
    who: String,
) -> Result<Response, No> {
    if method != Method::POST {
        let message = format!("Expecting 'POST', received '{method}'");
        return Err(No(StatusCode::METHOD_NOT_ALLOWED, message));
    }
    let form = Form::of_body(headers)?;
    if form.stream {
        return nested::attach_input(operator, form.media, body, who).await;
    }
    let call: pb::AgentCall = form.media.read(&body_of(body).await?)?;
    let kind = call.r#type();
    if nested::is_about(kind) {
        return nested::answer(operator, kind, call, headers, who).await;
    }
    if kind == Type::SetLoggingLevel {
        set_logging_level(operator, call.set_logging_level)?;
        return Ok(StatusCode::OK.into_response());
    }
    let Some(response) = respond(operator, kind, call).await? else {
        let message = format!("{} is not supported by this agent", kind.as_str_name());
        return Err(No(StatusCode::NOT_IMPLEMENTED, message));
    };
    let accepted = Form::accepted(headers)?;
    if accepted.stream {
        let why = format!(
            "Streaming response is not supported for {} call",
            kind.as_str_name()
        );
        return Err(No(StatusCode::NOT_ACCEPTABLE, why));
    }
    let body = accepted.media.write(&response);
    Ok((accepted.headers(), body).into_response())
}

async fn body_of(body: Body) -> Result<Bytes, No> {
    let body = axum::body::to_bytes(body, MAX_CALL);
    match tokio::time::timeout(CALL_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(e)) => Err(No::bad(format!("Failed to read the body: {e}"))),
        Err(_) => Err(No::bad("The call did not arrive in time")),
    }
}

/// What a call is answered with; none where there is nothing like it here.
async fn respond(
    operator: &Operator,
    kind: Type,
    call: pb::AgentCall,
) -> Result<Option<pb::AgentResponse>, No> {
    use agent_response::Type as Said;
    let view = operator.view();
    let of = |said: Said| pb::AgentResponse {
        r#type: Some(said.into()),
        ..pb::AgentResponse::default()
    };
    Ok(Some(match kind {
        Type::Unknown => return Err(No::bad("Expecting 'type' to be present")),
        Type::GetHealth => pb::AgentResponse {
            // It answers: what does not work is in `/health`.
            get_health: Some(pb::Health { healthy: true }),
            ..of(Said::GetHealth)
        },
        Type::GetFlags => {
            let flags = operator.flags().into_iter();
            let flags = flags.map(|(name, value)| pb::Flag {
                name: Some(name),
                value: Some(value),
            });
            pb::AgentResponse {
                get_flags: Some(pb::Flags {
                    flags: flags.collect(),
                }),
                ..of(Said::GetFlags)
            }
        }
        Type::GetVersion => pb::AgentResponse {
            get_version: Some(pb::GotVersion {
                version_info: Some(pb::VersionInfo {
                    version: Some(MESOS_VERSION.to_owned()),
                }),
            }),
            ..of(Said::GetVersion)
        },
        Type::GetMetrics => {
            let metrics = operator.metrics().await?.into_iter();
            let metrics = metrics.map(|(name, value)| pb::Metric {
                name: Some(name),
                value: Some(value),
            });
            pb::AgentResponse {
                get_metrics: Some(pb::Metrics {
                    metrics: metrics.collect(),
                }),
                ..of(Said::GetMetrics)
            }
        }
        Type::GetLoggingLevel => pb::AgentResponse {
            get_logging_level: Some(pb::LoggingLevel {
                level: operator.0.verbosity.level(),
            }),
            ..of(Said::GetLoggingLevel)
        },
        Type::ListFiles => pb::AgentResponse {
            list_files: Some(list(operator, call.list_files).await?),
            ..of(Said::ListFiles)
        },
        Type::ReadFile => pb::AgentResponse {
            read_file: Some(read(operator, call.read_file).await?),
            ..of(Said::ReadFile)
        },
        Type::GetState => pb::AgentResponse {
            get_state: Some(pb::AgentWhole {
                get_tasks: Some(messages::tasks(&view)),
                get_executors: Some(messages::executors(&view)),
                get_frameworks: Some(messages::frameworks(&view)),
            }),
            ..of(Said::GetState)
        },
        Type::GetContainers => {
            let asked = call.get_containers.unwrap_or_default();
            let (nested, alone) = (asked.show_nested(), asked.show_standalone());
            let more = operator.0.containers.list(nested, alone);
            pb::AgentResponse {
                get_containers: Some(messages::containers(&operator.measured().await?, &more)),
                ..of(Said::GetContainers)
            }
        }
        Type::GetFrameworks => pb::AgentResponse {
            get_frameworks: Some(messages::frameworks(&view)),
            ..of(Said::GetFrameworks)
        },
        Type::GetExecutors => pb::AgentResponse {
            get_executors: Some(messages::executors(&view)),
            ..of(Said::GetExecutors)
        },
        Type::GetTasks => pb::AgentResponse {
            get_tasks: Some(messages::tasks(&view)),
            ..of(Said::GetTasks)
        },
        Type::GetAgent => pb::AgentResponse {
            get_agent: Some(pb::GotAgent {
                agent_info: Some(executors::agent_info(&view.agent)),
            }),
            ..of(Said::GetAgent)
        },
        // Operations are done by the master before an agent hears of them, and disks have no providers of their own.
        Type::GetOperations => pb::AgentResponse {
            get_operations: Some(pb::Operations {}),
            ..of(Said::GetOperations)
        },
        Type::GetResourceProviders => pb::AgentResponse {
            get_resource_providers: Some(pb::ResourceProviders {}),
            ..of(Said::GetResourceProviders)
        },
        Type::SetLoggingLevel
        | Type::LaunchNestedContainer
        | Type::WaitNestedContainer
        | Type::KillNestedContainer
        | Type::LaunchNestedContainerSession
        | Type::AttachContainerInput
        | Type::AttachContainerOutput
        | Type::RemoveNestedContainer
        | Type::LaunchContainer
        | Type::WaitContainer
        | Type::KillContainer
        | Type::RemoveContainer
        | Type::AddResourceProviderConfig
        | Type::UpdateResourceProviderConfig
        | Type::RemoveResourceProviderConfig
        | Type::MarkResourceProviderGone
        | Type::PruneImages => return Ok(None),
    }))
}

/// See [`Operator::log`].
fn set_logging_level(operator: &Operator, call: Option<pb::SetLoggingLevel>) -> Result<(), No> {
    let call = call.ok_or_else(|| No::bad("Expecting 'set_logging_level' to be present"))?;
    let nanos = call.duration.map_or(0, |d| d.nanoseconds);
    let lasting = u64::try_from(nanos).ok().map(Duration::from_nanos);
    operator.log(call.level, lasting)
}

/// What is in a directory of a sandbox.
async fn list(operator: &Operator, call: Option<pb::ListFiles>) -> Result<pb::FileInfos, No> {
    let call = call.ok_or_else(|| No::bad("Expecting 'list_files' to be present"))?;
    let path = call.path;
    let path = path.ok_or_else(|| No::bad("Expecting 'list_files.path' to be present"))?;
    let listed = on_disk(operator, move |files| files.list(&path)).await?;
    let info = |e: Listed| pb::FileInfo {
        path: e.path,
        nlink: i32::try_from(e.meta.nlink()).ok(),
        size: Some(e.meta.len()),
        mtime: Some(pb::TimeInfo {
            nanoseconds: event::nanos(u64::try_from(e.meta.mtime()).unwrap_or(0) * 1000),
        }),
        mode: Some(e.meta.mode()),
        uid: Some(user(e.meta.uid())),
        gid: Some(group(e.meta.gid())),
    };
    Ok(pb::FileInfos {
        file_infos: listed.into_iter().map(info).collect(),
    })
}

/// A part of a file of a sandbox.
async fn read(operator: &Operator, call: Option<pb::ReadFile>) -> Result<pb::FileData, No> {
    let call = call.ok_or_else(|| No::bad("Expecting 'read_file' to be present"))?;
    let path = call.path;
    let path = path.ok_or_else(|| No::bad("Expecting 'read_file.path' to be present"))?;
    let offset = call.offset;
    let offset = offset.ok_or_else(|| No::bad("Expecting 'read_file.offset' to be present"))?;
    let part = move |files: &Files| files.part(&path, offset, call.length);
    let (data, size) = on_disk(operator, part).await?;
    Ok(pb::FileData {
        size,
        // Also when there is none: readers index it.
        data: Some(data),
    })
}

/// Files block.
async fn on_disk<T: Send + 'static>(
    operator: &Operator,
    read: impl FnOnce(&Files) -> io::Result<T> + Send + 'static,
) -> Result<T, No> {
    let files = operator.0.files.clone();
    let done = tokio::task::spawn_blocking(move || read(&files)).await?;
    done.map_err(|e| No(status_of(&e), format!("path: {e}")))
}

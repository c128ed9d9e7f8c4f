//! The agent's HTTP API about volumes.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path as UrlPath, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::Deserialize;
use serde_json::json;
use waggle_api::native::{NodeVolumeView, SnapshotView};
use waggle_types::VolumeId;

use super::{
    Storage,
    snapshots::{Snapshot, SnapshotError},
    usage::{self, Pace},
};
use crate::{clock, net::chain};

/// Longest body, in bytes.
const MAX_BODY: usize = 64 << 10;

/// The routes.
pub fn router(storage: Storage) -> Router {
    Router::new()
        .route("/waggle/v1/volumes", get(list))
        .route("/waggle/v1/volumes/{id}/snapshots", post(take))
        .route("/waggle/v1/volumes/{id}/snapshots/{name}", delete(forget))
        .route("/waggle/v1/volumes/{id}/restore", post(restore))
        .with_state(storage)
}

#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    usage: bool,
}

/// One snapshot by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

async fn list(State(storage): State<Storage>, Query(wanted): Query<Wanted>) -> Response {
    run(move || {
        let failed = |source| SnapshotError::Io {
            what: "list",
            path: "the volumes".into(),
            source,
        };
        let mut out = Vec::new();
        for (id, snapshots) in storage.volumes().map_err(failed)? {
            let dir = storage.volume_dir(&id).ok();
            let exists = dir.as_ref().is_some_and(|d| d.is_dir());
            let used = dir
                .filter(|_| exists && wanted.usage)
                .and_then(|d| usage::of(&d, Pace::GENTLE).ok());
            let tasks = storage.users(&id).map_err(failed)?;
            out.push(NodeVolumeView {
                disk: id.disk().map(str::to_owned),
                id: id.to_string(),
                exists,
                used_bytes: used.map(|u| u.bytes),
                tasks: tasks.iter().map(ToString::to_string).collect(),
                snapshots: snapshots.iter().map(view).collect(),
            });
        }
        Ok(Json(out).into_response())
    })
    .await
}

async fn take(
    State(storage): State<Storage>,
    UrlPath(id): UrlPath<String>,
    body: Bytes,
) -> Response {
    with(&id, &body, move |id, name| {
        let taken = storage.snapshot(id, name, clock::now().0)?;
        tracing::info!(volume = %id, name, "snapshot taken");
        Ok((StatusCode::CREATED, Json(view(&taken))).into_response())
    })
    .await
}

async fn restore(
    State(storage): State<Storage>,
    UrlPath(id): UrlPath<String>,
    body: Bytes,
) -> Response {
    with(&id, &body, move |id, name| {
        let restored = storage.restore(id, name)?;
        tracing::info!(volume = %id, name, "volume restored");
        Ok(Json(view(&restored)).into_response())
    })
    .await
}

async fn forget(
    State(storage): State<Storage>,
    UrlPath((id, name)): UrlPath<(String, String)>,
) -> Response {
    let id = match volume(&id) {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    run(move || {
        storage.forget_snapshot(&id, &name)?;
        tracing::info!(volume = %id, name, "snapshot removed");
        Ok(Json(json!({})).into_response())
    })
    .await
}

/// A volume by the path, a snapshot by the body.
async fn with(
    id: &str,
    body: &Bytes,
    work: impl FnOnce(&VolumeId, &str) -> Result<Response, SnapshotError> + Send + 'static,
) -> Response {
    let id = match volume(id) {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    if body.len() > MAX_BODY {
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long");
    }
    let named: Named = match serde_json::from_slice(body) {
        Ok(named) => named,
        Err(e) => return problem(StatusCode::UNPROCESSABLE_ENTITY, &e.to_string()),
    };
    run(move || work(&id, &named.name)).await
}

fn volume(id: &str) -> Result<VolumeId, Box<Response>> {
    VolumeId::new(id).map_err(|e| {
        let why = format!("volume: {e}");
        Box::new(problem(StatusCode::UNPROCESSABLE_ENTITY, &why))
    })
}

async fn run(work: impl FnOnce() -> Result<Response, SnapshotError> + Send + 'static) -> Response {
    // To its end, also when nobody waits for it any more.
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(response)) => response,
        Ok(Err(e)) => problem(status(&e), &chain(&e)),
        Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

fn status(e: &SnapshotError) -> StatusCode {
    match e {
        SnapshotError::Name(_) => StatusCode::UNPROCESSABLE_ENTITY,
        SnapshotError::Unknown(_) | SnapshotError::NoVolume(_) => StatusCode::NOT_FOUND,
        SnapshotError::Exists(_) | SnapshotError::TooMany(_) | SnapshotError::Busy { .. } => {
            StatusCode::CONFLICT
        }
        SnapshotError::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn problem(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "message": message }))).into_response()
}

fn view(s: &Snapshot) -> SnapshotView {
    SnapshotView {
        name: s.name.clone(),
        taken_ms: s.taken_ms,
        bytes: s.bytes,
        consistent: s.consistent,
        unclaimed: s.unclaimed,
    }
}

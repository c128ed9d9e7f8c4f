//! `/waggle/v1/images`: what the node has, and getting, loading and removing it.

use std::{path::PathBuf, sync::Arc};

use axum::{
    Json, Router,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use waggle_types::ImageSpec;

use super::{ImageError, Images};

/// The routes.
pub fn routes(images: Arc<Images>) -> Router {
    Router::new()
        .route("/waggle/v1/images", get(list))
        .route("/waggle/v1/images/pull", post(pull))
        .route("/waggle/v1/images/load", post(load))
        .route("/waggle/v1/images/prune", post(prune))
        .with_state(images)
}

async fn list(State(images): State<Arc<Images>>) -> Json<Value> {
    Json(json!({
        "images": images.list(),
        "disk_bytes": images.store.disk_bytes(),
        "max_disk_bytes": images.settings.store_bytes,
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pull {
    reference: String,
    #[serde(default)]
    cached: bool,
    credentials: Option<String>,
}

/// Asks the registry unless `cached` says that an image which is there will do.
async fn pull(
    State(images): State<Arc<Images>>,
    asked: Result<Json<Pull>, JsonRejection>,
) -> Response {
    let Json(asked) = match asked {
        Ok(asked) => asked,
        Err(e) => return problem(StatusCode::BAD_REQUEST, &e.body_text()),
    };
    let image = ImageSpec {
        reference: asked.reference,
        force_pull: !asked.cached,
        credentials: asked.credentials,
    };
    match images.get(&image, None).await {
        Ok(digest) => Json(json!({ "digest": digest })).into_response(),
        Err(e) => refusal(&e),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Load {
    path: PathBuf,
    name: Option<String>,
}

/// `path` is a file or directory of the node.
async fn load(
    State(images): State<Arc<Images>>,
    asked: Result<Json<Load>, JsonRejection>,
) -> Response {
    let Json(asked) = match asked {
        Ok(asked) => asked,
        Err(e) => return problem(StatusCode::BAD_REQUEST, &e.body_text()),
    };
    if !asked.path.is_absolute() {
        let why = format!("path: must be absolute, is {}", asked.path.display());
        return problem(StatusCode::BAD_REQUEST, &why);
    }
    let loaded =
        tokio::task::spawn_blocking(move || images.load(&asked.path, asked.name.as_deref())).await;
    match loaded {
        Ok(Ok(loaded)) => Json(json!({ "images": loaded })).into_response(),
        Ok(Err(e)) => refusal(&e),
        Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prune {
    /// Bytes that may stay; without it the node's bound.
    max_bytes: Option<u64>,
}

async fn prune(
    State(images): State<Arc<Images>>,
    asked: Result<Json<Prune>, JsonRejection>,
) -> Response {
    let Json(asked) = match asked {
        Ok(asked) => asked,
        Err(e) => return problem(StatusCode::BAD_REQUEST, &e.body_text()),
    };
    let bytes = asked.max_bytes.unwrap_or(images.settings.store_bytes);
    match images.collect(bytes).await {
        Ok(pruned) => Json(json!(pruned)).into_response(),
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
            problem(StatusCode::SERVICE_UNAVAILABLE, &e.to_string())
        }
        Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

fn refusal(e: &ImageError) -> Response {
    let status = match e.kind() {
        "no_such_image" => StatusCode::NOT_FOUND,
        "not_allowed" => StatusCode::FORBIDDEN,
        "bad_name" | "bad_credentials" => StatusCode::BAD_REQUEST,
        "no_space" => StatusCode::INSUFFICIENT_STORAGE,
        "bad_image" | "too_large" => StatusCode::UNPROCESSABLE_ENTITY,
        "timeout" => StatusCode::GATEWAY_TIMEOUT,
        "store" => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_GATEWAY,
    };
    problem(status, &e.describe())
}

fn problem(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "message": message }))).into_response()
}

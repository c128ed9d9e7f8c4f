//! Files of sandboxes, over HTTP: Waggle's own paths, and Mesos's ([`mesos`]).
//!
//! A task may put any link into its sandbox; nothing here follows one out of it ([`beneath`]). Sandboxes of ended
//! tasks are shown for as long as they are kept. Only what the task's own volumes hold is shown beside the sandbox.

pub mod beneath;
mod mesos;
mod own;

pub use mesos::{Listed, status_of};
pub use own::{group, user};

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Json, Router,
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use waggle_api::native::{PrefixError, by_prefix};
use waggle_telemetry::{Telemetry, names};
use waggle_types::TaskId;

use crate::{checkpoint::TaskDir, http::View};
use beneath::{Found, Root};

/// Downloads at the same moment; one more is answered 503.
const MAX_DOWNLOADS: usize = 16;
/// Bytes that are read at once, two such parts wait for a slow reader.
const PART: usize = 64 << 10;

/// What every handler has.
#[derive(Debug, Clone)]
pub struct Files {
    work_dir: PathBuf,
    view: View,
    telemetry: Telemetry,
    slots: Arc<Semaphore>,
}

impl Files {
    /// Of the tasks below a work directory.
    pub fn new(work_dir: &Path, view: View, telemetry: Telemetry) -> Self {
        Self {
            work_dir: work_dir.to_owned(),
            view,
            telemetry,
            slots: Arc::new(Semaphore::new(MAX_DOWNLOADS)),
        }
    }

    /// The routes.
    pub fn router(self) -> Router {
        let mut router = Router::new()
            .route("/waggle/v1/tasks/{id}/files", get(own::list))
            .route("/waggle/v1/tasks/{id}/file", get(own::read));
        for prefix in ["", "/slave(1)"] {
            for suffix in ["", ".json"] {
                let path = |verb: &str| format!("{prefix}/files/{verb}{suffix}");
                router = router
                    .route(&path("browse"), get(mesos::browse))
                    .route(&path("read"), get(mesos::read))
                    .route(&path("download"), get(mesos::download))
                    .route(&path("debug"), get(mesos::debug));
            }
        }
        router.with_state(self)
    }

    /// Sends a file, `length` bytes from `offset`; the reader's pace is the pace.
    fn send(&self, found: &Found, offset: u64, length: Option<u64>) -> Response {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            let reason = [(names::DROP_REASON, "files".into())];
            self.telemetry
                .count(&names::AGENT_REQUESTS_REFUSED, &reason, 1);
            return problem(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("{MAX_DOWNLOADS} downloads are under way, try again"),
            );
        };
        let mut file = match found.open() {
            Ok(file) => file,
            Err(e) => return failed(&e),
        };
        let size = found.meta.len();
        let offset = offset.min(size);
        let length = length.unwrap_or(u64::MAX).min(size - offset);
        let (parts, body) = mpsc::channel::<io::Result<Bytes>>(2);
        let telemetry = self.telemetry.clone();
        tokio::task::spawn_blocking(move || {
            let _slot = slot;
            if let Err(e) = io::Seek::seek(&mut file, io::SeekFrom::Start(offset)) {
                let _ = parts.blocking_send(Err(e));
                return;
            }
            let mut left = length;
            while left > 0 {
                let mut part = vec![0; usize::try_from(left).unwrap_or(PART).min(PART)];
                let n = match file.read(&mut part) {
                    // Cut off meanwhile: the length that was promised can't be kept.
                    Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                    other => other,
                };
                let sent = n.map(|n| {
                    left -= n as u64;
                    telemetry.count(&names::AGENT_FILES_READ, &[], n as u64);
                    part.truncate(n);
                    Bytes::from(part)
                });
                let over = sent.is_err();
                if parts.blocking_send(sent).is_err() || over {
                    return;
                }
            }
        });
        let mut response = Body::from_stream(ReceiverStream::new(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert("x-waggle-size", HeaderValue::from(size));
        response
    }
}

/// A task of this agent by id, or by a beginning that only one has; running ones come first.
pub fn find_task(work_dir: &Path, view: &View, text: &str) -> Result<TaskDir, PrefixError> {
    let nothing = || PrefixError::Nothing(text.chars().take(100).collect());
    let dir = |id: &str| {
        let id = TaskId::new(id).map_err(|_| nothing())?;
        Ok(TaskDir::new(work_dir, &id))
    };
    let seen = Arc::clone(&view.borrow());
    match by_prefix(seen.tasks.iter().map(|t| t.id.as_str()), text) {
        Ok(id) => return dir(id),
        Err(e @ PrefixError::Several { .. }) => return Err(e),
        Err(PrefixError::Nothing(_)) => {}
    }
    let kept: Vec<String> = std::fs::read_dir(work_dir.join("tasks"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| TaskId::new(name.as_str()).is_ok())
        .collect();
    by_prefix(kept.iter().map(String::as_str), text).and_then(dir)
}

/// What `path` names in a task's sandbox or in its volumes. Blocking.
pub fn find_file(work_dir: &Path, dir: &TaskDir, path: &str) -> io::Result<Found> {
    let trimmed = path.trim_start_matches('/');
    if let Some(rest) = trimmed.strip_prefix("volumes/") {
        let (id, rest) = rest.split_once('/').unwrap_or((rest, ""));
        // The links that the agent made there lead out of the sandbox, to what is the task's all the same.
        if let Some(spec) = dir.read().spec
            && spec
                .resources
                .custom
                .volumes()
                .any(|(have, _)| have.as_str() == id)
        {
            return Root::open(&work_dir.join("volumes").join(id))?.find(rest);
        }
    }
    Root::open(&dir.sandbox())?.find(path)
}

/// 404 for what names no task, 409 for what names several.
fn no_task(e: &PrefixError) -> Response {
    let status = match e {
        PrefixError::Nothing(_) => StatusCode::NOT_FOUND,
        PrefixError::Several { .. } => StatusCode::CONFLICT,
    };
    problem(status, &e.to_string())
}

fn failed(e: &io::Error) -> Response {
    let status = match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => StatusCode::NOT_FOUND,
        io::ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        io::ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let what = match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => "path: no such file".to_owned(),
        _ => format!("path: {e}"),
    };
    problem(status, &what)
}

/// A refusal in JSON.
pub fn problem(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "message": message }))).into_response()
}

//! Mesos's `/files` (src/files/files.cpp): `browse`, `read`, `download`, `debug`.
//!
//! A path is a sandbox's directory as the agent's `/state` shows it, or Mesos's own way of naming it,
//! `/frameworks/<framework>/executors/<task>/runs/<any>` (also behind `/slaves/<agent>`), with what is wanted behind it.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use waggle_types::TaskId;

use super::{
    Files,
    beneath::Found,
    find_file,
    own::{group, mode, user},
};
use crate::checkpoint::TaskDir;

/// Most bytes of one answer: sixteen pages, as Mesos has it.
const MAX_READ: u64 = 16 * 4096;

/// What is asked for. Numbers are signed: -1 is Mesos's "not given".
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    path: Option<String>,
    offset: Option<i64>,
    length: Option<i64>,
}

type Asked = Result<Query<Wanted>, QueryRejection>;

/// `GET /files/browse?path=`.
pub(super) async fn browse(State(files): State<Files>, asked: Asked) -> Response {
    with_path(files, asked, |files, path, _| {
        let told = files.list(path)?.into_iter().map(|e| {
            json!({
                "path": e.path,
                "nlink": e.meta.nlink(),
                "size": e.meta.len(),
                "mtime": e.meta.mtime(),
                "mode": mode(e.meta.mode()),
                "uid": user(e.meta.uid()),
                "gid": group(e.meta.gid()),
            })
        });
        Ok(Json(told.collect::<Vec<Value>>()).into_response())
    })
    .await
}

/// `GET /files/read?path=&offset=&length=`: `{"data","offset"}`. Offset -1, or none, asks for the size.
pub(super) async fn read(State(files): State<Files>, asked: Asked) -> Response {
    with_path(files, asked, |files, path, wanted| {
        let offset = wanted.offset.and_then(|o| u64::try_from(o).ok());
        let length = wanted.length.and_then(|l| u64::try_from(l).ok());
        let (bytes, size) = files.part(path, offset.unwrap_or(u64::MAX), length)?;
        let (data, offset) = (text(bytes), offset.unwrap_or(size));
        Ok(Json(json!({ "data": data, "offset": offset })).into_response())
    })
    .await
}

/// An entry of a directory.
pub struct Listed {
    /// Below the path that was asked for.
    pub path: String,
    /// What it is.
    pub meta: Metadata,
}

impl Files {
    /// What is in a directory that is named as Mesos names it. Blocking.
    pub fn list(&self, path: &str) -> io::Result<Vec<Listed>> {
        let found = find(self, path)?;
        if !found.meta.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory));
        }
        let base = path.trim_end_matches('/');
        let (entries, _) = found.entries()?;
        let listed = entries.into_iter().map(|e| Listed {
            path: format!("{base}/{}", e.name.to_string_lossy()),
            meta: e.meta,
        });
        Ok(listed.collect())
    }

    /// Bytes of a file from an offset, at most [`MAX_READ`] of them, and its size. Nothing beyond its end. Blocking.
    pub fn part(&self, path: &str, offset: u64, length: Option<u64>) -> io::Result<(Vec<u8>, u64)> {
        let found = find(self, path)?;
        let mut file = found.open()?;
        let size = found.meta.len();
        let mut bytes = Vec::new();
        if offset < size {
            file.seek(SeekFrom::Start(offset))?;
            let length = length.unwrap_or(MAX_READ).min(MAX_READ);
            file.take(length).read_to_end(&mut bytes)?;
        }
        Ok((bytes, size))
    }
}

/// What Mesos answers to who asks for a file that can't be shown.
pub fn status_of(e: &io::Error) -> StatusCode {
    match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => StatusCode::NOT_FOUND,
        io::ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
        io::ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// `GET /files/download?path=`.
pub(super) async fn download(State(files): State<Files>, asked: Asked) -> Response {
    with_path(files, asked, |files, path, _| {
        let found = find(files, path)?;
        if found.meta.is_dir() {
            let why = "cannot download a directory";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let mut response = files.send(&found, 0, None);
        let name = path.rsplit('/').next().unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let name: String = name
            .chars()
            .map(|c| if plain(c) { c } else { '_' })
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename={name}")) {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_DISPOSITION, value);
        }
        Ok(response)
    })
    .await
}

/// `GET /files/debug`: every name that can be browsed, and the directory behind it. Sandboxes of ended tasks are there
/// for as long as they are kept: who looks for the output of a short task comes late.
pub(super) async fn debug(State(files): State<Files>) -> Response {
    match tokio::task::spawn_blocking(move || files.names()).await {
        Ok(names) => Json(names).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

impl Files {
    /// Blocking. As many as there are tasks and kept sandboxes, which are bounded.
    fn names(&self) -> BTreeMap<String, String> {
        let view = Arc::clone(&self.view.borrow());
        let mut out = BTreeMap::new();
        let kept = fs::read_dir(self.work_dir.join("tasks"));
        for entry in kept.into_iter().flatten().flatten() {
            let sandbox = entry.path().join("sandbox");
            if sandbox.is_dir() {
                let path = sandbox.display().to_string();
                out.insert(path.clone(), path);
            }
        }
        for task in &view.tasks {
            let base = format!(
                "/frameworks/{}/executors/{}/runs",
                task.framework_id, task.id
            );
            out.insert(format!("{base}/{}", task.id), task.directory.clone());
            out.insert(format!("{base}/latest"), task.directory.clone());
            out.insert(task.directory.clone(), task.directory.clone());
        }
        out
    }
}

/// Answers as Mesos does: plain text for refusals.
async fn with_path(
    files: Files,
    asked: Asked,
    answer: impl FnOnce(&Files, &str, &Wanted) -> io::Result<Response> + Send + 'static,
) -> Response {
    let refused = |status: StatusCode, why: String| (status, why).into_response();
    let wanted = match asked {
        Ok(Query(wanted)) => wanted,
        Err(e) => return refused(StatusCode::BAD_REQUEST, format!("{}\n", e.body_text())),
    };
    let Some(path) = wanted.path.clone().filter(|p| !p.is_empty()) else {
        let why = "Expecting 'path=value' in query.\n";
        return refused(StatusCode::BAD_REQUEST, why.to_owned());
    };
    // Reading blocks; sending a file spawns its own.
    let runtime = tokio::runtime::Handle::current();
    let done = tokio::task::spawn_blocking(move || {
        let _inside = runtime.enter();
        answer(&files, &path, &wanted)
    });
    match done.await {
        Ok(Ok(response)) => response,
        Ok(Err(e)) => refused(status_of(&e), format!("path: {e}\n")),
        Err(e) => refused(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

fn find(files: &Files, path: &str) -> io::Result<Found> {
    let (id, rest) = locate(&files.work_dir, path).ok_or(io::ErrorKind::NotFound)?;
    let dir = TaskDir::new(&files.work_dir, &id);
    find_file(&files.work_dir, &dir, &rest)
}

/// Which task's sandbox a path is in, and what is behind it.
fn locate(work_dir: &Path, path: &str) -> Option<(TaskId, String)> {
    let tasks = work_dir.join("tasks");
    let parts: Vec<&str> = match path.strip_prefix(tasks.to_str()?) {
        Some(rest) => match rest
            .split('/')
            .filter(|p| !p.is_empty())
            .collect::<Vec<_>>()
        {
            parts if parts.get(1) == Some(&"sandbox") => {
                let (id, rest) = (parts.first()?, parts.get(2..)?.join("/"));
                return Some((TaskId::new(*id).ok()?, rest));
            }
            _ => return None,
        },
        None => path.split('/').filter(|p| !p.is_empty()).collect(),
    };
    let parts = match parts.as_slice() {
        ["slaves", _, rest @ ..] => rest,
        all => all,
    };
    match parts {
        ["frameworks", _, "executors", id, "runs", _, rest @ ..] => {
            Some((TaskId::new(*id).ok()?, rest.join("/")))
        }
        _ => None,
    }
}

/// Bytes as JSON can carry them. A character that is cut off at the end waits for the next read, so that offsets go
/// on right; other bytes that are no text are replaced.
fn text(mut bytes: Vec<u8>) -> String {
    if let Err(e) = std::str::from_utf8(&bytes)
        && e.error_len().is_none()
        && e.valid_up_to() > 0
    {
        bytes.truncate(e.valid_up_to());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_located() {
        let find = |path: &str| {
            let found = locate(Path::new("/var/lib/waggle"), path);
            found.map(|(id, rest)| (id.to_string(), rest))
        };
        let hit = |id: &str, rest: &str| Some((id.to_owned(), rest.to_owned()));
        assert_eq!(find("/var/lib/waggle/tasks/t.1/sandbox"), hit("t.1", ""));
        assert_eq!(
            find("/var/lib/waggle/tasks/t.1/sandbox//a/b"),
            hit("t.1", "a/b")
        );
        assert_eq!(
            find("/frameworks/f/executors/t.1/runs/latest/stdout"),
            hit("t.1", "stdout")
        );
        assert_eq!(
            find("/slaves/a/frameworks/f/executors/t.1/runs/x"),
            hit("t.1", "")
        );
        for outside in [
            "/etc/passwd",
            "/var/lib/waggle/tasks/t.1/plan.json",
            "/var/lib/waggle/tasks/t.1",
            "/var/lib/waggle/tasks/../tasks/sandbox",
            "/var/lib/waggle/agent_id",
            "/frameworks/f/executors/t.1",
            "/frameworks/f/executors/../runs/x/y",
        ] {
            assert_eq!(find(outside), None, "{outside}");
        }
    }

    #[test]
    fn a_character_is_not_cut_in_two() {
        let bytes = "aä".as_bytes();
        assert_eq!(text(bytes[..2].to_vec()), "a");
        assert_eq!(text(bytes.to_vec()), "aä");
        assert_eq!(text(vec![b'a', 0xff, b'b']), "a\u{fffd}b");
        assert_eq!(text(vec![0xc3]), "\u{fffd}", "or nothing would ever come");
    }
}

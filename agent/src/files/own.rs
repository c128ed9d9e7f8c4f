//! Waggle's own paths: `/waggle/v1/tasks/<id>/files` and `/file`.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

use axum::{
    Json,
    extract::{Path as UrlPath, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use nix::unistd::{Gid, Group, Uid, User};
use serde::Deserialize;
use waggle_api::native::{FileKind, FileView, FilesView};

use super::{Files, failed, find_file, find_task, no_task, problem};

/// Which file, and which part of it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    path: String,
    offset: Option<u64>,
    length: Option<u64>,
}

/// `GET .../files?path=`: a directory, or one file.
pub(super) async fn list(
    State(files): State<Files>,
    UrlPath(id): UrlPath<String>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let wanted = match wanted {
        Ok(Query(wanted)) => wanted,
        Err(e) => return problem(StatusCode::BAD_REQUEST, &e.body_text()),
    };
    let listed = tokio::task::spawn_blocking(move || {
        let dir =
            find_task(&files.work_dir, &files.view, &id).map_err(|e| Box::new(no_task(&e)))?;
        let found = find_file(&files.work_dir, &dir, &wanted.path);
        let found = found.map_err(|e| Box::new(failed(&e)))?;
        let mut out = FilesView {
            task_id: dir.task_id().to_string(),
            path: wanted.path.trim_matches('/').to_owned(),
            directory: found.meta.is_dir(),
            files: Vec::new(),
            truncated: false,
        };
        if out.directory {
            let (entries, truncated) = found.entries().map_err(|e| Box::new(failed(&e)))?;
            out.truncated = truncated;
            let shown = entries
                .iter()
                .map(|e| file_view(e.name.to_string_lossy().into_owned(), &e.meta));
            out.files.extend(shown);
        } else {
            let name = out.path.rsplit('/').next().unwrap_or_default().to_owned();
            out.files.push(file_view(name, &found.meta));
        }
        Ok::<_, Box<Response>>(out)
    })
    .await;
    match listed {
        Ok(Ok(view)) => Json(view).into_response(),
        Ok(Err(refused)) => *refused,
        Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

/// `GET .../file?path=&offset=&length=`: bytes.
pub(super) async fn read(
    State(files): State<Files>,
    UrlPath(id): UrlPath<String>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let wanted = match wanted {
        Ok(Query(wanted)) => wanted,
        Err(e) => return problem(StatusCode::BAD_REQUEST, &e.body_text()),
    };
    let opened = {
        let files = files.clone();
        tokio::task::spawn_blocking(move || {
            let dir =
                find_task(&files.work_dir, &files.view, &id).map_err(|e| Box::new(no_task(&e)))?;
            let found = find_file(&files.work_dir, &dir, &wanted.path);
            found.map_err(|e| Box::new(failed(&e)))
        })
        .await
    };
    match opened {
        Ok(Ok(found)) => files.send(&found, wanted.offset.unwrap_or(0), wanted.length),
        Ok(Err(refused)) => *refused,
        Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    }
}

fn file_view(name: String, meta: &Metadata) -> FileView {
    let kind = if meta.is_file() {
        FileKind::File
    } else if meta.is_dir() {
        FileKind::Directory
    } else if meta.is_symlink() {
        FileKind::Link
    } else {
        FileKind::Other
    };
    FileView {
        name,
        kind,
        size: meta.len(),
        mode: mode(meta.mode()),
        user: user(meta.uid()),
        group: group(meta.gid()),
        modified_ms: u64::try_from(meta.mtime()).unwrap_or(0) * 1000
            + u64::try_from(meta.mtime_nsec() / 1_000_000).unwrap_or(0),
    }
}

/// A user's name, or the number where the node knows none.
pub fn user(uid: u32) -> String {
    let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    known.map_or_else(|| uid.to_string(), |u| u.name)
}

/// A group's name, or the number where the node knows none.
pub fn group(gid: u32) -> String {
    let known = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    known.map_or_else(|| gid.to_string(), |g| g.name)
}

/// As `ls -l` has it.
pub(super) fn mode(bits: u32) -> String {
    let kind = match bits & libc::S_IFMT {
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        libc::S_IFBLK => 'b',
        libc::S_IFCHR => 'c',
        _ => '-',
    };
    let mut out = String::from(kind);
    for (shift, special, with, without) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let of = bits >> shift;
        out.push(if of & 4 == 0 { '-' } else { 'r' });
        out.push(if of & 2 == 0 { '-' } else { 'w' });
        out.push(match (bits & special != 0, of & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => with,
            (true, false) => without,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_as_ls_writes_them() {
        for (bits, want) in [
            (0o100_644, "-rw-r--r--"),
            (0o040_755, "drwxr-xr-x"),
            (0o120_777, "lrwxrwxrwx"),
            (0o104_755, "-rwsr-xr-x"),
            (0o102_644, "-rw-r-Sr--"),
            (0o041_777, "drwxrwxrwt"),
            (0o010_600, "prw-------"),
        ] {
            assert_eq!(mode(bits), want);
        }
    }
}

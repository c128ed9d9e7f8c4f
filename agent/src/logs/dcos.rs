//! dcos-log's paths (`/system/v1/logs`), for DC/OS's own clients: v1, which read the journal, and v2, which read files of
//! sandboxes. Here both are the task's streams; the journal itself is not served.
//!
//! v1: `{range,stream}/framework/<id>/executor/<id>/container/<id>`, entries as text, JSON or events; `filter=STREAM:STDERR`,
//! `cursor`, `limit`, `skip_next`, `skip_prev`, `read_reverse`. v2: `task/frameworks/<id>/executors/<id>/runs/<id>/<file>`,
//! lines as text or events; `cursor=<bytes>|BEG|END`, `skip`, `limit`.

use std::collections::VecDeque;

use axum::{
    Router,
    extract::{Path as UrlPath, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use waggle_api::logs::{LineView, LogCursor, LogEvent, LogForm, LogQuery};
use waggle_types::{ServiceVersion, TaskId, UnixMillis};

use super::{
    api::{Format, Logs, MAX_WAITING, Told, stream, tell},
    follow::{Begin, Follow, FollowError},
};
use crate::{checkpoint::TaskDir, clock};

/// Most entries that are turned around.
const MAX_REVERSED: usize = 10_000;

/// The routes.
pub fn routes() -> Router<Logs> {
    let mut router = Router::new();
    for verb in ["range", "stream"] {
        let path = format!(
            "/system/v1/logs/v1/{verb}/framework/{{framework}}/executor/{{executor}}/container/{{container}}"
        );
        router = router.route(&path, get(entries));
    }
    let task =
        "/system/v1/logs/v2/task/frameworks/{framework}/executors/{executor}/runs/{container}";
    router
        .route(&format!("{task}/{{file}}"), get(file))
        .route(&format!("{task}/tasks/{{task}}/{{file}}"), get(file))
}

/// A refusal as dcos-log has it: text.
fn refused(status: StatusCode, why: impl Into<String>) -> Response {
    let mut why: String = why.into();
    why.push('\n');
    (status, why).into_response()
}

type Pairs = Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>;

/// What a client asks for, in its words.
struct Asked(Vec<(String, String)>);

impl Asked {
    fn read(pairs: Pairs) -> Result<Self, Box<Response>> {
        match pairs {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(e) => Err(Box::new(refused(StatusCode::BAD_REQUEST, e.body_text()))),
        }
    }

    fn text(&self, name: &str) -> Option<&str> {
        let given = self.0.iter().find(|(k, v)| k == name && !v.is_empty());
        given.map(|(_, v)| v.as_str())
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Box<Response>> {
        self.text(name).map_or(Ok(None), |text| {
            text.parse().map(Some).map_err(|_| {
                let why = format!("unable to parse integer {text:.40} of {name}");
                Box::new(refused(StatusCode::BAD_REQUEST, why))
            })
        })
    }
}

fn last_event(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get("last-event-id")?.to_str().ok()?;
    (!id.is_empty()).then_some(id)
}

fn form(headers: &HeaderMap) -> LogForm {
    let accept = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok());
    LogForm::of(accept.unwrap_or_default())
}

fn task_dir(logs: &Logs, id: &str) -> Option<TaskDir> {
    let dir = TaskDir::new(logs.work_dir(), &TaskId::new(id).ok()?);
    dir.sandbox().is_dir().then_some(dir)
}

/// An entry's fields: what DC/OS's container logger wrote with each line.
#[derive(Debug, Clone)]
pub struct Fields {
    framework: String,
    executor: String,
    container: String,
}

impl Fields {
    /// An entry in its form.
    pub fn write(&self, form: LogForm, line: &LineView, cursor: &LogCursor) -> String {
        if form == LogForm::Text {
            let at = ServiceVersion(UnixMillis(line.time_us / 1000)).to_string();
            let at = at.get(..19).unwrap_or_default().replace('T', " ");
            return format!("{at}: {}\n", line.line);
        }
        let entry = json!({
            "fields": {
                "MESSAGE": line.line,
                "STREAM": line.stream.to_uppercase(),
                "FRAMEWORK_ID": self.framework,
                "EXECUTOR_ID": self.executor,
                "CONTAINER_ID": self.container,
                "SYSLOG_IDENTIFIER": line.task,
                "_HOSTNAME": line.node,
            },
            "cursor": cursor.to_string(),
            "monotonic_timestamp": line.time_us,
            "realtime_timestamp": line.time_us,
        });
        match form {
            LogForm::Events => format!("id: {cursor}\ndata: {entry}\n\n"),
            _ => format!("{entry}\n"),
        }
    }
}

async fn entries(
    State(logs): State<Logs>,
    UrlPath((framework, executor, container)): UrlPath<(String, String, String)>,
    uri: axum::http::Uri,
    pairs: Pairs,
    headers: HeaderMap,
) -> Response {
    let follow = uri.path().starts_with("/system/v1/logs/v1/stream/");
    let form = form(&headers);
    let made = Asked::read(pairs).and_then(|asked| {
        let (next, prev) = (asked.number("skip_next")?, asked.number("skip_prev")?);
        let limit = asked.number::<u64>("limit")?.filter(|n| *n > 0);
        let reverse = asked.text("read_reverse") == Some("true");
        let bad = |why: &str| Err(Box::new(refused(StatusCode::BAD_REQUEST, why)));
        if follow && (limit.is_some() || reverse) {
            return bad("unable to stream events with limit or read_reverse");
        }
        let again = last_event(&headers).filter(|_| follow);
        let cursor = match again.or_else(|| asked.text("cursor")) {
            Some(text) => match text.parse::<LogCursor>() {
                Ok(cursor) => Some(cursor),
                Err(e) => return bad(&e.to_string()),
            },
            None => None,
        };
        if cursor.is_some() && again.is_none() && prev.unwrap_or(0u64) > 0 {
            return bad("skip_prev: not together with a cursor");
        }
        let mut stream = None;
        for filter in asked.0.iter().filter(|(k, _)| k == "filter") {
            match filter.1.split_once(':') {
                Some((field, value)) if field.eq_ignore_ascii_case("stream") => {
                    stream = Some(value.to_lowercase());
                }
                // Of one task all other fields are the same.
                Some(_) => {}
                None => return bad("incorrect filter parameter format, must be ?filter=key:value"),
            }
        }
        let query = LogQuery {
            stream,
            tail: prev.filter(|_| cursor.is_none()),
            limit,
            follow,
            cursor,
            ..LogQuery::default()
        };
        let skip = next.filter(|_| again.is_none()).unwrap_or(0);
        Ok((query, skip, reverse))
    });
    let (query, skip, reverse) = match made {
        Ok(made) => made,
        Err(refused) => return *refused,
    };
    // A pod's container is a task of its executor; a task without one of its own is its executor.
    let Some(dir) = task_dir(&logs, &executor).or_else(|| task_dir(&logs, &container)) else {
        return refused(StatusCode::NOT_FOUND, "no such executor on this agent");
    };
    let fields = Fields {
        framework,
        executor,
        container,
    };
    let begin = Begin::Query;
    let (skipped_prev, limit) = (query.tail.unwrap_or(0), query.limit);
    if reverse {
        return reversed(&logs, dir, query, fields, form, limit).await;
    }
    let told = |follow: &Follow| Told::new(form, &query, follow, skip, Format::Entries(fields));
    let mut response = answer(&logs, dir, query.clone(), begin, form, told).await;
    for (name, n) in [
        ("x-journal-skip-next", skip),
        ("x-journal-skip-prev", skipped_prev),
    ] {
        response.headers_mut().insert(name, HeaderValue::from(n));
    }
    response
}

/// All entries, the newest first. Bounded: the newest of them.
async fn reversed(
    logs: &Logs,
    dir: TaskDir,
    mut query: LogQuery,
    fields: Fields,
    form: LogForm,
    limit: Option<u64>,
) -> Response {
    let slot = match logs.slot() {
        Ok(slot) => slot,
        Err(refused) => return *refused,
    };
    query.limit = None;
    query.tail = query.tail.or(Some(MAX_REVERSED as u64));
    let node = logs.node().to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let mut follow = Follow::new(&dir, &node, &query, Begin::Query)?;
        let _slot = slot;
        let mut lines = VecDeque::new();
        let mut cursor = query.cursor.clone().unwrap_or_default();
        loop {
            let look = follow.look(clock::now_ns() / 1000, true)?;
            for event in look.events {
                if let LogEvent::Line(line) = event {
                    cursor.set(&line.task, &line.stream, line.next);
                    cursor.floor_us = line.time_us;
                    if lines.len() == MAX_REVERSED {
                        lines.pop_front();
                    }
                    lines.push_back(fields.write(form, &line, &cursor));
                }
            }
            if look.over {
                return Ok::<_, FollowError>(lines);
            }
        }
    });
    match read.await {
        Ok(Ok(lines)) => {
            let most = limit.map_or(usize::MAX, |l| usize::try_from(l).unwrap_or(usize::MAX));
            let text: String = lines.into_iter().rev().take(most).collect();
            let mut response = text.into_response();
            let kind = HeaderValue::from_static(content_type(form));
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Ok(Err(e)) => refused(status(&e), e.to_string()),
        Err(e) => refused(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

async fn file(
    State(logs): State<Logs>,
    UrlPath(path): UrlPath<Vec<(String, String)>>,
    pairs: Pairs,
    headers: HeaderMap,
) -> Response {
    let part = |name: &str| {
        let found = path.iter().find(|(k, _)| k == name);
        found.map(|(_, v)| v.as_str()).unwrap_or_default()
    };
    let form = match form(&headers) {
        LogForm::Events => LogForm::Events,
        _ => LogForm::Text,
    };
    let made = Asked::read(pairs).and_then(|asked| {
        let limit = asked.number::<u64>("limit")?.filter(|n| *n > 0);
        let skip = asked.number::<i64>("skip")?.unwrap_or(0);
        let at = match asked.text("cursor") {
            None | Some("BEG") => Some(0),
            Some("END") => None,
            Some(_) => Some(asked.number::<u64>("cursor")?.unwrap_or(0)),
        };
        let at = match last_event(&headers) {
            None => at,
            Some(id) => Some(id.parse().map_err(|_| {
                let why = format!("invalid Last-Event-ID: {id:.40}");
                Box::new(refused(StatusCode::BAD_REQUEST, why))
            })?),
        };
        Ok((limit, skip, at))
    });
    let (limit, skip, at) = match made {
        Ok(made) => made,
        Err(refused) => return *refused,
    };
    let (task, name) = (part("task"), part("file"));
    let id = if task.is_empty() {
        part("executor")
    } else {
        task
    };
    let dir = task_dir(&logs, id).or_else(|| task_dir(&logs, part("container")));
    // dcos-log says so where there is no such file.
    let (Some(dir), true) = (dir, ["stdout", "stderr"].contains(&name)) else {
        return StatusCode::NO_CONTENT.into_response();
    };
    let query = LogQuery {
        stream: Some(name.to_owned()),
        limit,
        follow: form == LogForm::Events,
        may_skip: true,
        ..LogQuery::default()
    };
    let back = skip.min(0).unsigned_abs();
    let begin = Begin::At { at, back };
    let ahead = u64::try_from(skip).unwrap_or(0);
    let told = |follow: &Follow| Told::new(form, &query, follow, ahead, Format::Lines);
    answer(&logs, dir, query.clone(), begin, form, told).await
}

async fn answer(
    logs: &Logs,
    dir: TaskDir,
    query: LogQuery,
    begin: Begin,
    form: LogForm,
    told: impl FnOnce(&Follow) -> Told,
) -> Response {
    let slot = match logs.slot() {
        Ok(slot) => slot,
        Err(refused) => return *refused,
    };
    let opened = {
        let (dir, node) = (dir.clone(), logs.node().to_owned());
        tokio::task::spawn_blocking(move || Follow::new(&dir, &node, &query, begin)).await
    };
    let follow = match opened {
        Ok(Ok(follow)) => follow,
        Ok(Err(e)) => return refused(status(&e), e.to_string()),
        Err(e) => return refused(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    };
    let told = told(&follow);
    let (parts, body) = mpsc::channel::<Bytes>(MAX_WAITING);
    let logs = logs.clone();
    tokio::spawn(async move {
        let _slot = slot;
        tell(&logs, &dir, follow, told, parts).await;
    });
    let mut response = stream(form, ReceiverStream::new(body));
    let kind = HeaderValue::from_static(content_type(form));
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

const fn content_type(form: LogForm) -> &'static str {
    match form {
        LogForm::Text => "text/plain",
        LogForm::Json => "application/json",
        LogForm::Events => "text/event-stream",
    }
}

/// The status of a refusal.
pub const fn status(e: &FollowError) -> StatusCode {
    match e {
        FollowError::TooOld { .. } => StatusCode::GONE,
        FollowError::Beyond { .. } => StatusCode::BAD_REQUEST,
        FollowError::Read(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

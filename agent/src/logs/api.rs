//! `GET /waggle/v1/tasks/<id>/logs`: a task's lines, from any place on, as they come.
//!
//! Text, JSON (an object to a line) or server-sent events, by `Accept`; a cursor comes with each event and is taken as
//! `cursor` or `Last-Event-ID`. Whoever reads too slowly holds up nobody but itself, and is cut off in the end.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Path as UrlPath, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use waggle_api::{
    logs::{LogCursor, LogEvent, LogForm, LogQuery},
    native::PrefixError,
};
use waggle_telemetry::{Telemetry, names};

use super::{
    dcos::{self, Fields},
    follow::{Begin, Follow, Look},
};
use crate::{
    checkpoint::TaskDir,
    clock,
    files::{find_task, problem},
    http::View,
};

/// Readers at the same moment; one more is answered 503.
const MAX_READERS: usize = 256;
/// Between two looks at output that has not grown.
const LOOK: Duration = Duration::from_millis(100);
/// Parts of an answer that wait for a slow reader.
pub const MAX_WAITING: usize = 4;
/// A reader that takes nothing for this long is cut off; it may go on by its cursor.
const PATIENCE: Duration = if cfg!(test) {
    Duration::from_millis(50)
} else {
    Duration::from_secs(30)
};
/// Between two signs of life on a stream that has nothing to tell.
const BEAT: Duration = Duration::from_secs(10);

/// What every handler has.
#[derive(Debug, Clone)]
pub struct Logs {
    work_dir: PathBuf,
    node: String,
    view: View,
    telemetry: Telemetry,
    slots: Arc<Semaphore>,
}

impl Logs {
    /// Of the tasks below a work directory.
    pub fn new(work_dir: &Path, node: &str, view: View, telemetry: Telemetry) -> Self {
        Self {
            work_dir: work_dir.to_owned(),
            node: node.to_owned(),
            view,
            telemetry,
            slots: Arc::new(Semaphore::new(MAX_READERS)),
        }
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/waggle/v1/tasks/{id}/logs", get(lines))
            .merge(dcos::routes())
            .with_state(self)
    }

    /// Where tasks' directories are.
    pub fn work_dir(&self) -> &Path {
        &self.work_dir
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Room for one more reader.
    pub fn slot(&self) -> Result<OwnedSemaphorePermit, Box<Response>> {
        Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            let reason = [(names::DROP_REASON, "logs".into())];
            self.telemetry
                .count(&names::AGENT_REQUESTS_REFUSED, &reason, 1);
            let why = format!("{MAX_READERS} readers of output are there, try again");
            Box::new(problem(StatusCode::SERVICE_UNAVAILABLE, &why))
        })
    }

    /// Whether no more of a task's output comes.
    fn has_ended(&self, dir: &TaskDir) -> bool {
        let id = dir.task_id().to_string();
        let known = self.view.borrow().tasks.iter().any(|t| t.id == id);
        !known || dir.exit().is_some()
    }
}

type Pairs = Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>;

async fn lines(
    State(logs): State<Logs>,
    UrlPath(id): UrlPath<String>,
    pairs: Pairs,
    headers: HeaderMap,
) -> Response {
    let text = |name| {
        let value = headers.get(name)?;
        value.to_str().ok()
    };
    let form = LogForm::of(text(header::ACCEPT).unwrap_or_default());
    let last_event = text(header::HeaderName::from_static("last-event-id"));
    let pairs = match pairs {
        Ok(Query(pairs)) => pairs,
        Err(e) => return problem(StatusCode::BAD_REQUEST, &e.body_text()),
    };
    let pairs = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let query = match LogQuery::read(pairs, last_event, form, clock::now_ns() / 1000) {
        Ok(query) => query,
        Err(why) => return problem(StatusCode::BAD_REQUEST, &why),
    };
    let slot = match logs.slot() {
        Ok(slot) => slot,
        Err(refused) => return *refused,
    };
    let opened = {
        let (logs, query) = (logs.clone(), query.clone());
        tokio::task::spawn_blocking(move || {
            let dir = find_task(&logs.work_dir, &logs.view, &id).map_err(|e| {
                let status = match e {
                    PrefixError::Nothing(_) => StatusCode::NOT_FOUND,
                    PrefixError::Several { .. } => StatusCode::CONFLICT,
                };
                Box::new(problem(status, &e.to_string()))
            })?;
            let follow = Follow::new(&dir, &logs.node, &query, Begin::Query)
                .map_err(|e| Box::new(problem(dcos::status(&e), &e.to_string())))?;
            Ok::<_, Box<Response>>((dir, follow))
        })
        .await
    };
    let (dir, follow) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(refused)) => return *refused,
        Err(e) => return problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
    };
    let (parts, body) = mpsc::channel::<Bytes>(MAX_WAITING);
    let told = Told::new(form, &query, &follow, 0, Format::Events);
    tokio::spawn(async move {
        let _slot = slot;
        tell(&logs, &dir, follow, told, parts).await;
    });
    stream(form, ReceiverStream::new(body))
}

/// An answer whose end is not known.
pub fn stream(form: LogForm, parts: ReceiverStream<Bytes>) -> Response {
    let body = Body::from_stream(parts.map(Ok::<_, Infallible>));
    let mut response = body.into_response();
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static(form.content_type());
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Whose way of telling lines.
#[derive(Debug)]
pub enum Format {
    /// Ours.
    Events,
    /// dcos-log's v1.
    Entries(Fields),
    /// dcos-log's v2: the lines, and where each ends.
    Lines,
}

impl Format {
    fn write(&self, form: LogForm, event: &LogEvent, cursor: Option<&LogCursor>) -> String {
        match (self, event) {
            (Self::Events, _) => form.write(event, cursor),
            (Self::Entries(fields), LogEvent::Line(line)) => {
                fields.write(form, line, cursor.unwrap_or(&LogCursor::default()))
            }
            (Self::Lines, LogEvent::Line(line)) if form == LogForm::Events => {
                format!("id: {}\ndata: {}\n\n", line.next, line.line)
            }
            (Self::Lines, LogEvent::Line(_)) => event.text(),
            // Their clients know of nothing else.
            _ => String::new(),
        }
    }
}

/// What was told, and what is still to be.
pub struct Told {
    form: LogForm,
    format: Format,
    cursor: LogCursor,
    skip: u64,
    left: u64,
    marks: bool,
    follow: bool,
}

impl Told {
    /// Nothing so far; the first `skip` lines are left out.
    pub fn new(
        form: LogForm,
        query: &LogQuery,
        follow: &Follow,
        skip: u64,
        format: Format,
    ) -> Self {
        let mut cursor = query.cursor.clone().unwrap_or_default();
        for (stream, at) in follow.places() {
            cursor.set(follow.task(), stream, at);
        }
        Self {
            form,
            format,
            cursor,
            skip,
            left: query.limit.unwrap_or(u64::MAX),
            marks: query.marks,
            follow: query.follow,
        }
    }

    /// Events in their form, and whether that was all that was wanted.
    fn write(&mut self, events: &[LogEvent]) -> (String, bool) {
        let mut out = String::new();
        for event in events {
            match event {
                LogEvent::Line(line) => {
                    if self.left == 0 {
                        return (out, true);
                    }
                    if self.skip > 0 {
                        self.skip -= 1;
                        continue;
                    }
                    self.left -= 1;
                    self.cursor.set(&line.task, &line.stream, line.next);
                    self.cursor.floor_us = self.cursor.floor_us.max(line.time_us);
                    let text = self.format.write(self.form, event, Some(&self.cursor));
                    out.push_str(&text);
                }
                LogEvent::Upto { .. } if !self.marks => {}
                // Who does not follow was told where it is now, not that it has ended.
                LogEvent::Ended { .. } if !self.follow => {}
                _ => out.push_str(&self.format.write(self.form, event, None)),
            }
        }
        (out, self.left == 0)
    }
}

/// Tells what there is, and what comes, as far as it is asked for.
pub async fn tell(
    logs: &Logs,
    dir: &TaskDir,
    mut follow: Follow,
    mut told: Told,
    parts: mpsc::Sender<Bytes>,
) {
    let mut spoke = tokio::time::Instant::now();
    loop {
        // Looked at before the files: what it wrote last is there by then. Who does not follow ends where it is now.
        let ended = !told.follow || logs.has_ended(dir);
        let looked = tokio::task::spawn_blocking(move || {
            let look = follow.look(clock::now_ns() / 1000, ended);
            (follow, look)
        });
        let look: Look;
        (follow, look) = match looked.await {
            Ok((follow, Ok(look))) => (follow, look),
            Ok((_, Err(error))) => {
                tracing::warn!(task = %dir.task_id(), %error, "output not read");
                return;
            }
            Err(_) => return,
        };
        let (mut text, mut over) = told.write(&look.events);
        over |= look.over;
        if text.is_empty() && spoke.elapsed() >= BEAT && told.form == LogForm::Events {
            ":\n\n".clone_into(&mut text);
        }
        if !text.is_empty() {
            spoke = tokio::time::Instant::now();
            if !hand(&parts, text.into(), &logs.telemetry).await {
                return;
            }
        }
        if over {
            return;
        }
        if !look.more {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = parts.closed() => return,
            }
        }
    }
}

/// Hands a part to a reader; whether it takes more. One that takes nothing for too long is counted.
async fn hand(parts: &mpsc::Sender<Bytes>, part: Bytes, telemetry: &Telemetry) -> bool {
    let handed = tokio::time::timeout(PATIENCE, parts.send(part)).await;
    if handed.is_err() {
        telemetry.count(&names::AGENT_LOG_READERS_CUT, &[], 1);
    }
    matches!(handed, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_takes_nothing_is_cut_off_and_counted() {
        let telemetry = Telemetry::disabled();
        let cut = || {
            let page = telemetry.prometheus_text();
            let line = page
                .lines()
                .find(|l| l.starts_with("waggle_agent_log_readers_cut_total"));
            line.is_some_and(|l| l.ends_with(" 1"))
        };
        let (parts, mut reader) = mpsc::channel(1);
        let part = || Bytes::from_static(b"line\n");
        assert!(hand(&parts, part(), &telemetry).await);
        reader.recv().await.unwrap();
        assert!(hand(&parts, part(), &telemetry).await);
        assert!(!cut());
        // It holds one part, and reads no further.
        assert!(!hand(&parts, part(), &telemetry).await);
        assert!(cut());
        // Who goes by itself was not cut off.
        drop(reader);
        assert!(!hand(&parts, part(), &telemetry).await);
        assert!(cut());
    }
}

//! `GET /waggle/v1/logs?of=NAME`: the output of all tasks of a service, a pod or a job, wherever they run, as one.
//!
//! Lines come in the order in which they came to their nodes, as far as the nodes' clocks agree; an agent that is
//! slow or away is waited for for [`WINDOW`]. Tasks join when the master knows them and leave when they have ended and
//! all of their output was told. Nothing is kept here: a cursor says how far each stream was told, so any later
//! master goes on where this one stopped.

mod pick;
mod pull;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use futures::stream::{self, StreamExt as _};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use waggle_api::{
    error::{ApiError, ErrorCode},
    logs::{LogCursor, LogEvent, LogForm, LogQuery},
};
use waggle_telemetry::{Telemetry, names};
use waggle_telemetry_pipeline::Merge;

use self::{
    pick::{Picked, Sources},
    pull::Pull,
};
use super::super::{Api, request::Call, respond::Fail};
use crate::view::ClusterView;

/// Readers at the same moment; one more is answered 503.
const MAX_READERS: usize = 64;
/// How long a line waits for what may have come before it.
const WINDOW: Duration = Duration::from_secs(2);
/// Events of a task that wait for other tasks; its agent waits meanwhile.
const MAX_HELD: usize = 64;
/// The same on their way here.
const MAX_ON_WAY: usize = 16;
/// Agents that are asked at once in the beginning.
const AT_ONCE: usize = 32;
/// Longest wait for something to tell: then the window of what waits may be over.
const LOOK: Duration = Duration::from_millis(100);
/// Parts of an answer that wait for a slow reader.
const MAX_WAITING: usize = 4;
/// A reader that takes nothing for this long is cut off; it may go on by its cursor.
const PATIENCE: Duration = if cfg!(test) {
    Duration::from_millis(50)
} else {
    Duration::from_secs(30)
};
/// Between two signs of life on a stream that has nothing to tell.
const BEAT: Duration = Duration::from_secs(10);
/// With more streams than this a cursor comes with the last of several events only.
const MAX_IN_EACH: usize = 64;

/// Room for readers.
#[derive(Debug, Clone)]
pub(in crate::http) struct Readers(Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_READERS)))
    }
}

impl Readers {
    fn one_more(&self) -> Result<OwnedSemaphorePermit, Fail> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            let why = format!("logs: {MAX_READERS} readers are there, try again");
            ApiError::new(ErrorCode::Unavailable, why).into()
        })
    }
}

/// Answers when every agent that can be reached has said that it has what is asked for.
pub(super) async fn follow(api: &Api, call: &Call) -> Result<Response, Fail> {
    let text = |name| {
        let value = call.headers().get(name)?;
        value.to_str().ok()
    };
    let form = LogForm::of(text(header::ACCEPT).unwrap_or_default());
    let last_event = text(header::HeaderName::from_static("last-event-id"));
    let query = LogQuery::read(call.query.pairs(), last_event, form, now_us())
        .map_err(|why| ApiError::new(ErrorCode::BadRequest, why))?;
    let view = api.view();
    let name = call.query.first("of").unwrap_or_default();
    let picked = Picked::find(&view, name)?;
    let slot = api.readers.one_more()?;
    let mut sources = picked.running(&view, query.cursor.as_ref())?;
    if sources.is_empty() && (!query.follow || matches!(picked, Picked::Task(_))) {
        sources = picked.ended(&view);
    }
    let mut merged = Merged::new(picked, name, &query);
    for (pull, open) in open_all(&merged, sources).await? {
        merged.join(pull, open);
    }
    let (parts, body) = mpsc::channel::<Bytes>(MAX_WAITING);
    let (views, telemetry) = (api.handle.subscribe(), api.telemetry.clone());
    let stop = api.tunnels.stopped();
    tokio::spawn(async move {
        let _slot = slot;
        let tell = merged.tell(form, views, &telemetry, parts);
        stop.run_until_cancelled(tell).await;
    });
    let body = ReceiverStream::new(body).map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static(form.content_type());
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Asks all agents. A cursor that one of them refuses is refused; one that is away is asked again later.
async fn open_all(
    merged: &Merged,
    sources: Sources,
) -> Result<Vec<(Pull, Option<pull::Open>)>, Fail> {
    let pulls = sources.into_iter().map(|(task, at)| merged.pull(task, at));
    let mut asked = stream::iter(pulls)
        .map(|pull| async move {
            let open = pull.open().await;
            (pull, open)
        })
        .buffered(AT_ONCE);
    let mut out = Vec::new();
    while let Some((pull, open)) = asked.next().await {
        match open {
            Ok(open) => out.push((pull, Some(open))),
            Err(e) => match e.code() {
                ErrorCode::Gone | ErrorCode::BadRequest => return Err(e),
                ErrorCode::NotFound => {}
                _ => out.push((pull, None)),
            },
        }
    }
    Ok(out)
}

/// A task that is followed.
struct Source {
    events: mpsc::Receiver<LogEvent>,
    // Its agent said that all was told, or nothing can come any more.
    over: bool,
    _pull: AbortOnDropHandle<()>,
}

/// All that is followed for one reader.
struct Merged {
    picked: Picked,
    name: String,
    query: LogQuery,
    cursor: LogCursor,
    left: u64,
    sources: BTreeMap<String, Source>,
    // Told to their end; remembered for as long as the master still lists them.
    done: BTreeSet<String>,
    merge: Merge<String, LogEvent>,
    wake: Arc<Notify>,
    // Tasks that are not followed, since there are too many.
    left_out: usize,
    // What is to be told out of turn.
    notes: Vec<LogEvent>,
}

impl Merged {
    fn new(picked: Picked, name: &str, query: &LogQuery) -> Self {
        let window = u64::try_from(WINDOW.as_nanos()).unwrap_or(u64::MAX);
        Self {
            picked,
            name: name.to_owned(),
            cursor: query.cursor.clone().unwrap_or_default(),
            left: query.limit.unwrap_or(u64::MAX),
            query: LogQuery {
                limit: None,
                marks: true,
                ..query.clone()
            },
            sources: BTreeMap::new(),
            done: BTreeSet::new(),
            merge: Merge::new(window),
            wake: Arc::default(),
            left_out: 0,
            notes: Vec::new(),
        }
    }

    /// How a task is to be asked for.
    fn pull(&self, task: String, agent: std::net::SocketAddr) -> Pull {
        let mut cursor = LogCursor::at(self.cursor.floor_us);
        for stream in ["stdout", "stderr"] {
            if let Some(at) = self.cursor.place(&task, stream) {
                cursor.set(&task, stream, at);
            }
        }
        Pull {
            task,
            agent,
            query: self.query.clone(),
            cursor,
        }
    }

    fn join(&mut self, pull: Pull, open: Option<pull::Open>) {
        let (to, events) = mpsc::channel(MAX_ON_WAY);
        let task = pull.task.clone();
        self.merge.join(task.clone());
        let run = tokio::spawn(pull.run(open, to, Arc::clone(&self.wake)));
        let source = Source {
            events,
            over: false,
            _pull: AbortOnDropHandle::new(run),
        };
        self.sources.insert(task, source);
    }

    /// Tasks that are new are told from their beginning.
    fn look_for_more(&mut self, view: &ClusterView) {
        let known = |task: &str| self.sources.contains_key(task) || self.done.contains(task);
        let (running, left_out) = self.picked.as_many(view, known);
        // Said again when there are more, not for each that goes.
        if left_out > self.left_out {
            self.notes.push(LogEvent::LeftOut { left_out });
        }
        self.left_out = left_out;
        let (cursor, done) = (&mut self.cursor, &mut self.done);
        done.retain(|task| {
            let listed = running.contains_key(task);
            if !listed {
                for stream in ["stdout", "stderr"] {
                    cursor.remove(task, stream);
                }
            }
            listed
        });
        for (task, agent) in running {
            if self.sources.contains_key(&task) || self.done.contains(&task) {
                continue;
            }
            let mut pull = self.pull(task, agent);
            (pull.query.tail, pull.query.since_us, pull.query.cursor) = (None, None, None);
            pull.cursor = LogCursor::default();
            self.join(pull, None);
        }
    }

    /// Takes what has come, as far as there is room for it.
    fn take(&mut self) {
        let now_ns = now_us().saturating_mul(1000);
        for (task, source) in &mut self.sources {
            while !source.over && self.merge.held(task) < MAX_HELD {
                match source.events.try_recv() {
                    Ok(LogEvent::Upto { upto_us }) => self.merge.upto(task, upto_us),
                    Ok(LogEvent::Ended { .. }) | Err(mpsc::error::TryRecvError::Disconnected) => {
                        source.over = true;
                        // In its turn, behind its lines.
                        let ended = LogEvent::Ended {
                            ended: task.clone(),
                        };
                        self.merge.push(task, 0, ended, now_ns);
                        self.merge.leave(task);
                    }
                    Ok(event) => {
                        let time_us = match &event {
                            LogEvent::Line(line) => line.time_us,
                            // Behind what came before it.
                            _ => 0,
                        };
                        self.merge.push(task, time_us, event, now_ns);
                    }
                    Err(mpsc::error::TryRecvError::Empty) => break,
                }
            }
        }
    }

    /// What is due, in its form; and whether that was all that was asked for.
    fn write(&mut self, form: LogForm) -> (String, bool) {
        let notes = std::mem::take(&mut self.notes);
        let mut out: String = notes.iter().map(|n| form.write(n, None)).collect();
        let now_ns = now_us().saturating_mul(1000);
        let mut n = 0;
        while n < MAX_IN_EACH
            && let Some(next) = self.merge.pop(now_ns)
        {
            n += 1;
            let mut id = None;
            match &next.item {
                LogEvent::Line(line) => {
                    if self.left == 0 {
                        return (out, true);
                    }
                    self.left -= 1;
                    self.cursor.set(&line.task, &line.stream, line.next);
                    let floor_us = self.merge.floor().min(line.time_us);
                    self.cursor.floor_us = self.cursor.floor_us.max(floor_us);
                    let short = self.cursor.len() <= MAX_IN_EACH;
                    id = (short || n == MAX_IN_EACH).then_some(&self.cursor);
                }
                LogEvent::Ended { ended } => {
                    self.sources.remove(ended);
                    self.done.insert(ended.clone());
                    // Who does not follow was told where each one is, not that it has ended.
                    if !self.query.follow {
                        continue;
                    }
                }
                LogEvent::Gap { .. } | LogEvent::Upto { .. } | LogEvent::LeftOut { .. } => {}
            }
            out.push_str(&form.write(&next.item, id));
        }
        (out, self.left == 0)
    }

    async fn tell(
        mut self,
        form: LogForm,
        mut views: watch::Receiver<Arc<ClusterView>>,
        telemetry: &Telemetry,
        parts: mpsc::Sender<Bytes>,
    ) {
        let mut spoke = Instant::now();
        let (mut changed, mut there) = (self.query.follow, true);
        loop {
            // Who can't say any more is no leader any more.
            changed |= self.query.follow && views.has_changed().unwrap_or(false);
            if std::mem::take(&mut changed) {
                let view = Arc::clone(&views.borrow_and_update());
                self.look_for_more(&view);
                there = self.picked.is_there(&view);
            }
            self.take();
            let (mut text, mut over) = self.write(form);
            let late = self.merge.take_late();
            if late > 0 {
                telemetry.count(&names::LOG_LATE, &[], late);
            }
            let told = !text.is_empty();
            if self.sources.is_empty() && !told && (!there || !self.query.follow) {
                over = true;
                if self.query.follow {
                    let ended = self.name.clone();
                    text = form.write(&LogEvent::Ended { ended }, None);
                }
            }
            if text.is_empty() && form == LogForm::Events && spoke.elapsed() >= BEAT {
                ":\n\n".clone_into(&mut text);
            }
            if !text.is_empty() {
                spoke = Instant::now();
                if !hand(&parts, text.into(), telemetry).await {
                    return;
                }
            }
            if over {
                return;
            }
            if told {
                continue;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                seen = views.changed(), if self.query.follow => {
                    if seen.is_err() {
                        return;
                    }
                    changed = true;
                }
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
        telemetry.count(&names::LOG_READERS_CUT, &[], 1);
    }
    matches!(handed, Ok(Ok(())))
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

//! The HTTP/1.1 server under both APIs: bounded in connections, in header bytes and in time.
//!
//! `axum::serve` bounds none of these. A connection that does not finish a request's head in time, or is idle for too
//! long, is closed. When all are taken, the one that has been idle for longest makes room for a new one; if none has
//! been for a while, the new one is answered 503 and closed. Bodies are bounded where they are read.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{Router, body::Body};
use http_body_util::BodyExt as _;
use hyper::{
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use waggle_telemetry::{Telemetry, names};

/// Longest request head, in bytes; a longer one is a 431.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Pause after a failed accept (out of file descriptors): the backlog waits meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for a connection that makes room.
const ROOM_PATIENCE: Duration = Duration::from_millis(500);
/// Open requests have this long to end when the master stops.
const DRAIN: Duration = Duration::from_secs(5);
/// What a connection over the limit reads.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
    Content-Length: 55\r\nRetry-After: 1\r\nConnection: close\r\n\r\n\
    {\"message\":\"connections: the limit of them is reached\"}";

/// Who is at the other end of a request's connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Ends a request's connection at once, whatever waits to be written.
#[derive(Debug, Clone)]
pub(super) struct Cut(pub(super) CancellationToken);

/// What a connection is doing, for its watch.
#[derive(Debug)]
struct Doing {
    /// Requests that have come.
    begun: AtomicU64,
    /// Requests whose answer is being made or sent.
    open: AtomicU64,
    at: Mutex<Times>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    /// When the last answer was through.
    idle_since: Instant,
    /// When the first bytes came of a request that has not begun.
    head_since: Option<Instant>,
}

/// Counts a request for as long as its answer lives.
struct Answering(Arc<Doing>);

impl Drop for Answering {
    fn drop(&mut self) {
        *self.0.at.lock().unwrap_or_else(PoisonError::into_inner) = Times {
            idle_since: Instant::now(),
            head_since: None,
        };
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Doing {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: AtomicU64::new(0),
            open: AtomicU64::new(0),
            at: Mutex::new(Times {
                idle_since: Instant::now(),
                head_since: None,
            }),
        })
    }

    /// Bytes have come.
    fn heard(&self) {
        if self.open.load(Ordering::Relaxed) == 0 {
            let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
            at.head_since.get_or_insert_with(Instant::now);
        }
    }

    /// For how long it has had nothing to do; none while it has.
    fn idle_for(&self) -> Option<Duration> {
        let at = *self.at.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = self.open.load(Ordering::Relaxed) == 0 && at.head_since.is_none();
        idle.then(|| at.idle_since.elapsed())
    }

    fn begin(self: &Arc<Self>) -> Answering {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Answering(Arc::clone(self))
    }

    /// Returns when the connection has had nothing to do for too long, or a request's head takes too long; says which.
    async fn idle(&self, limits: HttpLimits) -> &'static str {
        loop {
            let at = *self.at.lock().unwrap_or_else(PoisonError::into_inner);
            let first = self.begun.load(Ordering::Relaxed) == 0;
            let (since, most, why) = match at.head_since {
                _ if first => (at.idle_since, limits.head_timeout, "slow_head"),
                Some(since) => (since, limits.head_timeout, "slow_head"),
                None => (at.idle_since, limits.idle_timeout, "idle"),
            };
            let busy = self.open.load(Ordering::Relaxed) > 0;
            if !busy && since.elapsed() >= most {
                return why;
            }
            // A head may begin at any moment.
            let rest = most.saturating_sub(since.elapsed());
            let rest = if busy { most } else { rest };
            let rest = rest.min(limits.head_timeout);
            tokio::time::sleep(rest.max(Duration::from_millis(10))).await;
        }
    }
}

/// A connection whose watch hears of bytes that come.
struct Heard {
    stream: TcpStream,
    doing: Arc<Doing>,
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.doing.heard();
        }
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

type Watched = BTreeMap<u64, (Arc<Doing>, CancellationToken)>;

/// Open connections; as many as there is room for.
#[derive(Debug, Clone, Default)]
struct Open(Arc<Mutex<Watched>>);

impl Open {
    fn all(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the connection that has been idle for longest, if for so long; false when there is none.
    fn make_room(&self, least: Duration) -> bool {
        let all = self.all();
        let idle = all
            .values()
            .filter_map(|(doing, cut)| Some((doing.idle_for()?, cut)));
        let longest = idle.filter(|(for_, _)| *for_ >= least);
        match longest.max_by_key(|(for_, _)| *for_) {
            Some((_, cut)) => {
                cut.cancel();
                true
            }
            None => false,
        }
    }
}

/// Bounds of one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Most connections at once; one more is answered 503 and closed.
    pub max_connections: usize,
    /// Longest time for the head of a request, from its first byte; of the first, from the connection's begin. Who has
    /// been idle for as long makes room when all connections are taken.
    pub head_timeout: Duration,
    /// Longest time between the end of an answer and the next request. Some clients of Mesos keep a connection, and
    /// end when it is closed before they use it again.
    pub idle_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_hours(1),
        }
    }
}

/// Serves until stopped, then lets open requests end.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    telemetry: Telemetry,
    stop: CancellationToken,
) {
    let ended = {
        let telemetry = telemetry.clone();
        move |why: &'static str| {
            let attrs = [(names::DROP_REASON, why.into())];
            telemetry.count(&names::SCHED_HTTP_CLOSED, &attrs, 1);
        }
    };
    let watched = Open::default();
    let mut numbers = 0u64..;
    let room = Arc::new(Semaphore::new(limits.max_connections.max(1)));
    let refused = AtomicU64::new(0);
    let open = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            a = listener.accept() => a,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!(error = %e, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(permit) = permit(&room, &watched, limits, &ended).await else {
            ended("too_many");
            let n = refused.fetch_add(1, Ordering::Relaxed) + 1;
            // Told at 1, 2, 4, 8..: a flood must not fill the log too.
            if n.is_power_of_two() {
                tracing::warn!(n, max = limits.max_connections, "too many connections");
            }
            refuse(&stream);
            continue;
        };
        // Small answers must not wait for more; a socket that can't is served all the same.
        let _ = stream.set_nodelay(true);
        let inner = TowerToHyperService::new(router.clone());
        let (doing, cut) = (Doing::new(), CancellationToken::new());
        let number = numbers.next().unwrap_or_default();
        let mine = (Arc::clone(&doing), cut.clone());
        watched.all().insert(number, mine);
        let stream = Heard {
            stream,
            doing: Arc::clone(&doing),
        };
        let (begins, cuts) = (Arc::clone(&doing), cut.clone());
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            let extensions = request.extensions_mut();
            extensions.insert(Peer(peer));
            extensions.insert(Cut(cuts.clone()));
            let (answering, answer) = (begins.begin(), inner.call(request));
            async move {
                let answer = answer.await?;
                // As long as the body lives, so that a stream of events is no idle connection.
                Ok::<_, Infallible>(answer.map(|body| {
                    Body::new(body.map_frame(move |frame| {
                        let _ = &answering;
                        frame
                    }))
                }))
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let (stop, ended, watched) = (stop.clone(), ended.clone(), watched.clone());
        open.spawn(async move {
            let mut connection = pin!(connection);
            let done = tokio::select! {
                done = connection.as_mut() => done,
                () = cut.cancelled() => Ok(()),
                why = doing.idle(limits) => {
                    ended(why);
                    Ok(())
                }
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(e) = done {
                tracing::debug!(error = %e, "a connection ended early");
            }
            watched.all().remove(&number);
            drop(permit);
        });
    }
    open.close();
    if tokio::time::timeout(DRAIN, open.wait()).await.is_err() {
        tracing::warn!("requests were cut off, they did not end in time");
    }
}

/// Room for one more connection, if need be of one that has been idle for long.
async fn permit(
    room: &Arc<Semaphore>,
    watched: &Open,
    limits: HttpLimits,
    ended: &impl Fn(&'static str),
) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = Arc::clone(room).try_acquire_owned() {
        return Some(permit);
    }
    if !watched.make_room(limits.head_timeout) {
        return None;
    }
    ended("made_room");
    let waited = tokio::time::timeout(ROOM_PATIENCE, Arc::clone(room).acquire_owned());
    waited.await.ok()?.ok()
}

/// Says why, if that can be said without waiting.
fn refuse(stream: &TcpStream) {
    // A full socket buffer on a fresh connection means that nobody reads.
    let _ = stream.try_write(FULL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_is_well_formed() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{}",
            body.len()
        );
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(body["message"].is_string());
    }
}

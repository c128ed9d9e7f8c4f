//! The HTTP/1.1 server under both APIs: bounded in connections, in header bytes and in time.
//!
//! `axum::serve` bounds none of these. A connection over the limit is answered 503 and closed; one that
//! does not finish its first request's head in time, or is idle for too long, is closed. Bodies are bounded where they are read.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
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
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest request head, in bytes; a longer one is a 431.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Pause after a failed accept (out of file descriptors): the backlog waits meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
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
    /// When the last answer was through.
    idle_since: Mutex<Instant>,
}

/// Counts a request for as long as its answer lives.
struct Answering(Arc<Doing>);

impl Drop for Answering {
    fn drop(&mut self) {
        let now = Instant::now();
        *self
            .0
            .idle_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = now;
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Doing {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: AtomicU64::new(0),
            open: AtomicU64::new(0),
            idle_since: Mutex::new(Instant::now()),
        })
    }

    fn begin(self: &Arc<Self>) -> Answering {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Answering(Arc::clone(self))
    }

    /// Returns when the connection has had nothing to do for too long.
    async fn idle(&self, limits: HttpLimits) {
        loop {
            let since = *self
                .idle_since
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let most = match self.begun.load(Ordering::Relaxed) {
                0 => limits.head_timeout,
                _ => limits.idle_timeout,
            };
            let busy = self.open.load(Ordering::Relaxed) > 0;
            if !busy && since.elapsed() >= most {
                return;
            }
            let rest = if busy {
                most
            } else {
                most.saturating_sub(since.elapsed())
            };
            tokio::time::sleep(rest.max(Duration::from_millis(10))).await;
        }
    }
}

/// Bounds of one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Most connections at once; one more is answered 503 and closed.
    pub max_connections: usize,
    /// Longest time for the head of a connection's first request.
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
    stop: CancellationToken,
) {
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
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
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
        let stop = stop.clone();
        open.spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = cut.cancelled() => return,
                () = doing.idle(limits) => return,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(e) = ended {
                tracing::debug!(error = %e, "a connection ended early");
            }
            drop(permit);
        });
    }
    open.close();
    if tokio::time::timeout(DRAIN, open.wait()).await.is_err() {
        tracing::warn!("requests were cut off, they did not end in time");
    }
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

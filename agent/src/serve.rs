//! Serving HTTP with a bound: so many connections at once, and a limit on how long a request's head may take.
//!
//! At the bound nothing is accepted until a connection ends; those that wait do so in the kernel's queue.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::{self, Next},
    response::Response,
};
use hyper::service::{Service, service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use waggle_telemetry::{Telemetry, served};

/// Connections of one listener at once. People and scrapers, not traffic.
const MAX_CONNECTIONS: usize = 128;
/// The same where executors keep one each for as long as they live.
const MANY_CONNECTIONS: usize = 4096;
/// A head that takes longer ends its connection; also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an idle connection is kept where executors are: Mesos's keep one for their calls, and end when it is gone.
const LONG_IDLE: Duration = Duration::from_hours(1);
/// Between attempts when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a request's connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Has the time recorded that each answer takes, to its head.
pub fn observed(router: Router, telemetry: Telemetry) -> Router {
    router.layer(middleware::from_fn_with_state(telemetry, observe))
}

async fn observe(State(telemetry): State<Telemetry>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>();
    // Mesos's spellings of one path are one route.
    let route = route.map(|r| {
        let path = r.as_str();
        let path = path.strip_prefix("/slave(1)").unwrap_or(path);
        path.strip_suffix(".json").unwrap_or(path).to_owned()
    });
    let answer = next.run(request).await;
    let (status, took) = (answer.status().as_u16(), began.elapsed().as_secs_f64());
    let route = route.as_deref();
    served::http(&telemetry, method.as_str(), route, status, took);
    answer
}

/// Serves until it is dropped; its connections end with it, but for those that were upgraded: they have left the bound,
/// and are their handlers' own.
pub async fn serve(listener: TcpListener, router: Router, what: &'static str) {
    let timeouts = [HEAD_TIMEOUT; 2];
    serve_at_most(MAX_CONNECTIONS, timeouts, listener, router, what).await;
}

/// The same for a listener at which executors stay.
pub async fn serve_many(listener: TcpListener, router: Router, what: &'static str) {
    let timeouts = [HEAD_TIMEOUT, LONG_IDLE];
    serve_at_most(MANY_CONNECTIONS, timeouts, listener, router, what).await;
}

async fn serve_at_most(
    most: usize,
    [first_word, head_timeout]: [Duration; 2],
    listener: TcpListener,
    router: Router,
    what: &'static str,
) {
    let slots = Arc::new(Semaphore::new(most));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(what, %error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let inner = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            inner.call(request)
        });
        connections.spawn(async move {
            let _slot = slot;
            // Looking at what came, not for readiness: that may be there without anything to read.
            let spoken = tokio::time::timeout(first_word, stream.peek(&mut [0])).await;
            if spoken.is_err() {
                tracing::debug!(what, "a connection that said nothing ends");
                return;
            }
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(head_timeout)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            if let Err(error) = served {
                tracing::debug!(what, %error, "a connection ended early");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    #[tokio::test]
    async fn answers_are_recorded_by_route() {
        use axum::{body::Body, http::StatusCode};
        use tower::ServiceExt as _;

        let t = Telemetry::disabled().component("waggle-agent");
        let router = Router::new()
            .route("/slave(1)/tasks/{id}", get(async || "ok"))
            .route("/tasks/{id}", get(async || "ok"))
            .fallback(async || StatusCode::NOT_FOUND);
        let router = observed(router, t.clone());
        for path in ["/tasks/a", "/tasks/b", "/slave(1)/tasks/c", "/x", "/y"] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap();
        }
        let text = t.prometheus_text();
        let of_it = |l: &&str| l.starts_with("http_server_request_duration_seconds_count");
        let lines: Vec<&str> = text.lines().filter(of_it).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        let tasks = lines.iter().find(|l| l.contains("/tasks/{id}")).unwrap();
        assert!(
            tasks.contains("\"200\"") && tasks.ends_with(" 3"),
            "{tasks}"
        );
    }

    #[tokio::test]
    async fn silent_connections_are_bounded_and_do_not_last() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "ok"));
        let timeout = Duration::from_millis(200);
        let server = tokio::spawn(serve_at_most(2, [timeout; 2], listener, router, "test"));
        let ask = async || {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        assert!(ask().await.starts_with("HTTP/1.1 200 OK"));
        // Both slots are taken by who says nothing: an answer comes when the first is turned out.
        let silent = [addr; 2].map(std::net::TcpStream::connect);
        let begun = Instant::now();
        assert!(ask().await.ends_with("\r\n\r\nok"));
        assert!(begun.elapsed() >= timeout / 2, "{:?}", begun.elapsed());
        drop(silent);
        server.abort();
        // Who has spoken may be silent for longer.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "ok"));
        let timeouts = [timeout, timeout * 100];
        let server = tokio::spawn(serve_at_most(2, timeouts, listener, router, "test"));
        let mut kept = TcpStream::connect(addr).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut asked = async || {
            kept.write_all(request).await.unwrap();
            let mut got = Vec::new();
            while !got.ends_with(b"\r\n\r\nok") {
                got.push(kept.read_u8().await.unwrap());
            }
        };
        asked().await;
        let silent = TcpStream::connect(addr).await.unwrap();
        let gone = tokio::time::timeout(timeout * 50, silent.readable()).await;
        assert!(gone.is_ok(), "turned out");
        asked().await;
        server.abort();
    }
}

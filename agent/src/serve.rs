//! Serving with a bound: so many connections at once, and a limit on how long a first request and a request's head may take.
//!
//! At the bound nothing is accepted until a connection ends; those that wait do so in the kernel's queue.

use std::{
    future,
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
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use waggle_telemetry::{Telemetry, served};

/// Connections of one listener at once. People and scrapers, not traffic.
const MAX_CONNECTIONS: usize = 128;
/// The same where executors keep one each for as long as they live.
const MANY_CONNECTIONS: usize = 4096;
/// A head that takes longer ends its connection; also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an idle connection is kept where executors are: Mesos's keep one for their calls, and end when it is gone.
const LONG_IDLE: Duration = Duration::from_hours(1);
/// How often an idle connection of HTTP/2 is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_mins(1);
/// Requests of one connection of HTTP/2 at once.
const MAX_STREAMS: u32 = 32;
/// Between attempts when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a listener's connections are served.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// What is served, for people.
    pub what: &'static str,
    /// Connections at once.
    pub most: usize,
    /// When the first request must be there.
    pub first: Duration,
    /// How long a later request's head may take, the wait for it included.
    pub head: Duration,
    /// Whether HTTP/2 is spoken, too.
    pub http2: bool,
}

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
    let terms = Terms {
        what,
        most: MAX_CONNECTIONS,
        first: HEAD_TIMEOUT,
        head: HEAD_TIMEOUT,
        http2: false,
    };
    serve_all(terms, listener, router).await;
}

/// The same for a listener at which executors stay.
pub async fn serve_many(listener: TcpListener, router: Router, what: &'static str) {
    let terms = Terms {
        what,
        most: MANY_CONNECTIONS,
        first: HEAD_TIMEOUT,
        head: LONG_IDLE,
        http2: false,
    };
    serve_all(terms, listener, router).await;
}

async fn serve_all(terms: Terms, listener: TcpListener, router: Router) {
    serve_known(terms, listener, router, |peer, _| {
        future::ready(Some((Peer(peer), ())))
    })
    .await;
}

/// Serves those that are let in: `known` is asked with the addresses of both ends, the other one first. Its first answer is among the
/// extensions of each request, its second is kept for as long as the connection.
pub async fn serve_known<E, G, F>(
    terms: Terms,
    listener: TcpListener,
    router: Router,
    known: impl Fn(SocketAddr, SocketAddr) -> F,
) where
    E: Clone + Send + Sync + 'static,
    G: Send + 'static,
    F: Future<Output = Option<(E, G)>> + Send + 'static,
{
    let what = terms.what;
    let slots = Arc::new(Semaphore::new(terms.most));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let accepted = listener.accept().await;
        let accepted = accepted.and_then(|(stream, peer)| Ok((stream.local_addr()?, stream, peer)));
        let (local, stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(what, %error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let (who, router) = (known(peer, local), router.clone());
        connections.spawn(async move {
            let _slot = slot;
            if let Some((who, _kept)) = who.await {
                connection(terms, stream, router, who).await;
            }
        });
    }
}

async fn connection<E: Clone + Send + Sync + 'static>(
    terms: Terms,
    stream: TcpStream,
    router: Router,
    who: E,
) {
    let what = terms.what;
    let asked = CancellationToken::new();
    let (inner, said) = (TowerToHyperService::new(router), asked.clone());
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        said.cancel();
        request.extensions_mut().insert(who.clone());
        inner.call(request)
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(terms.head);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .max_concurrent_streams(MAX_STREAMS);
    if !terms.http2 {
        server = server.http1_only();
    }
    let served = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let silence = async {
        if timeout(terms.first, asked.cancelled()).await.is_ok() {
            future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = served => {
            if let Err(error) = served {
                tracing::debug!(what, %error, "a connection ended early");
            }
        }
        () = silence => tracing::debug!(what, "a connection that asked nothing ends"),
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
        let terms = Terms {
            what: "test",
            most: 2,
            first: timeout,
            head: timeout,
            http2: false,
        };
        let server = tokio::spawn(serve_all(terms, listener, router));
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
        let terms = Terms {
            head: timeout * 100,
            http2: true,
            ..terms
        };
        let server = tokio::spawn(serve_all(terms, listener, router));
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
        // Half a word that may become HTTP/2's first one is no request.
        let mut half = TcpStream::connect(addr).await.unwrap();
        half.write_all(b"PRI").await.unwrap();
        let gone = tokio::time::timeout(timeout * 50, half.read_u8()).await;
        assert!(gone.unwrap().is_err(), "turned out");
        asked().await;
        server.abort();
    }
}

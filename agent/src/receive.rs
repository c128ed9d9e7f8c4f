//! The node's OTLP receiver for its tasks: one port for gRPC and HTTP, each connection with its task's identity.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use hyper::service::{Service as _, service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use waggle_telemetry::{Inbox, Sender, Telemetry};
use waggle_types::TaskId;

use crate::senders::Senders;

/// Connections at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// Connections of one task; more are closed at once.
const MAX_OF_TASK: usize = 64;
/// How long a request's head may take, and how often an idle connection is asked whether it is still there.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
const KEEP_ALIVE: Duration = Duration::from_mins(1);
/// Requests of one connection at once.
const MAX_STREAMS: u32 = 32;
/// Between attempts when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that each task has.
type Open = Arc<Mutex<BTreeMap<TaskId, usize>>>;

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, senders: Arc<Senders>, telemetry: Telemetry) {
    let inbox = telemetry.inbox();
    let router = inbox.routes();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let open = Open::default();
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a task's connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let (inbox, router) = (inbox.clone(), router.clone());
        let (senders, open) = (Arc::clone(&senders), Arc::clone(&open));
        connections.spawn(async move {
            let _slot = slot;
            let Some(sender) = known(&senders, &stream, peer).await else {
                inbox.turned_away();
                return;
            };
            if let Some(_place) = Place::take(&open, sender.labels().task_id.clone()) {
                connection(stream, router, sender).await;
            } else {
                turn_away(&inbox, &sender);
            }
        });
    }
}

async fn known(
    senders: &Arc<Senders>,
    stream: &TcpStream,
    peer: SocketAddr,
) -> Option<Arc<Sender>> {
    let local = stream.local_addr().ok()?;
    let senders = Arc::clone(senders);
    let found = tokio::task::spawn_blocking(move || senders.of(peer, local)).await;
    found.ok().flatten()
}

fn turn_away(inbox: &Inbox, sender: &Sender) {
    inbox.turned_away();
    let task_id = &sender.labels().task_id;
    tracing::debug!(%task_id, "a task has too many connections to the OTLP receiver");
}

async fn connection(stream: TcpStream, router: Router, sender: Arc<Sender>) {
    let inner = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Arc::clone(&sender));
        inner.call(request)
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .max_concurrent_streams(MAX_STREAMS);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a task's connection ended early");
    }
}

/// One of a task's connections.
struct Place {
    open: Open,
    task_id: TaskId,
}

impl Place {
    fn take(open: &Open, task_id: TaskId) -> Option<Self> {
        let mut all = open.lock().unwrap_or_else(PoisonError::into_inner);
        let n = all.entry(task_id.clone()).or_default();
        if *n >= MAX_OF_TASK {
            return None;
        }
        *n += 1;
        drop(all);
        let open = Arc::clone(open);
        Some(Self { open, task_id })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = all.get_mut(&self.task_id) {
            *n -= 1;
            if *n == 0 {
                all.remove(&self.task_id);
            }
        }
    }
}

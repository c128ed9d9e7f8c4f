//! The node's OTLP receiver for its tasks: one port for gRPC and HTTP, each connection with its task's identity.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::net::TcpListener;
use waggle_overlay::sock_diag::Transport;
use waggle_telemetry::{Inbox, Sender, Telemetry};
use waggle_types::TaskId;

use crate::{
    senders::Senders,
    serve::{Terms, serve_known},
};

/// Connections of one task; more are closed at once.
const MAX_OF_TASK: usize = 64;
/// More connections than this wait in the kernel's queue.
const TERMS: Terms = Terms {
    what: "OTLP of tasks",
    most: 1024,
    first: Duration::from_secs(15),
    // Exporters keep their connection, and send once a minute.
    head: Duration::from_mins(2),
    http2: true,
};

/// Connections that each task has.
type Open = Arc<Mutex<BTreeMap<TaskId, usize>>>;

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, senders: Arc<Senders>, telemetry: Telemetry) {
    let inbox = telemetry.inbox();
    let router = inbox.routes();
    let open = Open::default();
    serve_known(TERMS, listener, router, move |peer, local| {
        let (inbox, senders, open) = (inbox.clone(), Arc::clone(&senders), Arc::clone(&open));
        async move {
            let Some(sender) = known(senders, peer, local).await else {
                inbox.turned_away();
                return None;
            };
            let place = place(&inbox, open, &sender)?;
            Some((sender, place))
        }
    })
    .await;
}

async fn known(senders: Arc<Senders>, peer: SocketAddr, local: SocketAddr) -> Option<Arc<Sender>> {
    let find = move || senders.of(Transport::Tcp, peer, local);
    let found = tokio::task::spawn_blocking(find).await;
    found.ok().flatten()
}

fn place(inbox: &Inbox, open: Open, sender: &Sender) -> Option<Place> {
    let task_id = &sender.labels().task_id;
    let place = Place::take(open, task_id.clone());
    if place.is_none() {
        inbox.too_many();
        tracing::debug!(%task_id, "a task has too many connections to the OTLP receiver");
    }
    place
}

/// One of a task's connections.
struct Place {
    open: Open,
    task_id: TaskId,
}

impl Place {
    fn take(open: Open, task_id: TaskId) -> Option<Self> {
        let mut all = open.lock().unwrap_or_else(PoisonError::into_inner);
        let n = all.entry(task_id.clone()).or_default();
        if *n >= MAX_OF_TASK {
            return None;
        }
        *n += 1;
        drop(all);
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

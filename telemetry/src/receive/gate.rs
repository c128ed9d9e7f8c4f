//! How much is read at once, whoever sends it: bodies in memory, and requests that are decoded.

use std::{sync::Arc, time::Duration};

use axum::body::{Body, Bytes};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{Inbox, MAX_REQUEST, Refusal, Sender, Taken, decode::Raw, take::Request};

/// Requests of one task whose bodies are read, or wait for that.
pub(super) const OF_TASK: usize = 8;
/// Bodies that are read at once: one of each of so many tasks, and others of tasks that have one. A few tasks that send slowly take all
/// of the latter, and none of what others begin with.
const FIRST: usize = 24;
const MORE: usize = 8;
/// Requests that are decoded at once.
const DECODING: usize = 2;
/// How long a body may take, and how long one waits for its turn.
const BODY: Duration = Duration::from_secs(10);
const TURN: Duration = Duration::from_secs(5);
/// What gRPC puts before a message.
const FRAMING: usize = 5;

#[derive(Debug, Clone)]
pub(super) struct Gate {
    first: Arc<Semaphore>,
    more: Arc<Semaphore>,
    decoding: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            first: Arc::new(Semaphore::new(FIRST)),
            more: Arc::new(Semaphore::new(MORE)),
            decoding: Arc::new(Semaphore::new(DECODING)),
        }
    }
}

impl Inbox {
    /// Reads a request and takes it, or says why not; all that is not taken is counted.
    pub(super) async fn serve<R: Request>(
        &self,
        sender: Option<Arc<Sender>>,
        body: Body,
        raw: impl FnOnce(Bytes) -> Result<Raw, Refusal>,
    ) -> Result<Taken, Refusal> {
        let refuse = |why| self.refuse(Some(R::SIGNAL), why, 1);
        let sender = sender.ok_or_else(|| refuse(Refusal::Stranger))?;
        // Before anything is read: what is left off must cost nothing.
        if R::FEATURE.is_some_and(|feature| !self.pipe.allows(feature)) {
            return Err(refuse(Refusal::Shed));
        }
        // One task's requests must not take all turns.
        let own = Arc::clone(&sender.places).try_acquire_owned();
        let _own = own.map_err(|_| refuse(Refusal::Rate))?;
        let first = Arc::clone(&sender.first).try_acquire_owned().ok();
        let of = match first {
            Some(_) => &self.gate.first,
            None => &self.gate.more,
        };
        let _turn = turn(of).await.map_err(refuse)?;
        let raw = read(body).await.and_then(raw).map_err(refuse)?;
        let decoding = turn(&self.gate.decoding).await.map_err(refuse)?;
        let inbox = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _decoding = decoding;
            inbox.pipe.cpu.run(|| {
                let request = raw.read::<R>();
                let request = request.map_err(|why| inbox.refuse(Some(R::SIGNAL), why, 1))?;
                inbox.take(&sender, request)
            })
        });
        // A panic, or the runtime ends.
        work.await.unwrap_or_else(|_| Err(refuse(Refusal::Rate)))
    }
}

async fn turn(of: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    match timeout(TURN, Arc::clone(of).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Refusal::Rate),
    }
}

async fn read(body: Body) -> Result<Bytes, Refusal> {
    let whole = Limited::new(body, MAX_REQUEST + FRAMING).collect();
    match timeout(BODY, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(Refusal::Large),
        Ok(Err(_)) => Err(Refusal::Invalid),
        Err(_) => Err(Refusal::Slow),
    }
}

#[cfg(test)]
mod tests {
    use axum::{Extension, http::Request as HttpRequest};
    use tower::ServiceExt as _;
    use waggle_telemetry_pipeline::TaskLabels;
    use waggle_types::{AgentId, FrameworkId, TaskId};

    use super::*;
    use crate::Telemetry;

    fn sender(task: &str) -> Arc<Sender> {
        Arc::new(Sender::new(Arc::new(TaskLabels {
            cluster: "test".into(),
            framework_id: FrameworkId::new("f-1").unwrap(),
            framework: "marathon".into(),
            role: "*".into(),
            agent_id: AgentId::new("a-1").unwrap(),
            hostname: "n1".into(),
            task_id: TaskId::new(task).unwrap(),
            task_name: task.into(),
            service: "/web".into(),
            service_version: "v1".into(),
            cgroup_path: String::new(),
            cgroup_id: 0,
            pid: 1,
            pid_start_ns: 1,
        })))
    }

    fn post(body: Body) -> HttpRequest<Body> {
        HttpRequest::post("/v1/logs")
            .header("content-type", "application/x-protobuf")
            .body(body)
            .unwrap()
    }

    #[tokio::test]
    async fn slow_tasks_leave_others_their_turn() {
        let inbox = Telemetry::disabled().inbox();
        let routes = |task: &str| inbox.routes().layer(Extension(sender(task)));
        let mut slow = tokio::task::JoinSet::new();
        for task in ["a", "b", "c", "d"] {
            let routes = routes(task);
            for _ in 0..OF_TASK {
                let never = tokio_stream::pending::<Result<Bytes, std::io::Error>>();
                let request = post(Body::from_stream(never));
                slow.spawn(routes.clone().oneshot(request));
            }
        }
        while inbox.gate.more.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let answer = routes("e").oneshot(post(Body::empty())).await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        // Who goes gives back its turn.
        slow.shutdown().await;
        assert_eq!(inbox.gate.first.available_permits(), FIRST);
        assert_eq!(inbox.gate.more.available_permits(), MORE);
    }
}

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
/// Bodies that are read at once.
const BODIES: usize = 32;
/// Requests that are decoded at once.
const DECODING: usize = 2;
/// How long a body may take, and how long one waits for its turn.
const BODY: Duration = Duration::from_secs(10);
const TURN: Duration = Duration::from_secs(5);
/// What gRPC puts before a message.
const FRAMING: usize = 5;

#[derive(Debug, Clone)]
pub(super) struct Gate {
    bodies: Arc<Semaphore>,
    decoding: Arc<Semaphore>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            bodies: Arc::new(Semaphore::new(BODIES)),
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
        let _turn = turn(&self.gate.bodies).await.map_err(refuse)?;
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

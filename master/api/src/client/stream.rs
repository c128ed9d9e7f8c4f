//! Calls over one stream: sent in order, answered in order.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::CallError;
use crate::proto::framework::{
    self as pb, call_request::Kind, frameworks_client::FrameworksClient,
};

/// Calls that wait to be sent; who makes more waits.
const QUEUE: usize = 256;

type Answer = oneshot::Sender<Result<pb::CallResponse, Status>>;

/// Who waits for an answer, in the order of the calls. `None` when there will be none any more.
type Waiting = Arc<Mutex<Option<VecDeque<Answer>>>>;

/// See the module. Ends when all copies are dropped and what was sent is answered.
#[derive(Debug, Clone)]
pub(super) struct CallStream(mpsc::Sender<(Kind, Answer)>);

fn ended() -> Status {
    Status::unavailable("the stream of calls has ended")
}

impl CallStream {
    pub(super) async fn open(
        mut grpc: FrameworksClient<Channel>,
        caller: pb::Caller,
    ) -> Result<Self, Status> {
        let (tx, rx) = mpsc::channel::<(Kind, Answer)>(QUEUE);
        let waiting: Waiting = Arc::new(Mutex::new(Some(VecDeque::new())));
        let enter = Arc::clone(&waiting);
        let first = futures::stream::iter([Kind::Caller(caller)]);
        // Whoever is not entered is dropped, which tells them.
        let calls = ReceiverStream::new(rx).map(move |(kind, answer)| {
            let mut waiting = enter.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(waiting) = waiting.as_mut() {
                waiting.push_back(answer);
            }
            kind
        });
        let requests = first.chain(calls);
        let requests = requests.map(|kind| pb::CallRequest { kind: Some(kind) });
        let responses = grpc.call(requests).await?.into_inner();
        tokio::spawn(read(responses, waiting));
        Ok(Self(tx))
    }

    /// Makes a call and waits for its answer.
    pub(super) async fn call(&self, kind: Kind) -> Result<(), CallError> {
        let (tx, rx) = oneshot::channel();
        self.0.send((kind, tx)).await.map_err(|_| ended())?;
        let rejections = rx.await.map_err(|_| ended())??.rejections;
        if rejections.is_empty() {
            return Ok(());
        }
        let all = rejections.into_iter().map(Into::into).collect();
        Err(CallError::Rejected(all))
    }
}

/// Hands answers to whom they are for, until the stream ends.
async fn read(mut responses: Streaming<pb::CallResponse>, waiting: Waiting) {
    let why = loop {
        match responses.message().await {
            Ok(Some(response)) => {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let next = waiting.as_mut().and_then(VecDeque::pop_front);
                drop(waiting);
                if let Some(answer) = next {
                    // Whoever asked may have gone.
                    let _ = answer.send(Ok(response));
                }
            }
            Ok(None) => break ended(),
            Err(status) => break status,
        }
    };
    let left = waiting
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    for answer in left.unwrap_or_default() {
        let _ = answer.send(Err(why.clone()));
    }
}

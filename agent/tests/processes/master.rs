//! A master that does as the test says.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use waggle_api::proto::session::{
    self as pb,
    agent_message::Kind as FromAgent,
    master_message::Kind as ToAgent,
    session_server::{Session, SessionServer},
};

/// How tasks end here.
pub const ENDS: [pb::TaskState; 3] = [
    pb::TaskState::TaskFinished,
    pb::TaskState::TaskFailed,
    pb::TaskState::TaskKilled,
];

#[derive(Default)]
struct State {
    registrations: Vec<pb::Register>,
    statuses: Vec<pb::TaskStatus>,
    applied: Vec<pb::Applied>,
    executors_ended: Vec<pb::ExecutorEnded>,
    messages: Vec<pb::ExecutorMessage>,
    /// Times that all of the desired state was asked for.
    asked: usize,
    to_agent: Option<mpsc::Sender<Result<pb::MasterMessage, Status>>>,
    /// Whether ends of tasks are acknowledged; everything else always is.
    ack_ends: bool,
}

/// The master; dropping it ends it.
pub struct Master {
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Service(Arc<Mutex<State>>);

#[tonic::async_trait]
impl Session for Service {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<pb::MasterMessage, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let mut incoming = request.into_inner();
        let state = Arc::clone(&self.0);
        let (tx, rx) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                let mut answers = Vec::new();
                {
                    let mut s = state.lock().unwrap();
                    match message.kind {
                        Some(FromAgent::Register(r)) => {
                            let registered = ToAgent::Registered(pb::Registered {
                                heartbeat_interval_ms: 200,
                                unknown_tasks: vec![],
                            });
                            let kind = Some(registered);
                            // Before anybody sees that it has: what a test sends after that must not come first.
                            let _ = tx.try_send(Ok(pb::MasterMessage { kind }));
                            s.registrations.push(r);
                            s.to_agent = Some(tx.clone());
                        }
                        Some(FromAgent::Heartbeat(h)) => answers.push(ToAgent::Heartbeat(h)),
                        Some(FromAgent::Status(status)) => {
                            let ended = ENDS.contains(&status.state());
                            if (s.ack_ends || !ended) && !status.uuid.is_empty() {
                                answers.push(ToAgent::Ack(pb::AckStatus {
                                    task_id: status.task_id.clone(),
                                    uuid: status.uuid.clone(),
                                }));
                            }
                            s.statuses.push(status);
                        }
                        Some(FromAgent::Applied(a)) => s.applied.push(a),
                        Some(FromAgent::NetAsk(_)) => s.asked += 1,
                        Some(FromAgent::ExecutorEnded(e)) => s.executors_ended.push(e),
                        Some(FromAgent::ExecutorMessage(m)) => s.messages.push(m),
                        Some(FromAgent::EdgeRings(_)) | None => {}
                    }
                }
                for kind in answers {
                    let _ = tx.send(Ok(pb::MasterMessage { kind: Some(kind) })).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }
}

impl Master {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            ack_ends: true,
            ..State::default()
        }));
        let stop = CancellationToken::new();
        let server = tonic::transport::Server::builder()
            .add_service(SessionServer::new(Service(Arc::clone(&state))))
            .serve_with_incoming_shutdown(
                tokio_stream::wrappers::TcpListenerStream::new(listener),
                stop.clone().cancelled_owned(),
            );
        tokio::spawn(server);
        Self { addr, state, stop }
    }

    pub fn set_ack_ends(&self, ack: bool) {
        self.state.lock().unwrap().ack_ends = ack;
    }

    pub async fn send(&self, kind: ToAgent) {
        let to = self.state.lock().unwrap().to_agent.clone().unwrap();
        let message = pb::MasterMessage { kind: Some(kind) };
        to.send(Ok(message)).await.unwrap();
    }

    pub fn n_registrations(&self) -> usize {
        self.state.lock().unwrap().registrations.len()
    }

    pub fn last_registration(&self) -> pb::Register {
        self.state
            .lock()
            .unwrap()
            .registrations
            .last()
            .unwrap()
            .clone()
    }

    pub fn applied(&self) -> Vec<pb::Applied> {
        self.state.lock().unwrap().applied.clone()
    }

    pub fn executors_ended(&self) -> Vec<pb::ExecutorEnded> {
        self.state.lock().unwrap().executors_ended.clone()
    }

    /// What executors said to their frameworks.
    pub fn messages(&self) -> Vec<pb::ExecutorMessage> {
        self.state.lock().unwrap().messages.clone()
    }

    pub fn n_asked(&self) -> usize {
        self.state.lock().unwrap().asked
    }

    /// Statuses of a task, each once, in order of arrival.
    pub fn statuses(&self, task_id: &str) -> Vec<pb::TaskStatus> {
        let s = self.state.lock().unwrap();
        let mut out: Vec<pb::TaskStatus> = Vec::new();
        for status in s.statuses.iter().filter(|s| s.task_id == task_id) {
            if !out.iter().any(|o| o.uuid == status.uuid) {
                out.push(status.clone());
            }
        }
        out
    }

    /// How many tasks have ended.
    pub fn n_ended(&self) -> usize {
        let s = self.state.lock().unwrap();
        let ends = s.statuses.iter().filter(|s| ENDS.contains(&s.state()));
        let tasks: std::collections::BTreeSet<&str> = ends.map(|s| s.task_id.as_str()).collect();
        tasks.len()
    }

    pub fn last(&self, task_id: &str) -> Option<pb::TaskStatus> {
        self.statuses(task_id).pop()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

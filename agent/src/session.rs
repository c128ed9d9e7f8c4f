//! The session with the leading master: connect, register, talk; again after every break.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::transport::{Channel, Endpoint};
use waggle_api::{
    convert,
    proto::session::{self as pb, session_client::SessionClient},
};
use waggle_telemetry::{Telemetry, names};
use waggle_types::{
    EdgeRing, Evicted, ExecutorKey, Millis, NetDelta, NetSnapshot, StatusUuid, TaskId, TaskSpec,
    VolumeId,
};

/// First and longest pause between attempts; jittered by half.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// An attempt that takes longer has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Messages to the master that wait for the network; what does not fit is sent again by its retry timer.
pub const OUTBOX: usize = 1024;
/// A snapshot of a large cluster.
pub const MAX_MESSAGE: usize = 64 << 20;

/// What the session tells the agent's loop.
#[derive(Debug)]
pub enum SessionEvent {
    /// A master answered: what to register with?
    Greet(oneshot::Sender<pb::Register>),
    /// Registered. Messages for the master go into `outbox` until [`SessionEvent::Closed`].
    Open {
        /// Which master.
        master: SocketAddr,
        /// To it.
        outbox: mpsc::Sender<pb::AgentMessage>,
        /// Tasks that it has given up on.
        unknown_tasks: Vec<TaskId>,
    },
    /// Run this.
    Launch(Box<TaskSpec>),
    /// End this.
    Kill {
        /// The task.
        task_id: TaskId,
        /// Longest time from SIGTERM to SIGKILL.
        max_grace: Option<Millis>,
        /// Why, when its framework did not ask for it.
        why: Option<Evicted>,
    },
    /// The persistent volumes of this agent.
    Volumes {
        /// All that there are.
        kept: Vec<VolumeId>,
        /// Destroyed just now.
        destroyed: Vec<VolumeId>,
    },
    /// A framework says something to an executor.
    ExecutorMessage {
        /// Which.
        key: ExecutorKey,
        /// What.
        data: Vec<u8>,
    },
    /// End an executor.
    ShutdownExecutor(ExecutorKey),
    /// A status was stored.
    Ack(TaskId, StatusUuid),
    /// The network as it should be.
    Desired(Box<NetSnapshot>),
    /// What changed of it.
    Change(Box<NetDelta>),
    /// What other edges have, asked for when the session opened.
    Rings(Vec<EdgeRing>),
    /// The connection is gone.
    Closed,
    /// This agent is not wanted.
    Refused {
        /// In the master's words.
        reason: String,
    },
    /// A message that breaks the protocol; it was skipped.
    Bad {
        /// Which kind.
        kind: &'static str,
        /// The field and the rule.
        error: String,
    },
}

/// Why an attempt or a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("failed to connect to master {0}")]
    Connect(SocketAddr, #[source] tonic::transport::Error),
    #[error("no answer from master {0} in time")]
    Timeout(SocketAddr),
    #[error("master {0} ended the session")]
    Status(SocketAddr, #[source] Box<tonic::Status>),
    #[error("master {0} closed the session")]
    Closed(SocketAddr),
    #[error("master {0} did not answer the registration")]
    NotRegistered(SocketAddr),
    #[error("master {0} is not the leader or refuses for now: {1}")]
    NotNow(SocketAddr, String),
    #[error("master {0} refuses this agent: {1}")]
    Refused(SocketAddr, String),
    #[error("the agent's loop has ended")]
    Stopped,
}

/// Keeps a session with one of `masters` until the agent's loop is gone or the agent is refused for good.
pub async fn run<I: From<SessionEvent> + Send>(
    masters: Vec<SocketAddr>,
    agent: mpsc::Sender<I>,
    telemetry: Telemetry,
) {
    let mut backoff = BACKOFF_FIRST;
    let mut n_failed: usize = 0;
    // What was said of each master last: what goes on is not said again and again.
    let mut told: BTreeMap<SocketAddr, String> = BTreeMap::new();
    if masters.is_empty() {
        tracing::warn!("no masters are configured: tasks that run go on, nothing new is launched");
        return;
    }
    loop {
        let master = masters[n_failed % masters.len()];
        let mut opened = false;
        let Err(error) = session(master, &agent, &telemetry, &mut opened).await;
        if opened {
            backoff = BACKOFF_FIRST;
            if agent.send(SessionEvent::Closed.into()).await.is_err() {
                return;
            }
        }
        match &error {
            SessionError::Stopped => return,
            SessionError::Refused(_, reason) => {
                let reason = reason.clone();
                let _ = agent.send(SessionEvent::Refused { reason }.into()).await;
                return;
            }
            _ => {}
        }
        let chain = crate::net::chain(&error);
        if opened {
            told.remove(&master);
            tracing::warn!(%master, error = chain, "session with the master ended");
        } else if told.get(&master) == Some(&chain) {
            tracing::debug!(%master, error = chain, "no session with this master");
        } else {
            tracing::warn!(%master, error = chain, "no session with this master, trying on");
            told.insert(master, chain);
        }
        n_failed += 1;
        // The whole list is tried before the next longer pause.
        let pause = if n_failed.is_multiple_of(masters.len()) || opened {
            backoff
        } else {
            Duration::ZERO
        };
        tokio::time::sleep(jittered(pause)).await;
        if n_failed.is_multiple_of(masters.len()) {
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }
}

/// Between half and all of `pause`.
fn jittered(pause: Duration) -> Duration {
    let dice = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    pause / 2 + pause * dice / 512
}

async fn channel(master: SocketAddr) -> Result<Channel, SessionError> {
    let fail = |e| SessionError::Connect(master, e);
    Endpoint::from_shared(format!("http://{master}"))
        .map_err(fail)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .connect()
        .await
        .map_err(fail)
}

async fn session<I: From<SessionEvent> + Send>(
    master: SocketAddr,
    agent: &mpsc::Sender<I>,
    telemetry: &Telemetry,
    opened: &mut bool,
) -> Result<std::convert::Infallible, SessionError> {
    let tell = async |event: SessionEvent| {
        let sent = agent.send(event.into()).await;
        sent.map_err(|_| SessionError::Stopped)
    };
    let status = |s| SessionError::Status(master, Box::new(s));
    let mut client =
        SessionClient::new(channel(master).await?).max_decoding_message_size(MAX_MESSAGE);
    let (ask, answer) = oneshot::channel();
    tell(SessionEvent::Greet(ask)).await?;
    let register = answer.await.map_err(|_| SessionError::Stopped)?;
    let (outbox, outgoing) = mpsc::channel(OUTBOX);
    let first = message(pb::agent_message::Kind::Register(register));
    outbox
        .send(first)
        .await
        .map_err(|_| SessionError::Stopped)?;
    let saying = telemetry.clone();
    let outgoing = ReceiverStream::new(outgoing).map(move |m: pb::AgentMessage| {
        let kind = m.kind.as_ref().map(convert::agent_kind);
        passed(&saying, "transmit", kind.map(|k| convert::AGENT_KINDS[k]));
        m
    });
    let connect = client.connect(outgoing);
    let mut incoming = tokio::time::timeout(CONNECT_TIMEOUT, connect)
        .await
        .map_err(|_| SessionError::Timeout(master))?
        .map_err(status)?
        .into_inner();

    let registered = match tokio::time::timeout(CONNECT_TIMEOUT, incoming.message()).await {
        Err(_) => return Err(SessionError::Timeout(master)),
        Ok(m) => match m.map_err(status)?.and_then(|m| received(telemetry, m)) {
            Some(pb::master_message::Kind::Registered(r)) => r,
            Some(pb::master_message::Kind::Refused(r)) if r.permanent => {
                return Err(SessionError::Refused(master, r.reason));
            }
            Some(pb::master_message::Kind::Refused(r)) => {
                return Err(SessionError::NotNow(master, r.reason));
            }
            _ => return Err(SessionError::NotRegistered(master)),
        },
    };
    let interval = Duration::from_millis(registered.heartbeat_interval_ms.clamp(100, 60_000));
    let unknown = registered.unknown_tasks.into_iter();
    *opened = true;
    tell(SessionEvent::Open {
        master,
        outbox: outbox.clone(),
        unknown_tasks: unknown.filter_map(|t| TaskId::new(t).ok()).collect(),
    })
    .await?;

    let mut heartbeat = tokio::time::interval(interval);
    heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // A master that stays silent for several of its own intervals is gone, whatever TCP says.
    let patience = (interval * 4).max(Duration::from_secs(5));
    let mut heard = Instant::now();
    loop {
        tokio::select! {
            next = incoming.next() => {
                heard = Instant::now();
                match next {
                    None => return Err(SessionError::Closed(master)),
                    Some(Err(s)) => return Err(status(s)),
                    Some(Ok(m)) => match received(telemetry, m) {
                        Some(pb::master_message::Kind::Refused(r)) if r.permanent => {
                            return Err(SessionError::Refused(master, r.reason));
                        }
                        Some(pb::master_message::Kind::Refused(r)) => {
                            return Err(SessionError::NotNow(master, r.reason));
                        }
                        Some(kind) => {
                            if let Some(event) = decode(kind) {
                                tell(event).await?;
                            }
                        }
                        None => {}
                    },
                }
            }
            _ = heartbeat.tick() => {
                let at_ms = crate::clock::now().0;
                let beat = message(pb::agent_message::Kind::Heartbeat(pb::Heartbeat { at_ms }));
                // A full outbox is traffic enough.
                let _ = outbox.try_send(beat);
            }
            () = tokio::time::sleep_until(heard + patience) => {
                return Err(SessionError::Timeout(master));
            }
        }
    }
}

/// Counts a message of the master's.
fn received(telemetry: &Telemetry, m: pb::MasterMessage) -> Option<pb::master_message::Kind> {
    let kind = m.kind.as_ref().map(convert::master_kind);
    passed(telemetry, "receive", kind.map(|k| convert::MASTER_KINDS[k]));
    m.kind
}

fn passed(telemetry: &Telemetry, direction: &'static str, kind: Option<&'static str>) {
    let attrs = [
        (names::DIRECTION, direction.into()),
        ("waggle.message.type", kind.unwrap_or("unknown").into()),
    ];
    telemetry.count(&names::SESSION_MESSAGES, &attrs, 1);
}

/// Wraps a kind.
pub fn message(kind: pb::agent_message::Kind) -> pb::AgentMessage {
    pb::AgentMessage { kind: Some(kind) }
}

fn decode(kind: pb::master_message::Kind) -> Option<SessionEvent> {
    use pb::master_message::Kind;
    let bad = |kind, error: String| Some(SessionEvent::Bad { kind, error });
    match kind {
        Kind::Launch(l) => match l.spec.map(TaskSpec::try_from) {
            Some(Ok(spec)) => Some(SessionEvent::Launch(Box::new(spec))),
            Some(Err(e)) => bad("launch", e.to_string()),
            None => bad("launch", "spec: is missing".to_owned()),
        },
        Kind::Kill(k) => match TaskId::new(k.task_id) {
            Ok(task_id) => Some(SessionEvent::Kill {
                task_id,
                max_grace: k.max_grace_ms.map(Millis),
                why: convert::evicted(k.reason, k.message),
            }),
            Err(e) => bad("kill", format!("task_id: {e}")),
        },
        Kind::Volumes(v) => match (
            convert::ids("volume_ids", v.volume_ids, VolumeId::new),
            convert::ids("destroyed", v.destroyed, VolumeId::new),
        ) {
            (Ok(kept), Ok(destroyed)) => Some(SessionEvent::Volumes { kept, destroyed }),
            (Err(e), _) | (_, Err(e)) => bad("volumes", e.to_string()),
        },
        Kind::Ack(a) => match (
            TaskId::new(a.task_id),
            <[u8; 16]>::try_from(a.uuid.as_slice()),
        ) {
            (Ok(id), Ok(uuid)) => Some(SessionEvent::Ack(id, StatusUuid(uuid))),
            (Err(e), _) => bad("ack", format!("task_id: {e}")),
            (_, Err(_)) => bad("ack", "uuid: must be 16 bytes".to_owned()),
        },
        Kind::Desired(snapshot) => match NetSnapshot::try_from(snapshot) {
            Ok(s) => Some(SessionEvent::Desired(Box::new(s))),
            Err(e) => bad("desired", e.to_string()),
        },
        Kind::Change(delta) => match NetDelta::try_from(delta) {
            Ok(d) => Some(SessionEvent::Change(Box::new(d))),
            Err(e) => bad("change", e.to_string()),
        },
        Kind::EdgeRings(said) => match convert::edge_rings(said.rings) {
            Ok(rings) => Some(SessionEvent::Rings(rings)),
            Err(e) => bad("edge_rings", e.to_string()),
        },
        Kind::ExecutorMessage(m) => match convert::executor_message(m) {
            Ok((key, data)) => Some(SessionEvent::ExecutorMessage { key, data }),
            Err(e) => bad("executor_message", e.to_string()),
        },
        Kind::ShutdownExecutor(s) => match convert::executor_key(s.framework_id, s.executor_id) {
            Ok(key) => Some(SessionEvent::ShutdownExecutor(key)),
            Err(e) => bad("shutdown_executor", e.to_string()),
        },
        Kind::Heartbeat(_) | Kind::Registered(_) | Kind::Refused(_) => None,
    }
}

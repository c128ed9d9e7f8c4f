//! Agent sessions: the gRPC side of the master.
//!
//! A session is one bidirectional stream. What comes in is converted and handed to the event loop in
//! order; what goes out comes from an [`Outbox`]: a bounded queue, a latest-wins place for the desired network
//! state, heartbeats into silence. An agent that does not take its messages is disconnected: it registers
//! again and both sides compare what they have, so nothing is lost by it.

mod outbox;

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{Stream, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use waggle_api::{
    convert::{ConvertError, check_register, registered_task},
    proto::session::{
        self as pb, AgentMessage, MasterMessage, agent_message::Kind as In,
        master_message::Kind as Out, session_server,
    },
};
use waggle_types::{AgentInfo, Cause, Generation, NetSnapshot, TaskStatus, TraceContext, VolumeId};

pub(crate) use outbox::Outbox;

use crate::core::{Event, MANY_AGENTS, MasterMsg, Registration, SessionId};

/// Heartbeats are said to so many parts of the agents, one after the other.
const PARTS: usize = 16;
/// An agent says who it is within this time.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Parts that could not be applied of which the master keeps the reasons.
const MAX_FAILURES: usize = 100;
const MAX_FAILURE_CHARS: usize = 1000;
/// Longest message: a registration with some ten thousand tasks.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// What sessions tell the event loop.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// A stream said who it is.
    Register {
        session: SessionId,
        registration: Box<Registration>,
        link: Link,
    },
    /// Anything after that.
    Event(Event),
    /// A message broke a rule of the protocol; the session ends.
    Broken(&'static str),
}

/// The loop's end of a session. Dropping it ends the session after what is queued.
#[derive(Debug)]
pub(crate) struct Link(Arc<Outbox>);

impl Link {
    /// Queues a message; false when the agent is too slow or gone.
    pub(crate) fn send(&self, msg: MasterMsg, trace: Option<TraceContext>) -> bool {
        self.0.send(encode(msg, trace))
    }

    /// Puts the newest desired state.
    pub(crate) fn put(&self, snapshot: Arc<NetSnapshot>, causes: &[Cause]) {
        self.0.put(snapshot, causes);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Open sessions, for heartbeats.
type Outboxes = Arc<[Mutex<Vec<Weak<Outbox>>>; PARTS]>;

/// The gRPC service.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    inbox: mpsc::Sender<SessionEvent>,
    next: Arc<AtomicU64>,
    open: Arc<AtomicUsize>,
    max_open: usize,
    outboxes: Outboxes,
}

/// Counts an open stream for as long as it lives.
struct OpenGuard(Arc<AtomicUsize>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Sessions {
    /// A service that reports to `inbox`; streams over `max_open` are refused. Heartbeats go out every
    /// `heartbeat`, with many agents every `seldom`.
    pub(crate) fn new(
        inbox: mpsc::Sender<SessionEvent>,
        max_open: usize,
        heartbeat: Duration,
        seldom: Duration,
        stop: CancellationToken,
    ) -> Self {
        let outboxes = Outboxes::default();
        tokio::spawn(heartbeats(Arc::clone(&outboxes), heartbeat, seldom, stop));
        Self {
            inbox,
            next: Arc::new(AtomicU64::new(1)),
            open: Arc::new(AtomicUsize::new(0)),
            max_open,
            outboxes,
        }
    }

    /// The service with its limits, for tonic's router.
    pub(crate) fn into_service(self) -> session_server::SessionServer<Self> {
        session_server::SessionServer::new(self).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    async fn broken(&self, code: &'static str, e: &ConvertError) -> Status {
        tracing::warn!(error = %e, "refusing an agent's message");
        // The loop only counts it; when it is gone, so is the count.
        let _ = self.inbox.send(SessionEvent::Broken(code)).await;
        Status::invalid_argument(e.to_string())
    }
}

#[tonic::async_trait]
impl session_server::Session for Sessions {
    type ConnectStream = BoxStream<'static, Result<MasterMessage, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let guard = OpenGuard(Arc::clone(&self.open));
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max_open {
            return Err(Status::resource_exhausted("too many sessions"));
        }
        let mut messages = request.into_inner();
        let first = tokio::time::timeout(REGISTER_TIMEOUT, messages.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no registration"))??;
        let Some(AgentMessage {
            kind: Some(In::Register(register)),
        }) = first
        else {
            let e = ConvertError::new("kind", "the first message must be register");
            return Err(self.broken("no_registration", &e).await);
        };
        let registration = match registration(register) {
            Ok(r) => Box::new(r),
            Err(e) => return Err(self.broken("bad_registration", &e).await),
        };

        let session = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        let outbox = Arc::new(Outbox::default());
        let part = session.0 as usize % PARTS;
        self.outboxes[part]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::downgrade(&outbox));
        self.inbox
            .send(SessionEvent::Register {
                session,
                registration,
                link: Link(Arc::clone(&outbox)),
            })
            .await
            .map_err(|_| Status::unavailable("the master is stopping"))?;
        let inbox = self.inbox.clone();
        tokio::spawn(read(session, messages, inbox, Arc::clone(&outbox)));
        let out = Outgoing {
            outbox,
            _open: guard,
        };
        Ok(Response::new(Box::pin(out)))
    }
}

/// Hands an agent's messages to the loop, in order, until either side ends the session. A full loop
/// slows the agent down by HTTP/2's flow control.
async fn read(
    session: SessionId,
    mut messages: Streaming<AgentMessage>,
    inbox: mpsc::Sender<SessionEvent>,
    outbox: Arc<Outbox>,
) {
    loop {
        let message = tokio::select! {
            () = std::future::poll_fn(|cx| outbox.poll_closed(cx)) => break,
            m = messages.message() => m,
        };
        let event = match message {
            Ok(Some(m)) => match decode(session, m) {
                Ok(event) => SessionEvent::Event(event),
                Err(e) => {
                    tracing::warn!(error = %e, "ending a session with a bad message");
                    let _ = inbox.send(SessionEvent::Broken("bad_message")).await;
                    break;
                }
            },
            Ok(None) => break,
            Err(status) => {
                tracing::debug!(%status, "a session broke");
                break;
            }
        };
        if inbox.send(event).await.is_err() {
            return;
        }
    }
    let gone = SessionEvent::Event(Event::Disconnected { session });
    // A loop that is gone needs no word of it.
    let _ = inbox.send(gone).await;
}

/// What goes to the agent, until either side ends the session: when the master stops, its loop lets go.
struct Outgoing {
    outbox: Arc<Outbox>,
    _open: OpenGuard,
}

impl Stream for Outgoing {
    type Item = Result<MasterMessage, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.outbox.poll_next(cx).map(|m| m.map(Ok))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.outbox.gone();
    }
}

/// Says heartbeats, to one part of the agents after the other.
async fn heartbeats(
    outboxes: Outboxes,
    heartbeat: Duration,
    seldom: Duration,
    stop: CancellationToken,
) {
    let mut many = false;
    loop {
        let mut n = 0;
        let interval = if many {
            heartbeat.max(seldom)
        } else {
            heartbeat
        };
        for part in outboxes.iter() {
            let pause = (interval / PARTS as u32).max(Duration::from_millis(1));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.retain(|outbox| {
                let open = outbox.upgrade();
                if let Some(o) = &open {
                    o.beat();
                }
                open.is_some()
            });
            n += part.len();
        }
        many = n > MANY_AGENTS;
    }
}

pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

fn message(kind: Out) -> MasterMessage {
    MasterMessage { kind: Some(kind) }
}

fn encode(msg: MasterMsg, trace: Option<TraceContext>) -> MasterMessage {
    message(match msg {
        MasterMsg::Registered {
            heartbeat_interval_ms,
            unknown_tasks,
        } => Out::Registered(pb::Registered {
            heartbeat_interval_ms,
            unknown_tasks: unknown_tasks.iter().map(ToString::to_string).collect(),
        }),
        MasterMsg::Launch(spec) => {
            let mut wire = pb::TaskSpec::from(spec.as_ref());
            if let Some(trace) = trace {
                wire.traceparent = trace.to_string();
            }
            Out::Launch(pb::Launch { spec: Some(wire) })
        }
        MasterMsg::Kill {
            task_id,
            grace,
            why,
        } => {
            let (reason, message) = why
                .map_or((pb::StatusReason::ReasonNone, String::new()), |w| {
                    (w.reason.into(), w.message)
                });
            Out::Kill(pb::Kill {
                task_id: task_id.to_string(),
                max_grace_ms: grace.map(|g| g.0),
                reason: reason.into(),
                message,
            })
        }
        MasterMsg::Volumes { kept, destroyed } => {
            let texts = |ids: Vec<VolumeId>| ids.iter().map(ToString::to_string).collect();
            Out::Volumes(pb::Volumes {
                volume_ids: texts(kept),
                destroyed: texts(destroyed),
            })
        }
        MasterMsg::Ack { task_id, uuid } => Out::Ack(pb::AckStatus {
            task_id: task_id.to_string(),
            uuid: uuid.0.to_vec(),
        }),
        MasterMsg::Refused { reason, permanent } => Out::Refused(pb::Refused { reason, permanent }),
    })
}

/// Objects and reasons for people, some of them: what one agent says must not fill the master.
fn failures(all: Vec<String>) -> Vec<String> {
    let some = all.into_iter().take(MAX_FAILURES);
    some.map(|f| f.chars().take(MAX_FAILURE_CHARS).collect())
        .collect()
}

fn registration(r: pb::Register) -> Result<Registration, ConvertError> {
    check_register(&r)?;
    let agent = r
        .agent
        .ok_or_else(|| ConvertError::new("agent", "is missing"))?;
    let tasks = r
        .tasks
        .into_iter()
        .enumerate()
        .map(|(i, t)| registered_task(t).map_err(|e| e.within(&format!("tasks[{i}]"))));
    Ok(Registration {
        info: AgentInfo::try_from(agent).map_err(|e| e.within("agent"))?,
        tasks: tasks.collect::<Result<_, _>>()?,
        applied: Generation(r.applied_generation),
        version: r.version.chars().take(64).collect(),
    })
}

fn decode(session: SessionId, m: AgentMessage) -> Result<Event, ConvertError> {
    Ok(match m.kind {
        // `None` is a newer agent's word that this version does not know: it lives, that is clear.
        Some(In::Heartbeat(_)) | None => Event::Heartbeat { session },
        Some(In::Status(s)) => Event::Status {
            session,
            status: TaskStatus::try_from(s).map_err(|e| e.within("status"))?,
        },
        Some(In::Applied(a)) => Event::Applied {
            session,
            generation: Generation(a.generation),
            duration_us: a.duration_us,
            failures: failures(a.failures),
        },
        Some(In::Register(_)) => {
            return Err(ConvertError::new(
                "register",
                "must be the first message only",
            ));
        }
    })
}

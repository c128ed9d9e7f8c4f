//! Agent sessions: the gRPC side of the master.
//!
//! A session is one bidirectional stream. What comes in is converted and handed to the event loop in
//! order; what goes out comes from an [`Outbox`]: a bounded queue, a latest-wins place for the desired network
//! state, heartbeats into silence. An agent that does not take its messages is disconnected: it registers
//! again and both sides compare what they have, so nothing is lost by it.

mod outbox;
mod rings;
mod shared;
mod tally;
mod wire;

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::future::{BoxFuture, FutureExt as _};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;
use tonic::{Status, server::NamedService};
use waggle_api::{
    convert::{
        ConvertError, check_register, edge_rings, edge_rings_to_wire, executor_message,
        executor_message_to_wire, registered_task, wireguard_key,
    },
    proto::session::{
        self as pb, AgentMessage, MasterMessage, agent_message::Kind as In,
        master_message::Kind as Out, session_server::SERVICE_NAME,
    },
};
use waggle_telemetry::Telemetry;
use waggle_types::{
    AgentInfo, Cause, ExecutorEnd, ExecutorRecord, Generation, NetSnapshot, TaskStatus,
    TraceContext, VolumeId,
};

pub(crate) use outbox::Outbox;
use rings::Rings;
use shared::Shared;
use tally::Tally;
use wire::{Incoming, Outgoing};

use crate::core::{Event, MANY_AGENTS, MasterMsg, Registration, SessionId};

/// Between two looks at whom a heartbeat is due to.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
/// An agent says who it is within this time.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Parts that could not be applied of which the master keeps the reasons.
const MAX_FAILURES: usize = 100;
const MAX_FAILURE_CHARS: usize = 1000;

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

/// Open sessions, the one that waits longest for a heartbeat first.
type Outboxes = Arc<Mutex<VecDeque<Weak<Outbox>>>>;

/// The gRPC service.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    inbox: mpsc::Sender<SessionEvent>,
    next: Arc<AtomicU64>,
    open: Arc<AtomicUsize>,
    max_open: usize,
    outboxes: Outboxes,
    shared: Arc<Shared>,
    rings: Arc<Rings>,
    tally: Arc<Tally>,
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
        telemetry: Telemetry,
        stop: CancellationToken,
    ) -> Self {
        let (outboxes, tally) = (Outboxes::default(), Arc::<Tally>::default());
        tokio::spawn(tally::tell(Arc::clone(&tally), telemetry, stop.clone()));
        tokio::spawn(heartbeats(Arc::clone(&outboxes), heartbeat, seldom, stop));
        Self {
            inbox,
            next: Arc::new(AtomicU64::new(1)),
            open: Arc::new(AtomicUsize::new(0)),
            max_open,
            outboxes,
            shared: Arc::default(),
            rings: Arc::default(),
            tally,
        }
    }

    async fn broken(&self, code: &'static str, e: &ConvertError) -> Status {
        tracing::warn!(error = %e, "refusing an agent's message");
        // The loop only counts it; when it is gone, so is the count.
        let _ = self.inbox.send(SessionEvent::Broken(code)).await;
        Status::invalid_argument(e.to_string())
    }
}

/// The path of a session's stream.
const CONNECT: &str = "/waggle.session.v1.Session/Connect";

impl NamedService for Sessions {
    const NAME: &'static str = SERVICE_NAME;
}

impl tower::Service<http::Request<tonic::body::Body>> for Sessions {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let sessions = self.clone();
        let connect = async move {
            if request.uri().path() != CONNECT {
                return Ok(Status::unimplemented("no such call").into_http());
            }
            let messages = Incoming::new(request.into_body());
            let answer = sessions.connect(messages).await;
            Ok(answer.map_or_else(Status::into_http, wire::response))
        };
        connect.boxed()
    }
}

impl Sessions {
    async fn connect(&self, mut messages: Incoming) -> Result<Outgoing<OpenGuard>, Status> {
        let guard = OpenGuard(Arc::clone(&self.open));
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max_open {
            return Err(Status::resource_exhausted("too many sessions"));
        }
        let first = tokio::time::timeout(REGISTER_TIMEOUT, messages.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no registration"))??;
        if let Some(kind) = first.as_ref().and_then(|m| m.kind.as_ref()) {
            self.tally.heard(kind);
        }
        let Some(AgentMessage {
            kind: Some(In::Register(register)),
        }) = first
        else {
            let e = ConvertError::new("kind", "the first message must be register");
            return Err(self.broken("no_registration", &e).await);
        };
        let takes_changes = register.takes_changes;
        let registration = match registration(register) {
            Ok(r) => Box::new(r),
            Err(e) => return Err(self.broken("bad_registration", &e).await),
        };

        let session = SessionId(self.next.fetch_add(1, Ordering::Relaxed));
        let outbox = Arc::new(Outbox::new(Arc::clone(&self.shared), takes_changes));
        self.outboxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(Arc::downgrade(&outbox));
        self.inbox
            .send(SessionEvent::Register {
                session,
                registration,
                link: Link(Arc::clone(&outbox)),
            })
            .await
            .map_err(|_| Status::unavailable("the master is stopping"))?;
        let inbox = self.inbox.clone();
        let ends = Ends {
            outbox: Arc::clone(&outbox),
            rings: Arc::clone(&self.rings),
            tally: Arc::clone(&self.tally),
        };
        tokio::spawn(read(session, messages, inbox, ends));
        Ok(Outgoing::new(outbox, Arc::clone(&self.tally), guard))
    }
}

/// What an agent's messages may concern besides the loop.
struct Ends {
    outbox: Arc<Outbox>,
    rings: Arc<Rings>,
    tally: Arc<Tally>,
}

/// Hands an agent's messages to the loop, in order, until either side ends the session. A full loop
/// slows the agent down by HTTP/2's flow control.
///
/// A master has one of these for each agent: no message is held over an await.
async fn read(
    session: SessionId,
    mut messages: Incoming,
    inbox: mpsc::Sender<SessionEvent>,
    ends: Ends,
) {
    loop {
        let next = std::future::poll_fn(|cx| {
            if ends.outbox.poll_closed(cx).is_ready() {
                return Poll::Ready(Next::End);
            }
            let heard = hear(session, &ends, ready!(messages.poll_message(cx)));
            Poll::Ready(heard.map_or(Next::End, |event| hand_on(&inbox, event)))
        });
        match next.await {
            Next::Handed => {}
            Next::End => break,
            // The loop is gone.
            Next::Closed => return,
            Next::Full(event) => {
                if Box::pin(hand_on_later(&inbox, event)).await.is_err() {
                    return;
                }
            }
        }
    }
    let gone = SessionEvent::Event(Event::Disconnected { session });
    // A loop that is gone needs no word of it.
    let _ = Box::pin(inbox.send(gone)).await;
}

/// What became of a message.
enum Next {
    Handed,
    /// The loop has much to do: later.
    Full(Box<SessionEvent>),
    /// There are no more.
    End,
    Closed,
}

fn hand_on(inbox: &mpsc::Sender<SessionEvent>, event: SessionEvent) -> Next {
    match inbox.try_send(event) {
        Ok(()) => Next::Handed,
        Err(TrySendError::Full(event)) => Next::Full(Box::new(event)),
        Err(TrySendError::Closed(_)) => Next::Closed,
    }
}

async fn hand_on_later(
    inbox: &mpsc::Sender<SessionEvent>,
    event: Box<SessionEvent>,
) -> Result<(), mpsc::error::SendError<SessionEvent>> {
    inbox.send(*event).await
}

/// What the loop is told of a message; `None` at the end of the stream. A bad message ends the session.
fn hear(
    session: SessionId,
    ends: &Ends,
    message: Result<Option<AgentMessage>, Status>,
) -> Option<SessionEvent> {
    if let Ok(Some(AgentMessage { kind: Some(kind) })) = &message {
        ends.tally.heard(kind);
    }
    match message {
        Ok(Some(m)) => Some(match decode(session, ends, m) {
            Ok(event) => SessionEvent::Event(event),
            Err(e) => {
                tracing::warn!(error = %e, "ending a session with a bad message");
                ends.outbox.close();
                SessionEvent::Broken("bad_message")
            }
        }),
        Ok(None) => None,
        Err(status) => {
            tracing::debug!(%status, "a session broke");
            None
        }
    }
}

/// Says heartbeats to one session after the other, evenly: many at once would be a burst that all else waits
/// for.
async fn heartbeats(
    outboxes: Outboxes,
    heartbeat: Duration,
    seldom: Duration,
    stop: CancellationToken,
) {
    let (mut n, mut owed) = (0_usize, 0.0_f64);
    loop {
        let interval = if n > MANY_AGENTS {
            heartbeat.max(seldom)
        } else {
            heartbeat
        };
        let each = interval / u32::try_from(n.max(1)).unwrap_or(u32::MAX);
        let pause = each.clamp(SHORTEST_PAUSE, (interval / 16).max(SHORTEST_PAUSE));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let mut all = outboxes.lock().unwrap_or_else(PoisonError::into_inner);
        n = all.len();
        owed += n as f64 * pause.as_secs_f64() / interval.as_secs_f64().max(1e-3);
        beat(&mut all, &mut owed);
    }
}

/// Beats for as many as it is due to.
fn beat(all: &mut VecDeque<Weak<Outbox>>, owed: &mut f64) {
    while *owed >= 1.0 {
        *owed -= 1.0;
        let Some(next) = all.pop_front() else {
            *owed = 0.0;
            return;
        };
        if let Some(outbox) = next.upgrade() {
            outbox.beat();
            all.push_back(next);
        }
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
        MasterMsg::ExecutorMessage { key, data } => {
            Out::ExecutorMessage(executor_message_to_wire(&key, data))
        }
        MasterMsg::ShutdownExecutor { key } => Out::ShutdownExecutor(pb::ShutdownExecutor {
            framework_id: key.framework_id.to_string(),
            executor_id: key.executor_id.to_string(),
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
    let executors = r.executors.into_iter().enumerate().map(|(i, e)| {
        ExecutorRecord::try_from(e).map_err(|e| e.within(&format!("executors[{i}]")))
    });
    Ok(Registration {
        wireguard: wireguard_key(&r.wireguard_key)?,
        executors: executors.collect::<Result<_, _>>()?,
        info: AgentInfo::try_from(agent).map_err(|e| e.within("agent"))?,
        tasks: tasks.collect::<Result<_, _>>()?,
        applied: Generation(r.applied_generation),
        version: r.version.chars().take(64).collect(),
    })
}

fn decode(session: SessionId, ends: &Ends, m: AgentMessage) -> Result<Event, ConvertError> {
    Ok(match m.kind {
        // `None` is a newer agent's word that this version does not know: it lives, that is clear.
        Some(In::Heartbeat(_)) | None => Event::Heartbeat { session },
        Some(In::NetAsk(_)) => {
            ends.outbox.again();
            Event::Heartbeat { session }
        }
        Some(In::EdgeRings(said)) => {
            let rings = edge_rings(said.rings)?;
            if said.edge.len() > rings::MAX_NAME {
                return Err(ConvertError::new("edge", "is too long"));
            }
            let now = Instant::now();
            if said.ask {
                let others = ends.rings.of_others(&said.edge, now);
                ends.outbox.send(message(Out::EdgeRings(pb::EdgeRings {
                    rings: edge_rings_to_wire(&others),
                    ..pb::EdgeRings::default()
                })));
            }
            ends.rings.put(said.edge, rings, now);
            Event::Heartbeat { session }
        }
        Some(In::Status(s)) => Event::Status {
            session,
            status: TaskStatus::try_from(s).map_err(|e| e.within("status"))?,
        },
        Some(In::ExecutorEnded(e)) => Event::ExecutorEnded {
            session,
            end: ExecutorEnd::try_from(e).map_err(|e| e.within("executor_ended"))?,
        },
        Some(In::ExecutorMessage(m)) => {
            let (key, data) = executor_message(m).map_err(|e| e.within("executor_message"))?;
            Event::ExecutorSays { session, key, data }
        }
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

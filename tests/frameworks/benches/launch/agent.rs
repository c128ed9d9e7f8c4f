//! Emulated agents: many sessions over some hundred connections. Tasks only pretend: they run as soon as
//! they are launched and end when they are told to.
//!
//! Statuses follow the protocol: each has a uuid, and the next one of a task is said when the one before
//! is acknowledged. Nothing is repeated, since nothing is lost on loopback; a session that breaks is an
//! error of the whole run.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use bytes::{Bytes, BytesMut};
use waggle_api::proto::session::{self as pb, agent_message::Kind as Say};

use super::session_wire::{self as wire, Frames, Heard};

/// Streams over one connection; the master allows 256.
const STREAMS: usize = 250;
/// What one task of an agent takes is this part of it.
const MIB: i64 = 1000;

/// Agents, and what happened to them.
pub struct Fleet {
    pub agents: Vec<Arc<Agent>>,
    pub counters: Counters,
    start: Instant,
}

/// Over all agents.
#[derive(Debug, Default)]
pub struct Counters {
    pub registered: AtomicUsize,
    pub launched: AtomicU64,
    pub ended: AtomicU64,
    pub uuids: AtomicU64,
    heartbeat_ms: AtomicU64,
}

pub struct Agent {
    id: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stream: Option<h2::SendStream<Bytes>>,
    /// Running tasks, whose running is acknowledged.
    running: VecDeque<String>,
    /// Said, not acknowledged: whether that was the end.
    said: BTreeMap<String, bool>,
    /// Tasks end as soon as their running is acknowledged.
    flows: bool,
    /// Ends that nobody has been offered the resources of, by intended time (ns since the start).
    due: VecDeque<u64>,
}

impl Fleet {
    pub fn new(n: usize) -> Self {
        let agent = |i: usize| {
            Arc::new(Agent {
                id: format!("agent-{i:05}"),
                state: Mutex::new(State::default()),
            })
        };
        Self {
            agents: (0..n).map(agent).collect(),
            counters: Counters::default(),
            start: Instant::now(),
        }
    }

    /// The number in an agent's id.
    pub fn number(id: &str) -> Option<usize> {
        id.strip_prefix("agent-")?.parse().ok()
    }

    /// Nanoseconds since the start.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Ends the longest running task of an agent, as an event that was meant for `intended_ns`. False when
    /// it has none.
    pub fn end_one(&self, agent: usize, intended_ns: u64) -> anyhow::Result<bool> {
        let a = &self.agents[agent];
        let mut state = a.lock();
        let Some(task) = state.running.pop_front() else {
            return Ok(false);
        };
        state.due.push_back(intended_ns);
        let mut out = BytesMut::new();
        self.say_end(a, &mut state, task, &mut out);
        state.send(out)?;
        Ok(true)
    }

    /// Takes the intended times of ends whose resources are in an offer of `n` tasks' size.
    pub fn offered(&self, agent: usize, n: usize) -> Vec<u64> {
        let mut state = self.agents[agent].lock();
        let n = n.min(state.due.len());
        state.due.drain(..n).collect()
    }

    /// Forgets intended times: another phase begins.
    pub fn forget_due(&self) {
        for a in &self.agents {
            a.lock().due.clear();
        }
    }

    /// From now on the first `n` agents' tasks end as soon as their running is acknowledged; those that run
    /// there end now.
    pub fn flow(&self, n: usize) -> anyhow::Result<()> {
        for (i, a) in self.agents.iter().enumerate() {
            let mut state = a.lock();
            let flows = i < n;
            if flows && !state.flows {
                let mut out = BytesMut::new();
                while let Some(task) = state.running.pop_front() {
                    self.say_end(a, &mut state, task, &mut out);
                }
                state.send(out)?;
            }
            state.flows = flows;
        }
        Ok(())
    }

    fn say_end(&self, a: &Agent, state: &mut State, task: String, out: &mut BytesMut) {
        self.counters.ended.fetch_add(1, Ordering::Relaxed);
        wire::frame(out, &self.status(a, &task, pb::TaskState::TaskFinished));
        state.said.insert(task, true);
    }

    fn status(&self, a: &Agent, task: &str, to: pb::TaskState) -> pb::AgentMessage {
        let n = self.counters.uuids.fetch_add(1, Ordering::Relaxed);
        message(Say::Status(pb::TaskStatus {
            task_id: task.to_owned(),
            agent_id: a.id.clone(),
            state: to.into(),
            source: pb::StatusSource::SourceExecutor.into(),
            at_ms: 1,
            uuid: u128::from(n).to_be_bytes().to_vec(),
            ..pb::TaskStatus::default()
        }))
    }

    fn hear(&self, a: &Agent, heard: Heard, out: &mut BytesMut) -> anyhow::Result<()> {
        let mut state = a.lock();
        if let Some(launch) = heard.launch {
            let id = launch.spec.context("a launch without a spec")?.task_id;
            self.counters.launched.fetch_add(1, Ordering::Relaxed);
            wire::frame(out, &self.status(a, &id, pb::TaskState::TaskRunning));
            state.said.insert(id, false);
        } else if let Some(ack) = heard.ack {
            match state.said.remove(&ack.task_id) {
                Some(false) if state.flows => self.say_end(a, &mut state, ack.task_id, out),
                Some(false) => state.running.push_back(ack.task_id),
                Some(true) | None => {}
            }
        } else if let Some(kill) = heard.kill {
            bail!("{} is told to kill {}", a.id, kill.task_id);
        } else if let Some(refused) = heard.refused {
            bail!("{} is refused: {}", a.id, refused.reason);
        } else if let Some(r) = heard.registered {
            let ms = r.heartbeat_interval_ms;
            self.counters.heartbeat_ms.store(ms, Ordering::Relaxed);
            self.counters.registered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Agent {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere ends the bench; what is here is whole all the same.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn send(&mut self, out: BytesMut) -> anyhow::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let stream = self.stream.as_mut().context("the session is not open")?;
        stream
            .send_data(out.freeze(), false)
            .context("say something")
    }
}

fn message(kind: Say) -> pb::AgentMessage {
    pb::AgentMessage { kind: Some(kind) }
}

fn register(i: usize, a: &Agent, tasks: i64) -> pb::AgentMessage {
    let ip =
        Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + u32::try_from(i).unwrap_or(0));
    message(Say::Register(pb::Register {
        agent: Some(pb::AgentInfo {
            ip6: String::new(),
            agent_id: a.id.clone(),
            hostname: format!("n{i:05}"),
            ip: ip.to_string(),
            http_port: 5051,
            total: Some(pb::Resources {
                cpus_milli: tasks * 1000,
                mem_milli: tasks * 128 * MIB,
                disk_milli: tasks * 64 * MIB,
                ports: vec![pb::PortRange {
                    begin: 31000,
                    end: 32000,
                }],
                ..pb::Resources::default()
            }),
            ..pb::AgentInfo::default()
        }),
        version: "0.1.0".into(),
        ..pb::Register::default()
    }))
}

/// Opens all sessions and keeps them until the fleet is dropped; the first that breaks ends the run.
pub async fn run(
    fleet: Arc<Fleet>,
    master: SocketAddr,
    tasks: i64,
) -> anyhow::Result<std::convert::Infallible> {
    let (broken, mut breaks) = tokio::sync::mpsc::channel::<anyhow::Error>(1);
    for (c, chunk) in fleet.agents.chunks(STREAMS).enumerate() {
        let tcp = tokio::net::TcpStream::connect(master).await?;
        tcp.set_nodelay(true)?;
        let (mut connection, driver) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake::<_, Bytes>(tcp)
            .await
            .context("open a connection")?;
        let say = broken.clone();
        tokio::spawn(async move {
            let why = match driver.await {
                Ok(()) => anyhow!("a connection ended"),
                Err(e) => anyhow!(e).context("a connection broke"),
            };
            let _ = say.try_send(why);
        });
        for (i, a) in chunk.iter().enumerate() {
            connection = connection.ready().await.context("a connection")?;
            let (response, mut stream) = wire::open(&mut connection)?;
            let mut first = BytesMut::new();
            wire::frame(&mut first, &register(c * STREAMS + i, a, tasks));
            stream.send_data(first.freeze(), false)?;
            a.lock().stream = Some(stream);
            let (fleet, a, say) = (Arc::clone(&fleet), Arc::clone(a), broken.clone());
            tokio::spawn(async move {
                if let Err(e) = session(&fleet, &a, response).await {
                    let _ = say.try_send(e.context(format!("session of {}", a.id)));
                }
            });
        }
        // A connection after the other: a storm of registrations is another bench's.
        while fleet.counters.registered.load(Ordering::Relaxed) + 4 * STREAMS < (c + 1) * STREAMS {
            if let Ok(e) = breaks.try_recv() {
                return Err(e);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let beats = heartbeats(Arc::clone(&fleet), c * STREAMS, chunk.len(), broken.clone());
        tokio::spawn(beats);
    }
    Err(breaks
        .recv()
        .await
        .unwrap_or_else(|| anyhow!("all sessions ended")))
}

async fn session(
    fleet: &Fleet,
    a: &Agent,
    response: h2::client::ResponseFuture,
) -> anyhow::Result<()> {
    let mut body = response.await?.into_body();
    let mut frames = Frames::default();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        let mut out = BytesMut::new();
        frames.take(chunk, |heard| fleet.hear(a, heard, &mut out))?;
        a.lock().send(out)?;
    }
    bail!("the master closed it")
}

/// Heartbeats of one connection's agents, spread over the interval.
async fn heartbeats(
    fleet: Arc<Fleet>,
    from: usize,
    n: usize,
    broken: tokio::sync::mpsc::Sender<anyhow::Error>,
) {
    let mut beat = BytesMut::new();
    wire::frame(
        &mut beat,
        &message(Say::Heartbeat(pb::Heartbeat { at_ms: 1 })),
    );
    let beat = beat.freeze();
    loop {
        let ms = fleet
            .counters
            .heartbeat_ms
            .load(Ordering::Relaxed)
            .max(1000);
        for part in 0..10 {
            tokio::time::sleep(Duration::from_millis(ms / 10)).await;
            for a in &fleet.agents[from + n * part / 10..from + n * (part + 1) / 10] {
                let mut state = a.lock();
                let Some(stream) = state.stream.as_mut() else {
                    continue;
                };
                if let Err(e) = stream.send_data(beat.clone(), false) {
                    let _ = broken.try_send(anyhow!(e).context("a heartbeat"));
                    return;
                }
            }
        }
    }
}

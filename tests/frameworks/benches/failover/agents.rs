//! Emulated agents that come back: each says who it is and what runs on it, again and again, whenever its master is gone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use waggle_api::proto::session::{self as pb, agent_message::Kind as Say};
use waggle_types::FrameworkId;

use super::RETRY;
use super::session_wire::{self as wire, Frames, Heard};

/// Streams over one connection; the master allows 256.
const STREAMS: usize = 250;
/// What one task takes is this part of an agent.
const MIB: i64 = 1000;

/// All of them, and what they heard.
pub struct Fleet {
    /// What each says first, framed.
    first_words: Vec<Bytes>,
    registered: AtomicUsize,
    kills: AtomicU64,
    all: Notify,
    last: Mutex<Option<Instant>>,
}

impl Fleet {
    pub fn new(agents: usize, tasks: usize, of: &[FrameworkId]) -> anyhow::Result<Self> {
        let first_words = (0..agents).map(|i| first_words(i, tasks, of));
        Ok(Self {
            first_words: first_words.collect::<anyhow::Result<_>>()?,
            registered: AtomicUsize::new(0),
            kills: AtomicU64::new(0),
            all: Notify::new(),
            last: Mutex::new(None),
        })
    }

    /// Counts anew: the master is about to go.
    pub fn forget(&self) {
        self.registered.store(0, Ordering::SeqCst);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// When the last one was registered.
    pub async fn all_registered(&self, limit: Duration) -> anyhow::Result<Instant> {
        let done = async {
            loop {
                let more = self.all.notified();
                let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(last) = last {
                    return last;
                }
                more.await;
            }
        };
        let waited = tokio::time::timeout(limit, done).await;
        waited.with_context(|| {
            let n = self.registered.load(Ordering::SeqCst);
            format!("{n} of {} agents registered", self.first_words.len())
        })
    }

    /// Tasks that a master did not want any more.
    pub fn told_to_end(&self) -> u64 {
        self.kills.load(Ordering::SeqCst)
    }

    fn hear(&self, heard: &Heard) -> anyhow::Result<()> {
        if heard.registered.is_some() {
            let n = self.registered.fetch_add(1, Ordering::SeqCst) + 1;
            if n == self.first_words.len() {
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                self.all.notify_waiters();
            }
        } else if let Some(refused) = &heard.refused {
            bail!("refused: {}", refused.reason);
        } else if heard.kill.is_some() {
            self.kills.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

fn first_words(i: usize, tasks: usize, of: &[FrameworkId]) -> anyhow::Result<Bytes> {
    let n = i64::try_from(tasks)?;
    let ip = u32::from(Ipv4Addr::new(10, 0, 0, 1)) + u32::try_from(i)?;
    let id = format!("agent-{i:05}");
    let resources = |n: i64| pb::Resources {
        cpus_milli: n * 1000,
        mem_milli: n * 128 * MIB,
        disk_milli: n * 64 * MIB,
        ..pb::Resources::default()
    };
    let task = |t: usize| {
        let number = i * tasks + t;
        let framework = number % of.len();
        let task_id = format!("bench{framework}-{number}");
        pb::RegisteredTask {
            spec: Some(pb::TaskSpec {
                task_id: task_id.clone(),
                framework_id: of[framework].to_string(),
                framework_name: format!("bench{framework}"),
                role: format!("bench/r{framework}"),
                name: "batch".into(),
                command: Some(pb::task_spec::Command::Shell(
                    "exec /opt/job/run --shard \"$SHARD\"".into(),
                )),
                env: [("JOB", "bench"), ("LANG", "C.UTF-8")]
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .into(),
                labels: [("team".to_owned(), "bench".to_owned())].into(),
                resources: Some(resources(1)),
                kill_grace_ms: 3000,
                discovery_name: task_id.clone(),
                ..pb::TaskSpec::default()
            }),
            latest: Some(pb::TaskStatus {
                task_id,
                agent_id: id.clone(),
                state: pb::TaskState::TaskRunning.into(),
                source: pb::StatusSource::SourceExecutor.into(),
                at_ms: 1,
                ..pb::TaskStatus::default()
            }),
        }
    };
    let register = pb::Register {
        agent: Some(pb::AgentInfo {
            agent_id: id.clone(),
            hostname: format!("n{i:05}"),
            ip: Ipv4Addr::from_bits(ip).to_string(),
            http_port: 5051,
            total: Some(resources(n + 1)),
            ..pb::AgentInfo::default()
        }),
        tasks: (0..tasks).map(task).collect(),
        version: "0.1.0".into(),
        ..pb::Register::default()
    };
    let mut out = BytesMut::new();
    wire::frame(
        &mut out,
        &pb::AgentMessage {
            kind: Some(Say::Register(register)),
        },
    );
    Ok(out.freeze())
}

/// Keeps all connected until the runtime ends.
pub fn run(fleet: &Arc<Fleet>, master: SocketAddr) {
    let n = fleet.first_words.len();
    for from in (0..n).step_by(STREAMS) {
        let fleet = Arc::clone(fleet);
        tokio::spawn(async move {
            loop {
                // It ends when the master does.
                let _ = connected(&fleet, from..(from + STREAMS).min(n), master).await;
                tokio::time::sleep(RETRY).await;
            }
        });
    }
}

async fn connected(
    fleet: &Arc<Fleet>,
    agents: std::ops::Range<usize>,
    master: SocketAddr,
) -> anyhow::Result<()> {
    let tcp = tokio::net::TcpStream::connect(master).await?;
    tcp.set_nodelay(true)?;
    let (mut connection, driver) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .handshake::<_, Bytes>(tcp)
        .await
        .context("open a connection")?;
    let driver = tokio::spawn(driver);
    let mut streams = Vec::with_capacity(agents.len());
    for i in agents {
        connection = connection.ready().await.context("a connection")?;
        let (response, mut stream) = wire::open(&mut connection)?;
        stream.send_data(fleet.first_words[i].clone(), false)?;
        // Kept: a stream that is dropped is reset.
        streams.push(stream);
        let fleet = Arc::clone(fleet);
        tokio::spawn(async move {
            if let Err(e) = session(&fleet, response).await {
                say_refusal(&e);
            }
        });
    }
    driver.await.context("the connection's task")??;
    Ok(())
}

/// What a session ends of is only of interest when it was refused.
fn say_refusal(e: &anyhow::Error) {
    let text = e.to_string();
    if text.starts_with("refused") {
        eprintln!("  {text}");
    }
}

async fn session(fleet: &Fleet, response: h2::client::ResponseFuture) -> anyhow::Result<()> {
    let mut body = response.await?.into_body();
    let mut frames = Frames::default();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        frames.take(chunk, |heard| fleet.hear(&heard))?;
    }
    Ok(())
}

/// Waits until so many tasks run, as Mesos's metrics say.
pub async fn running(at: SocketAddr, wanted: usize, limit: Duration) -> anyhow::Result<usize> {
    let deadline = Instant::now() + limit;
    loop {
        let n = tasks_running(at).await?;
        if n == wanted {
            return Ok(n);
        }
        if Instant::now() > deadline {
            bail!("{n} of {wanted} tasks are there");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn tasks_running(at: SocketAddr) -> anyhow::Result<usize> {
    let mut tcp = tokio::net::TcpStream::connect(at).await?;
    let ask = format!("GET /metrics/snapshot HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    tcp.write_all(ask.as_bytes()).await?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await?;
    let (_, rest) = answer
        .split_once("\"master/tasks_running\":")
        .context("no such metric")?;
    let number: String = rest
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .collect();
    let n: f64 = number.parse().context("master/tasks_running")?;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    Ok(n as usize)
}

//! An emulated agent: the real session protocol, tasks that only pretend.
//!
//! A task runs for a while and finishes, if its command is `run MILLISECONDS`, fails after that with
//! `fail MILLISECONDS`, and else runs until it is killed. Statuses are repeated until they are
//! acknowledged, the first unacknowledged one of each task at a time, as agents do.

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use waggle_api::proto::session::{
    self as pb, AgentMessage, agent_message::Kind as Say, master_message::Kind as Hear,
    session_client::SessionClient,
};
use waggle_types::{AgentInfo, PortRange, PortSet, Resources};

/// Between two tries of a status: long enough for a framework that is slow on a busy machine.
const RETRY: Duration = Duration::from_secs(5);

/// What an agent has: shared with the test that looks at it.
#[derive(Debug, Clone, Default)]
pub struct Books(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// Specs and newest status of tasks that have not ended, or whose end is not acknowledged.
    tasks: BTreeMap<String, (pb::TaskSpec, VecDeque<pb::TaskStatus>, pb::TaskStatus)>,
    n_launched: usize,
    n_killed: usize,
    n_uuids: u128,
}

impl Books {
    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        // A test that panicked elsewhere leaves whole books.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tasks that run now.
    pub fn running(&self) -> usize {
        let runs = |s: &pb::TaskStatus| s.state == i32::from(pb::TaskState::TaskRunning);
        self.with(|b| b.tasks.values().filter(|t| runs(&t.2)).count())
    }

    /// Tasks ever launched.
    pub fn launched(&self) -> usize {
        self.with(|b| b.n_launched)
    }

    /// Tasks that were killed.
    pub fn killed(&self) -> usize {
        self.with(|b| b.n_killed)
    }

    /// Statuses that nobody has acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.with(|b| b.tasks.values().map(|t| t.1.len()).sum())
    }

    fn change(&self, agent: &str, task: &str, state: pb::TaskState) -> Option<pb::TaskStatus> {
        self.with(|b| {
            b.n_uuids += 1;
            let uuid = b.n_uuids.to_be_bytes().to_vec();
            let (_, queue, latest) = b.tasks.get_mut(task)?;
            let over = [
                pb::TaskState::TaskFinished,
                pb::TaskState::TaskFailed,
                pb::TaskState::TaskKilled,
            ];
            if over.iter().any(|s| i32::from(*s) == latest.state) {
                return None;
            }
            let status = pb::TaskStatus {
                task_id: task.to_owned(),
                agent_id: agent.to_owned(),
                state: state.into(),
                source: pb::StatusSource::SourceExecutor.into(),
                at_ms: 1,
                uuid,
                ..pb::TaskStatus::default()
            };
            *latest = status.clone();
            queue.push_back(status.clone());
            (queue.len() == 1).then_some(status)
        })
    }
}

/// An agent of so many CPUs, with much memory and 1000 ports.
pub fn info(n: u8, cpus: i64) -> Option<AgentInfo> {
    let ports = PortSet::from_ranges([PortRange {
        begin: 31000,
        end: 31999,
    }]);
    Some(AgentInfo {
        ip6: None,
        reserved: Vec::new(),
        domain: None,
        agent_id: waggle_types::AgentId::new(format!("agent-{n}")).ok()?,
        hostname: format!("n{n}"),
        ip: Ipv4Addr::new(127, 0, 1, n),
        http_port: 5051,
        total: Resources::from_millis(cpus * 1000, 16_000_000, 16_000_000).with_ports(ports),
        attributes: BTreeMap::new(),
    })
}

/// One session, until the stream ends: registers with what the books hold.
pub async fn run(channel: Channel, info: AgentInfo, books: Books) -> Result<(), tonic::Status> {
    let (say, rx) = mpsc::channel(256);
    let agent = info.agent_id.to_string();
    let tasks = books.with(|b| {
        let all = b.tasks.values();
        all.map(|(spec, _, latest)| pb::RegisteredTask {
            spec: Some(spec.clone()),
            latest: Some(latest.clone()),
        })
        .collect()
    });
    let register = pb::Register {
        wireguard_key: Vec::new(),
        agent: Some((&info).into()),
        tasks,
        applied_generation: 0,
        executors: Vec::new(),
        takes_changes: true,
        version: "0.1.0".into(),
    };
    let gone = |_| tonic::Status::unavailable("the session ended");
    say.send(message(Say::Register(register)))
        .await
        .map_err(gone)?;
    let mut hear = SessionClient::new(channel)
        .connect(ReceiverStream::new(rx))
        .await?
        .into_inner();
    let mut retry = tokio::time::interval(RETRY);
    loop {
        let heard = tokio::select! {
            m = hear.message() => m?,
            _ = retry.tick() => {
                let again: Vec<_> = books
                    .with(|b| b.tasks.values().filter_map(|t| t.1.front().cloned()).collect());
                for status in again {
                    say.send(message(Say::Status(status))).await.map_err(gone)?;
                }
                continue;
            }
        };
        let Some(heard) = heard else {
            return Ok(());
        };
        match heard.kind {
            Some(Hear::Heartbeat(_)) => {
                let beat = pb::Heartbeat { at_ms: 1 };
                say.send(message(Say::Heartbeat(beat)))
                    .await
                    .map_err(gone)?;
            }
            Some(Hear::Launch(l)) => {
                if let Some(spec) = l.spec {
                    launch(&books, &agent, &say, spec).await;
                }
            }
            Some(Hear::Kill(k)) => {
                books.with(|b| b.n_killed += 1);
                report(&books, &agent, &say, &k.task_id, pb::TaskState::TaskKilled).await;
            }
            Some(Hear::Ack(a)) => {
                if let Some(next) = books.with(|b| b.acknowledged(&a)) {
                    say.send(message(Say::Status(next))).await.map_err(gone)?;
                }
            }
            _ => {}
        }
    }
}

impl Inner {
    /// Answers the status that is said next.
    fn acknowledged(&mut self, a: &pb::AckStatus) -> Option<pb::TaskStatus> {
        let (_, queue, latest) = self.tasks.get_mut(&a.task_id)?;
        if queue.front().is_some_and(|s| s.uuid == a.uuid) {
            queue.pop_front();
        }
        let next = queue.front().cloned();
        let ended = latest.state != i32::from(pb::TaskState::TaskRunning);
        if next.is_none() && ended {
            self.tasks.remove(&a.task_id);
        }
        next
    }
}

async fn launch(books: &Books, agent: &str, say: &mpsc::Sender<AgentMessage>, spec: pb::TaskSpec) {
    let id = spec.task_id.clone();
    let shell = match &spec.command {
        Some(pb::task_spec::Command::Shell(s)) => s.clone(),
        _ => String::new(),
    };
    books.with(|b| {
        b.n_launched += 1;
        let staging = pb::TaskStatus::default();
        b.tasks.insert(id.clone(), (spec, VecDeque::new(), staging));
    });
    report(books, agent, say, &id, pb::TaskState::TaskRunning).await;
    let (verb, ms) = shell.split_once(' ').unwrap_or_default();
    let end = match verb {
        "run" => pb::TaskState::TaskFinished,
        "fail" => pb::TaskState::TaskFailed,
        _ => return,
    };
    let after = Duration::from_millis(ms.parse().unwrap_or(0));
    let (books, agent, say) = (books.clone(), agent.to_owned(), say.clone());
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        report(&books, &agent, &say, &id, end).await;
    });
}

async fn report(
    books: &Books,
    agent: &str,
    say: &mpsc::Sender<AgentMessage>,
    task: &str,
    state: pb::TaskState,
) {
    if let Some(status) = books.change(agent, task, state) {
        // A session that is gone hears it in the next one.
        let _ = say.send(message(Say::Status(status))).await;
    }
}

fn message(kind: Say) -> AgentMessage {
    AgentMessage { kind: Some(kind) }
}

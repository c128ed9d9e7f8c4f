//! Frameworks over the typed client: each takes all that it is offered, at once, for tasks of one size, and
//! confirms every update.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep_until};
use tonic::transport::{Channel, Endpoint};
use waggle_api::client::{Calls, Events, connect};
use waggle_types::{
    AgentId, Command, DiscoveryInfo, FrameworkId, FrameworkInfo, Millis, Offer, Resources,
    SchedulerEvent, StatusUuid, TaskId, TaskSpec, TaskState, TaskStatus,
};

use super::agent::Fleet;

/// Updates confirmed by one call at most, and the longest that one waits for it.
const ACKS: usize = 512;
const ACK_DELAY: Duration = Duration::from_millis(1);

/// What all frameworks saw.
#[derive(Default)]
pub struct Seen {
    /// Accepts sent.
    pub accepts: AtomicU64,
    /// Tasks heard to run.
    pub running: AtomicU64,
    /// Tasks heard to have ended.
    pub ended: AtomicU64,
    /// Launches that were refused.
    pub refused: AtomicU64,
    /// Whether times are kept.
    measuring: AtomicBool,
    /// From an accept to the update of its task's running, in ns.
    launch_ns: Mutex<Vec<u64>>,
    /// From the intended end of a task to the offer of what it held, in ns.
    offer_ns: Mutex<Vec<u64>>,
    /// Tasks are launched on no more than what is offered for as many.
    first_refusal: Mutex<Option<String>>,
}

fn taken<T: Default>(of: &Mutex<T>) -> T {
    std::mem::take(&mut of.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Seen {
    /// Begins to keep times.
    pub fn measure(&self) {
        taken(&self.launch_ns);
        taken(&self.offer_ns);
        self.measuring.store(true, Ordering::Relaxed);
    }

    /// Ends it: times of launches and of offers.
    pub fn measured(&self) -> (Vec<u64>, Vec<u64>) {
        self.measuring.store(false, Ordering::Relaxed);
        (taken(&self.launch_ns), taken(&self.offer_ns))
    }

    /// The first refusal since last asked.
    pub fn refusal(&self) -> Option<String> {
        taken(&self.first_refusal)
    }

    fn push(&self, into: &Mutex<Vec<u64>>, ns: u64) {
        if self.measuring.load(Ordering::Relaxed) {
            into.lock().unwrap_or_else(PoisonError::into_inner).push(ns);
        }
    }
}

struct Framework {
    name: String,
    fleet: Arc<Fleet>,
    seen: Arc<Seen>,
    calls: Calls,
    /// When each task was sent, by the number in its id.
    sent: Vec<u64>,
    acks: Vec<(TaskId, AgentId, StatusUuid)>,
    flush_at: Option<Instant>,
}

/// Runs one framework until its stream ends, which is an error.
pub async fn run(
    i: usize,
    fleet: Arc<Fleet>,
    seen: Arc<Seen>,
    master: SocketAddr,
) -> anyhow::Result<std::convert::Infallible> {
    let channel: Channel = Endpoint::from_shared(format!("http://{master}"))?
        .tcp_nodelay(true)
        .connect()
        .await
        .context("connect a framework")?;
    let name = format!("bench{i}");
    let info = FrameworkInfo::new(&name, format!("bench/r{i}"));
    let (calls, events) = connect(channel, &info).await.context("subscribe")?;
    let mut framework = Framework {
        name,
        fleet,
        seen,
        calls,
        sent: Vec::new(),
        acks: Vec::new(),
        flush_at: None,
    };
    framework.serve(events).await
}

impl Framework {
    async fn serve(&mut self, mut events: Events) -> anyhow::Result<std::convert::Infallible> {
        loop {
            let flush_at = self.flush_at;
            let event = tokio::select! {
                e = events.next() => e.context("a framework's stream")?,
                () = async { sleep_until(flush_at.unwrap_or_else(Instant::now)).await },
                    if flush_at.is_some() =>
                {
                    self.flush();
                    continue;
                }
            };
            match event {
                None => bail!("the master ended the stream of {}", self.name),
                Some(SchedulerEvent::Offers(offers)) => {
                    for offer in offers {
                        self.offered(offer)?;
                    }
                }
                Some(SchedulerEvent::Update(status)) => self.update(status),
                Some(_) => {}
            }
        }
    }

    fn offered(&mut self, offer: Offer) -> anyhow::Result<()> {
        let n = usize::try_from(offer.resources.scalars[0].0 / 1000)?;
        let agent = Fleet::number(offer.agent_id.as_str()).context("an unknown agent")?;
        let now = self.fleet.now_ns();
        for intended in self.fleet.offered(agent, n) {
            self.seen
                .push(&self.seen.offer_ns, now.saturating_sub(intended));
        }
        let framework_id = self.calls.framework_id().clone();
        let mut tasks = Vec::with_capacity(n);
        for _ in 0..n {
            tasks.push(task(&self.name, self.sent.len(), &framework_id)?);
            self.sent.push(now);
        }
        self.seen.accepts.fetch_add(1, Ordering::Relaxed);
        let (mut calls, seen) = (self.calls.clone(), Arc::clone(&self.seen));
        tokio::spawn(async move {
            let ids = [offer.offer_id];
            if let Err(e) = calls.accept(&ids, &tasks, Millis(0), None).await {
                seen.refused.fetch_add(n as u64, Ordering::Relaxed);
                let mut first = seen
                    .first_refusal
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert_with(|| e.to_string());
            }
        });
        Ok(())
    }

    fn update(&mut self, status: TaskStatus) {
        if status.state == TaskState::Running {
            self.seen.running.fetch_add(1, Ordering::Relaxed);
            let number = status.task_id.as_str().rsplit('-').next();
            let number = number.and_then(|n| n.parse::<usize>().ok());
            if let Some(sent) = number.and_then(|n| self.sent.get(n)) {
                let took = self.fleet.now_ns().saturating_sub(*sent);
                self.seen.push(&self.seen.launch_ns, took);
            }
        } else if status.state.is_terminal() {
            self.seen.ended.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(uuid) = status.uuid {
            self.acks.push((status.task_id, status.agent_id, uuid));
            self.flush_at
                .get_or_insert_with(|| Instant::now() + ACK_DELAY);
            if self.acks.len() >= ACKS {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        self.flush_at = None;
        let acks = std::mem::take(&mut self.acks);
        let mut calls = self.calls.clone();
        tokio::spawn(async move {
            // What is not confirmed shows as a task that does not end.
            let _ = calls.acknowledge_all(&acks).await;
        });
    }
}

fn task(name: &str, number: usize, framework_id: &FrameworkId) -> anyhow::Result<TaskSpec> {
    let id = format!("{name}-{number}");
    Ok(TaskSpec {
        container: waggle_types::ContainerSpec::default(),
        task_id: TaskId::new(id.as_str())?,
        framework_id: framework_id.clone(),
        framework_name: String::new(),
        role: String::new(),
        name: "batch".into(),
        command: Command::Shell("exec /opt/job/run --shard \"$SHARD\"".into()),
        env: [
            ("JOB", "bench"),
            ("LANG", "C.UTF-8"),
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into(),
        labels: [("team", "bench")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        resources: Resources::from_millis(1000, 128_000, 64_000),
        parts: Vec::new(),
        ports: Vec::new(),
        discovery: DiscoveryInfo { name: id },
        health_checks: Vec::new(),
        kill_grace: Millis(3000),
        user: None,
        service: String::new(),
        service_version: String::new(),
        trace: None,
        executor: None,
    })
}

//! The agent's main loop: events to the core, its effects to the executors.

mod tick;

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use waggle_api::{convert::wireguard_key_to_wire, proto::session as pb};
use waggle_lifecycle::{AgentCore, Effect, Event, Exit, StreamRecord};
use waggle_overlay::overlay::{OverlayNet, OverlayNetConfig};
use waggle_overlay_plan::Fact;
use waggle_telemetry::{Telemetry, names};
use waggle_types::{AgentInfo, ExecutorEnd, TaskId, TaskStatus, UnixMillis, VolumeId};

use crate::{
    AgentConfig, AgentError, AgentListeners,
    cgroup::{CgroupHost, Hierarchy},
    checkpoint::WorkDir,
    checks::CheckResult,
    clock, crash, dns_api, executors, flow_log, gpus,
    http::{self, AgentView},
    kept::Kept,
    launch::Shim,
    logs,
    net::{Net, chain},
    operator::Meter,
    parts::Parts,
    receive, reconfiguration, recover, requests, resources,
    runtime::Ports,
    scrape::Scraper,
    session::{self, SessionEvent},
    statsd,
    storage::{Storage, disks},
    sys,
    tasks::Tasks,
    tidy::{self, Tidy},
};

/// Events that wait for the loop; whoever has more waits.
const INPUTS: usize = 1024;

/// What the loop is told.
#[derive(Debug)]
pub enum Input {
    /// For the core.
    Event(Event),
    /// A launch has succeeded.
    Running {
        /// Which.
        task_id: TaskId,
        /// Its shim.
        shim: Shim,
    },
    /// From the session.
    Session(SessionEvent),
    /// A call of an executor.
    Executor(Box<executors::Asked>),
    /// A connection of an executor has ended.
    ExecutorGone(executors::Gone),
}

impl From<CheckResult> for Input {
    fn from(told: CheckResult) -> Self {
        let CheckResult {
            task_id,
            idx,
            result,
            said,
            response,
        } = told;
        Self::Event(match said {
            Some(said) => Event::CheckSaid {
                task_id,
                idx,
                said,
                why: result.err().unwrap_or_else(|| "passed".to_owned()),
            },
            None => Event::Checked {
                task_id,
                idx,
                result,
                response,
            },
        })
    }
}

impl From<SessionEvent> for Input {
    fn from(event: SessionEvent) -> Self {
        Self::Session(event)
    }
}

/// The node's part in overlay networks, which the master says more about.
fn overlay_of(config: &AgentConfig) -> OverlayNet {
    let settings = OverlayNetConfig {
        node_ip: config.ip,
        pin_dir: config.pin_dir.join("overlay"),
    };
    if config.overlay && config.network && config.dataplane != crate::DataPlanePolicy::Off {
        OverlayNet::new(settings)
    } else {
        OverlayNet::off(settings, "this node takes no part in overlay networks")
    }
}

/// Runs an agent until `stop` is cancelled or its master refuses it for good. Its tasks run on, in both
/// cases and also when the future is dropped.
pub async fn run(
    config: AgentConfig,
    listeners: AgentListeners,
    telemetry: Telemetry,
    stop: CancellationToken,
) -> Result<(), AgentError> {
    let telemetry = telemetry.component("waggle-agent");
    if let Err(e) = sys::protect_from_oom() {
        tracing::debug!(error = %e, "the OOM killer may choose the agent");
    }
    let config = Arc::new(config);
    let root = config.work_dir.clone();
    let work = blocking(move || WorkDir::open(&root)).await?;
    if work
        .forget_processes_of_another_boot(&config.boot_id)
        .map_err(AgentError::file("read", &config.boot_id))?
    {
        tracing::warn!("the machine has booted since: how tasks of before ended is not known");
    }
    let agent_id = work.agent_id(|| uuid::Uuid::new_v4().to_string())?;
    // Names first: while this node's resolver is silent, everybody on it waits.
    let overlay = Arc::new(overlay_of(&config));
    let mut net = Net::start(&config, Kept::new(&config.work_dir), Arc::clone(&overlay)).await?;
    let (total, gpus) = {
        let config = Arc::clone(&config);
        blocking(move || -> Result<_, AgentError> {
            let gpus = gpus::discover(config.gpu_devices.as_deref());
            let mut total = resources::detect(&config.work_dir, gpus.len(), &config.resources)?;
            disks::offer(&mut total, &config.storage.disks)?;
            Ok((total, gpus))
        })
        .await?
    };
    let info = AgentInfo {
        ip6: config.ip6,
        reserved: config.resources.reserved.clone(),
        domain: config.domain.clone(),
        agent_id: agent_id.clone(),
        hostname: config.hostname.clone(),
        ip: config.ip,
        http_port: listeners.http.local_addr().map_or(0, |a| a.port()),
        total,
        attributes: config.attributes.clone(),
    };
    {
        let (config, info) = (Arc::clone(&config), info.clone());
        let settle =
            move || reconfiguration::settle(&config.work_dir, &info, config.reconfiguration);
        blocking(settle).await?;
    }
    tracing::info!(%agent_id, hostname = config.hostname, resources = %info.total, "agent starts");
    let mut troubles = Vec::new();
    let cgroups = cgroups(&config, &mut troubles);
    let _claim = claim(&cgroups, &config, &mut troubles).await?;
    net.load(&config, &telemetry).await?;
    net.load_edge(&config).await?;
    net.load_packets(&config).await?;
    net.load_encryption(&config).await?;
    let net = Arc::new(net);
    troubles.extend(net.troubles().iter().cloned());
    let tried = {
        let (net, config, telemetry) = (Arc::clone(&net), Arc::clone(&config), telemetry.clone());
        let try_out = move || requests::try_out(&net, config.cgroup_root.as_deref(), &telemetry);
        blocking(try_out).await
    };
    troubles.extend(tried);

    let parts = {
        let (config, telemetry) = (Arc::clone(&config), telemetry.clone());
        Arc::new(blocking(move || Parts::open(&config, gpus, overlay, &telemetry)).await?)
    };
    troubles.extend(parts.troubles());
    if let Some(journal) = config.logs.journal.clone() {
        troubles.extend(blocking(move || journal.trouble()).await);
    }

    let (inputs, mut inbox) = mpsc::channel(INPUTS);
    let (to_master, mut words) = mpsc::channel(16);
    let (view, watch_view) = watch::channel(Arc::new(AgentView::new(&info, &config, &troubles)));
    let otlp = listeners.otlp.filter(|_| telemetry.is_exporting());
    let statsd = listeners.statsd.filter(|_| telemetry.is_exporting());
    let ports = Ports {
        http: info.http_port,
        otlp: otlp
            .as_ref()
            .and_then(|l| l.local_addr().ok()?.port().into()),
        statsd: statsd
            .as_ref()
            .and_then(|s| s.local_addr().ok()?.port().into()),
    };
    let tasks = Tasks::new(
        Arc::clone(&config),
        (agent_id.clone(), ports),
        cgroups.clone(),
        Arc::clone(&net),
        Arc::clone(&parts),
        telemetry.clone(),
        inputs.clone(),
    );
    let done = {
        let dirs = work
            .all()
            .map_err(AgentError::file("read", work.tasks_dir()))?;
        blocking(move || tidy::finished(&dirs)).await
    };
    let mut agent = Agent {
        core: AgentCore::new(agent_id, uuid::Uuid::new_v4().as_u64_pair().0)
            .with_total(info.total.clone()),
        tasks,
        since_ns: work.counting_since(clock::now_ns()),
        work: Arc::new(work),
        config: Arc::clone(&config),
        net: Arc::clone(&net),
        telemetry: telemetry.clone(),
        info,
        outbox: None,
        unsaved: BTreeMap::new(),
        view,
        storage: parts.storage.clone(),
        inputs: inputs.clone(),
        tidy: Tidy::new(done),
        streams: executors::Streams::default(),
        ended_executors: Vec::new(),
        ticking: Arc::new(tokio::sync::Semaphore::new(1)),
        n_ticks: 0,
        scraper: Scraper::default(),
        scraped: None,
    };
    recover::recover(&mut agent, &cgroups, &parts).await?;
    let known = agent.core.tasks().map(|t| t.spec.task_id).collect();
    net.settle(&agent.info.agent_id, &known).await;
    agent.publish(None);

    // What an agent before this one had begun to remove.
    agent.sweep();
    let worker = Arc::clone(&net);
    let (tel, node) = (telemetry.clone(), config.hostname.clone());
    agent
        .tasks
        .spawn(async move { worker.work(tel, to_master, node).await });
    agent.tasks.spawn(session::run(
        config.masters.clone(),
        inputs.clone(),
        telemetry.clone(),
    ));
    let shown = http::Shown {
        config: Arc::clone(&config),
        parts: Arc::clone(&parts),
        executors: executors::Door { inputs },
        meter: Meter::new(
            &config,
            cgroups.clone(),
            Arc::clone(&net),
            agent.tidy.disk_uses(),
        ),
        cgroups,
        overlay: Arc::clone(net.overlay()),
        net: Arc::clone(&net),
        figures: agent.tasks.figures(),
        telemetry: telemetry.clone(),
    };
    agent.tasks.spawn(Box::pin(flow_log::work(
        Arc::clone(&net),
        telemetry.clone(),
    )));
    agent.tasks.spawn(requests::work(
        Arc::clone(&net),
        config.cgroup_root.clone(),
        telemetry.clone(),
    ));
    agent
        .tasks
        .spawn(http::serve_api(listeners.http, watch_view, shown));
    agent.tasks.spawn(Arc::clone(&parts.images).work());
    if let Some(journal) = config.logs.journal.clone() {
        agent.tasks.spawn(logs::follow_journal(
            journal,
            config.hostname.clone(),
            config.work_dir.clone(),
            telemetry.clone(),
        ));
    }
    agent
        .tasks
        .spawn(http::serve_metrics(listeners.metrics, telemetry.clone()));
    if let Some(listener) = otlp {
        let senders = agent.tasks.senders();
        let receiver = receive::serve(listener, senders, telemetry.clone());
        agent.tasks.spawn(receiver);
    }
    if let Some(socket) = statsd {
        let senders = agent.tasks.senders();
        let server = statsd::serve(socket, senders, telemetry.clone());
        agent.tasks.spawn(server);
    }
    if let Some(listener) = listeners.dns {
        let net = Arc::clone(&net);
        agent.tasks.spawn(dns_api::serve(listener, net, telemetry));
    }

    let mut tick = tokio::time::interval(config.tick.max(Duration::from_millis(100)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        let deadline = agent.core.next_deadline();
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(input) = inbox.recv() => {
                if let Input::Session(SessionEvent::Refused { reason }) = input {
                    return Err(AgentError::Refused { reason });
                }
                agent.take(input).await;
            }
            Some(word) = words.recv() => agent.say(session::message(word)),
            () = until(deadline) => agent.handle(Event::Tick).await,
            _ = tick.tick() => {
                agent.tell_ended();
                agent.telemetry.keep_contract();
                agent.tick();
                agent.scrape();
                agent.tidy().await;
            }
        }
        agent.tasks.reap();
    }
    net.shutdown().await;
    tracing::info!("agent stops; its tasks run on");
    Ok(())
}

/// The loop's state.
pub struct Agent {
    pub(crate) core: AgentCore,
    pub(crate) tasks: Tasks,
    pub(crate) work: Arc<WorkDir>,
    pub(crate) config: Arc<AgentConfig>,
    net: Arc<Net>,
    pub(crate) telemetry: Telemetry,
    pub(crate) info: AgentInfo,
    pub(crate) outbox: Option<mpsc::Sender<pb::AgentMessage>>,
    // Streams whose last write failed: nothing of theirs is sent before it is on disk.
    unsaved: BTreeMap<TaskId, StreamRecord>,
    view: watch::Sender<Arc<AgentView>>,
    since_ns: u64,
    pub(crate) storage: Storage,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) tidy: Tidy,
    pub(crate) streams: executors::Streams,
    // What the master was not told yet.
    pub(crate) ended_executors: Vec<ExecutorEnd>,
    ticking: Arc<tokio::sync::Semaphore>,
    n_ticks: u64,
    scraper: Scraper,
    scraped: Option<tokio::time::Instant>,
}

impl Agent {
    async fn take(&mut self, input: Input) {
        match input {
            Input::Event(event) => self.handle(event).await,
            Input::Running { task_id, shim } => {
                if !self.tasks.contains(&task_id) {
                    return;
                }
                if let Some(pid) = self.tasks.watch(&task_id, shim) {
                    self.tasks.launched(&task_id);
                    self.handle(Event::Started { task_id, pid }).await;
                }
            }
            Input::Session(event) => self.session(event).await,
            Input::Executor(asked) => self.executor_asks(*asked).await,
            Input::ExecutorGone(gone) => self.executor_gone(gone).await,
        }
    }

    async fn session(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Greet(answer) => {
                // An attempt that was given up meanwhile needs no answer.
                let _ = answer.send(self.registration());
            }
            SessionEvent::Open {
                master,
                outbox,
                unknown_tasks,
            } => {
                tracing::info!(%master, "registered");
                let attrs = vec![("server.address", master.to_string().into())];
                self.telemetry.event("waggle.agent.registered", None, attrs);
                self.outbox = Some(outbox);
                self.ended_executors.clear();
                self.publish(Some(master.to_string()));
                if let Some(rings) = self.net.edge_rings(true) {
                    self.say(session::message(pb::agent_message::Kind::EdgeRings(rings)));
                }
                self.handle(Event::Connected { unknown_tasks }).await;
            }
            SessionEvent::Rings(rings) => self.net.learn(rings).await,
            SessionEvent::Closed => {
                self.outbox = None;
                self.publish(None);
                self.handle(Event::Disconnected).await;
            }
            SessionEvent::Launch(spec) => self.handle(Event::Launch(spec)).await,
            SessionEvent::Kill {
                task_id,
                max_grace,
                why,
            } => {
                let kill = Event::Kill {
                    task_id,
                    max_grace,
                    why,
                };
                self.handle(kill).await;
            }
            SessionEvent::ExecutorMessage { key, data } => {
                self.handle(Event::FrameworkSays { key, data }).await;
            }
            SessionEvent::ShutdownExecutor(key) => {
                self.handle(Event::ShutdownExecutor(key)).await;
            }
            SessionEvent::Volumes { kept, destroyed } => self.keep_volumes(kept, destroyed).await,
            SessionEvent::Ack(task_id, uuid) => {
                crash::point(Path::new("ack"), "received");
                self.handle(Event::Ack { task_id, uuid }).await;
            }
            SessionEvent::Desired(snapshot) => self.net.desired(*snapshot),
            SessionEvent::Change(delta) => {
                if !self.net.change(*delta) {
                    tracing::info!(
                        "a change of the network does not fit what is here: asking for all of it"
                    );
                    self.say(session::message(pb::agent_message::Kind::NetAsk(
                        pb::NetAsk {},
                    )));
                }
            }
            SessionEvent::Bad { kind, error } => {
                tracing::warn!(kind, error, "message from the master skipped");
            }
            SessionEvent::Refused { .. } => {}
        }
    }

    /// Volumes that were destroyed go: out of reach at once, their data in the background. Those that the master
    /// does not know are put aside, and people are told.
    async fn keep_volumes(&mut self, kept: Vec<VolumeId>, destroyed: Vec<VolumeId>) {
        let storage = self.storage.clone();
        let now = clock::now();
        match blocking(move || storage.keep_volumes(&kept, &destroyed, now.0)).await {
            Ok(done) => {
                for volume in &done.unclaimed {
                    tracing::error!(%volume, "the master does not know this volume: its data is put aside");
                }
                let n = u64::try_from(done.unclaimed.len()).unwrap_or(u64::MAX);
                if n > 0 {
                    self.telemetry.count(&names::VOLUMES_UNCLAIMED, &[], n);
                }
                if done.n_destroyed > 0 {
                    tracing::info!(n = done.n_destroyed, "volumes are gone");
                    self.sweep();
                }
            }
            Err(e) => tracing::warn!(error = %e, "volumes that are gone stay"),
        }
    }

    fn sweep(&mut self) {
        let storage = self.storage.clone();
        self.tasks.spawn(async move {
            if let Err(e) = blocking(move || storage.sweep()).await {
                tracing::warn!(error = %e, "data of volumes that are gone stays");
            }
        });
    }

    fn registration(&self) -> pb::Register {
        pb::Register {
            agent: Some(pb::AgentInfo::from(&self.info)),
            tasks: self
                .core
                .tasks()
                .map(|t| pb::RegisteredTask {
                    spec: Some(pb::TaskSpec::from(&t.spec)),
                    latest: t.latest.as_ref().map(|latest| self.to_wire(latest)),
                })
                .collect(),
            applied_generation: self.net.generation().0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            takes_changes: true,
            executors: self.registered_executors(),
            wireguard_key: wireguard_key_to_wire(self.net.wireguard_key()),
        }
    }

    /// One event and everything that follows from it.
    pub(crate) async fn handle(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        let mut changed = false;
        while let Some(event) = events.pop_front() {
            if let Event::Checked {
                task_id,
                idx,
                result,
                ..
            } = &event
            {
                let in_grace = self.core.in_grace(task_id, *idx, clock::now());
                self.tasks.checked(task_id, *idx, result, in_grace);
            }
            let effects = self.core.handle(event, clock::now());
            changed |= !effects.is_empty();
            for effect in effects {
                events.extend(self.execute(effect).await);
            }
        }
        if changed {
            let master = self.view.borrow().master.clone();
            self.publish(master);
        }
    }

    /// Carries one effect out; what it led to at once comes back as an event.
    async fn execute(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Launch(spec) => {
                let dir = self.work.task(&spec.task_id);
                let (to, what) = (dir.clone(), spec.clone());
                tracing::info!(task_id = %spec.task_id, "task received");
                if let Err(e) = blocking(move || to.write_spec(&what)).await {
                    let why = format!("failed to checkpoint the task: {e}");
                    return Some(Event::Exited {
                        task_id: spec.task_id,
                        exit: Exit::LaunchFailed(why),
                    });
                }
                self.tasks.launch(*spec, dir);
            }
            Effect::LaunchExecutor { record, container } => {
                return self.launch_executor(&record, container).await;
            }
            Effect::Accept { spec, container } => self.accept_on(*spec, &container).await,
            Effect::Limit {
                container,
                resources,
            } => self.limit_executor(&container, &resources),
            Effect::ToExecutor { key, word } => return self.tell_executor(key, word).await,
            Effect::ToFramework { key, data } => self.tell_framework(&key, data),
            Effect::ExecutorEnded(end) => self.executor_ended(end),
            Effect::Persist { task_id, record } => {
                self.unsaved.insert(task_id.clone(), record);
                self.save(&task_id).await;
            }
            Effect::Send(status) => {
                if self.save(&status.task_id).await {
                    self.send(&status);
                }
            }
            Effect::Kill(task_id) => self.tasks.kill(&task_id),
            Effect::Cancel(task_id) => self.tasks.cancel(&task_id),
            Effect::ForceKill(task_id) => self.tasks.force_kill(&task_id),
            Effect::LocalFact {
                task_id,
                state,
                health,
                ready,
                status,
            } => {
                let fact = Fact {
                    state,
                    health,
                    ready,
                };
                self.tasks.fact(&task_id, fact, status.as_ref());
            }
            Effect::StartChecks(task_id) => {
                if let Some(checks) = self.core.checks(&task_id) {
                    self.tasks.start_checks(&task_id, &checks);
                }
            }
            Effect::Release {
                task_id,
                state,
                exit,
            } => {
                self.tasks.release(&task_id, state, &exit);
            }
            Effect::Forget(task_id) => {
                self.unsaved.remove(&task_id);
                self.tasks.forget(&task_id);
                self.finished(task_id).await;
            }
        }
        None
    }

    /// Writes a task's stream if its last write is missing. Returns whether it is on disk.
    pub(crate) async fn save(&mut self, task_id: &TaskId) -> bool {
        let Some(record) = self.unsaved.get(task_id).cloned() else {
            return true;
        };
        let dir = self.work.task(task_id);
        match blocking(move || dir.write_stream(&record)).await {
            Ok(()) => {
                self.unsaved.remove(task_id);
                true
            }
            Err(e) => {
                tracing::error!(%task_id, error = %e, "status not durable: it is not sent yet");
                false
            }
        }
    }

    fn send(&self, status: &TaskStatus) {
        let kind = pb::agent_message::Kind::Status(self.to_wire(status));
        self.say(session::message(kind));
        crash::point(Path::new("status"), "sent");
    }

    /// With the task's own address, which the networks know.
    fn to_wire(&self, status: &TaskStatus) -> pb::TaskStatus {
        let own = self.tasks.networks().own(&status.task_id);
        pb::TaskStatus {
            ip: own.v4.map(|ip| ip.to_string()).unwrap_or_default(),
            ip6: own.v6.map(|ip| ip.to_string()).unwrap_or_default(),
            ..pb::TaskStatus::from(status)
        }
    }

    /// A full outbox loses the message: a status is sent again by its timer, the next generation is
    /// acknowledged by its own.
    pub(crate) fn say(&self, message: pb::AgentMessage) {
        let Some(outbox) = &self.outbox else { return };
        if outbox.try_send(message).is_err() {
            let attrs = [(names::DROP_REASON, "outbox_full".into())];
            self.telemetry.count(&names::SESSION_DROPPED, &attrs, 1);
        }
    }

    fn publish(&self, master: Option<String>) {
        self.view.send_modify(|view| {
            let view = Arc::make_mut(view);
            view.master = master;
            view.generation = self.net.generation().0;
            view.ended.clone_from(self.tasks.ended());
            let executors = self.core.executors();
            view.executors = executors
                .map(|(record, container)| {
                    let used = self.core.container_resources(&record.key());
                    http::executor_view(record, container, used.unwrap_or_default(), &self.work)
                })
                .collect();
            view.tasks = self
                .core
                .tasks()
                .map(|t| {
                    let own = self.tasks.networks().own(&t.spec.task_id);
                    http::task_view(t, &self.work, own)
                })
                .collect();
        });
    }
}

/// Runs blocking work; a panic in it is one here.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(out) => out,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        // The runtime is shutting down: nobody waits for an answer any more.
        Err(_) => std::future::pending().await,
    }
}

async fn until(deadline: Option<UnixMillis>) {
    match deadline {
        Some(at) => tokio::time::sleep(at.since(clock::now()).as_duration()).await,
        None => std::future::pending().await,
    }
}

/// The host's cgroups, or none with the reason among the troubles.
fn cgroups(config: &AgentConfig, troubles: &mut Vec<String>) -> CgroupHost {
    let Some(root) = &config.cgroup_root else {
        troubles.push("cgroups: no cgroup_root is set: tasks have no limits".to_owned());
        return CgroupHost::none();
    };
    match CgroupHost::open(root) {
        Ok(host) => {
            if host.hierarchy() == Hierarchy::None {
                troubles.push("cgroups: none are mounted: tasks have no limits".to_owned());
            }
            tracing::info!(hierarchy = ?host.hierarchy(), "cgroups");
            host
        }
        Err(e) => {
            let why = format!("cgroups: {}", chain(&e));
            tracing::warn!(error = why, "tasks run without cgroups");
            troubles.push(why);
            CgroupHost::none()
        }
    }
}

/// Makes sure that no other agent keeps its tasks in the same cgroups. One that was just killed lets go in a moment.
async fn claim(
    cgroups: &CgroupHost,
    config: &AgentConfig,
    troubles: &mut Vec<String>,
) -> Result<Vec<nix::fcntl::Flock<std::fs::File>>, AgentError> {
    let until = tokio::time::Instant::now() + Duration::from_secs(2);
    loop {
        match cgroups.claim() {
            Ok(Some(locks)) => return Ok(locks),
            Ok(None) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(None) => {
                return Err(AgentError::CgroupsInUse {
                    path: config.cgroup_root.clone().unwrap_or_default(),
                });
            }
            // A kernel that cannot lock there is no reason not to run.
            Err(e) => {
                troubles.push(format!("cgroups: {}", chain(&e)));
                return Ok(Vec::new());
            }
        }
    }
}
